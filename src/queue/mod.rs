//! The queue of jobs: one lane for each VM, bounded, taken in batches.
//!
//! Jobs of one lane that wait are merged into one, and two workers never work
//! in one lane. A worker takes all waiting jobs that can be loaded together, so
//! that a burst costs as many commands as there are batches, not jobs. When the
//! queue is full, it forgets which VMs were meant and remembers "all": a bound
//! never loses a change.
//!
//! The queue also keeps the zone transitions that are not published yet, by VM
//! and in order.

mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Cause, Job, Lane, Transition};
use crate::settings::{QueueLimits, SourceTimes};
use crate::source::Sources;
use crate::sync::{Condvar, Mutex};
use crate::transitions::{Numbered, PendingTransitions};
use state::State;

/// Jobs that one worker does together.
#[derive(Debug)]
pub struct Batch {
    /// The jobs: one job of [`Lane::All`], [`Lane::Sysinfo`] or
    /// [`Lane::Index`], or any number of jobs of VMs.
    pub jobs: Vec<Job>,
    /// The number of the last transition that had been noted when the batch
    /// began.
    pub noted: u64,
    /// Its number: later batches have higher ones.
    pub number: u64,
}

/// Gives back the lanes of a batch: see [`Queue::done`].
#[derive(Debug)]
pub struct Ticket {
    number: u64,
}

impl Batch {
    /// The ticket that gives its lanes back.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket { number: self.number }
    }
}

