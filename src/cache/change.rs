//! The one place where VMs change.

use std::sync::Arc;

use super::publisher::Publisher;
use super::table::Table;
use super::{Applied, Cache, GONE_MAX, Prepared, Published, Update};
use crate::event::{Cause, GONE, Transition};
use crate::hub::Vm;
use crate::load::assemble::Parts;
use crate::transitions::Reports;

/// What is stored of a VM, and is compared with what was loaded.
struct Stored {
    vm: Prepared,
    /// Transitions that were lost since its last event.
    lost: u64,
}

/// The result of a load that must be stored, and what is stored now.
struct Change<'a> {
    cache: &'a Cache,
    zonename: &'a Arc<str>,
    /// What the load knew of the VM when it began.
    base: Option<&'a Arc<Parts>>,
    update: Update,
    stored: Option<Stored>,
}

impl Cache {
    /// Stores what a load has found of a VM, and publishes what that changes.
    /// `base` is what the load knew of the VM when it began. The transitions in
    /// `reports` that are due are published one by one, even if the zone has
    /// left those states since. They are not taken if the load was overtaken.
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
        let change = Change { cache: self, zonename, base, update, stored };
        match twin {
            Some(twin) => change.remove_for_twin(twin, cause),
            None => change.store(reports, cause),
        }
    }

    /// What is stored of a zone, and the other zone, if any, that is served
    /// with the same uuid. `None` if what is stored is no longer what the load
    /// knew.
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

impl<'a> Change<'a> {
    /// Removes this zone from the cache, because another zone is served with
    /// the uuid that it has now. The VM that this zone was before no longer
    /// exists.
    fn remove_for_twin(self, twin: Arc<str>, cause: &'a Cause) -> Applied {
        let mut events = self.publisher(cause, 0);
        if let Some(stored) = &self.stored {
            events.delete(&[], &stored.vm);
        }
        let mut table = self.cache.inner.write();
        if self.is_overtaken(&mut table, Some(&twin), &events) {
            return Applied::Overtaken;
        }
        let removed = table.remove(self.zonename);
        let published = events.publish();
        drop(table);
        drop(removed);
        Applied::Twin(twin, published)
    }

    /// Makes the events, then stores the VM and publishes them together.
    fn store(self, reports: &dyn Reports, cause: &'a Cause) -> Applied {
        // The slow part, without a lock: objects are made, compared and
        // written.
        let stored = self.stored.as_ref();
        let due = reports.due(stored.map(|s| &*s.vm.parts.row.zone_state));
        let reported = due.iter().map(|(_, t)| t.clone()).collect();
        let size = stored.map_or(0, |stored| stored.vm.vm.json().len());
        let (reported, passed_over) =
            limit_transitions(reported, size.max(self.update.size()));
        let mut events = self.publisher(cause, passed_over);
        let lives = Lives::of(&reported, stored, &self.update);
        lives.write(&mut events, stored, &self.update);

        let mut table = self.cache.inner.write();
        if self.is_overtaken(&mut table, None, &events) || !reports.take(&due) {
            return Applied::Overtaken;
        }
        let has_unreported_end = lives.has_ended && events.ends() > lives.heard;
        let (published, dropped) =
            self.commit(&mut table, !lives.ended.is_empty(), events);
        drop(table);
        // Large VMs take time to free: no lock is held here.
        drop(dropped);
        Applied::Stored { published, has_unreported_end }
    }

    /// Changes the table, and publishes the events. Returns the events, and
    /// what the caller must drop after it has released the lock.
    fn commit(
        self,
        table: &mut Table,
        has_ended: bool,
        events: Publisher<'_>,
    ) -> (Vec<Published>, impl Sized + use<>) {
        let zonename = self.zonename;
        let removed = has_ended.then(|| table.remove(zonename));
        if let (Update::Gone, Some(gone)) = (&self.update, &mut table.gone)
            && gone.len() < GONE_MAX
        {
            gone.insert(Arc::clone(zonename));
        }
        let lost = events.lost;
        let published = events.publish();
        // If nothing is published, the table does not store the new object.
        // `made` holds it, so that it is not freed under the lock.
        let made = self.update.vm().cloned();
        let mut replaced = None;
        if let Update::Vm(vm) = self.update {
            let seq = (!published.is_empty()).then(|| self.cache.hub.seq());
            replaced = table.store(zonename, vm, seq, lost);
        }
        (published, (removed, replaced, self.stored, made))
    }

    /// The publisher for the events of this change. `passed_over` transitions
    /// are left out before them.
    fn publisher(&self, cause: &'a Cause, passed_over: u64) -> Publisher<'a> {
        let stored = self.stored.as_ref();
        let lost = stored.map_or(0, |stored| stored.lost) + passed_over;
        let before = stored.map(|stored| stored.vm.vm.clone());
        Publisher::new(self.cache, self.zonename, cause, before, lost)
    }

    /// Whether anything that the change was made from has changed since.
    fn is_overtaken(
        &self,
        table: &mut Table,
        twin: Option<&Arc<str>>,
        events: &Publisher<'_>,
    ) -> bool {
        table.check_overtaken(self.zonename, self.base, &self.update)
            || table.twin(self.zonename, &self.update).as_ref() != twin
            || !events.is_silence_unchanged()
    }
}

/// How many bytes the events of one change may take. All of them are written
/// before the first one is published.
const EVENTS_BYTES: usize = 256 << 20;

/// Drops transitions of a VM with `size` bytes of JSON, if they are too many to
/// be published together. Returns the others, and how many are lost. The oldest
/// are dropped, but never an end. This takes a large VM and a zone that was
/// restarted over and over while zoneadm hung.
fn limit_transitions(
    mut reported: Vec<Transition>,
    size: usize,
) -> (Vec<Transition>, u64) {
    // Each event has the VM twice, as JSON and in its line. The parts of its
    // object that did not change are shared.
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
    /// The VM that will be served, if there is one.
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

/// The transitions that were reported for one zonename: those of zones that
/// have ended, and those of the zone that is there now.
struct Lives<'a> {
    /// The transitions of each zone that has ended, with its end if that was
    /// reported.
    ended: Vec<&'a [Transition]>,
    /// The transitions of the zone that is there now.
    now: &'a [Transition],
    /// How many ends were reported.
    heard: usize,
    /// Whether the stored zone has ended. A zone that got another uuid is
    /// another VM, but the zone has not ended.
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
            // If a zone ended before it could be loaded, nothing more is known
            // of it than of the next one.
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
    fn transitions_of_a_large_vm_are_bounded_and_the_lost_are_counted() {
        let reported = || -> Vec<_> {
            ["ready", "running", GONE, "ready", "running"]
                .map(|state| Transition::new(state, None))
                .into()
        };
        let states = |size| {
            let (reported, lost) = limit_transitions(reported(), size);
            let states = reported.iter().map(|t| t.zone_state);
            (states.collect::<Vec<_>>().join(" "), lost)
        };
        let all = "ready running  ready running".to_string();
        assert_eq!(states(5 << 10), (all, 0));
        assert_eq!(states(40 << 20), (" ready running".to_string(), 2));
        assert_eq!(states(1 << 30), ("".to_string(), 4));
    }
}
