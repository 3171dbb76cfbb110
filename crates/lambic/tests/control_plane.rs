//! Functions that try to reach the server that runs them: by all its addresses and names, straight and by the way out that
//! they are given; and what else is near a machine, its metadata address and private ranges.
//!
//! The attacks are those of the sandbox's tests. The server has keys and listens on all addresses of the machine, so that
//! each that is tried would answer.

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{
    Server,
    aws::{FUNCTIONS, ROLE, base64, zipped},
    eventually, free_ports, shown, text,
};
use serde_json::{Value, json};
use ureq::http::Request;

const ID: &str = "AKID";
const SECRET: &str = "neither-short-nor-kept-anywhere";
/// Of one function, which tries everything one after the other.
const SECONDS_MAX: u64 = 120;
/// Each environment has its own there.
const RUNTIME_API: u16 = 9_001;

macro_rules! attack {
    ($file:literal) => {
        include_str!(concat!("../../sandbox/tests/hostile/functions/", $file))
    };
}

#[test]
fn no_function_reaches_its_server_or_what_is_near_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = start(folder.path());
    let names = [
        (
            "python",
            "python3.11",
            zipped(&[("network.py", attack!("python/network.py"))]),
        ),
        (
            "node",
            "nodejs20.x",
            zipped(&[("network.mjs", attack!("node/network.mjs"))]),
        ),
        (
            "bash",
            "provided.al2023",
            zipped(&[
                ("bootstrap", attack!("bash/bootstrap")),
                ("network.sh", attack!("bash/network.sh")),
            ]),
        ),
    ];
    for (name, runtime, zip) in &names {
        let function = json!({
            "FunctionName": name, "Runtime": runtime, "Role": ROLE, "Handler": "network.handler",
            "Timeout": SECONDS_MAX, "Code": {"ZipFile": base64(zip)},
        });
        ask(&server, "POST", FUNCTIONS, Some(&function));
        eventually("the function is active", || {
            let path = format!("{FUNCTIONS}/{name}/configuration");
            ask(&server, "GET", &path, None)["State"] == "Active"
        });
    }
    let port = |address: &str| -> u16 {
        let (_, port) = address.rsplit_once(':').expect("it has a port");
        port.parse().expect("it is a number")
    };
    let targets = targets([port(&server.url), port(&server.pg)]);
    for (name, ..) in &names {
        let path = format!("{FUNCTIONS}/{name}/invocations");
        // It would see what it reached.
        let own = json!({"targets": [["127.0.0.1", RUNTIME_API]]});
        let found = ask(&server, "POST", &path, Some(&own));
        let is_blind = found.as_array().is_none_or(Vec::is_empty);
        assert!(!is_blind, "{name} found {found}");
        let found = ask(&server, "POST", &path, Some(&json!({"targets": targets})));
        assert_eq!(found, json!([]), "{name}");
    }
    // Nobody but this test has asked it for anything, or it would have refused some of that.
    let metrics = answer(&server, "GET", "/metrics", None).1;
    let requests: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("lambic_http_requests_total{"))
        .collect();
    assert!(!requests.is_empty(), "{metrics}");
    for line in requests {
        assert!(line.contains("status=\"2"), "{line}");
    }
    assert!(server.terminate().success(), "{}", server.said());
}

/// A server on all addresses of this machine.
fn start(folder: &Path) -> Server {
    let settings = folder.join("settings.toml");
    let text =
        format!("[tls]\nby_proxy = true\n[[auth.keys]]\nid = \"{ID}\"\nsecret = \"{SECRET}\"\n");
    fs::write(&settings, text).expect("it is written");
    fs::set_permissions(&settings, Permissions::from_mode(0o600)).expect("it is ours");
    let data = folder.join("data");
    loop {
        let mut run = common::lambic();
        run.arg("serve");
        let (http, pg) = free_ports();
        let doors = [http, pg].map(|port| format!("0.0.0.0:{port}"));
        let extra = ["--config", shown(&settings)];
        match Server::start_at(run, None, &data, [&doors[0], &doors[1]], &extra) {
            Ok(server) => return server,
            // Another test was given the port meanwhile.
            Err(said)
                if said
                    .iter()
                    .any(|line| line.contains("Address already in use")) => {}
            Err(said) => panic!("the server did not start:\n{}", said.join("\n")),
        }
    }
}

/// What a function has no business with: this machine by its addresses and names, at these ports, and what is near it.
fn targets(ports: [u16; 2]) -> Vec<(String, u16)> {
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.1.2.3",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "localhost",
        "localhost.",
        "LOCALHOST",
    ]
    .map(str::to_owned)
    .into();
    // The names stand beside the addresses in the machine's own list, which the server's resolver reads.
    for option in ["-I", "-f", "-s"] {
        let said = Command::new("hostname").arg(option).output();
        let said = said.map_or_else(|_| String::new(), |said| text(&said.stdout));
        hosts.extend(said.split_whitespace().map(str::to_owned));
    }
    let at_ports = |host: String| ports.map(|port| (host.clone(), port));
    let mut targets: Vec<_> = hosts.into_iter().flat_map(at_ports).collect();
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "10.0.0.1",
        "172.17.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "fe80::1",
    ] {
        targets.push((host.to_owned(), 80));
    }
    targets
}

/// What the server answers to whoever has its key; it must be done.
#[track_caller]
fn ask(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Value {
    let (status, text) = answer(server, method, path, body);
    assert!(
        (200..300).contains(&status),
        "{method} {path}: {status} {text}"
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn answer(server: &Server, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(2 * SECONDS_MAX)))
        .build();
    let agent: ureq::Agent = config.into();
    let key = STANDARD.encode(format!("{ID}:{SECRET}"));
    let request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url))
        .header("authorization", format!("Basic {key}"));
    let answer = match body {
        None => agent.run(request.body(()).expect("it is one")),
        Some(body) => agent.run(request.body(body.to_string()).expect("it is one")),
    };
    let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let text = answer.body_mut().read_to_string().expect("it is text");
    (answer.status().as_u16(), text)
}
