//! Any text as PromQL: translated or refused.
#![no_main]

use std::sync::LazyLock;
use tidemark_core::view::Views;

static VIEWS: LazyLock<Views> = LazyLock::new(|| Views::declare([("by_type", vec!["event_type", "product_id"])]).expect("valid"));

libfuzzer_sys::fuzz_target!(
    // The parser panics where a duration is beyond all measure, and that is caught: only what is not caught is a finding.
    init: std::panic::set_hook(Box::new(|_| {})),
    |text: &str| tidemark_serving::prometheus::fuzzing::translate(&VIEWS, text)
);
