//! A request at a function's URL as the event that the function sees: AWS's payload format 2.0.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method, Uri, header};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lambic_functions::ACCOUNT;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{super::server::Peer, answer::formatted, request::scheme};
use crate::keys::Key;

/// What of a request is not in its head and body.
pub struct Circumstances<'a> {
    pub url_id: &'a str,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub now_us: i64,
    pub source: Option<Peer>,
    /// It came encrypted.
    pub is_secured: bool,
    /// Who signed it.
    pub caller: Option<&'a Key>,
}

/// `path` is what stands behind the URL, with a slash.
pub fn event(
    method: &Method,
    uri: &Uri,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
    around: &Circumstances<'_>,
) -> Value {
    let query = uri.query().unwrap_or_default();
    let host = text(headers, header::HOST.as_str());
    let source = source(around.source);
    let source = source.as_str();
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": joined(headers, source, around),
        "requestContext": {
            "accountId": around.caller.map_or("anonymous", |_| ACCOUNT),
            "apiId": around.url_id,
            "domainName": host,
            "domainPrefix": around.url_id,
            "http": {
                "method": method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": source,
                "userAgent": text(headers, header::USER_AGENT.as_str()),
            },
            "requestId": around.request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": formatted(around.now_us, "%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": around.now_us / 1_000,
        },
        "isBase64Encoded": false,
    });
    if let Some(key) = around.caller {
        event["requestContext"]["authorizer"] = json!({ "iam": {
            "accessKey": key.id,
            "accountId": key.account,
            "callerId": key.id,
            "cognitoIdentity": null,
            "principalOrgId": null,
            "userArn": key.arn,
            "userId": key.id,
        } });
    }
    let cookies = cookies(headers);
    if !cookies.is_empty() {
        event["cookies"] = Value::from(cookies);
    }
    let parameters = parameters(query);
    if !parameters.is_empty() {
        event["queryStringParameters"] = json!(parameters);
    }
    if !body.is_empty() {
        let readable = std::str::from_utf8(body).ok();
        match readable.filter(|_| is_text(text(headers, header::CONTENT_TYPE.as_str()))) {
            Some(text) => event["body"] = Value::from(text),
            None => {
                event["body"] = Value::from(BASE64_STANDARD.encode(body));
                event["isBase64Encoded"] = Value::from(true);
            }
        }
    }
    event
}

/// The address that a request came from.
pub fn source(peer: Option<Peer>) -> String {
    let address = peer.map(|Peer(address)| address.to_canonical());
    address.map_or("127.0.0.1".to_owned(), |address| address.to_string())
}

/// The port that it was sent to: the one that is named, or the usual one.
pub fn port<'a>(headers: &'a HeaderMap, proto: &str) -> &'a str {
    let port = text(headers, header::HOST.as_str()).rsplit_once(':');
    let usual = match proto {
        "https" => "443",
        _ => "80",
    };
    port.map(|(_, port)| port)
        .filter(|port| port.parse::<u16>().is_ok())
        .unwrap_or(usual)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Those of one name in one, with commas; and those that AWS adds.
fn joined(headers: &HeaderMap, source: &str, around: &Circumstances<'_>) -> Map<String, Value> {
    let mut joined = Map::new();
    for name in headers.keys() {
        // They have a member of their own.
        if *name == header::COOKIE {
            continue;
        }
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        joined.insert(name.as_str().to_owned(), Value::from(values.join(",")));
    }
    let proto = scheme(around.is_secured);
    for (name, value) in [
        ("x-forwarded-for", source),
        ("x-forwarded-proto", proto),
        ("x-forwarded-port", port(headers, proto)),
        ("x-amzn-trace-id", around.trace_id),
    ] {
        joined.insert(name.to_owned(), Value::from(value));
    }
    joined
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .map(|cookie| cookie.trim().to_owned())
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        parameters
            .entry(name.into_owned())
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    parameters
}

