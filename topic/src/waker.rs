//! Where a consumer's thread waits between polls: one condition variable for everything that may end the wait, so that
//! there is neither a spin nor a floor under the latency of a record.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

/// What has been signalled since the last [`Parking::begin`].
#[derive(Debug, Default)]
struct Signals {
    /// The log may have something to hand over.
    ready: bool,
    /// A [`Waker`] has called.
    woken: bool,
}

/// The waiting place of one consumer. Signals are kept until they are looked at, so none is missed between two polls.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// Guards the two flags alone and is held for no longer than it takes to set them: a Kafka client calls
    /// [`Parking::ready`] with its own queue lock held.
    signals: Mutex<Signals>,
    changed: Condvar,
}

impl Parking {
    /// The log may have something to hand over.
    pub(crate) fn ready(&self) {
        self.signals.lock().ready = true;
        self.changed.notify_one();
    }

    fn wake(&self) {
        self.signals.lock().woken = true;
        self.changed.notify_one();
    }

    /// Takes the signals up; to be called *before* looking at what there is. True if a [`Waker`] has called.
    pub(crate) fn begin(&self) -> bool {
        std::mem::take(&mut *self.signals.lock()).woken
    }

    /// Waits for a signal; false if the deadline has passed without one.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        let mut signals = self.signals.lock();
        loop {
            if signals.ready || signals.woken {
                return true;
            }
            match deadline {
                None => self.changed.wait(&mut signals),
                Some(at) if self.changed.wait_until(&mut signals, at).timed_out() => {
                    return signals.ready || signals.woken;
                }
                Some(_) => {}
            }
        }
    }
}

/// Interrupts a consumer's [`poll`](crate::Consumer::poll) from another thread. A call while no poll is waiting makes
/// the next poll return at once.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Parking>);

impl Waker {
    pub(crate) fn new(parking: Arc<Parking>) -> Self {
        Self(parking)
    }

    pub fn wake(&self) {
        self.0.wake();
    }
}
