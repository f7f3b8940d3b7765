//! Locks: parking_lot's; under `--cfg loom` those of loom, which tries every
//! interleaving of the threads of a test.

#[cfg(not(loom))]
pub use parking_lot::{Condvar, Mutex};

#[cfg(loom)]
pub use model::{Condvar, Mutex};

#[cfg(loom)]
mod model {
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    use loom::sync as theirs;

    /// As `parking_lot::Mutex`.
    #[derive(Debug)]
    pub struct Mutex<T>(theirs::Mutex<T>);

    /// As `parking_lot::MutexGuard`.
    pub struct MutexGuard<'a, T>(Option<theirs::MutexGuard<'a, T>>);

    /// As `parking_lot::Condvar`. A wait with a time limit has none: what is
    /// only saved by the clock is a deadlock here.
    #[derive(Debug, Default)]
    pub struct Condvar(theirs::Condvar);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        /// A lock that guards `value`.
        pub fn new(value: T) -> Self {
            Self(theirs::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(self.0.lock().ok())
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_deref().expect("the lock is held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_deref_mut().expect("the lock is held")
        }
    }

    impl Condvar {
        /// A condition.
        pub fn new() -> Self {
            Self(theirs::Condvar::new())
        }

        /// Waits until it is notified.
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.0 = guard.0.take().and_then(|g| self.0.wait(g).ok());
        }

        /// Waits until it is notified.
        pub fn wait_until<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            _until: Instant,
        ) {
            self.wait(guard);
        }

        /// Wakes one that waits.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Wakes all that wait.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
