//! The rule before types are coerced: in which type values meet.
//!
//! DataFusion brings a double and a decimal together as a decimal of 15 places, and a timestamp and a
//! text in nanoseconds, which end in the year 2262. In Postgres doubles and microseconds win. Decimals
//! are divided and rounded here, because the type of the result is part of the answer.

use std::sync::Arc;

use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, TimeUnit, i256,
};
use datafusion::{
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union,
        expr::InSubquery, expr_rewriter::NamePreserver,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

use super::{
    arithmetic::DecimalDivide,
    function,
    meaning::{compares, schema_of_inputs},
    numeral::Numeral,
    round::Round,
};

#[derive(Debug)]
pub struct PostgresOperands;

impl AnalyzerRule for PostgresOperands {
    fn name(&self) -> &str {
        "postgres_operands"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewritten)?.data)
    }
}

fn rewritten(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = schema_of_inputs(&node)?;
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|part| rewritten_expr(part, &schema))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    let changed = node.transformed;
    let node = match node.data {
        LogicalPlan::Union(union) => aligned_union(union)?,
        LogicalPlan::Join(mut join) => {
            let mut changed = false;
            for (left, right) in &mut join.on {
                let types = vec![
                    left.get_type(join.left.schema()).ok(),
                    right.get_type(join.right.schema()).ok(),
                ];
                changed |= align_compared(&mut [left, right], types);
            }
            Transformed::new_transformed(LogicalPlan::Join(join), changed)
        }
        other => Transformed::no(other),
    };
    let changed = changed || node.transformed;
    if !changed {
        return Ok(Transformed::no(node.data));
    }
    Ok(Transformed::yes(node.data.recompute_schema()?))
}

fn rewritten_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(mut binary) => {
            let mut types = [
                binary.left.get_type(schema).ok(),
                binary.right.get_type(schema).ok(),
            ];
            if let (Operator::Divide, [Some(left), Some(right)]) = (binary.op, &types)
                && DecimalDivide::of(left, right)
            {
                let operands = vec![*binary.left, *binary.right];
                return Ok(Transformed::yes(function::call(DecimalDivide, operands)));
            }
            let BinaryExpr { left, op, right } = &mut binary;
            let arithmetic = matches!(op, Operator::Plus | Operator::Minus);
            // A date and an interval make a timestamp: hours would be lost.
            let moved = match &types {
                [Some(DataType::Date32), Some(DataType::Interval(_))] => Some(left.as_mut()),
                [Some(DataType::Interval(_)), Some(DataType::Date32)] => Some(right.as_mut()),
                _ => None,
            };
            if arithmetic && let Some(date) = moved {
                *date = cast(
                    std::mem::take(date),
                    DataType::Timestamp(TimeUnit::Microsecond, None),
                );
                return Ok(Transformed::yes(Expr::BinaryExpr(binary)));
            }
            let of_times = arithmetic && types.iter().flatten().all(is_temporal);
            let mut operands = [left.as_mut(), right.as_mut()];
            let changed = if compares(*op) {
                align_compared(&mut operands, types.into())
            } else if of_times {
                align_known(&mut operands, &types)
            } else {
                op.is_numerical_operators() && doubles(&mut operands, &mut types)
            };
            Transformed::new_transformed(Expr::BinaryExpr(binary), changed)
        }
        Expr::Between(mut between) => {
            let mut parts = [
                between.expr.as_mut(),
                between.low.as_mut(),
                between.high.as_mut(),
            ];
            let types = types_of(&parts, schema);
            let changed = align_compared(&mut parts, types);
            Transformed::new_transformed(Expr::Between(between), changed)
        }
        Expr::InList(mut list) => {
            let mut parts = vec![list.expr.as_mut()];
            parts.extend(&mut list.list);
            let types = types_of(&parts, schema);
            let changed = align_compared(&mut parts, types);
            Transformed::new_transformed(Expr::InList(list), changed)
        }
        Expr::InSubquery(mut within) => {
            let changed = align_subquery(&mut within, schema)?;
            Transformed::new_transformed(Expr::InSubquery(within), changed)
        }
        Expr::Case(mut case) => {
            let mut whens: Vec<&mut Expr> = Vec::new();
            let mut thens: Vec<&mut Expr> = Vec::new();
            for (when, then) in &mut case.when_then_expr {
                whens.push(when);
                thens.push(then);
            }
            thens.extend(case.else_expr.as_deref_mut());
            let mut changed = align(&mut thens, schema);
            if let Some(operand) = case.expr.as_deref_mut() {
                whens.push(operand);
                changed |= align(&mut whens, schema);
            }
            Transformed::new_transformed(Expr::Case(case), changed)
        }
        Expr::ScalarFunction(call)
            if Round::is_for(&call, first_type(&call.args, schema).as_ref()) =>
        {
            Transformed::yes(Round::of(call.args))
        }
        Expr::ScalarFunction(mut call) if call.func.name() == "array_has" => {
            let changed = align_membership(&mut call.args, schema);
            Transformed::new_transformed(Expr::ScalarFunction(call), changed)
        }
        Expr::ScalarFunction(mut call)
            if matches!(
                call.func.name(),
                "coalesce" | "nullif" | "greatest" | "least" | "nvl" | "nvl2"
            ) =>
        {
            let mut parts: Vec<&mut Expr> = call.args.iter_mut().collect();
            let changed = align(&mut parts, schema);
            Transformed::new_transformed(Expr::ScalarFunction(call), changed)
        }
        other => Transformed::no(other),
    })
}

