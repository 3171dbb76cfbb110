//! Exact sums of doubles, and of their squares, for every group: the same as [`Summary`] holds, in less memory.

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

use super::{
    exact_sum::ExactSum,
    kind::Kind,
    rows,
    summary::Summary,
    sums::{Sums, held},
};

#[derive(Debug)]
pub struct Floats {
    kind: Kind,
    sums: Sums,
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
            sums: Sums::default(),
            squares,
        })
    }

    fn grow(&mut self, groups: usize) {
        self.sums.grow(groups);
        if let Some(squares) = &mut self.squares {
            squares.resize_with(groups, ExactSum::default);
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
        let sums = &mut self.sums;
        match &mut self.squares {
            None => rows::each(values, group_indices, opt_filter, |row, group| {
                sums.add(group, values.value(row));
            }),
            Some(squares) => rows::each(values, group_indices, opt_filter, |row, group| {
                let value = values.value(row);
                sums.add(group, value);
                squares[group].add_product(value, value);
            }),
        }
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
        let sums = states[0].as_binary::<i32>();
        for (row, &group) in group_indices.iter().enumerate() {
            // A state is NULL where no record was.
            if sums.is_valid(row) && !self.sums.merge(group, sums.value(row), counts.value(row)) {
                return Err(damaged());
            }
        }
        if let Some(squares) = &mut self.squares {
            let column = states[1].as_binary::<i32>();
            for (row, &group) in group_indices.iter().enumerate() {
                if column.is_valid(row) && !squares[group].merge_bytes(column.value(row)) {
                    return Err(damaged());
                }
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = self.sums.take(emit_to);
        let mut counts = Vec::with_capacity(sums.len());
        let mut columns = vec![bytes_of(sums.map(|(sum, count)| {
            counts.push(count);
            sum
        }))];
        if let Some(squares) = &mut self.squares {
            columns.push(bytes_of(emit_to.take_needed(squares).into_iter()));
        }
        columns.push(Arc::new(Int64Array::from(counts)));
        Ok(columns)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let each = self.sums.take(emit_to);
        let groups: Vec<Summary> = match &mut self.squares {
            None => each
                .map(|(sum, count)| Summary::Float { sum, count })
                .collect(),
            Some(squares) => each
                .zip(emit_to.take_needed(squares))
                .map(|((sum, count), squares)| Summary::Spread {
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
            sums: Sums::default(),
            squares: self.squares.is_some().then(Vec::new),
        };
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        let squares = self.squares.as_ref().map_or(0, |squares| {
            squares.capacity() * size_of::<ExactSum>() + held(squares.iter())
        });
        self.sums.bytes_held() + squares
    }
}

pub fn stored(column: &BinaryArray, row: usize) -> Result<ExactSum> {
    ExactSum::from_bytes(column.value(row)).ok_or_else(damaged)
}

fn damaged() -> DataFusionError {
    DataFusionError::Execution("a stored state is damaged".to_owned())
}

fn bytes_of(sums: impl ExactSizeIterator<Item = ExactSum>) -> ArrayRef {
    const USUAL_BYTES: usize = 16;
    let mut column = BinaryBuilder::with_capacity(sums.len(), sums.len() * USUAL_BYTES);
    let mut bytes = Vec::new();
    for sum in sums {
        bytes.clear();
        sum.write_bytes(&mut bytes);
        column.append_value(&bytes);
    }
    Arc::new(column.finish())
}
