//! The VMs that a stream of events adds up to. Pure: it does no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::missed;
use super::{Event, EventKind, EventsQuery, Item, Ready, Unreadable};
use crate::vm::diff::{Change, diff};
use crate::vm::json::Json;

/// VMs by zonename, kept current by the items of a stream that begins with a
/// snapshot.
///
/// If the stream had to begin again, the mirror compares the new snapshot with
/// the VMs that it has, and makes events of the differences. So a caller that
/// follows what [`Mirror::apply`] returns misses no change, except one that was
/// undone before the stream began again.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    query: EventsQuery,
    vms: BTreeMap<Arc<str>, Json>,
    unreadable: BTreeMap<Option<Arc<str>>, Unreadable>,
    has_begun: bool,
}

impl Mirror {
    /// A mirror of a stream of these events. It has no VMs yet.
    #[must_use]
    pub fn new(query: EventsQuery) -> Self {
        Self { query, ..Self::default() }
    }

    /// The VMs, by zonename.
    #[must_use]
    pub fn vms(&self) -> &BTreeMap<Arc<str>, Json> {
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

    /// Takes in an item. Returns the events that it brings: the event itself,
    /// or what must have happened while the stream was broken.
    pub fn apply(&mut self, item: &Item) -> Vec<Event> {
        match item {
            Item::Broken(_) => Vec::new(),
            Item::Unreadable(vm) => {
                self.unreadable.insert(vm.zonename.clone(), vm.clone());
                Vec::new()
            }
            Item::Event(event) => {
                let zonename = Arc::clone(&event.zonename);
                self.unreadable.remove(&Some(Arc::clone(&zonename)));
                match event.vm() {
                    Some(vm) => self.vms.insert(zonename, vm.clone()),
                    None => self.vms.remove(&zonename),
                };
                vec![event.clone()]
            }
            Item::Ready(ready) => match &ready.vms {
                None => Vec::new(),
                Some(vms) => self.begin(vms, ready),
            },
        }
    }

    fn begin(&mut self, vms: &[Json], ready: &Ready) -> Vec<Event> {
        let named = vms.iter().filter_map(|vm| {
            let zonename = vm.get("zonename").and_then(Json::as_str)?;
            Some((Arc::from(zonename), vm.clone()))
        });
        let before = std::mem::replace(&mut self.vms, named.collect());
        let unreadable = ready.unreadable.iter();
        let unreadable = unreadable.map(|vm| (vm.zonename.clone(), vm.clone()));
        self.unreadable = unreadable.collect();
        // A VM that can't be read has not gone, and is not known to have
        // changed.
        let is_nameless = self.unreadable.contains_key(&None);
        for (zonename, vm) in &before {
            let name = Some(Arc::clone(zonename));
            if is_nameless || self.unreadable.contains_key(&name) {
                self.vms.entry(Arc::clone(zonename)).or_insert(vm.clone());
            }
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            return Vec::new();
        }
        let mut events = Vec::new();
        let mut tell = |kind, zonename: &str, vm: &Json, changes| {
            let event = missed(kind, zonename, vm, changes, ready);
            events.extend(self.query.narrow(event));
        };
        for (zonename, old) in &before {
            let new = self.vms.get(zonename);
            if new.is_none_or(|new| is_another(old, new)) {
                tell(EventKind::Delete, zonename, old, None);
            }
        }
        for (zonename, new) in &self.vms {
            let old = before.get(zonename);
            let Some(old) = old.filter(|old| !is_another(old, new)) else {
                tell(EventKind::Create, zonename, new, None);
                continue;
            };
            let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else {
                continue;
            };
            let changes = diff(a, b);
            if !changes.is_empty() {
                let changes = changes.iter().map(Change::to_json).collect();
                tell(EventKind::Modify, zonename, new, Some(changes));
            }
        }
        events
    }
}

/// Whether `new` is another VM than `old`, under the same zonename.
fn is_another(old: &Json, new: &Json) -> bool {
    old.get("uuid") != new.get("uuid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(vms: Option<&str>) -> Item {
        Item::Ready(ready_of(vms))
    }

    fn ready_of(vms: Option<&str>) -> Ready {
        let vms = vms
            .map(|vms| Json::parse(vms).unwrap().as_array().unwrap().to_vec());
        Ready {
            date: "d".to_string(),
            uuid: "s".to_string(),
            seq: 9,
            epoch: "e".to_string(),
            vms,
            unreadable: Vec::new(),
            is_resumed: false,
            reset: Some("another epoch".to_string()),
        }
    }

    #[test]
    fn missed_events_are_made_from_two_snapshots() {
        let mut mirror = Mirror::default();
        let first = r#"[{"zonename":"a","uuid":"1","quota":1},
            {"zonename":"b","uuid":"2"},{"zonename":"c","uuid":"3"},
            {"zonename":"e","uuid":"5"}]"#;
        assert!(mirror.apply(&ready(Some(first))).is_empty());
        assert!(mirror.apply(&ready(None)).is_empty());
        let second = r#"[{"zonename":"a","uuid":"1","quota":2},
            {"zonename":"c","uuid":"4"},{"zonename":"d","uuid":"6"},
            {"zonename":"e","uuid":"5"}]"#;
        let missed = mirror.apply(&ready(Some(second)));
        let found: Vec<_> = missed
            .iter()
            .map(|e| format!("{} {} {}", e.kind, e.zonename, e.uuid()))
            .collect();
        let wanted = [
            "delete b 2",
            "delete c 3",
            "modify a 1",
            "create c 4",
            "create d 6",
        ];
        assert_eq!(found, wanted);
        let quota = &missed[2].changes()[0];
        assert_eq!(quota.get("newValue"), Some(&Json::from(2u32)));
        assert_eq!(missed[2].seq, 9);
        assert_eq!(mirror.vms().len(), 4);

