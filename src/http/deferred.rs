//! Answers that come later: `sync=1` waits until VMs are loaded, and `wait=`
//! waits until a VM meets conditions or is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Body, Deferred, FullResponse, JSON, Response};
use super::counters::Permit;
use super::request::Request;
use super::route::{OfVm, OfVms, Wait};
use super::vms::{VmResponses, body_of, busy, failure, versioned};
use crate::config::is_zonename;
use crate::hub::{TooMuch, VmVersion, Watch};
use crate::settings::HttpLimits;
use crate::sync::Wake;
use crate::sync_requests::SyncRequest;
use crate::vm::filter::Search;

/// The header field that names the sources whose last good value is served,
/// because their present value can't be understood.
const STALE_FIELD: &str = "X-Vminfod-Stale";

/// The most faults that are listed in the answer when a load is not done in
/// time.
const FAULTS_MAX: usize = 5;

/// What a request asks for.
pub enum DeferredRequest {
    /// All VMs, after a load.
    Vms(OfVms),
    /// This VM: after a load (`sync=1`), once it meets `wait=`, or both.
    Vm(Arc<str>, OfVm),
}

impl DeferredRequest {
    /// The name in metrics.
    pub fn route(&self) -> &'static str {
        match self {
            Self::Vms(_) => "vms-sync",
            Self::Vm(_, of) if of.wait.is_some() => "vm-wait",
            Self::Vm(..) => "vm-sync",
        }
    }

    /// The answer, which comes later; 503 at once if too many requests wait.
    pub fn answer(
        self,
        vms: &Arc<VmResponses>,
        request: &Request,
        begun: Instant,
    ) -> Response {
        let VmResponses { limits, counters, .. } = &**vms;
        // Requests that wait for changes and requests that wait for loads have
        // separate limits, so that the former do not keep out the latter.
        let waits = matches!(&self, Self::Vm(_, of) if of.wait.is_some());
        let (permit, most, setting) = match waits {
            true => (
                counters.wait_permit(limits.waiting),
                limits.waiting,
                "waiting",
            ),
            false => {
                (counters.sync_permit(limits.syncs), limits.syncs, "syncs")
            }
        };
        let Some(permit) = permit else {
            let why = format!(
                "{most} requests wait already, the most allowed (setting \
                 {setting}); try again"
            );
            return Response::Full(busy(&why));
        };
        let vms = Arc::clone(vms);
        let request = request.clone();
        Response::Deferred(Box::new(move |wake| {
            let request_load = |name| {
                let load = vms.host.request(name, Arc::clone(&wake));
                load.map_or(Load::Refused, Load::Pending)
            };
            let load = match &self {
                Self::Vms(_) => request_load(None),
                // A name that can't be a zonename has no VM, so nothing is
                // loaded.
                Self::Vm(name, of) if of.sync && is_zonename(name) => {
                    request_load(Some(name))
                }
                Self::Vm(..) => Load::NotAsked,
            };
            let until = begun + self.time(&vms.limits);
            Box::new(Waiting {
                vms,
                work: self,
                request,
                begun,
                until,
                load,
                searched: Duration::ZERO,
                wake,
                watching: None,
                _permit: permit,
            })
        }))
    }

    /// How long it may take.
    fn time(&self, limits: &HttpLimits) -> Duration {
        let (asked, default) = match self {
            Self::Vms(of) => (of.timeout, limits.sync_time),
            Self::Vm(_, of) if of.wait.is_none() => {
                (of.timeout, limits.sync_time)
            }
            Self::Vm(_, of) => (of.timeout, limits.wait_time),
        };
        asked.unwrap_or(default)
    }
}

/// How far the load is that a request asks for.
enum Load {
    NotAsked,
    /// Too many were requested already.
    Refused,
    Pending(Arc<SyncRequest>),
    Done,
}

/// A request that waits for its load, if it has `sync=1`, and then until its VM
/// meets `wait=`, if it has that.
struct Waiting {
    vms: Arc<VmResponses>,
    work: DeferredRequest,
    request: Request,
    begun: Instant,
    until: Instant,
    load: Load,
    /// How much time was spent on checking its conditions.
    searched: Duration,
    wake: Wake,
    /// The watch of its VM, once its conditions have been checked for the first
    /// time.
    watching: Option<Watching>,
    _permit: Permit,
}

/// A watch of a VM, which ends when this is dropped.
struct Watching {
    vms: Arc<VmResponses>,
    zonename: Arc<str>,
    watch: Arc<Watch>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.vms.hub.unwatch(&self.zonename, &self.watch);
    }
}

impl Waiting {
    fn answer(&mut self) -> Option<FullResponse> {
        match &self.load {
            Load::Refused => {
                return Some(busy("too many VMs wait to be loaded"));
            }
            Load::Pending(load) if !load.is_met() => return None,
            Load::Pending(_) => self.load = Load::Done,
            Load::NotAsked | Load::Done => {}
        }
        match &self.work {
            DeferredRequest::Vms(of) => {
                let full = self.vms.all(of, &self.request);
                Some(self.with_faults(full, None))
            }
            DeferredRequest::Vm(name, of) if of.wait.is_none() => {
                Some(self.loaded(name, of))
            }
            DeferredRequest::Vm(name, of) => {
                let (name, of) = (Arc::clone(name), of.clone());
                self.first_match(&name, &of)
            }
        }
    }

