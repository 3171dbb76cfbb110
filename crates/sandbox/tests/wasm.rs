//! Components that behave and components that attack, written in the text format.

mod components;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, StringArray},
    datatypes::{DataType, Float64Type, Int32Type},
};
use components::error;
use lambic_model::{Outcome, ScalarFunction};
use lambic_sandbox::{
    Error, Execution, Written,
    wasm::{Limits, Module, Wasm},
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

fn load(code: &str, limits: Limits) -> Result<Module, Error> {
    let dir = tempfile::tempdir().unwrap();
    Wasm::new(dir.path()).unwrap().load(code.as_bytes(), limits)
}

/// A handler whose `handle` runs `body`; the event is at `$at`, of `$length` bytes; the result is at 16.
fn handler(body: &str) -> String {
    format!(
        r#"
(component
  (import "log" (func $log (param "line" string)))
  (core module $lib
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get 3)))
      (local.get $at)))
  (core instance $lib (instantiate $lib))
  (core func $log (canon lower (func $log) (memory (core memory $lib "memory"))))
  (core module $m
    (import "lib" "memory" (memory 1))
    (import "lib" "log" (func $log (param i32 i32)))
    (global $calls (mut i32) (i32.const 0))
    (func $answer (param $error i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $error))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func (export "handle") (param $at i32) (param $length i32) (result i32)
      {body}))
  (core instance $i (instantiate $m
    (with "lib" (instance (export "memory" (memory $lib "memory")) (export "log" (func $log))))))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $lib "memory"))
      (realloc (core func $lib "realloc")))))
"#
    )
}

/// A component that exports `f` over `body`.
fn scalar(signature: &str, core: &str, body: &str) -> String {
    format!(
        r#"
(component
  (core module $m (memory (export "memory") 1) (func (export "f") {core} {body}))
  (core instance $i (instantiate $m))
  (func (export "try-it") {signature}
    (canon lift (core func $i "f") (memory (core memory $i "memory")))))
"#
    )
}

async fn invoke(body: &str, event: &str, limits: Limits) -> Execution {
    let module = load(&handler(body), limits).unwrap();
    assert!(module.is_handler());
    module.invoke("id", event.as_bytes(), &[], limits).await
}

