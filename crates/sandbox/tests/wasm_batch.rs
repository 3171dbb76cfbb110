//! Components that take batches of Arrow records, written in the text format.

mod components;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use components::error;
use lambic_model::{Outcome, ScalarFunction};
use lambic_sandbox::{
    Error, Execution,
    wasm::{Limits, Module, Wasm, World, arrow_stream},
};

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    memory_mb: 16,
    log_bytes_max: 64 << 10,
};
const SHORT: Limits = Limits {
    timeout: Duration::from_millis(200),
    ..LIMITS
};

const ECHO: &str = "(call $answer (i32.const 0) (local.get $at) (local.get $length))";

fn load(code: &str, limits: Limits) -> Result<Module, Error> {
    let dir = tempfile::tempdir().unwrap();
    Wasm::new(dir.path()).unwrap().load(code.as_bytes(), limits)
}

/// A component whose `handle-batch` runs `body`; the batch is at `$at`, of `$length` bytes; `extra` has further
/// imports and exports. Its core function `trap` traps.
fn component(imports: &str, exports: &str, body: &str) -> String {
    format!(
        r#"
(component
  {imports}
  (core module $m
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow
          (i32.add (i32.const 1) (i32.shr_u (local.get 3) (i32.const 16)))))))
      (local.get $at))
    (func $answer (param $error i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $error))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func (export "trap") (param i32) (result i32) (unreachable))
    (func (export "trap-on-text") (param i32 i32) (result i32) (unreachable))
    (func (export "handle-batch") (param $at i32) (param $length i32) (result i32)
      {body}))
  (core instance $i (instantiate $m))
  (func (export "handle-batch") (param "batch" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "handle-batch") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc"))))
  {exports})
"#
    )
}

/// Declares a SQL function that is never called itself.
const NUMBERS: &str =
    r#"(func (export "try-it") (param "a" s32) (result s32) (canon lift (core func $i "trap")))"#;
