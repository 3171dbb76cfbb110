//! The merge law at its lowest level: whatever the split of the records, the merged states give the
//! rows that the view's `SELECT` gives as plain SQL over all records.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, TimeUnit},
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{MemTable, TableProvider},
    execution::{SessionState, runtime_env::RuntimeEnv},
    physical_plan::collect,
};
use lambic_model::{Frontiers, Stream, StreamId, StreamName};
use lambic_view::{Exactness, Planned, Run, ViewPlan, aggregate::FloatSums, audit, session};
use proptest::prelude::*;

const VIEWS: [&str; 46] = [
    "SELECT k, stddev(f), avg(f), sum(f) FILTER (WHERE v > 10), avg(v), sum(v), var_pop(v), avg(f) FILTER (WHERE v > 10) FROM s GROUP BY k",
    "SELECT k, approx_percentile_cont(f, 0.5) AS p, approx_percentile_cont(f, 0.9) AS q, regr_slope(f, v), corr(f, v), regr_count(f, v) FROM s GROUP BY k",
    "SELECT avg(v * 1.25), sum(v * 1.25), stddev(v), sum(v), approx_percentile_cont(v, 0.1), approx_percentile_cont(v, 0.5) FROM s",
    "SELECT k AS a, k AS b, v % 3 AS c, v % 3 AS d, count(*) AS n, count(*) AS m FROM s GROUP BY 1, 2, 3, 4 HAVING count(*) > 0",
    "SELECT k, count(*) AS n, count(v) AS some, sum(v) AS total, avg(v) AS mean FROM s GROUP BY k",
    "SELECT k, min(v), max(f), sum(f), avg(f) FROM s GROUP BY k",
    "SELECT k, stddev(f), var_pop(f), stddev(v), variance(v) FROM s GROUP BY k HAVING count(*) > 1",
    "SELECT count(*), sum(f), bool_and(v > 0), bool_or(v > 90), min(k) FROM s",
    "SELECT k, count(DISTINCT v) AS d, approx_distinct(v) AS a FROM s GROUP BY k",
    "SELECT k, first_value(v ORDER BY t) AS first, last_value(f ORDER BY t) AS last FROM s GROUP BY k",
    "SELECT k, array_agg(v ORDER BY t) AS vs FROM s WHERE v IS NOT NULL GROUP BY k",
    "SELECT DISTINCT k, v % 3 AS r FROM s",
    "SELECT date_bin(interval '10 seconds', t) AS b, upper(k) AS u, count(*) * 2 AS n FROM s GROUP BY 1, 2",
    "SELECT date_trunc('minute', t) AS m, sum(v) FILTER (WHERE v > 10) AS s FROM s GROUP BY date_trunc('minute', t)",
    "SELECT k, v + 1 AS w, f FROM s WHERE v > 50",
    "SELECT k, approx_percentile_cont(f, 0.5) AS p, count(*) AS n FROM s GROUP BY k",
    "SELECT k, min(f), max(f), count(DISTINCT f), count(DISTINCT v) FROM s GROUP BY k",
    "SELECT min(f::real), max(f::real), count(DISTINCT f::real) FROM s",
    "SELECT f, f - f AS z, count(*) AS n FROM s GROUP BY f, f - f",
    "SELECT k, sum(v * 1.25) AS s, avg(v * 1.25) AS a, sum(v::numeric(38, 18)) AS w FROM s GROUP BY k",
    "SELECT DISTINCT f, v / 4.0 AS q, f > 5 AS b FROM s",
    // Joins with constants.
    "SELECT k, size, v / size AS bucket, count(*) AS n FROM s CROSS JOIN (VALUES (1), (10), (50)) AS b (size) GROUP BY 1, 2, 3",
    "SELECT name, sum(v) FROM s JOIN (VALUES ('k0', 'zero'), ('k0', 'null'), ('k2', 'two')) AS names (k, name) USING (k) GROUP BY name",
    "SELECT s.k, v, name FROM s LEFT JOIN (VALUES ('k1', 'one'), ('k1', 'uno')) AS names (k, name) ON names.k = s.k AND v > 20",
    "SELECT DISTINCT name, s.k FROM (VALUES (1, 'low'), (50, 'high')) AS names (least, name) JOIN s ON v >= least",
    "SELECT s.k, count(*) AS n FROM (SELECT DISTINCT x FROM (VALUES ('k1'), ('k3')) AS t (x)) AS t RIGHT JOIN s ON x = k GROUP BY s.k",
    "SELECT window_start, window_end, k, count(*) AS n, sum(f) AS f FROM TUMBLE(s, t, INTERVAL '10 seconds') \
     GROUP BY window_start, window_end, k",
    "SELECT window_start, sum(v), max(f) FROM TABLE(HOP(TABLE s, DESCRIPTOR(t), INTERVAL '5' SECOND, INTERVAL '20' SECOND)) \
     GROUP BY window_start",
    "SELECT window_end, k, v FROM HOP(s, t, INTERVAL '1 minute', INTERVAL '2 minutes', INTERVAL '7 seconds')",
    "SELECT window_start, last_value(v ORDER BY t) AS v FROM TUMBLE(s, t, INTERVAL '1 minute') GROUP BY window_start",
    "SELECT k, covar_pop(f, v), covar_samp(v, f), corr(f, v), corr(f, f), corr(v, v) FROM s GROUP BY k",
    "SELECT k, regr_count(f, v), regr_avgx(f, v), regr_avgy(f, v), regr_sxx(f, v), regr_syy(f, v), regr_sxy(f, v) FROM s GROUP BY k",
    "SELECT regr_slope(v, f), regr_intercept(v, f), regr_r2(v, f), corr(v, f) FILTER (WHERE v > 50) FROM s",
    "SELECT k, stddev(f) FILTER (WHERE abs(f) < 100) AS s, covar_samp(f, f * f) AS c FROM s GROUP BY k",
    "SELECT k, hll_sketch_build(v) AS h, theta_sketch_build(f) AS t FROM s GROUP BY k",
    "SELECT theta_sketch_get_estimate(theta_sketch_build(t)) AS n, hll_sketch_build(k) AS h, theta_sketch_build(k) AS t FROM s",
    "SELECT k, median(v), percentile_cont(0.25) WITHIN GROUP (ORDER BY f) AS p FROM s GROUP BY k",
    "SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY f DESC) AS p, percentile_cont(0) WITHIN GROUP (ORDER BY f::real) AS q FROM s",
    "SELECT k, kll_double_sketch_build(f) AS q, count(*) AS n FROM s GROUP BY k",
    "SELECT window_start, theta_sketch_build(k) AS visitors FROM TUMBLE(s, t, INTERVAL '10 seconds') GROUP BY window_start",
    "SELECT coalesce(k, '') AS k, sum(coalesce(v, 0)) AS s, count(DISTINCT nvl(v, 1)) AS d FROM s GROUP BY coalesce(k, '')",
    "SELECT k, sum(v) FILTER (WHERE coalesce(f, 0) > 5) AS s, last_value(v ORDER BY coalesce(f, 0)) AS l FROM s GROUP BY k",
    "SELECT k, array_agg(ifnull(v, 7) ORDER BY nvl2(v, 1, 2), t) AS a, string_agg(coalesce(k, 'x'), ',' ORDER BY coalesce(v, 0)) AS t FROM s GROUP BY k",
    "SELECT k, coalesce(sum(v), 0) AS s, nullif(count(*), 3) AS n, greatest(max(v), 5) AS g, arrow_cast(count(*), 'Int32') AS c \
     FROM s GROUP BY k HAVING coalesce(max(v), 0) >= 0",
    "SELECT k, round(avg(v), 2) AS a, sum(round(v * 1.256, 1)) AS r FROM s WHERE round(v / 3.0, 1) <> 1.3 GROUP BY k",
    "SELECT k, round(v * 1.256, 1) AS r, CASE WHEN v > 9 THEN round(v / 4.0, 1) ELSE v / 4.0 END AS c, extract(second FROM t) AS e FROM s",
];

