//! The least client of AWS Lambda's API that a test needs, and zips for it.

use std::{
    io::{Cursor, Write},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::http::Request;
use zip::{ZipWriter, write::SimpleFileOptions};

pub const FUNCTIONS: &str = "/2015-03-31/functions";
pub const ROLE: &str = "arn:aws:iam::123456789012:role/r";
/// A `bootstrap` that answers with its event.
pub const BASH: &str = r#"#!/bin/bash
api="http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime"
cd /tmp
while true; do
    event=$(curl --noproxy '*' -sS -D headers "${api}/invocation/next")
    id=$(sed -n 's/^lambda-runtime-aws-request-id: //Ip' headers | tr -d '\r')
    curl --noproxy '*' -sS -o /dev/null "${api}/invocation/${id}/response" -d "${event}"
done
"#;

/// One connection or a few; clones share them.
#[derive(Clone)]
pub struct Api {
    agent: ureq::Agent,
    url: String,
}

impl Api {
    pub fn new(url: &str) -> Api {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build();
        Api {
            agent: config.into(),
            url: url.to_owned(),
        }
    }

    /// Status and body; `None` without an answer: whether anything was done is not known.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        let answer = match body {
            None => self.agent.run(request.body(()).expect("it is one")),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent
                    .run(request.body(body.to_string()).expect("it is one"))
            }
        };
        let mut answer = answer.ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        };
        Some((answer.status().as_u16(), body))
    }

    /// The same, and it must be done.
    #[track_caller]
    pub fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.call(method, path, Some(body));
        let (status, answer) = answer.unwrap_or_else(|| panic!("{method} {path}: no answer"));
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    /// Queues an event: its request id, if it was accepted.
    pub fn queue(&self, function: &str, event: &Value) -> Option<String> {
        let request = Request::post(format!("{}{FUNCTIONS}/{function}/invocations", self.url))
            .header("x-amz-invocation-type", "Event")
            .body(event.to_string())
            .expect("it is one");
        let answer = self.agent.run(request).ok()?;
        let id = answer.headers().get("x-amzn-requestid")?.to_str().ok()?;
        (answer.status() == 202).then(|| id.to_owned())
    }
}

/// A zip of these files, the same for the same files; all of them can be executed.
pub fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    for (path, content) in files {
        zip.start_file(*path, options).expect("it is in memory");
        zip.write_all(content.as_bytes()).expect("it is in memory");
    }
    zip.finish().expect("it is in memory").into_inner()
}

/// As requests carry it.
pub fn base64(zip: &[u8]) -> String {
    STANDARD.encode(zip)
}

/// As `CodeSha256` has it.
pub fn sha256(zip: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(zip))
}
