//! The one place where a VM changes.

use std::sync::Arc;

use super::publisher::Publisher;
use super::{Applied, Cache, GONE_MAX, Prepared, Update};
use crate::event::{Cause, GONE, Transition};
use crate::hub::Vm;
use crate::load::assemble::Parts;
use crate::transitions::Reports;

/// What is stored of a VM, as it is compared with.
struct Stored {
    vm: Prepared,
    /// Transitions that were lost since its last event.
    lost: u64,
}

impl Cache {
    /// Stores what a load has found of a VM that it knew as `base`, and
    /// publishes what that changes. What was reported of the zone by then is
    /// published state by state, even if it is over; it is not taken if the
    /// load was overtaken.
    pub fn apply(
        &self,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: Update,
        reports: &dyn Reports,
        cause: &Cause,
    ) -> Applied {
        let Some((stored, twin)) = self.stored(zonename, base, &update) else {
            return Applied::Overtaken;
        };
        let lost = stored.as_ref().map_or(0, |stored| stored.lost);
        let before = stored.as_ref().map(|stored| stored.vm.vm.clone());
        if let Some(twin) = twin {
            // As a VM of another uuid it is no longer there.
            let mut events =
                Publisher::new(self, zonename, cause, before, lost);
            if let Some(stored) = &stored {
                events.delete(&[], &stored.vm);
            }
            let mut inner = self.inner.write();
            if inner.is_overtaken(zonename, base, &update)
                || inner.twin(zonename, &update).as_ref() != Some(&twin)
                || !events.is_heard_as_before()
            {
                return Applied::Overtaken;
            }
            let removed = inner.remove(zonename);
            let published = events.publish();
            drop(inner);
            drop(removed);
            return Applied::Twin(twin, published);
        }

        // What takes long: objects are made, compared, and written.
        let zone_state = stored.as_ref().map(|s| &*s.vm.parts.row.zone_state);
        let due = reports.due(zone_state);
        let reported = due.iter().map(|(_, t)| t.clone()).collect();
        let size = before.as_ref().map_or(0, |vm| vm.json().len());
        let (reported, passed_over) = within(reported, size.max(update.size()));
        let lost = lost + passed_over;
        let mut events = Publisher::new(self, zonename, cause, before, lost);
        let lives = Lives::of(&reported, stored.as_ref(), &update);
        lives.write(&mut events, stored.as_ref(), &update);

        // If nothing is published, what was made for it is not stored.
        let made = update.vm().cloned();
        let mut inner = self.inner.write();
        if inner.is_overtaken(zonename, base, &update)
            || inner.twin(zonename, &update).is_some()
            || !events.is_heard_as_before()
            || !reports.take(&due)
        {
            return Applied::Overtaken;
        }
        let mut removed = None;
        if !lives.ended.is_empty() {
            removed = inner.remove(zonename);
        }
        if let (Update::Gone, Some(gone)) = (&update, &mut inner.gone)
            && gone.len() < GONE_MAX
        {
            gone.insert(Arc::clone(zonename));
        }
        let is_end_unheard = lives.has_ended && events.ends() > lives.heard;
        let lost = events.lost;
        let published = events.publish();
        let mut replaced = None;
        if let Update::Vm(vm) = update {
            let version = (!published.is_empty()).then(|| self.hub.seq());
            replaced = inner.store(zonename, vm, version, lost);
        }
        drop(inner);
        // Large ones take their time to go.
        drop((removed, replaced, stored, made));
        Applied::Stored { published, is_end_unheard }
    }

    /// What is stored of a zone, and the other zone that is served with the
    /// uuid of this one; `None` if it is no longer what a load knew.
    fn stored(
        &self,
        zonename: &str,
        base: Option<&Arc<Parts>>,
        update: &Update,
    ) -> Option<(Option<Stored>, Option<Arc<str>>)> {
        let inner = self.inner.read();
        let stored = match (inner.vms.get(zonename), base) {
            (None, None) => None,
            (Some(entry), Some(base)) if Arc::ptr_eq(&entry.vm.parts, base) => {
                Some(Stored { vm: entry.vm.clone(), lost: entry.lost })
            }
            _ => return None,
        };
        Some((stored, inner.twin(zonename, update)))
    }
}

