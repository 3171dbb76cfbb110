//! `lambic append`: a file or standard input into a stream, piece by piece.
//!
//! A file is checked whole before its first piece is appended, so that a bad record leaves nothing behind. Every
//! piece has a sequence under one producer id, so that a repetition after a cut connection has no second effect.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lambic_base::retry::Backoff;
use lambic_connectors::{Chunk, Chunks, Format};
use serde_json::{Value, json};

use super::Global;
use crate::{
    cli,
    client::{Client, Failure, read_json, segment},
    output::{self, counted},
};

/// How long a server that went away, or is busy, is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Total {
    records: u64,
    records_known: u64,
    /// In appends that had been acknowledged before.
    records_repeated: u64,
    bad: u64,
    frontier: Value,
}

/// Where the records come from.
struct Source {
    /// As messages call it.
    shown: String,
    format: Format,
    input: Input,
}

enum Input {
    /// Can be read as often as needed.
    File(PathBuf),
    /// The same for what came through a pipe and must be known whole before it is sent.
    Spooled(tempfile::NamedTempFile),
    /// Goes by once.
    Stdin,
    Pipe(PathBuf),
}

impl Source {
    fn open(args: &cli::Append) -> anyhow::Result<Source> {
        let from_stdin = args.file == Path::new("-");
        let shown = if from_stdin {
            "standard input".to_owned()
        } else {
            args.file.display().to_string()
        };
        let input = if from_stdin {
            Input::Stdin
        } else {
            let about =
                std::fs::metadata(&args.file).with_context(|| format!("cannot read {shown}"))?;
            if about.is_dir() {
                bail!("{shown} is a folder; append its files one by one");
            }
            if about.is_file() {
                Input::File(args.file.clone())
            } else {
                Input::Pipe(args.file.clone())
            }
        };
        let format = match args.format {
            Some(format) => known(format),
            None if from_stdin => Format::Ndjson,
            None => {
                Format::from_path(&args.file).context("say what the file holds with --format")?
            }
        };
        // A named load is known by its content, which is not known before its end; Parquet's index stands there too.
        let whole = args.producer.is_some() || format == Format::Parquet;
        let input = match input {
            Input::Stdin if whole => Input::Spooled(spool(io::stdin())?),
            Input::Pipe(path) if whole => Input::Spooled(spool(
                File::open(&path).with_context(|| format!("cannot read {shown}"))?,
            )?),
            other => other,
        };
        Ok(Source {
            shown,
            format,
            input,
        })
    }

    fn again(&self) -> Option<&Path> {
        match &self.input {
            Input::File(path) => Some(path),
            Input::Spooled(file) => Some(file.path()),
            Input::Stdin | Input::Pipe(_) => None,
        }
    }

    fn chunks(&self, chunk_bytes: usize) -> anyhow::Result<Chunks> {
        let chunks = match &self.input {
            Input::File(path) => Chunks::open(path, self.format, chunk_bytes),
            Input::Spooled(file) => Chunks::open(file.path(), self.format, chunk_bytes),
            Input::Stdin => Chunks::read(io::stdin(), self.format, chunk_bytes),
            Input::Pipe(path) => {
                let file =
                    File::open(path).with_context(|| format!("cannot read {}", self.shown))?;
                Chunks::read(file, self.format, chunk_bytes)
            }
        };
        chunks.with_context(|| self.shown.clone())
    }

    /// An error of a piece, with the line within the file: the server knows the line within the piece.
    fn located(&self, error: anyhow::Error, chunk: &Chunk) -> anyhow::Error {
        match error.downcast::<Failure>() {
            Ok(mut failure) => {
                let message = in_file(&failure.message, |line| chunk.file_line(line));
                failure.message = format!("{}: {message}", self.shown);
                failure.hint = failure
                    .hint
                    .map(|hint| hint.replace("?on_error=skip", "--on-error skip"));
                // What it says of the request is not true of the file.
                failure.detail = None;
                anyhow::Error::new(failure)
            }
            Err(error) => error.context(self.shown.clone()),
        }
    }
}

fn spool(mut from: impl Read) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().context("cannot keep the input for a while")?;
    io::copy(&mut from, &mut file).context("cannot keep the input for a while")?;
    Ok(file)
}

/// One way to the server.
struct Sending<'a> {
    client: &'a Client,
    args: &'a cli::Append,
    source: &'a Source,
    producer: String,
    progress: ProgressBar,
}

