//! What a client asks of the proxy, read from the head of its request.
//!
//! Pure: the caller reads the bytes, connects, and passes on.

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub host: String,
    pub port: u16,
    pub is_connect: bool,
    /// What goes to the other side first.
    pub forward: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: &'static str,
    pub reason: String,
}

impl Refusal {
    fn malformed(reason: &str) -> Refusal {
        Refusal {
            status: "400 Bad Request",
            reason: reason.to_owned(),
        }
    }

    pub fn forbidden(reason: String) -> Refusal {
        Refusal {
            status: "403 Forbidden",
            reason,
        }
    }
}

pub fn understand(head: &[u8]) -> Result<Request, Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
