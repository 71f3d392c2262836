//! DESIGN's numbered invariants, checked where they could break: a panic in tests, a count and a red health in production.

use std::sync::atomic::{AtomicU64, Ordering};

static BROKEN: AtomicU64 = AtomicU64::new(0);

/// How many checks have failed since the process started. Anything but zero turns `/healthz` red.
pub fn broken() -> u64 {
    BROKEN.load(Ordering::Relaxed)
}

/// The failed branch of [`check!`](crate::check).
#[cold]
pub fn fail(invariant: &str, what: &str) {
    BROKEN.fetch_add(1, Ordering::Relaxed);
    eprintln!("invariant {invariant} broken: {what}");
    debug_assert!(false, "invariant {invariant} broken: {what}");
}

/// `check!(I2, mark_after > mark_before, "the mark went from {} to {}", a, b)`
#[macro_export]
macro_rules! check {
    ($invariant:ident, $holds:expr, $($what:tt)+) => {
        if !$holds {
            $crate::invariant::fail(stringify!($invariant), &format!($($what)+));
        }
    };
}
