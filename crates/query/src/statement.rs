//! What a piece of SQL asks for: our own statements, or plain SQL.

mod diff;
mod number;
mod reader;
mod replay;
mod set_retention;
mod subscribe;
#[cfg(test)]
mod tests;
mod view;

use std::ops::Range;

use datafusion::sql::sqlparser::{
    ast::{self, AlterTable, CreateTable, CreateView},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Token, TokenWithSpan, Tokenizer},
};

use lambic_view::{
    place::Places,
    postgres::{self, Postgres},
    window,
};

pub use diff::{Compared, Diff};
pub use replay::{Replay, Through};
pub use subscribe::{Subscribe, Subscribed};

use crate::{
    AsOf, Error, Session, as_of, depth,
    erase::{self, Erase},
    message, names, sqlstate, version,
};

/// One statement.
#[derive(Debug, Clone)]
pub enum Statement {
    CreateStream(Box<CreateTable>),
    AlterStream(Box<AlterTable>),
    CreateView(Box<CreateView>),
    /// Another `SELECT` of a view that there is, which keeps its options.
    AlterView(Box<CreateView>),
    DropStream {
        names: Vec<String>,
        if_exists: bool,
    },
    DropView {
        names: Vec<String>,
        if_exists: bool,
    },
    /// `full`: from the first record on.
    RefreshView {
        name: String,
        full: bool,
    },
    /// `None`: the newest of the former versions.
    RollbackView {
        name: String,
        version: Option<u32>,
    },
    Diff(Box<Diff>),
    Replay(Box<Replay>),
    /// `None`: all views.
    Audit(Option<String>),
    /// How far a view is from its `SELECT` that is served approximately.
    Drift(String),
    ExplainView(String),
    Erase(Box<Erase>),
    /// To a folder or URL.
    Backup(String),
    SetRetention(Box<SetRetention>),
    CompactStream(String),
    Insert(Box<Plain>),
    Subscribe(Box<Subscribe>),
    Sql(Box<Plain>),
    /// Nothing between two semicolons.
    Empty,
}

/// `ALTER STREAM name SET (…)` or `RESET (…)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRetention {
    pub stream: String,
    /// `None`: as if it had never been set.
    pub settings: Vec<(String, Option<String>)>,
    /// Only tell what it would do.
    pub explain: bool,
}

/// A statement of plain SQL, and the moment that it reads at, if it names one.
#[derive(Debug, Clone)]
pub struct Plain {
    pub ast: ast::Statement,
    pub as_of: Option<AsOf>,
    /// Versions of views that it names.
    pub versions: Vec<version::Named>,
}

/// A statement and where it starts in what the client sent, in characters.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub statement: Statement,
    pub sql: String,
    pub start: usize,
    /// The highest number of its parameters `$1`, `$2`, …
    pub parameters: usize,
}

/// The text of one statement among several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Without the semicolon, without blanks and comments around it.
    pub text: &'a str,
    /// Characters before `text`: added to the position of an error in it.
    pub chars_before: usize,
}

/// The statements of `sql`, so that each can have its own answer; blank ones and such that hold only
/// comments are left out. An error if a quote or comment does not end, since then nothing is certain.
pub fn split(sql: &str) -> Result<Vec<Piece<'_>>, Error> {
    Ok(parts(sql)?.into_iter().map(|part| part.piece).collect())
}

/// Where the tokens of `sql` stand, in bytes, without blanks and comments; nothing if a quote or comment does not end.
pub fn tokens(sql: &str) -> Vec<Range<usize>> {
    let dialect = Postgres;
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location();
    let mut places = Places::new(sql);
    tokens
        .unwrap_or_default()
        .into_iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .map(|token| places.of(token.span.start).0..places.of(token.span.end).0)
        .collect()
}

