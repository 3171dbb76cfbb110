//! Components of modules in the text format: what their imports are to a component is worked out from `worlds.wit`.

#![allow(
    dead_code,
    reason = "each test program uses a part, and clippy cannot know which"
)]

use std::{collections::BTreeMap, ops::Bound, path::Path, sync::Mutex, time::Duration};

use lambic_model::Outcome;
use lambic_sandbox::{
    Error, Execution,
    wasm::{HostServices, Limits, Module, ServiceError, Wasm},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    memory_mb: 32,
    log_bytes_max: 64 << 10,
};
pub const SHORT: Limits = Limits {
    timeout: Duration::from_millis(300),
    ..LIMITS
};

/// A component of a core module in the text format, of a world of `worlds.wit`.
pub fn component(world: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in [
        "wit/deps/lambic-functions.wit",
        "wit/deps/wasi-keyvalue.wit",
        "tests/components/worlds.wit",
    ] {
        let path = root.join(path);
        let text = std::fs::read_to_string(&path).unwrap();
        resolve.push_str(&path, &text).unwrap();
    }
    let of = |package: &wit_parser::Package| package.name.namespace == "test";
    let (package, _) = resolve
        .packages
        .iter()
        .find(|(_, package)| of(package))
        .unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .unwrap()
        .encode()
        .unwrap()
}

pub fn load(code: &[u8]) -> Result<Module, Error> {
    let dir = tempfile::tempdir().unwrap();
    Wasm::new(dir.path()).unwrap().load(code, LIMITS)
}

pub async fn invoke(module: &Module, event: &str, limits: Limits) -> Execution {
    module.invoke("id", event.as_bytes(), &[], limits).await
}

pub fn result(execution: &Execution) -> String {
    match &execution.outcome {
        Outcome::Success(result) => String::from_utf8(result.clone()).unwrap(),
        Outcome::Failure { payload, .. } => {
            panic!(
                "it failed: {} {:?}",
                String::from_utf8_lossy(payload),
                lines(execution)
            )
        }
    }
}

/// Type and message.
pub fn error(execution: &Execution) -> (String, String) {
    let Outcome::Failure { payload, .. } = &execution.outcome else {
        panic!("it succeeded: {:?}", execution.outcome)
    };
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let text = |key: &str| payload[key].as_str().unwrap().to_owned();
    (text("errorType"), text("errorMessage"))
}

pub fn lines(execution: &Execution) -> Vec<&str> {
    execution
        .lines
        .iter()
        .map(|line| line.line.as_str())
        .collect()
}

/// What all modules have: memory, a `cabi_realloc` that only takes, and data. Bytes 0 to 63 are for what is returned.
const MEMORY: &str = r#"
(memory (export "memory") 1)
(global $free (mut i32) (i32.const 4096))
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
  (global.set $free (i32.add (local.get $at) (local.get 3)))
  (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
    (then (drop (memory.grow
      (i32.add (i32.const 1) (i32.shr_u (local.get 3) (i32.const 16)))))))
  (local.get $at))
"#;

/// `$read stream`: all of it, at 64 its place and at 68 its length. `$put stream at length`.
const STREAMS: &str = r#"
(import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read"
  (func $blocking-read (param i32 i64 i32)))
(import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
  (func $blocking-write (param i32 i32 i32 i32)))
(import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-output (param i32)))
"#;

const STREAM_FUNCTIONS: &str = r#"
(func $read (param $stream i32)
  (i32.store (i32.const 64) (i32.const 0))
  (i32.store (i32.const 68) (i32.const 0))
  (block $end
    (loop $more
      (call $blocking-read (local.get $stream) (i64.const 1048576) (i32.const 0))
      (br_if $end (i32.load8_u (i32.const 0)))
      ;; Parts that are taken one after the other stand one behind the other, but for what aligns them.
      (if (i32.eqz (i32.load (i32.const 64)))
        (then (i32.store (i32.const 64) (i32.load (i32.const 4)))))
      (i32.store (i32.const 68)
        (i32.sub (i32.add (i32.load (i32.const 4)) (i32.load (i32.const 8))) (i32.load (i32.const 64))))
      (br $more))))
