//! Who runs when, and on what: spare interpreters, memory, concurrency, and the end.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{BOUND, ECHO, House, name};
use lambic_functions::{Code, Deployment, Error, InvokeResult, Runtime};
use serde_json::Value;

const SLEEPS: &str = "import os, time\n\
    def handler(event, context):\n\
    \x20   time.sleep(event.get('s', 0))\n\
    \x20   return os.environ['AWS_LAMBDA_LOG_STREAM_NAME']\n";

/// Which of the environments ran it.
fn environment(result: &InvokeResult) -> String {
    assert!(result.is_success(), "{}", result.log_tail);
    String::from_utf8(result.payload().to_vec()).unwrap()
}

async fn deploy(house: &House, name: &str, source: &str, change: impl FnOnce(&mut Deployment)) {
    let mut deployment = house.python(name, source).await;
    deployment.trial = false;
    change(&mut deployment);
    house.functions.deploy(deployment).await.unwrap();
}

fn invoking(
    house: &House,
    function: &str,
    event: &str,
) -> tokio::task::JoinHandle<Result<InvokeResult, Error>> {
    let (functions, name, event) = (house.functions.clone(), name(function), event.to_owned());
    tokio::spawn(async move { functions.invoke(&name, event.into_bytes()).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn interpreters_wait_for_the_next_function_as_long_as_they_are_used() {
    let house = House::open_with(|options| options.idle = Duration::from_secs(2)).await;
    for function in ["a", "b", "c"] {
        deploy(&house, function, SLEEPS, |_| {}).await;
    }
    let counts = house.functions.counts();
    assert_eq!((counts.environments, counts.spares_ready), (0, 0));
    let first = house.invoke("a", "{}").await;
    assert!(first.cold);
    // One Python is enough: all others are split off from it, the first one already.
    let ready = |house: &House| house.functions.counts().spares_ready == 1;
    assert!(ready(&house));
    assert_eq!(house.functions.counts().spares_taken, 1);
    let others = [house.invoke("b", "{}").await, house.invoke("c", "{}").await];
    let environments: BTreeSet<String> = others.iter().map(environment).collect();
    assert_eq!(environments.len(), 2);
    assert!(others.iter().all(|other| other.cold));
    assert_eq!(house.functions.counts().spares_taken, 3);
    // One with a variable that an interpreter reads when it starts has its own.
    deploy(&house, "d", SLEEPS, |deployment| {
        let variable = ("PYTHONHASHSEED".to_owned(), "0".to_owned());
        deployment.environment = [variable].into();
    })
    .await;
    let taken = house.functions.counts().spares_taken;
    environment(&house.invoke("d", "{}").await);
    assert_eq!(house.functions.counts().spares_taken, taken);
    let nothing = |house: &House| {
        let counts = house.functions.counts();
        (counts.environments, counts.spares_ready, counts.memory_mb) == (0, 0, 0)
    };
    house.wait_until("nothing is left", nothing).await;
    // And they come again.
    house.invoke("a", "{}").await;
    assert!(ready(&house));
    house.functions.close().await;
    assert!(nothing(&house));
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_fit_into_the_memory_that_there_is() {
    let house = House::open_with(|options| {
        options.memory_mb_max = 256;
        options.spares = 0;
    })
    .await;
    deploy(&house, "a", SLEEPS, |_| {}).await;
    deploy(&house, "b", SLEEPS, |deployment| deployment.memory_mb = 256).await;
    let many: Vec<_> = (0..6)
        .map(|_| invoking(&house, "a", r#"{"s": 0.2}"#))
        .collect();
    let mut environments = BTreeSet::new();
    for one in many {
        environments.insert(environment(&one.await.unwrap().unwrap()));
    }
    assert_eq!(environments.len(), 2);
    assert_eq!(house.functions.counts().memory_mb, 256);
    // Those that nobody uses make room.
    environment(&house.invoke("b", "{}").await);
    let counts = house.functions.counts();
    assert_eq!((counts.environments, counts.memory_mb), (1, 256));
    let again = environment(&house.invoke("a", "{}").await);
    assert!(!environments.contains(&again));

    let mut large = house.python("large", SLEEPS).await;
    large.memory_mb = 257;
    let refused = house.functions.deploy(large).await.unwrap_err();
    assert!(matches!(refused, Error::TooMuchMemory { .. }), "{refused}");
    // What was deployed on a larger machine.
    let house = house
        .restart_with(|options| options.memory_mb_max = 200)
        .await;
    let refused = house.functions.invoke(&name("b"), Vec::new()).await;
    assert!(matches!(refused, Err(Error::TooMuchMemory { .. })));
    environment(&house.invoke("a", "{}").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_memory_is_neither_passed_nor_forgotten() {
    let house = House::open_with(|options| {
        options.memory_mb_max = 128;
        options.spares = 0;
    })
    .await;
    for function in ["many", "one"] {
        deploy(&house, function, SLEEPS, |_| {}).await;
    }
    deploy(&house, "short", SLEEPS, |deployment| {
        deployment.timeout = Duration::from_millis(300);
    })
    .await;
    let first = invoking(&house, "many", r#"{"s": 2}"#);
    let runs = |house: &House| house.functions.counts().environments == 1;
    house.wait_until("it runs", runs).await;
    // It waits as long as its event might take, then it is told.
    let full = house.functions.invoke(&name("short"), Vec::new()).await;
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    let many: Vec<_> = (0..8)
        .map(|_| invoking(&house, "many", r#"{"s": 0.1}"#))
        .collect();
    let wait = |house: &House| house.functions.counts().waiting == 8;
    house.wait_until("they wait", wait).await;
    environment(&house.invoke("one", "{}").await);
    let ended = many.iter().filter(|one| one.is_finished()).count();
    assert!(ended < 4, "{ended} ran before");
    environment(&first.await.unwrap().unwrap());
    for one in many {
        environment(&one.await.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_wait_are_told_when_a_function_is_stopped() {
    let house = House::open().await;
    deploy(&house, "f", SLEEPS, |deployment| {
        deployment.concurrency = Some(1)
    })
    .await;
    let runs = invoking(&house, "f", r#"{"s": 1}"#);
    let started = |house: &House| house.functions.counts().environments == 1;
    house.wait_until("it runs", started).await;
    let waits = invoking(&house, "f", "{}");
    let f = name("f");
    let set = async |limit: Option<usize>| {
        let changed = house.functions.change(&f, move |function| {
            function.info.concurrency = limit;
            Ok(())
        });
        changed.await.unwrap();
    };
    set(Some(0)).await;
    let told = waits.await.unwrap();
    assert!(matches!(told, Err(Error::Throttled { .. })), "{told:?}");
    environment(&runs.await.unwrap().unwrap());
    let told = house.functions.invoke(&name("f"), Vec::new()).await;
    assert!(matches!(told, Err(Error::Throttled { .. })), "{told:?}");
    set(None).await;
    assert!(house.invoke("f", "{}").await.is_success());
}

/// Functions without a concurrency of their own share what the others leave.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_much_concurrency() {
    let house = House::open_with(|options| options.concurrency = 2).await;
    for (function, concurrency) in [("a", None), ("b", None), ("own", Some(1))] {
        deploy(&house, function, SLEEPS, |deployment| {
            deployment.concurrency = concurrency;
            deployment.timeout = Duration::from_secs(5);
        })
        .await;
    }
    let many: Vec<_> = (0..3)
        .map(|_| invoking(&house, "a", r#"{"s": 0.5}"#))
        .collect();
    let started = |house: &House| house.functions.counts().environments == 2;
    house.wait_until("two run", started).await;
    environment(&house.invoke("own", "{}").await);
    environment(&house.invoke("b", "{}").await);
    for one in many {
        environment(&one.await.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_many_events_leaves_turns_to_others() {
    let house = House::open_with(|options| options.async_max = 3).await;
    for function in ["slow", "quick"] {
        deploy(&house, function, SLEEPS, |_| {}).await;
    }
    for _ in 0..45 {
        let event = br#"{"s": 0.3}"#.to_vec();
        let queued = house.functions.invoke_async(&name("slow"), event).await;
        queued.unwrap();
    }
    let quick = house
        .functions
        .invoke_async(&name("quick"), Vec::new())
        .await;
    let quick = quick.unwrap();
    let rows = house.wait_for_rows("lambic_async", 2 * 46).await;
    let ends: Vec<&Value> = rows.iter().filter(|row| row["state"] == "done").collect();
    assert_eq!(ends.len(), 46);
    let at = ends
        .iter()
        .position(|row| row["request_id"] == quick.as_str());
    assert!(at.unwrap() < 35, "{at:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_those_whose_callers_wait() {
    let house = House::open_with(|options| options.drain_max = BOUND).await;
    deploy(&house, "f", SLEEPS, |_| {}).await;
    let runs = invoking(&house, "f", r#"{"s": 1}"#);
    let started = |house: &House| house.functions.counts().environments == 1;
    house.wait_until("it runs", started).await;
    let functions = house.functions.clone();
    let closes = tokio::spawn(async move { functions.close().await });
    let refused = async || {
        let invoked = house.functions.invoke(&name("f"), Vec::new()).await;
        matches!(invoked, Err(Error::Closed))
    };
    while !refused().await {
        tokio::task::yield_now().await;
    }
    environment(&runs.await.unwrap().unwrap());
    closes.await.unwrap();
    assert_eq!(house.functions.counts().environments, 0);

    // One that takes longer than the bound is given up.
    let house = house.restart().await;
    let runs = invoking(&house, "f", r#"{"s": 50}"#);
    house.wait_until("it runs", started).await;
    house.functions.close().await;
    assert!(matches!(runs.await.unwrap(), Err(Error::Closed)));
    assert_eq!(house.functions.counts().environments, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_goes_when_nothing_names_it() {
    let (house, f) = (House::open().await, name("f"));
    let code = house.dir.path().join("functions/code");
    let digests = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(&code).unwrap().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    };
    let source = |n: u32| format!("def handler(event, context):\n    return {n}\n");
    let digest = |house: &House| house.functions.get("f").unwrap().digest;
    deploy(&house, "f", &source(1), |_| {}).await;
    let first = digest(&house);
    let published = house
        .functions
        .change(&f, |function| function.publish(None));
    published.await.unwrap();
    deploy(&house, "f", &source(2), |_| {}).await;
    let second = digest(&house);
    deploy(&house, "f", &source(3), |_| {}).await;
    let third = digest(&house);
    let mut wasm = Deployment::new(
        name("echo"),
        Runtime::Wasm,
        Code::Bytes(ECHO.as_bytes().to_vec()),
    );
    wasm.timeout = BOUND;
    let echo = house.functions.deploy(wasm).await.unwrap().digest;
    let kept = BTreeSet::from([first.clone(), third.clone(), echo.clone()]);
    house
        .wait_until("the second goes", |_| digests() == kept)
        .await;
    assert!(!kept.contains(&second));
    let removed = house
        .functions
        .change(&f, |function| function.remove_version(1));
    removed.await.unwrap();
    house.functions.remove(&name("echo")).await.unwrap();
    let kept = BTreeSet::from([third]);
    house
        .wait_until("only the last stays", |_| digests() == kept)
        .await;
    let compiled = std::fs::read_dir(house.dir.path().join("functions/compiled")).unwrap();
    assert_eq!(compiled.count(), 0);
    // Also what a kill left.
    std::fs::create_dir(code.join("0.tmp")).unwrap();
    let house = house.restart().await;
    let code = house.dir.path().join("functions/code/0.tmp");
    house
        .wait_until("what was left goes", |_| !code.exists())
        .await;
    assert_eq!(house.invoke("f", "{}").await.payload(), b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_allow_longer_timeouts() {
    let house = House::open_with(|options| options.timeout_max = Duration::from_secs(7_200)).await;
    deploy(&house, "f", SLEEPS, |deployment| {
        deployment.timeout = Duration::from_secs(7_200);
    })
    .await;
    assert_eq!(house.functions.get("f").unwrap().timeout_ms, 7_200_000);
    let mut longer = house.python("f", SLEEPS).await;
    longer.timeout = Duration::from_secs(7_201);
    let refused = house.functions.deploy(longer).await.unwrap_err();
    assert!(refused.to_string().contains("7200 seconds"), "{refused}");
}
