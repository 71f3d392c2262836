//! The handle on a consuming loop, for everybody but its own thread: stop it, pause it, see what troubles it.

use crate::{Error, Waker};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Before the log is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// Shared by a layer's loop and those who steer or watch it.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stopping: AtomicBool,
    paused: AtomicBool,
    /// Guards what holds the loop up now, in words; empty while it runs well.
    trouble: Mutex<Option<String>>,
    /// Guards the way to interrupt the loop's poll, once there is one.
    waker: Mutex<Option<Waker>>,
}

impl Control {
    /// The loop tells how it can be woken.
    pub fn wake_by(&self, waker: Waker) {
        *self.0.waker.lock() = Some(waker);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.0.waker.lock() {
            waker.wake();
        }
    }

    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// A paused layer keeps its partitions and its state, and takes nothing more from the log.
    pub fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::Release);
        self.wake();
    }

    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Acquire)
    }

    /// Says what holds the loop up, or that nothing does any more; logged when it changes.
    pub fn trouble(&self, trouble: Option<String>) {
        let mut current = self.0.trouble.lock();
        if let Some(text) = trouble.as_ref().filter(|text| current.as_ref() != Some(text)) {
            tracing::warn!("{text}");
        }
        *current = trouble;
    }

    pub fn current_trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
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
