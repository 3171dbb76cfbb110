//! A sum of doubles that does not depend on their order: the exact sum, rounded once at the end.
//!
//! Every finite double is an integer multiple of 2^-1074, so a long enough integer holds any sum of
//! doubles exactly (U. Kulisch's long accumulator; R. Neal, *Fast exact summation using small and
//! large superaccumulators*, arXiv:1505.05571). Values of one group are usually of similar size, so
//! only the limbs in use are kept. Because integer addition is associative, states merge in any
//! order to the same bits; the problem and its cost in databases are the subject of Müller et al.,
//! *Reproducible Floating-Point Aggregation in RDBMSs*, arXiv:1802.09883.

use super::integer::{Integer, LOWEST_EXPONENT};

const LIMB_BITS: u32 = 32;
const LIMB_MASK: i64 = (1 << LIMB_BITS) - 1;
/// Limbs hold 32 bits in 64, so this many additions cannot overflow one.
const ADDITIONS_MAX: u32 = 1 << 29;

/// The running exact sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExactSum {
    /// Index of `limbs[0]` among all limbs.
    base: u32,
    /// Two's-complement digits of base 2^32, lowest first, carries not yet propagated.
    limbs: Vec<i64>,
    additions: u32,
    nans: i64,
    infinite_up: i64,
    infinite_down: i64,
}

