//! Counts what full reloads had to heal: changes of VMs that no event reported,
//! by property and source.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::source::{EventSource, Source};

/// How many changes may wait for an event that may still be on its way. If
/// there are more, all that wait count as drift.
const SUSPECTS_MAX: usize = 10_000;

/// Members of VM objects that change without an event on a healthy host, and
/// the source that they come from: data grows, and init ends.
const UNTOLD: [(&str, Source); 4] = [
    ("snapshots", Source::Zfs),
    ("free_space", Source::Zfs),
    ("disks", Source::Zfs),
    ("pid", Source::Kstat),
];

/// A source of events is silent if this many full reloads in a row had to heal
/// what it should have reported.
const SILENT_RELOADS: u32 = 2;

/// A change that a full reload has found.
#[derive(Debug)]
struct Suspect {
    at: Instant,
    /// The reload's number.
    reload: u64,
    /// Members of the VM object, or `(create)` and `(delete)`.
    properties: Vec<String>,
    /// The sources that differ: see [`Parts::differing`].
    ///
    /// [`Parts::differing`]: crate::load::assemble::Parts::differing
    sources: Vec<Source>,
}

impl Suspect {
    /// Returns the sources of events that should have reported the change; none
    /// if all of its properties may change without an event. It is not known
    /// which property comes from which source. So sources that may have changed
    /// without an event are left out, unless no others remain.
    fn unheard(&self) -> Vec<EventSource> {
        let is_untold = |property: &str, source: &&Source| {
            UNTOLD.contains(&(property, **source))
        };
        let untold = |property: &&String| {
            self.sources.iter().find(|s| is_untold(property, s))
        };
        let properties = self.properties.iter();
        if properties.clone().all(|p| untold(&p).is_some()) {
            return Vec::new();
        }
        let doubtful: Vec<_> = properties.filter_map(|p| untold(&p)).collect();
        let sure = self.sources.iter().filter(|s| !doubtful.contains(s));
        let mut sources: Vec<_> = sure.collect();
        if sources.is_empty() {
            sources = self.sources.iter().collect();
        }
        let mut unheard: Vec<_> =
            sources.into_iter().map(|source| source.events()).collect();
        unheard.sort();
        unheard.dedup();
        unheard
    }
}

/// What was healed.
#[derive(Clone, Debug, Default)]
pub struct Healed {
    /// How often a VM had to be healed.
    pub vms: u64,
    /// How often each property had to be healed, by property and source. If
    /// several sources differ, the first one counts.
    pub properties: BTreeMap<(String, Source), u64>,
    /// When a VM was last healed.
    pub last: Option<SystemTime>,
    /// By the source of events that should have reported it.
    pub missed: [Missed; EventSource::COUNT],
}

/// What events of one source should have reported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Missed {
    /// How often a VM had to be healed.
    pub vms: u64,
    /// When a VM was last healed.
    pub last: Option<SystemTime>,
}

/// The health of one source of events.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    /// The last reload that had to heal what it should have reported.
    last: Option<u64>,
    /// How many reloads in a row had to heal such changes.
    reloads: u32,
    /// The reload after which it was found silent, until it is well again.
    since: Option<u64>,
    /// Whether [`Drift::news`] has still to report that.
    is_new: bool,
}

/// What full reloads had to heal.
#[derive(Debug)]
pub struct Drift {
    /// How long an event may be on its way.
    grace: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    suspects: HashMap<Arc<str>, Suspect>,
    healed: Healed,
    /// How many reloads there have been.
    reload: u64,
    /// In the order of [`EventSource::ALL`].
    silences: [Silence; EventSource::COUNT],
}

/// A source of events that is silent, or well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceHealth {
    /// Reloads in a row found what it should have reported.
    Silent(EventSource),
    /// It was silent, and reloads no longer find anything that it should have
    /// reported.
    Well(EventSource),
}

