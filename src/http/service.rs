//! What requests are answered with: the picture, in the words of HTTP.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::answer::{Answer, Body, Full, JSON, METRICS, Pieces};
use super::engine::{Engine, Handler};
use super::fanout::Fanout;
use super::later::{Sync, Waiting, Work};
use super::numbers::Numbers;
use super::ready::{Beginning, Snapshots};
use super::request::Request;
use super::route::{OfEvents, OfVm, OfVms, Route, route};
use super::subscriber::{Item, Subscriber};
use super::wanted::Told;
use super::{Host, ready};
use crate::cache::{Cache, Start};
use crate::config::{HttpLimits, is_zonename};
use crate::hub::{Hub, Sight, Vm};
use crate::json::{Json, Object};
use crate::metrics::Page;
use crate::select::Search;

/// The field that says up to which event an answer knows.
pub const SEQ_FIELD: &str = "X-Vminfod-Seq";

/// Answers requests.
pub struct Service {
    pub(super) limits: HttpLimits,
    pub(super) cache: Arc<Cache>,
    pub(super) hub: Arc<Hub>,
    pub(super) host: Box<dyn Host>,
    pub(super) numbers: Numbers,
    fanout: Arc<Fanout>,
    snapshots: Snapshots,
    engine: OnceLock<Weak<Engine>>,
}

impl Handler for Arc<Service> {
    fn answer(&self, request: &Request, local: Option<IpAddr>) -> Answer {
        let begun = Instant::now();
        if request.is_of_page || !request.is_for_us(local, &self.limits.hosts) {
            let why = "not for pages in a browser, nor by a name that is \
                       none of this machine";
            self.numbers.answered("other", 403, begun);
            return Answer::Full(Full::text(403, why).last());
        }
        let route = route(&request.method, &request.target, &self.limits);
        let name = route.name();
        let answer = self.answer_to(route, request, begun);
        match &answer {
            Answer::Full(full) => {
                self.numbers.answered(name, full.status, begun);
            }
            Answer::Stream(_) => self.numbers.answered(name, 200, begun),
            // It is counted when it is there.
            Answer::Later(_) => {}
        }
        answer
    }

    fn refused(&self, status: u16) {
        self.numbers.answered("other", status, Instant::now());
    }
}

impl Service {
    /// A service of the picture in `cache`.
    pub fn new(
        limits: HttpLimits,
        cache: Arc<Cache>,
        hub: Arc<Hub>,
        host: Box<dyn Host>,
        fanout: Arc<Fanout>,
    ) -> Self {
        Self {
            limits,
            cache,
            hub,
            host,
            numbers: Numbers::of(&Route::NAMES),
            fanout,
            snapshots: Snapshots::default(),
            engine: OnceLock::new(),
        }
    }

    /// Tells it of the engine, which it counts.
    pub fn set_engine(&self, engine: &Arc<Engine>) {
        let _ = self.engine.set(Arc::downgrade(engine));
    }

    fn answer_to(
        self: &Arc<Self>,
        route: Route,
        request: &Request,
        begun: Instant,
    ) -> Answer {
        Answer::Full(match route {
            Route::Ping => Full::json(200, b"{\"ping\":\"pong\"}".to_vec()),
            Route::Status { full } => {
                Full::json(200, self.host.status(full).to_bytes())
            }
            Route::Metrics => {
                let page = self.metrics();
                Full::new(200, METRICS, Body::Bytes(page.into_bytes()))
            }
            Route::Vms(of) if of.sync => {
                return self.later(Work::Vms(of), request, begun);
            }
            Route::Vms(of) => self.vms(&of, request),
            Route::Vm(name, of) if of.sync || of.wait.is_some() => {
                let name = self.zonename_of(name, request);
                return self.later(Work::Vm(name.into(), of), request, begun);
            }
            Route::Vm(name, of) => {
                let name = self.zonename_of(name, request);
                let (sight, seq) = self.cache.vm(&name);
                self.vm(&name, &of, sight, seq, request)
            }
            Route::Events(of) => return self.events(of, request),
            Route::Unsupported => Full::text(404, "Unsupported URL Path"),
            Route::BadMethod => Full::text(400, ""),
            Route::BadQuery(error) => failure(400, &error),
        })
    }

    /// The zonename that a path means. With a query, which today's clients do
    /// not know, it may be a VM's uuid, too.
    fn zonename_of(&self, name: String, request: &Request) -> String {
        let meant = request.target.contains('?');
        let meant = meant.then(|| self.cache.zonename_of(&name)).flatten();
        meant.map_or(name, |zonename| zonename.to_string())
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.host.metrics(&mut page);
        let engine = self.engine.get().and_then(Weak::upgrade);
        let engine = engine.map(|engine| engine.status());
        self.numbers.tell(&mut page, engine, self.fanout.work());
        page.into_text()
    }

