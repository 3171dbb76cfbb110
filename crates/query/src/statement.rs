//! What a piece of SQL asks for: our own statements, or plain SQL.

use datafusion::sql::sqlparser::{
    ast::{self, CreateTable, CreateView},
    dialect::PostgreSqlDialect,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, Tokenizer},
};

use crate::{Error, Session, error::position_of};

/// One statement.
#[derive(Debug, Clone)]
pub enum Statement {
    CreateStream(Box<CreateTable>),
    CreateView(Box<CreateView>),
    DropStream {
        names: Vec<String>,
        if_exists: bool,
    },
    DropView {
        names: Vec<String>,
        if_exists: bool,
    },
    RefreshView(String),
    /// `None`: all views.
    Audit(Option<String>),
    ExplainView(String),
    Insert(Box<ast::Statement>),
    Sql(Box<ast::Statement>),
    /// Nothing between two semicolons.
    Empty,
}

/// A statement and where it starts in what the client sent, in characters.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub statement: Statement,
    pub sql: String,
    pub start: usize,
}

/// Splits at semicolons and parses each part.
pub fn parse(session: &Session, sql: &str) -> Result<Vec<Parsed>, Error> {
    let parts = split(sql)?;
    let mut parsed = Vec::with_capacity(parts.len());
    for (start, part) in parts {
        let statement = parse_one(session, &part).map_err(|mut error| {
            error.position = error.position.map(|position| position + start);
            error
        })?;
        if !matches!(statement, Statement::Empty) {
            parsed.push(Parsed {
                statement,
                sql: part,
                start,
            });
        }
    }
    Ok(parsed)
}

fn split(sql: &str) -> Result<Vec<(usize, String)>, Error> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| {
            let parser = ParserError::TokenizerError(error.to_string());
            Error::from_parser(&parser, sql)
        })?;
    let chars: Vec<char> = sql.chars().collect();
    let mut parts = Vec::new();
    let mut start = 0;
    let ends = tokens
        .iter()
        .filter(|token| token.token == Token::SemiColon)
        .map(|token| place(sql, token.span.start));
    for end in ends.chain([chars.len()]) {
        let part: String = chars[start.min(end)..end].iter().collect();
        if !part.trim().is_empty() {
            parts.push((start, part));
        }
        start = end + 1;
    }
    Ok(parts)
}

/// A location as an index of characters, from 0.
fn place(sql: &str, location: Location) -> usize {
    position_of(sql, location.line, location.column) - 1
}

/// The first words, upper case, with the index of the character where each starts.
fn words(sql: &str) -> Vec<(usize, String)> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location() else {
        return Vec::new();
    };
    let mut words = Vec::new();
    for token in tokens {
        match &token.token {
            Token::Word(word) => words.push((place(sql, token.span.start), word.value.clone())),
            Token::Whitespace(_) => continue,
            _ => words.push((place(sql, token.span.start), token.token.to_string())),
        }
        if words.len() == 8 {
            break;
        }
    }
    words
}

