//! `lambic bench functions`: cold and warm invocations over HTTP, what they cost, and what stands idle; peers beside them.
//!
//! Each server is a process of its own, so that its processor time can be told from the client's and from that of the
//! functions' own processes. What is compared runs in turns.

mod bare;
mod deploy;
mod http;
mod instances;
mod peers;
mod process;

use std::{
    path::PathBuf,
    sync::{Arc, Barrier},
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};

pub use self::bare::serve as serve_bare;
use self::{
    deploy::{Api, Program},
    http::Connection,
    peers::{Peers, Subject, left_out},
    process::Server,
};
use super::{Figure, latencies};

const PART: &str = "functions";
/// First calls that are measured of each runtime.
const COLD: usize = 30;
/// Between two first calls: a spare interpreter takes as long to start as anyone's.
const PAUSE: Duration = Duration::from_millis(500);
const WARM_UP: usize = 200;
const CONNECTIONS: usize = 4;
/// Requests of one round, of all connections.
const REQUESTS: usize = 8_000;
const INVOCATIONS: usize = 2_000;
const IDLE_FUNCTIONS: usize = 1_000;
const BURST: usize = 100;

pub struct Options {
    pub rounds: u32,
    /// A folder with the peers; none are measured without.
    pub peers: Option<PathBuf>,
}

pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::Builder::new().prefix("lambic-bench-").tempdir()?;
    let peers = options.peers.as_deref().map(Peers::find).transpose()?;
    let server = process::lambic(&folder.path().join("data"))?;
    let api = Api::new(&server.address);
    let mut figures = Vec::new();
    figures.extend(http_cost(&api, &server, peers.as_ref(), options.rounds)?);
    figures.extend(instances::measure(folder.path())?);
    figures.extend(cold(&api)?);
    figures.extend(warm_cost(&api, &server, peers.as_ref(), options.rounds)?);
    figures.extend(burst(&api)?);
    drop(server);
    figures.extend(idle(folder.path())?);
    if let Some(peers) = &peers {
        figures.extend(peers.cold(COLD));
    }
    Ok(figures)
}

fn figure(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure::new(PART, what, value, unit)
}

fn failed_latencies(what: &str, why: &str) -> [Figure; 2] {
    ["p50", "p99"].map(|share| Figure::failed(PART, format!("{what}, {share}"), "ms", why))
}

/// One of the servers that are compared.
struct Compared<'s> {
    name: String,
    request: Vec<u8>,
    is_peer: bool,
    /// A peer that fails is left out from then on, with the reason.
    state: Result<&'s Server, String>,
    cpu: Vec<Duration>,
    latency: Vec<Duration>,
}

