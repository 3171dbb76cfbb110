//! Machines that allow less, played by this program run with fewer rights.
//!
//! Each test starts this very program again, for itself alone: as another user, or as root without the right to make
//! namespaces. What it looks at is looked at there.

mod common;

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use common::{LONG, answer, code, invocation, spec};
use lambic_sandbox::{
    Error,
    process::{Environment, Image, Interpreter, Isolation, Launch, Part, Spec},
};

/// Says to the second program which one it is.
const PLAYS: &str = "LAMBIC_TEST_TIER";

/// Runs `body`, of the test of this name, under `setpriv` with these arguments.
fn run_as(rights: &[&str], test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(PLAYS).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.unwrap().block_on(body);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("tiers");
    // By another program: a child that another test starts meanwhile would hold a file of ours open for writing.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status()
        .unwrap();
    assert!(copied.success());
    let output = Command::new("setpriv")
        .args(rights)
        .arg(&program)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .env("RUST_BACKTRACE", "0")
        .env(PLAYS, "1")
        .output()
        .expect("setpriv is part of util-linux");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

async fn system_python(code: &Path) -> Spec {
    let python = Interpreter::python(Path::new("/usr/bin/python3"))
        .await
        .expect("the system has its own python3");
    spec(Launch::Python(python), "python3", code, "app.handler").await
}

const LOOK: &str = "import ctypes, errno, os, socket\n\
     def listed(path):\n\
     \x20   try: return sorted(os.listdir(path))\n\
     \x20   except OSError as e: return errno.errorcode[e.errno]\n\
     def handler(event, context):\n\
     \x20   open('/tmp/mine' if os.environ['TMPDIR'] == '/tmp' else os.environ['TMPDIR'] + '/mine', 'w').close()\n\
     \x20   try: socket.create_connection(('127.0.0.1', event[1]), timeout=5).close(); reached = True\n\
     \x20   except OSError: reached = False\n\
     \x20   ctypes.set_errno(0)\n\
     \x20   libc = ctypes.CDLL(None, use_errno=True)\n\
     \x20   mounted = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0\n\
     \x20   return {'secret': listed(event[0]), 'task': listed(os.environ['LAMBDA_TASK_ROOT']), 'pid': os.getpid(), 'opt': listed('/opt'),\n\
     \x20           'reached': reached, 'mounted': mounted, 'uid': os.getuid()}\n";

async fn look(spec: Spec) -> serde_json::Value {
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("secret"), "x").unwrap();
    std::fs::set_permissions(secret.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let event = serde_json::json!([secret.path(), host.local_addr().unwrap().port()]);
    let mut environment = common::start(spec).await;
    let execution = environment
        .invoke(invocation(event.to_string().as_bytes(), LONG))
        .await;
    answer(&execution)
}

#[test]
fn without_root_everything_is_shut_in_by_a_user_namespace() {
    run_as(
        &["--reuid=65533", "--regid=65533", "--clear-groups"],
        "without_root_everything_is_shut_in_by_a_user_namespace",
        as_another_user(),
    );
}

async fn as_another_user() {
    let code = code(&[("app.py", LOOK)]);
    let mut spec = system_python(code.path()).await;
    let layers = [common::code(&[("a", "1")]), common::code(&[("b", "2")])];
    spec.layers = layers.iter().map(|layer| layer.path().to_owned()).collect();
    let lacks: Vec<Part> = spec.isolation.lacks().iter().map(|lack| lack.of).collect();
    assert!(
        lacks.iter().all(|part| !part.is_boundary()),
        "{:?}",
        spec.isolation.lacks()
    );
    assert_eq!(
        look(spec).await,
        serde_json::json!({"secret": "ENOENT", "task": ["app.py"], "pid": 1, "reached": false, "mounted": false,
            "uid": 65533, "opt": ["a", "b"]})
    );
}

#[test]
fn without_namespaces_landlock_keeps_to_the_own_files() {
    run_as(
        &["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
        "without_namespaces_landlock_keeps_to_the_own_files",
        as_root_without_namespaces(),
    );
}

async fn as_root_without_namespaces() {
    let code = code(&[("app.py", LOOK)]);
    let spec = system_python(code.path()).await;
    let lacks: Vec<Part> = spec.isolation.lacks().iter().map(|lack| lack.of).collect();
    for part in [Part::Namespaces, Part::Network, Part::Root] {
        assert!(lacks.contains(&part), "{:?}", spec.isolation.lacks());
    }
    assert!(!lacks.contains(&Part::User) && !lacks.contains(&Part::SystemCalls));
    assert!(spec.isolation.landlock, "this kernel has no Landlock");
    let mut seen = look(spec).await;
    seen["pid"].take();
    assert_eq!(
        seen,
        serde_json::json!({"secret": "EACCES", "task": ["app.py"], "pid": null, "reached": false, "mounted": false,
            "uid": 65534, "opt": "EACCES"})
    );
    let _ = Isolation::probe(Path::new("/nowhere")).await.unwrap();
    // An image would have to be mounted.
    let mut spec = system_python(code.path()).await;
    spec.launch = Launch::Image(Image {
        root: code.path().to_owned(),
        entry_point: vec!["/app.py".to_owned()],
        working_dir: "/".to_owned(),
        environment: Vec::new(),
    });
    let reason = spec.isolation.no_own_root().unwrap().to_owned();
    match Environment::start(std::sync::Arc::new(spec)).await {
        Err(Error::NoRoot { reason: told }) => assert_eq!(told, reason),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

#[test]
fn a_server_that_keeps_its_files_to_itself_can_show_a_function_its_own() {
    run_as(
        &["sh", "-c", "umask 077 && exec \"$0\" \"$@\""],
        "a_server_that_keeps_its_files_to_itself_can_show_a_function_its_own",
        with_private_files(),
    );
}

async fn with_private_files() {
    let code = code(&[("app.py", LOOK), ("package/data", "x")]);
    let seen = look(system_python(code.path()).await).await;
    assert_eq!(seen["task"], serde_json::json!(["app.py", "package"]));
    assert_eq!(seen["uid"], 65534);
}