fn first_type(arguments: &[Expr], schema: &DFSchema) -> Option<DataType> {
    arguments.first()?.get_type(schema).ok()
}

fn is_temporal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32)
}

fn types_of(parts: &[&mut Expr], schema: &DFSchema) -> Vec<Option<DataType>> {
    let parts = parts.iter();
    parts.map(|part| part.get_type(schema).ok()).collect()
}

fn align(parts: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types = types_of(parts, schema);
    align_known(parts, &types)
}

/// Casts those whose type would not be the one in which all meet. Where a type is not known yet, it is
/// left to DataFusion.
fn align_known(parts: &mut [&mut Expr], types: &[Option<DataType>]) -> bool {
    let mut changed = false;
    for (part, data_type) in parts.iter_mut().zip(types) {
        let Some(data_type) = data_type else { continue };
        if let Some(meeting) = meeting_type(data_type, types.iter().flatten()) {
            let expr = std::mem::take(*part);
            **part = cast(expr, meeting);
            changed = true;
        }
    }
    changed
}

/// The type to cast to, if a value of type `own` meets the others in another than DataFusion thinks.
fn meeting_type<'a>(
    own: &DataType,
    mut others: impl Iterator<Item = &'a DataType> + Clone,
) -> Option<DataType> {
    match own {
        data_type if data_type.is_decimal() => others
            .any(DataType::is_floating)
            .then_some(DataType::Float64),
        DataType::Utf8 | DataType::Date32 | DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let found = others.clone().find(|other| match (own, other) {
                (_, DataType::Timestamp(TimeUnit::Nanosecond, _)) => false,
                (DataType::Timestamp(_, own), DataType::Timestamp(_, other)) => {
                    own.is_some() == other.is_some()
                }
                (_, other) => matches!(other, DataType::Timestamp(..)),
            });
            found.cloned().or_else(|| beyond_nanoseconds(own, others))
        }
        _ => None,
    }
}

/// A date and a moment in nanoseconds, such as `now()`, meet in microseconds: dates reach further than nanoseconds.
fn beyond_nanoseconds<'a>(
    own: &DataType,
    mut others: impl Iterator<Item = &'a DataType>,
) -> Option<DataType> {
    let zone = match own {
        DataType::Date32 => others.find_map(|other| match other {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => Some(zone),
            _ => None,
        })?,
        DataType::Timestamp(_, zone) if others.any(|other| *other == DataType::Date32) => zone,
        _ => return None,
    };
    Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
}

/// Aligns what is compared.
fn align_compared(parts: &mut [&mut Expr], mut types: Vec<Option<DataType>>) -> bool {
    let of_decimals = exact_decimals(parts, &mut types);
    let of_reals = doubles(parts, &mut types);
    align_known(parts, &types) || of_decimals || of_reals
}

