//! Decoding: what is accepted, what is refused and why, against real lines and against an independent parser.

use proptest::prelude::*;
use std::io::Read as _;
use tidemark_core::event::{Event, Limits, Reject, decode};

/// 2026-11-24: the record's own timestamp in these tests.
const NOW: i64 = 1_795_564_800_000;

fn decoded(text: &str) -> Result<Event<'_>, Reject> {
    decode(Some(text.as_bytes()), NOW, &Limits::default())
}

fn with(field: &str) -> String {
    format!(r#"{{"event_type":"a","timestamp":0946684800000{}{field}}}"#, if field.is_empty() { "" } else { "," }).replace("0946", "946")
}

#[test]
fn each_broken_rule_has_its_own_reason() {
    let check = |text: &str, reason: &str| assert_eq!(decoded(text).map_err(|r| r.reason()).err(), Some(reason), "{text}");
    check("", "empty");
    check(" \n", "empty");
    check("{", "not_json");
    check("{}x", "not_json");
    check("\u{feff}{}", "not_json");
    check(r#"{"a":01}"#, "not_json");
    check(r#"{"a":nan}"#, "not_json");
    check(r#"{"a":1,}"#, "not_json");
    check("{\"a\":\"\t\"}", "not_json");
    check(r#"{"a":"\x"}"#, "not_json");
    check(r#"{"a":"\ud800"}"#, "lone_surrogate");
    check(r#"{"a":"\udc00\ud800"}"#, "lone_surrogate");
    check(r#"{"a":["\ud83dx"]}"#, "lone_surrogate");
    check("[]", "not_an_object");
    check("42", "not_an_object");
    check("{}", "missing_event_type");
    check(r#"{"event_type":"a"}"#, "missing_timestamp");
    check(r#"{"event_type":"a","event\u005ftype":"a","timestamp":"x"}"#, "repeated_field");
    check(r#"{"event_type":"","timestamp":1}"#, "bad_event_type");
    check(r#"{"event_type":null,"timestamp":1}"#, "bad_event_type");
    check(r#"{"event_type":"a","timestamp":1.5}"#, "bad_timestamp");
    check(r#"{"event_type":"a","timestamp":1e12}"#, "bad_timestamp");
    check(r#"{"event_type":"a","timestamp":null}"#, "bad_timestamp");
    check(r#"{"event_type":"a","timestamp":946684799999}"#, "too_old");
    check(&format!(r#"{{"event_type":"a","timestamp":{}}}"#, NOW + 86_400_001), "too_far_ahead");
    check(&with(r#""event_id":7"#), "bad_event_id");
    check(&with(&format!(r#""product_id":"{}""#, "x".repeat(257))), "bad_product_id");
    check(&with(r#""user_id":[]"#), "bad_user_id");
    check(&with(r#""order_amount":"1.5""#), "bad_order_amount");
    check(&with(r#""order_amount":true"#), "bad_order_amount");
    check(&with(r#""order_amount":1e15"#), "order_amount_out_of_range");
    check(&with(r#""properties":[]"#), "bad_properties");
    check(&with(r#""properties":3"#), "bad_properties");
    check(&format!("{}{}", "[".repeat(2000), "]".repeat(2000)), "too_deep");
    check(&with(&format!(r#""x":"{}""#, "x".repeat(66_000))), "too_long");
    assert_eq!(decode(None, NOW, &Limits::default()), Err(Reject::Empty));
    assert_eq!(decode(Some(b"{\"a\":\"\xed\xa0\x80\"}"), NOW, &Limits::default()), Err(Reject::NotUtf8));
}

#[test]
fn what_history_cannot_name_is_too_far_ahead_whatever_the_record_says() {
    let at = |ms: i64| {
        decode(Some(format!(r#"{{"event_type":"a","timestamp":{ms}}}"#).as_bytes()), i64::MAX, &Limits::default()).map(|e| e.timestamp_ms)
    };
    assert_eq!(at(4_294_967_100_000), Ok(4_294_967_100_000));
    assert_eq!(at(4_294_967_100_001), Err(Reject::TooFarAhead));
}

#[test]
fn depth_counts_the_event_itself() {
    let nested = |levels: usize| with(&format!(r#""x":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    assert!(decoded(&nested(31)).is_ok());
    assert_eq!(decoded(&nested(32)), Err(Reject::TooDeep));
}

#[test]
fn oddly_written_events_are_read_like_plain_ones() {
    let text = " { \"timestamp\" : \"2013-01-01T12:15:00.000+02:00\" , \"\\u0065vent_type\":\"\\u0055A\\ud83d\\ude00\",\"order_amount\":12e-1,\"product_id\":null,\"user_id\":\"\",\"other\":[{\"event_type\":1}],\"properties\":{\"a\":\"\\n\",\"b\":1.50,\"c\":null,\"d\":true,\"e\":[1, {}]}}\r\n";
    let event = decoded(text).expect("valid");
    assert_eq!((&*event.event_type, event.timestamp_ms), ("UA😀", 1_357_035_300_000));
    assert_eq!(event.order_amount.map(|a| a.to_string()).as_deref(), Some("1.2000"));
    assert_eq!((event.product_id.as_deref(), event.user_id.as_deref(), event.event_id.as_deref()), (None, None, None));
    let properties: Vec<(String, String)> = event.properties.iter().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let wanted = [("a", "\n"), ("b", "1.50"), ("c", "null"), ("d", "true"), ("e", "[1, {}]")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(properties, wanted);
    assert!(decoded(&with(r#""properties":{}"#)).expect("valid").properties.is_empty());
}

#[test]
fn amounts_in_strings_are_read_only_where_they_are_allowed() {
    let text = with(r#""order_amount":"12.34""#);
    let limits = Limits { amount_strings: true, ..Limits::default() };
    let event = decode(Some(text.as_bytes()), NOW, &limits).expect("allowed");
    assert_eq!(event.order_amount.map(|a| a.to_string()).as_deref(), Some("12.3400"));
    let spaced = with(r#""order_amount":" 12.34""#);
    assert_eq!(decode(Some(spaced.as_bytes()), NOW, &limits), Err(Reject::BadOrderAmount));
}

fn unpacked(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/").to_owned() + name;
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
    bytes
}

#[test]
fn of_the_dirty_file_exactly_the_lines_that_the_manifest_names_are_refused() {
    let manifest = String::from_utf8(unpacked("flights-2013-01.dirty.manifest.csv.gz")).expect("utf-8");
    let bad: std::collections::BTreeMap<usize, (&str, &str)> = manifest
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|f| f[2] != "duplicate")
        .map(|f| (f[0].parse().expect("a line number"), (f[1], f[f.len() - 1])))
        .collect();
    let lines = unpacked("flights-2013-01.dirty.ndjson.gz");
    for (n, line) in lines.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let got = decode(Some(line), NOW, &Limits::default()).map_err(|r| r.reason());
        let allowed: &[&str] = match bad.get(&(n + 1)).map(|(kind, _)| *kind) {
            None => &[],
            Some("truncated" | "nan") => &["not_json"],
            Some("missing_event_type") => &["missing_event_type"],
            Some("missing_timestamp") => &["missing_timestamp"],
            Some("type_amount") => &["bad_order_amount"],
            Some("bad_timestamp") => &["bad_timestamp"],
            Some("invalid_utf8") => &["not_utf8"],
            Some("not_object") => &["not_an_object", "missing_event_type"],
            Some("ts_1970") => &["too_old"],
            Some("ts_2999") => &["too_far_ahead"],
            Some("deep") => &["too_deep"],
            Some(other) => panic!("unknown kind {other}"),
        };
        match got {
            Ok(_) => assert!(allowed.is_empty(), "line {} should be refused", n + 1),
            Err(reason) => assert!(allowed.contains(&reason), "line {}: {reason}, not one of {allowed:?}", n + 1),
        }
    }
}

/// A document that is JSON, or nearly.
fn nearly_json() -> impl Strategy<Value = String> {
    let seeds = prop_oneof![
        Just(
            r#"{"event_type":"a","timestamp":"2013-01-01T10:15:00.000Z","order_amount":-12.5e-1,"properties":{"a":1,"b":"\u00e9\n"}}"#
                .to_owned()
        ),
        Just(r#"[1,2.0,-0,0e0,1E+5,"x\"\\\/\b",true,false,null,{"":[]},{}]"#.to_owned()),
        Just(r#""😀\ud83d\ude00é""#.to_owned()),
        "[\\[\\]{}\",:0-9eE+.truefalsn \\\\u-]{0,24}",
    ];
    (seeds, proptest::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}\",:0-9eE+.tn \\\\ud\t-]?"), 0..4)).prop_map(
        |(text, edits)| {
            let mut chars: Vec<char> = text.chars().collect();
            for (at, with) in edits {
                if !chars.is_empty() {
                    let at = at.index(chars.len());
                    chars.splice(at..=at, with.chars());
                }
            }
            chars.into_iter().collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_text_is_json_here_exactly_if_it_is_json_elsewhere(text in nearly_json()) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        let ours = decoded(&text);
        let syntax = matches!(ours, Err(Reject::NotJson | Reject::LoneSurrogate | Reject::Empty | Reject::TooDeep));
        match theirs {
            Ok(_) => prop_assert!(!syntax, "valid, but {ours:?}: {text}"),
            // An exponent that no float can hold is JSON all the same; serde_json says so only of the ones it converts.
            Err(e) if e.to_string().contains("number out of range") => {}
            Err(e) => prop_assert!(syntax, "{e}, but {ours:?}: {text}"),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded(event_type in ".{1,30}", id in ".{0,40}", amount in -10_000_000_000i64..10_000_000_000, at in 946_684_800_000i64..NOW) {
        let amount_text = format!("{}{}.{:04}", if amount < 0 { "-" } else { "" }, amount.abs() / 10_000, amount.abs() % 10_000);
        let text = format!(r#"{{"order_amount":{amount_text},"timestamp":{at},"event_id":{},"event_type":{}}}"#, serde_json::to_string(&id).expect("a string"), serde_json::to_string(&event_type).expect("a string"));
        let event = decoded(&text).expect("valid");
        prop_assert_eq!(&*event.event_type, event_type.as_str());
        prop_assert_eq!(event.event_id.as_deref().unwrap_or_default(), id.as_str());
        prop_assert_eq!(event.order_amount.map(|a| a.ten_thousandths()), Some(amount));
        prop_assert_eq!(event.timestamp_ms, at);
    }
}
