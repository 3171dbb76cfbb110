//! Questions of Postgres's tools to `pg_catalog`, put so that DataFusion can plan them.

use std::{ops::ControlFlow, sync::LazyLock};

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, Expr, FunctionArguments, Ident, Query, SelectItem, SetExpr, Statement,
        TableFactor, Visit, VisitMut, Visitor, VisitorMut,
    },
    parser::{Parser, ParserError},
};
use datafusion_pg_catalog::{
    pg_catalog::PG_CATALOG_TABLES,
    sql::{
        PostgresCompatibilityParser,
        rules::{
            CurrentUserVariableToSessionUserFunctionCall, FixArrayLiteral, FixVersionColumnName,
            PrependUnqualifiedPgTableName, RewriteArrayAnyAllOperation, RewritePgCatalogOperator,
            RewriteRegCastToSubquery, SqlStatementRewriteRule, StripCallableQualifier,
            StripCollate,
        },
    },
};
use lambic_query::{Postgres, SqlParser, check_size, memberships};

use super::{calls, catalog::PG_CATALOG};

/// How deep calls may stand in one another where a question is read by the catalog's own parser, which takes twice the
/// time with each level.
const CALLS_MAX: usize = 10;

/// Parses what Postgres's clients send.
///
/// Questions to the catalog alone are rewritten, and what cannot be planned in them is answered with
/// NULL; statements about the user's own data keep their tokens, so that errors can point into them,
/// and get only rewrites that do not change what they mean.
pub struct CatalogParser {
    catalog: PostgresCompatibilityParser,
}

impl Default for CatalogParser {
    fn default() -> CatalogParser {
        CatalogParser::new()
    }
}

impl CatalogParser {
    pub fn new() -> CatalogParser {
        CatalogParser {
            catalog: PostgresCompatibilityParser::new(),
        }
    }
}

impl SqlParser for CatalogParser {
    fn parse(&self, sql: &str) -> std::result::Result<Vec<Statement>, ParserError> {
        let mut statements = Parser::parse_sql(&Postgres, sql)?;
        if statements
            .iter()
            .any(|statement| check_size(statement).is_err())
        {
            // It is refused as it is; the rules would make it larger.
            return Ok(statements);
        }
        let is_catalog = match statements.as_slice() {
            [Statement::Query(query)] => asks_catalog_only(query),
            _ => false,
        };
        if is_catalog {
            if let Some(nothing) = of_no_constraint(&statements)? {
                return Ok(nothing);
            }
            if calls::nested(&statements) > CALLS_MAX {
                return Err(ParserError::RecursionLimitExceeded);
            }
            let mut statements = self.catalog.parse(&rewritten(sql))?;
            // Nothing breaks off the visit.
            let _ = VisitMut::visit(&mut statements, &mut Unplannable);
            return Ok(statements);
        }
        // The rules would take `= ANY (SELECT …)` for a question about an array.
        statements.iter_mut().for_each(memberships);
        let kept = |statement| match statement {
            Statement::Query(_) => MEANING_KEPT
                .iter()
                .chain(MEANING_KEPT_OF_QUERIES.iter())
                .fold(statement, |statement, rule| rule.rewrite(statement)),
            _ => MEANING_KEPT
                .iter()
                .fold(statement, |statement, rule| rule.rewrite(statement)),
        };
        Ok(statements.into_iter().map(kept).collect())
    }
}

/// The columns of constraints and indexes are listed with set-returning functions that DataFusion does
/// not plan in a projection. There are no constraints and no indexes: the answer has its columns and no row.
fn of_no_constraint(
    statements: &[Statement],
) -> std::result::Result<Option<Vec<Statement>>, ParserError> {
    let [statement @ Statement::Query(query)] = statements else {
        return Ok(None);
    };
    let lower = statement.to_string().to_ascii_lowercase();
    let about = lower.contains("pg_constraint") || lower.contains("pg_index");
    if !about || !lower.contains("generate_subscripts") {
        return Ok(None);
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Ok(None);
    };
    let columns: Vec<String> = select
        .projection
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let name = match item {
                SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.value.clone(),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names
                    .last()
                    .map(|name| name.value.clone())
                    .unwrap_or_default(),
                _ => format!("column{}", index + 1),
            };
            format!("CAST(NULL AS TEXT) AS \"{}\"", name.replace('"', "\"\""))
        })
        .collect();
    let nothing = format!("SELECT {} WHERE false", columns.join(", "));
    Parser::parse_sql(&Postgres, &nothing).map(Some)
}

/// Parts of tools' questions that DataFusion has no plan for, and that ask for what there is none of here.
struct Unplannable;

