//! `lambic function invoke`: one event, and what the function answers.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use ureq::{Body, http::Response};

use super::{
    super::Global,
    api::{Api, of},
    event_stream::{self, Message},
};
use crate::{
    cli,
    client::{Failure, segment},
    output,
    source::Place,
};

/// AWS's `Reason`.
const RESERVATION_USED: &str = "ReservedFunctionConcurrentInvocationLimitExceeded";
const STREAMED: &str = "application/vnd.amazon.eventstream";
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// What an Arrow IPC stream begins with; no JSON does.
const ARROW_START: [u8; 4] = [0xff; 4];

pub fn run(global: &Global, args: &cli::FunctionInvoke) -> anyhow::Result<()> {
    let payload = payload(&args.payload)?;
    let api = Api::new(global)?;
    let qualifier = args.qualifier.as_deref();
    if args.queued {
        return queue(global, &api, &args.name, qualifier, &payload);
    }
    if args.stream {
        return stream(&api, &args.name, qualifier, &payload, args.tail);
    }
    let answer = invoke(&api, &args.name, qualifier, &payload, args.tail)?;
    if let Some(log) = &answer.log {
        show_log(log);
    }
    print_as_it_is(&answer.payload)?;
    match answer.failure() {
        Some(failure) => bail!(told(&failure, &args.name, &answer.request_id)),
        None => Ok(()),
    }
}

fn show_log(log: &str) {
    eprint!("{}", output::foreign(log, io::stderr().is_terminal()));
}

/// What came of an invocation that was waited for.
#[derive(Debug, Default)]
pub struct Answer {
    pub payload: Vec<u8>,
    pub request_id: String,
    /// AWS's `X-Amz-Function-Error`.
    pub error: Option<String>,
    /// The end of the invocation's log.
    pub log: Option<String>,
}

impl Answer {
    /// Why the function failed, if it did.
    pub fn failure(&self) -> Option<String> {
        let kind = self.error.as_ref()?;
        let error: Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        Some(failure(kind, &error))
    }
}

pub fn invoke(
    api: &Api,
    name: &str,
    qualifier: Option<&str>,
    payload: &[u8],
    tail: bool,
) -> anyhow::Result<Answer> {
    let mut headers = vec![
        ("content-type", content_type(payload)),
        ("x-amz-invocation-type", "RequestResponse"),
    ];
    if tail {
        headers.push(("x-amz-log-type", "Tail"));
    }
    let answer = api
        .client
        .post(&of(name, "/invocations", qualifier), &headers, payload);
    let mut answer = answer.map_err(|error| explained(api, error, name))?;
    let mut body = Vec::new();
    let read = answer.body_mut().as_reader().read_to_end(&mut body);
    read.context("the answer broke off")?;
    Ok(Answer {
        payload: body,
        request_id: header(&answer, "x-amzn-requestid").unwrap_or_default(),
        error: header(&answer, "x-amz-function-error"),
        log: header(&answer, "x-amz-log-result").and_then(|log| decoded(&log)),
    })
}

/// What to do about a function that is not there, or that runs no more at this time.
fn explained(api: &Api, error: anyhow::Error, name: &str) -> anyhow::Error {
    match api.suggesting(error, name).downcast::<Failure>() {
        Ok(mut failure) => {
            if is_of_reservation(&failure) {
                let name = name_in(name);
                // Who may invoke it need not be allowed to look.
                let reserved = api.concurrency(name).ok().flatten();
                failure.hint = reserved.map(|count| throttled(name, count));
            }
            anyhow::Error::new(failure)
        }
        Err(error) => error,
    }
}

/// What is reserved for the function is used up: other limits have to do with others, too.
fn is_of_reservation(failure: &Failure) -> bool {
    failure.kind.as_deref() == Some("TooManyRequestsException")
        && failure.reason.as_deref() == Some(RESERVATION_USED)
}

/// The function's name in what it may be called: `f`, `f:live`, `000000000000:function:f`, or an ARN.
pub fn name_in(called: &str) -> &str {
    let rest = match called.split_once("function:") {
        Some((before, rest)) if before.ends_with(':') => rest,
        _ => called,
    };
    rest.split(':').next().unwrap_or(rest)
}

