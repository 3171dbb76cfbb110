//! Arithmetic of decimals that rounds as Postgres does and says when a value does not fit.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, i256};

use super::ValueError;

/// A decimal: units of 10^-scale, and the scale.
pub type Decimal = (i256, i8);

/// `value` (of `scale`) in 128 bits if it has at most `precision` digits.
pub fn fitting(value: i256, precision: u8, scale: i8) -> Result<i128, ValueError> {
    value
        .to_i128()
        .filter(|value| value.unsigned_abs() < 10u128.pow(u32::from(precision)))
        .ok_or_else(|| {
            ValueError::out_of_range(format!(
                "numeric out of range: the result has more than the {precision} digits of numeric({precision}, {scale})"
            ))
        })
}

/// `dividend / divisor` in units of 10^-scale, rounded half away from zero.
pub fn quotient(dividend: Decimal, divisor: Decimal, scale: i8) -> Result<i256, ValueError> {
    let ((dividend, dividend_scale), (divisor, divisor_scale)) = (dividend, divisor);
    if divisor == i256::ZERO {
        return Err(ValueError::division_by_zero());
    }
    let shift = i32::from(scale) + i32::from(divisor_scale) - i32::from(dividend_scale);
    let (dividend, divisor) = if shift >= 0 {
        (scaled(dividend, shift as u32)?, divisor)
    } else {
        (dividend, scaled(divisor, shift.unsigned_abs())?)
    };
    if let (Some(dividend), Some(divisor)) = (dividend.to_i128(), divisor.to_i128())
        && dividend != i128::MIN
    {
        let (quotient, rest) = (dividend / divisor, dividend % divisor);
        let up = rest.unsigned_abs() >= divisor.unsigned_abs().div_ceil(2);
        let away = if up && rest != 0 { 1 } else { 0 };
        let sign = if (dividend < 0) == (divisor < 0) {
            1
        } else {
            -1
        };
        return Ok(i256::from_i128(quotient + away * sign));
    }
    let (quotient, rest) = (
        dividend.wrapping_div(divisor),
        dividend.wrapping_rem(divisor),
    );
    let distance = rest.wrapping_abs();
    let remaining = divisor.wrapping_abs().wrapping_sub(distance);
    if distance == i256::ZERO || distance < remaining {
        return Ok(quotient);
    }
    let negative = (dividend < i256::ZERO) != (divisor < i256::ZERO);
    let away = if negative { i256::MINUS_ONE } else { i256::ONE };
    Ok(quotient.wrapping_add(away))
}

fn scaled(value: i256, power: u32) -> Result<i256, ValueError> {
    i256::from_i128(10)
        .checked_pow(power)
        .and_then(|factor| value.checked_mul(factor))
        .ok_or_else(|| {
            ValueError::out_of_range(format!(
                "numeric out of range: the result needs more than {DECIMAL128_MAX_PRECISION} digits; cast an operand to \
                 double precision or to fewer digits"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_half_away_from_zero() {
        let wide = i256::from_i128(10).wrapping_pow(45);
        let small = i256::from_i128;
        for (dividend, divisor, scale, expected) in [
            ((small(5), 0), (small(3), 0), 4, small(16667)),
            ((small(-5), 0), (small(3), 0), 4, small(-16667)),
            ((small(1), 0), (small(2), 0), 0, small(1)),
            ((small(1), 0), (small(-2), 0), 0, small(-1)),
            ((small(1), 0), (small(3), 0), 0, small(0)),
            ((small(2), 0), (small(3), 0), 0, small(1)),
            ((small(150), 2), (small(5), 1), 2, small(300)),
            ((small(6), 0), (small(3), 0), 0, small(2)),
            ((wide, 45), (small(3), 0), 4, small(3333)),
            ((wide, 0), (wide, 0), 1, small(10)),
        ] {
            let found = quotient(dividend, divisor, scale).unwrap();
            assert_eq!(found, expected, "{dividend:?} / {divisor:?}");
        }
        let zero = quotient((small(1), 0), (small(0), 2), 4).unwrap_err();
        assert_eq!(zero.sqlstate, "22012");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let nines = i256::from_i128(10i128.pow(38) - 1);
        assert!(fitting(nines, 38, 0).is_ok());
        let error = fitting(nines.wrapping_add(i256::ONE), 38, 0).unwrap_err();
        assert_eq!(error.sqlstate, "22003");
    }
}
