//! Node functions that behave and fail, in real processes.

mod common;

use bytes::Bytes;
use common::{LONG, answer, code, error, failed_start, invocation, node_spec, start, texts};
use lambic_model::Outcome;
use lambic_sandbox::{
    Execution,
    process::{Environment, Invocation, Spare, StreamPart, StreamSink},
};

#[tokio::test]
async fn handlers_of_all_kinds_answer() {
    let files = [
        (
            "index.js",
            "exports.handler = async (event, context) => ({ x: event.x + 1, id: context.awsRequestId });",
        ),
        (
            "esm.mjs",
            "const one = await Promise.resolve(1); export const handler = async (event) => event.x + one;",
        ),
        ("common.cjs", "exports.handler = async (event) => event.x;"),
        (
            "src/app.js",
            "exports.deep = { handler: (event, context, callback) => setTimeout(() => callback(null, event.x), 5) };",
        ),
        ("module/package.json", "{\"type\": \"module\"}"),
        (
            "module/app.js",
            "import path from 'node:path'; export function handler() { return Promise.resolve(path.basename('/a/b')); }",
        ),
        (
            "early.js",
            "exports.handler = (event, context, callback) => {\n\
             context.callbackWaitsForEmptyEventLoop = false;\n\
             setTimeout(() => {}, 1e9);\n\
             callback(null, 'early'); };",
        ),
        (
            "waits.js",
            "exports.handler = (event, context, callback) => {\n\
             const answer = { ticks: 0 };\n\
             setTimeout(() => { answer.ticks = 1; }, 20);\n\
             callback(null, answer); };",
        ),
        ("silent.js", "exports.handler = () => 7;"),
        (
            "legacy.js",
            "exports.handler = (event, context) => context.succeed('done');",
        ),
        (
            "node_modules/dep/index.js",
            "module.exports = { handler: async () => 'dependency' };",
        ),
        ("uses.js", "exports.handler = require('dep').handler;"),
    ];
    let code = code(&files);
    for (handler, expected) in [
        ("index.handler", serde_json::json!({"x": 42, "id": "id"})),
        ("esm.handler", 42.into()),
        ("common.handler", 41.into()),
        ("src/app.deep.handler", 41.into()),
        ("module/app.handler", "b".into()),
        ("early.handler", "early".into()),
        ("waits.handler", serde_json::json!({"ticks": 1})),
        ("silent.handler", serde_json::Value::Null),
        ("legacy.handler", "done".into()),
        ("uses.handler", "dependency".into()),
    ] {
        let mut environment = start(node_spec(code.path(), handler).await).await;
        for _ in 0..2 {
            let execution = environment.invoke(invocation(br#"{"x": 41}"#, LONG)).await;
            assert_eq!(answer(&execution), expected, "{handler}");
            assert!(execution.reusable, "{handler}");
        }
    }
}

#[tokio::test]
async fn the_context_and_the_environment_are_those_of_aws() {
    let code = code(&[(
        "index.js",
        "let count = 0;\n\
         exports.handler = async (event, context) => {\n\
         \x20 count += 1;\n\
         \x20 const left = context.getRemainingTimeInMillis();\n\
         \x20 const { getRemainingTimeInMillis, logStreamName, ...rest } = context;\n\
         \x20 for (const legacy of ['done', 'succeed', 'fail']) delete rest[legacy];\n\
         \x20 return { count, left: left > 0 && left <= 60000, stream: /^\\d{4}\\/\\d\\d\\/\\d\\d\\/\\[7\\][0-9a-f]{32}$/.test(logStreamName),\n\
         \x20   rest, engine: process.env.AWS_EXECUTION_ENV, colour: process.env.COLOUR, region: process.env.AWS_REGION,\n\
         \x20   trace: process.env._X_AMZN_TRACE_ID ?? null };\n\
         };",
    )]);
    let mut environment = start(node_spec(code.path(), "index.handler").await).await;
    for count in 1..=2 {
        let said = count == 1;
        let text = |text: &str| if said { text.to_owned() } else { String::new() };
        let execution = environment
            .invoke(Invocation {
                function_arn: text("arn:aws:lambda:local:000000000000:function:probe:live"),
                trace_id: text("Root=1-2-3;Sampled=1"),
                client_context: text("{\"custom\":\n{\"grüße\": 1}}"),
                cognito_identity: text("{\"cognitoIdentityId\": \"me\"}"),
                payload: Bytes::from_static(b"{}"),
                ..invocation(b"", LONG)
            })
            .await;
        let mut rest = serde_json::json!({"callbackWaitsForEmptyEventLoop": true, "awsRequestId": "id",
            "invokedFunctionArn": "arn:aws:lambda:local:000000000000:function:probe", "functionName": "probe",
            "functionVersion": "7", "memoryLimitInMB": "128", "logGroupName": "/aws/lambda/probe"});
        if said {
            rest["invokedFunctionArn"] =
                "arn:aws:lambda:local:000000000000:function:probe:live".into();
            rest["clientContext"] = serde_json::json!({"custom": {"grüße": 1}});
            rest["identity"] = serde_json::json!({"cognitoIdentityId": "me"});
        }
        let mut found = answer(&execution);
        let engine = found["engine"].take();
        assert!(
            engine.as_str().unwrap().starts_with("AWS_Lambda_nodejs"),
            "{engine}"
        );
        assert_eq!(
            found,
            serde_json::json!({"count": count, "left": true, "stream": true, "rest": rest, "engine": null,
                "colour": "amber", "region": "eu-north-1",
                "trace": if said { "Root=1-2-3;Sampled=1".into() } else { serde_json::Value::Null }})
        );
    }
}

#[tokio::test]
async fn failed_starts_have_the_shape_of_aws() {
    for (source, handler, kind, message) in [
        (
            "",
            "index",
            "Runtime.MalformedHandlerName",
            "Bad handler 'index': write file.function",
        ),
        (
            "",
            "none.handler",
            "Runtime.ImportModuleError",
            "Error: Cannot find module 'none'",
        ),
        (
            "require('left-out');",
            "index.handler",
            "Runtime.ImportModuleError",
            "Error: Cannot find module 'left-out'",
        ),
        (
            "",
            "index.handler",
            "Runtime.HandlerNotFound",
            "index.handler is undefined or not exported",
        ),
        (
            "exports.handler = 1;",
            "index.handler",
            "Runtime.HandlerNotFound",
            "index.handler is not a function",
        ),
        (
            "exports.handler = (",
            "index.handler",
            "Runtime.UserCodeSyntaxError",
            "SyntaxError: ",
        ),
        (
            "throw new TypeError('no good');",
            "index.handler",
            "TypeError",
            "no good",
        ),
        (
            "process.exit(3);",
            "index.handler",
            "Runtime.ExitError",
            "RequestId: init Error: Runtime exited with error: exit status 3",
        ),
    ] {
        let code = code(&[("index.js", source)]);
        let failed = failed_start(node_spec(code.path(), handler).await).await;
        let (found, said) = error(&failed.outcome);
        assert_eq!(found, kind, "{said}");
        assert!(said.starts_with(message), "{said}");
    }
}

#[tokio::test]
async fn failed_invocations_have_the_shape_of_aws() {
    let code = code(&[(
        "index.js",
        "exports.handler = (event, context, callback) => {\n\
         \x20 switch (event) {\n\
         \x20   case 'throw': throw new RangeError('no good');\n\
         \x20   case 'half': throw new RangeError('no \\ud83d');\n\
         \x20   case 'reject': return Promise.reject(new RangeError('no good'));\n\
         \x20   case 'text': return Promise.reject('a text');\n\
         \x20   case 'callback': return void callback(new RangeError('no good'));\n\
         \x20   case 'cycle': { const a = {}; a.a = a; return Promise.resolve(a); }\n\
         \x20   case 'large': return Promise.resolve('x'.repeat(6_300_000));\n\
         \x20   case 'fine': return Promise.resolve();\n\
         \x20   case 'unhandled': Promise.reject(new Error('forgotten')); return new Promise(() => {});\n\
         \x20   case 'uncaught': setTimeout(() => { throw new RangeError('late'); }, 1); return new Promise(() => {});\n\
         \x20   case 'unsettled': return new Promise(() => {});\n\
         \x20 }\n\
         };",
    )]);
    let mut environment = start(node_spec(code.path(), "index.handler").await).await;
    for (event, kind, message) in [
        ("throw", "RangeError", "no good"),
        ("half", "RangeError", "no \u{fffd}"),
        ("reject", "RangeError", "no good"),
        ("text", "string", "a text"),
        ("callback", "RangeError", "no good"),
        (
            "cycle",
            "Runtime.MarshalError",
            "Unable to marshal response: Converting circular structure to JSON",
        ),
        (
            "large",
            "Function.ResponseSizeTooLarge",
            "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        ),
    ] {
        let payload = serde_json::to_vec(event).unwrap();
        let execution = environment.invoke(invocation(&payload, LONG)).await;
        let (found, said) = error(&execution.outcome);
        assert_eq!(found, kind, "{said}");
        assert!(said.starts_with(message), "{said}");
        assert!(execution.reusable, "{event}");
    }
    let execution = environment.invoke(invocation(b"\"fine\"", LONG)).await;
    assert_eq!(answer(&execution), serde_json::Value::Null);
    for (event, kind, message) in [
        (
            "unhandled",
            "Runtime.UnhandledPromiseRejection",
            "Error: forgotten",
        ),
        ("uncaught", "RangeError", "late"),
        (
            "unsettled",
            "Runtime.NodeJsExit",
            "The event loop is empty, but the handler's promise is not settled",
        ),
    ] {
        let mut environment = start(node_spec(code.path(), "index.handler").await).await;
        let payload = serde_json::to_vec(event).unwrap();
        let execution = environment.invoke(invocation(&payload, LONG)).await;
        let (found, said) = error(&execution.outcome);
        assert_eq!(found, kind, "{said}");
        assert!(said.starts_with(message), "{said}");
        let Outcome::Failure { payload, .. } = &execution.outcome else {
            unreachable!()
        };
        let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
        assert!(payload["trace"].is_array(), "{payload}");
        // It is about to exit: another event would end with it.
        assert!(!execution.reusable, "{event}");
    }
}

#[tokio::test]
async fn a_log_entry_is_a_line_with_its_request() {
    let code = code(&[(
        "index.js",
        "console.log('at start');\n\
         exports.handler = async (event) => { console.warn('two\\nlines %d', 5); process.stdout.write('raw\\n'); };",
    )]);
    let mut environment = start(node_spec(code.path(), "index.handler").await).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    answer(&execution);
    let lines = texts(&execution.lines);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let (_, rest) = lines[0].split_once('\t').unwrap();
    assert_eq!(rest, "undefined\tINFO\tat start");
    let (_, rest) = lines[1].split_once('\t').unwrap();
    assert_eq!(rest, "id\tWARN\ttwo\rlines 5");
    assert_eq!(lines[2], "raw");
}

/// `LoggingConfig` with the format `JSON`.
#[tokio::test]
async fn a_log_entry_is_an_object_where_the_function_wants_it() {
    let code = code(&[(
        "index.js",
        "exports.handler = async (event) => {\n\
         console.debug('not this');\n\
         console.log('two\\nlines %d', 5);\n\
         console.info({ a: 1 });\n\
         console.warn('why', new RangeError('caught'));\n\
         console.table([{ a: 1 }]);\n\
         console.fatal('last');\n\
         throw new TypeError('no'); };",
    )]);
    let mut spec = node_spec(code.path(), "index.handler").await;
    for (name, value) in [
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
    ] {
        let variable = (name.to_owned(), value.to_owned());
        spec.environment_reserved.push(variable);
    }
    let mut environment = start(spec).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(error(&execution.outcome).0, "TypeError");
    let lines: Vec<serde_json::Value> = texts(&execution.lines)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let [text, object, warning, table, last, failed] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(text["message"], "two\nlines 5");
    assert_eq!(text["level"], "INFO");
    assert_eq!(text["requestId"], "id");
    assert_eq!(object["message"]["a"], 1);
    assert_eq!(warning["errorType"], "RangeError");
    assert_eq!(warning["errorMessage"], "caught");
    assert!(table["message"].as_str().unwrap().contains('\n'));
    assert_eq!(last["level"], "FATAL");
    assert_eq!(failed["level"], "ERROR");
    assert_eq!(failed["message"]["errorType"], "TypeError");
    environment.kill().await;
}

const STREAMING: &str = r#"
    const { Readable } = require('stream');
    const { pipeline } = require('stream/promises');
    const soon = () => new Promise((resolve) => setTimeout(resolve, 5));
    exports.handler = awslambda.streamifyResponse(async (event, stream) => {
        if (event === 'early') throw new RangeError('early');
        if (event.startsWith('http')) stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201 });
        switch (event) {
            case 'http-early': throw new RangeError('early');
            case 'http-empty': return void stream.end();
            case 'json': return void stream.end(JSON.stringify({ a: 1 }));
            case 'object': stream.write({ a: 1 }); return void stream.end();
            case 'pipeline': return await pipeline(Readable.from(['one ', 'two']), stream);
            case 'piped': return void Readable.from(['one ', 'two']).pipe(stream);
            case 'torn': return await pipeline((async function* () { yield 'one '; throw new RangeError('torn'); })(), stream);
        }
        stream.write('one ');
        if (event === 'late') throw new RangeError('late');
        if (event === 'long') throw new RangeError('x'.repeat(100_000));
        await soon();
        if (event === 'destroyed') return void stream.destroy();
        if (event === 'uncaught') { setTimeout(() => { throw new RangeError('uncaught'); }, 1); await new Promise(() => {}); }
        stream.write('two');
        stream.end();
    });
"#;

/// What came of a response, and how it ended.
async fn streamed(
    environment: &mut Environment,
    event: &str,
    bytes_max: usize,
) -> (Option<String>, String, Execution) {
    let payload = serde_json::to_vec(event).unwrap();
    let (parts, mut came) = tokio::sync::mpsc::channel(1);
    let sink = StreamSink { parts, bytes_max };
    let (mut content_type, mut bytes) = (None, Vec::new());
    let take = async {
        while let Some(part) = came.recv().await {
            match part {
                StreamPart::ContentType(given) => content_type = Some(given),
                StreamPart::Head(..) => panic!("it is not a component"),
                StreamPart::Bytes(part) => bytes.extend(part),
            }
        }
    };
    let run = environment.invoke_streamed(invocation(&payload, LONG), sink);
    let (execution, ()) = tokio::join!(run, take);
    (content_type, String::from_utf8(bytes).unwrap(), execution)
}

#[tokio::test]
async fn a_response_is_streamed_as_it_comes() {
    const PLAIN: &str = "application/octet-stream";
    const HTTP: &str = "application/vnd.awslambda.http-integration-response";
    let code = code(&[("index.js", STREAMING)]);
    let spec = || node_spec(code.path(), "index.handler");
    let mut environment = start(spec().await).await;
    for (event, content_type, bytes, kind) in [
        ("plain", Some(PLAIN), "one two", None),
        ("pipeline", Some(PLAIN), "one two", None),
        ("piped", Some(PLAIN), "one two", None),
        ("object", Some(PLAIN), "{\"a\":1}", None),
        (
            "http",
            Some(HTTP),
            "{\"statusCode\":201}\0\0\0\0\0\0\0\0one two",
            None,
        ),
        (
            "http-empty",
            Some(HTTP),
            "{\"statusCode\":201}\0\0\0\0\0\0\0\0",
            None,
        ),
        ("early", None, "", Some("RangeError")),
        ("http-early", None, "", Some("RangeError")),
        ("late", Some(PLAIN), "one ", Some("RangeError")),
        ("long", Some(PLAIN), "one ", Some("RangeError")),
        ("torn", Some(PLAIN), "one ", Some("RangeError")),
        (
            "destroyed",
            Some(PLAIN),
            "one ",
            Some("Runtime.StreamDestroyed"),
        ),
    ] {
        let (found_type, found, execution) = streamed(&mut environment, event, 1 << 20).await;
        assert_eq!(found_type.as_deref(), content_type, "{event}");
        assert_eq!(found, bytes, "{event}");
        match kind {
            None => {
                assert!(matches!(&execution.outcome, Outcome::Success(empty) if empty.is_empty()))
            }
            Some(kind) => assert_eq!(error(&execution.outcome).0, kind, "{event}"),
        }
        assert!(execution.reusable, "{event}");
    }
    // Whoever does not want it streamed has it in one piece.
    let execution = environment.invoke(invocation(b"\"plain\"", LONG)).await;
    let Outcome::Success(whole) = &execution.outcome else {
        panic!("{execution:?}")
    };
    assert_eq!(whole, b"one two");
    // What ends the process is told behind what was written before.
    let (_, found, execution) = streamed(&mut environment, "uncaught", 1 << 20).await;
    let (kind, said) = error(&execution.outcome);
    assert_eq!(
        (found.as_str(), kind.as_str(), said.as_str()),
        ("one ", "RangeError", "uncaught")
    );
    assert!(!execution.reusable);
}

#[tokio::test]
async fn a_streamed_response_has_a_bound() {
    let code = code(&[("index.js", STREAMING)]);
    let spec = || node_spec(code.path(), "index.handler");
    let mut environment = start(spec().await).await;
    let (_, found, execution) = streamed(&mut environment, "plain", 7).await;
    assert_eq!(found, "one two");
    assert!(matches!(execution.outcome, Outcome::Success(_)));
    let (_, found, execution) = streamed(&mut environment, "plain", 6).await;
    assert_eq!(found, "one ");
    assert_eq!(
        error(&execution.outcome),
        (
            "Function.ResponseSizeTooLarge".to_owned(),
            "Response payload size exceeded maximum allowed payload size (6 bytes).".to_owned()
        )
    );
    assert!(!execution.reusable, "it is in the middle of its response");
}

#[tokio::test]
async fn a_function_waits_for_who_takes_its_response_and_goes_on_without() {
    let source = "exports.handler = awslambda.streamifyResponse(async (event, stream) => {\n\
         \x20 const { once } = require('events');\n\
         \x20 for (let at = 0; at < 64; at++) if (!stream.write(Buffer.alloc(1 << 20))) await once(stream, 'drain');\n\
         \x20 console.log('written');\n\
         \x20 stream.end();\n\
         });";
    let code = code(&[("index.js", source)]);
    let mut environment = start(node_spec(code.path(), "index.handler").await).await;
    let sink = |parts| StreamSink {
        parts,
        bytes_max: 1 << 30,
    };
    // More than all that is between the function and whoever takes it: as long as nobody does, it cannot end.
    let (parts, mut came) = tokio::sync::mpsc::channel(1);
    let run = environment.invoke_streamed(invocation(b"1", LONG), sink(parts));
    tokio::pin!(run);
    let first = tokio::select! {
        part = came.recv() => part,
        execution = &mut run => panic!("{execution:?}"),
    };
    assert!(matches!(first, Some(StreamPart::ContentType(_))));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut run).await;
    assert!(waits.is_err(), "nobody took its response");
    // Whoever has gone does not keep it.
    drop(came);
    let execution = run.await;
    assert!(matches!(execution.outcome, Outcome::Success(_)));
    assert!(
        texts(&execution.lines)
            .iter()
            .any(|line| line.ends_with("\twritten"))
    );
    assert!(execution.reusable);
}

