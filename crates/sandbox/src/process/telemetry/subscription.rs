//! What an extension asks for when it subscribes, and which events it is shown how.
//!
//! Pure. All that is wrong with a request is told at once, as AWS does.

use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::{Event, Kind};

/// Names of the environment's own loopback.
const HOSTS: [&str; 4] = ["sandbox.localdomain", "sandbox", "localhost", "127.0.0.1"];

/// The API by which it was asked for, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Telemetry,
    Logs {
        /// Of its second version.
        has_runtime_done: bool,
    },
}

impl Api {
    pub fn is_same_as(self, other: Api) -> bool {
        matches!(self, Api::Telemetry) == matches!(other, Api::Telemetry)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    Platform,
    Function,
    Extension,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Type::Platform => "platform",
            Type::Function => "function",
            Type::Extension => "extension",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffering {
    pub items_max: usize,
    pub bytes_max: usize,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Http {
        port: u16,
        path: String,
        method: &'static str,
    },
    /// Lines.
    Tcp { port: u16 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub api: Api,
    pub types: Vec<Type>,
    pub buffering: Buffering,
    pub destination: Destination,
}

/// What is wrong with a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    schema_version: Option<String>,
    types: Option<Vec<Value>>,
    buffering: Option<AskedBuffering>,
    destination: Option<AskedDestination>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AskedBuffering {
    max_items: Option<Value>,
    max_bytes: Option<Value>,
    timeout_ms: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct AskedDestination {
    protocol: Option<String>,
    #[serde(rename = "URI")]
    uri: Option<String>,
    port: Option<u16>,
    method: Option<String>,
}

/// What is wrong so far.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    fn number(
        &mut self,
        name: &str,
        value: Option<Value>,
        default: usize,
        min: usize,
        max: usize,
    ) -> usize {
        let Some(value) = value else { return default };
        let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => number,
            None => {
                self.add(format!("{name} must be {min} to {max}, not {value}"));
                default
            }
        }
    }
}

impl Subscription {
    /// `api`: the path by which it came.
    pub fn read(api: Api, body: &[u8]) -> Result<Subscription, Invalid> {
        let request: Request = serde_json::from_slice(body)
            .map_err(|error| Invalid(format!("the body is no subscription: {error}")))?;
        let mut faults = Faults::default();
        let api = read_api(api, request.schema_version.as_deref(), &mut faults);
        let types = read_types(request.types, &mut faults);
        let asked = request.buffering.unwrap_or_default();
        let buffering = Buffering {
            items_max: faults.number("maxItems", asked.max_items, 10_000, 1_000, 10_000),
            bytes_max: faults.number("maxBytes", asked.max_bytes, 262_144, 262_144, 1_048_576),
            timeout: Duration::from_millis(faults.number(
                "timeoutMs",
                asked.timeout_ms,
                1_000,
                25,
                30_000,
            ) as u64),
        };
        let destination = read_destination(request.destination, &mut faults);
        match (faults.0.is_empty(), destination) {
            (true, Some(destination)) => Ok(Subscription {
                api,
                types,
                buffering,
                destination,
            }),
            _ => Err(Invalid(faults.0.join("; "))),
        }
    }

