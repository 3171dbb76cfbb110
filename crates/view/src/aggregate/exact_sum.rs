//! A sum of doubles that does not depend on their order: the exact sum, rounded once at the end.
//!
//! Every finite double is an integer multiple of 2^-1074, so a long enough integer holds any sum of
//! doubles exactly (U. Kulisch's long accumulator; R. Neal, *Fast exact summation using small and
//! large superaccumulators*, arXiv:1505.05571). Values of one group are usually of similar size, so
//! that a few doubles hold their sum, or a window of 256 bits; only what does not fit goes to a number of any length.
//! Because integer addition is associative, states merge in any order to the same bits; the problem and
//! its cost in databases are the subject of Müller et al., *Reproducible Floating-Point Aggregation in
//! RDBMSs*, arXiv:1802.09883.

use super::{
    expansion::{Expansion, LANES, Lanes, PARTS, Pair},
    integer::{Integer, LOWEST_EXPONENT},
    limbs::Limbs,
    window::Window,
};

/// The running exact sum, in up to three pieces.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    near: Expansion,
    /// What did not fit there, and products: most sums of values have none.
    wide: Option<Box<Wide>>,
}

#[derive(Debug, Clone, Default)]
struct Wide {
    window: Window,
    /// What did not fit into the window, and what is no number.
    far: Option<Box<Far>>,
}

#[derive(Debug, Clone, Default)]
struct Far {
    limbs: Limbs,
    nans: i64,
    infinite_up: i64,
    infinite_down: i64,
}

impl Far {
    fn specials(&self) -> [i64; 3] {
        [self.nans, self.infinite_up, self.infinite_down]
    }
}

/// A finite double's magnitude: an integer of 53 bits, times 2^(`shift` - 1074).
#[inline]
fn parts(value: f64) -> (u64, u32) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    match (bits >> 52 & 0x7ff) as u32 {
        // Subnormals have exponent field 0 but weigh as exponent 1 without the hidden bit.
        0 => (fraction, 0),
        exponent => (fraction | 1 << 52, exponent - 1),
    }
}

/// Zeros at the end are left out.
#[inline]
fn write_parts<const N: usize>(parts: [f64; N], bytes: &mut Vec<u8>) {
    for part in parts.into_iter().take_while(|part| *part != 0.0) {
        bytes.extend(part.to_le_bytes());
    }
}

/// The doubles that are added up, if the bytes have that form.
#[inline]
pub fn parts_in(bytes: &[u8]) -> Option<impl ExactSizeIterator<Item = f64> + Clone + use<'_>> {
    let (parts, rest) = bytes.as_chunks::<8>();
    let parts = parts.iter().map(|part| f64::from_le_bytes(*part));
    let are_parts = rest.is_empty() && parts.len() <= PARTS && parts.clone().all(f64::is_finite);
    are_parts.then_some(parts)
}

impl ExactSum {
    #[inline]
    pub fn add(&mut self, value: f64) {
        if !self.near.add(value) {
            self.add_apart(value);
        }
    }

    #[cold]
    fn add_apart(&mut self, value: f64) {
        if !value.is_finite() {
            return self.add_special(value, 1);
        }
        let near = std::mem::replace(&mut self.near, Expansion::of(value));
        let wide = self.wide();
        near.parts().for_each(|part| wide.add_double(part));
    }

