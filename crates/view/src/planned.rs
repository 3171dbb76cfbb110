//! From a view's text to its plan.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
        MemorySchemaProvider, SchemaProvider, TableProvider,
    },
    common::plan_err,
    datasource::empty::EmptyTable,
    execution::SessionState,
    logical_expr::LogicalPlan,
    sql::parser::Statement,
};
use lambic_model::{Stream, StreamId, SystemColumn};

use crate::{
    Class, Error, Exactness, RecomputePlan, ViewPlan, ViewSource, postgres, session,
    slot::{self, SlotTable, Source, SourceTable},
    split, ties, wildcard, window,
};

/// A view's `SELECT`, planned: kept by batch and speed, or run when it is read.
#[derive(Debug, Clone)]
pub enum Planned {
    Kept(Arc<ViewPlan>),
    Recomputed(Arc<RecomputePlan>),
}

impl Planned {
    /// Plans `sql`, one `SELECT`, over `streams` and `views`. `base` brings settings and functions.
    pub async fn new(
        sql: &str,
        base: &SessionState,
        streams: &[Arc<Stream>],
        views: &[ViewSource],
    ) -> Result<Planned, Error> {
        let (plan, state) = analysed(sql, base, streams, views).await?;
        match split::split(plan.clone(), &state) {
            Ok(split) => Ok(Planned::Kept(Arc::new(
                ViewPlan::of_split(split, &state).await?,
            ))),
            Err(Error::NotIncremental { reason, .. }) => {
                split::check_deterministic(&plan)?;
                let plan = ties::settled(plan)?;
                check_readable(&plan, views, &state).await?;
                let plan = RecomputePlan::new(plan, reason, views, &state).await?;
                Ok(Planned::Recomputed(Arc::new(plan)))
            }
            Err(error) => Err(error),
        }
    }

    /// The columns that readers see.
    pub fn schema(&self) -> &SchemaRef {
        match self {
            Planned::Kept(plan) => &plan.schema,
            Planned::Recomputed(plan) => &plan.schema,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Planned::Kept(plan) => plan.class,
            Planned::Recomputed(_) => Class::Recompute,
        }
    }

    /// All streams that the rows are made from.
    pub fn streams(&self) -> &[Arc<Stream>] {
        match self {
            Planned::Kept(plan) => &plan.inputs,
            Planned::Recomputed(plan) => &plan.streams,
        }
    }

    /// The `SELECT` as it was understood, in text.
    pub fn described(&self) -> String {
        match self {
            Planned::Kept(plan) => plan.described(),
            Planned::Recomputed(plan) => match &plan.speed {
                Some(speed) => format!("{}\n{}", plan.described(), speed.described()),
                None => plan.described(),
            },
        }
    }

    /// The streams that the `SELECT` reads itself, not only through other views, as it was planned over them.
    pub fn streams_read(&self) -> Vec<Arc<Stream>> {
        match self {
            Planned::Kept(plan) => plan.inputs.clone(),
            Planned::Recomputed(plan) => {
                let mut read = plan.streams_read();
                let speed = plan.speed.iter().flat_map(Planned::streams_read);
                for stream in speed {
                    if read.iter().all(|known| known.id != stream.id) {
                        read.push(stream);
                    }
                }
                read
            }
        }
    }

    pub fn reads(&self, stream: StreamId) -> bool {
        self.streams_read().iter().any(|read| read.id == stream)
    }

    /// The columns of `stream` that the rows depend on, directly and not through other views; by name, as the plan
    /// knows them.
    pub async fn columns_read(
        &self,
        stream: StreamId,
        views: &[ViewSource],
        state: &SessionState,
    ) -> Result<BTreeSet<String>, Error> {
        let physical = match self {
            Planned::Kept(plan) => return Ok(plan.columns_read(stream)),
            Planned::Recomputed(plan) => {
                let empty = plan.from_scratch(&|source| {
                    let table: Arc<dyn TableProvider> = match source {
                        Source::Stream(stream) => {
                            Arc::new(SlotTable::new(Arc::clone(stream), true))
                        }
                        Source::View(name) => match views.iter().find(|view| view.name == name) {
                            Some(view) => Arc::new(EmptyTable::new(Arc::clone(&view.schema))),
                            None => return plan_err!("there is no view {name}"),
                        },
                        Source::Part(_) => return plan_err!("parts are found later"),
                    };
                    Ok(table)
                })?;
                state.create_physical_plan(&empty).await?
            }
        };
        let mut columns = slot::columns_read(&physical, stream);
        if let Planned::Recomputed(plan) = self
            && let Some(speed) = &plan.speed
        {
            // It knows no view but the one that it is of.
            let own = speed_source(plan, speed);
            let of_speed = Box::pin(speed.columns_read(stream, &own, state));
            columns.extend(of_speed.await?);
        }
        Ok(columns)
    }

