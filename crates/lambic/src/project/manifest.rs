//! `lambic.toml`: the functions of a project, their triggers, and settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lambic_functions::Rules;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{settings, toml_source};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default)]
    pub project: About,
    #[serde(default)]
    pub functions: BTreeMap<String, Function>,
    /// Laid over the defaults; see `defaults.toml`.
    #[serde(default)]
    pub settings: toml::Table,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub name: Option<String>,
    pub description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    pub runtime: Runtime,
    /// `module.function` of a Python handler.
    #[serde(default)]
    pub handler: Option<String>,
    /// Where the code is, relative to the project; `functions/<name>` unless said.
    #[serde(default)]
    pub code: Option<PathBuf>,
    /// In its place, a container image: of a registry, or of a file or folder, whose path is relative to the project.
    #[serde(default)]
    pub image: Option<String>,
    #[serde(default = "timeout_s")]
    pub timeout_s: f64,
    #[serde(default = "memory_mb")]
    pub memory_mb: u32,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The stream that gets what the function returns.
    #[serde(default)]
    pub output: Option<String>,
    /// How often a failing invocation is tried again.
    #[serde(default)]
    pub retries: Option<u32>,
    /// The stream that gets what keeps failing.
    #[serde(default)]
    pub dead_letter: Option<String>,
    /// Invocations at one time, at most.
    #[serde(default)]
    pub concurrency: Option<usize>,
    /// Hosts that it may connect to; without, a component has none, and everything else all public ones.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    #[serde(default, deserialize_with = "trigger")]
    pub trigger: Option<Trigger>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Runtime {
    #[serde(rename = "wasm")]
    Wasm,
    /// The machine's `python3`, whichever version that is.
    #[serde(
        rename = "python",
        alias = "python3",
        alias = "python3.9",
        alias = "python3.10",
        alias = "python3.11",
        alias = "python3.12",
        alias = "python3.13",
        alias = "python3.14"
    )]
    Python,
    /// The machine's `node`.
    #[serde(rename = "node", alias = "nodejs")]
    Node,
    /// A program named `bootstrap` that asks AWS's Runtime API.
    #[serde(rename = "bootstrap", alias = "provided")]
    Bootstrap,
    /// A container image whose entry point does the same.
    #[serde(rename = "image")]
    Image,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    pub stream: String,
    /// Records handed over at once, at most.
    #[serde(default = "batch", deserialize_with = "batch_size")]
    pub batch: u32,
    /// How long an incomplete batch may wait for more records.
    #[serde(default, deserialize_with = "batch_window")]
    pub window_ms: u64,
    /// Where a new trigger begins to read.
    #[serde(default)]
    pub start: Start,
    /// Patterns of which a record has to match one, JSON; in the file, tables as well.
    #[serde(default, deserialize_with = "filters")]
    pub filters: Vec<String>,
    /// A batch that keeps failing is cut in halves, until the record that fails stands alone.
    #[serde(default = "yes")]
    pub bisect_batch_on_function_error: bool,
    /// Answers name the records that failed.
    #[serde(default = "yes")]
    pub report_batch_item_failures: bool,
    /// Older records are given up.
    #[serde(default, deserialize_with = "record_age")]
    pub maximum_record_age_in_seconds: Option<u32>,
    /// The ARN of a stream or function that is told of batches that were given up.
    #[serde(default, deserialize_with = "on_failure")]
    pub on_failure: Option<String>,
    /// Batches of one partition at one time.
    #[serde(default = "one", deserialize_with = "lanes")]
    pub parallelization_factor: u32,
    /// The length of tumbling windows; 0: none.
    #[serde(default, deserialize_with = "tumbling_window")]
    pub tumbling_window_in_seconds: u32,
}

impl Trigger {
    /// How records are delivered.
    pub fn rules(&self) -> Rules {
        Rules {
            filters: self.filters.clone(),
            bisects: self.bisect_batch_on_function_error,
            reports_failures: self.report_batch_item_failures,
            age_s_max: self.maximum_record_age_in_seconds,
            on_failure: self.on_failure.clone(),
            lanes: self.parallelization_factor,
            window_s: self.tumbling_window_in_seconds,
        }
    }
}

/// An error where the rule stands, so that its place is shown.
fn checked<T: Clone, E: serde::de::Error>(
    value: T,
    set: impl FnOnce(&mut Rules, T),
) -> Result<T, E> {
    let mut rules = Rules::default();
    set(&mut rules, value.clone());
    rules.check_alone().map_err(E::custom)?;
    Ok(value)
}

fn trigger<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Trigger>, D::Error> {
    let trigger = Trigger::deserialize(deserializer)?;
    // What does not go together; each by itself was looked at.
    checked::<_, D::Error>(trigger.rules(), |rules, all| *rules = all)?;
    Ok(Some(trigger))
}

fn batch_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let batch = u32::deserialize(deserializer)?;
    let max = lambic_functions::Trigger::BATCH_SIZE_MAX;
    match (1..=max).contains(&(batch as usize)) {
        true => Ok(batch),
        false => Err(D::Error::custom(format!(
            "a batch has 1 to {max} records, not {batch}"
        ))),
    }
}