/// Splits at semicolons and parses each part.
pub fn parse(session: &Session, sql: &str) -> Result<Vec<Parsed>, Error> {
    let mut parsed = Vec::new();
    for part in parts(sql)? {
        let start = part.piece.chars_before;
        let moved = |mut error: Error| {
            error.position = error.position.map(|position| position + start);
            error
        };
        depth::check(part.tokens.iter().map(|(_, token)| token))?;
        let parameters = parameters(&part.tokens).map_err(moved)?;
        parsed.push(Parsed {
            statement: parse_one(session, &part).map_err(moved)?,
            sql: part.piece.text.to_owned(),
            start,
            parameters,
        });
    }
    Ok(parsed)
}

/// One statement as the tokenizer sees it.
struct Part<'a> {
    piece: Piece<'a>,
    /// Without blanks and comments; with the index of the character of `piece.text` where each starts.
    tokens: Vec<(usize, Token)>,
}

fn parts(sql: &str) -> Result<Vec<Part<'_>>, Error> {
    let tokens = Tokenizer::new(&Postgres, sql)
        .tokenize_with_location()
        .map_err(|error| {
            let parser = ParserError::TokenizerError(error.to_string());
            Error::from_parser(&parser, sql)
        })?;
    let mut places = Places::new(sql);
    number::check(&tokens, sql)?;
    let mut parts: Vec<Part<'_>> = Vec::new();
    // Where the text of the statement that is being read starts, in bytes.
    let mut open: Option<usize> = None;
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::Whitespace(_) => continue,
            Token::SemiColon => {
                open = None;
                continue;
            }
            _ => {}
        }
        let (start_byte, start_char) = places.of(span.start);
        let from = *open.get_or_insert_with(|| {
            parts.push(Part {
                piece: Piece {
                    text: "",
                    chars_before: start_char,
                },
                tokens: Vec::new(),
            });
            start_byte
        });
        if let Some(part) = parts.last_mut() {
            part.tokens
                .push((start_char - part.piece.chars_before, token));
            part.piece.text = &sql[from..places.of(span.end).0];
        }
    }
    Ok(parts)
}

/// What the wire can count.
const PARAMETERS_MAX: usize = u16::MAX as usize;

/// The highest number of the parameters `$1`, `$2`, …: how many values a client must give.
fn parameters(tokens: &[(usize, Token)]) -> Result<usize, Error> {
    let mut highest = 0;
    for (at, token) in tokens {
        let Token::Placeholder(name) = token else {
            continue;
        };
        match name.trim_start_matches('$').parse() {
            Ok(number @ 1..=PARAMETERS_MAX) => highest = highest.max(number),
            _ => {
                return Err(Error::new(
                    sqlstate::UNDEFINED_PARAMETER,
                    format!("there is no parameter {name}"),
                )
                .with_position(Some(at + 1))
                .with_hint(format!(
                    "parameters are numbered from $1 to ${PARAMETERS_MAX}"
                )));
            }
        }
    }
    Ok(highest)
}

/// The first words, those without quotes in lower case, with the index of the character where each starts.
fn words(tokens: &[(usize, Token)]) -> Vec<(usize, String)> {
    tokens
        .iter()
        .take(12)
        .map(|(at, token)| match token {
            Token::Word(word) if word.quote_style.is_none() => {
                (*at, word.value.to_ascii_lowercase())
            }
            Token::Word(word) => (*at, word.value.clone()),
            other => (*at, other.to_string()),
        })
        .collect()
}

const ALTER_EXPECTED: &str = "ALTER STREAM name ADD COLUMN …, RENAME COLUMN … TO …, ALTER COLUMN … TYPE …, SET or DROP DEFAULT, SET or DROP NOT NULL, DROP COLUMN …, SET (retention = …) or RESET (retention) is expected";

