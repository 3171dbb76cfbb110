//! What a function gives back at its URL, as an HTTP response: AWS's payload format 2.0, or any other JSON.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

#[derive(Debug, PartialEq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// How a response is cut into messages is the server's business.
pub const OF_THE_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// `None`: it looks like a response and cannot be one.
pub fn reply(payload: &[u8]) -> Option<Reply> {
    let value: Option<Value> = serde_json::from_slice(payload).ok();
    match value {
        Some(Value::Object(response)) if response.contains_key("statusCode") => {
            structured(&Value::Object(response))
        }
        _ => Some(Reply {
            status: StatusCode::OK,
            headers: [(header::CONTENT_TYPE, json_type())].into_iter().collect(),
            body: payload.to_vec(),
        }),
    }
}

fn json_type() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

/// Status and headers, as a response or the prelude of a streamed one has them.
pub fn head(response: &Value) -> Option<(StatusCode, HeaderMap)> {
    let status = match &response["statusCode"] {
        Value::Number(number) => number.as_u64()?,
        // As AWS does.
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))?;
    let status = StatusCode::from_u16(status).ok()?;
    let mut headers = HeaderMap::new();
    match &response["headers"] {
        Value::Null => {}
        Value::Object(given) => {
            for (name, value) in given {
                let name: HeaderName = name.to_ascii_lowercase().parse().ok()?;
                if !OF_THE_CONNECTION.contains(&name) {
                    headers.append(name, header_value(value)?);
                }
            }
        }
        _ => return None,
    }
    for cookie in response["cookies"].as_array().into_iter().flatten() {
        headers.append(header::SET_COOKIE, header_value(cookie)?);
    }
    Some((status, headers))
}

fn structured(response: &Value) -> Option<Reply> {
    let (status, mut headers) = head(response)?;
    if !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, json_type());
    }
    let is_encoded = response["isBase64Encoded"] == true;
    let body = match &response["body"] {
        Value::Null => Vec::new(),
        Value::String(text) if is_encoded => BASE64_STANDARD.decode(text).ok()?,
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    };
    Some(Reply {
        status,
        headers,
        body,
    })
}

fn header_value(value: &Value) -> Option<HeaderValue> {
    match value {
        Value::String(text) => HeaderValue::from_str(text).ok(),
        Value::Number(_) | Value::Bool(_) => HeaderValue::from_str(&value.to_string()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: &Value) -> Option<Reply> {
        reply(value.to_string().as_bytes())
    }

    #[test]
    fn any_json_is_a_body() {
        for payload in [r#""Hello""#, r#"{"a": 1}"#, "[1]", "null"] {
            let reply = reply(payload.as_bytes()).unwrap();
            assert_eq!(reply.status, StatusCode::OK);
            assert_eq!(reply.headers["content-type"], "application/json");
            assert_eq!(reply.body, payload.as_bytes());
        }
    }

    #[test]
    fn a_response_is_taken_apart() {
        let made = of(&json!({
            "statusCode": 201,
            "headers": { "X-A": "1", "x-n": 2, "Content-Length": "99", "Content-Type": "text/html" },
            "cookies": ["a=1", "b=2; HttpOnly"],
            "body": "<p>",
        }))
        .unwrap();
        assert_eq!(made.status, StatusCode::CREATED);
        assert_eq!(made.headers["x-a"], "1");
        assert_eq!(made.headers["x-n"], "2");
        assert_eq!(made.headers["content-type"], "text/html");
        assert!(!made.headers.contains_key("content-length"));
        let cookies: Vec<_> = made.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2; HttpOnly"]);
        assert_eq!(made.body, b"<p>");
        let encoded = json!({ "statusCode": 200, "body": "/w==", "isBase64Encoded": true });
        assert_eq!(of(&encoded).unwrap().body, b"\xff");
        let object = json!({ "statusCode": "200", "body": { "a": 1 } });
        assert_eq!(of(&object).unwrap().body, br#"{"a":1}"#);
    }

    #[test]
    fn what_cannot_be_a_response_is_none() {
        for value in [
            json!({ "statusCode": "fine" }),
            json!({ "statusCode": 99 }),
            json!({ "statusCode": 600 }),
            json!({ "statusCode": 200, "headers": [] }),
            json!({ "statusCode": 200, "headers": { "a b": "" } }),
            json!({ "statusCode": 200, "headers": { "a": "\n" } }),
            json!({ "statusCode": 200, "body": "?", "isBase64Encoded": true }),
        ] {
            assert_eq!(of(&value), None, "{value}");
        }
    }
}
