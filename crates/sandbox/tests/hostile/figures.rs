//! What the long form shows: how late attacks were, and what a neighbour noticed of them.
//!
//! The neighbour is asked alone between all attacks, so that what else the machine does meanwhile is in both of its times. A
//! window is one pass over the table; the figures are medians over the windows, since one in which the machine was busy
//! otherwise says nothing.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// The issue's: of the neighbour's 99th percentile.
pub const RATIO_MAX: f64 = 1.5;
/// Kinds of attacks that are named.
const SLOWEST: usize = 20;

/// The neighbour's times in one window.
#[derive(Default, Clone)]
pub struct Window {
    /// With nobody beside it.
    pub alone: Vec<Duration>,
    /// With an attack beside it.
    pub beside: Vec<Duration>,
    /// With loops beside it that leave the processors to whoever wants them: what the kernel and the machine below it take
    /// of the times where no processor is idle, whatever runs there.
    pub limit: Vec<Duration>,
}

/// One percentile, milliseconds: medians over the windows.
#[derive(Debug, PartialEq)]
pub struct Figure {
    pub alone_ms: f64,
    pub beside_ms: f64,
    /// The median of the windows' ratios, which need not be that of the medians.
    pub ratio: f64,
}

/// In which of `windows` a round is; the last one has the rest.
pub fn window_of(round: usize, rounds_of_window: usize, windows: usize) -> usize {
    (round / rounds_of_window).min(windows - 1)
}

/// `part` of a hundred, with what one of the two others takes beside it.
pub fn figure(windows: &[Window], part: usize, beside: fn(&Window) -> &Vec<Duration>) -> Figure {
    let each = |time: fn(&Window) -> &Vec<Duration>| -> Vec<f64> {
        windows
            .iter()
            .map(|window| percentile(time(window), part))
            .collect()
    };
    let (alone, beside) = (each(|window| &window.alone), each(beside));
    let ratios = alone
        .iter()
        .zip(&beside)
        .map(|(alone, beside)| beside / alone);
    let ratio = median(ratios.collect());
    Figure {
        alone_ms: median(alone),
        beside_ms: median(beside),
        ratio,
    }
}

/// Beside what most events took longer than `bound_ms`, how many, and of how many.
pub fn slowest<'a>(
    beside: &BTreeMap<&'a str, Vec<Duration>>,
    bound_ms: f64,
) -> Vec<(&'a str, usize, usize)> {
    let is_slow = |time: &&Duration| time.as_secs_f64() * 1e3 > bound_ms;
    let all = beside.iter();
    let all = all.map(|(file, times)| (*file, times.iter().filter(is_slow).count(), times.len()));
    let mut slow: Vec<_> = all.filter(|(_, slow, _)| *slow > 0).collect();
    slow.sort_by_key(|(_, slow, _)| Reverse(*slow));
    slow.truncate(SLOWEST);
    slow
}

/// Milliseconds.
fn percentile(times: &[Duration], part: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * part / 100).min(times.len() - 1);
    times[at].as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (below, above) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(below, above)
}

#[test]
fn a_window_that_was_disturbed_does_not_count() {
    let millis = |from: u64| (from..from + 100).map(Duration::from_millis).collect();
    let quiet = Window {
        alone: millis(1),
        beside: millis(101),
        limit: millis(51),
    };
    let disturbed = Window {
        beside: millis(100_000),
        ..quiet.clone()
    };
    let windows = [quiet.clone(), disturbed, quiet];
    let found = figure(&windows, 99, |window| &window.beside);
    let expected = Figure {
        alone_ms: 100.0,
        beside_ms: 200.0,
        ratio: 2.0,
    };
    assert_eq!(found, expected);
    let limit = Figure {
        beside_ms: 150.0,
        ratio: 1.5,
        ..expected
    };
    assert_eq!(figure(&windows, 99, |window| &window.limit), limit);
}

#[test]
fn what_a_neighbour_notices_most_is_named() {
    let times = |millis: &[u64]| millis.iter().map(|ms| Duration::from_millis(*ms)).collect();
    let beside = BTreeMap::from([
        ("a", times(&[1, 5, 1])),
        ("b", times(&[1, 2])),
        ("c", times(&[5, 5])),
    ]);
    assert_eq!(slowest(&beside, 2.0), [("c", 2, 2), ("a", 1, 3)]);
}

#[test]
fn the_last_window_has_the_rest() {
    for (round, expected) in [(0, 0), (9, 0), (10, 1), (29, 2), (34, 2)] {
        assert_eq!(window_of(round, 10, 3), expected);
    }
    assert_eq!(window_of(3, 10, 1), 0);
}
