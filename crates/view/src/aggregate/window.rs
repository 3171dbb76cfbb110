//! A sum of doubles of similar size as one integer of 256 bits.

use super::integer::{LOWEST_EXPONENT, scale};

const WORDS: usize = 4;
const WORD_BITS: u32 = u64::BITS;
/// An empty window is laid so that at least so many bits are free below the first value.
const ROOM_BELOW: u32 = 32;

/// Two's complement, the lowest word first, times 2^(64 * `base` - 1074).
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    words: [u64; WORDS],
    base: u32,
    used: bool,
}

impl Window {
    /// Adds an integer of at most 106 bits, times 2^(`shift` - 1074); false, and nothing is added, if it does not fit.
    #[inline]
    pub fn add(&mut self, magnitude: u128, shift: u32, negative: bool) -> bool {
        if magnitude == 0 {
            return true;
        }
        let (word, bit) = (shift / WORD_BITS, shift % WORD_BITS);
        if !self.used {
            self.base = word.saturating_sub(u32::from(bit < ROOM_BELOW));
            self.used = true;
        }
        let at = word.wrapping_sub(self.base) as usize;
        let high = match bit {
            0 => 0,
            _ => (magnitude >> 64) as u64 >> (WORD_BITS - bit),
        };
        let low = magnitude << bit;
        // It must not reach the topmost bit, which is the sign.
        let words = [low as u64, (low >> 64) as u64, high];
        self.add_words(&words, at, negative)
    }

    /// Adds the magnitude `added`, its first word at `at`.
    #[inline]
    fn add_words(&mut self, added: &[u64; 3], at: usize, negative: bool) -> bool {
        let sign = u64::from(negative).wrapping_neg();
        let word = |index: usize| added.get(index).copied().unwrap_or(0) ^ sign;
        let [a, b, c, d] = self.words;
        let carry = negative;
        let (words, overflows) = match at {
            0 => {
                let (a, carry) = a.carrying_add(word(0), carry);
                let (b, carry) = b.carrying_add(word(1), carry);
                let (c, carry) = c.carrying_add(word(2), carry);
                let (d, overflows) = add_top(d, sign, carry);
                ([a, b, c, d], overflows)
            }
            1 => {
                let (b, carry) = b.carrying_add(word(0), carry);
                let (c, carry) = c.carrying_add(word(1), carry);
                let is_wide = added[2] >> 63 != 0;
                let (d, overflows) = add_top(d, word(2), carry);
                ([a, b, c, d], overflows || is_wide)
            }
            2 => {
                let is_wide = added[2] != 0 || added[1] >> 63 != 0;
                let (c, carry) = c.carrying_add(word(0), carry);
                let (d, overflows) = add_top(d, word(1), carry);
                ([a, b, c, d], overflows || is_wide)
            }
            _ => return false,
        };
        if !overflows {
            self.words = words;
        }
        !overflows
    }

    /// Adds what `other` holds; false, and nothing is added, if it does not fit.
    pub fn merge(&mut self, other: &Window) -> bool {
        if !other.used {
            return true;
        }
        if !self.used {
            *self = *other;
            return true;
        }
        if let Some(words) = other.based_at(self.base) {
            return self.add_signed(&words);
        }
        let Some(words) = self.based_at(other.base) else {
            return false;
        };
        let mut moved = Window { words, ..*other };
        let fits = moved.add_signed(&other.words);
        if fits {
            *self = moved;
        }
        fits
    }

    fn add_signed(&mut self, added: &[u64; WORDS]) -> bool {
        let [a, b, c, d] = self.words;
        let (a, carry) = a.carrying_add(added[0], false);
        let (b, carry) = b.carrying_add(added[1], carry);
        let (c, carry) = c.carrying_add(added[2], carry);
        let (d, overflows) = add_top(d, added[3], carry);
        if !overflows {
            self.words = [a, b, c, d];
        }
        !overflows
    }