fn stream() -> Arc<Stream> {
    Arc::new(Stream {
        id: StreamId(7),
        name: StreamName::new("s").expect("a valid name"),
        schema: Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        ])),
        partitions: 1,
        event_time: Some("t".to_owned()),
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

type Row = (Option<u8>, Option<i64>, Option<f64>, i64);

fn batch(stream: &Stream, rows: &[Row], first_offset: usize) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            rows.iter()
                .map(|r| r.0.map(|k| format!("k{k}")))
                .collect::<StringArray>(),
        ),
        Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>()),
        Arc::new(
            rows.iter()
                .map(|r| Some(r.3 * 1_000_000))
                .collect::<TimestampMicrosecondArray>(),
        ),
        Arc::new(Int32Array::from(vec![0; rows.len()])),
        Arc::new(
            (0..rows.len())
                .map(|row| (first_offset + row) as i64)
                .collect::<Int64Array>(),
        ),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows.len()]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(stream.schema_with_system(), columns).expect("columns of the schema")
}

fn state() -> SessionState {
    session::state(session::config(2), Arc::new(RuntimeEnv::default()))
}

async fn run(plan: &ViewPlan, state: &SessionState, rows: &[Row], first_offset: usize) -> Run {
    let records = HashMap::from([(StreamId(7), vec![batch(&stream(), rows, first_offset)])]);
    let at = Frontiers::default;
    plan.run_over(&records, at(), at(), state.task_ctx())
        .await
        .expect("the records are valid")
}

