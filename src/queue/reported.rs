//! Zone transitions that were reported and are not published yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::event::Transition;

/// By zone, in order, each with a running number.
#[derive(Debug)]
pub struct Reported {
    of_zone: HashMap<Arc<str>, VecDeque<(u64, Transition)>>,
    last: u64,
    /// The most of one zone.
    most: usize,
    /// The most zones that are no VMs.
    most_zones: usize,
}

impl Reported {
    /// None, and never more than `most` of a zone; `most_zones` bounds the
    /// zones that are not known as VMs.
    pub fn new(most: usize, most_zones: usize) -> Self {
        Self { of_zone: HashMap::new(), last: 0, most, most_zones }
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Adds one.
    pub fn add(
        &mut self,
        zonename: &Arc<str>,
        transition: Transition,
        is_vm: bool,
    ) {
        let is_full = self.of_zone.len() >= self.most_zones;
        if is_full && !is_vm && !self.of_zone.contains_key(zonename) {
            return;
        }
        self.last += 1;
        let waiting = self.of_zone.entry(Arc::clone(zonename)).or_default();
        if waiting.len() >= self.most {
            waiting.pop_front();
            log::warn!(
                "{zonename}: more zone transitions than can wait; the oldest \
                 is not published"
            );
        }
        waiting.push_back((self.last, transition));
    }

    /// Takes as many of a zone as `choose` says, which is given all, and how
    /// many have a number up to `earlier`.
    pub fn take(
        &mut self,
        zonename: &str,
        earlier: u64,
        choose: impl FnOnce(&[Transition], usize) -> usize,
    ) -> Vec<Transition> {
        let Some(waiting) = self.of_zone.get_mut(zonename) else {
            return Vec::new();
        };
        let earlier = waiting.iter().filter(|(n, _)| *n <= earlier).count();
        let all: Vec<_> = waiting.iter().map(|(_, t)| t.clone()).collect();
        let count = choose(&all, earlier).min(waiting.len());
        let taken = waiting.drain(..count).map(|(_, t)| t).collect();
        if waiting.is_empty() {
            self.of_zone.remove(zonename);
        }
        taken
    }

    /// Keeps of those up to number `earlier` only zones that `keep` wants.
    pub fn retain(&mut self, earlier: u64, keep: impl Fn(&str) -> bool) {
        self.of_zone.retain(|zonename, waiting| {
            waiting.back().is_some_and(|(n, _)| *n > earlier) || keep(zonename)
        });
    }

    /// Whether one to this state waits.
    pub fn has(&self, zonename: &str, zone_state: &str) -> bool {
        let waiting = self.of_zone.get(zonename);
        waiting.is_some_and(|waiting| {
            waiting.iter().any(|(_, t)| t.zone_state == zone_state)
        })
    }
}
