//! Any text as a cut: what is read is written as the same cut.
#![no_main]

use tidemark_core::cut::Cut;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(cut) = text.parse::<Cut>() else { return };
    assert_eq!(cut.to_string().parse(), Ok(cut));
});
