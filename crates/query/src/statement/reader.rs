//! A statement of ours, token by token.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::syntax;
use crate::{Error, as_of};

/// Reads on, token by token.
pub struct Reader<'a> {
    pub tokens: &'a [(usize, Token)],
    pub at: usize,
    /// The form of the statement, for mistakes.
    pub form: &'static str,
}

impl Reader<'_> {
    pub fn is(&self, token: &Token) -> bool {
        self.tokens
            .get(self.at)
            .is_some_and(|(_, found)| found == token)
    }

    pub fn skip(&mut self, token: &Token) -> bool {
        let is = self.is(token);
        self.at += usize::from(is);
        is
    }

    pub fn skip_word(&mut self, word: &str) -> bool {
        let is = match self.tokens.get(self.at) {
            Some((_, Token::Word(found))) => {
                found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word)
            }
            _ => false,
        };
        self.at += usize::from(is);
        is
    }

    /// Where the next token stands, in characters from 1.
    pub fn place(&self) -> usize {
        let place = self.tokens.get(self.at).or(self.tokens.last());
        place.map_or(1, |(at, _)| at + 1)
    }

    pub fn next(&mut self) -> Option<&Token> {
        let (_, token) = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// `= 'text'`, and where the text stands, in characters from 1.
    pub fn text(&mut self) -> Result<(String, usize), Error> {
        self.skip(&Token::Eq);
        let place = self.place();
        match self.next() {
            Some(Token::SingleQuotedString(text)) => Ok((text.clone(), place)),
            _ => Err(syntax("a text in quotes is expected", place)),
        }
    }

    /// The same mistake, one token back.
    pub fn expected_before(&self) -> Error {
        let place = self.tokens.get(self.at.saturating_sub(1));
        syntax(self.form, place.map_or(1, |(at, _)| at + 1))
    }

    pub fn expected(&self) -> Error {
        syntax(self.form, self.place())
    }

    /// `[public.]name`, and where it stands, in characters from 1.
    pub fn name(&mut self) -> Result<(String, usize), Error> {
        let (mut name, place) = self.word()?;
        if self.skip(&Token::Period) {
            let schema = std::mem::replace(&mut name, self.word()?.0);
            if schema != "public" {
                let message = format!("there is no schema \"{schema}\"");
                return Err(Error::new("3F000", message).with_hint("use the schema public"));
            }
        }
        Ok((name, place + 1))
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
    pub fn parentheses(&mut self) -> Result<(usize, usize), Error> {
        let open = self.tokens[self.at].0;
        let first = self.tokens.get(self.at + 1).map_or(open, |(at, _)| *at);
        let end = as_of::closed(self.tokens, self.at);
        let end = end.ok_or_else(|| syntax("this parenthesis is not closed", open + 1))?;
        self.at = end;
        Ok((first, self.tokens[end - 1].0))
    }

    /// `[= true | = false]`
    pub fn truth(&mut self) -> Result<bool, Error> {
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
