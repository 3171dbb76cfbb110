//! Programs that bring their own client of the Runtime API, as AWS's `provided` runtimes let them.

mod common;

use bytes::Bytes;
use common::{LONG, answer, bootstrap_spec, code, error, failed_start, invocation, start};
use lambic_sandbox::process::Invocation;

/// AWS's tutorial in bash, with what the shell knows about the invocation.
const BASH: &str = r#"#!/bin/bash
set -u
api="http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime"
cd "${TMPDIR}"
while true; do
    payload=$(curl --noproxy '*' -sS -D headers "${api}/invocation/next")
    id=$(sed -n 's/^lambda-runtime-aws-request-id: //Ip' headers | tr -d '\r')
    trace=$(sed -n 's/^lambda-runtime-trace-id: //Ip' headers | tr -d '\r')
    curl --noproxy '*' -sS -o /dev/null "${api}/invocation/${id}/response" \
        -d "{\"echo\": ${payload}, \"handler\": \"${_HANDLER}\", \"trace\": \"${trace}\", \"engine\": \"${AWS_EXECUTION_ENV-none}\", \"from\": \"$0\"}"
done
"#;

#[tokio::test]
async fn a_bootstrap_of_the_code_or_of_a_layer_runs() {
    let with = code(&[("bootstrap", BASH)]);
    let without = code(&[("data", "x")]);
    let layers = [
        code(&[("bootstrap", "#!/bin/false\n")]),
        code(&[("bootstrap", BASH)]),
    ];
    for (code, layers, place) in [
        (&with, &[][..], "task/bootstrap"),
        (&without, &layers[..], "opt/bootstrap"),
    ] {
        let mut spec = bootstrap_spec(code.path()).await;
        spec.layers = layers.iter().map(|layer| layer.path().to_owned()).collect();
        let mut environment = start(spec).await;
        for round in 0..2 {
            let execution = environment
                .invoke(Invocation {
                    trace_id: "Root=1-2-3".to_owned(),
                    payload: Bytes::from(format!("[{round}]")),
                    ..invocation(b"", LONG)
                })
                .await;
            let mut answer = answer(&execution);
            let from = answer["from"].take();
            assert!(from.as_str().unwrap().ends_with(place), "{from}");
            assert_eq!(
                answer,
                serde_json::json!({"echo": [round], "handler": "any.handler", "trace": "Root=1-2-3",
                    "engine": "none", "from": null})
            );
            assert!(execution.reusable);
        }
    }
}

#[tokio::test]
async fn a_bootstrap_that_is_none_is_named() {
    for (files, message) in [
        (
            &[("data", "x")][..],
            "RequestId: init Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]",
        ),
        (
            &[("bootstrap", "#!/no/such/interpreter\n")],
            "bootstrap: No such file or directory",
        ),
        // Not marked as executable.
        (&[("bootstrap", "exit 0\n")], "bootstrap: Permission denied"),
    ] {
        let code = code(files);
        let failed = failed_start(bootstrap_spec(code.path()).await).await;
        let (kind, said) = error(&failed.outcome);
        assert_eq!(kind, "Runtime.InvalidEntrypoint");
        assert!(said.contains(message), "{said}");
    }
    let ends = code(&[("bootstrap", "#!/bin/sh\necho going\nexit 7\n")]);
    let failed = failed_start(bootstrap_spec(ends.path()).await).await;
    assert_eq!(
        error(&failed.outcome),
        (
            "Runtime.ExitError".to_owned(),
            "RequestId: init Error: Runtime exited with error: exit status 7".to_owned()
        )
    );
    assert_eq!(common::texts(&failed.lines), ["going"]);
}
