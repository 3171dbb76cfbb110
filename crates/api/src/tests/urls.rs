//! Functions' own URLs, of components of HTTP: what clients send is what the component sees, and back.

use std::time::Duration;

use axum::http::HeaderMap;
use lambic_functions::{Code, Deployment, FunctionVersion, Qualifier, Runtime, Url};
use lambic_model::FunctionName;
use serde_json::{Value, json};

use super::*;

/// What it answers stands at its top.
const WEB: &str = include_str!("../../../lambic/src/bench/web.wat");

fn name() -> FunctionName {
    FunctionName::new("web").unwrap()
}

/// The component, with a URL of the id `url` that everybody may call.
async fn web(deploy: impl FnOnce(&mut Deployment), url: impl FnOnce(&mut Url)) -> Served {
    let served = served(Options::default()).await;
    let code = Code::Bytes(WEB.as_bytes().to_vec());
    let mut deployment = Deployment::new(name(), Runtime::Wasm, code);
    deployment.timeout = Duration::from_secs(60);
    deploy(&mut deployment);
    served.functions.deploy(deployment).await.unwrap();
    let mut made = open_url("url");
    url(&mut made);
    let called = name();
    let opened = served.functions.change(&called, move |function| {
        function.urls.insert(Qualifier::LATEST, made);
        function.permit(Qualifier::LATEST, statement("web"), None)
    });
    opened.await.unwrap();
    served
}

fn open_url(id: &str) -> Url {
    Url {
        id: id.to_owned(),
        is_public: true,
        cors: None,
        is_streamed: false,
        created_at_us: 0,
        changed_at_us: 0,
    }
}

fn statement(resource: &str) -> Value {
    json!({
        "Sid": "everybody", "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunctionUrl",
        "Resource": format!("arn:aws:lambda:us-east-1:000000000000:function:{resource}"),
    })
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn got(answer: &[u8]) -> Got {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(answer)));
    let head: Vec<&[u8]> = answer[..end].split(|&byte| byte == b'\n').collect();
    let mut headers = HeaderMap::new();
    for line in &head[1..] {
        let colon = line.iter().position(|&byte| byte == b':').unwrap();
        let header = axum::http::HeaderName::from_bytes(&line[..colon]).unwrap();
        let value = line[colon + 1..].trim_ascii();
        headers.append(header, axum::http::HeaderValue::from_bytes(value).unwrap());
    }
    Got {
        status: std::str::from_utf8(&head[0][9..12])
            .unwrap()
            .parse()
            .unwrap(),
        headers,
        body: answer[end + 4..].to_vec(),
    }
}

/// `head`: method, path and headers.
async fn ask(served: &Served, head: &str, body: &[u8]) -> Got {
    let mut socket = TcpStream::connect(served.handle.http).await.unwrap();
    let (target, headers) = head.split_once('\n').unwrap_or((head, ""));
    let mut text = format!("{target} HTTP/1.1\r\nHost: localhost:7070\r\nConnection: close\r\n");
    for header in headers.lines() {
        text += &format!("{header}\r\n");
    }
    if !body.is_empty() && !headers.contains("Transfer-Encoding") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    // The server may have said no before all of it is there.
    let _ = socket.write_all(body).await;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    got(&answer)
}

