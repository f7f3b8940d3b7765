//! The zone transitions that were reported: keeps those that are not published
//! yet, and says which of them may be published with a load.
//!
//! The kernel reports every transition, and zoneadm shows the state that the
//! zone is in now. A load that one report has caused may find the zone in a
//! later state. Reports that arrive during the load may be from before or after
//! the moment at which zoneadm looked. All of them must be published, in order:
//! those up to the state that was found now, the others with the next load.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{GONE, Transition};

/// A transition that was reported, with its running number.
pub type Numbered = (u64, Transition);

/// The reports of a zone that are not published yet.
pub trait Reports {
    /// The transitions that are due with a load, if `stored` is the state that
    /// was published last.
    fn due(&self, stored: Option<&str>) -> Vec<Numbered>;

    /// Removes what was due. Returns `false`, and removes nothing, if it is no
    /// longer what comes next.
    fn take(&self, due: &[Numbered]) -> bool;
}

/// All these reports are due, and no other load takes them.
impl Reports for Vec<Transition> {
    fn due(&self, _: Option<&str>) -> Vec<Numbered> {
        (0..).zip(self.iter().cloned()).collect()
    }

    fn take(&self, _: &[Numbered]) -> bool {
        true
    }
}

/// The cycle that a zone's states follow while it is booted and halted.
const CYCLE: [&str; 5] =
    ["installed", "ready", "running", "shutting_down", "down"];

/// The state in which a load found a zone.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// The state.
    pub zone_state: &'a str,
    /// Its id in the kernel, if it has one.
    pub zoneid: Option<i32>,
    /// Whether it is another zone than the stored one of the same name.
    pub is_another: bool,
}

/// How many of the transitions in `reported` come before the state `found`, or
/// are it. The first `earlier` of them were reported before the load began, and
/// always count. `stored` is the state that was published last.
#[must_use]
pub fn due(
    reported: &[Numbered],
    earlier: usize,
    stored: Option<&str>,
    found: Position<'_>,
) -> usize {
    let end = reported.iter().position(is_end);
    let earlier = match end {
        // The old zone ended before the new one began.
        Some(at) if found.is_another => earlier.max(at + 1),
        _ => earlier,
    };
    let earlier = earlier.min(reported.len());
    let (before, during) = reported.split_at(earlier);
    // If a zone was found, either it had not ended yet, or it is the next zone
    // of that name. Nothing says which, so the rest is published with the next
    // load.
    let end = during.iter().position(is_end);
    let during = match end {
        Some(at) if found.zone_state == GONE => return earlier + at + 1,
        Some(at) => &during[..at],
        None => during,
    };
    if found.zone_state == GONE {
        // What was reported after its end is about the next zone, and a zone
        // that began during the load was not there yet.
        let was_gone = before.last().is_some_and(is_end);
        let begun = during.iter().position(|(_, t)| t.is_first);
        let of_it = begun.unwrap_or(during.len());
        return if was_gone { earlier } else { earlier + of_it };
    }
    let is_found = |(_, t): &Numbered| {
        t.zone_state == found.zone_state
            && (t.zoneid.is_none()
                || found.zoneid.is_none()
                || t.zoneid == found.zoneid)
    };
    if let Some(at) = during.iter().rposition(is_found) {
        return earlier + at + 1;
    }
    // The state that was found was not reported: count the transitions that lie
    // on the way to it.
    let mut now = before.last().map(|(_, t)| t.zone_state).or(stored);
    let mut due = earlier;
    for (_, transition) in during {
        if !now.is_some_and(|now| {
            is_between(now, transition.zone_state, found.zone_state)
        }) {
            break;
        }
        now = Some(transition.zone_state);
        due += 1;
    }
    due
}

/// Whether a report is that of a zone's end.
#[must_use]
pub fn is_end((_, transition): &Numbered) -> bool {
    transition.zone_state == GONE
}

