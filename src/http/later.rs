//! Answers that are not there yet: of a VM that is to be loaded first, or to
//! become something.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Body, Full, JSON, Later};
use super::numbers::Place;
use super::request::Request;
use super::route::{OfVm, OfVms, Wait};
use super::service::{Service, body_of, busy, failure, versioned};
use crate::hub::{Sight, Watch};
use crate::json::Wants;
use crate::requested::Requested;
use crate::select::Search;
use crate::sync::Wake;

/// The field that names the sources of a loaded VM of which the last good
/// value is served, since what there is now can't be understood.
const STALE_FIELD: &str = "X-Vminfod-Stale";

/// The most faults that are told when a load has not come in.
const FAULTS_MAX: usize = 5;

/// What is asked for.
pub enum Work {
    /// All VMs, loaded.
    Vms(OfVms),
    /// This VM, loaded or as it has become, or both.
    Vm(Arc<str>, OfVm),
}

impl Work {
    /// The name in metrics.
    pub fn route(&self) -> &'static str {
        match self {
            Self::Vms(_) => "vms-sync",
            Self::Vm(_, of) if of.wait.is_some() => "vm-wait",
            Self::Vm(..) => "vm-sync",
        }
    }
}

/// A load that has to be in first; `None` if there can't be one more.
pub struct Sync(pub Option<Arc<Requested>>);

/// A request that waits for its load, if that is asked for, and then for what
/// its VM is to become.
pub struct Waiting {
    pub service: Arc<Service>,
    pub work: Work,
    pub request: Request,
    pub begun: Instant,
    pub until: Instant,
    pub sync: Option<Sync>,
    /// Whether a load is in that was asked for.
    pub is_synced: bool,
    /// How long it has looked whether its conditions hold.
    pub searched: Duration,
    pub wake: Wake,
    /// From when on it looks.
    pub watching: Option<Watching>,
    pub _place: Place,
}

/// A watch of a VM, ended when dropped.
pub struct Watching {
    service: Arc<Service>,
    zonename: Arc<str>,
    watch: Arc<Watch>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.service.hub.unwatch(&self.zonename, &self.watch);
    }
}

impl Waiting {
    fn answer(&mut self) -> Option<Full> {
        match &self.sync {
            Some(Sync(None)) => {
                return Some(busy("too many VMs wait to be loaded"));
            }
            Some(Sync(Some(load))) if !load.is_met() => return None,
            Some(Sync(Some(_))) => (self.sync, self.is_synced) = (None, true),
            None => {}
        }
        let service = &self.service;
        let (name, of) = match &self.work {
            Work::Vms(of) => {
                let full = service.vms(of, &self.request);
                return Some(self.with_faults(full, None));
            }
            Work::Vm(name, of) => (name, of),
        };
        let Some(wait) = &of.wait else {
            let (sight, seq) = service.cache.vm(name);
            if sight.vm.is_none()
                && let Some(error) = service.unloadable(name)
            {
                return Some(failure(504, &error));
            }
            let full = service.vm(name, of, sight, seq, &self.request);
            return Some(self.with_faults(full, Some(name)));
        };
        let mut next = None;
        let watching = self.watching.get_or_insert_with(|| {
            // What it is now, and all that it becomes: nothing in between.
            let wake = Arc::clone(&self.wake);
            let (sight, seq, watch) = service.cache.watch(name, wake);
            next = Some((sight, seq));
            let (service, zonename) = (Arc::clone(service), Arc::clone(name));
            Watching { service, zonename, watch }
        });
        // Who waits for long may search for long, a little at a time.
        let may = service.limits.search_time + self.begun.elapsed() / 20;
        let search = Search::new(may.saturating_sub(self.searched));
        let searched = self.searched;
        let begun = Instant::now();
        loop {
            let (sight, seq) = match next.take() {
                Some(now) => now,
                None => match watching.watch.next() {
                    Ok(Some(sight)) => {
                        let seq = sight.version;
                        (sight, seq)
                    }
                    Ok(None) => return None,
                    Err(_) => {
                        let why = "events of this VM came too fast";
                        return Some(busy(why));
                    }
                },
            };
            let holds = match (wait, &sight.vm) {
                // One that can't be loaded is there. When its end is sure, its
                // faults are forgotten, and it is told again.
                (Wait::Gone, vm) => {
                    vm.is_none() && service.unloadable(name).is_none()
                }
                (Wait::Holds(_), None) => false,
                (Wait::Holds(conditions), Some(vm)) => {
                    let mut wants = Wants::default();
                    conditions.iter().for_each(|c| c.want(&mut wants));
                    let members = vm.members(&wants);
                    conditions.iter().all(|c| c.holds(&members, &search))
                }
            };
            if let Some(why) = search.failure() {
                return Some(failure(400, why));
            }
            self.searched = searched + begun.elapsed();
            if holds {
                let full = self.told(200, of, &sight, seq);
                return Some(self.with_faults(full, Some(name)));
            }
        }
    }

    /// The VM as it was seen; `null` where there is none.
    fn told(&self, status: u16, of: &OfVm, sight: &Sight, seq: u64) -> Full {
        let body = match &sight.vm {
            Some(vm) => body_of(vm, of),
            None => Body::Bytes(b"null".to_vec()),
        };
        let etag = self.service.etag(sight.version);
        let full = Full::new(status, JSON, body);
        versioned(full, &etag, seq)
    }

    /// What was loaded, but could not be understood, is as it was before: the
    /// answer says so.
    fn with_faults(&self, full: Full, name: Option<&str>) -> Full {
        if !self.is_synced {
            return full;
        }
        let faults = self.service.host.faults(name);
        let sources: BTreeSet<_> =
            faults.iter().map(|(source, _)| *source).collect();
        let sources: Vec<_> = sources.into_iter().collect();
        match sources.is_empty() {
            true => full,
            false => full.with(STALE_FIELD, &sources.join(", ")),
        }
    }

    fn count(&self, full: &Full) {
        let numbers = &self.service.numbers;
        numbers.answered(self.work.route(), full.status, self.begun);
    }
}

impl Later for Waiting {
    fn look(&mut self) -> Option<Full> {
        let full = self.answer()?;
        self.count(&full);
        Some(full)
    }

    fn until(&self) -> Instant {
        self.until
    }

    fn late(&mut self) -> Full {
        let service = &self.service;
        let full = match &self.work {
            Work::Vm(name, of) if self.sync.is_none() => {
                let (sight, seq) = service.cache.vm(name);
                match (sight.vm.is_none(), service.unloadable(name)) {
                    (true, Some(error)) => failure(504, &error),
                    _ => self.told(504, of, &sight, seq),
                }
            }
            work => {
                let name = match work {
                    Work::Vms(_) => None,
                    Work::Vm(name, _) => Some(&**name),
                };
                let time = (self.until - self.begun).as_secs_f64();
                let mut error = format!("not loaded within {time} s");
                let faults = service.host.faults(name).into_iter();
                for (source, fault) in faults.take(FAULTS_MAX) {
                    error += &format!("; {source}: {fault}");
                }
                failure(504, &error)
            }
        };
        self.count(&full);
        full
    }
}
