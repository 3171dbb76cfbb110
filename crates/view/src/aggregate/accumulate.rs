//! Our aggregates as DataFusion's accumulators: one summary, or one for every group.

use arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::{
    common::Result,
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator},
    scalar::ScalarValue,
};

use super::{input::Input, kind::Kind, rows, summary::Summary};

/// One summary, for aggregation without groups and for windows.
#[derive(Debug)]
pub struct Single {
    pub kind: Kind,
    pub summary: Summary,
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let input = Input::new(&self.kind, values)?;
        if let (Summary::Float { sum, count }, Input::Floats(values)) = (&mut self.summary, &input)
            && values.null_count() == 0
        {
            sum.add_all(values.values());
            *count += values.len() as i64;
            return Ok(());
        }
        for row in (0..values[0].len()).filter(|row| !input.is_null(*row)) {
            self.summary.update(&input, row, 1)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let input = Input::new(&self.kind, values)?;
        for row in (0..values[0].len()).filter(|row| !input.is_null(*row)) {
            self.summary.update(&input, row, -1)?;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        matches!(
            self.summary,
            Summary::Integer { .. }
                | Summary::Float { .. }
                | Summary::Decimal { .. }
                | Summary::Spread { .. }
                | Summary::IntegerSpread { .. }
                | Summary::Pairs(_)
        )
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        (0..states[0].len()).try_for_each(|row| self.summary.merge(states, row))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let columns = self.kind.state_columns(std::slice::from_ref(&self.summary));
        columns
            .iter()
            .map(|column| ScalarValue::try_from_array(column, 0))
            .collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.kind.answer(std::slice::from_ref(&self.summary))?, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.summary.bytes_held()
    }
}

/// A summary for every group.
#[derive(Debug)]
pub struct Grouped {
    pub kind: Kind,
    pub groups: Vec<Summary>,
}

impl Grouped {
    fn grow(&mut self, groups: usize) {
        let kind = &self.kind;
        self.groups
            .resize_with(groups.max(self.groups.len()), || kind.empty());
    }
}

impl GroupsAccumulator for Grouped {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let input = Input::new(&self.kind, values)?;
        for (row, &group) in group_indices.iter().enumerate() {
            let chosen = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if chosen && !input.is_null(row) {
                self.groups[group].update(&input, row, 1)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.kind.answer(&groups)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        Ok(self.kind.state_columns(&groups))
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        for (row, &group) in group_indices.iter().enumerate() {
            self.groups[group].merge(states, row)?;
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let empty = Grouped {
            kind: self.kind.clone(),
            groups: Vec::new(),
        };
        rows::as_states(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        // Asked after every batch: sampling keeps it cheap for many groups.
        const SAMPLE: usize = 64;
        let step = (self.groups.len() / SAMPLE).max(1);
        let sampled: Vec<usize> = self
            .groups
            .iter()
            .step_by(step)
            .map(Summary::bytes_held)
            .collect();
        let mean = sampled.iter().sum::<usize>() / sampled.len().max(1);
        self.groups.capacity() * size_of::<Summary>()
            + self.groups.len() * mean.saturating_sub(size_of::<Summary>())
    }
}
