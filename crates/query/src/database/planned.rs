//! Plans statements, and takes kept plans where what they were made of has not changed.

use std::sync::{Arc, atomic::Ordering};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::{
    catalog::SchemaProvider,
    datasource::provider_as_source,
    execution::{SendableRecordBatchStream, SessionState},
    logical_expr::LogicalPlan,
    physical_plan::execute_stream,
    scalar::ScalarValue,
};

use super::{
    Database, apart, by_number, names_system_column, returns_rows, told, typed, with_parameters,
};
use crate::{
    Error, Session,
    kept::{Counts, KeptPlan, Slot, Tables, Taken},
    names,
    pinned::Pinned,
    provider::{Public, Versions, identity},
    session::Known,
    statement::{Plain, Statement},
};

/// How plans of statements were come by, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanCounts {
    /// Statements that were planned.
    pub made: u64,
    /// Executions that took a kept plan.
    pub reused: u64,
    /// Kept plans that were given up, because what they read had changed.
    pub stale: u64,
    /// Texts whose plans are kept, beside those of prepared statements.
    pub texts: u64,
}

/// A plan over the tables of one frontier, with its parameters.
pub(super) struct Ready {
    pub state: SessionState,
    pub plan: LogicalPlan,
    is_optimised: bool,
}

impl Ready {
    /// Starts `plan`, which is its own or a part of it.
    pub async fn start(
        &self,
        plan: &LogicalPlan,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let physical = match self.is_optimised {
            true => {
                let planner = self.state.query_planner();
                planner.create_physical_plan(plan, &self.state).await?
            }
            false => self.state.create_physical_plan(plan).await?,
        };
        execute_stream(physical, self.state.task_ctx())
    }
}

impl Database {
    pub fn plan_counts(&self) -> PlanCounts {
        let counts = &self.0.texts.counts;
        PlanCounts {
            made: counts.made.load(Ordering::Relaxed),
            reused: counts.reused.load(Ordering::Relaxed),
            stale: counts.stale.load(Ordering::Relaxed),
            texts: self.0.texts.len() as u64,
        }
    }

    /// What was parsed of a text that came before.
    pub(super) fn known(&self, session: &Session, sql: &str) -> Option<Arc<Known>> {
        self.0.texts.get(sql, parser_of(session))
    }

    /// Keeps it for the next time, if it is likely to come; true if so.
    pub(super) fn keep(&self, session: &Session, sql: &str, known: &Arc<Known>) -> bool {
        matches!(known.statement, Statement::Sql(_) | Statement::Insert(_))
            && self.0.texts.put(sql, parser_of(session), known)
    }

