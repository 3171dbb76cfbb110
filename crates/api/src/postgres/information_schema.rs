//! `information_schema` with Postgres's names of types and numbers of columns in `columns`; all else is DataFusion's.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringArray},
    compute::{cast, kernels::numeric::add},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{
        CatalogProviderList, SchemaProvider, Session, TableProvider,
        information_schema::InformationSchemaProvider,
    },
    datasource::{TableType, memory::MemorySourceConfig},
    error::Result,
    logical_expr::Expr,
    physical_plan::{ExecutionPlan, collect},
};

#[derive(Debug)]
pub struct InformationSchema(InformationSchemaProvider);

impl InformationSchema {
    pub fn new(catalogs: Arc<dyn CatalogProviderList>) -> InformationSchema {
        InformationSchema(InformationSchemaProvider::new(catalogs))
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        self.0.table_names()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table_exist(name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = self.0.table(name).await?;
        Ok(match (name, table) {
            ("columns", Some(inner)) => Some(Arc::new(Columns(inner))),
            (_, table) => table,
        })
    }
}

#[derive(Debug)]
struct Columns(Arc<dyn TableProvider>);

impl Columns {
    /// Numbers are integers, as Postgres has them.
    fn schema(&self) -> SchemaRef {
        let schema = self.0.schema();
        let fields =
            schema
                .fields()
                .iter()
                .map(|field| match field.data_type().is_unsigned_integer() {
                    true => Field::clone(field).with_data_type(DataType::Int32),
                    false => Field::clone(field),
                });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

#[async_trait]
impl TableProvider for Columns {
    fn schema(&self) -> SchemaRef {
        Columns::schema(self)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.0.scan(state, None, &[], None).await?;
        let batches = collect(plan, state.task_ctx()).await?;
        let batches = batches
            .iter()
            .map(|batch| as_postgres(batch, &Columns::schema(self)))
            .collect::<Result<Vec<_>>>()?;
        Ok(MemorySourceConfig::try_new_exec(
            &[batches],
            self.schema(),
            projection.cloned(),
        )?)
    }
}

fn as_postgres(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| -> Result<ArrayRef> {
        let column = cast(column, field.data_type())?;
        Ok(match field.name().as_str() {
            "data_type" => {
                let names = column.as_string::<i32>().iter();
                Arc::new(
                    names
                        .map(|name| name.map(sql_type))
                        .collect::<StringArray>(),
                )
            }
            // DataFusion counts from 0.
            "ordinal_position" => add(&column, &Int32Array::new_scalar(1))?,
            _ => column,
        })
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The name of a type that DataFusion tells in Arrow's words.
fn sql_type(arrow: &str) -> String {
    let known = arrow.parse::<DataType>().ok();
    known.map_or_else(|| arrow.to_owned(), |known| type_name(&known).to_owned())
}

/// What Postgres calls a type in full.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int8 | DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Boolean => "boolean",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        number if number.is_decimal() || number.is_unsigned_integer() => "numeric",
        list if list.is_list() => "ARRAY",
        // As Postgres says of types that users make.
        _ => "USER-DEFINED",
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn types_that_datafusion_tells_have_postgres_names() {
        let micros = TimeUnit::Microsecond;
        for (data_type, expected) in [
            (DataType::Utf8, "text"),
            (DataType::Float32, "real"),
            (DataType::Float64, "double precision"),
            (DataType::Decimal128(12, 2), "numeric"),
            (
                DataType::Timestamp(micros, None),
                "timestamp without time zone",
            ),
            (
                DataType::Timestamp(micros, Some("UTC".into())),
                "timestamp with time zone",
            ),
            (DataType::new_list(DataType::Int64, true), "ARRAY"),
        ] {
            assert_eq!(sql_type(&data_type.to_string()), expected, "{data_type}");
        }
        assert_eq!(sql_type("a type of tomorrow"), "a type of tomorrow");
    }
}
