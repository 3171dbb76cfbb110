//! How long an environment takes from nothing to its first question for an event.
//!
//! `cargo run -p lambic-sandbox --example starts [rounds]`. The program that is started is this one: as a function it
//! asks for events and answers nothing, so that what is measured is ours and not an interpreter's. Python and Node
//! follow for comparison.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lambic_sandbox::process::{
    Environment, Interpreter, Invocation, Isolation, Launch, Network, Spare, Spec, Zygote,
};

#[tokio::main]
async fn main() {
    if let Ok(api) = std::env::var("AWS_LAMBDA_RUNTIME_API") {
        return function(&api);
    }
    let rounds = std::env::args()
        .nth(1)
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(100);
    let isolation = Isolation::probe(Path::new("/nowhere"))
        .await
        .expect("there is a shell");
    for lack in isolation.lacks() {
        println!("this machine lacks {:?}: {}", lack.of, lack.reason);
    }
    let code = tempfile::tempdir().expect("a folder for the code");
    let this = std::env::current_exe().expect("this program");
    std::fs::copy(this, code.path().join("bootstrap")).expect("a copy of this program");
    std::fs::write(
        code.path().join("app.py"),
        "def handler(event, context): return event\n",
    )
    .expect("a handler");
    std::fs::write(
        code.path().join("app.js"),
        "exports.handler = async (event) => event;\n",
    )
    .expect("a handler");
    let spec = |launch| Spec {
        function: "starts".to_owned(),
        function_arn: "arn:aws:lambda:local:000000000000:function:starts".to_owned(),
        qualifier: "$LATEST".to_owned(),
        runtime: "provided.al2023".to_owned(),
        launch,
        handler: "app.handler".to_owned(),
        code_dir: code.path().to_owned(),
        layers: Vec::new(),
        environment: Vec::new(),
        environment_reserved: Vec::new(),
        memory_mb: 512,
        tmp_mb: 512,
        network: Network::None,
        log_bytes_max: 64 << 10,
        init_timeout: Duration::from_secs(60),
        isolation: isolation.clone(),
    };
    bare(code.path(), rounds);
    measure("bootstrap in the sandbox", spec(Launch::Bootstrap), rounds).await;
    if let Ok(python) = Interpreter::python(Path::new("python3")).await {
        plain(
            "bare python",
            &python.program,
            &["-S", "-c", "import http.client, json"],
            rounds,
        );
        measure(
            "python in the sandbox",
            spec(Launch::Python(python)),
            rounds,
        )
        .await;
    }
    if let Ok(node) = Interpreter::node(Path::new("node")).await {
        plain(
            "bare node",
            &node.program,
            &["-e", "require('http')"],
            rounds,
        );
        measure("node in the sandbox", spec(Launch::Node(node)), rounds).await;
    }
}

/// Asks for events, one after the other, and answers `null`.
fn function(api: &str) {
    let mut connection = TcpStream::connect(api).expect("the Runtime API is there");
    loop {
        let head = ask(&mut connection, "GET", "invocation/next", "");
        let id = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("lambda-runtime-aws-request-id: ")
                    .map(str::to_owned)
            })
            .expect("an event has an id");
        ask(
            &mut connection,
            "POST",
            &format!("invocation/{}/response", id.trim()),
            "null",
        );
    }
}

fn ask(connection: &mut TcpStream, method: &str, path: &str, body: &str) -> String {
    // In one piece: the second of two would wait for an answer to the first.
    let request = format!(
        "{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection
        .write_all(request.as_bytes())
        .expect("the Runtime API listens");
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let read = connection.read(&mut part).expect("the Runtime API answers");
        if read == 0 {
            std::process::exit(0);
        }
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| {
                    line.strip_prefix("content-length: ")?
                        .trim()
                        .parse::<usize>()
                        .ok()
                })
                .unwrap_or(0);
            if answer.len() >= end + 4 + length {
                return text.into_owned();
            }
        }
    }
}

