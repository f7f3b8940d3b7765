//! Which jobs wait, which are being done, and which come next. There are no
//! locks here, and no clock: the time is passed in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::QueueStatus;
use crate::backoff::Backoff;
use crate::event::{Cause, Job, Lane};
use crate::settings::QueueLimits;
use crate::source::{CommandsNeeded, Sources};

/// A batch that is being done.
#[derive(Debug)]
struct Working {
    lanes: Vec<Lane>,
    commands: CommandsNeeded,
    is_urgent: bool,
    begun: Instant,
}

/// The order of waiting jobs: those that a client waits for come first, then it
/// counts when a job was asked for.
type Order = (Urgency, u64);

/// Whether a client waits for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Urgency {
    Urgent,
    Other,
}

impl Urgency {
    fn of(job: &Job) -> Self {
        if job.is_urgent { Self::Urgent } else { Self::Other }
    }
}

/// Whether another batch can begin now.
#[derive(Clone, Copy, Debug)]
struct Room {
    urgent: bool,
    other: bool,
}

/// How quickly jobs of a lane follow each other.
#[derive(Clone, Copy, Debug)]
struct Pace {
    last: Instant,
    pause: Duration,
}

/// A job that is done when, from `due` on, there is nothing else to do, and at
/// the latest at `latest`.
#[derive(Debug)]
struct Periodic {
    job: Job,
    due: Instant,
    latest: Instant,
}

/// All jobs.
#[derive(Debug)]
pub struct State {
    limits: QueueLimits,
    pace: Backoff,
    /// The waiting jobs, in order.
    waiting: BTreeMap<Order, Job>,
    order_of: HashMap<Lane, Order>,
    /// Jobs that are put off until they are due: at most one for each lane.
    later: BTreeMap<(Instant, u64), Job>,
    time_of: HashMap<Lane, (Instant, u64)>,
    periodic: Option<Periodic>,
    working: BTreeMap<u64, Working>,
    at_work: HashSet<Lane>,
    paces: HashMap<Lane, Pace>,
    overflows: u64,
    number: u64,
}

impl State {
    /// No jobs.
    pub fn new(limits: QueueLimits, pace: Backoff) -> Self {
        Self {
            limits,
            pace,
            waiting: BTreeMap::new(),
            order_of: HashMap::new(),
            later: BTreeMap::new(),
            time_of: HashMap::new(),
            periodic: None,
            working: BTreeMap::new(),
            at_work: HashSet::new(),
            paces: HashMap::new(),
            overflows: 0,
            number: 0,
        }
    }

    /// See [`super::Queue::push`].
    pub fn push(&mut self, job: Job) {
        self.push_bounded(job, self.limits.jobs);
    }

    fn push_bounded(&mut self, mut job: Job, most: usize) {
        let waiting = self.order_of.remove(&job.lane);
        let waiting =
            waiting.and_then(|order| self.waiting.remove_entry(&order));
        if waiting.is_none()
            && self.waiting.len() >= most
            && job.lane != Lane::All
            && !job.is_urgent
        {
            self.overflow(&job.cause);
            return;
        }
        self.number += 1;
        let mut number = self.number;
        if let Some(((_, first), waiting)) = waiting {
            number = first;
            job.tries = job.tries.min(waiting.tries);
            // The first cause is kept: it says more than that a client asked.
            job.cause = waiting.cause.clone();
            job.merge(&waiting);
        }
        let order = (Urgency::of(&job), number);
        self.order_of.insert(job.lane.clone(), order);
        self.waiting.insert(order, job);
    }

    /// See [`super::Queue::push_urgent`].
    pub fn push_urgent(&mut self, job: Job) -> Option<u64> {
        let urgent = self.waiting.range(..(Urgency::Other, 0)).count();
        if urgent >= self.limits.urgent_jobs
            && !self.order_of.contains_key(&job.lane)
        {
            return None;
        }
        self.push(Job { is_urgent: true, ..job });
        self.number += 1;
        Some(self.number)
    }

    /// See [`super::Queue::push_paced`].
    pub fn push_paced(&mut self, job: Job, now: Instant) {
        let Some(pace) = self.paces.get(&job.lane).copied() else {
            self.note_pace(&job.lane, now, Duration::ZERO);
            return self.push(job);
        };
        let due = pace.last + pace.pause;
        if due > now && !self.order_of.contains_key(&job.lane) {
            // A job that is put off already is merged with this one, and is due
            // as before.
            return self.push_later(job, due);
        }
        let pause = match now.saturating_duration_since(pace.last) {
            calm if calm > pace.pause * 2 => Duration::ZERO,
            _ => pace.pause,
        };
        self.note_pace(&job.lane, now, pause);
        self.push(job);
    }

    /// The next paced job of this lane comes no sooner than after twice
    /// `pause`, within the bounds of the backoff.
    fn note_pace(&mut self, lane: &Lane, now: Instant, pause: Duration) {
        if self.paces.len() >= self.limits.jobs {
            let is_recent = |pace: &Pace| {
                now.saturating_duration_since(pace.last) <= self.pace.last
            };
            self.paces.retain(|_, pace| is_recent(pace));
            if self.paces.len() >= self.limits.jobs {
                return;
            }
        }
        let pause = self.pace.next(pause);
        self.paces.insert(lane.clone(), Pace { last: now, pause });
    }

