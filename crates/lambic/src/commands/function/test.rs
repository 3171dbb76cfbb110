//! `lambic function test`: events from files, what a function answers, and what was expected.
//!
//! Whether an answer passes is decided by pure functions; the rest reads files and invokes.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{
    super::Global,
    api::Api,
    create,
    invoke::{self, Answer},
};
use crate::{
    cli,
    output::{self, Rows, counted},
};

const EXPECTED: &str = ".expected.json";
/// How many differences of one answer are told.
const DIFFERENCES_MAX: usize = 10;

pub fn run(global: &Global, args: &cli::FunctionTest) -> anyhow::Result<()> {
    let folder = looks_like_a_folder(&args.target);
    if folder && !Path::new(&args.target).is_dir() {
        bail!("there is no folder {}", args.target);
    }
    let api = Api::new(global)?;
    let is_deployed = !folder && api.find(&args.target, args.qualifier.as_deref())?.is_some();
    if is_deployed {
        let cases = Case::read(&events_of(args, None)?, args.only.as_deref())?;
        return test(global, args, &api, &args.target, &cases);
    }
    if !Path::new(&args.target).is_dir() {
        // Which says that there is none, and what there is.
        api.configuration(&args.target, args.qualifier.as_deref())?;
    }
    if args.qualifier.is_some() {
        bail!("a folder has no versions: --qualifier is for a deployed function");
    }
    let folder = Path::new(&args.target);
    let cases = Case::read(&events_of(args, Some(folder))?, args.only.as_deref())?;
    let (package, guess) = create::read(global, folder, &args.settings)?;
    let name = temporary(folder);
    let made = Temporary {
        api: &api,
        name: &name,
    };
    create::create(&api, &name, &package, &guess, &args.settings)?;
    eprintln!(
        "testing {} as {name}, with {}",
        folder.display(),
        guess.runtime
    );
    let tested = test(global, args, &api, &name, &cases);
    drop(made);
    tested
}

/// `./hello` and `functions/hello` are folders; `hello` is a function first.
fn looks_like_a_folder(target: &str) -> bool {
    target.contains('/') || target == "." || target == ".."
}

/// A function for the time of a test.
struct Temporary<'a> {
    api: &'a Api,
    name: &'a str,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // It is not there if it could not be created.
        let _ = self.api.delete(self.name, None);
    }
}

fn temporary(folder: &Path) -> String {
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let name: String = name.chars().filter(is_allowed).take(40).collect();
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("test-{name}-{}", &id[..8])
}

/// Where the events are.
fn events_of(args: &cli::FunctionTest, folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(events) = &args.events {
        return Ok(events.clone());
    }
    let places = match folder {
        Some(folder) => vec![folder.join("events")],
        None => {
            let name = args.target.split(':').next().unwrap_or_default();
            vec![
                Path::new(name).join("events"),
                Path::new("functions").join(name).join("events"),
                PathBuf::from("events"),
            ]
        }
    };
    match places.iter().find(|place| place.is_dir()) {
        Some(place) => Ok(place.clone()),
        None => bail!(
            "there is no folder {}; write events there, such as first.json, and what is expected of them, such as first{EXPECTED}",
            places[0].display()
        ),
    }
}

/// An event, and what is expected of it.
#[derive(Debug)]
struct Case {
    name: String,
    event: Vec<u8>,
    expected: Option<Value>,
    expected_path: PathBuf,
}

impl Case {
    /// All of a folder, in the order of their names.
    fn read(folder: &Path, only: Option<&str>) -> anyhow::Result<Vec<Case>> {
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_event = name.ends_with(".json") && !name.ends_with(EXPECTED);
            if is_event && only.is_none_or(|only| name.contains(only)) {
                names.push(name);
            }
        }
        names.sort();
        if names.is_empty() {
            bail!(
                "there is no event in {} ({}); an event is a file such as first.json",
                folder.display(),
                only.map_or_else(|| "*.json".to_owned(), |only| format!("*{only}*.json"))
            );
        }
        names
            .into_iter()
            .map(|name| Case::one(folder, &name))
            .collect()
    }

    fn one(folder: &Path, file: &str) -> anyhow::Result<Case> {
        let path = folder.join(file);
        let read = |path: &Path| {
            let bytes =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            invoke::check(path, &bytes)?;
            anyhow::Ok(bytes)
        };
        let name = file.trim_end_matches(".json");
        let expected_path = folder.join(format!("{name}{EXPECTED}"));
        let expected = match expected_path.exists() {
            true => Some(serde_json::from_slice(&read(&expected_path)?)?),
            false => None,
        };
        Ok(Case {
            name: name.to_owned(),
            event: read(&path)?,
            expected,
            expected_path,
        })
    }
}

/// What came of one event.
struct Tested<'a> {
    case: &'a Case,
    outcome: &'static str,
    answer: Value,
    troubles: Vec<String>,
    duration_ms: Option<f64>,
    is_cold: Option<bool>,
}

