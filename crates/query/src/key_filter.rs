//! Which part of a view's keys the filters of a statement ask for.
//!
//! As an index over several columns is used anywhere: equality in the first ones, then perhaps a range in the next.
//! The filters are applied to what is found all the same, so the range may be larger than they say, never smaller.

use std::ops::Bound;

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion::{
    common::{Result, ScalarValue},
    logical_expr::{BinaryExpr, Expr, Operator},
};
use lambic_view::{KeyRange, ViewPlan};

use crate::pinned::view_error;

/// `None` if the filters do not bound the first column of the key.
pub fn range(plan: &ViewPlan, filters: &[Expr]) -> Result<Option<KeyRange>> {
    let comparisons: Vec<Comparison> = filters.iter().filter_map(comparison).collect();
    let mut equal: Vec<ArrayRef> = Vec::new();
    let (mut lower, mut upper) = (Bound::Unbounded, Bound::Unbounded);
    for key in 0..plan.key_columns() {
        let Some(output) = plan.output_of_key(key) else {
            break;
        };
        let name = plan.schema.field(output).name();
        let data_type = plan.state_schema.field(key).data_type();
        let of_column: Vec<&Comparison> = comparisons.iter().filter(|c| c.column == name).collect();
        let is = of_column.iter().find(|c| c.operator == Operator::Eq);
        if let Some(value) = is.and_then(|is| exactly(is.value, data_type)) {
            equal.push(value.to_array()?);
            continue;
        }
        // Floats that are not numbers have a place of their own in the order; the filters decide about them.
        if !data_type.is_floating() {
            for comparison in of_column {
                let Some(value) = exactly(comparison.value, data_type) else {
                    continue;
                };
                let end = value.to_array()?;
                // Of several ends on one side the last one is taken: each is true of what is wanted.
                match comparison.operator {
                    Operator::Gt => lower = Bound::Excluded(end),
                    Operator::GtEq => lower = Bound::Included(end),
                    Operator::Lt => upper = Bound::Excluded(end),
                    Operator::LtEq => upper = Bound::Included(end),
                    _ => {}
                }
            }
        }
        break;
    }
    if equal.is_empty() && matches!((&lower, &upper), (Bound::Unbounded, Bound::Unbounded)) {
        return Ok(None);
    }
    let range = plan.key_codec.range(&equal, lower.as_ref(), upper.as_ref());
    range.map(Some).map_err(view_error)
}

struct Comparison<'a> {
    column: &'a str,
    operator: Operator,
    value: &'a ScalarValue,
}

/// `column op literal`, or the other way round.
fn comparison(filter: &Expr) -> Option<Comparison<'_>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (column, operator, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    Some(Comparison {
        column: &column.name,
        operator,
        value,
    })
}

/// The value in the key's type, if it is the same value there.
fn exactly(value: &ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    let cast = value.cast_to(data_type).ok()?;
    let back = cast.cast_to(&value.data_type()).ok()?;
    (!cast.is_null() && back == *value).then_some(cast)
}
