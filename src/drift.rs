//! What full reloads had to heal: changes of VMs of which no event told, by
//! property and source.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Changes that wait to be told from those whose event is on its way. If
/// there are more, the oldest count as drift.
const SUSPECTS_MAX: usize = 10_000;

/// A change that a full reload has found.
#[derive(Debug)]
struct Suspect {
    at: Instant,
    /// Members of the VM object, or `created` and `deleted`.
    properties: Vec<String>,
    /// Where they come from.
    sources: String,
}

/// What was healed.
#[derive(Clone, Debug, Default)]
pub struct Healed {
    /// How often a VM had to be.
    pub vms: u64,
    /// How often by property and source.
    pub properties: BTreeMap<(String, String), u64>,
    /// The last time.
    pub last: Option<SystemTime>,
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
}

impl Drift {
    /// Nothing yet; an event that comes within `grace` after a reload has
    /// told of what the reload found.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, inner: Mutex::default() }
    }

    /// Notes what a full reload has found changed of a VM.
    pub fn suspect(
        &self,
        zonename: &Arc<str>,
        properties: Vec<String>,
        sources: String,
    ) {
        let mut inner = self.inner.lock();
        let suspect = Suspect { at: Instant::now(), properties, sources };
        if inner.suspects.len() >= SUSPECTS_MAX {
            inner.settle(Duration::ZERO);
        }
        if let Some(old) = inner.suspects.insert(Arc::clone(zonename), suspect)
        {
            inner.heal(zonename, old);
        }
    }

    /// An event has come that tells of this VM.
    pub fn heard(&self, zonename: &str) {
        let mut inner = self.inner.lock();
        if !inner.suspects.is_empty() {
            inner.settle(self.grace);
            inner.suspects.remove(zonename);
        }
    }

    /// What was healed by now.
    #[must_use]
    pub fn healed(&self) -> Healed {
        let mut inner = self.inner.lock();
        inner.settle(self.grace);
        inner.healed.clone()
    }
}

impl Inner {
    /// What no event has told of in time is drift.
    fn settle(&mut self, grace: Duration) {
        let is_old = |_: &Arc<str>, s: &mut Suspect| s.at.elapsed() >= grace;
        let old: Vec<_> = self.suspects.extract_if(is_old).collect();
        for (zonename, suspect) in old {
            self.heal(&zonename, suspect);
        }
    }

    fn heal(&mut self, zonename: &str, suspect: Suspect) {
        let Suspect { properties, sources, .. } = suspect;
        log::warn!(
            "{zonename}: no event told of {} ({sources}); a full reload has \
             found it",
            properties.join(" ")
        );
        self.healed.vms += 1;
        self.healed.last = Some(SystemTime::now());
        for property in properties {
            let key = (property, sources.clone());
            *self.healed.properties.entry(key).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_tells_of_is_no_drift() {
        let drift = Drift::new(Duration::from_secs(1000));
        let quota = || vec!["quota".to_string()];
        drift.suspect(&"a".into(), quota(), "zfs".into());
        drift.suspect(&"b".into(), quota(), "zfs".into());
        drift.heard("a");
        assert_eq!(drift.healed().vms, 0);
        drift.inner.lock().settle(Duration::ZERO);
        drift.heard("b");
        let healed = drift.healed();
        assert_eq!(healed.vms, 1);
        let key = ("quota".to_string(), "zfs".to_string());
        assert_eq!(healed.properties, BTreeMap::from([(key, 1)]));
        // Found twice: the first was no event's.
        drift.suspect(&"a".into(), quota(), "zfs".into());
        drift.suspect(&"a".into(), quota(), "zfs".into());
        assert_eq!(drift.healed().vms, 2);
    }
}