fn invocations(served: &Served) -> u64 {
    let stream = system_streams(StreamId(1)).invocations.id;
    served.log.snapshot().head(stream).records()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_sees_the_request_as_it_is() {
    let served = web(|_| {}, |_| {}).await;
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let chunked = [b"3\r\none\r\n4\r\n two\r\n0\r\n\r\n".as_slice(), b"one two"];
    for (target, more, sent, expected) in [
        (
            "/lambda-url/url/echo/a%20b?c=1&c=2",
            "",
            &body[..],
            &body[..],
        ),
        ("/lambda-url/url/echo", "", &body[..1_000], &body[..1_000]),
        ("/lambda-url/url/echo", "", b"", b""),
        (
            "/lambda-url/url/echo",
            "Transfer-Encoding: chunked\n",
            chunked[0],
            chunked[1],
        ),
    ] {
        let head = format!(
            "POST {target}\nx-two: 1\nx-two: 2\nCookie: a=1; b=2\nX-Forwarded-For: 192.0.2.1\nX-Amzn-Trace-Id: Root=1-2-3\n{more}"
        );
        let got = ask(&served, &head, sent).await;
        assert_eq!(got.status, 201, "{target}");
        assert_eq!(got.body, expected, "{target}");
        let length = got.headers["content-length"].to_str().unwrap();
        assert_eq!(length, expected.len().to_string());
        for (name, values) in [
            (
                "x-path",
                vec![target.strip_prefix("/lambda-url/url").unwrap()],
            ),
            // `POST` of the variant.
            ("x-method", vec!["2"]),
            ("x-two", vec!["1", "2"]),
            ("cookie", vec!["a=1; b=2"]),
            ("x-forwarded-for", vec!["127.0.0.1"]),
            ("x-forwarded-port", vec!["7070"]),
            ("x-amzn-trace-id", vec!["Root=1-2-3"]),
        ] {
            let found: Vec<_> = got.headers.get_all(name).iter().collect();
            assert_eq!(found, values, "{name}");
        }
        assert!(got.headers.contains_key("x-amzn-requestid"));
        assert!(got.headers.contains_key("content-security-policy"));
    }
    let got = ask(&served, "GET /lambda-url/url?a=1", b"").await;
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
    served.functions.flush().await;
    assert_eq!(invocations(&served), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_takes_nobodys_place() {
    let served = web(|deployment| deployment.concurrency = Some(1), |_| {}).await;
    let (first, last) = (vec![b'a'; 200_000], vec![b'b'; 100_000]);
    let chunk = |part: &[u8], end: &str| {
        let size = format!("{:x}\r\n", part.len());
        [size.as_bytes(), part, b"\r\n", end.as_bytes()].concat()
    };
    for (header, begun, rest) in [
        ("Content-Length: 300000", first.clone(), last.clone()),
        (
            "Transfer-Encoding: chunked",
            chunk(&first, ""),
            chunk(&last, "0\r\n\r\n"),
        ),
    ] {
        let mut slow = TcpStream::connect(served.handle.http).await.unwrap();
        let head = format!(
            "POST /lambda-url/url/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n"
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        slow.write_all(&begun).await.unwrap();
        for _ in 0..10 {
            let got = ask(&served, "GET /lambda-url/url/", b"").await;
            assert_eq!(got.status, 200, "{header}");
        }
        slow.write_all(&rest).await.unwrap();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).await.unwrap();
        let got = got(&answer);
        assert_eq!(got.status, 201, "{header}");
        assert!(got.body == [&first[..], &last[..]].concat(), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_become_events() {
    const ECHO: &str = include_str!("../../../lambic/src/bench/echo.wat");
    // With room for them.
    let code = ECHO.replace("\"memory\") 1)", "\"memory\") 100)");
    assert_ne!(code, ECHO);
    let echo = |deployment: &mut Deployment| {
        deployment.code = Code::Bytes(code.into_bytes());
    };
    let served = web(echo, |_| {}).await;
    let text = "größe ".repeat(50_000);
    for (body, expected) in [
        (text.as_bytes(), json!([text, false])),
        (&[0xff; 300_000], json!(["/".repeat(400_000), true])),
    ] {
        // The event, which it gives back, is no response by itself.
        let got = ask(
            &served,
            "POST /lambda-url/url/x\nContent-Type: text/plain\n",
            body,
        )
        .await;
        assert_eq!(got.status, 200);
        let event: Value = serde_json::from_slice(&got.body).unwrap();
        let found = json!([event["body"], event["isBase64Encoded"]]);
        assert!(found == expected, "{} bytes", body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed_both_ways() {
    let served = web(|_| {}, |url| url.is_streamed = true).await;
    let mut socket = TcpStream::connect(served.handle.http).await.unwrap();
    let head = b"POST /lambda-url/url/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    socket.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    let has = |answer: &[u8], text: &[u8]| answer.windows(text.len()).any(|part| part == text);
    // The first part comes back before the second one is sent.
    while !has(&answer, b"3\r\none\r\n") {
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
    }
    assert!(!has(&answer, b"\r\n0\r\n"));
    socket.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    while !answer.ends_with(b"3\r\ntwo\r\n0\r\n\r\n") {
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
    }
    let got = got(&answer);
    assert_eq!(got.status, 201);
    assert_eq!(got.headers["x-path"], "/echo");
    drop(socket);
    // What fails in its middle ends without an end; before it, it is a 502.
    let broken = ask(&served, "GET /lambda-url/url/partial", b"").await;
    assert_eq!(broken.status, 200);
    assert!(has(&broken.body, b"hello") && !broken.body.ends_with(b"0\r\n\r\n"));
    let large = ask(&served, "GET /lambda-url/url/big", b"").await;
    assert!(large.body.len() > 8 << 20 && large.body.ends_with(b"0\r\n\r\n"));
    for path in ["trap", "none"] {
        let failed = ask(&served, &format!("GET /lambda-url/url/{path}"), b"").await;
        assert_eq!(failed.status, 502, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_as_aws_does() {
    let short = |deployment: &mut Deployment| deployment.timeout = Duration::from_secs(2);
    let served = web(short, |_| {}).await;
    for path in ["trap", "none", "loop", "partial", "big"] {
        let got = ask(&served, &format!("GET /lambda-url/url/{path}"), b"").await;
        assert_eq!(got.status, 502, "{path}");
        assert_eq!(got.body, b"Internal Server Error", "{path}");
        assert!(got.headers.contains_key("x-amzn-requestid"));
    }
    let large = vec![b'x'; (6 << 20) + 1];
    let mut chunks = format!("{:x}\r\n", large.len()).into_bytes();
    chunks.extend_from_slice(&large);
    chunks.extend_from_slice(b"\r\n0\r\n\r\n");
    for (more, body) in [("", &large), ("Transfer-Encoding: chunked\n", &chunks)] {
        let got = ask(&served, &format!("POST /lambda-url/url/echo\n{more}"), body).await;
        assert_eq!(got.status, 413, "{more}");
        let kind = &got.headers["x-amzn-errortype"];
        assert_eq!(kind, "RequestTooLargeException");
    }
    for path in ["/lambda-url/other/", "/lambda-url/", "/lambda-url/url2"] {
        let got = ask(&served, &format!("GET {path}"), b"").await;
        assert_eq!(got.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_a_url_is_refused_before_it_runs() {
    let cors = json!({ "AllowOrigins": ["https://a.example"], "AllowMethods": ["POST"] });
    let served = web(|_| {}, |url| url.cors = Some(cors)).await;
    let asked = "OPTIONS /lambda-url/url/echo\nOrigin: https://a.example\nAccess-Control-Request-Method: POST\n";
    let got = ask(&served, asked, b"").await;
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(got.headers["access-control-allow-methods"], "POST");
    served.functions.flush().await;
    assert_eq!(invocations(&served), 0);
    let got = ask(
        &served,
        "POST /lambda-url/url/echo\nOrigin: https://a.example\n",
        b"x",
    )
    .await;
    assert_eq!((got.status, &got.body[..]), (201, &b"x"[..]));
    let origin = &got.headers["access-control-allow-origin"];
    assert_eq!(origin, "https://a.example");
    // A request with an `Origin` that may not, is answered without the header.
    let got = ask(
        &served,
        "GET /lambda-url/url/\nOrigin: https://b.example\n",
        b"",
    )
    .await;
    assert!(!got.headers.contains_key("access-control-allow-origin"));

    let called = name();
    let changed = served.functions.change(&called, |function| {
        function.forbid(&Qualifier::LATEST, "everybody", None)
    });
    changed.await.unwrap();
    let got = ask(&served, "GET /lambda-url/url/", b"").await;
    assert_eq!(got.status, 403);
    let called = name();
    let changed = served.functions.change(&called, |function| {
        function.permit(Qualifier::LATEST, statement("web"), None)?;
        let url = function
            .urls
            .get_mut(&Qualifier::LATEST)
            .expect("it is there");
        url.is_public = false;
        Ok(())
    });
    changed.await.unwrap();
    // Without keys nobody can sign.
    let got = ask(&served, "GET /lambda-url/url/", b"").await;
    assert_eq!(got.status, 403);
    served.functions.flush().await;
    assert_eq!(invocations(&served), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_leads_to_an_alias_and_its_limits() {
    let served = web(|_| {}, |_| {}).await;
    let called = name();
    let changed = served.functions.change(&called, |function| {
        function.publish(None)?;
        let first = FunctionVersion::Number(1);
        function.create_alias("live", first, String::new(), None)?;
        let live: Qualifier = "live".parse()?;
        function.urls.insert(live.clone(), open_url("live"));
        function.permit(live, statement("web:live"), None)
    });
    changed.await.unwrap();
    let later = WEB.replace("\"hello\"", "\"later\"");
    let mut deployment = Deployment::new(name(), Runtime::Wasm, Code::Bytes(later.into_bytes()));
    deployment.timeout = Duration::from_secs(60);
    served.functions.deploy(deployment).await.unwrap();
    for (id, expected) in [("url", "later"), ("live", "hello")] {
        let got = ask(&served, &format!("GET /lambda-url/{id}/"), b"").await;
        assert_eq!(String::from_utf8(got.body).unwrap(), expected);
    }
    let called = name();
    let stopped = served.functions.change(&called, |function| {
        function.info.concurrency = Some(0);
        Ok(())
    });
    stopped.await.unwrap();
    for id in ["url", "live"] {
        let got = ask(&served, &format!("GET /lambda-url/{id}/"), b"").await;
        assert_eq!(got.status, 429);
        assert_eq!(got.headers["x-amzn-errortype"], "TooManyRequestsException");
    }
}
