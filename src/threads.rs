//! Threads that the daemon can't do without: if one panics, the whole process
//! ends. One [`Stop`] ends them all.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::os;

/// Ends threads. It has a flag that they check, and functions that wake each of
/// them from whatever it waits for. Clones share them.
#[derive(Clone, Default)]
pub struct Stop(Arc<State>);

#[derive(Default)]
struct State {
    is_set: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    was_set: Condvar,
}

type Waker = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

impl Stop {
    /// Whether the threads must end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// Calls `wake` when the threads must end: at once, if they must already.
    pub fn on_set(&self, wake: impl FnOnce() + Send + 'static) {
        let mut wakers = self.0.wakers.lock();
        if !self.is_set() {
            wakers.push(Box::new(wake));
            return;
        }
        drop(wakers);
        wake();
    }

    /// Ends the threads.
    pub fn set(&self) {
        let wakers = {
            let mut wakers = self.0.wakers.lock();
            self.0.is_set.store(true, Ordering::SeqCst);
            std::mem::take(&mut *wakers)
        };
        self.0.was_set.notify_all();
        wakers.into_iter().for_each(|wake| wake());
    }

    /// Waits for `time`, or until the threads must end, if that is earlier.
    pub fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut wakers = self.0.wakers.lock();
        while !self.is_set() {
            if self.0.was_set.wait_until(&mut wakers, until).timed_out() {
                return;
            }
        }
    }
}

/// Threads that end together.
#[derive(Debug)]
pub struct Threads {
    stop: Stop,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// No threads yet.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self { stop, handles: Mutex::default() }
    }

    /// Starts a thread as [`spawn`] does, unless the threads must already end.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn spawn(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let mut handles = self.handles.lock();
        if !self.stop.is_set() {
            handles.push(spawn(name, body)?);
        }
        Ok(())
    }

    /// Waits until all threads have ended. To be called after the stop was set.
    pub fn join(&self) {
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            let _ = handle.join();
        }
    }
}

/// Starts a thread whose panic ends the process. SMF then starts a new process,
/// which loads the true state.
///
/// # Errors
/// Those of starting a thread.
pub fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let owned = name.to_string();
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let body = std::panic::AssertUnwindSafe(body);
        if let Err(panic) = std::panic::catch_unwind(body) {
            let what = panic_text(panic.as_ref());
            log::error!(
                "thread {owned} panicked: {what}; exiting with status \
                 {EXIT_PANIC}, so that SMF restarts the daemon"
            );
            log::logger().flush();
            exit(EXIT_PANIC);
        }
    })
}

/// Ends the process at once, and its children with it.
pub fn exit(status: i32) -> ! {
    os::process::kill_all();
    os::exit_now(status);
}

/// The exit status after a panic: EX_SOFTWARE of sysexits(3HEAD).
pub const EXIT_PANIC: i32 = 70;

/// The message of a panic.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_stop_wakes_threads_that_wait_now_or_later() {
        let stop = Stop::default();
        let threads = Threads::new(stop.clone());
        let (sender, woken) = channel();
        for n in 0..2 {
            let sender = sender.clone();
            stop.on_set(move || sender.send(n).unwrap());
        }
        let long = Duration::from_secs(3600);
        let sleeper = stop.clone();
        threads.spawn("sleeper", move || sleeper.sleep(long)).unwrap();
        assert!(woken.try_recv().is_err() && !stop.is_set());
        stop.set();
        threads.join();
        stop.on_set(move || sender.send(2).unwrap());
        assert_eq!(woken.iter().collect::<Vec<_>>(), [0, 1, 2]);
        threads.spawn("late", || panic!("it is not started")).unwrap();
        threads.join();
    }
}
