//! What SQL means here where DataFusion's meaning differs from Postgres's.
//!
//! A statement goes through three rules: `subquery` gives NULL where a subquery's answer is; `operands`, before types are
//! coerced, decides in which type something is computed; `meaning`, after it, replaces what would give a wrong value by functions that
//! give Postgres's value or its error. Before that, `scaled` takes what could not be planned at all. Views and queries share all of it.

mod arithmetic;
mod calendar;
mod cast;
pub mod decimal;
mod dialect;
mod error;
mod expand;
mod extract;
pub mod float;
pub(crate) mod function;
mod growth;
mod interval;
mod length;
mod meaning;
mod numeral;
mod operands;
mod ordinal;
mod outer;
mod quantified;
mod ranking;
mod refused;
pub mod repeated;
mod round;
mod row;
mod scaled;
mod size;
mod sketch;
mod statement;
pub(crate) mod stride;
mod subquery;
pub(crate) mod time;
mod to_char;
mod types;

use std::sync::Arc;

use datafusion::{
    common::plan_err,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::registry::FunctionRegistry,
    optimizer::Analyzer,
    sql::parser::{DFParserBuilder, Statement},
};

pub use dialect::Postgres;
pub use error::ValueError;
pub(crate) use expand::expanded;
pub use numeral::{Numeral, without_exponent};
pub use quantified::memberships;
pub use size::check as check_size;
pub use statement::adapt;
pub use types::{Types, name as type_name};

use crate::{literal::CastLiterals, window::Windows};

/// Makes a session that understands SQL as Postgres does.
pub fn builder(builder: SessionStateBuilder) -> SessionStateBuilder {
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(subquery::PostgresSubqueries));
    rules.insert(1, Arc::new(operands::PostgresOperands));
    rules.push(Arc::new(CastLiterals));
    rules.push(Arc::new(meaning::PostgresMeaning));
    rules.push(Arc::new(growth::Bounded));
    builder
        .with_analyzer_rules(rules)
        .with_type_planner(Arc::new(Types))
        .with_relation_planners(vec![Arc::new(Windows)])
}

/// Reads one statement, for DataFusion to plan.
pub fn parse(sql: &str) -> Result<Statement, DataFusionError> {
    let mut parser = DFParserBuilder::new(sql).with_dialect(&Postgres).build()?;
    let mut statements = parser.parse_statements()?;
    let (Some(mut statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return plan_err!("one statement is expected");
    };
    if let Statement::Statement(statement) = &mut statement {
        adapt(statement)?;
    }
    Ok(statement)
}

/// Registers how operators are planned, and Postgres's functions over DataFusion's of the same name. They take over its
/// other names, too: whoever is still known by one of them comes back under its own when a state is made of a state.
pub fn register(state: &mut SessionState) {
    const TAKEN: &str = "functions can always be registered";
    state
        .register_expr_planner(Arc::new(scaled::Scaling))
        .expect("planners can always be registered");
    let functions = time::functions()
        .into_iter()
        .chain(sketch::functions())
        .chain(length::functions())
        .chain([to_char::function(), extract::function()]);
    for function in functions {
        state.register_udf(Arc::new(function)).expect(TAKEN);
    }
    for function in ranking::functions() {
        state.register_udwf(Arc::new(function)).expect(TAKEN);
    }
}
