//! Timestamps as Postgres lets people write them.
//!
//! Arrow reads `2026-01-01 10:00:00` and `2026-01-01`; Postgres also takes `2026-01-01 10:00` and an hour
//! alone (documentation, chapter 8.5.1). Literals that SQL casts to a timestamp are completed here,
//! after types are known, so that texts that merely look like times stay what they are.

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

/// Completes short timestamps; runs after type coercion.
#[derive(Debug)]
pub struct ShortTimestamps;

impl AnalyzerRule for ShortTimestamps {
    fn name(&self) -> &str {
        "short_timestamps"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let completed = plan.transform_up_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|part| Ok(complete_cast(part)))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(completed.data)
    }
}

fn complete_cast(expr: Expr) -> Transformed<Expr> {
    let (inner, field) = match &expr {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => (expr, field),
        _ => return Transformed::no(expr),
    };
    let Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) = inner.as_ref() else {
        return Transformed::no(expr);
    };
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        return Transformed::no(expr);
    }
    let Cow::Owned(text) = complete(text) else {
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

/// `2026-01-01 10:00+02` with seconds; whatever has another form comes back as it is.
pub fn complete(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| {
        bytes.len() >= to && bytes[from..to].iter().all(u8::is_ascii_digit)
    };
    let at = |index: usize, wanted: &[u8]| bytes.get(index).is_some_and(|b| wanted.contains(b));
    let date = digits(0, 4) && at(4, b"-") && digits(5, 7) && at(7, b"-") && digits(8, 10);
    if !(date && at(10, b" Tt") && digits(11, 13)) {
        return Cow::Borrowed(text);
    }
    let (end, missing) = match bytes.get(13) {
        Some(b':') if digits(14, 16) && !at(16, b":") => (16, ":00"),
        None | Some(b'+' | b'-' | b'Z' | b'z' | b' ') => (13, ":00:00"),
        _ => return Cow::Borrowed(text),
    };
    Cow::Owned(format!("{}{missing}{}", &text[..end], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_completed() {
        let cases = [
            ("2026-01-01 10:00", "2026-01-01 10:00:00"),
            ("2026-01-01T10:00Z", "2026-01-01T10:00:00Z"),
            ("2026-01-01 10:00+02", "2026-01-01 10:00:00+02"),
            (" 2026-01-01 10 ", "2026-01-01 10:00:00"),
            ("2026-01-01 10+02:00", "2026-01-01 10:00:00+02:00"),
            ("2026-01-01 10:00:07.5", "2026-01-01 10:00:07.5"),
            ("2026-01-01", "2026-01-01"),
            ("2026-01-01 1:00", "2026-01-01 1:00"),
            ("noon", "noon"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(complete(text), expected, "{text:?}");
        }
    }
}
