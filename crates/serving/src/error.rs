use lambic_view::Error as ViewError;

/// Why a view cannot be answered or kept current.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("view \"{view}\" has no key to look up by: {reason}; read it with SQL")]
    NoKey { view: String, reason: String },
    #[error("{0}")]
    Key(String),
}