/// `count` invocations are reserved for it.
fn throttled(name: &str, count: u64) -> String {
    match count {
        0 => format!(
            "its concurrency is 0, which stops it; `lambic function concurrency {name} COUNT` lets so many invocations run at one time, `lambic function concurrency {name} --none` as many as the server lets run"
        ),
        count => format!(
            "its concurrency is {count}, and so many run now; try again, or let more run with `lambic function concurrency {name} COUNT`"
        ),
    }
}

fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn decoded(log: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(log).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn queue(
    global: &Global,
    api: &Api,
    name: &str,
    qualifier: Option<&str>,
    payload: &[u8],
) -> anyhow::Result<()> {
    let headers = [
        ("content-type", content_type(payload)),
        ("x-amz-invocation-type", "Event"),
    ];
    let answer = api
        .client
        .post(&of(name, "/invocations", qualifier), &headers, payload);
    let answer = answer.map_err(|error| explained(api, error, name))?;
    let id = header(&answer, "x-amzn-requestid").unwrap_or_default();
    if global.json {
        return output::print_json(&json!({ "queued": name, "request_id": id }));
    }
    eprintln!("queued as {id}");
    Ok(())
}

/// Prints an answer while it comes.
fn stream(
    api: &Api,
    name: &str,
    qualifier: Option<&str>,
    payload: &[u8],
    tail: bool,
) -> anyhow::Result<()> {
    let question = match qualifier {
        Some(qualifier) => format!("?Qualifier={}", segment(qualifier)),
        None => String::new(),
    };
    let path = format!(
        "/2021-11-15/functions/{}/response-streaming-invocations{question}",
        segment(name)
    );
    let mut headers = vec![
        ("content-type", content_type(payload)),
        ("x-amz-invocation-type", "RequestResponse"),
    ];
    if tail {
        headers.push(("x-amz-log-type", "Tail"));
    }
    let answer = api.client.post(&path, &headers, payload);
    let answer = answer.map_err(|error| explained(api, error, name))?;
    let id = header(&answer, "x-amzn-requestid").unwrap_or_default();
    let kind = header(&answer, "content-type").unwrap_or_default();
    if !kind.starts_with(STREAMED) {
        bail!("the server's answer is {kind}, not a stream ({STREAMED})");
    }
    let mut reader = answer.into_body().into_reader();
    let mut out = io::stdout().lock();
    match printed(&mut reader, &mut out)? {
        End::Done { log } => {
            if let Some(log) = &log {
                show_log(log);
            }
            Ok(())
        }
        End::Failed { failure, log } => {
            if let Some(log) = &log {
                show_log(log);
            }
            bail!(told(&failure, name, &id))
        }
        End::ReaderGone => Ok(()),
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done {
        log: Option<String>,
    },
    Failed {
        failure: String,
        log: Option<String>,
    },
    /// Whoever read stdout went away (`| head`).
    ReaderGone,
}

fn printed(from: &mut impl Read, to: &mut impl Write) -> anyhow::Result<End> {
    while let Some(message) = event_stream::next(from)? {
        if let Some(end) = end_of(&message)? {
            return Ok(end);
        }
        match to.write_all(&message.payload).and_then(|()| to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::ReaderGone),
            other => other?,
        }
    }
    bail!("the answer broke off: it has no end")
}

/// `None` for a piece of the answer.
fn end_of(message: &Message) -> anyhow::Result<Option<End>> {
    if matches!(message.header(":message-type"), "exception" | "error") {
        let kind = [":exception-type", ":error-code"]
            .map(|name| message.header(name))
            .join("");
        let text = String::from_utf8_lossy(&message.payload);
        bail!("the server gave up: {kind} {text}");
    }
    if message.header(":event-type") != "InvokeComplete" {
        return Ok(None);
    }
    let complete: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    let log = complete["LogResult"].as_str().and_then(decoded);
    let details = complete["ErrorDetails"].as_str().unwrap_or_default();
    Ok(Some(match complete["ErrorCode"].as_str() {
        None | Some("") => End::Done { log },
        Some(code) => {
            let error = serde_json::from_str(details)
                .unwrap_or_else(|_| json!({ "errorMessage": details }));
            let failure = failure(code, &error);
            End::Failed { failure, log }
        }
    }))
}

/// From AWS's error object, which every runtime writes in its own way.
fn failure(kind: &str, error: &Value) -> String {
    let text = |name: &str| error[name].as_str().filter(|text| !text.is_empty());
    let mut shown = match (text("errorType"), text("errorMessage")) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => kind.to_owned(),
    };
    let trace = ["stackTrace", "trace"]
        .iter()
        .find_map(|name| error[*name].as_array());
    for line in trace.into_iter().flatten().filter_map(Value::as_str) {
        for line in line.trim_end().lines() {
            shown.push_str(&format!("\n  {}", line.trim_end()));
        }
    }
    shown
}

