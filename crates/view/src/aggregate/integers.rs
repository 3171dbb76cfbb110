//! Sums of integers, and of their squares, for every group: the same as [`Summary`] holds, in little memory, because
//! there may be many groups of a few records each.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

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
    summary::Summary,
};

/// `S` is what a group keeps of the squares.
#[derive(Debug)]
pub struct Integers<S> {
    kind: Kind,
    groups: Vec<Group<S>>,
    /// What does not fit there, of the few groups that have it.
    apart: HashMap<usize, Apart>,
}

/// Side by side, because each record needs all of it, and waits for its memory where groups are many.
#[derive(Debug, Clone, Copy, Default)]
struct Group<S> {
    squares: S,
    sum: i64,
    count: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Apart {
    sum: i128,
    squares: i256,
}

/// A sum of squares, or nothing where there is none.
pub trait Squares: Copy + Default + Debug + Send + Sync + 'static {
    const ARE_KEPT: bool;

    /// With the square of `value`, if there is room for it.
    fn with(self, value: i64) -> Option<Self>;

    /// With a sum of squares, if there is room for it.
    fn with_total(self, total: i256) -> Option<Self>;

    fn total(self) -> i128;
}

impl Squares for () {
    const ARE_KEPT: bool = false;

    #[inline]
    fn with(self, _: i64) -> Option<()> {
        Some(())
    }

    fn with_total(self, _: i256) -> Option<()> {
        Some(())
    }

    fn total(self) -> i128 {
        0
    }
}

impl Squares for i128 {
    const ARE_KEPT: bool = true;

    #[inline]
    fn with(self, value: i64) -> Option<i128> {
        let value = i128::from(value);
        self.checked_add(value * value)
    }

    fn with_total(self, total: i256) -> Option<i128> {
        self.checked_add(total.to_i128()?)
    }

    fn total(self) -> i128 {
        self
    }
}

/// `None` if `kind` is of other values.
pub fn of(kind: &Kind) -> Option<Box<dyn GroupsAccumulator>> {
    match kind {
        Kind::SumInteger | Kind::AverageInteger => {
            Some(Box::new(Integers::<()>::empty(kind.clone())))
        }
        Kind::IntegerSpread { .. } => Some(Box::new(Integers::<i128>::empty(kind.clone()))),
        _ => None,
    }
}

impl<S: Squares> Integers<S> {
    fn empty(kind: Kind) -> Integers<S> {
        Integers {
            kind,
            groups: Vec::new(),
            apart: HashMap::new(),
        }
    }

    fn grow(&mut self, groups: usize) {
        self.groups.resize(groups, Group::default());
    }

    #[inline]
    fn add(&mut self, group: usize, value: i64) {
        let Group {
            squares,
            sum,
            count,
        } = &mut self.groups[group];
        *count += 1;
        match (sum.checked_add(value), squares.with(value)) {
            (Some(with), Some(with_square)) => (*sum, *squares) = (with, with_square),
            _ => self.add_apart(group, value),
        }
    }

    #[cold]
    fn add_apart(&mut self, group: usize, value: i64) {
        self.move_apart(group);
        let Group { squares, sum, .. } = &mut self.groups[group];
        *sum = value;
        *squares = S::default()
            .with(value)
            .expect("a sum of nothing has room for any square");
    }

    fn move_apart(&mut self, group: usize) {
        let Group { squares, sum, .. } = &mut self.groups[group];
        let apart = self.apart.entry(group).or_default();
        apart.sum += i128::from(std::mem::take(sum));
        let squares = std::mem::take(squares).total();
        apart.squares = apart.squares.wrapping_add(i256::from_i128(squares));
    }

    #[inline]
    fn merge(&mut self, group: usize, sum: i128, squares: i256, count: i64) {
        let group_of = &mut self.groups[group];
        group_of.count += count;
        let narrow = i64::try_from(sum).ok();
        let with = narrow.and_then(|sum| group_of.sum.checked_add(sum));
        match (with, group_of.squares.with_total(squares)) {
            (Some(with), Some(with_squares)) => {
                (group_of.sum, group_of.squares) = (with, with_squares);
            }
            _ => {
                let apart = self.apart.entry(group).or_default();
                apart.sum += sum;
                apart.squares = apart.squares.wrapping_add(squares);
            }
        }
    }

    /// Takes the first groups out, in their order: sum, sum of squares and count of each.
    fn take(&mut self, emit_to: EmitTo) -> impl ExactSizeIterator<Item = (i128, i256, i64)> {
        let groups = emit_to.take_needed(&mut self.groups);
        let apart = rows::first(&mut self.apart, groups.len(), self.groups.len());
        groups.into_iter().enumerate().map(move |(place, group)| {
            let (mut sum, squares) = (i128::from(group.sum), group.squares.total());
            let mut squares = i256::from_i128(squares);
            if !apart.is_empty()
                && let Some(apart) = apart.get(&place)
            {
                sum += apart.sum;
                squares = squares.wrapping_add(apart.squares);
            }
            (sum, squares, group.count)
        })
    }
}

impl<S: Squares> GroupsAccumulator for Integers<S> {
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
        let squares = S::ARE_KEPT.then(|| states[1].as_primitive::<Decimal256Type>());
        let counts = states[states.len() - 1].as_primitive::<Int64Type>();
        for (row, &group) in group_indices.iter().enumerate() {
            // A state is NULL where no record was.
            if sums.is_valid(row) {
                let squares = squares.map_or(i256::ZERO, |squares| squares.value(row));
                self.merge(group, sums.value(row), squares, counts.value(row));
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        let mut sums = Vec::with_capacity(taken.len());
        let mut squares = Vec::with_capacity(if S::ARE_KEPT { taken.len() } else { 0 });
        let mut counts = Vec::with_capacity(taken.len());
        for (sum, square, count) in taken {
            sums.push(sum);
            counts.push(count);
            if S::ARE_KEPT {
                squares.push(square);
            }
        }
        let sums = Decimal128Array::from(sums).with_data_type(INTEGER_SUM);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(sums)];
        if S::ARE_KEPT {
            let squares = Decimal256Array::from(squares).with_data_type(decimal_sum(0));
            columns.push(Arc::new(squares));
        }
        columns.push(Arc::new(Int64Array::from(counts)));
        Ok(columns)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit_to);
        let groups: Vec<Summary> = taken
            .map(|(sum, high, count)| match S::ARE_KEPT {
                false => Summary::Integer { sum, count },
                true => Summary::IntegerSpread {
                    sum,
                    high,
                    low: 0,
                    count,
                },
            })
            .collect();
        self.kind.answer(&groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let empty = Integers::<S>::empty(self.kind.clone());
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Group<S>>()
            + self.apart.capacity() * size_of::<(usize, Apart)>()
    }
}
