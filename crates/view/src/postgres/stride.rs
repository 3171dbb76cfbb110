//! A length of time that divides all time: the bins of `date_bin`, the windows of `TUMBLE` and `HOP`.

use arrow::datatypes::IntervalMonthDayNano;

use super::{ValueError, calendar};

pub const SECOND: i64 = 1_000_000;
pub const DAY: i64 = 86_400 * SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stride {
    Micros(i64),
    Months(i64),
}

impl Stride {
    /// `what` is its name in errors: "the width of the bins".
    pub fn new(interval: IntervalMonthDayNano, what: &str) -> Result<Stride, ValueError> {
        let wrong = |how: &str| Err(ValueError::new("22023", format!("{what} must be {how}")));
        match (interval.months, micros(interval)) {
            (0, None) => wrong("whole microseconds, and not beyond what timestamps reach"),
            (0, Some(micros)) if micros > 0 => Ok(Stride::Micros(micros)),
            (months, Some(0)) if months > 0 => Ok(Stride::Months(i64::from(months))),
            (months, other) if months != 0 && other != Some(0) => {
                wrong("in months or in days and shorter units, not in both")
            }
            _ => wrong("greater than zero"),
        }
    }

    /// When the stride begins that `time` lies in, if one begins at `origin`.
    pub fn bin(self, time: i64, origin: i64) -> Option<i64> {
        match self {
            Stride::Micros(width) => {
                let since = time.checked_sub(origin)?;
                time.checked_sub(since.rem_euclid(width))
            }
            Stride::Months(width) => {
                let month = |time: i64| {
                    let (year, month, _) = calendar::civil_from_days(time.div_euclid(DAY));
                    year * 12 + month - 1
                };
                let bins = (month(time) - month(origin)).div_euclid(width);
                let start = calendar::add_months(origin, bins * width)?;
                // The origin may stand later in its month than the time in its own.
                match start > time {
                    true => calendar::add_months(origin, (bins - 1) * width),
                    false => Some(start),
                }
            }
        }
    }

    /// So many strides after `time`, or before it.
    pub fn after(self, time: i64, times: i64) -> Option<i64> {
        match self {
            Stride::Micros(width) => time.checked_add(width.checked_mul(times)?),
            Stride::Months(width) => calendar::add_months(time, width.checked_mul(times)?),
        }
    }

    /// How many of `part` make up this one exactly.
    pub fn in_strides_of(self, part: Stride) -> Option<i64> {
        let (whole, part) = match (self, part) {
            (Stride::Micros(whole), Stride::Micros(part))
            | (Stride::Months(whole), Stride::Months(part)) => (whole, part),
            _ => return None,
        };
        (whole % part == 0).then_some(whole / part)
    }
}

/// The days and the shorter units of an interval; days have 24 hours.
pub fn micros(interval: IntervalMonthDayNano) -> Option<i64> {
    let nanos =
        i128::from(interval.days) * i128::from(DAY) * 1000 + i128::from(interval.nanoseconds);
    match nanos % 1000 {
        0 => i64::try_from(nanos / 1000).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: i64, month: i64, day: i64) -> i64 {
        calendar::days_from_civil(year, month, day) * DAY
    }

    #[test]
    fn bins_start_at_the_origin() {
        let quarter = Stride::Micros(900 * SECOND);
        let hour = date(2024, 1, 1) + 10 * 3600 * SECOND;
        assert_eq!(
            quarter.bin(hour + 52 * 60 * SECOND, 0),
            Some(hour + 45 * 60 * SECOND)
        );
        let months = Stride::Months(3);
        assert_eq!(months.bin(date(2024, 5, 20), 0), Some(date(2024, 4, 1)));
        let origin = date(2024, 1, 15);
        assert_eq!(months.bin(date(2024, 4, 14), origin), Some(origin));
        assert_eq!(
            months.bin(date(2023, 12, 31), origin),
            Some(date(2023, 10, 15))
        );
    }

    #[test]
    fn strides_follow_one_another() {
        let days = Stride::Micros(3 * DAY);
        assert_eq!(days.after(date(2024, 2, 28), 2), Some(date(2024, 3, 5)));
        assert_eq!(days.after(i64::MAX, 1), None);
        let months = Stride::Months(5);
        assert_eq!(months.after(date(2024, 1, 1), -1), Some(date(2023, 8, 1)));
        assert_eq!(Stride::Months(6).in_strides_of(Stride::Months(2)), Some(3));
        assert_eq!(Stride::Micros(7).in_strides_of(Stride::Micros(2)), None);
        assert_eq!(Stride::Months(1).in_strides_of(days), None);
    }

    #[test]
    fn intervals_that_divide_nothing_are_refused() {
        for (months, days, nanos, message) in [
            (0, 0, 0, "the size must be greater than zero"),
            (0, -1, 0, "the size must be greater than zero"),
            (-1, 0, 0, "the size must be greater than zero"),
            (
                0,
                0,
                1,
                "the size must be whole microseconds, and not beyond what timestamps reach",
            ),
            (
                1,
                1,
                0,
                "the size must be in months or in days and shorter units, not in both",
            ),
        ] {
            let interval = IntervalMonthDayNano::new(months, days, nanos);
            assert_eq!(
                Stride::new(interval, "the size").unwrap_err().to_string(),
                message
            );
        }
    }
}
