//! `lambic append`: a file or standard input into a stream, piece by piece.
//!
//! Every piece has a sequence under one producer id, so that a repetition after a cut connection has no
//! second effect.

use std::{
    io::{self, IsTerminal},
    path::Path,
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
    output,
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

pub fn run(global: &Global, args: &cli::Append) -> anyhow::Result<()> {
    let client = global.client()?;
    let from_stdin = args.file == Path::new("-");
    let format = match args.format {
        Some(format) => known(format),
        None if from_stdin => Format::Ndjson,
        None => Format::from_path(&args.file).context("say what the file holds with --format")?,
    };
    let chunk_bytes = args.chunk_bytes as usize;
    let chunks = if from_stdin {
        Chunks::read(io::stdin(), format, chunk_bytes)?
    } else {
        Chunks::open(&args.file, format, chunk_bytes)?
    };
    let shown = if from_stdin {
        "standard input".to_owned()
    } else {
        args.file.display().to_string()
    };
    let producer = args
        .producer
        .clone()
        .unwrap_or_else(|| format!("append-{}", uuid::Uuid::new_v4()));
    let progress = progress(chunks.bytes_total());
    let start = Instant::now();
    let mut total = Total::default();
    let mut sequence = 0;
    for chunk in chunks {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                progress.abandon();
                return Err(kept(anyhow::Error::new(error).context(shown), &total));
            }
        };
        sequence += 1;
        match send(&client, args, &producer, sequence, &chunk) {
            Ok(answer) => total.add(&answer),
            Err(error) => {
                progress.abandon();
                return Err(kept(located(error, &shown, &chunk), &total));
            }
        }
        progress.set_position(chunk.bytes_read);
        progress.set_message(format!("{} records", total.records));
    }
    progress.finish_and_clear();
    report(global, args, &total, start.elapsed())
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

/// Sends one piece until it is answered; only answers that a repetition could change are repeated.
fn send(
    client: &Client,
    args: &cli::Append,
    producer: &str,
    sequence: u64,
    chunk: &Chunk,
) -> anyhow::Result<Value> {
    let on_error = match args.on_error {
        cli::OnError::Refuse => "refuse",
        cli::OnError::Skip => "skip",
    };
    let path = format!(
        "/v1/streams/{}/records?on_error={on_error}",
        segment(&args.stream)
    );
    let number = sequence.to_string();
    let headers = [
        ("content-type", chunk.format.content_type()),
        ("lambic-producer", producer),
        ("lambic-sequence", number.as_str()),
    ];
    let mut waits = Backoff::new(Duration::from_millis(50), Duration::from_secs(2), sequence);
    let give_up = Instant::now() + PATIENCE;
    loop {
        let error = match client
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
            None => sequence > 1 || !error.to_string().starts_with("no server answers"),
        };
        if !repeat || Instant::now() >= give_up {
            return Err(error);
        }
        thread::sleep(waits.next().unwrap_or(PATIENCE));
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

/// Pieces before the failed one stay: say so.
fn kept(error: anyhow::Error, total: &Total) -> anyhow::Error {
    if total.records == 0 {
        return error;
    }
    error.context(format!(
        "stopped after {} records, which are kept",
        total.records
    ))
}

/// The server knows the line within the piece; the user wants the line within the file.
fn located(error: anyhow::Error, shown: &str, chunk: &Chunk) -> anyhow::Error {
    let Some(failure) = error.downcast_ref::<Failure>() else {
        return error;
    };
    let message = in_file(&failure.message, |line| chunk.file_line(line));
    match &failure.hint {
        Some(hint) => anyhow::anyhow!("{shown}: {message}\n  {hint}"),
        None => anyhow::anyhow!("{shown}: {message}"),
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
            "{} records appended to {} in {:.1} s",
            total.records,
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
                "{} bad records were skipped: SELECT * FROM lambic_dead_letters",
                total.bad
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
}
