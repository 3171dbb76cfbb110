//! Sketches of Apache DataSketches: how values and other sketches go in, and their bytes.
//!
//! What is hashed is hashed as other engines do: texts and `bytea` by their bytes, integers, dates and times as
//! 64-bit integers. HLL is answered by the composite estimate only, and Theta sketches are cut to their nominal
//! size, so that both are the same whatever order and split they were made in. KLL is random by design.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Float64Type, Int64Type},
};
use datafusion::{common::Result, scalar::ScalarValue};
use datasketches::{
    hash::value::raw_bytes,
    hll::{HllSketch, HllType, HllUnion},
    kll::{KllFloat, KllSketch},
    theta::{
        CompactThetaSketch, ThetaIntersection, ThetaSketch, ThetaSketchBuilder, ThetaUnion,
        ThetaUnionBuilder,
    },
};

use crate::postgres::{ValueError, float::Float};

/// HyperLogLog with 2^12 registers: relative standard error 1.6 %.
const HLL_LG_K: u8 = 12;
/// Theta sketches of 2^12 hashes: relative standard error 1.6 %.
const THETA_LG_K: u8 = 12;
/// KLL with k = 400: a rank is off by less than 0.7 % of the values, with 99 % confidence.
const KLL_K: u16 = 400;

pub type Hll = Box<HllSketch>;
pub type Kll = Box<KllSketch<KllFloat<f64>>>;

/// Bytes that are no sketch of the kind that is expected.
fn no_sketch(kind: &str) -> ValueError {
    ValueError::new(
        "22023",
        format!("these bytes are no {kind} sketch of DataSketches"),
    )
}

pub fn hll(bytes: &[u8]) -> Result<HllSketch, ValueError> {
    HllSketch::deserialize(bytes).map_err(|_| no_sketch("HLL"))
}

pub fn kll(bytes: &[u8]) -> Result<KllSketch<KllFloat<f64>>, ValueError> {
    KllSketch::deserialize(bytes).map_err(|_| no_sketch("KLL"))
}

pub fn theta(bytes: &[u8]) -> Result<CompactThetaSketch, ValueError> {
    CompactThetaSketch::deserialize(bytes).map_err(|_| no_sketch("Theta"))
}

pub fn update_hll(held: &mut Option<Hll>, values: &ArrayRef, row: usize) -> Result<()> {
    let new = || Box::new(HllSketch::new(HLL_LG_K, HllType::Hll8).expect("a valid lg k"));
    update(held.get_or_insert_with(new).as_mut(), values, row)
}

pub fn merge_hll(held: &mut Option<Hll>, bytes: &[u8]) -> Result<(), ValueError> {
    let other = hll(bytes)?;
    let mut union = HllUnion::new(HLL_LG_K).expect("a valid lg k");
    if let Some(sketch) = held {
        union.update(sketch);
    }
    union.update(&other);
    *held = Some(Box::new(union.to_sketch(HllType::Hll8)));
    Ok(())
}

/// The one form of a sketch: coupons in order, and nothing of the history of its registers.
pub fn hll_bytes(sketch: &HllSketch) -> Vec<u8> {
    /// Offsets and values of the format (DataSketches, `HllUtil` and `PreambleUtil`).
    const FLAGS: usize = 5;
    const MODE: usize = 7;
    const OUT_OF_ORDER: u8 = 16;
    const HISTORY: std::ops::Range<usize> = 8..16;
    let mut bytes = sketch.serialize();
    let coupons = match bytes[MODE] & 3 {
        0 => 8,
        1 => 12,
        _ => {
            bytes[FLAGS] |= OUT_OF_ORDER;
            bytes[HISTORY].fill(0);
            return bytes;
        }
    };
    let (coupons, _) = bytes[coupons..].as_chunks_mut::<4>();
    coupons.sort_unstable_by_key(|coupon| u32::from_le_bytes(*coupon));
    bytes
}

/// A NaN has no rank; like NULL it is left out.
pub fn update_kll(held: &mut Option<Kll>, value: f64) {
    let new = || Box::new(KllSketch::new(KLL_K).expect("a valid k"));
    if let Ok(value) = KllFloat::<f64>::new(value) {
        held.get_or_insert_with(new).update(value);
    }
}

pub fn merge_kll(held: &mut Option<Kll>, bytes: &[u8]) -> Result<(), ValueError> {
    let other = kll(bytes)?;
    match held {
        None => *held = Some(Box::new(other)),
        Some(sketch) => sketch.merge(&other).map_err(|_| no_sketch("KLL"))?,
    }
    Ok(())
}

/// A Theta sketch in the making: of values that came, and of other sketches.
#[derive(Debug, Default)]
pub struct Theta {
    values: Option<ThetaSketch>,
    sketches: Option<ThetaUnion>,
}

