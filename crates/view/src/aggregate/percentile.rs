//! `percentile_cont` as Postgres computes it.
//!
//! DataFusion's cuts the share between two values to 6 digits, and orders NaN by its sign. It still gathers the values,
//! so that states are its own; what is read off them is ours.

use std::{slice, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array},
    compute::cast,
    datatypes::{DataType, FieldRef, Float64Type},
};
use datafusion::{
    common::{Result, internal_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
        Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
    scalar::ScalarValue,
};

use super::exact::{is_descending, share_argument};
use crate::postgres::float::Float;

/// `percentile_cont`. It is not simplified to DataFusion's `min` and `max`, which are wrong about NaN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Percentile {
    pub stand_in: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        self.stand_in.name()
    }

    fn aliases(&self) -> &[String] {
        self.stand_in.aliases()
    }

    fn signature(&self) -> &Signature {
        self.stand_in.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.stand_in.return_type(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.expr_fields[0].data_type().is_null() {
            return self.stand_in.accumulator(args);
        }
        let is_distinct = args.is_distinct;
        let place = Place::of(&args);
        Ok(Box::new(Alone {
            gathered: self.stand_in.accumulator(args)?,
            place: place?,
            is_distinct,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.stand_in.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.stand_in.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let place = Place::of(&args);
        Ok(Box::new(Groups {
            gathered: self.stand_in.create_groups_accumulator(args)?,
            place: place?,
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        // It orders the values itself; DataFusion need not, and refuses two that want another order.
        AggregateOrderSensitivity::Insensitive
    }

    fn supports_within_group_clause(&self) -> bool {
        self.stand_in.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stand_in.documentation()
    }
}

/// Where in the order of the values the answer lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// From 0 to 1.
    share: f64,
    descending: bool,
}

impl Place {
    fn of(args: &AccumulatorArgs) -> Result<Place> {
        Ok(Place {
            share: share_argument(args)?,
            descending: is_descending(args),
        })
    }

    /// In the very steps of Postgres (`percentile_cont_final_common`, `float8_lerp`), as every one of them rounds.
    fn read(self, values: &mut [f64]) -> Option<f64> {
        let last = values.len().checked_sub(1)?;
        let rank = self.share * last as f64;
        let part = rank - rank.floor();
        let order = |a: &f64, b: &f64| match self.descending {
            true => b.order(*a),
            false => a.order(*b),
        };
        let (_, low, above) = values.select_nth_unstable_by(rank.floor() as usize, order);
        let low = *low;
        if part == 0.0 {
            return Some(low);
        }
        let high = above.iter().copied().min_by(order)?;
        Some((low + part * (high - low)).canonical())
    }
}

/// The values of a state, none of which is null.
fn doubles(values: &ArrayRef) -> Result<Vec<f64>> {
    let values = cast(values, &DataType::Float64)?;
    let values = values.as_primitive::<Float64Type>().values();
    Ok(values.iter().map(|value| value.canonical()).collect())
}

/// The values of all rows.
#[derive(Debug)]
struct Alone {
    gathered: Box<dyn Accumulator>,
    place: Place,
    is_distinct: bool,
}

impl Accumulator for Alone {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.gathered.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        // DataFusion's takes the first state and leaves the others.
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.gathered.update_batch(&[values])?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.gathered.state()?;
        let [ScalarValue::List(list)] = state.as_slice() else {
            return internal_err!("the state of percentile_cont is a list");
        };
        let values = list.value(0);
        // A window asks again, and only distinct values stay when a state is taken.
        if !self.is_distinct {
            self.gathered.update_batch(slice::from_ref(&values))?;
        }
        let found = self.place.read(&mut doubles(&values)?);
        ScalarValue::Float64(found).cast_to(values.data_type())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.gathered.state()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.gathered.size()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.gathered.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.gathered.supports_retract_batch()
    }
}

/// The values of every group.
struct Groups {
    gathered: Box<dyn GroupsAccumulator>,
    place: Place,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.gathered
            .update_batch(values, group_indices, opt_filter, total_num_groups)
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.gathered
            .merge_batch(states, group_indices, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let states = self.gathered.state(emit_to)?;
        let lists = states[0].as_list::<i32>();
        let mut values = doubles(lists.values())?;
        let groups = lists.offsets().windows(2);
        let found: Float64Array = groups
            .map(|ends| {
                let group = ends[0] as usize..ends[1] as usize;
                self.place.read(&mut values[group])
            })
            .collect();
        Ok(cast(&found, &lists.value_type())?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.gathered.state(emit_to)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        // DataFusion's panics if the share comes with them.
        self.gathered.convert_to_state(&values[..1], opt_filter)
    }

    fn size(&self) -> usize {
        self.gathered.size()
    }
}
