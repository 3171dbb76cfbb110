//! Messages of DataFusion and Arrow in the words of SQL: types by their SQL names, Postgres's codes, nothing
//! about whose bug it may be.

use arrow::datatypes::DataType;
use lambic_view::postgres::{ValueError, type_name};

use crate::{
    Error, closest,
    error::{find_word, lower_first},
    sqlstate, types,
};

/// Of a value that could not be computed or read.
pub fn of_value(message: &str) -> Error {
    let quoted = message.split('\'').nth(1).unwrap_or_default();
    if let Some(place) = message.find("Cannot cast string '") {
        let rest = &message[place..];
        let to = rest
            .rsplit_once("' to value of ")
            .and_then(|(_, to)| to.split(" type").next())
            .and_then(|name| name.parse::<DataType>().ok());
        let name = to.as_ref().map_or("this type", type_name);
        let text = rest
            .strip_prefix("Cannot cast string '")
            .and_then(|rest| rest.rsplit_once("' to value of "))
            .map_or(quoted, |(text, _)| text);
        let digits = text.trim().trim_start_matches(['-', '+']);
        let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        return match number {
            true => Error::new(
                sqlstate::NUMERIC_OUT_OF_RANGE,
                format!("value \"{text}\" is out of range for type {name}"),
            ),
            false if is_date(text) && ["date", "timestamp", "timestamptz"].contains(&name) => {
                no_such_time(text)
            }
            false => Error::new(
                sqlstate::INVALID_TEXT,
                format!("invalid input syntax for type {name}: \"{text}\""),
            ),
        };
    }
    if let Some((_, rest)) = message.split_once("Can't cast value ") {
        let to = rest
            .rsplit_once(" to type ")
            .and_then(|(_, name)| name.trim().parse::<DataType>().ok());
        let name = to.as_ref().map_or("value", type_name);
        return out_of_range(format!("{name} out of range"));
    }
    if message.contains("parsing timestamp from") || message.contains("parsing date from") {
        if is_date(quoted) {
            return no_such_time(quoted);
        }
        let hint = "timestamps are written like 2026-01-31 12:30:00 or 2026-01-31T12:30:00Z";
        return Error::new(
            sqlstate::INVALID_DATETIME,
            format!("invalid input syntax for type timestamp: \"{quoted}\""),
        )
        .with_hint(hint);
    }
    if message.contains("Date32") && message.contains("annot cast") {
        return Error::new(sqlstate::INVALID_DATETIME, plain(message));
    }
    if message.contains("too large to store in a Decimal")
        || message.contains("too small to store in a Decimal")
        || message.contains("Cannot cast to Decimal")
        || message.contains("annot convert") && message.contains("Decimal")
    {
        return out_of_range(format!("numeric field overflow: {}", plain(message)));
    }
    if message.contains("Overflow converting") || message.contains("imestamp out of range") {
        return Error::new(sqlstate::DATETIME_OVERFLOW, "timestamp out of range");
    }
    if message.contains("verflow") {
        return out_of_range("value out of range".to_owned());
    }
    if message.contains("declared as non-nullable but contains null")
        || message.contains("but the NULL value was")
    {
        return Error::new(
            sqlstate::NOT_NULL_VIOLATION,
            format!("null value in column \"{quoted}\""),
        )
        .with_hint("the column is declared NOT NULL");
    }
    let said = plain(message);
    let code = match said.starts_with("invalid input syntax for type interval") {
        true => sqlstate::INVALID_DATETIME,
        false => sqlstate::DATA_EXCEPTION,
    };
    Error::new(code, said)
}

/// True if it is written as a date, and perhaps a time behind it.
fn is_date(text: &str) -> bool {
    let date = text.trim().split([' ', 'T']).next().unwrap_or_default();
    let parts: Vec<&str> = date.split('-').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(digits)
}

fn no_such_time(text: &str) -> Error {
    Error::new(
        sqlstate::DATETIME_OVERFLOW,
        format!("date/time field value out of range: \"{text}\""),
    )
}

fn out_of_range(message: String) -> Error {
    Error::new(sqlstate::NUMERIC_OUT_OF_RANGE, message)
}

