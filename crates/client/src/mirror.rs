//! The VMs that a stream of events adds up to. Pure: it does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Map;

use super::event::{Cause, Change, EventHeader};
use super::lines::Members;
use super::{Event, EventsQuery, Ready, Unreadable, Vm};

/// VMs by zonename, kept current by the events of a stream that begins with a
/// snapshot.
///
/// If the stream had to begin again, the mirror compares the new snapshot with
/// the VMs that it has, and makes events of the differences. So a caller that
/// follows what [`Mirror::apply`] returns misses no change, except one that was
/// undone before the stream began again. The changes of such an event are of
/// whole members: `nics`, where the daemon would say `nics.*.ip`. So if the
/// query has the path `nics.*.ip`, any change of a nic makes such an event.
///
/// The mirror knows what the query lets through: with a path in the query, the
/// rest of a VM may be older.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    query: EventsQuery,
    vms: BTreeMap<String, Arc<Vm>>,
    unreadable: BTreeMap<Option<String>, Unreadable>,
    has_begun: bool,
    /// The number of the last event that the VMs had when the stream began.
    /// They are newer than events up to that one.
    begun_at: u64,
}

impl Mirror {
    /// A mirror of a stream of these events. It has no VMs yet.
    #[must_use]
    pub fn new(query: EventsQuery) -> Self {
        Self { query, ..Self::default() }
    }

    /// The VMs, by zonename.
    #[must_use]
    pub fn vms(&self) -> &BTreeMap<String, Arc<Vm>> {
        &self.vms
    }

    /// VMs that exist but can't be read. If one could be read before, the
    /// mirror still has it as it was then.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.values()
    }

    /// An unreadable VM that is, or may be, the one with this zonename.
    #[must_use]
    pub fn unreadable_as(&self, zonename: &str) -> Option<&Unreadable> {
        let may_be = |vm: &&Unreadable| {
            vm.zonename.as_deref().is_none_or(|name| name == zonename)
        };
        self.unreadable.values().find(may_be)
    }

    /// Takes in an event of the stream. Returns it, with what the VM was
    /// before; and after a [`Event::Ready`], events of what must have happened
    /// while the stream was broken.
    pub fn apply(&mut self, event: Event) -> Vec<Event> {
        match event {
            Event::Broken(_) => vec![event],
            Event::Unreadable(ref vm) => {
                self.unreadable.insert(vm.zonename.clone(), vm.clone());
                vec![event]
            }
            Event::Create { ref vm, ref header } => {
                self.put(&header.zonename, vm);
                vec![event]
            }
            Event::Modify { vm, changes, header, .. } => {
                let before = self.put(&header.zonename, &vm);
                let before = before.filter(|_| self.is_new(&header));
                vec![Event::Modify { vm, changes, before, header }]
            }
            Event::Delete { header, .. } => {
                self.unreadable.remove(&Some(header.zonename.clone()));
                let before = self.vms.remove(&header.zonename);
                let before = before.filter(|_| self.is_new(&header));
                vec![Event::Delete { before, header }]
            }
            Event::Ready(ref ready) => {
                let missed = match &ready.vms {
                    None => Vec::new(),
                    Some(vms) => self.begin(vms, ready),
                };
                [vec![event], missed].concat()
            }
        }
    }

    /// Whether an event came after the VMs that the stream began with.
    fn is_new(&self, header: &EventHeader) -> bool {
        header.seq == 0 || header.seq > self.begun_at
    }

    /// Keeps a VM. Returns what it was before.
    fn put(&mut self, zonename: &str, vm: &Arc<Vm>) -> Option<Arc<Vm>> {
        let zonename = zonename.to_string();
        self.unreadable.remove(&Some(zonename.clone()));
        self.vms.insert(zonename, Arc::clone(vm))
    }

    fn begin(&mut self, vms: &[Arc<Vm>], ready: &Ready) -> Vec<Event> {
        self.begun_at = ready.vms_seq;
        let named = vms.iter().map(|vm| (vm.zonename.clone(), Arc::clone(vm)));
        let old = std::mem::replace(&mut self.vms, named.collect());
        let unreadable = ready.unreadable.iter();
        let unreadable = unreadable.map(|vm| (vm.zonename.clone(), vm.clone()));
        self.unreadable = unreadable.collect();
        // A VM that can't be read has not gone, and is not known to have
        // changed.
        let is_nameless = self.unreadable.contains_key(&None);
        for (zonename, vm) in &old {
            let name = Some(zonename.clone());
            if is_nameless || self.unreadable.contains_key(&name) {
                let known = self.vms.entry(zonename.clone());
                known.or_insert_with(|| Arc::clone(vm));
            }
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            return Vec::new();
        }
        let gone = old.values().filter(|old| {
            let new = self.vms.get(&old.zonename);
            new.is_none_or(|new| new.uuid != old.uuid)
        });
        let gone = gone.map(|old| Event::Delete {
            before: Some(Arc::clone(old)),
            header: header_of(old, ready),
        });
        let there = self.vms.values().filter_map(|new| {
            let (vm, header) = (Arc::clone(new), header_of(new, ready));
            // Another VM may have the zonename now.
            let before = old.get(&new.zonename);
            let before = before.filter(|old| old.uuid == new.uuid).cloned();
            let Some(before) = before else {
                return Some(Event::Create { vm, header });
            };
            let changes = changes(&before, new);
            let before = Some(before);
            let event = Event::Modify { vm, changes, before, header };
            (!event.changes().is_empty()).then_some(event)
        });
        let missed = gone.chain(there);
        missed.filter_map(|event| self.query.narrow(event)).collect()
    }
}

