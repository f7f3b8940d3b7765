//! Zone transitions that were reported and are not published yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{GONE, Transition};
use crate::transition::Numbered;

/// By zone, in order, each with a running number.
#[derive(Debug)]
pub struct Reported {
    of_zone: HashMap<Arc<str>, VecDeque<(u64, Transition)>>,
    last: u64,
    /// The most of one zone.
    most: usize,
    /// The most zones that are no VMs.
    most_zones: usize,
    /// Zones whose end has been published before it was reported, and when.
    ended: HashMap<Arc<str>, Instant>,
    /// Zones that were found to have ended, which has not been reported, nor
    /// published, and when that was.
    unheard: HashMap<Arc<str>, Instant>,
    /// When reports were last lost: ends may be among them.
    gap: Option<Instant>,
    /// How many transitions found no room.
    lost: u64,
}

/// News that is later than this is none of what is over.
const LATE_TIME: Duration = Duration::from_secs(5);

impl Reported {
    /// None, and never more than `most` of a zone; `most_zones` bounds the
    /// zones that are not known as VMs.
    pub fn new(most: usize, most_zones: usize) -> Self {
        Self {
            of_zone: HashMap::new(),
            last: 0,
            most,
            most_zones,
            ended: HashMap::new(),
            unheard: HashMap::new(),
            gap: None,
            lost: 0,
        }
    }

    /// How many transitions found no room.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Adds one.
    pub fn add(
        &mut self,
        zonename: &Arc<str>,
        mut transition: Transition,
        is_vm: bool,
    ) {
        let ended = self.ended.get(zonename);
        if ended.is_some_and(|at| at.elapsed() > LATE_TIME) {
            self.ended.remove(zonename);
        } else if ended.is_some() {
            // Late news of one that is over; another begins anew.
            if transition.zone_state == GONE {
                self.ended.remove(zonename);
                return;
            }
            if !transition.is_first {
                return;
            }
            self.ended.remove(zonename);
        }
        let is_full = self.of_zone.len() >= self.most_zones;
        if is_full && !is_vm && !self.of_zone.contains_key(zonename) {
            return;
        }
        self.last += 1;
        let waiting = self.of_zone.entry(Arc::clone(zonename)).or_default();
        if waiting.len() >= self.most
            && let Some((_, oldest)) = waiting.pop_front()
        {
            // The next one that is published says so.
            let next = waiting.front_mut().map(|(_, next)| next);
            next.unwrap_or(&mut transition).lost += 1 + oldest.lost;
            self.lost += 1;
            log::warn!(
                "{zonename}: more than {} zone transitions wait; the oldest \
                 is not published",
                self.most
            );
        }
        waiting.push_back((self.last, transition));
    }

    /// The end of a zone has been published, which is not reported yet: what
    /// is reported up to it is late, and of no one who is there.
    pub fn expect_end(&mut self, zonename: &Arc<str>) {
        if let Some(waiting) = self.of_zone.get_mut(zonename) {
            let end = waiting.iter().position(|(_, t)| t.zone_state == GONE);
            let first = waiting.iter().position(|(_, t)| t.is_first);
            let late = match (end, first) {
                (Some(end), Some(first)) => (end + 1).min(first),
                (Some(end), None) => end + 1,
                (None, Some(first)) => first,
                (None, None) => waiting.len(),
            };
            waiting.drain(..late);
            if waiting.is_empty() {
                self.of_zone.remove(zonename);
            }
            if end.is_some() || first.is_some() {
                return;
            }
        }
        self.ended.retain(|_, at| at.elapsed() <= LATE_TIME);
        let was_lost = self.gap.is_some_and(|gap| gap.elapsed() <= LATE_TIME);
        if !was_lost && self.ended.len() < self.most_zones {
            self.ended.insert(Arc::clone(zonename), Instant::now());
        }
    }

    /// Reports were lost: nothing more is to come of before.
    pub fn expect_no_ends(&mut self) {
        self.ended.clear();
        self.gap = Some(Instant::now());
    }

    /// The first of a zone, as many as `choose` says, which is given all, and
    /// how many have a number up to `earlier`.
    pub fn due(
        &self,
        zonename: &str,
        earlier: u64,
        choose: impl FnOnce(&[Transition], usize) -> usize,
    ) -> Vec<Numbered> {
        let Some(waiting) = self.of_zone.get(zonename) else {
            return Vec::new();
        };
        let earlier = waiting.iter().filter(|(n, _)| *n <= earlier).count();
        let all: Vec<_> = waiting.iter().map(|(_, t)| t.clone()).collect();
        let count = choose(&all, earlier);
        waiting.iter().take(count).cloned().collect()
    }

    /// Takes these, if they are the first of a zone.
    pub fn take(&mut self, zonename: &str, due: &[Numbered]) -> bool {
        let Some(waiting) = self.of_zone.get_mut(zonename) else {
            return due.is_empty();
        };
        let first = waiting.iter().take(due.len()).map(|(n, _)| n);
        if !first.eq(due.iter().map(|(n, _)| n)) {
            return false;
        }
        waiting.drain(..due.len());
        if waiting.is_empty() {
            self.of_zone.remove(zonename);
        }
        true
    }

    /// Keeps of those up to number `earlier` only zones that `keep` wants.
    pub fn retain(&mut self, earlier: u64, keep: impl Fn(&str) -> bool) {
        self.of_zone.retain(|zonename, waiting| {
            waiting.back().is_some_and(|(n, _)| *n > earlier) || keep(zonename)
        });
    }

    /// A zone has been found to have ended: whether that has still to be
    /// reported, for which there is `time` since this was found first.
    pub fn is_unheard(&mut self, zonename: &Arc<str>, time: Duration) -> bool {
        let waiting = self.of_zone.get(zonename);
        let is_reported = waiting.is_some_and(|waiting| {
            waiting.iter().any(|(_, t)| t.zone_state == GONE)
        });
        let is_full = self.unheard.len() >= self.most_zones
            && !self.unheard.contains_key(zonename);
        if is_reported || is_full {
            return false;
        }
        let now = Instant::now();
        let first = *self.unheard.entry(Arc::clone(zonename)).or_insert(now);
        first.elapsed() < time
    }

    /// The picture has a zone as it is.
    pub fn is_heard(&mut self, zonename: &str) {
        self.unheard.remove(zonename);
    }
}