/// Of a value that our own operators refused.
pub fn of_postgres(error: &ValueError, sql: &str) -> Error {
    let mut ours = Error::new(error.sqlstate, error.message.clone());
    ours.hint = error.hint.clone();
    if error.sqlstate != sqlstate::UNDEFINED_OBJECT {
        return ours;
    }
    let name = error.message.split('"').nth(1).unwrap_or_default();
    let known = types::NAMES.map(str::to_owned);
    let ours = ours.with_position(find_word(sql, name));
    match closest(&name.to_ascii_lowercase(), &known) {
        Some(best) => ours.with_hint(format!("did you mean {best}?")),
        None => ours.with_hint(format!("there are: {}", known.join(", "))),
    }
}

/// Of a statement that has no plan.
pub fn of_plan(message: &str, sql: &str) -> Error {
    if let Some((_, rest)) = message
        .split_once("must appear in the GROUP BY clause")
        .and(
            message
                .split_once("column \"")
                .or_else(|| message.split_once("Column \"")),
        )
    {
        let column = rest.split('"').next().unwrap_or_default();
        let name = column.rsplit('.').next().unwrap_or(column);
        return Error::new(
            sqlstate::GROUPING_ERROR,
            format!("column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function"),
        )
        .with_position(find_word(sql, name));
    }
    if let Some((_, rest)) =
        message.split_once("require unique expression names but the expression \"")
        && let Some((expression, _)) = rest.split_once("\" at position")
    {
        let name = expression.rsplit(" AS ").next().unwrap_or(expression);
        return Error::new(
            sqlstate::DUPLICATE_COLUMN,
            format!("column \"{name}\" specified more than once"),
        )
        .with_hint("give each a name of its own: count(*) AS n")
        .with_position(find_word(sql, name));
    }
    if let Some((_, rest)) = message.split_once("No function matches: ") {
        // Our own functions say how they are called.
        let said = rest.split(['\n', '\r']).next().unwrap_or(rest);
        let said = said.split(" No function matches").next().unwrap_or(said);
        let name = said.split(['(', ' ']).next().unwrap_or_default();
        return Error::new(sqlstate::UNDEFINED_FUNCTION, plain(said))
            .with_position(find_word(sql, name));
    }
    if let Some((_, rest)) =
        message.split_once("No function matches the given name and argument types '")
    {
        let call = rest
            .split("'.")
            .next()
            .unwrap_or(rest)
            .trim_end_matches('\'');
        let name = call.split('(').next().unwrap_or_default();
        return Error::new(
            sqlstate::UNDEFINED_FUNCTION,
            format!("function {} does not exist", plain(call)),
        )
        .with_hint("it takes arguments of other types, or another number of them; cast them: x::double precision")
        .with_position(find_word(sql, name));
    }
    if message.contains("oerc") || message.contains("annot infer common argument type") {
        return Error::new(sqlstate::UNDEFINED_FUNCTION, plain(message));
    }
    if let Some((_, found)) = message.split_once("non-boolean predicate ")
        && let Some((_, found)) = found.rsplit_once(" returning ")
    {
        let found = found.parse::<DataType>();
        let found = found.as_ref().map_or("another type", type_name);
        return Error::new(
            sqlstate::DATATYPE_MISMATCH,
            format!("argument of WHERE must be type boolean, not type {found}"),
        )
        .with_position(find_word(sql, "where"));
    }
    for (word, code) in [("LIMIT", "2201W"), ("OFFSET", "2201X")] {
        if message.contains(&format!("{word} must be >= 0")) {
            return Error::new(code, format!("{word} must not be negative"))
                .with_position(find_word(sql, word));
        }
    }
    let position = |text: &str| {
        let digits = text
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next();
        digits.unwrap_or_default().to_owned()
    };
    if let Some((_, rest)) = message.split_once("olumn out of bounds, specified: ") {
        return not_in_list("ORDER BY", &position(rest), sql);
    }
    if let Some((_, rest)) = message.split_once("annot find column with position ") {
        return not_in_list("GROUP BY", &position(rest), sql);
    }
    if let Some((clause, _)) = message.rsplit_once(" clause not supported") {
        let name = match clause.rsplit([' ', '-']).next().unwrap_or(clause) {
            "returning" | "Returning" => "RETURNING",
            "on" | "On" => "ON CONFLICT",
            other => other,
        };
        let message = format!("{} is not supported", name.to_ascii_uppercase());
        let first = name.split(' ').next_back().unwrap_or(name);
        return Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
            .with_position(find_word(sql, first));
    }
    if message.contains("Inconsistent data length") && !message.contains(" in row 0 ") {
        return of_ragged_values();
    }
    if message.contains("Inserting query must have the same schema length")
        || message.contains("Column count doesn't match insert query")
        || message.contains("Inconsistent data length")
    {
        return Error::new(
            sqlstate::SYNTAX_ERROR,
            "INSERT has more or fewer expressions than target columns",
        );
    }
    Error::new(sqlstate::SYNTAX_ERROR, plain(message))
}