fn test(
    global: &Global,
    args: &cli::FunctionTest,
    api: &Api,
    name: &str,
    cases: &[Case],
) -> anyhow::Result<()> {
    let mut tested = Vec::new();
    for case in cases {
        let qualifier = args.qualifier.as_deref();
        let answer = invoke::invoke(api, name, qualifier, &case.event, true)?;
        let mut one = judged(case, &answer, args.exact);
        if args.update && (one.outcome != "passed" || case.expected.is_none()) {
            write(
                &case.expected_path,
                &recorded(&one.answer, answer.error.is_some()),
            )?;
            one.outcome = "written";
            one.troubles.clear();
        }
        tested.push(one);
    }
    report(global, &tested)?;
    let failed = tested.iter().filter(|one| !one.troubles.is_empty()).count() as u64;
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {} did not pass; --update writes the answers as what is expected",
            counted(tested.len() as u64, "event")
        ),
    }
}

fn judged<'a>(case: &'a Case, answer: &Answer, exact: bool) -> Tested<'a> {
    let value = serde_json::from_slice(&answer.payload)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&answer.payload).into_owned()));
    let (outcome, troubles) = verdict(
        case.expected.as_ref(),
        &value,
        answer.failure().as_deref(),
        exact,
    );
    let report = Report::of(answer.log.as_deref().unwrap_or_default());
    Tested {
        case,
        outcome,
        answer: value,
        troubles,
        duration_ms: report.as_ref().map(|report| report.duration_ms),
        is_cold: report.as_ref().map(|report| report.is_cold),
    }
}

/// Whether an answer is as it should be, and what is not.
fn verdict(
    expected: Option<&Value>,
    answer: &Value,
    failure: Option<&str>,
    exact: bool,
) -> (&'static str, Vec<String>) {
    let wants_failure = |expected: &Value| {
        ["errorType", "errorMessage"]
            .iter()
            .any(|name| expected.get(name).is_some())
    };
    if let Some(failure) = failure
        && !expected.is_some_and(wants_failure)
    {
        return ("failed", vec![format!("the function failed: {failure}")]);
    }
    let mut troubles = Vec::new();
    if let Some(expected) = expected {
        differences("", expected, answer, exact, &mut troubles);
    }
    match troubles.as_slice() {
        [] => ("passed", troubles),
        _ => ("differs", troubles),
    }
}

/// Where `answer` does not hold what is expected; `exact`: or holds more.
fn differences(
    place: &str,
    expected: &Value,
    answer: &Value,
    exact: bool,
    found: &mut Vec<String>,
) {
    if found.len() >= DIFFERENCES_MAX {
        return;
    }
    let shown = if place.is_empty() {
        "the answer"
    } else {
        place
    };
    match (expected, answer) {
        (Value::Object(expected), Value::Object(answer)) => {
            for (name, value) in expected {
                let place = format!("{place}.{name}");
                match answer.get(name) {
                    Some(answer) => differences(&place, value, answer, exact, found),
                    None => found.push(format!("{place}: expected {value}, but it is not there")),
                }
            }
            let more = answer
                .iter()
                .filter(|(name, _)| exact && !expected.contains_key(*name));
            for (name, value) in more {
                found.push(format!("{place}.{name}: nothing expected, got {value}"));
            }
        }
        (Value::Array(expected), Value::Array(answer)) if expected.len() == answer.len() => {
            for (index, (expected, answer)) in expected.iter().zip(answer).enumerate() {
                differences(&format!("{place}[{index}]"), expected, answer, exact, found);
            }
        }
        (Value::Array(expected), Value::Array(answer)) => found.push(format!(
            "{shown}: expected {}, got {}",
            counted(expected.len() as u64, "item"),
            answer.len()
        )),
        // 1 and 1.0 are one number.
        (Value::Number(expected), Value::Number(answer))
            if expected.as_f64() == answer.as_f64() => {}
        (expected, answer) if expected == answer => {}
        (expected, answer) => found.push(format!("{shown}: expected {expected}, got {answer}")),
    }
}

/// What `--update` writes: of a failure only what says which one it is.
fn recorded(answer: &Value, is_failure: bool) -> Value {
    match is_failure {
        true => json!({ "errorType": answer["errorType"], "errorMessage": answer["errorMessage"] }),
        false => answer.clone(),
    }
}

