//! The queue of jobs: one lane a VM, bounded, in batches.
//!
//! Jobs of one lane that wait are one job; never are two workers at one lane.
//! Workers take all that waits together, so that a burst costs as many
//! commands as there are batches, not jobs. When the queue is full it forgets
//! which VMs were meant and remembers "all": a bound never loses a change.
//!
//! Besides jobs it keeps, by VM, the zone transitions that are not published
//! yet, in order.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::QueueLimits;
use crate::event::{Cause, GONE, Job, Lane, Sources, Transition};

/// Jobs that one worker does together.
#[derive(Debug)]
pub struct Batch {
    /// The jobs: one [`Lane::All`], one [`Lane::Sysinfo`], or of VMs.
    pub jobs: Vec<Job>,
    /// The number of the last transition that had been noted by then.
    pub noted: u64,
}

/// What the queue says of itself.
#[derive(Debug, Default)]
pub struct QueueStatus {
    /// Lanes at which a worker is.
    pub working: Vec<Lane>,
    /// What waits, the oldest first: lane, sources, cause, age.
    pub waiting: Vec<(Lane, Sources, Cause)>,
    /// How often it was full.
    pub overflows: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// What waits, by the order in which it was asked for.
    waiting: BTreeMap<u64, Job>,
    order_of: HashMap<Lane, u64>,
    working: HashSet<Lane>,
    /// What is to wait from some time on: one job a lane.
    later: BTreeMap<(Instant, u64), Job>,
    time_of: HashMap<Lane, (Instant, u64)>,
    /// With a running number each.
    transitions: HashMap<Arc<str>, VecDeque<(u64, Transition)>>,
    noted: u64,
    overflows: u64,
    order: u64,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, inner: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds a job, or merges it into the one of its lane that waits.
    pub fn push(&self, job: Job) {
        let mut inner = self.inner.lock();
        inner.push(job, self.limits.jobs);
        drop(inner);
        self.changed.notify_one();
    }

    /// Adds a job that is to be done after `pause`. If one of its lane is due
    /// later already, both are one, due at the earlier time.
    pub fn push_later(&self, job: Job, pause: Duration) {
        let mut inner = self.inner.lock();
        inner.push_later(job, Instant::now() + pause, self.limits.jobs);
        drop(inner);
        self.changed.notify_one();
    }

    /// Remembers that everything has to be loaded, since events were lost.
    pub fn push_overflow(&self, cause: &Cause) {
        self.inner.lock().overflow(cause);
        self.changed.notify_one();
    }

    /// Notes a transition that the VM's next job will publish.
    pub fn push_transition(&self, zonename: &Arc<str>, transition: Transition) {
        let mut inner = self.inner.lock();
        inner.noted += 1;
        let number = inner.noted;
        let waiting =
            inner.transitions.entry(Arc::clone(zonename)).or_default();
        if waiting.len() >= self.limits.transitions {
            waiting.pop_front();
            log::warn!(
                "{zonename}: more zone transitions than can wait; the oldest \
                 is not published"
            );
        }
        waiting.push_back((number, transition));
    }

    /// Takes transitions of a VM, in order: as many as `choose` says, which is
    /// given all of them, and how many had been noted when a batch began. The
    /// others stay.
    pub fn take_transitions(
        &self,
        zonename: &str,
        batch_noted: u64,
        choose: impl FnOnce(&[Transition], usize) -> usize,
    ) -> Vec<Transition> {
        let mut inner = self.inner.lock();
        let Some(noted) = inner.transitions.get_mut(zonename) else {
            return Vec::new();
        };
        let earlier = noted.iter().filter(|(n, _)| *n <= batch_noted).count();
        let all: Vec<_> = noted.iter().map(|(_, t)| t.clone()).collect();
        let count = choose(&all, earlier).min(noted.len());
        let taken = noted.drain(..count).map(|(_, t)| t).collect();
        if noted.is_empty() {
            inner.transitions.remove(zonename);
        }
        taken
    }

    /// Whether the end of this zone has been noted.
    #[must_use]
    pub fn has_ended(&self, zonename: &str) -> bool {
        let inner = self.inner.lock();
        let noted = inner.transitions.get(zonename);
        noted.is_some_and(|noted| {
            noted.iter().any(|(_, t)| t.zone_state == GONE)
        })
    }

    /// Whether a job of this VM waits or is worked at, or one of all VMs is
    /// worked at: then there may be a VM that nobody has heard of yet.
    #[must_use]
    pub fn concerns(&self, zonename: &str) -> bool {
        let lane = Lane::Vm(zonename.into());
        let inner = self.inner.lock();
        inner.order_of.contains_key(&lane)
            || inner.working.contains(&lane)
            || inner.working.contains(&Lane::All)
    }

