//! Plans what must be loaded because of an event. Pure.
//!
//! What an event says is never taken as true: it names a VM, and the VM is
//! looked at. The one exception is a zone's transition, which must be published
//! even if the zone has left that state by then.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use crate::config::is_zonename;
use crate::event::{
    Cause, DatasetChange, GONE, Job, Lane, Plan, SourceEvent, TimedEvent,
    Transition, Trigger, ZoneChange,
};
use crate::source::{EventSource, Source, Sources};

/// Which VM each dataset belongs to; by mistake it may be several.
#[derive(Clone, Debug, Default)]
pub struct DatasetIndex {
    /// By dataset and zonename, whether the zone's XML delegates the dataset to
    /// the zone. Few datasets belong to several zones.
    owners: BTreeMap<(Arc<str>, Arc<str>), bool>,
}

impl DatasetIndex {
    /// Notes that `dataset` belongs to the VM `zonename`, and whether it is
    /// delegated to it.
    pub fn insert(
        &mut self,
        dataset: &Arc<str>,
        zonename: &Arc<str>,
        is_delegated: bool,
    ) {
        let key = (Arc::clone(dataset), Arc::clone(zonename));
        self.owners.insert(key, is_delegated);
    }

    /// Forgets that `dataset` belongs to the VM `zonename`.
    pub fn remove(&mut self, dataset: &Arc<str>, zonename: &Arc<str>) {
        self.owners.remove(&(Arc::clone(dataset), Arc::clone(zonename)));
    }

    fn entries(
        &self,
        dataset: &str,
    ) -> impl Iterator<Item = (&Arc<str>, bool)> {
        let own = self.range_from(dataset);
        let own = own.take_while(move |((name, _), _)| **name == *dataset);
        own.map(|((_, zonename), is_delegated)| (zonename, *is_delegated))
    }

    fn owners(&self, dataset: &str) -> impl Iterator<Item = &Arc<str>> {
        self.entries(dataset).map(|(zonename, _)| zonename)
    }

    /// The owners of the datasets below a dataset.
    fn owners_below(&self, dataset: &str) -> impl Iterator<Item = &Arc<str>> {
        let prefix = format!("{dataset}/");
        let below = self.range_from(&prefix);
        let below = below.take_while(move |((n, _), _)| n.starts_with(&prefix));
        below.map(|((_, zonename), _)| zonename)
    }

    fn range_from(
        &self,
        dataset: &str,
    ) -> btree_map::Range<'_, (Arc<str>, Arc<str>), bool> {
        self.owners.range((dataset.into(), "".into())..)
    }

    fn contains(&self, dataset: &str) -> bool {
        self.owners(dataset).next().is_some()
    }

    /// The zones to which a dataset, or one above it, is delegated. What is
    /// done there may be done by a tenant.
    fn tenants(&self, dataset: &str) -> Vec<Arc<str>> {
        let above = dataset.match_indices('/').map(|(at, _)| &dataset[..at]);
        let all = above.chain([dataset]).flat_map(|name| self.entries(name));
        let tenants = all.filter(|(_, is_delegated)| *is_delegated);
        tenants.map(|(zonename, _)| Arc::clone(zonename)).collect()
    }

    /// The VMs that a change of `dataset` concerns: its owners, or those of its
    /// parent if it is new there (`ZONE/data`, `ZONE/disk1`), and the owners of
    /// all below it.
    fn concerned(&self, dataset: &str) -> Vec<Arc<str>> {
        let mut found: Vec<_> = self.owners(dataset).cloned().collect();
        if let Some((parent, _)) = dataset.rsplit_once('/')
            && found.is_empty()
        {
            // Datasets below a delegated one are the zone's own business.
            let own = self.entries(parent).filter(|(_, delegated)| !delegated);
            found.extend(own.map(|(zonename, _)| Arc::clone(zonename)));
        }
        for zonename in self.owners_below(dataset) {
            if !found.contains(zonename) {
                found.push(Arc::clone(zonename));
            }
        }
        found
    }
}

