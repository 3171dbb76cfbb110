//! Runs statements: one file for each that is ours, `select.rs` for plain SQL.

mod alter_stream;
mod alter_view;
pub(crate) mod apart;
mod as_of;
mod audit;
mod backup;
mod bad_value;
mod building;
mod create_stream;
mod create_view;
mod default;
mod diff;
mod drop;
mod erase;
mod evolve_stream;
mod explain;
mod insert;
mod listed;
mod lookup;
mod parameters;
mod planned;
mod renew;
mod replay;
mod retention;
mod rollback;
mod select;
mod speed;
mod subscribe;
mod transaction;
mod version;

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::ArrayRef,
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    },
    execution::SessionState,
    logical_expr::LogicalPlan,
    physical_plan::memory::MemoryStream,
    prelude::SessionContext,
    scalar::ScalarValue,
    sql::{parser::Statement as PlannerStatement, sqlparser::ast},
};
use lambic_dataset::Reader;
use lambic_model::{Appender, ScalarFunction, Stream, SystemColumn};
use lambic_serving::{Served, Serving};
use lambic_view::{Definition, Planned, ViewSource, aggregate::FloatSums, session, wildcard};

pub use audit::AuditResult;
use building::Building;
pub use lookup::value_of_text;
pub(crate) use parameters::{Open, with_parameters};
use parameters::{by_number, told, typed};
pub use planned::PlanCounts;

use crate::{
    Catalog, CatalogError, Error, Lifecycle, Outcome, Prepared, Session, TransactionLimits,
    ViewInfo, closest,
    error::{find_word, undefined_table},
    function::udf,
    kept::{Slot, Texts},
    provider::{Public, Sources, TailOf, Versions},
    replay::Replays,
    session::Known,
    sqlstate,
    statement::{self, Parsed, Statement},
    system::{self, SystemTable},
    transaction::Room,
};

/// What a database is made of.
pub struct Parts {
    pub catalog: Catalog,
    pub serving: Serving,
    pub reader: Reader,
    pub tail_of: TailOf,
    pub appender: Arc<dyn Appender>,
    /// Settings, aggregates and memory for statements.
    pub state: SessionState,
    pub transactions: TransactionLimits,
}

/// SQL; clones share it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    context: SessionContext,
    sources: Sources,
    appender: Arc<dyn Appender>,
    /// The code of functions that SQL knows, by name.
    functions: RwLock<BTreeMap<String, Arc<dyn ScalarFunction>>>,
    /// One change of the catalog at a time.
    changing: tokio::sync::Mutex<()>,
    /// One view at a time is renewed: each may use the whole machine.
    renewing: tokio::sync::Mutex<()>,
    building: Building,
    /// One erasure finds its records at a time: none finds those of another.
    erasing: tokio::sync::Mutex<()>,
    transactions: Room,
    /// Texts that come again, and their plans.
    texts: Texts<Known>,
    /// Counts the changes of the code of functions.
    functions_changed: AtomicU64,
}

/// A list of catalogs whose schema `public` is this one; other schemas are those of `besides`.
fn catalogs(public: Public, besides: Option<&dyn CatalogProvider>) -> Arc<dyn CatalogProviderList> {
    let catalog = MemoryCatalogProvider::new();
    let register = |name: &str, schema| {
        let registered = catalog.register_schema(name, schema);
        registered.expect("a memory catalog takes schemas");
    };
    register(session::SCHEMA, Arc::new(public));
    for name in besides.iter().flat_map(|catalog| catalog.schema_names()) {
        if name != session::SCHEMA
            && let Some(schema) = besides.and_then(|catalog| catalog.schema(&name))
        {
            register(&name, schema);
        }
    }
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(session::CATALOG.to_owned(), Arc::new(catalog));
    Arc::new(catalogs)
}

