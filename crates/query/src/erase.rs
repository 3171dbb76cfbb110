//! `ERASE FROM stream WHERE condition [WITH (…)]` as it is written: what it says, and where.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, SqlOption, visit_expressions},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::Token,
};
use lambic_view::postgres::Postgres;

use crate::{Error, create, error::find_word, sqlstate};

const OPTIONS: [&str; 2] = ["keep_predicate", "wait"];
const EXPECTED: &str = "ERASE FROM stream WHERE condition is expected";

/// What a statement asks to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erase {
    pub stream: String,
    /// Where the name stands, in characters from 1.
    pub stream_at: usize,
    /// The user's own text.
    pub condition: String,
    /// The characters before it.
    pub condition_at: usize,
    /// The condition with `?` for its literals.
    pub shown: String,
    /// Whether the erasure log keeps the condition as it is.
    pub keep_predicate: bool,
    /// Whether the statement ends when nothing is left, or as soon as no read finds the records any more.
    pub wait: bool,
    /// Only tell what it would do.
    pub explain: bool,
}

/// `tokens` are those of `sql`, without blanks and comments, with the index of the character where each starts.
pub fn parse(sql: &str, tokens: &[(usize, Token)]) -> Result<Erase, Error> {
    let explain = is(tokens.first(), "EXPLAIN");
    let tokens = if explain { &tokens[1..] } else { tokens };
    if !is(tokens.get(1), "FROM") {
        return Err(syntax(EXPECTED, place(sql, tokens.get(1))));
    }
    let name_at = match tokens.get(3) {
        Some((_, Token::Period)) if is(tokens.get(2), "public") => 4,
        _ => 2,
    };
    let Some((at, Token::Word(name))) = tokens.get(name_at) else {
        let message = "the name of a stream is expected";
        return Err(syntax(message, place(sql, tokens.get(name_at))));
    };
    let stream = match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    };
    let rest = &tokens[name_at + 1..];
    if rest.is_empty() {
        return Err(syntax("ERASE needs a WHERE", sql.chars().count().max(1)).with_hint(format!(
            "ERASE FROM {stream} WHERE true erases all of its records, DROP STREAM {stream} the stream as well"
        )));
    }
    if !is(rest.first(), "WHERE") {
        let message = format!("WHERE is expected, not `{}`", rest[0].1);
        return Err(syntax(&message, rest[0].0 + 1));
    }
    let with = options_at(&rest[1..]).map(|index| index + 1);
    let condition = &rest[1..with.unwrap_or(rest.len())];
    let Some((first, _)) = condition.first() else {
        return Err(syntax(
            "a condition is expected after WHERE",
            place(sql, rest.get(1)),
        ));
    };
    let chars =
        |from: usize, to: usize| -> String { sql.chars().skip(from).take(to - from).collect() };
    let options_from = with.map_or(sql.chars().count(), |with| rest[with].0);
    let text = chars(*first, options_from).trim_end().to_owned();
    check(&text, sql, *first)?;
    let mut erase = Erase {
        stream,
        stream_at: at + 1,
        shown: shown(condition),
        condition: text,
        condition_at: *first,
        keep_predicate: false,
        wait: true,
        explain,
    };
    if with.is_some() {
        erase.take_options(&chars(options_from, sql.chars().count()), sql)?;
    }
    Ok(erase)
}

impl Erase {
    fn take_options(&mut self, text: &str, sql: &str) -> Result<(), Error> {
        let options = parsed(text, |parser| parser.parse_options(Keyword::WITH));
        let options: Vec<SqlOption> = options.map_err(|error| Error::from_parser(&error, text))?;
        for (name, value) in create::settings(&options, sql, &OPTIONS)? {
            let on = match value.to_ascii_lowercase().as_str() {
                "true" | "on" => true,
                "false" | "off" => false,
                _ => {
                    let message = format!("{name} must be true or false, not '{value}'");
                    return Err(Error::new(sqlstate::INVALID_PARAMETER, message)
                        .with_position(find_word(sql, &name)));
                }
            };
            match name.as_str() {
                "wait" => self.wait = on,
                _ => self.keep_predicate = on,
            }
        }
        Ok(())
    }
}

/// The stream that `DELETE FROM` or `TRUNCATE` names.
pub fn target(words: &[(usize, String)]) -> &str {
    let mut names = words.iter().skip(1).map(|(_, word)| word.as_str());
    let name =
        names.find(|word| !["FROM", "ONLY", "TABLE"].contains(&word.to_ascii_uppercase().as_str()));
    name.unwrap_or("stream")
}

