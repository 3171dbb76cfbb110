//! AWS's own runtime client for Python (from PyPI, unmodified) speaks with our endpoint.

mod common;

use std::process::Command;

use common::{LONG, answer, code, error, invocation, python_spec, start};
use lambic_sandbox::process::Invocation;

#[tokio::test]
async fn awslambdaric_runs() {
    let code = code(&[
        (
            "app.py",
            "from awslambdaric.__main__ import main\nmain(['awslambdaric', 'real.handler'])\n",
        ),
        (
            "real.py",
            "def handler(event, context):\n\
             \x20   if event == 'raise': raise ValueError('no good')\n\
             \x20   return [event, context.aws_request_id, context.invoked_function_arn, context.identity.cognito_identity_id,\n\
             \x20           context.client_context.custom, context.get_remaining_time_in_millis() > 0]\n",
        ),
    ]);
    let installed = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
        ])
        .arg(code.path())
        .arg("awslambdaric==4.2.2")
        .output()
        .expect("python3 is installed");
    assert!(
        installed.status.success(),
        "{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    let mut environment = start(python_spec(code.path(), "app.handler").await).await;
    for round in 0..3 {
        let execution = environment
            .invoke(Invocation {
                client_context: "{\"custom\": {\"a\": 1}}".to_owned(),
                cognito_identity:
                    "{\"cognitoIdentityId\": \"me\", \"cognitoIdentityPoolId\": \"pool\"}"
                        .to_owned(),
                ..invocation(round.to_string().as_bytes(), LONG)
            })
            .await;
        assert_eq!(
            answer(&execution),
            serde_json::json!([round, "id", "arn:aws:lambda:local:000000000000:function:probe", "me", {"a": 1}, true])
        );
    }
    let execution = environment.invoke(invocation(b"\"raise\"", LONG)).await;
    assert_eq!(
        error(&execution.outcome),
        ("ValueError".to_owned(), "no good".to_owned())
    );
    assert!(execution.reusable);
}
