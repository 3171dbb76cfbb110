//! The way out of an environment: a small HTTP proxy that decides where a function may connect to.
//!
//! It listens in the environment's own network, which has no other way out, and speaks `CONNECT` (for TLS and any other
//! TCP) and requests with absolute URLs. It resolves names itself, refuses addresses that are this machine's or not
//! public, and connects to the very address that it looked at, so that a name which resolves to something else the
//! next time gains nothing. It does not look into what is said afterwards.

mod address;
mod request;
mod rules;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use self::request::{Refusal, Request, understand};
pub use self::{
    address::is_outside,
    rules::{Network, NotConnected, Rules},
};
use super::refusals::Refusals;

/// Connections of one environment at a time; more wait.
const CONNECTIONS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends with its connections when dropped.
pub struct Egress {
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Egress {
    pub fn start(listener: TcpListener, network: Network) -> Egress {
        let rules = Rules::of(network);
        Egress {
            server: tokio::spawn(serve(listener, Arc::new(rules))),
        }
    }
}

async fn serve(listener: TcpListener, rules: Arc<Rules>) {
    let refusals = Arc::new(Refusals::default());
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (rules, refusals) = (rules.clone(), refusals.clone());
        connections.spawn(async move {
            let _place = place;
            // Whichever side breaks it off: the other one sees it.
            let _ = pass(connection, &rules, &refusals).await;
        });
    }
}

async fn pass(mut inside: TcpStream, rules: &Rules, refusals: &Refusals) -> io::Result<()> {
    let head = match timeout(HEAD_TIME_MAX, read_head(&mut inside)).await {
        Ok(head) => head?,
        Err(_) => return Ok(()),
    };
    let opened = match understand(&head) {
        Ok(request) => open(&request, rules)
            .await
            .map(|outside| (request, outside)),
        Err(refusal) => Err(refusal),
    };
    let (request, mut outside) = match opened {
        Ok(opened) => opened,
        Err(Refusal { status, reason }) => {
            refusals.turn().await;
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reason}",
                reason.len()
            );
            return inside.write_all(answer.as_bytes()).await;
        }
    };
    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
    if request.is_connect {
        inside
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    }
    outside.write_all(&request.forward).await?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

/// What came up to the end of the head, and a bit of what follows.
async fn read_head(inside: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head: Vec<u8> = Vec::new();
    let mut looked_at = 0_usize;
    // Each part is looked at once: who sends single bytes must not cost more than others.
    while !head[looked_at..].windows(4).any(|end| end == b"\r\n\r\n") {
        looked_at = head.len().saturating_sub(3);
        let mut part = [0; 4 << 10];
        let read = inside.read(&mut part).await?;
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(head)
}

async fn open(request: &Request, rules: &Rules) -> Result<TcpStream, Refusal> {
    let opened = rules.connect(&request.host, request.port).await;
    opened.map_err(|error| match error {
        NotConnected::NotAllowed { .. } | NotConnected::NotPublic { .. } => {
            Refusal::forbidden(error.to_string())
        }
        error => Refusal {
            status: "502 Bad Gateway",
            reason: error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{address::is_public, *};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(60), connection.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn bytes_go_both_ways_to_where_they_may() {
        let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = outside.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = outside.accept().await {
                let mut part = [0; 1_024];
                let read = connection.read(&mut part).await.unwrap();
                let first = String::from_utf8_lossy(&part[..read]);
                let first = first.lines().next().unwrap_or_default();
                let _ = connection
                    .write_all(format!("seen {first}").as_bytes())
                    .await;
            }
        });
        let proxy = async |is_reachable, network| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let rules = Rules {
                network,
                is_reachable,
            };
            let server = tokio::spawn(serve(listener, Arc::new(rules)));
            (address, Egress { server })
        };
        let listed = || Network::Hosts(vec!["localhost".to_owned()]);
        let (all, _one) = proxy(|_| true, listed()).await;
        let (public, _two) = proxy(is_public, Network::Open).await;
        for (proxy, request, answer) in [
            (
                all,
                format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\nhello\n"),
                "HTTP/1.1 200 Connection established\r\n\r\nseen hello",
            ),
            (
                all,
                format!("GET http://localhost:{port}/x HTTP/1.1\r\n\r\n"),
                "seen GET /x HTTP/1.1",
            ),
            (
                all,
                format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n"),
                "this function may not connect to 127.0.0.1",
            ),
            (
                public,
                format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\n"),
                "which is not a public address",
            ),
            (
                public,
                "CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n".to_owned(),
                "169.254.169.254 is 169.254.169.254, which is not a public address",
            ),
        ] {
            let found = ask(proxy, &request).await;
            assert!(found.ends_with(answer), "{request} {found}");
        }
    }
}
