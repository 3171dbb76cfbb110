//! A signed integer of any length, for sums of doubles that differ much in size.

use smallvec::SmallVec;

use super::{integer::Integer, window::Window};

const LIMB_BITS: u32 = 32;
const LIMB_MASK: i64 = (1 << LIMB_BITS) - 1;
/// Limbs hold 32 bits in 64, so this many additions cannot overflow one.
const ADDITIONS_MAX: u32 = 1 << 29;
/// Doubles and their sums have no digits above: 2^1024, times 2^64 of them, in units of 2^-1074.
const LIMBS_MAX: u32 = (1074 + 1024 + 64) / LIMB_BITS + 8;

/// Digits of base 2^32; only those in use are kept.
pub type Digits = SmallVec<[i64; 10]>;

#[derive(Debug, Clone, Default)]
pub struct Limbs {
    /// Index of the first digit among all digits.
    base: u32,
    /// In two's complement, the lowest first, carries not yet propagated.
    digits: Digits,
    additions: u32,
}

impl Limbs {
    /// Whether a sum may have so many digits from there on.
    pub fn may_be(base: u32, digits: usize) -> bool {
        base <= LIMBS_MAX && digits <= (LIMBS_MAX - base) as usize
    }

    /// Digits as [`Limbs::into_normal`] gives them.
    pub fn normal(base: u32, digits: impl Iterator<Item = i64>) -> Limbs {
        Limbs {
            base,
            digits: digits.collect(),
            additions: 0,
        }
    }

    pub fn add_window(&mut self, window: &Window) {
        window.with_limbs(|base, limbs| self.add_digits(base, limbs));
    }

    pub fn merge(&mut self, other: &Limbs) {
        if other.additions == 0 {
            return self.add_digits(other.base, &other.digits);
        }
        let mut normal = other.clone();
        normal.propagate();
        self.add_digits(normal.base, &normal.digits);
    }

    /// Digits of at most 33 bits, which count as one addition to those that are there.
    fn add_digits(&mut self, base: u32, digits: &[i64]) {
        if digits.is_empty() {
            return;
        }
        if self.additions + 1 >= ADDITIONS_MAX {
            self.propagate();
        }
        self.reserve(base, base + digits.len() as u32);
        let at = (base - self.base) as usize;
        for (digit, &added) in self.digits[at..].iter_mut().zip(digits) {
            // Nothing but damaged bytes can be so large that it wraps.
            *digit = digit.wrapping_add(added);
        }
        self.additions += 1;
    }

    /// Makes room for digits `first..end`.
    fn reserve(&mut self, first: u32, end: u32) {
        if self.digits.is_empty() {
            self.base = first;
        }
        if first < self.base {
            let more = (self.base - first) as usize;
            self.digits.insert_many(0, std::iter::repeat_n(0, more));
            self.base = first;
        }
        let needed = (end - self.base) as usize;
        if self.digits.len() < needed {
            self.digits.resize(needed, 0);
        }
    }

    /// Brings every digit but the highest into `0..2^32`; the highest carries the sign.
    fn propagate(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits {
            let sum = digit.wrapping_add(carry);
            *digit = sum & LIMB_MASK;
            carry = sum >> LIMB_BITS;
        }
        if carry != 0 {
            self.digits.push(carry);
        }
        self.additions = 0;
        let zeros = self.digits.iter().take_while(|digit| **digit == 0).count();
        self.digits.drain(..zeros);
        self.base += zeros as u32;
        // One form for one value: a digit of nothing but sign is folded into the one below.
        while let [.., below, top @ (0 | -1)] = self.digits[..] {
            self.digits.pop();
            if let Some(last) = self.digits.last_mut() {
                *last = (top << LIMB_BITS) + below;
            }
        }
        if self.digits.is_empty() {
            self.base = 0;
        }
    }

    /// The digits, and where they begin: one form for one value.
    pub fn into_normal(mut self) -> (u32, Digits) {
        self.propagate();
        (self.base, self.digits)
    }

    pub fn into_integer(mut self) -> Integer {
        self.propagate();
        let negative = self.digits.last().is_some_and(|top| *top < 0);
        if negative {
            let turned = |digit: &mut i64| *digit = digit.wrapping_neg();
            self.digits.iter_mut().for_each(turned);
            self.propagate();
        }
        let mut magnitude = vec![0u32; self.base as usize];
        for &digit in &self.digits {
            magnitude.push(digit as u32);
        }
        if let Some(&top) = self.digits.last() {
            // It may hold more than 32 bits.
            magnitude.push((top >> LIMB_BITS) as u32);
        }
        Integer {
            negative,
            magnitude,
        }
    }

    /// Beside the limbs themselves.
    pub fn bytes_held(&self) -> usize {
        match self.digits.spilled() {
            true => self.digits.capacity() * size_of::<i64>(),
            false => 0,
        }
    }
}
