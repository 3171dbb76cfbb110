//! What an invocation says: handed to the recorder every so often while it runs, so that whoever follows the log need not
//! wait for its end. The rest is recorded with the end.

use std::{pin::pin, time::Duration};

use lambic_sandbox::{LogLine, LogSource, Written};
use tokio::time::{Instant, sleep};

use crate::{
    FunctionInfo, FunctionVersion, Inner,
    entry::{Call, kind_name},
    notices::SERVICE_ERROR,
    platform::{Format, Report},
    records::InvocationRow,
    traces::trace_root,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const TAIL_BYTES: usize = 4 << 10;

/// Dropped before its end, it records the invocation as one that was given up: the server stops, or a trigger does.
pub struct Said<'a> {
    inner: &'a Inner,
    info: &'a FunctionInfo,
    call: Call<'a>,
    start_us: i64,
    format: Format,
    /// What the recorder does not have yet.
    lines: Vec<LogLine>,
    /// The end of what it has.
    tail: String,
    /// What the code writes.
    written: Option<Written>,
    /// START is said.
    began: Option<Instant>,
    has_ended: bool,
}

impl<'a> Said<'a> {
    pub fn new(
        inner: &'a Inner,
        info: &'a FunctionInfo,
        call: Call<'a>,
        start_us: i64,
    ) -> Said<'a> {
        Said {
            inner,
            info,
            call,
            start_us,
            format: Format::of(info),
            lines: Vec::new(),
            tail: String::new(),
            written: None,
            began: None,
            has_ended: false,
        }
    }

    /// How the platform's lines are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The invocation begins.
    pub fn start(&mut self, version: FunctionVersion) {
        self.began = Some(Instant::now());
        let line = self.format.start(self.call.request_id, version);
        self.notes(line);
    }

    /// Lines of the platform's.
    pub fn notes(&mut self, lines: impl IntoIterator<Item = String>) {
        let lines = lines.into_iter();
        self.lines
            .extend(lines.map(|line| LogLine::now(LogSource::Platform, line)));
    }

    pub fn add(&mut self, lines: Vec<LogLine>) {
        self.lines.extend(lines);
    }

    /// Waits for `run`, and hands over what is `written` meanwhile.
    pub async fn while_running<T>(&mut self, written: &Written, run: impl Future<Output = T>) -> T {
        self.written = Some(written.clone());
        let mut run = pin!(run);
        let mut look = pin!(sleep(LOOK_EVERY));
        loop {
            tokio::select! {
                biased;
                done = &mut run => return done,
                () = &mut look => {
                    self.hand_over(written);
                    look.as_mut().reset(Instant::now() + LOOK_EVERY);
                }
            }
        }
    }

    fn hand_over(&mut self, written: &Written) {
        let Said {
            inner,
            info,
            call,
            lines,
            tail,
            ..
        } = self;
        let take = || {
            lines.extend(written.take());
            add_to_tail(tail, lines);
            std::mem::take(lines)
        };
        let recorder = &inner.recorder;
        recorder.record_so_far(call.request_id, info.name.as_str(), take);
    }

    /// It has ended. The lines that are to be recorded with the end, and the end of all.
    pub fn end(mut self, report: &Report<'_>) -> (Vec<LogLine>, String) {
        self.has_ended = true;
        let lines = self.format.end(report);
        self.notes(lines);
        add_to_tail(&mut self.tail, &self.lines);
        (
            std::mem::take(&mut self.lines),
            std::mem::take(&mut self.tail),
        )
    }

    /// The event was not run, which is told elsewhere; what a start said before stays.
    pub fn not_run(mut self) {
        self.has_ended = true;
        self.record_rest();
    }

    fn record_rest(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let (recorder, function) = (&self.inner.recorder, self.info.name.as_str());
        recorder.record_rest(self.call.request_id, function, lines);
    }

    /// Records it as failed, for a reason that is not the function's.
    fn give_up(&mut self, duration: Duration) {
        if let Some(written) = self.written.take() {
            self.lines.extend(written.take());
        }
        let reason = match *self.inner.stop.borrow() {
            true => "the server was stopped before the invocation had ended",
            false => "the invocation was given up before it had ended",
        };
        let (info, call) = (self.info, self.call);
        let duration_ms = duration.as_secs_f64() * 1e3;
        let billed_ms = duration_ms.ceil() as u64;
        let lines = self.format.end(&Report {
            request_id: call.request_id,
            duration_ms,
            billed_ms,
            memory_mb: info.memory_mb,
            memory_used_mb: None,
            init_ms: None,
            restore_ms: None,
            error: Some((SERVICE_ERROR, reason)),
            timeout_ms: info.timeout_ms,
        });
        self.notes(lines);
        let row = InvocationRow {
            at_us: self.start_us,
            request_id: call.request_id.to_owned(),
            function: info.name.to_string(),
            digest: info.digest.clone(),
            kind: kind_name(call.kind),
            error: Some((SERVICE_ERROR.to_owned(), reason.to_owned())),
            duration_ms,
            billed_ms: billed_ms as i64,
            init_ms: None,
            memory_mb: 0,
            cold: false,
            attempt: i32::try_from(call.attempt).unwrap_or(i32::MAX),
            overhead_ms: call
                .arrived
                .elapsed()
                .saturating_sub(duration)
                .as_secs_f64()
                * 1e3,
            trace_id: trace_root(call.trace_id.unwrap_or_default()).to_owned(),
        };
        let lines = std::mem::take(&mut self.lines);
        self.inner.recorder.record_given_up(row, lines);
    }
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        match self.began {
            Some(began) => self.give_up(began.elapsed()),
            None => self.record_rest(),
        }
    }
}

