//! When the windows of a record begin and end, as functions of its time.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, ListBuilder, PrimitiveArray, PrimitiveBuilder},
    datatypes::{DataType, Field, TimestampMicrosecondType},
};
use datafusion::{
    common::Result,
    logical_expr::{ColumnarValue, Expr},
    scalar::ScalarValue,
};

use crate::postgres::{
    ValueError,
    function::{self, Meaning},
    stride::Stride,
    time::each,
};

type Times = PrimitiveArray<TimestampMicrosecondType>;

/// Functions of a column of times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// The beginning of the window that the time lies in.
    Start { size: Stride, origin: i64 },
    /// The beginnings of all windows that the time lies in, so many, the first one first.
    Starts {
        slide: Stride,
        windows: i64,
        origin: i64,
    },
    /// So many strides later.
    After { stride: Stride, times: i64 },
    /// 1 where the second time is more than `gap` microseconds after the first, or there is no first; else 0.
    BeginsSession { gap: i64 },
}

impl Bound {
    pub fn of(self, times: Vec<Expr>) -> Expr {
        function::call(self, times)
    }
}

fn out_of_range() -> ValueError {
    ValueError::new("22008", "timestamp out of range")
}

impl Meaning for Bound {
    fn name(&self) -> &'static str {
        match self {
            Bound::Start { .. } => "window_start",
            Bound::Starts { .. } => "window_starts",
            Bound::After { .. } => "window_end",
            Bound::BeginsSession { .. } => "begins_session",
        }
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match self {
            Bound::Start { .. } | Bound::After { .. } => arguments[0].clone(),
            Bound::Starts { .. } => {
                DataType::List(Arc::new(Field::new_list_field(arguments[0].clone(), true)))
            }
            Bound::BeginsSession { .. } => DataType::Int64,
        })
    }

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let times = arrays[0].as_primitive::<TimestampMicrosecondType>();
        let computed: ArrayRef = match *self {
            Bound::Start { size, origin } => moved(times, |time| size.bin(time, origin))?,
            Bound::After {
                stride,
                times: count,
            } => moved(times, |time| stride.after(time, count))?,
            Bound::Starts {
                slide,
                windows,
                origin,
            } => starts(times, slide, windows, origin)?,
            Bound::BeginsSession { gap } => {
                let next = arrays[1].as_primitive::<TimestampMicrosecondType>();
                Arc::new(begins(times, next, gap))
            }
        };
        let scalars = arguments
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        debug_assert!(scalars || computed.len() == rows);
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&computed, 0)?),
            false => ColumnarValue::Array(computed),
        })
    }

    fn stands_for(&self, _: &[Expr]) -> Option<Expr> {
        None
    }
}

fn moved(times: &Times, to: impl Fn(i64) -> Option<i64>) -> Result<ArrayRef, ValueError> {
    let moved = each(times, to)?.with_data_type(times.data_type().clone());
    Ok(Arc::new(moved))
}

fn starts(times: &Times, slide: Stride, windows: i64, origin: i64) -> Result<ArrayRef, ValueError> {
    let values =
        PrimitiveBuilder::<TimestampMicrosecondType>::with_capacity(times.len() * windows as usize)
            .with_data_type(times.data_type().clone());
    let field = Field::new_list_field(times.data_type().clone(), true);
    let mut lists = ListBuilder::new(values).with_field(field);
    for time in times {
        if let Some(time) = time {
            let last = slide.bin(time, origin).ok_or_else(out_of_range)?;
            for before in (0..windows).rev() {
                let start = slide.after(last, -before).ok_or_else(out_of_range)?;
                lists.values().append_value(start);
            }
        }
        lists.append(time.is_some());
    }
    Ok(Arc::new(lists.finish()))
}

fn begins(former: &Times, times: &Times, gap: i64) -> Int64Array {
    let pairs = former.iter().zip(times);
    let begins = pairs.map(|(former, time)| match (former, time) {
        (Some(former), Some(time)) => {
            i64::from(i128::from(time) - i128::from(former) > i128::from(gap))
        }
        _ => 1,
    });
    Int64Array::from_iter_values(begins)
}
