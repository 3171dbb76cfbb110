//! What can go wrong with functions, by what a caller would do about it.

use std::path::PathBuf;

use crate::{
    Form,
    image::{ImageTrouble, told},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no function `{name}`; `lambic function list` shows those that are deployed")]
    NotFound { name: String },
    #[error(
        "function `{name}` is running {concurrency} invocations and {waiting} more wait; invoke it again later or raise its `concurrency`"
    )]
    Throttled {
        name: String,
        concurrency: usize,
        waiting: usize,
    },
    #[error("function `{name}` finds no room: {reason}; invoke it again later")]
    Full { name: String, reason: String },
    #[error(
        "function `{name}` may use {memory_mb} MB of memory, and all environments together {limit_mb} MB, of which {kept_mb} MB are kept for provisioned concurrency; give the function less, or raise `functions.memory_mb_max`"
    )]
    TooMuchMemory {
        name: String,
        memory_mb: u32,
        limit_mb: u64,
        kept_mb: u64,
    },
    #[error(
        "the event is {bytes} bytes, over the limit of {limit}; send a reference to the data instead"
    )]
    PayloadTooLarge { bytes: usize, limit: usize },
    #[error("the event is not JSON: {reason}")]
    PayloadNotJson { reason: String },
    #[error(
        "`{runtime}` is not a runtime; use `wasm` (a WASI component), `python` or `node` (a handler `file.function`), `bootstrap` (a program that asks AWS's Runtime API), or `image` (a container image)"
    )]
    UnknownRuntime { runtime: String },
    #[error("function `{name}` was not deployed: {reason}")]
    BadDeployment { name: String, reason: String },
    #[error("function `{name}` was not deployed: its start failed with {error_type}: {message}")]
    BadStart {
        name: String,
        error_type: String,
        message: String,
    },
    #[error(
        "function `{name}` exports SQL functions only ({exports}); call it in a query, or export `handle` or `handle-batch` as `lambic.wit` declares them, `wasi:http/incoming-handler` or `wasi:cli/run`"
    )]
    NotInvocable { name: String, exports: String },
    #[error("{}", wrong_form(name, *form))]
    WrongForm {
        name: String,
        /// What the event is written in.
        form: Form,
    },
    #[error(
        "function `{name}` is not run: this machine does not allow to shut it in ({reason}); run the server where that is allowed, or set `functions.weak_isolation = true` if you trust all code that is deployed here (docs/security.md says what it gives up)"
    )]
    NotShutIn { name: String, reason: String },
    #[error("`{name}` does not exist")]
    Missing { name: String },
    #[error("there is no statement `{sid}` in the policy")]
    NoStatement { sid: String },
    #[error("{reason}")]
    Conflict { reason: String },
    #[error(
        "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
    )]
    WrongRevision,
    #[error("{reason}")]
    BadValue { reason: String },
    #[error("the code of function `{name}` is not a zip that can be used: {reason}")]
    BadZip { name: String, reason: String },
    #[error("{}", told(uri, *trouble, reason))]
    Image {
        uri: String,
        trouble: ImageTrouble,
        reason: String,
    },
    #[error(
        "function `{name}` is not run: a container image needs a root folder of its own, which this machine does not allow ({reason}); run the server where that is allowed"
    )]
    NoRoot { name: String, reason: String },
    #[error("the policy has {bytes} bytes, over the limit of {limit}; remove statements")]
    PolicyTooLong { bytes: usize, limit: usize },
    #[error("stream `{stream}` does not exist; create it before function `{name}` uses it")]
    UnknownStream { name: String, stream: String },
    #[error("function `{name}` cannot be triggered by `{stream}`: {reason}")]
    TriggerLoop {
        name: String,
        stream: String,
        reason: &'static str,
    },
    #[error(transparent)]
    Log(#[from] lambic_log::Error),
    #[error(transparent)]
    Sandbox(#[from] lambic_sandbox::Error),
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "traces cannot be written to `{}` (`--traces` or `traces.file`): {reason}",
        path.display()
    )]
    Traces { path: PathBuf, reason: String },
    #[error("`{}` is damaged: {reason}; deploy the function again, or bring the file back from a backup", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("functions are shutting down")]
    Closed,
}

fn wrong_form(name: &str, form: Form) -> String {
    match form {
        Form::Json => format!(
            "function `{name}` takes batches of Arrow records (`handle-batch`), not JSON; invoke it with one Arrow IPC stream of the content type application/vnd.apache.arrow.stream, and wait for the answer"
        ),
        Form::Arrow => format!(
            "function `{name}` takes events in JSON; batches of Arrow records are taken by components that export `handle-batch`"
        ),
    }
}

impl Error {
    /// Whether a program of this machine, such as an interpreter, is not there.
    pub fn is_of_runtime(&self) -> bool {
        match self {
            Error::Sandbox(lambic_sandbox::Error::Spawn { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            _ => false,
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }
}
