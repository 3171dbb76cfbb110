//! What a statement answers without any server, as text.

use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionContext};
use lambic_view::{
    postgres::{self, ValueError},
    session, window,
};

/// The rows of an answer, columns separated by commas, or the code and the message of the error.
pub async fn answer(sql: &str) -> String {
    let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
    let context = SessionContext::new_with_state(state);
    let answer = async {
        let state = context.state();
        let statement = postgres::parse(&window::readable(sql))?;
        let plan = state.statement_to_plan(statement).await?;
        context.execute_logical_plan(plan).await?.collect().await
    }
    .await;
    let batches = match answer {
        Ok(batches) => batches,
        Err(error) => {
            return match error.find_root() {
                datafusion::error::DataFusionError::External(inner) => {
                    match inner.downcast_ref::<ValueError>() {
                        Some(error) => format!("{} {}", error.sqlstate, error.message),
                        None => format!("error {inner}"),
                    }
                }
                root => format!("error {root}"),
            };
        }
    };
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| {
                let formatter =
                    ArrayFormatter::try_new(column, &options).expect("a type with text");
                formatter.value(row).to_string()
            });
            rows.push(values.collect::<Vec<_>>().join(", "));
        }
    }
    rows.join("; ")
}

pub async fn check(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (sql, expected) in cases {
        let found = answer(sql).await;
        if found != *expected {
            wrong += &format!("{sql}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
