//! The cache: every VM as it is served, and the only place where VMs change.
//!
//! A change first compares what was loaded with what is stored. Then, in one
//! critical section, if what is stored is still what was compared, the change
//! is stored, numbered and published. A subscriber takes the same lock for its
//! snapshot, so that snapshot and events add up without gap or repeat. Work
//! that takes long for a large VM is done before or after the critical section.
//! Nothing in here blocks.

mod change;
mod table;
mod publisher;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::hub::{EventLine, Hub, Vm, VmVersion, Watch};
use crate::load::assemble::{Parts, assemble};
use crate::plan::DatasetIndex;
use crate::sync::Wake;
pub use publisher::Published;
use table::Table;
pub use table::Tally;

/// How many VMs that go during a full load are remembered. If more go,
/// everything is loaded once more.
const GONE_MAX: usize = 16_384;

/// A VM as it was loaded, ready to be stored.
#[derive(Clone, Debug)]
pub struct Prepared {
    parts: Arc<Parts>,
    vm: Vm,
}

impl Prepared {
    /// Makes the object and its JSON; `None` if the VM has no uuid yet, and
    /// can't be served.
    #[must_use]
    pub fn new(parts: Parts) -> Option<Self> {
        let vm = Vm::new(assemble(&parts)?);
        Some(Self { parts: Arc::new(parts), vm })
    }
}

/// What a load has found of a VM.
#[derive(Debug)]
pub enum Update {
    /// The VM is gone.
    Gone,
    /// The VM is as it was loaded.
    Vm(Prepared),
}

/// The result of a change.
#[derive(Debug)]
pub enum Applied {
    /// The VM was stored, and these events were published.
    Stored {
        /// The events.
        published: Vec<Published>,
        /// Whether the events include an end that was not reported.
        has_unreported_end: bool,
    },
    /// What is stored is no longer what the load began with: the load was
    /// dropped.
    Overtaken,
    /// This other zone is served with the same uuid: the load was dropped. If
    /// the VM was served with another uuid before, it is removed.
    Twin(Arc<str>, Vec<Published>),
}

/// Every VM.
#[derive(Debug)]
pub struct Cache {
    epoch: Arc<str>,
    hub: Arc<Hub>,
    inner: RwLock<Table>,
}

/// All VMs at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The VMs, in order.
    pub vms: Arc<[Vm]>,
    /// The number of the last event that the snapshot includes.
    pub seq: u64,
}

/// The position in the events from which a client resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The number of the last event that the client has received.
    pub seq: u64,
    /// The epoch of that event: the life of the daemon in which it was
    /// published.
    pub epoch: String,
}

/// A subscription to events.
#[derive(Debug)]
pub struct Subscription {
    /// The hub's number of the listener.
    pub id: u64,
    /// The number of the last event when the subscription began.
    pub seq: u64,
    /// How it begins.
    pub start: Start,
}

/// How a subscription begins.
#[derive(Debug)]
pub enum Start {
    /// With a snapshot of the cache before the first event.
    Snapshot(Snapshot),
    /// With the events that the client has missed.
    Resumed(Vec<Arc<EventLine>>),
    /// With a snapshot, because the events that the client has missed can't be
    /// sent.
    Reset(Snapshot, Reset),
}

/// Why a client that comes back has to begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The daemon has been restarted since.
    OtherEpoch,
    /// The events that it has missed are no longer kept.
    TooOld,
    /// It claims to have received an event that does not exist yet.
    NotYet,
}

impl Reset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OtherEpoch, Self::TooOld, Self::NotYet];

    /// The reason, as it is sent to the client.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::OtherEpoch => "another epoch",
            Self::TooOld => "too old",
            Self::NotYet => "not yet",
        }
    }
}

impl Cache {
    /// A cache without VMs, whose changes go to `hub`. The epoch distinguishes
    /// one life of the daemon from another.
    #[must_use]
    pub fn new(epoch: Arc<str>, hub: Arc<Hub>) -> Self {
        Self { epoch, hub, inner: RwLock::default() }
    }

