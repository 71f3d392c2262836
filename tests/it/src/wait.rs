//! Waiting for a condition, with a deadline: the only synchronisation that these tests have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A wait of this length is worth a line in the output of a test that fails, or runs with `--nocapture`.
const LONG: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `look` finds something; panics with `what` when the deadline is over.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            if began.elapsed() >= LONG {
                let test = std::thread::current();
                println!("{}: waited {:.1} s: {what}", test.name().unwrap_or_default(), began.elapsed().as_secs_f64());
            }
            return found;
        }
        assert!(began.elapsed() < deadline, "waited {} s in vain: {what}", deadline.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Tells those who go on until they are told to stop, also when an assertion fails before that: a scope waits for its threads.
#[derive(Debug)]
pub struct Stopping<'s>(pub &'s AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