    /// Blocks until there is work; `None` once the queue is closed.
    pub fn take(&self) -> Option<Batch> {
        let mut inner = self.inner.lock();
        loop {
            if inner.closed {
                return None;
            }
            let now = Instant::now();
            let next = inner.wake_later(now, self.limits.jobs);
            let jobs = inner.choose(self.limits.batch);
            if !jobs.is_empty() {
                // More may be there for the next worker.
                self.changed.notify_one();
                let noted = inner.noted;
                return Some(Batch { jobs, noted });
            }
            match next {
                Some(time) => {
                    self.changed.wait_until(&mut inner, time);
                }
                None => self.changed.wait(&mut inner),
            }
        }
    }

    /// Frees the lanes of a batch that is done.
    pub fn done(&self, lanes: &[Lane]) {
        let mut inner = self.inner.lock();
        for lane in lanes {
            inner.working.remove(lane);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Ends the queue: workers stop after what they are at.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_all();
    }

    /// What the queue says of itself; at most `most` waiting jobs are listed.
    #[must_use]
    pub fn status(&self, most: usize) -> QueueStatus {
        let inner = self.inner.lock();
        let waiting = inner.waiting.values().take(most);
        let mut working: Vec<_> = inner.working.iter().cloned().collect();
        working.sort();
        QueueStatus {
            working,
            waiting: waiting
                .map(|j| (j.lane.clone(), j.sources, j.cause.clone()))
                .collect(),
            overflows: inner.overflows,
        }
    }

    /// How many jobs wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Whether no job waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn push(&mut self, job: Job, most: usize) {
        if let Some(order) = self.order_of.get(&job.lane) {
            if let Some(waiting) = self.waiting.get_mut(order) {
                waiting.sources |= job.sources;
                waiting.tries = waiting.tries.min(job.tries);
            }
            return;
        }
        if self.waiting.len() >= most && job.lane != Lane::All {
            self.overflow(&job.cause);
            return;
        }
        self.order += 1;
        self.order_of.insert(job.lane.clone(), self.order);
        self.waiting.insert(self.order, job);
    }

    /// Exchanges every job that waits for one that loads everything. A VM
    /// that is not known yet is found by that, too.
    fn overflow(&mut self, cause: &Cause) {
        self.overflows += 1;
        // Without its job nobody would take a transition, and it could be
        // that of a zone that never was.
        self.transitions.clear();
        self.waiting.clear();
        self.order_of.clear();
        let all = Job {
            lane: Lane::All,
            sources: Sources::ALL,
            cause: cause.clone(),
            tries: 0,
        };
        self.push(all, usize::MAX);
    }

    fn push_later(&mut self, mut job: Job, mut due: Instant, most: usize) {
        if let Some(time) = self.time_of.remove(&job.lane)
            && let Some(other) = self.later.remove(&time)
        {
            due = due.min(time.0);
            job.sources |= other.sources;
        }
        if self.later.len() >= most {
            // Too many to remember which: look at all, now.
            self.overflow(&job.cause);
            return;
        }
        self.order += 1;
        self.time_of.insert(job.lane.clone(), (due, self.order));
        self.later.insert((due, self.order), job);
    }

