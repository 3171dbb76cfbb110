//! Environments that wait after their start, and are restored before their first event.

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{LONG, SECOND, answer, bootstrap_spec, code, error, invocation, start, texts};
use lambic_sandbox::process::{Environment, INITIALIZATION_TYPE, SNAP_START, Spec, Zygote};
use serde_json::json;

const HOOKS: &str = "import os\n\
    from snapshot_restore_py import register_after_restore, register_before_snapshot\n\
    seen = []\n\
    register_before_snapshot(seen.append, 'before 1')\n\
    register_before_snapshot(seen.append, 'before 2')\n\
    @register_after_restore\n\
    def one():\n\
    \x20   seen.append('after 1')\n\
    \x20   print('one')\n\
    def two(name, mark=''):\n\
    \x20   seen.append(name + mark)\n\
    register_after_restore(two, 'after 2', mark='!')\n\
    def handler(event, context):\n\
    \x20   return [seen, os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']]\n";

fn snap_start(mut spec: Spec) -> Spec {
    let reserved = (INITIALIZATION_TYPE.to_owned(), SNAP_START.to_owned());
    spec.environment_reserved.push(reserved);
    spec
}

async fn python(code: &Path) -> Spec {
    snap_start(common::python_spec(code, "app.handler").await)
}

async fn restored_and_run(environment: &mut Environment) {
    assert!(environment.lines().is_empty(), "no hook ran yet");
    let restored = environment.restore("id", LONG).await;
    restored.outcome.unwrap();
    assert!(restored.duration > Duration::ZERO);
    assert_eq!(texts(&environment.lines()), ["one"]);
    let seen = json!([
        ["before 2", "before 1", "after 1", "after 2!"],
        "snap-start"
    ]);
    for _ in 0..2 {
        let execution = environment.invoke(invocation(b"{}", LONG)).await;
        assert_eq!(answer(&execution), seen);
        assert!(execution.reusable);
    }
}

#[tokio::test]
async fn hooks_run_in_the_orders_of_aws() {
    let code = code(&[("app.py", HOOKS)]);
    let spec = python(code.path()).await;
    restored_and_run(&mut start(spec.clone()).await).await;
    let zygote = Zygote::start(spec.launch.clone(), spec.isolation.clone(), code.path()).await;
    let Some(zygote) = zygote.unwrap() else {
        return;
    };
    let split = Environment::start_from(&zygote, Arc::new(spec)).await;
    restored_and_run(&mut split.unwrap().unwrap()).await;
}

#[tokio::test]
async fn hooks_are_for_those_who_want_them() {
    let code = code(&[("app.py", HOOKS)]);
    let spec = common::python_spec(code.path(), "app.handler").await;
    let mut environment = start(spec).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), json!([[], "on-demand"]));
}

#[tokio::test]
async fn who_has_no_hooks_is_restored_in_no_time() {
    let code = code(&[("app.py", "def handler(event, context):\n    return 1\n")]);
    let mut environment = start(python(code.path()).await).await;
    let restored = environment.restore("id", LONG).await;
    restored.outcome.unwrap();
    assert_eq!(restored.duration, Duration::ZERO);
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), json!(1));
}

#[tokio::test]
async fn a_hook_that_fails_or_does_not_end_ends_the_environment() {
    let source = |which: &str, body: &str| {
        format!(
            "import snapshot_restore_py as hooks\n\
             @hooks.{which}\n\
             def hook():\n\
             \x20   {body}\n\
             def handler(event, context):\n\
             \x20   return 1\n"
        )
    };
    let before = code(&[(
        "app.py",
        source("register_before_snapshot", "raise ValueError('early')").as_str(),
    )]);
    let failed = common::failed_start(python(before.path()).await).await;
    assert_eq!(
        error(&failed.outcome),
        ("ValueError".to_owned(), "early".to_owned())
    );
    for (body, limit, kind, message) in [
        ("raise ValueError('late')", LONG, "ValueError", "late"),
        ("exit(3)", LONG, "SystemExit", "3"),
        (
            "import os; os._exit(3)",
            LONG,
            "Runtime.ExitError",
            "exit status 3",
        ),
        (
            "import time; time.sleep(1000)",
            SECOND,
            "SnapStartTimeoutException",
            "too long",
        ),
    ] {
        let code = code(&[("app.py", source("register_after_restore", body).as_str())]);
        let mut environment = start(python(code.path()).await).await;
        let restored = environment.restore("id", limit).await;
        let (found, said) = error(&restored.outcome.unwrap_err());
        assert_eq!(found, kind);
        assert!(said.contains(message), "{said}");
        assert!(!environment.is_alive());
    }
}

/// Tells how each of its calls was answered.
const BOOTSTRAP: &str = r#"#!/bin/bash
set -u
api="http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime"
call() { curl --noproxy '*' -sS "$@"; }
cd "${TMPDIR}"
status=$(call -o /dev/null -w '%{http_code}' "${api}/restore/next")
again=$(call -o /dev/null -w '%{http_code}' "${api}/restore/next")
if [ "${COLOUR}" = "fails" ]; then
    call -o /dev/null -H 'Lambda-Runtime-Function-Error-Type: Runtime.NoKeys' "${api}/restore/error" -d 'no keys'
    exit 1
fi
while true; do
    call -o /dev/null -D headers "${api}/invocation/next"
    id=$(sed -n 's/^lambda-runtime-aws-request-id: //Ip' headers | tr -d '\r')
    late=$(call -o /dev/null -w '%{http_code}' "${api}/restore/error" -d '{}')
    call -o /dev/null "${api}/invocation/${id}/response" -d "[${status}, ${again}, ${late}]"
done
"#;

#[tokio::test]
async fn a_bootstrap_waits_until_it_is_restored() {
    let code = code(&[("bootstrap", BOOTSTRAP)]);
    let spec = bootstrap_spec(code.path()).await;
    let mut environment = start(snap_start(spec.clone())).await;
    let restored = environment.restore("id", LONG).await;
    restored.outcome.unwrap();
    assert!(restored.duration > Duration::ZERO);
    for _ in 0..2 {
        let execution = environment.invoke(invocation(b"{}", LONG)).await;
        assert_eq!(answer(&execution), json!([200, 403, 403]));
    }

    // Without it there is nothing to wait for.
    let mut environment = start(spec.clone()).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), json!([403, 403, 403]));

    let mut fails = snap_start(spec);
    fails.environment = vec![("COLOUR".to_owned(), "fails".to_owned())];
    let mut environment = start(fails).await;
    let restored = environment.restore("id", LONG).await;
    assert_eq!(
        error(&restored.outcome.unwrap_err()),
        ("Runtime.NoKeys".to_owned(), "no keys".to_owned())
    );
    assert!(!environment.is_alive());
}
