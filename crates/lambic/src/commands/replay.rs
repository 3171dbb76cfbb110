//! `lambic replay`: runs a stretch of history through a version of a view, or through a `SELECT` that is not deployed.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Global,
    follow::shown,
    query::{one, placed},
};
use crate::{
    cli::{self, Speed},
    client::{Client, Failure, identifier, literal},
    output,
    project::statement::{self, Statement},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub fn run(global: &Global, args: &cli::Replay) -> anyhow::Result<()> {
    if args.csv && global.json {
        bail!("--csv and --json exclude each other");
    }
    let client = global.client()?;
    let label = label();
    let question = Question::new(args, &label)?;
    let is_table = args.step.is_none() && !global.json && !args.csv;
    // Lines that go to the same terminal tell how far it is themselves.
    let has_progress = is_table || !io::stdout().is_terminal() || !io::stderr().is_terminal();
    let done = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        if has_progress {
            scope.spawn(|| show_progress(&client, &label, &done));
        }
        let answered = match is_table {
            true => client.rows(&question.sql).map(Some),
            false => stream(&client, &question, args, global.json).map(|()| None),
        };
        done.store(true, Ordering::Relaxed);
        answered
    });
    match answered.map_err(|error| question.placed(error))? {
        Some(rows) => {
            output::print(&rows.table())?;
            eprintln!("{}", output::counted(rows.rows.len() as u64, "row"));
            Ok(())
        }
        None => Ok(()),
    }
}

/// What nobody else calls a replay.
fn label() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("cli-{}-{}", std::process::id(), now.as_nanos())
}

/// The statement, and the part of it that is the user's own.
struct Question {
    sql: String,
    select: Option<(Statement, usize)>,
}

impl Question {
    fn new(args: &cli::Replay, label: &str) -> anyhow::Result<Question> {
        let mut sql = format!("REPLAY MATERIALIZED VIEW {}", identifier(&args.view));
        if let Some(version) = args.version {
            sql.push_str(&format!(" VERSION {version}"));
        }
        for (word, moment) in [("FROM", &args.from), ("TO", &args.to)] {
            if let Some(moment) = moment {
                sql.push_str(&format!(" {word} {}", told(moment)));
            }
        }
        let mut options = vec![format!("label = {}", literal(label))];
        options.extend(
            args.step
                .iter()
                .map(|step| format!("step = {}", literal(step))),
        );
        if args.rows {
            options.push("show = 'rows'".to_owned());
        }
        if args.diff {
            options.push("diff".to_owned());
        }
        sql.push_str(&format!(" WITH ({})", options.join(", ")));
        let Some(file) = &args.sql else {
            return Ok(Question { sql, select: None });
        };
        let select = only_statement(file)?;
        sql.push_str(" AS\n");
        let before = sql.chars().count();
        sql.push_str(&select.sql);
        Ok(Question {
            sql,
            select: Some((select, before)),
        })
    }

    /// Shows where in the user's file the mistake is.
    fn placed(&self, error: anyhow::Error) -> anyhow::Error {
        let Some((select, before)) = &self.select else {
            return error;
        };
        placed_within(error, *before, select)
    }
}

/// A frontier or an offset, or else a time.
fn told(moment: &str) -> String {
    let is_offset = moment.contains('@') || moment.chars().all(|c| c.is_ascii_digit());
    let unit = if is_offset { "OFFSET" } else { "TIMESTAMP" };
    format!("{unit} {}", literal(moment))
}

/// The statement that a file holds, or standard input.
pub fn only_statement(file: &Path) -> anyhow::Result<Statement> {
    let text = match file.to_str() {
        Some("-") => io::read_to_string(io::stdin()).context("standard input is not UTF-8 text")?,
        _ => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
    };
    let mut statements = statement::split(file, &text);
    let only = statements.pop().filter(|_| statements.is_empty());
    only.with_context(|| {
        format!(
            "{} does not hold one statement, a SELECT or CREATE MATERIALIZED VIEW",
            file.display()
        )
    })
}

/// A mistake in a statement that ends with `select`, which begins after so many characters.
pub fn placed_within(error: anyhow::Error, before: usize, select: &Statement) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => {
            let Some(position) = failure.position.and_then(|at| at.checked_sub(before)) else {
                return anyhow::Error::new(failure);
            };
            let failure = Failure {
                position: Some(position),
                ..failure
            };
            placed(anyhow::Error::new(failure), select)
        }
        Err(error) => error,
    }
}

