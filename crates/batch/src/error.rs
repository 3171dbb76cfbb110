use lambic_base::bytes::shown;

/// Why a batch run failed; the former one is still served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    View(#[from] lambic_view::Error),
    #[error(transparent)]
    Dataset(#[from] lambic_dataset::Error),
    #[error("the batch run failed: {0}")]
    DataFusion(#[from] datafusion::error::DataFusionError),
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error(
        "batch file {path} is damaged: {what}; remove the folder {folder} and restart, and it is recomputed"
    )]
    Damaged {
        path: String,
        folder: String,
        what: String,
    },
    #[error("the file {path} of a batch that runs is damaged: {what}; run the batch again")]
    SpillDamaged { path: String, what: String },
    #[error(
        "the batch needs more than the {} of memory that it may use: {what}",
        shown(*limit)
    )]
    Memory { limit: u64, what: String },
    #[error(
        "the batch needs more than the {} of memory that it may use: the states of one key alone take {}",
        shown(*limit), shown(*bytes)
    )]
    OneKey { bytes: u64, limit: u64 },
    #[error(
        "the batch would have {} on disk, more than the {} that it may use",
        shown(*used), shown(*limit)
    )]
    Disk { used: u64, limit: u64 },
    #[error(
        "the states of the view take more than the {} of memory that one view may have where it is served",
        shown(*limit)
    )]
    ViewTooLarge { limit: u64 },
}

impl Error {
    /// True if the batch met a bound: to run it again as it is would be in vain.
    pub fn is_over_budget(&self) -> bool {
        use Error::{Disk, Memory, OneKey, ViewTooLarge};
        matches!(
            self,
            Memory { .. } | OneKey { .. } | Disk { .. } | ViewTooLarge { .. }
        )
    }

    /// True if tables of keys did not fit into the memory that they may have.
    pub(crate) fn is_exhausted(&self) -> bool {
        use datafusion::error::DataFusionError;
        let (Error::DataFusion(error) | Error::View(lambic_view::Error::DataFusion(error))) = self
        else {
            return false;
        };
        matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
    }
}