(func $put (param $stream i32) (param $at i32) (param $length i32)
  (local $part i32)
  (loop $more
    (if (local.get $length)
      (then
        (local.set $part (select (local.get $length) (i32.const 4096)
          (i32.lt_u (local.get $length) (i32.const 4096))))
        (call $blocking-write (local.get $stream) (local.get $at) (local.get $part) (i32.const 0))
        (if (i32.load8_u (i32.const 0)) (then (return)))
        (local.set $at (i32.add (local.get $at) (local.get $part)))
        (local.set $length (i32.sub (local.get $length) (local.get $part)))
        (br $more)))))
"#;

const HTTP: &str = r#"
(import "wasi:http/types@0.2.0" "[constructor]fields" (func $new-fields (result i32)))
(import "wasi:http/types@0.2.0" "[method]fields.append"
  (func $append (param i32 i32 i32 i32 i32 i32)))
(import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
(import "wasi:http/types@0.2.0" "[method]incoming-request.authority" (func $authority (param i32 i32)))
(import "wasi:http/types@0.2.0" "[method]incoming-request.consume" (func $consume (param i32 i32)))
(import "wasi:http/types@0.2.0" "[method]incoming-body.stream" (func $body-stream (param i32 i32)))
(import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $new-response (param i32) (result i32)))
(import "wasi:http/types@0.2.0" "[method]outgoing-response.set-status-code"
  (func $set-status (param i32 i32) (result i32)))
