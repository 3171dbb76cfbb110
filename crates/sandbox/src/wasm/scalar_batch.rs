//! SQL functions of a component that exports `handle-batch`: one instance and one call for a batch of rows.
//!
//! A row with NULL for a parameter that takes none is not sent and its answer is NULL, as where rows are sent one by one.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array,
        new_empty_array,
    },
    compute::{concat, filter, take},
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
};
use wasmtime::Store;

use super::{
    batch::handle_batch,
    columns,
    host::Host,
    run::PASSED_BYTES_MAX,
    scalar::{Scalar, Signature, runtime},
};

/// AWS's of an event: what has more goes in parts.
const BATCH_BYTES_MAX: usize = 6 << 20;
/// Of a message that a component gives as its error.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

impl Scalar {
    /// `is_here`: nothing can wait in the host. Otherwise the caller's thread drives no runtime.
    pub(super) fn run_batches(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        is_here: bool,
    ) -> Result<ArrayRef, String> {
        let Some(asked) = asked(&self.signature, columns, rows) else {
            return self.run_rows_at_once(columns, rows, is_here);
        };
        let failed = |error: ArrowError| format!("function `{}`: {error}", self.signature.name);
        let some = columns.iter().map(|column| filter(column, &asked));
        let some: Vec<ArrayRef> = some.collect::<Result<_, _>>().map_err(failed)?;
        let answers = self.run_rows_at_once(&some, asked.true_count(), is_here)?;
        take(&answers, &places(&asked), None).map_err(failed)
    }

    fn run_rows_at_once(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        is_here: bool,
    ) -> Result<ArrayRef, String> {
        let name = &self.signature.name;
        let failed = |error: ArrowError| format!("function `{name}`: {error}");
        let schema = schema(&self.signature);
        let result = &self.signature.result;
        let mut answers = Vec::new();
        // The first part is the last.
        let mut parts = vec![(0, rows)];
        while let Some((first, count)) = parts.pop() {
            if count == 0 {
                continue;
            }
            let columns = columns.iter().map(|column| column.slice(first, count));
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            let batch =
                RecordBatch::try_new_with_options(schema.clone(), columns.collect(), &options);
            let stream = batch.and_then(|batch| columns::encode(&batch));
            let stream = stream.map_err(failed)?;
            if stream.len() > BATCH_BYTES_MAX && count > 1 {
                let half = count / 2;
                parts.push((first + half, count - half));
                parts.push((first, half));
                continue;
            }
            let answer = match is_here {
                true => self.ask_here(stream)?,
                false => self.ask_apart(stream)?,
            };
            let answer = columns::decode(answer, &result.data_type, result.optional, count);
            answers.push(answer.map_err(|reason| format!("function `{name}`: {reason}"))?);
        }
        match answers.as_slice() {
            [] => Ok(new_empty_array(&result.data_type)),
            [one] => Ok(Arc::clone(one)),
            several => {
                let several: Vec<_> = several.iter().map(|part| part.as_ref()).collect();
                concat(&several).map_err(failed)
            }
        }
    }

    fn ask_here(&self, batch: Vec<u8>) -> Result<Vec<u8>, String> {
        let _slots = self.slots.for_scalar(self.slots_taken);
        let mut store = self.batch_store();
        store.set_epoch_deadline(self.ticks());
        store.epoch_deadline_trap();
        let instance = self
            .instance
            .instantiate(&mut store)
            .map_err(|error| self.explain(&store, &error))?;
        let handle =
            handle_batch(&instance, &mut store).map_err(|error| self.explain(&store, &error))?;
        let (answer,) = handle
            .call(&mut store, (batch,))
            .map_err(|error| self.explain(&store, &error))?;
        answer.map_err(|error| self.said(error))
    }

    fn ask_apart(&self, batch: Vec<u8>) -> Result<Vec<u8>, String> {
        let runtime = runtime()?;
        let _slots = self.slots.for_scalar(self.slots_taken);
        let mut store = self.batch_store();
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let run = async {
            let instance = self
                .instance
                .instantiate_async(&mut store)
                .await
                .map_err(|error| self.explain(&store, &error))?;
            let handle = handle_batch(&instance, &mut store)
                .map_err(|error| self.explain(&store, &error))?;
            let (answer,) = handle
                .call_async(&mut store, (batch,))
                .await
                .map_err(|error| self.explain(&store, &error))?;
            answer.map_err(|error| self.said(error))
        };
        runtime
            .block_on(async { tokio::time::timeout(self.limits.timeout, run).await })
            .unwrap_or_else(|_| Err(self.too_long()))
    }

    fn batch_store(&self) -> Store<Host> {
        let mut store = self.store();
        store.set_hostcall_fuel(PASSED_BYTES_MAX);
        store
    }

    fn said(&self, mut error: String) -> String {
        error.truncate(error.floor_char_boundary(MESSAGE_BYTES_MAX));
        format!("function `{}` failed: {error}", self.signature.name)
    }
}

/// The columns `0`, `1` and so on; which function they are arguments of stands beside them.
fn schema(signature: &Signature) -> SchemaRef {
    let fields = signature
        .parameters
        .iter()
        .enumerate()
        .map(|(index, slot)| Field::new(index.to_string(), slot.data_type.clone(), slot.optional));
    let names = [("lambic.function".to_owned(), signature.name.clone())];
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        names.into(),
    ))
}

/// The rows whose answer is not NULL from the outset; `None`: that are all.
fn asked(signature: &Signature, columns: &[ArrayRef], rows: usize) -> Option<BooleanArray> {
    let strict: Vec<&ArrayRef> = signature
        .parameters
        .iter()
        .zip(columns)
        .filter(|(slot, column)| !slot.optional && column.null_count() > 0)
        .map(|(_, column)| column)
        .collect();
    if strict.is_empty() {
        return None;
    }
    let is_asked = |row| Some(strict.iter().all(|column| column.is_valid(row)));
    Some((0..rows).map(is_asked).collect())
}

/// Where the answer for each row is among those that were given.
fn places(asked: &BooleanArray) -> UInt32Array {
    let mut next = 0_u32;
    let place = |is_asked: Option<bool>| {
        is_asked.unwrap_or_default().then(|| {
            next += 1;
            next - 1
        })
    };
    asked.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_to_their_rows() {
        let asked = BooleanArray::from(vec![false, true, true, false, true]);
        let expected = UInt32Array::from(vec![None, Some(0), Some(1), None, Some(2)]);
        assert_eq!(places(&asked), expected);
    }
}
