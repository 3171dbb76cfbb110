//! The rows of one key of a view, without the planner.

use std::sync::{Arc, atomic::Ordering};

use arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use lambic_serving::Served;

use super::Database;
use crate::{AsOf, Error, Lookup, pinned::Pinned, sqlstate};

impl Database {
    /// Values as text by column name; now, or as they were.
    pub async fn lookup(
        &self,
        view: &str,
        key: &[(String, String)],
        as_of: Option<&AsOf>,
    ) -> Result<Lookup, Error> {
        let altered = &self.0.sources.altered;
        let (served, pinned) = loop {
            let before = altered.load(Ordering::SeqCst);
            let Served::Kept(served) = self.served(view, "")? else {
                let message =
                    format!("view \"{view}\" is recomputed when it is read and has no key");
                return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, message)
                    .with_hint("select from it with WHERE"));
            };
            let pinned = match as_of {
                None => Pinned::of_view(&self.0.sources, &served).seen_by_view(&served),
                Some(as_of) => self.view_as_of(as_of, &served).await?,
            };
            // A view from before a column was changed could not read records from after it.
            if altered.load(Ordering::SeqCst) == before {
                break (served, pinned);
            }
        };
        let key = served.key_from_text(key).map_err(serving_error)?;
        let state = self.0.context.state();
        let read = async {
            pinned.check(&served.plan().inputs)?;
            pinned.read(&served, Some(&key), &state).await
        };
        let answer = read
            .await
            .map_err(|error| Error::from_datafusion(error, "", &[]))?;
        let inputs = served.plan().inputs.iter();
        let frontier =
            inputs.map(|stream| format!("{}@{}", stream.name, answer.frontier.of(stream.id)));
        Ok(Lookup {
            schema: Arc::clone(&served.plan().schema),
            batches: answer.batches.as_ref().clone(),
            frontier: frontier.collect::<Vec<_>>().join(" "),
        })
    }
}

/// What a client wrote as text, in the type of the column that it is compared with; an error if that cannot hold it
/// exactly.
pub fn value_of_text(column: &str, text: &str, data_type: &DataType) -> Result<ScalarValue, Error> {
    let value = lambic_serving::value_of_text(column, text, data_type).map_err(serving_error)?;
    ScalarValue::try_from_array(&value, 0).map_err(Error::internal)
}

fn serving_error(error: lambic_serving::Error) -> Error {
    match error {
        lambic_serving::Error::NoKey { .. } => {
            Error::new(sqlstate::WRONG_OBJECT_TYPE, error.to_string())
        }
        lambic_serving::Error::Key(message) => Error::new(sqlstate::INVALID_TEXT, message),
        lambic_serving::Error::View(error) => Error::from_source(&error, ""),
    }
}
