//! `AS OF`: a statement reads at an earlier moment instead of now.
//!
//! ```sql
//! SELECT … FROM v AS OF TIMESTAMP '2026-01-01 10:00' WHERE …
//! SELECT … FROM v AS OF OFFSET 'visits@0:1200,1:1187 users@0:40'
//! SELECT … FROM v FOR SYSTEM_TIME AS OF (now() - interval '1 hour')
//! ```
//!
//! No parser knows all of it, so it is taken out of the text before that is parsed: blanks stand in its place, and
//! positions stay. It holds for the whole statement, wherever it stands: a statement reads at one frontier.

use std::{collections::BTreeMap, fmt, sync::Arc};

use datafusion::sql::sqlparser::tokenizer::Token;
use lambic_model::{Frontier, Frontiers, Offset, PartitionId, Stream, StreamName};

use crate::{Error, sqlstate};

/// The moment that a statement reads at, as it writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOf {
    pub unit: Unit,
    /// SQL: a text, a parameter, or an expression in parentheses.
    pub operand: String,
    /// Where it stands, in characters from 1.
    pub position: usize,
}

/// What the moment is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A frontier, as answers show it: `visits@0:1200,1:1187`.
    Offset,
    /// When the log took the records.
    Timestamp,
}

const EXPECTED: &str =
    "AS OF TIMESTAMP '2026-01-01 10:00' or AS OF OFFSET 'stream@0:1200' is expected";

impl AsOf {
    /// From what a door took beside the statement: a frontier (it has an `@`), or a time.
    pub fn of_text(text: &str) -> AsOf {
        AsOf {
            unit: match text.contains('@') {
                true => Unit::Offset,
                false => Unit::Timestamp,
            },
            operand: format!("'{}'", text.replace('\'', "''")),
            position: 1,
        }
    }
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Offset => "OFFSET",
            Unit::Timestamp => "TIMESTAMP",
        };
        write!(f, "AS OF {unit} {}", self.operand)
    }
}

/// `sql` with blanks where `AS OF` clauses stood, and what they said. `tokens` are those of `sql`, each with the index
/// of the character where it starts.
pub fn taken_out(sql: &str, tokens: &[(usize, Token)]) -> Result<(String, Option<AsOf>), Error> {
    let mut found: Option<AsOf> = None;
    let mut text = sql.to_owned();
    let mut index = 0;
    while index < tokens.len() {
        let Some(clause) = Clause::at(&tokens[index..])? else {
            index += 1;
            continue;
        };
        let place = |token: usize| tokens.get(token).map(|(place, _)| *place);
        let start = tokens[index].0;
        let end = place(index + clause.tokens).unwrap_or_else(|| sql.chars().count());
        let operand_at = tokens[index + clause.operand].0;
        let operand = sql.chars().take(end).skip(operand_at).collect::<String>();
        let as_of = AsOf {
            unit: clause.unit,
            operand: operand.trim_end().to_owned(),
            position: operand_at + 1,
        };
        match &found {
            Some(first) if (first.unit, &first.operand) != (as_of.unit, &as_of.operand) => {
                return Err(Error::new(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    "the statement names two moments, and it reads all that it names at one",
                )
                .with_position(Some(start + 1))
                .with_hint("compare two moments with two statements"));
            }
            Some(_) => {}
            None => found = Some(as_of),
        }
        text = blanked(&text, start, end);
        index += clause.tokens;
    }
    Ok((text, found))
}

/// Blanks for the characters `start..end`, lines kept.
fn blanked(text: &str, start: usize, end: usize) -> String {
    let blank = |(at, char): (usize, char)| match (start..end).contains(&at) && char != '\n' {
        true => ' ',
        false => char,
    };
    text.chars().enumerate().map(blank).collect()
}

/// An `AS OF` clause among tokens, from its first one on.
struct Clause {
    unit: Unit,
    /// Which token the operand starts with.
    operand: usize,
    tokens: usize,
}

