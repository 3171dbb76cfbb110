//! `INSERT` with values for some of the columns.

use super::*;

async fn refused(server: &Server, sql: &str) -> String {
    match server.run(sql).await {
        Ok(outcome) => panic!("{sql}: {outcome:?}"),
        Err(error) => format!("{} at {:?}: {error}", error.sqlstate, error.position),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_at_the_end_need_no_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::open(folder.path(), i64::MAX, true)
        .await
        .expect("a new folder");
    for sql in [
        "CREATE STREAM s (a int, b text, c numeric(8,2))",
        "CREATE STREAM d (a int, b text DEFAULT 'none')",
        "CREATE STREAM n (a int, b text NOT NULL)",
        "INSERT INTO s VALUES (1)",
        "INSERT INTO s VALUES (2, 'x'), (3, 'y')",
        "INSERT INTO s (c, a) VALUES ('1.25E1', 4)",
        "INSERT INTO s VALUES (5, 'z', '1E-1')",
        "INSERT INTO s SELECT 6",
        "INSERT INTO s SELECT * FROM (SELECT 7, 'w') AS t",
        "INSERT INTO d VALUES (1)",
        "INSERT INTO d SELECT * FROM (SELECT 2) AS t",
    ] {
        server.done(sql).await.expect(sql);
    }
    let found = server.rows("SELECT a, b, c FROM s ORDER BY a").await;
    let expected = [
        "1|NULL|NULL",
        "2|x|NULL",
        "3|y|NULL",
        "4|NULL|12.50",
        "5|z|0.10",
        "6|NULL|NULL",
        "7|w|NULL",
    ];
    assert_eq!(found, Ok(expected.map(str::to_owned).to_vec()));
    let found = server.rows("SELECT a, b FROM d ORDER BY a").await;
    let expected = ["1|none", "2|none"];
    assert_eq!(found, Ok(expected.map(str::to_owned).to_vec()));
    for (sql, expected) in [
        (
            "INSERT INTO s VALUES (1, 'x', 2, 3)",
            "42601 at Some(34): INSERT has more expressions than target columns",
        ),
        (
            "INSERT INTO s (a) VALUES (1, 'x')",
            "42601 at Some(30): INSERT has more expressions than target columns",
        ),
        (
            "INSERT INTO s (a, b) VALUES (1)",
            "42601 at Some(19): INSERT has more target columns than expressions",
        ),
        (
            "INSERT INTO s (a, b, c) SELECT * FROM d",
            "42601 at Some(22): INSERT has more target columns than expressions",
        ),
        (
            "INSERT INTO d SELECT * FROM s",
            "42601 at None: INSERT has more expressions than target columns",
        ),
        (
            "INSERT INTO s VALUES (1), (1, 'x')",
            "42601 at None: VALUES lists must all be the same length",
        ),
        ("INSERT INTO n VALUES (1)", "23502"),
    ] {
        let found = refused(&server, sql).await;
        assert!(found.starts_with(expected), "{sql}: {found}");
    }
}
