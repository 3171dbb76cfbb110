//! `GET /v1/views` and `/v1/views/{name}?column=value&…`.
//!
//! With all columns of the key the answer comes straight from the view's index; with others, or none,
//! by SQL. `as_of=` reads the rows as they were, at a time or at a frontier; `version=` those of another version.

use arrow::array::RecordBatch;
use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use lambic_query::{AsOf, Error, Outcome, ViewInfo, value_of_text};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    App, Shared,
    answer::{columns, json_rows_of},
    error::Failure,
    sql::session,
};

const ROWS_DEFAULT: usize = 1_000;
const ROWS_MAX: usize = 100_000;

#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    view: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    frontier: Option<String>,
    columns: Value,
    rows: Vec<Box<RawValue>>,
}

pub async fn list(State(app): Shared) -> Response {
    Json(json!({ "views": app.services.database.views() })).into_response()
}

pub async fn lookup(
    State(app): Shared,
    Path(name): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let view = find(&app, &name)?;
    let (conditions, limit, as_of, version) = split(parameters)?;
    let is_served = version.is_none_or(|version| version == view.version);
    if is_served && is_full_key(&view, &conditions) {
        let found = app.executor.lookup(name.clone(), conditions, as_of).await?;
        let answer = Answer {
            view: name,
            frontier: Some(found.frontier),
            columns: columns(&found.schema),
            rows: json_rows_of(&found.batches)?,
            truncated: None,
        };
        return Ok(Json(answer).into_response());
    }
    let version = version.filter(|_| !is_served);
    let (schema, batches) = select(&app, &name, version, &conditions, limit + 1, as_of).await?;
    let mut rows = json_rows_of(&batches)?;
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    let answer = Answer {
        view: name,
        frontier: None,
        columns: columns(&schema),
        rows,
        truncated: Some(truncated),
    };
    Ok(Json(answer).into_response())
}

/// The rows of a view, or of a version of it, whose columns equal the given values, at most `limit`.
pub async fn select(
    app: &App,
    view: &str,
    version: Option<u32>,
    conditions: &[(String, String)],
    limit: usize,
    as_of: Option<AsOf>,
) -> Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>), Failure> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = format!("SELECT * FROM {}", quoted(view));
    if let Some(version) = version {
        sql.push_str(&format!(" VERSION {version}"));
    }
    if let Some(as_of) = as_of {
        sql.push_str(&format!(" {as_of}"));
    }
    for (index, (column, _)) in conditions.iter().enumerate() {
        let word = if index == 0 { "WHERE" } else { "AND" };
        sql.push_str(&format!(" {word} {} = ${}", quoted(column), index + 1));
    }
    sql.push_str(&format!(" LIMIT {limit}"));
    let session = session();
    // The statement is ours, so a position in it would tell the caller nothing.
    let placeless = |error: Error| Failure {
        position: None,
        ..Failure::from(error)
    };
    let prepared = app
        .executor
        .prepare(session.clone(), sql)
        .await
        .map_err(placeless)?;
    let values =
        conditions
            .iter()
            .zip(&prepared.parameter_types)
            .map(|((column, value), planned)| match planned {
                Some(planned) => value_of_text(column, value, planned).map_err(Failure::from),
                None => Ok(ScalarValue::Utf8(Some(value.clone()))),
            });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    match app
        .executor
        .run_prepared(session, prepared, values)
        .await
        .map_err(placeless)?
    {
        Outcome::Rows { schema, rows } => {
            let batches = app
                .executor
                .stream(rows)
                .into_stream()
                .try_collect()
                .await
                .map_err(|error| Failure::from(Error::from_datafusion(error, "", &[])))?;
            Ok((schema, batches))
        }
        Outcome::Changes { .. } => Err(Failure::bad_request("the view answered without an end")),
        Outcome::Done { tag, .. } => Err(Failure::bad_request(format!("the view answered {tag}"))),
    }
}

pub fn find(app: &App, name: &str) -> Result<ViewInfo, Failure> {
    let views = app.services.database.views();
    if let Some(view) = views.iter().find(|view| view.name == name) {
        return Ok(view.clone());
    }
    let names: Vec<String> = views.into_iter().map(|view| view.name).collect();
    let hint = match lambic_query::closest(name, &names) {
        Some(best) => format!("did you mean {best}?"),
        None if app.services.database.stream(name).is_some() => {
            format!("{name} is a stream: SELECT * FROM {name} by POST /v1/sql reads it")
        }
        None => "GET /v1/views lists what there is".to_owned(),
    };
    Err(Failure::not_found(format!("there is no view {name}")).with_hint(hint))
}

/// What is asked of the view's columns, how many rows are wanted, as of when, and of which version.
type Asked = (Vec<(String, String)>, usize, Option<AsOf>, Option<u32>);

fn split(parameters: Vec<(String, String)>) -> Result<Asked, Failure> {
    let (limits, others): (Vec<_>, Vec<_>) = parameters
        .into_iter()
        .partition(|(name, _)| name == "limit");
    let (moments, conditions): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(name, _)| name == "as_of");
    let (versions, conditions): (Vec<_>, Vec<_>) = conditions
        .into_iter()
        .partition(|(name, _)| name == "version");
    let version = match versions.first() {
        None => None,
        Some((_, number)) => Some(number.parse().map_err(|_| {
            Failure::bad_request(format!("version={number} is not the number of a version"))
                .with_hint("EXPLAIN MATERIALIZED VIEW tells which versions of a view there are")
        })?),
    };
    let as_of = moments.first().map(|(_, moment)| AsOf::of_text(moment));
    let limit = match limits.first() {
        None => ROWS_DEFAULT,
        Some((_, limit)) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=ROWS_MAX).contains(limit))
            .ok_or_else(|| {
                Failure::bad_request(format!(
                    "limit={limit} is not a number from 1 to {ROWS_MAX}"
                ))
            })?,
    };
    Ok((conditions, limit, as_of, version))
}

/// True if every column of the key is given once and no other.
fn is_full_key(view: &ViewInfo, conditions: &[(String, String)]) -> bool {
    !view.key.is_empty()
        && view.key.len() == conditions.len()
        && view
            .key
            .iter()
            .all(|column| conditions.iter().any(|(name, _)| name == column))
}