impl Clause {
    fn at(tokens: &[(usize, Token)]) -> Result<Option<Clause>, Error> {
        let word = |index: usize, words: &[&str]| match tokens.get(index) {
            Some((_, Token::Word(word))) if word.quote_style.is_none() => words
                .iter()
                .any(|known| word.value.eq_ignore_ascii_case(known)),
            _ => false,
        };
        let times = ["TIMESTAMP", "TIMESTAMPTZ"];
        let (unit, operand) = if word(0, &["FOR"]) && word(1, &["SYSTEM_TIME"]) {
            if !(word(2, &["AS"]) && word(3, &["OF"])) {
                return Err(expected(tokens, 2));
            }
            (Unit::Timestamp, 4 + usize::from(word(4, &times)))
        } else if word(0, &["AS"]) && word(1, &["OF"]) {
            match tokens.get(2) {
                _ if word(2, &["OFFSET"]) => (Unit::Offset, 3),
                _ if word(2, &times) => (Unit::Timestamp, 3),
                Some((_, Token::SingleQuotedString(_) | Token::Placeholder(_))) => {
                    return Err(expected(tokens, 2));
                }
                // Something called "of".
                _ => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        match tokens.get(operand) {
            Some((_, Token::SingleQuotedString(_) | Token::Placeholder(_))) => Ok(Some(Clause {
                unit,
                operand,
                tokens: operand + 1,
            })),
            Some((_, Token::LParen)) => Ok(Some(Clause {
                unit,
                operand,
                tokens: closed(tokens, operand).ok_or_else(|| expected(tokens, operand))?,
            })),
            _ => Err(expected(tokens, operand)),
        }
    }
}

/// The token after the parenthesis that closes the one at `open`.
pub fn closed(tokens: &[(usize, Token)], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, (_, token)) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return Some(index + 1),
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    None
}

fn expected(tokens: &[(usize, Token)], index: usize) -> Error {
    let place = tokens.get(index).or(tokens.last());
    Error::new(sqlstate::SYNTAX_ERROR, format!("syntax error: {EXPECTED}"))
        .with_position(place.map(|(at, _)| at + 1))
        .with_hint(
            "a parameter or an expression in parentheses may stand for the text; a column named \"of\" is written in quotes",
        )
}

/// The frontier of these streams as answers show it.
pub fn frontier_text(streams: &[Arc<Stream>], heads: &Frontiers) -> String {
    let each = streams.iter();
    let words = each.map(|stream| format!("{}@{}", stream.name, heads.of(stream.id)));
    words.collect::<Vec<_>>().join(" ")
}

/// What the messages of a change feed add to a frontier, to tell what it is a frontier of; reading `AS OF` it does not
/// need that.
pub fn with_mark(frontier: &str, mark: &str) -> String {
    format!("{frontier} {MARK}{mark}")
}

/// What [`with_mark`] added.
pub fn mark(text: &str) -> Option<&str> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix(MARK))
}

const MARK: char = '#';

/// The streams of a frontier that is written as answers show it, and where each ends.
pub fn frontiers(text: &str) -> Result<BTreeMap<String, Frontier>, Error> {
    let wrong = |word: &str| {
        Error::new(
            sqlstate::INVALID_TEXT,
            format!("`{word}` is not a frontier"),
        )
        .with_hint(
            "it is written as EXPLAIN MATERIALIZED VIEW shows it: visits@0:1200,1:1187 users@0:40",
        )
    };
    let mut frontiers = BTreeMap::new();
    let words = text.split_whitespace();
    for word in words.filter(|word| !word.starts_with(MARK)) {
        let (name, offsets) = word.split_once('@').ok_or_else(|| wrong(word))?;
        let mut frontier = Frontier::default();
        let pairs = offsets.split(',').filter(|_| !offsets.is_empty());
        for (next, pair) in (0..).zip(pairs) {
            let (partition, offset) = pair.split_once(':').ok_or_else(|| wrong(word))?;
            let partition: u32 = partition.parse().map_err(|_| wrong(word))?;
            let offset: u64 = offset.parse().map_err(|_| wrong(word))?;
            // As they are shown: from 0, without gaps.
            if partition != next {
                return Err(wrong(word));
            }
            frontier.set(PartitionId(partition), Offset(offset));
        }
        if frontiers.insert(name.to_owned(), frontier).is_some() {
            return Err(Error::new(
                sqlstate::INVALID_TEXT,
                format!("the frontier names stream \"{name}\" twice"),
            ));
        }
    }
    match frontiers.is_empty() {
        true => Err(wrong(text)),
        false => Ok(frontiers),
    }
}

/// What a statement gets that reads a stream which its frontier does not name.
pub fn end_unknown(stream: &StreamName) -> Error {
    Error::new(
        sqlstate::INVALID_PARAMETER,
        format!("AS OF OFFSET does not say where stream \"{stream}\" ended"),
    )
    .with_hint("name every stream that the statement reads, also through views; EXPLAIN MATERIALIZED VIEW shows those of a view")
}

