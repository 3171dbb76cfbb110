//! Accepts HTTP connections: not more than a number of them, and none that only sits there, be it that it asks nothing or
//! that it takes nothing of an answer. One that closes before all that was sent has been read takes the rest for a while,
//! so that its last answer arrives.

mod lingering;
mod prompt;
mod proxy;
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
use lambic_base::Eager;
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

/// Where a request came from, as the proxy says where there is one; left with each.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The request came encrypted, here or at the proxy; left with each that did.
#[derive(Debug, Clone, Copy)]
pub struct Secured;

/// Connections over the limit that are told so before they are closed; beyond, they are just closed.
const REFUSED_AT_ONCE_MAX: usize = 32;

/// Answers with `router` until `stop` turns true, then lets the requests end that are being answered.
///
/// A connection is closed after `idle_max` without a request's head, or in which it took nothing of an answer. Its
/// handshake counts as a connection does.
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
                    let door = Door {
                        identity: tls.identity(),
                        is_by_proxy: matches!(tls, Tls::ByProxy),
                        idle_max,
                    };
                    let connection = connection(socket, peer, door, router, stop.clone(), open);
                    tasks.spawn(Eager::new(connection));
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

/// How a connection is taken.
struct Door {
    identity: Option<Identity>,
    /// What a proxy says of requests is believed.
    is_by_proxy: bool,
    idle_max: Duration,
}

impl Door {
    /// Leaves with a request where it came from, on such a connection.
    fn tell(&self, request: &mut Request<Incoming>, peer: IpAddr, is_secured: bool) {
        let headers = request.headers();
        let (peer, is_secured) = match self.is_by_proxy {
            true => (
                proxy::caller(headers).unwrap_or(peer),
                is_secured || proxy::is_secured(headers),
            ),
            false => (peer, is_secured),
        };
        let told = request.extensions_mut();
        told.insert(Peer(peer));
        if is_secured {
            told.insert(Secured);
        }
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    door: Door,
    router: Router,
    mut stop: watch::Receiver<bool>,
    _open: Open,
) {
    // What is streamed goes out as it comes, also in small parts.
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "a connection sends small parts late");
    }
    let must_encrypt = door.identity.is_some() && !tls::is_within_machine(&socket);
    let begun = tokio::select! {
        biased;
        begun = Socket::begin(socket, door.identity.as_ref(), door.idle_max) => begun,
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
        .header_read_timeout(door.idle_max);
    let is_cut_short = IsCutShort::default();
    let socket = TokioIo::new(Lingering::new(socket, is_cut_short.clone()));
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        door.tell(&mut request, peer.ip(), is_secured);
        request.extensions_mut().insert(is_cut_short.clone());
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
    use std::convert::Infallible;

    use axum::{body::Body, routing::get};
    use bytes::Bytes;
    use futures::stream;
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
            .route("/peer", get(peer))
            .route("/endless", get(endless))
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

    async fn peer(peer: axum::Extension<Peer>) -> String {
        peer.0.0.to_string()
    }

    async fn endless() -> Body {
        let part = Bytes::from_static(&[b'x'; 1 << 16]);
        Body::from_stream(stream::repeat(Ok::<_, Infallible>(part)))
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

    /// Until the one place is free again.
    async fn is_let_in(served: &Served) {
        let let_in = async {
            loop {
                let mut next = served.connect().await;
                if ask(&mut next).await == "200" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let bound = Duration::from_secs(60);
        tokio::time::timeout(bound, let_in).await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_nothing_of_an_answer_is_closed() {
        const ENDLESS: &[u8] = b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for tls in [Tls::Off, own()] {
            let is_secured = matches!(tls, Tls::Own(_));
            let served = served_with(tls, 1, Duration::from_millis(300)).await;
            let mut plain = served.connect().await;
            if is_secured {
                let mut secured = tls::tests::connect(plain, &[b"http/1.1"]).await.unwrap();
                secured.write_all(ENDLESS).await.unwrap();
                // Its first bytes came, and no more of them are read.
                secured.read_u8().await.unwrap();
                is_let_in(&served).await;
            } else {
                plain.write_all(ENDLESS).await.unwrap();
                plain.read_u8().await.unwrap();
                is_let_in(&served).await;
            }
            served.stop.send_replace(true);
            served.task.await.unwrap();
        }
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
    async fn what_a_proxy_says_is_believed_where_there_is_one() {
        let forwarded = "X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
        for (tls, headers, peer, is_secured) in [
            (Tls::ByProxy, forwarded, "192.0.2.7", "true"),
            (Tls::ByProxy, "", "127.0.0.1", "false"),
            (
                Tls::ByProxy,
                "X-Forwarded-For: 192.0.2.7, nobody\r\n",
                "127.0.0.1",
                "false",
            ),
            (Tls::Off, forwarded, "127.0.0.1", "false"),
            (own(), forwarded, "127.0.0.1", "false"),
        ] {
            let served = served_with(tls, 1, Duration::from_secs(3_600)).await;
            let mut socket = served.connect().await;
            for (path, expected) in [("/peer", peer), ("/secured", is_secured)] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
                socket.write_all(request.as_bytes()).await.unwrap();
                let (_, body) = answer(&mut socket).await;
                assert_eq!(String::from_utf8(body).unwrap(), expected, "{headers}");
            }
            served.stop.send_replace(true);
            served.task.await.unwrap();
        }
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
