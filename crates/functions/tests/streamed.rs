//! Responses that callers get as they come, and what is kept of an invocation.

mod common;

use arrow::array::new_null_array;
use common::{BOUND, ECHO, House, folder, name};
use lambic_functions::{
    Chunk, Code, Deployment, Error, Event, InvokeResult, Runtime, Streamed, system_streams,
};
use lambic_model::{Outcome, StreamId};
use serde_json::json;

const STREAMING: &[u8] =
    b"exports.handler = awslambda.streamifyResponse(async (event, stream) => {\n\
    if (event === 'early') throw new RangeError('early');\n\
    stream.setContentType('text/plain');\n\
    stream.write('one ');\n\
    if (event === 'late') throw new RangeError('late');\n\
    await new Promise((resolve) => setTimeout(resolve, 5));\n\
    stream.write('two');\n\
    stream.end();\n\
    });\n";

async fn deploy(house: &House, function: &str, runtime: Runtime, file: &str, source: &[u8]) {
    let code = folder(&[(file, source)]);
    let code = Code::Folder(code.path().to_owned());
    let mut deployment = Deployment::new(name(function), runtime, code);
    deployment.timeout = BOUND;
    house.functions.deploy(deployment).await.unwrap();
}

async fn invoke(house: &House, function: &str, payload: &str) -> Result<Streamed, Error> {
    let event = Event {
        payload: payload.as_bytes().to_vec(),
        trace_id: Some("Root=1-2-3;Parent=4;Sampled=1".to_owned()),
        ..Event::default()
    };
    let functions = &house.functions;
    functions
        .invoke_streamed(&name(function), None, event)
        .await
}

/// The bytes that came, in how many pieces, and the end.
async fn all(mut streamed: Streamed) -> (String, usize, InvokeResult) {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    loop {
        match streamed.next().await.expect("the end is the last") {
            Chunk::Bytes(more) => {
                bytes.extend(more);
                pieces += 1;
            }
            Chunk::End(result) => {
                assert!(streamed.next().await.is_none());
                return (String::from_utf8(bytes).unwrap(), pieces, *result.unwrap());
            }
        }
    }
}

fn failure(result: &InvokeResult) -> Option<&str> {
    match &result.outcome {
        Outcome::Success(_) => None,
        Outcome::Failure { error_type, .. } => Some(error_type),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_as_the_function_writes_them() {
    let house = House::open().await;
    deploy(&house, "node", Runtime::Node, "index.js", STREAMING).await;
    for (event, content_type, bytes, kind) in [
        ("\"plain\"", Some("text/plain"), "one two", None),
        ("\"late\"", Some("text/plain"), "one ", Some("RangeError")),
        ("\"early\"", None, "", Some("RangeError")),
    ] {
        let streamed = invoke(&house, "node", event).await.unwrap();
        assert_eq!(streamed.content_type.as_deref(), content_type, "{event}");
        let id = streamed.request_id.clone();
        let (found, _, result) = all(streamed).await;
        assert_eq!((found.as_str(), failure(&result)), (bytes, kind), "{event}");
        assert_eq!(result.request_id, id);
        assert!(result.log_tail.contains(&format!("END RequestId: {id}")));
    }
    // Whoever has gone does not keep it from its end.
    drop(invoke(&house, "node", "\"plain\"").await.unwrap());
    let rows = house.wait_for_rows("lambic_invocations", 4).await;
    assert_eq!(rows[3]["outcome"], "success");
    assert_eq!(rows[3]["trace_id"], "1-2-3");
    assert!(rows[3]["overhead_ms"].as_f64().unwrap() >= 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_stream_comes_in_one_piece() {
    let house = House::open().await;
    deploy(&house, "wasm", Runtime::Wasm, "echo.wasm", ECHO.as_bytes()).await;
    let source = "def handler(event, context):\n    return event['x']\n";
    house.deploy_python("python", source).await;
    for (function, event, response, kind) in [
        ("wasm", "{\"x\": 7}", "{\"x\": 7}", None),
        ("python", "{\"x\": 7}", "7", None),
        ("python", "{}", "", Some("KeyError")),
    ] {
        let streamed = invoke(&house, function, event).await.unwrap();
        assert_eq!(streamed.content_type, None, "{function}");
        let (found, pieces, result) = all(streamed).await;
        assert_eq!((found.as_str(), failure(&result)), (response, kind));
        assert_eq!(pieces, usize::from(kind.is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_run_is_an_error() {
    let house = House::open().await;
    let refused = invoke(&house, "nobody", "{}").await;
    assert!(matches!(refused, Err(Error::NotFound { .. })));
    let source = "def handler(event, context):\n    return 1\n";
    let mut deployment = house.python("none", source).await;
    deployment.concurrency = Some(0);
    house.functions.deploy(deployment).await.unwrap();
    let refused = invoke(&house, "none", "{}").await;
    assert!(matches!(refused, Err(Error::Throttled { .. })));
    let refused = invoke(&house, "none", "{").await;
    assert!(matches!(refused, Err(Error::PayloadNotJson { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_response_ends_at_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open_in_with(dir, |options| options.stream_bytes_max = 5).await;
    deploy(&house, "node", Runtime::Node, "index.js", STREAMING).await;
    let (found, _, result) = all(invoke(&house, "node", "1").await.unwrap()).await;
    assert_eq!(found, "one ");
    assert_eq!(failure(&result), Some("Function.ResponseSizeTooLarge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_server_before_later_columns_are_read() {
    let now = system_streams(StreamId(1)).invocations;
    let dir = common::of_an_older_server(&now, 14, |schema| {
        let fields = schema.fields().iter();
        fields
            .map(|field| new_null_array(field.data_type(), 1))
            .collect()
    })
    .await;

    let house = House::open_in(dir).await;
    let source = "def handler(event, context):\n    return 1\n";
    house.deploy_python("one", source).await;
    house.invoke("one", "{}").await;
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows[0]["trace_id"], json!(null));
    assert_eq!(rows[1]["function"], "one");
    assert!(rows[1]["overhead_ms"].is_f64());
}
