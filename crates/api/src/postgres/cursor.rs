//! `DECLARE`, `FETCH` and `CLOSE`: answers that are read in portions, within a transaction block.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::stream;
use lambic_query::{Outcome, tokens};
use pgwire::{
    api::{
        portal::Format,
        results::{FieldInfo, QueryResponse, Tag},
    },
    error::PgWireResult,
    messages::data::DataRow,
};
use tokio::time::Instant;

use super::{
    command::{Command, unquote},
    encode::{self, Encoder},
    error::{self, wire},
    handler::{Busy, Done, Handler, next_batch},
    settings::duration,
};
use crate::{block::Status, executor::Batches};

/// Cursors of one connection.
const CURSORS_MAX: usize = 64;
/// Rows of one FETCH are made before the first is sent.
const FETCH_BYTES_MAX: usize = 64 << 20;

/// Open cursors by name; they end with their transaction.
#[derive(Default)]
pub struct Cursors(Mutex<BTreeMap<String, Arc<Cursor>>>);

struct Cursor {
    schema: SchemaRef,
    /// Rows come as things change.
    is_endless: bool,
    rows: tokio::sync::Mutex<Rows>,
}

struct Rows {
    batches: Batches,
    /// What is left of the last batch.
    rest: Option<RecordBatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare {
    name: String,
    query: String,
    /// Where the query begins in the statement.
    chars_before: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    name: String,
    /// `None`: all.
    count: Option<usize>,
    timeout: Option<Duration>,
}

impl Fetch {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Cursors {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Cursor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close_all(&self) {
        self.all().clear();
    }

    fn find(&self, name: &str) -> PgWireResult<Arc<Cursor>> {
        let found = self.all().get(name).cloned();
        found.ok_or_else(|| missing(name))
    }

    pub fn fields(&self, name: &str, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
        encode::fields(&self.find(name)?.schema, format)
    }
}

fn missing(name: &str) -> pgwire::error::PgWireError {
    error::with_hint(
        "34000",
        format!("cursor \"{name}\" does not exist"),
        "DECLARE makes one; it ends with its transaction",
    )
}

impl Handler {
    pub async fn declare(&self, declare: &Declare, chars_before: usize) -> PgWireResult<Done> {
        if self.connection.block().status() != Status::Open {
            return Err(error::with_hint(
                "25P01",
                "DECLARE CURSOR can only be used in transaction blocks",
                "send BEGIN first",
            ));
        }
        let name = &declare.name;
        {
            let cursors = self.connection.cursors.all();
            if cursors.contains_key(name) {
                return Err(wire("42P03", format!("cursor \"{name}\" already exists")));
            }
            if cursors.len() >= CURSORS_MAX {
                let message = format!("a transaction has at most {CURSORS_MAX} cursors");
                return Err(error::with_hint(
                    "54000",
                    message,
                    "CLOSE those that are done with",
                ));
            }
        }
        let _busy = Busy::new(self);
        let chars_before = chars_before + declare.chars_before;
        let outcome = self
            .outcome(&declare.query, chars_before, self.deadline())
            .await?;
        let (schema, rows, is_endless) = match outcome {
            Some(Outcome::Rows { schema, rows }) => (schema, rows, false),
            Some(Outcome::Changes { schema, rows }) => (schema, rows, true),
            Some(Outcome::Done { .. }) | None => {
                return Err(wire(
                    "42601",
                    "a cursor is declared for a SELECT or a SUBSCRIBE",
                ));
            }
        };
        let cursor = Cursor {
            schema,
            is_endless,
            rows: tokio::sync::Mutex::new(Rows {
                batches: self.shared.executor.stream(rows),
                rest: None,
            }),
        };
        self.connection
            .cursors
            .all()
            .insert(name.clone(), Arc::new(cursor));
        Ok(Done::Tag(Tag::new("DECLARE CURSOR")))
    }

