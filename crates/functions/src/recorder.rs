//! Writes what functions did into `lambic_invocations` and `lambic_logs`, many at once, beside the invocations.
//!
//! What it holds is lost by a kill. So the record of an invocation whose result is kept in an append, as the end of an
//! event or of a batch, goes with that append instead, and only its lines come here.
//!
//! The lines of an invocation that takes long come in several parts, in their order, the last one with its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lambic_log::Log;
use lambic_model::{Append, Producer, Write};
use lambic_sandbox::{LogLine, LogSource};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::error;

use crate::{
    SystemStreams,
    append::{NotKept, append_patiently},
    records::{self, InvocationRow, LogRow},
};

/// Invocations that are not in the log yet. Only when there are more does an invocation wait for the disk.
const WAITING_MAX: usize = 2_048;
/// In one append, which with all their messages and lines is well below what the log takes.
const AT_ONCE_MAX: usize = 512;
/// After the first of several. What comes in the meantime goes along, and wakes nobody: neither this, nor all who follow
/// the log.
const LINGER: Duration = Duration::from_millis(20);
/// Log lines in memory; beyond it, an invocation's lines are left out with a notice.
const LINE_BYTES_MAX: usize = 32 << 20;
/// What a line takes in the log beside its text, at most: the request's id, the function's name, times.
const LINE_BESIDE_BYTES: usize = 192;
const ATTEMPTS_MAX: usize = 20;
/// How often what is refused is cut in halves: it may be too large for one append, or refused for another reason.
const CUTS_MAX: u32 = 10;

enum Item {
    /// Lines of an invocation, or of none. The row of one that has ended, unless that is recorded elsewhere.
    Lines(Option<Box<InvocationRow>>, Lines),
    Flush(oneshot::Sender<()>),
}

struct Lines {
    /// `None`: of no invocation.
    request_id: Option<Arc<str>>,
    function: Arc<str>,
    lines: Vec<LogLine>,
    /// What they count.
    bytes: usize,
}

#[derive(Clone)]
pub struct Recorder {
    items: mpsc::Sender<Item>,
    line_bytes: Arc<AtomicUsize>,
    /// Somebody waits for what there is.
    hurry: Arc<Notify>,
}

impl Recorder {
    pub fn start(log: Log, streams: SystemStreams) -> Recorder {
        let (items, queue) = mpsc::channel(WAITING_MAX);
        let line_bytes = Arc::new(AtomicUsize::new(0));
        let hurry = Arc::new(Notify::new());
        let recorder = Recorder {
            items,
            line_bytes: line_bytes.clone(),
            hurry: hurry.clone(),
        };
        tokio::spawn(write(log, streams, queue, line_bytes, hurry));
        recorder
    }

    /// One that has ended, with its lines that were not recorded before.
    pub async fn record(&self, row: InvocationRow, lines: Vec<LogLine>) {
        let (id, function) = (row.request_id.as_str().into(), row.function.as_str().into());
        self.take(Some(Box::new(row)), id, function, lines).await;
    }

    /// Of an invocation whose row goes with another append.
    pub async fn record_lines(&self, row: &InvocationRow, lines: Vec<LogLine>) {
        let (id, function) = (row.request_id.as_str().into(), row.function.as_str().into());
        self.take(None, id, function, lines).await;
    }

    async fn take(
        &self,
        row: Option<Box<InvocationRow>>,
        request_id: Arc<str>,
        function: Arc<str>,
        lines: Vec<LogLine>,
    ) {
        let lines = self.counted(request_id, function, lines);
        // Fails only after the runtime has begun to end.
        let _ = self.items.send(Item::Lines(row, lines)).await;
    }

    /// Lines that count from now on, or a notice in their place.
    fn counted(&self, request_id: Arc<str>, function: Arc<str>, mut lines: Vec<LogLine>) -> Lines {
        let mut bytes = bytes_of(&lines);
        if self.line_bytes.load(Ordering::Relaxed) + bytes > LINE_BYTES_MAX {
            lines = vec![LogLine::now(
                LogSource::Platform,
                format!(
                    "{} lines were left out: the log is behind by {LINE_BYTES_MAX} bytes",
                    lines.len()
                ),
            )];
            bytes = 0;
        }
        self.line_bytes.fetch_add(bytes, Ordering::Relaxed);
        Lines {
            request_id: Some(request_id),
            function,
            lines,
            bytes,
        }
    }