/// Splits `rows` at `cuts`, merges the runs of the parts, and compares with one run over everything.
async fn check(sql: &str, rows: &[Row], cuts: &[usize]) {
    check_in(&state(), sql, rows, cuts).await;
}

async fn check_in(state: &SessionState, sql: &str, rows: &[Row], cuts: &[usize]) {
    let plan = ViewPlan::new(sql, state, &[stream()])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let whole = run(&plan, state, rows, 0).await;
    let mut parts = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&rows.len()]) {
        let end = cut.clamp(start, rows.len());
        parts.push(Arc::new(run(&plan, state, &rows[start..end], start).await));
        start = end;
    }
    let merged = plan
        .merge(&parts, state.task_ctx())
        .await
        .expect("states merge");
    let unmerged: Vec<RecordBatch> = parts.iter().map(|part| part.states.clone()).collect();
    let finish = |states| plan.finish(states, state.task_ctx());
    let expected = plain_sql(&plan, state, rows).await;
    for states in [vec![merged.states.clone()], unmerged] {
        let served = finish(states).await.expect("states finish");
        let compared =
            audit::compare(&plan, (&served, &merged), (&expected, &whole)).expect("comparable");
        assert!(
            compared.agrees(),
            "{sql} cut at {cuts:?}: {:?}",
            compared.examples
        );
    }
}

/// The view's `SELECT`, not split, over a table of all records.
async fn plain_sql(plan: &ViewPlan, state: &SessionState, rows: &[Row]) -> Vec<RecordBatch> {
    let stream = stream();
    let schema = stream.schema_with_system();
    let table = MemTable::try_new(schema, vec![vec![batch(&stream, rows, 0)]]);
    let table: Arc<dyn TableProvider> = Arc::new(table.expect("batches of the schema"));
    let whole = plan.from_scratch(&|_| Ok(Arc::clone(&table)));
    let whole = whole.expect("the plan takes a table");
    let whole = state.create_physical_plan(&whole).await;
    let found = collect(whole.expect("it plans"), state.task_ctx()).await;
    let found = plan.finished(found.expect("it runs"));
    found.expect("rows of the view")
}

const SPECIAL: [f64; 6] = [
    f64::NAN,
    -f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.0,
    -0.0,
];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        prop::option::weighted(0.9, 0u8..5),
        prop::option::weighted(
            0.9,
            prop_oneof![0i64..100, any::<i32>().prop_map(i64::from)],
        ),
        prop::option::weighted(
            0.9,
            prop_oneof![
                4 => -1e3..1e3f64,
                4 => -1e18..1e18f64,
                1 => prop::sample::select(SPECIAL.to_vec()),
            ],
        ),
        0i64..200,
    );
    prop::collection::vec(row, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_split_gives_the_rows_of_one_pass(
        rows in rows(),
        mut cuts in prop::collection::vec(0usize..60, 0..4),
        view in 0..VIEWS.len(),
    ) {
        cuts.sort_unstable();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(check(VIEWS[view], &rows, &cuts));
    }
}

