//! The picture: every VM as it is served, and the one place where it changes.
//!
//! To change a VM is one critical section: compare, store, number, publish. A
//! subscriber takes the same lock for its snapshot, so that snapshot and
//! events add up without gap or repeat. Nothing in here blocks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::diff::{Change, diff, pretty_path};
use crate::event::{Cause, GONE, Transition};
use crate::hub::{Cursor, Hub};
use crate::json::{Json, Object, write_string};
use crate::load::assemble::{
    Parts, assemble, uninstalled, volume_of_path, with_zone_state,
};
use crate::load::zoneadm::ZoneRow;
use crate::plan::DatasetIndex;
use crate::translate::iso_date;

/// VMs that may go while everything is loaded. If it is more, everything is
/// loaded once more.
const GONE_MAX: usize = 16_384;

/// The most paths of a change that are told to the daemon itself.
const LOGGED_PATHS: usize = 20;

/// A VM as it was loaded, ready to be stored.
#[derive(Debug)]
pub struct Prepared {
    parts: Arc<Parts>,
    object: Arc<Object>,
    json: Arc<[u8]>,
}

impl Prepared {
    /// Makes the object and its JSON; `None` if the VM has no uuid yet, and
    /// can't be served.
    #[must_use]
    pub fn new(parts: Parts) -> Option<Self> {
        let object = Arc::new(assemble(&parts)?);
        let json = json_of(&object);
        Some(Self { parts: Arc::new(parts), object, json })
    }
}

/// What a load has found of a VM.
#[derive(Debug)]
pub enum Update {
    /// It is gone.
    Gone,
    /// It is this.
    Vm(Prepared),
}

/// What a change did.
#[derive(Debug)]
pub enum Applied {
    /// It was stored, and these events published.
    Stored(Vec<Published>),
    /// What is stored is no longer what the load began with: it was dropped.
    Overtaken,
    /// Its uuid is that of this other zone, which is served: it was dropped.
    Twin(Arc<str>),
}

/// An event that was published.
#[derive(Debug)]
pub struct Published {
    /// `create`, `modify` or `delete`.
    pub kind: &'static str,
    /// Of a `modify`, the first paths that have changed.
    pub paths: Vec<String>,
    /// How many more have.
    pub more: usize,
}

impl Published {
    /// A VM's end.
    #[must_use]
    pub fn deleted() -> Self {
        Self { kind: "delete", paths: Vec::new(), more: 0 }
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        for path in &self.paths {
            write!(f, " {path}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, " … ({more} more)"),
        }
    }
}

/// Every VM.
#[derive(Debug)]
pub struct Cache {
    epoch: Arc<str>,
    hub: Arc<Hub>,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    vms: HashMap<Arc<str>, Entry>,
    /// The order in which VMs are listed.
    order: BTreeMap<u64, Arc<str>>,
    last_place: u64,
    datasets: DatasetIndex,
    /// By uuid, the zone that is served.
    zone_of: HashMap<Arc<str>, Arc<str>>,
    /// While everything is loaded: who was found gone meanwhile.
    gone: Option<HashSet<Arc<str>>>,
}

#[derive(Debug)]
struct Entry {
    place: u64,
    vm: Prepared,
}

/// All VMs at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The JSON of each, in order.
    pub vms: Vec<Arc<[u8]>>,
    /// The number of the last event that is in it.
    pub seq: u64,
}

/// A subscription to what comes after a snapshot.
#[derive(Debug)]
pub struct Subscription {
    /// The hub's number of the listener.
    pub id: u64,
    /// Its place in the list of events.
    pub cursor: Cursor,
    /// The picture before the first event.
    pub snapshot: Snapshot,
}

impl Cache {
    /// A picture without VMs, whose changes go to `hub`. The epoch tells one
    /// life of the daemon from another.
    #[must_use]
    pub fn new(epoch: Arc<str>, hub: Arc<Hub>) -> Self {
        Self { epoch, hub, inner: RwLock::default() }
    }

