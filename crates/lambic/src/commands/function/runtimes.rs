//! The names of runtimes: AWS's, ours for what this machine has, and what runs code of each.

use std::{process::Command, sync::OnceLock};

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
/// Words for the machine's own version.
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

/// The interpreters' versions, as AWS names them.
pub struct Machine {
    pub python: fn() -> Option<String>,
    pub node: fn() -> Option<String>,
}

/// This one, which is the server's as long as that answers on loopback only.
pub const HERE: Machine = Machine {
    python: || {
        static FOUND: OnceLock<Option<String>> = OnceLock::new();
        FOUND.get_or_init(|| python_of(&said("python3"))).clone()
    },
    node: || {
        static FOUND: OnceLock<Option<String>> = OnceLock::new();
        FOUND.get_or_init(|| node_of(&said("node"))).clone()
    },
};

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

impl Machine {
    pub fn version(&self, language: Language) -> Result<String, String> {
        let (found, name, example) = match language {
            Language::Python => ((self.python)(), "Python", "python3.11"),
            Language::Node => ((self.node)(), "Node", "nodejs20.x"),
            Language::Wasm => return Ok("wasm".to_owned()),
            Language::Bootstrap | Language::Other => return Ok(COMPILED.to_owned()),
        };
        found.ok_or_else(|| {
            format!("no {name} is on this machine's PATH to take the version of; say --runtime {example}")
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
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_as_aws_names_them() {
        assert_eq!(python_of("Python 3.11.7\n").as_deref(), Some("python3.11"));
        assert_eq!(python_of(""), None);
        assert_eq!(node_of("v20.11.1\n").as_deref(), Some("nodejs20.x"));
        assert_eq!(node_of(""), None);
    }
}
