//! Runs statements.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    },
    common::{ParamValues, metadata::ScalarAndMetadata},
    dataframe::DataFrame,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{
        ColumnarValue, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        Volatility, WriteOp,
    },
    physical_plan::{memory::MemoryStream, stream::RecordBatchStreamAdapter},
    prelude::SessionContext,
    scalar::ScalarValue,
    sql::parser::Statement as PlannerStatement,
};
use lambic_dataset::Reader;
use lambic_model::{Append, AppendError, Appender, ScalarFunction, Stream, SystemColumn, Write};
use lambic_serving::Serving;
use lambic_view::{Definition, ViewPlan, ViewVersion, session};

use crate::{
    Catalog, CatalogError, Error, Lookup, Outcome, Prepared, Session, ViewInfo, closest, create,
    error::{find_word, undefined_table},
    pinned::Pinned,
    provider::{Public, Sources},
    sqlstate,
    statement::{self, Parsed, Statement, name_of},
    system::{self, SystemTable},
};

/// What statements do to the layers; the binary wires it.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    /// Builds the view from history; it is not served yet.
    async fn build_view(&self, definition: &Definition, plan: Arc<ViewPlan>) -> Result<(), Error>;
    /// Serves what was built, in place of a former version.
    async fn serve_view(&self, definition: &Definition, plan: Arc<ViewPlan>) -> Result<(), Error>;
    async fn drop_view(&self, definition: &Definition) -> Result<(), Error>;
    /// Runs the view's batch now.
    async fn refresh_view(&self, name: &str) -> Result<(), Error>;
    /// Recomputes from scratch and compares with what is served.
    async fn audit_view(&self, name: &str) -> Result<AuditResult, Error>;
    /// The functions that trigger on or write to a stream; it cannot be dropped while there are any.
    fn functions_of(&self, stream: &str) -> Vec<String>;
}

/// How an audit ended.
#[derive(Debug, Clone)]
pub struct AuditResult {
    pub view: String,
    pub agrees: bool,
    pub rows: u64,
    pub differences: u64,
    pub detail: String,
    pub frontier: String,
}

/// What a database is made of.
pub struct Parts {
    pub catalog: Catalog,
    pub serving: Serving,
    pub reader: Reader,
    pub appender: Arc<dyn Appender>,
    /// Settings, aggregates and memory for statements.
    pub state: SessionState,
}

/// SQL; clones share it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    context: SessionContext,
    with_system: Arc<dyn CatalogProviderList>,
    sources: Sources,
    appender: Arc<dyn Appender>,
    lifecycle: RwLock<Option<Arc<dyn Lifecycle>>>,
    /// The code of functions that SQL knows, by name.
    functions: RwLock<BTreeMap<String, Arc<dyn ScalarFunction>>>,
    /// One change of the catalog at a time.
    changing: tokio::sync::Mutex<()>,
}

