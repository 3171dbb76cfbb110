//! Splits the logical plan of a view's `SELECT` at its aggregation.
//!
//! Above the aggregation there may be projections and filters (`HAVING`, computed columns); below it
//! projections, filters, `UNION ALL`, `UNNEST` and joins with constants over streams, and inner joins of streams. Anything
//! else has no states that merge, and the refusal says which part it is.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    common::{
        Column, DFSchema, DataFusionError, Result as PlanResult,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{provider_as_source, source_as_provider},
    execution::SessionState,
    logical_expr::{
        Aggregate, Distinct, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection,
        SubqueryAlias, TableScan, Volatility,
        expr::{AggregateFunction, Sort},
    },
};
use lambic_model::SystemColumn;

use crate::{
    Error, aggregate, constant,
    join::{self, Apart},
    slot::SlotTable,
};

/// Aggregates whose states merge to the same bits in any order (given a total order where they need one).
const MERGEABLE: [&str; 34] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
    "covar_pop",
    "covar_samp",
    "corr",
    "regr_count",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "regr_slope",
    "regr_intercept",
    "regr_r2",
    "approx_distinct",
    "approx_percentile_cont",
    "first_value",
    "last_value",
    "array_agg",
    "string_agg",
    "median",
    "percentile_cont",
];
/// Of these, the ones whose answer depends on the order of the records.
const ORDERED: [&str; 4] = ["first_value", "last_value", "array_agg", "string_agg"];

/// One step of the final row work.
#[derive(Debug)]
pub enum Step {
    Project(Vec<Expr>),
    Filter(Expr),
}

/// The final row work, first step first, each with the schema of its input.
pub type Steps = Vec<(Step, Arc<DFSchema>)>;

pub enum Split {
    Rows(LogicalPlan),
    Mergeable {
        aggregate: Aggregate,
        above: Steps,
        output: Arc<DFSchema>,
        /// The plan before it was split, its aggregation in total order.
        whole: LogicalPlan,
        /// The join below the aggregation, if there is one.
        join: Option<Box<Apart>>,
    },
}

/// `plan` is analysed (types coerced) but not optimised: optimising replaces aggregates by others.
pub fn split(plan: LogicalPlan, state: &SessionState) -> Result<Split, Error> {
    check_deterministic(&plan)?;
    check_self_contained(&plan)?;
    let output = Arc::clone(plan.schema());
    let mut above = Vec::new();
    let mut node = plan.clone();
    loop {
        node = match node {
            LogicalPlan::Projection(projection) => {
                above.push((
                    Step::Project(projection.expr),
                    Arc::clone(projection.input.schema()),
                ));
                Arc::unwrap_or_clone(projection.input)
            }
            LogicalPlan::Filter(filter) => {
                above.push((
                    Step::Filter(filter.predicate),
                    Arc::clone(filter.input.schema()),
                ));
                Arc::unwrap_or_clone(filter.input)
            }
            LogicalPlan::SubqueryAlias(alias) => Arc::unwrap_or_clone(alias.input),
            // The order of a view's rows is the reader's to choose.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => Arc::unwrap_or_clone(sort.input),
            LogicalPlan::Aggregate(aggregate) => {
                above.reverse();
                return mergeable(aggregate, above, output, plan, state);
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                above.reverse();
                let columns = input
                    .schema()
                    .columns()
                    .into_iter()
                    .map(Expr::Column)
                    .collect();
                return mergeable(
                    Aggregate::try_new(input, columns, Vec::new())?,
                    above,
                    output,
                    plan,
                    state,
                );
            }
            other => {
                if join::joins(&other)? {
                    return Err(Error::not_incremental(
                        "it joins, and does not aggregate",
                        "aggregate what is joined, also by SELECT DISTINCT",
                    ));
                }
                check_row_work(&other)?;
                return Ok(Split::Rows(without_sort(plan)?));
            }
        };
    }
}

