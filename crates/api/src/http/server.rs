//! Accepts HTTP connections: not more than a number of them, and none that only sits there. One that closes before all
//! that was sent has been read takes the rest for a while, so that its last answer arrives.

mod lingering;
mod socket;

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderValue, Request, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics::{counter, gauge};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{
    body,
    error::Failure,
    settle::{IsCutShort, settle},
};
use crate::tls::{self, Identity, Tls};
use lingering::Lingering;
use socket::Socket;

/// Where a request came from; left with each.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The request came encrypted; left with each that did.
#[derive(Debug, Clone, Copy)]
pub struct Secured;

/// Connections over the limit that are told so before they are closed; beyond, they are just closed.
const REFUSED_AT_ONCE_MAX: usize = 32;

/// Answers with `router` until `stop` turns true, then lets the requests end that are being answered.
///
/// A connection is closed after `idle_max` without a request's head. Its handshake counts as a connection does.
pub async fn serve(
    listener: TcpListener,
    tls: Tls,
    router: Router,
    connections_max: usize,
    idle_max: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let full = closing(|| body::busy().with_hint("close connections that idle, or use a pool"));
    let connections = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let open = Open::new(&connections);
                    let is_over = open.count > connections_max;
                    if is_over {
                        counter!("lambic_http_connections_refused_total").increment(1);
                    }
                    if open.count > connections_max.saturating_add(REFUSED_AT_ONCE_MAX) {
                        continue;
                    }
                    let router = if is_over { full.clone() } else { router.clone() };
                    let identity = tls.identity();
                    let connection =
                        connection(socket, peer, identity, router, idle_max, stop.clone(), open);
                    tasks.spawn(connection);
                }
                Err(error) => {
                    warn!(%error, "cannot accept an HTTP connection");
                    // Out of file handles, most likely: give connections a moment to close.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Answers every request with this, and closes.
fn closing(failure: fn() -> Failure) -> Router {
    let answer = move || async move {
        let mut response: Response = failure().into_response();
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    };
    Router::new().fallback(answer).layer(from_fn(settle))
}

/// To who sends in the clear, over a network, what only TLS keeps from others.
fn unencrypted() -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "not_encrypted",
        "this server takes encrypted requests only, and this one was not",
    )
    .with_hint("begin the URL with https://; a key that was sent with this request may have been seen on the way")
}

/// Also when the other side is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    identity: Option<Identity>,
    router: Router,
    idle_max: Duration,
    mut stop: watch::Receiver<bool>,
    _open: Open,
) {
    // What is streamed goes out as it comes, also in small parts.
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "a connection sends small parts late");
    }
    let must_encrypt = identity.is_some() && !tls::is_within_machine(&socket);
    let begun = tokio::select! {
        biased;
        begun = Socket::begin(socket, identity.as_ref(), idle_max) => begun,
        () = stopped(&mut stop) => return,
    };
    let socket = match begun {
        Ok(socket) => socket,
        Err(error) => {
            debug!(%error, %peer, "connection broke off before it began");
            return;
        }
    };
    let is_secured = socket.is_secured();
    let router = match must_encrypt && !is_secured {
        true => closing(unencrypted),
        false => router,
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(idle_max);
    let is_cut_short = IsCutShort::default();
    let socket = TokioIo::new(Lingering::new(socket, is_cut_short.clone()));
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let told = request.extensions_mut();
        told.insert(Peer(peer.ip()));
        if is_secured {
            told.insert(Secured);
        }
        told.insert(is_cut_short.clone());
        service.call(request)
    });
    let mut connection = pin!(builder.serve_connection(socket, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection broke off");
    }
}

/// Counts one connection.
struct Open {
    connections: Arc<AtomicUsize>,
    count: usize,
}

