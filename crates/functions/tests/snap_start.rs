//! Published versions with SnapStart: environments that wait after their start, and are restored before their first event.

mod common;

use std::{sync::LazyLock, time::Duration};

use common::{House, name};
use lambic_functions::{Event, FunctionVersion, InvokeResult, Options, Qualifier};
use lambic_model::FunctionName;
use serde_json::{Value, json};

const SOURCE: &str = "import os, time\n\
    from snapshot_restore_py import register_after_restore, register_before_snapshot\n\
    seen = []\n\
    print('starts')\n\
    @register_before_snapshot\n\
    def before():\n\
    \x20   seen.append('before')\n\
    @register_after_restore\n\
    def after():\n\
    \x20   seen.append('after')\n\
    \x20   print('restores')\n\
    def handler(event, context):\n\
    \x20   time.sleep(event.get('s', 0))\n\
    \x20   return [seen, os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']]\n";

static F: LazyLock<FunctionName> = LazyLock::new(|| name("f"));

/// A version 1 of `f`.
async fn publish(house: &House, source: &str) {
    let mut deployment = house.python("f", source).await;
    deployment.trial = false;
    let kept = json!({"ApplyOn": "PublishedVersions"});
    deployment
        .settings
        .kept
        .insert("SnapStart".to_owned(), kept);
    house.functions.deploy(deployment).await.unwrap();
    let published = house
        .functions
        .change(&F, |function| function.publish(None));
    published.await.unwrap();
}

async fn invoke(house: &House, payload: &str) -> InvokeResult {
    let version = Qualifier::Version(FunctionVersion::Number(1));
    let event = Event {
        payload: payload.as_bytes().to_vec(),
        ..Event::default()
    };
    let invoked = house.functions.invoke_at(&F, Some(version), event);
    invoked.await.unwrap()
}

async fn wait_for(house: &House, environments: u64) {
    let what = format!("{environments} environments");
    let has = |house: &House| house.functions.counts().environments == environments;
    house.wait_until(&what, has).await;
}

fn spares_no_interpreters(options: &mut Options) {
    options.spares = 0;
}

fn answer(result: &InvokeResult) -> Value {
    assert!(result.is_success(), "{}", result.log_tail);
    serde_json::from_slice(result.payload()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn some_wait_while_a_version_is_in_use() {
    let house = House::open_with(spares_no_interpreters).await;
    publish(&house, SOURCE).await;
    let restored = json!([["before", "after"], "snap-start"]);
    // What was published only takes nothing, and the first one is started for its event.
    assert_eq!(house.functions.counts().environments, 0);
    let first = invoke(&house, "{}").await;
    assert_eq!((answer(&first), first.cold), (restored.clone(), true));
    assert_restored(&first, true);
    wait_for(&house, 3).await;

    // The one that was used goes before those that were not.
    let again = invoke(&house, "{}").await;
    assert_eq!((answer(&again), again.cold), (restored.clone(), false));
    assert!(!again.log_tail.contains("RESTORE"), "{}", again.log_tail);
    assert_eq!(house.functions.counts().environments, 3);
    let both = tokio::join!(invoke(&house, r#"{"s": 1}"#), invoke(&house, r#"{"s": 1}"#));
    let mut both = [both.0, both.1];
    both.sort_by_key(|result| result.log_tail.contains("RESTORE"));
    for result in &both {
        assert_eq!((answer(result), result.cold), (restored.clone(), false));
    }
    assert!(!both[0].log_tail.contains("RESTORE"));
    assert_restored(&both[1], false);
    // One more takes its place.
    wait_for(&house, 4).await;

    // `$LATEST` has none of it.
    let latest = house.invoke("f", "{}").await;
    assert_eq!(answer(&latest), json!([[], "on-demand"]));
    assert!(!latest.log_tail.contains("RESTORE"));
    house.close().await;
}

/// Its log is as on AWS.
fn assert_restored(result: &InvokeResult, is_cold: bool) {
    let lines: Vec<&str> = result.log_tail.lines().collect();
    assert_eq!(lines[0], "starts", "{lines:?}");
    assert!(lines[1].starts_with("RESTORE_START Runtime Version: python3."));
    assert_eq!(lines[2], "restores");
    assert!(lines[3].starts_with("RESTORE_REPORT Restore Duration: "));
    assert!(lines[4].starts_with("START RequestId: "));
    let report = lines.last().unwrap();
    assert!(report.contains("\tRestore Duration: "), "{report}");
    assert!(report.contains("\tBilled Restore Duration: "), "{report}");
    assert_eq!(report.contains("\tInit Duration: "), is_cold, "{report}");
    assert!(result.billed_ms as f64 > result.duration_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_nobody_uses_has_no_processes() {
    let house = House::open_with(|options| {
        spares_no_interpreters(options);
        options.idle = Duration::from_secs(5);
    })
    .await;
    publish(&house, SOURCE).await;
    invoke(&house, "{}").await;
    wait_for(&house, 3).await;
    wait_for(&house, 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_the_first_to_make_room() {
    let house = House::open_with(|options| {
        spares_no_interpreters(options);
        options.memory_mb_max = 3 * 128;
    })
    .await;
    publish(&house, SOURCE).await;
    invoke(&house, "{}").await;
    wait_for(&house, 3).await;
    house
        .deploy_python("g", "def handler(event, context):\n    return 1\n")
        .await;
    assert_eq!(answer(&house.invoke("g", "{}").await), json!(1));
    // The one that was used is older, and still there.
    let again = invoke(&house, "{}").await;
    assert!(!again.cold && !again.log_tail.contains("RESTORE"));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_fails_the_event() {
    let house = House::open_with(spares_no_interpreters).await;
    let source = "from snapshot_restore_py import register_after_restore\n\
        @register_after_restore\n\
        def after():\n\
        \x20   raise ValueError('no keys')\n\
        def handler(event, context):\n\
        \x20   return 1\n";
    publish(&house, source).await;
    let failed = invoke(&house, "{}").await;
    let error: Value = serde_json::from_slice(failed.payload()).unwrap();
    assert!(!failed.is_success());
    assert_eq!(error["errorType"], "ValueError", "{error}");
    assert_eq!(error["errorMessage"], "no keys");
    let tail = &failed.log_tail;
    assert!(
        tail.contains("\tStatus: error\tError Type: ValueError"),
        "{tail}"
    );
    // Those that wait do not know it yet; the one that failed has ended.
    wait_for(&house, 2).await;
    house.close().await;
}
