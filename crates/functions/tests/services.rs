//! What components ask for while they run: values that stay, and records for streams.

mod common;

use common::{BOUND, House};
use lambic_functions::{Code, Deployment, Runtime, Trigger};
use lambic_model::{FunctionName, StreamName};
use serde_json::{Value, json};

/// A component whose `handle` runs `body`; the event is at `$at`, of `$length` bytes; `$name` is at 1024.
fn component(name: &str, body: &str) -> Code {
    let text = format!(
        r#"
(component
  (import "lambic:functions/key-value@0.1.0" (instance $values
    (type $kinds (variant (case "invalid" string) (case "full" string) (case "unavailable" string)))
    (export "error" (type $error (eq $kinds)))
    (export "get" (func (param "store" string) (param "key" string)
      (result (result (option (list u8)) (error $error)))))
    (export "set" (func (param "store" string) (param "key" string) (param "value" (list u8))
      (result (result (error $error)))))))
  (import "lambic:functions/streams@0.1.0" (instance $streams
    (type $kinds (variant (case "denied" string) (case "invalid" string) (case "unavailable" string)))
    (export "error" (type $error (eq $kinds)))
    (export "append" (func (param "name" string) (param "records" string) (result (result (error $error)))))))
  (core module $lib
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get 3)))
      (local.get $at)))
  (core instance $lib (instantiate $lib))
  (core func $get (canon lower (func $values "get")
    (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
  (core func $set (canon lower (func $values "set")
    (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
  (core func $append (canon lower (func $streams "append")
    (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
  (core module $m
    (import "lib" "memory" (memory 1))
    (import "lib" "get" (func $get (param i32 i32 i32 i32 i32)))
    (import "lib" "set" (func $set (param i32 i32 i32 i32 i32 i32 i32)))
    (import "lib" "append" (func $append (param i32 i32 i32 i32 i32)))
    (data (i32.const 1024) "{name}") (data (i32.const 1100) "null")
    (func $answer (param $error i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $error))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func (export "handle") (param $at i32) (param $length i32) (result i32) {body}))
  (core instance $i (instantiate $m (with "lib" (instance
    (export "memory" (memory $lib "memory"))
    (export "get" (func $get)) (export "set" (func $set)) (export "append" (func $append))))))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $lib "memory"))
      (realloc (core func $lib "realloc")))))
"#
    );
    Code::Bytes(text.into_bytes())
}

/// Answers with the event before, which it keeps.
fn keeps() -> Code {
    component(
        "s",
        "(call $get (i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1) (i32.const 32))
         (if (i32.load8_u (i32.const 32)) (then (unreachable)))
         (call $set (i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1)
           (local.get $at) (local.get $length) (i32.const 64))
         (if (i32.load8_u (i32.const 64))
           (then (return (call $answer (i32.const 1) (i32.load (i32.const 72)) (i32.load (i32.const 76))))))
         (if (result i32) (i32.load8_u (i32.const 36))
           (then (call $answer (i32.const 0) (i32.load (i32.const 40)) (i32.load (i32.const 44))))
           (else (call $answer (i32.const 0) (i32.const 1100) (i32.const 4))))",
    )
}

/// Appends its event to a stream.
fn appends(stream: &str) -> Code {
    component(
        stream,
        &format!(
            "(call $append (i32.const 1024) (i32.const {}) (local.get $at) (local.get $length) (i32.const 64))
             (if (result i32) (i32.load8_u (i32.const 64))
               (then (call $answer (i32.const 1) (i32.load (i32.const 72)) (i32.load (i32.const 76))))
               (else (call $answer (i32.const 0) (i32.const 1100) (i32.const 4))))",
            stream.len()
        ),
    )
}

fn deployment(name: &str, code: Code) -> Deployment {
    let mut deployment = Deployment::new(FunctionName::new(name).unwrap(), Runtime::Wasm, code);
    deployment.timeout = BOUND;
    deployment
}

async fn ask(house: &House, name: &str, event: &str) -> Value {
    let result = house.invoke(name, event).await;
    serde_json::from_slice(result.payload()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_belong_to_their_function() {
    let house = House::open().await;
    for name in ["f", "g"] {
        house
            .functions
            .deploy(deployment(name, keeps()))
            .await
            .unwrap();
    }
    assert_eq!(ask(&house, "f", "1").await, json!(null));
    assert_eq!(ask(&house, "f", "2").await, json!(1));
    assert_eq!(ask(&house, "g", "3").await, json!(null));

    // They stay across restarts and new code, and go with the function.
    let house = house.restart().await;
    assert_eq!(ask(&house, "f", "4").await, json!(2));
    let mut again = deployment("f", keeps());
    again.memory_mb = 64;
    house.functions.deploy(again).await.unwrap();
    assert_eq!(ask(&house, "f", "5").await, json!(4));
    let f = FunctionName::new("f").unwrap();
    house.functions.remove(&f).await.unwrap();
    house
        .functions
        .deploy(deployment("f", keeps()))
        .await
        .unwrap();
    assert_eq!(ask(&house, "f", "6").await, json!(null));
    assert_eq!(ask(&house, "g", "7").await, json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_in_the_stream_when_the_append_returns() {
    let house = House::open().await;
    let code = appends("output");
    house.functions.deploy(deployment("f", code)).await.unwrap();
    let event = r#"[{"n": 1, "t": "größe"}, {"n": 2, "t": null}]"#;
    assert_eq!(ask(&house, "f", event).await, json!(null));
    let kept = house.rows("output");
    assert_eq!(kept.len(), 2);
    assert_eq!((&kept[0]["n"], &kept[0]["t"]), (&json!(1), &json!("größe")));
    assert_eq!(ask(&house, "f", "[]").await, json!(null));
    let failed = ask(&house, "f", r#"[{"n": 1}, {"n": "no"}]"#).await;
    let message = failed["errorMessage"].as_str().unwrap();
    assert!(message.starts_with("`output`: "), "{message}");
    assert_eq!(house.rows("output").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn some_streams_are_not_for_a_function() {
    let house = House::open().await;
    let mut looped = deployment("f", appends("input"));
    looped.triggers = vec![Trigger::new(StreamName::new("input").unwrap())];
    house.functions.deploy(looped).await.unwrap();
    house
        .functions
        .deploy(deployment("g", appends("lambic_logs")))
        .await
        .unwrap();
    house
        .functions
        .deploy(deployment("h", appends("nothing")))
        .await
        .unwrap();
    for (name, message) in [
        (
            "f",
            "`input` triggers function `f`, which would trigger itself for ever",
        ),
        ("g", "`lambic_logs` is written by the system only"),
        ("h", "stream `nothing` does not exist"),
    ] {
        let failed = ask(&house, name, "[]").await;
        assert_eq!(failed["errorMessage"], message);
    }
}
