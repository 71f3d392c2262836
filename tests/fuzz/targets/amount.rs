//! Any text as an amount, and any literal.
#![no_main]

mod against_reference;

use tidemark_core::amount::Amount;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = Amount::parse_decimal(text.as_bytes());
    let quoted = serde_json::Value::from(text).to_string();
    let event = |amount: &str| format!(r#"{{"event_type":"a","timestamp":"2026-01-01T00:00:00Z","order_amount":{amount}}}"#);
    against_reference::check(event(&quoted).as_bytes());
    against_reference::check(event(text).as_bytes());
});
