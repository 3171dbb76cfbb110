//! Invocations with batches of Arrow records.

use lambic_functions::{Code, Deployment, Runtime};
use lambic_model::FunctionName;

use super::*;

/// Answers with the batch that it gets.
const ECHO: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle-batch") (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "handle-batch") (param "batch" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "handle-batch") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_content_type_says_what_an_event_is_written_in() {
    const ARROW: &str = "application/vnd.apache.arrow.stream";
    let served = served(Options::default()).await;
    let code = Code::Bytes(ECHO.as_bytes().to_vec());
    let name = FunctionName::new("f").unwrap();
    let deployment = Deployment::new(name, Runtime::Wasm, code);
    served.functions.deploy(deployment).await.unwrap();
    let path = "/2015-03-31/functions/f/invocations";
    // The body passes as it is, whatever it is.
    let answer = served.post(path, ARROW, "records").await;
    assert_eq!(answer, (200, "records".to_owned()));
    assert_eq!(served.post(path, ARROW, "").await, (200, String::new()));
    for other in [
        "application/json",
        "application/vnd.apache.arrow.file",
        "text/csv",
    ] {
        let (status, body) = served.post(path, other, "{}").await;
        assert_eq!(status, 415, "{body}");
        assert!(body.contains(ARROW), "{body}");
    }
    let queued = format!("{ARROW}\r\nX-Amz-Invocation-Type: Event");
    let (status, body) = served.post(path, &queued, "records").await;
    assert_eq!(status, 415, "{body}");
    assert!(body.contains("are not queued"), "{body}");
}