#[tokio::test]
async fn a_handler_answers_and_logs() {
    let body = "(call $log (local.get $at) (local.get $length))
        (call $answer (i32.const 0) (local.get $at) (local.get $length))";
    let execution = invoke(body, r#"{"a":1}"#, LIMITS).await;
    assert_eq!(execution.outcome, Outcome::Success(br#"{"a":1}"#.to_vec()));
    assert_eq!(execution.lines.len(), 1);
    assert_eq!(execution.lines[0].line, r#"{"a":1}"#);
    assert_eq!(execution.memory_peak_bytes, 64 << 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_there_before_the_end_and_then_not_again() {
    let body = "(call $log (local.get $at) (local.get $length)) (loop (br 0)) (unreachable)";
    let limits = Limits {
        timeout: Duration::from_secs(3),
        ..LIMITS
    };
    let module = load(&handler(body), limits).unwrap();
    let written = Written::new(limits.log_bytes_max);
    let run = tokio::spawn({
        let written = written.clone();
        async move { module.invoke_into("id", b"1", &[], limits, &written).await }
    });
    let mut lines = Vec::new();
    while lines.is_empty() && !run.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        lines = written.take();
    }
    let execution = run.await.unwrap();
    assert_eq!(error(&execution).0, "Sandbox.Timedout");
    let texts: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
    assert_eq!(texts, ["1"]);
    assert!(execution.lines.is_empty(), "{:?}", execution.lines);
}

#[tokio::test]
async fn errors_of_a_handler_keep_their_shape() {
    let body = "(call $answer (i32.const 1) (local.get $at) (local.get $length))";
    let execution = invoke(body, r#"{"errorType":"Mine","errorMessage":"no"}"#, LIMITS).await;
    assert_eq!(error(&execution), ("Mine".to_owned(), "no".to_owned()));
    let execution = invoke(body, "plain", LIMITS).await;
    assert_eq!(
        error(&execution),
        ("HandlerError".to_owned(), "plain".to_owned())
    );
    let body = "(call $answer (i32.const 0) (local.get $at) (local.get $length))";
    let execution = invoke(body, "not json", LIMITS).await;
    assert_eq!(error(&execution).0, "Runtime.MarshalError");
}

#[tokio::test]
async fn every_invocation_has_a_fresh_instance() {
    let body = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store8 (i32.const 32) (i32.add (i32.const 48) (global.get $calls)))
        (call $answer (i32.const 0) (i32.const 32) (i32.const 1))";
    let module = load(&handler(body), LIMITS).unwrap();
    for _ in 0..3 {
        let execution = module.invoke("id", b"0", &[], LIMITS).await;
        assert_eq!(execution.outcome, Outcome::Success(b"1".to_vec()));
    }
}

#[tokio::test]
async fn attacks_end_as_failures() {
    let endless = invoke("(loop (br 0)) (unreachable)", "0", SHORT).await;
    assert_eq!(
        error(&endless),
        (
            "Sandbox.Timedout".to_owned(),
            "RequestId: id Error: Task timed out after 0.20 seconds".to_owned()
        )
    );
    let greedy = "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)";
    assert_eq!(
        error(&invoke(greedy, "0", LIMITS).await),
        (
            "Runtime.OutOfMemory".to_owned(),
            "RequestId: id Error: Memory limit of 16 MB exceeded".to_owned()
        )
    );
    let trap = invoke("(unreachable)", "0", LIMITS).await;
    let (kind, message) = error(&trap);
    assert_eq!(kind, "Runtime.Trap");
    assert!(message.contains("unreachable"), "{message}");
    let chatty = "(loop (call $log (local.get $at) (local.get $length)) (br 0)) (unreachable)";
    let chatty = invoke(chatty, "a rather long line for a log", SHORT).await;
    assert_eq!(error(&chatty).0, "Sandbox.Timedout");
    assert!(
        chatty
            .lines
            .iter()
            .map(|line| line.line.len())
            .sum::<usize>()
            < 70 << 10
    );
}

#[tokio::test]
async fn the_wrong_world_is_refused_with_the_reason() {
    for (code, reason) in [
        ("nonsense", "the code is not a WebAssembly component"),
        ("(module)", "the code is not a WebAssembly component"),
        ("(component)", "it exports no function"),
        (r#"(component (import "x" (func)))"#, "it imports `x`"),
        (
            &scalar(
                "(param \"a\" u8) (result s32)",
                "(param i32) (result i32)",
                "(local.get 0)",
            ),
            "parameter `a` of its function `try-it` is u8",
        ),
        (
            &scalar("(param \"a\" s32)", "(param i32)", ""),
            "its function `try-it` gives no result",
        ),
        (
            &scalar(
                "(param \"a\" s32) (result s32)",
                "(param i32) (result i32)",
                "(local.get 0)",
            )
            .replace("try-it", "handle"),
            "its `handle` is not `func(event: string) -> result<string, string>`",
        ),
    ] {
        let error = load(code, LIMITS).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error} / {reason}");
    }
}

fn only(module: &Module) -> Arc<dyn ScalarFunction> {
    module.scalars().next().unwrap()
}

#[test]
fn a_scalar_function_maps_columns_and_nulls() {
    let code = scalar(
        "(param \"a\" s32) (param \"b\" s32) (result s32)",
        "(param i32 i32) (result i32)",
        "(i32.sub (local.get 0) (local.get 1))",
    );
    let module = load(&code, LIMITS).unwrap();
    assert_eq!(module.signatures(), ["try_it(integer, integer) -> integer"]);
    assert!(!module.is_handler());
    let function = only(&module);
    assert_eq!(function.name(), "try_it");
    assert_eq!(function.arguments(), [DataType::Int32, DataType::Int32]);
    assert_eq!(function.digest().len(), 64);
    let columns: [ArrayRef; 2] = [
        Arc::new(Int32Array::from(vec![Some(5), None, Some(7)])),
        Arc::new(Int32Array::from(vec![Some(3), Some(1), None])),
    ];
    let answer = function.call(&columns, 3).unwrap();
    let answer: Vec<Option<i32>> = answer.as_primitive::<Int32Type>().iter().collect();
    assert_eq!(answer, [Some(2), None, None]);
    assert_eq!(
        function
            .call(&[columns[0].slice(0, 0), columns[1].slice(0, 0)], 0)
            .unwrap()
            .len(),
        0
    );
    let error = function.call(&columns[..1], 3).unwrap_err();
    assert_eq!(error, "function `try_it` takes 2 arguments, not 1");
}

#[test]
fn an_option_parameter_sees_nulls() {
    // Gives -1 for NULL.
    let code = scalar(
        "(param \"a\" (option f64)) (result f64)",
        "(param i32 f64) (result f64)",
        "(if (result f64) (local.get 0) (then (local.get 1)) (else (f64.const -1)))",
    );
    let module = load(&code, LIMITS).unwrap();
    let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.5), None]));
    let answer = only(&module).call(&[column], 2).unwrap();
    assert_eq!(answer.as_primitive::<Float64Type>().values(), &[2.5, -1.0]);
}

#[test]
fn a_scalar_function_cannot_hang_or_eat_memory() {
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    for (body, reason) in [
        (
            "(loop (br 0)) (unreachable)",
            "function `try_it` ran longer than 0.20 seconds on one row",
        ),
        (
            "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)",
            "function `try_it` needs more memory than its limit of 16 MB",
        ),
        (
            "(unreachable)",
            "function `try_it` failed: wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            "(i32.div_s (local.get 0) (i32.const 0))",
            "function `try_it` failed: wasm trap: integer divide by zero",
        ),
    ] {
        let code = scalar(
            "(param \"a\" s32) (result s32)",
            "(param i32) (result i32)",
            body,
        );
        let module = load(&code, SHORT).unwrap();
        assert_eq!(
            only(&module)
                .call(std::slice::from_ref(&column), 1)
                .unwrap_err(),
            reason
        );
    }
}

/// A row's answer and its time must not depend on the rows beside it: batch and speed cut them differently.
#[test]
fn rows_do_not_know_of_each_other() {
    let code = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (global $calls (mut i32) (i32.const 0))
    (func (export "f") (param i32) (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
      (i32.add (global.get $calls) (i32.load (i32.const 0)))))
  (core instance $i (instantiate $m))
  (func (export "f") (param "a" s32) (result s32) (canon lift (core func $i "f"))))
"#;
    let module = load(code, LIMITS).unwrap();
    let column: ArrayRef = Arc::new(Int32Array::from(vec![0; 5]));
    let answer = only(&module).call(&[column], 5).unwrap();
    assert_eq!(answer.as_primitive::<Int32Type>().values(), &[2; 5]);

    // Thousands of steps a row: none of them comes near the limit, all together pass it.
    let code = scalar(
        "(param \"a\" s32) (result s32)",
        "(param i32) (result i32) (local i32)",
        "(loop
          (local.set 1 (i32.add (local.get 1) (i32.const 1)))
          (br_if 0 (i32.lt_u (local.get 1) (i32.const 100000))))
        (local.get 0)",
    );
    let limits = Limits {
        timeout: Duration::from_secs(1),
        ..LIMITS
    };
    let module = load(&code, limits).unwrap();
    let mut rows = 64;
    loop {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1; rows]));
        let start = std::time::Instant::now();
        only(&module).call(&[column], rows).unwrap();
        if start.elapsed() > 2 * limits.timeout {
            break;
        }
        rows *= 2;
    }
}

