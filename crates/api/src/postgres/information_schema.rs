//! `information_schema` with Postgres's names of types in `columns`; all else is DataFusion's.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch, StringArray},
    datatypes::SchemaRef,
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

#[async_trait]
impl TableProvider for Columns {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
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
            .map(with_sql_types)
            .collect::<Result<Vec<_>>>()?;
        Ok(MemorySourceConfig::try_new_exec(
            &[batches],
            self.schema(),
            projection.cloned(),
        )?)
    }
}

fn with_sql_types(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    let at = schema.index_of("data_type")?;
    let names = batch.column(at).as_string::<i32>();
    let names: StringArray = names.iter().map(|name| name.map(sql_type)).collect();
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(names);
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// What Postgres's `information_schema` calls a type of Arrow.
pub fn sql_type(arrow: &str) -> String {
    let name = match arrow.split(['(', ' ', '[']).next().unwrap_or(arrow) {
        "Int8" | "Int16" => "smallint",
        "Int32" => "integer",
        "Int64" => "bigint",
        "UInt8" | "UInt16" | "UInt32" | "UInt64" => "numeric",
        "Float16" | "Float32" => "real",
        "Float64" => "double precision",
        "Boolean" => "boolean",
        "Utf8" | "LargeUtf8" | "Utf8View" => "text",
        "Binary" | "LargeBinary" | "BinaryView" => "bytea",
        "Date32" | "Date64" => "date",
        "Time32" | "Time64" => "time without time zone",
        "Timestamp" if arrow.contains(',') && !arrow.ends_with("None)") => {
            "timestamp with time zone"
        }
        "Timestamp" => "timestamp without time zone",
        "Interval" | "Duration" => "interval",
        "List" | "LargeList" | "FixedSizeList" => "ARRAY",
        decimal if decimal.starts_with("Decimal") => "numeric",
        _ => arrow,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    #[test]
    fn types_have_postgres_names() {
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
    }
}
