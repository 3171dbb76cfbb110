//! The way out of an environment: a small HTTP proxy that decides where a function may connect to.
//!
//! It listens in the environment's own network, which has no other way out, and speaks `CONNECT` (for TLS and any other
//! TCP) and requests with absolute URLs. It resolves names itself, refuses addresses that are this machine's or not
//! public, and connects to the very address that it looked at, so that a name which resolves to something else the
//! next time gains nothing. It does not look into what is said afterwards.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::refusals::Refusals;

/// Where a function may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    #[default]
    None,
    /// Names, exactly or as `*.example.com`, which does not hold for `example.com` itself.
    Hosts(Vec<String>),
    /// All public addresses.
    Open,
}

impl Network {
    fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self {
            Network::None => false,
            Network::Open => true,
            Network::Hosts(hosts) => hosts.iter().any(|allowed| {
                let allowed = allowed.trim_end_matches('.').to_ascii_lowercase();
                match allowed.strip_prefix("*.") {
                    Some(domain) => host
                        .strip_suffix(domain)
                        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                    None => host == allowed,
                }
            }),
        }
    }
}

/// Connections of one environment at a time; more wait.
const CONNECTIONS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Names that are looked up at a time, by all functions. Each takes a thread that others need too, and cannot be stopped.
const LOOKUPS_MAX: usize = 128;
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

/// What decides where a connection may go.
#[derive(Debug, Clone)]
pub struct Rules {
    network: Network,
    is_reachable: fn(IpAddr) -> bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    #[error("this function may not connect to {host}")]
    NotAllowed { host: String },
    #[error("{host} is {address}, which is not a public address")]
    NotPublic { host: String, address: IpAddr },
    #[error("{host} was not resolved in time")]
    UnresolvedInTime { host: String },
    #[error("{host} cannot be resolved: {source}")]
    Unresolved { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{address}: {source}")]
    Unreachable {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{address} did not answer in time")]
    UnansweredInTime { address: SocketAddr },
}

impl Rules {
    pub fn of(network: Network) -> Rules {
        Rules {
            network,
            is_reachable: is_outside,
        }
    }

    /// Also to this machine's own addresses.
    #[cfg(test)]
    pub fn also_private(network: Network) -> Rules {
        Rules {
            network,
            is_reachable: |_| true,
        }
    }

    /// To an address that was looked at, if the host is allowed and has one that may be reached.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, NotConnected> {
        let host_name = || host.to_owned();
        if !self.network.allows(host) {
            return Err(NotConnected::NotAllowed { host: host_name() });
        }
        let found = timeout(CONNECT_TIME_MAX, resolve(host.to_owned(), port))
            .await
            .map_err(|_| NotConnected::UnresolvedInTime { host: host_name() })?
            .map_err(|source| NotConnected::Unresolved {
                host: host_name(),
                source,
            })?;
        let (reachable, refused): (Vec<SocketAddr>, Vec<SocketAddr>) = found
            .into_iter()
            .partition(|address| (self.is_reachable)(address.ip()));
        if reachable.is_empty()
            && let Some(address) = refused.first()
        {
            return Err(NotConnected::NotPublic {
                host: host_name(),
                address: address.ip(),
            });
        }
        let mut last = NotConnected::NoAddress { host: host_name() };
        for address in reachable.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
                Ok(Ok(outside)) => return Ok(outside),
                Ok(Err(source)) => last = NotConnected::Unreachable { address, source },
                Err(_) => last = NotConnected::UnansweredInTime { address },
            }
        }
        Err(last)
    }
}

/// The threads that this takes are bounded, also where nobody waits for them any more.
async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);
    let turn = LOOKUPS.acquire().await.expect("it is never closed");
    let looked_up = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        Ok((host.as_str(), port).to_socket_addrs()?.collect())
    });
    looked_up.await.map_err(io::Error::other)?
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
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 4 << 10];
        let read = inside.read(&mut part).await?;
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(head)
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    host: String,
    port: u16,
    is_connect: bool,
    /// What goes to the other side first.
    forward: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    reason: String,
}

impl Refusal {
    fn malformed(reason: &str) -> Refusal {
        Refusal {
            status: "400 Bad Request",
            reason: reason.to_owned(),
        }
    }

    fn forbidden(reason: String) -> Refusal {
        Refusal {
            status: "403 Forbidden",
            reason,
        }
    }
}

fn understand(head: &[u8]) -> Result<Request, Refusal> {
    let end = head
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .ok_or_else(|| Refusal::malformed("the head has no end"))?;
    let rest = &head[end + 4..];
    let text = std::str::from_utf8(&head[..end])
        .map_err(|_| Refusal::malformed("the head is not text"))?;
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first.as_slice() else {
        return Err(Refusal::malformed(
            "the first line is not `method target version`",
        ));
    };
    if *method == "CONNECT" {
        let (host, port) = authority(target, None)?;
        return Ok(Request {
            host,
            port,
            is_connect: true,
            forward: rest.to_vec(),
        });
    }
    let url = target
        .strip_prefix("http://")
        .ok_or_else(|| Refusal::malformed("this is a proxy: it takes CONNECT and http:// URLs"))?;
    let path_at = url.find(['/', '?']).unwrap_or(url.len());
    let (place, path) = url.split_at(path_at);
    let (host, port) = authority(place, Some(80))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut forward = format!("{method} {slash}{path} {version}\r\nHost: {place}\r\n");
    for line in lines {
        let name = line.split(':').next().unwrap_or_default();
        let is_ours = [
            "host",
            "connection",
            "proxy-connection",
            "proxy-authorization",
        ]
        .iter()
        .any(|ours| name.trim().eq_ignore_ascii_case(ours));
        if !is_ours {
            forward.push_str(line);
            forward.push_str("\r\n");
        }
    }
    // One request, one connection: the next one may go elsewhere.
    forward.push_str("Connection: close\r\n\r\n");
    let mut forward = forward.into_bytes();
    forward.extend_from_slice(rest);
    Ok(Request {
        host,
        port,
        is_connect: false,
        forward,
    })
}

