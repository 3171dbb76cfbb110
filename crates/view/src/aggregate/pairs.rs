//! `covar_pop(y, x)`, `corr(y, x)`, `regr_slope(y, x)` and their like, from exact sums.
//!
//! They are the functions of SQL:2003 with Postgres's answers (documentation, chapter 9.21): NULL where there
//! are too few pairs or all `x` are the same. A pair counts if neither of the two is NULL.

use super::exact_sum::{ExactSum, distance_products, squared_distances};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Statistic {
    Count,
    Covariance { sample: bool },
    Correlation,
    AverageX,
    AverageY,
    SquaresX,
    SquaresY,
    Products,
    Slope,
    Intercept,
    R2,
}

/// What is kept of pairs: how many, and the sums of `x`, `y`, `x²`, `y²` and `xy`.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    count: i64,
    sums: [ExactSum; 5],
}

impl Pairs {
    /// The names of the sums, in the order of [`Pairs::sums`].
    pub const SUMS: [&str; 5] = ["x", "y", "xx", "yy", "xy"];

    pub fn count(&self) -> i64 {
        self.count
    }

    pub fn sums(&self) -> &[ExactSum; 5] {
        &self.sums
    }

    #[inline]
    pub fn add(&mut self, y: f64, x: f64) {
        let [sum_x, sum_y, xx, yy, xy] = &mut self.sums;
        sum_x.add(x);
        sum_y.add(y);
        xx.add_product(x, x);
        yy.add_product(y, y);
        xy.add_product(x, y);
        self.count += 1;
    }

    /// Takes a pair out again.
    pub fn subtract(&mut self, y: f64, x: f64) {
        let [sum_x, sum_y, xx, yy, xy] = &mut self.sums;
        sum_x.subtract(x);
        sum_y.subtract(y);
        xx.subtract_product(x, x);
        yy.subtract_product(y, y);
        xy.subtract_product(x, y);
        self.count -= 1;
    }

    pub fn merge(&mut self, count: i64, sums: &[ExactSum; 5]) {
        self.count += count;
        for (own, other) in self.sums.iter_mut().zip(sums) {
            own.merge(other);
        }
    }

    pub fn bytes_held(&self) -> usize {
        self.sums.iter().map(ExactSum::bytes_held).sum()
    }

    /// `None` where SQL says NULL.
    pub fn answer(&self, statistic: Statistic) -> Option<f64> {
        let count = self.count as f64;
        let [x, y, xx, yy, xy] = &self.sums;
        let squares_x = || squared_distances(self.count, x, xx);
        let squares_y = || squared_distances(self.count, y, yy);
        let products = || distance_products(self.count, x, y, xy);
        if self.count < 1 {
            return None;
        }
        match statistic {
            Statistic::Count => Some(count),
            Statistic::Covariance { sample: false } => Some(products() / count),
            Statistic::Covariance { sample: true } => {
                (self.count > 1).then(|| products() / (count - 1.0))
            }
            Statistic::Correlation => {
                let (squares_x, squares_y) = (squares_x(), squares_y());
                // One root rounds less than two, but the product may leave the range of doubles.
                let product = squares_x * squares_y;
                let spread = match product.is_normal() {
                    true => product.sqrt(),
                    false => squares_x.sqrt() * squares_y.sqrt(),
                };
                // Rounding must not make it more than perfect.
                let correlation = || (products() / spread).clamp(-1.0, 1.0);
                (squares_x != 0.0 && squares_y != 0.0).then(correlation)
            }
            Statistic::AverageX => Some(x.value() / count),
            Statistic::AverageY => Some(y.value() / count),
            Statistic::SquaresX => Some(squares_x()),
            Statistic::SquaresY => Some(squares_y()),
            Statistic::Products => Some(products()),
            Statistic::Slope => self.slope(squares_x()),
            Statistic::Intercept => {
                let slope = self.slope(squares_x())?;
                Some((y.value() - slope * x.value()) / count)
            }
            Statistic::R2 => match (squares_x(), squares_y()) {
                (0.0, _) => None,
                (_, 0.0) => Some(1.0),
                (squares_x, squares_y) => {
                    let products = products();
                    Some((products / squares_x) * (products / squares_y))
                }
            },
        }
    }

    fn slope(&self, squares_x: f64) -> Option<f64> {
        let [x, y, _, _, xy] = &self.sums;
        (squares_x != 0.0).then(|| distance_products(self.count, x, y, xy) / squares_x)
    }
}
