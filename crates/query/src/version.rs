//! `VERSION n`: a statement reads a version of a view that is not the served one.
//!
//! ```sql
//! SELECT … FROM v VERSION 1
//! SELECT … FROM v JOIN v VERSION AS OF 1 AS old USING (k)
//! SELECT … FROM v FOR VERSION AS OF 1
//! ```
//!
//! The last two are how Delta, Iceberg and Trino spell it. No parser knows all of it, so before the text is parsed a
//! name that no view can have stands in its place, `"v@1"`; positions stay.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Ident, Statement, TableAlias, TableFactor, VisitMut, VisitorMut},
    tokenizer::Token,
};

use crate::{Error, sqlstate};

/// A version that a statement reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub view: String,
    pub version: u32,
    /// Where the view's name stands, in characters from 1.
    pub position: usize,
}

const SEPARATOR: char = '@';
const EXPECTED: &str = "the number of a version is expected: v VERSION 1, or v FOR VERSION AS OF 1";

/// What a version of a view is called as a table.
pub fn table_name(view: &str, version: u32) -> String {
    format!("{view}{SEPARATOR}{version}")
}

/// The view that [`table_name`] was made of, and the version.
pub fn of_table_name(name: &str) -> Option<(&str, u32)> {
    let (view, version) = name.rsplit_once(SEPARATOR)?;
    Some((view, version.parse().ok()?))
}

/// `sql` with names in place of `VERSION` clauses, and what they said. `tokens` are those of `sql`, each with the index
/// of the character where it starts.
pub fn named_in(sql: &str, tokens: &[(usize, Token)]) -> Result<(String, Vec<Named>), Error> {
    let mut found = Vec::new();
    let mut text: Vec<char> = Vec::new();
    let mut index = 1;
    while index < tokens.len() {
        let Some(clause) = Clause::at(tokens, index)? else {
            index += 1;
            continue;
        };
        if text.is_empty() {
            text = sql.chars().collect();
        }
        let start = tokens[index - 1].0;
        let last = &tokens[index + clause.tokens - 1];
        let end = last.0 + last.1.to_string().chars().count();
        let quoted = format!(
            "\"{}\"",
            table_name(&clause.view, clause.version).replace('"', "\"\"")
        );
        // The clause is longer than the separator and the quotes that come in.
        let mut name = quoted.chars();
        for place in &mut text[start..end] {
            match name.next() {
                Some(char) => *place = char,
                None if *place == '\n' => {}
                None => *place = ' ',
            }
        }
        found.push(Named {
            view: clause.view,
            version: clause.version,
            position: start + 1,
        });
        index += clause.tokens;
    }
    match found.is_empty() {
        true => Ok((sql.to_owned(), found)),
        false => Ok((text.into_iter().collect(), found)),
    }
}

/// An error if there is a clause: `what` says what cannot read a version.
pub fn refuse(sql: &str, tokens: &[(usize, Token)], what: &str) -> Result<(), Error> {
    match named_in(sql, tokens)?.1.first() {
        None => Ok(()),
        Some(named) => Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!("{what}; it cannot read one VERSION of view \"{}\"", named.view),
        )
        .with_position(Some(named.position))
        .with_hint("ALTER MATERIALIZED VIEW … ROLLBACK TO VERSION serves a former version again; a SELECT can read it beside the served one")),
    }
}

/// Gives every version without an alias the name of its view, by which the statement calls its columns.
pub fn call_by_view(statement: &mut Statement) {
    let _ = statement.visit(&mut Aliases);
}

struct Aliases;

impl VisitorMut for Aliases {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = table
            && alias.is_none()
            && let Some(ident) = name.0.last().and_then(|part| part.as_ident())
            && let Some((view, _)) = of_table_name(&ident.value)
        {
            *alias = Some(TableAlias {
                explicit: true,
                name: Ident::with_quote('"', view),
                columns: Vec::new(),
                at: None,
            });
        }
        ControlFlow::Continue(())
    }
}

/// A `VERSION` clause behind the name of a view.
struct Clause {
    view: String,
    version: u32,
    /// How many, without the name.
    tokens: usize,
}

