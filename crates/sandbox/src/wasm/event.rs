//! Components with `handle` of `lambic.wit`: JSON in, JSON out.

use lambic_model::Outcome;
use serde::de::IgnoredAny;
use wasmtime::component::InstancePre;

use super::{
    host::Host,
    run::{Call, Run},
};
use crate::{Execution, execution, failure};

pub async fn run(handler: &InstancePre<Host>, call: Call, event: String) -> Execution {
    let mut run = Run::new(handler.engine(), call, None);
    let called = run
        .within(async |store| {
            let instance = handler.instantiate_async(&mut *store).await?;
            let handle = instance
                .get_typed_func::<(String,), (Result<String, String>,)>(&mut *store, "handle")?;
            let (answer,) = handle.call_async(&mut *store, (event,)).await?;
            Ok(answer)
        })
        .await;
    let outcome = match called {
        Err(outcome) => outcome,
        Ok(Ok(answer)) => answered(answer),
        Ok(Err(error)) => execution::reported(error.into_bytes(), "HandlerError"),
    };
    run.end(outcome)
}

fn answered(answer: String) -> Outcome {
    if answer.len() > execution::RESPONSE_BYTES_MAX {
        return execution::response_too_large();
    }
    match serde_json::from_str::<IgnoredAny>(&answer) {
        Ok(_) => Outcome::Success(answer.into_bytes()),
        Err(_) => failure("Runtime.MarshalError", "the answer is not JSON"),
    }
}