/// What a statement gets that reads a system table at an earlier moment.
pub fn has_no_past(table: &str) -> Error {
    Error::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        format!("{table} tells how things stand now, so it cannot be read AS OF another moment"),
    )
    .with_hint("streams and views can")
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use expect_test::{Expect, expect};
    use lambic_view::postgres::Postgres;

    use super::*;

    fn check(sql: &str, expected: Expect) {
        let mut column = 0;
        let mut tokens = Vec::new();
        for token in Tokenizer::new(&Postgres, sql)
            .tokenize_with_location()
            .unwrap()
        {
            column = column.max(token.span.start.column as usize - 1);
            if !matches!(token.token, Token::Whitespace(_)) {
                tokens.push((column, token.token));
            }
        }
        let shown = match taken_out(sql, &tokens) {
            Ok((text, as_of)) => {
                assert_eq!(text.chars().count(), sql.chars().count());
                let as_of = as_of.map(|as_of| format!("{as_of} at {}", as_of.position));
                let words: Vec<&str> = text.split_whitespace().collect();
                format!("{} | {}", words.join(" "), as_of.unwrap_or_default())
            }
            Err(error) => format!("{} at {:?}: {error}", error.sqlstate, error.position),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn the_clause_is_taken_out_wherever_it_stands() {
        check(
            "select 'ä' from v as of offset 's@0:5' where a = 1",
            expect!["select 'ä' from v where a = 1 | AS OF OFFSET 's@0:5' at 32"],
        );
        check(
            "SELECT * FROM v AS OF TIMESTAMP $1",
            expect!["SELECT * FROM v | AS OF TIMESTAMP $1 at 33"],
        );
        check(
            "SELECT * FROM v FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01' AS x",
            expect!["SELECT * FROM v AS x | AS OF TIMESTAMP '2026-01-01' at 49"],
        );
        check(
            "SELECT * FROM v AS OF TIMESTAMP (now() - (interval '1 day')) ORDER BY a",
            expect![
                "SELECT * FROM v ORDER BY a | AS OF TIMESTAMP (now() - (interval '1 day')) at 33"
            ],
        );
        check(
            "SELECT * FROM v AS OF OFFSET 's@0:5' JOIN w AS OF OFFSET 's@0:5' USING (a)",
            expect!["SELECT * FROM v JOIN w USING (a) | AS OF OFFSET 's@0:5' at 30"],
        );
        check("SELECT a AS of FROM v", expect!["SELECT a AS of FROM v | "]);
    }

    #[test]
    fn what_is_meant_but_not_said_is_a_mistake() {
        check(
            "SELECT * FROM v AS OF OFFSET 5",
            expect![[
                r#"42601 at Some(30): syntax error: AS OF TIMESTAMP '2026-01-01 10:00' or AS OF OFFSET 'stream@0:1200' is expected"#
            ]],
        );
        check(
            "SELECT * FROM v AS OF '2026-01-01'",
            expect![[
                r#"42601 at Some(23): syntax error: AS OF TIMESTAMP '2026-01-01 10:00' or AS OF OFFSET 'stream@0:1200' is expected"#
            ]],
        );
        check(
            "SELECT * FROM v FOR SYSTEM_TIME BETWEEN 1 AND 2",
            expect![[
                r#"42601 at Some(33): syntax error: AS OF TIMESTAMP '2026-01-01 10:00' or AS OF OFFSET 'stream@0:1200' is expected"#
            ]],
        );
        check(
            "SELECT * FROM v AS OF TIMESTAMP (now()",
            expect![[
                r#"42601 at Some(33): syntax error: AS OF TIMESTAMP '2026-01-01 10:00' or AS OF OFFSET 'stream@0:1200' is expected"#
            ]],
        );
        check(
            "SELECT * FROM v AS OF OFFSET 's@0:5', w AS OF OFFSET 's@0:6'",
            expect![
                "0A000 at Some(41): the statement names two moments, and it reads all that it names at one"
            ],
        );
    }

    #[test]
    fn frontiers_are_read_as_they_are_shown() {
        let read = frontiers(" a@0:5,1:7  b@").unwrap();
        assert_eq!(read["a"].to_string(), "0:5,1:7");
        assert_eq!(read["b"], Frontier::default());
        assert_eq!(frontiers("a@0:5 #1f").unwrap()["a"].to_string(), "0:5");
        assert_eq!((mark("a@0:5 #1f"), mark("a@0:5")), (Some("1f"), None));
        for wrong in [
            "",
            "a",
            "#1f",
            "a@5",
            "a@0:x",
            "a@1:5",
            "a@0:5,0:6",
            "a@0:5,",
            "a@0:-1",
            "@a@0:1",
            "a@0:5 a@0:6",
            "a@0:99999999999999999999",
        ] {
            assert_eq!(frontiers(wrong).unwrap_err().sqlstate, "22P02", "{wrong}");
        }
    }
}
