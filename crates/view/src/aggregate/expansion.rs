//! A sum of doubles as a few doubles: what one has no room for goes to the next, and nothing is rounded away.
//!
//! The sum of two doubles and what rounding took from it are two doubles again, in six additions (D. Knuth, *The Art of
//! Computer Programming*, volume 2, section 4.2.2; what is made of them is J. Shewchuk's *expansion*, in *Adaptive
//! Precision Floating-Point Arithmetic*, 1997).

/// The doubles whose sum it is. With 53 bits in each, more would seldom be of use.
pub const PARTS: usize = 3;

#[derive(Debug, Clone, Copy, Default)]
pub struct Expansion([f64; PARTS]);

/// The least that holds most sums: two parts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pair {
    first: f64,
    second: f64,
}

impl Pair {
    pub fn of(value: f64) -> Pair {
        Pair {
            first: value,
            second: 0.0,
        }
    }

    /// False, and nothing is added, if it is not finite or the parts have no room for it.
    #[inline]
    pub fn add(&mut self, value: f64) -> bool {
        let (first, rest) = two_sum(self.first, value);
        let (second, rest) = two_sum(self.second, rest);
        // Not so if it is no number.
        let fits = rest == 0.0;
        if fits {
            *self = Pair { first, second };
        }
        fits
    }

    /// What is added up.
    pub fn parts(&self) -> [f64; 2] {
        [self.first, self.second]
    }
}

impl From<Pair> for Expansion {
    fn from(pair: Pair) -> Expansion {
        Expansion([pair.first, pair.second, 0.0])
    }
}

/// `a + b` rounded, and the rest: exact, unless the first is not finite. Then the second is not either.
#[inline]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    let of_a = sum - of_b;
    (sum, (a - of_a) + (b - of_b))
}

impl Expansion {
    pub fn of(value: f64) -> Expansion {
        Expansion([value, 0.0, 0.0])
    }

    /// Of at most [`PARTS`] finite ones.
    pub fn of_parts(parts: impl Iterator<Item = f64>) -> Expansion {
        let mut sum = Expansion::default();
        for (place, part) in sum.0.iter_mut().zip(parts) {
            *place = part;
        }
        sum
    }

    /// The sum as the double next to it, what that is off by, and so on: one form for one value. `None` where it takes more
    /// than two to tell, or there is no such double.
    #[inline]
    pub fn rounded(&self) -> Option<[f64; 2]> {
        let (first, second) = two_sum(self.0[0], self.0[1]);
        (self.0[2] == 0.0 && first.is_finite()).then_some([first, second])
    }

    /// What is added up; zeros are left out.
    pub fn parts(&self) -> impl Iterator<Item = f64> + use<> {
        self.0.into_iter().filter(|part| *part != 0.0)
    }

    /// False, and nothing is added, if it is not finite or the parts have no room for it.
    #[inline]
    pub fn add(&mut self, value: f64) -> bool {
        let (first, rest) = two_sum(self.0[0], value);
        let (second, rest) = two_sum(self.0[1], rest);
        // Not so if it is no number.
        if rest == 0.0 {
            self.0[0] = first;
            self.0[1] = second;
            return true;
        }
        self.add_wide(value)
    }

    #[cold]
    fn add_wide(&mut self, value: f64) -> bool {
        let (first, rest) = two_sum(self.0[0], value);
        let (second, rest) = two_sum(self.0[1], rest);
        let (third, rest) = two_sum(self.0[2], rest);
        if rest != 0.0 {
            return false;
        }
        // What the later parts have gathered goes to the earlier ones, so that there is room again.
        let (second, third) = two_sum(second, third);
        let (first, second) = two_sum(first, second);
        let (second, third) = two_sum(second, third);
        // Parts that are finite can add up to what is not.
        let is_finite = first.is_finite();
        if is_finite {
            self.0 = [first, second, third];
        }
        is_finite
    }
}

/// So many sums at once, which the processor adds to in a few vectors.
pub const LANES: usize = 8;

#[derive(Debug, Default)]
pub struct Lanes {
    first: [f64; LANES],
    second: [f64; LANES],
}

impl Lanes {
    /// Adds one value to each; false, and nothing is added, if one has no room.
    #[inline]
    pub fn add(&mut self, values: &[f64; LANES]) -> bool {
        let (mut first, mut second, mut rests) = ([0.0; LANES], [0.0; LANES], 0);
        for lane in 0..LANES {
            let rest;
            (first[lane], rest) = two_sum(self.first[lane], values[lane]);
            let lost;
            (second[lane], lost) = two_sum(self.second[lane], rest);
            rests |= lost.to_bits();
        }
        // All are zero but for their signs.
        let fits = rests << 1 == 0;
        if fits {
            *self = Lanes { first, second };
        }
        fits
    }

    /// What is added up, and nothing stays.
    pub fn take(&mut self) -> impl Iterator<Item = f64> + use<> {
        let Lanes { first, second } = std::mem::take(self);
        first.into_iter().chain(second)
    }
}
