//! Kept plans: a statement is planned once as long as nothing changes, and answers right after everything that does.

use arrow::{
    array::{ArrayRef, Int64Array},
    datatypes::DataType,
};
use datafusion::scalar::ScalarValue;
use lambic_model::ScalarFunction;
use lambic_query::{Modes, PlanCounts, Prepared};

use super::*;

const PLANS: [&str; 5] = [
    "CREATE STREAM e (k text NOT NULL, v bigint) WITH (partitions = 2)",
    "CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n, sum(v) AS total FROM e GROUP BY k",
    "CREATE MATERIALIZED VIEW big AS SELECT k, v FROM e WHERE v > 10",
    "CREATE MATERIALIZED VIEW top AS SELECT k, n FROM counts ORDER BY n DESC, k LIMIT 2",
    "INSERT INTO e VALUES ('a', 1), ('a', 20), ('b', 30)",
];

impl Server {
    fn counts(&self) -> PlanCounts {
        self.engine.database.plan_counts()
    }

    async fn prepared(&self, sql: &str) -> Prepared {
        let prepared = self.engine.database.prepare(&Session::default(), sql).await;
        prepared.expect(sql)
    }

    async fn executed(&self, prepared: &Prepared, parameters: &[ScalarValue]) -> Told {
        self.executed_in(&Session::default(), prepared, parameters)
            .await
    }

    /// Rows by `/`, or the tag; or the SQLSTATE.
    async fn executed_in(
        &self,
        session: &Session,
        prepared: &Prepared,
        parameters: &[ScalarValue],
    ) -> Told {
        let database = &self.engine.database;
        let ran = database.run(session, prepared, parameters.to_vec()).await;
        match ran.map_err(|error| error.sqlstate.to_owned())? {
            Outcome::Done { tag, .. } => Ok(tag),
            Outcome::Rows { rows, .. } | Outcome::Changes { rows, .. } => {
                let batches = datafusion::physical_plan::common::collect(rows).await;
                let batches = batches.map_err(|error| error.to_string())?;
                Ok(lines(&batches)?.join("/"))
            }
        }
    }
}

fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8(Some(value.to_owned()))
}

