//! Requests to components of HTTP: what they get, what comes back, and what is kept of it as of any invocation.

mod common;

use std::time::Duration;

use common::{BOUND, ECHO, House};
use lambic_functions::{
    Chunk, Code, Deployment, Error, Event, FunctionVersion, HttpRequest, Qualifier, RequestBody,
    Runtime, Served, Url,
};
use lambic_model::{FunctionName, Outcome};
use serde_json::{Value, json};

/// What it answers stands at its top.
const WEB: &str = include_str!("../../lambic/src/bench/web.wat");

fn name(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

async fn deploy(house: &House, function: &str, code: &str, change: impl FnOnce(&mut Deployment)) {
    let code = Code::Bytes(code.as_bytes().to_vec());
    let mut deployment = Deployment::new(name(function), Runtime::Wasm, code);
    deployment.timeout = BOUND;
    change(&mut deployment);
    house.functions.deploy(deployment).await.unwrap();
}

fn request(target: &str, headers: &[(&'static str, &[u8])], body: &[u8]) -> HttpRequest {
    let mut request = HttpRequest::new(RequestBody::Whole(body.to_vec().into()));
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in headers {
        let value = (*value).try_into().unwrap();
        request.headers_mut().append(*name, value);
    }
    request
}

async fn serve_at(
    house: &House,
    qualifier: Option<Qualifier>,
    request: HttpRequest,
) -> Result<Served, Error> {
    let chosen = house.functions.choose(&name("web"), qualifier)?;
    assert!(chosen.takes_http().await?);
    let trace_id = Some("Root=1-2-3".to_owned());
    chosen.serve(request, trace_id).await
}

async fn serve(house: &House, request: HttpRequest) -> Result<Served, Error> {
    serve_at(house, None, request).await
}

fn failure(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Success(_) => None,
        Outcome::Failure { error_type, .. } => Some(error_type),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_served_and_recorded() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |_| {}).await;
    let body: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let headers: [(&str, &[u8]); 3] = [("x-two", b"1"), ("x-two", b"2"), ("x-bytes", b"\xe4")];
    let served = serve(&house, request("/echo?a=%20b", &headers, &body)).await;
    let served = served.unwrap();
    let response = served.response.unwrap();
    assert_eq!(response.status().as_u16(), 201);
    assert_eq!(response.body(), &body);
    let found = |name: &str| {
        let values = response.headers().get_all(name).iter();
        values
            .map(|value| value.as_bytes().to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(found("x-two"), [b"1", b"2"]);
    assert_eq!(found("x-bytes"), [b"\xe4"]);
    assert_eq!(found("x-path"), [b"/echo?a=%20b"]);

    let result = served.result;
    assert!(result.is_success() && !result.cold);
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows.len(), 1);
    for (column, expected) in [
        ("request_id", json!(result.request_id)),
        ("function", json!("web")),
        ("digest", json!(result.digest)),
        ("kind", json!("sync")),
        ("outcome", json!("success")),
        ("error_type", Value::Null),
        ("billed_ms", json!(result.billed_ms)),
        ("trace_id", json!("1-2-3")),
    ] {
        assert_eq!(rows[0][column], expected, "{column}");
    }
    assert!(rows[0]["memory_mb"].as_i64().unwrap() >= 1);
    let logs = house.rows("lambic_logs");
    let lines: Vec<&str> = logs
        .iter()
        .map(|row| row["line"].as_str().unwrap())
        .collect();
    let id = &result.request_id;
    assert_eq!(lines[0], format!("START RequestId: {id} Version: $LATEST"));
    assert_eq!((lines[1], &logs[1]["stream"]), ("seen", &json!("stderr")));
    assert_eq!(lines[2], format!("END RequestId: {id}"));
    assert!(lines[3].starts_with(&format!("REPORT RequestId: {id}\tDuration: ")));
    assert_eq!(lines.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_become_requests_and_their_responses_answers() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |_| {}).await;
    let body = "größe ".repeat(100_000);
    let event = json!({
        "version": "2.0", "rawPath": "/echo", "rawQueryString": "", "headers": {},
        "requestContext": { "http": { "method": "POST" } }, "body": body, "isBase64Encoded": false,
    });
    let invoked = house
        .functions
        .invoke(&name("web"), event.to_string().into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(invoked.payload()).unwrap();
    assert_eq!(answer["statusCode"], 201);
    assert!(answer["body"] == body, "{} bytes", body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_a_failure_without_a_response() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |deployment| {
        deployment.timeout = Duration::from_secs(2);
    })
    .await;
    let cases = [
        ("/trap", "Runtime.Trap"),
        ("/none", "Runtime.NoResponse"),
        ("/loop", "Sandbox.Timedout"),
        ("/partial", "Runtime.Trap"),
        ("/big", "Function.ResponseSizeTooLarge"),
    ];
    for (path, kind) in cases {
        let served = serve(&house, request(path, &[], b"")).await.unwrap();
        assert!(served.response.is_none(), "{path}");
        assert_eq!(failure(&served.result.outcome), Some(kind), "{path}");
    }
    let served = serve(&house, request("/", &[], b"")).await.unwrap();
    assert_eq!(served.response.unwrap().body(), "hello");
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    let kinds: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["error_type"].as_str())
        .collect();
    assert_eq!(kinds, cases.map(|(_, kind)| kind));
    let large = request("/", &[], &vec![0; (6 << 20) + 1]);
    let refused = serve(&house, large).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_comes_as_the_component_writes_it() {
    let house = House::open_with(|options| options.stream_bytes_max = 1 << 20).await;
    deploy(&house, "web", WEB, |_| {}).await;
    for (path, status, bytes, kind) in [
        ("/", Some(200), 5, None),
        ("/partial", Some(200), 5, Some("Runtime.Trap")),
        (
            "/big",
            Some(200),
            1 << 20,
            Some("Function.ResponseSizeTooLarge"),
        ),
        ("/trap", None, 0, Some("Runtime.Trap")),
        ("/none", None, 0, Some("Runtime.NoResponse")),
    ] {
        let chosen = house.functions.choose(&name("web"), None).unwrap();
        let streamed = chosen.serve_streamed(request(path, &[], b""), None).await;
        let mut streamed = streamed.unwrap();
        let head = streamed.head.as_ref();
        assert_eq!(head.map(|(status, _)| status.as_u16()), status, "{path}");
        let mut came = 0;
        let result = loop {
            match streamed.next().await.expect("the end is the last") {
                Chunk::Bytes(part) => came += part.len(),
                Chunk::End(result) => break result.unwrap(),
            }
        };
        assert_eq!(failure(&result.outcome), kind, "{path}");
        assert_eq!(result.request_id, streamed.request_id);
        // A part that would be too much does not come.
        assert!(came <= bytes && came + 4_096 > bytes, "{path} {came}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_let_in_as_events_are() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |deployment| {
        deployment.concurrency = Some(0)
    })
    .await;
    let refused = serve(&house, request("/", &[], b"")).await;
    assert!(matches!(refused, Err(Error::Throttled { .. })));
    let refused = house.functions.choose(&name("nobody"), None);
    assert!(matches!(refused.err(), Some(Error::NotFound { .. })));
    let gone = house.functions.choose(&name("web"), "gone".parse().ok());
    assert!(matches!(gone.err(), Some(Error::Missing { .. })));
    // One that takes events.
    deploy(&house, "echo", ECHO, |_| {}).await;
    let echo = house.functions.choose(&name("echo"), None).unwrap();
    assert!(!echo.takes_http().await.unwrap());
    let event = Event {
        payload: b"7".to_vec(),
        ..Event::default()
    };
    assert_eq!(echo.invoke(event).await.unwrap().payload(), b"7");
    let echo = house.functions.choose(&name("echo"), None).unwrap();
    let served = echo.serve(request("/", &[], b""), None).await.unwrap();
    assert_eq!(
        failure(&served.result.outcome),
        Some("Runtime.HandlerNotFound")
    );
    house.functions.close().await;
    let refused = serve(&house, request("/", &[], b"")).await;
    assert!(matches!(refused, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_lead_to_their_versions() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |_| {}).await;
    let called = name("web");
    let published = house.functions.change(&called, |function| {
        function.publish(None)?;
        let first = FunctionVersion::Number(1);
        function.create_alias("live", first, String::new(), None)?;
        Ok(())
    });
    published.await.unwrap();
    deploy(
        &house,
        "web",
        &WEB.replace("\"hello\"", "\"later\""),
        |_| {},
    )
    .await;
    for (qualifier, version, body) in [
        (None, FunctionVersion::Latest, "later"),
        (Some("live"), FunctionVersion::Number(1), "hello"),
        (Some("1"), FunctionVersion::Number(1), "hello"),
    ] {
        let parsed = qualifier.map(|qualifier: &str| qualifier.parse().unwrap());
        let served = serve_at(&house, parsed, request("/", &[], b"")).await;
        let served = served.unwrap();
        assert_eq!(served.result.version, version, "{qualifier:?}");
        assert_eq!(served.response.unwrap().body(), body, "{qualifier:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_when_its_caller_has_gone() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |deployment| {
        deployment.timeout = Duration::from_millis(200);
    })
    .await;
    let serving = serve(&house, request("/loop", &[], b""));
    let given_up = tokio::time::timeout(Duration::from_millis(20), serving).await;
    assert!(given_up.is_err());
    let rows = house.wait_for_rows("lambic_invocations", 1).await;
    assert_eq!(rows[0]["error_type"], "Sandbox.Timedout");
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_are_found_by_their_ids_as_functions_change() {
    let house = House::open().await;
    deploy(&house, "web", WEB, |_| {}).await;
    let url = |id: &str| Url {
        id: id.to_owned(),
        is_public: true,
        cors: None,
        is_streamed: false,
        created_at_us: 0,
        changed_at_us: 0,
    };
    let found = |house: &House, id: &str| {
        let endpoint = house.functions.endpoint(id)?;
        Some((endpoint.qualifier.to_string(), endpoint.url.is_streamed))
    };
    let (one, two) = (url("one"), url("two"));
    let called = name("web");
    let made = house.functions.change(&called, move |function| {
        function.publish(None)?;
        let first = FunctionVersion::Number(1);
        function.create_alias("live", first, String::new(), None)?;
        function.urls.insert(Qualifier::LATEST, one);
        function.urls.insert("live".parse()?, two);
        Ok(())
    });
    made.await.unwrap();
    let latest = Some(("$LATEST".to_owned(), false));
    assert_eq!(found(&house, "one"), latest);
    assert_eq!(found(&house, "two"), Some(("live".to_owned(), false)));
    assert_eq!(found(&house, "three"), None);
    // A deployment and a restart leave them.
    deploy(
        &house,
        "web",
        &WEB.replace("\"hello\"", "\"later\""),
        |_| {},
    )
    .await;
    assert_eq!(found(&house, "one"), latest);
    let house = house.restart().await;
    assert_eq!(found(&house, "one"), latest);
    let called = name("web");
    let changed = house.functions.change(&called, |function| {
        function.remove_alias("live");
        let url = function
            .urls
            .get_mut(&Qualifier::LATEST)
            .expect("it is there");
        url.is_streamed = true;
        Ok(())
    });
    changed.await.unwrap();
    assert_eq!(found(&house, "one"), Some(("$LATEST".to_owned(), true)));
    assert_eq!(found(&house, "two"), None);
    house.functions.remove(&name("web")).await.unwrap();
    assert_eq!(found(&house, "one"), None);
}
