//! Any bytes as a record: `decode` gives what the slow reference gives.
#![no_main]

mod against_reference;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| against_reference::check(payload));
