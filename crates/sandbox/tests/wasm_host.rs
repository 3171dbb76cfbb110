//! What components ask of their host: values that stay, and records for streams.

mod components;

use std::sync::Arc;

use bytes::Bytes;
use components::{Kept, LIMITS, SERVICES, SHORT, error, http_with, load};
use hyper::Request;
use lambic_sandbox::wasm::{HostServices, Limits, Served};

/// Answers 200 with the value or 500 and the number of the error with its message, of a result at 0.
const TELL: &str = r#"
(func $tell (param $outparam i32)
  (call $respond (local.get $outparam)
    (select (i32.add (i32.const 500) (i32.load8_u (i32.const 4))) (i32.const 200) (i32.load8_u (i32.const 0)))
    (i32.load (i32.const 8)) (i32.load (i32.const 12))))
"#;

/// A call of `function` with texts and what else it takes; its result is told.
fn call(function: &str, texts: &[&str], more: &str) -> Vec<u8> {
    let mut data = String::new();
    let mut arguments = String::new();
    let mut at = 1_024;
    for text in texts {
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        data.push_str(&format!("(data (i32.const {at}) \"{escaped}\")"));
        arguments.push_str(&format!("(i32.const {at}) (i32.const {})", text.len()));
        at += text.len();
    }
    assert!(at < 4_096);
    http_with(
        SERVICES,
        &format!("{TELL} {data}"),
        &format!(
            "(drop (memory.grow (i32.const 17)))
             (call {function} {arguments} {more} (i32.const 0)) (call $tell (local.get $outparam))"
        ),
    )
}

async fn ask(services: &Arc<Kept>, code: &[u8], limits: Limits) -> Served {
    let module = load(code).unwrap().with_services(services.clone());
    let request = Request::new(Bytes::new().into());
    module.serve("id", request, &[], limits, None).await
}

async fn told(services: &Arc<Kept>, code: &[u8]) -> (u16, String) {
    let served = ask(services, code, LIMITS).await;
    let response = served
        .response
        .unwrap_or_else(|| panic!("{:?}", served.execution));
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    (response.status().as_u16(), body)
}

