//! Days and dates of the Gregorian calendar, far beyond what nanoseconds reach.
//!
//! The algorithms are Howard Hinnant's, *chrono-Compatible Low-Level Date Algorithms*.

const DAY: i64 = 86_400_000_000;

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The day, counted from 1970-01-01, of a date.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Microseconds `months` later; the day is the month's last where it has no such day.
pub fn add_months(time: i64, months: i64) -> Option<i64> {
    let (year, month, day) = civil_from_days(time.div_euclid(DAY));
    let month = year * 12 + month - 1 + months;
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
    let next = match month {
        12 => days_from_civil(year + 1, 1, 1),
        month => days_from_civil(year, month + 1, 1),
    };
    let first = days_from_civil(year, month, 1);
    let day = first + (day - 1).min(next - first - 1);
    day.checked_mul(DAY)?.checked_add(time.rem_euclid(DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_agree() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
        assert_eq!(days_from_civil(2000, 2, 29), 11_016);
        for day in (-800_000..3_000_000).step_by(97) {
            let (year, month, of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, of_month), day);
        }
        let january = days_from_civil(2024, 1, 31) * DAY;
        assert_eq!(
            add_months(january, 1),
            Some(days_from_civil(2024, 2, 29) * DAY)
        );
        assert_eq!(
            add_months(january, -1),
            Some(days_from_civil(2023, 12, 31) * DAY)
        );
    }
}
