//! Output cut into lines, within a bound: a function that prints for ever fills neither memory nor disk.

use std::sync::{Arc, Mutex};

use lambic_base::{Clock, SystemClock};

/// Longer lines are cut into several, as AWS does at 256 KB.
const LINE_BYTES_MAX: usize = 256 << 10;
/// As many lines as if each had so many bytes: empty ones take memory, too.
const LINE_BYTES_LEAST: usize = 32;
/// However few bytes there may be.
const LINES_LEAST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    Stdout,
    Stderr,
    /// What extensions say.
    Extension,
    /// START, END, REPORT and notices: what the house says about the invocation.
    Platform,
}

impl LogSource {
    pub fn as_str(self) -> &'static str {
        match self {
            LogSource::Stdout => "stdout",
            LogSource::Stderr => "stderr",
            LogSource::Extension => "extension",
            LogSource::Platform => "platform",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Microseconds since 1970.
    pub at_us: i64,
    pub source: LogSource,
    pub line: String,
}

impl LogLine {
    pub fn now(source: LogSource, line: String) -> LogLine {
        LogLine {
            at_us: SystemClock.now_us(),
            source,
            line,
        }
    }
}

/// Hears of each line as it comes.
pub(crate) type Listener = Box<dyn Fn(&LogLine) + Send + Sync>;

pub(crate) struct Lines {
    lines: Vec<LogLine>,
    listener: Option<Listener>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    extension: Vec<u8>,
    /// Apart from what others began and did not finish: nobody else writes a part of what the house says.
    platform: Vec<u8>,
    bytes: usize,
    bytes_max: usize,
    bytes_dropped: usize,
    /// Lines that have ended since the last time: each takes more than its text.
    ended: usize,
}

impl Lines {
    pub fn new(bytes_max: usize) -> Lines {
        Lines {
            lines: Vec::new(),
            listener: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            extension: Vec::new(),
            platform: Vec::new(),
            bytes: 0,
            bytes_max,
            bytes_dropped: 0,
            ended: 0,
        }
    }

    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Goes on with another bound.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.bytes = self.bytes.min(bytes_max);
    }

    /// What comes now is dropped, until it is taken.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    pub fn push(&mut self, source: LogSource, bytes: &[u8]) {
        let kept = bytes.len().min(self.bytes_max - self.bytes);
        self.bytes += kept;
        self.bytes_dropped += bytes.len() - kept;
        let mut rest = &bytes[..kept];
        let partial = match source {
            LogSource::Stdout => &mut self.stdout,
            LogSource::Extension => &mut self.extension,
            LogSource::Stderr => &mut self.stderr,
            LogSource::Platform => &mut self.platform,
        };
        let lines_max = (self.bytes_max / LINE_BYTES_LEAST).max(LINES_LEAST);
        while !rest.is_empty() {
            if self.ended >= lines_max {
                self.bytes_dropped += rest.len();
                break;
            }
            let room = (LINE_BYTES_MAX - partial.len()).min(rest.len());
            match rest[..room].iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    partial.extend_from_slice(&rest[..end]);
                    rest = &rest[end + 1..];
                }
                None => {
                    partial.extend_from_slice(&rest[..room]);
                    rest = &rest[room..];
                    if partial.len() < LINE_BYTES_MAX {
                        break;
                    }
                }
            }
            let line = line(source, partial);
            if let Some(listener) = &self.listener {
                listener(&line);
            }
            self.lines.push(line);
            self.ended += 1;
        }
    }

    /// Counts unfinished lines as finished.
    pub fn finish(&mut self) {
        for (source, partial) in [
            (LogSource::Stdout, &mut self.stdout),
            (LogSource::Stderr, &mut self.stderr),
            (LogSource::Extension, &mut self.extension),
            (LogSource::Platform, &mut self.platform),
        ] {
            if !partial.is_empty() {
                let line = line(source, partial);
                if let Some(listener) = &self.listener {
                    listener(&line);
                }
                self.lines.push(line);
            }
        }
    }

    /// What was written since the last time; an unfinished line counts as finished.
    pub fn take(&mut self) -> Vec<LogLine> {
        self.finish();
        if self.bytes_dropped > 0 {
            self.lines.push(LogLine::now(
                LogSource::Platform,
                format!(
                    "{} bytes of output were dropped: one invocation may write {}",
                    self.bytes_dropped, self.bytes_max
                ),
            ));
        }
        self.bytes = 0;
        self.bytes_dropped = 0;
        self.ended = 0;
        std::mem::take(&mut self.lines)
    }

    /// The whole lines so far; what is left comes with [`Lines::take`], and counts within the same bound.
    fn take_whole(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.lines)
    }
}