    /// The event as the subscriber is shown it, if it is.
    pub fn shown(&self, event: &Event) -> Option<Bytes> {
        if !self.types.contains(&event.kind.class()) {
            return None;
        }
        let (kind, record) = match self.api {
            Api::Telemetry if matches!(event.kind, Kind::End | Kind::Fault) => return None,
            Api::Telemetry => (event.kind.as_str(), event.record.clone()),
            Api::Logs { has_runtime_done } => in_logs(event, has_runtime_done)?,
        };
        let shown = json!({ "time": event.time, "type": kind, "record": record });
        Some(shown.to_string().into())
    }
}

/// What the Logs API has of an event.
fn in_logs(event: &Event, has_runtime_done: bool) -> Option<(&'static str, Value)> {
    let only = |members: &[&str]| {
        let has = |member: &&str| Some(((*member).to_owned(), event.record.get(*member)?.clone()));
        Value::Object(members.iter().filter_map(has).collect())
    };
    let record = match event.kind {
        Kind::InitStart
        | Kind::InitRuntimeDone
        | Kind::InitReport
        | Kind::RestoreStart
        | Kind::RestoreRuntimeDone
        | Kind::RestoreReport => return None,
        Kind::RuntimeDone if !has_runtime_done => return None,
        Kind::Start => only(&["requestId", "version"]),
        Kind::RuntimeDone => only(&["requestId", "status"]),
        Kind::Report => only(&["requestId", "metrics"]),
        Kind::Subscribed => return Some(("platform.logsSubscription", event.record.clone())),
        _ => event.record.clone(),
    };
    Some((event.kind.as_str(), record))
}

fn read_api(api: Api, version: Option<&str>, faults: &mut Faults) -> Api {
    match (api, version) {
        (Api::Telemetry, Some("2022-07-01" | "2022-12-13" | "2025-01-29")) => Api::Telemetry,
        (Api::Logs { .. }, None | Some("2020-08-15")) => Api::Logs {
            has_runtime_done: false,
        },
        (Api::Logs { .. }, Some("2021-03-18")) => Api::Logs {
            has_runtime_done: true,
        },
        (_, None) => {
            faults.add("schemaVersion is not provided");
            api
        }
        (_, Some(version)) => {
            faults.add(format!("schemaVersion {version} is not supported"));
            api
        }
    }
}

fn read_types(types: Option<Vec<Value>>, faults: &mut Faults) -> Vec<Type> {
    let types = types.unwrap_or_default();
    if types.is_empty() {
        faults.add("types should not be empty");
    }
    let mut read: Vec<Type> = Vec::new();
    for one in types {
        match serde_json::from_value(one.clone()) {
            Ok(known) if !read.contains(&known) => read.push(known),
            Ok(_) => {}
            Err(_) => faults.add(format!("{one} is no type of telemetry")),
        }
    }
    read
}

fn read_destination(asked: Option<AskedDestination>, faults: &mut Faults) -> Option<Destination> {
    let Some(asked) = asked else {
        faults.add("destination is not provided");
        return None;
    };
    let uri = match asked.uri.as_deref().map(str::parse::<Uri>) {
        Some(Err(error)) => {
            faults.add(format!("URI is not valid: {error}"));
            return None;
        }
        Some(Ok(uri)) => Some(uri),
        None => None,
    };
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let is_tcp = match asked.protocol.as_deref() {
        Some("HTTP") => false,
        Some("TCP") => true,
        Some(other) => {
            faults.add(format!("protocol {other} is not supported"));
            return None;
        }
        None => {
            faults.add("protocol is not provided");
            return None;
        }
    };
    if uri.is_none() && !is_tcp {
        faults.add("URI is not provided");
        return None;
    }
    if scheme.is_some_and(|scheme| scheme != if is_tcp { "tcp" } else { "http" }) {
        faults.add("URI has a scheme that is not supported");
    }
    let host = uri.as_ref().and_then(Uri::host);
    if host.is_some_and(|host| !HOSTS.contains(&host)) {
        faults.add(
            "the destination is not inside of the environment: its host is sandbox.localdomain",
        );
    }
    let port = uri.as_ref().and_then(Uri::port_u16).or(asked.port);
    let Some(port) = port.filter(|port| *port > 0) else {
        faults.add("URI port is not provided");
        return None;
    };
    let path = uri.as_ref().and_then(Uri::path_and_query);
    match (is_tcp, asked.method.as_deref()) {
        (true, _) => Some(Destination::Tcp { port }),
        (false, None | Some("POST" | "PUT")) => Some(Destination::Http {
            port,
            path: path.map_or_else(|| "/".to_owned(), ToString::to_string),
            method: match asked.method.as_deref() {
                Some("PUT") => "PUT",
                _ => "POST",
            },
        }),
        (false, Some(other)) => {
            faults.add(format!("method {other} is not supported"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGS: Api = Api::Logs {
        has_runtime_done: false,
    };

    fn read(api: Api, body: Value) -> Result<Subscription, String> {
        let read = Subscription::read(api, body.to_string().as_bytes());
        read.map_err(|Invalid(faults)| faults)
    }

    #[test]
    fn defaults_are_aws_s() {
        let subscription = read(
            Api::Telemetry,
            json!({
                "schemaVersion": "2022-12-13",
                "types": ["platform", "function", "platform"],
                "destination": { "protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/a?b" },
            }),
        );
        assert_eq!(
            subscription.unwrap(),
            Subscription {
                api: Api::Telemetry,
                types: vec![Type::Platform, Type::Function],
                buffering: Buffering {
                    items_max: 10_000,
                    bytes_max: 262_144,
                    timeout: Duration::from_secs(1),
                },
                destination: Destination::Http {
                    port: 8080,
                    path: "/a?b".to_owned(),
                    method: "POST",
                },
            }
        );
        let logs = read(
            LOGS,
            json!({
                "types": ["extension"],
                "buffering": { "maxItems": 1_000, "maxBytes": 1_048_576, "timeoutMs": 25 },
                "destination": { "protocol": "TCP", "port": 9_000 },
            }),
        );
        let logs = logs.unwrap();
        assert_eq!(logs.destination, Destination::Tcp { port: 9_000 });
        assert_eq!(logs.buffering.timeout, Duration::from_millis(25));
        assert_eq!(logs.api, LOGS);
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let fine = json!({ "protocol": "HTTP", "URI": "http://sandbox:8080" });
        for (body, expected) in [
            (
                json!({ "schemaVersion": "2022-07-01", "types": [], "destination": { "protocol": "HTTP", "URI": "http://sandbox.localdomain" } }),
                "types should not be empty; URI port is not provided",
            ),
            (
                json!({ "types": ["platform"], "destination": fine }),
                "schemaVersion is not provided",
            ),
            (
                json!({ "schemaVersion": "2020-08-15", "types": ["platform"], "destination": fine }),
                "schemaVersion 2020-08-15 is not supported",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["weather"], "destination": fine }),
                "\"weather\" is no type of telemetry",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["platform"] }),
                "destination is not provided",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["platform"], "destination": { "protocol": "UDP", "URI": "http://sandbox:1" } }),
                "protocol UDP is not supported",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["platform"], "destination": { "protocol": "HTTP", "URI": "https://sandbox:1" } }),
                "URI has a scheme that is not supported",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["platform"], "destination": { "protocol": "HTTP", "URI": "http://example.org:80" } }),
                "the destination is not inside of the environment: its host is sandbox.localdomain",
            ),
            (
                json!({ "schemaVersion": "2022-07-01", "types": ["platform"], "destination": fine, "buffering": { "maxItems": 999, "maxBytes": 1_048_577, "timeoutMs": "now" } }),
                "maxItems must be 1000 to 10000, not 999; maxBytes must be 262144 to 1048576, not 1048577; timeoutMs must be 25 to 30000, not \"now\"",
            ),
        ] {
            assert_eq!(
                read(Api::Telemetry, body.clone()),
                Err(expected.to_owned()),
                "{body}"
            );
        }
        let broken = Subscription::read(Api::Telemetry, b"{").unwrap_err();
        assert!(
            broken.0.starts_with("the body is no subscription"),
            "{}",
            broken.0
        );
    }

    #[test]
    fn each_api_shows_its_own() {
        let shown = |api, version: &str, event: &Event| {
            let subscription = read(
                api,
                json!({
                    "schemaVersion": version,
                    "types": ["platform"],
                    "destination": { "protocol": "HTTP", "URI": "http://sandbox:8080" },
                }),
            );
            let shown = subscription.unwrap().shown(event)?;
            Some(serde_json::from_slice::<Value>(&shown).unwrap())
        };
        let event = Event::subscribed("e", &[Type::Platform]);
        let of_telemetry = shown(Api::Telemetry, "2022-07-01", &event).unwrap();
        assert_eq!(of_telemetry["type"], "platform.telemetrySubscription");
        assert_eq!(
            of_telemetry["record"],
            json!({ "name": "e", "state": "Subscribed", "types": ["platform"] })
        );
        let of_logs = shown(LOGS, "2020-08-15", &event).unwrap();
        assert_eq!(of_logs["type"], "platform.logsSubscription");
        let end = Event::end("id");
        assert_eq!(shown(Api::Telemetry, "2022-07-01", &end), None);
        assert_eq!(
            shown(LOGS, "2020-08-15", &end).unwrap()["record"],
            json!({ "requestId": "id" })
        );
        let start = Event::init_start("f", "7");
        assert!(shown(Api::Telemetry, "2022-07-01", &start).is_some());
        assert_eq!(shown(LOGS, "2021-03-18", &start), None);
        let line = Event::line(Type::Function, 0, "hello");
        assert_eq!(
            shown(LOGS, "2020-08-15", &line),
            None,
            "it did not ask for those"
        );
    }
}