        // A change that the query does not ask for makes no event.
        let query = EventsQuery::new().path("state").kind(EventKind::Modify);
        let mut mirror = Mirror::new(query);
        mirror.apply(&ready(Some(first)));
        assert!(mirror.apply(&ready(Some(second))).is_empty());
        let third = r#"[{"zonename":"e","uuid":"5","state":"x","quota":1}]"#;
        let missed = mirror.apply(&ready(Some(third)));
        assert_eq!(missed.len(), 1);
        let path = missed[0].changes()[0].get("prettyPath");
        assert_eq!(path, Some(&Json::from("state")));
        assert_eq!(missed[0].changes().len(), 1);
    }

    #[test]
    fn an_unreadable_vm_is_not_reported_as_deleted() {
        let unreadable = |zonename: Option<&str>| Unreadable {
            zonename: zonename.map(Arc::from),
            why: "deep".to_string(),
        };
        let first = r#"[{"zonename":"a"},{"zonename":"b"},{"zonename":"c"}]"#;
        let mut mirror = Mirror::default();
        mirror.apply(&ready(Some(first)));
        let mut second = ready_of(Some(r#"[{"zonename":"a"}]"#));
        second.unreadable = vec![unreadable(Some("b"))];
        let events = mirror.apply(&Item::Ready(second.clone()));
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(&*events[0].zonename, "c");
        assert_eq!(mirror.vms().len(), 2);
        // An unreadable VM without a zonename may be any of them.
        second.unreadable = vec![unreadable(None)];
        second.vms = Some(Vec::new());
        assert!(mirror.apply(&Item::Ready(second)).is_empty());
        assert_eq!((mirror.vms().len(), mirror.unreadable().count()), (2, 1));
        // `a` becomes unreadable by an event; its next event can be read.
        mirror.apply(&Item::Unreadable(unreadable(Some("a"))));
        assert_eq!((mirror.vms().len(), mirror.unreadable().count()), (2, 2));
        let event = missed(
            EventKind::Modify,
            "a",
            &mirror.vms()["a"].clone(),
            None,
            &Ready { seq: 10, ..ready_of(None) },
        );
        mirror.apply(&Item::Event(event));
        assert_eq!(mirror.unreadable().count(), 1);
    }
}
