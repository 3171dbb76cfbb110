//! Environments of Python that are split off a zygote.

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{LONG, answer, code, error, invocation};
use lambic_sandbox::process::{Environment, Spare, Spec, Zygote};

async fn spec(code: &Path, handler: &str) -> Spec {
    common::python_spec(code, handler).await
}

async fn zygote(spec: &Spec, codes: &Path) -> Arc<Zygote> {
    Zygote::start(spec.launch.clone(), spec.isolation.clone(), codes)
        .await
        .unwrap()
        .expect("this machine allows it")
}

async fn split(zygote: &Arc<Zygote>, spec: &Spec) -> Environment {
    let started = Environment::start_from(zygote, Arc::new(spec.clone())).await;
    let environment = started.unwrap().unwrap();
    assert!(environment.had_interpreter());
    environment
}

/// One that was there before its function was known.
async fn waited(zygote: &Arc<Zygote>, spec: &Spec) -> Environment {
    let spare = Spare::split(zygote, &spec.code_dir).await.unwrap();
    let mut spare = spare.expect("this machine allows it");
    assert!(spare.is_alive() && Spare::may_become(spec));
    let environment = spare.take(Arc::new(spec.clone())).await.unwrap().unwrap();
    assert!(environment.had_interpreter());
    environment
}

