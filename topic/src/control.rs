//! The handle on a layer's loops, for everybody but their own threads: stop them, pause them, see what troubles them.

use crate::{Error, Throttled, Waker};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Before the log is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// Shared by a layer's loops and those who steer or watch it. A clone speaks for the same part of the layer.
#[derive(Clone, Debug, Default)]
pub struct Control {
    layer: Arc<Layer>,
    part: usize,
}

#[derive(Debug, Default)]
struct Layer {
    stopping: AtomicBool,
    paused: AtomicBool,
    gentle: AtomicBool,
    throttled: OnceLock<Throttled>,
    /// Guards what the layer's parts say of themselves; held for no longer than it takes to say it.
    parts: Mutex<BTreeMap<usize, Part>>,
    /// The part that is made next; the first one's number is 0.
    made: AtomicUsize,
}

#[derive(Debug, Default)]
struct Part {
    /// What holds this part up now, in words; none while it runs well.
    trouble: Option<String>,
    /// The way to interrupt its poll, once there is one.
    waker: Option<Waker>,
}

impl Control {
    /// The same layer's control for another of its threads or tasks, with troubles of its own: that one of them runs well
    /// says nothing of the others.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = self.layer.made.fetch_add(1, Ordering::Relaxed) + 1;
        Self { layer: Arc::clone(&self.layer), part }
    }

    /// The loop tells how it can be woken.
    pub fn wake_by(&self, waker: Waker) {
        self.layer.parts.lock().entry(self.part).or_default().waker = Some(waker);
    }

    /// Interrupts the polls of all loops: something has changed that they look at between polls.
    pub fn wake(&self) {
        self.layer.parts.lock().values().filter_map(|part| part.waker.as_ref()).for_each(Waker::wake);
    }

    pub fn stop(&self) {
        self.layer.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.layer.stopping.load(Ordering::Acquire)
    }

    /// A paused layer keeps its partitions and its state, and takes nothing more from the log.
    pub fn pause(&self, paused: bool) {
        self.layer.paused.store(paused, Ordering::Release);
        self.wake();
    }

    pub fn is_paused(&self) -> bool {
        self.layer.paused.load(Ordering::Acquire)
    }

    /// A gentle layer asks one thing of history at a time: what others ask goes before.
    pub fn gently(&self, gentle: bool) {
        self.layer.gentle.store(gentle, Ordering::Relaxed);
    }

    pub fn is_gentle(&self) -> bool {
        self.layer.gentle.load(Ordering::Relaxed)
    }

    /// Tells of the layer's clients from here on.
    pub fn throttled_as(&self, throttled: Throttled) {
        let _ = self.layer.throttled.set(throttled);
    }

    /// How long brokers make the layer's clients wait because of a quota.
    pub fn throttled(&self) -> Duration {
        self.layer.throttled.get().map_or(Duration::ZERO, Throttled::current)
    }

    /// Says what holds this part up, or that nothing does any more; logged when it changes.
    pub fn trouble(&self, trouble: Option<String>) {
        let mut parts = self.layer.parts.lock();
        let current = &mut parts.entry(self.part).or_default().trouble;
        if let Some(text) = trouble.as_ref().filter(|text| current.as_ref() != Some(text)) {
            tracing::warn!("{text}");
        }
        *current = trouble;
    }

    /// The first trouble that any part has.
    pub fn current_trouble(&self) -> Option<String> {
        self.layer.parts.lock().values().find_map(|part| part.trouble.clone())
    }

    /// Asks the log again and again while it does not answer, which people are told; gives up only when stopping. Blocks:
    /// for a loop's own thread.
    pub fn patiently<T>(&self, mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match ask() {
                Err(error @ Error::Unavailable { .. }) if !self.is_stopping() => {
                    self.trouble(Some(format!("waiting for the log: {error}")));
                    std::thread::sleep(RETRY);
                }
                answer => {
                    self.trouble(None);
                    return answer;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_runs_well_says_nothing_of_the_others() {
        let layer = Control::default();
        let (one, other) = (layer.part(), layer.part());
        one.trouble(Some("one waits".into()));
        other.trouble(None);
        assert_eq!(layer.current_trouble().as_deref(), Some("one waits"));
        one.trouble(None);
        assert_eq!(layer.current_trouble(), None);
    }

    #[test]
    fn all_parts_stop_pause_and_are_gentle_together() {
        let layer = Control::default();
        let part = layer.part();
        layer.pause(true);
        layer.gently(true);
        part.stop();
        assert!(part.is_paused() && part.is_gentle() && layer.is_stopping());
    }
}