fn told(failure: &str, name: &str, request_id: &str) -> String {
    let request = match request_id {
        "" => String::new(),
        id => format!(" --request {id}"),
    };
    let name = name_in(name);
    format!(
        "the function failed: {failure}\n  `lambic function logs {name}{request}` shows what it wrote"
    )
}

/// The bytes alone, but for a line's end where a person reads them.
fn print_as_it_is(payload: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut written = out.write_all(payload);
    if out.is_terminal() && !payload.ends_with(b"\n") {
        written = written.and_then(|()| out.write_all(b"\n"));
    }
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The event that an argument names.
fn payload(argument: &str) -> anyhow::Result<Vec<u8>> {
    let (shown, bytes) = match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let mut bytes = Vec::new();
            let read = io::stdin().read_to_end(&mut bytes);
            read.context("cannot read standard input")?;
            ("standard input", bytes)
        }
        (_, Some(file)) => {
            let bytes = fs::read(file).with_context(|| format!("cannot read {file}"))?;
            (file, bytes)
        }
        (text, None) => ("event", text.as_bytes().to_vec()),
    };
    if bytes.starts_with(b"ARROW1") {
        bail!("{shown} is an Arrow file; functions take records as an Arrow IPC stream");
    }
    if content_type(&bytes) != ARROW {
        check(Path::new(shown), &bytes)?;
    }
    Ok(bytes)
}

/// Records in Arrow are known by how they begin; all else is to be JSON.
fn content_type(payload: &[u8]) -> &'static str {
    match payload.starts_with(&ARROW_START) {
        true => ARROW,
        false => "application/json",
    }
}

/// An event that is no JSON is shown with the place of the mistake.
pub fn check(shown: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(bytes);
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    let place = Place::of_json(shown, &text, &error);
    bail!(place.render(&format!("the event is not JSON: {message}"), None))
}

#[cfg(test)]
mod tests {
    use super::{super::event_stream::tests::message, *};

