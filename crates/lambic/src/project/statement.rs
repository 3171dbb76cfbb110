//! Splits a file of SQL into statements that remember where they stood, tells what each creates, and which are sent
//! together.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use lambic_query::tokens;

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

/// What a statement does to the transaction that it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Begin,
    End,
}

/// The beginning of a `CREATE`, with places in the statement in bytes.
struct Head {
    creates: Creates,
    create: Range<usize>,
    or_replace: bool,
    /// `IF NOT EXISTS`, if it is there.
    if_not_exists: Option<Range<usize>>,
}

impl Statement {
    pub fn place(&self, position: Option<usize>) -> Place {
        Place::at_char(&self.file, &self.source, self.start, position.unwrap_or(1))
    }

    /// What the statement creates; `None` for any other statement.
    pub fn creates(&self) -> Option<Creates> {
        Some(self.head()?.creates)
    }

    fn bound(&self) -> Option<Bound> {
        const FIRST: [&str; 6] = ["begin", "start", "commit", "end", "rollback", "abort"];
        let first = first_word(&self.sql);
        // The words of long statements are not looked for in vain.
        if !FIRST.iter().any(|word| first.eq_ignore_ascii_case(word)) {
            return None;
        }
        let tokens = tokens(&self.sql);
        let words: Vec<String> = tokens
            .into_iter()
            .take(3)
            .map(|token| self.sql[token].to_ascii_lowercase())
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["begin", ..] | ["start", "transaction", ..] => Some(Bound::Begin),
            // Back to a savepoint: the transaction goes on.
            ["rollback" | "abort", "to", ..]
            | ["rollback" | "abort", "work" | "transaction", "to"] => None,
            ["commit" | "end" | "rollback" | "abort", ..] => Some(Bound::End),
            _ => None,
        }
    }

    /// How many statements of a whole transaction give rows: its answer is that of its end.
    pub fn rows_within(&self) -> usize {
        const GIVE_ROWS: [&str; 10] = [
            "select", "with", "values", "table", "show", "explain", "audit", "diff", "replay",
            "fetch",
        ];
        if self.bound() != Some(Bound::Begin) {
            return 0;
        }
        let pieces = lambic_query::split(&self.sql).unwrap_or_default();
        let gives_rows = |sql: &str| {
            let first = first_word(sql.trim_start_matches('('));
            GIVE_ROWS
                .iter()
                .any(|word| first.eq_ignore_ascii_case(word))
        };
        pieces.iter().filter(|piece| gives_rows(piece.text)).count()
    }

    fn head(&self) -> Option<Head> {
        let tokens = tokens(&self.sql);
        let mut rest = tokens.into_iter().peekable();
        let mut eat =
            |word: &str| rest.next_if(|token| self.sql[token.clone()].eq_ignore_ascii_case(word));
        let create = eat("create")?;
        let or_replace = eat("or").is_some() && eat("replace").is_some();
        let is_view = eat("materialized").is_some() && eat("view").is_some();
        if !is_view && eat("stream").is_none() && eat("table").is_none() {
            return None;
        }
        let if_not_exists = eat("if").and_then(|first| {
            eat("not")?;
            Some(first.start..eat("exists")?.end)
        });
        let mut name = rest.next()?;
        // Of a qualified name the last part.
        while rest
            .next_if(|token| &self.sql[token.clone()] == ".")
            .is_some()
        {
            name = rest.next()?;
        }
        let name = &self.sql[name];
        let quoted = name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'));
        let name = match quoted {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => name.to_ascii_lowercase(),
        };
        let creates = match is_view {
            true => Creates::View(name),
            false => Creates::Stream(name),
        };
        Some(Head {
            creates,
            create,
            or_replace,
            if_not_exists,
        })
    }

    /// `CREATE [OR REPLACE] MATERIALIZED VIEW [IF NOT EXISTS]` as `CREATE OR REPLACE`, and a function
    /// that leads a position in the new text back to the old.
    pub fn replacing(&self) -> (String, impl Fn(usize) -> usize + use<>) {
        const INSERTED: &str = " OR REPLACE";
        let mut sql = self.sql.clone();
        let mut inserted_at = usize::MAX;
        if let Some(head) = self.head() {
            // From the back, so that the earlier places stay true; blanks keep the positions.
            if let Some(exists) = head.if_not_exists {
                let blanks = " ".repeat(exists.len());
                sql.replace_range(exists, &blanks);
            }
            if !head.or_replace {
                let end = head.create.end;
                sql.insert_str(end, INSERTED);
                inserted_at = self.sql[..end].chars().count();
            }
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

fn first_word(sql: &str) -> &str {
    let end = sql.find(|c: char| !c.is_ascii_alphabetic());
    &sql[..end.unwrap_or(sql.len())]
}

/// The statements as they are sent: each alone, but a transaction from its `BEGIN` to its end as one, since the server
/// keeps none from one request to the next. An error with the `BEGIN` that has no end.
pub fn requests(statements: Vec<Statement>) -> Result<Vec<Statement>, Statement> {
    let mut requests = Vec::new();
    let mut open: Option<Statement> = None;
    for statement in statements {
        match (open.take(), statement.bound()) {
            (None, Some(Bound::Begin)) => open = Some(statement),
            (None, _) => requests.push(statement),
            (Some(mut whole), Some(Bound::End)) => {
                let end = statement.start + statement.sql.len();
                whole.sql = whole.source[whole.start..end].to_owned();
                requests.push(whole);
            }
            (begun, _) => open = begun,
        }
    }
    match open {
        None => Ok(requests),
        Some(begin) => Err(begin),
    }
}

/// Statements of a file. Where a quote or comment does not end, all of it is one statement, and the server says so.
pub fn split(file: &Path, source: &str) -> Vec<Statement> {
    let statement = |sql: &str, start: usize| Statement {
        file: file.to_owned(),
        source: source.to_owned(),
        start,
        sql: sql.to_owned(),
    };
    match lambic_query::split(source) {
        Ok(pieces) => {
            let start_of = |text: &str| text.as_ptr() as usize - source.as_ptr() as usize;
            let pieces = pieces.into_iter();
            pieces
                .map(|piece| statement(piece.text, start_of(piece.text)))
                .collect()
        }
        Err(_) => vec![statement(source, 0)],
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
        assert_eq!(
            split_sql(r"INSERT INTO s VALUES (E'it\'s; x'); SELECT 1"),
            [r"INSERT INTO s VALUES (E'it\'s; x')", "SELECT 1"]
        );
        assert_eq!(
            split_sql("SELECT 1; SELECT 'open"),
            ["SELECT 1; SELECT 'open"]
        );
        assert!(split_sql(" ; -- nothing\n;").is_empty());
    }

    #[test]
    fn a_transaction_is_sent_as_one() {
        let check = |source: &str, expected: Result<&[&str], usize>| {
            let sent = requests(split(Path::new("x.sql"), source));
            let sent: Result<Vec<&str>, usize> = match &sent {
                Ok(sent) => Ok(sent.iter().map(|one| one.sql.as_str()).collect()),
                Err(begin) => Err(begin.start),
            };
            assert_eq!(sent, expected.map(|texts| texts.to_vec()), "{source}");
        };
        check("SELECT 1; SELECT 2", Ok(&["SELECT 1", "SELECT 2"]));
        check(
            "SELECT 1; begin work; INSERT INTO s VALUES ('COMMIT;'); -- so\n end; COMMIT",
            Ok(&[
                "SELECT 1",
                "begin work; INSERT INTO s VALUES ('COMMIT;'); -- so\n end",
                "COMMIT",
            ]),
        );
        check(
            "START TRANSACTION READ ONLY; SAVEPOINT a; ROLLBACK TO a; abort work to savepoint a; ROLLBACK WORK; SELECT 1",
            Ok(&[
                "START TRANSACTION READ ONLY; SAVEPOINT a; ROLLBACK TO a; abort work to savepoint a; ROLLBACK WORK",
                "SELECT 1",
            ]),
        );
        check("SELECT 1; BEGIN; SELECT 2", Err(10));
        check("BEGIN; COMMIT; BEGIN; ROLLBACK TO a", Err(15));
        // What is wrong with it the server says.
        check("BEGIN; SELECT 'open", Ok(&["BEGIN; SELECT 'open"]));
    }

    #[test]
    fn rows_of_a_transaction_are_counted() {
        for (source, expected) in [
            ("SELECT 1", 0),
            ("BEGIN; INSERT INTO s SELECT 1; COMMIT", 0),
            ("BEGIN; (SELECT 1); values (2); ROLLBACK", 2),
        ] {
            let sent = requests(split(Path::new("x.sql"), source)).expect("it is ended");
            assert_eq!(sent[0].rows_within(), expected, "{source}");
        }
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
            (
                "create stream lambic.public.\"x\"\"y\" (a int)",
                Some(Creates::Stream("x\"y".into())),
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
        let other = &split(
            Path::new("x.sql"),
            "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT NOT late AS on_time, if(a, b) FROM s",
        )[0];
        assert_eq!(other.replacing().0, other.sql);
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
