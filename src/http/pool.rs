//! The threads that answer requests: as many as there is work for, up to a
//! limit.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::os::memory;
use crate::threads::{Stop, panic_text};

/// A thread that has had no work for this long ends.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(10);

/// The stack size of a thread that answers.
const STACK_BYTES: usize = 512 << 10;

/// A piece of work, for one of the threads.
pub type Task = Box<dyn FnOnce() + Send>;

/// The threads, and the tasks that wait for one.
pub struct Pool {
    most: usize,
    ready: Mutex<Ready>,
    work: Condvar,
    stop: Stop,
}

#[derive(Default)]
struct Ready {
    queue: VecDeque<Task>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// A pool of at most `most` threads, none of which is started yet. When
    /// `stop` is set, each thread ends after its present task, and the tasks
    /// that wait are dropped.
    pub fn new(most: usize, stop: &Stop) -> Arc<Self> {
        let pool = Arc::new(Self {
            most,
            ready: Mutex::default(),
            work: Condvar::new(),
            stop: stop.clone(),
        });
        let stopped = Arc::downgrade(&pool);
        stop.on_set(move || {
            let Some(pool) = stopped.upgrade() else { return };
            // The tasks are dropped after the lock is released: dropping one
            // may release what it holds, and take other locks.
            let waiting = std::mem::take(&mut pool.ready.lock().queue);
            drop(waiting);
            pool.work.notify_all();
        });
        pool
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.ready.lock().threads
    }

    /// Whether the daemon is ending.
    pub fn is_ending(&self) -> bool {
        self.stop.is_set()
    }

    /// Queues a task for one of the threads. Starts one more thread if more
    /// tasks wait than threads are idle, and the limit allows it. Drops the
    /// task if the daemon is ending.
    pub fn run(self: &Arc<Self>, task: Task) {
        let mut ready = self.ready.lock();
        if self.is_ending() {
            return;
        }
        ready.queue.push_back(task);
        let is_short = ready.queue.len() > ready.idle;
        if !is_short || ready.threads >= self.most {
            drop(ready);
            self.work.notify_one();
            return;
        }
        ready.threads += 1;
        drop(ready);
        let pool = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("http-answer".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || pool.run_tasks());
        if let Err(e) = thread {
            log::error!("can't start a thread to answer requests: {e}");
            let mut ready = self.ready.lock();
            ready.threads -= 1;
            let given_up = match ready.threads {
                // No thread is left that could take the queued tasks.
                0 => std::mem::take(&mut ready.queue),
                _ => VecDeque::new(),
            };
            drop(ready);
            drop(given_up);
        }
    }

    /// Whether tasks wait and no more threads may be started.
    pub fn is_busy(&self) -> bool {
        let ready = self.ready.lock();
        !ready.queue.is_empty() && ready.threads >= self.most
    }

    /// The loop of each thread.
    fn run_tasks(&self) {
        while let Some(task) = self.next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(task)) {
                let what = panic_text(panic.as_ref());
                log::error!(
                    "a thread panicked while it answered a request: {what}; \
                     the connection is closed"
                );
            }
        }
    }

    /// The next task; `None` if the thread must end, which is then no longer
    /// counted.
    fn next(&self) -> Option<Task> {
        let mut ready = self.ready.lock();
        loop {
            if let Some(task) = ready.queue.pop_front() {
                return Some(task);
            }
            let mut is_over = self.is_ending();
            if !is_over {
                ready.idle += 1;
                let waited = self.work.wait_for(&mut ready, THREAD_IDLE_TIME);
                ready.idle -= 1;
                is_over = waited.timed_out() && ready.queue.is_empty();
            }
            if is_over {
                ready.threads -= 1;
                let is_last = ready.threads == 0;
                drop(ready);
                if is_last && !self.is_ending() {
                    // What was allocated for a burst of requests is free now.
                    memory::give_back();
                }
                return None;
            }
        }
    }
}