impl Drift {
    /// Nothing yet. An event that comes within `grace` after a reload counts as
    /// the report of what the reload found.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, inner: Mutex::default() }
    }

    /// Notes what a full reload has found changed of a VM.
    pub fn suspect(
        &self,
        zonename: &Arc<str>,
        properties: Vec<String>,
        sources: Vec<Source>,
    ) {
        let mut inner = self.inner.lock();
        let (at, reload) = (Instant::now(), inner.reload);
        let suspect = Suspect { at, reload, properties, sources };
        if inner.suspects.len() >= SUSPECTS_MAX {
            inner.settle(Duration::ZERO);
        }
        if let Some(old) = inner.suspects.insert(Arc::clone(zonename), suspect)
        {
            inner.heal(zonename, old);
        }
    }

    /// A full reload has ended: later suspects are those of the next one.
    pub fn end_reload(&self) {
        self.inner.lock().reload += 1;
    }

    /// An event of this VM has come: what a reload found changed of it is no
    /// drift.
    pub fn event_received(&self, zonename: &str) {
        let mut inner = self.inner.lock();
        if !inner.suspects.is_empty() {
            inner.settle(self.grace);
            inner.suspects.remove(zonename);
        }
    }

    /// What has been healed so far.
    #[must_use]
    pub fn healed(&self) -> Healed {
        let mut inner = self.inner.lock();
        inner.settle(self.grace);
        inner.healed.clone()
    }

    /// The sources of events that have become silent or well. Each is returned
    /// once.
    #[must_use]
    pub fn news(&self) -> Vec<SourceHealth> {
        let mut inner = self.inner.lock();
        inner.settle(self.grace);
        let reload = inner.reload;
        let mut news = Vec::new();
        for (source, silence) in
            EventSource::ALL.into_iter().zip(&mut inner.silences)
        {
            if std::mem::take(&mut silence.is_new) {
                news.push(SourceHealth::Silent(source));
            }
            // Two whole reloads have found nothing since.
            let last = silence.since.and(silence.last);
            let is_well = last.is_some_and(|last| reload > last + 2);
            if is_well {
                silence.since = None;
                news.push(SourceHealth::Well(source));
            }
        }
        news
    }
}

impl Inner {
    /// Counts as drift what no event has reported within `grace`.
    fn settle(&mut self, grace: Duration) {
        let is_old = |_: &Arc<str>, s: &mut Suspect| s.at.elapsed() >= grace;
        let mut old: Vec<_> = self.suspects.extract_if(is_old).collect();
        old.sort_by_key(|(_, suspect)| suspect.reload);
        for (zonename, suspect) in old {
            self.heal(&zonename, suspect);
        }
    }

    fn heal(&mut self, zonename: &str, suspect: Suspect) {
        let names: Vec<_> = suspect.sources.iter().map(|s| s.name()).collect();
        log::warn!(
            "{zonename}: no event reported the change of {} ({}); a full \
             reload found it",
            suspect.properties.join(" "),
            names.join("+"),
        );
        let now = Some(SystemTime::now());
        self.healed.vms += 1;
        self.healed.last = now;
        for source in suspect.unheard() {
            let missed = &mut self.healed.missed[source as usize];
            (missed.vms, missed.last) = (missed.vms + 1, now);
            self.silences[source as usize].miss(suspect.reload);
        }
        let source = suspect.sources.first().copied();
        let source = source.unwrap_or(Source::Zoneadm);
        for property in suspect.properties {
            let key = (property, source);
            *self.healed.properties.entry(key).or_default() += 1;
        }
    }
}