/// A real and an integer meet as doubles: 24 bits do not hold every integer.
fn doubles(parts: &mut [&mut Expr], types: &mut [Option<DataType>]) -> bool {
    let has = |is: fn(&DataType) -> bool| types.iter().flatten().any(is);
    if !(has(|found| *found == DataType::Float32) && has(DataType::is_integer)) {
        return false;
    }
    for (part, data_type) in parts.iter_mut().zip(types) {
        if let Some(found) = data_type
            && (*found == DataType::Float32 || found.is_integer())
        {
            *found = DataType::Float64;
            **part = cast(std::mem::take(*part), DataType::Float64);
        }
    }
    true
}

/// Lets decimals be compared without losing a digit: quoted numbers are what they say, whatever the scale of what they
/// meet, and where 38 digits do not hold all of both, 76 do.
fn exact_decimals(parts: &mut [&mut Expr], types: &mut [Option<DataType>]) -> bool {
    let mut known = types.iter().flatten();
    if !known.clone().any(DataType::is_decimal) || known.any(DataType::is_floating) {
        return false;
    }
    let mut changed = false;
    for (part, data_type) in parts.iter_mut().zip(types.iter_mut()) {
        if let Some(decimal) = quoted_decimal(part) {
            *data_type = decimal.get_type(&DFSchema::empty()).ok();
            **part = decimal;
            changed = true;
        }
    }
    let Some(wide) = wide_decimal(types.iter().flatten()) else {
        return changed;
    };
    for (part, data_type) in parts.iter_mut().zip(types) {
        if data_type.as_ref().is_some_and(|found| !found.is_null()) {
            **part = cast(std::mem::take(*part), wide.clone());
            *data_type = Some(wide.clone());
        }
    }
    true
}

/// The decimal that holds every value of these types, if it takes more than 38 digits.
fn wide_decimal<'a>(types: impl Iterator<Item = &'a DataType>) -> Option<DataType> {
    holding(types).filter(|found| matches!(found, DataType::Decimal256(..)))
}

/// The decimal that holds every value of these types.
fn holding<'a>(types: impl Iterator<Item = &'a DataType>) -> Option<DataType> {
    let (mut before, mut after) = (0, 0);
    for data_type in types.filter(|found| !found.is_null()) {
        let (precision, scale) = digits(data_type)?;
        before = before.max(precision - scale);
        after = after.max(scale);
    }
    let (all, widest) = (before + after, DECIMAL256_MAX_PRECISION as i8);
    Some(match all <= DECIMAL128_MAX_PRECISION as i8 {
        true => DataType::Decimal128(all as u8, after),
        false => DataType::Decimal256(DECIMAL256_MAX_PRECISION, after.min(widest - before)),
    })
}

/// `x = ANY (list)` of decimals with other places than `x` has.
fn align_membership(arguments: &mut [Expr], schema: &DFSchema) -> bool {
    let [list, element] = arguments else {
        return false;
    };
    let (Ok(DataType::List(field)), Ok(own)) = (list.get_type(schema), element.get_type(schema))
    else {
        return false;
    };
    let other = field.data_type();
    if *other == own || !(other.is_decimal() || own.is_decimal()) {
        return false;
    }
    let Some(meeting) = holding([other, &own].into_iter()) else {
        return false;
    };
    let of_list = DataType::new_list(meeting.clone(), true);
    *list = cast(std::mem::take(list), of_list);
    *element = cast(std::mem::take(element), meeting);
    true
}

/// How many digits a number of this type has, and how many of them after the point; a text may have any.
fn digits(data_type: &DataType) -> Option<(i8, i8)> {
    match data_type {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            Some((*precision as i8, *scale))
        }
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 | DataType::UInt64 => Some((20, 0)),
        text if text.is_string() => {
            let widest = DECIMAL256_MAX_PRECISION as i8;
            Some((widest, widest / 2))
        }
        _ => None,
    }
}

