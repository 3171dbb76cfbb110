//! Components with `wasi:http/incoming-handler`: some that behave, and many that do not.

mod components;

use bytes::Bytes;
use components::{LIMITS, SHORT, error, http, invoke, lines, load, result};
use hyper::{Request, Response, StatusCode};
use lambic_sandbox::{
    Execution,
    process::{StreamPart, StreamSink},
    wasm::{BodyCut, Limits, Module, RequestBody, Served, World},
};
use tokio::sync::mpsc;

async fn serve(module: &Module, request: Request<&'static str>, limits: Limits) -> Served {
    let request = request.map(|body| Bytes::from_static(body.as_bytes()).into());
    module.serve("id", request, &[], limits, None).await
}

/// A response as it came: status, headers of the name `x-many`, body, and what became of it all.
async fn streamed(
    module: &Module,
    request: Request<RequestBody>,
    limits: Limits,
    bytes_max: usize,
) -> (Option<(StatusCode, usize)>, Vec<u8>, Execution) {
    let (parts, mut came) = mpsc::channel(1);
    let sink = StreamSink { parts, bytes_max };
    let (mut head, mut body) = (None, Vec::new());
    let take = async {
        while let Some(part) = came.recv().await {
            match part {
                StreamPart::Head(status, headers) => {
                    assert!(!headers.contains_key("content-length"));
                    head = Some((status, headers.get_all("x-many").iter().count()));
                }
                StreamPart::Bytes(part) => body.extend(part),
                StreamPart::ContentType(_) => panic!("it is not a process"),
            }
        }
    };
    let serve = module.serve("id", request, &[], limits, Some(sink));
    let (served, ()) = tokio::join!(serve, take);
    assert!(served.response.is_none(), "it was passed on");
    (head, body, served.execution)
}

/// A body of which parts come one after the other.
struct Parts(Vec<Result<&'static str, BodyCut>>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, BodyCut>>> {
        // Each is waited for once: empty ones stand for that.
        match self.0.pop() {
            Some(Ok("")) => {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
            part => std::task::Poll::Ready(part.map(|part| {
                part.map(|part| hyper::body::Frame::data(Bytes::from_static(part.as_bytes())))
            })),
        }
    }
}

fn coming(parts: &[Result<&'static str, BodyCut>]) -> Request<RequestBody> {
    let parts = parts.iter().rev().copied().collect();
    let body = RequestBody::coming(Parts(parts));
    Request::post("/").body(body).unwrap()
}

fn get(path: &str) -> Request<&'static str> {
    Request::get(path).body("").unwrap()
}

/// Of one that behaves.
fn response(served: &Served) -> &Response<Bytes> {
    served
        .response
        .as_ref()
        .unwrap_or_else(|| panic!("no response: {:?}", served.execution))
}

async fn failed(body: &str, limits: Limits) -> Execution {
    let module = load(&http("", body)).unwrap();
    let served = serve(&module, get("/"), limits).await;
    assert!(served.response.is_none(), "{:?}", served.response);
    served.execution
}

/// Answers with the path, or with the body if there is one.
fn echo() -> Vec<u8> {
    http(
        r#"(data (i32.const 128) "x-many") (data (i32.const 144) "ab") (data (i32.const 160) "set-cookie")"#,
        "(call $header (i32.const 128) (i32.const 6) (i32.const 144) (i32.const 1))
         (call $header (i32.const 128) (i32.const 6) (i32.const 145) (i32.const 1))
         (call $header (i32.const 160) (i32.const 10) (i32.const 144) (i32.const 2))
         (call $read-body (local.get $request))
         (if (i32.eqz (i32.load (i32.const 68)))
           (then
             (call $path (local.get $request) (i32.const 0))
             (i32.store (i32.const 64) (i32.load (i32.const 4)))
             (i32.store (i32.const 68) (i32.load (i32.const 8)))))
         (call $respond (local.get $outparam) (i32.const 201)
           (i32.load (i32.const 64)) (i32.load (i32.const 68)))",
    )
}

#[tokio::test]
async fn requests_get_responses() {
    let module = load(&echo()).unwrap();
    assert_eq!(module.world(), Some(World::Http));
    assert!(module.is_handler());
    for (request, body) in [
        (get("/a/b%20c?d=e"), "/a/b%20c?d=e"),
        (get("http://example.com"), "/"),
        (
            Request::post("/")
                .header("connection", "keep-alive")
                .body("größe")
                .unwrap(),
            "größe",
        ),
    ] {
        let served = serve(&module, request, LIMITS).await;
        let response = response(&served);
        assert_eq!(response.status(), 201);
        assert_eq!(response.body(), body);
        let many: Vec<_> = response.headers().get_all("x-many").iter().collect();
        assert_eq!(many, ["a", "b"]);
        assert!(served.execution.memory_peak_bytes >= 64 << 10);
    }
}