#[tokio::test]
async fn one_that_is_split_off_is_the_functions() {
    let code = code(&[
        (
            "app.py",
            "import json, os, sys, time, errno\n\
             from mine import value\n\
             import client, uuid\n\
             print('loaded')\n\
             def full():\n\
             \x20   try:\n\
             \x20       with open('/tmp/a', 'wb') as file:\n\
             \x20           while True: file.write(bytes(1 << 20))\n\
             \x20   except OSError as e: return errno.errorcode[e.errno], os.stat('/tmp/a').st_size >> 20\n\
             def handler(event, context):\n\
             \x20   return {'value': value, 'client': client.mark, 'task': sorted(os.listdir('/var/task')), 'here': sorted(os.listdir('.')),\n\
             \x20           'colour': os.environ['COLOUR'], 'zone': time.tzname[0], 'uuid': uuid.uuid4(),\n\
             \x20           'name': context.function_name, 'memory': context.memory_limit_in_mb, 'full': full(),\n\
             \x20           'writable': os.access('/var/task/app.py', os.W_OK) or os.access('/opt', os.W_OK),\n\
             \x20           'path': [p for p in sys.path if p.startswith(('/var/task', '/opt'))]}\n",
        ),
        ("lib/data", "x"),
        // Stands before the library's, which the zygote has read by then.
        ("uuid.py", "def uuid4(): return 'its own'\n"),
        // As ours is called.
        ("client.py", "mark = 'its own'\n"),
    ]);
    let layer = common::code(&[("python/mine.py", "value = 'of a layer'")]);
    let mut spec = spec(code.path(), "app.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    spec.tmp_mb = 32;
    spec.environment
        .push(("TZ".to_owned(), "Asia/Tokyo".to_owned()));
    let zygote = zygote(&spec, code.path()).await;
    assert!(Spare::may_become(&spec));
    let mut other = spec.clone();
    other
        .environment
        .push(("PYTHONHASHSEED".to_owned(), "0".to_owned()));
    assert!(!Spare::may_become(&other));
    let site = format!("/opt/python/lib/{}/site-packages", spec.runtime);
    for environment in [split(&zygote, &spec).await, waited(&zygote, &spec).await] {
        check_the_functions(environment, &site).await;
    }
}

async fn check_the_functions(mut environment: Environment, site: &str) {
    let dir = environment.dir().to_owned();
    for _ in 0..2 {
        let execution = environment.invoke(invocation(b"{}", LONG)).await;
        assert_eq!(
            answer(&execution),
            serde_json::json!({"value": "of a layer", "client": "its own", "task": ["app.py", "client.py", "lib", "uuid.py"],
                "here": ["app.py", "client.py", "lib", "uuid.py"], "colour": "amber", "zone": "JST", "uuid": "its own",
                "name": "probe", "memory": "128", "full": ["ENOSPC", 32], "writable": false,
                "path": ["/var/task", site, "/opt/python"]})
        );
        assert!(execution.reusable);
    }
    environment.kill().await;
    drop(environment);
    assert!(!dir.exists());
}

/// What a program finds of how it is shut in.
const SEEN: &str = "import os, random, socket\n\
    def status(pid='self'):\n\
    \x20   lines = open(f'/proc/{pid}/status').read().splitlines()\n\
    \x20   wanted = ('Uid', 'Gid', 'Groups', 'Cap', 'NoNewPrivs', 'Seccomp:')\n\
    \x20   return [line.split() for line in lines if line.startswith(wanted)]\n\
    def mounts():\n\
    \x20   rows = [line.split() for line in open('/proc/self/mountinfo')]\n\
    \x20   return sorted((row[4], row[5], row[row.index('-') + 1]) for row in rows)\n\
    def limits():\n\
    \x20   return open('/proc/self/limits').read().splitlines()\n\
    def handler(event, context):\n\
    \x20   open('/tmp/mine', 'x').close()\n\
    \x20   files = sorted(os.listdir('/proc/self/fd'), key=int)\n\
    \x20   return {'status': status(), 'mounts': mounts(), 'limits': limits(), 'files': len(files), 'pid': os.getpid(),\n\
    \x20           'processes': [name for name in os.listdir('/proc') if name.isdigit()], 'root': sorted(os.listdir('/')),\n\
    \x20           'host': socket.gethostname(), 'environ': sorted(os.environ),\n\
    \x20           'devices': open('/proc/net/dev').read().count(':'), 'random': random.random()}\n";

#[tokio::test]
async fn one_that_is_split_off_is_shut_in_as_one_that_is_started() {
    let code = code(&[("app.py", SEEN)]);
    let spec = spec(code.path(), "app.handler").await;
    let zygote = zygote(&spec, code.path()).await;
    let mut whole = common::start(spec.clone()).await;
    assert!(!whole.had_interpreter());
    let (mut one, mut two) = (split(&zygote, &spec).await, waited(&zygote, &spec).await);
    let mut seen = Vec::new();
    for environment in [&mut whole, &mut one, &mut two] {
        let execution = environment.invoke(invocation(b"{}", LONG)).await;
        let mut found = answer(&execution);
        let found = found.as_object_mut().expect("it is one");
        let random = found.remove("random");
        seen.push((found.clone(), random));
    }
    let [whole_seen, one_seen, two_seen] = seen.try_into().unwrap();
    assert_eq!(whole_seen.0, one_seen.0);
    assert_eq!(one_seen.0, two_seen.0);
    assert_ne!(one_seen.1, two_seen.1);
    for mut environment in [whole, one, two] {
        environment.kill().await;
    }
}

#[tokio::test]
async fn one_that_waits_ends_with_who_keeps_it() {
    let code = code(&[("app.py", "def handler(event, context): return event\n")]);
    let spec = spec(code.path(), "app.handler").await;
    let zygote = zygote(&spec, code.path()).await;
    let spares = [
        Spare::split(&zygote, code.path()).await.unwrap().unwrap(),
        Spare::split(&zygote, code.path()).await.unwrap().unwrap(),
    ];
    let is_there = |pid: &i32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline"));
        arguments.is_ok_and(|arguments| arguments.ends_with(b"/zygote.py\0"))
    };
    let pids = [spares[0].pid(), spares[1].pid()];
    assert!(pids.iter().all(is_there));
    drop(spares);
    let start = std::time::Instant::now();
    while pids.iter().any(is_there) {
        assert!(start.elapsed() < LONG, "they are still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The zygote does not mind.
    split(&zygote, &spec).await.kill().await;
}

#[tokio::test]
async fn how_one_that_was_split_off_ended_is_known() {
    let code = code(&[(
        "app.py",
        "import os\n\
         def handler(event, context):\n\
         \x20   if 'code' in event: os._exit(event['code'])\n\
         \x20   return event\n",
    )]);
    let spec = spec(code.path(), "app.handler").await;
    let zygote = zygote(&spec, code.path()).await;
    for (event, message) in [
        (&br#"{"code": 3}"#[..], "exit status 3"),
        (br#"{"code": 0}"#, "exited without providing a reason"),
    ] {
        let mut environment = split(&zygote, &spec).await;
        let execution = environment.invoke(invocation(event, LONG)).await;
        let (kind, said) = error(&execution.outcome);
        assert_eq!(kind, "Runtime.ExitError");
        assert!(said.contains(message), "{said}");
        assert!(!environment.is_alive());
    }
    // What is wrong with a function is its own.
    let mut broken = spec.clone();
    broken.handler = "none.handler".to_owned();
    let failed = Environment::start_from(&zygote, Arc::new(broken)).await;
    let Err(failed) = failed.unwrap() else {
        panic!("it started")
    };
    assert_eq!(error(&failed.outcome).0, "Runtime.ImportModuleError");
    // An environment outlives whoever kept the zygote, and needs it until its end.
    let mut environment = split(&zygote, &spec).await;
    drop(zygote);
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), serde_json::json!({}));
    environment.kill().await;
}

/// How often a text is in its memory; it is given shifted by one letter, so that the question is not found.
const SEARCH: &str = "SHIFT = bytes((byte + 1) % 256 for byte in range(256))\n\
    def handler(event, context):\n\
    \x20   wanted, found = event['shifted'].encode(), 0\n\
    \x20   with open('/proc/self/mem', 'rb', 0) as memory, open('/proc/self/maps') as maps:\n\
    \x20       for line in maps.readlines():\n\
    \x20           place, rights = line.split()[:2]\n\
    \x20           if 'r' not in rights or '[v' in line: continue\n\
    \x20           start, end = (int(number, 16) for number in place.split('-'))\n\
    \x20           try:\n\
    \x20               memory.seek(start)\n\
    \x20               part = memory.read(end - start)\n\
    \x20           except OSError: continue\n\
    \x20           found += part.translate(SHIFT).count(wanted)\n\
    \x20   return found\n";

#[tokio::test]
async fn what_one_was_given_is_not_in_the_memory_of_those_that_come_later() {
    let code = code(&[("app.py", SEARCH)]);
    let spec = spec(code.path(), "app.handler").await;
    let zygote = zygote(&spec, code.path()).await;
    let secret = "the-secret-of-another-function";
    let shifted: String = secret.bytes().map(|byte| char::from(byte + 1)).collect();
    let event = serde_json::json!({ "shifted": shifted }).to_string();
    let mut with_secret = spec.clone();
    // Several large ones: what is small and let go of is soon written over.
    for number in 0..6 {
        let value = secret.repeat(20 + 9 * number);
        let name = format!("SECRET_{number}");
        with_secret.environment.push((name, value));
    }
    let mut one = split(&zygote, &with_secret).await;
    let mut other = split(&zygote, &spec).await;
    let mut counts = Vec::new();
    for environment in [&mut one, &mut other] {
        let execution = environment.invoke(invocation(event.as_bytes(), LONG)).await;
        counts.push(answer(&execution).as_u64().expect("it is a count"));
        environment.kill().await;
    }
    assert!(counts[0] > 0, "it finds its own: {counts:?}");
    assert_eq!(counts[1], 0);
}

#[tokio::test]
async fn starts_that_are_given_up_do_not_end_the_zygote() {
    let code = code(&[("app.py", "def handler(event, context): return event\n")]);
    let spec = spec(code.path(), "app.handler").await;
    let zygote = zygote(&spec, code.path()).await;
    let mut kept = split(&zygote, &spec).await;
    // Given up at each of its first steps, wherever that is.
    for step in 0..40 {
        let started = Environment::start_from(&zygote, Arc::new(spec.clone()));
        let pause = Duration::from_micros(250 * step);
        let _ = tokio::time::timeout(pause, started).await;
    }
    assert!(zygote.is_alive());
    let execution = kept.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), serde_json::json!({}));
    kept.kill().await;
    split(&zygote, &spec).await.kill().await;
}