/// What the planner knows of VMs.
pub trait Known {
    /// The datasets of VMs.
    fn datasets(&self) -> &DatasetIndex;

    /// Whether there is, or may be about to be, a VM of this name.
    fn is_vm(&self, zonename: &str) -> bool;

    /// Zones that are being loaded and are no VMs yet. Their datasets are not
    /// known, and may have been listed already.
    fn zones_being_loaded(&self) -> Vec<Arc<str>>;

    /// Whether everything is being loaded.
    fn is_reloading(&self) -> bool;
}

/// What must be done because of an event.
#[must_use]
pub fn plan(seen: &TimedEvent, known: &impl Known) -> Plan {
    let cause = |trigger: Trigger, detail: String| Cause {
        trigger,
        detail: detail.into(),
        date: seen.date,
        at: seen.at,
    };
    let job = |lane: Lane, sources: Sources, cause: &Cause| {
        Job::new(lane, sources, cause.clone())
    };
    match &seen.event {
        SourceEvent::Zone(change) => {
            let detail =
                format!("{:?} -> {:?}", change.oldstate, change.newstate);
            let cause = cause(EventSource::Zone.into(), detail);
            let zonename = &change.zonename;
            let lane = Lane::Vm(Arc::clone(zonename));
            let transition = transition(change);
            Plan {
                jobs: vec![job(lane, sources_of_state(change), &cause)],
                transition: transition.map(|t| (Arc::clone(zonename), t)),
            }
        }
        SourceEvent::Vm(change) => {
            let cause = cause(change.source.into(), change.what.to_string());
            let lane = Lane::Vm(Arc::clone(&change.zonename));
            let jobs = vec![job(lane, change.sources, &cause)];
            Plan { jobs, transition: None }
        }
        SourceEvent::Dataset(change) => {
            let DatasetChange { dataset, operation, detail } = change;
            let detail = format!("{operation} {dataset} {detail}");
            let cause =
                cause(EventSource::Zfs.into(), detail.trim_end().to_string());
            let jobs = jobs_of_dataset(change, known, &cause);
            Plan { jobs, transition: None }
        }
        SourceEvent::File(change) => {
            let cause =
                cause(EventSource::File.into(), change.file.name().to_string());
            let lane = match (&change.zonename, change.file) {
                (Some(zonename), _) => Lane::Vm(Arc::clone(zonename)),
                (None, Source::Index) => Lane::Index,
                (None, _) => Lane::Sysinfo,
            };
            let sources = Sources::of(change.file);
            let jobs = vec![job(lane, sources, &cause)];
            Plan { jobs, transition: None }
        }
        SourceEvent::Ready(source) => {
            let detail = format!("{} events begin", source.name());
            let cause = cause(Trigger::Refresh, detail);
            let jobs = vec![job(Lane::All, Sources::ALL, &cause)];
            Plan { jobs, transition: None }
        }
    }
}

/// The jobs that a change of a dataset needs.
fn jobs_of_dataset(
    change: &DatasetChange,
    known: &impl Known,
    cause: &Cause,
) -> Vec<Job> {
    let sources = sources_of_operation(change);
    let concerned = concerned_by(change, known).into_iter();
    let mut jobs: Vec<_> = concerned
        .map(|name| Job::new(Lane::Vm(name), sources, cause.clone()))
        .collect();
    let is_reloaded = replaces_configuration(change)
        || (is_above_vms(change, known) && known.is_reloading());
    if is_reloaded {
        jobs.push(Job::new(Lane::All, Sources::ALL, cause.clone()));
    }
    jobs
}