fn parse_one(session: &Session, part: &Part<'_>) -> Result<Statement, Error> {
    let sql = part.piece.text;
    let words = words(&part.tokens);
    let upper: Vec<String> = words
        .iter()
        .map(|(_, word)| word.to_ascii_uppercase())
        .collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    match upper.as_slice() {
        ["CREATE", "STREAM", ..] | ["CREATE", "TABLE", ..] => {
            match plain(&as_table(sql, &words, 1, upper[1]), sql)? {
                ast::Statement::CreateTable(table) => Ok(Statement::CreateStream(Box::new(table))),
                _ => Err(syntax("CREATE STREAM name (column type, …) is expected", 1)),
            }
        }
        ["EXPLAIN", "ALTER", "STREAM" | "TABLE", ..]
        | ["ALTER", "STREAM" | "TABLE", _, "SET" | "RESET", ..]
        | ["ALTER", "STREAM" | "TABLE", _, ".", _, "SET" | "RESET", ..] => {
            let retention = set_retention::parse(part)?;
            Ok(Statement::SetRetention(Box::new(retention)))
        }
        ["ALTER", "STREAM" | "TABLE", ..] => {
            match plain(&as_table(sql, &words, 1, upper[1]), sql)? {
                ast::Statement::AlterTable(alter) => Ok(Statement::AlterStream(Box::new(alter))),
                _ => Err(syntax(ALTER_EXPECTED, 1)),
            }
        }
        ["CREATE", "MATERIALIZED", ..] | ["CREATE", "OR", "REPLACE", "MATERIALIZED", ..] => {
            match plain(&window::readable(&view::text_of(part)?), sql)? {
                ast::Statement::CreateView(view) => Ok(Statement::CreateView(Box::new(view))),
                _ => Err(syntax(
                    "CREATE MATERIALIZED VIEW name AS SELECT … is expected",
                    1,
                )),
            }
        }
        ["CREATE", "VIEW", ..] | ["CREATE", "OR", "REPLACE", "VIEW", ..] => Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
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
                sqlstate::WRONG_OBJECT_TYPE,
                "there are no plain views to drop; views are materialized",
            )
            .with_position(words.get(1).map(|(at, _)| at + 1))
            .with_hint(format!("DROP MATERIALIZED VIEW {name}")))
        }
        ["REFRESH", "MATERIALIZED", "VIEW", rest @ ..] => {
            let full = rest.len() > 1 && rest.last() == Some(&"FULL");
            let words = &words[..words.len() - usize::from(full)];
            let name = named(words, 3)?;
            Ok(Statement::RefreshView { name, full })
        }
        ["ALTER", "MATERIALIZED", "VIEW", ..] => view::alter(part, &words, &upper),
        ["COMPACT", "STREAM", _, ..] => Ok(Statement::CompactStream(named(&words, 2)?)),
        ["COMPACT", ..] => Err(syntax("COMPACT STREAM name is expected", 1)),
        ["REFRESH", ..] => Err(syntax("REFRESH MATERIALIZED VIEW name is expected", 1)),
        ["DIFF", "MATERIALIZED", "VIEW", ..] => diff::parse(part),
        ["DIFF", ..] => Err(syntax(diff::EXPECTED, 1)),
        ["REPLAY", "MATERIALIZED", "VIEW", ..] => replay::parse(part),
        ["REPLAY", ..] => Err(syntax(replay::EXPECTED, 1)),
        ["AUDIT", "ALL"] => Ok(Statement::Audit(None)),
        ["AUDIT", "MATERIALIZED", "VIEW", .., "WITH", "(", "DRIFT", ")"] => {
            let words = &words[..words.len() - 4];
            Ok(Statement::Drift(named(words, 3)?))
        }
        ["AUDIT", "MATERIALIZED", "VIEW", ..] => Ok(Statement::Audit(Some(named(&words, 3)?))),
        ["AUDIT", ..] => Err(syntax(
            "AUDIT MATERIALIZED VIEW name [WITH (drift)], or AUDIT ALL, is expected",
            1,
        )),
        ["EXPLAIN", "MATERIALIZED", "VIEW", ..] => Ok(Statement::ExplainView(named(&words, 3)?)),
        ["ERASE", ..] | ["EXPLAIN", "ERASE", ..] => {
            Ok(Statement::Erase(Box::new(erase::parse(sql, &part.tokens)?)))
        }
        ["SUBSCRIBE", ..] => subscribe::parse(session, part),
        ["BACKUP", ..] => backup(part),
        ["INSERT", ..] => {
            let (text, versions) = version::named_in(sql, &part.tokens)?;
            let (text, as_of) = as_of::taken_out(&text, &part.tokens)?;
            let mut ast = plain(&window::readable(&text), sql)?;
            postgres::adapt(&mut ast).map_err(|error| message::of_postgres(&error, sql))?;
            version::call_by_view(&mut ast);
            Ok(Statement::Insert(Box::new(Plain {
                ast,
                as_of,
                versions,
            })))
        }
        ["DELETE", ..] | ["TRUNCATE", ..] => Err(immutable().with_hint(format!(
            "ERASE FROM {} WHERE … takes records out for ever, with an entry in lambic_erasures; to correct one, append it anew and let a view take the latest of each key",
            erase::target(&words)
        ))),
        ["UPDATE", ..] => Err(immutable()
            .with_hint("append a record that corrects, and let a view take the latest of each key")),
        _ => {
            let (text, versions) = version::named_in(sql, &part.tokens)?;
            let (text, as_of) = as_of::taken_out(&text, &part.tokens)?;
            Ok(match readable(session, &text, sql)? {
                None => Statement::Empty,
                Some(mut ast) => {
                    version::call_by_view(&mut ast);
                    Statement::Sql(Box::new(Plain {
                        ast,
                        as_of,
                        versions,
                    }))
                }
            })
        }
    }
}