fn write(path: &Path, value: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    let written: io::Result<()> = fs::write(path, text);
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The REPORT line of a log.
#[derive(Debug, PartialEq)]
struct Report {
    duration_ms: f64,
    is_cold: bool,
}

impl Report {
    fn of(log: &str) -> Option<Report> {
        let line = log
            .lines()
            .rfind(|line| line.starts_with("REPORT RequestId:"))?;
        let field = |name: &str| {
            let fields = line.split('\t');
            let mut values = fields.filter_map(|field| field.strip_prefix(name));
            values.next()
        };
        let duration = field("Duration: ")?.strip_suffix(" ms")?;
        Some(Report {
            duration_ms: duration.parse().ok()?,
            is_cold: field("Init Duration: ").is_some(),
        })
    }
}

fn report(global: &Global, tested: &[Tested]) -> anyhow::Result<()> {
    if global.json {
        let objects = tested.iter().map(|one| {
            json!({
                "event": one.case.name,
                "outcome": one.outcome,
                "duration_ms": one.duration_ms,
                "cold": one.is_cold,
                "answer": one.answer,
                "differences": one.troubles,
            })
        });
        return output::print_json(&objects.collect());
    }
    let cells = tested.iter().map(|one| {
        vec![
            json!(one.case.name),
            json!(one.outcome),
            json!(one.duration_ms),
            json!(one.is_cold),
        ]
    });
    let rows = Rows {
        columns: ["event", "outcome", "duration_ms", "cold"]
            .map(str::to_owned)
            .to_vec(),
        rows: cells.collect(),
        ..Rows::default()
    };
    output::print_rows(&rows, false)?;
    for one in tested {
        for trouble in &one.troubles {
            let trouble = output::foreign(trouble, io::stderr().is_terminal());
            eprintln!("{}: {trouble}", one.case.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let check = |expected: Option<Value>,
                     answer: Value,
                     failure: Option<&str>,
                     exact: bool,
                     wanted: &[&str]| {
            let (outcome, troubles) = verdict(expected.as_ref(), &answer, failure, exact);
            assert_eq!(troubles, wanted, "{expected:?} {answer}");
            assert_eq!(outcome == "passed", wanted.is_empty());
        };
        let some = |value: Value| Some(value);
        check(None, json!({ "a": 1 }), None, false, &[]);
        check(
            None,
            json!({}),
            Some("E: no"),
            false,
            &["the function failed: E: no"],
        );
        check(
            some(json!({ "a": 1 })),
            json!({ "a": 1.0, "b": 2 }),
            None,
            false,
            &[],
        );
        check(
            some(json!({ "a": 1 })),
            json!({ "a": 1, "b": 2 }),
            None,
            true,
            &[".b: nothing expected, got 2"],
        );
        check(
            some(json!({ "a": [{ "b": "x" }, 2], "c": true })),
            json!({ "a": [{ "b": "y", "z": 0 }, 2] }),
            None,
            false,
            &[
                ".a[0].b: expected \"x\", got \"y\"",
                ".c: expected true, but it is not there",
            ],
        );
        check(
            some(json!([1, 2])),
            json!([1]),
            None,
            false,
            &["the answer: expected 2 items, got 1"],
        );
        check(
            some(json!("x")),
            json!({}),
            None,
            false,
            &["the answer: expected \"x\", got {}"],
        );
        // A failure that is expected.
        let error = json!({ "errorType": "E", "errorMessage": "no", "stackTrace": [] });
        check(
            some(json!({ "errorType": "E" })),
            error.clone(),
            Some("E: no"),
            false,
            &[],
        );
        check(
            some(json!({ "errorType": "F" })),
            error,
            Some("E: no"),
            false,
            &[".errorType: expected \"F\", got \"E\""],
        );
        let many = json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let (_, troubles) = verdict(Some(&many), &Value::from(vec![0; 12]), None, false);
        assert_eq!(troubles.len(), DIFFERENCES_MAX);
    }

    #[test]
    fn the_report_of_a_log_is_read() {
        let log = "START\nREPORT RequestId: r\tDuration: 1.50 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 9 MB\tInit Duration: 60.00 ms\t\n";
        let expected = Report {
            duration_ms: 1.5,
            is_cold: true,
        };
        assert_eq!(Report::of(log), Some(expected));
        let warm = log.replace("\tInit Duration: 60.00 ms", "");
        assert_eq!(Report::of(&warm).map(|report| report.is_cold), Some(false));
        assert_eq!(Report::of("hello"), None);
    }

    #[test]
    fn names_for_a_test_are_names_of_functions() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(format!("über {}", "x".repeat(100)));
        fs::create_dir(&folder).unwrap();
        let name = temporary(&folder);
        assert!(name.starts_with("test-berx") && name.len() <= 64, "{name}");
        assert!(
            looks_like_a_folder("./a") && looks_like_a_folder(".") && !looks_like_a_folder("a")
        );
    }

    #[test]
    fn cases_are_read_with_what_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Case::read(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("there is no event")
        );
        for (name, text) in [
            ("b.json", "{}"),
            ("a.json", "1"),
            ("a.expected.json", "2"),
            ("x.txt", ""),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let cases = Case::read(dir.path(), None).unwrap();
        let read: Vec<_> = cases
            .iter()
            .map(|case| (case.name.as_str(), &case.expected))
            .collect();
        assert_eq!(read, [("a", &Some(json!(2))), ("b", &None)]);
        assert_eq!(Case::read(dir.path(), Some("b")).unwrap().len(), 1);
        fs::write(dir.path().join("b.json"), "{").unwrap();
        let error = Case::read(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("b.json:1:"), "{error}");
    }
}