/// What the events of one change may take, in bytes: they are all written
/// before one is published.
const EVENTS_BYTES: usize = 256 << 20;

/// As many of the transitions of a VM of this size as may be published
/// together, and how many are passed over: the oldest, but no end. That takes
/// a large VM, and a zone that was restarted over and over while zoneadm hung.
fn within(
    mut reported: Vec<Transition>,
    size: usize,
) -> (Vec<Transition>, u64) {
    // Each has the VM twice, as JSON and in its line; what did not change of
    // its object is shared.
    let most = (EVENTS_BYTES / (2 * size).max(1)).max(1);
    let (mut excess, mut lost) = (reported.len().saturating_sub(most), 0);
    reported.retain(|transition| {
        let stays = excess == 0 || transition.zone_state == GONE;
        if !stays {
            excess -= 1;
            lost += 1 + transition.lost;
        }
        stays
    });
    (reported, lost)
}

impl Update {
    /// What is to be served, if there is a VM.
    fn vm(&self) -> Option<&Vm> {
        match self {
            Self::Gone => None,
            Self::Vm(prepared) => Some(&prepared.vm),
        }
    }

    /// Bytes of the VM's JSON.
    fn size(&self) -> usize {
        self.vm().map_or(0, |vm| vm.json().len())
    }
}

/// What was reported of a zone's name: of zones that have ended, and of the
/// one that is there now.
struct Lives<'a> {
    /// Each with its end, if that was reported.
    ended: Vec<&'a [Transition]>,
    now: &'a [Transition],
    /// How many ends were reported.
    heard: usize,
    /// Whether the zone that is stored has ended. One that got another uuid
    /// is another VM, but has not.
    has_ended: bool,
}

impl<'a> Lives<'a> {
    fn of(
        reported: &'a [Transition],
        stored: Option<&Stored>,
        update: &Update,
    ) -> Self {
        let is_end = |t: &Transition| t.zone_state == GONE;
        let mut ended: Vec<_> = reported.split_inclusive(is_end).collect();
        let heard = reported.iter().filter(|t| is_end(t)).count();
        let mut now: &[Transition] = &[];
        if !reported.last().is_none_or(is_end) {
            now = ended.pop().unwrap_or_default();
        }
        let has_ended = match update {
            Update::Gone => {
                ended.push(std::mem::take(&mut now));
                true
            }
            Update::Vm(vm) => {
                let is_another = stored
                    .is_some_and(|s| s.vm.parts.is_another_than(&vm.parts));
                if is_another && ended.is_empty() {
                    ended.push(&[]);
                }
                let xml = &vm.parts.xml;
                stored.is_some_and(|s| s.vm.parts.xml.is_another_than(xml))
            }
        };
        Self { ended, now, heard, has_ended }
    }

    fn write(
        &self,
        events: &mut Publisher<'_>,
        stored: Option<&Stored>,
        update: &Update,
    ) {
        let found = match update {
            Update::Gone => None,
            Update::Vm(vm) => Some(vm),
        };
        let mut known = stored.map(|stored| &stored.vm);
        for life in &self.ended {
            // If a zone was over before it could be loaded, no more is known
            // about it than about the next one.
            if let Some(vm) = known.take().or(found) {
                events.delete(life, vm);
            }
        }
        if let Some(vm) = found {
            events.load(self.now, vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_large_vm_are_bounded_and_say_what_is_missing() {
        let reported = || -> Vec<_> {
            ["ready", "running", GONE, "ready", "running"]
                .map(|state| Transition::new(state, None))
                .into()
        };
        let states = |size| {
            let (reported, lost) = within(reported(), size);
            let states = reported.iter().map(|t| t.zone_state);
            (states.collect::<Vec<_>>().join(" "), lost)
        };
        let all = "ready running  ready running".to_string();
        assert_eq!(states(5 << 10), (all, 0));
        assert_eq!(states(40 << 20), (" ready running".to_string(), 2));
        assert_eq!(states(1 << 30), ("".to_string(), 4));
    }
}
