//! Decoding compared with the reference of `core/tests/differential`.

#[path = "../../../core/tests/differential/reference.rs"]
mod reference;

use reference::Plain;
use tidemark_core::event::{Event, Limits, decode};

const NOW: i64 = 1_795_564_800_000;

pub fn check(payload: &[u8]) {
    for amount_strings in [false, true] {
        let limits = Limits { amount_strings, ..Limits::default() };
        let ours = decode(Some(payload), NOW, &limits).map(plain);
        assert_eq!(ours, reference::decode(Some(payload), NOW, &limits));
    }
}

fn plain(event: Event<'_>) -> Plain {
    let owned = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
    Plain {
        event_type: event.event_type.into_owned(),
        timestamp_ms: event.timestamp_ms,
        event_id: owned(event.event_id),
        product_id: owned(event.product_id),
        user_id: owned(event.user_id),
        order_amount: event.order_amount.map(|amount| amount.ten_thousandths()),
        properties: event.properties.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
    }
}
