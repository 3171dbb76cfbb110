//! Texts that SQL casts to another type, as Postgres lets people write them and Arrow does not read them.
//!
//! After types are known, so that texts that merely look like times or numbers stay what they are.

use std::borrow::Cow;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{Cast, Expr, LogicalPlan, TryCast, expr_rewriter::NamePreserver},
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

use crate::{postgres::without_exponent, timestamp};

/// Completes short timestamps and writes out numbers with exponents; runs after type coercion.
#[derive(Debug)]
pub struct CastLiterals;

impl AnalyzerRule for CastLiterals {
    fn name(&self) -> &str {
        "cast_literals"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let completed = plan.transform_up_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|part| Ok(with_readable(part)))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(completed.data)
    }
}

fn with_readable(expr: Expr) -> Transformed<Expr> {
    let (inner, field) = match &expr {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => (expr, field),
        _ => return Transformed::no(expr),
    };
    let Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) = inner.as_ref() else {
        return Transformed::no(expr);
    };
    let Cow::Owned(text) = readable(text, field.data_type()) else {
        return Transformed::no(expr);
    };
    let literal = Box::new(Expr::Literal(
        ScalarValue::Utf8(Some(text)),
        metadata.clone(),
    ));
    Transformed::yes(match expr {
        Expr::Cast(cast) => Expr::Cast(Cast {
            expr: literal,
            ..cast
        }),
        Expr::TryCast(cast) => Expr::TryCast(TryCast {
            expr: literal,
            ..cast
        }),
        _ => unreachable!("matched above"),
    })
}

/// The text as Arrow reads it for `data_type`; borrowed if it is none of those that are completed.
fn readable<'a>(text: &'a str, data_type: &DataType) -> Cow<'a, str> {
    match data_type {
        DataType::Timestamp(..) => timestamp::complete(text),
        data_type if data_type.is_decimal() => without_exponent(text),
        _ => Cow::Borrowed(text),
    }
}
