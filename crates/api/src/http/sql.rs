//! `POST /v1/sql`: any SQL. Several statements are one transaction, and the last one is answered.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use lambic_query::{Modes, Outcome, Session, split};
use metrics::{counter, histogram};
use serde::Deserialize;
use serde_json::json;
use tracing::{Instrument, info_span};

use crate::{
    block::{Block, Status},
    postgres::{Command, parse_command},
};

use super::{
    App, Shared,
    answer::{self, Form},
    error::Failure,
};

/// Statements are text; data come by appends.
const SQL_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    sql: String,
}

pub async fn run(State(app): Shared, headers: HeaderMap, body: Body) -> Result<Response, Failure> {
    let form = Form::asked(&headers)?;
    let too_large = || {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the statement is over {SQL_BYTES_MAX} bytes"),
        )
        .with_hint("append records with POST /v1/streams/{name}/records instead of INSERT")
    };
    let body = app
        .bounds
        .read(body, &headers, SQL_BYTES_MAX)
        .await
        .map_err(|unread| unread.into_failure(too_large))?;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    let sql = if is_json {
        let question: Question = serde_json::from_slice(&body.bytes).map_err(|error| {
            Failure::bad_request(format!("the body is not {{\"sql\": \"…\"}}: {error}"))
        })?;
        question.sql
    } else {
        String::from_utf8(body.bytes.to_vec())
            .map_err(|_| Failure::bad_request("the statement is not UTF-8"))?
    };
    let turn = app.bounds.statement().await?;
    let started = std::time::Instant::now();
    let outcome = statements(&app, &sql)
        .instrument(info_span!("sql", door = "http"))
        .await;
    histogram!("lambic_sql_seconds", "door" => "http").record(started.elapsed().as_secs_f64());
    match outcome {
        Ok(Outcome::Rows { schema, rows }) => {
            answer::rows(form, schema, app.executor.stream(rows).holding(turn)).await
        }
        Ok(Outcome::Changes { .. }) => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "bad_sql",
            "SUBSCRIBE has no end, and answers here have one",
        )
        .with_hint(
            "GET /v1/views/{name}/changes follows a view over HTTP; SUBSCRIBE runs over the Postgres wire",
        )),
        Ok(Outcome::Done { tag, notice: None }) => Ok(Json(json!({ "tag": tag })).into_response()),
        Ok(Outcome::Done { tag, notice }) => {
            Ok(Json(json!({ "tag": tag, "notice": notice })).into_response())
        }
        Err(failure) => {
            counter!("lambic_sql_errors_total", "door" => "http").increment(1);
            Err(failure)
        }
    }
}

/// The statements of one body are one transaction, unless they begin and end others. Rows are computed while they
/// are sent, so an error in those of the last statement comes after the commit.
async fn statements(app: &App, sql: &str) -> Result<Outcome, Failure> {
    let mut block = Block::default();
    let begin = |modes| app.executor.begin(modes);
    let mut last = None;
    let pieces = split(sql)?;
    let are_several = pieces.len() > 1;
    for piece in pieces {
        // Among several, an error without a place is at least one of its statement.
        let placed = |mut failure: Failure| {
            failure.position = match failure.position {
                Some(position) => Some(position + piece.chars_before),
                None => are_several.then_some(piece.chars_before + 1),
            };
            failure
        };
        if let Some(Command::Transaction(control)) = parse_command(piece.text) {
            let step = block.step(&control, Modes::default(), begin);
            let step = step.map_err(|error| placed(error.into()))?;
            if let Some(transaction) = step.commit {
                let committed = app.executor.commit(transaction).await;
                committed.map_err(|error| placed(error.into()))?;
            }
            let tag = step.tag.to_owned();
            last = Some(Outcome::Done { tag, notice: None });
            continue;
        }
        let session = Session {
            transaction: Some(block.transaction(|| begin(Modes::default()))?),
            ..session()
        };
        let outcomes = app
            .executor
            .execute(session, piece.text.to_owned())
            .await
            .map_err(|error| placed(error.into()))?;
        last = outcomes.into_iter().next_back().or(last);
    }
    if block.status() != Status::Idle {
        return Err(
            Failure::bad_request("the transaction is not ended; nothing of it was kept")
                .with_hint("COMMIT it in the same body: nothing is kept between requests"),
        );
    }
    if let Some(transaction) = block.end_implicit() {
        app.executor.commit(transaction).await?;
    }
    last.ok_or_else(|| {
        Failure::bad_request("there is no statement in the body")
            .with_hint("SELECT * FROM lambic_streams")
    })
}

/// SQL over HTTP has no connection, so nothing is kept between requests.
pub fn session() -> Session {
    Session {
        parser: Some(crate::postgres::parser()),
        ..Session::default()
    }
}
