//! Starts that take longer than a start may: they are a part of the invocation then, as in AWS.

mod common;

use std::time::Duration;

use common::{BOUND, House};
use lambic_functions::{Chunk, Event, Provisioned, Qualifier};
use lambic_model::{FunctionName, InvocationKind};
use serde_json::{Value, json};

/// Longer than the interpreter needs on most machines, and shorter than what the functions here do at their start.
const INIT: Duration = Duration::from_millis(300);

/// At its start it sleeps for so many seconds.
fn source(seconds: &str) -> String {
    format!(
        "import time\n\
         print('begins')\n\
         time.sleep({seconds})\n\
         def handler(event, context):\n\
         \x20   left = context.get_remaining_time_in_millis()\n\
         \x20   time.sleep(event.get('s', 0))\n\
         \x20   return left\n"
    )
}

async fn house() -> House {
    House::open_with(|options| options.init_timeout = INIT).await
}

async fn deploy(house: &House, seconds: &str, timeout: Duration) {
    let mut deployment = house.python("slow", &source(seconds)).await;
    deployment.timeout = timeout;
    deployment.retries = 0;
    deployment.trial = false;
    house.functions.deploy(deployment).await.unwrap();
}

fn slow() -> FunctionName {
    FunctionName::new("slow").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_takes_too_long_is_repeated_in_the_invocation() {
    let house = house().await;
    deploy(&house, "1", BOUND).await;
    let result = house.invoke("slow", "{}").await;
    assert!(result.is_success(), "{}", result.log_tail);
    // Of the function's time the second start has taken its part, which counts as the function's.
    let left: u64 = serde_json::from_slice(result.payload()).unwrap();
    assert!(left <= BOUND.as_millis() as u64 - 1_000, "{left}");
    assert!(result.duration_ms >= 1_000.0 && result.billed_ms >= 1_000);
    assert!(result.cold && result.init_ms.unwrap() >= INIT.as_secs_f64() * 1e3);
    let lines: Vec<&str> = result.log_tail.lines().collect();
    assert_eq!(lines[0], "begins");
    assert!(
        lines[1].starts_with("INIT_REPORT Init Duration: "),
        "{lines:?}"
    );
    assert!(lines[1].ends_with(" ms\tPhase: init\tStatus: timeout"));
    let id = &result.request_id;
    assert_eq!(lines[2], format!("START RequestId: {id} Version: $LATEST"));
    assert_eq!(lines[3], "begins");
    // The environment is kept.
    let again = house.invoke("slow", "{}").await;
    assert!(again.is_success() && !again.cold);
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows[0]["billed_ms"], result.billed_ms);
    assert_eq!(rows[0]["outcome"], "success");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_outlasts_the_timeout_is_the_functions_timeout() {
    let house = house().await;
    deploy(&house, "1000", Duration::from_secs(1)).await;
    let result = house.invoke("slow", "{}").await;
    let error: Value = serde_json::from_slice(result.payload()).unwrap();
    let message = format!(
        "RequestId: {} Error: Task timed out after 1.00 seconds",
        result.request_id
    );
    assert_eq!(
        error,
        json!({"errorType": "Sandbox.Timedout", "errorMessage": message})
    );
    let reports: Vec<&str> = result
        .log_tail
        .lines()
        .filter(|line| line.starts_with("INIT_REPORT "))
        .collect();
    assert_eq!(reports.len(), 2, "{}", result.log_tail);
    assert!(reports[0].ends_with("\tPhase: init\tStatus: timeout"));
    assert!(reports[1].ends_with("\tPhase: invoke\tStatus: timeout"));
    assert!(result.duration_ms >= 1_000.0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_leaves_is_the_events_time() {
    let house = house().await;
    deploy(&house, "1", Duration::from_secs(4)).await;
    let result = house.invoke("slow", r#"{"s": 1000}"#).await;
    let error: Value = serde_json::from_slice(result.payload()).unwrap();
    assert_eq!(error["errorType"], "Sandbox.Timedout", "{error}");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(
        message.ends_with("Task timed out after 4.00 seconds"),
        "{message}"
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_invocations_wait_for_it() {
    let house = house().await;
    deploy(&house, "1", BOUND).await;
    let name = slow();
    let invoked = house
        .functions
        .invoke_streamed(&name, None, Event::default());
    let mut streamed = invoked.await.unwrap();
    let mut pieces = Vec::new();
    let result = loop {
        match streamed.next().await.unwrap() {
            Chunk::Bytes(bytes) => pieces.extend(bytes),
            Chunk::End(result) => break result.unwrap(),
        }
    };
    assert!(result.is_success() && !pieces.is_empty(), "{result:?}");
    // Other code, so that no environment is there.
    deploy(&house, "1.01", BOUND).await;
    let queued = house.functions.invoke_async(&name, Vec::new()).await;
    queued.unwrap();
    let rows = house.wait_for_rows("lambic_async", 2).await;
    assert_eq!(rows[1]["state"], "done");
    house.functions.flush().await;
    let kinds: Vec<_> = house
        .rows("lambic_invocations")
        .iter()
        .map(|row| (row["kind"].clone(), row["cold"].clone()))
        .collect();
    let cold = |kind: InvocationKind| (json!(format!("{kind:?}").to_lowercase()), json!(true));
    assert_eq!(
        kinds,
        [cold(InvocationKind::Sync), cold(InvocationKind::Async)]
    );
    house.close().await;
}

/// Nobody waits for an environment that is provisioned: it has more time.
#[tokio::test(flavor = "multi_thread")]
async fn provisioned_environments_may_take_longer() {
    let house = house().await;
    deploy(&house, "1", Duration::from_millis(500)).await;
    let name = slow();
    let changed = house.functions.change(&name, |function| {
        let version = function.publish(None)?.version;
        let provisioned = Provisioned {
            environments: 1,
            changed_at_us: 0,
        };
        let qualifier = Qualifier::Version(version);
        function.provisioned.insert(qualifier.clone(), provisioned);
        Ok(qualifier)
    });
    let qualifier = changed.await.unwrap();
    house
        .wait_until("it is there", |house| {
            let function = house.functions.function("slow").unwrap();
            house.functions.provisioned(&function, &qualifier).available == 1
        })
        .await;
    house.close().await;
}