/// A quoted number as the decimal that it says; with the type of what it meets it would be rounded to that.
fn quoted_decimal(part: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) = part else {
        return None;
    };
    let Numeral {
        is_negative,
        mut digits,
        mut scale,
    } = Numeral::read(text)?;
    let most = i64::from(DECIMAL256_MAX_PRECISION);
    if !(-most..=most).contains(&scale) {
        return None;
    }
    while scale < 0 {
        digits.push('0');
        scale += 1;
    }
    let count = digits.trim_start_matches('0').len().max(1);
    let precision = u8::try_from(count.max(scale.unsigned_abs() as usize)).ok()?;
    let sign = if is_negative { "-" } else { "" };
    let value = format!("{sign}{digits}");
    let value = if precision <= DECIMAL128_MAX_PRECISION {
        ScalarValue::Decimal128(Some(value.parse().ok()?), precision, scale as i8)
    } else if precision <= DECIMAL256_MAX_PRECISION {
        ScalarValue::Decimal256(Some(i256::from_string(&value)?), precision, scale as i8)
    } else {
        return None;
    };
    Some(Expr::Literal(value, metadata.clone()))
}

fn cast(expr: Expr, to: DataType) -> Expr {
    if let Expr::Literal(value, metadata) = &expr
        && value.data_type().is_decimal()
        && let Ok(value @ ScalarValue::Float64(_)) = value.cast_to(&to)
    {
        return Expr::Literal(value, metadata.clone());
    }
    Expr::Cast(Cast::new(Box::new(expr), to))
}

fn align_subquery(within: &mut InSubquery, schema: &DFSchema) -> Result<bool> {
    let inner = within.subquery.subquery.schema();
    let (Ok(own), Some(field)) = (within.expr.get_type(schema), inner.fields().first()) else {
        return Ok(false);
    };
    let other = field.data_type().clone();
    if own.is_decimal() != other.is_decimal()
        && let Some(wide) = wide_decimal([&own, &other].into_iter())
    {
        *within.expr = cast(std::mem::take(within.expr.as_mut()), wide.clone());
        let plan = with_types(&within.subquery.subquery, &[Some(wide)])?;
        within.subquery.subquery = Arc::new(plan);
        return Ok(true);
    }
    if let Some(meeting) = meeting_type(&own, [&other].into_iter()) {
        let expr = std::mem::take(within.expr.as_mut());
        *within.expr = cast(expr, meeting);
        return Ok(true);
    }
    let Some(meeting) = meeting_type(&other, [&own].into_iter()) else {
        return Ok(false);
    };
    let plan = with_types(&within.subquery.subquery, &[Some(meeting)])?;
    within.subquery.subquery = Arc::new(plan);
    Ok(true)
}

/// The same rows with those columns cast that have a type here.
fn with_types(input: &Arc<LogicalPlan>, types: &[Option<DataType>]) -> Result<LogicalPlan> {
    let columns = input.schema().iter().zip(types);
    let columns = columns.map(|((qualifier, field), data_type)| {
        let column = Expr::from((qualifier, field));
        match data_type {
            Some(to) => cast(column, to.clone()).alias_qualified(qualifier.cloned(), field.name()),
            None => column,
        }
    });
    let columns = columns.collect();
    let projection = Projection::try_new(columns, Arc::clone(input))?;
    Ok(LogicalPlan::Projection(projection))
}

fn aligned_union(union: Union) -> Result<Transformed<LogicalPlan>> {
    let type_at = |input: &Arc<LogicalPlan>, column: usize| {
        let field = input.schema().fields().get(column);
        field.map(|field| field.data_type().clone())
    };
    let mut inputs = Vec::with_capacity(union.inputs.len());
    let mut changed = false;
    for input in &union.inputs {
        let meetings: Vec<Option<DataType>> = (0..input.schema().fields().len())
            .map(|column| {
                let own = type_at(input, column)?;
                let all: Vec<DataType> = union
                    .inputs
                    .iter()
                    .filter_map(|other| type_at(other, column))
                    .collect();
                // A text stays one in a union, whatever it is united with.
                match own.is_string() {
                    true => None,
                    false => meeting_type(&own, all.iter()),
                }
            })
            .collect();
        inputs.push(if meetings.iter().any(Option::is_some) {
            changed = true;
            Arc::new(with_types(input, &meetings)?)
        } else {
            Arc::clone(input)
        });
    }
    Ok(match changed {
        true => Transformed::yes(LogicalPlan::Union(Union {
            inputs,
            schema: union.schema,
        })),
        false => Transformed::no(LogicalPlan::Union(union)),
    })
}