    /// See [`super::Queue::push_later`].
    pub fn push_later(&mut self, mut job: Job, mut due: Instant) {
        if let Some(time) = self.time_of.remove(&job.lane)
            && let Some(other) = self.later.remove(&time)
        {
            due = due.min(time.0);
            if job.lane == Lane::All {
                job.tries = job.tries.max(other.tries);
            }
            job.merge(&other);
        }
        // Urgent jobs have a bound of their own.
        let has_room = self.later.len() < self.limits.jobs || job.is_urgent;
        if !has_room && job.lane != Lane::All {
            // There are too many to remember each. Load everything when this
            // job is due; if that fails again, it is put off as long as this
            // job would be.
            self.overflows += 1;
            let all = Job::new(Lane::All, Sources::ALL, job.cause);
            return self.push_later(Job { tries: job.tries, ..all }, due);
        }
        self.number += 1;
        self.time_of.insert(job.lane.clone(), (due, self.number));
        self.later.insert((due, self.number), job);
    }

    /// See [`super::Queue::set_periodic`].
    pub fn set_periodic(&mut self, job: Job, due: Instant, latest: Instant) {
        self.periodic = Some(Periodic { job, due, latest });
    }

    /// See [`super::Queue::reschedule_periodic`].
    pub fn reschedule_periodic(&mut self, due: Instant, latest: Instant) {
        if let Some(periodic) = &mut self.periodic {
            (periodic.due, periodic.latest) = (due, latest);
        }
    }

    /// Replaces all waiting jobs by one that loads everything, except those
    /// that a client waits for. That also finds VMs that are not known yet.
    pub fn overflow(&mut self, cause: &Cause) {
        self.overflows += 1;
        // Jobs that a client waits for have a bound of their own, and must be
        // done even if there turns out to be no such VM.
        self.waiting.retain(|_, job| job.is_urgent);
        let waiting = &self.waiting;
        self.order_of.retain(|_, order| waiting.contains_key(order));
        let all = Job::new(Lane::All, Sources::ALL, cause.clone());
        self.push_bounded(all, usize::MAX);
    }

    /// Whether a job of this lane waits, is put off, or is being done.
    pub fn concerns(&self, lane: &Lane) -> bool {
        self.order_of.contains_key(lane)
            || self.time_of.contains_key(lane)
            || self.is_working(lane)
    }

    /// Whether a job of this lane is being done.
    pub fn is_working(&self, lane: &Lane) -> bool {
        self.at_work.contains(lane)
    }

    /// Whether any job waits to begin as soon as it can.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The zones whose jobs are being done.
    pub fn at_work(&self) -> Vec<Arc<str>> {
        let zone = |lane: &Lane| match lane {
            Lane::Vm(zonename) => Some(Arc::clone(zonename)),
            Lane::All | Lane::Sysinfo | Lane::Index => None,
        };
        self.at_work.iter().filter_map(zone).collect()
    }

    /// Takes the next batch; returns its number and its jobs. If there is none,
    /// returns the time at which there may be one even if nothing happens until
    /// then.
    pub fn take(
        &mut self,
        now: Instant,
    ) -> Result<(u64, Vec<Job>), Option<Instant>> {
        let wake = [self.wake_later(now), self.wake_periodic(now)];
        let has_room = |is_urgent| {
            let threads = self.limits.threads(is_urgent);
            self.busy_until(is_urgent, now).is_none()
                && self.batches(is_urgent).count() < threads
        };
        let room = Room { urgent: has_room(true), other: has_room(false) };
        if let Some(batch) = self.choose(now, room) {
            return Ok(batch);
        }
        // A worker that turns out to be stuck makes room for another, and jobs
        // do not gather for longer than their time.
        let busy = [true, false].map(|of| self.busy_until(of, now));
        let busy_until = busy.into_iter().flatten().min();
        let times = [busy_until, self.gathers_until(now)];
        let times = times.map(|at| at.filter(|_| !self.waiting.is_empty()));
        Err(wake.into_iter().chain(times).flatten().min())
    }

    /// When the next worker counts as stuck, if all are busy; `None` if one is
    /// free. Urgent batches have workers of their own.
    fn busy_until(&self, is_urgent: bool, now: Instant) -> Option<Instant> {
        let stuck_time = self.limits.stuck_time;
        let stuck_at = self.batches(is_urgent).map(|w| w.begun + stuck_time);
        let mut busy: Vec<_> = stuck_at.filter(|at| *at > now).collect();
        busy.sort();
        let at = busy.len().checked_sub(self.limits.workers)?;
        busy.get(at).copied()
    }

    /// The batches that are being done: the urgent ones, or the others.
    fn batches(&self, is_urgent: bool) -> impl Iterator<Item = &Working> {
        self.working.values().filter(move |w| w.is_urgent == is_urgent)
    }

