//! How SQL is read: as Postgres's, and calls in calls in a time that grows with their number.

use std::any::TypeId;

use datafusion::sql::sqlparser::{
    ast::{BinaryOperator, Expr, UnaryOperator},
    dialect::{Dialect, PostgreSqlDialect, Precedence},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::Token,
};

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// `PostgreSqlDialect`, but two things are read once that it may read twice, which in one another take twice the time with
/// every level: the name of an argument (`f(name => 1)`) is a name and no expression, and `ARRAY`, `CASE`, `CAST` and `NOT`
/// are never tried as names when there is a mistake in what follows. And three things are read as Postgres reads them: an
/// operator ends before the sign of what follows it (`a>-1`), a sign binds more than `^`, and `IS DISTINCT FROM` ends before
/// `AND` and `OR`.
#[derive(Debug)]
pub struct Postgres;

/// What `PostgreSqlDialect` answers to these.
macro_rules! as_postgres {
    ($($method:ident)*) => {
        $(fn $method(&self) -> bool {
            POSTGRES.$method()
        })*
    };
}

impl Dialect for Postgres {
    /// The parser asks for it where it knows dialects by name.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        const NEVER_NAMES: [Keyword; 6] = [
            Keyword::ARRAY,
            Keyword::CASE,
            Keyword::CAST,
            Keyword::TRY_CAST,
            Keyword::SAFE_CAST,
            Keyword::NOT,
        ];
        NEVER_NAMES.contains(&keyword) || POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        if let Some(signed) = Signed::next(parser) {
            return Some(Ok(self.prec_value(signed.precedence)));
        }
        POSTGRES.get_next_precedence(parser)
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if let Some(signs) = Signed::alone(parser) {
            parser.next_token();
            let operand = parser.parse_subexpr(self.prec_value(Precedence::Caret));
            return Some(operand.map(|operand| with_signs(signs, operand)));
        }
        let op = if parser.consume_token(&Token::Minus) {
            UnaryOperator::Minus
        } else if parser.consume_token(&Token::Plus) {
            UnaryOperator::Plus
        } else {
            return POSTGRES.parse_prefix(parser);
        };
        let operand = parser.parse_subexpr(self.prec_value(Precedence::Caret));
        Some(operand.map(|operand| Expr::UnaryOp {
            op,
            expr: Box::new(operand),
        }))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        left: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        if let Some(signed) = Signed::next(parser) {
            parser.next_token();
            return Some(signed.parse(parser, left, precedence));
        }
        let operator: fn(_, _) -> _ =
            if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
                Expr::IsDistinctFrom
            } else if parser.parse_keywords(&[
                Keyword::IS,
                Keyword::NOT,
                Keyword::DISTINCT,
                Keyword::FROM,
            ]) {
                Expr::IsNotDistinctFrom
            } else {
                return POSTGRES.parse_infix(parser, left, precedence);
            };
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| operator(Box::new(left.clone()), Box::new(right))))
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    as_postgres! {
        allow_extract_custom
        allow_extract_single_quotes
        supports_alter_column_type_using
        supports_array_typedef_with_brackets
        supports_bitwise_shift_operators
        supports_comma_separated_trim
        supports_comment_on
        supports_comment_optimizer_hint
        supports_create_index_with_clause
        supports_create_table_like_parenthesized
        supports_empty_projections
        supports_explain_with_utility_options
        supports_factorial_operator
        supports_filter_during_aggregation
        supports_geometric_types
        supports_group_by_expr
        supports_insert_table_alias
        supports_interval_options
        supports_listen_notify
        supports_load_extension
        supports_named_fn_args_with_colon_operator
        supports_nested_comments
        supports_notnull_operator
        supports_numeric_literal_underscores
        supports_select_wildcard_with_alias
        supports_set_names
        supports_string_escape_constant
        supports_unicode_string_literal
        supports_xml_expressions
    }
}

/// An operator and the signs of what follows it, which are read as one token.
struct Signed {
    operator: BinaryOperator,
    precedence: Precedence,
    /// The last is next to the operand.
    signs: Vec<UnaryOperator>,
}

