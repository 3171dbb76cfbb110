//! Errors of SQL as a Postgres client sees them: SQLSTATE, message, hint, position.

use std::io;

use arrow::{datatypes::Schema, error::ArrowError};
use datafusion::{
    common::{Column, Span},
    error::DataFusionError,
    sql::sqlparser::parser::ParserError,
};
use lambic_view::postgres::ValueError;

use crate::message;

/// A mistake in a statement, or what went wrong while it ran.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Five characters of Postgres's table of error codes.
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: Option<String>,
    pub detail: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<usize>,
}

/// From the words in which DataFusion says that a statement has more on disk than it may.
const DISK_QUOTA: &str = "disk space during the spilling process";

/// The words in which Postgres refuses a prepared statement whose columns are others by now.
pub const PLAN_CHANGED: &str = "cached plan must not change result type";

/// The codes in use here (Postgres documentation, appendix A).
pub mod sqlstate {
    pub const SYNTAX_ERROR: &str = "42601";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const UNDEFINED_PARAMETER: &str = "42P02";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_FUNCTION: &str = "42883";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const GROUPING_ERROR: &str = "42803";
    pub const DUPLICATE_TABLE: &str = "42P07";
    pub const DUPLICATE_COLUMN: &str = "42701";
    pub const DUPLICATE_ALIAS: &str = "42712";
    pub const AMBIGUOUS_COLUMN: &str = "42702";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const DATATYPE_MISMATCH: &str = "42804";
    pub const INVALID_NAME: &str = "42602";
    pub const INVALID_PARAMETER: &str = "22023";
    pub const INVALID_TEXT: &str = "22P02";
    pub const INVALID_DATETIME: &str = "22007";
    pub const DATETIME_OVERFLOW: &str = "22008";
    pub const UNDEFINED_SCHEMA: &str = "3F000";
    pub const NUMERIC_OUT_OF_RANGE: &str = "22003";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const DATA_EXCEPTION: &str = "22000";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const DEPENDENT_OBJECTS: &str = "2BP01";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const INVALID_RECURSION: &str = "42P19";
    pub const SERIALIZATION_FAILURE: &str = "40001";
    pub const ACTIVE_TRANSACTION: &str = "25001";
    pub const READ_ONLY_TRANSACTION: &str = "25006";
    pub const NO_ACTIVE_TRANSACTION: &str = "25P01";
    pub const FAILED_TRANSACTION: &str = "25P02";
    pub const UNDEFINED_SAVEPOINT: &str = "3B001";
    pub const DISK_FULL: &str = "53100";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const LIMIT_EXCEEDED: &str = "54000";
    pub const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const OBJECT_IN_USE: &str = "55006";
    pub const QUERY_CANCELED: &str = "57014";
    pub const TOO_BUSY: &str = "53400";
    pub const STATEMENT_TOO_COMPLEX: &str = "54001";
    pub const SNAPSHOT_TOO_OLD: &str = "72000";
    pub const IO_ERROR: &str = "58030";
    pub const UNAVAILABLE: &str = "57P03";
    pub const DATA_CORRUPTED: &str = "XX001";
    pub const INTERNAL: &str = "XX000";
}