pub fn run(global: &Global, args: &cli::Append) -> anyhow::Result<()> {
    let client = global.client()?;
    let source = Source::open(args)?;
    let name = args
        .producer
        .clone()
        .unwrap_or_else(|| format!("append-{}", uuid::Uuid::new_v4()));
    let producer = match source.again() {
        Some(path) => format!("{name}:{}", content(path, source.format, args.chunk_bytes)?),
        None => name.clone(),
    };
    let bytes_total = source
        .again()
        .and_then(|path| path.metadata().ok())
        .map(|about| about.len());
    let sending = Sending {
        client: &client,
        args,
        source: &source,
        producer,
        progress: progress(bytes_total),
    };
    if args.on_error == cli::OnError::Refuse && source.again().is_some() {
        sending.check()?;
    }
    let start = Instant::now();
    let mut total = Total::default();
    match sending.append(&mut total) {
        Ok(()) => sending.progress.finish_and_clear(),
        Err(stopped) => {
            sending.progress.abandon();
            return Err(stopped.told(&total, args, &source, &name));
        }
    }
    report(global, args, &total, start.elapsed())
}

/// Why a load ended early.
struct Stopped {
    error: anyhow::Error,
    /// The line of the source that was to be appended next, if that is known.
    line: Option<u64>,
}

impl Stopped {
    /// Says what is kept already, and how to go on without appending it twice.
    fn told(self, total: &Total, args: &cli::Append, source: &Source, name: &str) -> anyhow::Error {
        let kept = total.records + total.records_known + total.records_repeated + total.bad;
        if kept == 0 {
            return self.error;
        }
        let kept = counted(kept, "record");
        let advice = match (source.again(), self.line) {
            (Some(_), _) => {
                let file = args.file.display();
                let stdin = matches!(source.input, Input::Spooled(_));
                let what = if stdin {
                    "the same input"
                } else {
                    "the file as it is"
                };
                format!(
                    "{kept} of it are appended; append the rest, and only the rest, with {what}: lambic append {} {file} --producer {name} --chunk-bytes {}",
                    args.stream, args.chunk_bytes
                )
            }
            (None, Some(line)) => format!(
                "{kept} before line {line} are appended; go on with line {line}{}",
                if source.format == Format::Csv {
                    " below the header"
                } else {
                    ""
                }
            ),
            (None, None) => format!("{kept} of it are appended"),
        };
        match self.error.downcast::<Failure>() {
            Ok(mut failure) => {
                failure.detail = Some(advice);
                anyhow::Error::new(failure)
            }
            Err(error) => anyhow::anyhow!("{error:#}\n  {advice}"),
        }
    }
}

impl Sending<'_> {
    /// Lets the server read the whole file without keeping anything. A file of one piece needs no check: a piece
    /// is kept whole or not at all.
    fn check(&self) -> anyhow::Result<()> {
        let mut chunks = self.source.chunks(self.args.chunk_bytes as usize)?;
        let first = chunks.next();
        let second = chunks.next();
        if second.is_none() {
            return Ok(());
        }
        self.progress.set_message("checking");
        for chunk in first.into_iter().chain(second).chain(chunks) {
            let checked = chunk
                .map_err(|error| anyhow::Error::new(error).context(self.source.shown.clone()))
                .and_then(|chunk| {
                    self.send(None, &chunk)
                        .map_err(|error| self.source.located(error, &chunk))?;
                    self.progress.set_position(chunk.bytes_read);
                    Ok(())
                });
            if let Err(error) = checked {
                self.progress.abandon();
                return Err(match error.downcast::<Failure>() {
                    Ok(mut failure) => {
                        failure.detail = Some("nothing was appended".to_owned());
                        anyhow::Error::new(failure)
                    }
                    Err(error) => error,
                });
            }
        }
        Ok(())
    }

    fn append(&self, total: &mut Total) -> Result<(), Stopped> {
        let stopped = |error, line| Stopped { error, line };
        let chunks = self
            .source
            .chunks(self.args.chunk_bytes as usize)
            .map_err(|error| stopped(error, None))?;
        let mut sequence = 0;
        for chunk in chunks {
            let chunk = chunk.map_err(|error| {
                stopped(
                    anyhow::Error::new(error).context(self.source.shown.clone()),
                    None,
                )
            })?;
            sequence += 1;
            match self.send(Some(sequence), &chunk) {
                Ok(answer) => total.add(&answer),
                Err(error) => {
                    return Err(stopped(
                        self.source.located(error, &chunk),
                        Some(chunk.first_line),
                    ));
                }
            }
            self.progress.set_position(chunk.bytes_read);
            self.progress.set_message(counted(total.records, "record"));
        }
        Ok(())
    }

    /// Sends one piece until it is answered; only answers that a repetition could change are repeated. Without a
    /// sequence the piece is only checked.
    fn send(&self, sequence: Option<u64>, chunk: &Chunk) -> anyhow::Result<Value> {
        let on_error = match self.args.on_error {
            cli::OnError::Refuse => "refuse",
            cli::OnError::Skip => "skip",
        };
        let path = format!(
            "/v1/streams/{}/records?on_error={on_error}&first_line={}&header_lines={}{}",
            segment(&self.args.stream),
            chunk.first_line.max(1),
            chunk.header_lines,
            if sequence.is_none() {
                "&check=true"
            } else {
                ""
            }
        );
        let number = sequence.unwrap_or_default().to_string();
        let mut headers = vec![("content-type", chunk.format.content_type())];
        if sequence.is_some() {
            headers.push(("lambic-producer", self.producer.as_str()));
            headers.push(("lambic-sequence", number.as_str()));
        }
        let seed = sequence.unwrap_or_default();
        let mut waits = Backoff::new(Duration::from_millis(50), Duration::from_secs(2), seed);
        let give_up = Instant::now() + PATIENCE;
        loop {
            let error = match self
                .client
                .post(&path, &headers, &chunk.body)
                .and_then(read_json)
            {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Without an answer it is not known whether the piece was kept; the sequence makes that harmless.
            // A server that never answered is not waited for: it is not there, or the URL is wrong.
            let repeat = match error.downcast_ref::<Failure>() {
                Some(failure) => failure.retry,
                None => {
                    sequence.is_some_and(|sequence| sequence > 1)
                        || !error.to_string().starts_with("no server answers")
                }
            };
            if !repeat || Instant::now() >= give_up {
                return Err(error);
            }
            thread::sleep(waits.next().unwrap_or(PATIENCE));
        }
    }
}

