//! `ERASE FROM stream WHERE condition`: finds the records, and has them put down as erased.
//!
//! The records are found once, at the frontier that the statement is pinned to, by the condition as a view would
//! read it; from then on only their offsets count. Those appended after the statement began stay.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch, StringArray},
    datatypes::{DataType, Int32Type, Int64Type},
};
use datafusion::{
    dataframe::DataFrame, physical_plan::SendableRecordBatchStream, scalar::ScalarValue,
};
use futures::TryStreamExt;
use lambic_model::{Offset, OffsetRange, OffsetSet, PartitionId, Stream, SystemColumn};
use lambic_view::Predicate;

use super::{Database, apart, by_number, done, explain, rows, with_parameters};
use crate::{
    Catalog, Erasing, Error, Outcome, Session, ToErase, erase::Erase, error::undefined_table,
    pinned::Pinned, sqlstate,
};

/// Ranges of offsets that one erasure may consist of: they are held in memory until it is finished.
const RANGES_MAX: usize = 4_000_000;
/// The house's streams that hold copies of users' values and that nothing reads to go on.
pub(super) const ERASABLE: [&str; 3] = ["lambic_dead_letters", "lambic_invocations", "lambic_logs"];

impl Database {
    pub(super) async fn erase(
        &self,
        session: &Session,
        erase: &Erase,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        let stream = self.erasable(erase, sql)?;
        let predicate = self.erase_predicate(erase, &stream).await?;
        check_exact(&predicate, &parameters)?;
        let turn = self.0.erasing.lock().await;
        let pinned = Pinned::take(&self.0.sources);
        let frontier = pinned.heads().of(stream.id);
        let found = self.found(erase, &predicate, &pinned, parameters).await?;
        if erase.explain {
            return self.explained(&stream, &pinned, &found);
        }
        let records = found.records();
        let to_erase = ToErase {
            stream,
            offsets: found,
            frontier,
            by: session.user.clone(),
            predicate_shown: match erase.keep_predicate {
                true => erase.condition.clone(),
                false => erase.shown.clone(),
            },
            predicate: erase.condition.clone(),
            expires: None,
        };
        drop(pinned);
        let erasing = self.put_down(to_erase).await?;
        drop(turn);
        if erase.wait {
            erasing.finished().await?;
        }
        Ok(done(&format!("ERASE {records}")))
    }

    /// Lets it happen; whoever calls it holds `erasing`.
    pub(super) async fn put_down(&self, to_erase: ToErase) -> Result<Box<dyn Erasing>, Error> {
        let database = self.clone();
        Database::to_the_end(async move {
            // Dropped streams take their records along; none is dropped while this is put down.
            let _one = database.0.changing.lock().await;
            let name = to_erase.stream.name.as_str();
            if database
                .stream(name)
                .is_none_or(|now| now.id != to_erase.stream.id)
            {
                let message = format!("stream \"{name}\" was dropped meanwhile");
                return Err(Error::new(sqlstate::UNDEFINED_TABLE, message));
            }
            database.lifecycle()?.erase(to_erase).await
        })
        .await
    }

    /// The types of the parameters in the condition.
    pub(super) async fn erase_parameters(
        &self,
        erase: &Erase,
        sql: &str,
    ) -> Result<HashMap<String, Option<DataType>>, Error> {
        let stream = self.erasable(erase, sql)?;
        let predicate = self.erase_predicate(erase, &stream).await?;
        let types = predicate.plan().get_parameter_types();
        types.map_err(|error| Error::from_datafusion(error, sql, &[]))
    }