    /// One that is given up, by somebody who cannot wait.
    pub fn record_given_up(&self, row: InvocationRow, lines: Vec<LogLine>) {
        let (id, function) = (row.request_id.as_str().into(), row.function.as_str().into());
        let lines = self.counted(id, function, lines);
        self.send_now(Some(Box::new(row)), lines);
    }

    /// The last lines of one whose end is told elsewhere, by somebody who cannot wait.
    pub fn record_rest(&self, request_id: &str, function: &str, lines: Vec<LogLine>) {
        let lines = self.counted(request_id.into(), function.into(), lines);
        self.send_now(None, lines);
    }

    fn send_now(&self, row: Option<Box<InvocationRow>>, lines: Lines) {
        let bytes = lines.bytes;
        if self.items.try_send(Item::Lines(row, lines)).is_err() {
            self.line_bytes.fetch_sub(bytes, Ordering::Relaxed);
            error!("an invocation that was given up is not recorded: the log is behind");
        }
    }

    /// A line that belongs to no invocation; it is left out when the log is behind.
    pub async fn note(&self, function: &str, line: LogLine) {
        let lines = vec![line];
        let bytes = bytes_of(&lines);
        if self.line_bytes.load(Ordering::Relaxed) + bytes > LINE_BYTES_MAX {
            return;
        }
        self.line_bytes.fetch_add(bytes, Ordering::Relaxed);
        let lines = Lines {
            request_id: None,
            function: function.into(),
            lines,
            bytes,
        };
        // Fails only after the runtime has begun to end.
        let _ = self.items.send(Item::Lines(None, lines)).await;
    }

    /// Lines of one that still runs. Nothing waits, and nothing is taken where the log is behind: what is left then comes
    /// with the end, and half of the room is kept for ends.
    pub fn record_so_far(
        &self,
        request_id: &str,
        function: &str,
        take: impl FnOnce() -> Vec<LogLine>,
    ) {
        if self.line_bytes.load(Ordering::Relaxed) > LINE_BYTES_MAX / 2
            || self.items.capacity() < WAITING_MAX / 2
        {
            return;
        }
        let Ok(room) = self.items.try_reserve() else {
            return;
        };
        let lines = take();
        if lines.is_empty() {
            return;
        }
        let bytes = bytes_of(&lines);
        self.line_bytes.fetch_add(bytes, Ordering::Relaxed);
        room.send(Item::Lines(
            None,
            Lines {
                request_id: Some(request_id.into()),
                function: function.into(),
                lines,
                bytes,
            },
        ));
    }

    /// Waits until everything recorded before is in the log.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.items.send(Item::Flush(done)).await.is_ok() {
            self.hurry.notify_one();
            let _ = flushed.await;
        }
    }
}

