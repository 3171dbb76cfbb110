//! The aggregates whose states Lambic defines itself: exact sums and DataSketches.
//!
//! DataFusion's own sums of doubles depend on the order of the rows, and the bytes of its sketches are
//! internal to one version of it. Both would break the merge law: what was merged from batch and speed
//! must equal what is recomputed from scratch, bit for bit, and states must stay readable. Its sums of
//! decimals wrap around, and its grouped `min` and `max` of doubles invent values where there are infinities
//! and NaN; its `percentile_cont` rounds. All other aggregates (count, `min` and `max` of other types, …) are
//! DataFusion's.

mod accumulate;
#[cfg(test)]
mod columns_tests;
mod distinct;
mod exact;
pub mod exact_sum;
mod expansion;
mod extreme;
mod floats;
mod input;
mod integer;
mod integers;
pub mod kind;
mod limbs;
pub mod pairs;
mod percentile;
mod rows;
pub mod sketch;
mod sketching;
pub mod summary;
mod sums;
mod window;

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::{
    functions_aggregate::{
        approx_distinct::approx_distinct_udaf,
        approx_percentile_cont::approx_percentile_cont_udaf,
        average::avg_udaf,
        correlation::corr_udaf,
        covariance::{covar_pop_udaf, covar_samp_udaf},
        min_max::{max_udaf, min_udaf},
        percentile_cont::percentile_cont_udaf,
        regr,
        stddev::{stddev_pop_udaf, stddev_udaf},
        sum::sum_udaf,
        variance::{var_pop_udaf, var_samp_udaf},
    },
    logical_expr::{AggregateUDF, Signature, Volatility},
};
use serde::{Deserialize, Serialize};

pub use sketching::{NAMES as SKETCHES, is_random};

use exact::{Exact, Which};
use extreme::Extreme;
use pairs::Statistic;
use percentile::Percentile;

/// The states written by these aggregates; raise it when their bytes change, so that views recompute.
pub const STATE_ENCODING: u32 = 4;

/// How doubles are summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatSums {
    /// The exact sum, rounded once: the same bits whatever the order.
    #[default]
    Exact,
    /// As they come, which is faster: the last digits depend on the order.
    Fast,
}

/// Our aggregates, under the names of those that they stand in for.
pub fn all(float_sums: FloatSums) -> Vec<AggregateUDF> {
    let of_numbers = numeric().map(|(name, aliases, which, stand_in)| {
        AggregateUDF::from(Exact {
            name,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            which,
            stand_in,
            float_sums,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    });
    let extremes = [Extreme::least(min_udaf()), Extreme::greatest(max_udaf())];
    let percentile = Percentile {
        stand_in: percentile_cont_udaf(),
    };
    of_numbers
        .into_iter()
        .chain(extremes.map(AggregateUDF::from))
        .chain([AggregateUDF::from(percentile)])
        .chain(sketching::functions())
        .collect()
}

/// True if the answers of the aggregate depend on the order of the doubles that it sums up.
pub fn rounds_in_order(function: &AggregateUDF) -> bool {
    let exact = function.inner().downcast_ref::<Exact>();
    exact.is_some_and(Exact::rounds_in_order)
}

/// The columns of its states, named by what they hold, and how many of its arguments they depend on; `None` if they are
/// DataFusion's. Columns of one name and type over the same values are the same.
pub fn state_columns(
    function: &AggregateUDF,
    argument: &DataType,
) -> Option<(Vec<FieldRef>, usize)> {
    let exact = function.inner().downcast_ref::<Exact>()?;
    exact.state_columns(argument)
}

type Named = (
    &'static str,
    &'static [&'static str],
    Which,
    Arc<AggregateUDF>,
);

fn numeric() -> [Named; 20] {
    let spread = |sample, root| Which::Spread { sample, root };
    let covariance = |sample| Which::Pairs(Statistic::Covariance { sample });
    [
        ("sum", &[], Which::Sum, sum_udaf()),
        ("avg", &["mean"], Which::Average, avg_udaf()),
        (
            "stddev",
            &["stddev_samp"],
            spread(true, true),
            stddev_udaf(),
        ),
        ("stddev_pop", &[], spread(false, true), stddev_pop_udaf()),
        (
            "var",
            &["var_samp", "var_sample", "variance"],
            spread(true, false),
            var_samp_udaf(),
        ),
        (
            "var_pop",
            &["var_population", "variance_pop"],
            spread(false, false),
            var_pop_udaf(),
        ),
        (
            "covar_samp",
            &["covar"],
            covariance(true),
            covar_samp_udaf(),
        ),
        ("covar_pop", &[], covariance(false), covar_pop_udaf()),
        (
            "corr",
            &[],
            Which::Pairs(Statistic::Correlation),
            corr_udaf(),
        ),
        (
            "regr_count",
            &[],
            Which::Pairs(Statistic::Count),
            regr::regr_count_udaf(),
        ),
        (
            "regr_avgx",
            &[],
            Which::Pairs(Statistic::AverageX),
            regr::regr_avgx_udaf(),
        ),
        (
            "regr_avgy",
            &[],
            Which::Pairs(Statistic::AverageY),
            regr::regr_avgy_udaf(),
        ),
        (
            "regr_sxx",
            &[],
            Which::Pairs(Statistic::SquaresX),
            regr::regr_sxx_udaf(),
        ),
        (
            "regr_syy",
            &[],
            Which::Pairs(Statistic::SquaresY),
            regr::regr_syy_udaf(),
        ),
        (
            "regr_sxy",
            &[],
            Which::Pairs(Statistic::Products),
            regr::regr_sxy_udaf(),
        ),
        (
            "regr_slope",
            &[],
            Which::Pairs(Statistic::Slope),
            regr::regr_slope_udaf(),
        ),
        (
            "regr_intercept",
            &[],
            Which::Pairs(Statistic::Intercept),
            regr::regr_intercept_udaf(),
        ),
        (
            "regr_r2",
            &[],
            Which::Pairs(Statistic::R2),
            regr::regr_r2_udaf(),
        ),
        (
            "approx_distinct",
            &[],
            Which::DistinctCount,
            approx_distinct_udaf(),
        ),
        (
            "approx_percentile_cont",
            &[],
            Which::Percentile,
            approx_percentile_cont_udaf(),
        ),
    ]
}
