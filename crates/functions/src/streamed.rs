//! Invocations whose response is given to the caller as it comes.

use bytes::Bytes;
use lambic_model::{FunctionName, InvocationKind, Outcome};
use lambic_sandbox::process::{StreamPart, StreamSink};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::Instrument;

use crate::{
    Error, Event, FunctionVersion, Functions, InvokeResult, Qualifier, check_payload, entry::Call,
};

/// Parts between a function and its caller. A part is what came over the function's connection at one time, less than
/// half a megabyte; when the caller does not keep up with this many, the function waits.
const PARTS_WAITING_MAX: usize = 4;

/// An invocation whose response comes; dropping it lets the function run to its end, for nobody.
#[derive(Debug)]
pub struct Streamed {
    pub request_id: String,
    /// That runs.
    pub version: FunctionVersion,
    /// What a function that streams says of its response. `None`: it does not stream.
    pub content_type: Option<String>,
    rest: Rest,
}

/// What is still to come.
#[derive(Debug)]
enum Rest {
    Running(
        mpsc::Receiver<StreamPart>,
        JoinHandle<Result<InvokeResult, Error>>,
    ),
    Ended(Box<InvokeResult>),
    Nothing,
}

/// A piece of a response.
#[derive(Debug)]
pub enum Chunk {
    Bytes(Bytes),
    /// The last one; the payload of a success has come before. The error is ours, and not the function's.
    End(Result<Box<InvokeResult>, Error>),
}

impl Functions {
    /// Runs one event as [`Functions::invoke_at`] does, and gives its response as it comes: returns when the function
    /// has begun to answer, or has ended. The response of a function that does not stream is one piece.
    pub async fn invoke_streamed(
        &self,
        name: &FunctionName,
        qualifier: Option<Qualifier>,
        event: Event,
    ) -> Result<Streamed, Error> {
        let inner = self.0.clone();
        let entry = inner.invocable(name, qualifier.as_ref())?;
        let payload = check_payload(event.payload, inner.options.payload_bytes_max)?;
        let (sender, parts) = mpsc::channel(PARTS_WAITING_MAX);
        let sink = StreamSink {
            parts: sender,
            bytes_max: inner.options.stream_bytes_max,
        };
        let (version, request_id) = (entry.info.version, uuid::Uuid::new_v4().to_string());
        let id = request_id.clone();
        let run = async move {
            let call = Call {
                qualifier: qualifier.as_ref(),
                client_context: event.client_context.as_deref(),
                trace_id: event.trace_id.as_deref(),
                stream: Some(&sink),
                ..Call::new(&id, InvocationKind::Sync, 1)
            };
            inner.answer(&entry, call, payload.as_bytes()).await
        };
        let mut streamed = Streamed {
            request_id,
            version,
            content_type: None,
            rest: Rest::Running(parts, tokio::spawn(run.in_current_span())),
        };
        streamed.begin().await?;
        Ok(streamed)
    }
}

impl Streamed {
    /// Waits for the first part, which says what is to come. An error is of a function that was not run.
    async fn begin(&mut self) -> Result<(), Error> {
        let Rest::Running(parts, _) = &mut self.rest else {
            return Ok(());
        };
        match parts.recv().await {
            Some(StreamPart::ContentType(content_type)) => self.content_type = Some(content_type),
            // Never the first.
            Some(StreamPart::Bytes(_)) => {}
            None => self.rest = Rest::Ended(self.end().await?),
        }
        Ok(())
    }

    /// How the invocation ended, when all its parts have come.
    async fn end(&mut self) -> Result<Box<InvokeResult>, Error> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Running(_, run) => run.await.unwrap_or(Err(Error::Closed)).map(Box::new),
            Rest::Ended(result) => Ok(result),
            Rest::Nothing => Err(Error::Closed),
        }
    }

    /// How it ended, if it did before there was anything to give on.
    pub fn ended(&self) -> Option<&InvokeResult> {
        match &self.rest {
            Rest::Ended(result) => Some(result.as_ref()),
            Rest::Running(..) | Rest::Nothing => None,
        }
    }

    /// The next piece; `None` after the last one.
    pub async fn next(&mut self) -> Option<Chunk> {
        loop {
            match &mut self.rest {
                Rest::Running(parts, _) => match parts.recv().await {
                    Some(StreamPart::Bytes(bytes)) => return Some(Chunk::Bytes(bytes)),
                    Some(StreamPart::ContentType(_)) => {}
                    None => match self.end().await {
                        Ok(result) => self.rest = Rest::Ended(result),
                        Err(error) => return Some(Chunk::End(Err(error))),
                    },
                },
                Rest::Ended(result) => match &mut result.outcome {
                    Outcome::Success(payload) if !payload.is_empty() => {
                        return Some(Chunk::Bytes(std::mem::take(payload).into()));
                    }
                    _ => return Some(Chunk::End(self.end().await)),
                },
                Rest::Nothing => return None,
            }
        }
    }
}
