//! What a statement says in Postgres's words and DataFusion would not hear, said in words that it knows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, CharacterLength, DataType, ExactNumberInfo, Expr, Fetch, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, LimitClause, ObjectName,
    Query, SetExpr, Statement, TableFactor, Value, Values, VisitMut, VisitorMut,
};

use super::{ValueError, ordinal, outer, quantified, refused, repeated, row, size};
use crate::window;

/// `FETCH FIRST n ROWS ONLY`.
fn fetch_is_limit(query: &mut Query) {
    let Some(Fetch {
        with_ties: false,
        percent: false,
        quantity,
    }) = &query.fetch
    else {
        return;
    };
    let rows = quantity.clone().unwrap_or_else(|| number(1));
    match &mut query.limit_clause {
        limit @ None => {
            *limit = Some(LimitClause::LimitOffset {
                limit: Some(rows),
                offset: None,
                limit_by: Vec::new(),
            });
        }
        Some(LimitClause::LimitOffset {
            limit: limit @ None,
            ..
        }) => *limit = Some(rows),
        Some(_) => return,
    }
    query.fetch = None;
}

/// Digits that decimals have room for.
const DECIMAL_DIGITS: usize = 38;

/// Rewrites `statement` in place; refuses what would be answered as if something else was asked.
pub fn adapt(statement: &mut Statement) -> Result<(), ValueError> {
    refused::check(statement)?;
    size::check(statement)?;
    outer::qualify(statement);
    match statement.visit(&mut Words::default()) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

#[derive(Default)]
struct Words {
    /// What comparisons of rows have become.
    parts: usize,
}

impl VisitorMut for Words {
    type Break = ValueError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<ValueError> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            doubles_beside_doubles(values);
        }
        repeated::tell_apart_under_lists(query);
        fetch_is_limit(query);
        ordinal::name_windows(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<ValueError> {
        // Before what is in it is visited: sources of windows become queries.
        window::adapt(table);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<ValueError> {
        let other = match expr {
            Expr::AtTimeZone {
                timestamp,
                time_zone,
            } => Some(call(
                "timezone",
                vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()],
            )),
            // DataFusion would call its own `date_part`, whatever is registered.
            Expr::Extract { field, expr, .. } => Some(call(
                "date_part",
                vec![string(&field.to_string()), expr.as_ref().clone()],
            )),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => quantified::adapted(expr),
            Expr::BinaryOp { .. }
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::InList { .. } => match row::compared(expr, &mut self.parts) {
                Ok(compared) => compared,
                Err(error) => return ControlFlow::Break(error),
            },
            Expr::Cast {
                expr: inner,
                data_type,
                ..
            } => adapted_cast(inner, data_type),
            Expr::Value(value) => match &value.value {
                // More digits than decimals have: a double, as it was written.
                Value::Number(text, _) if is_decimal(text) && digits(text).is_none() => {
                    Some(cast(string(text), DataType::DoublePrecision))
                }
                _ => None,
            },
            _ => None,
        };
        if let Some(other) = other {
            *expr = other;
        }
        ControlFlow::Continue(())
    }
}

fn adapted_cast(inner: &Expr, data_type: &DataType) -> Option<Expr> {
    let cut = |length: u64| {
        let text = cast(inner.clone(), DataType::Text);
        call("left", vec![text, number(length)])
    };
    match data_type {
        DataType::Varchar(Some(CharacterLength::IntegerLength { length, .. }))
        | DataType::CharacterVarying(Some(CharacterLength::IntegerLength { length, .. })) => {
            Some(cut(*length))
        }
        DataType::Char(length) | DataType::Character(length) => {
            let length = match length {
                Some(CharacterLength::IntegerLength { length, .. }) => *length,
                Some(CharacterLength::Max) => return None,
                None => 1,
            };
            Some(call("rpad", vec![cut(length), number(length)]))
        }
        // Without precision a numeric keeps the digits that it has.
        DataType::Numeric(ExactNumberInfo::None)
        | DataType::Decimal(ExactNumberInfo::None)
        | DataType::Dec(ExactNumberInfo::None) => {
            let text = literal(inner)?;
            let (precision, scale) = digits(&text)?;
            let info = ExactNumberInfo::PrecisionAndScale(precision as u64, scale as i64);
            Some(cast(inner.clone(), DataType::Numeric(info)))
        }
        _ => None,
    }
}

/// In `VALUES` a number beside doubles is one: DataFusion would make all of them decimals.
fn doubles_beside_doubles(values: &mut Values) {
    let columns = values.rows.iter().map(|row| row.len()).max().unwrap_or(0);
    for column in 0..columns {
        let is_double = |expr: &Expr| match expr {
            Expr::Cast { data_type, .. } => matches!(
                data_type,
                DataType::DoublePrecision
                    | DataType::Double(_)
                    | DataType::Float8
                    | DataType::Float4
                    | DataType::Float(_)
                    | DataType::Real
            ),
            _ => false,
        };
        let mut cells: Vec<&mut Expr> = values
            .rows
            .iter_mut()
            .filter_map(|row| row.get_mut(column))
            .collect();
        if cells.iter().any(|cell| is_double(cell)) {
            for cell in &mut cells {
                if literal(cell).is_some_and(|text| is_decimal(&text)) {
                    **cell = cast(cell.clone(), DataType::DoublePrecision);
                }
            }
        }
    }
}

/// The text of a number, be it quoted or not.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text.clone()),
            Value::SingleQuotedString(text) => Some(text.trim().to_owned()),
            _ => None,
        },
        Expr::Nested(inner) => literal(inner),
        Expr::UnaryOp { expr, .. } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn is_decimal(number: &str) -> bool {
    number.contains(['.', 'e', 'E'])
}

