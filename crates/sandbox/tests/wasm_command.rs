//! Commands: the event on standard input, the result on standard output.

mod components;

use components::{LIMITS, SHORT, command, error, invoke, lines, load, result};
use lambic_sandbox::wasm::World;

#[tokio::test]
async fn a_command_reads_its_event_and_writes_its_result() {
    let code = command(
        r#"(data (i32.const 128) "seen")"#,
        "(call $put (call $stderr) (i32.const 128) (i32.const 4))
         (call $read (call $stdin))
         (call $put (call $stdout) (i32.load (i32.const 64)) (i32.load (i32.const 68)))
         (i32.const 0)",
    );
    let module = load(&code).unwrap();
    assert_eq!(module.world(), Some(World::Command));
    assert!(module.is_handler());
    for _ in 0..2 {
        let execution = invoke(&module, r#"{"größe": [1, 2.50]}"#, LIMITS).await;
        assert_eq!(result(&execution), r#"{"größe": [1, 2.50]}"#);
        assert_eq!(lines(&execution), ["seen"]);
    }
    let execution = invoke(&module, " ", LIMITS).await;
    assert_eq!(result(&execution), "null");
    let execution = invoke(&module, "hello", LIMITS).await;
    assert_eq!(error(&execution).0, "Runtime.MarshalError");
    let execution = module.invoke("id", b"\xff", &[], LIMITS).await;
    assert_eq!(error(&execution).0, "Runtime.UnmarshalError");
}

#[tokio::test]
async fn how_a_command_ends_is_what_became_of_the_event() {
    let data = r#"(data (i32.const 128) "1")"#;
    let write = "(call $put (call $stdout) (i32.const 128) (i32.const 1))";
    for (end, expected) in [
        ("(i32.const 0)", Ok("1")),
        ("(call $exit (i32.const 0)) (unreachable)", Ok("1")),
        (
            "(call $exit-with-code (i32.const 0)) (unreachable)",
            Ok("1"),
        ),
        ("(i32.const 1)", Err(1)),
        ("(call $exit (i32.const 1)) (unreachable)", Err(1)),
        (
            "(call $exit-with-code (i32.const 78)) (unreachable)",
            Err(78),
        ),
    ] {
        let module = load(&command(data, &format!("{write} {end}"))).unwrap();
        let execution = invoke(&module, "{}", LIMITS).await;
        match expected {
            Ok(expected) => assert_eq!(result(&execution), expected),
            Err(code) => assert_eq!(
                error(&execution),
                (
                    "Runtime.ExitError".to_owned(),
                    format!("RequestId: id Error: Runtime exited with error: exit status {code}")
                )
            ),
        }
    }
}

#[tokio::test]
async fn attacks_end_as_failures() {
    for (body, expected) in [
        (
            "(loop (br 0)) (unreachable)",
            (
                "Sandbox.Timedout",
                "RequestId: id Error: Task timed out after 0.30 seconds",
            ),
        ),
        (
            "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)",
            (
                "Runtime.OutOfMemory",
                "RequestId: id Error: Memory limit of 32 MB exceeded",
            ),
        ),
        (
            "(unreachable)",
            (
                "Runtime.Trap",
                "RequestId: id Error: wasm trap: wasm `unreachable` instruction executed",
            ),
        ),
    ] {
        let module = load(&command("", body)).unwrap();
        let execution = invoke(&module, "{}", SHORT).await;
        let (kind, message) = error(&execution);
        assert_eq!((kind.as_str(), message.as_str()), expected);
    }
    let flood = "(local.set $out (call $stdout))
        (loop (call $put (local.get $out) (i32.const 0) (i32.const 4096)) (br 0)) (unreachable)";
    let module = load(&command("", flood)).unwrap();
    let execution = invoke(&module, "{}", LIMITS).await;
    assert_eq!(
        error(&execution),
        (
            "Function.ResponseSizeTooLarge".to_owned(),
            "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
                .to_owned()
        )
    );
    let module = load(&command("", &flood.replace("$stdout", "$stderr"))).unwrap();
    let execution = invoke(&module, "{}", SHORT).await;
    assert_eq!(error(&execution).0, "Sandbox.Timedout");
    let logged: usize = lines(&execution).iter().map(|line| line.len()).sum();
    assert!(logged < LIMITS.log_bytes_max + 1_000, "{logged}");
}
