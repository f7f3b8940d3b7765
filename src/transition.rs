//! Which of the transitions that were reported may be published with a load.
//!
//! The kernel reports every transition, and zoneadm shows where the zone is
//! now. A load that was asked for by one report may find the zone further on,
//! and reports that arrive while it is loaded may be of before or after the
//! moment at which zoneadm looked. What is published must be all of them, in
//! order: those before the state that was found now, the others with the next
//! load. Pure.

use crate::event::{GONE, Transition};

/// A transition that was reported, with its running number.
pub type Numbered = (u64, Transition);

/// What was reported of a zone, and is not published yet.
pub trait Reports {
    /// What is due with a load, if this is the state that was published last.
    fn due(&self, stored: Option<&str>) -> Vec<Numbered>;

    /// Takes what was due; `false`, and takes nothing, if it is no longer what
    /// comes next.
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

/// Where a zone was found.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// The state.
    pub zone_state: &'a str,
    /// Its id in the kernel, if it has one.
    pub zoneid: Option<i32>,
    /// Whether it is another zone than the one of its name that is stored.
    pub is_another: bool,
}

/// How many of `reported` were before, or are, the state `found`. The first
/// `earlier` of them were reported before the load began, and so are; `stored`
/// is the state that was published last.
#[must_use]
pub fn due(
    reported: &[Transition],
    earlier: usize,
    stored: Option<&str>,
    found: Position<'_>,
) -> usize {
    let end = reported.iter().position(|t| t.zone_state == GONE);
    let earlier = match end {
        // The end of the one was before the other.
        Some(at) if found.is_another => earlier.max(at + 1),
        _ => earlier,
    };
    let earlier = earlier.min(reported.len());
    let (before, during) = reported.split_at(earlier);
    // A zone that was found had not ended, or was the next one of its name:
    // nothing tells which, and what is left is published with the next load.
    let end = during.iter().position(|t| t.zone_state == GONE);
    let during = match end {
        Some(at) if found.zone_state == GONE => return earlier + at + 1,
        Some(at) => &during[..at],
        None => during,
    };
    if found.zone_state == GONE {
        // What was reported after its end is the next one's.
        // ... and what began meanwhile was not there yet.
        let was_gone = before.last().is_some_and(|t| t.zone_state == GONE);
        let begun = during.iter().position(|t| t.is_first);
        let of_it = begun.unwrap_or(during.len());
        return if was_gone { earlier } else { earlier + of_it };
    }
    let is_found = |t: &Transition| {
        t.zone_state == found.zone_state
            && (t.zoneid.is_none()
                || found.zoneid.is_none()
                || t.zoneid == found.zoneid)
    };
    if let Some(at) = during.iter().rposition(is_found) {
        return earlier + at + 1;
    }
    // Not there itself: those count that lie on the way to it.
    let mut now = before.last().map(|t| t.zone_state).or(stored);
    let mut due = earlier;
    for transition in during {
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

/// Whether a zone that goes from `from` to `to` passes `state`.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(states: &[(&'static str, i32)]) -> Vec<Transition> {
        let transition = |(zone_state, id): &(&'static str, i32)| {
            Transition::new(zone_state, Some(*id).filter(|id| *id > 0))
        };
        states.iter().map(transition).collect()
    }

    fn at(zone_state: &str, zoneid: i32) -> Position<'_> {
        let zoneid = Some(zoneid).filter(|id| *id > 0);
        Position { zone_state, zoneid, is_another: false }
    }

    #[test]
    fn what_was_reported_before_the_load_is_due() {
        let boot = reported(&[("ready", 7), ("running", 7)]);
        assert_eq!(due(&boot, 2, Some("installed"), at("installed", 0)), 2);
        assert_eq!(due(&boot, 1, Some("installed"), at("running", 7)), 2);
        assert_eq!(due(&boot, 9, Some("installed"), at("running", 7)), 2);
    }

    #[test]
    fn what_was_reported_after_zoneadm_looked_is_not() {
        let create =
            reported(&[("configured", 0), ("incomplete", 0), ("installed", 0)]);
        assert_eq!(due(&create, 1, None, at("incomplete", 0)), 2);
        assert_eq!(due(&create, 1, None, at("configured", 0)), 1);
        assert_eq!(due(&create, 0, None, at("installed", 0)), 3);
    }

    #[test]
    fn what_lies_on_the_way_is_due() {
        let halt = reported(&[("running", 7), ("shutting_down", 7)]);
        assert_eq!(due(&halt, 1, Some("ready"), at("installed", 0)), 2);
        assert_eq!(due(&halt, 1, Some("ready"), at("down", 7)), 2);
        assert_eq!(due(&halt, 1, Some("ready"), at("running", 7)), 1);
    }

    #[test]
    fn what_comes_after_the_end_is_anothers() {
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
        // Looked for before it was there.
        let mut new = reported(&[("configured", 0), ("installed", 0)]);
        assert_eq!(due(&new, 0, Some("installed"), at(GONE, 0)), 2);
        new[0].is_first = true;
        assert_eq!(due(&new, 0, None, at(GONE, 0)), 0);
        assert_eq!(due(&new, 1, None, at(GONE, 0)), 2);
        assert_eq!(due(&again, 0, None, at("configured", 0)), 2);
        let other = Position { is_another: true, ..at("incomplete", 0) };
        assert_eq!(due(&again, 1, Some("installed"), other), 3);
    }

    #[test]
    fn a_reboot_is_told_from_no_reboot_by_the_zones_id() {
        let reboot =
            reported(&[("shutting_down", 7), ("ready", 8), ("running", 8)]);
        assert_eq!(due(&reboot, 0, Some("running"), at("running", 8)), 3);
        assert_eq!(due(&reboot, 0, Some("running"), at("running", 7)), 0);
        assert_eq!(due(&reboot, 1, Some("running"), at("down", 7)), 1);
    }
}