impl Database {
    pub fn new(parts: Parts) -> Database {
        let sources = Sources {
            catalog: Arc::new(RwLock::new(parts.catalog)),
            serving: parts.serving,
            reader: parts.reader,
            tail_of: parts.tail_of,
            broken: Arc::default(),
            lifecycle: Arc::default(),
            altered: Arc::default(),
            replays: Replays::default(),
        };
        let public = Public {
            sources: sources.clone(),
            with_system: false,
            pinned: None,
            versions: Versions::default(),
        };
        let mut state = parts.state;
        state.register_catalog_list(catalogs(public, None));
        Database(Arc::new(Inner {
            context: SessionContext::new_with_state(state),
            sources,
            appender: parts.appender,
            functions: RwLock::new(BTreeMap::new()),
            changing: tokio::sync::Mutex::new(()),
            renewing: tokio::sync::Mutex::new(()),
            building: Building::default(),
            erasing: tokio::sync::Mutex::new(()),
            transactions: Room::new(parts.transactions),
            texts: Texts::default(),
            functions_changed: AtomicU64::new(0),
        }))
    }

    /// Hands over the layers; statements that need them fail until then.
    pub fn attach(&self, lifecycle: Arc<dyn Lifecycle>) {
        self.set_lifecycle(Some(lifecycle));
    }

    /// Lets go of the layers, which hold the database themselves.
    pub fn detach(&self) {
        self.set_lifecycle(None);
    }

    fn set_lifecycle(&self, lifecycle: Option<Arc<dyn Lifecycle>>) {
        let slot = self.0.sources.lifecycle.write();
        *slot.unwrap_or_else(PoisonError::into_inner) = lifecycle;
    }

    fn lifecycle(&self) -> Result<Arc<dyn Lifecycle>, Error> {
        self.0.sources.lifecycle().ok_or_else(|| {
            Error::new(
                sqlstate::UNAVAILABLE,
                "the server is starting or stopping; try again",
            )
        })
    }

    /// The DataFusion session: catalog `lambic`, schema `public`.
    pub fn context(&self) -> &SessionContext {
        &self.0.context
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.0.sources
    }