    /// The answer with all VMs.
    pub(super) fn vms(&self, of: &OfVms, request: &Request) -> Full {
        let mut snapshot = self.cache.snapshot();
        let seq = snapshot.seq;
        let etag = format!("\"{}-{seq}\"", self.cache.epoch());
        if request.has_version(&etag) {
            return versioned(not_modified(), &etag, seq);
        }
        let place = of.filter.has_regex().then(|| self.numbers.search());
        if let Some(None) = place {
            return busy("others search already");
        }
        if !of.filter.is_empty() {
            let search = Search::new(self.limits.search_time);
            let wants = of.filter.wants();
            let passes = |vm: &&Vm| {
                search.failure().is_none()
                    && of.filter.passes(&vm.members(&wants), &search)
            };
            snapshot.vms =
                snapshot.vms.iter().filter(passes).cloned().collect();
            if let Some(why) = search.failure() {
                return failure(400, why);
            }
        }
        let body = match &of.fields {
            None => Body::Pieces(Box::new(Array(snapshot.vms))),
            Some(fields) => {
                let mut vms = vec![b'['];
                for vm in &*snapshot.vms {
                    if vms.len() > 1 {
                        vms.push(b',');
                    }
                    fields.write(vm, &mut vms);
                }
                vms.push(b']');
                Body::Bytes(vms)
            }
        };
        versioned(Full::new(200, JSON, body), &etag, seq)
    }

    /// The answer with one VM.
    pub(super) fn vm(
        &self,
        name: &str,
        of: &OfVm,
        sight: Sight,
        seq: u64,
        request: &Request,
    ) -> Full {
        let Some(vm) = sight.vm else {
            let full = Full::text(404, format!("VM Not Found: {name}"));
            return full.with(SEQ_FIELD, &seq.to_string());
        };
        let etag = self.etag(sight.version);
        if request.has_version(&etag) {
            return versioned(not_modified(), &etag, seq);
        }
        versioned(Full::new(200, JSON, body_of(&vm, of)), &etag, seq)
    }

    /// Why a VM that is not served could not be loaded, though it is there.
    pub(super) fn unloadable(&self, name: &str) -> Option<String> {
        let mut faults = self.host.faults(Some(name)).into_iter();
        // The system's own are no VM's.
        let fault = faults.find(|(source, _)| *source != "sysinfo")?;
        Some(format!("{name} can't be loaded: {}: {}", fault.0, fault.1))
    }

    /// The name of a VM's version.
    pub(super) fn etag(&self, version: u64) -> String {
        format!("\"{}-{version}\"", self.cache.epoch())
    }

    fn later(
        self: &Arc<Self>,
        work: Work,
        request: &Request,
        begun: Instant,
    ) -> Answer {
        // Who waits for changes does not keep others from loads.
        let waits = matches!(&work, Work::Vm(_, of) if of.wait.is_some());
        let (place, most) = match waits {
            true => {
                let most = self.limits.waiting;
                (self.numbers.wait(most), most)
            }
            false => {
                let most = self.limits.syncs;
                (self.numbers.sync(most), most)
            }
        };
        let Some(place) = place else {
            let why = format!("{most} requests wait, which are the most");
            return Answer::Full(busy(&why));
        };
        let service = Arc::clone(self);
        let request = request.clone();
        Answer::Later(Box::new(move |wake| {
            let sync = match &work {
                Work::Vms(_) => Some(None),
                // What is no name of a zone is not there.
                Work::Vm(name, of) => {
                    (of.sync && is_zonename(name)).then_some(Some(name))
                }
            };
            let sync = sync.map(|name| {
                Sync(service.host.request(name, Arc::clone(&wake)))
            });
            let until = begun + service.time_for(&work);
            Box::new(Waiting {
                service,
                work,
                request,
                begun,
                until,
                sync,
                is_synced: false,
                searched: Duration::ZERO,
                wake,
                watching: None,
                _place: place,
            })
        }))
    }

    fn time_for(&self, work: &Work) -> Duration {
        let (asked, default) = match work {
            Work::Vms(of) => (of.timeout, self.limits.sync_time),
            Work::Vm(_, of) if of.wait.is_none() => {
                (of.timeout, self.limits.sync_time)
            }
            Work::Vm(_, of) => (of.timeout, self.limits.wait_time),
        };
        asked.unwrap_or(default)
    }

