//! Sums of integers, and of their squares, for every group: the same as [`Summary`] holds, column by column, because
//! there may be many groups of a few records each.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Decimal256Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Decimal128Type, Decimal256Type, Int64Type, i256},
};
use datafusion::{
    common::Result,
    logical_expr::{EmitTo, GroupsAccumulator},
};

use super::{
    kind::{INTEGER_SUM, Kind, decimal_sum},
    rows,
    summary::{Summary, add_wide, total},
};

#[derive(Debug)]
pub struct Integers {
    kind: Kind,
    counts: Vec<i64>,
    sums: Vec<i128>,
    squares: Option<Squares>,
}

/// Sums of squares: those of `low`, and what they came to before they grew too wide.
#[derive(Debug, Default)]
struct Squares {
    low: Vec<i128>,
    /// Empty as long as no sum grew too wide.
    high: Vec<i256>,
}

impl Squares {
    #[inline]
    fn add(&mut self, group: usize, value: i128) {
        match self.low[group].checked_add(value) {
            Some(sum) => self.low[group] = sum,
            None => {
                self.high.resize(self.low.len(), i256::ZERO);
                add_wide(&mut self.high[group], &mut self.low[group], value);
            }
        }
    }

    fn add_total(&mut self, group: usize, value: i256) {
        match value.to_i128() {
            Some(value) => self.add(group, value),
            None => {
                self.high.resize(self.low.len(), i256::ZERO);
                self.high[group] = self.high[group].wrapping_add(value);
            }
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<i256> {
        let low = emit_to.take_needed(&mut self.low);
        if self.high.is_empty() {
            return low.into_iter().map(i256::from_i128).collect();
        }
        self.high.resize(self.low.len() + low.len(), i256::ZERO);
        let high = emit_to.take_needed(&mut self.high);
        let each = high.into_iter().zip(low);
        each.map(|(high, low)| total(high, low)).collect()
    }
}

impl Integers {
    /// `None` if `kind` is of other values.
    pub fn of(kind: &Kind) -> Option<Integers> {
        let squares = match kind {
            Kind::SumInteger | Kind::AverageInteger => None,
            Kind::IntegerSpread { .. } => Some(Squares::default()),
            _ => return None,
        };
        Some(Integers {
            kind: kind.clone(),
            counts: Vec::new(),
            sums: Vec::new(),
            squares,
        })
    }

    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        self.sums.resize(groups, 0);
        if let Some(squares) = &mut self.squares {
            squares.low.resize(groups, 0);
        }
    }

    #[inline]
    fn add(&mut self, group: usize, value: i64) {
        let value = i128::from(value);
        self.counts[group] += 1;
        self.sums[group] += value;
        if let Some(squares) = &mut self.squares {
            squares.add(group, value * value);
        }
    }
}

impl GroupsAccumulator for Integers {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let values = cast(&values[0], &DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>();
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
        let sums = states[0].as_primitive::<Decimal128Type>();
        let squares = self.squares.as_mut().map(|squares| {
            let column = states[1].as_primitive::<Decimal256Type>();
            (squares, column)
        });
        let counts = states[states.len() - 1].as_primitive::<Int64Type>();
        // A state is NULL where no record was.
        let states = |row: &usize| sums.is_valid(*row);
        for row in (0..sums.len()).filter(states) {
            let group = group_indices[row];
            self.sums[group] += sums.value(row);
            self.counts[group] += counts.value(row);
        }
        if let Some((squares, column)) = squares {
            for row in (0..sums.len()).filter(states) {
                squares.add_total(group_indices[row], column.value(row));
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = Int64Array::from(emit_to.take_needed(&mut self.counts));
        let sums = Decimal128Array::from(emit_to.take_needed(&mut self.sums));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(sums.with_data_type(INTEGER_SUM))];
        if let Some(squares) = &mut self.squares {
            let squares = Decimal256Array::from(squares.take(emit_to));
            columns.push(Arc::new(squares.with_data_type(decimal_sum(0))));
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
                .map(|(count, sum)| Summary::Integer { sum, count })
                .collect(),
            Some(squares) => each
                .zip(squares.take(emit_to))
                .map(|((count, sum), high)| Summary::IntegerSpread {
                    sum,
                    high,
                    low: 0,
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
        let empty = Integers {
            kind: self.kind.clone(),
            counts: Vec::new(),
            sums: Vec::new(),
            squares: self.squares.is_some().then(Squares::default),
        };
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        let squares = self.squares.as_ref().map_or(0, |squares| {
            squares.low.capacity() * size_of::<i128>() + squares.high.capacity() * size_of::<i256>()
        });
        self.counts.capacity() * size_of::<i64>()
            + self.sums.capacity() * size_of::<i128>()
            + squares
    }
}