impl Silence {
    /// Notes that a reload had to heal something that this source should have
    /// reported.
    fn miss(&mut self, reload: u64) {
        if self.last.is_some_and(|last| reload <= last) {
            return;
        }
        let is_next = self.last.is_some_and(|last| reload == last + 1);
        // Once the source was found silent, the count begins again.
        self.reloads = if is_next { self.reloads + 1 } else { 1 };
        self.last = Some(reload);
        if self.reloads >= SILENT_RELOADS {
            (self.since, self.is_new) = (Some(reload), true);
            self.reloads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_an_event_reports_is_no_drift() {
        let drift = Drift::new(Duration::from_secs(1000));
        let quota = || vec!["quota".to_string()];
        drift.suspect(&"a".into(), quota(), vec![Source::Zfs]);
        drift.suspect(&"b".into(), quota(), vec![Source::Zfs]);
        drift.event_received("a");
        assert_eq!(drift.healed().vms, 0);
        drift.inner.lock().settle(Duration::ZERO);
        drift.event_received("b");
        let healed = drift.healed();
        assert_eq!(healed.vms, 1);
        let key = ("quota".to_string(), Source::Zfs);
        assert_eq!(healed.properties, BTreeMap::from([(key, 1)]));
        // Found changed twice: no event reported the first change.
        drift.suspect(&"a".into(), quota(), vec![Source::Zfs]);
        drift.suspect(&"a".into(), quota(), vec![Source::Zfs]);
        assert_eq!(drift.healed().vms, 2);
    }

    #[test]
    fn a_source_is_silent_if_two_reloads_in_a_row_had_to_heal() {
        let drift = Drift::new(Duration::ZERO);
        let reload = |found: &[(&str, Source)]| {
            for (n, (property, source)) in found.iter().enumerate() {
                let zonename = format!("{source}{n}").into();
                let properties = vec![(*property).to_string()];
                drift.suspect(&zonename, properties, vec![*source]);
            }
            drift.end_reload();
            drift.news()
        };
        let (zone, zfs) = (EventSource::Zone, EventSource::Zfs);
        assert_eq!(reload(&[("state", Source::Zoneadm)]), []);
        // What changes without an event says nothing about a source.
        let grown = [("snapshots", Source::Zfs), ("pid", Source::Kstat)];
        assert_eq!(reload(&grown), []);
        assert_eq!(reload(&grown), []);
        let both = [("state", Source::Zoneadm), ("quota", Source::Zfs)];
        assert_eq!(reload(&both), []);
        assert_eq!(reload(&both[1..]), [SourceHealth::Silent(zfs)]);
        assert_eq!(reload(&both[..1]), []);
        assert_eq!(reload(&[]), [SourceHealth::Well(zfs)]);
        assert_eq!(reload(&both[..1]), []);
        assert_eq!(reload(&both[..1]), [SourceHealth::Silent(zone)]);
        let missed = drift.healed().missed.map(|missed| missed.vms);
        assert_eq!((missed[zone as usize], missed[zfs as usize]), (5, 2));
    }

    #[test]
    fn a_source_counts_only_the_changes_it_should_have_reported() {
        let unheard = |properties: &[&str], sources: &[Source]| {
            let suspect = Suspect {
                at: Instant::now(),
                reload: 0,
                properties: properties.iter().map(|p| p.to_string()).collect(),
                sources: sources.to_vec(),
            };
            suspect.unheard()
        };
        let (zone, zfs) = (EventSource::Zone, EventSource::Zfs);
        assert_eq!(
            unheard(&["pid", "snapshots"], &[Source::Kstat, Source::Zfs]),
            []
        );
        let both = [Source::Zoneadm, Source::Zfs];
        assert_eq!(unheard(&["snapshots", "state"], &both), [zone]);
        assert_eq!(unheard(&["quota", "state"], &both), [zone, zfs]);
        assert_eq!(unheard(&["quota", "snapshots"], &[Source::Zfs]), [zfs]);
    }

    #[test]
    fn one_reload_counts_once_however_much_it_heals() {
        let mut silence = Silence::default();
        for reload in [7, 8, 8, 7, 8, 9] {
            silence.miss(reload);
        }
        // At 9 the count begins again.
        assert_eq!((silence.since, silence.reloads), (Some(8), 1));
    }
}
