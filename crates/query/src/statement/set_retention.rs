//! `ALTER STREAM name SET (retention = '30 days')` and `RESET (retention)`, also behind `EXPLAIN`.

use datafusion::sql::sqlparser::{
    ast::SqlOption, keywords::Keyword, parser::Parser, tokenizer::Token,
};

use lambic_view::postgres::Postgres;

use super::{Part, SetRetention, syntax};
use crate::{Error, create, retention};

const EXPECTED: &str =
    "ALTER STREAM name SET (retention = '30 days') or RESET (retention) is expected";
const SETTINGS: [&str; 2] = [retention::AGE, retention::BYTES];

pub fn parse(part: &Part<'_>) -> Result<SetRetention, Error> {
    let explain = is(part.tokens.first(), Keyword::EXPLAIN);
    let tokens = &part.tokens[usize::from(explain)..];
    let place = |token: Option<&(usize, Token)>| {
        token.map_or_else(|| part.piece.text.chars().count(), |(at, _)| at + 1)
    };
    let name_at = match tokens.get(3) {
        Some((_, Token::Period)) => 4,
        _ => 2,
    };
    let Some((_, Token::Word(name))) = tokens.get(name_at) else {
        return Err(syntax(EXPECTED, place(tokens.get(name_at))));
    };
    let stream = match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    };
    let rest = &tokens[name_at + 1..];
    let settings = match rest.first() {
        first if is(first, Keyword::SET) => set(part, rest[0].0)?,
        first if is(first, Keyword::RESET) => {
            reset(&rest[1..]).ok_or_else(|| syntax(EXPECTED, place(rest.get(1))))?
        }
        other => return Err(syntax(EXPECTED, place(other))),
    };
    Ok(SetRetention {
        stream,
        settings,
        explain,
    })
}

type Settings = Vec<(String, Option<String>)>;

fn set(part: &Part<'_>, from: usize) -> Result<Settings, Error> {
    let sql = part.piece.text;
    let text: String = sql.chars().skip(from).collect();
    let dialect = Postgres;
    let wrong = |error| Error::from_parser(&error, sql);
    let mut parser = Parser::new(&dialect).try_with_sql(&text).map_err(wrong)?;
    let options: Vec<SqlOption> = parser.parse_options(Keyword::SET).map_err(wrong)?;
    parser.expect_token(&Token::EOF).map_err(wrong)?;
    if options.is_empty() {
        return Err(syntax(EXPECTED, from + 1));
    }
    let settings = create::settings(&options, sql, &SETTINGS)?;
    Ok(settings
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect())
}

/// `(name, …)`.
fn reset(tokens: &[(usize, Token)]) -> Option<Settings> {
    let [(_, Token::LParen), names @ .., (_, Token::RParen)] = tokens else {
        return None;
    };
    let each = names.split(|(_, token)| *token == Token::Comma);
    each.map(|name| match name {
        [(_, Token::Word(word))] => Some((word.value.to_ascii_lowercase(), None)),
        _ => None,
    })
    .collect()
}

fn is(token: Option<&(usize, Token)>, keyword: Keyword) -> bool {
    matches!(token, Some((_, Token::Word(word))) if word.keyword == keyword)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::{Statement, parse};
    use crate::Session;

    #[test]
    fn what_is_written_is_understood_or_told() {
        let check = |sql: &str, expected: Expect| {
            let told = match parse(&Session::default(), sql) {
                Err(error) => format!(
                    "{} at {:?}: {}",
                    error.sqlstate, error.position, error.message
                ),
                Ok(parsed) => match &parsed[0].statement {
                    Statement::SetRetention(alter) => format!("{alter:?}"),
                    other => format!("{other:?}"),
                },
            };
            expected.assert_eq(&told);
        };
        check(
            "ALTER STREAM Visits SET (retention = '30 days', retention_bytes = 7)",
            expect![[
                r#"SetRetention { stream: "visits", settings: [("retention", Some("30 days")), ("retention_bytes", Some("7"))], explain: false }"#
            ]],
        );
        check(
            "explain alter stream public.\"V\" reset (retention, retention_bytes)",
            expect![[
                r#"SetRetention { stream: "V", settings: [("retention", None), ("retention_bytes", None)], explain: true }"#
            ]],
        );
        check(
            "ALTER STREAM visits SET (partitions = 2)",
            expect![[r#"22023 at Some(26): there is no option "partitions""#]],
        );
        check(
            "ALTER STREAM visits RESET retention",
            expect![
                "42601 at Some(27): syntax error: ALTER STREAM name SET (retention = '30 days') or RESET (retention) is expected"
            ],
        );
        check(
            "COMPACT STREAM visits",
            expect![[r#"CompactStream("visits")"#]],
        );
        check(
            "COMPACT visits",
            expect!["42601 at Some(1): syntax error: COMPACT STREAM name is expected"],
        );
    }
}