fn batch_window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let window_ms = u64::deserialize(deserializer)?;
    let max = lambic_functions::Trigger::WINDOW_MS_MAX;
    match window_ms <= max {
        true => Ok(window_ms),
        false => Err(D::Error::custom(format!(
            "a batch waits 0 to {max} ms, not {window_ms}"
        ))),
    }
}

fn filters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let patterns = Vec::<toml::Value>::deserialize(deserializer)?;
    let text = |pattern: toml::Value| match pattern {
        toml::Value::String(text) => Ok(text),
        table => serde_json::to_string(&table).map_err(D::Error::custom),
    };
    let filters = patterns.into_iter().map(text);
    let filters = filters.collect::<Result<Vec<String>, D::Error>>()?;
    checked(filters, |rules, filters| rules.filters = filters)
}

fn record_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let age_s = u32::deserialize(deserializer)?;
    checked(Some(age_s), |rules, age| rules.age_s_max = age)
}

fn on_failure<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let arn = String::deserialize(deserializer)?;
    checked(Some(arn), |rules, arn| rules.on_failure = arn)
}

fn lanes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let lanes = u32::deserialize(deserializer)?;
    checked(lanes, |rules, lanes| rules.lanes = lanes)
}

fn tumbling_window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let window_s = u32::deserialize(deserializer)?;
    checked(window_s, |rules, window_s| rules.window_s = window_s)
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Records appended from now on.
    #[default]
    Latest,
    /// Everything that the log still holds.
    Earliest,
}

/// What a server may allow at most; what it does is in its settings.
const TIMEOUT_S_MAX: f64 = crate::settings::TIMEOUT_S_MAX as f64;

/// AWS Lambda's default.
fn timeout_s() -> f64 {
    3.0
}

fn memory_mb() -> u32 {
    128
}

/// AWS Lambda's default for streams.
fn batch() -> u32 {
    100
}

impl Manifest {
    pub fn parse(path: &Path, text: &str) -> anyhow::Result<Manifest> {
        let manifest: Manifest = toml_source::parse(path, text)?;
        settings::Settings::overlaid(&manifest.settings).map_err(|error| {
            toml_source::explain_value(path, text, &error, &settings::known_keys())
        })?;
        for (name, function) in &manifest.functions {
            let about =
                |message: &str| anyhow::anyhow!("{}: function `{name}`: {message}", path.display());
            let named = match function.runtime {
                Runtime::Python => Some("python"),
                Runtime::Node => Some("node"),
                Runtime::Wasm | Runtime::Bootstrap | Runtime::Image => None,
            };
            if (function.runtime == Runtime::Image) != function.image.is_some() {
                return Err(about(
                    "runtime \"image\" and `image = \"registry.example.com/app:1\"` go together",
                ));
            }
            if let Some(runtime) = named
                && function.handler.is_none()
            {
                return Err(about(&format!(
                    "runtime \"{runtime}\" needs `handler = \"module.function\"`"
                )));
            }
            if !(function.timeout_s > 0.0 && function.timeout_s <= TIMEOUT_S_MAX) {
                return Err(about(&format!(
                    "`timeout_s` is {}; it must be above 0 and at most {TIMEOUT_S_MAX}",
                    function.timeout_s
                )));
            }
        }
        Ok(manifest)
    }
}

impl Function {
    pub fn folder(&self, project: &Path, name: &str) -> PathBuf {
        match &self.code {
            Some(code) => project.join(code),
            None => project.join("functions").join(name),
        }
    }