    /// Lets jobs wait whose time has come; returns when the next one's does.
    fn wake_later(&mut self, now: Instant, most: usize) -> Option<Instant> {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let job = entry.remove();
            self.time_of.remove(&job.lane);
            self.push(job, most);
        }
        None
    }

    /// Takes the oldest job whose lane is free, and with it all others that
    /// can be loaded together: those that need commands, or those that don't.
    fn choose(&mut self, most: usize) -> Vec<Job> {
        let is_free = |job: &&Job| !self.working.contains(&job.lane);
        let Some(first) = self.waiting.values().find(is_free) else {
            return Vec::new();
        };
        let alike = |job: &Job| match (&first.lane, &job.lane) {
            (Lane::Vm(_), Lane::Vm(_)) => {
                job.sources.need_commands() == first.sources.need_commands()
            }
            (a, b) => a == b,
        };
        let chosen: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, job)| is_free(job) && alike(job))
            .map(|(order, _)| *order)
            .take(most)
            .collect();
        let jobs: Vec<_> =
            chosen.iter().filter_map(|o| self.waiting.remove(o)).collect();
        for job in &jobs {
            self.order_of.remove(&job.lane);
            self.working.insert(job.lane.clone());
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(jobs: usize) -> Queue {
        Queue::new(QueueLimits { jobs, ..QueueLimits::default() })
    }

    fn vm(name: &str, sources: Sources) -> Job {
        let lane = Lane::Vm(name.into());
        Job { lane, sources, cause: Cause::now("zone", name), tries: 0 }
    }

    fn lanes(batch: &Batch) -> Vec<Lane> {
        batch.jobs.iter().map(|job| job.lane.clone()).collect()
    }

    fn names(batch: &Batch) -> Vec<String> {
        batch.jobs.iter().map(|job| job.lane.to_string()).collect()
    }

    #[test]
    fn jobs_of_a_lane_are_one_while_they_wait() {
        let queue = queue(10);
        queue.push(vm("a", Sources::XML));
        queue.push(vm("a", Sources::TAGS));
        let batch = queue.take().unwrap();
        assert_eq!(batch.jobs.len(), 1);
        assert!(batch.jobs[0].sources.contains(Sources::XML | Sources::TAGS));
    }

    #[test]
    fn a_lane_at_work_keeps_its_next_job_waiting() {
        let queue = queue(10);
        queue.push(vm("a", Sources::XML));
        let first = queue.take().unwrap();
        queue.push(vm("a", Sources::XML));
        queue.push(vm("b", Sources::XML));
        let second = queue.take().unwrap();
        assert_eq!(names(&second), ["b"]);
        queue.done(&lanes(&first));
        assert_eq!(names(&queue.take().unwrap()), ["a"]);
    }

    #[test]
    fn what_waits_together_is_taken_together() {
        let queue = queue(10);
        queue.push(vm("a", Sources::ZFS));
        queue.push(vm("b", Sources::TAGS));
        queue.push(vm("c", Sources::ZONEADM));
        assert_eq!(names(&queue.take().unwrap()), ["a", "c"]);
        assert_eq!(names(&queue.take().unwrap()), ["b"]);
    }

    #[test]
    fn a_full_queue_remembers_everything_in_one_job() {
        let queue = queue(2);
        for name in ["a", "b", "c"] {
            queue.push(vm(name, Sources::ZFS));
        }
        let batch = queue.take().unwrap();
        assert_eq!(lanes(&batch), [Lane::All]);
        assert_eq!(queue.status(9).overflows, 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_job_for_later_comes_later() {
        let queue = queue(10);
        let begin = Instant::now();
        let pause = Duration::from_millis(20);
        queue.push_later(vm("a", Sources::ZFS), pause);
        assert!(queue.is_empty());
        assert_eq!(names(&queue.take().unwrap()), ["a"]);
        assert!(begin.elapsed() >= pause);
    }

    #[test]
    fn a_lane_has_one_job_for_later() {
        let queue = queue(10);
        let pause = Duration::from_millis(1);
        queue.push_later(vm("a", Sources::ZFS), pause * 100_000);
        queue.push_later(vm("a", Sources::TAGS), pause);
        let batch = queue.take().unwrap();
        assert!(batch.jobs[0].sources.contains(Sources::ZFS | Sources::TAGS));
        assert!(queue.inner.lock().later.is_empty());
        assert!(queue.inner.lock().time_of.is_empty());
    }

    #[test]
    fn transitions_stay_in_order_until_taken() {
        let queue = queue(10);
        for zone_state in ["ready", "running"] {
            let transition = Transition { zone_state, zoneid: None };
            queue.push_transition(&"a".into(), transition);
        }
        queue.push(vm("a", Sources::STATE));
        let batch = queue.take().unwrap();
        let take = |count| -> Vec<_> {
            let taken = queue.take_transitions("a", batch.noted, |all, n| {
                assert_eq!(n, all.len());
                count
            });
            taken.iter().map(|t| t.zone_state).collect()
        };
        assert_eq!(take(1), ["ready"]);
        assert_eq!(take(9), ["running"]);
        assert_eq!(take(9), [""; 0]);
    }

    #[test]
    fn closing_ends_the_workers() {
        let queue = Arc::new(queue(10));
        let waiter = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.take().is_none()
        });
        queue.close();
        assert!(waiter.join().unwrap());
    }

    /// Four threads that push and take at random: a lane that two workers
    /// have at once trips the flag, and what is lost is missed at the end.
    #[test]
    fn never_are_two_workers_in_one_lane() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        let queue = Arc::new(queue(1000));
        let busy: Arc<Vec<AtomicBool>> =
            Arc::new((0..5).map(|_| AtomicBool::new(false)).collect());
        let seen = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                let (busy, seen) = (Arc::clone(&busy), Arc::clone(&seen));
                std::thread::spawn(move || {
                    while let Some(batch) = queue.take() {
                        for name in names(&batch) {
                            let flag = &busy[name.parse::<usize>().unwrap()];
                            assert!(!flag.swap(true, Ordering::SeqCst));
                        }
                        std::thread::yield_now();
                        for name in names(&batch) {
                            let flag = &busy[name.parse::<usize>().unwrap()];
                            flag.store(false, Ordering::SeqCst);
                            seen.fetch_add(1, Ordering::SeqCst);
                        }
                        queue.done(&lanes(&batch));
                    }
                })
            })
            .collect();
        for i in 0..5000_usize {
            queue.push(vm(&(i % 5).to_string(), Sources::TAGS));
        }
        while !queue.is_empty() {
            std::thread::yield_now();
        }
        queue.close();
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(seen.load(Ordering::SeqCst) >= 5);
    }
}