    /// The statement at one frontier, ready to run; `kept` holds its plan from one time to the next. `with_system`:
    /// streams show their system columns.
    pub(super) async fn bound(
        &self,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
        kept: Option<&Slot>,
        with_system: bool,
    ) -> Result<Ready, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let (pinned, versions) = self.reads_at(session, plain, &parameters).await?;
        let counts = &self.0.texts.counts;
        let declared = &session.parameter_types;
        if let Some(slot) = kept
            && let Some(plan) = slot.get()
            && plan.is_for(declared)
            && plan.takes(&parameters)
        {
            if let Some(tables) = self.tables(&plan, &pinned, with_system).await {
                Counts::add(&counts.reused);
                let state = self.0.context.state();
                let ready = plan.ready(&tables, parameters, &state);
                let (plan, is_optimised) = ready.map_err(wrong)?;
                return Ok(Ready {
                    state,
                    plan,
                    is_optimised,
                });
            }
            Counts::add(&counts.stale);
            slot.set(None);
        }
        let functions = self.0.functions_changed.load(Ordering::SeqCst);
        let state = self.pinned_with(pinned, with_system, versions);
        let (plan, taken) = self
            .typed(&state, plain, sql, declared, &parameters)
            .await?;
        Counts::add(&counts.made);
        if let Some(slot) = kept
            && !taken.of_values
        {
            slot.set(kept_plan(&plan, parameters.len(), taken, functions));
        }
        Ok(Ready {
            state,
            plan: with_parameters(plan, parameters).map_err(wrong)?,
            is_optimised: false,
        })
    }

    /// The types of the parameters and the columns of the answer.
    pub(super) async fn described(
        &self,
        session: &Session,
        plain: &Plain,
        known: &Known,
    ) -> Result<(Vec<Option<DataType>>, SchemaRef), Error> {
        let is_query = matches!(known.statement, Statement::Sql(_));
        let with_system = names_system_column(&known.sql);
        let counts = &self.0.texts.counts;
        if plain.as_of.is_none()
            && let Some(plan) = known.plan.get()
            && plan.is_for(&session.parameter_types)
            && let pinned = self.pin(session)
            && self.tables(&plan, &pinned, with_system).await.is_some()
        {
            Counts::add(&counts.reused);
            let columns = match is_query {
                true => Arc::clone(&plan.columns),
                false => Arc::new(Schema::empty()),
            };
            return Ok((plan.types.clone(), columns));
        }
        let functions = self.0.functions_changed.load(Ordering::SeqCst);
        let versions = self.versions(&plain.versions).await?;
        let state = self.pinned_for(session, &known.sql, versions);
        let declared = &session.parameter_types;
        let (plan, taken) = self.typed(&state, plain, &known.sql, declared, &[]).await?;
        Counts::add(&counts.made);
        let types_of = |plan: &LogicalPlan| {
            let types = plan.get_parameter_types();
            types.map_err(|error| Error::from_datafusion(error, &known.sql, &[]))
        };
        let mut types = types_of(&plan)?;
        known
            .plan
            .set(kept_plan(&plan, known.parameters, taken, functions));
        if let Some(as_of) = &plain.as_of {
            types.extend(types_of(&self.plan_moment(as_of).await?)?);
        }
        let columns = match is_query && returns_rows(&plan) {
            true => names::shown_schema(plan.schema().inner()),
            false => Arc::new(Schema::empty()),
        };
        Ok((by_number(types, known.parameters), columns))
    }

    /// Plans a statement, with a type for each parameter.
    async fn typed(
        &self,
        state: &SessionState,
        plain: &Plain,
        sql: &str,
        declared: &[Option<DataType>],
        values: &[ScalarValue],
    ) -> Result<(LogicalPlan, Taken), Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let mut plan = self.plan(state, &plain.ast, sql).await?;
        let told = by_number(told(&plan).map_err(wrong)?, usize::MAX);
        let mut kept = apart::kept(&told, declared);
        let planned: Vec<_> = (told.iter().zip(&kept))
            .map(|(told, kept)| kept.as_ref().or(told.as_ref()).cloned())
            .collect();
        let of_types = kept.clone();
        kept = apart::with_values(kept, &planned, values);
        let of_values = kept != of_types;
        if kept.iter().any(Option::is_some) {
            let ast = apart::cast(&plain.ast, &kept);
            plan = self.plan(state, &ast, sql).await?;
        }
        let (plan, open) = typed(plan, declared).map_err(wrong)?;
        let taken = Taken {
            told,
            kept,
            open,
            of_values,
        };
        Ok((plan, taken))
    }

    /// The tables that a kept plan reads, at `pinned`; `None` if one of them is not what it was.
    async fn tables(
        &self,
        plan: &KeptPlan,
        pinned: &Arc<Pinned>,
        with_system: bool,
    ) -> Option<Tables> {
        if plan.functions != self.0.functions_changed.load(Ordering::SeqCst) {
            return None;
        }
        let public = Public {
            sources: self.0.sources.clone(),
            with_system,
            pinned: Some(Arc::clone(pinned)),
            versions: Versions::default(),
        };
        let mut tables = Tables::with_capacity(plan.places.len());
        for place in &plan.places {
            let table = public.table(&place.name).await.ok()??;
            let is_same = identity(table.as_ref()).as_ref() == Some(&place.identity)
                && table.schema() == place.schema;
            if !is_same {
                return None;
            }
            tables.insert(place.name.clone(), provider_as_source(table));
        }
        Some(tables)
    }
}

fn kept_plan(
    plan: &LogicalPlan,
    parameters: usize,
    taken: Taken,
    functions: u64,
) -> Option<Arc<KeptPlan>> {
    let types = by_number(plan.get_parameter_types().ok()?, parameters);
    let columns = match returns_rows(plan) {
        true => names::shown_schema(plan.schema().inner()),
        false => Arc::new(Schema::empty()),
    };
    KeptPlan::new(plan, types, taken, columns, functions).map(Arc::new)
}

/// The same text may mean something else to another parser.
fn parser_of(session: &Session) -> usize {
    let parser = session.parser.as_ref();
    parser.map_or(0, |parser| Arc::as_ptr(parser).cast::<()>().addr())
}
