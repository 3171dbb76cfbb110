//! `SUBSCRIBE`, parsed.

use datafusion::sql::sqlparser::{ast, tokenizer::Token};

use super::{Part, Statement, parts, readable, syntax};
use crate::{AsOf, Error, Session, as_of, sqlstate};

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
    let (text, as_of) = as_of::taken_out(sql, &part.tokens)?;
    let parts = parts(&text)?;
    let tokens = parts.first().map_or(&[][..], |part| &part.tokens[..]);
    let mut read = Reader { tokens, at: 1 };
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
        read.name()?
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

struct Reader<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
}

impl Reader<'_> {
    fn is(&self, token: &Token) -> bool {
        self.tokens
            .get(self.at)
            .is_some_and(|(_, found)| found == token)
    }

    fn skip(&mut self, token: &Token) -> bool {
        let is = self.is(token);
        self.at += usize::from(is);
        is
    }

    fn skip_word(&mut self, word: &str) -> bool {
        let is = match self.tokens.get(self.at) {
            Some((_, Token::Word(found))) => {
                found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word)
            }
            _ => false,
        };
        self.at += usize::from(is);
        is
    }

    fn expected(&self) -> Error {
        let place = self.tokens.get(self.at).or(self.tokens.last());
        syntax(EXPECTED, place.map_or(1, |(at, _)| at + 1))
    }

    /// `[public.]name`
    fn name(&mut self) -> Result<Subscribed, Error> {
        let (mut name, place) = self.word()?;
        if self.skip(&Token::Period) {
            let schema = std::mem::replace(&mut name, self.word()?.0);
            if schema != "public" {
                let message = format!("there is no schema \"{schema}\"");
                return Err(Error::new("3F000", message).with_hint("use the schema public"));
            }
        }
        Ok(Subscribed::Named(name, place + 1))
    }

    /// A name as Postgres folds it, and where it stands.
    fn word(&mut self) -> Result<(String, usize), Error> {
        const NO_NAMES: [&str; 3] = ["SELECT", "WITH", "VALUES"];
        match self.tokens.get(self.at) {
            Some((place, Token::Word(word))) => {
                let upper = word.value.to_ascii_uppercase();
                if word.quote_style.is_none() && NO_NAMES.contains(&upper.as_str()) {
                    return Err(self.expected().with_hint("a query stands in parentheses"));
                }
                self.at += 1;
                Ok(match word.quote_style {
                    Some(_) => (word.value.clone(), *place),
                    None => (word.value.to_ascii_lowercase(), *place),
                })
            }
            _ => Err(self.expected()),
        }
    }

    /// The characters between a parenthesis and the one that closes it.
    fn parentheses(&mut self) -> Result<(usize, usize), Error> {
        let open = self.tokens[self.at].0;
        let first = self.tokens.get(self.at + 1).map_or(open, |(at, _)| *at);
        let end = as_of::closed(self.tokens, self.at);
        let end = end.ok_or_else(|| syntax("this parenthesis is not closed", open + 1))?;
        self.at = end;
        Ok((first, self.tokens[end - 1].0))
    }

    /// `[= true | = false]`
    fn truth(&mut self) -> Result<bool, Error> {
        self.skip(&Token::Eq);
        match self.tokens.get(self.at) {
            Some((_, Token::RParen | Token::Comma)) => Ok(true),
            Some(_) if self.skip_word("TRUE") => Ok(true),
            Some(_) if self.skip_word("FALSE") => Ok(false),
            Some((place, _)) => Err(syntax("true or false is expected", place + 1)),
            None => Err(self.expected()),
        }
    }
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