impl Error {
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Error {
        Error {
            sqlstate,
            message: message.into(),
            hint: None,
            detail: None,
            position: None,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_position(mut self, position: Option<usize>) -> Error {
        self.position = self.position.or(position);
        self
    }

    /// What reading a view of the catalog gives that could not be opened.
    pub fn broken_view(name: &str, reason: &str) -> Error {
        Error::new(sqlstate::UNAVAILABLE, format!("view \"{name}\" cannot be read: {reason}"))
            .with_hint("CREATE OR REPLACE MATERIALIZED VIEW mends it, DROP MATERIALIZED VIEW removes it; its records are not affected")
    }

    pub fn internal(message: impl std::fmt::Display) -> Error {
        Error::new(sqlstate::INTERNAL, message.to_string())
    }

    /// Translates what DataFusion says; `sql` is the statement, for positions, and `names` are the
    /// tables that exist, for suggestions.
    pub fn from_datafusion(error: DataFusionError, sql: &str, names: &[String]) -> Error {
        Error::translated(error, sql, names).at_literal(sql)
    }

    /// An error about a value that stands in `sql` is there.
    fn at_literal(self, sql: &str) -> Error {
        let is_placed = self.position.is_some() || !self.sqlstate.starts_with("22");
        let value = self.message.rsplit('"').nth(1);
        let position = match value {
            Some(value) if !is_placed => find_literal(sql, value),
            _ => None,
        };
        Error {
            position: self.position.or(position),
            ..self
        }
    }

    fn translated(error: DataFusionError, sql: &str, names: &[String]) -> Error {
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        // Expressions that no text stands for have a place of their own: line 0.
        let position = span
            .filter(|span: &Span| span.start.line > 0)
            .map(|span| position_of(sql, span.start.line, span.start.column));
        match error.find_root() {
            DataFusionError::SQL(parser, _) => Error::from_parser(parser, sql),
            DataFusionError::SchemaError(schema, _) => {
                use datafusion::common::SchemaError::{
                    AmbiguousReference, DuplicateQualifiedField, DuplicateUnqualifiedField,
                    FieldNotFound,
                };
                match schema.as_ref() {
                    FieldNotFound { field, valid_fields }
                        if let Some(table) = unknown_table(field, valid_fields) =>
                    {
                        let message = format!("missing FROM-clause entry for table \"{table}\"");
                        let at = position.or_else(|| find_word(sql, table));
                        Error::new(sqlstate::UNDEFINED_TABLE, message).with_position(at)
                    }
                    FieldNotFound { field, valid_fields } => {
                        let names: Vec<String> = valid_fields.iter().map(|c| c.name.clone()).collect();
                        let mut found = Error::new(
                            sqlstate::UNDEFINED_COLUMN,
                            format!("column \"{}\" does not exist", field.name),
                        );
                        if let Some(best) = closest(&field.name, &names) {
                            found = found.with_hint(format!("did you mean \"{best}\"?"));
                        } else if !names.is_empty() {
                            found = found.with_hint(there_are(&names));
                        }
                        found.with_position(position.or_else(|| find_word(sql, &field.name)))
                    }
                    AmbiguousReference { field } => {
                        let message = format!("column reference \"{}\" is ambiguous", field.name);
                        Error::new(sqlstate::AMBIGUOUS_COLUMN, message)
                            .with_hint("more than one table has it: put the table's name before it")
                            .with_position(position)
                    }
                    DuplicateQualifiedField { qualifier, .. } => {
                        let message = format!("table name \"{qualifier}\" specified more than once");
                        Error::new(sqlstate::DUPLICATE_ALIAS, message)
                            .with_hint(format!("give one of them another name: {qualifier} AS other"))
                            .with_position(position)
                    }
                    // Names of expressions leave casts out.
                    DuplicateUnqualifiedField { name } => {
                        let message = format!(
                            "two expressions are both \"{name}\": those that differ only in a cast cannot stand beside one another"
                        );
                        Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                            .with_hint("compute one of them in FROM (SELECT …) and give it a name there")
                            .with_position(position)
                    }
                }
            }
            DataFusionError::External(inner) => {
                Error::from_source(inner.as_ref(), sql).with_position(position)
            }
            DataFusionError::ResourcesExhausted(message) => Error::exhausted(message),
            DataFusionError::Execution(message) => message::of_value(message).with_position(position),
            DataFusionError::ArrowError(arrow, _) => Error::from_arrow(arrow),
            DataFusionError::IoError(error) => Error::of_disk(error),
            // What follows is the whole expression as DataFusion keeps it.
            DataFusionError::NotImplemented(message)
                if message.starts_with("Physical plan does not support logical expression") =>
            {
                Error::new(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    "a subquery cannot be computed where it stands",
                )
                .with_hint(
                    "IN (SELECT …) and EXISTS stand in WHERE, HAVING and in what is selected, not in aggregates; a subquery \
                     may compare with columns of the query around it by = only; or join instead",
                )
                .with_position(position)
            }
            DataFusionError::NotImplemented(message) => {
                Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message.clone()).with_position(position)
            }
            DataFusionError::Plan(message) => from_plan(message, sql, names).with_position(position),
            other => Error::new(sqlstate::INTERNAL, message::without_internals(&other.strip_backtrace())),
        }
    }

    /// What a statement meets that needs more memory, or more disk for what does not fit into memory, than there is for
    /// statements. `message` is DataFusion's.
    fn exhausted(message: &str) -> Error {
        if message.contains(DISK_QUOTA) {
            return Error::over_disk_quota(message);
        }
        // What follows lists who else holds memory, by DataFusion's own names.
        let (message, _) = message
            .split_once(" with top memory consumers")
            .unwrap_or((message, ""));
        Error::new(sqlstate::OUT_OF_MEMORY, message)
            .with_hint("statements together may hold memory.query_bytes_max: select less, or raise it in the settings")
    }

    fn over_disk_quota(message: &str) -> Error {
        Error::new(sqlstate::DISK_FULL, message).with_hint(
            "what does not fit into memory may take memory.query_disk_bytes_max on disk: select less, or raise it in the settings",
        )
    }

    /// What the disk answered: no room, or that it failed.
    pub fn of_disk(error: &(dyn std::error::Error + 'static)) -> Error {
        let message = error.to_string();
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if text.contains(DISK_QUOTA) {
                return Error::over_disk_quota(&text);
            }
            if let Some(io) = error.downcast_ref::<io::Error>()
                && matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            {
                let hint = "make room on the disk of the data folder; nothing was lost, and the same works again then";
                return Error::new(sqlstate::DISK_FULL, message).with_hint(hint);
            }
            next = error.source();
        }
        Error::new(sqlstate::IO_ERROR, message)
    }

    /// Translates an error that came through other rooms: what went wrong first counts.
    pub fn from_source(error: &(dyn std::error::Error + 'static), sql: &str) -> Error {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref::<Error>() {
                return ours.clone();
            }
            if let Some(value) = error.downcast_ref::<ValueError>() {
                return message::of_postgres(value, sql);
            }
            if let Some(arrow) = error.downcast_ref::<ArrowError>() {
                return Error::from_arrow(arrow);
            }
            match error.downcast_ref::<DataFusionError>() {
                Some(DataFusionError::Execution(text)) => return message::of_value(text),
                Some(DataFusionError::ResourcesExhausted(text)) => return Error::exhausted(text),
                Some(DataFusionError::External(inner)) => next = Some(inner.as_ref()),
                _ => next = error.source(),
            }
        }
        Error::new(
            sqlstate::INTERNAL,
            message::without_internals(&error.to_string()),
        )
    }

