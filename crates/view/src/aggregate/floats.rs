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
    groups: Vec<Group>,
    squares: Option<Vec<ExactSum>>,
}

/// Side by side, because each record needs both.
#[derive(Debug, Clone, Default)]
struct Group {
    sum: ExactSum,
    count: i64,
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
            groups: Vec::new(),
            squares,
        })
    }

    fn grow(&mut self, groups: usize) {
        self.groups.resize_with(groups, Group::default);
        if let Some(squares) = &mut self.squares {
            squares.resize_with(groups, ExactSum::default);
        }
    }

    #[inline]
    fn add(&mut self, group: usize, value: f64) {
        let Group { sum, count } = &mut self.groups[group];
        *count += 1;
        sum.add(value);
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
        let sums = states[0].as_binary::<i32>();
        for (row, &group) in group_indices.iter().enumerate() {
            // A state is NULL where no record was.
            if sums.is_valid(row) {
                let Group { sum, count } = &mut self.groups[group];
                merge(sum, sums.value(row))?;
                *count += counts.value(row);
            }
        }
        if let Some(squares) = &mut self.squares {
            let column = states[1].as_binary::<i32>();
            for (row, &group) in group_indices.iter().enumerate() {
                if column.is_valid(row) {
                    merge(&mut squares[group], column.value(row))?;
                }
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        let counts: Int64Array = groups.iter().map(|group| Some(group.count)).collect();
        let mut columns = vec![bytes_of(groups.iter().map(|group| &group.sum))];
        if let Some(squares) = &mut self.squares {
            columns.push(bytes_of(emit_to.take_needed(squares).iter()));
        }
        columns.push(Arc::new(counts));
        Ok(columns)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let each = emit_to.take_needed(&mut self.groups).into_iter();
        let groups: Vec<Summary> = match &mut self.squares {
            None => each
                .map(|Group { sum, count }| Summary::Float { sum, count })
                .collect(),
            Some(squares) => each
                .zip(emit_to.take_needed(squares))
                .map(|(Group { sum, count }, squares)| Summary::Spread {
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
            groups: Vec::new(),
            squares: self.squares.is_some().then(Vec::new),
        };
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        let groups = held(&self.groups, |group| group.sum.bytes_held());
        let squares = self.squares.as_ref();
        groups + squares.map_or(0, |squares| held(squares, ExactSum::bytes_held))
    }
}

/// In bytes; asked after every batch: sampling keeps it cheap for many groups.
fn held<T>(groups: &Vec<T>, apart: impl Fn(&T) -> usize) -> usize {
    const SAMPLE: usize = 64;
    let step = (groups.len() / SAMPLE).max(1);
    let sampled = groups.iter().step_by(step);
    let (count, apart) = (sampled.len().max(1), sampled.map(apart));
    groups.capacity() * size_of::<T>() + apart.sum::<usize>() / count * groups.len()
}

pub fn stored(column: &BinaryArray, row: usize) -> Result<ExactSum> {
    ExactSum::from_bytes(column.value(row)).ok_or_else(damaged)
}

#[inline]
fn merge(sum: &mut ExactSum, stored: &[u8]) -> Result<()> {
    match sum.merge_bytes(stored) {
        true => Ok(()),
        false => Err(damaged()),
    }
}

fn damaged() -> DataFusionError {
    DataFusionError::Execution("a stored state is damaged".to_owned())
}

fn bytes_of<'a>(sums: impl ExactSizeIterator<Item = &'a ExactSum>) -> ArrayRef {
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
