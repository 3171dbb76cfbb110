//! States that several aggregates have in common, which are kept once.
//!
//! `avg(x)` and `stddev(x)` both need the sum and the number of the `x`, and any number of percentiles of `x` are read off
//! one sketch. Of aggregates over the same values, those are kept whose states have all that the others need.

use std::cmp::Reverse;

use arrow::datatypes::FieldRef;
use datafusion::{
    common::DFSchema,
    logical_expr::{
        Aggregate, Expr, ExprSchemable,
        expr::{AggregateFunction, AggregateFunctionParams},
    },
};

use crate::{Error, aggregate};

/// Which aggregates' states are kept, and where in them those of all are found.
#[derive(Debug)]
pub(crate) struct Shared {
    /// By their places among all, ascending.
    pub kept: Vec<usize>,
    /// For each column of the states that all have, the one of those that are kept.
    pub columns: Vec<usize>,
}

/// What the states of one aggregate are made from, and their columns.
struct States {
    /// Without what only the answer depends on.
    of: AggregateFunctionParams,
    columns: Vec<FieldRef>,
}

impl Shared {
    /// `widths`: how many columns the states of each aggregate have.
    pub fn of(aggregate: &Aggregate, widths: &[usize]) -> Result<Shared, Error> {
        let input = aggregate.input.schema();
        let states = aggregate.aggr_expr.iter().map(|expr| states(expr, input));
        let states: Vec<Option<States>> = states.collect::<Result<_, Error>>()?;
        // The widest first: they have what the others need.
        let mut by_width: Vec<usize> = (0..widths.len()).collect();
        by_width.sort_by_key(|&index| Reverse(widths[index]));
        let mut kept: Vec<usize> = Vec::new();
        let mut found = vec![None; widths.len()];
        for index in by_width {
            let within =
                |&of: &usize| Some((of, places(states[index].as_ref()?, states[of].as_ref()?)?));
            match kept.iter().find_map(within) {
                Some(places) => found[index] = Some(places),
                None => kept.push(index),
            }
        }
        kept.sort_unstable();
        let mut firsts = vec![0; widths.len()];
        let mut next = 0;
        for &index in &kept {
            firsts[index] = next;
            next += widths[index];
        }
        let mut columns = Vec::new();
        for (index, width) in widths.iter().enumerate() {
            match &found[index] {
                Some((of, places)) => {
                    columns.extend(places.iter().map(|place| firsts[*of] + place))
                }
                None => columns.extend(firsts[index]..firsts[index] + width),
            }
        }
        Ok(Shared { kept, columns })
    }
}

/// Where the columns of `one` are among those of `other`; `None` if not all of them are there.
fn places(one: &States, other: &States) -> Option<Vec<usize>> {
    let same = |a: &FieldRef, b: &FieldRef| a.name() == b.name() && a.data_type() == b.data_type();
    let place = |wanted: &FieldRef| other.columns.iter().position(|column| same(column, wanted));
    let places = one.columns.iter().map(place);
    (one.of == other.of).then(|| places.collect()).flatten()
}

/// `None` for an aggregate whose states are no one else's.
fn states(expr: &Expr, input: &DFSchema) -> Result<Option<States>, Error> {
    let Expr::AggregateFunction(AggregateFunction { func, mut params }) =
        expr.clone().unalias_nested().data
    else {
        return Ok(None);
    };
    let Some(first) = params.args.first() else {
        return Ok(None);
    };
    let argument = first.get_type(input)?;
    let Some((columns, arguments)) = aggregate::state_columns(&func, &argument) else {
        return Ok(None);
    };
    if params.distinct {
        return Ok(None);
    }
    params.args.truncate(arguments);
    Ok(Some(States {
        of: params,
        columns,
    }))
}
