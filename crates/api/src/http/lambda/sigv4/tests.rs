//! Requests that botocore signed (`tests/signatures`), as they were and with each part of them changed.

use axum::http::{HeaderName, HeaderValue, Request};
use serde::Deserialize;

use super::*;
use crate::keys::Secret;

#[derive(Deserialize)]
struct Vectors {
    key: String,
    secret: String,
    token: String,
    region: String,
    now: String,
    vectors: Vec<Vector>,
}

#[derive(Clone, Deserialize)]
struct Vector {
    name: String,
    /// Whether it was signed with a session token.
    token: bool,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
}

fn vectors() -> Vectors {
    let text = include_str!("../../../../tests/signatures/vectors.json");
    serde_json::from_str(text).unwrap()
}

impl Vector {
    fn head(&self) -> Parts {
        let mut request = Request::new(());
        *request.method_mut() = self.method.parse().unwrap();
        *request.uri_mut() = self.target.parse().unwrap();
        for (name, value) in &self.headers {
            request.headers_mut().append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        request.into_parts().0
    }

    fn is_presigned(&self) -> bool {
        self.target.contains("X-Amz-Signature=")
    }

    fn header(&mut self, name: &str) -> &mut String {
        let mut headers = self.headers.iter_mut();
        &mut headers.find(|(of, _)| of == name).unwrap().1
    }

    fn with(&self, name: &str, value: &str) -> Vector {
        let mut changed = self.clone();
        changed.headers.retain(|(of, _)| of != name);
        changed.headers.push((name.to_owned(), value.to_owned()));
        changed
    }

    fn without(&self, name: &str) -> Vector {
        let mut changed = self.clone();
        changed.headers.retain(|(of, _)| of != name);
        changed
    }
}

impl Vectors {
    fn named(&self, name: &str) -> Vector {
        let mut all = self.vectors.iter();
        all.find(|vector| vector.name == name).unwrap().clone()
    }

    fn now_s(&self) -> i64 {
        seconds(&self.now).unwrap()
    }

    fn keys(&self, token: bool) -> Keys {
        let mut key = Key::new(&self.key, Secret::new(&self.secret), None, None);
        key.session_token = token.then(|| Secret::new(&self.token));
        Keys::new([key])
    }

    fn checked(&self, vector: &Vector) -> Result<Arc<Key>, Refusal> {
        self.checked_at(vector, self.now_s())
    }

    fn checked_at(&self, vector: &Vector, now_s: i64) -> Result<Arc<Key>, Refusal> {
        let claim = Claim::read(&self.keys(vector.token), &vector.head(), now_s)?;
        claim.check_head()?;
        claim.check_body(vector.body.as_bytes())?;
        assert_eq!(claim.region, self.region);
        Ok(claim.key)
    }