fn parse_one(session: &Session, sql: &str) -> Result<Statement, Error> {
    let words = words(sql);
    let upper: Vec<String> = words
        .iter()
        .map(|(_, word)| word.to_ascii_uppercase())
        .collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    match upper.as_slice() {
        [] => Ok(Statement::Empty),
        ["CREATE", "STREAM", ..] | ["CREATE", "TABLE", ..] => {
            match plain(&as_table(sql, &words, 1, upper[1]), sql)? {
                ast::Statement::CreateTable(table) => Ok(Statement::CreateStream(Box::new(table))),
                _ => Err(syntax("CREATE STREAM name (column type, …) is expected", 1)),
            }
        }
        ["CREATE", "MATERIALIZED", ..] | ["CREATE", "OR", "REPLACE", "MATERIALIZED", ..] => {
            match plain(sql, sql)? {
                ast::Statement::CreateView(view) => Ok(Statement::CreateView(Box::new(view))),
                _ => Err(syntax(
                    "CREATE MATERIALIZED VIEW name AS SELECT … is expected",
                    1,
                )),
            }
        }
        ["CREATE", "VIEW", ..] | ["CREATE", "OR", "REPLACE", "VIEW", ..] => Err(Error::new(
            crate::sqlstate::FEATURE_NOT_SUPPORTED,
            "plain views are not kept; views are materialized",
        )
        .with_hint("CREATE MATERIALIZED VIEW name AS SELECT …")),
        ["DROP", kind @ ("STREAM" | "TABLE" | "MATERIALIZED"), ..] => {
            drop_statement(sql, &words, kind)
        }
        ["DROP", "VIEW", rest @ ..] => {
            // The name as it was written, behind IF EXISTS if that is there.
            let name = if rest.starts_with(&["IF", "EXISTS"]) {
                4
            } else {
                2
            };
            let name = words.get(name).map_or("name", |(_, name)| name.as_str());
            Err(Error::new(
                crate::sqlstate::WRONG_OBJECT_TYPE,
                "there are no plain views to drop; views are materialized",
            )
            .with_position(words.get(1).map(|(at, _)| at + 1))
            .with_hint(format!("DROP MATERIALIZED VIEW {name}")))
        }
        ["REFRESH", "MATERIALIZED", "VIEW", ..] => Ok(Statement::RefreshView(named(&words, 3)?)),
        ["REFRESH", ..] => Err(syntax("REFRESH MATERIALIZED VIEW name is expected", 1)),
        ["AUDIT", "ALL"] => Ok(Statement::Audit(None)),
        ["AUDIT", "MATERIALIZED", "VIEW", ..] => Ok(Statement::Audit(Some(named(&words, 3)?))),
        ["AUDIT", ..] => Err(syntax(
            "AUDIT MATERIALIZED VIEW name, or AUDIT ALL, is expected",
            1,
        )),
        ["EXPLAIN", "MATERIALIZED", "VIEW", ..] => Ok(Statement::ExplainView(named(&words, 3)?)),
        ["INSERT", ..] => Ok(Statement::Insert(Box::new(plain(sql, sql)?))),
        ["UPDATE" | "DELETE" | "TRUNCATE", ..] => Err(Error::new(
            crate::sqlstate::FEATURE_NOT_SUPPORTED,
            "records are immutable: streams are only appended to",
        )
        .with_hint("append a record that corrects, and let a view take the latest of each key")),
        _ => {
            let parsed = match &session.parser {
                Some(parser) => parser.parse(sql),
                None => Parser::parse_sql(&PostgreSqlDialect {}, sql),
            };
            let mut statements = parsed.map_err(|error| Error::from_parser(&error, sql))?;
            match statements.len() {
                0 => Ok(Statement::Empty),
                _ => Ok(Statement::Sql(Box::new(statements.swap_remove(0)))),
            }
        }
    }
}

/// `STREAM` is `TABLE` to the parser; padded, so that positions stay.
fn as_table(sql: &str, words: &[(usize, String)], word: usize, keyword: &str) -> String {
    if keyword != "STREAM" {
        return sql.to_owned();
    }
    let at = words[word].0;
    let before: String = sql.chars().take(at).collect();
    let after: String = sql.chars().skip(at + "STREAM".len()).collect();
    format!("{before}TABLE {after}")
}

fn plain(sql: &str, original: &str) -> Result<ast::Statement, Error> {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .map_err(|error| Error::from_parser(&error, original))?;
    match statements.len() {
        1 => Ok(statements.swap_remove(0)),
        _ => Err(syntax("one statement is expected", 1)),
    }
}