/// Imports of WASI are allowed, and fixed: the clock stands still, a wait ends at the deadline.
#[tokio::test]
async fn time_and_chance_are_fixed_for_sql() {
    let code = |body: &str| {
        format!(
            r#"
(component
  (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
  (core func $random (canon lower (func $random "get-random-u64")))
  (core func $now (canon lower (func $clock "now")))
  (core module $m
    (import "wasi" "random" (func $random (result i64)))
    (import "wasi" "now" (func $now (result i64)))
    (func (export "f") (param i64) (result i64) {body}))
  (core instance $i (instantiate $m
    (with "wasi" (instance (export "random" (func $random)) (export "now" (func $now))))))
  (func (export "f") (param "a" s64) (result s64) (canon lift (core func $i "f"))))
"#
        )
    };
    let column: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1, 2]));
    let module = load(
        &code("(i64.add (local.get 0) (i64.add (call $random) (call $now)))"),
        LIMITS,
    )
    .unwrap();
    let first = only(&module)
        .call(std::slice::from_ref(&column), 2)
        .unwrap();
    let second = only(&module)
        .call(std::slice::from_ref(&column), 2)
        .unwrap();
    assert_eq!(&first, &second);
    let module = load(
        &code("(loop (drop (call $now)) (br 0)) (unreachable)"),
        SHORT,
    )
    .unwrap();
    assert!(
        only(&module)
            .call(&[column], 2)
            .unwrap_err()
            .contains("ran longer than 0.20 seconds")
    );
}