impl VisitorMut for Unplannable {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let none = match expr {
            // `ARRAY(SELECT …)`: lists of roles, options, privileges.
            Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
                Some("CAST(NULL AS TEXT[])".to_owned())
            }
            // Lists of privileges, of which there are none.
            Expr::Function(function) if is_list_of_privileges(&function.to_string()) => {
                Some("CAST(NULL AS TEXT)".to_owned())
            }
            Expr::BinaryOp {
                op: BinaryOperator::StringConcat,
                right,
                ..
            } if right.to_string().starts_with("CAST(NULL AS TEXT[]") => {
                Some("CAST(NULL AS TEXT[])".to_owned())
            }
            Expr::Subquery(query) => subquery(&query.to_string()).map(str::to_owned),
            // Only the backslash escapes in DataFusion.
            Expr::Like {
                escape_char: Some(escape),
                pattern,
                ..
            } => {
                let escape = escape.to_string();
                if escape != "'\\'" {
                    let sql = format!("replace({pattern}, {escape}, '\\')");
                    if let Some(escaped) = parsed(&sql) {
                        **pattern = escaped;
                    }
                }
                None
            }
            _ => None,
        };
        if let Expr::Like { escape_char, .. } = expr {
            *escape_char = None;
        }
        if let Some(none) = none.and_then(|sql| parsed(&sql)) {
            *expr = none;
        }
        ControlFlow::Continue(())
    }
}

/// `array_to_string(p.proacl, …)`, as psql shows privileges.
fn is_list_of_privileges(call: &str) -> bool {
    let call = call.to_ascii_lowercase();
    let Some((_, arguments)) = call.split_once("array_to_string(") else {
        return false;
    };
    let first = arguments.split(',').next().unwrap_or_default();
    first.trim_end().ends_with("acl")
}

/// What stands for a scalar subquery of a tool's question.
fn subquery(sql: &str) -> Option<&'static str> {
    if sql.contains("relkind = 'c'") {
        // "Is it a composite type?"
        Some("false")
    } else if sql.contains("json_build_object") || sql.contains("pg_attrdef") {
        // Identity options, collations, defaults.
        Some("CAST(NULL AS TEXT)")
    } else if sql.contains("typcollation") {
        Some("CAST(NULL AS INT)")
    } else {
        None
    }
}

fn parsed(expression: &str) -> Option<Expr> {
    let parser = Parser::new(&Postgres).try_with_sql(expression);
    parser.and_then(|mut parser| parser.parse_expr()).ok()
}

static MEANING_KEPT: LazyLock<Vec<Box<dyn SqlStatementRewriteRule>>> = LazyLock::new(|| {
    vec![
        Box::new(RewriteArrayAnyAllOperation),
        Box::new(FixArrayLiteral),
        Box::new(StripCallableQualifier),
        Box::new(CurrentUserVariableToSessionUserFunctionCall),
        Box::new(StripCollate),
    ]
});

/// How queries of own data name things of the catalog in passing: `pg_class`, `'s'::regclass`.
static MEANING_KEPT_OF_QUERIES: LazyLock<Vec<Box<dyn SqlStatementRewriteRule>>> =
    LazyLock::new(|| {
        vec![
            Box::new(PrependUnqualifiedPgTableName),
            Box::new(RewritePgCatalogOperator),
            Box::new(RewriteRegCastToSubquery::new()),
            Box::new(FixVersionColumnName),
        ]
    });

/// Whether a query reads tables of the catalog and no others: then nobody's records are in its answer.
fn asks_catalog_only(query: &Query) -> bool {
    let mut tables = Tables::default();
    // Nothing breaks off the visit.
    let _ = query.visit(&mut tables);
    tables.of_catalog && !tables.of_others
}