fn fine(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

#[tokio::test]
async fn values_stay() {
    let services = Arc::new(Kept::default());
    let get = call("$get", &["a", "größe"], "");
    assert_eq!(told(&services, &get).await, fine(""));
    let set = call("$set-value", &["a", "größe", "viel"], "");
    assert_eq!(told(&services, &set).await, fine(""));
    assert_eq!(told(&services, &get).await, fine("viel"));
    let other = call("$get", &["b", "größe"], "");
    assert_eq!(told(&services, &other).await, fine(""));
    let delete = call("$delete", &["a", "größe"], "");
    for _ in 0..2 {
        assert_eq!(told(&services, &delete).await, fine(""));
    }
    assert_eq!(told(&services, &get).await, fine(""));
}

#[tokio::test]
async fn records_are_appended() {
    let services = Arc::new(Kept::default());
    let append = call("$append-records", &["flights", "[{\"a\": 1}]"], "");
    assert_eq!(told(&services, &append).await, fine(""));
    let refused = call("$append-records", &["secret", "[]"], "");
    assert_eq!(told(&services, &refused).await, (500, "no".to_owned()));
    let appended = services.appended.lock().unwrap();
    assert_eq!(
        *appended,
        [("flights".to_owned(), "[{\"a\": 1}]".to_owned())]
    );
}

#[tokio::test]
async fn troubles_have_their_kinds() {
    let services = Arc::new(Kept::default());
    let long = "k".repeat(1_025);
    for (code, expected) in [
        (
            call("$get", &["broken", "k"], ""),
            (502, "broken".to_owned()),
        ),
        (
            call("$get", &["denied", "k"], ""),
            (500, "denied".to_owned()),
        ),
        (
            call("$set-value", &["full", "k", "v"], ""),
            (501, "full".to_owned()),
        ),
        (
            call("$get", &["a b", "k"], ""),
            (
                500,
                "`a b` is not the name of a store: use 1 to 64 letters, digits, `-`, `_` and `.`"
                    .to_owned(),
            ),
        ),
        (
            call("$get", &["a", ""], ""),
            (500, "the key has 0 bytes; a key has 1 to 1024".to_owned()),
        ),
        (
            call("$delete", &["a", &long], ""),
            (
                500,
                "the key has 1025 bytes; a key has 1 to 1024".to_owned(),
            ),
        ),
        (
            call(
                "$set-value",
                &["a", "k"],
                "(i32.const 0) (i32.const 1048577)",
            ),
            (
                500,
                "the value has 1048577 bytes, over the limit of 1048576".to_owned(),
            ),
        ),
    ] {
        assert_eq!(told(&services, &code).await, expected);
    }
    assert_eq!(services.len(), 0);
    // Without services.
    let module = load(&call("$get", &["a", "k"], "")).unwrap();
    let served = module
        .serve("id", Request::new(Bytes::new().into()), &[], LIMITS, None)
        .await;
    assert_eq!(served.response.unwrap().status(), 502);
}

#[tokio::test]
async fn thousands_of_keys_are_listed_in_pages() {
    let services = Arc::new(Kept::default());
    for index in 0..2_500 {
        let key = format!("{index:05}");
        services.set("many", &key, Vec::new()).await.unwrap();
        services.set("more", &key, Vec::new()).await.unwrap();
    }
    // Counts all keys, and answers with the number and the last key.
    let through_pages = http_with(
        SERVICES,
        r#"(data (i32.const 1024) "many") (global $after (mut i32) (i32.const 0)) (global $after-length (mut i32) (i32.const 0))"#,
        "(loop
           (call $keys (i32.const 1024) (i32.const 4) (i32.const 1) (global.get $after) (global.get $after-length)
             (i32.const 100000) (i32.const 0))
           (if (i32.load8_u (i32.const 0)) (then (unreachable)))
           (local.set $count (i32.add (local.get $count) (i32.load (i32.const 8))))
           (if (i32.load (i32.const 8))
             (then
               (local.set $body (i32.add (i32.load (i32.const 4)) (i32.mul (i32.sub (i32.load (i32.const 8)) (i32.const 1)) (i32.const 8))))
               (global.set $after (i32.load (local.get $body)))
               (global.set $after-length (i32.load offset=4 (local.get $body)))))
           (br_if 0 (i32.eq (i32.load (i32.const 8)) (i32.const 1000))))
         (call $respond (local.get $outparam) (i32.div_u (local.get $count) (i32.const 10))
           (global.get $after) (global.get $after-length))",
    );
    assert_eq!(
        told(&services, &through_pages).await,
        (250, "02499".to_owned())
    );
    // The same by cursors of wasi:keyvalue; at 24 the cursor, at 16 whether there is one.
    let through_cursors = http_with(
        SERVICES,
        r#"(data (i32.const 1024) "many") (global $bucket (mut i32) (i32.const 0))"#,
        "(call $open (i32.const 1024) (i32.const 4) (i32.const 0))
         (if (i32.load8_u (i32.const 0)) (then (unreachable)))
         (global.set $bucket (i32.load (i32.const 4)))
         (i32.store8 (i32.const 16) (i32.const 0))
         (loop
           (call $list-keys (global.get $bucket) (i32.load8_u (i32.const 16)) (i64.load (i32.const 24)) (i32.const 0))
           (if (i32.load8_u (i32.const 0)) (then (unreachable)))
           (local.set $count (i32.add (local.get $count) (i32.load (i32.const 12))))
           (br_if 0 (i32.load8_u (i32.const 16))))
         ;; A cursor that nobody gave.
         (call $list-keys (global.get $bucket) (i32.const 1) (i64.const 3) (i32.const 0))
         (if (i32.eqz (i32.load8_u (i32.const 0))) (then (unreachable)))
         (call $respond (local.get $outparam) (i32.div_u (local.get $count) (i32.const 10)) (i32.const 0) (i32.const 0))",
    );
    assert_eq!(
        told(&services, &through_cursors).await,
        (250, String::new())
    );
}