    /// Adds many: several sums at once, because each addition waits for the one before it in its sum.
    pub fn add_all(&mut self, values: &[f64]) {
        let mut lanes = Lanes::default();
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            if lanes.add(block) {
                continue;
            }
            lanes.take().for_each(|part| self.add(part));
            if !lanes.add(block) {
                block.iter().for_each(|value| self.add(*value));
            }
        }
        lanes.take().for_each(|part| self.add(part));
        rest.iter().for_each(|value| self.add(*value));
    }

    /// Takes `value` out again.
    #[inline]
    pub fn subtract(&mut self, value: f64) {
        match value.is_finite() {
            true => self.add(-value),
            false => self.add_special(value, -1),
        }
    }

    /// Adds `x * y` exactly (but for underflow below 2^-1074).
    #[inline]
    pub fn add_product(&mut self, x: f64, y: f64) {
        self.add_signed_product(x, y, false);
    }

    /// Takes `x * y` out again.
    #[inline]
    pub fn subtract_product(&mut self, x: f64, y: f64) {
        self.add_signed_product(x, y, true);
    }

    #[inline]
    fn add_signed_product(&mut self, x: f64, y: f64, turned: bool) {
        let high = x * y;
        if !high.is_finite() {
            return self.add_special(high, if turned { -1 } else { 1 });
        }
        let ((x_mantissa, x_shift), (y_mantissa, y_shift)) = (parts(x), parts(y));
        match (x_shift + y_shift).checked_sub(LOWEST_EXPONENT.unsigned_abs()) {
            Some(shift) => {
                let product = u128::from(x_mantissa) * u128::from(y_mantissa);
                let negative = x.is_sign_negative() != y.is_sign_negative();
                self.wide().add(product, shift, negative != turned);
            }
            None => {
                let low = x.mul_add(y, -high);
                for part in [high, low] {
                    self.add(if turned { -part } else { part });
                }
            }
        }
    }

    #[inline]
    fn wide(&mut self) -> &mut Wide {
        self.wide.get_or_insert_default()
    }

    fn far(&self) -> Option<&Far> {
        self.wide.as_ref()?.far.as_deref()
    }

    #[cold]
    fn add_special(&mut self, value: f64, times: i64) {
        let far = self.wide().far();
        if value.is_nan() {
            far.nans += times;
        } else if value > 0.0 {
            far.infinite_up += times;
        } else {
            far.infinite_down += times;
        }
    }

    pub fn merge(&mut self, other: &ExactSum) {
        other.near.parts().for_each(|part| self.add(part));
        if let Some(other) = &other.wide {
            self.wide().merge(other);
        }
    }

    fn special(&self) -> Option<f64> {
        let far = self.far()?;
        match (far.nans > 0, far.infinite_up > 0, far.infinite_down > 0) {
            (true, _, _) | (_, true, true) => Some(f64::NAN),
            (_, true, _) => Some(f64::INFINITY),
            (_, _, true) => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }

    /// The sum, rounded to the nearest double (ties to even).
    pub fn value(&self) -> f64 {
        if let (Some([nearest, _]), None) = (self.near.rounded(), &self.wide) {
            return nearest;
        }
        let wide = self.all_wide();
        if wide.far.is_none() {
            return wide.window.value();
        }
        self.special()
            .unwrap_or_else(|| wide.total().into_integer().to_f64(LOWEST_EXPONENT))
    }

    /// The sum in one piece less.
    fn all_wide(&self) -> Wide {
        let mut wide = self.wide.as_deref().cloned().unwrap_or_default();
        self.near.parts().for_each(|part| wide.add_double(part));
        wide
    }

    fn integer(&self) -> Integer {
        self.all_wide().total().into_integer()
    }

    /// One form for one value, little endian. Where up to three doubles add up to it, these: the one next to it, the one
    /// next to what is left, and so on. Else `base`, flags and limbs, whose length is no multiple of that of doubles.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_bytes(&mut bytes);
        bytes
    }

    /// Appends [`ExactSum::to_bytes`].
    #[inline]
    pub fn write_bytes(&self, bytes: &mut Vec<u8>) {
        match (self.near.rounded(), &self.wide) {
            (Some(parts), None) => write_parts(parts, bytes),
            _ => self.write_wide(bytes),
        }
    }

    #[cold]
    fn write_wide(&self, bytes: &mut Vec<u8>) {
        let specials = self.far().map_or([0; 3], Far::specials);
        if specials == [0; 3]
            && let Some(parts) = self.rounded()
        {
            return write_parts(parts, bytes);
        }
        let wide = self.all_wide();
        let mut write = |base: u32, limbs: &[i64]| {
            bytes.extend(base.to_le_bytes());
            for count in specials {
                bytes.extend(count.to_le_bytes());
            }
            bytes.extend(limbs.iter().flat_map(|limb| limb.to_le_bytes()));
        };
        if wide.far.is_none() {
            return wide.window.with_limbs(write);
        }
        let (base, limbs) = wide.total().into_normal();
        write(base, &limbs);
    }

    /// See [`Expansion::rounded`].
    fn rounded(&self) -> Option<[f64; PARTS]> {
        let mut left = self.clone();
        let mut parts = [0.0; PARTS];
        for part in &mut parts {
            *part = left.value();
            if !part.is_finite() {
                return None;
            }
            left.subtract(*part);
        }
        let is_all = left.value() == 0.0;
        is_all.then_some(parts)
    }

    /// `None` if the bytes are not of [`ExactSum::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<ExactSum> {
        let mut sum = ExactSum::default();
        if let Some(parts) = parts_in(bytes) {
            sum.near = Expansion::of_parts(parts);
            return Some(sum);
        }
        let (base, rest) = bytes.split_first_chunk::<4>()?;
        let base = u32::from_le_bytes(*base);
        let (specials, rest) = rest.split_first_chunk::<24>()?;
        let (limbs, []) = rest.as_chunks::<8>() else {
            return None;
        };
        let limbs = limbs.iter().map(|limb| i64::from_le_bytes(*limb));
        if !Limbs::may_be(base, limbs.len()) {
            return None;
        }
        match Window::of_limbs(base, limbs.clone()) {
            Some(window) => sum.wide().window = window,
            None => sum.wide().far().limbs = Limbs::normal(base, limbs),
        }
        if specials.iter().any(|byte| *byte != 0) {
            let (specials, []) = specials.as_chunks::<8>() else {
                return None;
            };
            let far = sum.wide().far();
            far.nans = i64::from_le_bytes(specials[0]);
            far.infinite_up = i64::from_le_bytes(specials[1]);
            far.infinite_down = i64::from_le_bytes(specials[2]);
        }
        Some(sum)
    }

    /// Adds the sum that was written as `bytes`; false, and nothing is added, if they are none.
    #[inline]
    pub fn merge_bytes(&mut self, bytes: &[u8]) -> bool {
        if let Some(parts) = parts_in(bytes) {
            parts.for_each(|part| self.add(part));
            return true;
        }
        let other = ExactSum::from_bytes(bytes);
        other.map(|other| self.merge(&other)).is_some()
    }

    /// Beside the sum itself.
    pub fn bytes_held(&self) -> usize {
        let far = self.far();
        let far = far.map_or(0, |far| size_of::<Far>() + far.limbs.bytes_held());
        self.wide.as_ref().map_or(0, |_| size_of::<Wide>() + far)
    }
}

