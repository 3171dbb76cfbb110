//! Transaction blocks as the messages of the Postgres protocol show them.

use super::*;

impl Wire {
    /// Parse, Bind and Execute, without the Sync that would end them.
    async fn execute(&mut self, sql: &str) {
        self.send(b'P', format!("\0{sql}\0\0\0").as_bytes()).await;
        self.send(b'B', b"\0\0\0\0\0\0\0\0").await;
        self.send(b'E', b"\0\0\0\0\0").await;
    }

    /// Tags, values of the first column and SQLSTATEs of what was sent, and the status at its end.
    async fn told(&mut self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut told = Vec::new();
        for (kind, body) in self.answers().await {
            match kind {
                'C' => told.push(text(&body[..body.len() - 1])),
                'D' => told.push(text(&body[6..])),
                'E' => {
                    let fields = text(&body);
                    let code = fields.split('\0').find_map(|field| field.strip_prefix('C'));
                    told.push(code.unwrap_or_default().to_owned());
                }
                'Z' => told.push(text(&body)),
                _ => {}
            }
        }
        told.join(" ")
    }

    async fn simple(&mut self, sql: &str) -> String {
        self.send(b'Q', format!("{sql}\0").as_bytes()).await;
        self.told().await
    }

    async fn extended(&mut self, statements: &[&str]) -> String {
        for sql in statements {
            self.execute(sql).await;
        }
        self.send(b'S', b"").await;
        self.told().await
    }
}

const INSERT: &str = "INSERT INTO notes VALUES (1, 'a')";
const COUNT: &str = "SELECT count(*) FROM notes";

#[tokio::test]
async fn what_is_sent_up_to_a_sync_is_one_transaction() {
    let served = served(Options::default()).await;
    let (mut wire, mut other) = (Wire::connect(&served).await, Wire::connect(&served).await);
    wire.execute(INSERT).await;
    wire.execute(COUNT).await;
    wire.send(b'H', b"").await;
    assert_eq!(other.simple(COUNT).await, "0 SELECT 1 I");
    wire.send(b'S', b"").await;
    assert_eq!(wire.told().await, "INSERT 0 1 1 SELECT 1 I");
    assert_eq!(other.simple(COUNT).await, "1 SELECT 1 I");
    // After the error nothing is run, nor kept.
    let failing = [INSERT, "SELECT nope FROM notes", INSERT];
    assert_eq!(wire.extended(&failing).await, "INSERT 0 1 42703 I");
    assert_eq!(other.simple(COUNT).await, "1 SELECT 1 I");
    let blocks = ["BEGIN", INSERT, "COMMIT", INSERT];
    assert_eq!(
        wire.extended(&blocks).await,
        "BEGIN INSERT 0 1 COMMIT INSERT 0 1 I"
    );
    assert_eq!(other.simple(COUNT).await, "3 SELECT 1 I");
}

#[tokio::test]
async fn a_failed_block_takes_its_end_or_a_savepoint() {
    let served = served(Options::default()).await;
    let mut wire = Wire::connect(&served).await;
    let begun = ["BEGIN", INSERT, "SAVEPOINT a", INSERT];
    assert_eq!(
        wire.extended(&begun).await,
        "BEGIN INSERT 0 1 SAVEPOINT INSERT 0 1 T"
    );
    assert_eq!(wire.extended(&["SELECT nope"]).await, "42703 E");
    assert_eq!(wire.extended(&[COUNT]).await, "25P02 E");
    assert_eq!(wire.extended(&["SHOW jit"]).await, "25P02 E");
    assert_eq!(wire.extended(&["ROLLBACK TO b"]).await, "3B001 E");
    assert_eq!(
        wire.extended(&["ROLLBACK TO a", COUNT]).await,
        "ROLLBACK 1 SELECT 1 T"
    );
    assert_eq!(wire.extended(&["COMMIT"]).await, "COMMIT I");
    assert_eq!(wire.simple(COUNT).await, "1 SELECT 1 I");
    assert_eq!(
        wire.simple(&format!("BEGIN; {INSERT}; SELECT nope; {INSERT}"))
            .await,
        "BEGIN INSERT 0 1 42703 E"
    );
    assert_eq!(wire.simple("COMMIT").await, "ROLLBACK I");
    assert_eq!(wire.simple(COUNT).await, "1 SELECT 1 I");
}

#[tokio::test]
async fn a_commit_that_fails_ends_the_block() {
    let served = served(Options::default()).await;
    let mut wire = Wire::connect(&served).await;
    let begun = ["BEGIN", INSERT];
    assert_eq!(wire.extended(&begun).await, "BEGIN INSERT 0 1 T");
    served.log.clone().close().await;
    assert_eq!(wire.extended(&["COMMIT"]).await, "57P03 I");
    assert_eq!(wire.extended(&begun).await, "BEGIN INSERT 0 1 T");
    assert_eq!(wire.simple("COMMIT").await, "57P03 I");
    // Without BEGIN the Sync commits, and the end of a simple query.
    assert_eq!(wire.extended(&[INSERT]).await, "INSERT 0 1 57P03 I");
    assert_eq!(wire.simple(INSERT).await, "57P03 I");
    assert_eq!(wire.extended(&[COUNT]).await, "0 SELECT 1 I");
}

#[tokio::test]
async fn rows_that_fail_late_keep_nothing() {
    let served = served(Options::default()).await;
    let mut wire = Wire::connect(&served).await;
    let late = format!("{INSERT}; SELECT 1 / (id - 1) FROM notes");
    assert_eq!(wire.simple(&late).await, "INSERT 0 1 22012 I");
    assert_eq!(wire.simple(COUNT).await, "0 SELECT 1 I");
    let late = ["BEGIN", INSERT, "SELECT 1 / (id - 1) FROM notes"];
    assert_eq!(wire.extended(&late).await, "BEGIN INSERT 0 1 22012 E");
    assert_eq!(wire.simple("ROLLBACK").await, "ROLLBACK I");
    assert_eq!(wire.simple(COUNT).await, "0 SELECT 1 I");
}

#[tokio::test]
async fn nobody_gets_room_for_more_rows_than_can_be() {
    let served = served(Options::default()).await;
    let mut wire = Wire::connect(&served).await;
    for (rows, expected) in [
        (1, "1 I"),
        (-5, "1 SELECT 1 I"),
        (i32::MAX, "1 SELECT 1 I"),
        (i32::MAX - 1, "54000 I"),
    ] {
        wire.send(b'P', b"\0SELECT 1\0\0\0").await;
        wire.send(b'B', b"\0\0\0\0\0\0\0\0").await;
        let asked = [&[0][..], &rows.to_be_bytes()].concat();
        wire.send(b'E', &asked).await;
        wire.send(b'S', b"").await;
        assert_eq!(wire.told().await, expected, "{rows}");
    }
}