fn add_to_tail(tail: &mut String, lines: &[LogLine]) {
    // What stands before these is cut off in any case.
    let mut bytes = 0;
    let last = lines.iter().rposition(|line| {
        bytes += line.line.len() + 1;
        bytes >= TAIL_BYTES
    });
    for line in &lines[last.unwrap_or_default()..] {
        tail.push_str(&line.line);
        tail.push('\n');
    }
    let mut start = tail.len().saturating_sub(TAIL_BYTES);
    while !tail.is_char_boundary(start) {
        start += 1;
    }
    tail.drain(..start);
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use lambic_model::{FunctionName, InvocationKind, Offset, OffsetRange, PartitionId, Stream};

    use super::*;
    use crate::{
        Deployment, Functions, Runtime,
        tests::{ECHO, House, component},
    };

    async fn with_echo(house: &House) -> (Functions, FunctionInfo) {
        let functions = house.functions().await;
        let name = FunctionName::new("echo").unwrap();
        let mut deployment = Deployment::new(name, Runtime::Wasm, component(ECHO));
        deployment.timeout = Duration::from_secs(60);
        let info = functions.deploy(deployment).await.unwrap();
        (functions, info)
    }

    /// What a text column of a stream has.
    fn texts(house: &House, stream: &Stream, column: &str) -> Vec<String> {
        let snapshot = house.log.snapshot();
        let partition = PartitionId(0);
        let all = OffsetRange {
            partition,
            first: Offset(0),
            end: snapshot.head(stream.id).offset(partition),
        };
        let batches = snapshot.read(stream.id, all).unwrap();
        let of = |batch: &arrow::record_batch::RecordBatch| -> Vec<String> {
            let column = batch.column_by_name(column).unwrap().as_string::<i32>();
            let texts = column.iter();
            texts
                .map(|text| text.unwrap_or_default().to_owned())
                .collect()
        };
        batches.iter().flat_map(of).collect()
    }

    #[tokio::test]
    async fn an_invocation_that_is_given_up_has_an_end_and_a_record() {
        let house = House::open(|_| {});
        let (functions, info) = with_echo(&house).await;
        let inner = &*functions.0;
        let call = Call::new("id", InvocationKind::Async, 2);
        let mut said = Said::new(inner, &info, call, 7);
        said.start(info.version);
        drop(said);
        functions.flush().await;
        let system = &house.system;
        let lines = texts(&house, &system.logs, "line");
        assert_eq!(lines[0], "START RequestId: id Version: $LATEST");
        assert_eq!(
            lines[1..4],
            [
                "RequestId: id Error: the invocation was given up before it had ended",
                "ServiceException",
                "END RequestId: id"
            ]
        );
        assert!(lines[4].starts_with("REPORT RequestId: id\tDuration: "));
        assert!(!lines[4].contains("Max Memory Used"), "{lines:?}");
        let of = |column: &str| texts(&house, &system.invocations, column);
        assert_eq!(of("outcome"), ["failure"]);
        assert_eq!(of("error_type"), ["ServiceException"]);
        // What has ended is recorded by those who know how.
        let call = Call::new("other", InvocationKind::Sync, 1);
        let mut said = Said::new(inner, &info, call, 7);
        said.start(info.version);
        said.end(&Report {
            request_id: "other",
            duration_ms: 1.0,
            billed_ms: 1,
            memory_mb: 128,
            memory_used_mb: Some(1),
            init_ms: None,
            restore_ms: None,
            error: None,
            timeout_ms: 1,
        });
        functions.flush().await;
        assert_eq!(of("outcome").len(), 1);
        functions.close().await;
    }

    /// The second start of one whose first one took too long may find no room.
    #[tokio::test]
    async fn what_a_start_said_stays_where_the_event_is_not_run() {
        let house = House::open(|_| {});
        let (functions, info) = with_echo(&house).await;
        for is_told in [true, false] {
            let call = Call::new("id", InvocationKind::Sync, 1);
            let mut said = Said::new(&functions.0, &info, call, 7);
            said.add(vec![LogLine::now(LogSource::Stdout, "begins".to_owned())]);
            match is_told {
                true => said.not_run(),
                false => drop(said),
            }
        }
        functions.flush().await;
        assert_eq!(
            texts(&house, &house.system.logs, "line"),
            ["begins", "begins"]
        );
        assert!(texts(&house, &house.system.invocations, "outcome").is_empty());
        functions.close().await;
    }

    #[test]
    fn the_tail_is_the_end_of_all_lines() {
        let lines = |texts: &[&str]| -> Vec<LogLine> {
            let texts = texts.iter().map(|text| text.to_string());
            texts
                .map(|text| LogLine::now(LogSource::Stdout, text))
                .collect()
        };
        let mut tail = String::new();
        add_to_tail(&mut tail, &lines(&["a", "b"]));
        add_to_tail(&mut tail, &lines(&["c"]));
        assert_eq!(tail, "a\nb\nc\n");
        // `ä` has two bytes: the cut must not go through one.
        add_to_tail(&mut tail, &lines(&[&"ä".repeat(TAIL_BYTES)]));
        assert_eq!(tail.len(), TAIL_BYTES - 1);
        assert!(tail.starts_with('ä') && tail.ends_with("ä\n"));
    }
}
