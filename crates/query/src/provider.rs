//! Streams and views as tables, read at the frontier that the statement is pinned to.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{array::ArrayRef, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{SchemaProvider, Session, TableProvider},
    common::{Column, Result, ScalarValue},
    datasource::{TableType, memory::MemorySourceConfig},
    error::DataFusionError,
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown},
    physical_plan::ExecutionPlan,
};
use lambic_dataset::Reader;
use lambic_model::Stream;
use lambic_serving::{ServedView, Serving};

use crate::{Catalog, pinned::Pinned, system::SystemTable};

/// What tables need to know.
#[derive(Clone)]
pub struct Sources {
    pub catalog: Arc<RwLock<Catalog>>,
    pub serving: Serving,
    pub reader: Reader,
}

impl Sources {
    fn pinned(&self, state: &dyn Session) -> Arc<Pinned> {
        let pinned = state.config().get_extension::<Pinned>();
        pinned.unwrap_or_else(|| Arc::new(Pinned::take(&self.serving, &self.reader)))
    }

    pub fn catalog(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The schema `public`.
pub struct Public {
    pub sources: Sources,
    /// Whether streams show their system columns.
    pub with_system: bool,
}

impl std::fmt::Debug for Public {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Public")
            .field("with_system", &self.with_system)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for Public {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.sources.catalog().names();
        names.extend(SystemTable::NAMES.map(str::to_owned));
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = SystemTable::named(name, &self.sources) {
            return Ok(Some(Arc::new(table)));
        }
        if let Some(view) = self.sources.serving.view(name) {
            return Ok(Some(Arc::new(ViewTable {
                view,
                sources: self.sources.clone(),
            })));
        }
        let stream = self.sources.catalog().stream(name).cloned();
        Ok(stream.map(|stream| {
            let with_system = self.with_system;
            Arc::new(PinnedStream {
                stream,
                with_system,
                sources: self.sources.clone(),
            }) as _
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        let catalog = self.sources.catalog();
        catalog.stream(name).is_some()
            || catalog.view(name).is_some()
            || SystemTable::NAMES.contains(&name)
    }
}

/// A stream, whole history to the pin.
struct PinnedStream {
    stream: Arc<Stream>,
    with_system: bool,
    sources: Sources,
}

impl std::fmt::Debug for PinnedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedStream")
            .field("stream", &self.stream.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for PinnedStream {
    fn schema(&self) -> SchemaRef {
        match self.with_system {
            true => self.stream.schema_with_system(),
            false => Arc::clone(&self.stream.schema),
        }
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pinned = self.sources.pinned(state);
        // The table has the system columns at its end: without a projection, hide them unless asked for.
        let visible: Vec<usize> = (0..self.schema().fields().len()).collect();
        let projection = projection.unwrap_or(&visible);
        pinned
            .streams
            .table(&self.stream)
            .scan(state, Some(projection), filters, limit)
            .await
    }
}

/// A view, merged from batch and speed at the pin.
struct ViewTable {
    view: Arc<ServedView>,
    sources: Sources,
}

impl std::fmt::Debug for ViewTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewTable")
            .field("view", &self.view.definition().name)
            .finish_non_exhaustive()
    }
}

impl ViewTable {
    /// The whole key, if `filters` fix every column of it.
    fn full_key(&self, filters: &[Expr]) -> Result<Option<Vec<ArrayRef>>> {
        let plan = self.view.plan();
        let Some(outputs) = plan.key_outputs() else {
            return Ok(None);
        };
        let mut fixed: HashMap<&str, &ScalarValue> = HashMap::new();
        for filter in filters {
            if let Some((column, value)) = equality(filter) {
                fixed.insert(&column.name, value);
            }
        }
        let mut key = Vec::with_capacity(outputs.len());
        for (index, output) in outputs.into_iter().enumerate() {
            let Some(value) = fixed.get(plan.schema.field(output).name().as_str()) else {
                return Ok(None);
            };
            let data_type = plan.state_schema.field(index).data_type();
            let Ok(value) = value.cast_to(data_type) else {
                return Ok(None);
            };
            if value.is_null() {
                return Ok(None);
            }
            key.push(value.to_array()?);
        }
        Ok(Some(key))
    }
}

/// `column = literal` or the other way round.
fn equality(filter: &Expr) -> Option<(&Column, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = filter
    else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _))
        | (Expr::Literal(value, _), Expr::Column(column)) => Some((column, value)),
        _ => None,
    }
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.plan().schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.view.definition().sql)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pinned = self.sources.pinned(state);
        let name = self.view.definition().name.as_str();
        // A view that was replaced after the pin is read as the version that was planned.
        let (view, runs) = match pinned.views.get(name) {
            Some((view, runs)) if Arc::ptr_eq(view, &self.view) => {
                (Arc::clone(view), Arc::clone(runs))
            }
            _ => (Arc::clone(&self.view), self.view.runs()),
        };
        let heads = pinned.streams.heads();
        let answer = match self.full_key(filters)? {
            Some(key) => view.lookup(&key, &runs, &heads).await,
            None => view.read(&runs, &heads).await,
        };
        let answer = answer.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let batches = answer.batches.as_ref().clone();
        let exec =
            MemorySourceConfig::try_new_exec(&[batches], self.schema(), projection.cloned())?;
        Ok(exec)
    }
}