/// Whether a zone that goes from `from` to `to` passes through `state`, or ends
/// in it.
fn is_between(from: &str, state: &str, to: &str) -> bool {
    let place = |s: &str| CYCLE.iter().position(|c| *c == s);
    let (Some(from), Some(state), Some(to)) =
        (place(from), place(state), place(to))
    else {
        return false;
    };
    let steps = |place: usize| (place + CYCLE.len() - from) % CYCLE.len();
    steps(state) > 0 && steps(state) <= steps(to)
}

/// Zone transitions that were reported and are not published yet: by zone, in
/// order, each with a running number.
#[derive(Debug)]
pub struct PendingTransitions {
    of_zone: HashMap<Arc<str>, VecDeque<(u64, Transition)>>,
    last: u64,
    /// At most this many are kept of one zone.
    most: usize,
    /// At most this many zones that are no VMs are remembered.
    most_zones: usize,
    /// Zones whose end was published before it was reported, and when.
    ended: HashMap<Arc<str>, Instant>,
    /// Zones that were found to have ended, and when that was first found.
    /// Their end is neither reported nor published yet.
    unheard: HashMap<Arc<str>, Instant>,
    /// When reports were last lost: ends may be among them.
    gap: Option<Instant>,
    /// How many transitions were dropped because too many waited.
    lost: u64,
}

/// A report that comes later than this after a zone's end is not about that
/// zone.
const LATE_TIME: Duration = Duration::from_secs(5);

impl PendingTransitions {
    /// No transitions, and never more than `most` of one zone; `most_zones`
    /// bounds the zones that are not known as VMs.
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

