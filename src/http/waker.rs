//! Wakes a connection whose answer is deferred.

use std::sync::Arc;

use parking_lot::Mutex;

use super::poller::Poller;

/// Wakes a connection that waits for a deferred answer, whether it is parked or
/// a thread is working on it.
pub struct Waker {
    poller: Arc<Poller>,
    state: Mutex<WakerState>,
}

/// Whether a connection has been woken.
enum WakerState {
    /// It has not been woken.
    No,
    /// It has been woken before it was parked.
    Yes,
    /// It is parked under this key.
    Parked(u64),
}

impl Waker {
    pub fn new(poller: Arc<Poller>) -> Self {
        Self { poller, state: Mutex::new(WakerState::No) }
    }

    pub fn wake(&self) {
        let old = std::mem::replace(&mut *self.state.lock(), WakerState::Yes);
        if let WakerState::Parked(key) = old {
            self.poller.fire(key);
        }
    }

    pub fn clear(&self) {
        *self.state.lock() = WakerState::No;
    }

    /// Parks the connection under this key with `park`. If it was woken before,
    /// it fires now.
    ///
    /// The lock is held while it parks. Otherwise its socket could wake it at
    /// once, and it could park again under a new key before this call stores
    /// the old key over the new one.
    pub fn park_at(&self, key: u64, park: impl FnOnce()) {
        let mut state = self.state.lock();
        park();
        match *state {
            WakerState::Yes => self.poller.fire(key),
            _ => *state = WakerState::Parked(key),
        }
    }
}