#[tokio::test]
async fn every_view_at_every_split_of_a_small_input() {
    let rows: Vec<Row> = (0..9)
        .map(|i| {
            (
                Some((i % 3) as u8),
                (i != 4).then_some(i * 13 % 97),
                Some(SPECIAL.get(i as usize).copied().unwrap_or(0.1 * i as f64)),
                i * 7 % 5,
            )
        })
        .collect();
    for sql in VIEWS {
        for cut in 0..=rows.len() {
            check(sql, &rows, &[cut]).await;
        }
    }
}

#[tokio::test]
async fn what_has_no_incremental_form_says_so() {
    let state = state();
    for (sql, reason) in [
        (
            "SELECT a.k FROM s a JOIN s b ON a.k = b.k",
            "it joins, and does not aggregate",
        ),
        (
            "SELECT k, x FROM s FULL JOIN (VALUES ('k1')) AS t (x) ON k = x",
            "it has an outer join",
        ),
        (
            "SELECT k, x FROM (VALUES ('k1')) AS t (x) LEFT JOIN s ON k = x",
            "it has an outer join",
        ),
        ("SELECT k FROM s ORDER BY v LIMIT 3", "it has a LIMIT"),
        (
            "SELECT k, row_number() OVER (ORDER BY v) FROM s",
            "it uses a window function",
        ),
        (
            "SELECT nth_value(v, 2 ORDER BY t) FROM s",
            "the states of nth_value() do not merge exactly",
        ),
        (
            "SELECT max(n) FROM (SELECT count(*) AS n FROM s GROUP BY k)",
            "it aggregates what is aggregated already",
        ),
        ("SELECT 1", "it reads no stream"),
        (
            "SELECT k FROM s WHERE v IN (SELECT v FROM s)",
            "it has a subquery",
        ),
    ] {
        let error = ViewPlan::new(sql, &state, &[stream()])
            .await
            .map(|_| ())
            .expect_err(sql);
        assert_eq!(
            error.to_string(),
            format!("this view has no incremental form: {reason}"),
            "{sql}"
        );
    }
    let error = ViewPlan::new("SELECT k, now() FROM s", &state, &[stream()])
        .await
        .map(|_| ())
        .expect_err("now()");
    assert!(error.to_string().contains("now() does not"), "{error}");
}