impl Theta {
    pub fn update(&mut self, values: &ArrayRef, row: usize) -> Result<()> {
        let new = || {
            let builder = ThetaSketchBuilder::default().lg_k(THETA_LG_K);
            builder.build().expect("a valid lg k")
        };
        update(self.values.get_or_insert_with(new), values, row)
    }

    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), ValueError> {
        let other = theta(bytes)?;
        let union = self.sketches.get_or_insert_with(new_union);
        union.update(&other).map_err(|_| no_sketch("Theta"))
    }

    /// `None` if nothing came.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        if self.values.is_none() && self.sketches.is_none() {
            return None;
        }
        // A union is cut to the nominal size, which the sketch of values is not.
        let mut union = new_union();
        let united = "sketches of our own seed unite";
        if let Some(values) = &self.values {
            union.update(values).expect(united);
        }
        if let Some(sketches) = &self.sketches {
            union.update(&sketches.to_sketch(true)).expect(united);
        }
        Some(union.to_sketch(true).serialize())
    }

    pub fn bytes_held(&self) -> usize {
        let values = self.values.as_ref().map_or(0, ThetaSketch::estimated_size);
        let sketches = self.sketches.as_ref().map_or(0, ThetaUnion::estimated_size);
        size_of::<Theta>() + values + sketches
    }
}

fn new_union() -> ThetaUnion {
    let builder = ThetaUnionBuilder::default().lg_k(THETA_LG_K);
    builder.build().expect("a valid lg k")
}

/// What all sketches have.
#[derive(Debug, Default)]
pub struct Common(ThetaIntersection);

impl Common {
    pub fn meet(&mut self, bytes: &[u8]) -> Result<(), ValueError> {
        self.0
            .update(&theta(bytes)?)
            .map_err(|_| no_sketch("Theta"))
    }

    /// `None` if no sketch came.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        Some(self.0.to_sketch(true)?.serialize())
    }

    pub fn bytes_held(&self) -> usize {
        size_of::<Common>() + self.0.estimated_size()
    }
}

/// What hashes values.
trait Hashing {
    fn take(&mut self, value: impl std::hash::Hash);
}

impl Hashing for HllSketch {
    fn take(&mut self, value: impl std::hash::Hash) {
        self.update(value);
    }
}

impl Hashing for ThetaSketch {
    fn take(&mut self, value: impl std::hash::Hash) {
        self.update(value);
    }
}

fn update(sketch: &mut impl Hashing, values: &ArrayRef, row: usize) -> Result<()> {
    match values.data_type() {
        DataType::Utf8 => sketch.take(raw_bytes::from_str(values.as_string::<i32>().value(row))),
        DataType::Binary => {
            sketch.take(raw_bytes::from_slice(values.as_binary::<i32>().value(row)))
        }
        DataType::Int64 => sketch.take(values.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => {
            let value = values.as_primitive::<Float64Type>().value(row);
            sketch.take(value.canonical().to_bits());
        }
        DataType::Boolean => sketch.take(i64::from(values.as_boolean().value(row))),
        _ => {
            let text = ScalarValue::try_from_array(values, row)?.to_string();
            sketch.take(raw_bytes::from_str(&text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use proptest::prelude::*;

    use super::*;

    fn theta_of(values: &[i64]) -> Theta {
        let array: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let mut theta = Theta::default();
        (0..values.len()).for_each(|row| theta.update(&array, row).unwrap());
        theta
    }

    fn hll_of(values: &[i64]) -> Option<Hll> {
        let array: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let mut sketch = None;
        (0..values.len()).for_each(|row| update_hll(&mut sketch, &array, row).unwrap());
        sketch
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// A sketch has the same bytes whatever the order, the split and the repetitions.
        #[test]
        fn one_set_has_one_sketch(count in 0i64..20_000, cut in any::<prop::sample::Index>()) {
            let values: Vec<i64> = (0..count).map(|value| value * 7919).collect();
            let mut turned: Vec<i64> = values.iter().rev().chain(values.iter().take(50)).copied().collect();
            turned.rotate_left(values.len() / 3);
            let (left, right) = turned.split_at(cut.index(turned.len() + 1));
            let mut theta = theta_of(left);
            if let Some(bytes) = theta_of(right).bytes() {
                theta.merge(&bytes).unwrap();
            }
            prop_assert_eq!(theta.bytes().unwrap_or_default(), theta_of(&values).bytes().unwrap_or_default());
            let mut hll = hll_of(left);
            if let Some(other) = hll_of(right) {
                merge_hll(&mut hll, &hll_bytes(&other)).unwrap();
            }
            let bytes = |sketch: Option<Hll>| sketch.map(|sketch| hll_bytes(&sketch));
            prop_assert_eq!(bytes(hll), bytes(hll_of(&values)));
        }

        #[test]
        fn bytes_that_are_no_sketch_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (hll(&bytes), kll(&bytes), theta(&bytes));
            prop_assert!(theta(&bytes[..bytes.len().min(7)]).is_err());
        }
    }

    #[test]
    fn sketches_have_the_formats_of_datasketches() {
        let sketch = hll_of(&[1, 2, 3]).unwrap();
        // Preamble of 2 ints, version 1, family HLL (7), lg k 12.
        assert_eq!(hll_bytes(&sketch)[..4], [2, 1, 7, 12]);
        let theta = theta_of(&[1, 2, 3]).bytes().unwrap();
        // Preamble of 2 longs, version 3, family compact (3).
        assert_eq!(theta[..3], [2, 3, 3]);
    }
}
