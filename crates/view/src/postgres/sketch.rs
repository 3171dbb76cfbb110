//! Functions of sketches: what they estimate, and one Theta sketch without another.
//!
//! They have the names of DataSketches' own extension for Postgres; the aggregates that make sketches stand in
//! `aggregate`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    common::{Result, plan_err},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    scalar::ScalarValue,
};
use datasketches::{common::SearchCriteria, kll::KllFloat, theta::ThetaANotB};

use super::ValueError;
use crate::aggregate::sketch::{hll, kll, theta};

pub fn functions() -> Vec<ScalarUDF> {
    [
        ("hll_sketch_get_estimate", Which::HllEstimate),
        ("theta_sketch_get_estimate", Which::ThetaEstimate),
        ("theta_sketch_a_not_b", Which::ThetaANotB),
        ("kll_double_sketch_get_quantile", Which::KllQuantile),
        ("kll_double_sketch_get_rank", Which::KllRank),
        ("kll_double_sketch_get_n", Which::KllCount),
    ]
    .into_iter()
    .map(|(name, which)| {
        ScalarUDF::from(OfSketch {
            name,
            which,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    HllEstimate,
    ThetaEstimate,
    ThetaANotB,
    KllQuantile,
    KllRank,
    KllCount,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OfSketch {
    name: &'static str,
    which: Which,
    signature: Signature,
}

impl OfSketch {
    fn arguments(&self) -> &'static [DataType] {
        match self.which {
            Which::HllEstimate | Which::ThetaEstimate | Which::KllCount => &[DataType::Binary],
            Which::ThetaANotB => &[DataType::Binary, DataType::Binary],
            Which::KllQuantile | Which::KllRank => &[DataType::Binary, DataType::Float64],
        }
    }
}

impl ScalarUDFImpl for OfSketch {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.which {
            Which::ThetaANotB => DataType::Binary,
            Which::KllCount => DataType::Int64,
            _ => DataType::Float64,
        })
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = self.arguments();
        let fits = |(given, wanted): (&DataType, &DataType)| {
            given.is_null()
                || given.is_binary() && wanted.is_binary()
                || given.is_numeric() && wanted.is_numeric()
        };
        if given.len() == wanted.len() && given.iter().zip(wanted).all(fits) {
            return Ok(wanted.to_vec());
        }
        let forms = match self.which {
            Which::ThetaANotB => "(sketch, sketch)",
            Which::KllQuantile => "(sketch, share of the values)",
            Which::KllRank => "(sketch, value)",
            _ => "(sketch)",
        };
        plan_err!(
            "No function matches: {} is called as {forms}, and a sketch is bytea",
            self.name
        )
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let sketches = cast(&arrays[0], &DataType::Binary)?;
        let sketches = sketches.as_binary::<i32>();
        let computed: ArrayRef = match self.which {
            Which::HllEstimate => Arc::new(each(sketches, |bytes| {
                Ok(Some(hll(bytes)?.composite_estimate()))
            })?),
            Which::ThetaEstimate => {
                Arc::new(each(sketches, |bytes| Ok(Some(theta(bytes)?.estimate())))?)
            }
            Which::KllCount => {
                let counts = sketches.iter().map(|bytes| bytes.map(count).transpose());
                Arc::new(counts.collect::<Result<Int64Array, ValueError>>()?)
            }
            Which::ThetaANotB => Arc::new(a_not_b(sketches, arrays[1].as_binary::<i32>())?),
            Which::KllQuantile => Arc::new(with(sketches, &arrays[1], quantile)?),
            Which::KllRank => Arc::new(with(sketches, &arrays[1], rank)?),
        };
        let is_scalar = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
        Ok(match arguments.args.iter().all(is_scalar) {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&computed, 0)?),
            false => ColumnarValue::Array(computed),
        })
    }
}

fn each(
    sketches: &BinaryArray,
    of: impl Fn(&[u8]) -> Result<Option<f64>, ValueError>,
) -> Result<Float64Array, ValueError> {
    let answers = sketches.iter().map(|bytes| bytes.map_or(Ok(None), &of));
    answers.collect()
}

fn with(
    sketches: &BinaryArray,
    numbers: &ArrayRef,
    of: impl Fn(&[u8], f64) -> Result<Option<f64>, ValueError>,
) -> Result<Float64Array, ValueError> {
    let numbers = numbers.as_primitive::<Float64Type>();
    let pairs = sketches.iter().zip(numbers);
    let answers = pairs.map(|pair| match pair {
        (Some(bytes), Some(number)) => of(bytes, number),
        _ => Ok(None),
    });
    answers.collect()
}

fn count(bytes: &[u8]) -> Result<i64, ValueError> {
    let count = kll(bytes)?.n();
    i64::try_from(count).map_err(|_| ValueError::out_of_range("bigint out of range"))
}

fn quantile(bytes: &[u8], share: f64) -> Result<Option<f64>, ValueError> {
    if !(0.0..=1.0).contains(&share) {
        let message = format!("the share of the values must be from 0 to 1, not {share}");
        return Err(ValueError::new("22023", message));
    }
    let found = kll(bytes)?.quantile(share, SearchCriteria::Inclusive);
    Ok(found.ok().flatten().map(KllFloat::into_inner))
}

fn rank(bytes: &[u8], value: f64) -> Result<Option<f64>, ValueError> {
    let sketch = kll(bytes)?;
    let value = KllFloat::<f64>::new(value).ok();
    Ok(value.and_then(|value| sketch.rank(&value, SearchCriteria::Inclusive)))
}

fn a_not_b(a: &BinaryArray, b: &BinaryArray) -> Result<BinaryArray, ValueError> {
    let difference = |a: &[u8], b: &[u8]| {
        let difference = ThetaANotB::default().compute(&theta(a)?, &theta(b)?, true);
        difference.map(|sketch| sketch.serialize()).map_err(|_| {
            ValueError::new(
                "22023",
                "the two Theta sketches were made with different seeds",
            )
        })
    };
    let pairs = a.iter().zip(b);
    let differences = pairs.map(|pair| match pair {
        (Some(a), Some(b)) => difference(a, b).map(Some),
        _ => Ok(None),
    });
    let differences = differences.collect::<Result<Vec<_>, ValueError>>()?;
    Ok(BinaryArray::from_iter(differences))
}
