//! The queue of jobs: one lane a VM, bounded, in batches.
//!
//! Jobs of one lane that wait are one job; never are two workers at one lane.
//! Workers take all that waits together, so that a burst costs as many
//! commands as there are batches, not jobs. When the queue is full it forgets
//! which VMs were meant and remembers "all": a bound never loses a change.
//!
//! Besides jobs it keeps, by VM, the zone transitions that are not published
//! yet, in order.

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
    /// The jobs: one [`Lane::All`], one [`Lane::Sysinfo`], one
    /// [`Lane::Index`], or of VMs.
    pub jobs: Vec<Job>,
    /// The number of the last transition that had been noted by then.
    pub noted: u64,
    /// Its number: later batches have higher ones.
    pub number: u64,
}

/// What gives the lanes of a batch back.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
}

impl Batch {
    /// What gives its lanes back.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket { number: self.number }
    }
}

/// What the queue says of itself.
#[derive(Debug, Default)]
pub struct QueueStatus {
    /// Lanes at which a worker is.
    pub working: Vec<Lane>,
    /// What waits, in the order in which it comes: lane, sources, cause.
    pub waiting: Vec<(Lane, Sources, Cause)>,
    /// How many wait.
    pub waiting_count: usize,
    /// Since when the oldest is known.
    pub oldest: Option<Instant>,
    /// How many are to wait from some time on.
    pub later_count: usize,
    /// Workers that have been at one batch for long.
    pub stuck: usize,
    /// How often it was full.
    pub overflows: u64,
    /// Zone transitions that found no room, and are not published.
    pub transitions_lost: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// The one worker waits here who looks at the clock for all.
    clock: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    reported: PendingTransitions,
    /// Workers that wait for work, each by its own; the last to come is the
    /// first to be woken: its caches are warm.
    idle: Vec<Arc<Condvar>>,
    /// Until when a worker waits who looks at the clock for all.
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

    /// Wakes a worker; who looks at the clock is the last to be taken, since
    /// another has to take his place.
    fn wake(&self, inner: &mut Inner) {
        if let Some(worker) = inner.idle.pop() {
            worker.notify_one();
        } else {
            self.clock.notify_one();
        }
    }

    /// Adds a job, or merges it into the one of its lane that waits.
    pub fn push(&self, job: Job) {
        self.change(|inner| inner.state.push(job));
    }

    /// Adds a job that somebody waits for: it comes before those that nobody
    /// does, and a worker is kept for it. Returns a number: a batch of a
    /// higher one has begun after this. `None` if too many wait already.
    pub fn push_urgent(&self, job: Job) -> Option<u64> {
        self.change(|inner| inner.state.push_urgent(job))
    }

    /// Adds a job like many before it: if they come on and on, it is put off,
    /// so that a storm costs by the time it takes and not by its events.
    pub fn push_paced(&self, job: Job) {
        self.change(|inner| inner.state.push_paced(job, Instant::now()));
    }

    /// Adds a job that is to be done after `pause`. If one of its lane is due
    /// later already, both are one, due at the earlier time.
    pub fn push_later(&self, job: Job, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| inner.state.push_later(job, due));
    }

    /// Adds the job of all lanes, for when there is nothing else to do after
    /// `pause`, at the latest after twice that. It takes the place of the one
    /// before.
    pub fn set_periodic(&self, job: Job, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| inner.state.set_periodic(job, due, due + pause));
    }

    /// Has the job of all lanes, if there is one, done after `pause`.
    pub fn reschedule_periodic(&self, pause: Duration) {
        let due = Instant::now() + pause;
        self.change(|inner| {
            inner.state.reschedule_periodic(due, due + pause);
        });
    }

    /// Remembers that everything has to be loaded, since events were lost.
    pub fn push_overflow(&self, cause: &Cause) {
        self.change(|inner| inner.state.overflow(cause));
    }

    /// Notes a transition that the VM's next job will publish. `is_vm` says
    /// that there is such a VM; of others only so many are remembered.
    pub fn push_transition(
        &self,
        zonename: &Arc<str>,
        transition: Transition,
        is_vm: bool,
    ) {
        self.inner.lock().reported.add(zonename, transition, is_vm);
    }

    /// The first transitions of a VM: as many as `choose` says, which is given
    /// all of them, and how many had been noted when a batch began.
    #[must_use]
    pub fn due_transitions(
        &self,
        zonename: &str,
        batch_noted: u64,
        choose: impl FnOnce(&[Transition], usize) -> usize,
    ) -> Vec<Numbered> {
        self.inner.lock().reported.due(zonename, batch_noted, choose)
    }

    /// Takes transitions of a VM that were due; `false`, and takes nothing, if
    /// others have taken them, or they are forgotten.
    #[must_use]
    pub fn take_transitions(&self, zonename: &str, due: &[Numbered]) -> bool {
        self.inner.lock().reported.take(zonename, due)
    }

    /// The end of a VM has been published without that it was reported: what
    /// is reported up to it is late.
    pub fn expect_end(&self, zonename: &Arc<str>) {
        self.inner.lock().reported.expect_end(zonename);
    }

    /// A source has begun again: nothing of before is to come.
    pub fn expect_no_ends(&self) {
        self.inner.lock().reported.expect_no_ends();
    }

    /// Forgets what was noted before a batch of zones that `is_vm` does not
    /// know, and of which no job waits to know more.
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

    /// A zone has been found to have ended: whether that has still to be
    /// reported, for which there is `time` since this was found first.
    #[must_use]
    pub fn is_unheard(&self, zonename: &Arc<str>, time: Duration) -> bool {
        self.inner.lock().reported.is_unheard(zonename, time)
    }

    /// The cache has a zone as it is, whatever was found before.
    pub fn is_heard(&self, zonename: &str) {
        self.inner.lock().reported.is_heard(zonename);
    }

    /// Whether a job of this VM waits or is worked at.
    #[must_use]
    pub fn is_at(&self, zonename: &str) -> bool {
        self.inner.lock().state.concerns(&Lane::Vm(zonename.into()))
    }

    /// Whether a job of this VM waits or is worked at, or one of all VMs is
    /// worked at: then there may be a VM that nobody has heard of yet.
    #[must_use]
    pub fn concerns(&self, zonename: &str) -> bool {
        let inner = self.inner.lock();
        inner.state.concerns(&Lane::Vm(zonename.into()))
            || inner.state.is_working(&Lane::All)
    }

    /// The zones that are worked at.
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
                    // There may be more for the next worker, or nobody left
                    // who looks at the clock.
                    let is_watched = inner.watched_until.is_some();
                    if inner.state.is_waiting() || !is_watched {
                        self.wake(&mut inner);
                    }
                    let noted = inner.reported.last();
                    return Some(Batch { jobs, noted, number });
                }
                // One worker looks at the clock; the others sleep.
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

    /// Frees the lanes of a batch that is done; the worker that did it is to
    /// ask for the next one.
    pub fn done(&self, ticket: &Ticket) {
        self.inner.lock().state.done(ticket.number);
    }

    /// Ends the queue: workers stop after what they are at.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for worker in inner.idle.drain(..) {
            worker.notify_one();
        }
        self.clock.notify_all();
    }

    /// What the queue says of itself; at most `most` waiting jobs are listed.
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
