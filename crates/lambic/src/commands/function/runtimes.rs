//! The names of runtimes: AWS's, ours for what the server has, and what runs code of each.

use std::{cell::OnceCell, collections::BTreeSet, process::Command};

use serde_json::Value;

use super::super::Global;
use crate::toml_source::closest;

/// What runs code of a runtime's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    Node,
    Bootstrap,
    Wasm,
    /// Known to AWS; whether it can run is the server's to say.
    Other,
}

/// AWS's names that a server can have, and ours.
const RUNTIMES: [&str; 19] = [
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs26.x",
    "provided.al2",
    "provided.al2023",
    "wasm",
    "provided.wasm",
];
/// Words for the server's own version.
const OWN: [&str; 5] = ["python", "python3", "node", "nodejs", "bootstrap"];
/// What these are compiled or run by is not here; the server says so.
const ELSEWHERE: [&str; 4] = ["java", "dotnet", "ruby", "go1"];
const COMPILED: &str = "provided.al2023";

impl Language {
    pub fn of(runtime: &str) -> Language {
        match runtime {
            "wasm" | "provided.wasm" => Language::Wasm,
            _ if runtime.starts_with("python") => Language::Python,
            _ if runtime.starts_with("node") => Language::Node,
            _ if runtime.starts_with("provided") => Language::Bootstrap,
            _ => Language::Other,
        }
    }

    /// True if a runtime of this name can never run here.
    pub fn is_elsewhere(runtime: &str) -> bool {
        ELSEWHERE.iter().any(|name| runtime.starts_with(name))
    }
}

/// The interpreters that run functions which name no version, as AWS names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    pub python: Option<String>,
    pub node: Option<String>,
    /// All that the server has; `None`: nobody could be asked.
    pub all: Option<BTreeSet<String>>,
}

/// Where functions run; asked when it is needed first.
pub struct Machine<'a> {
    /// `None`: there is no server to ask.
    global: Option<&'a Global>,
    own: OnceCell<Own>,
}

impl Own {
    /// What the server says, or `None` if it is not there or does not know the question.
    fn of_server(global: &Global) -> Option<Own> {
        let said = global.client().ok()?.get("/v1/runtimes").ok()?;
        let name = |member: &str| said.get(member).and_then(Value::as_str).map(str::to_owned);
        let all = said["all"].as_array().map(|all| {
            let names = all.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        });
        Some(Own {
            python: name("python"),
            node: name("node"),
            all,
        })
    }

    /// Of this machine, which is the server's as long as that answers on loopback only.
    fn of_path() -> Own {
        Own {
            python: python_of(&said("python3")),
            node: node_of(&said("node")),
            all: None,
        }
    }
}

