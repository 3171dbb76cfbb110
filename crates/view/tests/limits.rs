//! Queries of limits and offsets in one another, against a few lines that do the same to rows in a vector.

use std::{fmt::Write as _, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array},
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use datafusion::{catalog::MemTable, execution::runtime_env::RuntimeEnv, prelude::SessionContext};
use lambic_view::{postgres, session};
use proptest::prelude::*;

/// `id`, which no two rows share, `k` and `v`.
type Row = [i64; 3];

/// One query around another.
#[derive(Clone, Debug)]
enum Layer {
    Cut {
        order: Order,
        is_descending: bool,
        offset: usize,
        limit: Option<usize>,
    },
    Above(i64),
    /// Its order says nothing about the rows around it.
    Ordered(Order),
}

/// What rows are ordered by, before `id`.
#[derive(Clone, Copy, Debug)]
enum Order {
    Nothing,
    K,
    V,
    /// An expression, which is no column of the answer.
    Rest,
}

impl Order {
    fn sql(self, direction: &str) -> String {
        let expression = match self {
            Order::Nothing => return format!("id{direction}"),
            Order::K => "k",
            Order::V => "v",
            Order::Rest => "v % 3",
        };
        format!("{expression}{direction}, id{direction}")
    }

    fn of(self, [id, k, v]: Row) -> (i64, i64) {
        let first = match self {
            Order::Nothing => 0,
            Order::K => k,
            Order::V => v,
            Order::Rest => v % 3,
        };
        (first, id)
    }
}

/// The query around all layers.
#[derive(Clone, Copy, Debug)]
enum Top {
    Rows(Order),
    /// Without the columns that the rows were ordered by.
    OneColumn,
    Totals,
    Groups,
    Joined,
    Twice,
}

impl Layer {
    fn around(&self, query: &str) -> String {
        let mut sql = format!("SELECT id, k, v FROM ({query}) AS q");
        match self {
            Layer::Above(least) => write!(sql, " WHERE v > {least}"),
            Layer::Ordered(order) => write!(sql, " ORDER BY {}", order.sql("")),
            Layer::Cut {
                order,
                is_descending,
                offset,
                limit,
            } => {
                let direction = if *is_descending { " DESC" } else { "" };
                let limit = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
                let offset = match offset {
                    0 => String::new(),
                    offset => format!(" OFFSET {offset}"),
                };
                write!(sql, " ORDER BY {}{limit}{offset}", order.sql(direction))
            }
        }
        .expect("a string takes text");
        sql
    }

    fn apply(&self, rows: &mut Vec<Row>) {
        match *self {
            Layer::Above(least) => rows.retain(|row| row[2] > least),
            Layer::Ordered(_) => {}
            Layer::Cut {
                order,
                is_descending,
                offset,
                limit,
            } => {
                rows.sort_by_key(|&row| order.of(row));
                if is_descending {
                    rows.reverse();
                }
                rows.drain(..offset.min(rows.len()));
                rows.truncate(limit.unwrap_or(usize::MAX));
            }
        }
    }
}

impl Top {
    /// The query, and whether its rows are in order.
    fn around(self, query: &str) -> (String, bool) {
        let from = format!("FROM ({query}) AS q");
        match self {
            Top::Rows(order) => (
                format!("SELECT id, k, v {from} ORDER BY {}", order.sql("")),
                true,
            ),
            Top::OneColumn => (format!("SELECT k {from}"), false),
            Top::Totals => (
                format!(
                    "SELECT count(*), coalesce(sum(v), 0)::bigint, coalesce(max(id), 0) {from}"
                ),
                true,
            ),
            Top::Groups => (
                format!("SELECT k, count(*), max(v) {from} GROUP BY k ORDER BY k"),
                true,
            ),
            Top::Joined => (
                format!("SELECT q.id, s.v {from} JOIN s ON s.id = q.id"),
                false,
            ),
            Top::Twice => (
                format!("SELECT id {from} UNION ALL SELECT v FROM ({query}) AS r"),
                false,
            ),
        }
    }

