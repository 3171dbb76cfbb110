//! Components with `handle-batch` of `lambic.wit`: records in, records out, both one Arrow IPC stream.
//!
//! The bytes pass as they are. Whoever reads an answer must take it for what a stranger sent.

use lambic_model::Outcome;
use wasmtime::{
    AsContextMut,
    component::{Instance, InstancePre, TypedFunc},
};

use super::{
    host::Host,
    run::{Call, Run},
};
use crate::{Execution, execution};

pub const EXPORT: &str = "handle-batch";

pub type HandleBatch = TypedFunc<(Vec<u8>,), (Result<Vec<u8>, String>,)>;

pub fn handle_batch(
    instance: &Instance,
    store: impl AsContextMut,
) -> wasmtime::Result<HandleBatch> {
    instance.get_typed_func(store, EXPORT)
}

pub async fn run(handler: &InstancePre<Host>, call: Call, batch: Vec<u8>) -> Execution {
    let mut run = Run::new(handler.engine(), call, None);
    let called = run
        .within(async |store| {
            let instance = handler.instantiate_async(&mut *store).await?;
            let handle = handle_batch(&instance, &mut *store)?;
            let (answer,) = handle.call_async(&mut *store, (batch,)).await?;
            Ok(answer)
        })
        .await;
    let outcome = match called {
        Err(outcome) => outcome,
        Ok(Ok(answer)) if answer.len() > execution::RESPONSE_BYTES_MAX => {
            execution::response_too_large()
        }
        Ok(Ok(answer)) => Outcome::Success(answer),
        Ok(Err(error)) => execution::reported(error.into_bytes(), "HandlerError"),
    };
    run.end(outcome)
}
