//! Exit codes: 0 done, 1 failed, 2 wrong usage, 78 configuration or data folder refused.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use serde_json::json;

use crate::{client::Failure, output};

/// `EX_CONFIG` of sysexits(3).
pub const REFUSED: u8 = 78;

/// Marks an error that ends the program with [`REFUSED`]: what is asked for cannot start.
#[derive(Debug)]
pub struct Refusal(anyhow::Error);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain, because a refusal is shown as one message.
        f.write_str(&told(&self.0))
    }
}

impl std::error::Error for Refusal {}

pub fn refusal(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Refusal(error.into()))
}

/// The error and its causes in one line, each said once: many errors say their cause themselves.
fn told(error: &anyhow::Error) -> String {
    joined(error.chain().map(ToString::to_string))
}

fn joined(causes: impl Iterator<Item = String>) -> String {
    causes.fold(String::new(), |told, cause| {
        if told.is_empty() {
            cause
        } else if told.contains(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

/// Says what went wrong on stderr, for people or as a JSON object, and gives the code.
pub fn report(error: &anyhow::Error, json: bool) -> u8 {
    let code = match error.downcast_ref::<Refusal>() {
        Some(_) => REFUSED,
        None => 1,
    };
    if json {
        eprintln!("{}", as_json(error));
    } else {
        // It may quote what a function or a server said.
        let told = told(error);
        let told = output::foreign(&told, io::stderr().is_terminal());
        eprintln!("error: {told}");
    }
    code
}

/// What the server said keeps its parts.
fn as_json(error: &anyhow::Error) -> serde_json::Value {
    let failure = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>());
    let Some(failure) = failure else {
        return json!({ "error": { "message": told(error) } });
    };
    let contexts = error.chain().take_while(|cause| !cause.is::<Failure>());
    let message = joined(
        contexts
            .map(ToString::to_string)
            .chain([failure.message.clone()]),
    );
    let mut members = json!({ "message": message, "retry": failure.retry });
    let texts = [
        ("hint", &failure.hint),
        ("detail", &failure.detail),
        ("sqlstate", &failure.sqlstate),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            members[name] = json!(text);
        }
    }
    if let Some(position) = failure.position {
        members["position"] = json!(position);
    }
    if let Some(place) = &failure.place {
        members["place"] = json!({
            "file": place.file.display().to_string(),
            "line": place.line,
            "column": place.column,
        });
    }
    json!({ "error": members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let check = |causes: &[&str], expected: &str| {
            let mut causes = causes.iter().rev();
            let first = anyhow::anyhow!("{}", causes.next().expect("there is one"));
            let error = causes.fold(first, |error, cause| error.context((*cause).to_owned()));
            assert_eq!(told(&error), expected);
            assert_eq!(refusal(error).to_string(), expected);
        };
        check(&["a", "b"], "a: b");
        check(
            &["cannot listen: in use; choose another", "in use"],
            "cannot listen: in use; choose another",
        );
    }

    #[test]
    fn what_the_server_said_keeps_its_parts() {
        let failure = Failure {
            message: "no".to_owned(),
            hint: Some("do".to_owned()),
            sqlstate: Some("42P01".to_owned()),
            ..Failure::default()
        };
        let error = anyhow::Error::new(failure).context("the batch failed");
        assert_eq!(
            as_json(&error),
            json!({"error": {"message": "the batch failed: no", "hint": "do", "sqlstate": "42P01", "retry": false}})
        );
        assert_eq!(
            as_json(&anyhow::anyhow!("x")),
            json!({"error": {"message": "x"}})
        );
    }
}
