//! How many servers run at the same time. Tests wait for their servers a good part of the time, so more of them run than there are
//! cores. A test that measures time, or starts a large deployment, takes all slots.

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

/// Held while waiting, so that a test that takes all slots is not overtaken again and again.
static QUEUE: Mutex<()> = Mutex::new(());
static FREE: LazyLock<Mutex<usize>> = LazyLock::new(|| Mutex::new(all()));
static FREED: Condvar = Condvar::new();

/// Slots that a test has for its servers. Dropped, they are free again.
#[derive(Debug)]
pub struct Slots(usize);

impl Slots {
    /// Waits for one slot.
    pub(crate) fn one() -> Self {
        Self::take(1)
    }

    /// Waits until no other test has a server.
    pub(crate) fn all() -> Self {
        Self::take(all())
    }

    fn take(slots: usize) -> Self {
        let _first = lock(&QUEUE);
        let enough = FREED.wait_while(lock(&FREE), |free| *free < slots);
        *enough.unwrap_or_else(PoisonError::into_inner) -= slots;
        Self(slots)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        *lock(&FREE) += self.0;
        FREED.notify_all();
    }
}

/// Three for two cores: with two, the cores are busy for 78 % of the time.
fn all() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() * 3 / 2)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
