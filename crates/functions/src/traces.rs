//! Traces of invocations, in a file that OpenTelemetry's collector can read: OTLP as JSON, in each line the `resourceSpans` of
//! one invocation.
//!
//! An invocation is a span, and its phases are spans below it: `init`, `invoke`, and `overhead` for all the rest. They are
//! written by a thread of their own. What it does not keep up with is left out and counted, and a file that is full makes
//! room by becoming the former one, so nothing waits for traces and nothing is filled by them.
//! Names are those of OpenTelemetry's semantic conventions for functions (`faas.*`).

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_base::{Clock, SystemClock};
use lambic_model::InvocationKind;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::{Error, entry::kind_name};

/// X-Ray's have 35.
const TRACE_ID_BYTES_MAX: usize = 128;
const WAITING_MAX: usize = 1_024;
/// Of OTLP.
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
const KIND_CONSUMER: u8 = 5;
const STATUS_ERROR: u8 = 2;

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFile {
    pub path: PathBuf,
    /// A file that would become larger is renamed to `<path>.1`, in place of the one that was there.
    pub bytes_max: u64,
}

/// An invocation that has ended.
pub struct Trace {
    pub request_id: String,
    pub function: String,
    pub version: String,
    pub memory_mb: u32,
    pub kind: InvocationKind,
    pub attempt: u32,
    /// As it came or was made: AWS's `X-Amzn-Trace-Id`.
    pub header: String,
    pub error: Option<(String, String)>,
    pub times: Times,
}

/// When what happened.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub arrived: Instant,
    /// How long the start took, if there was one.
    pub init: Option<Duration>,
    /// When the code began to run; `None`: it did not.
    pub began: Option<Instant>,
    pub duration: Duration,
    pub ended: Instant,
    /// The same moment, in microseconds since 1970.
    pub ended_us: i64,
}

/// X-Ray's form: a time and 24 digits that nobody else has.
pub fn new_trace_id() -> String {
    let seconds = SystemClock.now_us() / 1_000_000;
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("Root=1-{seconds:08x}-{};Sampled=0", &id[..24])
}

/// What traces are known by, of a header in X-Ray's form; of any other, its beginning.
pub fn trace_root(header: &str) -> &str {
    let mut members = header.split(';').map(str::trim);
    let root = members.find_map(|member| member.strip_prefix("Root="));
    let id = root.unwrap_or(header);
    &id[..id.floor_char_boundary(TRACE_ID_BYTES_MAX)]
}

enum Item {
    Trace(Box<Trace>),
    Flush(oneshot::Sender<()>),
}

/// Takes traces; nothing waits for it.
pub struct Traces {
    /// `None`: nobody wants them.
    items: Option<mpsc::Sender<Item>>,
    left_out: Arc<AtomicU64>,
}

