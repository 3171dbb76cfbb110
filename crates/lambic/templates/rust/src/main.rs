//! Greets whom the event names.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let name = event.payload["name"].as_str().unwrap_or("world");
    // A line of `lambic function logs {{name}}`.
    println!("greeting {name}");
    Ok(json!({ "message": format!("hello {name}") }))
}
