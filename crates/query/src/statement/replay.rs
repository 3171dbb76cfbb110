//! `REPLAY MATERIALIZED VIEW …`, parsed.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Part, Statement, diff::declared, reader::Reader, syntax};
use crate::{AsOf, Error, as_of::Unit, replay::Length};

/// A stretch of history, and what it is run through.
#[derive(Debug, Clone)]
pub struct Replay {
    pub name: String,
    /// Where the name stands, in characters from 1.
    pub place: usize,
    pub through: Through,
    /// `None`: from the first record.
    pub from: Option<AsOf>,
    /// `None`: to the newest.
    pub to: Option<AsOf>,
    /// `None`: the whole stretch at once.
    pub step: Option<Length>,
    /// All rows after every step, not what came and went.
    pub all_rows: bool,
    /// Compare with the served version.
    pub diff: bool,
    /// What `lambic_replays` calls it.
    pub label: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Through {
    Served,
    Version(u32),
    /// A `SELECT` that is no view, and where it starts in the statement, in characters.
    Select(String, usize),
}

pub const EXPECTED: &str = "REPLAY MATERIALIZED VIEW name [VERSION 2] [FROM OFFSET 'stream@0:0' | FROM TIMESTAMP '…'] [TO OFFSET … | TO TIMESTAMP …] [WITH (step = '1000 records', show = 'rows', diff)] [AS SELECT …] is expected";

/// The statement begins with three words.
const BEGINNING: usize = 3;

pub fn parse(part: &Part<'_>) -> Result<Statement, Error> {
    let text = part.piece.text;
    let mut read = Reader {
        tokens: &part.tokens,
        at: BEGINNING,
        form: EXPECTED,
    };
    let (name, place) = read.name()?;
    let mut replay = Replay {
        name,
        place,
        through: Through::Served,
        from: None,
        to: None,
        step: None,
        all_rows: false,
        diff: false,
        label: None,
    };
    if read.skip_word("VERSION") {
        let number = match read.next() {
            Some(Token::Number(digits, _)) => digits.parse().ok(),
            _ => None,
        };
        replay.through = Through::Version(number.ok_or_else(|| read.expected_before())?);
    }
    if read.skip_word("FROM") {
        replay.from = Some(moment(&mut read, text)?);
    }
    if read.skip_word("TO") {
        replay.to = Some(moment(&mut read, text)?);
    }
    if read.skip_word("WITH") {
        options(&mut read, &mut replay)?;
    }
    if read.skip_word("AS") {
        if !matches!(replay.through, Through::Served) {
            return Err(syntax(
                "VERSION and AS exclude each other: the stretch goes through one of them",
                read.place(),
            ));
        }
        let start = read.place() - 1;
        replay.through = match read.skip_word("CREATE") {
            true => {
                let (select, at) = declared(text, start)?;
                Through::Select(select, at)
            }
            false if read.skip_word("SELECT") || read.skip_word("WITH") => {
                Through::Select(text.chars().skip(start).collect(), start)
            }
            false => return Err(read.expected()),
        };
        return Ok(Statement::Replay(Box::new(replay)));
    }
    match read.at < part.tokens.len() {
        true => Err(read.expected()),
        false => Ok(Statement::Replay(Box::new(replay))),
    }
}

/// `OFFSET` or `TIMESTAMP`, and a text, a parameter, or an expression in parentheses.
fn moment(read: &mut Reader<'_>, text: &str) -> Result<AsOf, Error> {
    let unit = if read.skip_word("OFFSET") {
        Unit::Offset
    } else if read.skip_word("TIMESTAMP") || read.skip_word("TIMESTAMPTZ") {
        Unit::Timestamp
    } else {
        return Err(read.expected());
    };
    let start = read.place() - 1;
    let end = match read.is(&Token::LParen) {
        true => read.parentheses()?.1 + 1,
        false => match read.next() {
            Some(token @ (Token::SingleQuotedString(_) | Token::Placeholder(_))) => {
                start + token.to_string().chars().count()
            }
            _ => return Err(read.expected_before()),
        },
    };
    Ok(AsOf {
        unit,
        operand: text.chars().take(end).skip(start).collect(),
        position: start + 1,
    })
}

/// `(step = '…', show = 'rows' | 'changes', diff [= bool], label = '…')`
fn options(read: &mut Reader<'_>, replay: &mut Replay) -> Result<(), Error> {
    if !read.skip(&Token::LParen) {
        return Err(read.expected());
    }
    let (mut step_at, mut show_at) = (0, None);
    loop {
        if read.skip_word("STEP") {
            let (text, at) = read.text()?;
            let length = Length::of_text(&text);
            replay.step = Some(length.map_err(|error| error.with_position(Some(at)))?);
            step_at = at;
        } else if read.skip_word("SHOW") {
            let (text, at) = read.text()?;
            replay.all_rows = match text.to_ascii_lowercase().as_str() {
                "rows" => true,
                "changes" => false,
                _ => return Err(syntax("'rows' or 'changes' is expected", at)),
            };
            show_at = Some(at);
        } else if read.skip_word("DIFF") {
            replay.diff = read.truth()?;
        } else if read.skip_word("LABEL") {
            replay.label = Some(read.text()?.0);
        } else {
            return Err(read.expected());
        }
        if read.skip(&Token::RParen) {
            break;
        }
        if !read.skip(&Token::Comma) {
            return Err(read.expected());
        }
    }
    if replay.diff && replay.step.is_some() {
        return Err(syntax(
            "diff compares the whole stretch, so it has no steps",
            step_at,
        ));
    }
    match show_at {
        Some(at) if replay.step.is_none() => Err(syntax(
            "show says what comes after each step, so there must be a step",
            at,
        )),
        _ => Ok(()),
    }
}
