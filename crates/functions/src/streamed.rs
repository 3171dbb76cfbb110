//! Invocations whose response is given to the caller as it comes.

use bytes::Bytes;
use lambic_model::{FunctionName, InvocationKind, Outcome};
use lambic_sandbox::{
    process::{ResponseHead, StreamPart, StreamSink},
    wasm::HttpRequest,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::Instrument;

use crate::{
    Chosen, Error, Event, FunctionVersion, Functions, InvokeResult, Qualifier,
    chosen::{check_request, new_request_id},
    entry::{Call, Exchange, Input},
    invoke::check_event,
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
    /// Of a component that was given a request.
    pub head: Option<ResponseHead>,
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
        self.choose(name, qualifier)?.invoke_streamed(event).await
    }
}

impl Chosen {
    /// See [`Functions::invoke_streamed`].
    pub async fn invoke_streamed(self, event: Event) -> Result<Streamed, Error> {
        let Chosen {
            inner,
            entry,
            qualifier,
        } = self;
        let payload = check_event(&entry.info, event.payload, event.form, &inner.options)?;
        let (sink, parts) = sink(inner.options.stream_bytes_max);
        let (version, request_id) = (entry.info.version, new_request_id());
        let id = request_id.clone();
        let run = async move {
            let call = Call {
                form: event.form,
                qualifier: qualifier.as_ref(),
                client_context: event.client_context.as_deref(),
                trace_id: event.trace_id.as_deref(),
                stream: Some(&sink),
                ..Call::new(&id, InvocationKind::Sync, 1)
            };
            let input = Input::Event(&payload);
            inner.answer(&entry, call, input).await
        };
        let run = tokio::spawn(run.in_current_span());
        Streamed::begun(request_id, version, parts, run).await
    }

    /// The same for one request to a component of HTTP.
    pub async fn serve_streamed(
        self,
        request: HttpRequest,
        trace_id: Option<String>,
    ) -> Result<Streamed, Error> {
        let Chosen {
            inner,
            entry,
            qualifier,
        } = self;
        check_request(&request, inner.options.payload_bytes_max)?;
        let (sink, parts) = sink(inner.options.stream_bytes_max);
        let (version, request_id) = (entry.info.version, new_request_id());
        let id = request_id.clone();
        let run = async move {
            let call = Call {
                qualifier: qualifier.as_ref(),
                trace_id: trace_id.as_deref(),
                stream: Some(&sink),
                ..Call::new(&id, InvocationKind::Sync, 1)
            };
            let mut exchange = Exchange::new(request);
            inner.answer(&entry, call, Input::Http(&mut exchange)).await
        };
        let run = tokio::spawn(run.in_current_span());
        Streamed::begun(request_id, version, parts, run).await
    }
}

fn sink(bytes_max: usize) -> (StreamSink, mpsc::Receiver<StreamPart>) {
    let (parts, came) = mpsc::channel(PARTS_WAITING_MAX);
    (StreamSink { parts, bytes_max }, came)
}

impl Streamed {
    async fn begun(
        request_id: String,
        version: FunctionVersion,
        parts: mpsc::Receiver<StreamPart>,
        run: JoinHandle<Result<InvokeResult, Error>>,
    ) -> Result<Streamed, Error> {
        let mut streamed = Streamed {
            request_id,
            version,
            content_type: None,
            head: None,
            rest: Rest::Running(parts, run),
        };
        streamed.begin().await?;
        Ok(streamed)
    }

    /// Waits for the first part, which says what is to come. An error is of a function that was not run.
    async fn begin(&mut self) -> Result<(), Error> {
        let Rest::Running(parts, _) = &mut self.rest else {
            return Ok(());
        };
        match parts.recv().await {
            Some(StreamPart::ContentType(content_type)) => self.content_type = Some(content_type),
            Some(StreamPart::Head(status, headers)) => self.head = Some((status, headers)),
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
                    Some(StreamPart::ContentType(_) | StreamPart::Head(..)) => {}
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
