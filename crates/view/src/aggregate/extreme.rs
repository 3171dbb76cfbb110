//! `min` and `max` of doubles as Postgres orders them: NaN above everything, -0 and 0 equal.
//!
//! DataFusion's grouped forms start at the largest finite value and compare with `<`, so that infinities
//! and NaN give values that nobody stored. Other types stay with DataFusion.

use std::{fmt::Debug, marker::PhantomData, sync::Arc};

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray},
    datatypes::{DataType, FieldRef, Float32Type, Float64Type},
};
use datafusion::{
    common::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF,
        SetMonotonicity, Signature, StatisticsArgs,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
    scalar::ScalarValue,
};

use super::rows;
use crate::postgres::float::Float;

/// `min` or `max`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extreme {
    greatest: bool,
    stand_in: Arc<AggregateUDF>,
}

impl Extreme {
    pub fn least(stand_in: Arc<AggregateUDF>) -> Extreme {
        Extreme {
            greatest: false,
            stand_in,
        }
    }

    pub fn greatest(stand_in: Arc<AggregateUDF>) -> Extreme {
        Extreme {
            greatest: true,
            stand_in,
        }
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.stand_in.name()
    }

    fn signature(&self) -> &Signature {
        self.stand_in.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.stand_in.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.stand_in.coerce_types(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(match args.return_field.data_type() {
            DataType::Float32 => Box::new(Alone(Groups::<Float32Type>::new(self.greatest))),
            DataType::Float64 => Box::new(Alone(Groups::<Float64Type>::new(self.greatest))),
            _ => return self.stand_in.accumulator(args),
        })
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
        Ok(match args.return_field.data_type() {
            DataType::Float32 => Box::new(Groups::<Float32Type>::new(self.greatest)),
            DataType::Float64 => Box::new(Groups::<Float64Type>::new(self.greatest)),
            _ => return self.stand_in.create_groups_accumulator(args),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.stand_in.create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.stand_in.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        // Statistics of files know nothing of NaN.
        if statistics.return_type.is_floating() {
            return None;
        }
        self.stand_in.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.stand_in.inner().set_monotonicity(data_type)
    }
}

/// The extreme of every group so far; `None` before the first value.
struct Groups<T: ArrowPrimitiveType> {
    greatest: bool,
    values: Vec<Option<T::Native>>,
    of_type: PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType> Debug for Groups<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups")
            .field("groups", &self.values.len())
            .finish_non_exhaustive()
    }
}

impl<T> Groups<T>
where
    T: ArrowPrimitiveType,
    T::Native: Float,
{
    fn new(greatest: bool) -> Groups<T> {
        Groups {
            greatest,
            values: Vec::new(),
            of_type: PhantomData,
        }
    }

    #[inline]
    fn update(&mut self, group: usize, value: T::Native) {
        let value = value.canonical();
        let held = &mut self.values[group];
        let better = held.is_none_or(|held| {
            let order = value.order(held);
            if self.greatest {
                order.is_gt()
            } else {
                order.is_lt()
            }
        });
        if better {
            *held = Some(value);
        }
    }
}

impl<T> GroupsAccumulator for Groups<T>
where
    T: ArrowPrimitiveType,
    T::Native: Float,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        if self.values.len() < total_num_groups {
            self.values.resize(total_num_groups, None);
        }
        let values = values[0].as_primitive::<T>();
        rows::each(values, group_indices, opt_filter, |row, group| {
            self.update(group, values.value(row));
        });
        Ok(())
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.update_batch(states, group_indices, None, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let values = emit_to.take_needed(&mut self.values);
        Ok(Arc::new(PrimitiveArray::<T>::from_iter(values)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        rows::as_states(Groups::<T>::new(self.greatest), values, opt_filter)
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<Option<T::Native>>()
    }
}

/// The same without groups.
struct Alone<T: ArrowPrimitiveType>(Groups<T>);

impl<T: ArrowPrimitiveType> Debug for Alone<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Alone").field(&self.0).finish()
    }
}

impl<T> Accumulator for Alone<T>
where
    T: ArrowPrimitiveType,
    T::Native: Float,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.values.resize(1, None);
        for value in values[0].as_primitive::<T>().iter().flatten() {
            self.0.update(0, value);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.0.values.first().copied().flatten();
        ScalarValue::try_from_array(&PrimitiveArray::<T>::from_iter([value]), 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.size()
    }
}
