//! What a request's headers want of an answer: its form, its encoding, and how long the caller would rather wait. Pure.

use crate::packed::Coding;
use crate::written::Form;
use axum::http::{HeaderMap, HeaderName, header};
use std::time::Duration;

/// The longest that `Prefer: wait` waits, in seconds.
const MAX_WAIT_SECS: u64 = 60;

/// How long the caller would rather wait than hear that nothing has changed (RFC 7240): `Prefer: wait=30`.
pub fn wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split([',', ';']));
    let mut waits = preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")?.trim().parse::<u64>().ok());
    Duration::from_secs(waits.next().unwrap_or(0).min(MAX_WAIT_SECS))
}

/// The form that is wanted most, of equal ones that named first; JSON if none is named.
pub fn accepted(headers: &HeaderMap) -> Form {
    let media_type = |form: Form| form.media_type().split(';').next().unwrap_or_default();
    let form =
        |(name, weight): (&str, f32)| Some((Form::ALL.into_iter().find(|&form| media_type(form).eq_ignore_ascii_case(name))?, weight));
    most_wanted(weighed(headers, header::ACCEPT).filter_map(form)).unwrap_or(Form::Json)
}

/// The encoding that is wanted most, of equal ones the better; none if none is named.
pub fn coding(headers: &HeaderMap) -> Option<Coding> {
    most_wanted(Coding::ALL.into_iter().filter_map(|coding| Some((coding, weight(headers, coding)?))))
}

/// Whether an encoding is wanted at all.
pub fn takes(headers: &HeaderMap, coding: Coding) -> bool {
    weight(headers, coding).is_some_and(|weight| weight > 0.0)
}

/// How much an encoding is wanted, if it is named.
fn weight(headers: &HeaderMap, coding: Coding) -> Option<f32> {
    let mut named = weighed(headers, header::ACCEPT_ENCODING);
    Some(named.find(|(name, _)| name.eq_ignore_ascii_case(coding.name()))?.1)
}

/// The first of those with the largest weight; one of weight 0 is not wanted at all.
fn most_wanted<T>(choices: impl Iterator<Item = (T, f32)>) -> Option<T> {
    let better = |best: Option<(T, f32)>, next: (T, f32)| best.filter(|best| best.1 >= next.1).or(Some(next));
    choices.filter(|(_, weight)| *weight > 0.0).fold(None, better).map(|(choice, _)| choice)
}

/// What a header names, each with how much it is wanted (RFC 9110, 12.4.2): `text/csv;q=0.5, application/json`.
fn weighed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = (&str, f32)> {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        (name, weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, text: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, text.parse().expect("a header"))])
    }

    #[test]
    fn the_form_that_is_wanted_most_is_chosen() {
        let check = |text: &str, form| assert_eq!(accepted(&with(header::ACCEPT, text)), form, "{text}");
        assert_eq!(accepted(&HeaderMap::new()), Form::Json);
        check("*/*", Form::Json);
        check("text/html, image/png", Form::Json);
        check("text/csv", Form::Csv);
        check("Text/CSV; charset=utf-8", Form::Csv);
        check("application/vnd.apache.arrow.stream, application/json;q=0.9", Form::Arrow);
        check("application/json;q=0.5, application/vnd.apache.parquet;q=0.6", Form::Parquet);
        check("application/x-ndjson;q=0, text/csv;q=0.1", Form::Csv);
    }

    #[test]
    fn zstd_is_preferred_unless_the_client_does_not() {
        let check = |text: &str, expected| assert_eq!(coding(&with(header::ACCEPT_ENCODING, text)), expected, "{text}");
        assert_eq!(coding(&HeaderMap::new()), None);
        check("gzip, deflate, br, zstd", Some(Coding::Zstd));
        check("gzip, deflate", Some(Coding::Gzip));
        check("gzip;q=1.0, zstd;q=0.5", Some(Coding::Gzip));
        check("zstd;q=0, gzip;q=0", None);
        check("identity", None);
        check("br", None);
    }
}