/// Host and port of `host:port`, `[v6]:port`.
fn authority(text: &str, port_default: Option<u16>) -> Result<(String, u16), Refusal> {
    let malformed = || Refusal::malformed("the host is not `name:port`");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(malformed)?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| malformed())?,
        None => port_default.ok_or_else(malformed)?,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || port == 0 || !host.bytes().all(is_name) {
        return Err(malformed());
    }
    Ok((host.to_owned(), port))
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

/// True for addresses of the internet that are not this machine's.
pub fn is_outside(address: IpAddr) -> bool {
    is_public(address) && !is_ours(address)
}

/// True for addresses of the internet, by IANA's registries of special addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || a >= 224
        || a == 10
        || a == 127
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(w, x, y, z))
    };
    match [a, b, c, d, e, f] {
        // IPv4 in IPv6, translated, or tunnelled.
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => embedded(g, h),
        [0x2002, ..] => embedded(b, c),
        // Only these are handed out; tunnels and examples are among them.
        _ => {
            (0x2000..0x4000).contains(&a)
                && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

/// True for addresses of this machine, public as they may be: what listens there trusts its neighbours.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached() {
        for (address, is) in [
            ("93.184.215.14", true),
            ("1.1.1.1", true),
            ("172.32.0.1", true),
            ("127.0.0.1", false),
            ("127.8.9.10", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.1.2.3", false),
            ("100.100.100.200", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.168.0.1", false),
            ("192.0.2.1", false),
            ("198.18.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700:4700::1111", true),
            ("2a00:1450:4001::1", true),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:1.1.1.1", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::1.1.1.1", true),
            ("64:ff9b:1::1.1.1.1", false),
            ("2002:7f00:1::", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), is, "{address}");
        }
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        assert!(!is_ours("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn hosts_are_allowed_by_name() {
        let listed = Network::Hosts(vec![
            "Api.example.com".to_owned(),
            "*.example.org".to_owned(),
        ]);
        for (network, host, is) in [
            (&listed, "api.example.com", true),
            (&listed, "API.example.com.", true),
            (&listed, "xapi.example.com", false),
            (&listed, "api.example.com.evil.net", false),
            (&listed, "a.example.org", true),
            (&listed, "a.b.example.org", true),
            (&listed, "example.org", false),
            (&listed, ".example.org", false),
            (&listed, "evilexample.org", false),
            (&Network::Open, "anything.at.all", true),
            (&Network::None, "api.example.com", false),
        ] {
            assert_eq!(network.allows(host), is, "{host}");
        }
    }

    #[test]
    fn requests_are_understood() {
        for (head, expected) in [
            (
                "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\nmore",
                "a.b 443 more",
            ),
            (
                "CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n",
                "2001:db8::1 443 ",
            ),
            (
                "GET http://a.b/c?d HTTP/1.1\r\nHost: evil\r\nProxy-Connection: keep-alive\r\nX: y\r\n\r\nmore",
                "a.b 80 GET /c?d HTTP/1.1|Host: a.b|X: y|Connection: close||more",
            ),
            (
                "GET http://a.b:81?d HTTP/1.1\r\n\r\n",
                "a.b 81 GET /?d HTTP/1.1|Host: a.b:81|Connection: close||",
            ),
            (
                "CONNECT a.b HTTP/1.1\r\n\r\n",
                "the host is not `name:port`",
            ),
            (
                "CONNECT a.b:x HTTP/1.1\r\n\r\n",
                "the host is not `name:port`",
            ),
            (
                "CONNECT u@a.b:1 HTTP/1.1\r\n\r\n",
                "the host is not `name:port`",
            ),
            (
                "GET http://u:p@a.b/ HTTP/1.1\r\n\r\n",
                "the host is not `name:port`",
            ),
            (
                "GET /c HTTP/1.1\r\n\r\n",
                "this is a proxy: it takes CONNECT and http:// URLs",
            ),
            (
                "nonsense\r\n\r\n",
                "the first line is not `method target version`",
            ),
        ] {
            let found = match understand(head.as_bytes()) {
                Ok(request) => {
                    let forward = String::from_utf8(request.forward).unwrap();
                    let forward = forward.replace("\r\n", "|");
                    format!("{} {} {forward}", request.host, request.port)
                }
                Err(refusal) => refusal.reason,
            };
            assert_eq!(found, expected, "{head}");
        }
    }

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