/// `text`, which stands in `sql` where it does, as it is planned.
fn readable(session: &Session, text: &str, sql: &str) -> Result<Option<ast::Statement>, Error> {
    let parsed = match &session.parser {
        Some(parser) => parser.parse(&window::readable(text)),
        None => Parser::parse_sql(&Postgres, &window::readable(text)),
    };
    let mut statements = parsed.map_err(|error| Error::from_parser(&error, sql))?;
    if statements.is_empty() {
        return Ok(None);
    }
    let mut ast = statements.swap_remove(0);
    postgres::adapt(&mut ast).map_err(|error| message::of_postgres(&error, sql))?;
    names::tell_apart(&mut ast);
    Ok(Some(ast))
}
fn backup(part: &Part<'_>) -> Result<Statement, Error> {
    let expected = |at: usize| {
        syntax("BACKUP TO 'folder or URL' is expected", at).with_hint(
            "a folder is named from its root, on the server's machine: BACKUP TO '/backups/lambic'",
        )
    };
    match part.tokens.as_slice() {
        [
            _,
            (_, Token::Word(to)),
            (_, Token::SingleQuotedString(target)),
        ] if to.keyword == Keyword::TO && !target.trim().is_empty() => {
            Ok(Statement::Backup(target.trim().to_owned()))
        }
        [_, (_, Token::Word(to)), rest @ ..] if to.keyword == Keyword::TO => Err(expected(
            rest.first()
                .map_or_else(|| part.piece.text.chars().count(), |(at, _)| at + 1),
        )),
        [_, (at, _), ..] => Err(expected(at + 1)),
        _ => Err(expected(1)),
    }
}

fn immutable() -> Error {
    Error::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        "records are immutable: streams are only appended to",
    )
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
    let mut statements =
        Parser::parse_sql(&Postgres, sql).map_err(|error| Error::from_parser(&error, original))?;
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
                    sqlstate::FEATURE_NOT_SUPPORTED,
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

/// The name that stands alone at the end of a statement of ours, as Postgres folds it.
fn named(words: &[(usize, String)], at: usize) -> Result<String, Error> {
    match &words[at..] {
        [(_, name)] => Ok(name.clone()),
        [(_, schema), (_, dot), (_, name)] if schema == "public" && dot == "." => Ok(name.clone()),
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
    Error::new(sqlstate::SYNTAX_ERROR, format!("syntax error: {message}"))
        .with_position(Some(position))
}