    /// Moves the jobs that are due to the waiting ones; returns when the next
    /// one is due.
    fn wake_later(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let job = entry.remove();
            self.time_of.remove(&job.lane);
            if let Some(pace) = self.paces.get(&job.lane).copied()
                && pace.last + pace.pause <= now
            {
                self.note_pace(&job.lane, now, pace.pause);
            }
            self.push(job);
        }
        None
    }

    fn wake_periodic(&mut self, now: Instant) -> Option<Instant> {
        let Periodic { due, latest, .. } = *self.periodic.as_ref()?;
        if due > now {
            return Some(due);
        }
        let is_idle = self.waiting.is_empty() && self.working.is_empty();
        if !is_idle && latest > now {
            return Some(latest);
        }
        let periodic = self.periodic.take()?;
        self.push(periodic.job);
        None
    }

    /// Takes the first job that can begin, and with it all others that can be
    /// loaded together with it.
    fn choose(&mut self, now: Instant, room: Room) -> Option<(u64, Vec<Job>)> {
        let mut first: Option<&Job> = None;
        let mut chosen: Vec<Order> = Vec::new();
        let gathers = self.gathers_until(now).is_some();
        for (order, job) in &self.waiting {
            match order.0 {
                Urgency::Urgent if !room.urgent => continue,
                // Urgent jobs come first, so there are no more of them.
                Urgency::Other if !room.other => break,
                _ => {}
            }
            let may_gather = job.sources.commands_needed()
                != CommandsNeeded::None
                && !job.is_urgent
                && job.lane != Lane::All;
            if self.at_work.contains(&job.lane) || (gathers && may_gather) {
                continue;
            }
            if first.is_none_or(|first| are_alike(first, job)) {
                first.get_or_insert(job);
                chosen.push(*order);
                if chosen.len() >= self.limits.batch.max(1) {
                    break;
                }
            }
        }
        let commands = first?.sources.commands_needed();
        let is_urgent = first?.is_urgent;
        let jobs: Vec<_> = chosen
            .into_iter()
            .filter_map(|order| self.waiting.remove(&order))
            .collect();
        for job in &jobs {
            self.order_of.remove(&job.lane);
        }
        if let Some(all) = jobs.iter().find(|job| job.lane == Lane::All) {
            self.owe_those_at_work(&all.cause);
        }
        let lanes: Vec<_> = jobs.iter().map(|job| job.lane.clone()).collect();
        self.at_work.extend(lanes.iter().cloned());
        self.number += 1;
        let working = Working { lanes, commands, is_urgent, begun: now };
        self.working.insert(self.number, working);
        Some((self.number, jobs))
    }

    /// Until when jobs of VMs that need commands must gather, because a batch
    /// that runs commands has just begun. So a burst is loaded together by one
    /// worker, not in pieces by each in turn.
    fn gathers_until(&self, now: Instant) -> Option<Instant> {
        let working = self.working.values();
        let working = working
            .filter(|w| w.commands != CommandsNeeded::None && !w.is_urgent);
        let until = working.map(|w| w.begun + self.limits.gather_time);
        until.filter(|at| *at > now).max()
    }

    /// Has the VMs loaded again that are being loaded when a full load begins.
    /// Such a load may have looked at its zone earlier. If it finds the zone,
    /// and the full load does not because the zone has gone meanwhile, nothing
    /// says which is right.
    fn owe_those_at_work(&mut self, cause: &Cause) {
        for zonename in self.at_work() {
            let lane = Lane::Vm(zonename);
            let (sources, cause) = (Sources::ALL, cause.clone());
            let job = Job::new(lane, sources, cause);
            self.push_bounded(job, usize::MAX);
        }
    }

    /// See [`super::Queue::done`].
    pub fn done(&mut self, number: u64) {
        let Some(working) = self.working.remove(&number) else { return };
        for lane in working.lanes {
            self.at_work.remove(&lane);
        }
    }

    /// See [`super::Queue::status`].
    pub fn status(&self, most: usize, now: Instant) -> QueueStatus {
        let mut at_work: Vec<_> = self.at_work.iter().cloned().collect();
        at_work.sort();
        let is_stuck = |w: &&Working| w.begun + self.limits.stuck_time <= now;
        let waiting = self.waiting.values().take(most);
        QueueStatus {
            working: at_work,
            waiting: waiting
                .map(|j| (j.lane.clone(), j.sources, j.cause.clone()))
                .collect(),
            oldest: self.waiting.values().map(|job| job.cause.at).min(),
            waiting_count: self.waiting.len(),
            later_count: self.later.len(),
            stuck: self.working.values().filter(is_stuck).count(),
            overflows: self.overflows,
            transitions_lost: 0,
        }
    }
}

/// Whether two jobs can be loaded together: both are of VMs, both or neither
/// are urgent, and they need the same commands, so that neither waits for a
/// command that only the other needs.
fn are_alike(a: &Job, b: &Job) -> bool {
    let is_vm = |job: &Job| matches!(job.lane, Lane::Vm(_));
    let needs = |job: &Job| (job.sources.commands_needed(), job.is_urgent);
    is_vm(a) && is_vm(b) && needs(a) == needs(b)
}