/// Prints what comes as it comes.
fn stream(
    client: &Client,
    question: &Question,
    args: &cli::Replay,
    json: bool,
) -> anyhow::Result<()> {
    let statement = Statement {
        file: "replay".into(),
        source: question.sql.clone(),
        start: 0,
        sql: question.sql.clone(),
    };
    let times = match args.speed {
        Speed::Max if json || args.csv => return one(client, &statement, json, args.csv),
        Speed::Max => None,
        Speed::Times(times) => Some(times),
    };
    let kind = if args.csv {
        "text/csv"
    } else {
        "application/x-ndjson"
    };
    let mut answer = client.sql_as(&question.sql, kind)?;
    let from = BufReader::new(answer.body_mut().as_reader());
    let mut out = io::stdout().lock();
    let mut pace = Pace { times, last: None };
    let printed = if args.csv {
        print_csv(from, &mut out, &mut pace)
    } else if json {
        print_json(from, &mut out, &mut pace)
    } else {
        print_steps(from, &mut out, &mut pace)
    };
    match printed {
        // The reader went away (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("the answer broke off"),
    }
}

/// Waits so that steps come as far apart as they were, or so many times closer.
struct Pace {
    times: Option<f64>,
    last: Option<SystemTime>,
}

impl Pace {
    /// To be called with when the step's newest record was appended, once for each step.
    fn wait(&mut self, at: &str) {
        let (Some(times), Ok(at)) = (self.times, humantime::parse_rfc3339_weak(at)) else {
            return;
        };
        let apart = self
            .last
            .replace(at)
            .and_then(|last| at.duration_since(last).ok());
        if let Some(apart) = apart {
            thread::sleep(apart.div_f64(times));
        }
    }
}

/// `# step 1: 3 records to e@0:3, 2026-01-01T10:00:00`, then what came and went.
fn print_steps(from: impl BufRead, out: &mut impl Write, pace: &mut Pace) -> io::Result<()> {
    let mut step = String::new();
    for line in from.lines() {
        let Line(cells) = read(&line?)?;
        let cell = |name: &str| {
            let cell = cells.iter().find(|(known, _)| known == name);
            cell.map(|(_, value)| shown(value)).unwrap_or_default()
        };
        let number = cell("lambic_step");
        if step != number {
            let at = cell("lambic_at");
            pace.wait(&at);
            if step.is_empty() {
                let names = own(&cells).map(|(name, _)| name.as_str());
                writeln!(out, "# {}", names.collect::<Vec<_>>().join("  "))?;
            }
            let records = output::counted(cell("lambic_records").parse().unwrap_or(0), "record");
            writeln!(
                out,
                "# step {number}: {records} to {}, {at}",
                cell("lambic_frontier")
            )?;
            step = number;
        }
        let sign = match cell("lambic_diff").as_str() {
            "-1" => '-',
            _ => '+',
        };
        let values = own(&cells).map(|(_, value)| shown(value));
        writeln!(out, "{sign} {}", values.collect::<Vec<_>>().join("  "))?;
        out.flush()?;
    }
    Ok(())
}

/// The cells of the view itself.
fn own(cells: &[(String, Box<RawValue>)]) -> impl Iterator<Item = &(String, Box<RawValue>)> {
    let told = [
        "lambic_step",
        "lambic_at",
        "lambic_records",
        "lambic_frontier",
        "lambic_diff",
    ];
    cells
        .iter()
        .filter(move |(name, _)| !told.contains(&name.as_str()))
}

/// An array of objects, one a line.
fn print_json(from: impl BufRead, out: &mut impl Write, pace: &mut Pace) -> io::Result<()> {
    let mut step = String::new();
    let mut separator = "[";
    for line in from.lines() {
        let line = line?;
        let Line(cells) = read(&line)?;
        let number = cells.first().map(|(_, value)| value.get().to_owned());
        let number = number.unwrap_or_default();
        if step != number {
            let at = cells.iter().find(|(name, _)| name == "lambic_at");
            pace.wait(&at.map(|(_, value)| shown(value)).unwrap_or_default());
            step = number;
        }
        write!(out, "{separator}{line}")?;
        out.flush()?;
        separator = ",\n";
    }
    let end = if separator == "[" { "[]\n" } else { "]\n" };
    out.write_all(end.as_bytes())
}