impl From<Pair> for ExactSum {
    fn from(pair: Pair) -> ExactSum {
        ExactSum {
            near: pair.into(),
            wide: None,
        }
    }
}

impl Wide {
    /// Adds a finite one.
    fn add_double(&mut self, value: f64) {
        let (mantissa, shift) = parts(value);
        self.add(mantissa.into(), shift, value.is_sign_negative());
    }

    /// Adds an integer of at most 106 bits, times 2^(`shift` - 1074).
    #[inline]
    fn add(&mut self, magnitude: u128, shift: u32, negative: bool) {
        if !self.window.add(magnitude, shift, negative) {
            self.add_far(magnitude, shift, negative);
        }
    }

    #[cold]
    fn add_far(&mut self, magnitude: u128, shift: u32, negative: bool) {
        let window = std::mem::take(&mut self.window);
        self.far().limbs.add_window(&window);
        let fits = self.window.add(magnitude, shift, negative);
        debug_assert!(fits, "an empty window takes any double and any product");
    }

    fn far(&mut self) -> &mut Far {
        self.far.get_or_insert_default()
    }

    fn merge(&mut self, other: &Wide) {
        if !self.window.merge(&other.window) {
            self.far().limbs.add_window(&other.window);
        }
        if let Some(other) = &other.far {
            let far = self.far();
            far.limbs.merge(&other.limbs);
            far.nans += other.nans;
            far.infinite_up += other.infinite_up;
            far.infinite_down += other.infinite_down;
        }
    }