    /// Its container image, seen from wherever.
    pub fn image(&self, project: &Path) -> Option<String> {
        let image = self.image.as_deref()?;
        let project = std::path::absolute(project).unwrap_or_else(|_| project.to_owned());
        Some(lambic_functions::image_seen_from(image, &project))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let found = match Manifest::parse(Path::new("lambic.toml"), text) {
            Ok(manifest) => format!("{} functions", manifest.functions.len()),
            Err(error) => format!("{error:#}"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn manifests_are_read_or_explained() {
        check("", expect!["0 functions"]);
        check(
            "[functions.f]\nruntime = \"python3.11\"\nhandler = \"a.b\"\n[functions.f.trigger]\nstream = \"s\"\n",
            expect!["1 functions"],
        );
        check(
            "[functions.f]\nruntime = \"wasm\"\ntimeout = 3\n",
            expect![[r#"
                lambic.toml:3:1: unknown field `timeout`, expected one of `runtime`, `handler`, `code`, `image`, `timeout_s`, `memory_mb`, `environment`, `output`, `retries`, `dead_letter`, `concurrency`, `hosts`, `trigger`
                  3 | timeout = 3
                    | ^
                  did you mean `timeout_s`?"#]],
        );
        check(
            "[functions.f]\nruntime = \"python\"\n",
            expect![[
                r#"lambic.toml: function `f`: runtime "python" needs `handler = "module.function"`"#
            ]],
        );
        check(
            "[functions.f]\nruntime = \"image\"\nimage = \"oci-layout:images/app\"\n",
            expect!["1 functions"],
        );
        for text in [
            "[functions.f]\nruntime = \"image\"\n",
            "[functions.f]\nruntime = \"wasm\"\nimage = \"app\"\n",
        ] {
            check(
                text,
                expect![[
                    r#"lambic.toml: function `f`: runtime "image" and `image = "registry.example.com/app:1"` go together"#
                ]],
            );
        }
        check(
            "[functions.f]\nruntime = \"wasm\"\ntimeout_s = 1e9\n",
            expect![
                "lambic.toml: function `f`: `timeout_s` is 1000000000; it must be above 0 and at most 86400"
            ],
        );
        check(
            "[settings.server]\npg = \"127.0.0.1:1\"\nhttp = \"localhost\"\n",
            expect![[r#"
                lambic.toml:3:1: `http` = "localhost": invalid socket address syntax
                  3 | http = "localhost"
                    | ^"#]],
        );
        check(
            "settings.dataset.seal_records = 0\n",
            expect![[r#"
                lambic.toml:1:18: `seal_records` = 0: it must be at least 1
                  1 | settings.dataset.seal_records = 0
                    |                  ^"#]],
        );
        check(
            "[settings.dataset]\nseal_after = 3\n",
            expect![[r#"
                lambic.toml:2:1: unknown field `seal_after`, expected one of `seal_records`, `seal_after_s`, `file_bytes_max`, `compact_files`, `expire_every_s`
                  2 | seal_after = 3
                    | ^
                  did you mean `seal_after_s`?"#]],
        );
        check(
            "[functions.f\n",
            expect![[r#"
                lambic.toml:1:13: unclosed table, expected `]`
                  1 | [functions.f
                    |             ^"#]],
        );
    }

    const TRIGGERED: &str =
        "[functions.f]\nruntime = \"wasm\"\n[functions.f.trigger]\nstream = \"s\"\n";

    #[test]
    fn triggers_have_the_rules_of_mappings() {
        let rules = |text: &str| {
            let text = format!("{TRIGGERED}{text}");
            let manifest = Manifest::parse(Path::new("lambic.toml"), &text).unwrap();
            manifest.functions["f"].trigger.as_ref().unwrap().rules()
        };
        assert_eq!(rules(""), Rules::of_triggers());
        let pattern = r#"{"data":{"n":[{"numeric":[">",10]}]}}"#;
        for filters in [
            format!("filters = ['{pattern}']"),
            "filters = [{ data = { n = [{ numeric = [\">\", 10] }] } }]".to_owned(),
        ] {
            assert_eq!(rules(&filters).filters, [pattern], "{filters}");
        }
        let arn = "arn:aws:lambic:us-east-1:000000000000:stream/lost";
        let all = format!(
            "bisect_batch_on_function_error = false\nreport_batch_item_failures = false\n\
             maximum_record_age_in_seconds = 60\non_failure = \"{arn}\"\nparallelization_factor = 10\n\
             tumbling_window_in_seconds = 0\n"
        );
        assert_eq!(
            rules(&all),
            Rules {
                filters: Vec::new(),
                bisects: false,
                reports_failures: false,
                age_s_max: Some(60),
                on_failure: Some(arn.to_owned()),
                lanes: 10,
                window_s: 0,
            }
        );
        assert_eq!(rules("tumbling_window_in_seconds = 900").window_s, 900);
    }

    #[test]
    fn mistakes_in_rules_are_shown_where_they_stand() {
        for (line, said) in [
            (
                "filters = ['{\"n\": 1}']",
                "Invalid filter pattern definition",
            ),
            ("filters = ['{']", "Invalid filter pattern definition"),
            ("filters = [{ n = 1 }]", "Invalid filter pattern definition"),
            ("filters = '{}'", "expected a sequence"),
            ("maximum_record_age_in_seconds = 59", "60 to 604800, not 59"),
            ("on_failure = \"lost\"", "is not available on this server"),
            ("parallelization_factor = 11", "must be 1 to 10, not 11"),
            ("tumbling_window_in_seconds = 901", "0 to 900, not 901"),
            ("bisect_batch_on_function_error = 1", "expected a boolean"),
            ("filter = []", "did you mean `filters`?"),
            ("batch = 0", "1 to 10000 records, not 0"),
            ("batch = 10_001", "1 to 10000 records, not 10001"),
            ("window_ms = 300_001", "0 to 300000 ms, not 300001"),
        ] {
            let text = format!("{TRIGGERED}{line}\n");
            let error = Manifest::parse(Path::new("lambic.toml"), &text).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("lambic.toml:5:"), "{line}: {error}");
            assert!(error.contains(said), "{line}: {error}");
        }
        let text =
            format!("{TRIGGERED}parallelization_factor = 2\ntumbling_window_in_seconds = 60\n");
        let error = Manifest::parse(Path::new("lambic.toml"), &text).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("needs a ParallelizationFactor of 1"),
            "{error}"
        );
    }
}