    fn from_arrow(error: &ArrowError) -> Error {
        match error {
            ArrowError::DivideByZero => Error::new(sqlstate::DIVISION_BY_ZERO, "division by zero"),
            ArrowError::ArithmeticOverflow(_) => {
                Error::new(sqlstate::NUMERIC_OUT_OF_RANGE, "value out of range")
            }
            ArrowError::CastError(text)
            | ArrowError::ParseError(text)
            | ArrowError::ComputeError(text)
            | ArrowError::InvalidArgumentError(text) => message::of_value(text),
            ArrowError::ExternalError(inner) => Error::from_source(inner.as_ref(), ""),
            ArrowError::IoError(_, error) => Error::of_disk(error),
            other => message::of_value(&other.to_string()),
        }
    }

    /// Says which column it is about.
    pub fn in_column(mut self, name: &str) -> Error {
        self.message = format!("column \"{name}\": {}", self.message);
        self
    }

    /// Columns that were counted (`column2`), as `VALUES` does, by their names in `schema`.
    pub fn with_columns_of(mut self, schema: &Schema) -> Error {
        if let Some(number) = self.message.split("\"column").nth(1)
            && let Some((number, _)) = number.split_once('"')
            && let Some(index) = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1))
            && let Some(field) = schema.fields().get(index)
        {
            let counted = format!("\"column{number}\"");
            self.message = self
                .message
                .replace(&counted, &format!("\"{}\"", field.name()));
        }
        self
    }

    pub fn from_parser(error: &ParserError, sql: &str) -> Error {
        let message = match error {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                message.clone()
            }
            ParserError::RecursionLimitExceeded => {
                return Error::new(
                    sqlstate::STATEMENT_TOO_COMPLEX,
                    "the statement is nested too deeply",
                );
            }
        };
        // sqlparser ends its messages with the place in words: turn it into a position.
        let (text, position) = match message.rsplit_once(" at Line: ") {
            Some((text, place)) => {
                let mut numbers = place.split(", Column: ").map(|n| n.trim().parse::<u64>());
                match (numbers.next(), numbers.next()) {
                    (Some(Ok(line)), Some(Ok(column))) => {
                        (text.to_owned(), Some(position_of(sql, line, column)))
                    }
                    _ => (message.clone(), None),
                }
            }
            None => (message.clone(), None),
        };
        let at_end = text.contains("EOF");
        let mut syntax = Error::new(
            sqlstate::SYNTAX_ERROR,
            format!("syntax error: {}", lower_first(&text)),
        );
        syntax.position = position.or_else(|| at_end.then(|| sql.chars().count().max(1)));
        if let Some(hint) = crate::keyword::suggestion(sql, syntax.position) {
            syntax = syntax.with_hint(hint);
        }
        syntax
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}