/// The state of the queue, for /status and /metrics.
#[derive(Debug, Default)]
pub struct QueueStatus {
    /// Lanes in which a worker works.
    pub working: Vec<Lane>,
    /// The waiting jobs, in the order in which they are taken: lane, sources,
    /// cause.
    pub waiting: Vec<(Lane, Sources, Cause)>,
    /// How many jobs wait.
    pub waiting_count: usize,
    /// When the event was seen that caused the oldest waiting job.
    pub oldest: Option<Instant>,
    /// How many jobs are put off until later.
    pub later_count: usize,
    /// Workers that have been at one batch for `stuck-time` or longer.
    pub stuck: usize,
    /// How often the queue was full.
    pub overflows: u64,
    /// Zone transitions that are not published, because too many waited.
    pub transitions_lost: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// The worker that watches the clock for all others waits here.
    clock: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    reported: PendingTransitions,
    /// Workers that wait for work, each on its own condition variable. The one
    /// that came last is woken first: its caches are warm.
    idle: Vec<Arc<Condvar>>,
    /// Until when the worker that watches the clock waits.
    watched_until: Option<Instant>,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: QueueLimits, times: &SourceTimes) -> Self {
        let reported =
            PendingTransitions::new(limits.transitions, limits.unknown_zones);
        let state = State::new(limits, times.pace);
        let (idle, watched_until, closed) = (Vec::new(), None, false);
        let inner = Inner { state, reported, idle, watched_until, closed };
        Self { inner: Mutex::new(inner), clock: Condvar::new() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner);
        self.wake(&mut inner);
        result
    }

    /// Wakes a worker. The one that watches the clock is woken only if no other
    /// is idle, because another must then take its place.
    fn wake(&self, inner: &mut Inner) {
        if let Some(worker) = inner.idle.pop() {
            worker.notify_one();
        } else {
            self.clock.notify_one();
        }
    }

    /// Adds a job, or merges it into the waiting job of its lane.
    pub fn push(&self, job: Job) {
        self.change(|inner| inner.state.push(job));
    }

    /// Adds a job that a client waits for. It comes before all jobs that no
    /// client waits for, and workers are kept for such jobs. Returns a number:
    /// a batch with a higher number has begun after this. `None` if too many
    /// such jobs wait already.
    pub fn push_urgent(&self, job: Job) -> Option<u64> {
        self.change(|inner| inner.state.push_urgent(job))
    }

    /// Adds a job of a lane that may get very many. If they do not stop, the
    /// job is put off, so that the cost of a storm depends on how long it
    /// lasts, not on the number of its events.
    pub fn push_paced(&self, job: Job) {
        self.change(|inner| inner.state.push_paced(job, Instant::now()));
    }

    /// Adds a job that must be done after `pause`. If a job of its lane is put
    /// off already, the two are merged, and due at the earlier time.
    pub fn push_later(&self, job: Job, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| inner.state.push_later(job, due));
    }

    /// Sets the periodic job, which loads everything. It is done when there is
    /// nothing else to do after `pause`, and at the latest after twice `pause`.
    /// It replaces the periodic job that was set before.
    pub fn set_periodic(&self, job: Job, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| inner.state.set_periodic(job, due, due + pause));
    }

    /// Has the periodic job, if there is one, done after `pause`.
    pub fn reschedule_periodic(&self, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| {
            inner.state.reschedule_periodic(due, due + pause);
        });
    }

    /// Remembers that everything must be loaded, because events were lost.
    pub fn push_overflow(&self, cause: &Cause) {
        self.change(|inner| inner.state.overflow(cause));
    }

    /// Notes a transition that the VM's next job will publish. `is_vm` says
    /// whether there is such a VM. The number of other zones that are
    /// remembered is bounded.
    pub fn push_transition(
        &self,
        zonename: &Arc<str>,
        transition: Transition,
        is_vm: bool,
    ) {
        self.inner.lock().reported.add(zonename, transition, is_vm);
    }

    /// The transitions of a VM that are not published yet, in order.
    #[must_use]
    pub fn transitions_of(&self, zonename: &str) -> Vec<Numbered> {
        self.inner.lock().reported.of(zonename)
    }

    /// Removes transitions of a VM that were due. Returns `false`, and removes
    /// nothing, if another load has removed them, or they were forgotten.
    #[must_use]
    pub fn take_transitions(&self, zonename: &str, due: &[Numbered]) -> bool {
        self.inner.lock().reported.take(zonename, due)
    }

    /// The end of a VM has been published before it was reported: what is
    /// reported up to that end is late.
    pub fn expect_end(&self, zonename: &Arc<str>) {
        self.inner.lock().reported.expect_end(zonename);
    }

    /// Events of zones were lost, or their source has been restarted: nothing
    /// from before will be reported any more.
    pub fn expect_no_ends(&self) {
        self.inner.lock().reported.expect_no_ends();
    }

    /// Forgets the transitions that were noted before a batch, of zones that
    /// `is_vm` does not know and that have no job in the queue.
    pub fn forget_transitions(
        &self,
        batch_noted: u64,
        is_vm: impl Fn(&str) -> bool,
    ) {
        let mut inner = self.inner.lock();
        let Inner { state, reported, .. } = &mut *inner;
        reported.retain(batch_noted, |zonename| {
            is_vm(zonename) || state.concerns(&Lane::Vm(zonename.into()))
        });
    }

    /// A load has found that a zone has ended. Returns whether its end may
    /// still be reported: it has `time` for that, from when the end was first
    /// found.
    #[must_use]
    pub fn await_end_report(
        &self,
        zonename: &Arc<str>,
        time: Duration,
    ) -> bool {
        self.inner.lock().reported.await_end_report(zonename, time)
    }

    /// The cache has the zone as it is now: no report of an end that was found
    /// before is awaited any more.
    pub fn forget_end_report(&self, zonename: &str) {
        self.inner.lock().reported.forget_end_report(zonename);
    }

    /// Whether a job of this VM waits or is being done.
    #[must_use]
    pub fn is_at(&self, zonename: &str) -> bool {
        self.inner.lock().state.concerns(&Lane::Vm(zonename.into()))
    }

    /// Whether a job of this VM waits or is being done, or everything is being
    /// loaded: then there may be a VM that is not known yet.
    #[must_use]
    pub fn concerns(&self, zonename: &str) -> bool {
        let inner = self.inner.lock();
        inner.state.concerns(&Lane::Vm(zonename.into()))
            || inner.state.is_working(&Lane::All)
    }

    /// The zones whose jobs are being done.
    #[must_use]
    pub fn at_work(&self) -> Vec<Arc<str>> {
        self.inner.lock().state.at_work()
    }

    /// Whether everything is being loaded.
    #[must_use]
    pub fn is_reloading(&self) -> bool {
        self.inner.lock().state.is_working(&Lane::All)
    }

    /// Blocks until there is work; `None` once the queue is closed.
    pub fn take(&self) -> Option<Batch> {
        let mut inner = self.inner.lock();
        loop {
            if inner.closed {
                return None;
            }
            match inner.state.take(Instant::now()) {
                Ok((number, jobs)) => {
                    // There may be more work for another worker, or no worker
                    // left that watches the clock.
                    let is_watched = inner.watched_until.is_some();
                    if inner.state.is_waiting() || !is_watched {
                        self.wake(&mut inner);
                    }
                    let noted = inner.reported.last();
                    return Some(Batch { jobs, noted, number });
                }
                // One worker watches the clock; the others sleep.
                Err(Some(time))
                    if inner.watched_until.is_none_or(|at| time < at) =>
                {
                    inner.watched_until = Some(time);
                    self.clock.wait_until(&mut inner, time);
                    if inner.watched_until == Some(time) {
                        inner.watched_until = None;
                    }
                }
                Err(_) => {
                    let own = Arc::new(Condvar::new());
                    inner.idle.push(Arc::clone(&own));
                    own.wait(&mut inner);
                    inner.idle.retain(|other| !Arc::ptr_eq(other, &own));
                }
            }
        }
    }

    /// Frees the lanes of a batch that is done. This wakes no worker: the one
    /// that did the batch must call [`Queue::take`] next.
    pub fn done(&self, ticket: &Ticket) {
        self.inner.lock().state.done(ticket.number);
    }

    /// Closes the queue: each worker stops after its present batch.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for worker in inner.idle.drain(..) {
            worker.notify_one();
        }
        self.clock.notify_all();
    }

    /// The state of the queue; at most `most` waiting jobs are listed.
    #[must_use]
    pub fn status(&self, most: usize) -> QueueStatus {
        let inner = self.inner.lock();
        let transitions_lost = inner.reported.lost();
        let status = inner.state.status(most, Instant::now());
        QueueStatus { transitions_lost, ..status }
    }
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod urgent_tests;