fn catalogs(sources: &Sources, with_system: bool) -> Arc<dyn CatalogProviderList> {
    let catalog = MemoryCatalogProvider::new();
    let public = Arc::new(Public {
        sources: sources.clone(),
        with_system,
    });
    catalog
        .register_schema(session::SCHEMA, public)
        .expect("a memory catalog takes schemas");
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
        };
        let state = SessionStateBuilder::new_from_existing(parts.state)
            .with_catalog_list(catalogs(&sources, false))
            .build();
        Database(Arc::new(Inner {
            context: SessionContext::new_with_state(state),
            with_system: catalogs(&sources, true),
            sources,
            appender: parts.appender,
            lifecycle: RwLock::new(None),
            functions: RwLock::new(BTreeMap::new()),
            changing: tokio::sync::Mutex::new(()),
        }))
    }

    /// Hands over the layers; statements that need them fail until then.
    pub fn attach(&self, lifecycle: Arc<dyn Lifecycle>) {
        *self
            .0
            .lifecycle
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(lifecycle);
    }

    /// Lets go of the layers, which hold the database themselves.
    pub fn detach(&self) {
        *self
            .0
            .lifecycle
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lifecycle(&self) -> Result<Arc<dyn Lifecycle>, Error> {
        let lifecycle = self
            .0
            .lifecycle
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        lifecycle.ok_or_else(|| {
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

    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.0.sources.catalog().streams().cloned().collect()
    }

    pub fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        self.0.sources.catalog().stream(name).cloned()
    }

    pub fn definitions(&self) -> Vec<Definition> {
        self.0.sources.catalog().views().cloned().collect()
    }

    pub fn views(&self) -> Vec<ViewInfo> {
        let sources = &self.0.sources;
        let views = sources.serving.views();
        let heads = sources.reader.pin().heads();
        views
            .iter()
            .map(|view| system::info(view, &heads))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.sources.catalog().names();
        names.extend(SystemTable::NAMES.map(str::to_owned));
        names
    }

    /// The rows of one key of a view, values as text by column name.
    pub async fn lookup(&self, view: &str, key: &[(String, String)]) -> Result<Lookup, Error> {
        let serving = &self.0.sources.serving;
        let served = serving.view(view).ok_or_else(|| self.no_view(view, ""))?;
        let runs = served.runs();
        let heads = self.0.sources.reader.pin().heads();
        let key = served.key_from_text(key).map_err(serving_error)?;
        let answer = served
            .lookup(&key, &runs, &heads)
            .await
            .map_err(serving_error)?;
        let inputs = served.plan().inputs.iter();
        let frontier =
            inputs.map(|stream| format!("{}@{}", stream.name, answer.frontier.of(stream.id)));
        Ok(Lookup {
            batches: answer.batches.as_ref().clone(),
            frontier: frontier.collect::<Vec<_>>().join(" "),
        })
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
            None => missing.with_hint(format!("there are: {}", names.join(", "))),
        }
    }

    /// Makes a function callable from SQL; views created before keep the code that they were created with.
    pub async fn register_function(&self, function: Arc<dyn ScalarFunction>) -> Result<(), Error> {
        self.0.context.register_udf(udf(Arc::clone(&function)));
        let mut functions = self
            .0
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.insert(function.name().to_owned(), function);
        Ok(())
    }

    /// Takes a function out of SQL.
    pub fn forget_function(&self, name: &str) {
        self.0.context.deregister_udf(name);
        self.0
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// Plans a view's `SELECT` with `functions` in place of those of the same name.
    pub async fn plan_view(
        &self,
        sql: &str,
        functions: &[Arc<dyn ScalarFunction>],
    ) -> Result<ViewPlan, Error> {
        let mut state = self.0.context.state();
        for function in functions {
            use datafusion::logical_expr::registry::FunctionRegistry;
            let registered = state.register_udf(Arc::new(udf(Arc::clone(function))));
            registered.map_err(|error| Error::from_datafusion(error, sql, &[]))?;
        }
        let streams = self.streams();
        ViewPlan::new(sql, &state, &streams)
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
            lambic_view::Error::DataFusion(error) => {
                Error::from_datafusion(error, sql, &self.view_inputs())
            }
            other => Error::internal(other),
        }
    }

    fn view_inputs(&self) -> Vec<String> {
        self.0
            .sources
            .catalog()
            .streams()
            .map(|stream| stream.name.to_string())
            .collect()
    }

    /// A session state pinned to one frontier.
    fn pinned(&self, sql: &str) -> SessionState {
        let sources = &self.0.sources;
        let mut state = self.0.context.state();
        if SystemColumn::ALL
            .iter()
            .any(|column| find_word(sql, column.name()).is_some())
        {
            state = SessionStateBuilder::new_from_existing(state)
                .with_catalog_list(Arc::clone(&self.0.with_system))
                .build();
        }
        state
            .config_mut()
            .set_extension(Arc::new(Pinned::take(&sources.serving, &sources.reader)));
        state
    }

    /// Runs one or many statements, in order; the first error ends it.
    pub async fn execute(&self, session: &Session, sql: &str) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = Vec::new();
        for parsed in statement::parse(session, sql)? {
            let ran = self
                .run_statement(&parsed.statement, &parsed.sql, Vec::new())
                .await;
            outcomes.push(ran.map_err(|error| moved(error, &parsed))?);
        }
        Ok(outcomes)
    }

    /// Plans one statement with `$1`, `$2`, … in it.
    pub async fn prepare(&self, session: &Session, sql: &str) -> Result<Prepared, Error> {
        let mut parts = statement::parse(session, sql)?;
        if parts.len() > 1 {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "a prepared statement is one statement, not several",
            ));
        }
        let parsed = parts.pop().unwrap_or(Parsed {
            statement: Statement::Empty,
            sql: String::new(),
            start: 0,
        });
        let (parameter_types, schema) = match &parsed.statement {
            Statement::Sql(ast) | Statement::Insert(ast) => {
                let state = self.pinned(&parsed.sql);
                let plan = self
                    .plan(&state, ast, &parsed.sql)
                    .await
                    .map_err(|error| moved(error, &parsed))?;
                let types = plan
                    .get_parameter_types()
                    .map_err(|error| Error::from_datafusion(error, &parsed.sql, &[]))?;
                let count = types
                    .keys()
                    .filter_map(|name| name.trim_start_matches('$').parse().ok())
                    .max()
                    .unwrap_or(0);
                let by_number =
                    (1..=count).map(|n: usize| types.get(&format!("${n}")).cloned().flatten());
                let is_query = matches!(parsed.statement, Statement::Sql(_)) && returns_rows(&plan);
                let schema = if is_query {
                    Arc::clone(plan.schema().inner())
                } else {
                    Arc::new(Schema::empty())
                };
                (by_number.collect(), schema)
            }
            Statement::Audit(_) => (Vec::new(), audit_schema()),
            Statement::ExplainView(_) => (Vec::new(), explain_schema()),
            _ => (Vec::new(), Arc::new(Schema::empty())),
        };
        Ok(Prepared {
            sql: parsed.sql,
            parameter_types,
            schema,
            statement: Arc::new(parsed.statement),
        })
    }

    /// Runs a prepared statement.
    pub async fn run(
        &self,
        _session: &Session,
        prepared: &Prepared,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        self.run_statement(&prepared.statement, &prepared.sql, parameters)
            .await
    }

    async fn plan(
        &self,
        state: &SessionState,
        ast: &datafusion::sql::sqlparser::ast::Statement,
        sql: &str,
    ) -> Result<LogicalPlan, Error> {
        let statement = PlannerStatement::Statement(Box::new(ast.clone()));
        let plan = state.statement_to_plan(statement).await;
        plan.map_err(|error| Error::from_datafusion(error, sql, &self.names()))
    }

    async fn run_statement(
        &self,
        statement: &Statement,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        match statement {
            Statement::Empty => Ok(done("")),
            Statement::CreateStream(table) => self.create_stream(table, sql).await,
            Statement::CreateView(view) => self.create_view(view, sql).await,
            Statement::DropStream { names, if_exists } => {
                self.drop_streams(names, *if_exists, sql).await
            }
            Statement::DropView { names, if_exists } => {
                self.drop_views(names, *if_exists, sql).await
            }
            Statement::RefreshView(name) => {
                self.existing_view(name, sql)?;
                self.lifecycle()?.refresh_view(name).await?;
                Ok(done("REFRESH MATERIALIZED VIEW"))
            }
            Statement::Audit(name) => self.audit(name.as_deref(), sql).await,
            Statement::ExplainView(name) => self.explain_view(name, sql).await,
            Statement::Insert(ast) => self.insert(ast, sql, parameters).await,
            Statement::Sql(ast) => self.query(ast, sql, parameters).await,
        }
    }

    async fn query(
        &self,
        ast: &datafusion::sql::sqlparser::ast::Statement,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let state = self.pinned(sql);
        let plan =
            with_parameters(self.plan(&state, ast, sql).await?, parameters).map_err(wrong)?;
        if !returns_rows(&plan) {
            return Err(Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "this statement is not supported",
            )
            .with_hint("streams, views, INSERT and SELECT are; see the README for the list"));
        }
        let frame = DataFrame::new(state, plan);
        let rows = frame.execute_stream().await.map_err(wrong)?;
        let schema = rows.schema();
        let sql = sql.to_owned();
        let rows = futures::TryStreamExt::map_err(rows, move |error| {
            Error::from_datafusion(error, &sql, &[]).into()
        });
        Ok(Outcome::Rows {
            schema: Arc::clone(&schema),
            rows: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        })
    }

    async fn insert(
        &self,
        ast: &datafusion::sql::sqlparser::ast::Statement,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let state = self.pinned_for_insert();
        let plan =
            with_parameters(self.plan(&state, ast, sql).await?, parameters).map_err(wrong)?;
        let LogicalPlan::Dml(dml) = &plan else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "INSERT INTO stream VALUES … or SELECT … is expected",
            ));
        };
        let name = dml.table_name.table();
        let stream = match self.stream(name) {
            Some(stream) if Catalog::is_system(&stream) => {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("\"{name}\" is written by the system"),
                )
                .with_position(find_word(sql, name)));
            }
            Some(stream) => stream,
            None if self.0.sources.serving.view(name).is_some() => {
                return Err(Error::new(
                    sqlstate::WRONG_OBJECT_TYPE,
                    format!("\"{name}\" is a view; it follows its streams"),
                )
                .with_position(find_word(sql, name))
                .with_hint("insert into the stream that the view selects from"));
            }
            None => return Err(undefined_table(name, sql, &self.names())),
        };
        if !matches!(dml.op, WriteOp::Insert(_)) {
            return Err(Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "records are immutable: only INSERT is supported",
            ));
        }
        let frame = DataFrame::new(state, dml.input.as_ref().clone());
        let batches = frame.collect().await.map_err(wrong)?;
        let mut append = Append::default();
        let mut rows = 0;
        for batch in batches.into_iter().filter(|batch| batch.num_rows() > 0) {
            rows += batch.num_rows();
            let batch = in_schema(&batch, &stream)?;
            append.writes.push(Write {
                stream: stream.id,
                partition: None,
                batch,
            });
        }
        if rows > 0 {
            self.0.appender.append(append).await.map_err(append_error)?;
        }
        Ok(done(&format!("INSERT 0 {rows}")))
    }

    fn pinned_for_insert(&self) -> SessionState {
        let sources = &self.0.sources;
        let mut state = self.0.context.state();
        state
            .config_mut()
            .set_extension(Arc::new(Pinned::take(&sources.serving, &sources.reader)));
        state
    }

    async fn create_stream(
        &self,
        table: &datafusion::sql::sqlparser::ast::CreateTable,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let name = name_of(&table.name)?;
        if self.names().contains(&name) {
            if table.if_not_exists && self.stream(&name).is_some() {
                return Ok(done("CREATE STREAM"));
            }
            return Err(exists(&name, sql));
        }
        let id = self.0.sources.catalog().next_stream();
        let stream = Arc::new(create::stream(table, sql, id)?);
        let lifecycle = self.lifecycle()?;
        self.change(|catalog| catalog.add_stream(Arc::clone(&stream)))?;
        lifecycle.add_stream(stream).await?;
        Ok(done("CREATE STREAM"))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<(), CatalogError>,
    ) -> Result<(), Error> {
        let mut catalog = self
            .0
            .sources
            .catalog
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut catalog).map_err(|error| Error::new(sqlstate::UNAVAILABLE, error.to_string()))
    }

    async fn create_view(
        &self,
        view: &datafusion::sql::sqlparser::ast::CreateView,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let declared = create::view(view, sql)?;
        let name = declared.name.as_str();
        let former = self.0.sources.catalog().view(name).cloned();
        if self.names().iter().any(|known| known == name) {
            match &former {
                Some(_) if view.or_replace => {}
                Some(_) if view.if_not_exists => return Ok(done("CREATE MATERIALIZED VIEW")),
                _ => return Err(exists(name, sql)),
            }
        }
        let at = sql
            .find(&declared.query)
            .map(|byte| sql[..byte].chars().count())
            .unwrap_or(0);
        let plan = self
            .plan_view(&declared.query, &[])
            .await
            .map_err(|mut error| {
                error.position = error.position.map(|position| position + at);
                error
            })?;
        let definition = Definition {
            name: declared.name.clone(),
            version: ViewVersion(former.as_ref().map_or(1, |former| former.version.0 + 1)),
            functions: self.functions_in(&declared.query),
            sql: declared.query,
            batch_every: declared.batch_every,
        };
        if let Some(former) = &former
            && former.sql == definition.sql
            && former.batch_every == definition.batch_every
            && former.functions == definition.functions
        {
            return Ok(done("CREATE MATERIALIZED VIEW"));
        }
        let lifecycle = self.lifecycle()?;
        let plan = Arc::new(plan);
        lifecycle.build_view(&definition, Arc::clone(&plan)).await?;
        self.change(|catalog| catalog.put_view(definition.clone()))?;
        lifecycle.serve_view(&definition, plan).await?;
        if let Some(former) = former {
            lifecycle.drop_view(&former).await?;
        }
        Ok(done("CREATE MATERIALIZED VIEW"))
    }

    /// The functions that `sql` calls, with the digest of their code.
    fn functions_in(&self, sql: &str) -> BTreeMap<String, String> {
        let functions = self
            .0
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let called = functions
            .values()
            .filter(|function| find_word(sql, function.name()).is_some());
        called
            .map(|function| (function.name().to_owned(), function.digest().to_owned()))
            .collect()
    }

    async fn drop_streams(
        &self,
        names: &[String],
        if_exists: bool,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        let lifecycle = self.lifecycle()?;
        for name in names {
            let Some(stream) = self.stream(name) else {
                if self.0.sources.catalog().view(name).is_some() {
                    return Err(Error::new(
                        sqlstate::WRONG_OBJECT_TYPE,
                        format!("\"{name}\" is a view"),
                    )
                    .with_hint("DROP MATERIALIZED VIEW drops it"));
                }
                if if_exists {
                    continue;
                }
                return Err(undefined_table(name, sql, &self.names()));
            };
            if Catalog::is_system(&stream) {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("\"{name}\" is the system's own"),
                ));
            }
            let views = self.0.sources.serving.views();
            let views = views
                .iter()
                .filter(|view| view.plan().inputs.iter().any(|input| input.id == stream.id));
            let views: Vec<String> = views
                .map(|view| format!("view {}", view.definition().name))
                .collect();
            let functions = lifecycle
                .functions_of(name)
                .into_iter()
                .map(|function| format!("function {function}"));
            let dependents: Vec<String> = views.into_iter().chain(functions).collect();
            if !dependents.is_empty() {
                let message = format!(
                    "stream \"{name}\" cannot be dropped: {} depend on it",
                    dependents.join(", ")
                );
                return Err(
                    Error::new(sqlstate::DEPENDENT_OBJECTS, message).with_hint("drop those first")
                );
            }
            self.change(|catalog| catalog.remove_stream(name))?;
            lifecycle.remove_stream(stream).await?;
        }
        Ok(done("DROP STREAM"))
    }

    fn existing_view(&self, name: &str, sql: &str) -> Result<Definition, Error> {
        let found = self.0.sources.catalog().view(name).cloned();
        found.ok_or_else(|| self.no_view(name, sql))
    }

    async fn drop_views(
        &self,
        names: &[String],
        if_exists: bool,
        sql: &str,
    ) -> Result<Outcome, Error> {
        let _one = self.0.changing.lock().await;
        for name in names {
            let definition = match self.existing_view(name, sql) {
                Ok(definition) => definition,
                Err(error) if if_exists && error.sqlstate == sqlstate::UNDEFINED_TABLE => continue,
                Err(error) => return Err(error),
            };
            self.change(|catalog| catalog.remove_view(name))?;
            self.0.sources.serving.remove(name);
            self.lifecycle()?.drop_view(&definition).await?;
        }
        Ok(done("DROP MATERIALIZED VIEW"))
    }

    async fn audit(&self, name: Option<&str>, sql: &str) -> Result<Outcome, Error> {
        let names = match name {
            Some(name) => vec![self.existing_view(name, sql)?.name.to_string()],
            None => self
                .definitions()
                .into_iter()
                .map(|view| view.name.to_string())
                .collect(),
        };
        let lifecycle = self.lifecycle()?;
        let mut results = Vec::with_capacity(names.len());
        for name in names {
            results.push(lifecycle.audit_view(&name).await?);
        }
        let text = |of: &dyn Fn(&AuditResult) -> String| -> ArrayRef {
            Arc::new(
                results
                    .iter()
                    .map(|result| Some(of(result)))
                    .collect::<StringArray>(),
            )
        };
        let number = |of: &dyn Fn(&AuditResult) -> u64| -> ArrayRef {
            Arc::new(
                results
                    .iter()
                    .map(|r| Some(of(r) as i64))
                    .collect::<arrow::array::Int64Array>(),
            )
        };
        let agrees = results
            .iter()
            .map(|result| Some(result.agrees))
            .collect::<arrow::array::BooleanArray>();
        let columns = vec![
            text(&|r| r.view.clone()),
            Arc::new(agrees) as ArrayRef,
            number(&|r| r.rows),
            number(&|r| r.differences),
            text(&|r| r.detail.clone()),
            text(&|r| r.frontier.clone()),
        ];
        rows(audit_schema(), columns)
    }

    async fn explain_view(&self, name: &str, sql: &str) -> Result<Outcome, Error> {
        self.existing_view(name, sql)?;
        let served = self
            .0
            .sources
            .serving
            .view(name)
            .ok_or_else(|| self.no_view(name, sql))?;
        let heads = self.0.sources.reader.pin().heads();
        let info = system::info(&served, &heads);
        let plan = served.plan();
        let runs = served.runs();
        let why = match plan.class {
            lambic_view::Class::Rows => "filter and project: every record becomes rows of its own",
            lambic_view::Class::Mergeable => "aggregates whose states merge",
        };
        let states = plan
            .state_schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()));
        let functions = served
            .definition()
            .functions
            .iter()
            .map(|(name, digest)| format!("{name} {}", &digest[..12.min(digest.len())]));
        let functions: Vec<String> = functions.collect();
        let speed: Vec<String> = runs
            .speed
            .iter()
            .map(|run| run.rows().to_string())
            .collect();
        let mut lines = vec![
            ("view", info.name.clone()),
            ("version", info.version.to_string()),
            ("class", format!("{} ({why})", info.class)),
            (
                "key",
                if info.key.is_empty() {
                    "none".to_owned()
                } else {
                    info.key.join(", ")
                },
            ),
            ("batch frontier", info.batch_frontier.clone()),
            ("speed frontier", info.speed_frontier.clone()),
            (
                "lag",
                format!("{} records, read on demand", info.lag_records),
            ),
            (
                "batch run",
                format!(
                    "number {}, {} state rows",
                    runs.batches,
                    runs.batch.as_ref().map_or(0, |run| run.rows())
                ),
            ),
            (
                "real-time runs",
                format!("{} ({} state rows)", speed.len(), speed.join(" + ")),
            ),
            (
                "states",
                format!(
                    "{} rows, {} bytes in memory",
                    info.state_rows, info.state_bytes
                ),
            ),
            ("state columns", states.collect::<Vec<_>>().join(", ")),
            ("batch every", info.batch_every.clone().unwrap_or_default()),
        ];
        if !functions.is_empty() {
            lines.push(("functions", functions.join(", ")));
        }
        lines.push(("select", info.sql.clone()));
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        rows(
            explain_schema(),
            vec![
                Arc::new(StringArray::from(names)),
                Arc::new(StringArray::from(values)),
            ],
        )
    }
}

