//! Any text as a timestamp, and any literal.
#![no_main]

mod against_reference;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let quoted = serde_json::Value::from(text).to_string();
    against_reference::check(format!(r#"{{"event_type":"a","timestamp":{quoted}}}"#).as_bytes());
    against_reference::check(format!(r#"{{"event_type":"a","timestamp":{text}}}"#).as_bytes());
});