    /// The same number in words that begin elsewhere; `None` if that loses bits.
    fn based_at(&self, base: u32) -> Option<[u64; WORDS]> {
        let sign = self.sign();
        let up = i64::from(self.base) - i64::from(base);
        let word = |index: i64| match usize::try_from(index) {
            Ok(index) => self.words.get(index).copied().unwrap_or(sign),
            Err(_) => 0,
        };
        let mut words = [0; WORDS];
        for (index, place) in (0i64..).zip(&mut words) {
            *place = word(index - up);
        }
        // Words that fall off below must be nothing, and those that fall off above nothing but sign.
        let kept = |index: i64| (0..WORDS as i64).contains(&(index + up));
        let is_lost = |index: i64| {
            let nothing = if index + up < 0 { 0 } else { sign };
            !kept(index) && word(index) != nothing
        };
        let top = words[WORDS - 1];
        let keeps_sign = (top >> 63 != 0) == (sign != 0);
        (keeps_sign && !(0..WORDS as i64).any(is_lost)).then_some(words)
    }

    /// All ones if it is negative.
    fn sign(&self) -> u64 {
        (self.words[WORDS - 1] >> 63).wrapping_neg()
    }

    /// Digits of 32 bits, the lowest at `base` and all but the last from 0 to 2^32; `None` if they do not fit.
    pub fn of_limbs(base: u32, limbs: impl ExactSizeIterator<Item = i64>) -> Option<Window> {
        let odd = base % 2;
        // The last may take up 64 bits.
        if limbs.len() + odd as usize >= 2 * WORDS {
            return None;
        }
        let mut window = Window {
            base: base / 2,
            used: limbs.len() > 0,
            ..Window::default()
        };
        for (place, limb) in (odd as usize..).zip(limbs) {
            let wide = i128::from(limb) << (32 * (place % 2));
            let sign = (limb >> 63) as u64;
            let mut words = [0; WORDS];
            words[place / 2..].fill(sign);
            words[place / 2] = wide as u64;
            if let Some(next) = words.get_mut(place / 2 + 1) {
                *next = (wide >> 64) as u64;
            } else if (wide >> 64) as u64 != sign || (wide as u64 >> 63 != 0) != (sign != 0) {
                return None;
            }
            if !window.add_signed(&words) {
                return None;
            }
        }
        Some(window)
    }

    /// Gives digits as [`Window::of_limbs`] takes them, without zeros at the low end and sign at the high one.
    pub fn with_limbs<R>(&self, take: impl FnOnce(u32, &[i64]) -> R) -> R {
        let mut limbs = [0; 2 * WORDS];
        for (pair, word) in limbs.chunks_exact_mut(2).zip(self.words) {
            pair[0] = i64::from(word as u32);
            pair[1] = i64::from((word >> 32) as u32);
        }
        // The sign is in the topmost bit.
        let top = &mut limbs[2 * WORDS - 1];
        *top = i64::from(*top as u32 as i32);
        let Some(first) = limbs.iter().position(|limb| *limb != 0) else {
            return take(0, &[]);
        };
        let mut end = limbs.len();
        while end - first > 1 && matches!(limbs[end - 1], 0 | -1) {
            end -= 1;
            limbs[end - 1] += limbs[end] << 32;
        }
        take(2 * self.base + first as u32, &limbs[first..end])
    }

    /// Rounded to the nearest double, ties to even.
    pub fn value(&self) -> f64 {
        let sign = self.sign();
        let mut magnitude = [0; WORDS];
        let mut carry = sign != 0;
        for (place, word) in magnitude.iter_mut().zip(self.words) {
            (*place, carry) = (word ^ sign).carrying_add(0, carry);
        }
        let Some(top) = magnitude.iter().rposition(|word| *word != 0) else {
            return 0.0;
        };
        // The highest 64 bits; of those below it only matters whether there are any.
        let zeros = magnitude[top].leading_zeros();
        let below = |index: usize| top.checked_sub(index).map_or(0, |index| magnitude[index]);
        let wide = u128::from(magnitude[top]) << 64 | u128::from(below(1));
        let mut highest = ((wide << zeros) >> 64) as u64;
        let rest = (wide << zeros) as u64;
        let any = rest != 0 || (2..=top).any(|index| below(index) != 0);
        highest |= u64::from(any);
        let lowest = (self.base + top as u32) * WORD_BITS;
        let exponent = lowest as i32 - zeros as i32 + LOWEST_EXPONENT;
        let value = scale(highest as f64, exponent);
        if sign != 0 { -value } else { value }
    }
}

/// The topmost words and whether the sum leaves the range of signed numbers.
#[inline]
fn add_top(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = a.wrapping_add(b).wrapping_add(u64::from(carry));
    // Two of one sign give one of the other.
    let overflows = (!(a ^ b) & (a ^ sum)) >> 63 != 0;
    (sum, overflows)
}
