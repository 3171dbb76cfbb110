//! TOML mistakes shown as a compiler would: file, line, column, the line itself, a suggestion.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::source::Place;

/// Parses `text`; the error names the place and the closest known key.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> anyhow::Result<T> {
    toml::from_str(text).map_err(|error| explain(path, text, &error))
}

fn explain(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let text = &masked(text);
    let message = first_line(error.message());
    let suggestion = suggestion(error.message());
    let text = match error.span() {
        Some(span) => {
            Place::at_byte(path, text, span.start).render(&message, suggestion.as_deref())
        }
        None => format!("{}: {message}", path.display()),
    };
    anyhow::anyhow!(text)
}

/// The same for an error found after parsing, whose place is looked for by the name that it quotes.
pub fn explain_value(
    path: &Path,
    text: &str,
    error: &toml::de::Error,
    known: &[String],
) -> anyhow::Error {
    let text = &masked(text);
    let message = first_line(error.message());
    let quoted = message.split('`').nth(1).unwrap_or_default().to_owned();
    let suggestion = suggestion(error.message()).or_else(|| {
        closest(&quoted, known.iter().map(String::as_str))
            // A key that is known has a wrong value, not a wrong name.
            .filter(|best| *best != quoted)
            .map(|best| format!("did you mean `{best}`?"))
    });
    let at = text
        .lines()
        .scan(0, |start, line| {
            let here = *start;
            *start += line.len() + 1;
            Some((here, line))
        })
        .find(|(_, line)| {
            let key = line.split('=').next().unwrap_or_default();
            let mut words = key.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
            !quoted.is_empty() && words.rfind(|word| !word.is_empty()) == Some(&quoted)
        });
    let text = match at {
        Some((start, line)) => {
            let indent = line.find(&quoted).unwrap_or(0);
            Place::at_byte(path, text, start + indent).render(&message, suggestion.as_deref())
        }
        None => match suggestion {
            Some(suggestion) => format!("{}: {message}; {suggestion}", path.display()),
            None => format!("{}: {message}", path.display()),
        },
    };
    anyhow::anyhow!(text)
}

/// The same text with stars for what may be secret, which is not shown even where it is wrong: all values under `auth` but
/// those that are known to be none.
fn masked(text: &str) -> String {
    const SHOWN: [&str; 4] = ["account", "id", "name", "secret_file"];
    let mut is_auth = false;
    let mask = |line: &str| {
        let stars = |text: &str| "*".repeat(text.len());
        let key = line.split('=').next().unwrap_or_default();
        let is_comment = line.trim_start().starts_with('#');
        if line.trim_start().starts_with('[') && !line.contains('=') {
            is_auth = line.contains("auth");
            return line.to_owned();
        }
        is_auth |= key.contains("auth");
        // What stands behind such a value on its line is not known.
        let is_shown = SHOWN.contains(&key.trim()) && line.matches('=').count() == 1;
        if !is_auth || is_comment || line.trim().is_empty() || is_shown {
            return line.to_owned();
        }
        match line.split_once('=') {
            Some((key, value)) => format!("{key}={}", stars(value)),
            None => stars(line),
        }
    };
    text.split('\n').map(mask).collect::<Vec<_>>().join("\n")
}

fn first_line(message: &str) -> String {
    message
        .lines()
        .next()
        .unwrap_or(message)
        .trim_end_matches('.')
        .to_owned()
}

/// serde says "unknown field `x`, expected one of `a`, `b`": name the closest.
fn suggestion(message: &str) -> Option<String> {
    let (found, expected) = message
        .strip_prefix("unknown ")?
        .split_once(", expected ")?;
    let found = found.split('`').nth(1)?;
    let names = expected.split('`').skip(1).step_by(2);
    closest(found, names).map(|best| format!("did you mean `{best}`?"))
}

/// The name most like `name`, if any is alike enough to be what was meant.
pub fn closest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(name, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[allow(dead_code)]
        memory_mb: u32,
    }

    #[test]
    fn secrets_are_masked() {
        let text = r#"
[settings.auth]
# Note.
keys = [{ id = "a", secret = "hidden" }]
[[auth.keys]]
id = "AKID"
secrt = "hidden"
secret = """
hidden"""
[log]
x = "shown"
auth.keys = [
  { secret = "hidden" },
  {
id = "b", secret = "hidden" },
"#;
        let shown = masked(text);
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(shown.len(), text.len());
        for kept in [
            "# Note.",
            "id = \"AKID\"",
            "secrt =",
            "x = \"shown\"",
            "[log]",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn a_mistake_shows_its_place_and_a_suggestion() {
        let found = parse::<Example>(Path::new("lambic.toml"), "# x\nmemory_bm = 5\n")
            .expect_err("the key is unknown")
            .to_string();
        expect_test::expect![[r#"
            lambic.toml:2:1: unknown field `memory_bm`, expected `memory_mb`
              2 | memory_bm = 5
                | ^
              did you mean `memory_mb`?"#]]
        .assert_eq(&found);
    }
}