/// The last sign is next to the operand.
fn with_signs(signs: Vec<UnaryOperator>, operand: Expr) -> Expr {
    signs.into_iter().rev().fold(operand, |expr, op| {
        let expr = Box::new(expr);
        Expr::UnaryOp { op, expr }
    })
}

impl Signed {
    /// Signs that no operand stands before.
    fn alone(parser: &Parser) -> Option<Vec<UnaryOperator>> {
        let Token::CustomBinaryOperator(text) = &parser.peek_token_ref().token else {
            return None;
        };
        let signs = text.chars().map(|sign| match sign {
            '-' => Some(UnaryOperator::Minus),
            '+' => Some(UnaryOperator::Plus),
            _ => None,
        });
        signs.collect()
    }

    fn next(parser: &Parser) -> Option<Signed> {
        let Token::CustomBinaryOperator(text) = &parser.peek_token_ref().token else {
            return None;
        };
        let operator = text.trim_end_matches(['+', '-']);
        let signs = text[operator.len()..].chars().map(|sign| match sign {
            '-' => UnaryOperator::Minus,
            _ => UnaryOperator::Plus,
        });
        let mut signs: Vec<UnaryOperator> = signs.collect();
        let (operator, precedence) = match operator {
            "" => {
                let operator = match signs.remove(0) {
                    UnaryOperator::Minus => BinaryOperator::Minus,
                    _ => BinaryOperator::Plus,
                };
                (operator, Precedence::PlusMinus)
            }
            "=" => (BinaryOperator::Eq, Precedence::Eq),
            "<>" | "!=" => (BinaryOperator::NotEq, Precedence::Eq),
            "<" => (BinaryOperator::Lt, Precedence::Eq),
            "<=" => (BinaryOperator::LtEq, Precedence::Eq),
            ">" => (BinaryOperator::Gt, Precedence::Eq),
            ">=" => (BinaryOperator::GtEq, Precedence::Eq),
            "*" => (BinaryOperator::Multiply, Precedence::MulDivModOp),
            "/" => (BinaryOperator::Divide, Precedence::MulDivModOp),
            "%" => (BinaryOperator::Modulo, Precedence::MulDivModOp),
            _ => return None,
        };
        (!signs.is_empty()).then_some(Signed {
            operator,
            precedence,
            signs,
        })
    }

