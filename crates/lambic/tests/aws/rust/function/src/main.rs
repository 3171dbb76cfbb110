//! Answers with its event and all that it was told beside it.

use std::time::{Duration, UNIX_EPOCH};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut calls = 0;
    let handler = |event: LambdaEvent<Value>| {
        calls += 1;
        handle(event, calls)
    };
    lambda_runtime::run(service_fn(handler)).await
}

async fn handle(event: LambdaEvent<Value>, calls: u32) -> Result<Value, Error> {
    let LambdaEvent { payload, context } = event;
    println!("event {}", context.request_id);
    if payload["fail"] == true {
        return Err("no such luck".into());
    }
    assert!(payload["panic"] != true, "a panic");
    let deadline = Duration::from_millis(context.deadline);
    let about = &context.env_config;
    Ok(json!({
        "event": payload,
        "request": context.request_id,
        "arn": context.invoked_function_arn,
        "trace": context.xray_trace_id,
        "remaining_ms": deadline.saturating_sub(UNIX_EPOCH.elapsed()?).as_millis() as u64,
        "name": about.function_name,
        "version": about.version,
        "memory": about.memory,
        "colour": std::env::var("COLOUR").ok(),
        "calls": calls,
    }))
}
