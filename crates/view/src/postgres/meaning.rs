//! The rule after types are coerced: operators, casts and comparisons that mean what Postgres means.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Aggregate, BinaryExpr, Cast, Distinct, Expr, ExprSchemable, LogicalPlan, Operator,
        Projection,
        expr::{AggregateFunctionParams, InSubquery, Sort, WindowFunctionParams},
        expr_rewriter::NamePreserver,
        utils::merge_schema,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

use super::{
    ValueError,
    arithmetic::Checked,
    cast::PostgresCast,
    float::{Canonical, is_float},
    function::{self, Meaning},
    interval::{Length, is_interval},
    round::{HalfEven, Round},
};

/// Replaces what would give another value than in Postgres. Doing it twice changes nothing: plans of
/// views are analysed again when they become physical.
#[derive(Debug)]
pub struct PostgresMeaning;

impl AnalyzerRule for PostgresMeaning {
    fn name(&self) -> &str {
        "postgres_meaning"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewritten)?.data)
    }
}

fn rewritten(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = schema_of_inputs(&node)?;
    let names = NamePreserver::new(&node);
    // What is sorted by or joined on is compared as a whole.
    let is_sort = matches!(node, LogicalPlan::Sort(_));
    let compared = matches!(node, LogicalPlan::Sort(_) | LogicalPlan::Join(_));
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|part| rewritten_expr(part, &schema))?;
        let mut rewritten = rewritten.update_data(|expr| name.restore(expr));
        if compared && !is_canonical(&rewritten.data, &schema) {
            rewritten = Transformed::yes(Canonical::of(rewritten.data));
        }
        if is_sort {
            let changed = rewritten.transformed;
            let (expr, one) = comparable(rewritten.data, &schema);
            rewritten = Transformed::new_transformed(expr, changed || one);
        }
        Ok(rewritten)
    })?;
    let changed = node.transformed;
    let node = match node.data {
        LogicalPlan::Aggregate(aggregate) => {
            no_order_of_others(&aggregate)?;
            grouped_by_canonical(aggregate)?
        }
        LogicalPlan::Distinct(Distinct::All(input)) => match canonical_columns(&input)? {
            Some(input) => Transformed::yes(LogicalPlan::Distinct(Distinct::All(Arc::new(input)))),
            None => Transformed::no(LogicalPlan::Distinct(Distinct::All(input))),
        },
        other => Transformed::no(other),
    };
    Ok(Transformed::new_transformed(
        node.data,
        changed || node.transformed,
    ))
}

/// The columns that the expressions of `node` may name.
pub fn schema_of_inputs(node: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&node.inputs());
    if let LogicalPlan::TableScan(scan) = node {
        let all =
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?;
        schema.merge(&all);
    }
    Ok(schema)
}

/// A call would first make the names of all calls within it, and it is asked at each link of a chain.
fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType> {
    match function::called::<Checked>(expr) {
        Some((checked, arguments)) => {
            let types = arguments.iter().map(|argument| type_of(argument, schema));
            checked.returns(&types.collect::<Result<Vec<_>>>()?)
        }
        None => expr.get_type(schema),
    }
}