fn without_sort(plan: LogicalPlan) -> Result<LogicalPlan, Error> {
    let unsorted = plan.transform_down(|node| {
        Ok(match node {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                Transformed::yes(Arc::unwrap_or_clone(sort.input))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(unsorted.data)
}

fn mergeable(
    aggregate: Aggregate,
    above: Steps,
    output: Arc<DFSchema>,
    plan: LogicalPlan,
    state: &SessionState,
) -> Result<Split, Error> {
    check_row_work(&aggregate.input)?;
    let aggregate = each_key_once(aggregate)?;
    let mut ordered = false;
    for expr in &aggregate.aggr_expr {
        ordered |= check_aggregate(expr)?;
    }
    if aggregate
        .group_expr
        .iter()
        .any(|expr| matches!(expr, Expr::GroupingSet(_)))
    {
        return Err(Error::not_incremental(
            "it uses GROUPING SETS, CUBE or ROLLUP",
            "create one view for each grouping",
        ));
    }
    let (aggregate, whole) = if ordered {
        let aggregate = order_totally(aggregate)?;
        let whole = with_aggregate(plan, &aggregate)?;
        (aggregate, whole)
    } else {
        (aggregate, plan)
    };
    let aggregate = only_needed_columns(aggregate)?;
    let join = match join::joins(&aggregate.input)? {
        true => Some(Box::new(join::take_apart(&aggregate.input, state)?)),
        false => None,
    };
    Ok(Split::Mergeable {
        whole,
        aggregate,
        above,
        output,
        join,
    })
}

/// `SELECT k AS a, k AS b … GROUP BY 1, 2` names a key twice, and has it in its columns once.
fn each_key_once(mut aggregate: Aggregate) -> Result<Aggregate, Error> {
    let mut seen = HashSet::new();
    let keys = aggregate.group_expr.len();
    aggregate.group_expr.retain(|key| seen.insert(key.clone()));
    if aggregate.group_expr.len() == keys {
        return Ok(aggregate);
    }
    Ok(Aggregate::try_new(
        aggregate.input,
        aggregate.group_expr,
        aggregate.aggr_expr,
    )?)
}

/// True if the aggregate depends on the order of records.
fn check_aggregate(expr: &Expr) -> Result<bool, Error> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) =
        expr.clone().unalias_nested().data
    else {
        return Err(Error::not_incremental(
            format!("`{expr}` is not a plain aggregate"),
            "simplify it",
        ));
    };
    let name = func.name();
    if !MERGEABLE.contains(&name) && !aggregate::SKETCHES.contains(&name) {
        return Err(Error::not_incremental(
            format!("the states of {name}() do not merge exactly"),
            format!("aggregates that do: {}", MERGEABLE.join(", ")),
        ));
    }
    if params.distinct
        && !matches!(
            name,
            "count" | "min" | "max" | "array_agg" | "bool_and" | "bool_or" | "approx_distinct"
        )
    {
        return Err(Error::not_incremental(
            format!("the states of {name}(DISTINCT …) do not merge exactly"),
            "count(DISTINCT …) and approx_distinct(…) do",
        ));
    }
    if params.distinct && ORDERED.contains(&name) {
        return Err(Error::not_incremental(
            format!("{name}(DISTINCT …) has no defined order"),
            "group by the value instead, or leave DISTINCT out",
        ));
    }
    Ok(ORDERED.contains(&name))
}

/// Row work: what can be done to each record without looking at others, or joins of such records.
fn check_row_work(plan: &LogicalPlan) -> Result<(), Error> {
    let (what, hint) = match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source)?;
            return match provider.downcast_ref::<SlotTable>() {
                Some(_) => Ok(()),
                None => Err(Error::not_incremental(
                    format!("`{}` is not a stream", scan.table_name.table()),
                    "select from streams; views over views and system tables are not kept up to date",
                )),
            };
        }
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => return plan.inputs().into_iter().try_for_each(check_row_work),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => return check_row_work(&sort.input),
        LogicalPlan::Join(join) => match constant::side_of_records(join)? {
            Some(records) => return check_row_work(records),
            // What kind of join it is shows when it has been optimised: a condition can make it an inner one.
            None if join::joins(plan)? => {
                check_row_work(&join.left)?;
                return check_row_work(&join.right);
            }
            None => (
                "it has an outer join",
                "let the records be the side that is kept without a match",
            ),
        },
        LogicalPlan::Window(_) => ("it uses a window function", "use it when you read the view"),
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => {
            ("it has a LIMIT", "use LIMIT when you read the view")
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => (
            "it aggregates what is aggregated already",
            "create a view of the inner SELECT, and aggregate it when you read it",
        ),
        LogicalPlan::Subquery(_) => ("it has a subquery", "filter when you read the view"),
        LogicalPlan::RecursiveQuery(_) => ("it is recursive", "run it as a query"),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
            ("it reads no stream", "select FROM a stream")
        }
        _ => (
            "it has a part that does not work record by record",
            "run it as a query",
        ),
    };
    Err(Error::not_incremental(what, hint))
}

