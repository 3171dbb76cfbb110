//! Streams and views as tables, read at the frontier that the statement is pinned to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{SchemaProvider, Session, TableProvider},
    common::{Result, ScalarValue, internal_datafusion_err},
    datasource::{TableType, memory::MemorySourceConfig},
    execution::SessionState,
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ExecutionPlan, execute_stream, execution_plan::reset_plan_states,
        expressions::Column as PhysicalColumn, projection::ProjectionExec,
    },
};
use futures::TryStreamExt;
use lambic_dataset::{Pin, Reader};
use lambic_model::{Frontier, SchemaVersion, Stream, StreamId};
use lambic_serving::{KEPT_BYTES_MAX, RecomputedView, Served, ServedView, Serving, Standing};
use lambic_view::{Planned, Source, tail::TailSource};

use crate::{
    BackupInfo, BatchInfo, Catalog, ErasureInfo, Lifecycle, as_of, key_filter,
    pinned::{Pinned, view_error},
    replay::Replays,
    scratch::Scratch,
    system::SystemTable,
    version,
};

/// The log's newest records as a pin has them.
pub type TailOf = Arc<dyn Fn(&Pin) -> Arc<dyn TailSource> + Send + Sync>;

/// What tables need to know.
#[derive(Clone)]
pub struct Sources {
    pub catalog: Arc<RwLock<Catalog>>,
    pub serving: Serving,
    pub reader: Reader,
    pub tail_of: TailOf,
    /// Views of the catalog that cannot be served, with the reason.
    pub broken: Arc<RwLock<HashMap<String, String>>>,
    /// The layers; `None` while the server starts or stops.
    pub lifecycle: Arc<RwLock<Option<Arc<dyn Lifecycle>>>>,
    /// Counts the changes of streams that views were planned anew for.
    pub altered: Arc<AtomicU64>,
    pub replays: Replays,
}

