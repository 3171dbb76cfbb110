//! A stream whose columns change under views of every class, over files, log and batch views, through deaths of the
//! store in any write and restarts: reads are what a list of records says, and every view's audit agrees.

use super::*;

const DECLARED: [&str; 8] = [
    "CREATE STREAM events (id bigint NOT NULL, k text, n integer, note text DEFAULT 'none') WITH (partitions = 2, partition_by = 'k')",
    "CREATE MATERIALIZED VIEW even AS SELECT id, n FROM events WHERE id % 2 = 0",
    "CREATE MATERIALIZED VIEW by_k AS SELECT k, count(*) AS c, count(n) AS ns, sum(n) AS s, max(note) AS last, approx_distinct(n) AS about FROM events GROUP BY k",
    "CREATE MATERIALIZED VIEW everything AS SELECT * FROM events",
    "CREATE MATERIALIZED VIEW ranked AS SELECT id, row_number() OVER (PARTITION BY k ORDER BY id, n) AS place FROM events",
    "CREATE MATERIALIZED VIEW top AS SELECT k, s, last FROM by_k ORDER BY s DESC NULLS LAST, k LIMIT 2",
    "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS c FROM events",
    "CREATE MATERIALIZED VIEW paired AS SELECT a.k, count(*) AS c, sum(b.n) AS s, max(b.note) AS last FROM events a JOIN events b ON a.n = b.n GROUP BY a.k",
];
/// Of the stream as it is declared; views use them, so they can be renamed and not dropped.
const USED: usize = 4;

#[derive(Clone, Debug, PartialEq)]
struct Column {
    /// Given once.
    number: usize,
    name: String,
    kind: &'static str,
    default: Option<String>,
    not_null: bool,
}

#[derive(Clone, Debug)]
struct World {
    columns: Vec<Column>,
    /// Values by the number of the column.
    records: Vec<BTreeMap<usize, Option<String>>>,
    next_column: usize,
    next_id: i64,
}

impl World {
    fn declared() -> World {
        let column = |number, name: &str, kind, default: Option<&str>, not_null| Column {
            number,
            name: name.to_owned(),
            kind,
            default: default.map(str::to_owned),
            not_null,
        };
        World {
            columns: vec![
                column(0, "id", "bigint", None, true),
                column(1, "k", "text", None, false),
                column(2, "n", "integer", None, false),
                column(3, "note", "text", Some("none"), false),
            ],
            records: Vec::new(),
            next_column: USED,
            next_id: 0,
        }
    }

    fn select(&self) -> String {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        format!("SELECT {} FROM events", names.join(", "))
    }

    fn lines(&self) -> Vec<String> {
        let cell = |record: &BTreeMap<usize, Option<String>>, column: &Column| {
            let value = record.get(&column.number).cloned().flatten();
            value.unwrap_or_else(|| "NULL".to_owned())
        };
        let line = |record| {
            let cells = self.columns.iter().map(|column| cell(record, column));
            cells.collect::<Vec<_>>().join("|")
        };
        let mut lines: Vec<String> = self.records.iter().map(line).collect();
        lines.sort();
        lines
    }