    /// Its right side, and what binds more than it does.
    fn parse(self, parser: &mut Parser, left: &Expr, precedence: u8) -> Result<Expr, ParserError> {
        let operand = parser.parse_subexpr(Postgres.prec_value(Precedence::Caret))?;
        let mut right = with_signs(self.signs, operand);
        loop {
            let next = parser.get_next_precedence()?;
            if next <= precedence {
                return Ok(Expr::BinaryOp {
                    left: Box::new(left.clone()),
                    op: self.operator,
                    right: Box::new(right),
                });
            }
            right = parser.parse_infix(right, next)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, sync::mpsc, thread, time::Duration};

    use datafusion::sql::sqlparser::ast::{Statement, visit_expressions_mut};

    use super::*;

    fn parse(sql: &str) -> Result<Vec<Statement>, ParserError> {
        Parser::parse_sql(&Postgres, sql)
    }

    #[test]
    fn nested_calls_are_read_in_little_time() {
        let nested = |call: &str, levels| {
            let open = call.repeat(levels);
            format!("SELECT {open}k{} FROM s", ")".repeat(levels))
        };
        let (done, read) = mpsc::channel();
        thread::spawn(move || {
            for (call, levels, is_read) in [
                ("md5(", 30, true),
                ("md5(", 60, false),
                ("coalesce('a', ", 30, true),
                ("f(name => ", 30, true),
                ("CAST(", 20, false),
                ("CAST(", 60, false),
                ("NOT (", 60, false),
                ("ARRAY[", 60, false),
                ("CASE WHEN (", 30, false),
            ] {
                let sql = nested(call, levels);
                done.send((parse(&sql).is_ok() == is_read, sql)).ok();
            }
        });
        for _ in 0..9 {
            // It would take minutes if it were read twice at each level.
            let read = read.recv_timeout(Duration::from_secs(20));
            let (is_right, sql) = read.expect("it is read in time");
            assert!(is_right, "{sql}");
        }
    }

    #[test]
    fn operators_end_where_they_do_in_postgres() {
        for (sql, expected) in [
            ("SELECT a>-1", "SELECT a > -1"),
            ("SELECT a>=-b+2 AND c<>+1", "SELECT a >= -b + 2 AND c <> +1"),
            (
                "SELECT a*-b-1, a/-2*c, a--b",
                "SELECT a * -b - 1, a / -2 * c, a",
            ),
            ("SELECT 1 + a*-b", "SELECT 1 + a * -b"),
            (
                "SELECT -2^2, 1-2^2, -a::int, -a * b",
                "SELECT (-2)^2, 1-(2^2), -(a::int), (-a) * b",
            ),
            ("SELECT a>-2^b", "SELECT a > ((-2)^b)"),
            ("SELECT +-1, -+a", "SELECT + (-1), - (+a)"),
            ("SELECT a<-1, a=-1, a<=-1", "SELECT a < -1, a = -1, a <= -1"),
            (
                "SELECT a+-1, a-+1, NOT a>-1",
                "SELECT a + -1, a - +1, NOT a > -1",
            ),
            (
                "SELECT a IS DISTINCT FROM b AND c, a IS NOT DISTINCT FROM b OR c",
                "SELECT (a IS DISTINCT FROM b) AND c, (a IS NOT DISTINCT FROM b) OR c",
            ),
            (
                "SELECT a IS DISTINCT FROM b + 1 = c AND NOT d",
                "SELECT (a IS DISTINCT FROM ((b + 1) = c)) AND (NOT d)",
            ),
        ] {
            let (read, expected) = (parse(sql).unwrap(), parse(expected).unwrap());
            assert_eq!(grouped(&read), grouped(&expected), "{sql}");
        }
    }

    /// The tree, whatever parentheses it was written with.
    fn grouped(statements: &[Statement]) -> String {
        let mut statements = statements.to_vec();
        let _ = visit_expressions_mut(&mut statements, |expr: &mut Expr| {
            while let Expr::Nested(inner) = expr {
                *expr = inner.as_ref().clone();
            }
            ControlFlow::<()>::Continue(())
        });
        let mut tree = String::new();
        let _ = visit_expressions_mut(&mut statements, |expr: &mut Expr| {
            tree += &format!("{expr}; ");
            ControlFlow::<()>::Continue(())
        });
        tree
    }

    #[test]
    fn it_reads_what_postgres_does() {
        for sql in [
            "SELECT f(name => 1, other := 'a'), \"Q\"(b), E'a\\n', U&'\\0041', 1_000",
            "SELECT k IS NOT NULL, a ## b, a @> b, x::int[], DATE '2026-01-01', INTERVAL '1 day'",
            "SELECT extract(epoch FROM at), extract('year' FROM at), trim(both 'x' FROM k), trim(k, 'x')",
            "SELECT count(*) FILTER (WHERE a > 1), k || 'x' || 1 + 2, NOT a = b, a COLLATE \"C\", 5 !",
            "SELECT /* a /* b */ c */ DISTINCT ON (k) * FROM t GROUP BY ROLLUP (a, b)",
            "ALTER TABLE t ALTER COLUMN a TYPE int USING a::int",
            "INSERT INTO t AS u (a) VALUES (1)",
            "SELECT FROM t",
            "CREATE TABLE u (LIKE t)",
            "SET NAMES 'utf8'",
            "COMMENT ON TABLE t IS 'x'",
        ] {
            let by_postgres = Parser::parse_sql(&POSTGRES, sql);
            assert!(by_postgres.is_ok(), "{sql}: {by_postgres:?}");
            let shown = |read: Result<Vec<_>, ParserError>| {
                let read =
                    read.map(|read| read.iter().map(ToString::to_string).collect::<Vec<_>>());
                read.map_err(|error| error.to_string())
            };
            assert_eq!(shown(parse(sql)), shown(by_postgres), "{sql}");
        }
    }
}