    pub(crate) fn no_table(&self, name: &str) -> Error {
        undefined_table(name, "", &self.names())
    }

    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.0.sources.catalog().streams().cloned().collect()
    }

    pub fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        self.0.sources.catalog().stream(name).cloned()
    }

    /// How many records the stream has now.
    pub fn records(&self, stream: &Arc<Stream>) -> u64 {
        self.0.sources.reader.pin().table(stream).records()
    }

    pub fn definitions(&self) -> Vec<Definition> {
        self.0.sources.catalog().views().cloned().collect()
    }

    pub fn views(&self) -> Vec<ViewInfo> {
        system::views(&self.0.sources)
    }

    /// Says of a view of the catalog that it cannot be served, and why; the rest goes on.
    pub fn set_broken(&self, name: &str, reason: String) {
        let mut broken = self.broken();
        broken.insert(name.to_owned(), reason);
    }

    fn mend(&self, name: &str) {
        self.broken().remove(name);
    }

    fn broken(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, String>> {
        let broken = &self.0.sources.broken;
        broken.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.sources.catalog().names();
        names.extend(SystemTable::NAMES.map(str::to_owned));
        names
    }

    /// The view as it is served.
    fn served(&self, name: &str, sql: &str) -> Result<Served, Error> {
        if let Some(served) = self.0.sources.serving.view(name) {
            return Ok(served);
        }
        match self.0.sources.broken().get(name) {
            Some(reason) => Err(Error::broken_view(name, reason)),
            None => Err(self.no_view(name, sql)),
        }
    }

    fn no_view(&self, name: &str, sql: &str) -> Error {
        let catalog = self.0.sources.catalog();
        if catalog.stream(name).is_some() {
            return Error::new(
                sqlstate::WRONG_OBJECT_TYPE,
                format!("\"{name}\" is a stream, not a view"),
            )
            .with_position(find_word(sql, name));
        }
        let names: Vec<String> = catalog.views().map(|view| view.name.to_string()).collect();
        let missing = Error::new(
            sqlstate::UNDEFINED_TABLE,
            format!("there is no view \"{name}\""),
        )
        .with_position(find_word(sql, name));
        match closest(name, &names) {
            Some(best) => missing.with_hint(format!("did you mean \"{best}\"?")),
            None if names.is_empty() => {
                missing.with_hint("CREATE MATERIALIZED VIEW name AS SELECT … makes one")
            }
            None => missing.with_hint(crate::error::there_are(&names)),
        }
    }

    /// The functions that SQL may call from now on; views created before keep the code that they were
    /// created with.
    pub fn set_functions(&self, functions: Vec<Arc<dyn ScalarFunction>>) {
        let mut known = self.functions_mut();
        let now: BTreeMap<String, Arc<dyn ScalarFunction>> = functions
            .into_iter()
            .map(|function| (function.name().to_owned(), function))
            .collect();
        for gone in known.keys().filter(|name| !now.contains_key(*name)) {
            self.0.context.deregister_udf(gone);
        }
        for function in now.values() {
            self.0.context.register_udf(udf(Arc::clone(function)));
        }
        *known = now;
        self.0.functions_changed.fetch_add(1, Ordering::SeqCst);
    }

    /// True if a function that the view calls has other code by now, or is gone.
    pub fn calls_former_code(&self, view: &str) -> bool {
        let functions = self.functions_mut();
        let catalog = self.0.sources.catalog();
        catalog.view(view).is_some_and(|view| {
            view.functions.iter().any(|(name, digest)| {
                functions.get(name).map(|function| function.digest()) != Some(digest.as_str())
            })
        })
    }

    fn functions_mut(
        &self,
    ) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<dyn ScalarFunction>>> {
        let functions = &self.0.functions;
        functions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a view's `SELECT` with `functions` in place of those of the same name.
    pub async fn plan_view(
        &self,
        sql: &str,
        functions: &[Arc<dyn ScalarFunction>],
        float_sums: FloatSums,
    ) -> Result<Planned, Error> {
        let streams = self.streams();
        let views = self.view_sources();
        self.plan_over(sql, functions, float_sums, &streams, &views)
            .await
    }

    /// Plans a view that there is or was, over the columns that its streams had when it was created.
    pub async fn plan_definition(
        &self,
        definition: &Definition,
        functions: &[Arc<dyn ScalarFunction>],
    ) -> Result<Planned, Error> {
        let streams = self.streams();
        let streams: Vec<_> = streams.iter().map(|one| definition.stream(one)).collect();
        let views = self.view_sources();
        let (sql, float_sums) = (&definition.sql, definition.float_sums);
        let planned = self.plan_over(sql, functions, float_sums, &streams, &views);
        let (name, speed_as) = (definition.name.as_str(), definition.speed_as.as_ref());
        self.with_speed(
            planned.await?,
            name,
            speed_as,
            functions,
            float_sums,
            &streams,
        )
        .await
    }

    fn view_sources(&self) -> Vec<ViewSource> {
        let views = self.0.sources.serving.views();
        views.values().map(Served::as_source).collect()
    }

    async fn plan_over(
        &self,
        sql: &str,
        functions: &[Arc<dyn ScalarFunction>],
        float_sums: FloatSums,
        streams: &[Arc<Stream>],
        views: &[ViewSource],
    ) -> Result<Planned, Error> {
        let mut state = self.0.context.state();
        session::set_float_sums(&mut state, float_sums);
        for function in functions {
            use datafusion::logical_expr::registry::FunctionRegistry;
            let registered = state.register_udf(Arc::new(udf(Arc::clone(function))));
            registered.map_err(|error| Error::from_datafusion(error, sql, &[]))?;
        }
        Planned::new(sql, &state, streams, views)
            .await
            .map_err(|error| self.view_error(error, sql))
    }

    fn view_error(&self, error: lambic_view::Error, sql: &str) -> Error {
        match error {
            lambic_view::Error::NotIncremental { reason, hint } => Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                format!("this view has no incremental form: {reason}"),
            )
            .with_hint(hint),
            error @ lambic_view::Error::NotDeterministic(_) => {
                Error::new("42P17", error.to_string())
                    .with_hint("store the value with the record instead")
            }
            error @ lambic_view::Error::DuplicateColumn(_) => {
                Error::new(sqlstate::DUPLICATE_COLUMN, error.to_string())
                    .with_hint("give each column a name of its own: SELECT a.id, b.id AS other")
            }
            lambic_view::Error::DataFusion(error) => {
                Error::from_datafusion(error, sql, &self.0.sources.catalog().names())
            }
            other => Error::internal(other),
        }
    }

    /// Runs `work` to its end even if whoever asked for it has gone: the catalog and the layers
    /// change together.
    async fn to_the_end<T: Send + 'static>(
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let done = tokio::spawn(work).await;
        done.unwrap_or_else(|error| Err(Error::internal(error)))
    }

    /// Runs one or many statements, in order; the first error ends it. Without a transaction each commits by itself.
    pub async fn execute(&self, session: &Session, sql: &str) -> Result<Vec<Outcome>, Error> {
        if let Some(known) = self.known(session, sql) {
            let ran = self.run_known(session, &known, Vec::new(), true).await;
            return Ok(vec![ran?]);
        }
        let mut parts = statement::parse(session, sql)?;
        if parts.len() == 1
            && let Some(parsed) = parts.pop()
        {
            let known = Arc::new(Known::new(parsed));
            let is_kept = self.keep(session, sql, &known);
            let ran = self.run_known(session, &known, Vec::new(), is_kept).await;
            return Ok(vec![ran?]);
        }
        let mut outcomes = Vec::new();
        for known in parts.into_iter().map(Known::new) {
            let ran = self.run_known(session, &known, Vec::new(), false).await;
            outcomes.push(ran?);
        }
        Ok(outcomes)
    }

    async fn run_known(
        &self,
        session: &Session,
        known: &Known,
        parameters: Vec<ScalarValue>,
        is_kept: bool,
    ) -> Result<Outcome, Error> {
        let kept = is_kept.then_some(&known.plan);
        let ran = self.run_statement(session, &known.statement, &known.sql, parameters, kept);
        ran.await.map_err(|error| moved(error, known.start))
    }

    /// Plans one statement with `$1`, `$2`, … in it.
    pub async fn prepare(&self, session: &Session, sql: &str) -> Result<Prepared, Error> {
        let parsed = match self.known(session, sql) {
            Some(known) => known,
            None => {
                let known = Arc::new(Known::new(only(statement::parse(session, sql)?)?));
                self.keep(session, sql, &known);
                known
            }
        };
        let moved = |error: Error, parsed: &Known| moved(error, parsed.start);
        let (parameter_types, schema) = match &parsed.statement {
            Statement::Sql(plain) | Statement::Insert(plain) => {
                let described = self.described(session, plain, &parsed).await;
                described.map_err(|error| moved(error, &parsed))?
            }
            Statement::Erase(erase) => {
                let types = self.erase_parameters(erase, &parsed.sql).await;
                let types = types.map_err(|error| moved(error, &parsed))?;
                let schema = match erase.explain {
                    true => explain::schema(),
                    false => Arc::new(Schema::empty()),
                };
                (by_number(types, parsed.parameters), schema)
            }
            Statement::Subscribe(subscribe) => {
                let described = self.subscribe_columns(subscribe, &parsed.sql).await;
                let (types, schema) = described.map_err(|error| moved(error, &parsed))?;
                (by_number(types, parsed.parameters), schema)
            }
            Statement::Replay(replay) => {
                let described = self.replay_columns(replay, &parsed.sql).await;
                let (types, schema) = described.map_err(|error| moved(error, &parsed))?;
                (by_number(types, parsed.parameters), schema)
            }
            Statement::Audit(_) => (Vec::new(), audit::schema()),
            Statement::Drift(_) => (Vec::new(), crate::drift::schema()),
            Statement::Diff(_) => (Vec::new(), crate::diff::schema()),
            Statement::ExplainView(_) | Statement::Backup(_) | Statement::CompactStream(_) => {
                (Vec::new(), explain::schema())
            }
            Statement::SetRetention(alter) if alter.explain => (Vec::new(), explain::schema()),
            _ => (Vec::new(), Arc::new(Schema::empty())),
        };
        Ok(Prepared {
            sql: parsed.sql.clone(),
            parameters: parsed.parameters,
            parameter_types,
            schema,
            known: parsed,
        })
    }

    /// Runs a prepared statement.
    pub async fn run(
        &self,
        session: &Session,
        prepared: &Prepared,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        let (known, sql) = (&prepared.known, &prepared.sql);
        if let Statement::Sql(plain) = &known.statement {
            if let Some(transaction) = &session.transaction {
                transaction.check(&known.statement)?;
            }
            let (columns, kept) = (Some(&prepared.schema), Some(&known.plan));
            return self
                .query(session, plain, sql, parameters, columns, kept)
                .await;
        }
        let kept = Some(&known.plan);
        self.run_statement(session, &known.statement, sql, parameters, kept)
            .await
    }

    pub(crate) async fn plan(
        &self,
        state: &SessionState,
        ast: &ast::Statement,
        sql: &str,
    ) -> Result<LogicalPlan, Error> {
        let mut ast = ast.clone();
        if names_system_column(sql) {
            wildcard::spell_out(&mut ast, &|name| {
                self.stream(name).map(|stream| stream.column_names())
            });
        }
        let width = self.insert_width(state, &ast).await;
        insert::in_present_columns(&mut ast, width, sql, &|name| self.stream(name))?;
        let statement = PlannerStatement::Statement(Box::new(ast));
        let plan = state.statement_to_plan(statement).await;
        plan.map_err(|error| Error::from_datafusion(error, sql, &self.names()))
    }

    async fn run_statement(
        &self,
        session: &Session,
        statement: &Statement,
        sql: &str,
        parameters: Vec<ScalarValue>,
        kept: Option<&Slot>,
    ) -> Result<Outcome, Error> {
        if let Some(transaction) = &session.transaction {
            transaction.check(statement)?;
        }
        match statement {
            Statement::Empty => Ok(done("")),
            Statement::CreateStream(table) => {
                let (database, table, sql) = (self.clone(), table.clone(), sql.to_owned());
                Database::to_the_end(async move { database.create_stream(&table, &sql).await })
                    .await
            }
            Statement::AlterStream(alter) => {
                let (database, alter, sql) = (self.clone(), alter.clone(), sql.to_owned());
                Database::to_the_end(async move { database.alter_stream(&alter, &sql).await }).await
            }
            Statement::CreateView(view) => self.create_view(view, sql).await,
            Statement::AlterView(view) => self.alter_view(view, sql).await,
            Statement::DropStream { names, if_exists } => {
                let (database, names, sql) = (self.clone(), names.clone(), sql.to_owned());
                let if_exists = *if_exists;
                Database::to_the_end(
                    async move { database.drop_streams(&names, if_exists, &sql).await },
                )
                .await
            }
            Statement::DropView { names, if_exists } => {
                let (database, names, sql) = (self.clone(), names.clone(), sql.to_owned());
                let if_exists = *if_exists;
                Database::to_the_end(
                    async move { database.drop_views(&names, if_exists, &sql).await },
                )
                .await
            }
            Statement::RefreshView { name, full } => {
                self.served(name, sql)?;
                self.lifecycle()?.refresh_view(name, *full).await?;
                self.renew_view_now(name).await?;
                Ok(done("REFRESH MATERIALIZED VIEW"))
            }
            Statement::RollbackView { name, version } => {
                self.rollback_view(name, *version, sql).await
            }
            Statement::Diff(diff) => self.diff(diff, sql).await,
            Statement::Replay(replay) => self.replay(replay, sql, &parameters).await,
            Statement::Audit(name) => self.audit(name.as_deref(), sql).await,
            Statement::Drift(name) => self.drift(name, sql).await,
            Statement::ExplainView(name) => self.explain_view(name, sql).await,
            Statement::Erase(erase) => self.erase(session, erase, sql, parameters).await,
            Statement::Backup(target) => self.backup(target).await,
            Statement::SetRetention(alter) => self.set_retention(alter, sql).await,
            Statement::CompactStream(name) => self.compact(name, sql).await,
            Statement::Insert(plain) => self.insert(session, plain, sql, parameters, kept).await,
            Statement::Subscribe(subscribe) => self.subscribe(subscribe, sql, &parameters).await,
            Statement::Sql(plain) => {
                self.query(session, plain, sql, parameters, None, kept)
                    .await
            }
        }
    }

    /// Whoever calls it holds `changing`: one change at a time.
    fn change(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<(), CatalogError>,
    ) -> Result<(), Error> {
        // On disk before it is seen, and nobody who reads the catalog waits for the disk.
        let mut changed = self.0.sources.catalog().clone();
        change(&mut changed)
            .map_err(|error| Error::new(sqlstate::UNAVAILABLE, error.to_string()))?;
        let catalog = &self.0.sources.catalog;
        *catalog.write().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(())
    }

    fn existing_view(&self, name: &str, sql: &str) -> Result<Definition, Error> {
        let found = self.0.sources.catalog().view(name).cloned();
        found.ok_or_else(|| self.no_view(name, sql))
    }
}