impl Sources {
    pub fn catalog(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lifecycle(&self) -> Option<Arc<dyn Lifecycle>> {
        self.lifecycle
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn erasures(&self) -> Vec<ErasureInfo> {
        let lifecycle = self.lifecycle();
        lifecycle.map_or_else(Vec::new, |lifecycle| lifecycle.erasures())
    }

    pub fn batches(&self) -> Vec<BatchInfo> {
        let lifecycle = self.lifecycle();
        lifecycle.map_or_else(Vec::new, |lifecycle| lifecycle.batches())
    }

    pub fn backups(&self) -> Vec<BackupInfo> {
        let lifecycle = self.lifecycle();
        lifecycle.map_or_else(Vec::new, |lifecycle| lifecycle.backups())
    }

    /// Before it, the stream's records have expired.
    pub fn start_of(&self, stream: StreamId) -> Frontier {
        let lifecycle = self.lifecycle();
        lifecycle.map_or_else(Frontier::default, |lifecycle| lifecycle.start_of(stream))
    }

    /// When the newest record of the stream was appended that has expired.
    pub fn expired_until(&self, stream: StreamId) -> Option<i64> {
        self.lifecycle()?.expired_until(stream)
    }

    pub fn broken(&self) -> HashMap<String, String> {
        self.broken
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Versions of views that a statement names, by what they are called as tables.
pub type Versions = Arc<BTreeMap<String, Planned>>;

/// The schema `public`.
pub struct Public {
    pub sources: Sources,
    /// Whether streams show their system columns.
    pub with_system: bool,
    /// The statement's; without one, every table is pinned when it is asked for.
    pub pinned: Option<Arc<Pinned>>,
    pub versions: Versions,
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
            if self
                .pinned
                .as_ref()
                .is_some_and(|pinned| pinned.looks_back())
            {
                return Err(as_of::has_no_past(name).into());
            }
            return Ok(Some(Arc::new(table)));
        }
        let pinned = match &self.pinned {
            Some(pinned) => Arc::clone(pinned),
            None => Arc::new(Pinned::take(&self.sources)),
        };
        if let Some(served) = pinned.views.get(name) {
            return Ok(Some(view_table(served, &pinned)));
        }
        if let Some(planned) = self.versions.get(name) {
            return Ok(Some(version_table(name, planned, &pinned)));
        }
        let stream = self.sources.catalog().stream(name).cloned();
        if let Some(stream) = stream {
            return Ok(Some(Arc::new(PinnedStream {
                defaults: defaults(&stream),
                stream,
                with_system: self.with_system,
                pinned,
            })));
        }
        match self.sources.broken().get(name) {
            Some(reason) => Err(datafusion::error::DataFusionError::External(Box::new(
                crate::Error::broken_view(name, reason),
            ))),
            None => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        let catalog = self.sources.catalog();
        catalog.stream(name).is_some()
            || catalog.view(name).is_some()
            || SystemTable::NAMES.contains(&name)
    }
}

/// What a name meant when a plan was made.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    Stream {
        id: StreamId,
        columns: SchemaVersion,
        with_system: bool,
    },
    /// Where the version's files live.
    View(String),
    System,
}

/// `None` of tables that may mean something else the next time.
pub fn identity(table: &dyn TableProvider) -> Option<Identity> {
    if let Some(stream) = table.downcast_ref::<PinnedStream>() {
        return Some(Identity::Stream {
            id: stream.stream.id,
            columns: stream.stream.schema_version(),
            with_system: stream.with_system,
        });
    }
    if let Some(view) = table.downcast_ref::<KeptTable>() {
        return Some(Identity::View(view.view.definition().directory()));
    }
    if let Some(view) = table.downcast_ref::<RecomputedTable>() {
        return Some(Identity::View(view.view.definition().directory()));
    }
    if let Some(view) = table.downcast_ref::<SpeedTable>() {
        return Some(Identity::View(view.batch.view.definition().directory()));
    }
    table
        .downcast_ref::<SystemTable>()
        .map(|_| Identity::System)
}

/// A view as a table at `pinned`.
pub fn view_table(served: &Served, pinned: &Arc<Pinned>) -> Arc<dyn TableProvider> {
    let seen = pinned.seen_by(served);
    match served {
        Served::Kept(view) => Arc::new(KeptTable {
            view: Arc::clone(view),
            pinned: seen,
        }),
        Served::Recomputed(view) => {
            let exact = RecomputedTable {
                view: Arc::clone(view),
                pinned: seen,
            };
            match (&view.plan().speed, view.batch_frontier()) {
                (Some(speed), Some(batch))
                    if !pinned.looks_back() && pinned.is_past_batch(view) =>
                {
                    Arc::new(SpeedTable {
                        speed: speed.clone(),
                        since: Arc::new(pinned.since(batch.clone())),
                        batch: Arc::new(exact),
                    })
                }
                _ => Arc::new(exact),
            }
        }
    }
}

/// A version of a view: as it is served, or from the records if it is not.
fn version_table(name: &str, planned: &Planned, pinned: &Arc<Pinned>) -> Arc<dyn TableProvider> {
    let served = version::of_table_name(name).and_then(|(view, number)| {
        let served = pinned.views.get(view)?;
        (served.definition().version.0 == number).then_some(served)
    });
    match served {
        Some(served) => view_table(served, pinned),
        None => Arc::new(Scratch::new(planned.clone(), Arc::clone(pinned))),
    }
}

pub(crate) fn session_state(state: &dyn Session) -> Result<&SessionState> {
    let state = state.as_any().downcast_ref::<SessionState>();
    state.ok_or_else(|| internal_datafusion_err!("views are read in sessions of the database"))
}

fn in_memory(
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
    projection: Option<&Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let exec = MemorySourceConfig::try_new_exec(&[batches], schema, projection.cloned())?;
    Ok(exec)
}

/// A stream, whole history to the pin.
pub struct PinnedStream {
    pub stream: Arc<Stream>,
    /// By column, where one has a default.
    defaults: HashMap<String, Expr>,
    with_system: bool,
    pinned: Arc<Pinned>,
}

fn defaults(stream: &Stream) -> HashMap<String, Expr> {
    let named = stream.schema.fields().iter().zip(stream.defaults());
    let defaults = named.filter_map(|(field, default)| {
        let value = ScalarValue::try_from_array(default?.value(), 0).ok()?;
        Some((field.name().clone(), Expr::Literal(value, None)))
    });
    defaults.collect()
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

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.defaults.get(column)
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
        self.pinned.check([&self.stream])?;
        // The table has the system columns at its end: without a projection, hide them unless asked for.
        let visible: Vec<usize> = (0..self.schema().fields().len()).collect();
        let projection = projection.unwrap_or(&visible);
        let table = self.pinned.stream(&self.stream)?;
        table.scan(state, Some(projection), filters, limit).await
    }
}

/// A view, merged from batch and speed at the pin.
struct KeptTable {
    view: Arc<ServedView>,
    pinned: Arc<Pinned>,
}

impl std::fmt::Debug for KeptTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptTable")
            .field("view", &self.view.definition().name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for KeptTable {
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
        self.pinned.check(&self.view.plan().inputs)?;
        let range = key_filter::range(self.view.plan(), filters)?;
        let state = session_state(state)?;
        let answer = self.pinned.read(&self.view, range.as_ref(), state).await?;
        in_memory(answer.batches.as_ref().clone(), self.schema(), projection)
    }
}

/// A view that is run now, over its parts, or whose rows of the last run still stand.
struct RecomputedTable {
    view: Arc<RecomputedView>,
    pinned: Arc<Pinned>,
}

impl std::fmt::Debug for RecomputedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecomputedTable")
            .field("view", &self.view.definition().name)
            .finish_non_exhaustive()
    }
}

