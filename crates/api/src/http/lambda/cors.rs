//! Which pages of other sites may use a function's URL (CORS), as AWS answers browsers that ask.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Violations;

const METHODS: [&str; 8] = [
    "GET", "PUT", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "*",
];

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cors {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_credentials: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expose_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
}

impl Cors {
    pub fn check(&self, v: &mut Violations) {
        v.count("cors.allowHeaders", self.allow_headers.as_deref(), 0, 100);
        v.count("cors.allowMethods", self.allow_methods.as_deref(), 0, 6);
        v.each_of("cors.allowMethods", self.allow_methods.as_deref(), &METHODS);
        v.count("cors.allowOrigins", self.allow_origins.as_deref(), 0, 100);
        for origin in self.allow_origins.iter().flatten() {
            v.length("cors.allowOrigins", Some(origin), 1, 253);
        }
        v.count("cors.exposeHeaders", self.expose_headers.as_deref(), 0, 100);
        v.range("cors.maxAge", self.max_age, 0, 86_400);
    }

    /// As it is kept.
    pub fn to_value(&self) -> Option<Value> {
        let value = serde_json::to_value(self).ok();
        value.filter(|_| *self != Cors::default())
    }

    pub fn of_value(value: Option<&Value>) -> Option<Cors> {
        serde_json::from_value(value?.clone()).ok()
    }

    fn allows(&self, origin: &str) -> bool {
        let fits = |pattern: &String| match pattern.split_once('*') {
            None => pattern == origin,
            Some((before, after)) => {
                origin.len() >= before.len() + after.len()
                    && origin.starts_with(before)
                    && origin.ends_with(after)
            }
        };
        self.allow_origins.iter().flatten().any(fits)
    }

    /// The headers of the answer to a question before the request, if that is what came.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if *method != Method::OPTIONS || !headers.contains_key(header::ORIGIN) {
            return None;
        }
        let mut answer = self.headers(headers);
        if !answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return Some(answer);
        }
        let lists = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                &self.allow_methods,
                Some(asked),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                &self.allow_headers,
                headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS),
            ),
        ];
        for (name, list, asked) in lists {
            // Browsers do not take `*` where credentials are sent, so what is asked for is allowed by its name.
            let is_all = list.iter().flatten().any(|one| one == "*");
            match asked {
                Some(asked) if is_all => drop(answer.insert(name, asked.clone())),
                _ => put_list(&mut answer, name, list),
            }
        }
        if let Some(seconds) = self.max_age {
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds));
        }
        Some(answer)
    }

    /// The headers of every answer to a page of another site; none if it may not read it.
    pub fn headers(&self, asked: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let Some(origin) = asked.get(header::ORIGIN) else {
            return answer;
        };
        answer.insert(header::VARY, HeaderValue::from_static("Origin"));
        if !origin.to_str().is_ok_and(|origin| self.allows(origin)) {
            return answer;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.allow_credentials == Some(true) {
            let yes = HeaderValue::from_static("true");
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        let exposed = &self.expose_headers;
        put_list(&mut answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        answer
    }
}

fn put_list(answer: &mut HeaderMap, name: HeaderName, list: &Option<Vec<String>>) {
    let text = list.as_deref().unwrap_or_default().join(",");
    if let Ok(value) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        answer.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cors(value: Value) -> Cors {
        serde_json::from_value(value).unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn origins_are_allowed_by_name_or_pattern() {
        for (allowed, origin, expected) in [
            ("*", "https://a.example", true),
            ("https://*", "https://a.example", true),
            ("https://*", "http://a.example", false),
            ("http://localhost:*", "http://localhost:1", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://a.example.evil", false),
        ] {
            let cors = cors(json!({ "AllowOrigins": [allowed] }));
            assert_eq!(cors.allows(origin), expected, "{allowed} {origin}");
        }
        assert!(!Cors::default().allows("https://a.example"));
    }

    #[test]
    fn a_question_before_the_request_is_answered() {
        let cors = cors(json!({
            "AllowOrigins": ["https://a.example"], "AllowMethods": ["GET", "POST"],
            "AllowHeaders": ["*"], "MaxAge": 60, "AllowCredentials": true,
        }));
        let asked = headers(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-a"),
        ]);
        let answer = cors.preflight(&Method::OPTIONS, &asked).unwrap();
        for (name, expected) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "60"),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer[name], expected, "{name}");
        }
        assert!(cors.preflight(&Method::GET, &asked).is_none());
        let other = headers(&[
            ("origin", "https://b.example"),
            ("access-control-request-method", "POST"),
        ]);
        let answer = cors.preflight(&Method::OPTIONS, &other).unwrap();
        assert_eq!(answer.len(), 1, "{answer:?}");
    }

    #[test]
    fn answers_tell_who_may_read_them() {
        let cors = cors(json!({ "AllowOrigins": ["*"], "ExposeHeaders": ["x-a", "x-b"] }));
        let answer = cors.headers(&headers(&[("origin", "https://a.example")]));
        assert_eq!(answer["access-control-expose-headers"], "x-a,x-b");
        assert!(cors.headers(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn settings_are_checked_and_kept() {
        let mut violations = Violations::default();
        cors(json!({ "AllowMethods": ["FETCH"], "MaxAge": -1 })).check(&mut violations);
        let message = violations.end().unwrap_err().message;
        assert!(message.starts_with("2 validation errors"), "{message}");
        let kept = cors(json!({ "AllowOrigins": ["*"] })).to_value();
        assert_eq!(kept, Some(json!({ "AllowOrigins": ["*"] })));
        assert_eq!(Cors::of_value(kept.as_ref()).unwrap().to_value(), kept);
        assert_eq!(Cors::default().to_value(), None);
    }
}