fn from_plan(message: &str, sql: &str, names: &[String]) -> Error {
    let quoted = message.split('\'').nth(1).unwrap_or_default();
    if message.contains("not found") && message.starts_with("table") {
        let mut parts = quoted.rsplit('.');
        let name = parts.next().unwrap_or(quoted);
        if let Some(schema) = parts.next()
            && !["public", "pg_catalog", "information_schema"].contains(&schema)
        {
            let message = format!("schema \"{schema}\" does not exist");
            return Error::new(sqlstate::UNDEFINED_SCHEMA, message)
                .with_position(find_word(sql, schema))
                .with_hint(
                    "streams and views are in the schema \"public\", which need not be named",
                );
        }
        return undefined_table(name, sql, names);
    }
    if message.starts_with("Invalid function") {
        let hint = message::function_like(quoted, message);
        let found = Error::new(
            sqlstate::UNDEFINED_FUNCTION,
            format!("function \"{quoted}\" does not exist"),
        )
        .with_position(find_word(sql, quoted));
        return match hint {
            Some(hint) => found.with_hint(format!("did you mean \"{hint}\"?")),
            None => found,
        };
    }
    message::of_plan(message, sql)
}

pub fn undefined_table(name: &str, sql: &str, names: &[String]) -> Error {
    if crate::system::SystemTable::NAMES.contains(&name) {
        let message = format!("\"{name}\" cannot be read here");
        return Error::new(sqlstate::UNDEFINED_TABLE, message)
            .with_position(find_table(sql, name))
            .with_hint(
                "it is a table of the system: queries read it, views select from streams and other views",
            );
    }
    let found = Error::new(
        sqlstate::UNDEFINED_TABLE,
        format!("there is no stream or view \"{name}\""),
    )
    .with_position(find_table(sql, name));
    match closest(name, names) {
        Some(best) => found.with_hint(format!("did you mean \"{best}\"?")),
        None => {
            found.with_hint("`SELECT * FROM lambic_streams` and `lambic_views` list what there is")
        }
    }
}

/// The name most like `name`, if any is alike enough to be what was meant.
pub fn closest<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    names
        .iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(name, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.as_str())
}

