//! Doors of a server with keys: who is let in, how, and to what.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

async fn locked() -> Served {
    let mut temporary = Key::new("TEMP", Secret::new(SECRET), None, None);
    temporary.session_token = Some(Secret::new("token"));
    let keys = Keys::new([
        Key::new("OURS", Secret::new(SECRET), None, Some("alice")),
        Key::new("OTHER", Secret::new(SECRET), Some("123456789012"), None),
        temporary,
    ]);
    served(Options {
        keys,
        ..Options::default()
    })
    .await
}

/// An answer: its status, all of its head, its body.
async fn ask(served: &Served, request: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(served.handle.http).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head[9..12].parse().unwrap(),
        head.to_owned(),
        body.to_owned(),
    )
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")))
}

/// Now, by a key with this secret.
fn signed(id: &str, secret: &str, method: &str, target: &str, body: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let signer = Signer {
        key_id: id.to_owned(),
        secret: Secret::new(secret),
        session_token: (id == "TEMP").then(|| Secret::new("token")),
        region: "eu-west-1".to_owned(),
    };
    let unsigned = Unsigned {
        method,
        path,
        query,
        headers: &[("host", "lambic.example")],
        body: body.as_bytes(),
    };
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    let added = signer.sign(&unsigned, since.as_secs() as i64);
    let mut headers = vec![("host", "lambic.example")];
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    request(method, target, &headers, body)
}

#[tokio::test]
async fn http_takes_requests_with_a_key_only() {
    let served = locked().await;
    let sql = "SELECT 1 AS one";
    let with = |authorization: &str| {
        let headers = [("host", "lambic.example"), ("authorization", authorization)];
        request("POST", "/v1/sql", &headers, sql)
    };
    for (request, expected) in [
        (request("POST", "/v1/sql", &[("host", "h")], sql), 401),
        (with(&basic("OURS", SECRET)), 200),
        (with(&basic("OURS", "another")), 401),
        (with(&basic("NOBODY", SECRET)), 401),
        // It only signs.
        (with(&basic("TEMP", SECRET)), 401),
        // Everything here is of another account.
        (with(&basic("OTHER", SECRET)), 403),
        (with("Bearer x"), 401),
        (signed("OURS", SECRET, "POST", "/v1/sql", sql), 200),
        (signed("TEMP", SECRET, "POST", "/v1/sql", sql), 200),
        (signed("OTHER", SECRET, "POST", "/v1/sql", sql), 403),
        (signed("OURS", "another", "POST", "/v1/sql", sql), 401),
        (
            signed("OURS", SECRET, "POST", "/v1/sql", sql).replace("one", "two"),
            401,
        ),
        (request("GET", "/", &[("host", "h")], ""), 401),
        (request("GET", "/metrics", &[("host", "h")], ""), 401),
        (request("GET", "/nowhere", &[("host", "h")], ""), 401),
        (request("GET", "/health", &[("host", "h")], ""), 200),
        (
            request("GET", "/lambda-url/none", &[("host", "h")], ""),
            404,
        ),
    ] {
        let (status, head, body) = ask(&served, &request).await;
        assert_eq!(status, expected, "{request}\n{body}");
        let asks = head
            .to_ascii_lowercase()
            .contains("www-authenticate: basic");
        assert_eq!(asks, expected == 401, "{head}");
    }
}

#[tokio::test]
async fn only_who_is_wrong_again_and_again_waits() {
    let served = locked().await;
    let with = |secret: &str| {
        let key = basic("OURS", secret);
        let headers = [("host", "lambic.example"), ("authorization", key.as_str())];
        request("POST", "/v1/sql", &headers, "SELECT 1")
    };
    let started = std::time::Instant::now();
    // At both doors together; who shows no key at all, tries nothing.
    for _ in 0..12 {
        assert_eq!(ask(&served, &with("another")).await.0, 401);
        let shows_none = request("GET", "/", &[("host", "h")], "");
        assert_eq!(ask(&served, &shows_none).await.0, 401);
    }
    let mut wire = connected(&served, "OURS").await;
    assert_eq!(show(&mut wire, "another").await.0, 'E');
    // Ten are free, and three had to wait.
    assert!(started.elapsed() >= std::time::Duration::from_millis(750));
    let wrong: Vec<String> = (0..20).map(|_| with("another")).collect();
    let mut refused = futures::stream::FuturesUnordered::new();
    refused.extend(wrong.iter().map(|wrong| ask(&served, wrong)));
    // Twenty wait five seconds together. Meanwhile right ones pass.
    let right = with(SECRET);
    tokio::select! {
        biased;
        answer = async {
            let mut last = 0;
            for _ in 0..3 {
                last = ask(&served, &right).await.0;
            }
            last
        } => assert_eq!(answer, 200),
        () = async { while futures::StreamExt::next(&mut refused).await.is_some() {} } => {
            panic!("right requests waited for wrong ones")
        }
    }
    let mut wire = connected(&served, "OURS").await;
    assert_eq!(show(&mut wire, SECRET).await.0, 'R');
}