const TEXTS: &str = r#"(func (export "try-it") (param "a" string) (result string)
    (canon lift (core func $i "trap-on-text") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc"))))"#;
const LOG: &str = r#"(import "log" (func $log (param "line" string)))"#;

async fn invoke(body: &str, batch: &[u8], limits: Limits) -> Execution {
    let module = load(&component("", "", body), limits).unwrap();
    module.invoke_batch("id", batch.to_vec(), &[], limits).await
}

#[tokio::test]
async fn a_batch_goes_in_and_one_comes_out() {
    let module = load(&component("", "", ECHO), LIMITS).unwrap();
    assert_eq!(module.world(), Some(World::Batch));
    assert!(module.is_handler() && module.takes_batches() && !module.takes_events());
    assert_eq!(module.scalars().count(), 0);
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let field = Field::new("n", DataType::Int32, false);
    let records = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
    for batch in [arrow_stream(&records).unwrap(), vec![0xff; 1 << 20], vec![]] {
        let execution = module.invoke_batch("id", batch.clone(), &[], LIMITS).await;
        assert_eq!(execution.outcome, Outcome::Success(batch));
    }
    let json = module.invoke("id", b"{}", &[], LIMITS).await;
    let (kind, message) = error(&json);
    assert_eq!(kind, "Runtime.UnmarshalError");
    assert!(message.contains("`handle-batch`"), "{message}");
}

#[tokio::test]
async fn failures_keep_their_shape() {
    let refuse = "(call $answer (i32.const 1) (local.get $at) (local.get $length))";
    let told = invoke(refuse, b"no", LIMITS).await;
    assert_eq!(error(&told), ("HandlerError".to_owned(), "no".to_owned()));
    let told = invoke(refuse, br#"{"errorType":"Mine"}"#, LIMITS).await;
    assert!(matches!(told.outcome, Outcome::Failure { error_type, .. } if error_type == "Mine"));
    let endless = invoke("(loop (br 0)) (unreachable)", b"", SHORT).await;
    assert_eq!(error(&endless).0, "Sandbox.Timedout");
    let trap = invoke("(unreachable)", b"", LIMITS).await;
    assert_eq!(error(&trap).0, "Runtime.Trap");
    let long = "(drop (memory.grow (i32.const 200)))
        (call $answer (i32.const 0) (i32.const 0) (i32.const 6291557))";
    assert_eq!(
        error(&invoke(long, b"", LIMITS).await).0,
        "Function.ResponseSizeTooLarge"
    );
    let events = "(component
  (core module $m (func (export \"f\") (param i32) (result i32) (local.get 0)))
  (core instance $i (instantiate $m))
  (func (export \"f\") (param \"a\" s32) (result s32) (canon lift (core func $i \"f\"))))";
    let module = load(events, LIMITS).unwrap();
    assert!(!module.takes_batches());
    let refused = module.invoke_batch("id", Vec::new(), &[], LIMITS).await;
    assert_eq!(error(&refused).0, "Runtime.UnmarshalError");
}

#[test]
fn another_handle_batch_is_refused() {
    let code = component("", "", ECHO);
    for (found, other) in [
        ("(param \"batch\" (list u8))", "(param \"batch\" string)"),
        ("(param \"batch\" (list u8))", "(param \"batch\" (list s8))"),
        ("(result (list u8) (error string))", "(result (list u8))"),
        (
            "(result (list u8) (error string))",
            "(result string (error string))",
        ),
    ] {
        let code = code.replace(found, other);
        let error = load(&code, LIMITS).map(|_| ()).unwrap_err().to_string();
        let expected =
            "its `handle-batch` is not `func(batch: list<u8>) -> result<list<u8>, string>`";
        assert!(error.contains(expected), "{error}");
    }
}

fn only(module: &Module) -> Arc<dyn ScalarFunction> {
    module.scalars().next().unwrap()
}

#[test]
fn a_sql_function_has_its_rows_answered_at_once() {
    for imports in ["", LOG] {
        let module = load(&component(imports, NUMBERS, ECHO), LIMITS).unwrap();
        assert_eq!(module.signatures(), ["try_it(integer) -> integer"]);
        let function = only(&module);
        let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..10_000));
        let answer = function
            .call(std::slice::from_ref(&column), 10_000)
            .unwrap();
        assert_eq!(&answer, &column);
        // NULL is not sent where none is taken.
        let column: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(2), None, Some(4)]));
        let answer = function.call(std::slice::from_ref(&column), 4).unwrap();
        assert_eq!(&answer, &column);
        let none = column.slice(0, 0);
        assert_eq!(function.call(&[none], 0).unwrap().len(), 0);
        let all_null: ArrayRef = Arc::new(Int32Array::from(vec![None, None]));
        let answer = function.call(std::slice::from_ref(&all_null), 2).unwrap();
        assert_eq!(&answer, &all_null);
    }
}

#[test]
fn rows_that_are_too_much_for_one_call_go_in_parts() {
    let module = load(&component("", TEXTS, ECHO), LIMITS).unwrap();
    let texts = ["a", "b", "c"].map(|letter| letter.repeat(3 << 20));
    let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let answer = only(&module).call(std::slice::from_ref(&column), 3);
    assert_eq!(&answer.unwrap(), &column);
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    for (body, limits, reason) in [
        (
            "(call $answer (i32.const 0) (i32.const 0) (i32.const 0))",
            LIMITS,
            "function `try_it`: its answer has 0 rows for 2 rows",
        ),
        (
            "(call $answer (i32.const 0) (local.get $at) (i32.const 16))",
            LIMITS,
            "function `try_it`: its answer is not an Arrow IPC stream",
        ),
        (
            "(i32.store8 (i32.const 32) (i32.const 33))
             (call $answer (i32.const 1) (i32.const 32) (i32.const 1))",
            LIMITS,
            "function `try_it` failed: !",
        ),
        (
            "(loop (br 0)) (unreachable)",
            SHORT,
            "function `try_it` ran longer than 0.20 seconds on one batch of rows",
        ),
        (
            "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)",
            LIMITS,
            "function `try_it` needs more memory than its limit of 16 MB",
        ),
    ] {
        for imports in ["", LOG] {
            let module = load(&component(imports, NUMBERS, body), limits).unwrap();
            let answer = only(&module).call(std::slice::from_ref(&column), 2);
            let error = answer.unwrap_err();
            assert!(error.contains(reason), "{error} / {reason}");
        }
    }
}
