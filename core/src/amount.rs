//! Fixed-point amounts: [`Amount`] is one event's, [`Sum`] many events', [`Average`] their mean. Never a float, so
//! the two layers agree to the last digit (`Decimal(18,4)` and `Decimal(38,4)` in ClickHouse).

use std::fmt;
use std::ops::{Add, AddAssign};

/// Ten-thousandths in one unit: 10^[`Amount::SCALE_DIGITS`].
const SCALE: u32 = 10_000;

/// An amount in ten-thousandths of a unit. What [`Amount::parse_decimal`] returns lies within ±[`Amount::LIMIT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Amount(i64);

/// Why a text is not an amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AmountError {
    /// Not a number in JSON's grammar: no spaces, no `+`, no leading zeros, a digit on both sides of the point.
    #[error("not a decimal number")]
    NotANumber,
    /// Beyond ±[`Amount::LIMIT`] once it has been rounded.
    #[error("beyond ±10^14")]
    OutOfRange,
}

impl Amount {
    pub const ZERO: Self = Self(0);
    /// Decimals that are kept; the rest is rounded half to even.
    pub const SCALE_DIGITS: u32 = 4;
    /// ±10^14 units, the largest amount that is accepted: 2^63 of them add up without overflow in a [`Sum`].
    pub const LIMIT: Self = Self(1_000_000_000_000_000_000);

    pub const fn from_ten_thousandths(ten_thousandths: i64) -> Self {
        Self(ten_thousandths)
    }

    pub const fn ten_thousandths(self) -> i64 {
        self.0
    }

    /// Reads a number in JSON's grammar, exponent included, exactly: however many digits there are, the result is
    /// the mathematical value rounded half to even at four decimals. Takes time linear in the text's length,
    /// whatever the exponent says.
    pub fn parse_decimal(text: &[u8]) -> Result<Self, AmountError> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let magnitude = match small_integer(digits) {
            Some(units) => units * i64::from(SCALE),
            None => Decimal::split(digits).ok_or(AmountError::NotANumber)?.ten_thousandths()?,
        };
        Ok(Self(if negative { -magnitude } else { magnitude }))
    }
}

/// The usual case: an integer of at most 14 digits, which is within the limit.
fn small_integer(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 14 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0, |n, &b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

/// An unsigned decimal number taken apart: `whole`.`fraction` × 10^`exponent`.
struct Decimal<'a> {
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// By JSON's grammar; `None` if the text does not follow it.
    fn split(text: &'a [u8]) -> Option<Self> {
        let (whole, mut rest) = leading_digits(text);
        if whole.is_empty() || (whole[0] == b'0' && whole.len() > 1) {
            return None;
        }
        let mut fraction: &[u8] = &[];
        if let [b'.', tail @ ..] = rest {
            (fraction, rest) = leading_digits(tail);
            if fraction.is_empty() {
                return None;
            }
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', b'-', digits @ ..] => -exponent(digits)?,
            [b'e' | b'E', b'+', digits @ ..] | [b'e' | b'E', digits @ ..] => exponent(digits)?,
            _ => return None,
        };
        Some(Self { whole, fraction, exponent })
    }

    fn ten_thousandths(&self) -> Result<i64, AmountError> {
        // Numbering the digits from the left, `kept` of them have a weight of one ten-thousandth or more; the next
        // one decides the rounding, and those behind it only whether it is a tie.
        let point = i64::try_from(self.whole.len()).unwrap_or(i64::MAX);
        let kept = point.saturating_add(self.exponent).saturating_add(i64::from(Amount::SCALE_DIGITS));
        let mut value = 0i64;
        let (mut half, mut above_half) = (false, false);
        let mut at = 0i64;
        for &digit in self.whole.iter().chain(self.fraction) {
            let digit = i64::from(digit - b'0');
            if at < kept {
                value = append_digit(value, digit)?;
            } else if at == kept {
                half = digit >= 5;
                above_half = digit > 5;
            } else {
                above_half |= half && digit != 0;
            }
            at += 1;
        }
        // The exponent may put the point behind the last digit: zeros follow. A non-zero value leaves this loop
        // after 19 rounds at most, by an error.
        while value != 0 && at < kept {
            value = append_digit(value, 0)?;
            at += 1;
        }
        if half && (above_half || value % 2 == 1) {
            value += 1;
        }
        if value > Amount::LIMIT.0 { Err(AmountError::OutOfRange) } else { Ok(value) }
    }
}

