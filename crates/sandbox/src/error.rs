//! What can go wrong outside of the function itself; a function's own failure is an `Outcome`.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the code is not a WebAssembly component: {reason}")]
    NotAComponent { reason: String },
    /// The component asks for or offers something that we do not have.
    #[error("the component does not fit: {reason}")]
    WrongWorld { reason: String },
    /// Compiling it was ended.
    #[error("the component was not compiled: {reason}")]
    TooCostly { reason: String },
    #[error("the WebAssembly engine did not start: {reason}")]
    Engine { reason: String },
    #[error("`{handler}` is not a handler; write it as `file.function`, as in `handler.handler`")]
    BadHandler { handler: String },
    #[error(
        "cannot split an environment off the Python that waits for functions: {source}; functions start their own"
    )]
    NotSplit { source: std::io::Error },
    #[error("cannot start `{program}`: {source}; is it installed and on the PATH?")]
    Spawn {
        program: String,
        source: std::io::Error,
    },
    #[error(
        "a container image needs a root folder of its own, which this machine does not allow: {reason}"
    )]
    NoRoot { reason: String },
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Error {
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