/// The rows of `view` at `pinned`, if they are few enough to be kept.
pub async fn recomputed_rows(
    view: &Arc<RecomputedView>,
    pinned: &Arc<Pinned>,
    state: &SessionState,
) -> Result<Option<Vec<RecordBatch>>> {
    let table = RecomputedTable {
        view: Arc::clone(view),
        pinned: Arc::clone(pinned),
    };
    table.rows(table.plan(state).await?, state).await
}

impl RecomputedTable {
    /// The `SELECT` over the parts.
    async fn plan(&self, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        let table = |source: Source| -> Result<Arc<dyn TableProvider>> {
            match source {
                Source::Part(index) => Ok(Arc::new(PartTable {
                    view: Arc::clone(&self.view),
                    index,
                    pinned: Arc::clone(&self.pinned),
                })),
                Source::View(name) => self.pinned.view(name),
                stream => self.pinned.records(stream),
            }
        };
        let plan = self.view.plan().over_parts(&table)?;
        state.create_physical_plan(&plan).await
    }

    /// The rows, if they are few enough to be kept.
    async fn rows(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
    ) -> Result<Option<Vec<RecordBatch>>> {
        let mut stream = execute_stream(plan, state.task_ctx())?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = stream.try_next().await? {
            bytes += batch.get_array_memory_size();
            if bytes > KEPT_BYTES_MAX {
                return Ok(None);
            }
            rows.push(batch);
        }
        Ok(Some(self.view.plan().finished(rows).map_err(view_error)?))
    }
}

#[async_trait]
impl TableProvider for RecomputedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.plan().schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.view.definition().sql)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.pinned.check(&self.view.plan().streams)?;
        let standing = self.pinned.standing(&self.view);
        if let Some(rows) = standing.as_ref().and_then(|at| self.view.rows_at(at)) {
            return in_memory(rows.as_ref().clone(), self.schema(), projection);
        }
        let state = session_state(state)?;
        let plan = self.plan(state).await?;
        match self.rows(Arc::clone(&plan), state).await? {
            Some(rows) => {
                // Those of another moment would take the place of what the next reader wants.
                let is_next = |standing: &Standing| match self.view.batch_frontier() {
                    Some(frontier) => standing.frontier == *frontier,
                    None => !self.pinned.looks_back(),
                };
                if let Some(standing) = standing.filter(is_next) {
                    self.view.keep(standing, Arc::new(rows.clone()));
                }
                in_memory(rows, self.schema(), projection)
            }
            // Too many rows to keep: they are made again, as the reader takes them.
            None => projected(reset_plan_states(plan)?, &self.schema(), projection),
        }
    }
}

/// A view that is brought up to the head approximately, from the rows of its last batch.
struct SpeedTable {
    speed: Planned,
    /// The records after the batch.
    since: Arc<Pinned>,
    batch: Arc<RecomputedTable>,
}

impl std::fmt::Debug for SpeedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeedTable")
            .field("view", &self.batch.view.definition().name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for SpeedTable {
    fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.batch.view.definition().sql)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = |source: Source| -> Result<Arc<dyn TableProvider>> {
            match source {
                // It knows no other view.
                Source::View(_) => Ok(Arc::clone(&self.batch) as Arc<dyn TableProvider>),
                stream => self.since.records(stream),
            }
        };
        let plan = match &self.speed {
            Planned::Kept(plan) => plan.from_scratch(&table).map_err(view_error)?,
            Planned::Recomputed(plan) => plan.from_scratch(&table)?,
        };
        let plan = session_state(state)?.create_physical_plan(&plan).await?;
        projected(plan, &self.schema(), projection)
    }
}

/// The plan's columns that `projection` asks for, under the names of `schema`.
pub(crate) fn projected(
    plan: Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
    projection: Option<&Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let own = plan.schema();
    let columns = projection.unwrap_or(&all).iter().map(|&index| {
        let column = PhysicalColumn::new(own.field(index).name(), index);
        let column: Arc<dyn PhysicalExpr> = Arc::new(column);
        (column, schema.field(index).name().clone())
    });
    let columns: Vec<_> = columns.collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

/// An aggregation within a recomputed view, whose states are kept.
struct PartTable {
    view: Arc<RecomputedView>,
    index: usize,
    pinned: Arc<Pinned>,
}

impl std::fmt::Debug for PartTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartTable")
            .field("view", &self.view.definition().name)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for PartTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.view.plan().part_schema(self.index))
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
        let part = &self.view.parts()[self.index];
        let answer = self.pinned.read(part, None, session_state(state)?).await?;
        let rows = answer.batches.as_ref().clone();
        let rows = self
            .view
            .plan()
            .part_rows(self.index, rows)
            .map_err(view_error)?;
        in_memory(rows, self.schema(), projection)
    }
}