/// What to read of a zone that enters a state. Zones that are configured or
/// installed get and lose files. Of zones in the kernel, only what the kernel
/// says changes.
fn sources_of_state(change: &ZoneChange) -> Sources {
    match change.newstate.as_str() {
        "configured" | "incomplete" | "installed" => Sources::ALL,
        _ => Sources::STATE,
    }
}

/// The transition to a state that zoneadm shows, if the event names one.
/// Repeated names stand for finer states of the kernel, which zoneadm may show
/// under another name.
fn transition(change: &ZoneChange) -> Option<Transition> {
    let zone_state = match change.newstate.as_str() {
        state if state == change.oldstate => return None,
        GONE => GONE,
        "configured" => "configured",
        "incomplete" => "incomplete",
        "installed" => "installed",
        "ready" => "ready",
        "running" => "running",
        "shutting_down" => "shutting_down",
        _ => return None,
    };
    let zoneid = Some(change.zoneid).filter(|id| *id > 0);
    let is_first = change.oldstate.is_empty();
    let when = change.when;
    Some(Transition { zone_state, zoneid, is_first, when, lost: 0 })
}

/// What to read after an operation. All but those listed here may replace the
/// files of a mounted dataset without a file event.
fn sources_of_operation(change: &DatasetChange) -> Sources {
    match change.operation.as_str() {
        "set" | "inherit" | "snapshot" | "hold" | "release" | "create"
        | "promote" | "defer_destroy" | "bookmark" | "remove bookmark" => {
            Sources::ZFS
        }
        // Destroying a snapshot leaves its dataset alone.
        "destroy" if change.dataset.contains('@') => Sources::ZFS,
        _ => Sources::ZFS | Sources::FILES,
    }
}

/// Whether the contents of the dataset that holds /etc/zones (`POOL/config`)
/// are replaced: then the index and all XMLs are different, and no file event
/// says so.
fn replaces_configuration(change: &DatasetChange) -> bool {
    let dataset = visible_dataset(&change.dataset);
    let name = dataset.split_once('/').map(|(_, name)| name);
    name == Some("config")
        && sources_of_operation(change).contains(Sources::FILES)
}

/// The VMs that a change of a dataset concerns. What a tenant does in a
/// delegated dataset concerns only the tenant's zone. A snapshot concerns only
/// the owners of its dataset.
fn concerned_by(change: &DatasetChange, known: &impl Known) -> Vec<Arc<str>> {
    let index = known.datasets();
    let tenants = index.tenants(visible_dataset(&change.dataset));
    let other = match change.operation.as_str() {
        "rename" => change.detail.strip_prefix("-> "),
        // It may be mounted at a zonepath now.
        "set" | "inherit" => change.detail.strip_prefix("mountpoint=/"),
        // Snapshots move between this dataset and another that is not named.
        "promote" if tenants.is_empty() => change.dataset.split('/').next(),
        _ => None,
    };
    let mut found: Vec<Arc<str>> = Vec::new();
    for name in [Some(change.dataset.as_str()), other].into_iter().flatten() {
        let dataset = visible_dataset(name);
        let mut concerned = match name.contains('@') {
            true => index.owners(dataset).cloned().collect(),
            false => index.concerned(dataset),
        };
        concerned.extend(vm_of_name(dataset, known));
        for zonename in concerned {
            if !found.contains(&zonename) {
                found.push(zonename);
            }
        }
    }
    if is_above_vms(change, known) {
        let begun = known.zones_being_loaded().into_iter();
        let begun: Vec<_> = begun.filter(|z| !found.contains(z)).collect();
        found.extend(begun);
    }
    if !tenants.is_empty() {
        found.retain(|zonename| tenants.contains(zonename));
    }
    found
}

/// Whether this is a dataset, not a snapshot, that is a pool, or that is no
/// VM's and has datasets of VMs below it.
fn is_above_vms(change: &DatasetChange, known: &impl Known) -> bool {
    if change.dataset.contains('@') {
        return false;
    }
    let dataset = visible_dataset(&change.dataset);
    let index = known.datasets();
    !dataset.contains('/')
        || (!index.contains(dataset)
            && index.owners_below(dataset).next().is_some())
}

