//! Integers of any size, for what exact sums come to.

use arrow::datatypes::i256;

/// Doubles are multiples of 2 to this power.
pub const LOWEST_EXPONENT: i32 = -1074;

/// Digits of base 2^32, the lowest first.
pub struct Integer {
    pub negative: bool,
    pub magnitude: Vec<u32>,
}

impl From<i64> for Integer {
    fn from(value: i64) -> Integer {
        let magnitude = value.unsigned_abs();
        Integer {
            negative: value < 0,
            magnitude: vec![magnitude as u32, (magnitude >> 32) as u32],
        }
    }
}

impl From<i128> for Integer {
    fn from(value: i128) -> Integer {
        let magnitude = value.unsigned_abs();
        Integer {
            negative: value < 0,
            magnitude: (0..4)
                .map(|digit| (magnitude >> (32 * digit)) as u32)
                .collect(),
        }
    }
}

impl From<i256> for Integer {
    fn from(value: i256) -> Integer {
        let magnitude = value.wrapping_abs().to_le_bytes();
        let (digits, _) = magnitude.as_chunks::<4>();
        Integer {
            negative: value < i256::ZERO,
            magnitude: digits
                .iter()
                .map(|digit| u32::from_le_bytes(*digit))
                .collect(),
        }
    }
}

impl Integer {
    pub fn times(&self, other: &Integer) -> Integer {
        Integer {
            negative: self.negative != other.negative,
            magnitude: multiply(&self.magnitude, &other.magnitude),
        }
    }

    pub fn shifted_left(self, bits: u32) -> Integer {
        let mut magnitude = vec![0u32; (bits / 32) as usize];
        let shift = bits % 32;
        let mut carry = 0u64;
        for digit in self.magnitude {
            let wide = (u64::from(digit) << shift) | carry;
            magnitude.push(wide as u32);
            carry = wide >> 32;
        }
        magnitude.push(carry as u32);
        Integer {
            negative: self.negative,
            magnitude,
        }
    }

    pub fn minus(&self, other: &Integer) -> Integer {
        let (negative, magnitude) = if self.negative != other.negative {
            (self.negative, add(&self.magnitude, &other.magnitude))
        } else if is_less(&self.magnitude, &other.magnitude) {
            (!self.negative, subtract(&other.magnitude, &self.magnitude))
        } else {
            (self.negative, subtract(&self.magnitude, &other.magnitude))
        };
        Integer {
            negative,
            magnitude,
        }
    }

    /// `self * 2^exponent`, rounded to nearest, ties to even.
    pub fn to_f64(&self, exponent: i32) -> f64 {
        let Some(top) = self.magnitude.iter().rposition(|digit| *digit != 0) else {
            return 0.0;
        };
        let bits = top as i32 * 32 + 32 - self.magnitude[top].leading_zeros() as i32;
        // 53 significant bits, fewer where the result is subnormal.
        let lowest_kept = (bits - 53).max(LOWEST_EXPONENT - exponent);
        let bit = |index: i32| {
            index >= 0
                && self
                    .magnitude
                    .get(index as usize / 32)
                    .is_some_and(|d| d >> (index % 32) & 1 == 1)
        };
        let mut mantissa = 0u64;
        for index in (lowest_kept.max(0)..bits).rev() {
            mantissa = mantissa << 1 | u64::from(bit(index));
        }
        if lowest_kept < 0 {
            mantissa <<= -lowest_kept as u32;
        }
        let half = bit(lowest_kept - 1);
        let rest = (0..(lowest_kept - 1).max(0)).any(bit);
        if half && (rest || mantissa & 1 == 1) {
            mantissa += 1;
        }
        let value = scale(mantissa as f64, lowest_kept + exponent);
        if self.negative { -value } else { value }
    }
}

/// The sum of squared distances from the mean, rounded only once before the division; the squares' sum is not negative.
pub fn squared_distances_of_integers(count: i64, sum: i128, squares: i256) -> f64 {
    let difference = (|| {
        let squares = squares.to_i128()?.checked_mul(i128::from(count))?;
        Some(squares - sum.checked_mul(sum)?)
    })();
    let difference = match difference {
        Some(difference) => difference as f64,
        None => Integer::from(squares)
            .times(&Integer::from(count))
            .minus(&Integer::from(sum).times(&Integer::from(sum)))
            .to_f64(0),
    };
    difference / count as f64
}