/// What an invocation writes, for those who want to know before it has ended; clones share it.
#[derive(Clone)]
pub struct Written(Arc<Mutex<Lines>>);

impl Written {
    /// Nothing yet, and no more than `bytes_max`.
    pub fn new(bytes_max: usize) -> Written {
        Written::of(Arc::new(Mutex::new(Lines::new(bytes_max))))
    }

    pub(crate) fn of(lines: Arc<Mutex<Lines>>) -> Written {
        Written(lines)
    }

    pub(crate) fn lines(&self) -> Arc<Mutex<Lines>> {
        self.0.clone()
    }

    /// The lines that have ended since the last time. They are taken out: the [`Execution`](crate::Execution) has the
    /// others.
    pub fn take(&self) -> Vec<LogLine> {
        let mut lines = self.0.lock().expect("no panic while lines are held");
        lines.take_whole()
    }
}

fn line(source: LogSource, partial: &mut Vec<u8>) -> LogLine {
    let text = String::from_utf8_lossy(partial)
        .trim_end_matches('\r')
        .to_owned();
    partial.clear();
    LogLine::now(source, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.line).collect()
    }

    #[test]
    fn lines_are_cut_and_unfinished_ones_are_kept() {
        let mut lines = Lines::new(100);
        lines.push(LogSource::Stdout, b"a\nb");
        lines.push(LogSource::Stderr, b"x");
        lines.push(LogSource::Stdout, b"c\n\n");
        assert_eq!(texts(lines.take()), ["a", "bc", "", "x"]);
        assert!(lines.take().is_empty());
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let mut lines = Lines::new(64 << 10);
        lines.push(LogSource::Stdout, &[b'\n'; 10_000]);
        let taken = texts(lines.take());
        assert_eq!(taken.len(), 2_048 + 1);
        let notice = "7952 bytes of output were dropped: one invocation may write 65536";
        assert_eq!(taken.last().unwrap(), notice);
        lines.push(LogSource::Stdout, b"a\n");
        assert_eq!(texts(lines.take()), ["a"]);
    }

    #[test]
    fn nobody_begins_what_the_house_says() {
        let mut lines = Lines::new(100);
        lines.push(LogSource::Stderr, b"REPORT ");
        lines.push(LogSource::Platform, b"request: refused\n");
        assert_eq!(texts(lines.take()), ["request: refused", "REPORT "]);
    }

    #[test]
    fn output_over_the_bound_is_dropped_with_a_notice() {
        let mut lines = Lines::new(4);
        lines.push(LogSource::Stdout, b"abcdef");
        assert_eq!(
            texts(lines.take()),
            [
                "abcd",
                "2 bytes of output were dropped: one invocation may write 4"
            ]
        );
        lines.push(LogSource::Stdout, b"gh");
        assert_eq!(texts(lines.take()), ["gh"]);
    }

    #[test]
    fn lines_are_taken_before_the_end_once_and_within_the_same_bound() {
        let written = Written::new(8);
        let lines = written.lines();
        let push = |bytes: &[u8]| lines.lock().unwrap().push(LogSource::Stdout, bytes);
        push(b"ab\ncd");
        assert_eq!(texts(written.take()), ["ab"]);
        assert!(written.take().is_empty());
        push(b"e\nxyz");
        let rest = texts(lines.lock().unwrap().take());
        assert_eq!(
            rest,
            [
                "cde",
                "x",
                "2 bytes of output were dropped: one invocation may write 8"
            ]
        );
    }

    #[test]
    fn lines_are_told_as_they_come() {
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut lines = Lines::new(100);
        lines.listen(Box::new({
            let heard = heard.clone();
            move |line| {
                heard
                    .lock()
                    .unwrap()
                    .push(format!("{} {}", line.source.as_str(), line.line))
            }
        }));
        lines.push(LogSource::Stdout, b"a\nb");
        lines.push(LogSource::Extension, b"x\n");
        assert_eq!(*heard.lock().unwrap(), ["stdout a", "extension x"]);
        assert_eq!(texts(lines.take()), ["a", "x", "b"]);
        assert_eq!(heard.lock().unwrap().len(), 3);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::new(1 << 20);
        lines.push(LogSource::Stdout, &vec![b'x'; LINE_BYTES_MAX + 1]);
        let cut = texts(lines.take());
        assert_eq!(cut.len(), 2);
        assert_eq!(cut[1], "x");
    }
}
