//! Texts that a view only groups by may come as views of bytes: the states are the same.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Fields, Schema},
};
use datafusion::{
    catalog::{MemTable, TableProvider},
    execution::{SessionState, runtime_env::RuntimeEnv},
    physical_plan::collect,
};
use lambic_model::{Frontiers, Stream, StreamId, StreamName};
use lambic_view::{Run, ViewPlan, session};

fn stream() -> Arc<Stream> {
    Arc::new(Stream {
        id: StreamId(7),
        name: StreamName::new("s").expect("a valid name"),
        schema: Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("l", DataType::Utf8, false),
            Field::new("v", DataType::Int64, true),
        ])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

fn records() -> RecordBatch {
    let k = StringArray::from(vec![
        Some("a"),
        None,
        Some("longer than twelve bytes"),
        Some("a"),
        None,
    ]);
    let l = StringArray::from(vec!["x", "y", "x", "x", "y"]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(k),
        Arc::new(l),
        Arc::new(Int64Array::from(vec![
            Some(1),
            Some(2),
            None,
            Some(4),
            Some(5),
        ])),
    ];
    RecordBatch::try_new(Arc::clone(&stream().schema), columns).expect("columns of the schema")
}

async fn planned(sql: &str, state: &SessionState) -> ViewPlan {
    let plan = ViewPlan::new(sql, state, &[stream()]).await;
    plan.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn states(plan: &ViewPlan, state: &SessionState, records: RecordBatch) -> Run {
    // One batch in each of two partitions, so that keys meet again.
    let partitions = vec![vec![records.clone()], vec![records.clone()]];
    let table = MemTable::try_new(records.schema(), partitions).expect("batches of the schema");
    let table: Arc<dyn TableProvider> = Arc::new(table);
    let states = plan.states_from(state, &|_| Ok(Arc::clone(&table))).await;
    let states = collect(states.expect("it plans"), state.task_ctx()).await;
    let at = Frontiers::default;
    plan.sorted(states.expect("it runs"), 2, at(), at())
        .expect("states of the view")
}

fn as_views(records: &RecordBatch, names: &[String]) -> RecordBatch {
    let columns: HashMap<&String, ArrayRef> = names
        .iter()
        .map(|name| {
            let column = records
                .column_by_name(name)
                .expect("a column of the stream");
            (name, cast(column, &DataType::Utf8View).expect("a text"))
        })
        .collect();
    let schema = records.schema();
    let fields: Fields = schema
        .fields()
        .iter()
        .map(|field| match columns.get(field.name()) {
            Some(column) => {
                let field = field.as_ref().clone();
                Arc::new(field.with_data_type(column.data_type().clone()))
            }
            None => Arc::clone(field),
        })
        .collect();
    let each = records.columns().iter().zip(schema.fields());
    let columns = each.map(|(column, field)| columns.get(field.name()).unwrap_or(column).clone());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect()).expect("the same rows")
}

#[tokio::test]
async fn the_states_are_the_same() {
    let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
    let cases: [(&str, &[&str]); 10] = [
        (
            "SELECT k, count(*) AS n, avg(v) AS a FROM s GROUP BY k",
            &["k"],
        ),
        ("SELECT k, l, sum(v) AS n FROM s GROUP BY k, l", &["k", "l"]),
        ("SELECT DISTINCT l FROM s", &["l"]),
        (
            "SELECT upper(k) AS u, l, sum(v) AS n FROM s GROUP BY upper(k), l",
            &["l"],
        ),
        ("SELECT k, count(DISTINCT l) AS d FROM s GROUP BY k", &["k"]),
        ("SELECT k, l, max(k) AS m FROM s GROUP BY k, l", &["l"]),
        (
            "SELECT a.k, count(*) AS n FROM s AS a WHERE v > 1 GROUP BY a.k",
            &["k"],
        ),
        (
            "SELECT k, l, count(*) AS n FROM s WHERE k <> 'a' GROUP BY k, l",
            &["l"],
        ),
        (
            "SELECT k, v, count(*) FILTER (WHERE l = 'x') AS n FROM s GROUP BY k, v",
            &["k"],
        ),
        (
            "SELECT x, count(*) AS n FROM (SELECT k || l AS x FROM s) AS t GROUP BY x",
            &[],
        ),
    ];
    for (sql, expected) in cases {
        let plan = planned(sql, &state).await;
        assert_eq!(plan.texts_only_grouped_by, expected, "{sql}");
        let plain = states(&plan, &state, records()).await;
        let viewed = as_views(&records(), &plan.texts_only_grouped_by);
        let viewed = states(&plan, &state, viewed).await;
        assert_eq!(viewed.states, plain.states, "{sql}");
        assert!(!plain.is_empty(), "{sql}");
    }
}
