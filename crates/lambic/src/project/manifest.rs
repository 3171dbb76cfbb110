//! `lambic.toml`: the functions of a project, their triggers, and settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

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
    #[serde(default)]
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
    #[serde(default = "batch")]
    pub batch: u32,
    /// How long an incomplete batch may wait for more records.
    #[serde(default)]
    pub window_ms: u64,
    /// Where a new trigger begins to read.
    #[serde(default)]
    pub start: Start,
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
            if function
                .trigger
                .as_ref()
                .is_some_and(|trigger| trigger.batch == 0)
            {
                return Err(about("`trigger.batch` must be at least 1"));
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
}
