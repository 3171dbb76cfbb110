//! The years that times may be in: those that text can say. Files keep times as numbers, which reach further than any
//! calendar.

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray},
    datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType},
};

pub(crate) const EXPECTED: &str = "a time in the years 1 to 9999";

const DAY_FIRST: i64 = -719_162;
const DAY_LAST: i64 = 2_932_896;
const DAY_US: i64 = 86_400_000_000;

/// The rows whose time is in no such year, with the number that stands there.
pub(crate) fn outside(times: &ArrayRef) -> Vec<(usize, String)> {
    fn rows<T: ArrowPrimitiveType>(
        times: &ArrayRef,
        unit: &str,
        (first, last): (i64, i64),
    ) -> Vec<(usize, String)>
    where
        T::Native: Into<i64>,
    {
        let times = times.as_primitive::<T>();
        let all = (0..times.len()).filter(|row| times.is_valid(*row));
        all.map(|row| (row, times.value(row).into()))
            .filter(|(_, time)| !(first..=last).contains(time))
            .map(|(row, time)| (row, format!("{time} {unit} since 1970")))
            .collect()
    }
    match times.data_type() {
        DataType::Date32 => rows::<Date32Type>(times, "days", (DAY_FIRST, DAY_LAST)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => rows::<TimestampMicrosecondType>(
            times,
            "microseconds",
            (DAY_FIRST * DAY_US, (DAY_LAST + 1) * DAY_US - 1),
        ),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int64Array, TimestampMicrosecondArray};

    use super::*;
    use crate::text::{parse_date, parse_timestamp};

    #[test]
    fn the_years_of_text_are_inside() {
        let first = parse_timestamp("0001-01-01").unwrap();
        let last = parse_timestamp("9999-12-31T23:59:59.999999Z").unwrap();
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![
            Some(first),
            Some(last),
            None,
            Some(first - 1),
            Some(last + 1),
            Some(i64::MAX),
        ]));
        let rows: Vec<usize> = outside(&times).into_iter().map(|(row, _)| row).collect();
        assert_eq!(rows, [3, 4, 5]);
        let (first, last) = (parse_date("0001-01-01"), parse_date("9999-12-31"));
        let (first, last) = (first.unwrap(), last.unwrap());
        let days: ArrayRef = Arc::new(Date32Array::from(vec![first, last, last + 1, first - 1]));
        let told = "2932897 days since 1970".to_owned();
        assert_eq!(outside(&days)[0], (2, told));
        assert_eq!(outside(&days).len(), 2);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
        assert_eq!(outside(&numbers), []);
    }
}