/// Of `VALUES` with rows of several lengths.
pub fn of_ragged_values() -> Error {
    Error::new(
        sqlstate::SYNTAX_ERROR,
        "VALUES lists must all be the same length",
    )
}

fn not_in_list(clause: &str, position: &str, sql: &str) -> Error {
    let message = format!("{clause} position {position} is not in select list");
    Error::new("42P10", message).with_position(find_word(sql, position))
}

/// Functions that statements call most: what a misspelt name is compared with first.
const FUNCTIONS: [&str; 40] = [
    "abs",
    "approx_distinct",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "ceil",
    "coalesce",
    "concat",
    "count",
    "date_bin",
    "date_part",
    "date_trunc",
    "dense_rank",
    "exp",
    "extract",
    "first_value",
    "floor",
    "greatest",
    "last_value",
    "least",
    "left",
    "length",
    "ln",
    "lower",
    "max",
    "median",
    "min",
    "now",
    "nullif",
    "power",
    "rank",
    "replace",
    "right",
    "round",
    "row_number",
    "sqrt",
    "stddev",
    "string_agg",
    "sum",
    "upper",
];

/// The function that was meant by `name`; DataFusion's `message` names the one that it finds closest.
pub fn function_like(name: &str, message: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let common = FUNCTIONS.map(str::to_owned);
    if let Some(best) = closest(&name, &common) {
        return Some(best.to_owned());
    }
    let (_, rest) = message.split_once("Did you mean '")?;
    let found = [rest.split('\'').next()?.to_owned()];
    closest(&name, &found).map(str::to_owned)
}

/// The same without the words that concern those who wrote the libraries.
pub fn without_internals(message: &str) -> String {
    let message = message
        .split("\nThis issue was likely caused by a bug")
        .next()
        .unwrap_or(message);
    plain(message)
}

/// One line, types by their SQL names, no prefixes of other libraries.
fn plain(message: &str) -> String {
    let mut text = message.lines().next().unwrap_or_default().trim().to_owned();
    for candidates in [
        " Candidate functions:",
        " You might need to add explicit type casts.",
    ] {
        if let Some(at) = text.find(candidates) {
            text.truncate(at);
        }
    }
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Invalid argument error: ",
        "Compute error: ",
        "Internal error: ",
        "External error: ",
        "type_coercion\ncaused by\n",
    ] {
        text = text.replace(prefix, "");
    }
    lower_first(&with_sql_types(&text))
}

/// `Int64` is `bigint` to those who write SQL.
fn with_sql_types(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word_ends = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_ends.max(1).min(rest.len()).max(first_len(rest)));
        // A type in parentheses goes on to the closing one.
        let whole = match after.strip_prefix('(').and_then(|inner| inner.find(')')) {
            Some(end) => &rest[..word.len() + end + 2],
            None => word,
        };
        let named = [whole, word].into_iter().find_map(|candidate| {
            let starts_upper = candidate.starts_with(|c: char| c.is_ascii_uppercase());
            let data_type = candidate
                .parse::<DataType>()
                .ok()
                .filter(|_| starts_upper)?;
            (type_name(&data_type) != "value").then_some((candidate, type_name(&data_type)))
        });
        match named {
            Some((candidate, name)) => {
                shown.push_str(name);
                rest = &rest[candidate.len()..];
            }
            None => {
                shown.push_str(word);
                rest = after;
            }
        }
    }
    shown
}