fn exists(name: &str, sql: &str) -> Error {
    Error::new(sqlstate::DUPLICATE_TABLE, format!("\"{name}\" exists already"))
        .with_position(find_word(sql, name))
        .with_hint("IF NOT EXISTS leaves it as it is; CREATE OR REPLACE MATERIALIZED VIEW makes a new version of a view")
}

fn moved(mut error: Error, parsed: &Parsed) -> Error {
    error.position = error.position.map(|position| position + parsed.start);
    error
}

fn done(tag: &str) -> Outcome {
    Outcome::Done {
        tag: tag.to_owned(),
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

fn audit_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("view", DataType::Utf8, false),
        Field::new("agrees", DataType::Boolean, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("differences", DataType::Int64, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("frontier", DataType::Utf8, false),
    ]))
}

fn explain_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("property", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, false),
    ]))
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

fn with_parameters(
    plan: LogicalPlan,
    parameters: Vec<ScalarValue>,
) -> Result<LogicalPlan, DataFusionError> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let values = parameters
        .into_iter()
        .map(|value| ScalarAndMetadata::new(value, None))
        .collect();
    plan.with_param_values(ParamValues::List(values))
}

/// The rows in the stream's own types; the planner made them castable.
fn in_schema(batch: &RecordBatch, stream: &Stream) -> Result<RecordBatch, Error> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut columns = Vec::with_capacity(stream.schema.fields().len());
    for (field, column) in stream.schema.fields().iter().zip(batch.columns()) {
        let column = cast_with_options(column, field.data_type(), &strict).map_err(|error| {
            Error::new(
                sqlstate::INVALID_TEXT,
                format!("column \"{}\": {error}", field.name()),
            )
        })?;
        if !field.is_nullable() && column.null_count() > 0 {
            let message = format!(
                "null value in column \"{}\" of stream \"{}\"",
                field.name(),
                stream.name
            );
            return Err(Error::new(sqlstate::NOT_NULL_VIOLATION, message)
                .with_hint("the column is declared NOT NULL"));
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(&stream.schema), columns, &options)
        .map_err(Error::internal)
}