impl ExactSum {
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.add_times(value, 1);
    }

    /// Adds `value` so many times.
    #[inline]
    pub fn add_times(&mut self, value: f64, times: i64) {
        let bits = value.to_bits();
        let exponent_bits = (bits >> 52 & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        if exponent_bits == 0x7ff {
            self.add_special(value, times);
            return;
        }
        // Subnormals have exponent field 0 but weigh as exponent 1 without the hidden bit.
        let (mantissa, shift) = match exponent_bits {
            0 => (fraction, 0),
            e => (fraction | 1 << 52, e - 1),
        };
        if mantissa == 0 {
            return;
        }
        let sign = if bits >> 63 == 1 { -times } else { times };
        let limb = shift / LIMB_BITS;
        let wide = u128::from(mantissa) << (shift % LIMB_BITS);
        self.reserve(limb, limb + 3);
        let at = (limb - self.base) as usize;
        self.limbs[at] += sign * (wide as i64 & LIMB_MASK);
        self.limbs[at + 1] += sign * ((wide >> 32) as i64 & LIMB_MASK);
        self.limbs[at + 2] += sign * ((wide >> 64) as i64 & LIMB_MASK);
        self.additions += 1;
        if self.additions >= ADDITIONS_MAX {
            self.propagate();
        }
    }

    fn add_special(&mut self, value: f64, times: i64) {
        if value.is_nan() {
            self.nans += times;
        } else if value > 0.0 {
            self.infinite_up += times;
        } else {
            self.infinite_down += times;
        }
    }

    /// Adds `x * y`, so many times, exactly (but for underflow below 2^-1074).
    #[inline]
    pub fn add_product(&mut self, x: f64, y: f64, times: i64) {
        let high = x * y;
        if high.is_finite() {
            self.add_times(high, times);
            self.add_times(x.mul_add(y, -high), times);
        } else {
            self.add_special(high, times);
        }
    }

    pub fn merge(&mut self, other: &ExactSum) {
        self.nans += other.nans;
        self.infinite_up += other.infinite_up;
        self.infinite_down += other.infinite_down;
        if other.limbs.is_empty() {
            return;
        }
        if other.additions > 0 {
            let mut normal = other.clone();
            normal.propagate();
            return self.merge_normal(&normal);
        }
        self.merge_normal(other);
    }

    fn merge_normal(&mut self, other: &ExactSum) {
        // Limbs that hold 32 bits each count as one addition to those that are there.
        if self.additions + 1 >= ADDITIONS_MAX {
            self.propagate();
        }
        if other.limbs.is_empty() {
            return;
        }
        self.reserve(other.base, other.base + other.limbs.len() as u32);
        let at = (other.base - self.base) as usize;
        for (limb, &added) in self.limbs[at..].iter_mut().zip(&other.limbs) {
            *limb += added;
        }
        self.additions += 1;
    }

    /// Makes room for limbs `first..end`.
    #[inline]
    fn reserve(&mut self, first: u32, end: u32) {
        if self.limbs.is_empty() {
            self.base = first;
        }
        if first < self.base {
            let more = (self.base - first) as usize;
            self.limbs.splice(0..0, std::iter::repeat_n(0, more));
            self.base = first;
        }
        let needed = (end - self.base) as usize;
        if self.limbs.len() < needed {
            self.limbs.resize(needed, 0);
        }
    }

    /// Brings every limb but the highest into `0..2^32`; the highest carries the sign.
    fn propagate(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs {
            let sum = *limb + carry;
            *limb = sum & LIMB_MASK;
            carry = sum >> LIMB_BITS;
        }
        if carry != 0 {
            self.limbs.push(carry);
        }
        self.additions = 0;
        let zeros = self.limbs.iter().take_while(|limb| **limb == 0).count();
        self.limbs.drain(..zeros);
        self.base += zeros as u32;
        // One form for one value: a limb of nothing but sign is folded into the one below.
        while let [.., below, top @ (0 | -1)] = self.limbs[..] {
            self.limbs.pop();
            if let Some(last) = self.limbs.last_mut() {
                *last = (top << LIMB_BITS) + below;
            }
        }
        if self.limbs.is_empty() {
            self.base = 0;
        }
    }

    fn special(&self) -> Option<f64> {
        match (self.nans > 0, self.infinite_up > 0, self.infinite_down > 0) {
            (true, _, _) | (_, true, true) => Some(f64::NAN),
            (_, true, _) => Some(f64::INFINITY),
            (_, _, true) => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }

    /// The sum, rounded to the nearest double (ties to even).
    pub fn value(&self) -> f64 {
        self.special()
            .unwrap_or_else(|| self.integer().to_f64(LOWEST_EXPONENT))
    }

    fn integer(&self) -> Integer {
        let mut normal = self.clone();
        normal.propagate();
        let negative = normal.limbs.last().is_some_and(|top| *top < 0);
        if negative {
            normal.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            normal.propagate();
        }
        let mut magnitude = vec![0u32; normal.base as usize];
        for &limb in &normal.limbs {
            // The top limb may hold more than 32 bits after propagation of many carries.
            magnitude.push(limb as u32);
        }
        if let Some(&top) = normal.limbs.last() {
            magnitude.push((top >> LIMB_BITS) as u32);
        }
        Integer {
            negative,
            magnitude,
        }
    }

    /// `base`, flags, limbs: little endian, one form for one value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut normal = self.clone();
        normal.propagate();
        let mut bytes = Vec::with_capacity(28 + normal.limbs.len() * 8);
        bytes.extend(normal.base.to_le_bytes());
        bytes.extend(normal.nans.to_le_bytes());
        bytes.extend(normal.infinite_up.to_le_bytes());
        bytes.extend(normal.infinite_down.to_le_bytes());
        for limb in &normal.limbs {
            bytes.extend(limb.to_le_bytes());
        }
        bytes
    }

    /// `None` if the bytes are not of [`ExactSum::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<ExactSum> {
        let (base, rest) = bytes.split_first_chunk::<4>()?;
        let (nans, rest) = rest.split_first_chunk::<8>()?;
        let (up, rest) = rest.split_first_chunk::<8>()?;
        let (down, rest) = rest.split_first_chunk::<8>()?;
        let (limbs, []) = rest.as_chunks::<8>() else {
            return None;
        };
        Some(ExactSum {
            base: u32::from_le_bytes(*base),
            limbs: limbs.iter().map(|limb| i64::from_le_bytes(*limb)).collect(),
            additions: 0,
            nans: i64::from_le_bytes(*nans),
            infinite_up: i64::from_le_bytes(*up),
            infinite_down: i64::from_le_bytes(*down),
        })
    }

    pub fn bytes_held(&self) -> usize {
        self.limbs.capacity() * 8
    }
}

/// `(count * products - sum_x * sum_y) / count`, the sum of the products of both distances from their means,
/// rounded only once before the division: no cancellation, whatever the values.
pub fn distance_products(count: i64, x: &ExactSum, y: &ExactSum, products: &ExactSum) -> f64 {
    if [x, y, products].iter().any(|sum| sum.special().is_some()) {
        return f64::NAN;
    }
    // `products` counts units of 2^-1074, the product of two sums units of 2^-2148: bring them together.
    let scaled = products
        .integer()
        .times(&Integer::from(count))
        .shifted_left((-LOWEST_EXPONENT) as u32);
    let difference = scaled.minus(&x.integer().times(&y.integer()));
    difference.to_f64(2 * LOWEST_EXPONENT) / count as f64
}

