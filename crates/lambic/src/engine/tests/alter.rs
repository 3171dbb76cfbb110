//! `ALTER STREAM`, statement by statement: what is refused, what views and transactions make of it, what a project's
//! edited declaration does.

use super::*;

async fn refused(server: &Server, sql: &str) -> String {
    match server.run(sql).await {
        Ok(outcome) => panic!("{sql}: {outcome:?}"),
        Err(error) => format!(
            "{}: {} ({})",
            error.sqlstate,
            error,
            error.hint.as_deref().unwrap_or_default()
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_values_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::open(folder.path(), i64::MAX, true)
        .await
        .expect("a new folder");
    for sql in [
        "CREATE STREAM s (id text, at timestamptz, p int, a bigint, b numeric(10,2), c text, d smallint) WITH (record_id = 'id', event_time = 'at', partition_by = 'p', partitions = 2)",
        "INSERT INTO s VALUES ('x', '2026-01-01T00:00:00Z', 1, 5, 1.25, NULL, 3)",
        "CREATE MATERIALIZED VIEW totals AS SELECT p, sum(a) AS a FROM s GROUP BY p",
    ] {
        server.done(sql).await.expect(sql);
    }
    for (sql, expected) in [
        (
            "ALTER STREAM s ALTER COLUMN a TYPE int",
            "42804: column \"a\" cannot become integer: not every bigint has a value of that type",
        ),
        (
            "ALTER STREAM s ALTER COLUMN a TYPE double precision",
            "42804",
        ),
        ("ALTER STREAM s ALTER COLUMN b TYPE numeric(10,4)", "42804"),
        ("ALTER STREAM s ALTER COLUMN b TYPE numeric(12,1)", "42804"),
        ("ALTER STREAM s ALTER COLUMN c TYPE varchar(10)", "0A000"),
        (
            "ALTER STREAM s ALTER COLUMN c TYPE int USING c::int",
            "0A000: USING is not supported",
        ),
        ("ALTER STREAM s ALTER COLUMN id TYPE bytea", "42804"),
        (
            "ALTER STREAM s ALTER COLUMN p TYPE bigint",
            "2BP01: column \"p\" cannot be given another type: it is the partition key",
        ),
        (
            "ALTER STREAM s DROP COLUMN a",
            "2BP01: column \"a\" of stream \"s\" cannot be dropped: view totals depends on it",
        ),
        (
            "ALTER STREAM s DROP COLUMN id",
            "2BP01: column \"id\" cannot be dropped: it is the record id",
        ),
        (
            "ALTER STREAM s DROP COLUMN at",
            "2BP01: column \"at\" cannot be dropped: it is the event time",
        ),
        (
            "ALTER STREAM s DROP COLUMN c CASCADE",
            "0A000: DROP COLUMN … CASCADE is not supported",
        ),
        (
            "ALTER STREAM s DROP COLUMN cc",
            "42703: column \"cc\" of stream \"s\" does not exist",
        ),
        ("ALTER STREAM s ADD COLUMN a int", "42701"),
        ("ALTER STREAM s ADD COLUMN _offset int", "42602"),
        (
            "ALTER STREAM s ADD COLUMN e int NOT NULL",
            "23502: column \"e\" of stream \"s\" contains null values",
        ),
        (
            "ALTER STREAM s ADD COLUMN e int NOT NULL DEFAULT NULL",
            "23502: column \"e\" of stream \"s\" contains null values",
        ),
        (
            "ALTER STREAM s ADD COLUMN e int DEFAULT 'many'",
            "42804: the default of column \"e\" is no integer",
        ),
        (
            "ALTER STREAM s ADD COLUMN e int DEFAULT 1.5",
            "42804: the default of column \"e\" is no integer: 1.5 would be rounded",
        ),
        (
            "ALTER STREAM s ADD COLUMN e timestamptz DEFAULT now()",
            "0A000: a default must be a constant",
        ),
        (
            "ALTER STREAM s ADD COLUMN e int DEFAULT (SELECT max(p) FROM s)",
            "0A000: a default must be a constant",
        ),
        ("ALTER STREAM s ADD COLUMN e int UNIQUE", "0A000"),
        ("ALTER STREAM s ADD CONSTRAINT u UNIQUE (a)", "0A000"),
        ("ALTER STREAM s RENAME COLUMN a TO b", "42701"),
        ("ALTER STREAM s RENAME COLUMN a TO _offset", "42602"),
        ("ALTER STREAM s RENAME COLUMN _offset TO o", "42602"),
        (
            "ALTER STREAM s RENAME TO t",
            "0A000: a stream keeps its name",
        ),
        (
            "ALTER STREAM s ALTER COLUMN c SET NOT NULL",
            "23502: column \"c\" of stream \"s\" contains null values",
        ),
        ("ALTER STREAM s ALTER COLUMN id DROP NOT NULL", "42P16"),
        ("ALTER STREAM totals ADD COLUMN e int", "42809"),
        ("ALTER STREAM lambic_logs ADD COLUMN e int", "42501"),
        ("ALTER STREAM nothing ADD COLUMN e int", "42P01"),
        ("ALTER STREAM s ADD COLUMN e", "42601"),
        ("ALTER STREAM s FORGET COLUMN e", "42601"),
    ] {
        let found = refused(&server, sql).await;
        assert!(found.starts_with(expected), "{sql}: {found}");
        let has_hint = !found.ends_with("()");
        let needs_hint = !expected.starts_with("42P16")
            && !expected.starts_with("4270")
            && !expected.starts_with("42602");
        assert!(
            has_hint
                || !needs_hint
                || expected.starts_with("42501")
                || expected.starts_with("42601")
                || expected.starts_with("42804: the default"),
            "{sql}: {found}"
        );
    }
    let columns = "SELECT columns FROM lambic_streams WHERE name = 's'";
    assert_eq!(
        server.rows(columns).await.expect("it is read"),
        [
            "id text not null, at timestamptz, p integer, a bigint, b numeric(10,2), c text, d smallint"
        ]
    );
    for sql in [
        "ALTER TABLE IF EXISTS nothing ADD COLUMN e int",
        "ALTER TABLE s ADD COLUMN IF NOT EXISTS a int, ALTER d TYPE integer, DROP COLUMN IF EXISTS nothing",
        "ALTER TABLE public.s RENAME a TO amount",
        "ALTER TABLE s ALTER COLUMN b TYPE numeric(14, 4), ALTER COLUMN at SET NOT NULL",
        "ALTER TABLE s DROP c, ADD COLUMN c date DEFAULT '2026-02-03'",
        "ALTER TABLE s ADD COLUMN e int DEFAULT NULL, ADD COLUMN f text DEFAULT NULL, ALTER d SET DEFAULT NULL",
        "CREATE STREAM plain (a int DEFAULT NULL, b int NOT NULL DEFAULT NULL)",
        "ALTER STREAM plain ADD COLUMN c int NOT NULL DEFAULT NULL",
    ] {
        server.done(sql).await.expect(sql);
    }
    assert_eq!(
        server.rows("SELECT * FROM s").await.expect("it is read"),
        ["x|2026-01-01T00:00:00Z|1|5|1.2500|3|2026-02-03|NULL|NULL"]
    );
    assert_eq!(
        server
            .rows("SELECT * FROM totals")
            .await
            .expect("it is read"),
        ["1|5"]
    );
    let former = refused(&server, "SELECT a FROM s").await;
    assert!(former.starts_with("42703"), "{former}");
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_keep_their_columns_and_their_way_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::open(folder.path(), i64::MAX, true)
        .await
        .expect("a new folder");
    for sql in [
        "CREATE STREAM s (a int, b text)",
        "INSERT INTO s VALUES (1, 'x')",
        "CREATE MATERIALIZED VIEW all_of AS SELECT * FROM s",
        "CREATE MATERIALIZED VIEW by_b AS SELECT b, sum(a) AS a FROM s GROUP BY b",
        "CREATE OR REPLACE MATERIALIZED VIEW by_b AS SELECT b, max(a) AS a FROM s GROUP BY b",
        "ALTER STREAM s RENAME COLUMN a TO n",
        "ALTER STREAM s ADD COLUMN c int DEFAULT 7",
        "INSERT INTO s VALUES (2, 'x', 8)",
        // The same text over the columns of today is what it was.
    ] {
        server.done(sql).await.expect(sql);
    }
    let rows = |sql: &'static str| {
        let server = &server;
        async move {
            server
                .rows(sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"))
        }
    };
    assert_eq!(rows("SELECT a, b FROM all_of").await, ["1|x", "2|x"]);
    assert_eq!(rows("SELECT b, a FROM by_b").await, ["x|2"]);
    assert_eq!(rows("SELECT n, b, c FROM s").await, ["1|x|7", "2|x|8"]);
    let former = "SELECT n FROM s AS OF OFFSET 's@0:1'";
    assert_eq!(rows(former).await, ["1"]);

    // Beyond what the type held before; the views are new versions over it.
    server
        .done("ALTER STREAM s ALTER COLUMN n TYPE bigint")
        .await
        .expect("wider");
    server
        .done("INSERT INTO s VALUES (5000000000, 'x', 9)")
        .await
        .expect("inserted");
    assert_eq!(rows("SELECT b, a FROM by_b").await, ["x|5000000000"]);
    assert_eq!(rows("SELECT max(a) FROM all_of").await, ["5000000000"]);
    let versions = "SELECT name, version FROM lambic_views";
    assert_eq!(rows(versions).await, ["all_of|2", "by_b|3"]);
    server
        .done("ALTER MATERIALIZED VIEW by_b ROLLBACK")
        .await
        .expect("the way back over the wider type");
    assert_eq!(rows("SELECT b, a FROM by_b").await, ["x|5000000003"]);

    // The star again, over the columns of today: another view.
    server
        .done("CREATE OR REPLACE MATERIALIZED VIEW all_of AS SELECT * FROM s")
        .await
        .expect("replaced");
    assert_eq!(
        rows("SELECT n, c FROM all_of WHERE n < 9").await,
        ["1|7", "2|8"]
    );
    // No view that is served uses `b` but `by_b` and `all_of`.
    let used = refused(&server, "ALTER STREAM s DROP COLUMN b").await;
    assert!(
        used.contains("view all_of, view by_b depend on it"),
        "{used}"
    );
    for sql in [
        "CREATE OR REPLACE MATERIALIZED VIEW all_of AS SELECT n FROM s",
        "CREATE OR REPLACE MATERIALIZED VIEW by_b AS SELECT count(*) AS records FROM s",
        "ALTER STREAM s DROP COLUMN b",
        "ALTER STREAM s ADD COLUMN b text",
    ] {
        server.done(sql).await.expect(sql);
    }
    assert_eq!(rows("SELECT b FROM s WHERE b IS NOT NULL").await, [""; 0]);
    let back = refused(&server, "ALTER MATERIALIZED VIEW by_b ROLLBACK").await;
    assert!(
        back.starts_with("42703: version 1 of view \"by_b\" uses column \"b\""),
        "{back}"
    );
    // Whoever appends may use the former name; whoever reads may not.
    server
        .done("INSERT INTO s (a) VALUES (3)")
        .await
        .expect("appended");
    assert_eq!(
        rows("SELECT n, c, b FROM s WHERE n = 3").await,
        ["3|7|NULL"]
    );
    let twice = refused(&server, "INSERT INTO s (a, n) VALUES (3, 4)").await;
    assert!(!twice.is_empty());
    assert!(
        rows("AUDIT ALL")
            .await
            .iter()
            .all(|audit| audit.contains("|true|"))
    );
    server.engine.close().await;
}

/// Whichever is first, no view is served over columns that are not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_and_a_change_of_its_stream_do_not_both_come() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &[]).await;
    for round in 0..60 {
        let stream = format!("CREATE STREAM s{round} (a int, c int NOT NULL)");
        server.done(&stream).await.expect("declared");
        let insert = format!("INSERT INTO s{round} VALUES (1, 2), (3, 4)");
        server.done(&insert).await.expect("inserted");
        let change = match round % 3 {
            0 => format!("ALTER STREAM s{round} DROP COLUMN c"),
            1 => format!("ALTER STREAM s{round} ALTER COLUMN c TYPE bigint"),
            _ => format!("DROP STREAM s{round}"),
        };
        let create =
            format!("CREATE MATERIALIZED VIEW v{round} AS SELECT sum(c) AS c FROM s{round}");
        let (changed, created) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_micros(97 * (round % 20))).await;
                server.done(&change).await
            },
            server.done(&create)
        );
        let both = changed.is_ok() && created.is_ok();
        assert!(
            changed.is_ok() || created.is_ok(),
            "{changed:?}, {created:?}"
        );
        // A view over a wider column is another version of itself.
        assert!(!both || round % 3 == 1, "{change}, and {create}");
        if created.is_ok() {
            let insert = match changed.is_ok() {
                true => format!("INSERT INTO s{round} VALUES (5, 6000000000)"),
                false => format!("INSERT INTO s{round} VALUES (5, 60)"),
            };
            server.done(&insert).await.expect("inserted");
            let served = server.rows(&format!("SELECT c FROM v{round}")).await;
            let scratch = server.rows(&format!("SELECT sum(c) FROM s{round}")).await;
            assert_eq!(served, scratch, "{change}, and {create}");
        }
    }
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_meet_other_columns() {
    use lambic_query::Modes;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::open(folder.path(), i64::MAX, true)
        .await
        .expect("a new folder");
    server
        .done("CREATE STREAM s (a int, b text)")
        .await
        .expect("declared");
    server
        .done("CREATE MATERIALIZED VIEW total AS SELECT sum(a) AS a FROM s")
        .await
        .expect("declared");
    let database = &server.engine.database;
    let transaction = database.begin(Modes::default());
    transaction.become_block();
    let within = Session {
        transaction: Some(std::sync::Arc::clone(&transaction)),
        ..Session::default()
    };
    database
        .execute(&within, "INSERT INTO s VALUES (1, 'x')")
        .await
        .expect("inserted");
    let own = database
        .execute(&within, "ALTER STREAM s ADD COLUMN c int")
        .await;
    assert_eq!(own.expect_err("it has records").sqlstate, "55006");
    // Another session does.
    for sql in [
        "ALTER STREAM s RENAME COLUMN a TO t",
        "ALTER STREAM s RENAME COLUMN b TO a",
        "ALTER STREAM s ADD COLUMN c int DEFAULT 5",
        "ALTER STREAM s ALTER COLUMN t TYPE bigint",
    ] {
        server.done(sql).await.expect(sql);
    }
    database
        .execute(
            &within,
            "INSERT INTO s (t, a, c) VALUES (6000000000, 'y', 6)",
        )
        .await
        .expect("inserted");
    let mut seen = database
        .execute(
            &within,
            "SELECT sum(t) AS t, (SELECT a FROM total) AS of_view, max(a) AS a, min(c) AS c FROM s",
        )
        .await
        .expect("it reads its own");
    let Some(Outcome::Rows { rows, .. }) = seen.pop() else {
        panic!("rows");
    };
    let batches = datafusion::physical_plan::common::collect(rows)
        .await
        .expect("rows");
    let shown = arrow::util::pretty::pretty_format_batches(&batches)
        .expect("shown")
        .to_string();
    assert!(
        shown.contains("| 6000000001 | 6000000001 | y | 5 |"),
        "{shown}"
    );
    database.commit(&transaction).await.expect("committed");
    assert_eq!(
        server.rows("SELECT t, a, c FROM s").await.expect("read"),
        ["1|x|5", "6000000000|y|6"]
    );
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_declaration_is_carried_out_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::open(folder.path(), i64::MAX, true)
        .await
        .expect("a new folder");
    server
        .done("CREATE STREAM s (a int, b text DEFAULT 'x')")
        .await
        .expect("declared");
    server
        .done("INSERT INTO s (a) VALUES (1)")
        .await
        .expect("inserted");
    let database = &server.engine.database;
    let same = "CREATE STREAM s ( a integer, -- the number\n b varchar DEFAULT 'x' )";
    assert_eq!(
        database.evolve_stream(same).await.expect("the same"),
        [""; 0]
    );
    let more = "CREATE STREAM IF NOT EXISTS s (c date, a bigint NOT NULL, b text DEFAULT 'y', d int NOT NULL DEFAULT 4)";
    assert_eq!(
        database.evolve_stream(more).await.expect("evolved"),
        [
            "column c added",
            "column a is bigint now",
            "column a is NOT NULL now",
            "column b has the default y",
            "column d added"
        ]
    );
    assert_eq!(database.evolve_stream(more).await.expect("done"), [""; 0]);
    assert_eq!(
        server.rows("SELECT a, b, c, d FROM s").await.expect("read"),
        ["1|x|NULL|4"]
    );
    for (sql, expected) in [
        (
            "CREATE STREAM s (a int, b text, c date, d int)",
            "cannot become integer",
        ),
        (
            "CREATE STREAM s (a bigint, note text, c date, d int)",
            "column b, which is not declared any more",
        ),
        (
            "CREATE STREAM s (a bigint, b text, c date, d int) WITH (partitions = 3)",
            "another partitions",
        ),
        (
            "CREATE STREAM s (a bigint, b text, c date NOT NULL, d int)",
            "contains null values",
        ),
    ] {
        let error = database.evolve_stream(sql).await.expect_err(sql);
        assert!(error.message.contains(expected), "{sql}: {error}");
        assert!(error.hint.is_some(), "{sql}");
    }
    let renamed = "CREATE STREAM s (a bigint, note text, c date, d int)";
    let error = database.evolve_stream(renamed).await.expect_err(renamed);
    let hint = error.hint.expect("a way out");
    assert!(
        hint.contains("ALTER STREAM s RENAME COLUMN b TO note"),
        "{hint}"
    );
    server.engine.close().await;
}