fn exists(name: &str, sql: &str) -> Error {
    Error::new(sqlstate::DUPLICATE_TABLE, format!("\"{name}\" exists already"))
        .with_position(find_word(sql, name))
        .with_hint("IF NOT EXISTS leaves it as it is; CREATE OR REPLACE MATERIALIZED VIEW makes a new version of a view")
}

pub(crate) fn names_system_column(sql: &str) -> bool {
    SystemColumn::ALL
        .iter()
        .any(|column| find_word(sql, column.name()).is_some())
}

fn moved(mut error: Error, start: usize) -> Error {
    error.position = error.position.map(|position| position + start);
    error
}

impl Known {
    fn new(parsed: Parsed) -> Known {
        Known {
            statement: parsed.statement,
            sql: parsed.sql,
            start: parsed.start,
            parameters: parsed.parameters,
            plan: Slot::default(),
        }
    }
}

/// The statement of a text that holds one, or none.
fn only(mut parts: Vec<Parsed>) -> Result<Parsed, Error> {
    if parts.len() > 1 {
        return Err(Error::new(
            sqlstate::SYNTAX_ERROR,
            "a prepared statement is one statement, not several",
        ));
    }
    Ok(parts.pop().unwrap_or(Parsed {
        statement: Statement::Empty,
        sql: String::new(),
        start: 0,
        parameters: 0,
    }))
}

fn done(tag: &str) -> Outcome {
    Outcome::Done {
        tag: tag.to_owned(),
        notice: None,
    }
}

fn rows(schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<Outcome, Error> {
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(Error::internal)?;
    let stream =
        MemoryStream::try_new(vec![batch], Arc::clone(&schema), None).map_err(Error::internal)?;
    Ok(Outcome::Rows {
        schema,
        rows: Box::pin(stream),
    })
}

fn returns_rows(plan: &LogicalPlan) -> bool {
    !matches!(
        plan,
        LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
    )
}