    /// The daemon's life.
    #[must_use]
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The number of the last event.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.hub.seq()
    }

    /// How many VMs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().vms.len()
    }

    /// Whether there are no VMs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a VM of this name.
    #[must_use]
    pub fn contains(&self, zonename: &str) -> bool {
        self.inner.read().vms.contains_key(zonename)
    }

    /// The JSON of one VM.
    #[must_use]
    pub fn vm(&self, zonename: &str) -> Option<Arc<[u8]>> {
        let inner = self.inner.read();
        inner.vms.get(zonename).map(|entry| Arc::clone(&entry.vm.json))
    }

    /// All VMs.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner.read();
        Snapshot { vms: inner.listed(), seq: self.hub.seq() }
    }

    /// All VMs, and a place in the events from there on; `None` if there are
    /// too many subscribers.
    #[must_use]
    pub fn subscribe(
        &self,
        uuid: Arc<str>,
        user_agent: Option<String>,
    ) -> Option<Subscription> {
        let inner = self.inner.read();
        let (id, cursor) = self.hub.subscribe(uuid, user_agent)?;
        let snapshot = Snapshot { vms: inner.listed(), seq: cursor.seq };
        Some(Subscription { id, cursor, snapshot })
    }

    /// Whether the zone of this line is another than the VM of its name.
    #[must_use]
    pub fn is_another(&self, row: &ZoneRow) -> bool {
        let inner = self.inner.read();
        let stored = inner.vms.get(&row.zonename);
        stored.is_some_and(|entry| entry.is_another(row))
    }

    /// What is known of a VM.
    #[must_use]
    pub fn parts(&self, zonename: &str) -> Option<Arc<Parts>> {
        let inner = self.inner.read();
        inner.vms.get(zonename).map(|entry| Arc::clone(&entry.vm.parts))
    }

    /// What is known of every VM, in order.
    #[must_use]
    pub fn all_parts(&self) -> Vec<(Arc<str>, Arc<Parts>)> {
        let inner = self.inner.read();
        let listed = inner.order.values();
        listed
            .filter_map(|zonename| {
                let entry = inner.vms.get(zonename)?;
                Some((Arc::clone(zonename), Arc::clone(&entry.vm.parts)))
            })
            .collect()
    }

    /// Begins to load everything: what is known of every VM. Until
    /// [`Cache::end_reload`], who goes is remembered, so that a listing of
    /// before does not bring him back.
    #[must_use]
    pub fn begin_reload(&self) -> Vec<(Arc<str>, Arc<Parts>)> {
        self.inner.write().gone = Some(HashSet::new());
        self.all_parts()
    }

    /// Ends what [`Cache::begin_reload`] began; `false` if more have gone than
    /// could be remembered.
    #[must_use]
    pub fn end_reload(&self) -> bool {
        let gone = self.inner.write().gone.take();
        gone.is_none_or(|gone| gone.len() < GONE_MAX)
    }

    /// Looks at the datasets of VMs, and at which VMs there are.
    pub fn look<T>(
        &self,
        look: impl FnOnce(&DatasetIndex, &dyn Fn(&str) -> bool) -> T,
    ) -> T {
        let inner = self.inner.read();
        let is_vm = |zonename: &str| inner.vms.contains_key(zonename);
        look(&inner.datasets, &is_vm)
    }

    /// Stores what a load has found of a VM that it knew as `base`, and
    /// publishes what that changes. `transitions` is given the state that is
    /// stored, and gives those that the zone was reported to enter since:
    /// each is published, even if it is over. It is not asked if the load was
    /// overtaken.
    pub fn apply(
        &self,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: Update,
        transitions: impl FnOnce(Option<&str>) -> Vec<Transition>,
        cause: &Cause,
    ) -> Applied {
        let mut inner = self.inner.write();
        if inner.is_overtaken(zonename, base, &update) {
            return Applied::Overtaken;
        }
        if let Some(twin) = inner.twin(zonename, &update) {
            return Applied::Twin(twin);
        }
        let stored = inner.vms.get(zonename);
        let before = stored.map(|entry| Arc::clone(&entry.vm.object));
        let state = before.as_ref().and_then(|vm| vm.get_str("zone_state"));
        let reported = transitions(state);
        let mut publisher = Publisher::new(self, zonename, cause, before);
        // Each end is that of one zone, and what follows is another's.
        let mut lives: Vec<_> =
            reported.split(|t| t.zone_state == GONE).collect();
        let last = lives.pop().unwrap_or_default();
        let (mut ended, mut now) = (lives, last);
        match &update {
            Update::Gone => ended.push(std::mem::take(&mut now)),
            Update::Vm(vm) => {
                let is_another =
                    stored.is_some_and(|e| e.is_another(&vm.parts.row));
                if is_another && ended.is_empty() {
                    ended.push(&[]);
                }
            }
        }
        let mut entry = None;
        if !ended.is_empty() {
            entry = inner.remove(zonename);
        }
        let found = match &update {
            Update::Gone => None,
            Update::Vm(vm) => Some(vm),
        };
        for life in ended {
            // Of a zone that was over before it could be loaded no more is
            // known than of the one after it.
            let entry = entry.take();
            let vm = entry.as_ref().map(|entry| &entry.vm).or(found);
            if let Some(vm) = vm {
                publisher.delete(life, vm);
            }
        }
        if let (Update::Gone, Some(gone)) = (&update, &mut inner.gone)
            && gone.len() < GONE_MAX
        {
            gone.insert(Arc::clone(zonename));
        }
        if let Update::Vm(vm) = update {
            publisher.load(now, &vm);
            inner.store(zonename, vm);
        }
        Applied::Stored(publisher.published)
    }
}