fn first_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::{execution::runtime_env::RuntimeEnv, sql::sqlparser::parser::Parser};
    use lambic_view::{
        postgres::{self, Postgres},
        session,
    };

    use super::*;

    async fn error_of(sql: &str) -> Error {
        let state = session::state(session::config(1), Arc::new(RuntimeEnv::default()));
        let context = datafusion::prelude::SessionContext::new_with_state(state);
        let mut statement = Parser::parse_sql(&Postgres, sql).unwrap().remove(0);
        postgres::adapt(&mut statement).unwrap();
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let answer = async {
            let plan = context.state().statement_to_plan(statement).await?;
            context.execute_logical_plan(plan).await?.collect().await
        };
        match answer.await {
            Ok(_) => panic!("{sql} has an answer"),
            Err(error) => Error::from_datafusion(error, sql, &[]),
        }
    }

    #[tokio::test]
    async fn errors_speak_sql() {
        let cases = [
            (
                "select 'abc'::bigint",
                "22P02 at Some(8): invalid input syntax for type bigint: \"abc\"",
            ),
            (
                "select '99999999999'::int",
                "22003 at Some(8): value \"99999999999\" is out of range for type integer",
            ),
            (
                "select 70000::smallint",
                "22003 at None: smallint out of range",
            ),
            ("select 1/0", "22012 at None: division by zero"),
            (
                "select 9223372036854775807 + 1",
                "22003 at None: bigint out of range",
            ),
            (
                "select timestamp 'noon'",
                "22007 at Some(18): invalid input syntax for type timestamp: \"noon\" (timestamps are written like 2026-01-31 12:30:00 or 2026-01-31T12:30:00Z)",
            ),
            (
                "select 1::integr",
                "42704 at Some(11): type \"integr\" does not exist (did you mean integer?)",
            ),
            (
                "select coutn(1)",
                "42883 at Some(8): function \"coutn\" does not exist (did you mean \"count\"?)",
            ),
            (
                "select nope()",
                "42883 at Some(8): function \"nope\" does not exist",
            ),
            (
                "select date_trunc('day')",
                "42883 at Some(8): date_trunc is called as (unit, timestamp) or (unit, timestamptz, time zone), for example date_trunc('day', ts)",
            ),
            (
                "select 12345.678::numeric(4,2)",
                "22003 at None: numeric field overflow",
            ),
            (
                "select a, count(*) from (values (1, 2)) t(a, b) group by b",
                "42803 at Some(8): column \"t.a\" must appear in the GROUP BY clause or be used in an aggregate function",
            ),
            (
                "select * from (values (1, 2)) t(a, b) group by b",
                "42803 at Some(33): column \"t.a\" must appear in the GROUP BY clause or be used in an aggregate function",
            ),
            (
                "select x from (values (1)) a(x), (values (2)) b(x)",
                "42702 at Some(8): column reference \"x\" is ambiguous",
            ),
            (
                "select a.x from (values (1)) a(x) join (values (2)) a(x) on true",
                "42712 at None: table name \"a\" specified more than once",
            ),
            (
                "select * from (select 1 as n, 2 as n) t",
                "42701 at Some(28): column \"n\" specified more than once",
            ),
            (
                "select sum(x) AS a, sum(x::bigint) AS b from (values (1::int)) a(x)",
                "0A000 at None: two expressions are both \"sum(a.x)\": those that differ only in a cast cannot stand beside one another (compute one of them in FROM (SELECT …) and give it a name there)",
            ),
            (
                "select sum('a'::text)",
                "42883 at Some(8): sum takes numbers, not text; cast it first",
            ),
            (
                "select lower(1, 2)",
                "42883 at Some(8): function lower(bigint, bigint) does not exist",
            ),
            (
                "select upper(true)",
                "42883 at Some(8): function upper(boolean) does not exist",
            ),
        ];
        let mut wrong = String::new();
        for (sql, expected) in cases {
            let error = error_of(sql).await;
            let hint = error
                .hint
                .map_or(String::new(), |hint| format!(" ({hint})"));
            let found = format!(
                "{} at {:?}: {}{hint}",
                error.sqlstate, error.position, error.message
            );
            if !found.starts_with(expected) {
                wrong += &format!("{sql}\n  expected {expected}\n  found    {found}\n");
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }

    #[test]
    fn columns_that_were_counted_get_their_names() {
        let schema = arrow::datatypes::Schema::new(vec![
            arrow::datatypes::Field::new("a", DataType::Int64, false),
            arrow::datatypes::Field::new("b", DataType::Int64, false),
        ]);
        let error =
            of_value("Column 'column2' is declared as non-nullable but contains null values");
        let error = error.with_columns_of(&schema);
        assert_eq!(
            (error.sqlstate, error.message.as_str()),
            ("23502", "null value in column \"b\"")
        );
    }
}