    /// The answer with the VM as it is served now, after its load.
    fn loaded(&self, name: &Arc<str>, of: &OfVm) -> FullResponse {
        let (version, seq) = self.vms.cache.vm(name);
        if version.vm.is_none()
            && let Some(error) = self.vms.unloadable(name)
        {
            return failure(504, &error);
        }
        let full = self.vms.one(name, of, version, seq, &self.request);
        self.with_faults(full, Some(name))
    }

    /// The answer with the first version of the VM that meets `wait=`; `None`
    /// if there is none yet.
    fn first_match(
        &mut self,
        name: &Arc<str>,
        of: &OfVm,
    ) -> Option<FullResponse> {
        let mut next = self.begin_watch(name);
        // The longer a request waits, the longer it may search in all: a
        // twentieth of the time waited is added to its limit.
        let may = self.vms.limits.search_time + self.begun.elapsed() / 20;
        let search = Search::new(may.saturating_sub(self.searched));
        let searched = self.searched;
        let begun = Instant::now();
        loop {
            let (version, seq) = match next.take() {
                Some(now) => now,
                None => match self.watching.as_ref()?.watch.next() {
                    Ok(version) => {
                        let version = version?;
                        let seq = version.seq;
                        (version, seq)
                    }
                    Err(TooMuch) => {
                        return Some(busy(
                            "this VM changed faster than wait= could follow; \
                             try again",
                        ));
                    }
                },
            };
            let holds = self.holds(name, of.wait.as_ref()?, &version, &search);
            if let Some(why) = search.failure() {
                return Some(failure(400, why));
            }
            self.searched = searched + begun.elapsed();
            if holds {
                let full = self.version(200, of, &version, seq);
                return Some(self.with_faults(full, Some(name)));
            }
        }
    }

    /// Begins to watch the VM, and returns its present version; `None` if it is
    /// watched already. The watch gets every later version, without a gap.
    fn begin_watch(&mut self, name: &Arc<str>) -> Option<(VmVersion, u64)> {
        if self.watching.is_some() {
            return None;
        }
        let wake = Arc::clone(&self.wake);
        let (version, seq, watch) = self.vms.cache.watch(name, wake);
        let (vms, zonename) = (Arc::clone(&self.vms), Arc::clone(name));
        self.watching = Some(Watching { vms, zonename, watch });
        Some((version, seq))
    }

    /// Whether a version of the VM meets `wait`. If `search` has failed
    /// afterwards, the result means nothing.
    fn holds(
        &self,
        name: &str,
        wait: &Wait,
        version: &VmVersion,
        search: &Search,
    ) -> bool {
        match (wait, &version.vm) {
            // A VM that can't be loaded still exists. Once it is certain that
            // it is gone, its faults are dropped, and the watch gets another
            // version.
            (Wait::Gone, vm) => {
                vm.is_none() && self.vms.unloadable(name).is_none()
            }
            (Wait::Holds(_), None) => false,
            (Wait::Holds(conditions), Some(vm)) => {
                conditions.iter().all(|c| c.holds(vm.object(), search))
            }
        }
    }

    /// An answer with a version of the VM, or with `null` if there was no VM.
    fn version(
        &self,
        status: u16,
        of: &OfVm,
        version: &VmVersion,
        seq: u64,
    ) -> FullResponse {
        let body = match &version.vm {
            Some(vm) => body_of(vm, of),
            None => Body::Bytes(b"null".to_vec()),
        };
        let etag = self.vms.etag(version.seq);
        let full = FullResponse::new(status, JSON, body);
        versioned(full, &etag, seq)
    }

    /// Adds [`STALE_FIELD`] to an answer after a load, if sources have faults:
    /// of those, the values from before are served.
    fn with_faults(
        &self,
        full: FullResponse,
        name: Option<&str>,
    ) -> FullResponse {
        if !matches!(self.load, Load::Done) {
            return full;
        }
        let faults = self.vms.host.faults(name);
        let sources: BTreeSet<_> =
            faults.iter().map(|(source, _)| source.name()).collect();
        let sources: Vec<_> = sources.into_iter().collect();
        match sources.is_empty() {
            true => full,
            false => full.with(STALE_FIELD, &sources.join(", ")),
        }
    }

    fn count(&self, full: &FullResponse) {
        let counters = &self.vms.counters;
        counters.answered(self.work.route(), full.status, self.begun);
    }
}

impl Deferred for Waiting {
    fn look(&mut self) -> Option<FullResponse> {
        let full = self.answer()?;
        self.count(&full);
        Some(full)
    }

    fn until(&self) -> Instant {
        self.until
    }

    fn late(&mut self) -> FullResponse {
        let vms = &self.vms;
        let is_loaded = matches!(self.load, Load::NotAsked | Load::Done);
        let full = match &self.work {
            DeferredRequest::Vm(name, of) if is_loaded => {
                let (version, seq) = vms.cache.vm(name);
                match (version.vm.is_none(), vms.unloadable(name)) {
                    (true, Some(error)) => failure(504, &error),
                    _ => self.version(504, of, &version, seq),
                }
            }
            work => {
                let name = match work {
                    DeferredRequest::Vms(_) => None,
                    DeferredRequest::Vm(name, _) => Some(&**name),
                };
                let time = (self.until - self.begun).as_secs_f64();
                let mut error = format!("not loaded within {time} s");
                let faults = vms.host.faults(name).into_iter();
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