/// A hint with the names that there are, as many as one can take in.
pub fn there_are(names: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown = names[..names.len().min(SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => format!("there are: {shown}"),
        more => format!("there are: {shown} and {more} more"),
    }
}

/// Line and column (from 1) as a position in characters (from 1).
pub fn position_of(sql: &str, line: u64, column: u64) -> usize {
    let before: usize = sql
        .split('\n')
        .take(line.saturating_sub(1) as usize)
        .map(|l| l.chars().count() + 1)
        .sum();
    before + column.max(1) as usize
}

/// Where `name` stands in `sql` as a table, in characters from 1: a column may have the same name.
fn find_table(sql: &str, name: &str) -> Option<usize> {
    let as_table = find_words(sql, name).find(|place| {
        let before: String = sql.chars().take(place - 1).collect();
        let before = before.trim_end_matches('"').trim_end_matches("public.");
        let word = before.split_whitespace().next_back().unwrap_or_default();
        ["from", "join", "into"].contains(&word.to_ascii_lowercase().as_str())
    });
    as_table.or_else(|| find_word(sql, name))
}

/// The table by which `field` is asked for, if there is none of that name where it stands.
fn unknown_table<'a>(field: &'a Column, valid: &[Column]) -> Option<&'a str> {
    let asked = field.relation.as_ref()?.table();
    let there = valid.iter().filter_map(|column| column.relation.as_ref());
    let is_known = there
        .map(|relation| relation.table())
        .any(|table| table == asked);
    let same = valid.iter().any(|column| column.name == field.name);
    (!is_known && same).then_some(asked)
}

/// Where `value` stands in `sql`, in quotes or as a number.
fn find_literal(sql: &str, value: &str) -> Option<usize> {
    let quoted = format!("'{}'", value.replace('\'', "''"));
    if let Some(byte) = sql.find(&quoted) {
        return Some(sql[..byte].chars().count() + 1);
    }
    let is_number = value
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    (is_number && !value.is_empty()).then(|| find_word(sql, value))?
}

/// Where `word` stands alone in `sql`, in characters from 1.
pub fn find_word(sql: &str, word: &str) -> Option<usize> {
    find_words(sql, word).next()
}

fn find_words(sql: &str, word: &str) -> impl Iterator<Item = usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let lower = sql.to_ascii_lowercase();
    let word = word.to_ascii_lowercase();
    let mut from = 0;
    std::iter::from_fn(move || {
        while !word.is_empty()
            && let Some(found) = lower[from..].find(&word)
        {
            let start = from + found;
            let end = start + word.len();
            from = end;
            if !lower[..start].ends_with(is_word) && !lower[end..].starts_with(is_word) {
                return Some(lower[..start].chars().count() + 1);
            }
        }
        None
    })
}

pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !chars.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().collect::<String>() + chars.as_str()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole() {
        assert_eq!(
            find_word("select a from flights2, flights", "flights"),
            Some(25)
        );
        assert_eq!(find_word("select a", "b"), None);
        let sql = "select n, s.n from m join public.n as s on s.n = n";
        assert_eq!(
            (find_word(sql, "n"), find_table(sql, "n")),
            (Some(8), Some(34))
        );
        assert_eq!(find_table("select b from a, b", "b"), Some(8));
        assert_eq!(find_table("select a", "b"), None);
        assert_eq!(position_of("select\n  x", 2, 3), 10);
    }

    #[test]
    fn only_some_of_many_names_are_listed() {
        let names: Vec<String> = (1..=42).map(|number| format!("v{number}")).collect();
        assert_eq!(there_are(&names[..2]), "there are: v1, v2");
        assert_eq!(
            there_are(&names),
            "there are: v1, v2, v3, v4, v5, v6, v7, v8 and 34 more"
        );
    }

    #[test]
    fn the_closest_name_is_suggested_only_if_it_is_alike() {
        let names = ["flights".to_owned(), "airports".to_owned()];
        assert_eq!(closest("fligths", &names), Some("flights"));
        assert_eq!(closest("orders", &names), None);
    }
}