/// The lines as they are; the first two columns are the step and its time.
fn print_csv(mut from: impl BufRead, out: &mut impl Write, pace: &mut Pace) -> io::Result<()> {
    let mut step = String::new();
    let (mut line, mut is_header, mut is_open) = (Vec::new(), true, false);
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if !is_header && !is_open {
            let text = String::from_utf8_lossy(&line);
            let mut cells = text.trim_end().splitn(3, ',');
            let (number, at) = (cells.next(), cells.next());
            if let (Some(number), Some(at)) = (number, at)
                && number != step
            {
                pace.wait(at);
                number.clone_into(&mut step);
            }
        }
        // A text in quotes may have several lines.
        is_open ^= line.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
        is_header = is_header && is_open;
        out.write_all(&line)?;
        out.flush()?;
    }
}

fn read(line: &str) -> io::Result<Line> {
    serde_json::from_str(line).map_err(io::Error::other)
}

/// A row as an object, in the order of its columns.
struct Line(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Line, D::Error> {
        struct Cells;

        impl<'de> Visitor<'de> for Cells {
            type Value = Line;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row as an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut cells = Vec::new();
                while let Some(cell) = map.next_entry()? {
                    cells.push(cell);
                }
                Ok(Line(cells))
            }
        }
        from.deserialize_map(Cells)
    }
}

/// A bar on a terminal, a line now and then elsewhere, until it is done.
fn show_progress(client: &Client, label: &str, done: &AtomicBool) {
    let sql = format!(
        "SELECT steps, steps_total, records, records_total FROM lambic_replays WHERE label = {}",
        literal(label)
    );
    let bar = io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(0);
        let template = "replay {bar:30} {human_pos}/{human_len} {msg} {eta}";
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    });
    let mut said = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(LOOK_EVERY);
        let Ok(rows) = client.rows(&sql) else {
            continue;
        };
        let Some(row) = rows.objects().pop() else {
            continue;
        };
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
        let (at, total, what) = match number("steps_total") {
            0 | 1 => (number("records"), number("records_total"), "records"),
            steps => (number("steps"), steps, "steps"),
        };
        if let Some(bar) = &bar {
            bar.set_message(what);
            bar.set_length(total);
            bar.set_position(at.min(total));
        } else if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            eprintln!("replay: {at} of {total} {what}");
        }
    }
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"lambic_step":1,"lambic_at":"2026-01-01T10:00:00","lambic_records":1,"lambic_frontier":"e@0:1","lambic_diff":1,"k":"a","n":1.50}
{"lambic_step":2,"lambic_at":"2026-01-01T10:00:01","lambic_records":2,"lambic_frontier":"e@0:3","lambic_diff":-1,"k":"a","n":1.50}
{"lambic_step":2,"lambic_at":"2026-01-01T10:00:01","lambic_records":2,"lambic_frontier":"e@0:3","lambic_diff":1,"k":null,"n":2}
"#;

    fn printed(
        print: impl FnOnce(&[u8], &mut Vec<u8>, &mut Pace) -> io::Result<()>,
        lines: &str,
    ) -> (String, Option<SystemTime>) {
        let mut out = Vec::new();
        let mut pace = Pace {
            times: Some(1e6),
            last: None,
        };
        print(lines.as_bytes(), &mut out, &mut pace).expect("memory takes it");
        (String::from_utf8(out).expect("text"), pace.last)
    }

    #[test]
    fn steps_are_shown_as_they_come() {
        let (text, last) = printed(|from, out, pace| print_steps(from, out, pace), LINES);
        expect_test::expect![[r#"
            # k  n
            # step 1: 1 record to e@0:1, 2026-01-01T10:00:00
            + a  1.50
            # step 2: 2 records to e@0:3, 2026-01-01T10:00:01
            - a  1.50
            + NULL  2
        "#]]
        .assert_eq(&text);
        let expected = humantime::parse_rfc3339_weak("2026-01-01T10:00:01").ok();
        assert_eq!(last, expected);
        let (text, paced) = printed(|from, out, pace| print_json(from, out, pace), LINES);
        let rows: Vec<Value> = serde_json::from_str(&text).expect("an array");
        assert_eq!((rows.len(), paced), (3, expected));
        let csv = "lambic_step,lambic_at,\"a\nb\"\n1,2026-01-01T10:00:00,\"x\n7,2030-01-01T10:00:00,y\"\n2,2026-01-01T10:00:01,z\n";
        let (text, paced) = printed(|from, out, pace| print_csv(from, out, pace), csv);
        assert_eq!((text.as_str(), paced), (csv, expected));
    }

    #[test]
    fn moments_are_told_apart() {
        assert_eq!(told("e@0:5"), "OFFSET 'e@0:5'");
        assert_eq!(told("1200"), "OFFSET '1200'");
        assert_eq!(told("2026-01-01"), "TIMESTAMP '2026-01-01'");
    }
}
