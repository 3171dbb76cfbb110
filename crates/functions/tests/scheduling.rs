//! Who runs when, and on what: spare interpreters, memory, concurrency, and the end.

mod common;

use std::{
    collections::BTreeSet,
    io::{Cursor, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{BOUND, ECHO, House, name};
use lambic_functions::{
    Changes, Code, Deployment, Error, Event, Functions, InvokeResult, LayerSettings, LayerUse,
    Qualifier, Runtime,
};
use serde_json::Value;
use tokio::task::JoinSet;

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
    // All others are split off from one Python, the first one already, and two wait for the next functions.
    let ready = |house: &House| house.functions.counts().spares_ready;
    assert!(ready(&house) >= 1);
    house
        .wait_until("spares wait", |house| ready(house) == 3)
        .await;
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
    assert!(ready(&house) >= 1);
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
async fn invocations_fit_onto_the_processors_that_there_are() {
    let house = House::open_with(|options| {
        // Two of 128 MB.
        options.processors_milli_max = 150;
        options.spares = 0;
    })
    .await;
    for function in ["f", "large", "short"] {
        deploy(&house, function, SLEEPS, |deployment| match function {
            "large" => deployment.memory_mb = 512,
            "short" => deployment.timeout = Duration::from_millis(300),
            _ => {}
        })
        .await;
    }
    // One that counts more than all runs alone.
    environment(&house.invoke("large", "{}").await);
    let many: Vec<_> = (0..3)
        .map(|_| invoking(&house, "f", r#"{"s": 50}"#))
        .collect();
    let one_waits = |house: &House| {
        let counts = house.functions.counts();
        (counts.environments, counts.waiting) == (4, 1)
    };
    house.wait_until("one has no processor", one_waits).await;
    // It waits as long as its event might take, then it is told, and its environment stays for the next one.
    let full = house.functions.invoke(&name("short"), Vec::new()).await;
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!(house.functions.counts().environments, 5);
    house.functions.close().await;
    for one in many {
        assert!(matches!(one.await.unwrap(), Err(Error::Closed)));
    }
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
    let compiled = house.dir.path().join("functions/compiled");
    let left = || std::fs::read_dir(&compiled).unwrap().count();
    house
        .wait_until("compiled code goes too", |_| left() == 0)
        .await;
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

/// More than may wait are told at once, whatever it is that they would wait for.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_callers_wait_than_may() {
    let house = House::open_with(|options| {
        options.waiting_max = 2;
        options.memory_mb_max = 256;
        options.spares = 0;
    })
    .await;
    deploy(&house, "f", SLEEPS, |deployment| {
        deployment.concurrency = Some(1)
    })
    .await;
    deploy(&house, "large", SLEEPS, |deployment| {
        deployment.memory_mb = 256
    })
    .await;
    // It runs to the end of the test; whoever is not told waits for it.
    let first = invoking(&house, "f", r#"{"s": 50}"#);
    let started = |house: &House| house.functions.counts().environments == 1;
    house.wait_until("it runs", started).await;
    let mut callers = JoinSet::new();
    for _ in 0..5 {
        let functions = house.functions.clone();
        callers.spawn(async move { functions.invoke(&name("f"), Vec::new()).await });
    }
    for _ in 0..3 {
        let told = callers.join_next().await.unwrap().unwrap();
        let is_throttled = matches!(told, Err(Error::Throttled { concurrency: 1, .. }));
        assert!(is_throttled, "{told:?}");
    }
    // The other two waited.
    let f = name("f");
    let changed = house.functions.change(&f, |function| {
        function.info.concurrency = Some(3);
        Ok(())
    });
    changed.await.unwrap();
    for ended in callers.join_all().await {
        environment(&ended.unwrap());
    }

    let mut waiting = Vec::new();
    for count in 1..=2 {
        waiting.push(invoking(&house, "large", "{}"));
        let waits = |house: &House| house.functions.counts().waiting == count;
        house.wait_until("it waits for memory", waits).await;
    }
    let told = house.functions.invoke(&name("large"), Vec::new()).await;
    assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
    house.functions.close().await;
    for ended in waiting.into_iter().chain([first]) {
        assert!(matches!(ended.await.unwrap(), Err(Error::Closed)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_of_a_function_become_more_no_faster_than_they_may() {
    let house = House::open_with(|options| {
        options.starts_at_once = 1;
        options.start_every = Duration::from_secs(3_600);
    })
    .await;
    for function in ["f", "other"] {
        deploy(&house, function, SLEEPS, |_| {}).await;
    }
    let first = invoking(&house, "f", r#"{"s": 3}"#);
    let started = |house: &House| house.functions.counts().environments == 1;
    house.wait_until("it runs", started).await;
    // There is memory and a processor for it, and no start: it has to wait for the first.
    let second = invoking(&house, "f", "{}");
    // Others have starts of their own.
    environment(&house.invoke("other", "{}").await);
    let first = environment(&first.await.unwrap().unwrap());
    assert_eq!(environment(&second.await.unwrap().unwrap()), first);
    assert_eq!(house.functions.counts().environments, 2);
}

const CODE: usize = 0;
const LAYER: usize = 1;
const LIVE: usize = 2;

/// Numbers of what callers may see: which serves for sure, and which is about to.
#[derive(Default)]
struct Serving {
    sure: [AtomicU64; 3],
    begun: [AtomicU64; 3],
    answers: AtomicU64,
    is_over: AtomicBool,
}

impl Serving {
    fn begin(&self, of: usize, number: u64) {
        self.begun[of].store(number, SeqCst);
    }

    /// It serves. Callers are asked again and again meanwhile.
    async fn end(&self, of: usize, number: u64, house: &House) {
        self.sure[of].store(number, SeqCst);
        let enough = self.answers.load(SeqCst) + 8;
        let are_answered = |_: &House| self.answers.load(SeqCst) >= enough;
        house.wait_until("callers are answered", are_answered).await;
    }

    /// Invokes until it is over; each answer is of what served when it was asked for, or of what came after.
    async fn call(self: Arc<Self>, functions: Functions, alias: Option<&'static str>) {
        // The alias has code and layer of one number.
        let parts = match alias {
            None => [CODE, LAYER],
            Some(_) => [LIVE, LIVE],
        };
        let f = name("f");
        while !self.is_over.load(SeqCst) {
            let least = parts.map(|part| self.sure[part].load(SeqCst));
            let qualifier = alias.map(|alias| Qualifier::Alias(alias.to_owned()));
            let answer = functions.invoke_at(&f, qualifier, Event::default());
            let answer = answer.await.unwrap();
            let most = parts.map(|part| self.begun[part].load(SeqCst));
            assert!(answer.is_success(), "{}", answer.log_tail);
            let told: [u64; 2] = serde_json::from_slice(answer.payload()).unwrap();
            let fits = (0..2).all(|at| (least[at]..=most[at]).contains(&told[at]));
            assert!(fits, "{alias:?}: {told:?}, not {least:?} to {most:?}");
            assert!(alias.is_none() || told[0] == told[1], "{told:?}");
            self.answers.fetch_add(1, SeqCst);
        }
    }
}

/// Its handler tells its own number and its layer's.
fn numbered(number: u64) -> String {
    format!("import mark\ndef handler(event, context):\n    return [{number}, mark.NUMBER]\n")
}

async fn layer(house: &House, number: u64) -> Vec<LayerUse> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("python/mark.py", options).unwrap();
    write!(zip, "NUMBER = {number}").unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let layer = house
        .functions
        .publish_layer("marks", zip, LayerSettings::default());
    let layer = layer.await.unwrap();
    vec![house.functions.layer_use("marks", layer.number).unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_dropped_while_code_layers_and_aliases_change() {
    let (house, f) = (House::open().await, name("f"));
    let functions = &house.functions;
    let layers = layer(&house, 0).await;
    deploy(&house, "f", &numbered(0), |deployment| {
        deployment.settings.layers = layers;
    })
    .await;
    let published = functions.change(&f, |function| {
        let version = function.publish(None)?.version;
        function.create_alias("live", version, String::new(), None)?;
        Ok(())
    });
    published.await.unwrap();
    let serving = Arc::new(Serving::default());
    let mut callers = JoinSet::new();
    for alias in [None, None, Some("live"), Some("live")] {
        callers.spawn(serving.clone().call(functions.clone(), alias));
    }
    for number in 1..=4 {
        serving.begin(CODE, number);
        let code = Code::Bytes(numbered(number).into_bytes());
        functions.update_code(&f, code, None).await.unwrap();
        serving.end(CODE, number, &house).await;

        serving.begin(LAYER, number);
        let changes = Changes {
            layers: Some(layer(&house, number).await),
            ..Changes::default()
        };
        functions.update_settings(&f, changes).await.unwrap();
        serving.end(LAYER, number, &house).await;

        // First for half of them, then for all; then the former version goes.
        serving.begin(LIVE, number);
        let shifted = functions.change(&f, |function| {
            let version = function.publish(None)?.version;
            let half = Some(Some((version, 0.5)));
            function.update_alias("live", None, None, half, None)?;
            Ok(version)
        });
        let version = shifted.await.unwrap();
        serving.end(LIVE, number - 1, &house).await;
        let moved = functions.change(&f, move |function| {
            function.update_alias("live", Some(version), None, Some(None), None)?;
            function.remove_version(number)
        });
        moved.await.unwrap();
        serving.end(LIVE, number, &house).await;
    }
    serving.is_over.store(true, SeqCst);
    callers.join_all().await;
}
