//! A value that cannot be computed, with Postgres's code for it.

use datafusion::error::DataFusionError;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// Five characters of Postgres's table of error codes.
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl ValueError {
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> ValueError {
        ValueError {
            sqlstate,
            message: message.into(),
            hint: None,
        }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> ValueError {
        ValueError {
            hint: Some(hint.into()),
            ..self
        }
    }

    pub fn out_of_range(message: impl Into<String>) -> ValueError {
        ValueError::new("22003", message)
    }

    pub fn division_by_zero() -> ValueError {
        ValueError::new("22012", "division by zero")
    }
}

impl From<ValueError> for DataFusionError {
    fn from(error: ValueError) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}
