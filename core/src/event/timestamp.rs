//! The two ways of writing an event's time: RFC 3339, and an integer of epoch milliseconds. Both give epoch
//! milliseconds in the years 0000 to 9999 (UTC), so that every timestamp can be written either way.

/// 0000-01-01T00:00:00.000Z
const FIRST_MS: i64 = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z
const LAST_MS: i64 = 253_402_300_799_999;
const MS_PER_MINUTE: i64 = 60_000;
const MS_PER_DAY: i64 = 86_400_000;

/// Reads an integer literal of JSON; `None` if it has a fraction or an exponent, or is outside the years.
pub(super) fn integer(literal: &str) -> Option<i64> {
    literal.parse().ok().and_then(in_range)
}

/// Reads `2013-01-01T10:15:00.123Z` strictly as RFC 3339 has it: `T` and `Z` in either case, a fraction of any length
/// (cut off at milliseconds), `±hh:mm`. A day that is not in the calendar, second 60 and hour 24 are refused.
pub(super) fn rfc3339(text: &[u8]) -> Option<i64> {
    #[rustfmt::skip]
    let [y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T' | b't', h1, h2, b':', mi1, mi2, b':', s1, s2, rest @ ..] = text else {
        return None;
    };
    let year = number([*y1, *y2])? * 100 + number([*y3, *y4])?;
    let (month, day) = (number([*mo1, *mo2])?, number([*d1, *d2])?);
    let (hour, minute, second) = (number([*h1, *h2])?, number([*mi1, *mi2])?, number([*s1, *s2])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (ms, zone) = fraction_ms(rest)?;
    let local = day_number(year, month, day) * MS_PER_DAY + (hour * 60 + minute) * MS_PER_MINUTE + second * 1000 + ms;
    in_range(local - offset_minutes(zone)? * MS_PER_MINUTE)
}

fn in_range(ms: i64) -> Option<i64> {
    (FIRST_MS..=LAST_MS).contains(&ms).then_some(ms)
}

/// A two-digit number.
#[inline]
fn number(digits: [u8; 2]) -> Option<i64> {
    let [tens, ones] = digits.map(|b| b.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

/// The milliseconds of a fraction, which may be absent, and what follows it.
fn fraction_ms(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', digits @ ..] = text else { return Some((0, text)) };
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    let digit = |at: usize| digits.get(at).map_or(0, |b| i64::from(b - b'0'));
    (!digits.is_empty()).then(|| (digit(0) * 100 + digit(1) * 10 + digit(2), rest))
}

fn offset_minutes(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number([*h1, *h2])?, number([*m1, *m2])?);
            let offset = hours * 60 + minutes;
            (hours <= 23 && minutes <= 59).then_some(if *sign == b'-' { -offset } else { offset })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day in the proleptic Gregorian calendar, year 0 or later.
///
/// Counting years from March puts the leap day last, so that a month's days before it are a linear formula; after
/// Howard Hinnant, "chrono-compatible low-level date algorithms".
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    const DAYS_FROM_0000_03_01_TO_1970: i64 = 719_468;
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    // Year 0's January and February belong to the year before it: one era is added, and taken off below.
    let year = year + 400 - i64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era - 1) * DAYS_PER_ERA + day_of_era - DAYS_FROM_0000_03_01_TO_1970
}
