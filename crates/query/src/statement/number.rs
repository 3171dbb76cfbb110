//! Numbers as they are written: `1a` would be taken for `1 AS a`, and `0b101` for `0 AS b101`.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use lambic_view::place::Places;

use crate::{Error, sqlstate};

/// Refuses a word that begins where a number ends.
pub fn check(tokens: &[TokenWithSpan], sql: &str) -> Result<(), Error> {
    let junk = tokens.windows(2).find_map(|pair| match pair {
        [number, word] => match (&number.token, &word.token) {
            (Token::Number(digits, _), Token::Word(word)) if word.quote_style.is_none() => {
                Some((number.span.start, format!("{digits}{}", word.value)))
            }
            _ => None,
        },
        _ => None,
    });
    let Some((start, text)) = junk else {
        return Ok(());
    };
    let message = format!("trailing junk after numeric literal at or near \"{text}\"");
    let mut error = Error::new(sqlstate::SYNTAX_ERROR, message)
        .with_hint("a number and a name are separated by a blank");
    error.position = Some(Places::new(sql).of(start).1 + 1);
    Err(error)
}

#[cfg(test)]
mod tests {
    use crate::statement::split;

    #[test]
    fn words_do_not_stand_in_numbers() {
        for (sql, position) in [
            ("SELECT 1a", 8),
            ("SELECT 2; SELECT 0b101", 18),
            ("SELECT 1 LIMIT 5OFFSET 1", 16),
        ] {
            let error = split(sql).unwrap_err();
            assert_eq!(
                (error.sqlstate, error.position),
                ("42601", Some(position)),
                "{sql}"
            );
        }
        for sql in [
            "SELECT 1 a, 1e5, 1.5e-3, 1_000, x.a1, 1\"a\"",
            "SELECT 1 -- 1a",
            "SELECT '1a', 1::int",
        ] {
            assert!(split(sql).is_ok(), "{sql}");
        }
    }
}