/// The sum of squared distances from the mean.
pub fn squared_distances(count: i64, sum: &ExactSum, squares: &ExactSum) -> f64 {
    let distances = distance_products(count, sum, sum, squares);
    // Squares that underflowed can make it less than nothing.
    if distances < 0.0 { 0.0 } else { distances }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum
    }

    #[test]
    fn sums_are_exact() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[1e100, 1.0, -1e100], 1.0),
            (&[0.1; 10], 1.0),
            (&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
            (&[f64::MAX, f64::MAX], f64::INFINITY),
            (&[5e-324, 5e-324], 1e-323),
            (&[-1.5, 0.25], -1.25),
            (&[1.0, -1.0], 0.0),
            (&[1e16, 1.0, 1.0], 1e16 + 2.0),
            (&[f64::INFINITY, 1.0], f64::INFINITY),
            (&[-4294967296.0, -1.0], -4294967297.0),
        ] {
            assert_eq!(sum(values).value(), expected, "{values:?}");
        }
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        assert!(sum(&[f64::NAN]).value().is_nan());
    }

    #[test]
    fn one_value_has_one_state() {
        // The highest of 32 bits is set, once with and once without a limb for the sign above it.
        let (large, small) = (3.7833661054521337e167, 3.07921977269199e167);
        let mut merged = sum(&[large]);
        merged.merge(&sum(&[small]));
        assert_eq!(merged.to_bytes(), sum(&[large, small]).to_bytes());
    }

    #[test]
    fn variance_does_not_cancel() {
        let values = [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0];
        let mut squares = ExactSum::default();
        values
            .iter()
            .for_each(|value| squares.add_product(*value, *value, 1));
        assert_eq!(squared_distances(4, &sum(&values), &squares), 90.0);
    }

    #[test]
    fn covariance_does_not_cancel() {
        let (x, y) = (
            [1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0],
            [1e9 + 4.0, 1e9 + 2.0, 1e9],
        );
        let mut products = ExactSum::default();
        x.iter()
            .zip(y)
            .for_each(|(x, y)| products.add_product(*x, y, 1));
        assert_eq!(distance_products(3, &sum(&x), &sum(&y), &products), -4.0);
    }

    fn double() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |v| v.is_finite()),
            -1e6..1e6f64,
            (-1000i32..1000).prop_map(f64::from),
        ]
    }

    proptest! {
        /// The bits of the state and of the answer are the same for every split and order.
        #[test]
        fn order_and_grouping_do_not_matter(
            values in prop::collection::vec(double(), 0..60),
            order in any::<prop::sample::Index>(),
            split in any::<prop::sample::Index>(),
        ) {
            let forward = sum(&values);
            let mut turned = values.clone();
            if !turned.is_empty() {
                turned.rotate_left(order.index(values.len()));
                turned.reverse();
            }
            let at = split.index(turned.len() + 1);
            let (left, right) = turned.split_at(at);
            let mut merged = ExactSum::from_bytes(&sum(left).to_bytes()).expect("own bytes");
            merged.merge(&sum(right));
            prop_assert_eq!(merged.to_bytes(), forward.to_bytes());
            prop_assert_eq!(merged.value().to_bits(), forward.value().to_bits());
        }

        /// Integers that fit are summed as integers would be.
        #[test]
        fn integers_agree(values in prop::collection::vec(-(1i64 << 52)..(1i64 << 52), 0..40)) {
            let doubles: Vec<f64> = values.iter().map(|v| *v as f64).collect();
            let expected: i128 = values.iter().map(|v| i128::from(*v)).sum();
            prop_assert_eq!(sum(&doubles).value(), expected as f64);
        }

        #[test]
        fn what_is_subtracted_is_gone(values in prop::collection::vec(any::<f64>(), 1..20)) {
            let mut all = sum(&values);
            all.add_times(values[0], -1);
            prop_assert_eq!(all.to_bytes(), sum(&values[1..]).to_bytes());
        }
    }
}