fn rewritten_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let type_of = |expr: &Expr| type_of(expr, schema);
    Ok(match expr {
        Expr::BinaryExpr(binary) => {
            let (left, right) = (type_of(&binary.left)?, type_of(&binary.right)?);
            if let Some(checked) = Checked::of(binary.op, &left, &right) {
                let operands = vec![*binary.left, *binary.right];
                return Ok(Transformed::yes(function::call(checked, operands)));
            }
            let of_intervals = is_interval(&left) && is_interval(&right);
            if !compares(binary.op) || !(is_float(&left) || is_float(&right) || of_intervals) {
                return Ok(Transformed::no(Expr::BinaryExpr(binary)));
            }
            let BinaryExpr { left, op, right } = binary;
            let (left, left_changed) = comparable(*left, schema);
            let (right, right_changed) = comparable(*right, schema);
            let compared = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
            Transformed::new_transformed(compared, left_changed || right_changed)
        }
        Expr::Negative(inner) => {
            let data_type = type_of(&inner)?;
            match (
                Checked::of(Operator::Minus, &data_type, &data_type),
                &data_type,
            ) {
                (Some(checked), DataType::Int16 | DataType::Int32 | DataType::Int64) => {
                    let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
                    Transformed::yes(function::call(checked, vec![zero, *inner]))
                }
                _ => Transformed::no(Expr::Negative(inner)),
            }
        }
        Expr::Cast(cast) => match PostgresCast::of(&type_of(&cast.expr)?, cast.field.data_type()) {
            Some(postgres) => Transformed::yes(function::call(postgres, vec![*cast.expr])),
            None => Transformed::no(Expr::Cast(cast)),
        },
        Expr::Between(mut between) => {
            let changed = [&mut between.expr, &mut between.low, &mut between.high]
                .into_iter()
                .map(|operand| make_comparable(operand, schema))
                .fold(false, |changed, one| changed | one);
            Transformed::new_transformed(Expr::Between(between), changed)
        }
        Expr::InList(mut list) => {
            let mut changed = make_comparable(&mut list.expr, schema);
            for item in &mut list.list {
                changed |= make_comparable(item, schema);
            }
            Transformed::new_transformed(Expr::InList(list), changed)
        }
        Expr::InSubquery(InSubquery {
            mut expr,
            mut subquery,
            negated,
        }) => {
            let mut changed = make_canonical(&mut expr, schema);
            if let Some(plan) = canonical_columns(&subquery.subquery)? {
                subquery.subquery = Arc::new(plan);
                changed = true;
            }
            let expr = Expr::InSubquery(InSubquery {
                expr,
                subquery,
                negated,
            });
            Transformed::new_transformed(expr, changed)
        }
        Expr::Case(mut case) => {
            let mut changed = false;
            if let Some(operand) = &mut case.expr {
                changed |= make_canonical(operand, schema);
                for (when, _) in &mut case.when_then_expr {
                    changed |= make_canonical(when, schema);
                }
            }
            Transformed::new_transformed(Expr::Case(case), changed)
        }
        // Its argument became a numeric when types were coerced: others were planned with the type that it had then.
        Expr::ScalarFunction(call)
            if Round::is_for(&call, call.args.first().map(type_of).transpose()?.as_ref()) =>
        {
            let to = type_of(&Expr::ScalarFunction(call.clone()))?;
            let rounded = Box::new(Round::of(call.args));
            Transformed::yes(Expr::Cast(Cast::new(rounded, to)))
        }
        Expr::ScalarFunction(call)
            if call.func.name() == "round"
                && matches!(call.args.as_slice(), [value] if is_float(&type_of(value)?)) =>
        {
            Transformed::yes(function::call(HalfEven, call.args))
        }
        Expr::ScalarFunction(mut call)
            if matches!(call.func.name(), "greatest" | "least" | "nullif") =>
        {
            let mut changed = false;
            for argument in &mut call.args {
                changed |= make_canonical(argument, schema);
            }
            Transformed::new_transformed(Expr::ScalarFunction(call), changed)
        }
        Expr::AggregateFunction(mut call) => {
            let AggregateFunctionParams {
                args,
                distinct,
                order_by,
                ..
            } = &mut call.params;
            let compares = *distinct || compares_arguments(call.func.name());
            let mut changed = false;
            if compares {
                for argument in args.iter_mut() {
                    changed |= make_canonical(argument, schema);
                }
            }
            // WITHIN GROUP (ORDER BY x) names the argument, not an order.
            if !call.func.supports_within_group_clause() {
                changed |= canonical_order(order_by, schema);
            }
            Transformed::new_transformed(Expr::AggregateFunction(call), changed)
        }
        Expr::WindowFunction(mut call) => {
            let WindowFunctionParams {
                args,
                partition_by,
                order_by,
                distinct,
                ..
            } = &mut call.params;
            let mut changed = canonical_order(order_by, schema);
            for part in partition_by.iter_mut() {
                changed |= make_canonical(part, schema);
            }
            if *distinct || compares_arguments(call.fun.name()) {
                for argument in args.iter_mut() {
                    changed |= make_canonical(argument, schema);
                }
            }
            Transformed::new_transformed(Expr::WindowFunction(call), changed)
        }
        other => Transformed::no(other),
    })
}

pub fn compares(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(
        operator,
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
    )
}

fn compares_arguments(aggregate: &str) -> bool {
    matches!(aggregate, "min" | "max")
}