fn is(token: Option<&(usize, Token)>, word: &str) -> bool {
    matches!(token, Some((_, Token::Word(found))) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

fn place(sql: &str, token: Option<&(usize, Token)>) -> usize {
    token.map_or_else(|| sql.chars().count().max(1), |(at, _)| at + 1)
}

fn syntax(message: &str, position: usize) -> Error {
    Error::new(sqlstate::SYNTAX_ERROR, format!("syntax error: {message}"))
        .with_position(Some(position))
}

/// The index of a `WITH (` outside of parentheses: types have a `WITH` too, but no parenthesis follows.
fn options_at(tokens: &[(usize, Token)]) -> Option<usize> {
    let mut depth = 0;
    (0..tokens.len()).find(|&index| {
        match tokens[index].1 {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0
            && is(tokens.get(index), "WITH")
            && matches!(tokens.get(index + 1), Some((_, Token::LParen)))
    })
}

/// All of `text` as what `parse` reads.
fn parsed<T>(
    text: &str,
    parse: impl FnOnce(&mut Parser) -> Result<T, ParserError>,
) -> Result<T, ParserError> {
    let dialect = Postgres;
    let mut parser = Parser::new(&dialect).try_with_sql(text)?;
    let found = parse(&mut parser)?;
    match parser.peek_token().token {
        Token::EOF => Ok(found),
        _ => parser.expected_ref("the end of the statement", parser.peek_token_ref()),
    }
}

/// It must be one expression, of the record alone.
fn check(text: &str, sql: &str, before: usize) -> Result<(), Error> {
    let moved = |mut error: Error| {
        error.position = error.position.map(|position| position + before);
        error
    };
    let expr = parsed(text, |parser| parser.parse_expr());
    let expr = expr.map_err(|error| moved(Error::from_parser(&error, text)))?;
    let subquery = visit_expressions(&expr, |part| match part {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if subquery.is_break() {
        let position = find_word(text, "select").map(|position| position + before);
        return Err(Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "ERASE takes no subquery: which records go must be said by their own columns",
        )
        .with_position(position.or_else(|| find_word(sql, "where")))
        .with_hint("select the keys first, then ERASE … WHERE key IN (…)"));
    }
    Ok(())
}

/// The condition as the erasure log shows it: its literals may be what is to be erased.
fn shown(tokens: &[(usize, Token)]) -> String {
    let mut shown = String::new();
    for (_, token) in tokens {
        let text = match token {
            Token::Word(_) | Token::Placeholder(_) => token.to_string(),
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedString(_)
            | Token::Char(_) => "?".to_owned(),
            other => other.to_string(),
        };
        let closes = matches!(
            token,
            Token::RParen | Token::Comma | Token::Period | Token::DoubleColon
        );
        let opened = shown.ends_with(['(', '.']) || shown.ends_with("::");
        if !shown.is_empty() && !closes && !opened {
            shown.push(' ');
        }
        shown += &text;
    }
    shown
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::{Session, statement};

    fn check(sql: &str, expected: Expect) {
        let told = match statement::parse(&Session::default(), sql) {
            Ok(parsed) => match &parsed[0].statement {
                statement::Statement::Erase(erase) => format!(
                    "{} [{}] [{}] keep {} wait {} explain {}",
                    erase.stream,
                    erase.condition,
                    erase.shown,
                    erase.keep_predicate,
                    erase.wait,
                    erase.explain
                ),
                other => format!("{other:?}"),
            },
            Err(error) => format!(
                "{} at {:?}: {} ({})",
                error.sqlstate,
                error.position,
                error.message,
                error.hint.unwrap_or_default()
            ),
        };
        expected.assert_eq(&told);
    }

    #[test]
    fn what_it_says_is_understood() {
        check(
            "erase from Visits where email = 'a@b.c' and (n) > 7",
            expect![[
                r#"visits [email = 'a@b.c' and (n) > 7] [email = ? and (n) > ?] keep false wait true explain false"#
            ]],
        );
        check(
            "ERASE FROM public.visits WHERE at < '2020-01-01'::timestamp with time zone WITH (wait = false, keep_predicate = true)",
            expect![[
                r#"visits [at < '2020-01-01'::timestamp with time zone] [at < ?::timestamp with time zone] keep true wait false explain false"#
            ]],
        );
        check(
            "explain erase from \"Order\" where $1 = lower(\"Name\") -- all of them",
            expect![[
                r#"Order [$1 = lower("Name")] [$1 = lower ("Name")] keep false wait true explain true"#
            ]],
        );
    }

    #[test]
    fn mistakes_have_a_place_and_a_way_out() {
        check(
            "erase from visits",
            expect![[
                r#"42601 at Some(17): syntax error: ERASE needs a WHERE (ERASE FROM visits WHERE true erases all of its records, DROP STREAM visits the stream as well)"#
            ]],
        );
        check(
            "select 1; erase visits where true",
            expect![[
                r#"42601 at Some(17): syntax error: ERASE FROM stream WHERE condition is expected ()"#
            ]],
        );
        check(
            "erase from visits v where true",
            expect![[r#"42601 at Some(19): syntax error: WHERE is expected, not `v` ()"#]],
        );
        check(
            "erase from visits where with (wait = false)",
            expect![[r#"42601 at Some(25): syntax error: a condition is expected after WHERE ()"#]],
        );
        check(
            "erase from visits where true order by n",
            expect![[
                r#"42601 at Some(30): syntax error: expected: the end of the statement, found: order ()"#
            ]],
        );
        check(
            "erase from visits where n in (select 1)",
            expect![[
                r#"0A000 at Some(31): ERASE takes no subquery: which records go must be said by their own columns (select the keys first, then ERASE … WHERE key IN (…))"#
            ]],
        );
        check(
            "erase from visits where true with (wiat = false)",
            expect![[r#"22023 at Some(36): there is no option "wiat" (did you mean "wait"?)"#]],
        );
        check(
            "erase from visits where true with (wait = 3)",
            expect![[r#"22023 at Some(36): wait must be true or false, not '3' ()"#]],
        );
        check(
            "delete from visits where n = 1",
            expect![[
                r#"0A000 at None: records are immutable: streams are only appended to (ERASE FROM visits WHERE … takes records out for ever, with an entry in lambic_erasures; to correct one, append it anew and let a view take the latest of each key)"#
            ]],
        );
    }
}
