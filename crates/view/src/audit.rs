//! Compares what is served with what was recomputed from scratch.
//!
//! Rows must be equal bit for bit, but for columns that come from fast sums of doubles, where rounding may
//! differ, and from randomised sketches (KLL): of those the sketches are compared, by the rank that the served
//! answer has in the recomputed sketch.

use std::{cmp::Ordering, collections::BTreeMap};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array},
    compute::{cast, concat_batches},
    datatypes::{DataType, Float64Type, SchemaRef},
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use datasketches::common::SearchCriteria;

use crate::{Error, Exactness, Run, ViewPlan, aggregate::summary::percentile_state};

/// Differences shown; all are counted.
const EXAMPLES_MAX: usize = 5;

/// The outcome of an audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Rows of the recomputed view.
    pub rows: u64,
    /// Rows that only one side has, rows where none are expected, and sketches that disagree.
    pub differences: u64,
    /// The first of them, for people.
    pub examples: Vec<String>,
}

impl Comparison {
    pub fn agrees(&self) -> bool {
        self.differences == 0
    }

    fn note(&mut self, example: impl FnOnce() -> String) {
        self.differences += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// Compares finished rows as multisets, and percentile sketches by key.
pub fn compare(
    plan: &ViewPlan,
    served: (&[RecordBatch], &Run),
    recomputed: (&[RecordBatch], &Run),
) -> Result<Comparison, Error> {
    let mut comparison = Comparison {
        rows: recomputed
            .0
            .iter()
            .map(|batch| batch.num_rows() as u64)
            .sum(),
        ..Comparison::default()
    };
    let columns = (&plan.schema, plan.exactness.as_slice());
    compare_rows(columns, served.0, recomputed.0, &mut comparison)?;
    compare_sketches(plan, served.1, recomputed.1, &mut comparison)?;
    Ok(comparison)
}

/// Adds the percentile sketches that disagree, key by key.
pub fn compare_sketches(
    plan: &ViewPlan,
    served: &Run,
    recomputed: &Run,
    comparison: &mut Comparison,
) -> Result<(), Error> {
    for &column in &plan.percentile_states {
        compare_column(plan, served, recomputed, column, comparison)?;
    }
    Ok(())
}

/// Compares finished rows as multisets: exact columns bit for bit, rounded ones within the tolerance.
/// Randomised columns are left out.
pub fn compare_finished(
    schema: &SchemaRef,
    exactness: &[Exactness],
    served: &[RecordBatch],
    recomputed: &[RecordBatch],
) -> Result<Comparison, Error> {
    let mut comparison = Comparison {
        rows: recomputed.iter().map(|batch| batch.num_rows() as u64).sum(),
        ..Comparison::default()
    };
    compare_rows((schema, exactness), served, recomputed, &mut comparison)?;
    Ok(comparison)
}

/// Adds every row of a view that expects none.
pub fn expect_no_rows(recomputed: &[RecordBatch], comparison: &mut Comparison) {
    for batch in recomputed {
        for row in 0..batch.num_rows() {
            comparison.note(|| format!("not expected: {}", describe(batch, row)));
        }
    }
}

/// Rows whose exact columns are the same, by their index in what is served and in what is recomputed.
#[derive(Default)]
struct Same {
    served: Vec<usize>,
    recomputed: Vec<usize>,
}

fn compare_rows(
    (schema, exactness): (&SchemaRef, &[Exactness]),
    served: &[RecordBatch],
    recomputed: &[RecordBatch],
    comparison: &mut Comparison,
) -> Result<(), Error> {
    let columns = |wanted: Exactness| -> Vec<usize> {
        let all = 0..exactness.len();
        all.filter(|index| exactness[*index] == wanted).collect()
    };
    let (exact, rounded) = (columns(Exactness::Exact), columns(Exactness::Rounded));
    if exact.is_empty() && rounded.is_empty() {
        return Ok(());
    }
    let served = concat_batches(schema, served)?;
    let recomputed = concat_batches(schema, recomputed)?;
    let mut groups: BTreeMap<Vec<u8>, Same> = BTreeMap::new();
    for (row, key) in keys(&served, &exact)?.into_iter().enumerate() {
        groups.entry(key).or_default().served.push(row);
    }
    for (row, key) in keys(&recomputed, &exact)?.into_iter().enumerate() {
        groups.entry(key).or_default().recomputed.push(row);
    }
    let served_values = floats(&served, &rounded)?;
    let recomputed_values = floats(&recomputed, &rounded)?;
    for mut same in groups.into_values() {
        // What is closest stands side by side.
        same.served.sort_by(|a, b| order(&served_values, *a, *b));
        same.recomputed
            .sort_by(|a, b| order(&recomputed_values, *a, *b));
        for (&one, &other) in same.served.iter().zip(&same.recomputed) {
            let mut columns = served_values.iter().zip(&recomputed_values);
            if !columns.all(|(a, b)| agree(a, one, b, other)) {
                let (one, other) = (describe(&served, one), describe(&recomputed, other));
                comparison.note(|| format!("served: {one}, recomputed: {other}"));
            }
        }
        let both = same.served.len().min(same.recomputed.len());
        for &row in &same.served[both..] {
            comparison.note(|| format!("only served: {}", describe(&served, row)));
        }
        for &row in &same.recomputed[both..] {
            comparison.note(|| format!("only recomputed: {}", describe(&recomputed, row)));
        }
    }
    Ok(())
}

/// The values of `columns` of every row, as bytes.
fn keys(batch: &RecordBatch, columns: &[usize]) -> Result<Vec<Vec<u8>>, Error> {
    if columns.is_empty() {
        return Ok(vec![Vec::new(); batch.num_rows()]);
    }
    let columns: Vec<ArrayRef> = columns
        .iter()
        .map(|index| batch.column(*index).clone())
        .collect();
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let rows = converter.convert_columns(&columns)?;
    Ok(rows.iter().map(|row| row.as_ref().to_vec()).collect())
}

fn floats(batch: &RecordBatch, columns: &[usize]) -> Result<Vec<Float64Array>, Error> {
    let columns = columns.iter().map(|index| {
        let values = cast(batch.column(*index), &DataType::Float64)?;
        Ok(values.as_primitive::<Float64Type>().clone())
    });
    columns.collect()
}

fn value(values: &Float64Array, row: usize) -> Option<f64> {
    values.is_valid(row).then(|| values.value(row))
}

fn order(columns: &[Float64Array], a: usize, b: usize) -> Ordering {
    let column = |values: &Float64Array| match (value(values, a), value(values, b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    let mut orders = columns.iter().map(column);
    orders
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn agree(a: &Float64Array, at_a: usize, b: &Float64Array, at_b: usize) -> bool {
    match (value(a, at_a), value(b, at_b)) {
        (Some(a), Some(b)) => Exactness::agree(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Adds the percentile sketches of column `column` that disagree.
fn compare_column(
    plan: &ViewPlan,
    served: &Run,
    recomputed: &Run,
    column: usize,
    comparison: &mut Comparison,
) -> Result<(), Error> {
    for row in 0..recomputed.rows() {
        let fresh = recomputed.states.column(column).as_binary::<i32>();
        let one = recomputed.states.slice(row, 1);
        let old = match plan.encode_key(one.columns())? {
            Some(key) => served.find(&key),
            None => (served.rows() > 0).then(|| served.states.slice(0, 1)),
        };
        // A key that only one side has shows among the rows.
        let Some(old) = old else { continue };
        let old = old.column(column).as_binary::<i32>().clone();
        let agree = match (old.is_valid(0), fresh.is_valid(row)) {
            (false, false) => true,
            (true, true) => sketches_agree(old.value(0), fresh.value(row)),
            _ => false,
        };
        if !agree {
            comparison.note(|| format!("percentile sketches differ for {}", describe(&one, 0)));
        }
    }
    Ok(())
}

/// Same count and extremes, and quantiles within the rank error of both sketches.
fn sketches_agree(old: &[u8], fresh: &[u8]) -> bool {
    let (Some(old), Some(fresh)) = (percentile_state(old), percentile_state(fresh)) else {
        return false;
    };
    if old.n() != fresh.n()
        || old.min_item() != fresh.min_item()
        || old.max_item() != fresh.max_item()
    {
        return false;
    }
    let tolerance = if fresh.is_estimation_mode() || old.is_estimation_mode() {
        2.0 * (old.normalized_rank_error() + fresh.normalized_rank_error())
    } else {
        1e-9
    };
    [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
        .into_iter()
        .all(|share| {
            let Ok(Some(value)) = old.quantile(share, SearchCriteria::Inclusive) else {
                return fresh.is_empty();
            };
            let below = fresh.rank(&value, SearchCriteria::Exclusive).unwrap_or(0.0);
            let upto = fresh.rank(&value, SearchCriteria::Inclusive).unwrap_or(1.0);
            below <= share + tolerance && upto >= share - tolerance
        })
}

fn describe(batch: &RecordBatch, row: usize) -> String {
    let options = arrow::util::display::FormatOptions::new().with_null("NULL");
    let cells = batch
        .columns()
        .iter()
        .zip(batch.schema_ref().fields())
        .filter_map(|(column, field)| {
            if matches!(field.data_type(), DataType::Binary) {
                return None;
            }
            let formatter =
                arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).ok()?;
            Some(format!("{}={}", field.name(), formatter.value(row)))
        });
    cells.collect::<Vec<_>>().join(" ")
}