#[test]
fn text_goes_in_and_the_cache_survives_damage() {
    let code = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
    (func (export "f") (param i32 i32) (result i32)
      (i32.store (i32.const 0) (local.get 0))
      (i32.store (i32.const 4) (local.get 1))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func (export "same") (param "text" string) (result string)
    (canon lift (core func $i "f") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#;
    let dir = tempfile::tempdir().unwrap();
    let check = || {
        let module = Wasm::new(dir.path())
            .unwrap()
            .load(code.as_bytes(), LIMITS)
            .unwrap();
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some("größe"), None]));
        let answer = only(&module).call(&[column], 2).unwrap();
        let answer: Vec<_> = answer.as_string::<i32>().iter().collect();
        assert_eq!(answer, [Some("größe"), None]);
    };
    check();
    let compiled = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        })
        .unwrap();
    let whole = std::fs::read(&compiled).unwrap();
    check();
    assert_eq!(std::fs::read(&compiled).unwrap(), whole);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bad in [&damaged[..], &whole[..100], b""] {
        std::fs::write(&compiled, bad).unwrap();
        check();
        assert_eq!(std::fs::read(&compiled).unwrap().len(), whole.len());
    }
}

/// Whoever can write compiled code can make the server run it.
#[test]
fn compiled_code_that_others_can_write_is_not_trusted() {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    let dir = tempfile::tempdir().unwrap();
    let code = |answer: u32| {
        scalar(
            r#"(param "a" s32) (result s32)"#,
            "(param i32) (result i32)",
            &format!("(i32.const {answer})"),
        )
    };
    let answer = |answer: u32| {
        let module = Wasm::new(dir.path())
            .unwrap()
            .load(code(answer).as_bytes(), LIMITS)
            .unwrap();
        let column: ArrayRef = Arc::new(Int32Array::from(vec![0]));
        let answers = only(&module).call(&[column], 1).unwrap();
        answers.as_primitive::<Int32Type>().value(0)
    };
    let files = |extension: &str| -> Vec<PathBuf> {
        let all = fs::read_dir(dir.path()).unwrap();
        let mut files: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == extension));
        files
    };
    assert_eq!(answer(1), 1);
    let (of_one, sum_of_one) = (files("cwasm").remove(0), files("sha256").remove(0));
    assert_eq!(answer(2), 2);
    let other =
        |all: Vec<PathBuf>, one: &PathBuf| all.into_iter().find(|path| path != one).unwrap();
    fs::write(&of_one, fs::read(other(files("cwasm"), &of_one)).unwrap()).unwrap();
    fs::write(
        &sum_of_one,
        fs::read(other(files("sha256"), &sum_of_one)).unwrap(),
    )
    .unwrap();
    assert_eq!(answer(1), 2, "what this user wrote is taken as it is");
    fs::set_permissions(&of_one, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(answer(1), 1);
    assert_eq!(
        fs::metadata(&of_one).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
