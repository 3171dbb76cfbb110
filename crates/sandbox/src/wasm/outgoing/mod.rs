//! Requests that a component sends (`wasi:http/outgoing-handler`): to hosts that its function may connect to.
//!
//! The rules are those of a process's way out ([`crate::process::egress`]): names are resolved here, addresses that are
//! not public are refused, and the connection goes to the very address that was looked at. HTTP/1.1, one connection for
//! each request, TLS with the authorities of this machine.

mod body;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, Uri,
    client::conn::http1,
    header::{HeaderValue, USER_AGENT},
    http::uri::{PathAndQuery, Scheme},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::rustls::ClientConfig;
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttpHooks, p2::bindings::http::types::ErrorCode,
};

use crate::{
    lines::{Lines, LogSource},
    process::egress::{NotConnected, Rules},
};

/// Of one instance at a time; more are refused.
const CONNECTIONS_MAX: usize = 16;
/// A response's status and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Of a body, in memory on its way; more waits in the component.
const CHUNK_BYTES: usize = 32 << 10;
const USER_AGENT_DEFAULT: HeaderValue = HeaderValue::from_static("lambic");

/// The way out of one instance; without rules there is none.
#[derive(Default)]
pub struct Outgoing {
    way: Option<Arc<Way>>,
}

struct Way {
    rules: Arc<Rules>,
    /// `None`: what this machine trusts.
    trusted: Option<Arc<ClientConfig>>,
    places: Arc<Semaphore>,
    lines: Arc<Mutex<Lines>>,
}

type Ended = Box<dyn Future<Output = Result<()>> + Send>;
type Sent = Result<(Response<WasiBody>, Ended)>;

impl Outgoing {
    /// What is refused is told in the function's log.
    pub fn new(rules: Arc<Rules>, lines: Arc<Mutex<Lines>>) -> Outgoing {
        let way = Way {
            rules,
            trusted: None,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            lines,
        };
        Outgoing {
            way: Some(Arc::new(way)),
        }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _failed: Ended,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let Some(way) = self.way.clone() else {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        Box::new(async move { way.send(request, options.unwrap_or_default()).await })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        match error.is_incomplete_message() {
            true => ErrorCode::HttpResponseIncomplete,
            false => ErrorCode::HttpProtocolError,
        }
    }
}

impl Way {
    async fn send(&self, request: Request<WasiBody>, options: RequestOptions) -> Sent {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Error::ConnectionLimitReached)?;
        let Target {
            host,
            port,
            is_https,
        } = target(&request)?;
        let connected = async {
            let plain = self.rules.connect(&host, port).await;
            let plain = plain.map_err(|error| self.refused(&error))?;
            let _ = plain.set_nodelay(true);
            match is_https {
                false => exchange(plain, request, &options, place).await,
                true => {
                    let secured = async {
                        let trusted = match self.trusted.clone() {
                            Some(trusted) => trusted,
                            None => tls::trusted().await?,
                        };
                        tls::secure(plain, &host, trusted).await
                    };
                    let secured = secured.await.map_err(|error| {
                        self.note(&error.to_string());
                        Error::from(error)
                    })?;
                    exchange(secured, request, &options, place).await
                }
            }
        };
        connected.await
    }

    fn refused(&self, error: &NotConnected) -> Error {
        self.note(&error.to_string());
        match error {
            NotConnected::NotAllowed { .. } => Error::HttpRequestDenied,
            NotConnected::NotPublic { .. } => Error::DestinationIpProhibited,
            NotConnected::UnresolvedInTime { .. } => Error::DnsTimeout,
            NotConnected::Unresolved { .. } | NotConnected::NoAddress { .. } => Error::DnsError {
                rcode: None,
                info_code: None,
            },
            NotConnected::Unreachable { .. } => Error::ConnectionRefused,
            NotConnected::UnansweredInTime { .. } => Error::ConnectionTimeout,
        }
    }

    fn note(&self, what: &str) {
        let mut lines = self.lines.lock().expect("no panic while lines are held");
        lines.push(LogSource::Platform, format!("request: {what}\n").as_bytes());
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    is_https: bool,
}

fn target<B>(request: &Request<B>) -> Result<Target> {
    // Tunnels are not requests.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let uri = request.uri();
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    let host = authority.host();
    let is_https = uri.scheme() != Some(&Scheme::HTTP);
    let port = match authority.as_str().strip_prefix(host) {
        Some("") if is_https => 443,
        Some("") => 80,
        Some(rest) => {
            let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
            port.ok_or(Error::HttpRequestUriInvalid)?
        }
        // Names and passwords stand before the host.
        None => return Err(Error::HttpRequestUriInvalid),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() || port == 0 {
        return Err(Error::HttpRequestUriInvalid);
    }
    Ok(Target {
        host: host.to_owned(),
        port,
        is_https,
    })
}

/// One request and its response, over a connection that ends with it.
async fn exchange(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<WasiBody>,
    options: &RequestOptions,
    place: OwnedSemaphorePermit,
) -> Sent {
    let head_only = PathAndQuery::from_static("/");
    let path = request.uri().path_and_query().unwrap_or(&head_only).clone();
    *request.uri_mut() = Uri::from(path);
    request
        .headers_mut()
        .entry(USER_AGENT)
        .or_insert(USER_AGENT_DEFAULT);
    let (mut sender, driver) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(connection))
        .await?;
    // Ends when nobody needs it any more: with this future, later with the response's body.
    let driver = AbortOnDropJoinHandle::from(tokio::spawn(driver));
    let sent = sender.send_request(request);
    let response = match options.first_byte_timeout {
        None => sent.await?,
        Some(limit) => timeout(limit, sent)
            .await
            .map_err(|_| Error::HttpResponseTimeout)??,
    };
    let limit = options.between_bytes_timeout;
    let response = response.map(|body| body::Timed::new(body, limit).boxed_unsync());
    let ended: Ended = Box::new(async move {
        let _place = place;
        // What went wrong is seen in the body.
        let _ = driver.await;
        Ok(())
    });
    Ok((response, ended))
}
