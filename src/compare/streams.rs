//! Two daemons beside each other: what their streams of events add up to,
//! compared with each other, and each with what it serves as /vms. Pure: items
//! and times are passed in.
//!
//! What matters is what lasts. One daemon is a moment ahead of the other, and
//! groups changes otherwise: so changes are counted one by one, and objects
//! are compared.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Differences, Place, Values, add_differences, known_of_reference,
    without_growth,
};
use crate::client::{Event, Item, Mirror, Unreadable, Vms};
use crate::vm::json::Json;

/// What differs without a rest is reported after so many times the time that
/// a difference has to last.
const RESTLESS: u32 = 10;

/// The most changes of one daemon that wait for the other's.
const UNMATCHED_MAX: usize = 65_536;

/// The most VMs that are reported to be unreadable.
const UNREAD_MAX: usize = 1024;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// The VMs of A with those of B.
    Daemons,
    /// What the stream of this daemon adds up to with its /vms.
    Stream(usize),
}

/// News of a difference.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// It lasts.
    Differs(Pair, Place, Values),
    /// One that lasted is over.
    Agrees(Pair, Place),
    /// A VM of this daemon can't be read, and is not compared.
    Unread(usize, Unreadable),
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Changes that both have reported.
    pub both: u64,
    /// Changes that only A, or only B, has reported.
    pub alone: [u64; 2],
    /// Lasting differences.
    pub lasting: u64,
    /// Those of them that are over.
    pub over: u64,
    /// VMs that could not be compared at some time, since one daemon's could
    /// not be read.
    pub unread: u64,
}

#[derive(Debug)]
struct Open {
    values: Values,
    /// Since when there is a difference.
    first: Instant,
    /// Since when it is this one.
    since: Instant,
    /// When it was last seen.
    seen: Instant,
    /// Whether it is there still.
    is_there: bool,
    is_reported: bool,
}

#[derive(Default)]
struct Side {
    mirror: Mirror,
    /// Whether its stream stands.
    is_ready: bool,
    /// Whether it has stood once.
    has_begun: bool,
    /// Whether it is today's daemon, which is known to have a few things
    /// otherwise.
    is_reference: bool,
    /// Changes that the other has not reported yet, by what they are: when
    /// each was reported here, the oldest first.
    unmatched: HashMap<u64, VecDeque<Instant>>,
    /// The same, and such as were matched since, by time.
    order: VecDeque<(Instant, u64)>,
}

impl Side {
    /// Takes the oldest change of this kind; with a time, only if it is of
    /// then. Returns whether there was one.
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
    /// How long a difference has to last.
    settle: Duration,
    /// VMs that may not be as they were when they were last compared.
    changed: BTreeSet<Arc<str>>,
    open: BTreeMap<(Pair, Place), Open>,
    /// VMs that can't be read, by daemon and name, each reported once.
    unread: BTreeSet<(usize, Option<Arc<str>>)>,
    /// What is to be reported of them.
    news: Vec<News>,
    /// Since when both streams stand: the changes of before may come late.
    ready_at: Option<Instant>,
    counts: StreamCounts,
}

impl Comparison {
    /// Nothing is known yet; a difference that lasts for `settle` counts.
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