fn append_error(error: AppendError) -> Error {
    match error {
        AppendError::Refused(message) => Error::new("23000", message),
        AppendError::Busy(message) => {
            Error::new(sqlstate::TOO_BUSY, message).with_hint("try again")
        }
        AppendError::Unavailable(message) => Error::new(sqlstate::UNAVAILABLE, message),
    }
}

fn serving_error(error: lambic_serving::Error) -> Error {
    match error {
        lambic_serving::Error::NoKey { .. } => {
            Error::new(sqlstate::WRONG_OBJECT_TYPE, error.to_string())
        }
        lambic_serving::Error::Key(message) => Error::new(sqlstate::INVALID_TEXT, message),
        lambic_serving::Error::Tail(message) => Error::new(sqlstate::UNAVAILABLE, message),
        lambic_serving::Error::View(error) => Error::internal(error),
    }
}

/// A function as SQL sees it.
#[derive(Debug)]
struct Udf {
    function: Arc<dyn ScalarFunction>,
    signature: Signature,
}

impl PartialEq for Udf {
    fn eq(&self, other: &Udf) -> bool {
        self.function.name() == other.function.name()
            && self.function.digest() == other.function.digest()
    }
}

impl Eq for Udf {}

impl std::hash::Hash for Udf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.function.name().hash(state);
        self.function.digest().hash(state);
    }
}