fn said(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn python_of(said: &str) -> Option<String> {
    let mut parts = said.trim().strip_prefix("Python ")?.split('.');
    Some(format!("python{}.{}", parts.next()?, parts.next()?))
}

fn node_of(said: &str) -> Option<String> {
    let (major, _) = said.trim().strip_prefix('v')?.split_once('.')?;
    Some(format!("nodejs{major}.x"))
}

impl<'a> Machine<'a> {
    pub fn of_server(global: &'a Global) -> Machine<'a> {
        Machine {
            global: Some(global),
            own: OnceCell::new(),
        }
    }

    fn own(&self) -> &Own {
        let ask = || self.global.and_then(Own::of_server);
        self.own.get_or_init(|| ask().unwrap_or_else(Own::of_path))
    }

    pub fn version(&self, language: Language) -> Result<String, String> {
        let (found, name, example) = match language {
            Language::Python => (self.own().python.clone(), "Python", "python3.11"),
            Language::Node => (self.own().node.clone(), "Node", "nodejs20.x"),
            Language::Wasm => return Ok("wasm".to_owned()),
            Language::Bootstrap | Language::Other => return Ok(COMPILED.to_owned()),
        };
        found.ok_or_else(|| {
            format!("the server has no {name} to take the version of; say --runtime {example}")
        })
    }

    /// Why the server cannot run this runtime, and what to do; `None` if it can, or nobody knows.
    pub fn missing(&self, runtime: &str) -> Option<String> {
        let language = Language::of(runtime);
        let name = match language {
            Language::Python => "Python",
            Language::Node => "Node",
            Language::Bootstrap | Language::Wasm | Language::Other => return None,
        };
        let all = self.own().all.as_ref()?;
        if all.contains(runtime) {
            return None;
        }
        let fitting = all.iter().filter(|one| Language::of(one) == language);
        let there: Vec<&str> = fitting.map(String::as_str).collect();
        Some(match closest(runtime, there.iter().copied()) {
            None => format!(
                "the server has no {name} to run {runtime}; install it there, or name its folder in `functions.interpreters`"
            ),
            Some(best) => format!(
                "the server has no {runtime}, only {}; install it there, name its folder in `functions.interpreters`, or import with --runtime {best}",
                there.join(", ")
            ),
        })
    }

    /// A runtime's name as AWS has it, from what the user wrote.
    pub fn runtime(&self, written: &str) -> Result<String, String> {
        match written {
            "python" | "python3" => self.version(Language::Python),
            "node" | "nodejs" => self.version(Language::Node),
            "bootstrap" => Ok(COMPILED.to_owned()),
            _ if RUNTIMES.contains(&written) || Language::is_elsewhere(written) => {
                Ok(written.to_owned())
            }
            _ => {
                let names = RUNTIMES.iter().chain(&OWN).copied();
                let hint = match closest(written, names) {
                    Some(best) => format!("did you mean {best}?"),
                    None => "there are python3.x, nodejs*.x, provided.al2023 (a program named bootstrap) and wasm".to_owned(),
                };
                Err(format!("there is no runtime {written:?}; {hint}"))
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One that has these.
    pub fn machine(python: &str, node: &str) -> Machine<'static> {
        let own = Own {
            python: Some(python.to_owned()),
            node: Some(node.to_owned()),
            all: Some([python, node].map(str::to_owned).into()),
        };
        Machine {
            global: None,
            own: OnceCell::from(own),
        }
    }

    #[test]
    fn the_servers_own_versions_are_meant() {
        let machine = machine("python3.12", "nodejs22.x");
        for (written, runtime) in [
            ("python", "python3.12"),
            ("node", "nodejs22.x"),
            ("python3.9", "python3.9"),
        ] {
            assert_eq!(machine.runtime(written).unwrap(), runtime);
        }
    }

    #[test]
    fn what_the_server_lacks_is_told_with_what_it_has() {
        let machine = machine("python3.12", "nodejs22.x");
        for runtime in ["python3.12", "nodejs22.x", "provided.al2023", "wasm"] {
            assert_eq!(machine.missing(runtime), None);
        }
        let told = machine.missing("python3.9").unwrap();
        assert!(
            told.contains("no python3.9, only python3.12") && told.contains("--runtime python3.12"),
            "{told}"
        );
        let own = |all: Option<&[&str]>| Machine {
            global: None,
            own: OnceCell::from(Own {
                all: all.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
                ..Own::default()
            }),
        };
        let told = own(Some(&["python3.12"])).missing("nodejs22.x").unwrap();
        assert!(
            told.contains("no Node to run nodejs22.x; install"),
            "{told}"
        );
        assert_eq!(own(None).missing("nodejs22.x"), None, "nobody was asked");
    }

    #[test]
    fn versions_are_named_as_aws_names_them() {
        assert_eq!(python_of("Python 3.11.7\n").as_deref(), Some("python3.11"));
        assert_eq!(python_of(""), None);
        assert_eq!(node_of("v20.11.1\n").as_deref(), Some("nodejs20.x"));
        assert_eq!(node_of(""), None);
    }
}
