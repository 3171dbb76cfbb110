//! Why a backup or a restore did not happen.

use std::{io, path::Path};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be done; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A file is not what was written once.
    #[error("{0}")]
    Damaged(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the target failed: {source}{}", advice(source))]
    Store {
        #[from]
        source: object_store::Error,
    },
    #[error(transparent)]
    Log(#[from] lambic_log::Error),
    #[error(transparent)]
    Dataset(#[from] lambic_dataset::Error),
    #[error(transparent)]
    Functions(#[from] lambic_functions::Error),
    #[error("{0}")]
    Catalog(#[from] lambic_query::CatalogError),
    #[error("a task ended badly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    pub fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let what = format!("cannot {action} `{}`", path.display());
        move |source| Error::Io { what, source }
    }

    pub fn is_gone(&self) -> bool {
        match self {
            Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Error::Dataset(lambic_dataset::Error::Store(source)) | Error::Store { source } => {
                matches!(source, object_store::Error::NotFound { .. })
            }
            _ => false,
        }
    }
}

/// Without credentials the machine's own role is asked for, which says nothing to whoever forgot them.
fn advice(error: &object_store::Error) -> &'static str {
    match error.to_string().contains("/latest/api/token") {
        true => {
            "; there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the backup is made (by the server, unless --data is given)"
        }
        false => "",
    }
}