async fn write(
    log: Log,
    streams: SystemStreams,
    mut queue: mpsc::Receiver<Item>,
    line_bytes: Arc<AtomicUsize>,
    hurry: Arc<Notify>,
) {
    let mut producer = new_producer();
    let mut items = Vec::new();
    while queue.recv_many(&mut items, AT_ONCE_MAX).await > 0 {
        let is_waited_for = items.iter().any(|item| matches!(item, Item::Flush(_)));
        if items.len() < AT_ONCE_MAX && !is_waited_for {
            tokio::select! {
                () = hurry.notified() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            while items.len() < AT_ONCE_MAX
                && let Ok(item) = queue.try_recv()
            {
                items.push(item);
            }
        }
        let mut told = Told::default();
        let mut flushes = Vec::new();
        let mut bytes_written = 0;
        for item in items.drain(..) {
            match item {
                Item::Lines(row, of) => {
                    told.lines.extend(of.lines.into_iter().map(|line| LogRow {
                        request_id: of.request_id.clone(),
                        function: of.function.clone(),
                        line,
                    }));
                    told.rows.extend(row.map(|row| *row));
                    bytes_written += of.bytes;
                }
                Item::Flush(done) => flushes.push(done),
            }
        }
        keep(&log, &streams, told, &mut producer).await;
        line_bytes.fetch_sub(bytes_written, Ordering::Relaxed);
        for done in flushes {
            let _ = done.send(());
        }
    }
}

fn new_producer() -> Producer {
    Producer {
        id: format!("functions/recorder/{}", uuid::Uuid::now_v7()),
        sequence: 0,
    }
}

/// What is told in one append.
#[derive(Default)]
struct Told {
    rows: Vec<InvocationRow>,
    lines: Vec<LogRow>,
    /// How often it was cut.
    cuts: u32,
}

impl Told {
    fn writes(&self, streams: &SystemStreams) -> Vec<Write> {
        let mut writes = Vec::new();
        if !self.rows.is_empty() {
            writes.push(records::told(&streams.invocations, &self.rows));
        }
        if !self.lines.is_empty() {
            writes.push(Write {
                stream: streams.logs.id,
                partition: None,
                batch: records::logs(&streams.logs, &self.lines),
                schema: None,
            });
        }
        writes
    }

    /// Two parts of it, in their order; the error is what is not to be cut any more.
    fn cut(mut self) -> Result<[Told; 2], Told> {
        if self.cuts >= CUTS_MAX || self.rows.len() + self.lines.len() < 2 {
            return Err(self);
        }
        let (rows, lines) = match self.rows.is_empty() || self.lines.is_empty() {
            true => (
                self.rows.split_off(self.rows.len() / 2),
                self.lines.split_off(self.lines.len() / 2),
            ),
            false => (Vec::new(), std::mem::take(&mut self.lines)),
        };
        self.cuts += 1;
        let second = Told {
            rows,
            lines,
            cuts: self.cuts,
        };
        Ok([self, second])
    }
}

/// In one append, or in several where that is refused.
async fn keep(log: &Log, streams: &SystemStreams, told: Told, producer: &mut Producer) {
    let mut parts = vec![told];
    while let Some(part) = parts.pop() {
        let writes = part.writes(streams);
        if writes.is_empty() {
            continue;
        }
        producer.sequence += 1;
        let append = Append {
            writes,
            producer: Some(producer.clone()),
            cursors: Vec::new(),
        };
        let never = std::future::pending();
        let (part, reason) = match append_patiently(log, &append, ATTEMPTS_MAX, never).await {
            Ok(()) => continue,
            Err(NotKept::GivenUp(reason)) => (part, reason),
            // Nothing is wrong with it: it goes once more, by a producer of which nothing is forgotten. That it was kept
            // before and is told twice is better than that it is lost.
            Err(NotKept::Forgotten(_)) if part.cuts < CUTS_MAX => {
                *producer = new_producer();
                let cuts = part.cuts + 1;
                parts.push(Told { cuts, ..part });
                continue;
            }
            Err(NotKept::Forgotten(reason)) => (part, reason),
            Err(NotKept::Refused(reason)) => match part.cut() {
                Ok([first, second]) => {
                    parts.extend([second, first]);
                    continue;
                }
                Err(part) => (part, reason),
            },
        };
        error!(
            %reason,
            invocations = part.rows.len(),
            lines = part.lines.len(),
            "invocations were not recorded"
        );
    }
}

fn bytes_of(lines: &[LogLine]) -> usize {
    let bytes = lines.iter().map(|line| line.line.len() + LINE_BESIDE_BYTES);
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_in_smaller_parts_and_in_its_order() {
        let lines = (0..5).map(|number| LogRow {
            request_id: None,
            function: "f".into(),
            line: LogLine::now(LogSource::Stdout, number.to_string()),
        });
        let all = Told {
            lines: lines.collect(),
            ..Told::default()
        };
        let mut parts = vec![all];
        let mut told = Vec::new();
        while let Some(part) = parts.pop() {
            match part.cut() {
                Ok([first, second]) => parts.extend([second, first]),
                Err(part) => {
                    assert_eq!(part.lines.len(), 1);
                    told.extend(part.lines.into_iter().map(|row| row.line.line));
                }
            }
        }
        assert_eq!(told, ["0", "1", "2", "3", "4"]);
        let often = Told {
            cuts: CUTS_MAX,
            ..Told::default()
        };
        assert!(often.cut().is_err());
    }
}