    /// As `lambic_streams` has it.
    fn described(&self) -> String {
        let each = self.columns.iter().map(|column| {
            let not_null = if column.not_null { " not null" } else { "" };
            format!("{} {}{not_null}", column.name, column.kind)
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// Values for a column, as SQL and as they are read.
    fn value(&self, column: &Column, chance: &mut StdRng) -> (String, Option<String>) {
        let number = chance.random_range(0..30_000);
        match (column.number, column.kind) {
            (0, _) => (self.next_id.to_string(), Some(self.next_id.to_string())),
            (1, _) => {
                let key = KEYS[self.next_id as usize % KEYS.len()];
                (format!("'{key}'"), Some(key.to_owned()))
            }
            _ if !column.not_null && chance.random_bool(0.2) => ("NULL".to_owned(), None),
            // More than the type had before it was widened.
            (_, "bigint") => {
                let number = i64::from(number) + (1 << 40);
                (number.to_string(), Some(number.to_string()))
            }
            (_, "numeric(30,0)") => {
                let number = i128::from(number) + (1 << 80);
                (number.to_string(), Some(number.to_string()))
            }
            (_, "text") => (format!("'t{number}'"), Some(format!("t{number}"))),
            _ => (number.to_string(), Some(number.to_string())),
        }
    }

    /// An `INSERT` of some records, and the world after it.
    fn insert(&self, chance: &mut StdRng) -> (String, World) {
        let mut after = self.clone();
        let last = self.columns.len();
        // The columns at the end need not be named if they do not have to have a value.
        let needed = self
            .columns
            .iter()
            .rposition(|column| column.number < 3 || (column.not_null && column.default.is_none()));
        let named = chance.random_range(needed.map_or(0, |at| at + 1)..=last);
        let by_name = chance.random_bool(0.5);
        let mut rows = Vec::new();
        for _ in 0..chance.random_range(1..20) {
            let mut record = BTreeMap::new();
            let mut row = Vec::new();
            for (index, column) in after.columns.iter().enumerate() {
                if index < named {
                    let (sql, value) = after.value(column, chance);
                    row.push(sql);
                    record.insert(column.number, value);
                } else {
                    record.insert(column.number, column.default.clone());
                }
            }
            rows.push(format!("({})", row.join(", ")));
            after.records.push(record);
            after.next_id += 1;
        }
        let names: Vec<&str> = self.columns[..named]
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let names = match by_name {
            true => format!("({}) ", names.join(", ")),
            false => String::new(),
        };
        (
            format!("INSERT INTO events {names}VALUES {}", rows.join(", ")),
            after,
        )
    }

    /// An `ALTER` that is taken, and the world after it.
    fn alter(&self, chance: &mut StdRng) -> Option<(String, World)> {
        let mut after = self.clone();
        let index = chance.random_range(0..self.columns.len());
        let column = &mut after.columns[index];
        let sql = match chance.random_range(0..8) {
            0 | 1 => {
                let number = after.next_column;
                after.next_column += 1;
                // A name that another had before, at times.
                let name = format!("x{}", number % 5);
                if self.columns.iter().any(|column| column.name == name) {
                    return None;
                }
                let kind = *["integer", "text", "smallint"]
                    .get(chance.random_range(0..3))
                    .expect("one of three");
                let default = chance.random_bool(0.6).then(|| format!("{number}"));
                let not_null = default.is_some() && chance.random_bool(0.5);
                for record in &mut after.records {
                    record.insert(number, default.clone());
                }
                let said = default.as_ref().map_or(String::new(), |value| match kind {
                    "text" => format!(" DEFAULT '{value}'"),
                    _ => format!(" DEFAULT {value}"),
                });
                let sql = format!(
                    "ADD COLUMN {name} {kind}{said}{}",
                    if not_null { " NOT NULL" } else { "" }
                );
                after.columns.push(Column {
                    number,
                    name,
                    kind,
                    default,
                    not_null,
                });
                sql
            }
            2 | 3 => {
                let to = format!("y{}", chance.random_range(0..6));
                if self.columns.iter().any(|column| column.name == to) {
                    return None;
                }
                let from = std::mem::replace(&mut column.name, to.clone());
                format!("RENAME COLUMN {from} TO {to}")
            }
            4 => {
                if column.number < USED {
                    return None;
                }
                let name = after.columns.remove(index).name;
                format!("DROP COLUMN {name}")
            }
            5 => {
                column.kind = match column.kind {
                    "smallint" => "integer",
                    "integer" => "bigint",
                    "bigint" if column.number != 0 => "numeric(30,0)",
                    _ => return None,
                };
                format!("ALTER COLUMN {} TYPE {}", column.name, column.kind)
            }
            6 => {
                if column.number < 3 {
                    return None;
                }
                let value = chance.random_range(0..100).to_string();
                let said = if column.kind == "text" {
                    format!("'{value}'")
                } else {
                    value.clone()
                };
                column.default = Some(value);
                format!("ALTER COLUMN {} SET DEFAULT {said}", column.name)
            }
            _ => {
                let has_null = self
                    .records
                    .iter()
                    .any(|record| record.get(&column.number).cloned().flatten().is_none());
                column.not_null = !column.not_null;
                if column.not_null && has_null {
                    return None;
                }
                let verb = if column.not_null { "SET" } else { "DROP" };
                format!("ALTER COLUMN {} {verb} NOT NULL", column.name)
            }
        };
        Some((format!("ALTER STREAM events {sql}"), after))
    }

    async fn check(&self, server: &Server, when: &str) {
        let found = server.rows(&self.select()).await;
        let described = "SELECT columns FROM lambic_streams WHERE name = 'events'";
        let described = server.rows(described).await;
        let everything = "SELECT count(*) FROM (SELECT id, k, n, note FROM everything) AS e";
        let everything = server.rows(everything).await;
        let counted = server.rows("SELECT c FROM counted").await;
        let audits = server.rows("AUDIT ALL").await;
        if server.store.is_dead() {
            return;
        }
        let records = self.records.len().to_string();
        assert_eq!(found, Ok(self.lines()), "{when}");
        assert_eq!(described, Ok(vec![self.described()]), "{when}");
        assert_eq!(everything, Ok(vec![records.clone()]), "{when}");
        assert_eq!(counted, Ok(vec![records]), "{when}");
        let audits = audits.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(audits.len(), DECLARED.len() - 1, "every view");
        for audit in audits {
            assert!(audit.contains("|true|"), "{when}: {audit}");
        }
    }
}

/// The length is `LAMBIC_EVOLVE_ROUNDS`, and `LAMBIC_EVOLVE_SEED` (printed) repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_change_under_everything_that_reads_them() {
    let (seed, rounds, mut chance) = rounds_of("columns change", "EVOLVE", 10);
    let (_folder, data) = new_folder();
    let mut server = Server::declared(&data, &DECLARED).await;
    let mut world = World::declared();
    let mut told = Vec::new();
    for round in 0..rounds {
        let when = |told: &[String]| format!("seed {seed}, round {round}, after {told:#?}");
        for _ in 0..chance.random_range(2..8) {
            if server.store.is_dead() {
                break;
            }
            match chance.random_range(0..6) {
                0..3 => {
                    let Some((sql, after)) = world.alter(&mut chance) else {
                        continue;
                    };
                    told.push(sql.clone());
                    let altered = tokio::select! {
                        altered = server.done(&sql) => altered,
                        () = server.dead() => Err("killed".to_owned()),
                    };
                    match altered {
                        Ok(tag) => {
                            assert_eq!(tag, "ALTER STREAM");
                            world = after;
                        }
                        Err(_) if server.store.is_dead() => {
                            // It happened or it did not: the catalog tells.
                            server.killed().await;
                            server = Server::open(&data, i64::MAX, true).await.expect("it opens");
                            let described =
                                "SELECT columns FROM lambic_streams WHERE name = 'events'";
                            let described = server.rows(described).await.expect("it is read");
                            if described == [after.described()] {
                                world = after;
                            }
                        }
                        Err(error) => panic!("{}: {error}", when(&told)),
                    }
                }
                3..5 => {
                    let (sql, after) = world.insert(&mut chance);
                    told.push(sql.chars().take(90).collect());
                    server
                        .done(&sql)
                        .await
                        .unwrap_or_else(|error| panic!("{}: {error}", when(&told)));
                    world = after;
                }
                _ => {
                    told.push("seal or batch".to_owned());
                    // Refused only by a dead store.
                    let _ = match chance.random_range(0..2) {
                        0 => server
                            .engine
                            .seal_all()
                            .await
                            .map_err(|error| error.to_string()),
                        _ => server
                            .done("REFRESH MATERIALIZED VIEW by_k")
                            .await
                            .map(|_| ()),
                    };
                }
            }
        }
        world.check(&server, &when(&told)).await;
        let writes_left = chance.random_range(0..60);
        let last_happens = chance.random_bool(0.5);
        told.push("killed and opened".to_owned());
        server.killed().await;
        server = match Server::open(&data, writes_left, last_happens).await {
            Ok(server) => server,
            // Killed while it started.
            Err(_) => Server::open(&data, i64::MAX, true).await.expect("it opens"),
        };
    }
    server.killed().await;
    let server = Server::open(&data, i64::MAX, true).await.expect("it opens");
    world
        .check(
            &server,
            &format!("seed {seed}, at the end, after {told:#?}"),
        )
        .await;
    server.engine.close().await;
}