    /// How many transitions were dropped because too many waited.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The number of the last transition.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Adds a transition. `is_vm` says whether there is such a VM.
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
            // Late news of one that is over; another one begins.
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
            // The next transition that is published reports the loss.
            let next = waiting.front_mut().map(|(_, next)| next);
            next.unwrap_or(&mut transition).lost += 1 + oldest.lost;
            self.lost += 1;
            log::warn!(
                "{zonename}: more than {} zone transitions wait to be \
                 published; dropping the oldest",
                self.most
            );
        }
        waiting.push_back((self.last, transition));
    }

    /// The end of a zone has been published before it was reported: what is
    /// reported up to that end is late, and is not about the zone that is
    /// there now.
    pub fn expect_end(&mut self, zonename: &Arc<str>) {
        if let Some(waiting) = self.of_zone.get_mut(zonename) {
            let end = waiting.iter().position(is_end);
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

    /// Reports were lost: nothing from before will be reported any more.
    pub fn expect_no_ends(&mut self) {
        self.ended.clear();
        self.gap = Some(Instant::now());
    }

    /// The transitions of a zone.
    pub fn of(&self, zonename: &str) -> Vec<Numbered> {
        let waiting = self.of_zone.get(zonename);
        waiting
            .map_or_else(Vec::new, |waiting| waiting.iter().cloned().collect())
    }

    /// Removes these, if they are the first of the zone; else returns `false`.
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

    /// Drops the zones that have nothing later than number `earlier` and that
    /// `keep` does not want.
    pub fn retain(&mut self, earlier: u64, keep: impl Fn(&str) -> bool) {
        self.of_zone.retain(|zonename, waiting| {
            waiting.back().is_some_and(|(n, _)| *n > earlier) || keep(zonename)
        });
    }

    /// A load has found that a zone has ended. Returns whether its end may
    /// still be reported: it has `time` for that, from when the end was first
    /// found.
    pub fn await_end_report(
        &mut self,
        zonename: &Arc<str>,
        time: Duration,
    ) -> bool {
        let waiting = self.of_zone.get(zonename);
        let is_reported =
            waiting.is_some_and(|waiting| waiting.iter().any(is_end));
        let is_full = self.unheard.len() >= self.most_zones
            && !self.unheard.contains_key(zonename);
        if is_reported || is_full {
            return false;
        }
        let now = Instant::now();
        let first = *self.unheard.entry(Arc::clone(zonename)).or_insert(now);
        first.elapsed() < time
    }

    /// The cache has the zone as it is now.
    pub fn forget_end_report(&mut self, zonename: &str) {
        self.unheard.remove(zonename);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(states: &[(&'static str, i32)]) -> Vec<Numbered> {
        let transition = |(zone_state, id): &(&'static str, i32)| {
            Transition::new(zone_state, Some(*id).filter(|id| *id > 0))
        };
        (1..).zip(states.iter().map(transition)).collect()
    }

    fn at(zone_state: &str, zoneid: i32) -> Position<'_> {
        let zoneid = Some(zoneid).filter(|id| *id > 0);
        Position { zone_state, zoneid, is_another: false }
    }

    #[test]
    fn reports_from_before_the_load_are_due() {
        let boot = reported(&[("ready", 7), ("running", 7)]);
        assert_eq!(due(&boot, 2, Some("installed"), at("installed", 0)), 2);
        assert_eq!(due(&boot, 1, Some("installed"), at("running", 7)), 2);
        assert_eq!(due(&boot, 9, Some("installed"), at("running", 7)), 2);
    }

    #[test]
    fn reports_from_after_zoneadm_looked_are_not_due() {
        let create =
            reported(&[("configured", 0), ("incomplete", 0), ("installed", 0)]);
        assert_eq!(due(&create, 1, None, at("incomplete", 0)), 2);
        assert_eq!(due(&create, 1, None, at("configured", 0)), 1);
        assert_eq!(due(&create, 0, None, at("installed", 0)), 3);
    }

    #[test]
    fn transitions_on_the_way_to_the_found_state_are_due() {
        let halt = reported(&[("running", 7), ("shutting_down", 7)]);
        assert_eq!(due(&halt, 1, Some("ready"), at("installed", 0)), 2);
        assert_eq!(due(&halt, 1, Some("ready"), at("down", 7)), 2);
        assert_eq!(due(&halt, 1, Some("ready"), at("running", 7)), 1);
    }

    #[test]
    fn reports_after_an_end_belong_to_the_next_zone() {
        let again = reported(&[
            ("incomplete", 0),
            ("configured", 0),
            (GONE, 0),
            ("configured", 0),
        ]);
        assert_eq!(due(&again, 1, Some("installed"), at(GONE, 0)), 3);
        assert_eq!(due(&again[..2], 1, Some("installed"), at(GONE, 0)), 2);
        assert_eq!(due(&again, 1, Some("installed"), at("configured", 0)), 2);
        assert_eq!(due(&again, 3, Some("installed"), at("configured", 0)), 4);
        assert_eq!(due(&again, 3, Some("configured"), at(GONE, 0)), 3);
        // zoneadm looked before the zone was there.
        let mut new = reported(&[("configured", 0), ("installed", 0)]);
        assert_eq!(due(&new, 0, Some("installed"), at(GONE, 0)), 2);
        new[0].1.is_first = true;
        assert_eq!(due(&new, 0, None, at(GONE, 0)), 0);
        assert_eq!(due(&new, 1, None, at(GONE, 0)), 2);
        assert_eq!(due(&again, 0, None, at("configured", 0)), 2);
        let other = Position { is_another: true, ..at("incomplete", 0) };
        assert_eq!(due(&again, 1, Some("installed"), other), 3);
    }

    #[test]
    fn the_zone_id_shows_whether_there_was_a_reboot() {
        let reboot =
            reported(&[("shutting_down", 7), ("ready", 8), ("running", 8)]);
        assert_eq!(due(&reboot, 0, Some("running"), at("running", 8)), 3);
        assert_eq!(due(&reboot, 0, Some("running"), at("running", 7)), 0);
        assert_eq!(due(&reboot, 1, Some("running"), at("down", 7)), 1);
    }
}
