//! Functions that attack: each ends in time, reaches nothing, and leaves nothing behind.
//!
//! The folder `functions` has the attacks, in every runtime, which `rounds` runs by one table; here is what needs more than
//! a function. What a machine must allow for a boundary is there on the machines that these tests run on; where it is
//! not, they fail and say what is missing.

#[path = "../common/mod.rs"]
mod common;
#[path = "../components/mod.rs"]
mod components;
mod figures;
mod house;
mod left;
mod rounds;
mod shares;
mod table;

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use common::{LONG, answer, code, invocation, python_spec, start, texts};
use lambic_sandbox::process::{Environment, Invocation, Isolation, Network, Part, Spec};
use left::{assert_nothing_left, left_of};

async fn spec(source: &str) -> (tempfile::TempDir, Spec) {
    let code = code(&[("app.py", source)]);
    let spec = python_spec(code.path(), "app.handler").await;
    let lacks: Vec<_> = spec
        .isolation
        .lacks()
        .iter()
        .filter(|lack| lack.of.is_boundary() || lack.of == Part::ControlGroups)
        .collect();
    assert!(
        lacks.is_empty(),
        "this machine does not allow it: {lacks:?}"
    );
    (code, spec)
}

/// With its code, which is mounted: it must stay as long as the environment.
async fn environment(source: &str) -> (tempfile::TempDir, Environment) {
    let (code, spec) = spec(source).await;
    (code, start(spec).await)
}

#[tokio::test]
async fn files_descriptors_and_logs_have_a_bound() {
    let (_code, mut spec) = spec(
        "import errno, os\n\
         def full(path):\n\
         \x20   try:\n\
         \x20       with open(path, 'wb') as file:\n\
         \x20           while True: file.write(bytes(1 << 20))\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         def handler(event, context):\n\
         \x20   said = [full('/tmp/a'), full('/tmp/b')]\n\
         \x20   said.append(os.stat('/tmp/a').st_size + os.stat('/tmp/b').st_size <= 16 << 20)\n\
         \x20   os.unlink('/tmp/a'); os.unlink('/tmp/b')\n\
         \x20   try:\n\
         \x20       for n in range(10_000_000): open(f'/tmp/{n}', 'w').close()\n\
         \x20   except OSError as e: said.append(errno.errorcode[e.errno])\n\
         \x20   opened = []\n\
         \x20   try:\n\
         \x20       while True: opened.append(os.dup(1))\n\
         \x20   except OSError as e: said.append(errno.errorcode[e.errno])\n\
         \x20   for fd in opened: os.close(fd)\n\
         \x20   for n in range(100_000): print('x' * 100)\n\
         \x20   return said\n",
    )
    .await;
    spec.tmp_mb = 16;
    let mut environment = start(spec).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        answer(&execution),
        serde_json::json!(["ENOSPC", "ENOSPC", true, "ENOSPC", "EMFILE"])
    );
    assert!(
        texts(&execution.lines)
            .last()
            .unwrap()
            .contains("bytes of output were dropped")
    );
}

#[tokio::test]
async fn nothing_of_the_host_is_seen() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("secret"), "x").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(secrets.path(), open).unwrap();
    let (_other_code, other) =
        spec("def handler(event, context): return open('/tmp/mine', 'w').write('x')\n").await;
    let mut other = start(other).await;
    answer(&other.invoke(invocation(b"{}", LONG)).await);
    let (_code, mut environment) = environment(
        "import os\n\
         def handler(event, context):\n\
         \x20   def listed(path):\n\
         \x20       try: return sorted(os.listdir(path))\n\
         \x20       except OSError as e: return type(e).__name__\n\
         \x20   def written(path):\n\
         \x20       try: open(path, 'a').close(); return True\n\
         \x20       except OSError: return False\n\
         \x20   writable = []\n\
         \x20   for folder in ('/', '/var', '/var/task', '/var/runtime', '/opt', '/etc', '/dev', '/usr', '/usr/bin', '/proc/sys/kernel'):\n\
         \x20       if written(folder + '/mine'): writable.append(folder)\n\
         \x20   for file in ('/var/task/app.py', '/var/runtime/client.py', '/etc/passwd', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/bin/sh'):\n\
         \x20       if written(file): writable.append(file)\n\
         \x20   return {'root': listed('/'), 'task': listed('/var/task'), 'tmp': listed('/tmp'), 'dev': listed('/dev'),\n\
         \x20           'secrets': listed(event), 'sys': listed('/sys'), 'home': listed('/home'),\n\
         \x20           'processes': [p for p in listed('/proc') if p.isdigit()], 'writable': writable,\n\
         \x20           'root_files': [f for f in listed('/root') if f != '.pyenv'],\n\
         \x20           'ids': [os.getuid(), os.getgid(), os.getgroups()], 'host': os.uname().nodename,\n\
         \x20           'variables': [v for v in os.environ if 'CARGO' in v or 'PWD' in v],\n\
         \x20           'fds': len(listed('/proc/self/fd'))}\n",
    )
    .await;
    let event = serde_json::to_vec(secrets.path()).unwrap();
    let execution = environment.invoke(invocation(&event, LONG)).await;
    let mut seen = answer(&execution);
    let root = seen["root"].take();
    for name in root.as_array().unwrap() {
        let known = [
            "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "proc", "root",
            "sbin", "tmp", "usr", "var",
        ];
        assert!(known.contains(&name.as_str().unwrap()), "{root}");
    }
    // Standard input, output, error, the Runtime API, and the folder that is listed.
    assert!(seen["fds"].take().as_u64().unwrap() <= 5);
    let ids = seen["ids"].take();
    assert_ne!(ids[0], 0);
    let root_files = seen["root_files"].take();
    assert!(
        root_files.as_array().is_none_or(Vec::is_empty),
        "{root_files}"
    );
    assert_eq!(
        seen,
        serde_json::json!({"root": null, "task": ["app.py"], "tmp": [],
            "dev": ["fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero"],
            "secrets": "FileNotFoundError", "sys": "FileNotFoundError", "home": "FileNotFoundError",
            "processes": ["1"], "writable": [], "root_files": null, "ids": null, "host": "localhost",
            "variables": [], "fds": null})
    );
    drop(other);
}

