//! Commands (`wasi:cli/run`): the event on standard input, the result on standard output, the log on standard error.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lambic_model::Outcome;
use serde::de::IgnoredAny;
use wasmtime_wasi::{
    I32Exit,
    cli::{IsTerminal, StdoutStream},
    p2::{
        OutputStream, Pollable, StreamError, StreamResult, bindings::CommandPre,
        pipe::MemoryInputPipe,
    },
};

use super::{
    host::{Host, Stdio},
    run::{Call, Run},
};
use crate::{Execution, execution, failure};

pub async fn run(command: &CommandPre<Host>, call: Call, event: Bytes) -> Execution {
    let stdout = Stdout::default();
    let stdio = Stdio {
        stdin: MemoryInputPipe::new(event),
        stdout: stdout.clone(),
    };
    let mut run = Run::new(command.engine(), call, Some(stdio));
    let exited = run
        .within(async |store| {
            let command = command.instantiate_async(&mut *store).await?;
            match command.wasi_cli_run().call_run(&mut *store).await {
                Ok(Ok(())) => Ok(0),
                Ok(Err(())) => Ok(1),
                Err(error) => match error.downcast_ref::<I32Exit>() {
                    Some(I32Exit(code)) => Ok(*code),
                    None => Err(error),
                },
            }
        })
        .await;
    let outcome = match (exited, stdout.take()) {
        // Its writing more is what ended it.
        (_, Err(TooMuch)) => execution::response_too_large(),
        (Err(outcome), _) => outcome,
        (Ok(0), Ok(written)) => written_result(&written),
        (Ok(code), _) => failure(
            "Runtime.ExitError",
            &format!(
                "RequestId: {} Error: Runtime exited with error: exit status {code}",
                run.request_id()
            ),
        ),
    };
    run.end(outcome)
}

fn written_result(written: &[u8]) -> Outcome {
    let written = written.trim_ascii();
    if written.is_empty() {
        return Outcome::Success(b"null".to_vec());
    }
    // What is skipped in JSON is not looked at: texts that are not UTF-8 would pass.
    let is_json = std::str::from_utf8(written)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match is_json {
        true => Outcome::Success(written.to_vec()),
        false => failure(
            "Runtime.MarshalError",
            "what the command wrote to its standard output is not JSON; its log goes to standard error",
        ),
    }
}

/// Standard output of a command, kept up to the largest answer.
#[derive(Clone, Default)]
pub struct Stdout(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    is_too_much: bool,
}

#[derive(Debug)]
struct TooMuch;

impl Stdout {
    fn take(&self) -> Result<Vec<u8>, TooMuch> {
        let mut written = self.0.lock().expect("no panic while it is held");
        match written.is_too_much {
            true => Err(TooMuch),
            false => Ok(std::mem::take(&mut written.bytes)),
        }
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for it, which is not linked.
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut written = self.0.lock().expect("no panic while it is held");
        if written.bytes.len() + bytes.len() > execution::RESPONSE_BYTES_MAX {
            written.is_too_much = true;
            return Err(StreamError::trap("the output is too large"));
        }
        written.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json_or_nothing() {
        for (written, expected) in [
            (&b""[..], "null"),
            (b" \n", "null"),
            (b"{\"a\": 1}\n", "{\"a\": 1}"),
            (b"1", "1"),
            (b"hello\n", "Runtime.MarshalError"),
            (b"1 2", "Runtime.MarshalError"),
            (b"\"\xff\"", "Runtime.MarshalError"),
        ] {
            let found = match written_result(written) {
                Outcome::Success(result) => String::from_utf8(result).unwrap(),
                Outcome::Failure { error_type, .. } => error_type,
            };
            assert_eq!(found, expected);
        }
    }
}
