//! `lambic query`: SQL in, a table, JSON or CSV out.

use std::{
    fs,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::Global;
use crate::{
    cli,
    client::{Client, Failure},
    output,
    project::statement::{self, Statement},
};

pub fn run(global: &Global, args: &cli::Query) -> anyhow::Result<()> {
    if args.csv && global.json {
        bail!("--csv and --json exclude each other");
    }
    let (file, text) = match (&args.sql, &args.file) {
        (Some(sql), _) if sql != "-" => (PathBuf::from("query"), sql.clone()),
        (None, Some(file)) if file != Path::new("-") => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            (file.clone(), text)
        }
        _ => {
            if io::stdin().is_terminal() {
                eprintln!("reading SQL from the terminal; end it with Ctrl-D");
            }
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .context("standard input is not UTF-8 text")?;
            (PathBuf::from("stdin"), text)
        }
    };
    run_text(global, &file, &text, args.csv)
}

/// Runs all statements of a text, each by itself unless it stands in a transaction; a mistake shows its place in it.
pub fn run_text(global: &Global, file: &Path, text: &str, csv: bool) -> anyhow::Result<()> {
    let statements = statement::split(file, text);
    if statements.is_empty() {
        bail!("there is no statement in {}", file.display());
    }
    let requests = statement::requests(statements).map_err(|begin| not_ended(&begin))?;
    let client = global.client()?;
    for statement in &requests {
        one(&client, statement, global.json, csv).map_err(|error| placed(error, statement))?;
        let unseen = statement.rows_within();
        if unseen > 0 {
            eprintln!(
                "the rows of {} within the transaction are not shown: its answer is that of its end",
                output::counted(unseen as u64, "statement")
            );
        }
    }
    Ok(())
}

fn not_ended(begin: &Statement) -> Failure {
    Failure {
        message: "the transaction that begins here has no end, and nothing was run".to_owned(),
        hint: Some(
            "COMMIT or ROLLBACK it in the same text: no transaction goes on from one `lambic query` to the next"
                .to_owned(),
        ),
        place: Some(begin.place(None)),
        ..Failure::default()
    }
}

pub fn one(client: &Client, statement: &Statement, json: bool, csv: bool) -> anyhow::Result<()> {
    if !json && !csv {
        let answer = client.sql(&statement.sql)?;
        match (answer.rows, answer.tag) {
            (Some(rows), _) => {
                output::print(&rows.table())?;
                eprintln!("{}", output::counted(rows.rows.len() as u64, "row"));
            }
            (None, Some(tag)) => eprintln!("{tag}"),
            (None, None) => {}
        }
        return Ok(());
    }
    // Passed on as it comes, so that an answer of any size takes little memory.
    let accept = if csv {
        "text/csv"
    } else {
        "application/x-ndjson"
    };
    let mut answer = client.sql_as(&statement.sql, accept)?;
    let kind = answer
        .headers()
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    if kind.starts_with("application/json") {
        // A statement without rows.
        let said = crate::client::read_json(answer)?;
        if let Some(tag) = said.get("tag").and_then(|tag| tag.as_str()) {
            eprintln!("{tag}");
        }
        if let Some(notice) = said.get("notice").and_then(|notice| notice.as_str()) {
            eprintln!("{notice}");
        }
        return Ok(());
    }
    let mut from = BufReader::new(answer.body_mut().as_reader());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let copied = if csv {
        io::copy(&mut from, &mut out).map(|_| ())
    } else {
        array(&mut from, &mut out)
    };
    match copied.and_then(|()| out.flush()) {
        // The reader went away (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("the answer broke off"),
    }
}

/// Lines of JSON as one array.
fn array(from: &mut impl BufRead, out: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    let mut separator: &[u8] = b"[";
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.is_empty() {
            continue;
        }
        out.write_all(separator)?;
        out.write_all(&line)?;
        separator = b",\n";
    }
    if separator == b"[" {
        out.write_all(b"[")?;
    }
    out.write_all(b"]\n")
}

/// Shows where in the text the statement failed.
pub fn placed(error: anyhow::Error, statement: &Statement) -> anyhow::Error {
    match error.downcast::<Failure>() {
        // The server has not read the statement.
        Ok(failure) if failure.is_of_key() => anyhow::Error::new(failure),
        Ok(mut failure) => {
            failure.place = Some(statement.place(failure.position));
            anyhow::Error::new(failure)
        }
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mistakes_of_a_statement_point_into_it() {
        let statements = statement::split(Path::new("query"), "select 1");
        let check = |failure: Failure, is_placed: bool| {
            let error = placed(anyhow::Error::new(failure), &statements[0]);
            let told = error.to_string();
            assert_eq!(told.starts_with("query:1:1: "), is_placed, "{told}");
        };
        let refused = |status, sqlstate: Option<&str>| Failure {
            message: "no".to_owned(),
            sqlstate: sqlstate.map(str::to_owned),
            status,
            ..Failure::default()
        };
        check(refused(401, None), false);
        check(refused(403, None), false);
        check(refused(403, Some("42501")), true);
        check(refused(400, Some("42P01")), true);
    }

    #[test]
    fn lines_become_an_array() {
        let check = |lines: &str, expected: &str| {
            let mut out = Vec::new();
            array(&mut lines.as_bytes(), &mut out).expect("memory takes it");
            assert_eq!(String::from_utf8(out).expect("it is text"), expected);
        };
        check("", "[]\n");
        check("{\"a\":1}\n{\"a\":2}\n", "[{\"a\":1},\n{\"a\":2}]\n");
    }
}
