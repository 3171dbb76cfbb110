//! Groups that are kept together are the same as one summary for each.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use datafusion::{
    common::Result,
    logical_expr::{EmitTo, GroupsAccumulator},
};
use proptest::prelude::*;

use super::{accumulate::Grouped, exact::for_groups, kind::Kind};

const GROUPS: usize = 4;

/// Values that reach the widest squares.
fn integer() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        any::<Option<i64>>(),
        Just(Some(i64::MIN)),
        Just(Some(i64::MAX)),
        (-100..100i64).prop_map(Some),
    ]
}

fn double() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        any::<Option<f64>>(),
        Just(Some(f64::NAN)),
        Just(Some(f64::NEG_INFINITY)),
        (-100.0..100.0f64).prop_map(Some),
    ]
}

fn both(kind: &Kind) -> [Box<dyn GroupsAccumulator>; 2] {
    let groups = Vec::new();
    let kind = kind.clone();
    let columns = for_groups(&kind).expect("a kind whose groups are kept together");
    [columns, Box::new(Grouped { kind, groups })]
}

fn answers(mut accumulator: Box<dyn GroupsAccumulator>) -> [String; 2] {
    let shown = |answer: Result<ArrayRef>| match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => error.to_string(),
    };
    let first = accumulator.evaluate(EmitTo::First(1));
    [shown(first), shown(accumulator.evaluate(EmitTo::All))]
}

/// The rows before `cut` taken in, those after it merged as states.
fn states(
    mut accumulator: Box<dyn GroupsAccumulator>,
    values: &ArrayRef,
    groups: &[usize],
    chosen: &BooleanArray,
    cut: usize,
) -> String {
    let (head, tail) = groups.split_at(cut);
    let values = (values.slice(0, cut), values.slice(cut, tail.len()));
    let chosen = chosen.slice(0, cut);
    let taken = accumulator.update_batch(&[values.0], head, Some(&chosen), GROUPS);
    taken.expect("values of the kind");
    let merged = accumulator.convert_to_state(&[values.1], None);
    let merged = merged.expect("values of the kind");
    let taken = accumulator.merge_batch(&merged, tail, GROUPS);
    taken.expect("states of the kind");
    let first = accumulator.state(EmitTo::First(1)).expect("states");
    let rest = accumulator.state(EmitTo::All).expect("states");
    format!("{first:?} {rest:?}")
}

fn check(kinds: &[Kind], values: &ArrayRef, groups: &[usize], chosen: &BooleanArray, cut: usize) {
    for kind in kinds {
        let [columns, summaries] = both(kind).map(|mut accumulator| {
            let values = [Arc::clone(values)];
            let taken = accumulator.update_batch(&values, groups, None, GROUPS);
            taken.expect("values of the kind");
            answers(accumulator)
        });
        assert_eq!(columns, summaries, "{kind:?}");
        let [columns, summaries] =
            both(kind).map(|accumulator| states(accumulator, values, groups, chosen, cut));
        assert_eq!(columns, summaries, "{kind:?}");
    }
}

proptest! {
    #[test]
    fn integers_are_as_in_summaries(
        rows in proptest::collection::vec((integer(), 0..GROUPS, any::<Option<bool>>()), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let values: Int64Array = rows.iter().map(|row| row.0).collect();
        let groups: Vec<usize> = rows.iter().map(|row| row.1).collect();
        let chosen = rows.iter().map(|row| row.2).collect();
        let spread = Kind::IntegerSpread { sample: true, root: true };
        let kinds = [Kind::SumInteger, Kind::AverageInteger, spread];
        check(&kinds, &(Arc::new(values) as _), &groups, &chosen, cut.index(rows.len() + 1));
    }

    #[test]
    fn doubles_are_as_in_summaries(
        rows in proptest::collection::vec((double(), 0..GROUPS, any::<Option<bool>>()), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let values: Float64Array = rows.iter().map(|row| row.0).collect();
        let groups: Vec<usize> = rows.iter().map(|row| row.1).collect();
        let chosen = rows.iter().map(|row| row.2).collect();
        let spread = Kind::Spread { sample: false, root: false };
        let kinds = [Kind::SumFloat, Kind::AverageFloat, spread];
        check(&kinds, &(Arc::new(values) as _), &groups, &chosen, cut.index(rows.len() + 1));
    }
}