#[tokio::test]
async fn what_reaches_further_is_refused() {
    let (_code, mut environment) = environment(
        "import ctypes, errno, os, socket\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def call(name, *arguments):\n\
         \x20   ctypes.set_errno(0)\n\
         \x20   return 'done' if getattr(libc, name)(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]\n\
         def sock(*arguments):\n\
         \x20   try: socket.socket(*arguments).close(); return 'done'\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         def handler(event, context):\n\
         \x20   return {\n\
         \x20     'ptrace': call('ptrace', 0, 0, 0, 0),\n\
         \x20     'mount': call('mount', b'none', b'/tmp', b'tmpfs', 0, None),\n\
         \x20     'umount': call('umount2', b'/tmp', 2),\n\
         \x20     'unshare': call('unshare', 0x10000000),\n\
         \x20     'chroot': call('chroot', b'/tmp'),\n\
         \x20     'setns': call('setns', 0, 0),\n\
         \x20     'keyctl': call('syscall', 250, 0, 0),\n\
         \x20     'io_uring': call('syscall', 425, 1, 0),\n\
         \x20     'bpf': call('syscall', 321, 0, 0, 0),\n\
         \x20     'raw': sock(socket.AF_INET, socket.SOCK_RAW, 1),\n\
         \x20     'packet': sock(socket.AF_PACKET, socket.SOCK_RAW, 0),\n\
         \x20     'netlink': sock(socket.AF_NETLINK, socket.SOCK_RAW, 0),\n\
         \x20     'audit': sock(socket.AF_NETLINK, socket.SOCK_RAW, 9),\n\
         \x20     'tcp': sock(socket.AF_INET, socket.SOCK_STREAM),\n\
         \x20     'setuid': call('setuid', 0),\n\
         \x20     'mknod': call('mknod', b'/tmp/disk', 0o60666, 0xfe00),\n\
         \x20   }\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        answer(&execution),
        serde_json::json!({"ptrace": "EPERM", "mount": "EPERM", "umount": "EPERM", "unshare": "EPERM",
            "chroot": "EPERM", "setns": "EPERM", "keyctl": "EPERM", "io_uring": "ENOSYS", "bpf": "EPERM",
            "raw": "EPERM", "packet": "EAFNOSUPPORT", "netlink": "done", "audit": "EAFNOSUPPORT", "tcp": "done",
            "setuid": "EPERM", "mknod": "EPERM"})
    );
}

