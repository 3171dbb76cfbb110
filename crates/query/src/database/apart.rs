//! Parameters of other types than what stands beside them.
//!
//! A plan takes a parameter for what it stands beside: `i < $1` is a comparison of integers. Where the client declared a
//! type with values that this one cannot hold, such as a double, the parameter keeps its own, and what it stands beside is
//! converted, as Postgres does: `i < $1::double precision`.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::{
    scalar::ScalarValue,
    sql::sqlparser::ast::{
        self, CastKind, ExactNumberInfo, Expr, TimezoneInfo, Value, VisitMut, VisitorMut,
    },
};

/// By parameter, the type that it keeps; `None` where it has that of what it stands beside.
pub type Kept = Vec<Option<DataType>>;

/// `told`: what the statement takes them for.
pub fn kept(told: &[Option<DataType>], declared: &[Option<DataType>]) -> Kept {
    let declared = declared.iter().map(Option::as_ref);
    let declared = declared.chain(std::iter::repeat(None));
    let each = told.iter().zip(declared);
    let each = each.map(|(told, declared)| match (told, declared) {
        (Some(told), Some(declared)) => is_narrower(told, declared).then(|| declared.clone()),
        _ => None,
    });
    each.collect()
}

/// The same for values: a decimal has the digits that it has, whatever was declared.
pub fn with_values(kept: Kept, planned: &[Option<DataType>], values: &[ScalarValue]) -> Kept {
    let mut kept = kept;
    for (index, (planned, value)) in planned.iter().zip(values).enumerate() {
        if is_other_decimal(planned.as_ref(), value) {
            kept.resize(kept.len().max(index + 1), None);
            kept[index] = Some(value.data_type());
        }
    }
    kept
}

/// True of a decimal that a plan would have to round.
pub fn is_other_decimal(planned: Option<&DataType>, value: &ScalarValue) -> bool {
    match (planned, value) {
        (Some(planned), ScalarValue::Decimal128(Some(_), ..)) => *planned != value.data_type(),
        _ => false,
    }
}

/// Whether some values of `declared` are none of `told`, where Postgres would not convert them to that.
fn is_narrower(told: &DataType, declared: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Float32, Float64, Int16, Int32, Int64, Timestamp};
    match (told, declared) {
        (Int16, Int32 | Int64 | Float32 | Float64 | Decimal128(..))
        | (Int32, Int64 | Float32 | Float64 | Decimal128(..))
        | (Int64, Float32 | Float64 | Decimal128(..))
        | (Float32, Int32 | Int64 | Float64 | Decimal128(..))
        | (Decimal128(..), Float32 | Float64)
        | (Date32, Timestamp(..)) => true,
        (Decimal128(precision, scale), Int16 | Int32 | Int64) => {
            let digits = match declared {
                Int16 => 5,
                Int32 => 10,
                _ => 19,
            };
            i16::from(*precision) - i16::from(*scale) < digits
        }
        _ => false,
    }
}

/// The statement with these parameters as what they are.
pub fn cast(statement: &ast::Statement, kept: &Kept) -> ast::Statement {
    let mut cast = statement.clone();
    let ControlFlow::Continue(()) = cast.visit(&mut Casts { kept });
    cast
}

struct Casts<'a> {
    kept: &'a Kept,
}

impl VisitorMut for Casts<'_> {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
            && let Ok(number) = name.trim_start_matches('$').parse::<usize>()
            && let Some(Some(kept)) = number.checked_sub(1).and_then(|index| self.kept.get(index))
            && let Some(data_type) = named(kept)
        {
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(expr.clone()),
                data_type,
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

fn named(data_type: &DataType) -> Option<ast::DataType> {
    Some(match data_type {
        DataType::Int32 => ast::DataType::Integer(None),
        DataType::Int64 => ast::DataType::BigInt(None),
        DataType::Float32 => ast::DataType::Real,
        DataType::Float64 => ast::DataType::DoublePrecision,
        DataType::Decimal128(precision, scale) => ast::DataType::Numeric(
            ExactNumberInfo::PrecisionAndScale((*precision).into(), (*scale).into()),
        ),
        DataType::Timestamp(_, None) => ast::DataType::Timestamp(None, TimezoneInfo::None),
        DataType::Timestamp(_, Some(_)) => ast::DataType::Timestamp(None, TimezoneInfo::Tz),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use lambic_view::postgres::parse;

    use super::*;

    #[test]
    fn what_holds_all_values_is_taken() {
        use DataType::{Decimal128, Float64, Int16, Int32, Int64, Utf8};
        for (told, declared, keeps) in [
            (Int64, Int32, false),
            (Int32, Int64, true),
            (Int64, Float64, true),
            (Float64, Int64, false),
            (Decimal128(8, 2), Int16, false),
            (Decimal128(8, 2), Int32, true),
            (Decimal128(8, 2), Decimal128(38, 10), false),
            (Utf8, Int64, false),
            (Int64, Utf8, false),
        ] {
            let found = kept(&[Some(told.clone())], &[Some(declared.clone())]);
            let expected = keeps.then(|| declared.clone());
            assert_eq!(found, [expected], "{told} {declared}");
        }
        assert_eq!(kept(&[Some(Int32), None], &[]), [None, None]);
    }

    #[test]
    fn it_is_cast_where_it_stands() {
        let statement = parse("SELECT i + $1, $2 FROM t WHERE d = $1 AND i < $3").unwrap();
        let datafusion::sql::parser::Statement::Statement(statement) = statement else {
            panic!("a plain statement");
        };
        let kept = vec![
            Some(DataType::Float64),
            None,
            Some(DataType::Decimal128(4, 3)),
        ];
        assert_eq!(
            cast(&statement, &kept).to_string(),
            "SELECT i + CAST($1 AS DOUBLE PRECISION), $2 FROM t WHERE d = CAST($1 AS DOUBLE PRECISION) \
             AND i < CAST($3 AS NUMERIC(4,3))"
        );
    }
}