    /// By output column.
    pub fn exactness(&self) -> &[Exactness] {
        match self {
            Planned::Kept(plan) => &plan.exactness,
            Planned::Recomputed(plan) => &plan.exactness,
        }
    }
}

/// The view itself, under the name by which its `speed_as` selects from it.
fn speed_source(plan: &RecomputePlan, speed: &Planned) -> Vec<ViewSource> {
    let names = match speed {
        Planned::Kept(_) => &[],
        Planned::Recomputed(speed) => speed.views.as_slice(),
    };
    let source = |name: &String| ViewSource {
        name: name.clone(),
        schema: Arc::clone(&plan.schema),
        streams: plan.streams.clone(),
        exactness: plan.exactness.clone(),
    };
    names.iter().map(source).collect()
}

/// Parses, resolves and types `sql`, but optimises nothing: optimising replaces aggregates by others.
pub(crate) async fn analysed(
    sql: &str,
    base: &SessionState,
    streams: &[Arc<Stream>],
    views: &[ViewSource],
) -> Result<(LogicalPlan, SessionState), Error> {
    let names_system = SystemColumn::ALL
        .iter()
        .any(|column| mentions(sql, column.name()));
    let state = planning_state(base, streams, views, names_system)?;
    let readable = window::readable(sql);
    let mut statement = postgres::parse(&readable)?;
    if names_system && let Statement::Statement(select) = &mut statement {
        wildcard::spell_out(select, &|name| {
            let stream = streams.iter().find(|stream| stream.name.as_str() == name)?;
            Some(stream.column_names())
        });
    }
    let plan = state.statement_to_plan(statement).await?;
    let plan = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})?;
    check_names(&plan)?;
    let plan = postgres::expanded(plan, state.config_options())?;
    Ok((plan, state))
}

/// Whoever reads the view calls its columns by their names.
fn check_names(plan: &LogicalPlan) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let repeated = plan
        .schema()
        .fields()
        .iter()
        .find(|field| !seen.insert(field.name()));
    match repeated {
        Some(field) => Err(Error::DuplicateColumn(field.name().clone())),
        None => Ok(()),
    }
}

/// Refuses at once what no reader could run, such as subqueries that cannot be made joins.
async fn check_readable(
    plan: &LogicalPlan,
    views: &[ViewSource],
    state: &SessionState,
) -> Result<(), Error> {
    let over_nothing = slot::filled(plan.clone(), &|source| {
        let schema = match source {
            Source::Stream(stream) => stream.schema_with_system(),
            Source::View(name) => match views.iter().find(|view| view.name == name) {
                Some(view) => Arc::clone(&view.schema),
                None => return plan_err!("there is no view {name}"),
            },
            Source::Part(_) => return plan_err!("parts are found later"),
        };
        Ok(Arc::new(EmptyTable::new(schema)) as Arc<dyn TableProvider>)
    })?;
    state.create_physical_plan(&over_nothing).await?;
    Ok(())
}

/// The state for planning: streams and views as slots, one partition, nothing else to select from.
fn planning_state(
    base: &SessionState,
    streams: &[Arc<Stream>],
    views: &[ViewSource],
    with_system: bool,
) -> Result<SessionState, Error> {
    let schema = MemorySchemaProvider::new();
    for view in views {
        schema.register_table(view.name.clone(), Arc::new(SourceTable::of_view(view)))?;
    }
    for stream in streams {
        let table = SlotTable::new(Arc::clone(stream), with_system);
        schema.register_table(stream.name.to_string(), Arc::new(table))?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(session::SCHEMA, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(session::CATALOG.to_owned(), Arc::new(catalog));
    // Not made anew: functions of which one has the name of another would change places.
    let mut state = base.clone();
    *state.config_mut() = base.config().clone().with_target_partitions(1);
    state.register_catalog_list(Arc::new(catalogs));
    Ok(state)
}

/// True if `word` stands in `sql` outside of other words.
fn mentions(sql: &str, word: &str) -> bool {
    sql.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .any(|part| part.eq_ignore_ascii_case(word))
}
