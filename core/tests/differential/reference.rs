//! Decoding a second time: slowly, by the rules as they are written down, with serde_json for JSON and strings of digits
//! for numbers. It shares no code with the first but the names of the rejects.

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use tidemark_core::event::{Event, Limits, Reject};

/// An event with everything that it says, the amount in ten-thousandths.
#[derive(Clone, PartialEq, Debug)]
pub struct Plain {
    pub event_type: String,
    pub timestamp_ms: i64,
    pub event_id: Option<String>,
    pub product_id: Option<String>,
    pub user_id: Option<String>,
    pub order_amount: Option<i64>,
    pub properties: Vec<(String, String)>,
}

impl Plain {
    /// What the decoding that is tested gives.
    pub fn of(event: Event<'_>) -> Self {
        let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        Self {
            event_type: event.event_type.into_owned(),
            timestamp_ms: event.timestamp_ms,
            event_id: owned(event.event_id),
            product_id: owned(event.product_id),
            user_id: owned(event.user_id),
            order_amount: event.order_amount.map(|amount| amount.ten_thousandths()),
            properties: event.properties.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        }
    }
}

const FIELDS: [&str; 7] = ["event_type", "timestamp", "event_id", "product_id", "user_id", "order_amount", "properties"];

/// Deeper than this is too deep, whatever the limits say.
const DEEPEST: u32 = 128;

pub fn decode(payload: Option<&[u8]>, record_timestamp_ms: i64, limits: &Limits) -> Result<Plain, Reject> {
    let payload = payload.unwrap_or_default();
    if payload.len() > limits.max_bytes {
        return Err(Reject::TooLong);
    }
    if payload.iter().all(|byte| b" \t\n\r".contains(byte)) {
        return Err(Reject::Empty);
    }
    let text = std::str::from_utf8(payload).map_err(|_| Reject::NotUtf8)?;
    if let Some(reject) = first_fault(text, limits.max_depth.min(DEEPEST)) {
        return Err(reject);
    }
    let Some(members) = members(text) else { return Err(Reject::NotAnObject) };
    for (at, (name, _)) in members.iter().enumerate() {
        let before = &members[..at];
        if let Some(known) = FIELDS.iter().find(|known| *known == name)
            && before.iter().any(|(other, _)| other == name)
        {
            return Err(Reject::RepeatedField(known));
        }
    }
    let field = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let event = Plain {
        event_type: event_type(field("event_type"))?,
        timestamp_ms: timestamp(field("timestamp"))?,
        event_id: optional_string(field("event_id"), Reject::BadEventId)?,
        product_id: optional_string(field("product_id"), Reject::BadProductId)?,
        user_id: optional_string(field("user_id"), Reject::BadUserId)?,
        order_amount: order_amount(field("order_amount"), limits.amount_strings)?,
        properties: properties(field("properties"))?,
    };
    if event.timestamp_ms < limits.earliest_ms {
        return Err(Reject::TooOld);
    }
    let latest = (i128::from(record_timestamp_ms) + i128::from(limits.max_ahead_ms)).min(i128::from(limits.latest_ms));
    if i128::from(event.timestamp_ms) > latest {
        return Err(Reject::TooFarAhead);
    }
    Ok(event)
}

/// Of what is wrong with a document, the first in reading order.
fn first_fault(text: &str, max_depth: u32) -> Option<Reject> {
    let syntax = syntax_fault(text);
    match breach(text, max_depth) {
        Some((at, reject)) if syntax.is_none_or(|syntax| at < syntax) => Some(reject),
        _ => syntax.map(|_| Reject::NotJson),
    }
}

/// Where a document stops being JSON, by serde_json. As raw text it looks neither at the depth, nor at surrogates, nor
/// at how large a number is.
fn syntax_fault(text: &str) -> Option<usize> {
    let error = serde_json::from_str::<&RawValue>(text).err()?;
    if error.is_eof() {
        return Some(text.len());
    }
    let line_start: usize = text.split_inclusive('\n').take(error.line() - 1).map(str::len).sum();
    Some(line_start + error.column().saturating_sub(1))
}

/// The first bracket that opens a level too many, or escape that is half of a pair, and where it stands. What follows a
/// fault of syntax is meaningless here.
fn breach(text: &str, max_depth: u32) -> Option<(usize, Reject)> {
    let (mut depth, mut in_string, mut at) = (0u32, false, 0);
    while at < text.len() {
        match (in_string, text.as_bytes()[at]) {
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > max_depth {
                    return Some((at, Reject::TooDeep));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => {
                match (unit(text, at), unit(text, at + 6)) {
                    (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 6,
                    (Some(0xd800..=0xdfff), _) => return Some((at, Reject::LoneSurrogate)),
                    // An escape cut short: nothing behind it is looked at, though serde_json names a place behind it.
                    (None, _) if text[at..].starts_with("\\u") => return None,
                    _ => {}
                }
                at += 1; // what is escaped ends no string
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The UTF-16 unit of the `\uXXXX` that begins at `at`.
fn unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) { u16::from_str_radix(digits, 16).ok() } else { None }
}

/// All members of an object, in order, repeated names too; `None` if the text is another value.
fn members(text: &str) -> Option<Vec<(String, &str)>> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                members.push((name, value.get()));
            }
            Ok(members)
        }
    }

    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    Some(serde_json::Deserializer::from_str(text).deserialize_map(Members).expect("the text is JSON: it has been looked at"))
}

fn string(value: &str) -> Option<String> {
    value.starts_with('"').then(|| serde_json::from_str(value).expect("the text is JSON: it has been looked at"))
}