/// The dataset of a snapshot, or of a hidden clone that stands in for it
/// during a receive or rollback.
fn visible_dataset(name: &str) -> &str {
    let dataset = name.split('@').next().unwrap_or(name);
    ["/%rollback", "/%recv"]
        .iter()
        .find_map(|hidden| dataset.strip_suffix(hidden))
        .unwrap_or(dataset)
}

/// The VM, even if it is only just being created, to which a dataset belongs by
/// its name: `POOL/ZONE`, `POOL/ZONE/CHILD` or `POOL/ZONE-disk0`.
fn vm_of_name(dataset: &str, known: &impl Known) -> Option<Arc<str>> {
    let mut parts = dataset.split('/');
    let (_pool, own, depth) = (parts.next()?, parts.next()?, parts.count());
    let zonename = match own.get(..36) {
        Some(uuid) if own[36..].starts_with("-disk") => uuid,
        _ => own,
    };
    (depth <= 1 && is_zonename(zonename) && known.is_vm(zonename))
        .then(|| zonename.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::FileChange;
    use crate::source::EventSource;

    const A: &str = "0aa46416-2c8d-658d-cb21-eba504d46270";
    const B: &str = "66116621-e669-4f81-d668-bee43fd3b720";

    struct Vms(DatasetIndex);

    impl Known for Vms {
        fn datasets(&self) -> &DatasetIndex {
            &self.0
        }
        fn is_vm(&self, zonename: &str) -> bool {
            [A, B, "lx-zone", "new-zone"].contains(&zonename)
        }
        fn zones_being_loaded(&self) -> Vec<Arc<str>> {
            vec!["begun".into()]
        }
        fn is_reloading(&self) -> bool {
            false
        }
    }

    fn vms() -> Vms {
        let mut index = DatasetIndex::default();
        for (dataset, zonename, is_delegated) in [
            (format!("zones/{A}"), A, false),
            (format!("zones/{A}/data"), A, true),
            (format!("zones/{A}-disk0"), A, false),
            (format!("tank/vms/{B}"), B, false),
            ("zones/odd".to_string(), "lx-zone", false),
            ("lent".to_string(), "lx-zone", true),
        ] {
            index.insert(&dataset.into(), &zonename.into(), is_delegated);
        }
        Vms(index)
    }

    fn dataset(dataset: &str, operation: &str, detail: &str) -> Vec<String> {
        let event = SourceEvent::Dataset(DatasetChange {
            dataset: dataset.into(),
            operation: operation.into(),
            detail: detail.into(),
        });
        let plan = plan(&TimedEvent::now(event), &vms());
        plan.jobs.iter().map(|j| format!("{} {}", j.lane, j.sources)).collect()
    }

    #[test]
    fn a_dataset_concerns_its_vm() {
        let zfs = [format!("{A} zfs")];
        for name in [
            format!("zones/{A}"),
            format!("zones/{A}@vmsnap-x"),
            format!("zones/{A}-disk0"),
            format!("zones/{A}-disk7"),
            format!("zones/{A}/data"),
            format!("zones/{A}/disk1"),
        ] {
            assert_eq!(dataset(&name, "set", "quota=1"), zfs, "{name}");
        }
        assert_eq!(dataset("zones/odd", "inherit", ""), ["lx-zone zfs"]);
        assert_eq!(dataset("zones/new-zone", "create", ""), ["new-zone zfs"]);
    }

    #[test]
    fn a_dataset_above_vms_concerns_all_vms_below_it() {
        let sorted = |name| {
            let mut jobs = dataset(name, "set", "compression=1");
            jobs.sort();
            jobs
        };
        // A zone that is being loaded may have been listed before.
        let begun = || "begun zfs".to_string();
        let all = [format!("{A} zfs"), begun(), "lx-zone zfs".into()];
        assert_eq!(sorted("zones"), all);
        assert_eq!(sorted("tank/vms"), [format!("{B} zfs"), begun()]);
    }

    #[test]
    fn a_dataset_of_no_vm_concerns_no_vm() {
        for name in [
            "zones/01b2c898-945f-11e1-a523-af1afbe22822@final",
            &format!("zones/cores/{A}"),
            &format!("zones/{A}/data/child"),
            &format!("zones/{A}/data/child@x"),
            "zones/cores",
            "zones@backup",
            "tank/vms@backup",
            "other@backup",
        ] {
            assert_eq!(dataset(name, "set", "x=1"), [""; 0], "{name}");
        }
    }

    #[test]
    fn a_snapshot_of_a_dataset_above_vms_concerns_no_vm() {
        for operation in ["snapshot", "destroy", "hold", "release", "rename"] {
            for name in ["zones@backup", "tank/vms@backup"] {
                assert_eq!(dataset(name, operation, "-> @x"), [""; 0]);
            }
            let own = format!("zones/{A}@backup");
            assert_eq!(dataset(&own, operation, "-> @x").len(), 1);
        }
    }

    #[test]
    fn a_tenants_changes_concern_only_the_tenants_zone() {
        for (name, operation, detail) in [
            ("lent", "set", "quota=1"),
            ("lent", "rename", "-> zones"),
            ("lent", "promote", ""),
            (&format!("lent/{A}"), "create", ""),
            (&format!("lent/{A}-disk0"), "create", ""),
            ("lent/x", "rename", &format!("-> zones/{A}")),
            ("lent/x/y", "promote", ""),
            ("lent/x@s", "snapshot", ""),
        ] {
            let jobs = dataset(name, operation, detail);
            let is_own = |job: &String| job.starts_with("lx-zone ");
            assert!(jobs.iter().all(is_own), "{name} {operation}: {jobs:?}");
        }
        assert_eq!(dataset("lent", "set", "quota=1"), ["lx-zone zfs"]);
    }

    #[test]
    fn a_rename_concerns_both_names_and_all_below() {
        let jobs = dataset("zones/gone", "rename", "-> zones/odd");
        assert_eq!(jobs.len(), 1);
        assert!(jobs[0].starts_with("lx-zone"), "{jobs:?}");
        let jobs = dataset("tank", "rename", "-> other");
        assert!(jobs[0].starts_with(B), "{jobs:?}");
    }

    #[test]
    fn hidden_clones_stand_for_their_dataset_and_its_files() {
        let all = "zonexml+lastexited+metadata.json+tags.json+routes.json+zfs";
        for (name, operation) in [
            (format!("zones/{A}/%rollback"), "clone swap"),
            (format!("zones/{A}/%recv"), "finish receiving"),
            (format!("zones/{A}"), "something new"),
        ] {
            let jobs = dataset(&name, operation, "");
            assert_eq!(jobs, [format!("{A} {all}")], "{name} {operation}");
        }
    }

    #[test]
    fn replacing_the_configuration_of_all_zones_reloads_everything() {
        let rollback = "zones/config/%rollback";
        assert_eq!(dataset(rollback, "clone swap", ""), ["refresh all"]);
        for (name, operation) in [
            ("zones/config", "set"),
            ("zones/config@s", "snapshot"),
            ("zones/config@s", "destroy"),
            ("zones/config/below", "clone swap"),
        ] {
            assert_eq!(dataset(name, operation, ""), [""; 0], "{name}");
        }
    }

    #[test]
    fn every_operation_on_a_vms_dataset_loads_it() {
        let files = |jobs: &[String]| jobs[0].contains("metadata.json");
        for (operation, has_files) in [
            ("create", false),
            ("clone", true),
            ("snapshot", false),
            ("set", false),
            ("inherit", false),
            ("rename", true),
            ("destroy", true),
            ("defer_destroy", false),
            ("destroy begin", true),
            ("hold", false),
            ("release", false),
            ("clone swap", true),
            ("receive", true),
            ("resume receive", true),
            ("finish receiving", true),
            ("promote", false),
            ("bookmark", false),
            ("remove bookmark", false),
            ("permission update", true),
            ("permission remove", true),
            ("permission who remove", true),
            ("upgrade", true),
            ("", true),
        ] {
            let name = format!("zones/{A}");
            let jobs = dataset(&name, operation, "-> zones/elsewhere");
            assert!(jobs[0].starts_with(A), "{operation}: {jobs:?}");
            assert!(jobs[0].ends_with("zfs"), "{operation}: {jobs:?}");
            assert_eq!(files(&jobs), has_files, "{operation}: {jobs:?}");
        }
    }

    #[test]
    fn a_promotion_concerns_every_vm_that_may_lose_snapshots() {
        let jobs = dataset(&format!("zones/{A}"), "promote", "");
        assert_eq!(jobs.len(), 2, "{jobs:?}");
        assert!(jobs.iter().all(|job| job.ends_with(" zfs")), "{jobs:?}");
        let own = format!("zones/{A}/data/of/tenant");
        assert_eq!(dataset(&own, "promote", ""), [""; 0]);
    }

    #[test]
    fn a_dataset_that_two_vms_name_concerns_both() {
        let Vms(mut index) = vms();
        let disk: Arc<str> = format!("zones/{A}-disk0").into();
        index.insert(&disk, &"lx-zone".into(), false);
        assert_eq!(index.concerned(&disk), [A.into(), "lx-zone".into()]);
        index.remove(&disk, &"lx-zone".into());
        assert_eq!(index.concerned(&disk), [A.into()]);
    }

    #[test]
    fn a_zone_change_is_planned_as_its_transition() {
        let planned = |oldstate: &str, newstate: &str, zoneid| {
            let change = ZoneChange {
                zonename: A.into(),
                oldstate: oldstate.into(),
                newstate: newstate.into(),
                zoneid,
                when: None,
            };
            plan(&TimedEvent::now(SourceEvent::Zone(change)), &vms())
        };
        let found = planned("ready", "running", 12).transition.unwrap().1;
        assert_eq!((found.zone_state, found.zoneid), ("running", Some(12)));
        let found =
            planned("incomplete", "installed", -1).transition.unwrap().1;
        assert_eq!((found.zone_state, found.zoneid), ("installed", None));
        let found = planned("configured", "", -1).transition.unwrap().1;
        assert_eq!(found.zone_state, GONE);
        for (old, new) in [
            ("ready", "ready"),
            ("shutting_down", "shutting_down"),
            ("shutting_down", "uninitialized"),
            ("uninitialized", "free"),
        ] {
            let plan = planned(old, new, 12);
            assert_eq!(plan.transition, None, "{old} {new}");
            assert_eq!(plan.jobs.len(), 1);
        }
    }

    #[test]
    fn file_events_and_ready_sources_are_planned_in_their_lanes() {
        let file = |zonename: Option<&str>, file| {
            let zonename = zonename.map(Arc::from);
            let change = FileChange { zonename, file };
            plan(&TimedEvent::now(SourceEvent::File(change)), &vms())
                .jobs
                .remove(0)
        };
        let job = file(Some(A), Source::Tags);
        assert_eq!(
            (job.lane, job.sources),
            (Lane::Vm(A.into()), Sources::of(Source::Tags))
        );
        assert_eq!(file(None, Source::Sysinfo).lane, Lane::Sysinfo);
        assert_eq!(file(None, Source::Index).lane, Lane::Index);
        let ready = TimedEvent::now(SourceEvent::Ready(EventSource::Zfs));
        assert_eq!(plan(&ready, &vms()).jobs[0].lane, Lane::All);
    }
}