/// What a load is known by beside its name: another file, or other pieces of it, is another load. FNV-1a in 128
/// bits: it guards against mistakes, not against malice.
fn content(path: &Path, format: Format, chunk_bytes: u32) -> anyhow::Result<String> {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    };
    take(format!("{} {chunk_bytes} ", format.content_type()).as_bytes());
    let failed = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => break,
            bytes => take(&buffer[..bytes]),
        }
    }
    Ok(format!("{hash:032x}"))
}

fn known(format: cli::Format) -> Format {
    match format {
        cli::Format::Ndjson => Format::Ndjson,
        cli::Format::Json => Format::Json,
        cli::Format::Csv => Format::Csv,
        cli::Format::Parquet => Format::Parquet,
        cli::Format::Arrow => Format::Arrow,
    }
}

impl Total {
    fn add(&mut self, answer: &Value) {
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        let known = number("records_known");
        if answer["duplicate"].as_bool() == Some(true) {
            self.records_repeated += number("records");
        } else {
            self.records += number("records").saturating_sub(known);
            self.records_known += known;
            self.bad += number("bad");
        }
        self.frontier = answer["frontier"].clone();
    }
}

/// `line 3, column …` with the number translated; any other text as it is.
fn in_file(message: &str, line: impl Fn(u64) -> u64) -> String {
    for word in ["line ", "row "] {
        if let Some(rest) = message.strip_prefix(word) {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if let Ok(number) = rest[..digits].parse() {
                return format!("{word}{}{}", line(number), &rest[digits..]);
            }
        }
    }
    message.to_owned()
}

/// On a terminal only.
fn progress(bytes_total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes_total {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(
    global: &Global,
    args: &cli::Append,
    total: &Total,
    took: Duration,
) -> anyhow::Result<()> {
    if global.json {
        output::print_json(&json!({
            "stream": args.stream,
            "records": total.records,
            "records_known": total.records_known,
            "records_repeated": total.records_repeated,
            "bad": total.bad,
            "frontier": total.frontier,
            "seconds": took.as_secs_f64(),
        }))?;
    } else {
        let mut text = format!(
            "{} appended to {} in {:.1} s",
            counted(total.records, "record"),
            args.stream,
            took.as_secs_f64()
        );
        if total.records_known + total.records_repeated > 0 {
            text += &format!(
                ", {} had been appended before",
                total.records_known + total.records_repeated
            );
        }
        eprintln!("{text}");
        if total.bad > 0 {
            eprintln!(
                "skipped {}: SELECT * FROM lambic_dead_letters",
                counted(total.bad, "bad record")
            );
        }
    }
    if total.records + total.records_known + total.records_repeated + total.bad == 0 {
        bail!("there was nothing to append in {}", args.file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lead_into_the_file() {
        let file = |line| line + 100;
        assert_eq!(
            in_file("line 3, column `a`: expected x", file),
            "line 103, column `a`: expected x"
        );
        assert_eq!(in_file("row 12: y", file), "row 112: y");
        assert_eq!(in_file("linear", file), "linear");
    }

    #[test]
    fn another_content_is_another_load() {
        let known = |bytes: &[u8], chunk_bytes| {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), bytes).expect("it is ours");
            content(file.path(), Format::Csv, chunk_bytes).expect("it is readable")
        };
        let one = known(b"a\n1\n", 10);
        assert_eq!(one, known(b"a\n1\n", 10));
        assert_ne!(one, known(b"a\n2\n", 10));
        assert_ne!(one, known(b"a\n1\n", 11));
    }
}
