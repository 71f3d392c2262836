//! Decoding compared with the reference of `core/tests/differential`.

#[path = "../../../core/tests/differential/reference.rs"]
mod reference;

use reference::Plain;
use tidemark_core::event::{Limits, decode};

const NOW: i64 = 1_795_564_800_000;

pub fn check(payload: &[u8]) {
    for amount_strings in [false, true] {
        let limits = Limits { amount_strings, ..Limits::default() };
        let ours = decode(Some(payload), NOW, &limits).map(Plain::of);
        assert_eq!(ours, reference::decode(Some(payload), NOW, &limits));
    }
}
