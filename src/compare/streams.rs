//! Compares two daemons that run side by side: what their streams of events add
//! up to is compared with each other, and each of them with what its daemon
//! serves as /vms. Pure: events and times are passed in.
//!
//! Only lasting differences matter. One daemon may be a moment ahead of the
//! other, and may group changes differently. So changes are counted one by one,
//! and VM objects are compared.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vminfod_client::{Event, Mirror, Unreadable, Vm, Vms};

use super::{
    Differences, Place, Values, add_differences, known_of_reference,
    without_growth,
};
use crate::vm::json::Json;

/// A difference whose values keep changing is reported after this many times
/// the time that a difference must last.
const RESTLESS: u32 = 10;

/// The most changes of one daemon that wait for the other daemon to report
/// them.
const UNMATCHED_MAX: usize = 65_536;

/// The most VMs that are reported as unreadable.
const UNREAD_MAX: usize = 1024;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// The VMs of A with those of B.
    Daemons,
    /// What the stream of this daemon adds up to, with its /vms.
    Stream(usize),
}

/// A report about a difference.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A difference lasts.
    Differs(Pair, Place, Values),
    /// A difference that lasted is over.
    Agrees(Pair, Place),
    /// A VM of this daemon can't be read, and is not compared.
    Unread(usize, Unreadable),
}

/// The counters of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Changes that both daemons have reported.
    pub both: u64,
    /// Changes that only A, or only B, has reported.
    pub alone: [u64; 2],
    /// Lasting differences.
    pub lasting: u64,
    /// Lasting differences that are over.
    pub over: u64,
    /// VMs that could not be compared at some time, because the VM of one
    /// daemon could not be read.
    pub unread: u64,
}

#[derive(Debug)]
struct Open {
    values: Values,
    /// Since when there has been a difference here.
    first: Instant,
    /// Since when it has had these values.
    since: Instant,
    /// When it was last seen.
    seen: Instant,
    /// Whether it is still there.
    is_there: bool,
    is_reported: bool,
}

#[derive(Default)]
struct Side {
    mirror: Mirror,
    /// Whether its stream is connected.
    is_ready: bool,
    /// Whether its stream has been connected once.
    has_begun: bool,
    /// Whether it is today's daemon, a few of whose values are known to differ.
    is_reference: bool,
    /// Changes that the other daemon has not reported yet, by the hash of the
    /// change: when each was reported here, the oldest first.
    unmatched: HashMap<u64, VecDeque<Instant>>,
    /// The same changes in order of time. Some of them may have been matched
    /// since.
    order: VecDeque<(Instant, u64)>,
}

impl Side {
    /// Takes out the oldest report of this change. If a time is given, only a
    /// report of that time is taken. Returns whether there was one.
    fn pop(&mut self, change: u64, at: Option<Instant>) -> bool {
        let Some(times) = self.unmatched.get_mut(&change) else { return false };
        if at.is_some() && times.front().copied() != at {
            return false;
        }
        times.pop_front();
        if times.is_empty() {
            self.unmatched.remove(&change);
        }
        true
    }
}

/// The comparison of two daemons, A and B.
pub struct Comparison {
    sides: [Side; 2],
    /// How long a difference must last.
    settle: Duration,
    /// VMs that may have changed since they were last compared.
    changed: BTreeSet<String>,
    open: BTreeMap<(Pair, Place), Open>,
    /// VMs that can't be read, by daemon and name. Each is reported once.
    unread: BTreeSet<(usize, Option<String>)>,
    /// Reports about these VMs that `look` has not returned yet.
    news: Vec<News>,
    /// Since when both streams have been connected: changes from before may
    /// arrive late.
    ready_at: Option<Instant>,
    counts: StreamCounts,
}

