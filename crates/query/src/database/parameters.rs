//! The parameters `$1`, `$2`, … of a statement.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field};
use datafusion::{
    common::{
        ParamValues,
        metadata::ScalarAndMetadata,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{
        Expr, LogicalPlan,
        expr::{Cast, Placeholder},
    },
    scalar::ScalarValue,
};

/// A parameter whose type the statement leaves open.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// From 0 on.
    index: usize,
    /// What it is if the client does not say.
    default: DataType,
    /// It stands beside an interval.
    is_interval: bool,
}

impl Open {
    /// Beside an interval everything is taken for one, but a time that the client declared is a time.
    pub fn chosen<'a>(&'a self, declared: &'a [Option<DataType>]) -> &'a DataType {
        let declared = declared.get(self.index).and_then(Option::as_ref);
        let is_time =
            |declared: &&DataType| matches!(declared, DataType::Timestamp(..) | DataType::Date32);
        let declared = match self.is_interval {
            true => declared.filter(is_time),
            false => declared,
        };
        declared.unwrap_or(&self.default)
    }

    /// Whether the type that `types` have for it is the one that would be chosen.
    pub fn is_as_chosen(&self, types: &[Option<DataType>], declared: &[Option<DataType>]) -> bool {
        let planned = types.get(self.index).and_then(Option::as_ref);
        planned == Some(self.chosen(declared))
    }
}

/// Gives every parameter a type: the one that the statement tells where it stands elsewhere or is cast, the one that the
/// client declared, or that of numbers in `LIMIT` and of texts anywhere else, as Postgres does.
pub fn typed(
    plan: LogicalPlan,
    declared: &[Option<DataType>],
) -> Result<(LogicalPlan, Vec<Open>), DataFusionError> {
    let told = told(&plan)?;
    if told.is_empty() {
        return Ok((plan, Vec::new()));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut changed = false;
    let plan = plan.transform_up_with_subqueries(|node| {
        let is_limit = matches!(node, LogicalPlan::Limit(_));
        let mut choose = |placeholder: &mut Placeholder, usual: &DataType| {
            let number = placeholder.id.trim_start_matches('$').parse().ok();
            let Some(index) = number.and_then(|number: usize| number.checked_sub(1)) else {
                return false;
            };
            let told = told.get(&placeholder.id).and_then(Option::as_ref);
            let chosen = match told {
                _ if is_limit => DataType::Int64,
                Some(told) if !matches!(told, DataType::Interval(_)) => told.clone(),
                told => {
                    let known = open.iter().position(|open| open.index == index);
                    let known = known.unwrap_or_else(|| {
                        open.push(Open {
                            index,
                            default: told.unwrap_or(usual).clone(),
                            is_interval: told.is_some(),
                        });
                        open.len() - 1
                    });
                    open[known].chosen(declared).clone()
                }
            };
            let planned = placeholder.field.as_ref().map(|field| field.data_type());
            let is_new = planned != Some(&chosen);
            if is_new {
                placeholder.field = Some(Arc::new(Field::new("", chosen, true)));
            }
            is_new
        };
        let node = node.map_expressions(|expr| {
            expr.transform_down(|mut expr| {
                let is_new = match &mut expr {
                    Expr::Cast(Cast { expr, field }) => match expr.as_mut() {
                        Expr::Placeholder(placeholder) => choose(placeholder, field.data_type()),
                        _ => false,
                    },
                    Expr::Placeholder(placeholder) => choose(placeholder, &DataType::Utf8),
                    _ => false,
                };
                Ok(Transformed::new_transformed(expr, is_new))
            })
        })?;
        changed |= node.transformed;
        match changed {
            true => Ok(Transformed::yes(node.data.recompute_schema()?)),
            false => Ok(node),
        }
    })?;
    Ok((plan.data, open))
}

/// The types by name, `None` where the statement tells none anywhere.
pub fn told(plan: &LogicalPlan) -> Result<HashMap<String, Option<DataType>>, DataFusionError> {
    let mut told = HashMap::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(Placeholder { id, field }) = expr {
                    let data_type = field.as_ref().map(|field| field.data_type());
                    // Beside another of which nothing is known.
                    let data_type = data_type.filter(|told| !told.is_null()).cloned();
                    let known = told.entry(id.clone()).or_insert(None);
                    *known = known.take().or(data_type);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(told)
}

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