impl Clause {
    /// The one that begins at the token `index`, with the name before it.
    fn at(tokens: &[(usize, Token)], index: usize) -> Result<Option<Clause>, Error> {
        let token = |index: usize| tokens.get(index).map(|(_, token)| token);
        let word = |index: usize, wanted: &str| match token(index) {
            Some(Token::Word(word)) => {
                word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted)
            }
            _ => false,
        };
        let (first, for_version) = (index, word(index, "FOR"));
        let version_at = first + usize::from(for_version);
        if !word(version_at, "VERSION") {
            return Ok(None);
        }
        let as_of = word(version_at + 1, "AS") && word(version_at + 2, "OF");
        let number_at = version_at + if as_of { 3 } else { 1 };
        let expected = |at: usize| {
            let place = tokens.get(at).or(tokens.last());
            Error::new(sqlstate::SYNTAX_ERROR, format!("syntax error: {EXPECTED}"))
                .with_position(place.map(|(at, _)| at + 1))
                .with_hint("EXPLAIN MATERIALIZED VIEW tells which versions of a view there are")
        };
        let is_name = stands_for_a_table(tokens, index - 1);
        let number = match token(number_at) {
            Some(Token::Number(digits, _)) => digits.parse().ok(),
            Some(Token::Placeholder(_) | Token::SingleQuotedString(_)) if is_name => None,
            // An alias, or a function.
            _ if !as_of && !for_version => return Ok(None),
            _ => None,
        };
        let version = number.ok_or_else(|| expected(number_at))?;
        if !is_name {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "syntax error: VERSION stands behind the name of a view, before its alias",
            )
            .with_position(Some(tokens[index].0 + 1))
            .with_hint("SELECT … FROM v VERSION 1 AS old"));
        }
        let view = match token(index - 1) {
            Some(Token::Word(word)) if word.quote_style.is_some() => word.value.clone(),
            Some(Token::Word(word)) => word.value.to_ascii_lowercase(),
            _ => return Ok(None),
        };
        Ok(Some(Clause {
            view,
            version,
            tokens: number_at + 1 - index,
        }))
    }
}

/// True if the token is a word where the name of a table stands.
fn stands_for_a_table(tokens: &[(usize, Token)], index: usize) -> bool {
    let is_word = matches!(tokens[index].1, Token::Word(_));
    let before = index.checked_sub(1).map(|before| &tokens[before].1);
    is_word
        && match before {
            Some(Token::Word(word)) => ["FROM", "JOIN", "TABLE", "ONLY", "LATERAL"]
                .iter()
                .any(|known| word.value.eq_ignore_ascii_case(known)),
            Some(Token::Comma | Token::LParen | Token::Period) => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{parser::Parser, tokenizer::Tokenizer};
    use lambic_view::postgres::Postgres;

    use super::*;

    fn read(sql: &str) -> Result<(String, Vec<Named>), Error> {
        let tokens = Tokenizer::new(&Postgres, sql).tokenize_with_location();
        let tokens: Vec<(usize, Token)> = tokens
            .unwrap()
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)))
            .map(|token| (token.span.start.column as usize - 1, token.token))
            .collect();
        named_in(sql, &tokens)
    }

    #[test]
    fn names_stand_where_versions_stood() {
        for (sql, expected) in [
            ("SELECT * FROM v VERSION 1", "SELECT * FROM \"v@1\"      "),
            (
                "SELECT é FROM v JOIN public.V version as of 12 AS old USING (k)",
                "SELECT é FROM v JOIN public.\"v@12\"             AS old USING (k)",
            ),
            (
                "SELECT * FROM a, \"b\" FOR VERSION AS OF 3 b",
                "SELECT * FROM a, \"b@3\"                   b",
            ),
            (
                "SELECT v.version FROM v version",
                "SELECT v.version FROM v version",
            ),
            (
                "SELECT version(), 1 FROM v AS version",
                "SELECT version(), 1 FROM v AS version",
            ),
        ] {
            let (text, _) = read(sql).unwrap();
            assert_eq!(text, expected);
            assert_eq!(text.len(), sql.len());
        }
        let (_, named) = read("SELECT * FROM V VERSION 7").unwrap();
        let expected = Named {
            view: "v".to_owned(),
            version: 7,
            position: 15,
        };
        assert_eq!(named, [expected]);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (sql, position) in [
            ("SELECT * FROM v VERSION $1", 25),
            ("SELECT * FROM v VERSION '1'", 25),
            ("SELECT * FROM v VERSION 99999999999", 25),
            ("SELECT * FROM v VERSION AS OF x", 31),
            ("SELECT * FROM v FOR VERSION 1.5", 29),
            ("SELECT * FROM v old VERSION 1", 21),
        ] {
            let error = read(sql).unwrap_err();
            assert_eq!(
                (error.sqlstate, error.position),
                ("42601", Some(position)),
                "{sql}"
            );
        }
    }

    #[test]
    fn a_version_is_called_as_its_view() {
        let sql = "SELECT v.k FROM \"v@1\" JOIN \"v@2\" AS w USING (k)";
        let mut statement = Parser::parse_sql(&Postgres, sql).unwrap().remove(0);
        call_by_view(&mut statement);
        assert_eq!(
            statement.to_string(),
            "SELECT v.k FROM \"v@1\" AS \"v\" JOIN \"v@2\" AS w USING(k)"
        );
    }
}