    /// Without what is no number.
    fn total(self) -> Limbs {
        let mut total = self.far.map_or_else(Limbs::default, |far| far.limbs);
        total.add_window(&self.window);
        total
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
            (&[f64::MAX, 5e291, 5e291, 1e-300], f64::INFINITY),
            (&[f64::MAX, 5e291, 5e291, 1e-300, -1e292], f64::MAX),
            (
                &[-f64::MAX, -5e291, -5e291, 1e-300, 2e292],
                -f64::MAX + 1e292,
            ),
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
            .for_each(|value| squares.add_product(*value, *value));
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
            .for_each(|(x, y)| products.add_product(*x, y));
        assert_eq!(distance_products(3, &sum(&x), &sum(&y), &products), -4.0);
    }

    fn double() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |v| v.is_finite()),
            prop_oneof![Just(f64::MAX), Just(f64::MIN), -1e292..1e292f64],
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
        fn many_at_once_are_the_same(values in prop::collection::vec(any::<f64>(), 0..20)) {
            let mut all = ExactSum::default();
            all.add_all(&values);
            prop_assert_eq!(all.to_bytes(), sum(&values).to_bytes());
        }

        #[test]
        fn what_is_subtracted_is_gone(values in prop::collection::vec(any::<f64>(), 1..20)) {
            let mut all = sum(&values);
            all.subtract(values[0]);
            prop_assert_eq!(all.to_bytes(), sum(&values[1..]).to_bytes());
        }

        /// Products are exact, whether they are added as one or as the sum of two doubles.
        #[test]
        fn products_are_exact(
            pairs in prop::collection::vec((double(), double()), 1..30),
            split in any::<prop::sample::Index>(),
        ) {
            let mut whole = ExactSum::default();
            let mut as_doubles = ExactSum::default();
            for (x, y) in &pairs {
                whole.add_product(*x, *y);
                let high = x * y;
                as_doubles.add(high);
                if high.is_finite() {
                    as_doubles.add(x.mul_add(*y, -high));
                }
            }
            prop_assert_eq!(whole.to_bytes(), as_doubles.to_bytes());
            let (left, right) = pairs.split_at(split.index(pairs.len()));
            for (x, y) in left {
                whole.subtract_product(*x, *y);
            }
            let mut rest = ExactSum::default();
            right.iter().for_each(|(x, y)| rest.add_product(*x, *y));
            prop_assert_eq!(whole.to_bytes(), rest.to_bytes());
        }

        /// The same as a number of any length gives.
        #[test]
        fn the_window_changes_nothing(values in prop::collection::vec(double(), 0..40)) {
            let mut limbs = Limbs::default();
            for value in &values {
                let (mantissa, shift) = parts(*value);
                let mut one = Window::default();
                prop_assert!(one.add(mantissa.into(), shift, value.is_sign_negative()));
                limbs.add_window(&one);
            }
            let sum = sum(&values);
            prop_assert_eq!(sum.all_wide().total().into_normal(), limbs.clone().into_normal());
            let value = limbs.into_integer().to_f64(LOWEST_EXPONENT);
            prop_assert_eq!(sum.value().to_bits(), value.to_bits());
        }

        #[test]
        fn other_bytes_are_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(sum) = ExactSum::from_bytes(&bytes) {
                sum.value();
                let mut merged = sum.clone();
                merged.merge(&sum);
                merged.to_bytes();
            }
        }
    }
}
