//! Splits a file of SQL into statements that remember where they stood, and tells what each creates.

use std::path::{Path, PathBuf};

use crate::source::Place;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub file: PathBuf,
    /// The whole file, for showing places.
    pub source: String,
    /// Where the statement starts in `source`, in bytes.
    pub start: usize,
    /// From its first word to before its `;`.
    pub sql: String,
}

/// What a statement creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creates {
    Stream(String),
    View(String),
}

impl Creates {
    /// `stream visits`, `view pages`.
    pub fn key(&self) -> String {
        match self {
            Creates::Stream(name) => format!("stream {name}"),
            Creates::View(name) => format!("view {name}"),
        }
    }
}

impl Statement {
    pub fn place(&self, position: Option<usize>) -> Place {
        Place::at_char(&self.file, &self.source, self.start, position.unwrap_or(1))
    }

    /// What the statement creates; `None` for any other statement.
    pub fn creates(&self) -> Option<Creates> {
        let words = words(&self.sql);
        let mut rest = words.iter().map(|(_, word)| word.as_str()).peekable();
        let mut eat = |word: &str| {
            rest.next_if(|next| next.eq_ignore_ascii_case(word))
                .is_some()
        };
        if !eat("create") {
            return None;
        }
        let _ = eat("or") && eat("replace");
        let view = eat("materialized") && eat("view");
        if !view && !eat("stream") && !eat("table") {
            return None;
        }
        let _ = eat("if") && eat("not") && eat("exists");
        let name = rest.next()?;
        let name = name.rsplit('.').next().unwrap_or(name);
        let name = match name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'))
        {
            Some(quoted) => quoted.to_owned(),
            None => name.to_ascii_lowercase(),
        };
        Some(if view {
            Creates::View(name)
        } else {
            Creates::Stream(name)
        })
    }

    /// `CREATE [OR REPLACE] MATERIALIZED VIEW [IF NOT EXISTS]` as `CREATE OR REPLACE`, and a function
    /// that leads a position in the new text back to the old.
    pub fn replacing(&self) -> (String, impl Fn(usize) -> usize + use<>) {
        let mut sql = self.sql.clone();
        let mut inserted_at = usize::MAX;
        let words = words(&self.sql);
        // From the back, so that the earlier places stay true; blanks keep the positions.
        let exists: Vec<&(usize, String)> = words
            .iter()
            .take(8)
            .filter(|(_, word)| {
                ["if", "not", "exists"].contains(&word.to_ascii_lowercase().as_str())
            })
            .collect();
        for (start, word) in exists {
            sql.replace_range(*start..*start + word.len(), &" ".repeat(word.len()));
        }
        const INSERTED: &str = " OR REPLACE";
        if let [(start, create), (_, second), ..] = words.as_slice()
            && !second.eq_ignore_ascii_case("or")
        {
            let end = start + create.len();
            sql.insert_str(end, INSERTED);
            inserted_at = self.sql[..end].chars().count();
        }
        (sql, move |position| {
            if position > inserted_at {
                position.saturating_sub(INSERTED.len()).max(1)
            } else {
                position
            }
        })
    }
}

/// Statements of a file. Text in quotes, dollar quotes and comments is passed over.
pub fn split(file: &Path, source: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut scanner = Scanner { source, at: 0 };
    while let Some(token) = scanner.next_token() {
        if token == Token::Semicolon {
            push(&mut statements, file, source, start, scanner.at - 1);
            start = scanner.at;
        }
    }
    push(&mut statements, file, source, start, source.len());
    statements
}