    fn events(self: &Arc<Self>, of: OfEvents, request: &Request) -> Answer {
        let uuid: Arc<str> = crate::os::random_uuid().into();
        let agent = request.user_agent.clone();
        let since = of.since.as_ref();
        let uuid_of = Arc::clone(&uuid);
        let subscribed = self.cache.subscribe(uuid_of, agent.clone(), since);
        let Some(subscription) = subscribed else {
            let most = self.limits.subscribers;
            let why = format!("{most} subscribers are the most");
            return Answer::Full(busy(&why));
        };
        let listening = Listening {
            hub: Arc::clone(&self.hub),
            id: subscription.id,
            is_taken: false,
        };
        let beginning = Beginning {
            uuid,
            epoch: Arc::clone(self.cache.epoch()),
            wanted: &of.wanted,
            form: of.snapshot,
        };
        let seq = subscription.seq;
        let mut missed = Vec::new();
        let first = match subscription.start {
            Start::Snapshot(snapshot) => {
                beginning.line(&snapshot, None, &self.hub, &self.snapshots)
            }
            Start::Reset(snapshot, why) => {
                self.numbers.resets.add(&[why.reason()]);
                beginning.line(&snapshot, Some(why), &self.hub, &self.snapshots)
            }
            Start::Resumed(lines) => {
                self.numbers.resumed();
                missed = lines;
                let from = of.since.as_ref().map_or(0, |since| since.seq);
                beginning.resumed(from, &self.hub)
            }
        };
        let fanout = Arc::clone(&self.fanout);
        let hub = Arc::clone(&self.hub);
        let wanted = of.wanted;
        Answer::Stream(Box::new(move |stream| {
            let mut subscriber =
                Subscriber::new(listening.id, seq, agent, wanted, stream);
            for text in ready::framed(first, &hub, subscriber.stream.chunked) {
                subscriber.push_free(Item::Text(text));
            }
            for line in missed {
                if let Some(line) = Told::new(&line).to(&subscriber.wanted) {
                    subscriber.push_free(Item::Event(line));
                }
            }
            listening.hand_over();
            fanout.join(subscriber);
        }))
    }
}

/// A listener of the hub, forgotten if nobody takes it over.
struct Listening {
    hub: Arc<Hub>,
    id: u64,
    is_taken: bool,
}

impl Listening {
    fn hand_over(mut self) {
        self.is_taken = true;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if !self.is_taken {
            self.hub.unsubscribe(self.id);
        }
    }
}

/// The body of one VM's answer.
pub(super) fn body_of(vm: &Vm, of: &OfVm) -> Body {
    match &of.fields {
        None => Body::Shared(Arc::clone(vm.json())),
        Some(fields) => {
            let mut part = Vec::new();
            fields.write(vm, &mut part);
            Body::Bytes(part)
        }
    }
}

/// An answer with its version, and the last event that it knows of.
pub(super) fn versioned(full: Full, etag: &str, seq: u64) -> Full {
    full.with("ETag", etag).with(SEQ_FIELD, &seq.to_string())
}

fn not_modified() -> Full {
    Full::new(304, JSON, Body::Bytes(Vec::new()))
}

/// What did not work, as JSON.
pub(super) fn failure(status: u16, error: &str) -> Full {
    let mut object = Object::new();
    object.set("error", error);
    Full::json(status, Json::from(object).to_bytes())
}

/// That there are too many; it is worth trying again.
pub(super) fn busy(why: &str) -> Full {
    Full::text(503, why).with("Retry-After", "1")
}

/// The array of VMs: their JSON is shared, not copied.
#[derive(Debug)]
struct Array(Arc<[Vm]>);

impl Pieces for Array {
    fn count(&self) -> usize {
        // The brackets, and a comma between two.
        (2 * self.0.len() + 1).max(2)
    }

    fn piece(&self, at: usize) -> &[u8] {
        match (at, at % 2) {
            (0, _) => b"[",
            _ if at + 1 == self.count() => b"]",
            (_, 0) => b",",
            _ => self.0[at / 2].json(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_of_vms_is_json() {
        let array = |vms: &[&str]| {
            let vm = |json: &&str| {
                let vm = Json::parse(json).unwrap();
                Vm::new(vm.as_object().unwrap())
            };
            let array = Array(vms.iter().map(vm).collect());
            let pieces = (0..array.count()).map(|at| array.piece(at));
            String::from_utf8(pieces.collect::<Vec<_>>().concat()).unwrap()
        };
        assert_eq!(array(&[]), "[]");
        assert_eq!(array(&["{}"]), "[{}]");
        assert_eq!(array(&["{}", "{\"a\":1}"]), "[{},{\"a\":1}]");
    }
}