fn digit(of: &[u32], index: usize) -> u32 {
    of.get(index).copied().unwrap_or(0)
}

fn add(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut carry = 0u64;
    let digits = 0..=a.len().max(b.len());
    digits
        .map(|index| {
            let wide = u64::from(digit(a, index)) + u64::from(digit(b, index)) + carry;
            carry = wide >> 32;
            wide as u32
        })
        .collect()
}

/// `a - b`, where `b` is not greater.
fn subtract(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut borrow = 0i64;
    let digits = 0..a.len();
    digits
        .map(|index| {
            let wide = i64::from(a[index]) - i64::from(digit(b, index)) + borrow;
            borrow = wide >> 32;
            wide as u32
        })
        .collect()
}

fn is_less(a: &[u32], b: &[u32]) -> bool {
    let digits = 0..a.len().max(b.len());
    let differ = digits
        .rev()
        .find(|index| digit(a, *index) != digit(b, *index));
    differ.is_some_and(|index| digit(a, index) < digit(b, index))
}

fn multiply(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut product = vec![0u32; a.len() + b.len() + 1];
    for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x != 0) {
        let mut carry = 0u64;
        for (j, &y) in b.iter().enumerate() {
            let wide = u64::from(x) * u64::from(y) + u64::from(product[i + j]) + carry;
            product[i + j] = wide as u32;
            carry = wide >> 32;
        }
        let mut at = i + b.len();
        while carry != 0 {
            let wide = u64::from(product[at]) + carry;
            product[at] = wide as u32;
            carry = wide >> 32;
            at += 1;
        }
    }
    product
}

/// `value * 2^exponent` where the result is exact or overflows.
pub fn scale(mut value: f64, mut exponent: i32) -> f64 {
    while exponent > 1000 {
        value *= 2f64.powi(1000);
        exponent -= 1000;
    }
    while exponent < -1000 {
        value *= 2f64.powi(-1000);
        exponent += 1000;
    }
    value * 2f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::exact_sum::{ExactSum, squared_distances},
        *,
    };

    proptest! {
        #[test]
        fn small_ones_agree_with_the_machine(a in any::<i64>(), b in any::<i64>()) {
            let (x, y) = (Integer::from(a), Integer::from(b));
            let (a, b) = (i128::from(a), i128::from(b));
            prop_assert_eq!(x.minus(&y).to_f64(0), (a - b) as f64);
            prop_assert_eq!(y.minus(&x).to_f64(0), (b - a) as f64);
            prop_assert_eq!(x.times(&y).to_f64(0), (a * b) as f64);
            prop_assert_eq!(x.minus(&x).to_f64(0), 0.0);
        }

        /// As for doubles, to which these integers are equal.
        #[test]
        fn distances_of_integers_are_those_of_equal_doubles(
            values in proptest::collection::vec((-(1i64 << 53)..1 << 53).prop_map(|v| v >> (v & 31)), 1..20)
        ) {
            let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
            let (mut sum_of_integers, mut squares_of_integers) = (0, i256::ZERO);
            for value in &values {
                sum.add(*value as f64);
                squares.add_product(*value as f64, *value as f64);
                let value = i128::from(*value);
                sum_of_integers += value;
                squares_of_integers = squares_of_integers.wrapping_add(i256::from_i128(value * value));
            }
            let count = values.len() as i64;
            prop_assert_eq!(
                squared_distances_of_integers(count, sum_of_integers, squares_of_integers),
                squared_distances(count, &sum, &squares)
            );
        }

        /// What does not fit into 128 bits comes out as what does.
        #[test]
        fn wide_integers_agree_with_narrow_ones(sum in any::<i64>(), squares in 0..i64::MAX, count in 1..1000i64) {
            let wide = Integer::from(i256::from_i128(i128::from(squares)))
                .times(&Integer::from(count))
                .minus(&Integer::from(i128::from(sum)).times(&Integer::from(sum)))
                .to_f64(0);
            let narrow = i128::from(squares) * i128::from(count) - i128::from(sum) * i128::from(sum);
            prop_assert_eq!(wide, narrow as f64);
        }
    }
}
