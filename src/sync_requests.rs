//! Loads that a client has asked for and waits for. A request is met by any
//! load that began after it, even if that load was not asked for by the client.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::sync::Wake;

/// A request for a load.
pub struct SyncRequest {
    is_met: AtomicBool,
    wake: Wake,
}

impl fmt::Debug for SyncRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SyncRequest").field(&self.is_met).finish()
    }
}

impl SyncRequest {
    /// Whether such a load is done.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.is_met.load(Ordering::SeqCst)
    }

    fn meet(&self) {
        self.is_met.store(true, Ordering::SeqCst);
        (self.wake)();
    }
}

/// All requests. A request that its client drops is forgotten.
#[derive(Debug, Default)]
pub struct SyncRequests {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    of_vm: HashMap<Arc<str>, Vec<(u64, Weak<SyncRequest>)>>,
    of_all: Vec<OfAll>,
    /// When there are requests for this many VMs, those that no client waits
    /// for any more are forgotten.
    pruned_at: usize,
}

/// See [`Inner::pruned_at`].
const PRUNED_MIN: usize = 1000;

/// A request for all VMs.
#[derive(Debug)]
struct OfAll {
    asked: u64,
    /// VMs that must still be loaded; `None` until all have been listed.
    missing: Option<HashSet<Arc<str>>>,
    /// The VMs that were loaded before all were listed.
    early: HashSet<String>,
    request: Weak<SyncRequest>,
}

impl SyncRequests {
    /// Asks for a VM, or for all. `push` adds the job, and returns a number:
    /// batches with a higher number begin after this. `wake` is called when the
    /// request is met. `None` if `push` returns `None`.
    #[must_use]
    pub fn ask(
        &self,
        zonename: Option<&Arc<str>>,
        wake: Wake,
        push: impl FnOnce() -> Option<u64>,
    ) -> Option<Arc<SyncRequest>> {
        let request =
            Arc::new(SyncRequest { is_met: AtomicBool::new(false), wake });
        // The lock is held meanwhile, so that the load can't be done before the
        // request is known.
        let mut inner = self.inner.lock();
        let asked = push()?;
        let weak = Arc::downgrade(&request);
        match zonename {
            Some(zonename) => {
                if inner.of_vm.len() >= inner.pruned_at {
                    let is_live = |(_, r): &(u64, Weak<SyncRequest>)| {
                        r.strong_count() > 0
                    };
                    inner.of_vm.retain(|_, all| all.iter().any(is_live));
                    inner.pruned_at = inner.of_vm.len() * 2 + PRUNED_MIN;
                }
                let waiting = inner.of_vm.entry(Arc::clone(zonename));
                let waiting = waiting.or_default();
                waiting.retain(|(_, request)| request.strong_count() > 0);
                waiting.push((asked, weak));
            }
            None => {
                inner.of_all.retain(|of_all| of_all.request.strong_count() > 0);
                let (missing, early) = (None, HashSet::new());
                let of_all = OfAll { asked, missing, early, request: weak };
                inner.of_all.push(of_all);
            }
        }
        Some(request)
    }

    /// Whether a client waits for this VM, by itself or as one of all VMs. With
    /// `None`: whether a client waits for all VMs.
    #[must_use]
    pub fn is_awaited(&self, zonename: Option<&str>) -> bool {
        let inner = self.inner.lock();
        let waits = |request: &Weak<SyncRequest>| request.strong_count() > 0;
        match zonename {
            Some(zonename) => {
                let waiting = inner.of_vm.get(zonename);
                let mut of_all = inner.of_all.iter();
                waiting.into_iter().flatten().any(|(_, r)| waits(r))
                    || of_all.any(|all| {
                        let missing = all.missing.as_ref();
                        waits(&all.request)
                            && missing.is_none_or(|m| m.contains(zonename))
                    })
            }
            None => inner.of_all.iter().any(|all| waits(&all.request)),
        }
    }