impl Open {
    fn new(connections: &Arc<AtomicUsize>) -> Open {
        let count = connections.fetch_add(1, Ordering::AcqRel) + 1;
        // Not set to the count: of two at a time, the one that counted first may come last.
        gauge!("lambic_http_connections").increment(1.0);
        Open {
            connections: Arc::clone(connections),
            count,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        gauge!("lambic_http_connections").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    struct Served {
        address: std::net::SocketAddr,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn served(connections_max: usize, idle_max: Duration) -> Served {
        served_with(Tls::Off, connections_max, idle_max).await
    }

    async fn served_with(tls: Tls, connections_max: usize, idle_max: Duration) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/secured", get(is_secured))
            .fallback(|| async { (StatusCode::NOT_FOUND, "nothing") })
            .layer(from_fn(settle));
        let task = tokio::spawn(serve(
            listener,
            tls,
            router,
            connections_max,
            idle_max,
            stopped,
        ));
        Served {
            address,
            stop,
            task,
        }
    }

    async fn is_secured(secured: Option<axum::Extension<Secured>>) -> String {
        secured.is_some().to_string()
    }

    impl Served {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }
    }

    /// The status of the next answer.
    async fn ask(socket: &mut TcpStream) -> String {
        socket.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") && !answer.ends_with(b"}}") {
            assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
        }
        String::from_utf8_lossy(&answer[9..12]).into_owned()
    }

    async fn is_closed(socket: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.is_ok() && rest.is_empty()
    }

    #[tokio::test]
    async fn connections_over_the_limit_are_told_so() {
        let served = served(1, Duration::from_secs(3_600)).await;
        let mut first = served.connect().await;
        assert_eq!(ask(&mut first).await, "200");
        let mut second = served.connect().await;
        assert_eq!(ask(&mut second).await, "503");
        assert!(is_closed(&mut second).await);
        assert_eq!(ask(&mut first).await, "200");
        // Its place is free once the server has seen that it is gone.
        drop(first);
        loop {
            let mut next = served.connect().await;
            if ask(&mut next).await == "200" {
                break;
            }
        }
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn connections_that_say_nothing_are_closed() {
        let served = served(2, Duration::from_millis(10)).await;
        let mut silent = served.connect().await;
        assert!(is_closed(&mut silent).await);
        let mut slow = served.connect().await;
        slow.write_all(&REQUEST[..10]).await.unwrap();
        assert!(is_closed(&mut slow).await);
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    /// One answer whole, by its length: status line and headers, body.
    async fn answer(socket: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await.unwrap();
        (head, body)
    }

    fn post(path: &str, length: usize) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
    }

    #[tokio::test]
    async fn a_connection_outlives_a_request_whose_body_was_not_read() {
        let served = served(1, Duration::from_secs(3_600)).await;
        let mut socket = served.connect().await;
        // The body comes after the answer could have been written.
        for length in [4, 64 << 10, 1 << 20] {
            socket
                .write_all(post("/nowhere", length).as_bytes())
                .await
                .unwrap();
            socket.write_all(&vec![b'x'; length]).await.unwrap();
            let (head, _) = answer(&mut socket).await;
            assert!(
                head.contains(" 404 ") && !head.contains("connection: close"),
                "{head}"
            );
        }
        assert_eq!(ask(&mut socket).await, "200");
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_long_body_that_is_not_read_ends_its_connection_with_an_answer() {
        const LENGTH: usize = 8 << 20;
        let served = served(1, Duration::from_secs(3_600)).await;
        let mut socket = served.connect().await;
        socket
            .write_all(post("/nowhere", LENGTH).as_bytes())
            .await
            .unwrap();
        // A client that sends everything before it reads.
        for _ in 0..LENGTH >> 16 {
            socket.write_all(&[b'x'; 1 << 16]).await.unwrap();
        }
        let (head, _) = answer(&mut socket).await;
        assert!(
            head.contains(" 404 ") && head.contains("connection: close"),
            "{head}"
        );
        assert!(is_closed(&mut socket).await);
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_ends_its_connection_with_an_answer() {
        let served = served(1, Duration::from_secs(3_600)).await;
        let mut socket = served.connect().await;
        socket
            .write_all(post("/nowhere", 4).as_bytes())
            .await
            .unwrap();
        let (head, _) = answer(&mut socket).await;
        assert!(
            head.contains(" 404 ") && head.contains("connection: close"),
            "{head}"
        );
        assert!(is_closed(&mut socket).await);
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_ends_connections_that_wait() {
        let served = served(1, Duration::from_secs(3_600)).await;
        let mut first = served.connect().await;
        assert_eq!(ask(&mut first).await, "200");
        served.stop.send_replace(true);
        served.task.await.unwrap();
        assert!(is_closed(&mut first).await);
    }

    fn own() -> Tls {
        Tls::Own(watch::channel(tls::tests::identity()).1)
    }

    #[tokio::test]
    async fn what_comes_encrypted_is_told_apart() {
        let served = served_with(own(), 9, Duration::from_secs(3_600)).await;
        let request = "GET /secured HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // On loopback both are taken.
        let mut plain = served.connect().await;
        plain.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut plain).await.1, b"false");
        let mut secured = tls::tests::connect(served.connect().await, &[b"h2", b"http/1.1"])
            .await
            .unwrap();
        assert_eq!(secured.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        for _ in 0..2 {
            secured.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(answer(&mut secured).await.1, b"true");
        }
        let refused = tls::tests::connect(served.connect().await, &[b"h2"]).await;
        assert!(refused.is_err());
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_handshake_counts_as_a_connection() {
        let served = served_with(own(), 1, Duration::from_secs(3_600)).await;
        // It holds the one place and does not go on.
        let mut begun = served.connect().await;
        begun.write_all(&[0x16, 3, 1]).await.unwrap();
        let mut second = served.connect().await;
        assert_eq!(ask(&mut second).await, "503");
        // Nor does it hold up a stop.
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_begin_is_closed() {
        let served = served_with(own(), 1, Duration::from_millis(10)).await;
        let mut silent = served.connect().await;
        assert!(is_closed(&mut silent).await);
        served.stop.send_replace(true);
        served.task.await.unwrap();
    }

    #[tokio::test]
    async fn who_should_encrypt_is_told_so() {
        let router = closing(unencrypted);
        let request = Request::get("/v1/sql").body(axum::body::Body::empty());
        let answer = TowerToHyperService::new(router)
            .call(request.unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()[header::CONNECTION], "close");
    }
}
