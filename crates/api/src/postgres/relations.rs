//! `pg_class` and `pg_matviews`: streams are tables, views are materialized views, with what they take.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Int32Array, RecordBatch, StringArray, new_null_array,
    },
    datatypes::{DataType, Field, Int32Type, Schema, SchemaRef},
};
use datafusion::{
    catalog::MemTable,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::StreamExt;
use lambic_query::Database;

/// What is known of a relation beyond its row.
#[derive(Debug, Clone)]
pub struct Relation {
    /// The `SELECT` of a view.
    pub sql: Option<String>,
    /// What it takes: a stream in sealed files, a view in memory.
    pub bytes: Option<i64>,
}

/// By object id, filled whenever `pg_class` is read (ids come into being there).
pub type Relations = Arc<RwLock<HashMap<i32, Relation>>>;

/// `pg_class` with views as materialized views.
pub struct Classes {
    /// The inner table's columns and those that it lacks.
    schema: SchemaRef,
    inner: Arc<dyn PartitionStream>,
    database: Database,
    relations: Relations,
}

impl Classes {
    pub fn new(
        inner: Arc<dyn PartitionStream>,
        database: &Database,
        relations: &Relations,
    ) -> Classes {
        Classes {
            schema: with_lists(inner.schema()),
            inner,
            database: database.clone(),
            relations: Arc::clone(relations),
        }
    }
}

impl std::fmt::Debug for Classes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classes").finish_non_exhaustive()
    }
}

impl PartitionStream for Classes {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let views = self.database.views().into_iter();
        let views = views.map(|view| (view.name, view.sql)).collect();
        let bytes = self.database.relation_bytes();
        let relations = Arc::clone(&self.relations);
        let batches = self
            .inner
            .execute(context)
            .map(move |batch| classes(batch?, &views, &bytes, &relations));
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(self.schema()),
            batches,
        ))
    }
}

/// Access rights and options: lists that are always NULL here, but asked for.
fn with_lists(schema: &Schema) -> SchemaRef {
    let texts = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let more = ["relacl", "reloptions"]
        .into_iter()
        .filter(|name| schema.index_of(name).is_err())
        .map(|name| Arc::new(Field::new(name, texts.clone(), true)));
    Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .cloned()
            .chain(more)
            .collect::<Vec<_>>(),
    ))
}

fn classes(
    batch: RecordBatch,
    views: &BTreeMap<String, String>,
    bytes: &HashMap<String, u64>,
    relations: &Relations,
) -> Result<RecordBatch> {
    let schema = batch.schema();
    let names = batch.column(schema.index_of("relname")?).as_string::<i32>();
    let kinds_at = schema.index_of("relkind")?;
    let kinds = batch.column(kinds_at).as_string::<i32>();
    let ids = batch
        .column(schema.index_of("oid")?)
        .as_primitive::<Int32Type>();
    let mut known = relations.write().unwrap_or_else(PoisonError::into_inner);
    known.clear();
    for row in 0..batch.num_rows() {
        let name = names.value(row);
        let bytes = bytes.get(name).copied().map(i64::try_from);
        let relation = Relation {
            sql: views.get(name).cloned(),
            bytes: bytes.and_then(std::result::Result::ok),
        };
        known.insert(ids.value(row), relation);
    }
    drop(known);
    let kinds: StringArray = (0..batch.num_rows())
        .map(|row| match views.contains_key(names.value(row)) {
            true => Some("m"),
            false => Some(kinds.value(row)),
        })
        .collect();
    let mut columns = batch.columns().to_vec();
    columns[kinds_at] = Arc::new(kinds);
    if let Ok(owners_at) = schema.index_of("relowner") {
        columns[owners_at] = Arc::new(Int32Array::from(vec![OWNER; batch.num_rows()]));
    }
    let wider = with_lists(&schema);
    let more = wider.fields().iter().skip(columns.len());
    columns.extend(
        more.map(|field| new_null_array(field.data_type(), batch.num_rows()))
            .collect::<Vec<_>>(),
    );
    Ok(RecordBatch::try_new(wider, columns)?)
}

/// The object id of Postgres's first user.
const OWNER: i32 = 10;

pub fn materialized_views(database: &Database) -> Result<MemTable> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let schema = Arc::new(Schema::new(vec![
        text("schemaname"),
        text("matviewname"),
        text("matviewowner"),
        text("tablespace"),
        Field::new("hasindexes", DataType::Boolean, true),
        Field::new("ispopulated", DataType::Boolean, true),
        text("definition"),
    ]));
    let views = database.views();
    let same = |value: &str| Arc::new(StringArray::from(vec![value; views.len()])) as ArrayRef;
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            same("public"),
            Arc::new(
                views
                    .iter()
                    .map(|view| Some(view.name.as_str()))
                    .collect::<StringArray>(),
            ),
            same("lambic"),
            Arc::new(StringArray::from(vec![None::<&str>; views.len()])),
            Arc::new(BooleanArray::from(vec![false; views.len()])),
            Arc::new(BooleanArray::from(vec![true; views.len()])),
            Arc::new(
                views
                    .iter()
                    .map(|view| Some(view.sql.as_str()))
                    .collect::<StringArray>(),
            ),
        ],
    )?;
    MemTable::try_new(schema, vec![vec![batch]])
}

/// As Postgres shows sizes: in the first unit of which there are fewer than ten thousand or so, rounded.
pub fn pretty_size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    const UNIT: i128 = 1024;
    let exact = i128::from(bytes);
    if exact.abs() < 10 * UNIT {
        return format!("{bytes} bytes");
    }
    let mut divisor = UNIT;
    let mut units = UNITS.iter().peekable();
    loop {
        let unit = units.next().expect("the last unit returns");
        // Halves are rounded away from zero.
        let rounded = (exact.abs() * 2 / divisor + 1) / 2 * exact.signum();
        if rounded.abs() < 10 * UNIT || units.peek().is_none() {
            return format!("{rounded} {unit}");
        }
        divisor *= UNIT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Postgres 15 answers.
    #[test]
    fn sizes_are_shown_as_in_postgres() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (-10_239, "-10239 bytes"),
            (10_240, "10 kB"),
            (10_751, "10 kB"),
            (10_752, "11 kB"),
            (-10_752, "-11 kB"),
            (10_485_247, "10239 kB"),
            (10_485_248, "10 MB"),
            (10_736_893_952, "10 GB"),
            (i64::MAX, "8192 PB"),
        ] {
            assert_eq!(pretty_size(bytes), shown, "{bytes}");
        }
    }
}
