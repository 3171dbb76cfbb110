//! What goes wrong below statements, as those who gave them see it.

use lambic_query::{Error, sqlstate};

pub fn dataset_error(error: lambic_dataset::Error) -> Error {
    if let lambic_dataset::Error::Store(error) = &error {
        return Error::of_disk(error);
    }
    Error::new(sqlstate::DATA_CORRUPTED, error.to_string())
}

pub fn batch_error(error: lambic_batch::Error) -> Error {
    match error {
        lambic_batch::Error::DataFusion(error) => Error::from_datafusion(error, "", &[]),
        lambic_batch::Error::View(lambic_view::Error::DataFusion(error)) => {
            Error::from_datafusion(error, "", &[])
        }
        lambic_batch::Error::Dataset(error) => dataset_error(error),
        lambic_batch::Error::Store(error) => Error::of_disk(&error),
        lambic_batch::Error::Arrow(error) => {
            let error = datafusion::error::DataFusionError::ArrowError(Box::new(error), None);
            Error::from_datafusion(error, "", &[])
        }
        error @ (lambic_batch::Error::Damaged { .. }
        | lambic_batch::Error::SpillDamaged { .. }) => {
            Error::new(sqlstate::DATA_CORRUPTED, error.to_string())
        }
        error @ (lambic_batch::Error::Memory { .. } | lambic_batch::Error::OneKey { .. }) => {
            Error::new(sqlstate::OUT_OF_MEMORY, error.to_string()).with_hint(
                "raise batch.memory in the settings, or give the view more with batch_memory in its WITH; or group by more columns",
            )
        }
        error @ lambic_batch::Error::Disk { .. } => {
            Error::new(sqlstate::DISK_FULL, error.to_string()).with_hint(
                "raise batch.disk_bytes_max in the settings, or let less go there: raise batch.memory, or the view's batch_memory",
            )
        }
        error @ lambic_batch::Error::ViewTooLarge { .. } => {
            Error::new(sqlstate::OUT_OF_MEMORY, error.to_string()).with_hint(
                "raise batch.view_memory in the settings, or let the view have fewer rows: group by fewer columns, or filter",
            )
        }
        other => Error::internal(other),
    }
}