impl Inner {
    /// Whether another load was quicker than one that knew a VM as `base`: it
    /// may have begun before that, and what it did not read is of before it.
    fn is_overtaken(
        &mut self,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: &Update,
    ) -> bool {
        match (self.vms.get(zonename), base) {
            (Some(entry), Some(base)) => !Arc::ptr_eq(&entry.vm.parts, base),
            (None, None) => match (&mut self.gone, update) {
                // Once: then the VM is looked at by itself.
                (Some(gone), Update::Vm(_)) => gone.remove(zonename),
                _ => false,
            },
            _ => true,
        }
    }

    /// The other zone that is served with the uuid of this one.
    fn twin(&self, zonename: &str, update: &Update) -> Option<Arc<str>> {
        let Update::Vm(vm) = update else { return None };
        let served = self.zone_of.get(vm.parts.row.uuid.as_ref()?)?;
        (**served != *zonename).then(|| Arc::clone(served))
    }

    fn listed(&self) -> Vec<Arc<[u8]>> {
        self.order
            .values()
            .filter_map(|zonename| self.vms.get(zonename))
            .map(|entry| Arc::clone(&entry.vm.json))
            .collect()
    }

    fn store(&mut self, zonename: &Arc<str>, vm: Prepared) {
        let old = self.vms.get(zonename);
        let place = old.map_or(self.last_place + 1, |entry| entry.place);
        let names = dataset_names(&vm.parts);
        let old_names = old.map(|e| dataset_names(&e.vm.parts));
        if old_names.as_ref() != Some(&names) {
            for name in old_names.iter().flatten() {
                self.datasets.remove(name, zonename);
            }
            for name in &names {
                self.datasets.insert(name, zonename);
            }
        }
        if let Some(old) = self.vms.get(zonename).and_then(Entry::uuid) {
            self.zone_of.remove(&old);
        }
        if let Some(uuid) = vm.parts.row.uuid.clone() {
            self.zone_of.insert(uuid, Arc::clone(zonename));
        }
        self.last_place = self.last_place.max(place);
        self.order.insert(place, Arc::clone(zonename));
        let entry = Entry { place, vm };
        self.vms.insert(Arc::clone(zonename), entry);
    }

    fn remove(&mut self, zonename: &str) -> Option<Entry> {
        let entry = self.vms.remove(zonename)?;
        self.order.remove(&entry.place);
        if let Some(uuid) = entry.uuid() {
            self.zone_of.remove(&uuid);
        }
        for name in dataset_names(&entry.vm.parts) {
            self.datasets.remove(&name, zonename);
        }
        Some(entry)
    }
}

/// The datasets whose changes concern a VM.
fn dataset_names(parts: &Parts) -> Vec<Arc<str>> {
    let own: Arc<str> = parts.row.zonepath.trim_start_matches('/').into();
    let volumes = parts.xml.disk_paths.iter().filter_map(|p| volume_of_path(p));
    let mut names: Vec<Arc<str>> = std::iter::once(own)
        .chain(parts.datasets.root.iter().map(|d| Arc::clone(&d.name)))
        .chain(parts.datasets.delegated.iter().map(|d| Arc::clone(&d.name)))
        .chain(parts.xml.datasets.iter().cloned())
        .chain(volumes.map(Arc::from))
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Entry {
    fn uuid(&self) -> Option<Arc<str>> {
        self.vm.parts.row.uuid.clone()
    }

    /// Whether a zone is another one of the same name: this one has been
    /// deleted, and that one made, between two looks.
    fn is_another(&self, new: &ZoneRow) -> bool {
        let old = &self.vm.parts.row;
        let differ = |a: &Json, b: &Json| match (a.as_f64(), b.as_f64()) {
            // zoneadm prints nothing where there is no id: that reads as 0.
            (Some(a), Some(b)) => a != b && a != 0.0 && b != 0.0,
            _ => false,
        };
        differ(&old.zonedid, &new.zonedid)
            || (old.uuid_is_set && new.uuid_is_set && old.uuid != new.uuid)
    }
}

fn json_of(object: &Arc<Object>) -> Arc<[u8]> {
    // The common size of a VM, to begin with.
    let mut out = Vec::with_capacity(4096);
    Json::Object(Arc::clone(object)).write(&mut out);
    out.into()
}

/// Publishes the events of one change.
struct Publisher<'a> {
    cache: &'a Cache,
    zonename: &'a Arc<str>,
    cause: &'a Cause,
    /// What subscribers know the VM as.
    now: Option<Arc<Object>>,
    published: Vec<Published>,
}