    /// A VM has been loaded completely by the batch with this number.
    pub fn loaded(&self, zonename: &str, batch: u64) {
        let mut inner = self.inner.lock();
        let Inner { of_vm, of_all, .. } = &mut *inner;
        let mut met = Vec::new();
        if let Some(waiting) = of_vm.get_mut(zonename) {
            waiting.retain(|(asked, request)| {
                let is_met = *asked < batch;
                met.extend(request.upgrade().filter(|_| is_met));
                !is_met
            });
            if waiting.is_empty() {
                of_vm.remove(zonename);
            }
        }
        of_all.retain_mut(|waiting| {
            if waiting.asked >= batch {
                return true;
            }
            let Some(missing) = &mut waiting.missing else {
                waiting.early.insert(zonename.to_string());
                return true;
            };
            missing.remove(zonename);
            met.extend(
                waiting.request.upgrade().filter(|_| missing.is_empty()),
            );
            !missing.is_empty()
        });
        drop(inner);
        met.iter().for_each(|request| request.meet());
    }

    /// All VMs have been listed by the batch with this number, and loaded
    /// except those that are `missing`.
    pub fn all_loaded(&self, batch: u64, missing: &HashSet<Arc<str>>) {
        let mut inner = self.inner.lock();
        let mut met = Vec::new();
        inner.of_all.retain_mut(|waiting| {
            if waiting.asked >= batch || waiting.missing.is_some() {
                return true;
            }
            let early = std::mem::take(&mut waiting.early);
            let missing =
                missing.iter().filter(|name| !early.contains(&***name));
            let missing: HashSet<_> = missing.cloned().collect();
            if missing.is_empty() {
                met.extend(waiting.request.upgrade());
                return false;
            }
            waiting.missing = Some(missing);
            true
        });
        drop(inner);
        met.iter().for_each(|request| request.meet());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        requests: &SyncRequests,
        zonename: Option<&str>,
        asked: u64,
    ) -> Arc<SyncRequest> {
        let zonename = zonename.map(Arc::from);
        requests
            .ask(zonename.as_ref(), Arc::new(|| {}), || Some(asked))
            .unwrap()
    }

    #[test]
    fn a_request_is_met_by_a_load_that_began_after_it() {
        let requests = SyncRequests::default();
        let a = ask(&requests, Some("a"), 5);
        let b = ask(&requests, Some("b"), 5);
        requests.loaded("a", 5);
        assert!(!a.is_met());
        let later = ask(&requests, Some("a"), 7);
        requests.loaded("a", 6);
        assert!(a.is_met() && !b.is_met() && !later.is_met());
        requests.loaded("a", 8);
        assert!(later.is_met());
        assert!(!requests.inner.lock().of_vm.contains_key("a"));
    }

    #[test]
    fn a_request_for_all_is_met_when_none_is_missing() {
        let requests = SyncRequests::default();
        let all = ask(&requests, None, 5);
        requests.all_loaded(5, &HashSet::new());
        requests.loaded("a", 9);
        assert!(!all.is_met());
        requests.all_loaded(6, &["a".into(), "b".into()].into());
        assert!(
            requests.is_awaited(Some("b")) && !requests.is_awaited(Some("c"))
        );
        requests.loaded("a", 5);
        requests.loaded("b", 7);
        // `a` was last loaded by a batch that began too early.
        requests.loaded("a", 7);
        assert!(all.is_met());
        let all = ask(&requests, None, 8);
        // `a` is loaded before all are listed, `b` by a batch that began too
        // early.
        requests.loaded("b", 8);
        requests.loaded("a", 10);
        requests.all_loaded(9, &["a".into(), "b".into()].into());
        assert!(!all.is_met());
        requests.loaded("b", 11);
        assert!(all.is_met());
    }

    #[test]
    fn dropped_requests_are_forgotten_and_waiting_ones_are_woken() {
        let requests = SyncRequests::default();
        drop(ask(&requests, Some("a"), 1));
        assert!(!requests.is_awaited(Some("a")));
        let (sender, receiver) = std::sync::mpsc::channel();
        let wake: Wake = Arc::new(move || sender.send(()).unwrap());
        let a = requests.ask(Some(&"a".into()), wake, || Some(2)).unwrap();
        assert_eq!(requests.inner.lock().of_vm["a"].len(), 1);
        requests.loaded("a", 3);
        assert!(a.is_met() && receiver.try_recv().is_ok());
    }
}
