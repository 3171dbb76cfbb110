//! How many columns the states of several aggregates have together. That they are the right ones is what `merge` tests.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::runtime_env::RuntimeEnv;
use lambic_model::{Stream, StreamId, StreamName};
use lambic_view::{ViewPlan, session};

fn stream() -> Arc<Stream> {
    Arc::new(Stream {
        id: StreamId(7),
        name: StreamName::new("s").expect("a valid name"),
        schema: Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("i", DataType::Int32, true),
            Field::new("f", DataType::Float64, true),
            Field::new("d", DataType::Decimal128(10, 2), true),
        ])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

#[tokio::test]
async fn what_several_aggregates_need_is_kept_once() {
    let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
    let mut wrong = String::new();
    for (aggregates, columns) in [
        ("sum(i)", 2),
        ("sum(i), avg(i)", 2),
        ("avg(i), stddev(i), var_pop(i), sum(i)", 3),
        ("sum(f), avg(f), stddev(f), variance(f)", 3),
        ("sum(d), avg(d)", 2),
        // Of decimals the deviation is that of their doubles.
        ("sum(d), stddev(d), avg(d::double precision)", 2 + 3),
        (
            "corr(f, i), covar_pop(f, i), regr_slope(f, i), regr_count(f, i)",
            6,
        ),
        ("corr(f, i), corr(i, f)", 6 + 6),
        (
            "approx_percentile_cont(f, 0.5), approx_percentile_cont(f, 0.99)",
            1,
        ),
        (
            "approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY f), approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY f)",
            1,
        ),
        (
            "approx_percentile_cont(f, 0.5), approx_percentile_cont(f + 1, 0.5)",
            2,
        ),
        // Not of the same values.
        ("sum(i), avg(i) FILTER (WHERE f > 0)", 2 + 2),
        (
            "sum(i) FILTER (WHERE f > 0), avg(i) FILTER (WHERE f > 0)",
            2,
        ),
        ("sum(i), sum(f), avg(i + 1)", 2 + 2 + 2),
        ("sum(DISTINCT i), avg(i)", 0),
        // Those of DataFusion stay by themselves.
        (
            "count(i), sum(i), min(i), max(i), count(*)",
            1 + 2 + 1 + 1 + 1,
        ),
    ] {
        let sql = format!("SELECT k, {aggregates} FROM s GROUP BY k");
        let found = match ViewPlan::new(&sql, &state, &[stream()]).await {
            Ok(plan) => plan.state_schema.fields().len() - plan.key_columns(),
            // Has no states that merge.
            Err(_) => 0,
        };
        if found != columns {
            wrong += &format!("{aggregates}: expected {columns}, found {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
