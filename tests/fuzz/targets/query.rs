//! Any query string: planned or refused; and its permalink is planned where it is.
#![no_main]

use std::sync::LazyLock;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::view::Views;
use tidemark_serving::plan::{absolute, generation_asked, pinned, plan_text};

const NOW: i64 = 1_795_564_800_000;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let views = [("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])];
    Rules {
        generation: Generation(1),
        widens: None,
        epoch_bits: EpochBits::new(16).expect("valid"),
        views: Views::declare(views).expect("valid"),
        limits: Limits::default(),
        dedup: true,
    }
});

libfuzzer_sys::fuzz_target!(|query: &str| {
    let _ = generation_asked(query);
    let Ok(query) = absolute(query, NOW) else { return };
    assert_eq!(absolute(&query, NOW).as_ref().map(AsRef::as_ref), Ok(&*query), "an absolute range stays");
    let cut: Cut = "0:7,3:1".parse().expect("a cut");
    if let Ok(plan) = plan_text(&RULES, &query)
        && plan.at.is_none()
    {
        let link = pinned(&query, Generation(1), 0, &cut);
        let again = plan_text(&RULES, &link).unwrap_or_else(|error| panic!("the permalink {link}: {error}"));
        assert_eq!(again.at.map(|at| at.cut), Some(cut), "{link}");
    }
});
