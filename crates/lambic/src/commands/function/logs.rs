//! `lambic function logs`: lines of the stream `lambic_logs`, and those that come.
//!
//! A function may write anything. Its control characters do not reach a terminal, where they could change what was shown
//! before or send keys; a file or a program gets the lines as they were written.

use std::{
    io::{self, IsTerminal},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{super::Global, api::Api, invoke::name_in};
use crate::{
    cli,
    client::{Client, Failure, literal},
    output::{self, Rows},
};

const LINES: u32 = 50;
/// Where the lines that are wanted are named.
const LINES_MAX: u32 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(300);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Before the first offset.
const NOTHING: i64 = -1;
/// What is read at one look.
const PAGE: u32 = 1_000;

pub fn run(global: &Global, args: &cli::FunctionLogs) -> anyhow::Result<()> {
    let api = Api::new(global)?;
    // Before the lines are read: those that come meanwhile are followed.
    let head = match args.follow {
        true => Some(head(&api.client)?),
        false => None,
    };
    let mut rows = api.client.rows(&newest(args, head))?;
    rows.rows.reverse();
    if rows.rows.is_empty() {
        // A deleted function's lines are still there; a name that never was one is a mistake.
        api.configuration(&args.name, None)?;
        // Without any line nobody knows whether there are some.
        if !global.json && !args.follow && args.lines != Some(0) {
            let name = name_in(&args.name);
            match args.request.is_some() || args.since.is_some() {
                true => eprintln!("function {name} has written nothing of that"),
                false => eprintln!("function {name} has written nothing yet"),
            }
        }
    }
    if !args.follow {
        return match global.json {
            true => output::print_rows(&without_offset(rows), true),
            false => output::print(&output::foreign(&text(&rows), is_shown())),
        };
    }
    show(rows, global.json)?;
    follow(&api.client, args, head.unwrap_or(NOTHING), global.json)
}

fn follow(client: &Client, args: &cli::FunctionLogs, head: i64, json: bool) -> anyhow::Result<()> {
    let mut head = head;
    let mut pause = LOOK_EVERY;
    loop {
        match client.rows(&later(args, head)) {
            Ok(rows) => {
                pause = LOOK_EVERY;
                let offsets = rows
                    .rows
                    .iter()
                    .filter_map(|row| rows.get(row, "_offset").as_i64());
                head = offsets.max().unwrap_or(head);
                let is_full = rows.rows.len() as u32 == PAGE;
                show(rows, json)?;
                if is_full {
                    continue;
                }
            }
            // The server may be starting again; what it refuses it would refuse again.
            Err(error) => match error.downcast_ref::<Failure>() {
                Some(failure) if !failure.retry => return Err(error),
                _ => {
                    eprintln!("{error}; trying again");
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            },
        }
        thread::sleep(pause);
    }
}

/// The newest line's offset.
fn head(client: &Client) -> anyhow::Result<i64> {
    let rows = client.rows("SELECT max(_offset) AS head FROM lambic_logs")?;
    let row = rows.rows.first();
    let head = row.and_then(|row| rows.get(row, "head").as_i64());
    Ok(head.unwrap_or(NOTHING))
}

/// The newest lines, those behind `head` left out, the newest first.
fn newest(args: &cli::FunctionLogs, head: Option<i64>) -> String {
    let mut sql = wanted(args);
    if let Some(since) = args.since {
        sql += &format!(" AND at >= now() - interval '{} seconds'", since.as_secs());
    }
    if let Some(head) = head {
        sql += &format!(" AND _offset <= {head}");
    }
    let usual = match args.since.is_some() || args.request.is_some() {
        true => LINES_MAX,
        false => LINES,
    };
    let lines = args.lines.unwrap_or(usual);
    format!("{sql} ORDER BY _offset DESC LIMIT {lines}")
}

/// The lines behind `head`, the oldest first.
fn later(args: &cli::FunctionLogs, head: i64) -> String {
    format!(
        "{} AND _offset > {head} ORDER BY _offset LIMIT {PAGE}",
        wanted(args)
    )
}

/// Versions and aliases of a function write into one log.
fn wanted(args: &cli::FunctionLogs) -> String {
    let mut sql = format!(
        "SELECT _offset, at, request_id, line FROM lambic_logs WHERE function = {}",
        literal(name_in(&args.name))
    );
    if let Some(request) = &args.request {
        sql += &format!(" AND request_id = {}", literal(request));
    }
    sql
}

/// As far as it goes: a line for each, or an object for each.
fn show(rows: Rows, json: bool) -> anyhow::Result<()> {
    if !json {
        return output::print(&output::foreign(&text(&rows), is_shown()));
    }
    let lines = without_offset(rows).objects().into_iter();
    let lines: Vec<String> = lines.map(|line| format!("{line}\n")).collect();
    let lines = lines.concat();
    match is_shown() {
        true => output::print(&output::visible_json(&lines)),
        false => output::print(&lines),
    }
}

fn is_shown() -> bool {
    io::stdout().is_terminal()
}

fn text(rows: &Rows) -> String {
    let lines = rows.rows.iter().map(|row| {
        let cell = |column| rows.get(row, column).as_str().unwrap_or_default();
        format!("{}  {}\n", cell("at"), cell("line").trim_end())
    });
    lines.collect()
}

fn without_offset(mut rows: Rows) -> Rows {
    let at = rows.columns.iter().position(|name| name == "_offset");
    let Some(at) = at else { return rows };
    let drop_cell = |row: &mut Vec<Value>| {
        if at < row.len() {
            row.remove(at);
        }
    };
    rows.columns.remove(at);
    if at < rows.types.len() {
        rows.types.remove(at);
    }
    rows.rows.iter_mut().for_each(drop_cell);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> cli::FunctionLogs {
        cli::FunctionLogs {
            name: "it's".to_owned(),
            lines: None,
            follow: false,
            request: None,
            since: None,
        }
    }

    #[test]
    fn what_is_asked_is_said_in_sql() {
        let ends = |sql: String, end: &str| assert!(sql.ends_with(end), "{sql}");
        ends(
            newest(&asked(), None),
            "WHERE function = 'it''s' ORDER BY _offset DESC LIMIT 50",
        );
        // Versions and aliases have no logs of their own.
        let version = cli::FunctionLogs {
            name: "it's:live".to_owned(),
            ..asked()
        };
        assert_eq!(newest(&version, None), newest(&asked(), None));
        let one = cli::FunctionLogs {
            request: Some("r".to_owned()),
            since: Some(Duration::from_secs(300)),
            ..asked()
        };
        ends(
            newest(&one, Some(7)),
            "AND request_id = 'r' AND at >= now() - interval '300 seconds' AND _offset <= 7 ORDER BY _offset DESC LIMIT 10000",
        );
        ends(
            later(&asked(), 7),
            "AND _offset > 7 ORDER BY _offset LIMIT 1000",
        );
    }

    #[test]
    fn lines_are_shown_without_their_offsets() {
        let rows = Rows {
            columns: ["_offset", "at", "request_id", "line"]
                .map(str::to_owned)
                .to_vec(),
            types: Vec::new(),
            rows: vec![vec![1.into(), "10:00".into(), "r".into(), "hello\n".into()]],
        };
        assert_eq!(text(&rows), "10:00  hello\n");
        let shown = without_offset(rows).objects();
        assert_eq!(
            shown,
            [serde_json::json!({ "at": "10:00", "request_id": "r", "line": "hello\n" })]
        );
    }
}