    pub async fn fetch(&self, fetch: &Fetch, format: &Format) -> PgWireResult<Done> {
        let cursor = self.connection.cursors.find(&fetch.name)?;
        let fields = Arc::new(encode::fields(&cursor.schema, format)?);
        let bytea_as_escape = self.connection.settings().bytea_as_escape();
        let mut encoder = Encoder::new(Arc::clone(&fields), bytea_as_escape);
        let _busy = Busy::new(self);
        let mut found: Vec<PgWireResult<DataRow>> = Vec::new();
        let mut bytes = 0;
        let mut rows = cursor.rows.lock().await;
        let end = fetch.timeout.map(|timeout| Instant::now() + timeout);
        let deadline = self.deadline();
        loop {
            let wanted = fetch.count.map(|count| count - found.len());
            if wanted == Some(0) {
                break;
            }
            let batch = match rows.rest.take() {
                Some(batch) => batch,
                None => {
                    let stop = cursor.is_endless.then(|| self.shared.stop.clone());
                    let next = next_batch(&mut rows.batches, &self.connection, deadline, stop);
                    let until = match end {
                        _ if !cursor.is_endless => None,
                        // What is ready when something is there.
                        None if !found.is_empty() => Some(Instant::now()),
                        end => end,
                    };
                    let next = match until {
                        Some(until) => match tokio::time::timeout_at(until, next).await {
                            Ok(next) => next,
                            Err(_) => break,
                        },
                        None => next.await,
                    };
                    match next {
                        Some(batch) => batch?,
                        None => break,
                    }
                }
            };
            let taken = wanted.map_or(batch.num_rows(), |wanted| wanted.min(batch.num_rows()));
            if taken < batch.num_rows() {
                rows.rest = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            let encoded = encoder.rows(&batch.slice(0, taken))?;
            bytes += encoded.iter().map(|row| row.data.len()).sum::<usize>();
            if bytes > FETCH_BYTES_MAX {
                let message = format!(
                    "one FETCH gives at most {} MiB of rows",
                    FETCH_BYTES_MAX >> 20
                );
                let hint = "FETCH fewer rows at a time, as FETCH 10000; or run the SELECT without a cursor";
                return Err(error::with_hint("54000", message, hint));
            }
            found.extend(encoded.into_iter().map(Ok));
        }
        let mut response = QueryResponse::new(fields, stream::iter(found));
        response.set_command_tag("FETCH");
        Ok(Done::Rows(response))
    }

    /// `None`: all.
    pub fn close(&self, name: Option<&str>) -> PgWireResult<Done> {
        let mut cursors = self.connection.cursors.all();
        match name {
            None => cursors.clear(),
            Some(name) => {
                cursors.remove(name).ok_or_else(|| missing(name))?;
            }
        }
        Ok(Done::Tag(Tag::new("CLOSE CURSOR")))
    }
}

/// The statements about cursors; `None` for others.
pub fn parse(sql: &str) -> Option<Command> {
    let places = tokens(sql);
    let words: Vec<&str> = places.iter().map(|place| &sql[place.clone()]).collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    match upper[..] {
        ["DECLARE", ..] => Some(declared(sql, &places, &words, &upper)),
        ["FETCH", ..] => Some(fetched(&words[1..], &upper[1..])),
        ["CLOSE", "ALL"] => Some(Command::Close { name: None }),
        ["CLOSE", _] => Some(Command::Close {
            name: Some(folded(words[1])),
        }),
        ["CLOSE", ..] => Some(Command::Malformed {
            expected: "CLOSE name",
        }),
        _ => None,
    }
}

fn folded(word: &str) -> String {
    match word.starts_with('"') {
        true => unquote(word),
        false => word.to_ascii_lowercase(),
    }
}

fn declared(
    sql: &str,
    places: &[std::ops::Range<usize>],
    words: &[&str],
    upper: &[&str],
) -> Command {
    const EXPECTED: Command = Command::Malformed {
        expected: "DECLARE name CURSOR FOR SELECT … (or SUBSCRIBE …)",
    };
    let Some(at) = upper.iter().position(|word| *word == "FOR") else {
        return EXPECTED;
    };
    let is_known = |word: &&str| {
        matches!(
            *word,
            "NO" | "SCROLL" | "ASENSITIVE" | "INSENSITIVE" | "CURSOR" | "WITHOUT" | "HOLD"
        )
    };
    let options = upper.get(2..at).unwrap_or_default();
    let has = |word| options.contains(&word);
    if has("WITH") || has("BINARY") || has("SCROLL") && !has("NO") {
        return Command::Unsupported {
            what: "cursors that are WITH HOLD, BINARY or SCROLL",
            hint: "a cursor goes forward, and ends with its transaction",
        };
    }
    let Some(query) = places.get(at + 1) else {
        return EXPECTED;
    };
    if !has("CURSOR") || !options.iter().all(is_known) {
        return EXPECTED;
    }
    Command::Declare(Declare {
        name: folded(words[1]),
        query: sql[query.start..]
            .trim_end_matches([';', ' ', '\n'])
            .to_owned(),
        chars_before: sql[..query.start].chars().count(),
    })
}

/// `FETCH [FORWARD] [NEXT | n | ALL] [FROM | IN] name [WITH (timeout = '1s')]`
fn fetched(mut words: &[&str], mut upper: &[&str]) -> Command {
    const EXPECTED: Command = Command::Malformed {
        expected: "FETCH [n | ALL] [FROM] name [WITH (timeout = '1s')]",
    };
    let skip = |words: &mut &[&str], upper: &mut &[&str], count: usize| {
        *words = &words[count..];
        *upper = &upper[count..];
    };
    let is_forward = upper.first() == Some(&"FORWARD");
    if is_forward {
        skip(&mut words, &mut upper, 1);
    }
    let count = match upper {
        [
            "BACKWARD" | "PRIOR" | "FIRST" | "LAST" | "ABSOLUTE" | "RELATIVE",
            _,
            ..,
        ] => {
            return Command::Unsupported {
                what: "cursors that go anywhere but forward",
                hint: "FETCH n name, or FETCH ALL name",
            };
        }
        ["ALL", _, ..] => Some(None),
        ["NEXT", _, ..] => Some(Some(1)),
        [number, _, ..] => number.parse().ok().map(Some),
        _ => None,
    };
    if count.is_some() {
        skip(&mut words, &mut upper, 1);
    }
    if matches!(upper, ["FROM" | "IN", _, ..]) {
        skip(&mut words, &mut upper, 1);
    }
    let timeout = match upper {
        [_] => None,
        [_, "WITH", "(", "TIMEOUT", rest @ .., ")"] => {
            let value = match rest {
                ["=", "INTERVAL", value] | ["=", value] | ["INTERVAL", value] | [value] => value,
                _ => return EXPECTED,
            };
            match interval(&unquote(&value.to_ascii_lowercase())) {
                Some(timeout) => Some(timeout),
                None => {
                    return Command::Malformed {
                        expected: "a timeout such as '1s' or '100ms'",
                    };
                }
            }
        }
        _ => return EXPECTED,
    };
    Command::Fetch(Fetch {
        name: folded(words[0]),
        count: count.unwrap_or(Some(1)),
        timeout,
    })
}

/// Seconds where no unit is given, as intervals are.
fn interval(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let unit = match unit.trim() {
        "" | "second" | "seconds" | "sec" => "s",
        "millisecond" | "milliseconds" => "ms",
        "minute" | "minutes" => "min",
        other => other,
    };
    duration(&format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_declared_and_read() {
        assert_eq!(
            parse("DECLARE \"C 1\" NO SCROLL CURSOR WITHOUT HOLD FOR SUBSCRIBE v;"),
            Some(Command::Declare(Declare {
                name: "C 1".to_owned(),
                query: "SUBSCRIBE v".to_owned(),
                chars_before: 48,
            }))
        );
        let fetch = |sql: &str| match parse(sql) {
            Some(Command::Fetch(fetch)) => Some((
                fetch.name,
                fetch.count,
                fetch.timeout.map(|timeout| timeout.as_millis()),
            )),
            _ => None,
        };
        let c = || "c".to_owned();
        assert_eq!(fetch("FETCH c"), Some((c(), Some(1), None)));
        assert_eq!(fetch("FETCH 0 c"), Some((c(), Some(0), None)));
        assert_eq!(fetch("fetch forward all in C"), Some((c(), None, None)));
        assert_eq!(fetch("FETCH NEXT FROM c"), Some((c(), Some(1), None)));
        assert_eq!(
            fetch("FETCH 100 c WITH (timeout='1s')"),
            Some((c(), Some(100), Some(1_000)))
        );
        assert_eq!(
            fetch("FETCH ALL FROM c WITH (TIMEOUT = INTERVAL '2 seconds')"),
            Some((c(), None, Some(2_000)))
        );
        assert_eq!(
            fetch("FETCH ALL c WITH (timeout '0')"),
            Some((c(), None, Some(0)))
        );
        for sql in [
            "FETCH",
            "FETCH 5",
            "FETCH c d e",
            "FETCH c WITH (timeout = 'soon')",
            "CLOSE",
            "DECLARE c",
            "DECLARE c CURSOR FOR",
        ] {
            let refused = parse(sql);
            let is_name = sql == "FETCH 5";
            assert!(
                is_name || matches!(refused, Some(Command::Malformed { .. })),
                "{sql}: {refused:?}"
            );
        }
        for sql in [
            "FETCH PRIOR FROM c",
            "DECLARE c SCROLL CURSOR FOR SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        ] {
            assert!(
                matches!(parse(sql), Some(Command::Unsupported { .. })),
                "{sql}"
            );
        }
    }
}
