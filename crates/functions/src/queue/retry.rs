//! What becomes of an event that did not succeed: another attempt and when, or its end.
//!
//! Pure. As in AWS: what the function did wrong is tried again as often as its settings say, after a minute and then two;
//! what is not its fault uses up none of these attempts, and is tried again with growing waits as long as the event is
//! not too old.

use std::time::Duration;

use lambic_base::retry::Backoff;

use crate::{Options, destination::Condition};

/// Why an event did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its function failed.
    Function,
    /// It was not run, and its function could not help it.
    Platform,
    /// It was not tried: it is older than it may get.
    TooOld,
    /// It was not tried: there is no function for it.
    Gone,
}

#[derive(Debug, PartialEq)]
pub enum Next {
    Again,
    End(Condition),
}

/// `attempts`: of the function, with the last one. `retries`: how many more than one it may have.
pub fn next(cause: Cause, attempts: u32, retries: u32, is_too_old: bool) -> Next {
    match cause {
        Cause::TooOld => Next::End(Condition::EventAgeExceeded),
        Cause::Gone => Next::End(Condition::RetriesExhausted),
        Cause::Function if attempts > retries => Next::End(Condition::RetriesExhausted),
        Cause::Function | Cause::Platform if is_too_old => Next::End(Condition::EventAgeExceeded),
        Cause::Function | Cause::Platform => Next::Again,
    }
}

/// Before a failed event is given to its function again; `attempts` it has had so far.
pub fn wait_of_function(options: &Options, attempts: u32) -> Duration {
    let waits = &options.async_retry_waits;
    let nth = waits.get(attempts.saturating_sub(1) as usize);
    nth.or(waits.last()).copied().unwrap_or(options.retry_wait)
}

/// Before something is tried again that is not the function's fault, after `waits` of these. Half of it is left to chance,
/// which `seed` stands for, so that many do not return at once.
pub fn wait_of_platform(options: &Options, waits: u32, seed: u64) -> Duration {
    let max = options.async_backoff_max;
    let mut backoff = Backoff::new(options.retry_wait, max, seed);
    // Beyond these it does not grow.
    let wait = backoff.nth(waits.min(64) as usize);
    wait.unwrap_or(max)
}

pub fn is_too_old(age_us: i64, age_max: Duration) -> bool {
    u128::try_from(age_us).is_ok_and(|age_us| age_us > age_max.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_function_did_uses_up_its_retries() {
        use Cause::{Function, Gone, Platform, TooOld};
        let exhausted = || Next::End(Condition::RetriesExhausted);
        let age = || Next::End(Condition::EventAgeExceeded);
        for (cause, attempts, retries, is_too_old, expected) in [
            (Function, 1, 2, false, Next::Again),
            (Function, 2, 2, false, Next::Again),
            (Function, 3, 2, false, exhausted()),
            (Function, 1, 0, false, exhausted()),
            (Function, 1, 2, true, age()),
            // It had all of its attempts, however old it is.
            (Function, 3, 2, true, exhausted()),
            (Platform, 0, 0, false, Next::Again),
            (Platform, 2, 0, false, Next::Again),
            (Platform, 0, 2, true, age()),
            (TooOld, 0, u32::MAX, false, age()),
            (Gone, 1, 2, false, exhausted()),
        ] {
            assert_eq!(
                next(cause, attempts, retries, is_too_old),
                expected,
                "{cause:?} {attempts} {retries} {is_too_old}"
            );
        }
    }

    #[test]
    fn an_age_is_too_old_beyond_its_most() {
        let max = Duration::from_secs(60);
        for (age_us, is) in [
            (60_000_000, false),
            (60_000_001, true),
            // A clock was set back.
            (-1, false),
        ] {
            assert_eq!(is_too_old(age_us, max), is, "{age_us}");
        }
    }
}