impl<'a> Publisher<'a> {
    fn new(
        cache: &'a Cache,
        zonename: &'a Arc<str>,
        cause: &'a Cause,
        now: Option<Arc<Object>>,
    ) -> Self {
        Self { cache, zonename, cause, now, published: Vec::new() }
    }

    /// By way of every state that was reported, to what was loaded.
    fn load(&mut self, reported: &[Transition], vm: &Prepared) {
        let mut steps = reported;
        // The last is what was loaded.
        if let [rest @ .., end] = steps
            && *end.zone_state == *vm.parts.row.zone_state
        {
            steps = rest;
        }
        self.pass_all(steps, vm);
        self.step(&vm.object, &vm.json);
    }

    /// By way of every state that was reported, to the VM's end. One that
    /// nobody has heard of before, and of which nothing was reported, is none.
    fn delete(&mut self, reported: &[Transition], vm: &Prepared) {
        self.pass_all(reported, vm);
        if self.now.is_none() {
            return;
        }
        // A zone can be deleted only from this state. Who deletes a VM waits
        // for it, and for the datasets to go, which may be faster than a load.
        if let Some(last) = uninstalled(&vm.parts).map(Arc::new) {
            let json = json_of(&last);
            self.step(&last, &json);
        }
        if let Some(object) = self.now.take() {
            self.publish("delete", &object, None, None);
        }
    }

    fn pass_all(&mut self, reported: &[Transition], vm: &Prepared) {
        for step in reported {
            let base = self.now.as_ref().unwrap_or(&vm.object);
            let next = with_zone_state(base, step.zone_state, step.zoneid);
            self.pass(step, next);
        }
    }

    /// Publishes a state that is over, unless subscribers know it.
    fn pass(&mut self, step: &Transition, next: Object) {
        let now = self.now.as_ref().and_then(|vm| vm.get_str("zone_state"));
        if now != Some(step.zone_state) {
            let next = Arc::new(next);
            let json = json_of(&next);
            self.step(&next, &json);
        }
    }

    fn step(&mut self, to: &Arc<Object>, json: &[u8]) {
        let from = self.now.replace(Arc::clone(to));
        let Some(from) = from else {
            self.publish("create", to, Some(json), None);
            return;
        };
        let changes = diff(&from, to);
        if !changes.is_empty() {
            self.publish("modify", to, Some(json), Some(&changes));
        }
    }

    fn publish(
        &mut self,
        kind: &'static str,
        object: &Object,
        vm: Option<&[u8]>,
        changes: Option<&[Change]>,
    ) {
        let uuid = object.get_str("uuid").unwrap_or_default();
        self.cache.hub.publish(|seq| {
            let mut out = Vec::with_capacity(512 + vm.map_or(0, <[u8]>::len));
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"date\":");
            write_date(SystemTime::now(), &mut out);
            out.extend_from_slice(b",\"zonename\":");
            write_string(self.zonename, &mut out);
            out.extend_from_slice(b",\"uuid\":");
            write_string(uuid, &mut out);
            if let Some(vm) = vm {
                out.extend_from_slice(b",\"vm\":");
                out.extend_from_slice(vm);
            }
            if let Some(changes) = changes {
                let list: Vec<_> =
                    changes.iter().map(Change::to_json).collect();
                out.extend_from_slice(b",\"changes\":");
                Json::from(list).write(&mut out);
            }
            out.extend_from_slice(
                format!(",\"seq\":{seq},\"epoch\":").as_bytes(),
            );
            write_string(&self.cache.epoch, &mut out);
            out.extend_from_slice(b",\"cause\":");
            write_cause(self.cause, &mut out);
            out.extend_from_slice(b"}\n");
            out
        });
        let changes = changes.unwrap_or_default();
        let first = changes.iter().take(LOGGED_PATHS);
        let paths = first.map(|c| pretty_path(&c.path)).collect();
        let more = changes.len().saturating_sub(LOGGED_PATHS);
        self.published.push(Published { kind, paths, more });
    }
}

fn write_cause(cause: &Cause, out: &mut Vec<u8>) {
    let latency = cause.at.elapsed().as_micros();
    out.extend_from_slice(b"{\"source\":");
    write_string(cause.source, out);
    out.extend_from_slice(b",\"detail\":");
    write_string(&cause.detail, out);
    out.extend_from_slice(b",\"seen\":");
    write_date(cause.date, out);
    out.extend_from_slice(format!(",\"latency_us\":{latency}}}").as_bytes());
}

fn write_date(date: SystemTime, out: &mut Vec<u8>) {
    write_string(&date_text(date), out);
}

/// A point in time as ISO 8601, UTC, with milliseconds.
#[must_use]
pub fn date_text(date: SystemTime) -> String {
    let since = date.duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(0));
    iso_date(ms).unwrap_or_default()
}
