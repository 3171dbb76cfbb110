//! What an instance sees of its host: WASI with nothing in it, `wasi:http`, `log`, and a bound on memory.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use wasmtime::{
    ResourceLimiter, StoreContextMut,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult, pipe::MemoryInputPipe};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    random::Deterministic,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    command::Stdout,
    outgoing::Outgoing,
    services::{self, Services},
};
use crate::lines::{Lines, LogSource};

/// Streams, requests, headers and so on that an instance may hold at one time. Each may keep some tens of KB here.
const RESOURCES_MAX: usize = 1_024;
/// Of one set of headers, as it is in memory.
const HEADERS_BYTES_MAX: usize = 64 << 10;

pub struct Host {
    /// `None` for a component without imports, which cannot ask for it: its rows come by the million, and each has a
    /// host of its own.
    wasi: Option<WasiCtx>,
    pub(super) table: ResourceTable,
    pub(super) memory: Memory,
    lines: Option<Arc<Mutex<Lines>>>,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(super) services: Services,
}

/// What an instance may reach besides its event.
#[derive(Clone, Default)]
pub struct Outside {
    pub services: Services,
}

/// What a command reads, and where its result goes.
pub struct Stdio {
    pub stdin: MemoryInputPipe,
    pub stdout: Stdout,
}

impl Host {
    pub fn for_handler(
        environment: &[(String, String)],
        lines: Arc<Mutex<Lines>>,
        memory_mb: u32,
        stdio: Option<Stdio>,
        outside: Outside,
    ) -> Host {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(environment)
            .stderr(Output(LogSource::Stderr, lines.clone()));
        match stdio {
            Some(stdio) => wasi.arg("command").stdin(stdio.stdin).stdout(stdio.stdout),
            None => wasi.stdout(Output(LogSource::Stdout, lines.clone())),
        };
        Host {
            services: outside.services,
            ..Host::new(&mut wasi, memory_mb, Some(lines))
        }
    }

    /// For SQL: time stands still and chance has one outcome.
    pub fn fixed(memory_mb: u32, has_imports: bool) -> Host {
        if !has_imports {
            return Host::of(None, memory_mb, None);
        }
        let mut wasi = WasiCtxBuilder::new();
        wasi.wall_clock(Fixed)
            .monotonic_clock(Fixed)
            .secure_random(Deterministic::new(vec![0]))
            .insecure_random(Deterministic::new(vec![0]))
            .insecure_random_seed(0);
        Host::new(&mut wasi, memory_mb, None)
    }

    fn new(wasi: &mut WasiCtxBuilder, memory_mb: u32, lines: Option<Arc<Mutex<Lines>>>) -> Host {
        wasi.allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        Host::of(Some(wasi.build()), memory_mb, lines)
    }

    fn of(wasi: Option<WasiCtx>, memory_mb: u32, lines: Option<Arc<Mutex<Lines>>>) -> Host {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADERS_BYTES_MAX);
        Host {
            wasi,
            table,
            memory: Memory {
                limit: (memory_mb as usize) << 20,
                used: 0,
                peak: 0,
                refused: false,
            },
            lines,
            http,
            outgoing: Outgoing,
            services: Services::default(),
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outgoing,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: self
                .wasi
                .as_mut()
                .expect("only what is imported is called, and imports have a context"),
            table: &mut self.table,
        }
    }
}

pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    services::link(linker)?;
    linker.root().func_wrap(
        "log",
        |store: StoreContextMut<'_, Host>, (line,): (String,)| {
            if let Some(lines) = &store.data().lines {
                let mut lines = lines.lock().expect("no panic while lines are held");
                lines.push(LogSource::Stdout, line.as_bytes());
                lines.push(LogSource::Stdout, b"\n");
            }
            Ok(())
        },
    )
}

/// Refuses to grow over the limit; the refusal traps, so that the reason is not lost in a guest's allocator.
pub struct Memory {
    limit: usize,
    used: usize,
    pub(super) peak: usize,
    pub(super) refused: bool,
}

impl Memory {
    fn grow(&mut self, current: usize, desired: usize) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            self.refused = true;
            return Err(wasmtime::Error::msg(format!(
                "the memory limit of {} MB is exceeded",
                self.limit >> 20
            )));
        }
        self.used = used;
        self.peak = self.peak.max(used);
        Ok(true)
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A table's element is a pointer.
        self.grow(current * 8, desired * 8)
    }
}

struct Fixed;

impl HostWallClock for Fixed {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Fixed {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Standard output or error, into the invocation's lines.
#[derive(Clone)]
struct Output(LogSource, Arc<Mutex<Lines>>);

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for it, which is not linked.
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.1
            .lock()
            .expect("no panic while lines are held")
            .push(self.0, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}
