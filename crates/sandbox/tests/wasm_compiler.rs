//! Components are compiled in a child process within limits. The child is this very program, which is why it has a `main`
//! of its own.

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use lambic_model::Outcome;
use lambic_sandbox::{
    Error,
    wasm::{Compiler, Limits, Wasm, compile_stdin},
};

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    memory_mb: 16,
    log_bytes_max: 64 << 10,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, command, memory, cpu] = args.as_slice()
        && command == "compile"
    {
        return ExitCode::from(compile_stdin(memory.parse().unwrap(), cpu.parse().unwrap()));
    }
    what_a_child_compiles_runs();
    what_is_no_component_is_refused_with_the_same_words();
    what_takes_too_much_is_refused();
    the_former_code_is_there_whatever_the_compiler_does();
    println!("ok");
    ExitCode::SUCCESS
}

fn compiler() -> Compiler {
    Compiler::new(
        std::env::current_exe().unwrap(),
        [OsString::from("compile")],
    )
}

/// A stand-in that behaves in its own way.
fn shell(script: &str) -> Compiler {
    Compiler::new("/bin/sh", ["-c", script].map(OsString::from))
}

fn wasm(dir: &Path, compiler: Compiler) -> Wasm {
    Wasm::new(dir).unwrap().with_compiler(compiler)
}

fn refused(compiler: Compiler, code: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let loaded = wasm(dir.path(), compiler).load(code.as_bytes(), LIMITS);
    let error = loaded.map(|_| ()).unwrap_err();
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "nothing of it is in the cache");
    error.to_string()
}

/// Answers with its event. `more` stands in its module.
fn echo(more: &str) -> String {
    format!(
        r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle") (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    {more})
  (core instance $i (instantiate $m))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#
    )
}

/// One function of that many steps, each of which needs all before it.
fn large(steps: usize) -> String {
    let mut body = String::from("(func (param i64) (result i64) (local i64)");
    for step in 0..steps {
        body.push_str(&format!(
            "(local.set 1 (i64.mul (i64.add (local.get 1) (i64.const {step})) (local.get 0)))"
        ));
    }
    body.push_str("(local.get 1))");
    echo(&body)
}

fn what_a_child_compiles_runs() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = echo("");
    let check = |wasm: Wasm| {
        let module = wasm.load(code.as_bytes(), LIMITS).unwrap();
        let execution = runtime.block_on(module.invoke("id", b"{}", &[], LIMITS));
        assert_eq!(execution.outcome, Outcome::Success(b"{}".to_vec()));
    };
    check(wasm(dir.path(), compiler()));
    // What it compiled is what this engine takes from its cache.
    check(wasm(dir.path(), shell("exit 1")));
    check(Wasm::new(dir.path()).unwrap());
}

fn what_is_no_component_is_refused_with_the_same_words() {
    for code in [
        "nonsense",
        "(module)",
        "(component (core module (func (drop))))",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let here = Wasm::new(dir.path()).unwrap().load(code.as_bytes(), LIMITS);
        let here = here.map(|_| ()).unwrap_err();
        assert!(matches!(here, Error::NotAComponent { .. }));
        assert_eq!(refused(compiler(), code), here.to_string());
    }
}

fn what_takes_too_much_is_refused() {
    let not_compiled = "the component was not compiled: ";
    let small = Compiler {
        memory_bytes_max: 128 << 20,
        ..compiler()
    };
    assert_eq!(
        refused(small, &large(400_000)),
        format!("{not_compiled}it takes more than 128 MB of memory to compile")
    );
    let short = Compiler {
        cpu_s_max: 1,
        ..compiler()
    };
    assert_eq!(
        refused(short, &large(400_000)),
        format!("{not_compiled}it takes more than 1 seconds of processor time to compile")
    );
    let slow = Compiler {
        time_max: Duration::from_millis(200),
        ..shell("exec sleep 600")
    };
    assert_eq!(
        refused(slow, &echo("")),
        format!("{not_compiled}it takes longer than 0.2 seconds to compile")
    );
}

fn the_former_code_is_there_whatever_the_compiler_does() {
    let dir = tempfile::tempdir().unwrap();
    wasm(dir.path(), compiler())
        .load(echo("").as_bytes(), LIMITS)
        .unwrap();
    let new = echo("(func)");
    for (script, reason) in [
        ("exit 0", "does not load"),
        ("echo nonsense", "does not load"),
        (
            "echo why >&2; exit 2",
            "the code is not a WebAssembly component: why",
        ),
        (
            "echo why >&2; exit 101",
            "its compiler ended with exit status: 101: why",
        ),
        ("kill -SEGV $$", "its compiler ended with signal: 11"),
        (
            "yes why | head -c 1000000 >&2; exit 1",
            "its compiler ended with exit status: 1: why",
        ),
    ] {
        let loaded = wasm(dir.path(), shell(script)).load(new.as_bytes(), LIMITS);
        let error = loaded.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(reason), "{script} {error}");
        // From the cache: this compiler could not.
        wasm(dir.path(), shell(script))
            .load(echo("").as_bytes(), LIMITS)
            .unwrap();
    }
    let missing = wasm(dir.path(), Compiler::new("/nowhere/compiler", []));
    let error = missing
        .load(new.as_bytes(), LIMITS)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot start `/nowhere/compiler`"),
        "{error}"
    );
}