    /// The epoch: which life of the daemon this is.
    #[must_use]
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The number of the last event.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.hub.seq()
    }

    /// Has events kept from now on: see [`Hub::silent`].
    pub fn speak(&self) {
        let _inner = self.inner.write();
        self.hub.speak();
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

    /// The zonename of the VM that `name` means: the VM with that zonename, or
    /// else the VM with that uuid.
    #[must_use]
    pub fn zonename_of(&self, name: &str) -> Option<Arc<str>> {
        let inner = self.inner.read();
        let own = inner.vms.get_key_value(name).map(|(zonename, _)| zonename);
        own.or_else(|| inner.zone_of.get(name)).cloned()
    }

    /// One VM, and the number of the last event.
    #[must_use]
    pub fn vm(&self, zonename: &str) -> (VmVersion, u64) {
        let inner = self.inner.read();
        let seq = self.hub.seq();
        (inner.version(zonename, seq), seq)
    }

    /// One VM, the number of the last event, and a watch that gets every later
    /// version of the VM.
    #[must_use]
    pub fn watch(
        &self,
        zonename: &Arc<str>,
        wake: Wake,
    ) -> (VmVersion, u64, Arc<Watch>) {
        let inner = self.inner.read();
        let watch = self.hub.watch(zonename, wake);
        let seq = self.hub.seq();
        (inner.version(zonename, seq), seq, watch)
    }

    /// All VMs.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner.read();
        Snapshot { vms: inner.listed(), seq: self.hub.seq() }
    }

    /// How many VMs there are, by state and brand, and the bytes of their JSON.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.inner.read().tally.clone()
    }

    /// Subscribes to events. The subscription begins with all VMs or, if the
    /// client comes back, with the events that it has missed. `None` if there
    /// are too many subscribers.
    #[must_use]
    pub fn subscribe(
        &self,
        uuid: Arc<str>,
        user_agent: Option<String>,
        since: Option<&Since>,
    ) -> Option<Subscription> {
        let inner = self.inner.read();
        let of_this_life = since.filter(|since| *since.epoch == *self.epoch);
        let since_seq = of_this_life.map(|since| since.seq);
        let begun = self.hub.subscribe(uuid, user_agent, since_seq)?;
        let (id, seq) = (begun.id, begun.seq);
        let snapshot = || Snapshot { vms: inner.listed(), seq };
        let start = match (since, since_seq, begun.missed) {
            (None, ..) => Start::Snapshot(snapshot()),
            (_, Some(_), Some(missed)) => Start::Resumed(missed),
            (_, None, _) => Start::Reset(snapshot(), Reset::OtherEpoch),
            (_, Some(had), None) if had > seq => {
                Start::Reset(snapshot(), Reset::NotYet)
            }
            (_, Some(_), None) => Start::Reset(snapshot(), Reset::TooOld),
        };
        Some(Subscription { id, seq, start })
    }

    /// Whether these are the parts of another VM than the stored one with the
    /// same zonename.
    #[must_use]
    pub fn is_another(&self, parts: &Parts) -> bool {
        let inner = self.inner.read();
        let stored = inner.vms.get(&parts.row.zonename);
        stored.is_some_and(|entry| entry.vm.parts.is_another_than(parts))
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

    /// Begins a full load; returns what is known of every VM. Until
    /// [`Cache::end_reload`], VMs that go are remembered, so that an older
    /// listing does not bring them back.
    #[must_use]
    pub fn begin_reload(&self) -> Vec<(Arc<str>, Arc<Parts>)> {
        self.inner.write().gone = Some(HashSet::new());
        self.all_parts()
    }

    /// Ends what [`Cache::begin_reload`] began; `false` if more VMs have gone
    /// than could be remembered.
    #[must_use]
    pub fn end_reload(&self) -> bool {
        let gone = self.inner.write().gone.take();
        gone.is_none_or(|gone| gone.len() < GONE_MAX)
    }

    /// Calls `look` with the datasets of VMs, and with a function that says
    /// whether there is a VM of a zonename.
    pub fn with_datasets<T>(
        &self,
        look: impl FnOnce(&DatasetIndex, &dyn Fn(&str) -> bool) -> T,
    ) -> T {
        let inner = self.inner.read();
        let is_vm = |zonename: &str| inner.vms.contains_key(zonename);
        look(&inner.datasets, &is_vm)
    }

    /// Makes the VM that is served from what a load has found. `base` is what
    /// the load knew of the VM. If nothing differs from it, the VM that is
    /// served already is shared, and no JSON is written again. `None` if the VM
    /// has no uuid yet.
    #[must_use]
    pub fn prepare(
        &self,
        zonename: &str,
        base: Option<&Arc<Parts>>,
        parts: Parts,
    ) -> Option<Prepared> {
        let parts = match base {
            Some(base) => parts.sharing(base),
            None => parts,
        };
        let is_same = base.is_some_and(|base| **base == parts);
        let served = base.filter(|_| is_same).and_then(|base| {
            let inner = self.inner.read();
            let entry = inner.vms.get(zonename)?;
            Arc::ptr_eq(&entry.vm.parts, base).then(|| entry.vm.vm.clone())
        });
        match served {
            Some(vm) => Some(Prepared { parts: Arc::new(parts), vm }),
            None => Prepared::new(parts),
        }
    }
}
