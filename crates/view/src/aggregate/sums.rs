//! Exact sums of doubles of many groups, in the least memory that most of them need: where groups are many, each record
//! waits for the memory of its own.

use std::collections::HashMap;

use datafusion::logical_expr::EmitTo;

use super::{
    exact_sum::{ExactSum, parts_in},
    expansion::Pair,
    rows,
};

/// A sum and a count for every group, as in [`super::summary::Summary::Float`].
#[derive(Debug, Default)]
pub struct Sums {
    groups: Vec<Group>,
    /// What two doubles do not hold, of the few groups that have it.
    apart: HashMap<usize, ExactSum>,
}

/// Side by side, because each record needs both.
#[derive(Debug, Clone, Default)]
struct Group {
    near: Pair,
    count: i64,
}

impl Sums {
    pub fn grow(&mut self, groups: usize) {
        self.groups.resize_with(groups, Group::default);
    }

    #[inline]
    pub fn add(&mut self, group: usize, value: f64) {
        let Group { near, count } = &mut self.groups[group];
        *count += 1;
        if !near.add(value) {
            self.add_apart(group, value);
        }
    }

    #[cold]
    fn add_apart(&mut self, group: usize, value: f64) {
        let apart = self.apart.entry(group).or_default();
        if !value.is_finite() {
            return apart.add(value);
        }
        let near = std::mem::replace(&mut self.groups[group].near, Pair::of(value));
        near.parts().into_iter().for_each(|part| apart.add(part));
    }

    /// Adds what [`ExactSum::to_bytes`] wrote of `count` records; false, and nothing is added, if the bytes are no sum.
    #[inline]
    pub fn merge(&mut self, group: usize, bytes: &[u8], count: i64) -> bool {
        match parts_in(bytes) {
            Some(parts) => {
                for part in parts {
                    if !self.groups[group].near.add(part) {
                        self.add_apart(group, part);
                    }
                }
            }
            None if self.apart.entry(group).or_default().merge_bytes(bytes) => {}
            None => return false,
        }
        self.groups[group].count += count;
        true
    }

    /// Takes the first groups out, in their order.
    pub fn take(&mut self, emit_to: EmitTo) -> impl ExactSizeIterator<Item = (ExactSum, i64)> {
        let groups = emit_to.take_needed(&mut self.groups);
        let apart = rows::first(&mut self.apart, groups.len(), self.groups.len());
        let each = groups.into_iter().enumerate();
        each.map(move |(place, Group { near, count })| {
            let mut sum = ExactSum::from(near);
            if !apart.is_empty()
                && let Some(apart) = apart.get(&place)
            {
                sum.merge(apart);
            }
            (sum, count)
        })
    }

    pub fn bytes_held(&self) -> usize {
        let apart = held(self.apart.values());
        self.groups.capacity() * size_of::<Group>()
            + self.apart.capacity() * size_of::<(usize, ExactSum)>()
            + apart
    }
}

/// Beside the sums themselves, in bytes; asked after every batch: a sample keeps it cheap for many groups.
pub fn held<'a>(sums: impl ExactSizeIterator<Item = &'a ExactSum>) -> usize {
    const SAMPLE: usize = 64;
    let count = sums.len();
    let sampled: usize = sums.take(SAMPLE).map(ExactSum::bytes_held).sum();
    sampled * count / count.clamp(1, SAMPLE)
}