    fn erasable(&self, erase: &Erase, sql: &str) -> Result<Arc<Stream>, Error> {
        let name = erase.stream.as_str();
        let wrong = |message: String| {
            Error::new(sqlstate::WRONG_OBJECT_TYPE, message).with_position(Some(erase.stream_at))
        };
        match self.stream(name) {
            Some(stream) if Catalog::is_system(&stream) && !ERASABLE.contains(&name) => {
                let message = format!("\"{name}\" is the system's own: it reads it to go on");
                Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                    .with_position(Some(erase.stream_at))
                    .with_hint(format!(
                        "of the system's streams these can be erased from: {}",
                        ERASABLE.join(", ")
                    )))
            }
            Some(stream) => Ok(stream),
            None if self.0.sources.catalog().view(name).is_some() => Err(wrong(format!(
                "\"{name}\" is a view; it follows its streams"
            ))
            .with_hint("erase from the streams that the view selects from")),
            None if self.names().iter().any(|known| known == name) => {
                Err(wrong(format!("\"{name}\" is a system table, not a stream")))
            }
            None => {
                Err(undefined_table(name, sql, &self.names()).with_position(Some(erase.stream_at)))
            }
        }
    }

    async fn erase_predicate(
        &self,
        erase: &Erase,
        stream: &Arc<Stream>,
    ) -> Result<Predicate, Error> {
        let select = select(erase, stream);
        let before = select.chars().count() - erase.condition.chars().count();
        let state = self.0.context.state();
        let planned = Predicate::new(&select, &state, stream).await;
        planned.map_err(|error| {
            let mut error = match error {
                lambic_view::Error::NotDeterministic(what) => Error::new(
                    "42P17",
                    format!("which records ERASE takes must not depend on when it is asked, but {what} does"),
                )
                .with_position(crate::error::find_word(&select, what.trim_end_matches("()")))
                .with_hint("write the value itself, as in at < timestamp '2024-01-01'"),
                lambic_view::Error::NotIncremental { reason, .. } => Error::new(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    format!("ERASE takes a condition on each record alone, and here {reason}"),
                ),
                other => self.view_error(other, &select),
            };
            // From the place in the SELECT to the one in the statement.
            error.position = error.position.map(|position| match position.checked_sub(before) {
                Some(position) if position > 0 => position + erase.condition_at,
                _ => erase.stream_at,
            });
            error
        })
    }

    /// The places of all records that meet the condition.
    async fn found(
        &self,
        erase: &Erase,
        predicate: &Predicate,
        pinned: &Pinned,
        parameters: Vec<ScalarValue>,
    ) -> Result<OffsetSet, Error> {
        let wrong = |error| {
            let mut error = Error::from_datafusion(error, &erase.condition, &[]);
            error.position = error.position.map(|position| position + erase.condition_at);
            error
        };
        let plan = predicate.over(&|source| pinned.records(source));
        let plan = plan.and_then(|plan| with_parameters(plan, parameters));
        let frame = DataFrame::new(self.0.context.state(), plan.map_err(wrong)?);
        let mut stream: SendableRecordBatchStream = frame.execute_stream().await.map_err(wrong)?;
        let mut found = OffsetSet::default();
        while let Some(batch) = stream.try_next().await.map_err(wrong)? {
            add(&mut found, &batch);
            if found.ranges_count() > RANGES_MAX {
                let message = format!(
                    "the records stand in more than {RANGES_MAX} places, which is more than one ERASE can take"
                );
                return Err(Error::new(sqlstate::LIMIT_EXCEEDED, message).with_hint(
                    "erase in parts, as in WHERE … AND _offset < 10000000, then the next ten million",
                ));
            }
        }
        Ok(found)
    }

    fn explained(
        &self,
        stream: &Arc<Stream>,
        pinned: &Pinned,
        found: &OffsetSet,
    ) -> Result<Outcome, Error> {
        let manifest = pinned.manifest(stream.id);
        let files = manifest.files.iter();
        let files = files
            .filter(|file| found.count_within(file.range) > 0)
            .count();
        let views = pinned.views.values();
        let views: Vec<String> = views
            .filter(|view| view.streams().iter().any(|input| input.id == stream.id))
            .map(|view| view.definition().name.to_string())
            .collect();
        let lines = [
            ("stream", stream.name.to_string()),
            ("up to", pinned.heads().of(stream.id).to_string()),
            ("records", found.records().to_string()),
            ("files to rewrite", files.to_string()),
            ("views to recompute", views.join(", ")),
        ];
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        let names = Arc::new(StringArray::from(names));
        let values = Arc::new(StringArray::from(values));
        rows(explain::schema(), vec![names, values])
    }
}

/// The condition last, so that places in it move by one number.
fn select(erase: &Erase, stream: &Stream) -> String {
    format!(
        "SELECT {}, {} FROM \"{}\" WHERE {}",
        SystemColumn::Partition.name(),
        SystemColumn::Offset.name(),
        stream.name,
        erase.condition
    )
}

/// Adds the records of `batch`, `_partition` and `_offset`; those that follow one another as one range.
fn add(found: &mut OffsetSet, batch: &RecordBatch) {
    let partitions = batch.column(0).as_primitive::<Int32Type>().values();
    let offsets = batch.column(1).as_primitive::<Int64Type>().values();
    let mut open: Option<OffsetRange> = None;
    for (&partition, &offset) in partitions.iter().zip(offsets) {
        let partition = PartitionId(partition.cast_unsigned());
        let first = Offset(offset.cast_unsigned());
        match &mut open {
            Some(range) if range.partition == partition && range.end == first => {
                range.end = first.plus(1);
            }
            _ => {
                let next = OffsetRange {
                    partition,
                    first,
                    end: first.plus(1),
                };
                if let Some(range) = open.replace(next) {
                    found.add(range);
                }
            }
        }
    }
    if let Some(range) = open {
        found.add(range);
    }
}

/// What would have to be rounded to be compared is not what was meant.
fn check_exact(predicate: &Predicate, parameters: &[ScalarValue]) -> Result<(), Error> {
    let types = predicate.plan().get_parameter_types();
    let types = types.map_err(|error| Error::from_datafusion(error, "", &[]))?;
    let types = by_number(types, parameters.len());
    for (index, (planned, value)) in types.iter().zip(parameters).enumerate() {
        if apart::is_other_decimal(planned.as_ref(), value) {
            let number = index + 1;
            let message = format!(
                "parameter ${number} is {value}, which the column beside it cannot hold as it is"
            );
            return Err(
                Error::new(sqlstate::NUMERIC_OUT_OF_RANGE, message).with_hint(format!(
                    "no record can equal it; to compare, cast it: ${number}::numeric(38, 10)"
                )),
            );
        }
    }
    Ok(())
}
