//! Requests to servers of this machine, which no function could reach.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use super::*;
use crate::process::Network;

/// Of `localhost`, for a hundred years, and good for nothing else.
const CERTIFICATE: &str = "\
MIIBojCCAUegAwIBAgIUX8M0cQEJLFNx3etIdFpM9ankFqIwCgYIKoZIzj0EAwIwFjEUMBIGA1UEAwwLbGFtYmljIHRlc3QwIBcN\
MjYxMTI3MjAyMDE1WhgPMjEyNjExMDMyMDIwMTVaMBYxFDASBgNVBAMMC2xhbWJpYyB0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D\
AQcDQgAE7cJRC6aV1zfFpc+zjCfgRXQkHW+CoWt1j7J1cy4agujrEMFpy8Bjh6Ry910Qw0gP/EKUiGfaBN/Q2+lc27X3xKNxMG8w\
HQYDVR0OBBYEFDUwmwvDQFoSQk+m/UbW1aWv3DAFMB8GA1UdIwQYMBaAFDUwmwvDQFoSQk+m/UbW1aWv3DAFMB8GA1UdEQQYMBaC\
CWxvY2FsaG9zdIIJZi5leGFtcGxlMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSQAwRgIhANX4AG7y2p89IIippJjXJkjP/75b\
lJpy/ki9Q239BgrWAiEA1g7V+XjUAl+tQHuplF/UeYH0St6wmnMESGh3XovBEM8=\
";
const KEY: &str = "\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgp1hIn131jN1FjLO7rywShmD+oZ71ryBpkywju1DPBBChRANCAATt\
wlELppXXN8Wlz7OMJ+BFdCQdb4Kha3WPsnVzLhqC6OsQwWnLwGOHpHL3XRDDSA/8QpSIZ9oE39Db6VzbtffE\
";

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text.trim()).unwrap()
}

fn listed() -> Network {
    Network::Hosts(vec!["localhost".to_owned()])
}

fn way(rules: Rules) -> Way {
    let mut authorities = RootCertStore::empty();
    authorities
        .add(CertificateDer::from(decoded(CERTIFICATE)))
        .unwrap();
    Way {
        rules: Arc::new(rules),
        trusted: Some(tls::trusting(authorities).unwrap()),
        places: Arc::new(Semaphore::new(2)),
        lines: Arc::new(Mutex::new(Lines::new(10_000))),
    }
}

fn request(method: &str, url: &str, body: &'static str) -> Request<WasiBody> {
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    Request::builder()
        .method(method)
        .uri(url)
        .body(body.map_err(|never| match never {}).boxed_unsync())
        .unwrap()
}

fn logged(way: &Way) -> Vec<String> {
    let mut lines = way.lines.lock().unwrap();
    lines.take().into_iter().map(|line| line.line).collect()
}

/// Answers each connection with what it asks for after its path's slash: the request itself, or a trouble.
async fn server(secured: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(decoded(CERTIFICATE))],
            PrivateKeyDer::try_from(decoded(KEY)).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match secured {
                    false => answer(connection).await,
                    true => {
                        if let Ok(connection) = acceptor.accept(connection).await {
                            answer(connection).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\r\n\r\n") {
        let mut part = [0; 1_024];
        let read = connection.read(&mut part).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        seen.extend_from_slice(&part[..read]);
        // TLS begins so.
        if seen[0] == 0x16 {
            let _ = connection.write_all(b"nonsense\r\n\r\n").await;
            return;
        }
    }
    let seen = String::from_utf8(seen).unwrap();
    let path = seen.split(' ').nth(1).unwrap().to_owned();
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let answer = match path.as_str() {
        "/silent" => std::future::pending().await,
        "/pause" => format!("{}half", head(8)),
        "/cut" => format!("{}half", head(8)),
        "/head" => format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(1_000_000)),
        "/nonsense" => "nonsense\r\n\r\n".to_owned(),
        _ => format!("{}{seen}", head(seen.len())),
    };
    let _ = connection.write_all(answer.as_bytes()).await;
    let _ = connection.flush().await;
    if path == "/pause" {
        std::future::pending::<()>().await;
    }
    let _ = connection.shutdown().await;
}