fn push(statements: &mut Vec<Statement>, file: &Path, source: &str, start: usize, end: usize) {
    // Comments before the first word belong to nobody.
    let mut scanner = Scanner {
        source: &source[..end],
        at: start,
    };
    let first = loop {
        let before = scanner.at;
        match scanner.next_token() {
            None => return,
            Some(Token::Blank) => {}
            Some(_) => break before,
        }
    };
    statements.push(Statement {
        file: file.to_owned(),
        source: source.to_owned(),
        start: first,
        sql: source[first..end].trim_end().to_owned(),
    });
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// White space or a comment.
    Blank,
    Semicolon,
    /// A word, a quoted name, a literal, or a sign.
    Other,
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn next_token(&mut self) -> Option<Token> {
        let rest = &self.source[self.at..];
        let first = rest.chars().next()?;
        let (length, token) = if first.is_whitespace() {
            (
                rest.find(|c: char| !c.is_whitespace())
                    .unwrap_or(rest.len()),
                Token::Blank,
            )
        } else if rest.starts_with("--") {
            (rest.find('\n').unwrap_or(rest.len()), Token::Blank)
        } else if rest.starts_with("/*") {
            (block_comment(rest), Token::Blank)
        } else if first == ';' {
            (1, Token::Semicolon)
        } else if first == '\'' || first == '"' {
            (
                rest[1..].find(first).map_or(rest.len(), |end| end + 2),
                Token::Other,
            )
        } else if first == '$' {
            (dollar_quote(rest).unwrap_or(1), Token::Other)
        } else if is_word(first) {
            (
                rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                Token::Other,
            )
        } else {
            (first.len_utf8(), Token::Other)
        };
        self.at += length;
        Some(token)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Postgres nests block comments.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn dollar_quote(rest: &str) -> Option<usize> {
    let tag_end = rest[1..].find('$')? + 2;
    let tag = &rest[..tag_end];
    if !tag[1..tag_end - 1]
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_')
    {
        return None;
    }
    Some(
        rest[tag_end..]
            .find(tag)
            .map_or(rest.len(), |end| tag_end + end + tag_end),
    )
}

/// The words with their places in bytes, comments left out.
fn words(sql: &str) -> Vec<(usize, String)> {
    let mut scanner = Scanner { source: sql, at: 0 };
    let mut words = Vec::new();
    loop {
        let before = scanner.at;
        match scanner.next_token() {
            None => return words,
            Some(Token::Other) => words.push((before, sql[before..scanner.at].to_owned())),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_sql(source: &str) -> Vec<String> {
        split(Path::new("x.sql"), source)
            .into_iter()
            .map(|s| s.sql)
            .collect()
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_text() {
        assert_eq!(
            split_sql(
                "-- one; two\nSELECT ';' ; /* ; /* ; */ */ SELECT \";\"\n; SELECT $a$ ; $a$;\n-- end"
            ),
            ["SELECT ';'", "SELECT \";\"", "SELECT $a$ ; $a$"]
        );
        assert!(split_sql(" ; -- nothing\n;").is_empty());
    }

    #[test]
    fn what_a_statement_creates_is_known() {
        for (sql, creates) in [
            (
                "CREATE STREAM IF NOT EXISTS a (b int)",
                Some(Creates::Stream("a".into())),
            ),
            (
                "create table \"A b\"(c int)",
                Some(Creates::Stream("A b".into())),
            ),
            (
                "CREATE /* x */ OR REPLACE MATERIALIZED VIEW v AS SELECT 1",
                Some(Creates::View("v".into())),
            ),
            (
                "create materialized view public.V as select 1",
                Some(Creates::View("v".into())),
            ),
            ("INSERT INTO a VALUES (1)", None),
        ] {
            assert_eq!(
                split(Path::new("x.sql"), sql)[0].creates(),
                creates,
                "{sql}"
            );
        }
    }

    #[test]
    fn a_view_is_replaced_and_positions_lead_back() {
        let statement = &split(
            Path::new("x.sql"),
            "\nCREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT wrong FROM s",
        )[0];
        let (sql, back) = statement.replacing();
        assert_eq!(
            sql,
            "CREATE OR REPLACE MATERIALIZED VIEW               v AS SELECT wrong FROM s"
        );
        let position = sql.find("wrong").expect("it is there") + 1;
        let place = statement.place(Some(back(position)));
        assert_eq!(
            (
                place.line,
                place.text[place.column - 1..].starts_with("wrong")
            ),
            (2, true)
        );
    }
}
