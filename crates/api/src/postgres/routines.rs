//! `pg_proc`: Postgres's own functions, as clients look them up, and those that were deployed, as `\df` lists them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, new_null_array},
    compute::cast,
    datatypes::{Field, Int32Type, Schema, SchemaRef},
};
use datafusion::{
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{TryStreamExt, stream};
use lambic_model::ScalarFunction;
use lambic_query::Database;

use super::information_schema::type_name;

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

/// `pg_proc`.
pub struct Procedures {
    schema: SchemaRef,
    builtin: Vec<RecordBatch>,
    namespaces: Arc<dyn PartitionStream>,
    database: Database,
    routines: Routines,
}

impl Procedures {
    pub fn new(
        (schema, builtin): (SchemaRef, &[RecordBatch]),
        namespaces: Arc<dyn PartitionStream>,
        database: &Database,
        routines: &Routines,
    ) -> Procedures {
        // What is not told of a deployed function is NULL, though Postgres has a value everywhere.
        let fields = schema.fields().iter();
        let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
        Procedures {
            schema: Arc::new(Schema::new(fields.collect::<Vec<Field>>())),
            builtin: builtin.to_vec(),
            namespaces,
            database: database.clone(),
            routines: Arc::clone(routines),
        }
    }
}

impl std::fmt::Debug for Procedures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Procedures").finish_non_exhaustive()
    }
}

impl PartitionStream for Procedures {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let made = procedures(
            Arc::clone(&self.schema),
            self.builtin.clone(),
            self.namespaces.execute(context),
            self.database.functions(),
            Arc::clone(&self.routines),
        );
        let batches = stream::once(made)
            .map_ok(|batches| stream::iter(batches.into_iter().map(Result::<RecordBatch>::Ok)))
            .try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(self.schema()),
            batches,
        ))
    }
}

async fn procedures(
    schema: SchemaRef,
    builtin: Vec<RecordBatch>,
    namespaces: SendableRecordBatchStream,
    functions: Vec<Arc<dyn ScalarFunction>>,
    routines: Routines,
) -> Result<Vec<RecordBatch>> {
    let public = public_namespace(namespaces).await?;
    let mut batches = vec![deployed(&schema, public, &functions, &routines)?];
    for batch in builtin {
        batches.push(batch.with_schema(Arc::clone(&schema))?);
    }
    Ok(batches)
}

/// The rows of deployed functions.
fn deployed(
    schema: &SchemaRef,
    namespace: i32,
    functions: &[Arc<dyn ScalarFunction>],
    known: &Routines,
) -> Result<RecordBatch> {
    let ids: Vec<i32> = (FIRST_ID..).take(functions.len()).collect();
    let routines = ids.iter().zip(functions).map(|(id, function)| {
        let arguments = function.arguments().iter().map(type_name);
        let routine = Routine {
            arguments: arguments.collect::<Vec<_>>().join(", "),
            result: type_name(function.returns()).to_owned(),
        };
        (*id, routine)
    });
    *known.write().unwrap_or_else(PoisonError::into_inner) = routines.collect();
    let rows = functions.len();
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
        let column: ArrayRef = match field.name().as_str() {
            "oid" => Arc::new(Int32Array::from(ids.clone())),
            "proname" => Arc::new(StringArray::from_iter_values(
                functions.iter().map(|function| function.name()),
            )),
            "pronamespace" => Arc::new(Int32Array::from(vec![namespace; rows])),
            "prokind" => Arc::new(StringArray::from(vec!["f"; rows])),
            "provolatile" => Arc::new(StringArray::from(vec!["i"; rows])),
            "proparallel" => Arc::new(StringArray::from(vec!["s"; rows])),
            _ => return Ok(new_null_array(field.data_type(), rows)),
        };
        Ok(cast(&column, field.data_type())?)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The object id of the schema `public`; 0 if it has none.
async fn public_namespace(namespaces: SendableRecordBatchStream) -> Result<i32> {
    let batches: Vec<RecordBatch> = namespaces.try_collect().await?;
    for batch in &batches {
        let schema = batch.schema();
        let names = batch.column(schema.index_of("nspname")?).as_string::<i32>();
        let ids = batch
            .column(schema.index_of("oid")?)
            .as_primitive::<Int32Type>();
        if let Some(row) = (0..batch.num_rows()).find(|row| names.value(*row) == "public") {
            return Ok(ids.value(row));
        }
    }
    Ok(0)
}