fn canonical_order(order_by: &mut [Sort], schema: &DFSchema) -> bool {
    let mut changed = false;
    for sort in order_by {
        let expr = std::mem::take(&mut sort.expr);
        let (expr, one) = comparable(expr, schema);
        sort.expr = expr;
        changed |= one;
    }
    changed
}

fn make_comparable(expr: &mut Expr, schema: &DFSchema) -> bool {
    let (comparable, changed) = comparable(std::mem::take(expr), schema);
    *expr = comparable;
    changed
}

/// As [`canonical`], but intervals become their lengths.
fn comparable(expr: Expr, schema: &DFSchema) -> (Expr, bool) {
    match expr.get_type(schema) {
        Ok(data_type) if is_interval(&data_type) => (Length::of(expr), true),
        _ => canonical(expr, schema),
    }
}

fn make_canonical(expr: &mut Expr, schema: &DFSchema) -> bool {
    let (canonical, changed) = canonical(std::mem::take(expr), schema);
    *expr = canonical;
    changed
}

/// `expr` in the form in which it is compared, and whether that is another than it had.
fn canonical(expr: Expr, schema: &DFSchema) -> (Expr, bool) {
    if is_canonical(&expr, schema) {
        return (expr, false);
    }
    let canonical = Canonical::of(expr.clone());
    let changed = canonical != expr;
    (canonical, changed)
}

/// True where equal values have one form already.
fn is_canonical(expr: &Expr, schema: &DFSchema) -> bool {
    if !expr
        .get_type(schema)
        .is_ok_and(|data_type| is_float(&data_type))
    {
        return true;
    }
    match expr {
        Expr::Cast(Cast { expr, .. }) => expr
            .get_type(schema)
            .is_ok_and(|from| from.is_integer() || from.is_decimal()),
        expr => Canonical::is(expr),
    }
}

/// DataFusion sorts the rows of all aggregates once, and those with DISTINCT would take the order of another.
fn no_order_of_others(aggregate: &Aggregate) -> Result<()> {
    let calls = aggregate.aggr_expr.iter().filter_map(|expr| {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        match expr {
            Expr::AggregateFunction(call) if !call.func.supports_within_group_clause() => {
                Some(&call.params)
            }
            _ => None,
        }
    });
    let ordered: Vec<_> = calls.filter(|call| !call.order_by.is_empty()).collect();
    let differ = ordered
        .windows(2)
        .any(|pair| pair[0].order_by != pair[1].order_by);
    if differ && ordered.iter().any(|call| call.distinct) {
        let message =
            "aggregates of DISTINCT values beside others of another order are not supported";
        return Err(ValueError::new("0A000", message)
            .with_hint(
                "compute them in queries of their own, or without DISTINCT over SELECT DISTINCT",
            )
            .into());
    }
    Ok(())
}

/// Groups of doubles are of canonical ones, so that a key is the same whichever record came first.
fn grouped_by_canonical(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(aggregate.input.schema());
    let names = NamePreserver::new_for_projection();
    let all = |expr: &Expr| matches!(expr, Expr::GroupingSet(_)) || is_canonical(expr, &schema);
    if aggregate.group_expr.iter().all(all) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let groups = aggregate.group_expr.into_iter().map(|expr| {
        if all(&expr) {
            return expr;
        }
        let name = names.save(&expr);
        name.restore(Canonical::of(expr.unalias()))
    });
    let groups = groups.collect();
    let aggregate = Aggregate::try_new(aggregate.input, groups, aggregate.aggr_expr)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

/// The same rows with every double in canonical form; `None` if they are that already.
fn canonical_columns(input: &Arc<LogicalPlan>) -> Result<Option<LogicalPlan>> {
    let schema = input.schema();
    if !schema
        .fields()
        .iter()
        .any(|field| is_float(field.data_type()))
    {
        return Ok(None);
    }
    if let LogicalPlan::Projection(projection) = input.as_ref() {
        let below = projection.input.schema();
        if projection.expr.iter().all(|expr| is_canonical(expr, below)) {
            return Ok(None);
        }
    }
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Expr::from((qualifier, field));
        match is_float(field.data_type()) {
            true => Canonical::of(column).alias_qualified(qualifier.cloned(), field.name()),
            false => column,
        }
    });
    let columns = columns.collect();
    let projection = Projection::try_new(columns, Arc::clone(input))?;
    Ok(Some(LogicalPlan::Projection(projection)))
}
