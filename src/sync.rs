//! Locks, and a bell that wakes a thread in poll(2). The locks are those of
//! parking_lot, or under `--cfg loom` those of loom, which tries every
//! interleaving of the threads of a test.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(not(loom))]
pub use parking_lot::{Condvar, Mutex};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(loom)]
pub use model::{Condvar, Mutex};

#[cfg(loom)]
use model::Pipe;
#[cfg(not(loom))]
use pipe::Pipe;

/// Notifies a thread that there is something to look at. It must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Wakes one thread that waits for a descriptor. However often it is rung
/// before that thread looks, it costs one write.
#[derive(Debug)]
pub struct Bell {
    pipe: Pipe,
    is_rung: AtomicBool,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { pipe: Pipe::new()?, is_rung: AtomicBool::new(false) })
    }

    /// Wakes the thread.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::SeqCst) {
            self.pipe.write();
        }
    }

    /// To be called by the thread before it looks for the reason why it was
    /// woken. The pipe is emptied before the flag is cleared: a ring in between
    /// writes nothing, but the thread is about to look, and sees the reason for
    /// that ring. In the other order, the byte of such a ring would be taken
    /// while the flag stays set, and no later ring would wake the thread.
    pub fn silence(&self) {
        self.pipe.drain();
        // A swap, as in `ring`, because loom orders swaps among each other.
        self.is_rung.swap(false, Ordering::SeqCst);
    }

    /// A descriptor that can be read when the bell has been rung.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.fd()
    }

    /// Waits until the bell is rung.
    #[cfg(loom)]
    pub fn wait(&self) {
        self.pipe.wait();
    }
}

#[cfg(not(loom))]
mod pipe {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    /// Both ends of a pipe, non-blocking.
    #[derive(Debug)]
    pub struct Pipe {
        to: UnixStream,
        from: UnixStream,
    }

    impl Pipe {
        pub fn new() -> io::Result<Self> {
            let (to, from) = UnixStream::pair()?;
            to.set_nonblocking(true)?;
            from.set_nonblocking(true)?;
            Ok(Self { to, from })
        }

        pub fn write(&self) {
            // If the pipe is full, what is in it wakes the thread.
            let _ = (&self.to).write(&[1]);
        }

        pub fn drain(&self) {
            let mut bytes = [0; 64];
            while matches!((&self.from).read(&mut bytes), Ok(n) if n > 0) {}
        }

        pub fn fd(&self) -> BorrowedFd<'_> {
            self.from.as_fd()
        }
    }
}

#[cfg(loom)]
mod model {
    use std::io;
    use std::ops::{Deref, DerefMut};
    use std::os::fd::BorrowedFd;
    use std::time::Instant;

    use loom::sync as theirs;

    /// As `parking_lot::Mutex`.
    #[derive(Debug)]
    pub struct Mutex<T>(theirs::Mutex<T>);

    /// As `parking_lot::MutexGuard`.
    pub struct MutexGuard<'a, T>(Option<theirs::MutexGuard<'a, T>>);

    /// As `parking_lot::Condvar`. But a wait with a time limit never times out:
    /// code that continues only because of a timeout is a deadlock here.
    #[derive(Debug, Default)]
    pub struct Condvar(theirs::Condvar);

    /// The number of bytes that have not been read.
    #[derive(Debug)]
    pub struct Pipe {
        bytes: Mutex<usize>,
        written: Condvar,
    }

    impl Pipe {
        pub fn new() -> io::Result<Self> {
            Ok(Self { bytes: Mutex::new(0), written: Condvar::new() })
        }

        pub fn write(&self) {
            *self.bytes.lock() += 1;
            self.written.notify_all();
        }

        pub fn drain(&self) {
            *self.bytes.lock() = 0;
        }

        pub fn wait(&self) {
            let mut bytes = self.bytes.lock();
            while *bytes == 0 {
                self.written.wait(&mut bytes);
            }
        }

        pub fn fd(&self) -> BorrowedFd<'_> {
            panic!("nothing polls under loom")
        }
    }

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

        /// Wakes one thread that waits.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Wakes all threads that wait.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
