//! Decoding at its edges: times against jiff, strings byte by byte against serde_json, which of two broken rules is
//! named, and that nothing but the record decides.

use proptest::prelude::*;
use tidemark_core::event::{Event, Limits, Reject, decode, id_hash};

const NOW: i64 = 1_795_564_800_000;

/// Any time is early and late enough.
fn any_time() -> Limits {
    Limits { earliest_ms: i64::MIN, max_ahead_ms: i64::MAX, latest_ms: i64::MAX, ..Limits::default() }
}

/// The event's time, of a timestamp in JSON.
fn time(json: &str) -> Option<i64> {
    let text = format!(r#"{{"event_type":"a","timestamp":{json}}}"#);
    match decode(Some(text.as_bytes()), NOW, &any_time()) {
        Ok(event) => Some(event.timestamp_ms),
        Err(Reject::BadTimestamp) => None,
        Err(other) => panic!("{text}: {other:?}"),
    }
}

fn time_of_text(text: &str) -> Option<i64> {
    time(&serde_json::to_string(text).expect("a string"))
}

#[test]
fn a_time_is_rfc_3339_or_an_integer_and_nothing_else() {
    let check = |json: &str, ms: Option<i64>| assert_eq!(time(json), ms, "{json}");
    let base = Some(1_357_035_300_000);
    for same in [
        "2013-01-01T10:15:00Z",
        "2013-01-01t10:15:00z",
        "2013-01-01T12:15:00.000+02:00",
        "2013-01-01T00:45:00-09:30",
        "2013-01-01T10:15:00-00:00",
    ] {
        assert_eq!(time_of_text(same), base, "{same}");
    }
    assert_eq!(time_of_text("2013-01-01T10:15:00.1239999999999Z"), Some(1_357_035_300_123));
    assert_eq!(time_of_text("1969-12-31T23:59:59.9999Z"), Some(-1));
    for bad in [
        "",
        "2013-01-01",
        "2013-01-01 10:15:00Z",
        "2013-01-01T10:15:00",
        "2013-01-01T10:15Z",
        "2013-01-01T10:15:60Z",
        "2013-01-01T24:00:00Z",
        "2013-01-01T10:60:00Z",
        "2013-02-29T10:15:00Z",
        "1900-02-29T10:15:00Z",
        "2013-04-31T10:15:00Z",
        "2013-13-01T10:15:00Z",
        "2013-00-01T10:15:00Z",
        "2013-01-00T10:15:00Z",
        "2013-01-01T10:15:00.Z",
        "2013-01-01T10:15:00,5Z",
        "2013-01-01T10:15:00+2:00",
        "2013-01-01T10:15:00+0200",
        "2013-01-01T10:15:00+24:00",
        "2013-01-01T10:15:00+02:60",
        "2013-01-01T10:15:00ZZ",
        " 2013-01-01T10:15:00Z",
        "+2013-01-01T10:15:00Z",
        "1357035300000",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "２０13-01-01T10:15:00Z",
    ] {
        assert_eq!(time_of_text(bad), None, "{bad}");
    }
    assert!(time_of_text("2000-02-29T10:15:00Z").is_some() && time_of_text("2012-02-29T10:15:00Z").is_some());
    check("1357035300000", base);
    check("-1", Some(-1));
    check("-0", Some(0));
    check("253402300799999", Some(253_402_300_799_999));
    check("253402300800000", None);
    check("99999999999999999999999", None);
    for bad in ["1.0", "1e3", "true", "null", "[]", "{}"] {
        check(bad, None);
    }
}

#[test]
fn a_string_ends_where_it_ends_wherever_it_lies() {
    // Every pair of ASCII bytes, at every place of a word that is looked at at once.
    for at in 0..8 {
        for first in 0..=127u8 {
            for second in 0..=127u8 {
                let mut string = vec![b'"'; 20];
                string[1..19].fill(b'x');
                (string[1 + at], string[2 + at]) = (first, second);
                let document = [br#"{"timestamp":1,"event_type":"#.as_slice(), &string, b"}"].concat();
                let text = std::str::from_utf8(&document).expect("ascii");
                let theirs = serde_json::from_str::<serde_json::Value>(text).ok();
                let theirs = theirs.as_ref().and_then(|value| value["event_type"].as_str());
                let ours = decode(Some(&document), NOW, &any_time()).ok();
                assert_eq!(ours.as_ref().map(|event| &*event.event_type), theirs, "{text:?}");
            }
        }
    }
}

#[test]
fn of_several_broken_rules_the_first_in_the_documented_order_is_named() {
    let check = |text: &str, reason: &str| {
        let got = decode(Some(text.as_bytes()), NOW, &Limits::default()).map_err(|reject| reject.reason());
        assert_eq!(got.err(), Some(reason), "{text}");
    };
    let deep = "[".repeat(40);
    check(&" ".repeat(70_000), "too_long");
    check(r#"{"event_type":7,"timestamp":7,"event_type":7"#, "not_json");
    check(&format!(r#"{{"a":"\ud800","b":{deep}"#), "lone_surrogate");
    check(&format!(r#"{{"b":{deep},"a":"\ud800"#), "too_deep");
    check(&format!(r#"{{"a" 1,"b":{deep}"#), "not_json");
    check(r#"["\ud800"]"#, "lone_surrogate");
    check("[1] x", "not_json");
    check(r#"{"event_type":7,"properties":{},"properties":{},"event_type":7}"#, "repeated_field");
    check(
        r#"{"properties":7,"order_amount":"x","user_id":7,"product_id":7,"event_id":7,"timestamp":"x","event_type":7}"#,
        "bad_event_type",
    );
    check(r#"{"properties":7,"order_amount":"x","user_id":7,"product_id":7,"event_id":7,"timestamp":"x"}"#, "missing_event_type");
    check(
        r#"{"properties":7,"order_amount":"x","user_id":7,"product_id":7,"event_id":7,"timestamp":"x","event_type":"a"}"#,
        "bad_timestamp",
    );
    check(r#"{"properties":7,"order_amount":"x","user_id":7,"product_id":7,"event_id":7,"timestamp":1,"event_type":"a"}"#, "bad_event_id");
    check(r#"{"properties":7,"order_amount":"x","user_id":7,"product_id":7,"timestamp":1,"event_type":"a"}"#, "bad_product_id");
    check(r#"{"properties":7,"order_amount":"x","user_id":7,"timestamp":1,"event_type":"a"}"#, "bad_user_id");
    check(r#"{"properties":7,"order_amount":"x","timestamp":1,"event_type":"a"}"#, "bad_order_amount");
    check(r#"{"properties":7,"order_amount":1e99,"timestamp":1,"event_type":"a"}"#, "order_amount_out_of_range");
    check(r#"{"properties":7,"timestamp":1,"event_type":"a"}"#, "bad_properties");
    check(r#"{"timestamp":1,"event_type":"a"}"#, "too_old");
}

#[test]
fn limits_at_the_ends_of_their_range_neither_overflow_nor_let_the_stack_grow() {
    let text = format!(r#"{{"event_type":"a","timestamp":0,"x":{}{}}}"#, "[".repeat(127), "]".repeat(127));
    let limits = Limits { max_depth: u32::MAX, ..any_time() };
    assert!(decode(Some(text.as_bytes()), i64::MAX, &limits).is_ok());
    let deeper = text.replace("[]", "[[]]");
    assert_eq!(decode(Some(deeper.as_bytes()), i64::MAX, &limits), Err(Reject::TooDeep));
    let flat = br#"{"event_type":"a","timestamp":0}"#;
    assert_eq!(decode(Some(flat), i64::MIN, &Limits { max_ahead_ms: -1, ..limits.clone() }), Err(Reject::TooFarAhead));
    assert_eq!(decode(Some(flat), NOW, &Limits { max_depth: 0, ..limits }), Err(Reject::TooDeep));
}

#[test]
fn ids_are_hashed_by_xxh3_128() {
    // From the reference implementation (python-xxhash, xxh3_128_intdigest).
    let long = "0123456789".repeat(26);
    for (id, hash) in [("", HASHES[0]), ("abc", HASHES[1]), ("nyc-000000", HASHES[2]), (long.as_str(), HASHES[3])] {
        assert_eq!(id_hash(id).get(), hash, "{id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_time_is_the_instant_that_jiff_reads(
        year in 0i32..=9999, month in 0u8..=13, day in 0u8..=32, hour in 0u8..=24, minute in 0u8..=60, second in 0u8..=59,
        fraction in "([.][0-9]{1,9})?", zone in "[Zz]|[+-](0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]",
    ) {
        let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
        // jiff reads hour 24 no more than we do; an instant past its own last one (9999-12-30T22) it cannot hold.
        let theirs = text.parse::<jiff::Timestamp>().map(|t| t.as_nanosecond().div_euclid(1_000_000));
        match (time_of_text(&text), theirs) {
            (Some(ours), Ok(theirs)) => prop_assert_eq!(i128::from(ours), theirs, "{}", text),
            (None, Ok(theirs)) => prop_assert!(!(-62_167_219_200_000..=253_402_300_799_999).contains(&theirs), "{text} is a time"),
            (Some(ours), Err(error)) => prop_assert!(ours > 253_402_207_200_000, "{text} is no time: {error}"),
            (None, Err(_)) => {}
        }
    }

    #[test]
    fn the_same_record_is_decoded_alike_wherever_it_lies(bytes in prop_oneof![any::<Vec<u8>>(), "[{}\\[\\]\":,a-e0-9 ]{0,60}".prop_map(String::into_bytes)], before in 0usize..9) {
        let moved = [vec![b'"'; before], bytes.clone(), vec![b'}'; 9]].concat();
        let there = decode(Some(&moved[before..before + bytes.len()]), NOW, &Limits::default());
        let here: Result<Event<'_>, Reject> = decode(Some(&bytes), NOW, &Limits::default());
        prop_assert_eq!(here, there);
    }
}

const HASHES: [u128; 4] = [
    0x99aa_06d3_0147_98d8_6001_c324_468d_497f,
    0x06b0_5ab6_733a_6185_78af_5f94_892f_3950,
    0x78e8_574f_01ca_c398_52d3_8662_cc1a_16c8,
    0xdbda_437c_1069_2b93_1aab_d69d_6290_f28d,
];