/// By its type, as AWS decides: forms are no text to it. What has no type is text if it can be read.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence.is_empty()
        || essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        )
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::keys::Secret;

    fn made(uri: &str, headers: &[(&'static str, &'static str)], body: &[u8]) -> Value {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let around = Circumstances {
            url_id: "id",
            request_id: "r",
            trace_id: "Root=1",
            now_us: 1_700_000_000_123_456,
            source: None,
            is_secured: false,
            caller: None,
        };
        event(
            &Method::POST,
            &uri.parse().unwrap(),
            "/a%20b",
            &map,
            body,
            &around,
        )
    }

    #[test]
    fn an_event_says_who_signed_it_and_where_it_comes_from() {
        let key = Key::new(
            "AKID",
            Secret::new("secret"),
            Some("123456789012"),
            Some("ci"),
        );
        let around = Circumstances {
            url_id: "id",
            request_id: "r",
            trace_id: "Root=1",
            now_us: 0,
            source: Some(Peer("::ffff:192.0.2.7".parse().unwrap())),
            is_secured: true,
            caller: Some(&key),
        };
        let uri = "/".parse().unwrap();
        let event = event(&Method::GET, &uri, "/", &HeaderMap::new(), b"", &around);
        let context = &event["requestContext"];
        assert_eq!(context["accountId"], ACCOUNT);
        assert_eq!(context["http"]["sourceIp"], "192.0.2.7");
        assert_eq!(event["headers"]["x-forwarded-for"], "192.0.2.7");
        assert_eq!(event["headers"]["x-forwarded-proto"], "https");
        assert_eq!(event["headers"]["x-forwarded-port"], "443");
        let iam = &context["authorizer"]["iam"];
        assert_eq!(iam["accountId"], "123456789012");
        assert_eq!(iam["userArn"], "arn:aws:iam::123456789012:user/ci");
        assert!(!event.to_string().contains("secret"));
    }

    #[test]
    fn a_request_becomes_an_event_of_format_2() {
        let event = made(
            "/lambda-url/id/a%20b?x=1&x=2&y=a%20b",
            &[
                ("host", "localhost:7070"),
                ("cookie", "a=1; b=2"),
                ("x-two", "1"),
                ("x-two", "2"),
                ("user-agent", "test"),
                ("content-type", "application/json"),
            ],
            b"{}",
        );
        assert_eq!(
            event,
            json!({
                "version": "2.0",
                "routeKey": "$default",
                "rawPath": "/a%20b",
                "rawQueryString": "x=1&x=2&y=a%20b",
                "cookies": ["a=1", "b=2"],
                "headers": {
                    "host": "localhost:7070",
                    "x-two": "1,2",
                    "user-agent": "test",
                    "content-type": "application/json",
                    "x-forwarded-for": "127.0.0.1",
                    "x-forwarded-proto": "http",
                    "x-forwarded-port": "7070",
                    "x-amzn-trace-id": "Root=1",
                },
                "queryStringParameters": { "x": "1,2", "y": "a b" },
                "requestContext": {
                    "accountId": "anonymous",
                    "apiId": "id",
                    "domainName": "localhost:7070",
                    "domainPrefix": "id",
                    "http": {
                        "method": "POST",
                        "path": "/a%20b",
                        "protocol": "HTTP/1.1",
                        "sourceIp": "127.0.0.1",
                        "userAgent": "test",
                    },
                    "requestId": "r",
                    "routeKey": "$default",
                    "stage": "$default",
                    "time": "14/Nov/2023:22:13:20 +0000",
                    "timeEpoch": 1_700_000_000_123i64,
                },
                "body": "{}",
                "isBase64Encoded": false,
            })
        );
    }

    #[test]
    fn bodies_that_are_no_text_are_encoded() {
        for (content_type, body, expected) in [
            ("text/plain; charset=utf-8", b"a".as_slice(), ("a", false)),
            ("application/problem+json", b"{}", ("{}", false)),
            ("application/x-www-form-urlencoded", b"a=1", ("YT0x", true)),
            ("application/octet-stream", b"a", ("YQ==", true)),
            ("text/plain", b"\xff", ("/w==", true)),
        ] {
            let event = made("/", &[("content-type", content_type)], body);
            let is_encoded = event["isBase64Encoded"].as_bool();
            let found = (event["body"].as_str().unwrap(), is_encoded.unwrap());
            assert_eq!(found, expected, "{content_type}");
        }
        let event = made("/", &[], b"");
        for absent in ["body", "cookies", "queryStringParameters"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
    }
}
