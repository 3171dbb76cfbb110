use datafusion::error::DataFusionError;

/// Why a view could not be planned or computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `SELECT` is valid but has no form that can be kept up to date by merging states.
    #[error("this view has no incremental form: {reason}")]
    NotIncremental { reason: String, hint: String },
    /// The `SELECT` would give other answers when it is run again.
    #[error("a view must give the same answer whenever it is recomputed, but {0} does not")]
    NotDeterministic(String),
    /// Readers could not tell the columns apart.
    #[error("column \"{0}\" specified more than once")]
    DuplicateColumn(String),
    /// The records could not be read.
    #[error("{0}")]
    Records(String),
    #[error("a stored state does not fit this view: {0}; refresh the view to recompute it")]
    State(String),
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

impl Error {
    pub(crate) fn not_incremental(reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::NotIncremental {
            reason: reason.into(),
            hint: hint.into(),
        }
    }
}
