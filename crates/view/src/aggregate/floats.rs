//! Exact sums of doubles, and of their squares, for every group: the same as [`Summary`] holds, column by column.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Int64Array},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use datafusion::{
    common::Result,
    error::DataFusionError,
    logical_expr::{EmitTo, GroupsAccumulator},
};

use super::{exact_sum::ExactSum, kind::Kind, rows, summary::Summary};

#[derive(Debug)]
pub struct Floats {
    kind: Kind,
    counts: Vec<i64>,
    sums: Vec<ExactSum>,
    squares: Option<Vec<ExactSum>>,
}

impl Floats {
    /// `None` if `kind` is of other values.
    pub fn of(kind: &Kind) -> Option<Floats> {
        let squares = match kind {
            Kind::SumFloat | Kind::AverageFloat => None,
            Kind::Spread { .. } => Some(Vec::new()),
            _ => return None,
        };
        Some(Floats {
            kind: kind.clone(),
            counts: Vec::new(),
            sums: Vec::new(),
            squares,
        })
    }

    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        self.sums.resize_with(groups, ExactSum::default);
        if let Some(squares) = &mut self.squares {
            squares.resize_with(groups, ExactSum::default);
        }
    }

    #[inline]
    fn add(&mut self, group: usize, value: f64) {
        self.counts[group] += 1;
        self.sums[group].add(value);
        if let Some(squares) = &mut self.squares {
            squares[group].add_product(value, value);
        }
    }
}

impl GroupsAccumulator for Floats {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let values = cast(&values[0], &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        rows::each(values, group_indices, opt_filter, |row, group| {
            self.add(group, values.value(row));
        });
        Ok(())
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let counts = states[states.len() - 1].as_primitive::<Int64Type>();
        let of = [Some(&mut self.sums), self.squares.as_mut()];
        for (sums, column) in of.into_iter().flatten().zip(states) {
            let column = column.as_binary::<i32>();
            for (row, &group) in group_indices.iter().enumerate() {
                // A state is NULL where no record was.
                if column.is_valid(row) {
                    sums[group].merge(&stored(column, row)?);
                }
            }
        }
        for (row, &group) in group_indices.iter().enumerate() {
            if states[0].is_valid(row) {
                self.counts[group] += counts.value(row);
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = Int64Array::from(emit_to.take_needed(&mut self.counts));
        let mut columns = vec![bytes_of(&emit_to.take_needed(&mut self.sums))];
        if let Some(squares) = &mut self.squares {
            columns.push(bytes_of(&emit_to.take_needed(squares)));
        }
        columns.push(Arc::new(counts));
        Ok(columns)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let counts = emit_to.take_needed(&mut self.counts);
        let sums = emit_to.take_needed(&mut self.sums);
        let each = counts.into_iter().zip(sums);
        let groups: Vec<Summary> = match &mut self.squares {
            None => each
                .map(|(count, sum)| Summary::Float { sum, count })
                .collect(),
            Some(squares) => each
                .zip(emit_to.take_needed(squares))
                .map(|((count, sum), squares)| Summary::Spread {
                    sum: Box::new(sum),
                    squares: Box::new(squares),
                    count,
                })
                .collect(),
        };
        self.kind.answer(&groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let empty = Floats {
            kind: self.kind.clone(),
            counts: Vec::new(),
            sums: Vec::new(),
            squares: self.squares.is_some().then(Vec::new),
        };
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        let counts = self.counts.capacity() * size_of::<i64>();
        let sums = [Some(&self.sums), self.squares.as_ref()];
        let sums = sums.into_iter().flatten().map(held);
        counts + sums.sum::<usize>()
    }
}

/// In bytes; asked after every batch: sampling keeps it cheap for many groups.
fn held(sums: &Vec<ExactSum>) -> usize {
    const SAMPLE: usize = 64;
    let step = (sums.len() / SAMPLE).max(1);
    let sampled = sums.iter().step_by(step);
    let (count, apart) = (sampled.len().max(1), sampled.map(ExactSum::bytes_held));
    sums.capacity() * size_of::<ExactSum>() + apart.sum::<usize>() / count * sums.len()
}

pub fn stored(column: &BinaryArray, row: usize) -> Result<ExactSum> {
    ExactSum::from_bytes(column.value(row))
        .ok_or_else(|| DataFusionError::Execution("a stored state is damaged".to_owned()))
}

fn bytes_of(sums: &[ExactSum]) -> ArrayRef {
    const USUAL_BYTES: usize = 60;
    let mut column = BinaryBuilder::with_capacity(sums.len(), sums.len() * USUAL_BYTES);
    let mut bytes = Vec::new();
    for sum in sums {
        bytes.clear();
        sum.write_bytes(&mut bytes);
        column.append_value(&bytes);
    }
    Arc::new(column.finish())
}
