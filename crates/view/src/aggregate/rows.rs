//! The rows of a batch that go into groups, and groups that are taken out.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use arrow::array::{Array, BooleanArray};
use datafusion::{
    common::Result,
    logical_expr::{EmitTo, GroupsAccumulator},
};

/// Takes each row that is chosen and has a value, with its group.
pub fn each(
    values: &dyn Array,
    groups: &[usize],
    chosen: Option<&BooleanArray>,
    mut take: impl FnMut(usize, usize),
) {
    let rows = groups.iter().copied().enumerate();
    if chosen.is_none() && values.null_count() == 0 {
        rows.for_each(|(row, group)| take(row, group));
        return;
    }
    for (row, group) in rows {
        let is_chosen = chosen.is_none_or(|chosen| chosen.is_valid(row) && chosen.value(row));
        if is_chosen && values.is_valid(row) {
            take(row, group);
        }
    }
}

/// The state of each row as if it were a group of its own; `empty` has no groups.
pub fn as_states(
    mut empty: impl GroupsAccumulator,
    values: &[ArrayRef],
    chosen: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values[0].len();
    let groups: Vec<usize> = (0..rows).collect();
    empty.update_batch(values, &groups, chosen, rows)?;
    empty.state(EmitTo::All)
}

/// Takes what belongs to the first `taken` groups; what belongs to those that `stay` moves to their new places.
pub fn first<T>(all: &mut HashMap<usize, T>, taken: usize, stay: usize) -> HashMap<usize, T> {
    let mut of_taken = std::mem::take(all);
    if stay > 0 {
        let of_rest = of_taken.extract_if(|group, _| *group >= taken);
        *all = of_rest
            .map(|(group, value)| (group - taken, value))
            .collect();
    }
    of_taken
}