/// The same program, started and connected without any of it.
fn bare(code: &Path, rounds: usize) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let api = listener.local_addr().expect("its number").to_string();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut child = Command::new(code.join("bootstrap"))
            .env("AWS_LAMBDA_RUNTIME_API", &api)
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let (mut connection, _) = listener.accept().expect("it connects");
        let mut first = [0; 1];
        connection.read_exact(&mut first).expect("it asks");
        times.push(start.elapsed());
        let _ = (child.kill(), child.wait());
    }
    show("bootstrap, bare", times);
}

fn plain(name: &str, program: &PathBuf, arguments: &[&str], rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds.min(30) {
        let start = Instant::now();
        let status = Command::new(program).args(arguments).status();
        status.expect("it runs");
        times.push(start.elapsed());
    }
    show(name, times);
}

async fn measure(name: &str, spec: Spec, rounds: usize) {
    let spec = Arc::new(spec);
    let (mut starts, mut warm, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let mut environment = Environment::start(spec.clone())
            .await
            .expect("the machine can start it")
            .unwrap_or_else(|failed| panic!("{failed:?}"));
        starts.push(start.elapsed());
        for _ in 0..3 {
            let start = Instant::now();
            let execution = environment
                .invoke(Invocation {
                    request_id: "id".to_owned(),
                    payload: "{}".into(),
                    timeout: Duration::from_secs(60),
                    ..Invocation::default()
                })
                .await;
            warm.push(start.elapsed());
            assert!(execution.reusable, "{execution:?}");
        }
        let start = Instant::now();
        environment.kill().await;
        drop(environment);
        ends.push(start.elapsed());
    }
    show(&format!("{name}: start"), starts);
    spares(name, &spec, rounds).await;
    zygotes(name, &spec, rounds).await;
    show(&format!("{name}: warm event"), warm);
    show(&format!("{name}: end"), ends);
}

/// The same start, from an interpreter that waits.
async fn spares(name: &str, spec: &Arc<Spec>, rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (launch, isolation) = (spec.launch.clone(), spec.isolation.clone());
        let spare = Spare::start(launch, isolation, &spec.code_dir).await;
        let Some(spare) = spare.expect("the machine can start it") else {
            return;
        };
        let start = Instant::now();
        let environment = spare
            .take(spec.clone())
            .await
            .expect("the machine can start it");
        times.push(start.elapsed());
        if let Ok(mut environment) = environment {
            environment.kill().await;
        }
    }
    show(&format!("{name}: start from a spare"), times);
}

/// The same start, from an interpreter that forks; and as many at once.
async fn zygotes(name: &str, spec: &Arc<Spec>, rounds: usize) {
    let (launch, isolation) = (spec.launch.clone(), spec.isolation.clone());
    let zygote = Zygote::start(launch, isolation, &spec.code_dir).await;
    let Some(zygote) = zygote.expect("the machine can start it") else {
        return;
    };
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let environment = Environment::start_from(&zygote, spec.clone()).await;
        let environment = environment.expect("the machine can start it");
        times.push(start.elapsed());
        environment.expect("the function starts").kill().await;
    }
    show(&format!("{name}: split off a zygote"), times);
    let start = Instant::now();
    let all = (0..rounds).map(|_| {
        let (zygote, spec) = (zygote.clone(), spec.clone());
        tokio::spawn(async move { Environment::start_from(&zygote, spec).await })
    });
    let all: Vec<_> = all.collect();
    let mut environments = Vec::new();
    for one in all {
        let environment = one.await.expect("no start panics");
        environments.push(environment.expect("the machine can start it"));
    }
    let took = start.elapsed();
    println!(
        "{name}: {rounds} split off at once in {:.3} ms",
        took.as_secs_f64() * 1e3
    );
    for environment in environments {
        environment.expect("the function starts").kill().await;
    }
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    let [least, half, most] = [0, 50, 99].map(|part| at(part).as_secs_f64() * 1e3);
    println!("{name:42} least {least:8.3} ms   p50 {half:8.3} ms   p99 {most:8.3} ms");
}
