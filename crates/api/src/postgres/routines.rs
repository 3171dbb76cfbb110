//! `pg_proc` with the functions that were deployed, and what `\df` asks about them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, new_null_array},
    compute::cast,
    datatypes::{DataType, Field, Int32Type, SchemaRef},
};
use datafusion::{
    catalog::MemTable, error::Result, execution::TaskContext,
    physical_plan::streaming::PartitionStream,
};
use futures::TryStreamExt;
use lambic_model::ScalarFunction;

/// Object ids from here on are theirs.
const FIRST_ID: i32 = 900_000;

/// How a function is called and what it gives, in SQL.
#[derive(Debug, Clone)]
pub struct Routine {
    pub arguments: String,
    pub result: String,
}

/// By object id, filled whenever `pg_proc` is read.
pub type Routines = Arc<RwLock<HashMap<i32, Routine>>>;

/// `pg_proc` with the columns of `schema`.
pub async fn table(
    schema: SchemaRef,
    namespaces: Arc<dyn PartitionStream>,
    functions: &[Arc<dyn ScalarFunction>],
    known: &Routines,
) -> Result<MemTable> {
    let public = namespace(namespaces, "public").await?;
    let ids: Vec<i32> = (0..functions.len() as i32).map(|n| FIRST_ID + n).collect();
    let mut routines = known.write().unwrap_or_else(PoisonError::into_inner);
    routines.clear();
    for (id, function) in ids.iter().zip(functions) {
        let arguments: Vec<String> = function.arguments().iter().map(sql_type).collect();
        let routine = Routine {
            arguments: arguments.join(", "),
            result: sql_type(function.returns()),
        };
        routines.insert(*id, routine);
    }
    drop(routines);
    let rows = functions.len();
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
        let column: ArrayRef = match field.name().as_str() {
            "oid" => Arc::new(Int32Array::from(ids.clone())),
            "proname" => Arc::new(StringArray::from_iter_values(
                functions.iter().map(|function| function.name()),
            )),
            "pronamespace" => Arc::new(Int32Array::from(vec![public; rows])),
            "prokind" => Arc::new(StringArray::from(vec!["f"; rows])),
            "provolatile" => Arc::new(StringArray::from(vec!["i"; rows])),
            "proparallel" => Arc::new(StringArray::from(vec!["s"; rows])),
            _ => return Ok(new_null_array(field.data_type(), rows)),
        };
        Ok(cast(&column, field.data_type())?)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    // What is not told of a function is NULL, though Postgres has a value everywhere.
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}

async fn namespace(namespaces: Arc<dyn PartitionStream>, name: &str) -> Result<i32> {
    let batches: Vec<RecordBatch> = namespaces
        .execute(Arc::new(TaskContext::default()))
        .try_collect()
        .await?;
    for batch in &batches {
        let schema = batch.schema();
        let names = batch.column(schema.index_of("nspname")?).as_string::<i32>();
        let ids = batch
            .column(schema.index_of("oid")?)
            .as_primitive::<Int32Type>();
        if let Some(row) = (0..batch.num_rows()).find(|row| names.value(*row) == name) {
            return Ok(ids.value(row));
        }
    }
    Ok(0)
}

fn sql_type(data_type: &DataType) -> String {
    super::information_schema::sql_type(&data_type.to_string())
}

/// One line of a routine for every id.
pub fn described(
    known: &Routines,
    ids: Vec<Option<String>>,
    of: impl Fn(&Routine) -> &str,
) -> ArrayRef {
    let known = known.read().unwrap_or_else(PoisonError::into_inner);
    let texts = ids.into_iter().map(|id| {
        known
            .get(&id?.parse::<i32>().ok()?)
            .map(|routine| of(routine).to_owned())
    });
    Arc::new(texts.collect::<StringArray>())
}