impl Traces {
    pub fn open(file: Option<&TraceFile>) -> Result<Traces, Error> {
        let left_out = Arc::new(AtomicU64::new(0));
        let Some(file) = file else {
            return Ok(Traces {
                items: None,
                left_out,
            });
        };
        let failed = |error: io::Error| Error::Traces {
            reason: refused(&file.path, &error),
            path: file.path.clone(),
        };
        let output = Output::open(file).map_err(failed)?;
        let (items, queue) = mpsc::channel(WAITING_MAX);
        let counted = left_out.clone();
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || write(output, queue, &counted))
            .map_err(failed)?;
        Ok(Traces {
            items: Some(items),
            left_out,
        })
    }

    pub fn record(&self, trace: impl FnOnce() -> Trace) {
        let Some(items) = &self.items else { return };
        match items.try_reserve() {
            Ok(room) => room.send(Item::Trace(Box::new(trace()))),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until everything that was recorded before is in the file.
    pub async fn flush(&self) {
        let Some(items) = &self.items else { return };
        let (done, flushed) = oneshot::channel();
        if items.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

fn write(mut output: Output, mut queue: mpsc::Receiver<Item>, left_out: &AtomicU64) {
    let mut is_failing = false;
    while let Some(first) = queue.blocking_recv() {
        let mut flushes = Vec::new();
        let mut written = Ok(());
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Trace(trace) => {
                    let line = format!("{}\n", line_of(&trace));
                    written = written.and(output.write(line.as_bytes()));
                }
                Item::Flush(done) => flushes.push(done),
            }
            next = queue.try_recv().ok();
        }
        match written.and_then(|()| output.file.flush()) {
            Ok(()) => is_failing = false,
            // Said once, not for each invocation while a disk is full.
            Err(error) if !is_failing => {
                is_failing = true;
                error!(file = %output.path.display(), %error, "traces are not written");
            }
            Err(_) => {}
        }
        let traces = left_out.swap(0, Ordering::Relaxed);
        if traces > 0 {
            warn!(
                traces,
                "traces were left out: they came faster than they are written"
            );
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// The file, which gives way to a new one when it is full.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
}

impl Output {
    fn open(at: &TraceFile) -> io::Result<Output> {
        // A pipe would be waited for, and what a full file does to its name would be done to a device.
        if fs::metadata(&at.path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = appended(&at.path)?;
        let bytes = file.metadata()?.len();
        Ok(Output {
            path: at.path.clone(),
            file: BufWriter::new(file),
            bytes,
            bytes_max: at.bytes_max,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.file.flush()?;
            fs::rename(&self.path, former(&self.path))?;
            self.file = BufWriter::new(appended(&self.path)?);
            self.bytes = 0;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Why there can be no file, and what to do.
fn refused(path: &Path, error: &io::Error) -> String {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no folder `{folder}`; make it, or name a file in one that is there")
        }
        io::ErrorKind::PermissionDenied => format!(
            "the server's user may not write it; let that user write in `{folder}`, or name a file in another folder"
        ),
        io::ErrorKind::IsADirectory => format!(
            "it is a folder, and a file is wanted; name one in it, such as `{}`",
            path.join("traces.jsonl").display()
        ),
        io::ErrorKind::NotADirectory => {
            format!("`{folder}` is no folder, nor is what leads to it; name a file in a folder")
        }
        io::ErrorKind::InvalidInput => {
            "it is no regular file but a pipe or device; name a file, and let the collector follow that".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("`{folder}` can only be read; name a file in another folder")
        }
        _ => error.to_string(),
    }
}

fn appended(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn former(path: &Path) -> PathBuf {
    let mut former = OsString::from(path);
    former.push(".1");
    former.into()
}

/// A phase, from and to, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    name: &'static str,
    from: u64,
    to: u64,
}

impl Times {
    /// The whole, and its parts in their order: together they are the whole.
    fn phases(&self) -> (Phase, Vec<Phase>) {
        let at = |moment: Instant| {
            let before = self.ended.saturating_duration_since(moment).as_nanos() as u64;
            (self.ended_us.max(0) as u64 * 1_000).saturating_sub(before)
        };
        let within = |moment: Instant| moment.max(self.arrived).min(self.ended);
        let began = within(self.began.unwrap_or(self.ended));
        let init = began.checked_sub(self.init.unwrap_or_default());
        let init = within(init.unwrap_or(self.arrived));
        let done = match self.began {
            Some(_) => within(began + self.duration),
            None => began,
        };
        let parts = [
            ("overhead", self.arrived, init),
            ("init", init, began),
            ("invoke", began, done),
            ("overhead", done, self.ended),
        ];
        let phase = |(name, from, to)| Phase {
            name,
            from: at(from),
            to: at(to),
        };
        let parts = parts.map(phase).into_iter();
        let parts = parts.filter(|part| part.from < part.to).collect();
        (phase(("invocation", self.arrived, self.ended)), parts)
    }
}

/// As the line of the file.
fn line_of(trace: &Trace) -> Value {
    let (trace_id, parent) = ids(&trace.header);
    let (whole, parts) = trace.times.phases();
    let (kind, trigger) = match trace.kind {
        InvocationKind::Sync => (KIND_SERVER, "other"),
        InvocationKind::Async => (KIND_CONSUMER, "other"),
        InvocationKind::Stream => (KIND_CONSUMER, "pubsub"),
    };
    let mut attributes = vec![
        text("faas.invocation_id", &trace.request_id),
        text("faas.trigger", trigger),
        json!({ "key": "faas.coldstart", "value": { "boolValue": trace.times.init.is_some() } }),
        text("lambic.kind", kind_name(trace.kind)),
        number("lambic.attempt", trace.attempt.into()),
    ];
    let mut status = json!({});
    if let Some((error_type, message)) = &trace.error {
        attributes.push(text("error.type", error_type));
        status = json!({ "code": STATUS_ERROR, "message": message });
    }
    let span_id = new_span_id();
    let mut root = span(&trace_id, &span_id, whole);
    root["name"] = json!(trace.function);
    root["kind"] = json!(kind);
    root["attributes"] = json!(attributes);
    root["status"] = status;
    if let Some(parent) = parent {
        root["parentSpanId"] = json!(parent);
    }
    let mut spans = vec![root];
    spans.extend(parts.into_iter().map(|part| {
        let mut span = span(&trace_id, &new_span_id(), part);
        span["parentSpanId"] = json!(span_id);
        span
    }));
    let of_function = [
        text("service.name", &trace.function),
        text("faas.name", &trace.function),
        text("faas.version", &trace.version),
        number("faas.max_memory", u64::from(trace.memory_mb) << 20),
    ];
    json!({
        "resourceSpans": [{
            "resource": { "attributes": of_function },
            "scopeSpans": [{
                "scope": { "name": "lambic", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans,
            }],
        }],
    })
}

fn span(trace_id: &str, span_id: &str, phase: Phase) -> Value {
    json!({
        "traceId": trace_id,
        "spanId": span_id,
        "name": phase.name,
        "kind": KIND_INTERNAL,
        "startTimeUnixNano": phase.from.to_string(),
        "endTimeUnixNano": phase.to.to_string(),
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// Whole numbers are text in OTLP's JSON.
fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

/// OpenTelemetry's id of a trace that X-Ray's header names, and the span that it comes from. Of another header, an id
/// that nobody else has.
fn ids(header: &str) -> (String, Option<String>) {
    let mut root = None;
    let mut parent = None;
    for member in header.split(';').map(str::trim) {
        if let Some(id) = member.strip_prefix("Root=") {
            root = trace_id(id);
        } else if let Some(id) = member.strip_prefix("Parent=") {
            parent = Some(id).filter(|id| is_hex(id, 16));
        }
    }
    match root {
        Some(root) => (root, parent.map(str::to_ascii_lowercase)),
        None => (uuid::Uuid::new_v4().simple().to_string(), None),
    }
}

/// `1-5759e988-bd862e3fe1be46a994272793` without what stands between.
fn trace_id(root: &str) -> Option<String> {
    let (seconds, id) = root.strip_prefix("1-")?.split_once('-')?;
    (is_hex(seconds, 8) && is_hex(id, 24)).then(|| format!("{seconds}{id}").to_ascii_lowercase())
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn new_span_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(16);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_header() {
        let root = "Root=1-5759E988-bd862e3fe1be46a994272793";
        let id = "5759e988bd862e3fe1be46a994272793";
        for (header, parent) in [
            (root.to_owned(), None),
            (
                format!("{root};Parent=53995c3f42cd8ad8;Sampled=0"),
                Some("53995c3f42cd8ad8"),
            ),
            (format!("Parent=none; {root}"), None),
        ] {
            let (found, span) = ids(&header);
            assert_eq!((found.as_str(), span.as_deref()), (id, parent), "{header}");
        }
        for header in ["", "Root=1-2-3;Parent=53995c3f42cd8ad8", "something else"] {
            let (made, parent) = ids(header);
            assert!(is_hex(&made, 32) && parent.is_none(), "{header}");
            assert_ne!(ids(header).0, made);
        }
        assert!(is_hex(&new_span_id(), 16));
    }

    #[test]
    fn phases_are_the_whole() {
        let ms = Duration::from_millis;
        let arrived = Instant::now();
        let check =
            |init: Option<u64>, began: Option<u64>, duration, expected: &[(&str, u64, u64)]| {
                let times = Times {
                    arrived,
                    init: init.map(ms),
                    began: began.map(|began| arrived + ms(began)),
                    duration: ms(duration),
                    ended: arrived + ms(100),
                    ended_us: 1_000_000,
                };
                let (whole, parts) = times.phases();
                let at = |ns: u64| ns / 1_000_000 - 900;
                assert_eq!((at(whole.from), at(whole.to)), (0, 100));
                let parts = parts
                    .iter()
                    .map(|part| (part.name, at(part.from), at(part.to)));
                assert_eq!(parts.collect::<Vec<_>>(), expected);
            };
        check(
            Some(20),
            Some(30),
            60,
            &[
                ("overhead", 0, 10),
                ("init", 10, 30),
                ("invoke", 30, 90),
                ("overhead", 90, 100),
            ],
        );
        check(None, Some(0), 100, &[("invoke", 0, 100)]);
        // A start that failed.
        check(Some(80), None, 0, &[("overhead", 0, 20), ("init", 20, 100)]);
        check(None, None, 0, &[("overhead", 0, 100)]);
        // Clocks that do not agree make nothing negative.
        check(
            Some(500),
            Some(50),
            500,
            &[("init", 0, 50), ("invoke", 50, 100)],
        );
    }

    #[test]
    fn a_full_file_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = TraceFile {
            path: dir.path().join("traces.jsonl"),
            bytes_max: 10,
        };
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        // Also what is larger than the file may be is written, alone.
        for (line, content) in [
            ("one\n", "one\n"),
            ("two\n", "one\ntwo\n"),
            ("three\n", "three\n"),
            ("four and more\n", "four and more\n"),
            ("five\n", "five\n"),
        ] {
            // It goes on with what is there.
            let mut output = Output::open(&at).unwrap();
            output.write(line.as_bytes()).unwrap();
            output.file.flush().unwrap();
            assert_eq!(read(at.path.clone()), content);
        }
        assert_eq!(read(former(&at.path)), "four and more\n");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let check = |name: &str, expected: &str| {
            let at = TraceFile {
                path: dir.path().join(name),
                bytes_max: 1 << 20,
            };
            let Err(error) = Traces::open(Some(&at)) else {
                panic!("{name} was taken");
            };
            let error = error.to_string();
            assert!(error.contains("`--traces` or `traces.file`"), "{error}");
            assert!(error.contains(name) && error.contains(expected), "{error}");
        };
        check("none/traces", "there is no folder");
        check("", "name one in it, such as");
        check("file/traces", "is no folder");
        let path = Path::new("/data/traces");
        let denied = io::ErrorKind::PermissionDenied.into();
        assert!(refused(path, &denied).contains("let that user write in `/data`"));
        let other = io::Error::other("the disk burns");
        assert_eq!(refused(Path::new("traces"), &other), "the disk burns");
        // Nobody reads a pipe, and waiting for that would be for ever.
        let Err(error) = Output::open(&TraceFile {
            path: PathBuf::from("/dev/null"),
            bytes_max: 1,
        }) else {
            panic!("a device was taken");
        };
        assert!(refused(path, &error).contains("no regular file"));
    }

    #[test]
    fn traces_are_known_by_their_root() {
        let made = new_trace_id();
        assert_eq!(trace_root(&made).len(), 35, "{made}");
        for (header, root) in [
            ("Root=1-2-3;Parent=4;Sampled=1", "1-2-3"),
            ("Parent=4; Root=1-2-3", "1-2-3"),
            ("something else", "something else"),
            ("", ""),
        ] {
            assert_eq!(trace_root(header), root);
        }
        // `ä` has two bytes: the cut must not go through one.
        assert_eq!(trace_root(&format!("x{}", "ä".repeat(200))).len(), 127);
    }
}
