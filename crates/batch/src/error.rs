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
    #[error(
        "batch file {path} is damaged: {what}; remove the folder {folder} and restart, and it is recomputed"
    )]
    Damaged {
        path: String,
        folder: String,
        what: String,
    },
}