    fn of(self, mut rows: Vec<Row>) -> Vec<Vec<i64>> {
        match self {
            Top::Rows(order) => {
                rows.sort_by_key(|&row| order.of(row));
                rows.into_iter().map(Vec::from).collect()
            }
            Top::OneColumn => rows.into_iter().map(|[_, k, _]| vec![k]).collect(),
            Top::Totals => {
                let last = rows.iter().map(|row| row[0]).max().unwrap_or(0);
                vec![vec![
                    rows.len() as i64,
                    rows.iter().map(|row| row[2]).sum(),
                    last,
                ]]
            }
            Top::Groups => {
                rows.sort_by_key(|row| row[1]);
                let groups = rows.chunk_by(|a, b| a[1] == b[1]);
                let group = |rows: &[Row]| {
                    let most = rows
                        .iter()
                        .map(|row| row[2])
                        .max()
                        .expect("a group has rows");
                    vec![rows[0][1], rows.len() as i64, most]
                };
                groups.map(group).collect()
            }
            Top::Joined => rows.into_iter().map(|[id, _, v]| vec![id, v]).collect(),
            Top::Twice => {
                let ids = rows.iter().map(|row| vec![row[0]]);
                ids.chain(rows.iter().map(|row| vec![row[2]])).collect()
            }
        }
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let column = |place: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row[place]).collect::<Int64Array>())
    };
    RecordBatch::try_from_iter([("id", column(0)), ("k", column(1)), ("v", column(2))])
        .expect("columns of one length")
}

async fn answer(sql: &str, rows: &[Row]) -> Vec<Vec<i64>> {
    let config = session::config(3).with_create_default_catalog_and_schema(true);
    let state = session::state(config, Arc::new(RuntimeEnv::default()));
    let context = SessionContext::new_with_state(state);
    let (left, right) = rows.split_at(rows.len() / 3);
    let parts = vec![vec![batch(left)], right.chunks(7).map(batch).collect()];
    let table = MemTable::try_new(batch(&[]).schema(), parts).expect("batches of the schema");
    let registered = context.register_table("s", Arc::new(table));
    registered.expect("its name is free");
    let session = context.state();
    let statement = postgres::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let plan = session.statement_to_plan(statement).await;
    let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let found = context.execute_logical_plan(plan).await;
    let found = found.expect("it plans").collect().await;
    let mut answer = Vec::new();
    for batch in found.unwrap_or_else(|error| panic!("{sql}: {error}")) {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter();
            let values = values.map(|column| column.as_primitive::<Int64Type>().value(row));
            answer.push(values.collect());
        }
    }
    answer
}

fn order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::Nothing, Order::K, Order::V, Order::Rest])
}

fn layer() -> impl Strategy<Value = Layer> {
    let cut = (
        order(),
        any::<bool>(),
        0usize..9,
        prop::option::weighted(0.7, 0usize..30),
    );
    prop_oneof![
        6 => cut.prop_map(|(order, is_descending, offset, limit)| Layer::Cut { order, is_descending, offset, limit }),
        1 => (0i64..30).prop_map(Layer::Above),
        1 => order().prop_map(Layer::Ordered),
    ]
}

fn top() -> impl Strategy<Value = Top> {
    prop_oneof![
        order().prop_map(Top::Rows),
        prop::sample::select(vec![
            Top::OneColumn,
            Top::Totals,
            Top::Groups,
            Top::Joined,
            Top::Twice
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn limits_in_limits_leave_the_rows_that_they_should(
        values in prop::collection::vec((0i64..4, 0i64..60), 0..60),
        layers in prop::collection::vec(layer(), 1..4),
        top in top(),
    ) {
        let rows: Vec<Row> = (0..).zip(&values).map(|(id, &(k, v))| [id * 37 % 61, k, v]).collect();
        let mut sql = "SELECT id, k, v FROM s".to_owned();
        let mut expected = rows.clone();
        for layer in &layers {
            sql = layer.around(&sql);
            layer.apply(&mut expected);
        }
        let (sql, is_ordered) = top.around(&sql);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut found = runtime.block_on(answer(&sql, &rows));
        let mut expected = top.of(expected);
        if !is_ordered {
            found.sort_unstable();
            expected.sort_unstable();
        }
        prop_assert_eq!(found, expected, "{}", sql);
    }
}