impl<'s> Compared<'s> {
    fn ours(name: impl Into<String>, server: &'s Server, request: Vec<u8>) -> Compared<'s> {
        Compared {
            name: name.into(),
            request,
            is_peer: false,
            state: Ok(server),
            cpu: Vec::new(),
            latency: Vec::new(),
        }
    }

    fn peer(subject: &'s Subject) -> Compared<'s> {
        let (state, request) = match &subject.started {
            Ok((server, request)) => (Ok(server), request.clone()),
            Err(why) => (Err(why.clone()), Vec::new()),
        };
        Compared {
            name: subject.name.to_owned(),
            request,
            is_peer: true,
            state,
            cpu: Vec::new(),
            latency: Vec::new(),
        }
    }

    /// What `measure` gives; `None` of a peer that failed, now or before.
    fn measured<T>(
        &mut self,
        measure: impl FnOnce(&Server, &[u8]) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let Ok(server) = self.state else {
            return Ok(None);
        };
        match measure(server, &self.request) {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.is_peer => {
                let error = server.explained(&error);
                self.state = Err(left_out(&self.name, &error));
                Ok(None)
            }
            Err(error) => Err(error.context(format!("an invocation at {}", self.name))),
        }
    }

    fn cpu_median(&self) -> Result<Duration, &str> {
        match &self.state {
            Ok(_) => Ok(super::median(self.cpu.clone())),
            Err(why) => Err(why.as_str()),
        }
    }
}

/// Microseconds, or that it failed.
fn cpu_figure(what: String, median: Result<Duration, &str>) -> Figure {
    match median {
        Ok(median) => figure(what, micros(median), "µs"),
        Err(why) => Figure::failed(PART, what, "µs", why),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Processor time of a server for each of many requests by several connections.
fn cpu_per_request(server: &Server, request: &[u8], requests: usize) -> anyhow::Result<Duration> {
    let before = server.cpu()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(&server.address)?;
                    for _ in 0..requests / CONNECTIONS {
                        connection.ask(request)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    Ok((server.cpu()? - before) / requests as u32)
}

/// Wasm behind a URL beside a server that does nothing, and others.
fn http_cost(
    api: &Api,
    server: &Server,
    peers: Option<&Peers>,
    rounds: u32,
) -> anyhow::Result<Vec<Figure>> {
    eprintln!("requests to Wasm functions beside a bare server");
    let bare = bare::start()?;
    let bare_request = http::get(&bare.address, "/");
    let mut servers = vec![Compared::ours("a bare server (hyper)", &bare, bare_request)];
    for (name, program, what) in [
        ("hello", Program::WasmHttp, "wasm (wasi:http)"),
        ("echo", Program::Wasm, "wasm, by events"),
    ] {
        api.create(name, program, 0)?;
        let request = http::get(&server.address, &api.url(name)?);
        servers.push(Compared::ours(what, server, request));
    }
    let workerd = peers.and_then(Peers::workerd);
    servers.extend(workerd.as_ref().map(Compared::peer));
    for one in &mut servers {
        one.measured(|server, request| cpu_per_request(server, request, WARM_UP))?;
    }
    for _ in 0..rounds {
        for one in &mut servers {
            let cpu = one.measured(|server, request| cpu_per_request(server, request, REQUESTS))?;
            one.cpu.extend(cpu);
        }
    }
    let least = super::median(servers[0].cpu.clone());
    let mut figures = Vec::new();
    for one in &servers {
        let (name, median) = (&one.name, one.cpu_median());
        figures.push(cpu_figure(format!("CPU of a request, {name}"), median));
        let what = format!("the same ÷ bare, {name}");
        figures.push(match median {
            Ok(median) => figure(what, median.as_secs_f64() / least.as_secs_f64(), "×"),
            Err(why) => Figure::failed(PART, what, "×", why),
        });
    }
    Ok(figures)
}

/// First calls of functions that were just deployed.
fn cold(api: &Api) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for program in [
        Program::WasmHttp,
        Program::Wasm,
        Program::Python,
        Program::Node,
    ] {
        eprintln!("first calls of {} functions", program.name());
        let mut connection = Connection::open(&api.address)?;
        let mut times = Vec::new();
        // The first one of all brings the interpreter; what is common to all calls comes once in the life of a server.
        for number in 0..=COLD {
            let name = format!("cold_{}_{number}", program.name());
            api.create(&name, program, number)?;
            let is_process = !matches!(program, Program::Wasm | Program::WasmHttp);
            if number > 0 && is_process {
                std::thread::sleep(PAUSE);
            }
            let request = match program {
                Program::WasmHttp => http::get(&api.address, &api.url(&name)?),
                _ => api.invocation(&name, b"{}"),
            };
            let time = connection.time(&request)?;
            if number > 0 {
                times.push(time);
            }
            api.delete(&name)?;
        }
        figures.extend(latencies(
            PART,
            &format!("first call over HTTP, {}", program.name()),
            times,
        ));
    }
    Ok(figures)
}

/// What a warm invocation of Python costs the platform, beside the emulators.
fn warm_cost(
    api: &Api,
    server: &Server,
    peers: Option<&Peers>,
    rounds: u32,
) -> anyhow::Result<Vec<Figure>> {
    eprintln!("warm invocations of Python functions");
    api.create("warm", Program::Python, 0)?;
    let request = api.invocation("warm", br#"{"a":1}"#);
    let mut subjects = vec![Compared::ours("Lambic", server, request)];
    let emulators = peers.map(Peers::emulators).unwrap_or_default();
    subjects.extend(emulators.iter().map(Compared::peer));
    for round in 0..=rounds {
        let count = if round == 0 { WARM_UP } else { INVOCATIONS };
        for one in &mut subjects {
            let measured = one.measured(|server, request| {
                let mut connection = Connection::open(&server.address)?;
                let before = server.cpu()?;
                let times = (0..count).map(|_| connection.time(request));
                let times = times.collect::<anyhow::Result<Vec<_>>>()?;
                Ok((times, (server.cpu()? - before) / count as u32))
            })?;
            if let Some((times, cpu)) = measured.filter(|_| round > 0) {
                one.latency.extend(times);
                one.cpu.push(cpu);
            }
        }
    }
    let mut figures = Vec::new();
    for one in &subjects {
        let name = &one.name;
        let what = format!("platform CPU of a warm Python invocation, {name}");
        figures.push(cpu_figure(what, one.cpu_median()));
        let what = format!("warm Python over HTTP, {name}");
        figures.extend(match &one.state {
            Ok(_) => latencies(PART, &what, one.latency.clone()),
            Err(why) => failed_latencies(&what, why),
        });
    }
    Ok(figures)
}

/// From nothing to many at one time.
fn burst(api: &Api) -> anyhow::Result<Vec<Figure>> {
    eprintln!("{BURST} Python invocations at once, from nothing");
    api.create("burst", Program::PythonClock, 0)?;
    api.set_concurrency("burst", BURST)?;
    let start = Arc::new(Barrier::new(BURST + 1));
    let threads: Vec<_> = (0..BURST)
        .map(|_| {
            let (start, address) = (start.clone(), api.address.clone());
            let request = api.invocation("burst", b"{}");
            std::thread::spawn(move || {
                let connection = Connection::open(&address);
                start.wait();
                connection?.ask(&request)
            })
        })
        .collect();
    start.wait();
    let began_at = lambic_base::Clock::now_us(&lambic_base::SystemClock);
    let mut last_us = 0;
    for thread in threads {
        let answer = thread.join().expect("it does not panic")?;
        // When its handler ran, by the same clock.
        let at: Value = serde_json::from_slice(&answer)?;
        let at_us = at.as_f64().context("the function answers with the time")? * 1e6;
        last_us = last_us.max(at_us as i64);
    }
    Ok(vec![figure(
        format!("from 0 to {BURST} Python invocations that run"),
        (last_us - began_at) as f64 / 1e6,
        "s",
    )])
}

/// Many functions that nobody calls.
fn idle(folder: &std::path::Path) -> anyhow::Result<Vec<Figure>> {
    eprintln!("{IDLE_FUNCTIONS} functions that nobody calls");
    let measured = |server: &Server| -> anyhow::Result<(u64, usize)> {
        Connection::open(&server.address)?
            .ask(&http::get(&server.address, "/2016-08-19/account-settings"))?;
        Ok((server.memory_bytes()?, server.children()?))
    };
    let data = folder.join("idle");
    let server = process::lambic(&data)?;
    drop(server);
    // Once more over a folder that is there, as the other one.
    let server = process::lambic(&data)?;
    let (empty, _) = measured(&server)?;
    let api = Api::new(&server.address);
    for number in 0..IDLE_FUNCTIONS {
        let program = match number % 3 {
            0 => Program::Python,
            1 => Program::Node,
            _ => Program::Wasm,
        };
        api.create(&format!("idle_{number}"), program, number)?;
    }
    let (deployed, children) = measured(&server)?;
    drop(server);
    let server = process::lambic(&data)?;
    let (restarted, _) = measured(&server)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(vec![
        figure("memory of an empty server", mib(empty), "MiB"),
        figure(
            format!("more with {IDLE_FUNCTIONS} functions, just deployed"),
            mib(deployed) - mib(empty),
            "MiB",
        ),
        figure(
            format!("more with {IDLE_FUNCTIONS} functions, after a restart"),
            mib(restarted) - mib(empty),
            "MiB",
        ),
        figure("processes of these functions", children as f64, ""),
    ])
}

/// The body of CreateFunction.
fn creation(name: &str, program: Program, zip: &str) -> Value {
    json!({
        "FunctionName": name,
        "Runtime": program.runtime(),
        "Handler": program.handler(),
        "Role": "arn:aws:iam::000000000000:role/bench",
        "Timeout": 60,
        "MemorySize": 128,
        "Code": { "ZipFile": zip },
    })
}