#[tokio::test]
async fn the_network_is_its_own() {
    // What a server has on the host: reachable by all, and never asked.
    let host = TcpListener::bind("0.0.0.0:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let port = host.local_addr().unwrap().port();
    let source = "import errno, http.client, os, socket\n\
         def reach(host, port):\n\
         \x20   try: socket.create_connection((host, port), timeout=2).close(); return 'reached'\n\
         \x20   except OSError as e: return errno.errorcode.get(e.errno, type(e).__name__)\n\
         def through(host, port):\n\
         \x20   if 'HTTP_PROXY' not in os.environ: return 'no way out'\n\
         \x20   proxy = http.client.HTTPConnection(os.environ['HTTP_PROXY'].removeprefix('http://'))\n\
         \x20   try:\n\
         \x20       proxy.set_tunnel(host, port)\n\
         \x20       proxy.request('GET', '/')\n\
         \x20       return 'reached'\n\
         \x20   except OSError as e: return str(e)\n\
         def handler(event, context):\n\
         \x20   return [reach('127.0.0.1', event), reach('::1', event), reach('169.254.169.254', 80), reach('10.0.0.1', 80),\n\
         \x20           reach('127.0.0.1', 9002), through('127.0.0.1', event), through('169.254.169.254', 80),\n\
         \x20           through('localhost', event), reach('example.com', 80)]\n";
    for (network, out) in [
        (
            Network::None,
            ["ECONNREFUSED", "no way out", "no way out", "no way out"],
        ),
        (
            Network::Open,
            [
                "reached",
                "Tunnel connection failed: 403 Forbidden",
                "Tunnel connection failed: 403 Forbidden",
                "Tunnel connection failed: 403 Forbidden",
            ],
        ),
        (
            Network::Hosts(vec!["example.com".to_owned(), "localhost".to_owned()]),
            [
                "reached",
                "Tunnel connection failed: 403 Forbidden",
                "Tunnel connection failed: 403 Forbidden",
                "Tunnel connection failed: 403 Forbidden",
            ],
        ),
    ] {
        let (_code, mut spec) = spec(source).await;
        spec.network = network;
        let mut environment = start(spec).await;
        let execution = environment
            .invoke(invocation(port.to_string().as_bytes(), LONG))
            .await;
        let [egress, one, two, three] = out;
        let mut said = answer(&execution);
        // However the resolver says that it knows nobody.
        let name = said[8].take();
        assert_ne!(name, "reached");
        assert_eq!(
            said,
            serde_json::json!([
                "ECONNREFUSED",
                "ECONNREFUSED",
                "ENETUNREACH",
                "ENETUNREACH",
                egress,
                one,
                two,
                three,
                null
            ])
        );
    }
    assert_eq!(
        host.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "the host was reached"
    );
}

#[tokio::test]
async fn nobody_else_speaks_for_an_environment() {
    let source = "def handler(event, context): return event\n";
    let (_code_one, mut one) = environment(source).await;
    let (_code_two, mut two) = environment(source).await;
    // On the host, its port leads nowhere or to somebody else.
    if let Ok(mut stranger) = std::net::TcpStream::connect("127.0.0.1:9001") {
        stranger
            .write_all(b"POST /2018-06-01/runtime/invocation/id/response HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
            .unwrap();
        let mut answer = String::new();
        let _ = stranger.read_to_string(&mut answer);
        assert!(!answer.contains(" 202 "), "{answer}");
    }
    for environment in [&mut one, &mut two] {
        let execution = environment.invoke(invocation(b"7", LONG)).await;
        assert_eq!(answer(&execution), 7);
    }
}

#[tokio::test]
async fn links_and_devices_of_the_code_lead_nowhere() {
    let (code, spec) = spec(
        "import os\n\
         def handler(event, context):\n\
         \x20   said = []\n\
         \x20   for name in ('link', 'disk'):\n\
         \x20       try: said.append(len(open('/var/task/' + name, 'rb').read(10)))\n\
         \x20       except OSError as e: said.append(type(e).__name__)\n\
         \x20   return said\n",
    )
    .await;
    std::os::unix::fs::symlink("/usr/lib/../../root/.profile", code.path().join("link")).unwrap();
    let made = std::process::Command::new("mknod")
        .arg(code.path().join("disk"))
        .args(["b", "7", "0"])
        .status()
        .unwrap();
    assert!(made.success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(code.path().join("disk"), open).unwrap();
    let mut environment = start(spec).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        answer(&execution),
        serde_json::json!(["FileNotFoundError", "PermissionError"])
    );
}

#[tokio::test]
async fn many_rounds_leave_nothing() {
    let (_code, spec) = spec("import os\ndef handler(event, context): return os.getpid()\n").await;
    let spec = std::sync::Arc::new(spec);
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut dirs = Vec::new();
    let mut had = None;
    for round in 0..30 {
        let mut environment = Environment::start(spec.clone()).await.unwrap().unwrap();
        dirs.push(environment.dir().to_owned());
        answer(
            &environment
                .invoke(Invocation {
                    ..invocation(b"{}", LONG)
                })
                .await,
        );
        if round % 2 == 0 {
            environment.kill().await;
        }
        drop(environment);
        if round == 9 {
            had = Some(open_files());
        }
    }
    for dir in &dirs {
        assert_nothing_left(dir).await;
    }
    // Other tests of this program open some at the same time.
    let began = Instant::now();
    while had.is_some_and(|had| open_files() > had + 60) {
        assert!(began.elapsed() < LONG, "files stay open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_server_leaves_groups_that_the_next_one_removes() {
    let codes = tempfile::tempdir().unwrap();
    let code = codes.path().join("code");
    std::fs::create_dir(&code).unwrap();
    std::fs::write(
        code.join("app.py"),
        "def handler(event, context): return 1\n",
    )
    .unwrap();
    let spec = python_spec(&code, "app.handler").await;
    let environment = start(spec).await;
    let dir = environment.dir().to_owned();
    // Its memory is as if it had been killed: nothing runs its destructor.
    let mut environment = std::mem::ManuallyDrop::new(environment);
    environment.kill().await;
    assert!(!left_of(&dir).is_empty());
    lambic_sandbox::process::remove_left_behind(codes.path());
    assert_nothing_left(&dir).await;
    let _ = Isolation::probe(Path::new("/nowhere")).await.unwrap();
}