/// Nothing that answers differently tomorrow.
pub fn check_deterministic(plan: &LogicalPlan) -> Result<(), Error> {
    check_each(plan, |part| match part {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(Error::NotDeterministic(format!("{}()", call.func.name())))
        }
        _ => None,
    })
}

/// No subqueries, and nothing of a query around it.
fn check_self_contained(plan: &LogicalPlan) -> Result<(), Error> {
    check_each(plan, |part| match part {
        Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::ScalarSubquery(_)
        | Expr::SetComparison(_) => Some(Error::not_incremental(
            "it has a subquery",
            "filter when you read the view",
        )),
        Expr::OuterReferenceColumn(..) => Some(Error::not_incremental(
            "it depends on the query around it",
            "join instead",
        )),
        _ => None,
    })
}

fn check_each(
    plan: &LogicalPlan,
    problem_of: impl Fn(&Expr) -> Option<Error>,
) -> Result<(), Error> {
    let mut problem = None;
    let proceed = |problem: &Option<Error>| match problem {
        Some(_) => TreeNodeRecursion::Stop,
        None => TreeNodeRecursion::Continue,
    };
    plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            expr.apply(|part| {
                problem = problem_of(part);
                Ok(proceed(&problem))
            })?;
            if problem.is_some() {
                break;
            }
        }
        Ok(proceed(&problem))
    })?;
    problem.map_or(Ok(()), Err)
}

/// Ends the order of every ordered aggregate with the record's place, so that no two records tie.
fn order_totally(aggregate: Aggregate) -> Result<Aggregate, Error> {
    let input = carry_place(Arc::unwrap_or_clone(aggregate.input))?;
    let place: Vec<Expr> = place_columns(input.schema())?
        .into_iter()
        .map(Expr::Column)
        .collect();
    let aggregates = aggregate.aggr_expr.into_iter().map(|expr| {
        let name = expr.schema_name().to_string();
        let ordered = expr.transform(|part| match part {
            Expr::AggregateFunction(mut call) if ORDERED.contains(&call.func.name()) => {
                call.params.order_by.extend(
                    place
                        .iter()
                        .map(|column| Sort::new(column.clone(), true, false)),
                );
                Ok(Transformed::yes(Expr::AggregateFunction(call)))
            }
            other => Ok(Transformed::no(other)),
        });
        // The steps above know the aggregate by its old name.
        ordered.map(|ordered| ordered.data.unalias().alias(name))
    });
    let aggregates = aggregates.collect::<PlanResult<Vec<_>>>()?;
    Ok(Aggregate::try_new(
        Arc::new(input),
        aggregate.group_expr,
        aggregates,
    )?)
}