#[tokio::test]
async fn the_aws_api_says_what_is_wrong_in_its_own_words() {
    let served = locked().await;
    let list = "/2015-03-31/functions";
    let unsigned = |headers: &[(&str, &str)]| request("GET", list, headers, "");
    let missing = "ResourceNotFoundException";
    for (request, expected, kind) in [
        (
            unsigned(&[("host", "h")]),
            403,
            "MissingAuthenticationTokenException",
        ),
        (
            unsigned(&[("host", "h"), ("authorization", "AWS4-HMAC-SHA256 x")]),
            400,
            "IncompleteSignatureException",
        ),
        (
            unsigned(&[("host", "h"), ("authorization", &basic("OURS", SECRET))]),
            200,
            "",
        ),
        (
            unsigned(&[("host", "h"), ("authorization", &basic("OURS", "x"))]),
            403,
            "UnrecognizedClientException",
        ),
        (signed("OURS", SECRET, "GET", list, ""), 200, ""),
        (
            signed("OURS", "another", "GET", list, ""),
            403,
            "InvalidSignatureException",
        ),
        (
            signed("NOBODY", SECRET, "GET", list, ""),
            403,
            "UnrecognizedClientException",
        ),
        (
            signed("OTHER", SECRET, "GET", list, ""),
            403,
            "AccessDeniedException",
        ),
        (
            signed(
                "OURS",
                SECRET,
                "POST",
                &format!("{list}/f/invocations"),
                "{}",
            ),
            404,
            missing,
        ),
        (
            signed(
                "OURS",
                SECRET,
                "POST",
                &format!("{list}/f/invocations"),
                "{}",
            )
            .replace("{}", "[]"),
            403,
            "InvalidSignatureException",
        ),
        // Not told what there is.
        (
            signed(
                "OTHER",
                SECRET,
                "POST",
                &format!("{list}/f/invocations"),
                "{}",
            ),
            403,
            "AccessDeniedException",
        ),
        (
            signed("OURS", SECRET, "GET", "/2015-03-31/nothing", ""),
            404,
            "UnknownOperationException",
        ),
        (
            request("GET", "/2015-03-31/nothing", &[("host", "h")], ""),
            403,
            "MissingAuthenticationTokenException",
        ),
    ] {
        let (status, head, body) = ask(&served, &request).await;
        assert_eq!(status, expected, "{request}\n{body}");
        if !kind.is_empty() {
            assert!(
                head.contains(&format!("x-amzn-errortype: {kind}")),
                "{head}"
            );
        }
    }
}

