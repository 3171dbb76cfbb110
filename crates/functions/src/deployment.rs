//! What a user says about a function, and what is known of it once it is deployed.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use lambic_model::{FunctionName, StreamName};
use serde::{Deserialize, Serialize};

use crate::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A WASI 0.2 component: `lambic:function/handler`, or plain functions for SQL.
    Wasm,
    /// `def handler(event, context)` on the machine's `python3`.
    Python,
}

impl FromStr for Runtime {
    type Err = Error;

    fn from_str(runtime: &str) -> Result<Runtime, Error> {
        match runtime {
            "wasm" => Ok(Runtime::Wasm),
            "python" | "python3" => Ok(Runtime::Python),
            _ => Err(Error::UnknownRuntime {
                runtime: runtime.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Wasm => "wasm",
            Runtime::Python => "python",
        })
    }
}

/// Where a function's code comes from.
#[derive(Debug, Clone)]
pub enum Code {
    /// Python: all files of the folder. Wasm: the one `.wasm` file in it, or the one `handler` names.
    Folder(PathBuf),
    /// Wasm: the component. Python: one source file, stored as the handler's module.
    Bytes(Vec<u8>),
}

/// Where a new trigger starts to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Records appended from now on.
    #[default]
    Latest,
    /// Everything that the log still holds.
    Earliest,
}

/// An event source mapping: batches of a stream's records invoke the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub stream: StreamName,
    #[serde(default = "Trigger::default_batch_size")]
    pub batch_size: usize,
    /// How long an incomplete batch may wait for more records, milliseconds; at most 5 minutes.
    #[serde(default)]
    pub window_ms: u64,
    #[serde(default)]
    pub start: Start,
}

impl Trigger {
    pub const BATCH_SIZE_MAX: usize = 10_000;

    pub fn new(stream: StreamName) -> Trigger {
        Trigger {
            stream,
            batch_size: Trigger::default_batch_size(),
            window_ms: 0,
            start: Start::Latest,
        }
    }

    fn default_batch_size() -> usize {
        100
    }
}

/// A request to deploy; [`Deployment::new`] has AWS's defaults.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub name: FunctionName,
    pub runtime: Runtime,
    pub code: Code,
    /// Python: `file.function`, by default `handler.handler`. Wasm: the file's name in the folder.
    pub handler: Option<String>,
    /// 1 ms to 15 minutes.
    pub timeout: Duration,
    pub memory_mb: u32,
    pub environment: BTreeMap<String, String>,
    pub triggers: Vec<Trigger>,
    /// Where the answers to a trigger's batches go.
    pub output: Option<StreamName>,
    /// How often a failed event or batch is tried again, up to 10,000 times.
    pub retries: u32,
    /// Where events and records that keep failing go; by default `lambic_dead_letters`. Another stream
    /// must have the columns of `lambic_dead_letters`.
    pub dead_letter: Option<StreamName>,
    /// Invocations at one time, 1 to 1,000; `None`: the server's default.
    pub concurrency: Option<usize>,
    /// Start the code once before it takes over, so that code that cannot start is refused.
    pub trial: bool,
}

impl Deployment {
    pub fn new(name: FunctionName, runtime: Runtime, code: Code) -> Deployment {
        Deployment {
            name,
            runtime,
            code,
            handler: None,
            timeout: Duration::from_secs(3),
            memory_mb: 128,
            environment: BTreeMap::new(),
            triggers: Vec::new(),
            output: None,
            retries: 2,
            dead_letter: None,
            concurrency: None,
            trial: true,
        }
    }
}

/// A deployed function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionInfo {
    pub name: FunctionName,
    pub runtime: Runtime,
    /// Python: `file.function`. Wasm: the component's file.
    pub handler: String,
    pub timeout_ms: u64,
    pub memory_mb: u32,
    pub environment: BTreeMap<String, String>,
    pub triggers: Vec<Trigger>,
    pub output: Option<StreamName>,
    pub retries: u32,
    pub dead_letter: Option<StreamName>,
    pub concurrency: Option<usize>,
    /// SHA-256 of the code, hex.
    pub digest: String,
    pub code_bytes: u64,
    /// Counts the deployments of this name, from 1.
    pub deployment: u64,
    /// Microseconds since 1970.
    pub deployed_at_us: i64,
    /// True if it can be invoked with an event.
    pub invocable: bool,
    /// The SQL functions that it exports: `geohash(double precision, double precision, integer) -> text`.
    pub scalars: Vec<String>,
}