/// `plan` with `aggregate` in place of its own aggregation, the first from the top.
fn with_aggregate(plan: LogicalPlan, aggregate: &Aggregate) -> Result<LogicalPlan, Error> {
    let replaced = plan.transform_down(|node| {
        Ok(match node {
            LogicalPlan::Aggregate(_) => {
                let ordered = LogicalPlan::Aggregate(aggregate.clone());
                Transformed::new(ordered, true, TreeNodeRecursion::Stop)
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(replaced.data)
}

const PLACE: [SystemColumn; 2] = [SystemColumn::Partition, SystemColumn::Offset];

fn place_columns(schema: &DFSchema) -> PlanResult<Vec<Column>> {
    PLACE
        .iter()
        .map(|place| {
            let found = schema
                .iter()
                .find(|(_, field)| field.name() == place.name());
            let (qualifier, field) = found.ok_or_else(|| {
                DataFusionError::Plan(format!("a column hides the system column {}", place.name()))
            })?;
            Ok(Column::new(qualifier.cloned(), field.name()))
        })
        .collect()
}

/// The same row work with the record's place among its columns.
fn carry_place(plan: LogicalPlan) -> Result<LogicalPlan, Error> {
    Ok(match plan {
        LogicalPlan::TableScan(scan) => scan_with_system(&scan)?,
        LogicalPlan::SubqueryAlias(alias) => {
            let input = carry_place(Arc::unwrap_or_clone(alias.input))?;
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias)?)
        }
        LogicalPlan::Filter(filter) => {
            let input = carry_place(Arc::unwrap_or_clone(filter.input))?;
            LogicalPlan::Filter(Filter::try_new(filter.predicate, Arc::new(input))?)
        }
        LogicalPlan::Projection(projection) => {
            let input = carry_place(Arc::unwrap_or_clone(projection.input))?;
            let mut exprs = projection.expr;
            let names: HashSet<String> = exprs.iter().map(|expr| expr.qualified_name().1).collect();
            let place = place_columns(input.schema())?;
            exprs.extend(
                place
                    .into_iter()
                    .filter(|column| !names.contains(&column.name))
                    .map(Expr::Column),
            );
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)
        }
        LogicalPlan::Sort(sort) => carry_place(Arc::unwrap_or_clone(sort.input))?,
        _ => {
            return Err(Error::not_incremental(
                "first_value, last_value, array_agg or string_agg over UNION, UNNEST or a join has no defined order",
                "create a view for each branch",
            ));
        }
    })
}

fn scan_with_system(scan: &TableScan) -> Result<LogicalPlan, Error> {
    let provider = source_as_provider(&scan.source)?;
    let Some(slot) = provider.downcast_ref::<SlotTable>() else {
        return Err(Error::not_incremental(
            format!("`{}` is not a stream", scan.table_name),
            "select from streams",
        ));
    };
    let source = provider_as_source(Arc::new(SlotTable::new(Arc::clone(&slot.stream), true)));
    Ok(LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?)
}

/// Puts a projection under the aggregation, so that no column is read for nothing.
fn only_needed_columns(aggregate: Aggregate) -> Result<Aggregate, Error> {
    let mut needed = HashSet::new();
    for expr in aggregate.group_expr.iter().chain(&aggregate.aggr_expr) {
        expr.apply(|part| {
            // An aggregate's own ORDER BY and FILTER are visited like its arguments.
            if let Expr::Column(column) = part {
                needed.insert(column.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let schema = aggregate.input.schema();
    let mut columns: Vec<Expr> = schema
        .columns()
        .into_iter()
        .filter(|c| needed.contains(c))
        .map(Expr::Column)
        .collect();
    if columns.is_empty() {
        // count(*) needs rows, not columns; one column keeps the rows countable.
        columns.extend(schema.columns().into_iter().next().map(Expr::Column));
    }
    if columns.len() == schema.fields().len() {
        return Ok(aggregate);
    }
    let input = LogicalPlan::Projection(Projection::try_new(columns, aggregate.input)?);
    Ok(Aggregate::try_new(
        Arc::new(input),
        aggregate.group_expr,
        aggregate.aggr_expr,
    )?)
}

/// The group expression that each output column shows unchanged, by position.
pub fn key_of_output(
    aggregate: &Aggregate,
    above: &Steps,
    output: &DFSchema,
) -> Vec<Option<usize>> {
    let groups = aggregate.group_expr.len();
    let mut shown: Vec<Option<usize>> = (0..aggregate.schema.fields().len())
        .map(|i| (i < groups).then_some(i))
        .collect();
    for (step, input) in above {
        let Step::Project(exprs) = step else { continue };
        shown = exprs
            .iter()
            .map(|expr| match expr.clone().unalias() {
                Expr::Column(column) => input.index_of_column(&column).ok().and_then(|i| shown[i]),
                _ => None,
            })
            .collect();
    }
    debug_assert_eq!(shown.len(), output.fields().len());
    shown
}

/// For each output column, whether it depends on one of the columns `sources` of the aggregation.
pub fn depends_on(aggregate: &Aggregate, above: &Steps, sources: &HashSet<usize>) -> Vec<bool> {
    let mut depends: Vec<bool> = (0..aggregate.schema.fields().len())
        .map(|i| sources.contains(&i))
        .collect();
    for (step, input) in above {
        let Step::Project(exprs) = step else { continue };
        depends = exprs
            .iter()
            .map(|expr| {
                let columns = expr.column_refs();
                columns
                    .into_iter()
                    .any(|column| input.index_of_column(column).is_ok_and(|i| depends[i]))
            })
            .collect();
    }
    depends
}

/// Percentiles are of a randomised sketch: audits compare them by rank, not by value.
pub fn is_percentile(expr: &Expr) -> bool {
    match expr.clone().unalias_nested().data {
        Expr::AggregateFunction(call) => {
            call.func.name() == "approx_percentile_cont" || aggregate::is_random(&call.func)
        }
        _ => false,
    }
}

/// True if the aggregate's answers depend on the order of what it sums up.
pub fn rounds_in_order(expr: &Expr) -> bool {
    match expr.clone().unalias_nested().data {
        Expr::AggregateFunction(call) => aggregate::rounds_in_order(&call.func),
        _ => false,
    }
}