#[tokio::test]
async fn buckets_of_wasi_are_stores() {
    let services = Arc::new(Kept::default());
    services
        .set("default", "k", b"value".to_vec())
        .await
        .unwrap();
    let ask_bucket = |name: &str, calls: &str| {
        http_with(
            SERVICES,
            &format!(
                r#"{TELL} (data (i32.const 1024) "{name}") (data (i32.const 1100) "k") (data (i32.const 1110) "new")"#
            ),
            &format!(
                "(call $open (i32.const 1024) (i32.const {}) (i32.const 0))
                 (if (i32.eqz (i32.load8_u (i32.const 0)))
                   (then (local.set $body (i32.load (i32.const 4))) {calls}))
                 (call $tell (local.get $outparam))",
                name.len()
            ),
        )
    };
    let get = "(call $bucket-get (local.get $body) (i32.const 1100) (i32.const 1) (i32.const 0))";
    let set = "(call $bucket-set (local.get $body) (i32.const 1100) (i32.const 1) (i32.const 1110) (i32.const 3) (i32.const 0))";
    assert_eq!(told(&services, &ask_bucket("", get)).await, fine("value"));
    assert_eq!(
        told(&services, &ask_bucket("default", get)).await,
        fine("value")
    );
    assert_eq!(
        told(&services, &ask_bucket("", &format!("{set} {get}"))).await,
        fine("new")
    );
    let delete =
        "(call $bucket-delete (local.get $body) (i32.const 1100) (i32.const 1) (i32.const 0))";
    let exists =
        "(call $bucket-exists (local.get $body) (i32.const 1100) (i32.const 1) (i32.const 0))
        (if (i32.load8_u (i32.const 4)) (then (unreachable)))";
    let code = ask_bucket("", &format!("{delete} {exists} {get}"));
    assert_eq!(told(&services, &code).await, fine(""));
    // No such store; access denied.
    assert_eq!(told(&services, &ask_bucket("a b", get)).await.0, 500);
    assert_eq!(told(&services, &ask_bucket("denied", get)).await.0, 501);
    let (status, message) = told(&services, &ask_bucket("broken", get)).await;
    assert_eq!((status, message.as_str()), (502, "broken"));
}

#[tokio::test]
async fn attacks_end_as_failures() {
    let services = Arc::new(Kept::default());
    for (body, limits, kind) in [
        // A key that is no text, and one that is not there.
        (
            "(i32.store8 (i32.const 1028) (i32.const 255))
             (call $get (i32.const 1024) (i32.const 4) (i32.const 1028) (i32.const 1) (i32.const 0))",
            LIMITS,
            "Runtime.Trap",
        ),
        (
            "(call $get (i32.const 1024) (i32.const 4) (i32.const -8) (i32.const 1) (i32.const 0))",
            LIMITS,
            "Runtime.Trap",
        ),
        // Buckets without end, and values.
        (
            "(loop (call $open (i32.const 1024) (i32.const 4) (i32.const 0)) (br 0))",
            LIMITS,
            "Runtime.Trap",
        ),
        (
            "(loop (call $set-value (i32.const 1024) (i32.const 4) (i32.const 1024) (i32.const 4)
               (i32.const 0) (i32.const 65536) (i32.const 0)) (br 0))",
            SHORT,
            "Sandbox.Timedout",
        ),
        // A list that fills the function's own memory.
        (
            "(loop (call $keys (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000)
               (i32.const 0)) (br 0))",
            LIMITS,
            "Runtime.OutOfMemory",
        ),
        // A host that does not answer.
        (
            "(call $get (i32.const 1032) (i32.const 5) (i32.const 1024) (i32.const 4) (i32.const 0))",
            SHORT,
            "Sandbox.Timedout",
        ),
    ] {
        let data = r#"(data (i32.const 1024) "many") (data (i32.const 1032) "never")"#;
        for index in 0..1_000 {
            services.set("many", &format!("{index:01000}"), Vec::new()).await.unwrap();
        }
        let served = ask(&services, &http_with(SERVICES, data, body), limits).await;
        assert_eq!(error(&served.execution).0, kind, "{body} {:?}", error(&served.execution));
    }
}

#[test]
fn sql_functions_have_no_services() {
    let code = r#"(component
        (import "lambic:functions/streams@0.1.0" (instance))
        (core module $m (func (export "f") (result i32) (i32.const 1)))
        (core instance $i (instantiate $m))
        (func (export "one") (result s32) (canon lift (core func $i "f"))))"#;
    let error = load(code.as_bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains(
            "it imports `lambic:functions/streams@0.1.0`; a SQL function may import WASI only"
        ),
        "{error}"
    );
}