#[tokio::test]
async fn a_request_names_a_host() {
    let code = http(
        "",
        "(call $authority (local.get $request) (i32.const 0))
         (call $respond (local.get $outparam) (i32.const 200) (i32.load (i32.const 4)) (i32.load (i32.const 8)))",
    );
    let module = load(&code).unwrap();
    for (request, host) in [
        (get("/"), "localhost"),
        (get("http://example.com:81/"), "example.com:81"),
        (
            Request::get("/")
                .header("host", "f.example")
                .body("")
                .unwrap(),
            "f.example",
        ),
    ] {
        let served = serve(&module, request, LIMITS).await;
        assert_eq!(response(&served).body(), host);
    }
}

#[tokio::test]
async fn events_of_aws_are_requests() {
    let module = load(&echo()).unwrap();
    let event = r#"{"version": "2.0", "rawPath": "/p", "rawQueryString": "q=1", "headers": {"host": "h"},
        "requestContext": {"http": {"method": "GET"}}}"#;
    assert_eq!(
        result(&invoke(&module, event, LIMITS).await),
        r#"{"statusCode":201,"headers":{"x-many":"a,b"},"cookies":["ab"],"body":"/p?q=1","isBase64Encoded":false}"#
    );
    assert_eq!(
        result(&invoke(&module, r#"{"any": "thing"}"#, LIMITS).await),
        r#"{"any": "thing"}"#
    );
    let bad = event.replace("/p", "p");
    assert_eq!(
        error(&invoke(&module, &bad, LIMITS).await).0,
        "Runtime.UnmarshalError"
    );
    let execution = module.invoke("id", b"\"\xff\"", &[], LIMITS).await;
    assert_eq!(error(&execution).0, "Runtime.UnmarshalError");
    // One that is read on a thread of its own fails as well.
    let body = "x".repeat(1 << 20);
    let large = bad.replace("\"version\"", &format!("\"body\": \"{body}\", \"version\""));
    assert_eq!(
        error(&invoke(&module, &large, LIMITS).await).0,
        "Runtime.UnmarshalError"
    );
}

#[tokio::test]
async fn every_request_has_a_fresh_instance() {
    let code = http(
        "(global $calls (mut i32) (i32.const 48))",
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (i32.store8 (i32.const 128) (global.get $calls))
         (call $respond (local.get $outparam) (i32.const 200) (i32.const 128) (i32.const 1))",
    );
    let module = load(&code).unwrap();
    for _ in 0..3 {
        let served = serve(&module, get("/"), LIMITS).await;
        assert_eq!(response(&served).body(), "1");
    }
}

#[tokio::test]
async fn a_body_may_come_late_and_in_parts() {
    // More than the host keeps of a body, in one go; and something to do afterwards.
    let code = http(
        "",
        "(drop (memory.grow (i32.const 32)))
         (memory.fill (i32.const 8192) (i32.const 97) (i32.const 1000000))
         (local.set $body (call $answer (local.get $outparam) (i32.const 200)))
         (loop
           (call $put (global.get $stream) (i32.const 8192) (i32.const 1000000))
           (local.set $count (i32.add (local.get $count) (i32.const 1)))
           (br_if 0 (i32.lt_u (local.get $count) (i32.const 6))))
         (call $finish (local.get $body))
         (loop
           (local.set $count (i32.add (local.get $count) (i32.const 1)))
           (br_if 0 (i32.lt_u (local.get $count) (i32.const 1000000))))",
    );
    let module = load(&code).unwrap();
    let served = serve(&module, get("/"), LIMITS).await;
    assert_eq!(response(&served).body().len(), 6_000_000);
    assert!(response(&served).body().iter().all(|&byte| byte == b'a'));
}

#[tokio::test]
async fn a_response_that_is_whole_stands_whatever_comes_after() {
    for (end, note) in [
        (
            "(unreachable)",
            r#"after its response: {"errorMessage":"RequestId: id Error: wasm trap: wasm `unreachable` instruction executed","errorType":"Runtime.Trap"}"#,
        ),
        (
            "(loop (br 0))",
            r#"after its response: {"errorMessage":"RequestId: id Error: Task timed out after 0.30 seconds","errorType":"Sandbox.Timedout"}"#,
        ),
    ] {
        let respond =
            "(call $respond (local.get $outparam) (i32.const 200) (i32.const 0) (i32.const 3))";
        let module = load(&http("", &format!("{respond} {end}"))).unwrap();
        let served = serve(&module, get("/"), SHORT).await;
        assert_eq!(response(&served).body().len(), 3);
        assert_eq!(lines(&served.execution), [note]);
    }
}

#[tokio::test]
async fn no_whole_response_is_a_failure_that_says_why() {
    let answer = "(local.set $body (call $answer (local.get $outparam) (i32.const 200)))";
    let put = "(call $put (global.get $stream) (i32.const 0) (i32.const 3))";
    let says = |length: &str| {
        format!(
            r#"(i64.store (i32.const 256) (i64.const 0x2d746e65746e6f63)) (i64.store (i32.const 264) (i64.const 0x6874676e656c))
             (i32.store8 (i32.const 272) (i32.const {length}))
             (call $header (i32.const 256) (i32.const 14) (i32.const 272) (i32.const 1))"#
        )
    };
    for (body, kind, message) in [
        (
            String::new(),
            "Runtime.NoResponse",
            "the handler returned without a response; it must set its `response-outparam`",
        ),
        (
            "(call $drop-outparam (local.get $outparam))".to_owned(),
            "Runtime.NoResponse",
            "the handler returned without a response; it must set its `response-outparam`",
        ),
        (
            "(unreachable)".to_owned(),
            "Runtime.Trap",
            "wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            format!("{answer} {put} (unreachable)"),
            "Runtime.Trap",
            "wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            "(call $set (local.get $outparam) (i32.const 1) (i32.const 35)
               (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"
                .to_owned(),
            "HandlerError",
            "the handler failed: ErrorCode::HttpProtocolError",
        ),
        (
            format!("{answer} {put}"),
            "Runtime.TruncatedResponse",
            "the handler returned before it finished its response's body",
        ),
        (
            format!("{answer} {put} (call $drop-output (global.get $stream)) (call $drop-body (local.get $body))"),
            "Runtime.TruncatedResponse",
            "the handler gave up its response's body before it was finished, or wrote another length than it had said",
        ),
        (
            format!("{} {answer} {put} (call $finish (local.get $body))", says("52")),
            "Runtime.TruncatedResponse",
            "the handler gave up its response's body before it was finished, or wrote another length than it had said",
        ),
        (
            format!("{} {answer} {put} (call $finish (local.get $body))", says("50")),
            "Runtime.TruncatedResponse",
            "the handler gave up its response's body before it was finished, or wrote another length than it had said",
        ),
        (
            // With no body at all.
            format!(
                "{} (local.set $body (call $new-response (global.get $fields)))
                 (call $set (local.get $outparam) (i32.const 0) (local.get $body)
                   (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
                says("52")
            ),
            "Runtime.TruncatedResponse",
            "the response says that it has 4 bytes and has 0",
        ),
        (
            "(call $respond (local.get $outparam) (i32.const 103) (i32.const 0) (i32.const 3))".to_owned(),
            "Runtime.TruncatedResponse",
            "103 Early Hints cannot be the status of a response",
        ),
    ] {
        let execution = failed(&body, LIMITS).await;
        let expected = (kind.to_owned(), format!("RequestId: id Error: {message}"));
        assert_eq!(error(&execution), expected, "{body}");
    }
    let whole = format!(
        "{} {answer} {put} (call $finish (local.get $body))",
        says("51")
    );
    let module = load(&http("", &whole)).unwrap();
    let served = serve(&module, get("/"), LIMITS).await;
    assert_eq!(response(&served).body().len(), 3);
    assert_eq!(response(&served).headers().get("content-length"), None);
}

#[tokio::test]
async fn attacks_end_as_failures() {
    let answer = "(local.set $body (call $answer (local.get $outparam) (i32.const 200)))";
    for (body, limits, kind) in [
        ("(loop (br 0))".to_owned(), SHORT, "Sandbox.Timedout"),
        (
            format!("{answer} (loop (br 0))"),
            SHORT,
            "Sandbox.Timedout",
        ),
        (
            "(loop (drop (memory.grow (i32.const 16))) (br 0))".to_owned(),
            LIMITS,
            "Runtime.OutOfMemory",
        ),
        (
            format!("{answer} (loop (call $put (global.get $stream) (i32.const 0) (i32.const 4096)) (br 0))"),
            LIMITS,
            "Function.ResponseSizeTooLarge",
        ),
        // Ever more of the host's memory: sets of headers, one header that grows, responses with bodies.
        (
            "(loop (drop (call $new-fields)) (br 0))".to_owned(),
            LIMITS,
            "Runtime.Trap",
        ),
        (
            "(i32.store8 (i32.const 128) (i32.const 97))
             (loop (call $header (i32.const 128) (i32.const 1) (i32.const 2048) (i32.const 0)) (br 0))".to_owned(),
            LIMITS,
            "Runtime.Trap",
        ),
        (
            "(loop (call $new-body (call $new-response (call $new-fields)) (i32.const 0)) (br 0))".to_owned(),
            LIMITS,
            "Runtime.Trap",
        ),
        // A string that is none, and one that is not there.
        (
            "(i32.store8 (i32.const 128) (i32.const 255))
             (call $header (i32.const 128) (i32.const 1) (i32.const 128) (i32.const 1))".to_owned(),
            LIMITS,
            "Runtime.Trap",
        ),
        (
            "(call $header (i32.const -16) (i32.const 100) (i32.const 128) (i32.const 1))".to_owned(),
            LIMITS,
            "Runtime.Trap",
        ),
    ] {
        let execution = failed(&body, limits).await;
        assert_eq!(error(&execution).0, kind, "{body} {:?}", error(&execution));
    }
}

#[tokio::test]
async fn what_is_no_component_of_http_serves_no_request() {
    let module = load(&components::command("", "(i32.const 0)")).unwrap();
    let served = serve(&module, get("/"), LIMITS).await;
    assert!(served.response.is_none());
    assert_eq!(error(&served.execution).0, "Runtime.HandlerNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_and_go_in_parts() {
    let module = load(&echo()).unwrap();
    for (parts, expected) in [
        // Eight bytes: `$read` shows what aligns them, too.
        (&[Ok("one and "), Ok(""), Ok("two")][..], "one and two"),
        (&[Ok(""), Ok("late")], "late"),
        // What was read before it broke off.
        (&[Ok("one "), Err(BodyCut::BrokenOff)], "one "),
        (&[Ok("one "), Err(BodyCut::TooLarge)], "one "),
        (&[Err(BodyCut::Stalled)], "/"),
    ] {
        let (head, body, execution) = streamed(&module, coming(parts), LIMITS, 1 << 20).await;
        assert_eq!(head, Some((StatusCode::CREATED, 2)), "{execution:?}");
        assert_eq!(body, expected.as_bytes());
        assert_eq!(result(&execution), "");
        // The same, taken whole.
        let served = module.serve("id", coming(parts), &[], LIMITS, None).await;
        assert_eq!(response(&served).body(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_passed_on_fails_in_its_middle() {
    let answer = "(local.set $body (call $answer (local.get $outparam) (i32.const 200)))";
    let put = "(call $put (global.get $stream) (i32.const 0) (i32.const 3))";
    let finish = "(call $finish (local.get $body))";
    for (body, limits, bytes_max, came, kind) in [
        (
            format!("{answer} {put} (unreachable)"),
            LIMITS,
            9,
            Some(3),
            "Runtime.Trap",
        ),
        (
            format!("{answer} {put}"),
            LIMITS,
            9,
            Some(3),
            "Runtime.TruncatedResponse",
        ),
        (
            format!("{answer} {put} (loop (br 0))"),
            SHORT,
            9,
            Some(3),
            "Sandbox.Timedout",
        ),
        (
            format!("{answer} {put} {put} {put} {put} {finish}"),
            LIMITS,
            9,
            Some(9),
            "Function.ResponseSizeTooLarge",
        ),
        ("(unreachable)".to_owned(), LIMITS, 9, None, "Runtime.Trap"),
        (String::new(), LIMITS, 9, None, "Runtime.NoResponse"),
    ] {
        let module = load(&http("", &body)).unwrap();
        let request = get("/").map(|_| Bytes::new().into());
        let (head, bytes, execution) = streamed(&module, request, limits, bytes_max).await;
        let found = head.map(|_| bytes.len());
        assert_eq!(found, came, "{body}");
        assert_eq!(error(&execution).0, kind, "{body}");
    }
    // Nobody takes it: the handler does not wait.
    let many = format!("{answer} {put} {put} {put} {put} {finish}");
    let module = load(&http("", &many)).unwrap();
    let (parts, came) = mpsc::channel(1);
    drop(came);
    let sink = StreamSink {
        parts,
        bytes_max: 1 << 20,
    };
    let request = get("/").map(|_| Bytes::new().into());
    let served = module.serve("id", request, &[], LIMITS, Some(sink)).await;
    assert_eq!(result(&served.execution), "");
}

#[tokio::test]
async fn what_takes_long_does_not_keep_the_thread_that_asks() {
    let module = load(&http("", "(loop (br 0))")).unwrap();
    // There is one thread: whatever else has something to do has it in between.
    let other = async {
        for _ in 0..10 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let serving = serve(&module, get("/"), SHORT);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => panic!("it was alone: {served:?}"),
        () = other => {}
    }
    assert_eq!(error(&serving.await.execution).0, "Sandbox.Timedout");
}
