//! Which program of this machine runs a function: AWS's name of a runtime, such as `python3.12`, wants that version.
//!
//! Versions beside the configured ones are looked for on the PATH under their own names, once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lambic_sandbox::process::{Interpreter, Launch};
use tokio::sync::Mutex;

use crate::{Error, Options, Runtime};

pub struct Interpreters {
    python: PathBuf,
    node: PathBuf,
    /// By what was asked for.
    found: Mutex<BTreeMap<String, Interpreter>>,
}

impl Interpreters {
    pub fn new(options: &Options) -> Interpreters {
        Interpreters {
            python: options.python.clone(),
            node: options.node.clone(),
            found: Mutex::default(),
        }
    }

    /// How the environments of a runtime are started; `name` is AWS's, empty for whatever there is.
    pub async fn launch(&self, runtime: Runtime, name: &str) -> Result<Launch, Error> {
        Ok(match runtime {
            Runtime::Python => Launch::Python(self.interpreter(name, &self.python, runtime).await?),
            Runtime::Node => Launch::Node(self.interpreter(name, &self.node, runtime).await?),
            Runtime::Bootstrap | Runtime::Wasm | Runtime::Image => Launch::Bootstrap,
        })
    }

    async fn interpreter(
        &self,
        name: &str,
        usual: &Path,
        runtime: Runtime,
    ) -> Result<Interpreter, Error> {
        let key = format!("{runtime} {name}");
        let mut found = self.found.lock().await;
        if let Some(interpreter) = found.get(&key) {
            return Ok(interpreter.clone());
        }
        let first = ask(runtime, usual).await;
        let interpreter = match first {
            Ok(interpreter) if name.is_empty() || name == named(runtime, &interpreter) => {
                interpreter
            }
            first => {
                let other = match own_program(runtime, name) {
                    Some(program) => ask(runtime, &program).await.ok(),
                    None => None,
                };
                let fits = |other: &Interpreter| named(runtime, other) == name;
                match (other.filter(fits), first) {
                    (Some(other), _) => other,
                    (None, Ok(usual)) => {
                        return Err(Error::BadValue {
                            reason: format!(
                                "the runtime {name} is not on this machine, which has {}; install it, or choose that one",
                                named(runtime, &usual)
                            ),
                        });
                    }
                    (None, Err(error)) => return Err(error),
                }
            }
        };
        found.insert(key, interpreter.clone());
        Ok(interpreter)
    }
}

async fn ask(runtime: Runtime, program: &Path) -> Result<Interpreter, Error> {
    Ok(match runtime {
        Runtime::Node => Interpreter::node(program).await?,
        _ => Interpreter::python(program).await?,
    })
}

/// AWS's name of the runtime that an interpreter is.
fn named(runtime: Runtime, interpreter: &Interpreter) -> String {
    match runtime {
        Runtime::Node => format!("nodejs{}.x", interpreter.version),
        _ => format!("python{}", interpreter.version),
    }
}

/// What a version is usually called on the PATH.
fn own_program(runtime: Runtime, name: &str) -> Option<PathBuf> {
    match runtime {
        Runtime::Python => Some(PathBuf::from(name)),
        // `nodejs22.x` is `node22` where several are installed.
        Runtime::Node => {
            let version = name.strip_prefix("nodejs")?.strip_suffix(".x")?;
            Some(PathBuf::from(format!("node{version}")))
        }
        Runtime::Bootstrap | Runtime::Wasm | Runtime::Image => None,
    }
}

/// For the function itself, which may ask (`AWS_EXECUTION_ENV`).
pub fn runtime_name(launch: &Launch, asked_for: &str) -> String {
    match launch {
        Launch::Python(interpreter) => named(Runtime::Python, interpreter),
        Launch::Node(interpreter) => named(Runtime::Node, interpreter),
        Launch::Bootstrap if asked_for.is_empty() => "provided.al2023".to_owned(),
        Launch::Bootstrap | Launch::Image(_) => asked_for.to_owned(),
    }
}
