//! The parameters `$1`, `$2`, … of a statement.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use datafusion::{
    common::{ParamValues, metadata::ScalarAndMetadata},
    error::DataFusionError,
    logical_expr::LogicalPlan,
    scalar::ScalarValue,
};

/// The types of `$1`, `$2`, …, at most as many as the text has: a door may rewrite a statement so that it uses fewer.
pub fn by_number(
    types: HashMap<String, Option<DataType>>,
    parameters: usize,
) -> Vec<Option<DataType>> {
    let numbers = types.keys();
    let numbers = numbers.filter_map(|name| name.trim_start_matches('$').parse().ok());
    let count: usize = numbers.max().unwrap_or(0).min(parameters);
    (1..=count)
        .map(|number| types.get(&format!("${number}")).cloned().flatten())
        .collect()
}

pub fn with_parameters(
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