(import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $new-body (param i32 i32)))
(import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $body-write (param i32 i32)))
(import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $body-finish (param i32 i32 i32 i32)))
(import "wasi:http/types@0.2.0" "[resource-drop]outgoing-body" (func $drop-body (param i32)))
(import "wasi:http/types@0.2.0" "[resource-drop]response-outparam" (func $drop-outparam (param i32)))
(import "wasi:http/types@0.2.0" "[static]response-outparam.set"
  (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
"#;

const HTTP_FUNCTIONS: &str = r#"
;; Answers with a status and headers, and gives the body, whose stream is in $stream then.
(global $fields (mut i32) (i32.const 0))
(global $stream (mut i32) (i32.const 0))
(func $headers (if (i32.eqz (global.get $fields)) (then (global.set $fields (call $new-fields)))))
(func $header (param $name i32) (param $name-length i32) (param $value i32) (param $value-length i32)
  (call $headers)
  (call $append (global.get $fields) (local.get $name) (local.get $name-length)
    (local.get $value) (local.get $value-length) (i32.const 0)))
(func $answer (param $outparam i32) (param $status i32) (result i32)
  (local $response i32) (local $body i32)
  (call $headers)
  (local.set $response (call $new-response (global.get $fields)))
  (drop (call $set-status (local.get $response) (local.get $status)))
  (call $new-body (local.get $response) (i32.const 0))
  (local.set $body (i32.load (i32.const 4)))
  (call $body-write (local.get $body) (i32.const 0))
  (global.set $stream (i32.load (i32.const 4)))
  (call $set (local.get $outparam) (i32.const 0) (local.get $response)
    (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
  (local.get $body))
(func $finish (param $body i32)
  (call $drop-output (global.get $stream))
  (call $body-finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 0)))
;; All at once.
(func $respond (param $outparam i32) (param $status i32) (param $at i32) (param $length i32)
  (local $body i32)
  (local.set $body (call $answer (local.get $outparam) (local.get $status)))
  (call $put (global.get $stream) (local.get $at) (local.get $length))
  (call $finish (local.get $body)))
;; The request's body, as $read leaves it.
(func $read-body (param $request i32)
  (call $consume (local.get $request) (i32.const 0))
  (call $body-stream (i32.load (i32.const 4)) (i32.const 0))
  (call $read (i32.load (i32.const 4))))
"#;

/// A component whose `handle` runs `body` with `$request` and `$outparam`; `extra` stands before it.
pub fn http_with(imports: &str, extra: &str, body: &str) -> Vec<u8> {
    component(
        "http",
        &format!(
            r#"(module {STREAMS} {HTTP} {imports} {MEMORY} {STREAM_FUNCTIONS} {HTTP_FUNCTIONS} {extra}
              (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $outparam i32)
                (local $body i32) (local $count i32)
                {body}))"#
        ),
    )
}

pub fn http(extra: &str, body: &str) -> Vec<u8> {
    http_with("", extra, body)
}

const COMMAND: &str = r#"
(import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
(import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
(import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))
(import "wasi:cli/exit@0.2.12" "exit-with-code" (func $exit-with-code (param i32)))
"#;

/// A command that runs `body`, which gives 0 or 1.
pub fn command(extra: &str, body: &str) -> Vec<u8> {
    component(
        "command",
        &format!(
            r#"(module {STREAMS} {COMMAND} {MEMORY} {STREAM_FUNCTIONS} {extra}
              (func (export "wasi:cli/run@0.2.0#run") (result i32)
                (local $out i32)
                {body}))"#
        ),
    )
}

/// What a component of HTTP may import besides: values that stay, and streams.
pub const SERVICES: &str = r#"
(import "lambic:functions/key-value@0.1.0" "get" (func $get (param i32 i32 i32 i32 i32)))
(import "lambic:functions/key-value@0.1.0" "set" (func $set-value (param i32 i32 i32 i32 i32 i32 i32)))
(import "lambic:functions/key-value@0.1.0" "delete" (func $delete (param i32 i32 i32 i32 i32)))
(import "lambic:functions/key-value@0.1.0" "keys" (func $keys (param i32 i32 i32 i32 i32 i32 i32)))
(import "lambic:functions/streams@0.1.0" "append" (func $append-records (param i32 i32 i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "open" (func $open (param i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.get" (func $bucket-get (param i32 i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.set"
  (func $bucket-set (param i32 i32 i32 i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.delete" (func $bucket-delete (param i32 i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.exists" (func $bucket-exists (param i32 i32 i32 i32)))
(import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.list-keys" (func $list-keys (param i32 i32 i64 i32)))
"#;

/// Keeps in memory; some names stand for troubles.
#[derive(Default)]
pub struct Kept {
    values: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    pub appended: Mutex<Vec<(String, String)>>,
}

impl Kept {
    pub fn len(&self) -> usize {
        self.values.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl HostServices for Kept {
    async fn get(&self, store: &str, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        match store {
            "never" => std::future::pending().await,
            "broken" => Err(ServiceError::Unavailable("broken".to_owned())),
            "denied" => Err(ServiceError::Denied("denied".to_owned())),
            _ => {
                let values = self.values.lock().unwrap();
                Ok(values.get(&(store.to_owned(), key.to_owned())).cloned())
            }
        }
    }

    async fn set(&self, store: &str, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        if store == "full" {
            return Err(ServiceError::Full("full".to_owned()));
        }
        let mut values = self.values.lock().unwrap();
        values.insert((store.to_owned(), key.to_owned()), value);
        Ok(())
    }

    async fn delete(&self, store: &str, key: &str) -> Result<(), ServiceError> {
        let mut values = self.values.lock().unwrap();
        values.remove(&(store.to_owned(), key.to_owned()));
        Ok(())
    }

    async fn keys(
        &self,
        store: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, ServiceError> {
        assert!(count <= 1_000);
        let values = self.values.lock().unwrap();
        let after = after.unwrap_or_default();
        let from = Bound::Excluded((store.to_owned(), after.to_owned()));
        let behind = values.range((from, Bound::Unbounded));
        let behind = behind.filter(|((of, _), _)| of == store);
        Ok(behind
            .map(|((_, key), _)| key.clone())
            .take(count)
            .collect())
    }

    async fn append(&self, stream: &str, records: Vec<u8>) -> Result<(), ServiceError> {
        if stream == "secret" {
            return Err(ServiceError::Denied("no".to_owned()));
        }
        let records = String::from_utf8(records).unwrap();
        self.appended
            .lock()
            .unwrap()
            .push((stream.to_owned(), records));
        Ok(())
    }
}
