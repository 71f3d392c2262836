//! What each dialect is told as, by table; and that no telling changes what counts.

use super::cloudevents::Head;
use crate::body::Form;
use crate::items::{Checked, check};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use proptest::prelude::*;
use tidemark_core::event::{Event, Limits, decode};

const NOW_MS: i64 = 1_357_000_000_000;

fn checked(body: &str, form: &Form) -> Checked {
    check(&Bytes::from(body.to_owned()), form, NOW_MS, &Limits::default()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// The payloads of what is accepted, then `index!reason` of what is not.
fn picture(body: &str, form: &Form) -> String {
    let checked = checked(body, form);
    let told = checked.items.iter().map(|item| String::from_utf8_lossy(&item.payload).into_owned());
    told.chain(checked.rejected.iter().map(|it| format!("{}!{}", it.index, it.refusal.reason))).collect::<Vec<_>>().join(" ")
}

fn head(attributes: &[(&str, &str)]) -> Form {
    let mut headers = HeaderMap::new();
    for (name, value) in attributes {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Form::Binary(Head::of(&headers).expect("an event's head"))
}

/// A structured event of these further members.
fn cloud_event(rest: &str) -> String {
    format!(r#"{{"specversion":"1.0","source":"/s","id":"1","type":"a","time":"2013-01-01T00:00:00Z"{rest}}}"#)
}

const TOLD: &str = r#"{"event_type":"a","timestamp":"2013-01-01T00:00:00Z","event_id":"/s 1""#;

#[test]
fn a_cloud_event_is_told_by_its_attributes_and_its_data() {
    let check = |rest: &str, is: &str| assert_eq!(picture(&cloud_event(rest), &Form::Structured), is, "{rest}");
    let check_told = |rest: &str, told: &str| check(rest, &format!("{TOLD}{told}}}"));
    check_told("", "");
    check_told(r#","data":null"#, "");
    check_told(r#","subject":"x","dataschema":"y","partitionkey":"z""#, "");
    check_told(
        r#","data":{"product_id":"p","user_id":null,"order_amount":1.50}"#,
        r#","product_id":"p","user_id":null,"order_amount":1.50"#,
    );
    check_told(r#","data":{"product_id":"p","colour":"red","n":[1, 2]}"#, r#","product_id":"p","properties":{"colour":"red","n":[1, 2]}"#);
    check_told(r#","data":{"properties":{"a":1},"colour":"red"}"#, r#","properties":{"a":1}"#);
    check_told(r#","data":{"event_type":"b"}"#, r#","properties":{"event_type":"b"}"#);
    check_told(r#","data_base64":"eyJwcm9kdWN0X2lkIjoicCJ9""#, r#","product_id":"p""#);
    check(r#","data":[]"#, "0!bad_data");
    check(r#","data":"<xml/>""#, "0!bad_data");
    check(r#","data_base64":"!""#, "0!bad_data");
    check(r#","data":{},"data_base64":"e30=""#, "0!bad_data");
    check(r#","data":{"order_amount":1,"order_amount":2}"#, "0!repeated_field");
    check(r#","data":{"order_amount":"much"}"#, "0!bad_order_amount");
    check(r#","data":{"properties":1}"#, "0!bad_properties");
    check(r#","data":{"\ud800":1}"#, "0!lone_surrogate");
    check(r#","id":"2""#, "0!repeated_field");
}

#[test]
fn a_cloud_event_that_lacks_what_it_must_have_is_refused() {
    let check = |from: &str, to: &str, is: &str| assert_eq!(picture(&cloud_event("").replace(from, to), &Form::Structured), is, "{to}");
    check(r#""1.0""#, r#""0.3""#, "0!bad_specversion");
    check(r#""id":"1","#, "", "0!missing_id");
    check(r#""id":"1""#, r#""id":"""#, "0!missing_id");
    check(r#""id":"1""#, r#""id":null"#, "0!missing_id");
    check(r#""id":"1""#, r#""id":1"#, "0!bad_attribute");
    check(r#""/s""#, r#""a b""#, "0!bad_source");
    check(r#""type":"a","#, "", "0!missing_event_type");
    check(r#","time":"2013-01-01T00:00:00Z""#, "", "0!missing_timestamp");
    assert_eq!(picture("[]", &Form::Structured), "0!not_an_object");
    let detail = &checked(&cloud_event("").replace(r#""type":"a","#, ""), &Form::Structured).rejected[0].refusal.detail;
    assert_eq!(detail, "event_type is required (event_type is made of type)");
}

#[test]
fn source_and_id_make_one_id_that_no_other_pair_makes() {
    let id = |source: &str, id: &str| {
        let text = cloud_event("").replace(r#""/s""#, &format!("{source:?}")).replace(r#""id":"1""#, &format!(r#""id":{id:?}"#));
        let payload = checked(&text, &Form::Structured).items.remove(0).payload;
        decode(Some(&payload), NOW_MS, &Limits::default()).unwrap().event_id.unwrap().into_owned()
    };
    assert_eq!(id("/s", "1"), "/s 1");
    assert_ne!(id("/s", "1 2"), id("/s1", "2"));
    assert_eq!(id("/s", &"x".repeat(253)).len(), 256, "the longest that is joined");
    let long = id("/s", &"x".repeat(254));
    assert!(long.starts_with("sha256:") && long.len() == 71, "{long}");
    assert_ne!(long, id("/sx", &"x".repeat(253)));
    assert_eq!(long, id("/s", &"x".repeat(254)), "a retry has the same");
}

#[test]
fn a_batch_is_judged_event_by_event_and_binary_mode_by_its_head() {
    let batch = format!("[{},1,{}]", cloud_event(""), cloud_event(r#","data":1"#));
    assert_eq!(picture(&batch, &Form::Batched), format!("{TOLD}}} 1!not_an_object 2!bad_data"));
    assert_eq!(picture("[]", &Form::Batched), "");
    let attributes =
        [("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-id", "1"), ("ce-type", "a"), ("ce-time", "2013-01-01T00:00:00Z")];
    let with = |more: &[(&str, &str)]| head(&[&attributes, more].concat());
    assert_eq!(picture("", &with(&[])), format!("{TOLD}}}"));
    assert_eq!(picture(r#"{"user_id":"u"}"#, &with(&[])), format!(r#"{TOLD},"user_id":"u"}}"#));
    for json in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json"] {
        assert_eq!(picture(r#"{"user_id":"u"}"#, &with(&[("content-type", json)])), format!(r#"{TOLD},"user_id":"u"}}"#));
    }
    assert_eq!(picture("{}", &with(&[("content-type", "application/xml")])), "0!bad_data");
    assert_eq!(picture("{", &with(&[("content-type", "application/json")])), "0!not_json");
    assert_eq!(picture("", &with(&[("ce-id", "2")])), "0!repeated_field");
    let of_type = |value: &str| {
        let mut told = attributes.to_vec();
        told[3].1 = value;
        picture("", &head(&told))
    };
    assert!(of_type("Euro%20%E2%82%AC").contains(r#""event_type":"Euro €""#));
    assert!(of_type(r#""a \"b\" \\""#).contains(r#""event_type":"a \"b\" \\""#));
    assert_eq!(of_type("%ff"), "0!not_utf8");
}

#[test]
fn a_call_of_segment_is_told_by_its_event_and_its_properties() {
    fn check(call: &str, is: &str) {
        assert_eq!(picture(call, &Form::Track), is, "{call}");
    }
    let at = r#""timestamp":"2013-01-01T00:00:00Z""#;
    check(&format!(r#"{{"event":"a",{at}}}"#), &format!(r#"{{"event_type":"a",{at}}}"#));
    check(
        &format!(r#"{{"type":"track","messageId":"m","userId":"u","anonymousId":"x","event":"a",{at},"context":{{"ip":"1"}}}}"#),
        &format!(r#"{{"event_type":"a",{at},"event_id":"m","user_id":"u"}}"#),
    );
    check(&format!(r#"{{"userId":null,"anonymousId":"x","event":"a",{at}}}"#), &format!(r#"{{"event_type":"a",{at},"user_id":"x"}}"#));
    check(r#"{"event":"a","sentAt":"2013-01-01T00:00:00Z"}"#, &format!(r#"{{"event_type":"a",{at}}}"#));
    check(
        &format!(r#"{{"event":"a",{at},"properties":{{"product_id":"p","revenue":9.90,"value":1}}}}"#),
        &format!(
            r#"{{"event_type":"a",{at},"product_id":"p","order_amount":9.90,"properties":{{"product_id":"p","revenue":9.90,"value":1}}}}"#
        ),
    );
    check(
        &format!(r#"{{"event":"a",{at},"properties":{{"revenue":null,"value":1}}}}"#),
        &format!(r#"{{"event_type":"a",{at},"order_amount":1,"properties":{{"revenue":null,"value":1}}}}"#),
    );
    check(r#"{"event":"a"}"#, "0!missing_timestamp");
    check(&format!("{{{at}}}"), "0!missing_event_type");
    check(&format!(r#"{{"type":"identify",{at}}}"#), "0!not_track");
    check(&format!(r#"{{"event":"a",{at},"userId":7}}"#), "0!bad_user_id");
    check(&format!(r#"{{"event":"a",{at},"properties":[]}}"#), "0!bad_properties");
    check(&format!(r#"{{"event":"a",{at},"properties":{{"revenue":"9"}}}}"#), "0!bad_order_amount");
    check(&format!(r#"{{"event":"a",{at},"properties":{{"revenue":1,"revenue":2}}}}"#), "0!repeated_field");
}

#[test]
fn a_batch_of_segment_gives_its_time_to_calls_that_have_none() {
    let batch = r#"{"sentAt":"2013-01-01T00:00:00Z","writeKey":"w","batch":[{"type":"track","event":"a"},{"type":"page"},{"event":"a"},
        {"type":"track","event":"b","timestamp":"2013-01-02T00:00:00Z"}]}"#;
    let told = [r#"{"event_type":"a","timestamp":"2013-01-01T00:00:00Z"}"#, r#"{"event_type":"b","timestamp":"2013-01-02T00:00:00Z"}"#];
    assert_eq!(picture(batch, &Form::Batch), format!("{} {} 1!not_track 2!not_track", told[0], told[1]));
    for none in ["[]", "{}", r#"{"batch":{}}"#, r#"{"batch":[],"batch":[]}"#] {
        let refused = check(&Bytes::from(none), &Form::Batch, NOW_MS, &Limits::default()).unwrap_err();
        assert!(refused.to_string().contains("is not a batch of calls"), "{refused}");
    }
}

/// JSON texts that a field may be given: good ones, and such as are refused.
fn texts(good: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    const ODD: &[&str] = &["null", r#""""#, "1", "true", "[]", "{}", r#""\ud800""#, r#""\u00e4 \"""#, "1e400", "-0.00005"];
    let long = (120..300_usize).prop_map(|n| format!("\"{}\"", "x".repeat(n)));
    let any = prop_oneof![
        6 => proptest::sample::select(good).prop_map(str::to_owned),
        2 => proptest::sample::select(ODD).prop_map(str::to_owned),
        1 => long,
    ];
    proptest::option::weighted(0.85, any)
}

#[derive(Clone, Debug)]
struct Fields {
    event_type: Option<String>,
    timestamp: Option<String>,
    product_id: Option<String>,
    user_id: Option<String>,
    order_amount: Option<String>,
}

fn fields() -> impl Strategy<Value = Fields> {
    let times: &[&str] =
        &[r#""2013-01-01T00:00:00Z""#, r#""2013-01-01T01:00:00.1234+01:00""#, r#""2013-01-01""#, r#""1999-01-01T00:00:00Z""#];
    let of = (texts(&[r#""a""#, r#""b c""#]), texts(times), texts(&[r#""p""#]), texts(&[r#""u""#]), texts(&["1.25", "-3", "1e3", "1e15"]));
    of.prop_map(|(event_type, timestamp, product_id, user_id, order_amount)| Fields {
        event_type,
        timestamp,
        product_id,
        user_id,
        order_amount,
    })
}

/// An object of the members that there are.
fn object(members: &[(&str, Option<&String>)]) -> String {
    let members = members.iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", value.as_ref()?)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// What an event counts as: all of it but the properties.
fn counted(payload: &[u8]) -> Result<Event<'_>, &'static str> {
    let mut event = decode(Some(payload), NOW_MS, &Limits::default()).map_err(|reject| reject.reason())?;
    event.properties = Default::default();
    Ok(event)
}

/// Of one item: that it is accepted as this, or refused.
fn same(body: &str, form: &Form, sent: &str) -> Result<(), TestCaseError> {
    let judged = checked(body, form);
    match (judged.items.first(), counted(sent.as_bytes())) {
        (Some(item), canonical) => {
            prop_assert_eq!(counted(&item.payload), canonical, "{}", body);
            let again = checked(std::str::from_utf8(&item.payload).expect("UTF-8"), &Form::Json);
            prop_assert_eq!(&again.items, &judged.items, "the canonical route takes what was told, under the same key");
        }
        (None, Err(_)) => {}
        (None, Ok(event)) => prop_assert!(false, "{body} is refused: {:?}, and is {event:?}", judged.rejected),
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_a_dialect_tells_is_what_the_canonical_route_would_count(fields in fields()) {
        let Fields { event_type, timestamp, product_id, user_id, order_amount } = &fields;
        let (of_type, at) = (event_type.as_ref(), timestamp.as_ref());
        let (product, user, amount) = (product_id.as_ref(), user_id.as_ref(), order_amount.as_ref());
        let id = |text: &str| Some(format!("\"{text}\""));
        let canonical = |event_id: &str| object(&[
            ("event_type", of_type), ("timestamp", at), ("event_id", id(event_id).as_ref()),
            ("product_id", product), ("user_id", user), ("order_amount", amount),
        ]);

        let data = object(&[("product_id", product), ("user_id", user), ("order_amount", amount), ("colour", id("red").as_ref())]);
        let cloud = object(&[
            ("data", Some(&data)), ("id", id("7").as_ref()), ("specversion", id("1.0").as_ref()),
            ("source", id("/s").as_ref()), ("type", of_type), ("time", at),
        ]);
        same(&cloud, &Form::Structured, &canonical("/s 7"))?;

        let properties = object(&[("product_id", product), ("revenue", amount), ("colour", id("red").as_ref())]);
        let call = object(&[
            ("event", of_type), ("timestamp", at), ("messageId", id("7").as_ref()), ("userId", user), ("properties", Some(&properties)),
        ]);
        same(&call, &Form::Track, &canonical("7"))?;
    }
}