/// What kinds of tables a query reads.
#[derive(Default)]
struct Tables {
    of_catalog: bool,
    of_others: bool,
    /// Names that `WITH` gives, for each query around the present place.
    with: Vec<Vec<String>>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = with.map(|table| folded(&table.alias.name));
        self.with.push(names.collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.with.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<()> {
        // With arguments it is a function, which reads no table by itself.
        let TableFactor::Table {
            name, args: None, ..
        } = table
        else {
            return ControlFlow::Continue(());
        };
        let parts: Vec<String> = name
            .0
            .iter()
            .filter_map(|part| part.as_ident())
            .map(folded)
            .collect();
        let of_catalog = match parts.as_slice() {
            [name] if self.with.iter().flatten().any(|with| with == name) => {
                return ControlFlow::Continue(());
            }
            // As in Postgres, where the catalog is searched first.
            [name] => PG_CATALOG_TABLES.contains(&name.as_str()),
            [.., schema, _] => schema == PG_CATALOG || schema == "information_schema",
            [] => false,
        };
        self.of_catalog |= of_catalog;
        self.of_others |= !of_catalog;
        ControlFlow::Continue(())
    }
}

/// A name as Postgres folds it.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

/// Whole questions of one client that DataFusion has no plan for, put another way.
fn rewritten(sql: &str) -> String {
    if sql.contains("typeinfo_tree") {
        return ASYNCPG_TYPES.to_owned();
    }
    sql.to_owned()
}

/// asyncpg asks for a type and all that it is made of, recursively. Our types are made of nothing
/// but elements, which it knows.
const ASYNCPG_TYPES: &str = "SELECT t.oid, 'pg_catalog' AS ns, t.typname AS name, \
    CASE WHEN t.typtype = 'c' THEN 'c' ELSE 'b' END AS kind, \
    CAST(NULL AS INT) AS basetype, \
    CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE NULL END AS elemtype, \
    ',' AS elemdelim, CAST(NULL AS INT) AS range_subtype, CAST(NULL AS TEXT) AS attrtypoids, \
    CAST(NULL AS TEXT) AS attrnames, 0 AS depth, CAST(NULL AS TEXT) AS basetype_name, \
    e.typname AS elemtype_name, CAST(NULL AS TEXT) AS range_subtype_name \
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
    WHERE array_has($1, t.oid)";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> String {
        let statements = CatalogParser::new().parse(sql).unwrap();
        statements
            .iter()
            .map(Statement::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn statements_about_own_data_keep_their_meaning() {
        for sql in [
            "SELECT a, (SELECT max(b) FROM u) AS m FROM t WHERE c LIKE 'x%'",
            "INSERT INTO t (a) VALUES ('pg_class')",
            "CREATE TABLE pg_things (a INT)",
            "SELECT ARRAY(SELECT a FROM s) FROM s WHERE b LIKE '%pg_x%'",
            "SELECT version() AS v, (SELECT max(b) FROM u WHERE u.a = t.a) AS m FROM t",
            "SELECT ARRAY(SELECT 1), pg_backend_pid(), current_schema()",
            "SELECT b FROM t WHERE b LIKE 'pg/_%' ESCAPE '/'",
            "WITH pg_class AS (SELECT * FROM t) SELECT ARRAY(SELECT a FROM t) FROM pg_things",
            "SELECT ARRAY(SELECT a FROM t) FROM t JOIN pg_catalog.pg_class AS c ON c.relname = t.a",
        ] {
            assert_eq!(parse(sql), sql);
        }
    }

    #[test]
    fn statements_about_own_data_can_name_the_catalog() {
        assert_eq!(
            parse("SELECT pg_catalog.version(), a FROM t, pg_class"),
            "SELECT version() AS version, a FROM t, pg_catalog.pg_class"
        );
        assert_eq!(parse("SELECT version()"), "SELECT version() AS version");
        let id = parse("SELECT a, 't'::regclass FROM t");
        assert!(id.contains("pg_catalog.pg_class"), "{id}");
    }

    #[test]
    fn questions_that_would_be_read_for_minutes_are_refused() {
        let nested = |levels| {
            let (open, close) = ("md5(".repeat(levels), ")".repeat(levels));
            CatalogParser::new().parse(&format!("SELECT {open}relname{close} FROM pg_class"))
        };
        assert!(nested(CALLS_MAX).is_ok());
        let refused = nested(CALLS_MAX + 1).expect_err("it is too deep");
        assert_eq!(refused, ParserError::RecursionLimitExceeded);
    }

    #[test]
    fn questions_to_the_catalog_become_plannable() {
        let no_arrays = parse("SELECT ARRAY(SELECT rolname FROM pg_catalog.pg_roles) AS roles");
        assert!(!no_arrays.contains("ARRAY("), "{no_arrays}");
        let like = parse(
            "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg/_%' ESCAPE '/'",
        );
        assert!(
            like.contains("replace(") && !like.contains("ESCAPE"),
            "{like}"
        );
        assert_eq!(
            parse(
                "SELECT c.conrelid, min(x) AS lowest FROM (SELECT conrelid, generate_subscripts(conkey, 1) AS x FROM pg_catalog.pg_constraint) AS c GROUP BY 1"
            ),
            "SELECT CAST(NULL AS TEXT) AS \"conrelid\", CAST(NULL AS TEXT) AS \"lowest\" WHERE false"
        );
    }
}
