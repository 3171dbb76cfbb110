//! What an invocation says: handed to the recorder every so often while it runs, so that whoever follows the log need not
//! wait for its end. The rest is recorded with the end.

use std::{pin::pin, time::Duration};

use lambic_sandbox::{LogLine, LogSource, Written};
use tokio::time::{Instant, sleep};

use crate::{FunctionVersion, recorder::Recorder};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const TAIL_BYTES: usize = 4 << 10;

pub struct Said<'a> {
    recorder: &'a Recorder,
    request_id: &'a str,
    function: &'a str,
    /// What the recorder does not have yet.
    lines: Vec<LogLine>,
    /// The end of what it has.
    tail: String,
}

impl<'a> Said<'a> {
    pub fn new(recorder: &'a Recorder, request_id: &'a str, function: &'a str) -> Said<'a> {
        Said {
            recorder,
            request_id,
            function,
            lines: Vec::new(),
            tail: String::new(),
        }
    }

    /// The invocation begins.
    pub fn start(&mut self, version: FunctionVersion) {
        self.note(format!(
            "START RequestId: {} Version: {version}",
            self.request_id
        ));
    }

    /// A line of the platform's.
    pub fn note(&mut self, line: String) {
        self.lines.push(LogLine::now(LogSource::Platform, line));
    }

    pub fn add(&mut self, lines: Vec<LogLine>) {
        self.lines.extend(lines);
    }

    /// Waits for `run`, and hands over what is `written` meanwhile.
    pub async fn while_running<T>(&mut self, written: &Written, run: impl Future<Output = T>) -> T {
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
            recorder,
            request_id,
            function,
            lines,
            tail,
        } = self;
        let take = || {
            lines.extend(written.take());
            add_to_tail(tail, lines);
            std::mem::take(lines)
        };
        recorder.record_so_far(request_id, function, take);
    }

    /// The lines that are to be recorded with the end, and the end of all.
    pub fn end(mut self) -> (Vec<LogLine>, String) {
        add_to_tail(&mut self.tail, &self.lines);
        (self.lines, self.tail)
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
    use super::*;

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