fn udf(function: Arc<dyn ScalarFunction>) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::from(Udf {
        function,
        signature,
    })
}

impl ScalarUDFImpl for Udf {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(self.function.returns().clone())
    }

    /// Numbers are cast to the declared width (a value that does not fit fails when it runs).
    fn coerce_types(&self, given: &[DataType]) -> datafusion::common::Result<Vec<DataType>> {
        let declared = self.function.arguments();
        let text = |data_type: &DataType| data_type.is_string();
        let fits = |(given, declared): (&DataType, &DataType)| {
            given == declared
                || given.is_null()
                || (given.is_numeric() && declared.is_numeric())
                || (text(given) && text(declared))
        };
        if given.len() != declared.len() || !given.iter().zip(declared).all(fits) {
            let list = |types: &[DataType]| {
                types
                    .iter()
                    .map(crate::types::sql_name)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return datafusion::common::plan_err!(
                "No function matches: {}({}) is called as ({}); cast the arguments",
                self.function.name(),
                list(declared),
                list(given)
            );
        }
        Ok(declared.to_vec())
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> datafusion::common::Result<ColumnarValue> {
        let columns = args
            .args
            .into_iter()
            .map(|value| value.into_array(args.number_rows));
        let columns = columns.collect::<datafusion::common::Result<Vec<_>>>()?;
        let answer = self.function.call(&columns, args.number_rows);
        Ok(ColumnarValue::Array(
            answer.map_err(DataFusionError::Execution)?,
        ))
    }
}