#[tokio::test]
async fn a_spare_one_becomes_the_functions() {
    let code = code(&[
        (
            "index.js",
            "const fs = require('fs');\n\
             const mine = require('mine');\n\
             exports.handler = async (event, context) => ({ mine, task: fs.readdirSync('.').sort(), cwd: process.cwd(),\n\
             \x20 colour: process.env.COLOUR, spare: process.env.LAMBIC_SPARE ?? null, name: context.functionName,\n\
             \x20 rehearsed: [fs.readdirSync('/tmp'), Object.keys(require.cache).filter((file) => file.startsWith('/tmp'))] });",
        ),
        ("data", "x"),
    ]);
    let layer = common::code(&[(
        "nodejs/node_modules/mine/index.js",
        "module.exports = 'of a layer';",
    )]);
    let mut spec = node_spec(code.path(), "index.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    let spare = Spare::start(spec.launch.clone(), spec.isolation.clone(), code.path())
        .await
        .unwrap()
        .expect("this machine allows it");
    assert!(Spare::may_become(&spec));
    let mut environment = spare
        .take(std::sync::Arc::new(spec))
        .await
        .unwrap()
        .unwrap();
    assert!(environment.had_interpreter());
    for _ in 0..2 {
        let execution = environment.invoke(invocation(b"{}", LONG)).await;
        assert_eq!(
            answer(&execution),
            serde_json::json!({"mine": "of a layer", "task": ["data", "index.js"], "cwd": "/var/task",
                "colour": "amber", "spare": null, "name": "probe", "rehearsed": [[], []]})
        );
    }
}