/// The header of an event that must have happened before this line.
fn header_of(vm: &Vm, ready: &Ready) -> EventHeader {
    let detail = ready.reset.as_deref().unwrap_or("began again").to_string();
    let cause = Cause {
        source: "client".to_string(),
        detail,
        latency_us: None,
        other: Map::new(),
    };
    EventHeader {
        zonename: vm.zonename.clone(),
        uuid: vm.uuid.clone(),
        date: ready.date.clone(),
        seq: ready.seq,
        epoch: ready.epoch.clone(),
        cause: Some(cause),
        json: None,
    }
}

/// The members that differ, by their names.
fn changes(old: &Vm, new: &Vm) -> Vec<Change> {
    // Both were read before, so their members can be read.
    let (old, new) = (old.json().get(), new.json().get());
    let (old, new) = (Members::parse(old), Members::parse(new));
    let (Ok(Members(old)), Ok(Members(new))) = (old, new) else {
        return Vec::new();
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |name: &String| {
        let (old, new) = (old.get(name), new.get(name));
        Change::of_member(name, old.copied(), new.copied())
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::EventKind;
    use crate::event::Action;

    fn ready(vms: &str) -> Event {
        ready_line(&format!(r#""vms":{vms},"reset":"another epoch""#))
    }

    fn ready_line(members: &str) -> Event {
        let line = format!(
            r#"{{"type":"ready","date":"d","uuid":"s","seq":9,"epoch":"e",{members}}}"#
        );
        line.parse().unwrap()
    }

    /// What a mirror has concluded from a new beginning.
    fn missed(mirror: &mut Mirror, event: Event) -> Vec<Event> {
        let mut events = mirror.apply(event);
        assert!(matches!(events.remove(0), Event::Ready(_)));
        assert!(events.iter().all(|e| e.header().unwrap().json().is_none()));
        events
    }

    const FIRST: &str = r#"[{"zonename":"a","uuid":"1","quota":1},
        {"zonename":"b","uuid":"2"},{"zonename":"c","uuid":"3"},
        {"zonename":"e","uuid":"5"}]"#;
    const SECOND: &str = r#"[{"uuid":"1","zonename":"a","quota":2},
        {"zonename":"c","uuid":"4"},{"zonename":"d","uuid":"6"},
        {"uuid":"5","zonename":"e"}]"#;

    #[test]
    fn missed_events_are_made_from_two_snapshots() {
        let mut mirror = Mirror::default();
        assert!(missed(&mut mirror, ready(FIRST)).is_empty());
        assert!(missed(&mut mirror, ready_line("\"x\":1")).is_empty());
        let events = missed(&mut mirror, ready(SECOND));
        let found: Vec<_> = events
            .iter()
            .map(|event| {
                let header = event.header().unwrap();
                let kind = event.kind().unwrap();
                format!("{kind} {} {}", header.zonename, header.uuid)
            })
            .collect();
        let wanted = [
            "delete b 2",
            "delete c 3",
            "modify a 1",
            "create c 4",
            "create d 6",
        ];
        assert_eq!(found, wanted);
        let Event::Modify { vm, changes, before, header } = &events[2] else {
            panic!("{events:?}");
        };
        assert_eq!(header.seq, 9);
        assert_eq!(vm.quota, Some(2.0));
        assert_eq!(before.as_ref().unwrap().quota, Some(1.0));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].pretty_path, "quota");
        assert_eq!(changes[0].action, Action::Changed);
        assert_eq!(changes[0].new_value, Some(Value::from(2)));
        assert_eq!(mirror.vms().len(), 4);
    }

    #[test]
    fn a_mirror_makes_events_of_the_members_that_its_query_has_paths_of() {
        let query =
            EventsQuery::new().path("state,nics.*.ip").kind(EventKind::Modify);
        let mut mirror = Mirror::new(query);
        missed(&mut mirror, ready(FIRST));
        assert!(missed(&mut mirror, ready(SECOND)).is_empty());
        let third = r#"[{"zonename":"e","uuid":"5","state":"x","quota":1}]"#;
        let events = missed(&mut mirror, ready(third));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].changes().len(), 1);
        assert_eq!(events[0].changes()[0].pretty_path, "state");
        assert_eq!(events[0].changes()[0].action, Action::Added);
        let fourth = r#"[{"zonename":"e","uuid":"5","nics":[{}],"quota":1}]"#;
        let events = missed(&mut mirror, ready(fourth));
        let paths = events[0].changes().iter().map(|c| &*c.pretty_path);
        assert_eq!(paths.collect::<Vec<_>>(), ["nics", "state"]);
    }

    #[test]
    fn what_a_vm_was_before_is_known_only_after_the_first_snapshot() {
        let mut mirror = Mirror::default();
        // The stream goes on after event 7; its VMs are those of event 9.
        let Event::Ready(mut ready) = ready(FIRST) else { panic!() };
        (ready.seq, ready.is_resumed) = (7, true);
        mirror.apply(Event::Ready(ready));
        for (seq, is_known) in [(8, false), (9, false), (10, true)] {
            let line = format!(
                r#"{{"type":"modify","zonename":"a","seq":{seq},"vm":{{"zonename":"a"}}}}"#
            );
            let events = mirror.apply(line.parse().unwrap());
            assert_eq!(events[0].before().is_some(), is_known, "{seq}");
        }
    }

    #[test]
    fn an_unreadable_vm_is_not_reported_as_deleted() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let named = format!(r#"{{"zonename":"b","tags":{deep}}}"#);
        let nameless = format!(r#"{{"tags":{deep}}}"#);
        let first = r#"[{"zonename":"a"},{"zonename":"b"},{"zonename":"c"}]"#;
        let mut mirror = Mirror::default();
        mirror.apply(ready(first));
        let second = ready(&format!(r#"[{{"zonename":"a"}},{named}]"#));
        let events = missed(&mut mirror, second);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].header().unwrap().zonename, "c");
        assert_eq!(mirror.vms().len(), 2);
        // An unreadable VM without a zonename may be any of them.
        let third = ready(&format!("[{nameless}]"));
        assert!(missed(&mut mirror, third).is_empty());
        assert_eq!((mirror.vms().len(), mirror.unreadable().count()), (2, 1));
        // `a` becomes unreadable by an event; its next event can be read.
        let line = r#"{"type":"create","zonename":"a","vm":5}"#;
        mirror.apply(line.parse().unwrap());
        assert_eq!((mirror.vms().len(), mirror.unreadable().count()), (2, 2));
        let line = r#"{"type":"create","zonename":"a","vm":{"zonename":"a"}}"#;
        mirror.apply(line.parse().unwrap());
        assert_eq!(mirror.unreadable().count(), 1);
    }
}