fn told(text: &str) -> Told {
    Ok(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_is_planned_once() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let by_key = server
        .prepared("SELECT n, total FROM counts WHERE k = $1")
        .await;
    let made = server.counts().made;
    for (key, expected) in [("a", "2|21"), ("b", "1|30"), ("c", ""), ("a", "2|21")] {
        assert_eq!(server.executed(&by_key, &[text(key)]).await, told(expected));
    }
    let null = ScalarValue::Utf8(None);
    assert_eq!(server.executed(&by_key, &[null]).await, told(""));
    let counts = server.counts();
    assert_eq!((counts.made, counts.stale), (made, 0), "{counts:?}");
    assert!(counts.reused >= 5, "{counts:?}");
    // Another's append is seen, at whatever frontier the plan was made.
    server
        .done("INSERT INTO e VALUES ('c', 5)")
        .await
        .expect("it fits");
    assert_eq!(server.executed(&by_key, &[text("c")]).await, told("1|5"));
    // Values of other types than planned are taken as they were without a kept plan.
    let by_total = server
        .prepared("SELECT k FROM counts WHERE total > $1")
        .await;
    for value in [
        ScalarValue::Int64(Some(20)),
        ScalarValue::Int32(Some(20)),
        ScalarValue::Float64(Some(20.5)),
        ScalarValue::Int64(Some(20)),
    ] {
        assert_eq!(server.executed(&by_total, &[value]).await, told("a/b"));
    }
    // A kept plan that was optimised with one value does not keep it.
    let branches = server
        .prepared(
            "SELECT k FROM counts WHERE CASE WHEN $1 THEN n > 1 ELSE n = 1 END ORDER BY k LIMIT $2",
        )
        .await;
    for _ in 0..3 {
        for (flag, limit, expected) in [(true, 9, "a"), (false, 9, "b/c"), (false, 1, "b")] {
            let parameters = [
                ScalarValue::Boolean(Some(flag)),
                ScalarValue::Int64(Some(limit)),
            ];
            assert_eq!(
                server.executed(&branches, &parameters).await,
                told(expected)
            );
        }
    }
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_does_not_stand_in_a_kept_plan() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let now = server
        .prepared("SELECT now()::text, count(*) FROM e WHERE _appended_at < now()")
        .await;
    let made = server.counts().made;
    let mut seen = Vec::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let answer = server.executed(&now, &[]).await.expect("an answer");
        assert!(answer.ends_with("|3"), "{answer}");
        assert!(!seen.contains(&answer), "{answer} of {seen:?}");
        seen.push(answer);
    }
    let counts = server.counts();
    assert_eq!((counts.made, counts.stale), (made, 0));
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_come_again_are_planned_once() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let sql = "SELECT k, n FROM top";
    for _ in 0..2 {
        assert_eq!(server.rows(sql).await.expect(sql), ["a|2", "b|1"]);
    }
    let before = server.counts();
    for _ in 0..5 {
        assert_eq!(server.rows(sql).await.expect(sql), ["a|2", "b|1"]);
    }
    let after = server.counts();
    assert_eq!((after.made, after.reused), (before.made, before.reused + 5));
    assert_eq!(after.texts, before.texts);
    // Also where it is prepared each time.
    for _ in 0..3 {
        let prepared = server.prepared(sql).await;
        assert_eq!(server.executed(&prepared, &[]).await, told("a|2/b|1"));
    }
    assert_eq!(server.counts().made, after.made);
    // What goes wrong goes wrong each time, at its place.
    for _ in 0..3 {
        let error = server
            .run("SELECT nn FROM top")
            .await
            .expect_err("a mistake");
        assert_eq!((error.sqlstate, error.position), ("42703", Some(8)));
        let error = server
            .run("  SELECT 1/(n - n) FROM topp")
            .await
            .expect_err("a mistake");
        assert_eq!((error.sqlstate, error.position), ("42P01", Some(25)));
    }
    // Many texts that come once leave no plans.
    let texts = server.counts().texts;
    for number in 0..50 {
        server
            .rows(&format!("SELECT {number}"))
            .await
            .expect("an answer");
    }
    assert_eq!(server.counts().texts, texts);
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_planned_anew() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let counts = server
        .prepared("SELECT k, n FROM counts WHERE n < $1")
        .await;
    let top = server.prepared("SELECT k FROM top").await;
    let stream = server.prepared("SELECT * FROM e WHERE k = 'b'").await;
    let insert = server.prepared("INSERT INTO e VALUES ($1, $2)").await;
    let nine = [ScalarValue::Int64(Some(9))];
    let check = async |expected: [Told; 3]| {
        // Twice: the first time may plan, the second must not.
        for _ in 0..3 {
            assert_eq!(server.executed(&counts, &nine).await, expected[0]);
            assert_eq!(server.executed(&top, &[]).await, expected[1]);
            assert_eq!(server.executed(&stream, &[]).await, expected[2]);
        }
    };
    let done = async |sql: &str| {
        server
            .done(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    check([told("a|2/b|1"), told("a/b"), told("b|30")]).await;
    // A new version of other meaning, and back.
    done("CREATE OR REPLACE MATERIALIZED VIEW counts AS SELECT k, count(*) * 2 AS n, sum(v) AS total FROM e WHERE k <> 'b' GROUP BY k").await;
    check([told("a|4"), told("a"), told("b|30")]).await;
    done("ALTER MATERIALIZED VIEW counts ROLLBACK").await;
    check([told("a|2/b|1"), told("a/b"), told("b|30")]).await;
    // Another class under the same columns, whose filters are not pushed down.
    done("CREATE OR REPLACE MATERIALIZED VIEW counts AS SELECT k, n + 0 AS n, total FROM (SELECT k, count(*) AS n, sum(v) AS total, rank() OVER (ORDER BY k) AS r FROM e GROUP BY k) AS s WHERE r < 9").await;
    check([told("a|2/b|1"), told("a/b"), told("b|30")]).await;
    // Other columns: the client was told of those before.
    let big = server.prepared("SELECT v FROM big").await;
    assert_eq!(server.executed(&big, &[]).await, told("20/30"));
    done("CREATE OR REPLACE MATERIALIZED VIEW big AS SELECT k, v::double precision AS v FROM e WHERE v > 10").await;
    assert_eq!(server.executed(&big, &[]).await, Err("0A000".to_owned()));
    done("ALTER MATERIALIZED VIEW big ROLLBACK").await;
    assert_eq!(server.executed(&big, &[]).await, told("20/30"));
    // Erased records are gone.
    done("ERASE FROM e WHERE v = 20").await;
    check([told("a|1/b|1"), told("a/b"), told("b|30")]).await;
    // A kept insert goes on after columns are added, and gives what is new its default.
    let row = [text("d"), ScalarValue::Int64(Some(1))];
    assert_eq!(server.executed(&insert, &row).await, told("INSERT 0 1"));
    done("ALTER STREAM e ADD COLUMN w bigint DEFAULT 7").await;
    assert_eq!(server.executed(&insert, &row).await, told("INSERT 0 1"));
    assert_eq!(
        server
            .rows("SELECT k, v, w FROM e WHERE k = 'd'")
            .await
            .expect("rows"),
        ["d|1|7", "d|1|7"]
    );
    assert_eq!(server.executed(&stream, &[]).await, Err("0A000".to_owned()));
    // Gone, and there again as something else.
    done("DROP MATERIALIZED VIEW top").await;
    assert_eq!(server.executed(&top, &[]).await, Err("42P01".to_owned()));
    done("CREATE STREAM top (k text)").await;
    done("INSERT INTO top VALUES ('new')").await;
    for _ in 0..3 {
        assert_eq!(server.executed(&top, &[]).await, told("new"));
    }
    done("DROP STREAM top").await;
    done("CREATE STREAM top (k text)").await;
    for _ in 0..3 {
        assert_eq!(server.executed(&top, &[]).await, told(""));
    }
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_kept_across_transactions_and_moments() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let by_key = server.prepared("SELECT n FROM counts WHERE k = $1").await;
    let insert = server.prepared("INSERT INTO e VALUES ($1, $2)").await;
    let then = server
        .prepared("SELECT n FROM counts AS OF OFFSET $2 WHERE k = $1")
        .await;
    let database = &server.engine.database;
    for round in 1..4 {
        let own = Session {
            transaction: Some(database.begin(Modes::default())),
            ..Session::default()
        };
        let row = [text("new"), ScalarValue::Int64(Some(round))];
        assert_eq!(
            server.executed_in(&own, &insert, &row).await,
            told("INSERT 0 1")
        );
        // Its own records are for itself alone.
        assert_eq!(
            server.executed_in(&own, &by_key, &[text("new")]).await,
            told("1")
        );
        assert_eq!(server.executed(&by_key, &[text("new")]).await, told(""));
        assert_eq!(
            server.executed_in(&own, &by_key, &[text("new")]).await,
            told("1")
        );
    }
    let heads = server
        .rows("SELECT frontier FROM lambic_streams WHERE name = 'e'")
        .await
        .expect("a row");
    server
        .done("INSERT INTO e VALUES ('a', 4)")
        .await
        .expect("it fits");
    for _ in 0..3 {
        let at = text(&format!("e@{}", heads[0]));
        assert_eq!(server.executed(&then, &[text("a"), at]).await, told("2"));
        assert_eq!(
            server
                .executed(&then, &[text("a"), text("e@0:0,1:0")])
                .await,
            told("")
        );
        assert_eq!(server.executed(&by_key, &[text("a")]).await, told("3"));
    }
    // Each insert has its own values.
    for value in 0..4 {
        let row = [text("z"), ScalarValue::Int64(Some(value))];
        assert_eq!(server.executed(&insert, &row).await, told("INSERT 0 1"));
    }
    let null = [ScalarValue::Utf8(None), ScalarValue::Int64(None)];
    assert_eq!(
        server.executed(&insert, &null).await,
        Err("23502".to_owned())
    );
    let found = server
        .rows("SELECT v FROM e WHERE k = 'z'")
        .await
        .expect("rows");
    assert_eq!(found, ["0", "1", "2", "3"]);
    server.engine.close().await;
}

/// Adds a number.
#[derive(Debug)]
struct Adds(i64, String);

impl ScalarFunction for Adds {
    fn name(&self) -> &str {
        "adds"
    }

    fn digest(&self) -> &str {
        &self.1
    }

    fn arguments(&self) -> &[DataType] {
        &[DataType::Int64]
    }

    fn returns(&self) -> &DataType {
        &DataType::Int64
    }

    fn call(&self, columns: &[ArrayRef], _rows: usize) -> Result<ArrayRef, String> {
        use arrow::array::AsArray;
        let values = columns[0].as_primitive::<arrow::datatypes::Int64Type>();
        let sums: Int64Array = values
            .iter()
            .map(|value| value.map(|v| v + self.0))
            .collect();
        Ok(Arc::new(sums))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_deployed_again_is_called_with_its_new_code() {
    let (_folder, data) = new_folder();
    let server = Server::declared(&data, &PLANS).await;
    let deploy = |adds: i64| {
        let function: Arc<dyn ScalarFunction> = Arc::new(Adds(adds, adds.to_string()));
        server.engine.database.set_functions(vec![function]);
    };
    deploy(1);
    // One call on a column, and one that is folded into the plan.
    let calls = server
        .prepared("SELECT adds(v), adds(100) FROM big WHERE k = $1")
        .await;
    let check = async |expected: &str| {
        for _ in 0..3 {
            assert_eq!(server.executed(&calls, &[text("b")]).await, told(expected));
        }
    };
    check("31|101").await;
    deploy(2);
    check("32|102").await;
    server.engine.database.set_functions(Vec::new());
    assert_eq!(
        server.executed(&calls, &[text("b")]).await,
        Err("42883".to_owned())
    );
    deploy(3);
    check("33|103").await;
    server.engine.close().await;
}