    /// Whether both streams stand.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sides.iter().all(|side| side.is_ready)
    }

    /// Whether a daemon is today's; known once its stream stands.
    #[must_use]
    pub fn is_reference(&self, side: usize) -> bool {
        self.sides[side].is_reference
    }

    /// Whether the stream of a daemon stands.
    #[must_use]
    pub fn stands(&self, side: usize) -> bool {
        self.sides[side].is_ready
    }

    /// How many VMs the stream of a daemon adds up to.
    #[must_use]
    pub fn vms(&self, side: usize) -> usize {
        self.sides[side].mirror.vms().len()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// Whether what a stream adds up to was not what its daemon served when
    /// that was last looked at.
    #[must_use]
    pub fn is_doubtful(&self, side: usize) -> bool {
        self.open.keys().any(|(pair, _)| *pair == Pair::Stream(side))
    }

    /// Takes an item of a stream in.
    pub fn take(&mut self, side: usize, item: &Item, now: Instant) {
        match item {
            Item::Ready(ready) => {
                self.sides[side].is_ready = true;
                self.sides[side].has_begun = true;
                self.sides[side].is_reference = ready.epoch.is_empty();
                self.ready_at = self.is_ready().then_some(now);
                for vm in &ready.unreadable {
                    self.note_unread(side, vm);
                }
            }
            Item::Broken(_) => {
                self.sides[side].is_ready = false;
                self.ready_at = None;
                // What has differed until then need not last.
                self.open.retain(|_, open| open.is_reported);
            }
            // A broken stream may bring what it has missed later.
            Item::Event(event) if self.have_begun() => {
                for change in changes_of(event) {
                    self.count(side, change, now);
                }
            }
            Item::Event(_) => {}
            Item::Unreadable(vm) => self.note_unread(side, vm),
        }
        match item {
            Item::Event(event) => {
                self.changed.insert(Arc::clone(&event.zonename));
            }
            // Every VM may be another now, those that have gone included.
            Item::Ready(_) => self.changed.extend(self.names()),
            Item::Broken(_) | Item::Unreadable(_) => {}
        }
        self.sides[side].mirror.apply(item);
        if let Item::Ready(_) = item {
            self.changed.extend(self.names());
        }
    }

    /// Whether both streams have stood once.
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

    fn names(&self) -> Vec<Arc<str>> {
        let names = self.sides.iter().flat_map(|s| s.mirror.vms().keys());
        names.cloned().collect()
    }

    /// Counts a change: it is reported by both once the other reports it, too.
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

    /// Changes that the other has not reported in time are one's alone.
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
    pub fn take_served(&mut self, side: usize, vms: &Vms, now: Instant) {
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
        // Of what can't be read nothing is known.
        let may_be = |vm: &Unreadable, name: &str| {
            vm.zonename.as_deref().is_none_or(|own| own == name)
        };
        let is_known = |name: &&str| {
            let mut unreadable = vms.unreadable.iter();
            let is_read = !unreadable.any(|vm| may_be(vm, name));
            is_read && mirror.unreadable_as(name).is_none()
        };
        for name in names.iter().copied().filter(is_known) {
            let own = mirror.vms().get(name).map(without_growth);
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

    /// Compares what has changed, and returns what is new of differences that
    /// last.
    pub fn look(&mut self, now: Instant) -> Vec<News> {
        self.expire(0, now);
        self.expire(1, now);
        let mut news = std::mem::take(&mut self.news);
        if self.is_ready() {
            for name in std::mem::take(&mut self.changed) {
                // Of one that can't be read it is not known whether it still
                // differs.
                if let Some(found) = self.differences_of(&name) {
                    let is_meant = |own: &str| *own == *name;
                    self.note(Pair::Daemons, found, is_meant, now);
                }
            }
            for ((pair, _), open) in &mut self.open {
                // Nothing has changed since.
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
        let vm = |side: &Side| side.mirror.vms().get(name).map(without_growth);
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

    /// Notes what differs now, of the VMs that are meant.
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
    mirror.vms().keys().map(|name| &**name)
}

/// The changes of an event, each by what it is: the VM, the path and the new
/// value, or that the VM has come or gone.
fn changes_of(event: &Event) -> Vec<u64> {
    let hash = |path: &str, value: Option<&Json>| {
        let mut hasher = DefaultHasher::new();
        (&*event.zonename, event.kind.name(), path).hash(&mut hasher);
        value.map(ToString::to_string).hash(&mut hasher);
        hasher.finish()
    };
    if event.changes().is_empty() {
        return vec![hash("", None)];
    }
    let changes = event.changes().iter().map(|change| {
        let path = change.get("prettyPath").and_then(Json::as_str);
        hash(path.unwrap_or_default(), change.get("newValue"))
    });
    changes.collect()
}

#[cfg(test)]
mod tests;
