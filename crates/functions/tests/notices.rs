//! What stands in a function's log although nothing of it ran.

mod common;

use std::{sync::Arc, time::Instant};

use common::House;
use lambic_base::{Clock, SystemClock};
use lambic_functions::{Changes, Code, Deployment, Error, Runtime};
use lambic_model::FunctionName;
use serde_json::{Value, json};

const ANSWERS: &str = "def handler(event, context):\n    return 'former'\n";

/// It is always the same minute.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now_us(&self) -> i64 {
        1_700_000_000_000_000
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

fn name(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

/// Lines of the platform that belong to no invocation.
async fn notices(house: &House, function: &str) -> Vec<String> {
    house.functions.flush().await;
    let rows = house.rows("lambic_logs");
    let of_it = rows.iter().filter(|row| {
        row["function"] == function && row["stream"] == "platform" && row["request_id"].is_null()
    });
    of_it
        .map(|row| row["line"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_change_was_refused_stands_in_the_log() {
    let house = House::open_with(|options| options.clock = Arc::new(Still)).await;
    house.deploy_python("f", ANSWERS).await;
    let f = name("f");
    let zip = Code::Zip(b"no zip".to_vec());
    let updated = house.functions.update_code(&f, zip, None).await;
    assert!(matches!(updated, Err(Error::BadZip { .. })), "{updated:?}");
    let changes = Changes {
        handler: Some("handler".to_owned()),
        tmp_mb: Some(1),
        ..Changes::default()
    };
    let updated = house.functions.update_settings(&f, changes).await;
    assert!(updated.is_err());
    let component = Code::Bytes(b"(component)".to_vec());
    let new = Deployment::new(name("new"), Runtime::Wasm, component);
    assert!(house.functions.create(new).await.is_err());
    let lines = notices(&house, "f").await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let zip = "the code of function `f` is not a zip that can be used: ";
    assert!(lines[0].starts_with(zip), "{lines:?}");
    assert!(lines[1].contains("its /tmp must be 512 to 10240 MB, not 1"));
    let lines = notices(&house, "new").await;
    assert!(lines[0].contains("it exports no function"), "{lines:?}");
    // What tells nothing of the function is not there: that it exists, or not, or has changed.
    let again = house.python("f", ANSWERS).await;
    assert!(house.functions.create(again).await.is_err());
    let none = Changes::default();
    assert!(
        house
            .functions
            .update_settings(&name("none"), none)
            .await
            .is_err()
    );
    let stale = Changes {
        revision: Some("stale".to_owned()),
        ..Changes::default()
    };
    assert!(house.functions.update_settings(&f, stale).await.is_err());
    assert_eq!(notices(&house, "f").await.len(), 2);
    assert!(notices(&house, "none").await.is_empty());
    // A loop of refused requests does not fill the log.
    for _ in 0..30 {
        let zip = Code::Zip(b"no zip".to_vec());
        assert!(house.functions.update_code(&f, zip, None).await.is_err());
    }
    assert_eq!(notices(&house, "f").await.len(), 10);
    assert_eq!(house.invoke("f", "").await.payload(), b"\"former\"");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_could_not_be_run_is_a_failed_invocation() {
    let house = House::open().await;
    house.deploy_python("f", ANSWERS).await;
    // The machine has become smaller.
    let house = house
        .restart_with(|options| {
            options.memory_mb_max = 100;
            options.clock = Arc::new(Still);
        })
        .await;
    let f = name("f");
    for _ in 0..12 {
        let error = house.functions.invoke(&f, Vec::new()).await.unwrap_err();
        assert!(matches!(error, Error::TooMuchMemory { .. }), "{error}");
    }
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows.len(), 12, "each of them");
    for row in &rows {
        assert_eq!(row["outcome"], "failure");
        assert_eq!(row["error_type"], "ServiceException");
        assert_eq!(
            (&row["billed_ms"], &row["cold"]),
            (&json!(0), &json!(false))
        );
        let message = row["error_message"].as_str().unwrap();
        assert!(message.contains("functions.memory_mb_max"), "{message}");
    }
    let logs = house.rows("lambic_logs");
    let of_first: Vec<&Value> = logs
        .iter()
        .filter(|line| line["request_id"] == rows[0]["request_id"])
        .collect();
    assert_eq!(of_first.len(), 1, "{logs:?}");
    assert_eq!(of_first[0]["stream"], "platform");
    let line = of_first[0]["line"].as_str().unwrap();
    let id = rows[0]["request_id"].as_str().unwrap();
    assert!(line.starts_with(&format!(
        "RequestId: {id} Error: function `f` may use 128 MB"
    )));
    assert_eq!(logs.len(), 10, "lines have a bound");
    house.close().await;
}
