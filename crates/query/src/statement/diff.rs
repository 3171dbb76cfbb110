//! `DIFF MATERIALIZED VIEW …`, parsed.

use datafusion::sql::sqlparser::ast;

use super::{Part, Statement, named, parts, plain, syntax, words};
use crate::{AsOf, Error, as_of, create};

/// What a view is compared with what.
#[derive(Debug, Clone)]
pub struct Diff {
    pub name: String,
    pub old: Compared,
    pub new: Compared,
    pub as_of: Option<AsOf>,
}

#[derive(Debug, Clone)]
pub enum Compared {
    /// The version that is served.
    Served,
    /// The version that was served before it.
    Former,
    Version(u32),
    /// A `SELECT` that is no view, and where it starts in the statement, in characters.
    Select(String, usize),
}

pub const EXPECTED: &str =
    "DIFF MATERIALIZED VIEW name [VERSION 1] [WITH VERSION 2 | WITH SELECT …] is expected";

/// The `SELECT` of the `CREATE MATERIALIZED VIEW` that starts at this character, and where it starts itself.
pub fn declared(text: &str, start: usize) -> Result<(String, usize), Error> {
    let statement: String = text.chars().skip(start).collect();
    let view = match plain(&statement, &statement) {
        Ok(ast::Statement::CreateView(view)) => create::view(&view, &statement),
        Ok(_) => Err(syntax(EXPECTED, 1)),
        Err(error) => Err(error),
    };
    let select = view.map_err(|error| Error {
        position: error.position.map(|position| position + start),
        ..error
    })?;
    let before = statement.find(&select.query).unwrap_or(0);
    let before = statement[..before].chars().count();
    Ok((select.query, start + before))
}

/// `DIFF MATERIALIZED VIEW name [VERSION old] [WITH {VERSION new | SELECT … | CREATE MATERIALIZED VIEW …}]`.
pub fn parse(part: &Part<'_>) -> Result<Statement, Error> {
    let (text, as_of) = as_of::taken_out(part.piece.text, &part.tokens)?;
    let parts = parts(&text)?;
    let words = parts
        .first()
        .map(|part| words(&part.tokens))
        .unwrap_or_default();
    let is = |at: usize, keyword: &str| {
        let word = words.get(at);
        word.is_some_and(|(_, word)| word.eq_ignore_ascii_case(keyword))
    };
    let expected = |at: usize| {
        let place = words.get(at).or(words.last());
        syntax(EXPECTED, place.map_or(1, |(at, _)| at + 1))
    };
    let version = |at: usize| {
        let number = words.get(at).and_then(|(_, word)| word.parse().ok());
        number.map(Compared::Version).ok_or_else(|| expected(at))
    };
    let mut at = if is(4, ".") { 6 } else { 4 };
    let name = named(&words[..at.min(words.len())], 3)?;
    let mut old = None;
    if is(at, "VERSION") {
        old = Some(version(at + 1)?);
        at += 2;
    }
    let mut new = None;
    if is(at, "WITH") {
        if is(at + 1, "VERSION") {
            new = Some(version(at + 2)?);
            at += 3;
        } else if is(at + 1, "SELECT") || is(at + 1, "WITH") {
            let start = words[at + 1].0;
            new = Some(Compared::Select(text.chars().skip(start).collect(), start));
            at = words.len();
        } else if is(at + 1, "CREATE") {
            let (select, start) = declared(&text, words[at + 1].0)?;
            new = Some(Compared::Select(select, start));
            at = words.len();
        }
    }
    if at < words.len() {
        return Err(expected(at));
    }
    let (old, new) = match (old, new) {
        (None, None) => (Compared::Former, Compared::Served),
        (Some(old), None) => (old, Compared::Served),
        (None, Some(new)) => (Compared::Served, new),
        (Some(old), Some(new)) => (old, new),
    };
    Ok(Statement::Diff(Box::new(Diff {
        name,
        old,
        new,
        as_of,
    })))
}