fn is_number(value: &str) -> bool {
    value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

fn event_type(value: Option<&str>) -> Result<String, Reject> {
    let text = string(value.ok_or(Reject::MissingEventType)?).ok_or(Reject::BadEventType)?;
    if (1..=128).contains(&text.len()) { Ok(text) } else { Err(Reject::BadEventType) }
}

fn optional_string(value: Option<&str>, reject: Reject) -> Result<Option<String>, Reject> {
    match value {
        None | Some("null") => Ok(None),
        Some(value) => match string(value).ok_or(reject)? {
            empty if empty.is_empty() => Ok(None),
            text if text.len() > 256 => Err(reject),
            text => Ok(Some(text)),
        },
    }
}

fn properties(value: Option<&str>) -> Result<Vec<(String, String)>, Reject> {
    match value {
        None | Some("null") => Ok(Vec::new()),
        Some(value) => {
            let members = members(value).ok_or(Reject::BadProperties)?;
            Ok(members.into_iter().map(|(name, value)| (name, string(value).unwrap_or_else(|| value.to_owned()))).collect())
        }
    }
}

fn timestamp(value: Option<&str>) -> Result<i64, Reject> {
    let value = value.ok_or(Reject::MissingTimestamp)?;
    let ms = match string(value) {
        Some(text) => rfc3339(&text),
        // An i128 takes 38 digits, or the number is far outside the years. It reads no fraction and no exponent.
        None if is_number(value) => value.parse().ok(),
        None => None,
    };
    let year_0 = day_number(0, 1, 1).expect("a day") * 86_400_000;
    let year_10000 = (day_number(9999, 12, 31).expect("a day") + 1) * 86_400_000;
    let ms = ms.filter(|ms| (year_0..year_10000).contains(ms)).ok_or(Reject::BadTimestamp)?;
    Ok(i64::try_from(ms).expect("a time in these years"))
}

fn rfc3339(text: &str) -> Option<i128> {
    let (date_time, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(date_time) => (date_time, 0),
        None => {
            let (date_time, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, "00:00")?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (date_time, sign * (hours * 60 + minutes))
        }
    };
    let (whole, fraction) = match date_time.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (date_time, "0"),
    };
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let ms: i128 = format!("{fraction}000")[..3].parse().ok()?;
    let [year, month, day, hour, minute, second] = numbers(&whole.replace('t', "T"), "0000-00-00T00:00:00")?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let minutes = (day_number(year, month, day)? * 24 + hour) * 60 + minute - zone;
    Some((minutes * 60 + second) * 1000 + ms)
}

/// The numbers in a text that has digits where the form has them, and everything else as the form has it.
fn numbers<const N: usize>(text: &str, form: &str) -> Option<[i128; N]> {
    let alike = |(byte, wanted): (u8, u8)| if wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted };
    if text.len() != form.len() || !text.bytes().zip(form.bytes()).all(alike) {
        return None;
    }
    let numbers: Vec<i128> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Days from 1970-01-01 to a day of the calendar, counted year by year and month by month.
fn day_number(year: i128, month: i128, day: i128) -> Option<i128> {
    let is_leap = |year: i128| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let year_days = |year| if is_leap(year) { 366 } else { 365 };
    let month_days = |month| match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    };
    if !(1..=12).contains(&month) || day < 1 || day > month_days(month) {
        return None;
    }
    let years: i128 = if year < 1970 { -(year..1970).map(year_days).sum::<i128>() } else { (1970..year).map(year_days).sum() };
    Some(years + (1..month).map(month_days).sum::<i128>() + day - 1)
}

fn order_amount(value: Option<&str>, strings: bool) -> Result<Option<i64>, Reject> {
    let number = match value {
        None | Some("null") => return Ok(None),
        Some(value) if is_number(value) => value.to_owned(),
        Some(value) if strings => string(value).ok_or(Reject::BadOrderAmount)?,
        Some(_) => return Err(Reject::BadOrderAmount),
    };
    // Of a string: a number and nothing around it.
    let is_json = serde_json::from_str::<&RawValue>(&number).is_ok_and(|raw| raw.get() == number);
    if !is_number(&number) || !is_json {
        return Err(Reject::BadOrderAmount);
    }
    ten_thousandths(&number).map(Some).ok_or(Reject::OrderAmountOutOfRange)
}

/// A number in JSON, rounded half to even at four decimals, by moving the point in a string of digits.
fn ten_thousandths(number: &str) -> Option<i64> {
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |rest| (-1, rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // A record has not as many digits as that: a larger exponent comes to the same.
    const LARGE: i64 = 100_000;
    let exponent = match exponent.parse::<i64>() {
        Ok(exponent) => exponent.clamp(-LARGE, LARGE),
        Err(_) if exponent.starts_with('-') => -LARGE,
        Err(_) => LARGE,
    };
    let moved = usize::try_from(exponent.abs()).expect("it is not large");
    let zeros = "0".repeat(moved);
    let (mut whole, mut fraction) = (whole.to_owned(), fraction.to_owned());
    if exponent >= 0 {
        fraction += &zeros;
        whole += &fraction[..moved];
        fraction.drain(..moved);
    } else {
        whole.insert_str(0, &zeros);
        fraction.insert_str(0, &whole[whole.len() - moved..]);
        whole.truncate(whole.len() - moved);
    }
    fraction += "0000";
    let (kept, rest) = fraction.split_at(4);
    let digits = whole + kept;
    let value: i64 = match digits.trim_start_matches('0') {
        "" => 0,
        digits if digits.len() > 19 => return None,
        digits => digits.parse::<u64>().ok()?.try_into().ok()?,
    };
    let rest = rest.trim_end_matches('0');
    let up = match rest.cmp("5") {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => value % 2 == 1,
        std::cmp::Ordering::Greater => true,
    };
    let value = value.checked_add(i64::from(up))?;
    (value <= 1_000_000_000_000_000_000).then_some(sign * value)
}
