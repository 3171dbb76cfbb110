//! Words of SQL:2016 that the parser does not take in a call, made into ones that it does.

use std::borrow::Cow;

use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word},
};

use super::Kind;
use crate::{place::Places, postgres::Postgres};

/// `TABLE` before a source goes, and `PARTITION BY` becomes an operator, [`super::source::PARTITIONED`].
/// The text stays as long as it was, so that what stands in it stays where it was.
pub fn readable(sql: &str) -> Cow<'_, str> {
    let lower = sql.to_ascii_lowercase();
    if Kind::ALL.iter().all(|kind| !lower.contains(kind.name())) {
        return Cow::Borrowed(sql);
    }
    // A text that is none is the parser's to refuse.
    let Ok(tokens) = Tokenizer::new(&Postgres, sql).tokenize_with_location() else {
        return Cow::Borrowed(sql);
    };
    let edits = edits(&tokens);
    if edits.is_empty() {
        return Cow::Borrowed(sql);
    }
    let mut places = Places::new(sql);
    let mut text = String::with_capacity(sql.len());
    for (place, words) in edits {
        let (byte, _) = places.of(place);
        text.push_str(&sql[text.len()..byte]);
        text.push_str(words);
    }
    text.push_str(&sql[text.len()..]);
    Cow::Owned(text)
}

/// What stands instead of what is there, in order.
fn edits(tokens: &[TokenWithSpan]) -> Vec<(Location, &'static str)> {
    let tokens: Vec<&TokenWithSpan> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .collect();
    let word = |index: usize| match &tokens.get(index)?.token {
        Token::Word(word) => Some(word),
        _ => None,
    };
    let is = |index: usize, keyword: Keyword| word(index).is_some_and(|w| w.keyword == keyword);
    let mut edits = Vec::new();
    // For each parenthesis that is open: if a window's call opened it, whether an argument begins here.
    let mut open: Vec<Option<bool>> = Vec::new();
    for (index, TokenWithSpan { token, span }) in tokens.iter().enumerate() {
        let begins = open
            .last_mut()
            .and_then(Option::as_mut)
            .map(|begins| std::mem::replace(begins, matches!(token, Token::Comma | Token::RArrow)));
        match token {
            Token::LParen => {
                let call = index.checked_sub(1).and_then(word).is_some_and(is_call);
                open.push(call.then_some(true));
            }
            Token::RParen => {
                open.pop();
            }
            Token::Word(now) if begins == Some(true) && now.keyword == Keyword::TABLE => {
                let follows = tokens.get(index + 1).map(|next| &next.token);
                if matches!(follows, Some(Token::Word(_) | Token::LParen)) {
                    edits.push((span.start, "     "));
                }
            }
            Token::Word(now)
                if begins.is_some()
                    && now.keyword == Keyword::PARTITION
                    && is(index + 1, Keyword::BY) =>
            {
                edits.push((span.start, "~        "));
                edits.push((tokens[index + 1].span.start, "  "));
            }
            _ => {}
        }
    }
    edits
}

fn is_call(word: &Word) -> bool {
    word.quote_style.is_none() && Kind::of_word(&word.value).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_windows_are_edited() {
        for (sql, expected) in [
            (
                "SELECT 'é' FROM TABLE(TUMBLE(TABLE v, DESCRIPTOR(at), INTERVAL '1' DAY))",
                "SELECT 'é' FROM TABLE(TUMBLE(      v, DESCRIPTOR(at), INTERVAL '1' DAY))",
            ),
            (
                "FROM session(DATA => TABLE v\nPARTITION  BY (a, b), GAP => x)",
                "FROM session(DATA =>       v\n~             (a, b), GAP => x)",
            ),
            (
                "FROM hop(TABLE (SELECT rank() OVER (PARTITION BY a) FROM v) PARTITION BY a)",
                "FROM hop(      (SELECT rank() OVER (PARTITION BY a) FROM v) ~            a)",
            ),
            (
                "SELECT session(a), table FROM t",
                "SELECT session(a), table FROM t",
            ),
            ("TABLE tumble", "TABLE tumble"),
            ("FROM tumble(TABLE", "FROM tumble(TABLE"),
            ("FROM \"HOP\"(TABLE v)", "FROM \"HOP\"(TABLE v)"),
            ("hop('", "hop('"),
        ] {
            let found = readable(sql);
            assert_eq!(found, expected);
            assert_eq!(found.len(), sql.len());
        }
    }
}