/// Precision and scale of a number's text, if a decimal has room for it.
fn digits(number: &str) -> Option<(usize, usize)> {
    let number = number.trim_start_matches(['-', '+']).replace('_', "");
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (number.as_str(), 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let zeros = format!("{whole}{fraction}");
    let significant = zeros.trim_start_matches('0').len() as i64;
    let scale = fraction.len() as i64 - exponent;
    let precision = if scale < 0 {
        significant - scale
    } else {
        significant.max(scale)
    };
    let precision = usize::try_from(precision.max(1)).ok()?;
    (precision <= DECIMAL_DIGITS).then(|| (precision, scale.max(0) as usize))
}

/// A name as it is looked up: without quotes case does not matter.
pub fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type,
        array: false,
        format: None,
    }
}

fn number(value: u64) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let arguments = arguments
        .into_iter()
        .map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::postgres::Postgres;

    #[test]
    fn statements_are_adapted() {
        for (sql, expected) in [
            (
                "SELECT ts AT TIME ZONE 'Europe/Berlin'",
                "SELECT timezone('Europe/Berlin', ts)",
            ),
            (
                "SELECT a::varchar(3), a::char(2), a::varchar",
                "SELECT left(CAST(a AS TEXT), 3), rpad(left(CAST(a AS TEXT), 2), 2), a::VARCHAR",
            ),
            (
                "SELECT 5::numeric, '1e-12'::numeric, a::numeric",
                "SELECT CAST(5 AS NUMERIC(1,0)), CAST('1e-12' AS NUMERIC(12,12)), a::NUMERIC",
            ),
            (
                "SELECT 1e300, 1.5, 1e37, 12345678901234567890123456789012345678.5",
                "SELECT CAST('1e300' AS DOUBLE PRECISION), 1.5, 1e37, \
                 CAST('12345678901234567890123456789012345678.5' AS DOUBLE PRECISION)",
            ),
            (
                "SELECT extract(epoch FROM a), a = SOME (SELECT b FROM t), a <> ALL (SELECT b FROM t)",
                "SELECT date_part('EPOCH', a), a IN (SELECT b FROM t), a NOT IN (SELECT b FROM t)",
            ),
            (
                "SELECT d.k FROM dim D WHERE NOT EXISTS (SELECT 1 FROM ev e WHERE e.k = d.k AND EXISTS (SELECT d.x FROM d))",
                "SELECT d.k FROM dim D WHERE NOT EXISTS (SELECT 1 FROM ev e WHERE e.k = public.d.k AND EXISTS (SELECT d.x FROM d))",
            ),
            (
                "SELECT a + 1 > ALL (SELECT operand FROM compared WHERE v = b)",
                "SELECT ((SELECT count(*) FROM compared WHERE v = b) = 0 OR \
                 (((a + 1) > (SELECT max(operand) FROM compared WHERE v = b)) AND \
                 ((SELECT count(*) FROM compared WHERE v = b) = \
                 (SELECT count(operand) FROM compared WHERE v = b) OR CAST(NULL AS BOOLEAN))))",
            ),
            (
                "SELECT a < ANY (SELECT max(b) FROM t)",
                "SELECT ((SELECT count(*) FROM (SELECT max(b) FROM t) AS compared (v)) <> 0 AND \
                 (((a) < (SELECT max(v) FROM (SELECT max(b) FROM t) AS compared (v))) OR \
                 ((SELECT count(*) FROM (SELECT max(b) FROM t) AS compared (v)) <> \
                 (SELECT count(v) FROM (SELECT max(b) FROM t) AS compared (v)) AND CAST(NULL AS BOOLEAN))))",
            ),
            (
                "VALUES (1.5, 1.5), ('NaN'::FLOAT8, 2)",
                "VALUES (CAST(1.5 AS DOUBLE PRECISION), 1.5), ('NaN'::FLOAT8, 2)",
            ),
        ] {
            let mut statements = Parser::parse_sql(&Postgres, sql).unwrap();
            adapt(&mut statements[0]).unwrap();
            assert_eq!(statements[0].to_string(), expected);
        }
    }
}