fn drop_statement(sql: &str, words: &[(usize, String)], kind: &str) -> Result<Statement, Error> {
    match plain(&as_table(sql, words, 1, kind), sql)? {
        ast::Statement::Drop {
            object_type,
            if_exists,
            names,
            cascade,
            ..
        } => {
            if cascade {
                return Err(Error::new(
                    crate::sqlstate::FEATURE_NOT_SUPPORTED,
                    "DROP … CASCADE is not supported",
                )
                .with_hint("drop the views first"));
            }
            let names = names.iter().map(name_of).collect::<Result<Vec<_>, _>>()?;
            match object_type {
                ast::ObjectType::MaterializedView => Ok(Statement::DropView { names, if_exists }),
                _ => Ok(Statement::DropStream { names, if_exists }),
            }
        }
        _ => Err(syntax(
            "DROP STREAM name or DROP MATERIALIZED VIEW name is expected",
            1,
        )),
    }
}

/// The name that stands alone at the end of a statement of ours.
fn named(words: &[(usize, String)], at: usize) -> Result<String, Error> {
    match &words[at..] {
        [(_, name)] => Ok(name.to_ascii_lowercase()),
        [(_, schema), (_, dot), (_, name)]
            if schema.eq_ignore_ascii_case("public") && dot == "." =>
        {
            Ok(name.to_ascii_lowercase())
        }
        [] => Err(syntax(
            "the name of a view is expected",
            words.last().map_or(1, |(at, _)| at + 1),
        )),
        [_, (place, extra), ..] => Err(syntax(
            &format!("nothing is expected after the name, not `{extra}`"),
            place + 1,
        )),
    }
}

/// A table name without its schema, as Postgres folds it.
pub fn name_of(name: &ast::ObjectName) -> Result<String, Error> {
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident())
        .map(|ident| match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_ascii_lowercase(),
        })
        .collect();
    match parts.as_slice() {
        [name] => Ok(name.clone()),
        [schema, name] if schema == "public" => Ok(name.clone()),
        [catalog, schema, name] if catalog == "lambic" && schema == "public" => Ok(name.clone()),
        _ => Err(
            Error::new("3F000", format!("there is no schema for \"{name}\""))
                .with_hint("use the schema public"),
        ),
    }
}

fn syntax(message: &str, position: usize) -> Error {
    Error::new(
        crate::sqlstate::SYNTAX_ERROR,
        format!("syntax error: {message}"),
    )
    .with_position(Some(position))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(sql: &str, expected: Expect) {
        let shown = match parse(&Session::default(), sql) {
            Ok(parsed) => parsed
                .iter()
                .map(|part| {
                    let kind = format!("{:?}", part.statement);
                    let end = kind
                        .find(|c: char| !c.is_alphanumeric())
                        .unwrap_or(kind.len());
                    format!("{}@{}", &kind[..end], part.start)
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!(
                "{} at {:?}: {} ({})",
                error.sqlstate,
                error.position,
                error,
                error.hint.as_deref().unwrap_or_default()
            ),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn statements_are_told_apart() {
        check(
            "create stream s (a int); select 1;",
            expect!["CreateStream@0 Sql@24"],
        );
        check("CREATE TABLE s (a int)", expect!["CreateStream@0"]);
        check("drop stream if exists s", expect!["DropStream@0"]);
        check("drop materialized view v", expect!["DropView@0"]);
        check(
            "audit all; audit materialized view public.v",
            expect!["Audit@0 Audit@10"],
        );
        check("select ';'", expect!["Sql@0"]);
        check("-- nothing\n;", expect![""]);
        check("explain materialized view v", expect!["ExplainView@0"]);
    }

    #[test]
    fn mistakes_have_a_place() {
        check(
            "select 1; selct 2",
            expect![
                "42601 at Some(11): syntax error: expected: an SQL statement, found: selct (did you mean SELECT?)"
            ],
        );
        check(
            "refresh materialized view",
            expect!["42601 at Some(22): syntax error: the name of a view is expected ()"],
        );
        check(
            "drop view if exists pages",
            expect![
                "42809 at Some(6): there are no plain views to drop; views are materialized (DROP MATERIALIZED VIEW pages)"
            ],
        );
        check(
            "update s set a = 1",
            expect![
                "0A000 at None: records are immutable: streams are only appended to (append a record that corrects, and let a view take the latest of each key)"
            ],
        );
    }
}
