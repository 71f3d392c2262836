//! An event that is written without escapes is decoded without an allocation, and so are its rejects.

use tidemark_core::event::{Limits, decode, id_hash};

const NOW: i64 = 1_795_564_800_000;

/// How often decoding the text, and reading all of the event, allocates.
fn allocations(text: &str, accepted: bool) -> u64 {
    let limits = Limits::default();
    let mut is_event = false;
    let counted = allocation_counter::measure(|| {
        let event = decode(Some(text.as_bytes()), NOW, &limits);
        if let Ok(event) = &event {
            std::hint::black_box(event.event_id.as_deref().map(id_hash));
            std::hint::black_box(event.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
        }
        is_event = event.is_ok();
    });
    assert_eq!(is_event, accepted, "{text}");
    counted.count_total
}

#[test]
fn an_event_without_escapes_is_decoded_without_allocation() {
    let plain = r#" {"event_id":"nyc-000000","event_type":"UA","timestamp":"2013-01-01T10:15:00.000Z","product_id":"EWR-IAH","user_id":"Zoë","order_amount":-2.5e1,"properties":{"flight":1545,"a":"b","c":[1,{}]},"other":[[{"x":null}]]} "#;
    assert_eq!(allocations(plain, true), 0);
    for rejected in ["", "{", "[]", "{}", r#"{"event_type":"a","timestamp":"yesterday"}"#, r#"{"a":1,"a":"\ud800"}"#] {
        assert_eq!(allocations(rejected, false), 0, "{rejected}");
    }
    // The counter counts: only the strings with escapes are copied.
    let escaped = plain.replace("UA", r"\u0055A").replace("Zoë", r"Zo\u00eb");
    assert_eq!(allocations(&escaped, true), 2);
}