fn append_digit(value: i64, digit: i64) -> Result<i64, AmountError> {
    match value.checked_mul(10).and_then(|n| n.checked_add(digit)) {
        Some(n) if n <= Amount::LIMIT.0 => Ok(n),
        _ => Err(AmountError::OutOfRange),
    }
}

/// The digits at the beginning of `text`, and what follows them.
fn leading_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The exponent's digits as a number, held at a size that no text is long enough to make up for.
fn exponent(digits: &[u8]) -> Option<i64> {
    const HUGE: i64 = i64::MAX / 100;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |n, &b| b.is_ascii_digit().then(|| (n * 10 + i64::from(b - b'0')).min(HUGE)))
}

/// Always with four decimals: `12.3400`, `-0.5000`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Sum::from(*self).fmt(f)
    }
}

/// A sum of amounts, in ten-thousandths of a unit. Additions wrap never: 2^63 amounts at the limit still fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sum(i128);

impl Sum {
    pub const ZERO: Self = Self(0);

    pub const fn from_ten_thousandths(ten_thousandths: i128) -> Self {
        Self(ten_thousandths)
    }

    pub const fn ten_thousandths(self) -> i128 {
        self.0
    }

    /// The mean over `count` amounts, from the exact sum, rounded half to even at six decimals; `None` over none.
    pub fn average(self, count: u64) -> Option<Average> {
        let count = u128::from(count);
        let magnitude = self.0.unsigned_abs();
        let whole = magnitude.checked_div(count)?;
        // Two more decimals from the remainder, which is below 2^64: times 100 it cannot overflow.
        let scaled = magnitude % count * 100;
        let (quotient, rest) = (scaled / count, scaled % count);
        let up = rest * 2 > count || (rest * 2 == count && quotient % 2 == 1);
        let hundredths = quotient + u128::from(up);
        // Rounding may carry: 100 hundredths of a ten-thousandth are one.
        let (ten_thousandths, hundredths) = (whole + hundredths / 100, hundredths % 100);
        Some(Average { negative: self.0 < 0, ten_thousandths, hundredths })
    }
}

impl From<Amount> for Sum {
    fn from(amount: Amount) -> Self {
        Self(i128::from(amount.0))
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Add<Amount> for Sum {
    type Output = Self;

    fn add(self, amount: Amount) -> Self {
        self + Self::from(amount)
    }
}

impl<T> AddAssign<T> for Sum
where
    Self: Add<T, Output = Self>,
{
    fn add_assign(&mut self, other: T) {
        *self = *self + other;
    }
}

/// Always with four decimals, as an [`Amount`].
impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let (units, decimals) = (magnitude / u128::from(SCALE), magnitude % u128::from(SCALE));
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{units}.{decimals:04}")
    }
}

/// A mean to six decimals; see [`Sum::average`]. It is for display: averages are never stored nor added.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Average {
    negative: bool,
    ten_thousandths: u128,
    /// Hundredths of a ten-thousandth, below 100: the fifth and sixth decimal.
    hundredths: u128,
}

impl Average {
    /// Decimals that it has.
    pub const SCALE_DIGITS: u32 = 6;

    /// The mean in millionths of a unit; `None` beyond 128 bits, which no mean of [`Amount`]s is.
    pub fn millionths(self) -> Option<i128> {
        let magnitude = self.ten_thousandths.checked_mul(100)?.checked_add(self.hundredths)?;
        let magnitude = i128::try_from(magnitude).ok()?;
        Some(if self.negative { -magnitude } else { magnitude })
    }
}

impl fmt::Display for Average {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = u128::from(SCALE);
        let (units, decimals) = (self.ten_thousandths / scale, self.ten_thousandths % scale);
        // What rounds to zero has no sign.
        let is_zero = self.ten_thousandths == 0 && self.hundredths == 0;
        let sign = if self.negative && !is_zero { "-" } else { "" };
        write!(f, "{sign}{units}.{decimals:04}{:02}", self.hundredths)
    }
}