    #[test]
    fn an_event_that_is_no_json_is_shown_with_its_place() {
        assert!(check(Path::new("event"), b" {\"a\": [1, null]} ").is_ok());
        let error = check(Path::new("e.json"), b"{\n  \"a\": 1,\n  \"b\": nul\n}").unwrap_err();
        expect_test::expect![[r#"
            e.json:3:11: the event is not JSON: expected ident
              3 |   "b": nul
                |           ^"#]]
        .assert_eq(&error.to_string());
        for wrong in [&b""[..], b"{", b"{}}", b"not json", b"\xff"] {
            assert!(check(Path::new("event"), wrong).is_err());
        }
    }

    #[test]
    fn a_function_that_is_stopped_is_told_with_what_starts_it() {
        let told = throttled("f", 0);
        assert!(
            told.contains("`lambic function concurrency f --none`"),
            "{told}"
        );
        let told = throttled("f", 2);
        assert!(told.contains("its concurrency is 2"), "{told}");
    }

    #[test]
    fn records_in_arrow_are_known_by_how_they_begin() {
        assert_eq!(content_type(b"\xff\xff\xff\xff\0"), ARROW);
        for json in [&b"{}"[..], b"", b"\xff\xff"] {
            assert_eq!(content_type(json), "application/json");
        }
        let dir = tempfile::tempdir().unwrap();
        let written = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            payload(&format!("@{}", path.display()))
        };
        let stream = b"\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(written("stream", stream).unwrap(), stream);
        let error = written("file", b"ARROW1\0\0").unwrap_err().to_string();
        assert!(error.contains("Arrow IPC stream"), "{error}");
    }

    #[test]
    fn failures_are_told_as_their_runtime_tells_them() {
        let check = |error: Value, expected: &str| {
            assert_eq!(failure("Unhandled", &error), expected);
        };
        check(Value::Null, "Unhandled");
        check(json!({ "errorMessage": "no" }), "no");
        check(
            json!({ "errorType": "E", "errorMessage": "no", "stackTrace": ["  File \"a\"\n    x()\n"] }),
            "E: no\n    File \"a\"\n      x()",
        );
        check(
            json!({ "errorType": "E", "trace": ["E: no", "    at f"] }),
            "E\n  E: no\n      at f",
        );
    }

    fn streamed(messages: &[Vec<u8>]) -> (String, Result<End, String>) {
        let mut out = Vec::new();
        let end = printed(&mut messages.concat().as_slice(), &mut out);
        (
            String::from_utf8(out).unwrap(),
            end.map_err(|error| error.to_string()),
        )
    }

    #[test]
    fn only_what_is_reserved_is_told_as_the_reason() {
        let failure = |kind: &str, reason: Option<&str>| Failure {
            kind: Some(kind.to_owned()),
            reason: reason.map(str::to_owned),
            ..Failure::default()
        };
        let throttled = "TooManyRequestsException";
        for (failure, is) in [
            (failure(throttled, Some(RESERVATION_USED)), true),
            (failure(throttled, Some("CallerRateLimitExceeded")), false),
            (
                failure(throttled, Some("ConcurrentInvocationLimitExceeded")),
                false,
            ),
            (failure(throttled, None), false),
            (failure("ServiceException", Some(RESERVATION_USED)), false),
        ] {
            assert_eq!(is_of_reservation(&failure), is, "{failure:?}");
        }
    }

    #[test]
    fn functions_are_called_by_names_and_arns() {
        for called in [
            "f",
            "f:live",
            "000000000000:function:f",
            "arn:aws:lambda:us-east-1:000000000000:function:f",
            "arn:aws:lambda:us-east-1:000000000000:function:f:live",
        ] {
            assert_eq!(name_in(called), "f", "{called}");
        }
        assert_eq!(name_in("my-function:live"), "my-function");
    }

    #[test]
    fn a_stream_is_printed_piece_by_piece_to_its_end() {
        let chunk = |text: &str| {
            message(
                &[(":message-type", "event"), (":event-type", "PayloadChunk")],
                text.as_bytes(),
            )
        };
        let complete =
            |payload: &str| message(&[(":event-type", "InvokeComplete")], payload.as_bytes());
        let (text, end) = streamed(&[chunk("he"), chunk("llo"), complete("{}")]);
        assert_eq!((text.as_str(), end), ("hello", Ok(End::Done { log: None })));
        let failed = complete(
            r#"{"ErrorCode":"Unhandled","ErrorDetails":"{\"errorType\":\"E\",\"errorMessage\":\"no\"}","LogResult":"bG9n"}"#,
        );
        let (text, end) = streamed(&[chunk("he"), failed]);
        let expected = End::Failed {
            failure: "E: no".to_owned(),
            log: Some("log".to_owned()),
        };
        assert_eq!((text.as_str(), end), ("he", Ok(expected)));
        let plain = complete(r#"{"ErrorCode":"Unhandled","ErrorDetails":"plain"}"#);
        assert!(
            matches!(streamed(&[plain]).1, Ok(End::Failed { failure, .. }) if failure == "plain")
        );
        // Without an end it has broken off.
        assert!(
            streamed(&[chunk("he")])
                .1
                .unwrap_err()
                .contains("broke off")
        );
        let exception = message(
            &[
                (":message-type", "exception"),
                (":exception-type", "ServiceException"),
            ],
            b"{}",
        );
        assert!(
            streamed(&[exception])
                .1
                .unwrap_err()
                .contains("ServiceException")
        );
    }
}