#[tokio::test]
async fn what_nobody_could_read_is_no_view() {
    let state = state();
    for (sql, reason) in [
        (
            "SELECT a.*, b.* FROM s a JOIN s b ON a.k = b.k",
            "column \"k\" specified more than once",
        ),
        (
            "SELECT e.v, (SELECT count(*) FROM s q WHERE q.v > e.v) AS c FROM s e",
            "Physical plan does not support",
        ),
    ] {
        let planned = Planned::new(sql, &state, &[stream()], &[]).await;
        let error = planned.map(|_| ()).expect_err(sql).to_string();
        assert!(error.contains(reason), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_key_is_found_in_its_run() {
    let state = state();
    let plan = ViewPlan::new(
        "SELECT k AS key, count(*) AS n FROM s GROUP BY k",
        &state,
        &[stream()],
    )
    .await
    .expect("plans");
    let rows: Vec<Row> = (0..50)
        .map(|i| (Some((i % 5) as u8), None, None, 0))
        .collect();
    let run = run(&plan, &state, &rows, 0).await;
    assert_eq!(plan.key_outputs(), Some(vec![0]));
    for (key, found) in [("k3", true), ("k9", false), ("", false)] {
        let values: [ArrayRef; 1] = [Arc::new(StringArray::from(vec![key]))];
        let key = plan
            .encode_key(&values)
            .expect("a text key")
            .expect("the view has a key");
        assert_eq!(run.find(&key).is_some(), found);
    }
}

#[tokio::test]
async fn aggregations_within_a_recomputed_view_become_parts() {
    let state = state();
    for (sql, parts, reason) in [
        (
            "SELECT a.k FROM s a JOIN s b ON a.k = b.k",
            0,
            "it joins, and does not aggregate",
        ),
        (
            "SELECT max(n) FROM (SELECT k, count(*) AS n FROM s GROUP BY k) AS c",
            1,
            "it aggregates what is aggregated already",
        ),
        (
            "SELECT c.k, c.n, d.v FROM (SELECT k, count(*) AS n FROM s GROUP BY k) AS c \
             JOIN (SELECT DISTINCT k, v FROM s) AS d ON c.k = d.k",
            2,
            "it joins, and does not aggregate",
        ),
        (
            "SELECT k, v FROM s AS o WHERE v = (SELECT max(v) FROM s AS i WHERE i.k = o.k)",
            0,
            "it has a subquery",
        ),
        (
            "WITH c AS (SELECT k, count(*) AS n FROM s GROUP BY k) SELECT a.k, b.n FROM c AS a JOIN c AS b ON a.n < b.n",
            1,
            "it joins, and does not aggregate",
        ),
        (
            "SELECT k, v FROM s WHERE v > (SELECT avg(v) FROM s)",
            1,
            "it has a subquery",
        ),
        (
            "SELECT k, window_start, count(*) FROM SESSION(s, k, t, INTERVAL '10 seconds') GROUP BY k, window_start",
            0,
            "it uses a window function",
        ),
    ] {
        let planned = Planned::new(sql, &state, &[stream()], &[]).await;
        let Ok(Planned::Recomputed(plan)) = planned else {
            panic!("{sql}: {planned:?}");
        };
        assert_eq!(
            (plan.parts.len(), plan.reason.as_str()),
            (parts, reason),
            "{sql}"
        );
    }
}

/// Sums of doubles as they come: the states are DataFusion's, and the rows agree within the tolerance.
#[tokio::test]
async fn fast_sums_agree_within_the_tolerance() {
    let mut state = state();
    session::set_float_sums(&mut state, FloatSums::Fast);
    let rows: Vec<Row> = (0..200)
        .map(|i| {
            (
                Some((i % 3) as u8),
                Some(i * 31 % 17),
                Some(0.1 * (i * 7919 % 1000) as f64),
                i,
            )
        })
        .collect();
    let rounded = Exactness::Rounded;
    let exact = Exactness::Exact;
    for (sql, exactness) in [
        (
            "SELECT k, sum(f), avg(f), sum(v), count(f) FROM s GROUP BY k",
            vec![exact, rounded, rounded, exact, exact],
        ),
        (
            "SELECT k, stddev(f) AS s, var_pop(v) + 1 AS p, min(f) FROM s GROUP BY k",
            vec![exact, rounded, rounded, exact],
        ),
        (
            "SELECT corr(f, v), covar_samp(f, v), regr_slope(f, v), regr_count(f, v) FROM s",
            vec![rounded, rounded, rounded, exact],
        ),
        (
            "SELECT k, sum(f) AS s, approx_percentile_cont(f, 0.5) AS p FROM s GROUP BY k",
            vec![exact, rounded, Exactness::Randomised],
        ),
    ] {
        let plan = ViewPlan::new(sql, &state, &[stream()]).await.expect(sql);
        assert_eq!(plan.exactness, exactness, "{sql}");
        for cut in [0, 1, 77, 199] {
            check_in(&state, sql, &rows, &[cut]).await;
        }
    }
    let plan = ViewPlan::new("SELECT sum(f) AS s FROM s", &state, &[stream()]).await;
    let plan = plan.expect("plans");
    let mut served = plain_sql(&plan, &state, &rows).await;
    let recomputed = served.clone();
    let off: ArrayRef = Arc::new(Float64Array::from(vec![9_990.0]));
    served[0] = RecordBatch::try_new(served[0].schema(), vec![off]).expect("one column");
    let compared = audit::compare_finished(&plan.schema, &plan.exactness, &served, &recomputed);
    assert_eq!(compared.expect("comparable").differences, 1);
}