impl Comparison {
    /// A comparison that knows no VM yet. A difference that lasts for `settle`
    /// counts.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self {
            sides: <[Side; 2]>::default(),
            settle,
            changed: BTreeSet::new(),
            open: BTreeMap::new(),
            unread: BTreeSet::new(),
            news: Vec::new(),
            ready_at: None,
            counts: StreamCounts::default(),
        }
    }

    /// Whether both streams are connected.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sides.iter().all(|side| side.is_ready)
    }

    /// Whether a daemon is today's; known once its stream is connected.
    #[must_use]
    pub fn is_reference(&self, side: usize) -> bool {
        self.sides[side].is_reference
    }

    /// Whether the stream of a daemon is connected.
    #[must_use]
    pub fn stands(&self, side: usize) -> bool {
        self.sides[side].is_ready
    }

    /// How many VMs the stream of a daemon adds up to.
    #[must_use]
    pub fn vms(&self, side: usize) -> usize {
        self.sides[side].mirror.vms().len()
    }

    /// The counters so far.
    #[must_use]
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// Whether what a stream adds up to differed from what its daemon served
    /// when the two were last compared.
    #[must_use]
    pub fn is_doubtful(&self, side: usize) -> bool {
        self.open.keys().any(|(pair, _)| *pair == Pair::Stream(side))
    }

    /// Takes in an event of a stream.
    pub fn take(&mut self, side: usize, event: Event, now: Instant) {
        match &event {
            Event::Ready(ready) => {
                self.sides[side].is_ready = true;
                self.sides[side].has_begun = true;
                self.sides[side].is_reference = ready.epoch.is_empty();
                self.ready_at = self.is_ready().then_some(now);
                for vm in &ready.unreadable {
                    self.note_unread(side, vm);
                }
            }
            Event::Broken(_) => {
                self.sides[side].is_ready = false;
                self.ready_at = None;
                // A difference that was not reported yet may not last.
                self.open.retain(|_, open| open.is_reported);
            }
            Event::Unreadable(vm) => self.note_unread(side, vm),
            _ => {}
        }
        if let Some(header) = event.header() {
            self.changed.insert(header.zonename.clone());
            // Counted even while a stream is broken: it may bring later what it
            // has missed.
            if self.have_begun() {
                for change in changes_of(&event) {
                    self.count(side, change, now);
                }
            }
        }
        let is_ready = matches!(event, Event::Ready(_));
        if is_ready {
            // Every VM may have changed, including those that are gone now.
            self.changed.extend(self.names());
        }
        self.sides[side].mirror.apply(event);
        if is_ready {
            self.changed.extend(self.names());
        }
    }

    /// Whether both streams have been connected once.
    fn have_begun(&self) -> bool {
        self.sides.iter().all(|side| side.has_begun)
    }

    fn note_unread(&mut self, side: usize, vm: &Unreadable) {
        if self.unread.len() < UNREAD_MAX
            && self.unread.insert((side, vm.zonename.clone()))
        {
            self.counts.unread += 1;
            self.news.push(News::Unread(side, vm.clone()));
        }
    }

    fn names(&self) -> Vec<String> {
        let names = self.sides.iter().flat_map(|s| s.mirror.vms().keys());
        names.cloned().collect()
    }

    /// Counts a change. It counts as reported by both once the other daemon has
    /// reported it, too.
    fn count(&mut self, side: usize, change: u64, now: Instant) {
        if self.sides[1 - side].pop(change, None) {
            self.counts.both += 1;
            return;
        }
        let own = &mut self.sides[side];
        own.unmatched.entry(change).or_default().push_back(now);
        own.order.push_back((now, change));
        self.expire(side, now);
    }

    /// A change that the other daemon has not reported in time counts as
    /// reported by one daemon alone.
    fn expire(&mut self, side: usize, now: Instant) {
        let ready_at = self.ready_at;
        let own = &mut self.sides[side];
        while let Some((at, change)) = own.order.front().copied() {
            let since = ready_at.map(|ready_at| ready_at.max(at));
            let is_over = since
                .is_some_and(|since| now.duration_since(since) >= self.settle);
            if !is_over && own.order.len() <= UNMATCHED_MAX {
                break;
            }
            own.order.pop_front();
            self.counts.alone[side] += u64::from(own.pop(change, Some(at)));
        }
    }

    /// Takes in what a daemon serves as /vms.
    pub fn take_served(&mut self, side: usize, vms: &Vms<Json>, now: Instant) {
        if !self.sides[side].is_ready {
            return;
        }
        for vm in &vms.unreadable {
            self.note_unread(side, vm);
        }
        let named = vms.vms.iter().filter_map(|vm| {
            Some((vm.get("zonename")?.as_str()?, without_growth(vm)))
        });
        let served: BTreeMap<&str, Json> = named.collect();
        let mirror = &self.sides[side].mirror;
        let names: BTreeSet<&str> =
            served.keys().copied().chain(names_of(mirror)).collect();
        let mut found = Differences::new();
        // A VM that can't be read is not compared.
        let may_be = |vm: &Unreadable, name: &str| {
            vm.zonename.as_deref().is_none_or(|own| own == name)
        };
        let is_known = |name: &&str| {
            let mut unreadable = vms.unreadable.iter();
            let is_read = !unreadable.any(|vm| may_be(vm, name));
            is_read && mirror.unreadable_as(name).is_none()
        };
        for name in names.iter().copied().filter(is_known) {
            let own = mirror.vms().get(name).map(object);
            add_differences(&mut found, name, own.as_ref(), served.get(name));
        }
        let unknown: BTreeSet<String> = names
            .iter()
            .filter(|n| !is_known(n))
            .map(ToString::to_string)
            .collect();
        let is_meant = |name: &str| !unknown.contains(name);
        self.note(Pair::Stream(side), found, is_meant, now);
    }

    /// Compares the VMs that have changed, and returns what is new about
    /// lasting differences.
    pub fn look(&mut self, now: Instant) -> Vec<News> {
        self.expire(0, now);
        self.expire(1, now);
        let mut news = std::mem::take(&mut self.news);
        if self.is_ready() {
            for name in std::mem::take(&mut self.changed) {
                // For a VM that can't be read, it is not known whether it still
                // differs.
                if let Some(found) = self.differences_of(&name) {
                    let is_meant = |own: &str| *own == *name;
                    self.note(Pair::Daemons, found, is_meant, now);
                }
            }
            for ((pair, _), open) in &mut self.open {
                // VMs that have not changed still differ as before.
                if *pair == Pair::Daemons {
                    open.seen = now;
                }
            }
        }
        self.open.retain(|(pair, place), open| {
            if !open.is_there {
                if open.is_reported {
                    self.counts.over += 1;
                    news.push(News::Agrees(*pair, place.clone()));
                }
                return false;
            }
            let lasts = open.seen - open.since >= self.settle
                || open.seen - open.first >= self.settle * RESTLESS;
            if lasts && !open.is_reported {
                open.is_reported = true;
                self.counts.lasting += 1;
                let values = open.values.clone();
                news.push(News::Differs(*pair, place.clone(), values));
            }
            true
        });
        news
    }

    fn differences_of(&self, name: &str) -> Option<Differences> {
        let [a, b] = &self.sides;
        if [a, b].iter().any(|s| s.mirror.unreadable_as(name).is_some()) {
            return None;
        }
        let vm = |side: &Side| side.mirror.vms().get(name).map(object);
        let mut found = Differences::new();
        add_differences(&mut found, name, vm(a).as_ref(), vm(b).as_ref());
        found.retain(|place, (of_a, of_b)| {
            let (of_a, of_b) = (of_a.as_ref(), of_b.as_ref());
            let known = match (a.is_reference, b.is_reference) {
                (true, false) => known_of_reference(place, of_b, of_a),
                (false, true) => known_of_reference(place, of_a, of_b),
                _ => None,
            };
            known.is_none()
        });
        Some(found)
    }

    /// Records the differences that there are now in the VMs that are meant.
    fn note(
        &mut self,
        pair: Pair,
        found: Differences,
        is_meant: impl Fn(&str) -> bool,
        now: Instant,
    ) {
        for ((own, place), open) in &mut self.open {
            if *own == pair && is_meant(&place.zonename) {
                open.is_there = found.contains_key(place);
            }
        }
        for (place, values) in found {
            let new = || Open {
                values: values.clone(),
                first: now,
                since: now,
                seen: now,
                is_there: true,
                is_reported: false,
            };
            let open = self.open.entry((pair, place)).or_insert_with(new);
            open.seen = now;
            if open.values != values {
                (open.values, open.since) = (values, now);
            }
        }
    }
}

fn names_of(mirror: &Mirror) -> impl Iterator<Item = &str> {
    mirror.vms().keys().map(String::as_str)
}

/// The object of a VM, without the amounts of data in it.
fn object(vm: &Arc<Vm>) -> Json {
    without_growth(&Json::from(vm.json()))
}

/// The changes of an event, each as a hash of the VM, the kind of event, the
/// path and the new value. The creation or deletion of a VM is one change.
fn changes_of(event: &Event) -> Vec<u64> {
    let zonename = event.header().map(|header| &header.zonename);
    let hash = |path: &str, value: Option<String>| {
        let mut hasher = DefaultHasher::new();
        (zonename, event.kind(), path, value).hash(&mut hasher);
        hasher.finish()
    };
    if event.changes().is_empty() {
        return vec![hash("", None)];
    }
    let changes = event.changes().iter().map(|change| {
        let value = change.new_value.as_ref().map(ToString::to_string);
        hash(&change.pretty_path, value)
    });
    changes.collect()
}

#[cfg(test)]
mod tests;
