//! Where a function may connect to, and the connections that are made by that.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

use super::address::is_outside;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Names that are looked up at a time, by all functions. Each takes a thread that others need too, and cannot be stopped.
const LOOKUPS_MAX: usize = 128;

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

/// What decides where a connection may go.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(super) network: Network,
    pub(super) is_reachable: fn(IpAddr) -> bool,
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

#[cfg(test)]
mod tests {
    use super::Network;

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
}
