//! The version that one invocation runs, and the ways to run it for a caller who waits.

use std::sync::Arc;

use lambic_model::{FunctionName, InvocationKind};
use lambic_sandbox::wasm::{HttpRequest, HttpResponse};
use tracing::Instrument;

use crate::{
    Error, Event, Functions, Inner, InvokeResult, Qualifier,
    entry::{Call, Entry, Exchange, Input},
    invoke::check_event,
    outliving::Outliving,
};

/// Of an alias that points to two versions, the one whose turn it is.
pub struct Chosen {
    pub(crate) inner: Arc<Inner>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) qualifier: Option<Qualifier>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Served {
    /// A success without a payload if there is a response.
    pub result: InvokeResult,
    pub response: Option<HttpResponse>,
}

impl Functions {
    pub fn choose(
        &self,
        name: &FunctionName,
        qualifier: Option<Qualifier>,
    ) -> Result<Chosen, Error> {
        Ok(Chosen {
            entry: self.0.invocable(name, qualifier.as_ref())?,
            inner: self.0.clone(),
            qualifier,
        })
    }
}

impl Chosen {
    /// Whether it is a component of HTTP: such a one is given requests as they are ([`Chosen::serve`]).
    pub async fn takes_http(&self) -> Result<bool, Error> {
        Ok(self.entry.ready(&self.inner).await?.takes_http())
    }

    /// Runs it on one event, JSON (nothing counts as `{}`), and waits. The function's own failure is an `Ok` with a
    /// failed outcome. It runs to its end also if the caller goes away.
    pub async fn invoke(self, event: Event) -> Result<InvokeResult, Error> {
        let Chosen {
            inner,
            entry,
            qualifier,
        } = self;
        let payload = check_event(&entry.info, event.payload, event.form, &inner.options)?;
        let run = async move {
            let request_id = new_request_id();
            let call = Call {
                form: event.form,
                qualifier: qualifier.as_ref(),
                client_context: event.client_context.as_deref(),
                trace_id: event.trace_id.as_deref(),
                ..Call::new(&request_id, InvocationKind::Sync, 1)
            };
            let input = Input::Event(&payload);
            inner.answer(&entry, call, input).await
        };
        let run = tokio::spawn(run.in_current_span());
        run.await.unwrap_or(Err(Error::Closed))
    }

    /// The same for one request, whose response is taken whole. Its log has no tail.
    pub async fn serve(
        self,
        request: HttpRequest,
        trace_id: Option<String>,
    ) -> Result<Served, Error> {
        let Chosen {
            inner,
            entry,
            qualifier,
        } = self;
        check_request(&request, inner.options.payload_bytes_max)?;
        let run = async move {
            let request_id = new_request_id();
            let call = Call {
                qualifier: qualifier.as_ref(),
                trace_id: trace_id.as_deref(),
                ..Call::new(&request_id, InvocationKind::Sync, 1)
            };
            let mut exchange = Exchange::new(request);
            let input = Input::Http(&mut exchange);
            let result = inner.answer(&entry, call, input).await?;
            Ok::<_, Error>(Served {
                result,
                response: exchange.response,
            })
        };
        Outliving::new(run.in_current_span()).await
    }
}

/// By the runtime's own source of chance, which asks the system for some once in a while and not each time.
pub(crate) fn new_request_id() -> String {
    uuid::Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}

/// Whoever gives a body that is still to come bounds it.
pub(crate) fn check_request(request: &HttpRequest, limit: usize) -> Result<(), Error> {
    match request.body().bytes() {
        Some(bytes) if bytes > limit => Err(Error::PayloadTooLarge { bytes, limit }),
        _ => Ok(()),
    }
}