    #[track_caller]
    fn refuses(&self, vector: &Vector, part: &str) {
        let refusal = self.checked(vector).unwrap_err();
        let text = format!("{refusal:?}");
        assert!(text.contains(part), "{}: {text}", vector.name);
    }
}

#[test]
fn what_botocore_signs_is_right() {
    let vectors = vectors();
    assert!(vectors.vectors.len() > 30);
    for vector in &vectors.vectors {
        assert!(is_signed(&vector.head()), "{}", vector.name);
        let key = vectors.checked(vector);
        assert_eq!(key.unwrap().id, vectors.key, "{}", vector.name);
    }
}

#[test]
fn whatever_is_changed_is_noticed() {
    let vectors = vectors();
    for vector in &vectors.vectors {
        let mut others = Vec::new();
        let mut change = |what: &dyn Fn(&mut Vector)| {
            let mut other = vector.clone();
            what(&mut other);
            others.push(other);
        };
        change(&|other| other.body.push(' '));
        change(&|other| other.method = "PATCH".to_owned());
        change(&|other| *other.header("host") = "other:17070".to_owned());
        change(&|other| {
            let mark = if other.target.contains('?') { '&' } else { '?' };
            other.target += &format!("{mark}Qualifier=1");
        });
        change(&|other| {
            other.target = other
                .target
                .replacen("/20", "/21", 1)
                .replacen("-url/0", "-url/1", 1)
        });
        if !vector.is_presigned() {
            change(&|other| {
                let authorization = other.header("authorization");
                let last = authorization.pop().unwrap();
                authorization.push(if last == '0' { '1' } else { '0' });
            });
        }
        for other in others {
            vectors.refuses(&other, "does not match");
        }
        let mut key = Key::new(&vectors.key, Secret::new("another"), None, None);
        key.session_token = vector.token.then(|| Secret::new(&vectors.token));
        let claim = Claim::read(&Keys::new([key]), &vector.head(), vectors.now_s()).unwrap();
        let checked = claim.check_body(vector.body.as_bytes());
        assert_eq!(checked, Err(Refusal::mismatch()), "{}", vector.name);
        let unknown = Claim::read(&Keys::default(), &vector.head(), vectors.now_s());
        assert_eq!(unknown.unwrap_err(), Refusal::UnknownKey);
    }
}

#[test]
fn a_signature_holds_for_five_minutes_either_way() {
    let vectors = vectors();
    let (vector, now_s) = (vectors.named("a payload"), vectors.now_s());
    for (after_s, expected) in [
        (0, ""),
        (300, ""),
        (-300, ""),
        (
            301,
            "Signature expired: 20261127T123045Z is now earlier than 20261127T123046Z (20261127T123546Z - 5 min.)",
        ),
        (
            -301,
            "Signature not yet current: 20261127T123045Z is still later than 20261127T123044Z (20261127T122544Z + 5 min.)",
        ),
        (86_400 * 365, "Signature expired"),
    ] {
        match vectors.checked_at(&vector, now_s + after_s) {
            Ok(_) => assert_eq!(expected, "", "{after_s}"),
            Err(Refusal::Invalid(text)) => {
                assert!(
                    !expected.is_empty() && text.starts_with(expected),
                    "{after_s}: {text}"
                );
            }
            Err(other) => panic!("{after_s}: {other:?}"),
        }
    }
    let presigned = vectors.named("a presigned URL");
    for (after_s, is_right) in [(900, true), (901, false), (-300, true), (-301, false)] {
        let checked = vectors.checked_at(&presigned, now_s + after_s);
        assert_eq!(checked.is_ok(), is_right, "{after_s}: {checked:?}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let vectors = vectors();
    let vector = vectors.named("a payload");
    let date = "either a 'X-Amz-Date' or a 'Date' header";
    let unsigned = vector.without("authorization");
    assert!(!is_signed(&unsigned.head()));
    assert_eq!(vectors.checked(&unsigned).unwrap_err(), Refusal::Missing);
    let scope = "AKIAIOSFODNN7EXAMPLE/20261127/eu-west-1/lambda/aws4_request";
    let digits = "0".repeat(64);
    let authorized = |text: String| vector.with("authorization", &text);
    let full = |scope: &str, headers: &str, signature: &str| {
        authorized(format!(
            "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={headers}, Signature={signature}"
        ))
    };
    let all = "host;x-amz-client-context;x-amz-date;x-amz-log-type";
    for (other, part) in [
        (vector.without("x-amz-date"), date),
        (
            authorized("AWS4-HMAC-SHA256".to_owned()),
            "requires 'SignedHeaders'",
        ),
        (
            authorized(format!(
                "AWS4-HMAC-SHA256 Credential={scope}, Signature={digits}"
            )),
            "requires 'SignedHeaders'",
        ),
        (
            authorized("AWS4-ECDSA-P256-SHA256 Credential=x".to_owned()),
            "Unsupported AWS 'algorithm'",
        ),
        (full("AKID/20261127/lambda", all, &digits), "exactly 5"),
        (
            full("Other/20261127/eu-west-1/lambda/aws4_request", all, &digits),
            "UnknownKey",
        ),
        (
            full(&scope.replace("lambda", "s3"), all, &digits),
            "correct service",
        ),
        (
            full(&scope.replace("aws4_request", "x"), all, &digits),
            "terminator",
        ),
        (
            full(&scope.replace("20261127", "20261126"), all, &digits),
            "'20261126' != '20261127'",
        ),
        (
            full(&scope.replace("20261127", ""), all, &digits),
            "does not match YYYYMMDD",
        ),
        (full(scope, all, &digits), "does not match"),
        (full(scope, all, "xyz"), "does not match"),
        (full(scope, all, &"+0".repeat(32)), "does not match"),
        (full(scope, "x-amz-date", &digits), "'Host'"),
        (
            full(scope, "host;x-amz-date;x-amz-log-type", &digits),
            "'x-amz-client-context' must be",
        ),
        (
            vector.with("x-amz-invocation-type", "Event"),
            "'x-amz-invocation-type' must be",
        ),
        (vector.with("x-amz-date", "yesterday"), "basic format"),
        (
            vector.with("x-amz-date", "20261127T123099Z"),
            "basic format",
        ),
        (vector.with("x-amz-security-token", "x"), "UnknownKey"),
        (
            vector.with("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            "no unsigned",
        ),
        (
            vector.with("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            "no unsigned",
        ),
    ] {
        vectors.refuses(&other, part);
    }
    let token = vectors.named("a session token");
    vectors.refuses(&token.without("x-amz-security-token"), "UnknownKey");
    vectors.refuses(&token.with("x-amz-security-token", "other"), "UnknownKey");
    // What proxies add is not signed.
    let through = vector
        .with("x-amz-cf-id", "x")
        .with("x-amzn-trace-id", "Root=1")
        .with("x-forwarded-for", "1");
    assert!(vectors.checked(&through).is_ok());
}

#[test]
fn presigned_urls_are_read_strictly() {
    let vectors = vectors();
    let vector = vectors.named("a presigned URL");
    let changed = |from: &str, to: &str| {
        let mut other = vector.clone();
        assert!(other.target.contains(from));
        other.target = other.target.replacen(from, to, 1);
        other
    };
    let mut unreadable = vector.clone();
    let signature = unreadable.target.find("X-Amz-Signature=").unwrap();
    unreadable.target.truncate(signature);
    unreadable.target += &format!("X-Amz-Signature={}", "%C3%BC".repeat(32));
    for (other, part) in [
        (unreadable, "does not match"),
        (
            changed("X-Amz-Expires=900", "X-Amz-Expires=901"),
            "does not match",
        ),
        (
            changed("X-Amz-Expires=900", "X-Amz-Expires=0"),
            "from 1 to 604800",
        ),
        (
            changed("X-Amz-Expires=900", "X-Amz-Expires=604801"),
            "from 1 to 604800",
        ),
        (
            changed("X-Amz-Expires=900&", ""),
            "must include 'X-Amz-Expires'",
        ),
        (
            changed("X-Amz-Credential", "X-Credential"),
            "must include 'X-Amz-Credential'",
        ),
        (changed("A=2&", "A=3&"), "does not match"),
        (
            vector.with("x-amz-invocation-type", "Event"),
            "must be a 'SignedHeader'",
        ),
        (
            vector.with("authorization", "AWS4-HMAC-SHA256 Credential=x"),
            "not in both",
        ),
    ] {
        vectors.refuses(&other, part);
    }
}

#[test]
fn dots_in_a_path_are_never_right() {
    let vectors = vectors();
    let vector = vectors.named("a path that ends with a slash");
    for path in ["/./", "/b/../", "/../0123456789abcdef0123456789abcdef/"] {
        let mut other = vector.clone();
        other.target = other.target.replacen("/a/", &format!("{path}a/"), 1);
        vectors.refuses(&other, "does not match");
    }
}

#[test]
fn our_client_signs_as_botocore_does() {
    let vectors = vectors();
    let vector = vectors.named("a body's digest that is told");
    let signer = |token: bool| Signer {
        key_id: vectors.key.clone(),
        secret: Secret::new(&vectors.secret),
        session_token: token.then(|| Secret::new(&vectors.token)),
        region: vectors.region.clone(),
    };
    let request = Unsigned {
        method: &vector.method,
        path: &vector.target,
        query: "",
        headers: &[("host", "127.0.0.1:17070")],
        body: vector.body.as_bytes(),
    };
    let added = signer(false).sign(&request, vectors.now_s());
    let authorization = added.iter().find(|(name, _)| *name == "authorization");
    assert_eq!(
        authorization.unwrap().1,
        *vector.clone().header("authorization")
    );
    // And what it signs is right.
    for token in [false, true] {
        let headers = [("host", "h"), ("x-amz-log-type", "Tail")];
        let request = Unsigned {
            method: "POST",
            path: "/v1/a%20b",
            query: "b=%C3%BC&a=1&flag",
            headers: &headers,
            body: b"body",
        };
        let added = signer(token).sign(&request, vectors.now_s());
        let all = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let sent = Vector {
            name: "ours".to_owned(),
            token,
            method: "POST".to_owned(),
            target: "/v1/a%20b?b=%C3%BC&a=1&flag".to_owned(),
            headers: all
                .chain(added)
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body: "body".to_owned(),
        };
        assert!(vectors.checked(&sent).is_ok());
    }
}

#[test]
fn a_proof_is_taken_out_of_a_query() {
    for (uri, expected) in [
        ("/a%20b", "/a%20b"),
        ("/a?x=1&x=%32&flag", "/a?x=1&x=%32&flag"),
        (
            "/a?x=1&X-Amz-Signature=00&X-Amz-Date=d&X%2DAmz-Credential=k&X-Amz-Security-Token=t&y",
            "/a?x=1&X-Amz-Date=d&y",
        ),
        ("/a?X-Amz-Signature=00", "/a?"),
    ] {
        let uri: Uri = uri.parse().unwrap();
        assert_eq!(without_signature(&uri).to_string(), expected);
    }
}