#[tokio::test]
async fn pages_of_other_sites_may_not_use_what_a_browser_was_given() {
    let served = locked().await;
    let key = basic("OURS", SECRET);
    for (origin, expected) in [
        ("https://lambic.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:3000", 403),
    ] {
        let headers = [
            ("host", "lambic.example"),
            ("origin", origin),
            ("authorization", key.as_str()),
        ];
        let (status, _, body) =
            ask(&served, &request("POST", "/v1/sql", &headers, "SELECT 1")).await;
        assert_eq!(status, expected, "{origin}: {body}");
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A connection up to the question for a password.
async fn connected(served: &Served, user: &str) -> Wire {
    let mut wire = Wire(TcpStream::connect(served.handle.pg).await.unwrap());
    let startup = format!("\0\x03\0\0user\0{user}\0database\0lambic\0\0");
    let length = (startup.len() as u32 + 4).to_be_bytes();
    let message = [&length[..], startup.as_bytes()].concat();
    wire.0.write_all(&message).await.unwrap();
    let (kind, body) = next(&mut wire).await.unwrap();
    assert_eq!((kind, &body[..4]), ('R', &10u32.to_be_bytes()[..]));
    assert_eq!(&body[4..], b"SCRAM-SHA-256\0\0");
    wire
}

/// The next message; none when the server has closed.
async fn next(wire: &mut Wire) -> Option<(char, Vec<u8>)> {
    let kind = wire.0.read_u8().await.ok()?;
    let length = wire.0.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    wire.0.read_exact(&mut body).await.ok()?;
    Some((char::from(kind), body))
}

/// Shows a password as RFC 5802 says; what the server says to it.
async fn show(wire: &mut Wire, password: &str) -> (char, Vec<u8>) {
    let bare = "n=,r=nonce";
    let first = format!("n,,{bare}");
    let length = (first.len() as u32).to_be_bytes();
    let message = [b"SCRAM-SHA-256\0", &length[..], first.as_bytes()].concat();
    wire.send(b'p', &message).await;
    let (kind, body) = next(wire).await.unwrap();
    assert_eq!((kind, &body[..4]), ('R', &11u32.to_be_bytes()[..]));
    let question = String::from_utf8(body[4..].to_vec()).unwrap();
    let part = |name: &str| question.split(',').find_map(|part| part.strip_prefix(name));
    let salt = BASE64_STANDARD.decode(part("s=").unwrap()).unwrap();
    let rounds: usize = part("i=").unwrap().parse().unwrap();
    let mut block = {
        let mut mac = Hmac::<Sha256>::new_from_slice(password.as_bytes()).unwrap();
        mac.update(&salt);
        mac.update(&[0, 0, 0, 1]);
        mac.finalize().into_bytes().to_vec()
    };
    let mut salted = block.clone();
    for _ in 1..rounds {
        let mut mac = Hmac::<Sha256>::new_from_slice(password.as_bytes()).unwrap();
        mac.update(&block);
        block = mac.finalize().into_bytes().to_vec();
        salted
            .iter_mut()
            .zip(&block)
            .for_each(|(sum, byte)| *sum ^= byte);
    }
    let answer = format!("c=biws,r={}", part("r=").unwrap());
    let key = mac(&salted, "Client Key");
    let proof = mac(
        &Sha256::digest(&key),
        &format!("{bare},{question},{answer}"),
    );
    let proof: Vec<u8> = key
        .iter()
        .zip(&proof)
        .map(|(key, byte)| key ^ byte)
        .collect();
    let last = format!("{answer},p={}", BASE64_STANDARD.encode(proof));
    wire.send(b'p', last.as_bytes()).await;
    next(wire).await.unwrap()
}

#[tokio::test]
async fn postgres_takes_a_key_and_its_secret() {
    let served = locked().await;
    let mut wire = connected(&served, "OURS").await;
    let (kind, body) = show(&mut wire, SECRET).await;
    assert_eq!((kind, &body[..4]), ('R', &12u32.to_be_bytes()[..]));
    wire.answers().await;
    wire.send(b'Q', b"SELECT 1\0").await;
    assert!(wire.answers().await.iter().any(|(kind, _)| *kind == 'D'));
    for (user, password) in [
        ("OURS", "another"),
        ("OURS", ""),
        ("NOBODY", SECRET),
        ("TEMP", SECRET),
        ("OTHER", SECRET),
    ] {
        let mut wire = connected(&served, user).await;
        let (kind, body) = show(&mut wire, password).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(kind == 'E' && text.contains("28P01"), "{user}: {text}");
    }
}

#[tokio::test]
async fn whoever_was_refused_is_not_heard() {
    let served = locked().await;
    for is_asked in [true, false] {
        let mut wire = connected(&served, "OURS").await;
        if is_asked {
            let (kind, _) = show(&mut wire, "another").await;
            assert_eq!(kind, 'E');
        }
        wire.send(b'Q', b"INSERT INTO notes VALUES (1, 'x')\0")
            .await;
        wire.send(b'P', b"\0INSERT INTO notes VALUES (2, 'x')\0\0\0")
            .await;
        wire.send(b'B', b"\0\0\0\0\0\0\0\0").await;
        wire.send(b'E', b"\0\0\0\0\0").await;
        wire.send(b'S', b"").await;
        // Until the server has heard it all.
        let _ = wire.0.shutdown().await;
        while let Some((kind, _)) = next(&mut wire).await {
            assert!(!matches!(kind, 'D' | 'C' | '1'), "{kind}");
        }
    }
    let count = "SELECT count(*) AS n FROM notes";
    let headers = [("host", "h"), ("authorization", &basic("OURS", SECRET))];
    let (_, _, body) = ask(&served, &request("POST", "/v1/sql", &headers, count)).await;
    assert!(body.contains("[[0]"), "{body}");
}