async fn text(way: &Way, request: Request<WasiBody>, options: RequestOptions) -> Result<String> {
    let (response, ended) = way.send(request, options).await?;
    let driver = tokio::spawn(Box::into_pin(ended));
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn requests_get_to_hosts_that_are_listed() {
    for (secured, scheme) in [(false, "http"), (true, "https")] {
        let port = server(secured).await.port();
        let way = way(Rules::also_private(listed()));
        for _ in 0..5 {
            let request = request("POST", &format!("{scheme}://localhost:{port}/a?b"), "hello");
            let seen = text(&way, request, RequestOptions::default())
                .await
                .unwrap();
            let seen = seen.to_ascii_lowercase();
            assert!(seen.starts_with("post /a?b http/1.1\r\n"), "{seen}");
            assert!(seen.contains("user-agent: lambic\r\n"), "{seen}");
        }
        assert_eq!(logged(&way), [""; 0]);
    }
}

#[tokio::test]
async fn others_are_refused_and_the_log_says_why() {
    let port = server(false).await.port();
    let private = Rules::also_private(listed());
    let public = Rules::of(Network::Open);
    let none = Rules::of(Network::None);
    for (rules, url, kind, said) in [
        (
            &private,
            format!("http://127.0.0.1:{port}/"),
            "HttpRequestDenied",
            "request: this function may not connect to 127.0.0.1",
        ),
        (
            &none,
            "https://example.com/".to_owned(),
            "HttpRequestDenied",
            "request: this function may not connect to example.com",
        ),
        (
            &public,
            format!("http://localhost:{port}/"),
            "DestinationIpProhibited",
            "request: localhost is ",
        ),
        (
            &public,
            "http://169.254.169.254/latest/meta-data".to_owned(),
            "DestinationIpProhibited",
            "request: 169.254.169.254 is 169.254.169.254, which is not a public address",
        ),
        (
            &public,
            "http://[::ffff:10.0.0.1]/".to_owned(),
            "DestinationIpProhibited",
            "request: ::ffff:10.0.0.1 is ::ffff:10.0.0.1, which is not a public address",
        ),
        (
            &public,
            "http://2130706433/".to_owned(),
            "DestinationIpProhibited",
            "request: 2130706433 is 127.0.0.1, which is not a public address",
        ),
    ] {
        let way = way(rules.clone());
        let error = text(&way, request("GET", &url, ""), RequestOptions::default()).await;
        assert!(format!("{error:?}").contains(kind), "{url} {error:?}");
        let logged = logged(&way);
        assert!(logged[0].starts_with(said), "{logged:?}");
    }
}

#[tokio::test]
async fn troubles_of_the_other_side_are_errors() {
    let plain = server(false).await.port();
    let secured = server(true).await.port();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let soon = Some(Duration::from_millis(100));
    let options = RequestOptions {
        first_byte_timeout: soon,
        between_bytes_timeout: soon,
        ..RequestOptions::default()
    };
    let way = way(Rules::also_private(Network::Open));
    for (url, kind) in [
        (
            format!("http://localhost:{plain}/silent"),
            "HttpResponseTimeout",
        ),
        (
            format!("http://localhost:{plain}/pause"),
            "ConnectionReadTimeout",
        ),
        (format!("http://localhost:{plain}/cut"), "Hyper"),
        (format!("http://localhost:{plain}/head"), "Hyper"),
        (format!("http://localhost:{plain}/nonsense"), "Hyper"),
        (format!("http://127.0.0.1:{closed}/"), "ConnectionRefused"),
        (format!("https://localhost:{plain}/"), "TlsProtocolError"),
        // Not the name of its certificate.
        (
            format!("https://127.0.0.1:{secured}/"),
            "TlsCertificateError",
        ),
        (
            format!("http://user@localhost:{plain}/"),
            "HttpRequestUriInvalid",
        ),
    ] {
        let error = text(&way, request("GET", &url, ""), options).await;
        assert!(format!("{error:?}").contains(kind), "{url} {error:?}");
    }
    let tunnel = request("CONNECT", &format!("http://localhost:{plain}/"), "");
    let error = text(&way, tunnel, options).await;
    assert!(matches!(error, Err(Error::HttpRequestMethodInvalid)));
}

#[tokio::test]
async fn an_instance_has_so_many_connections() {
    let port = server(false).await.port();
    let way = way(Rules::also_private(listed()));
    let ask = || request("GET", &format!("http://localhost:{port}/pause"), "");
    let first = way.send(ask(), RequestOptions::default()).await.unwrap();
    let _second = way.send(ask(), RequestOptions::default()).await.unwrap();
    let third = way.send(ask(), RequestOptions::default()).await;
    assert!(matches!(
        third.map(|_| ()),
        Err(Error::ConnectionLimitReached)
    ));
    drop(first);
    let _fourth = way.send(ask(), RequestOptions::default()).await.unwrap();
}
