//! `SUBSCRIBE`, parsed.

use datafusion::sql::sqlparser::{ast, tokenizer::Token};

use super::{Part, Statement, parts, readable, reader::Reader, syntax};
use crate::{AsOf, Error, Session, as_of, sqlstate, version};

/// What is subscribed to, and how.
#[derive(Debug, Clone)]
pub struct Subscribe {
    pub what: Subscribed,
    pub snapshot: bool,
    pub progress: bool,
    pub as_of: Option<AsOf>,
}

#[derive(Debug, Clone)]
pub enum Subscribed {
    /// A view or a stream, and where its name stands, in characters from 1.
    Named(String, usize),
    Select(Box<ast::Statement>),
}

const EXPECTED: &str = "SUBSCRIBE [TO] name, or SUBSCRIBE (SELECT …), [WITH (snapshot = false, progress)] [AS OF OFFSET 'stream@0:1200'] is expected";

/// `SUBSCRIBE [TO] {name | (SELECT …)} [WITH (snapshot [= bool], progress [= bool])] [AS OF …]`.
pub fn parse(session: &Session, part: &Part<'_>) -> Result<Statement, Error> {
    let sql = part.piece.text;
    version::refuse(
        sql,
        &part.tokens,
        "a subscription follows what it selects from",
    )?;
    let (text, as_of) = as_of::taken_out(sql, &part.tokens)?;
    let parts = parts(&text)?;
    let tokens = parts.first().map_or(&[][..], |part| &part.tokens[..]);
    let mut read = Reader {
        tokens,
        at: 1,
        form: EXPECTED,
    };
    read.skip_word("TO");
    let what = if read.is(&Token::LParen) {
        let (first, end) = read.parentheses()?;
        let chars = text.chars().enumerate();
        let select: String = chars
            .map(|(at, char)| {
                if (first..end).contains(&at) {
                    char
                } else {
                    ' '
                }
            })
            .collect();
        let ast = readable(session, &select, sql)?;
        let ast = ast.filter(|ast| matches!(ast, ast::Statement::Query(_)));
        let ast = ast.ok_or_else(|| syntax("a SELECT is expected", first + 1))?;
        Subscribed::Select(Box::new(ast))
    } else {
        let (name, place) = read.name()?;
        Subscribed::Named(name, place)
    };
    let (mut snapshot, mut progress) = (true, false);
    if read.skip_word("WITH") {
        if !read.skip(&Token::LParen) {
            return Err(read.expected());
        }
        loop {
            let option = match read.skip_word("SNAPSHOT") {
                true => &mut snapshot,
                false if read.skip_word("PROGRESS") => &mut progress,
                false => return Err(read.expected()),
            };
            *option = read.truth()?;
            if read.skip(&Token::RParen) {
                break;
            }
            if !read.skip(&Token::Comma) {
                return Err(read.expected());
            }
        }
    }
    if read.at < tokens.len() {
        return Err(read.expected());
    }
    Ok(Statement::Subscribe(Box::new(Subscribe {
        what,
        snapshot,
        progress,
        as_of,
    })))
}

impl Subscribed {
    /// With where it stands, if that can be told.
    pub fn place(&self, error: Error) -> Error {
        match self {
            Subscribed::Named(_, place) if error.sqlstate == sqlstate::UNDEFINED_TABLE => {
                error.with_position(Some(*place))
            }
            _ => error,
        }
    }
}
