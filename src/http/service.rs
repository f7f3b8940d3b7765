//! Answers requests from the cache, and begins the streams of /events.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use super::answer::{Body, FullResponse, Handler, METRICS, Response};
use super::deferred::DeferredRequest;
use super::engine::Engine;
use super::fanout::Fanout;
use super::request::Request;
use super::route::{OfEvents, Route, route};
use super::snapshot_line;
use super::snapshot_line::{ReadyLine, Snapshots};
use super::subscriber::{OutgoingLine, Subscriber};
use super::subscription_filter::SharedEvent;
use super::vms::{VmResponses, busy, failure};
use crate::cache::Start;
use crate::hub::{EventLine, Hub};
use crate::metrics::Page;

/// Answers requests.
pub struct Service {
    vms: Arc<VmResponses>,
    fanout: Arc<Fanout>,
    snapshots: Snapshots,
    engine: OnceLock<Weak<Engine>>,
}

impl Handler for Arc<Service> {
    fn answer(&self, request: &Request, local: Option<IpAddr>) -> Response {
        let begun = Instant::now();
        if request.is_from_web_page
            || !request.has_own_host(local, &self.vms.limits.hosts)
        {
            let host = request.host.as_deref().unwrap_or_default();
            let why = match request.is_from_web_page {
                true => "refused: a web page in a browser sent this request"
                    .to_string(),
                false => format!(
                    "refused: Host {host:?} is not a name of this machine \
                     (see --allow-host)"
                ),
            };
            self.vms.counters.answered("other", 403, begun);
            return Response::Full(FullResponse::text(403, why).closing());
        }
        let route = route(&request.method, &request.target, &self.vms.limits);
        let name = route.name();
        let answer = self.answer_to(route, request, begun);
        match &answer {
            Response::Full(full) => {
                self.vms.counters.answered(name, full.status, begun);
            }
            Response::Stream(_) => self.vms.counters.answered(name, 200, begun),
            // It is counted when the answer is ready.
            Response::Deferred(_) => {}
        }
        answer
    }

    fn refused(&self, status: u16) {
        self.vms.counters.answered("other", status, Instant::now());
    }
}

impl Service {
    /// A service that answers from these VMs.
    pub fn new(vms: VmResponses, fanout: Arc<Fanout>) -> Self {
        Self {
            vms: Arc::new(vms),
            fanout,
            snapshots: Snapshots::default(),
            engine: OnceLock::new(),
        }
    }

    /// Sets the engine whose numbers /metrics shows.
    pub fn set_engine(&self, engine: &Arc<Engine>) {
        let _ = self.engine.set(Arc::downgrade(engine));
    }

    fn answer_to(
        self: &Arc<Self>,
        route: Route,
        request: &Request,
        begun: Instant,
    ) -> Response {
        Response::Full(match route {
            Route::Ping => {
                FullResponse::json(200, b"{\"ping\":\"pong\"}".to_vec())
            }
            Route::Status { full } => {
                FullResponse::json(200, self.vms.host.status(full).to_bytes())
            }
            Route::Metrics => {
                let page = self.metrics();
                FullResponse::new(200, METRICS, Body::Bytes(page.into_bytes()))
            }
            Route::Vms(of) if of.sync => {
                return DeferredRequest::Vms(of)
                    .answer(&self.vms, request, begun);
            }
            Route::Vms(of) => self.vms.all(&of, request),
            Route::Vm(name, of) if of.sync || of.wait.is_some() => {
                let name = self.zonename_of(name, request);
                return DeferredRequest::Vm(name.into(), of)
                    .answer(&self.vms, request, begun);
            }
            Route::Vm(name, of) => {
                let name = self.zonename_of(name, request);
                let (version, seq) = self.vms.cache.vm(&name);
                self.vms.one(&name, &of, version, seq, request)
            }
            Route::Events(of) => return self.events(of, request),
            Route::Unsupported => {
                FullResponse::text(404, "Unsupported URL Path")
            }
            Route::BadMethod => FullResponse::text(400, ""),
            Route::BadQuery(error) => failure(400, &error.to_string()),
        })
    }

    /// The zonename that the name in a path means. With a query, which today's
    /// clients do not send, the name may be the uuid of a VM, too.
    fn zonename_of(&self, name: String, request: &Request) -> String {
        let meant = request.target.contains('?');
        let meant = meant.then(|| self.vms.cache.zonename_of(&name)).flatten();
        meant.map_or(name, |zonename| zonename.to_string())
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.vms.host.metrics(&mut page);
        let engine = self.engine.get().and_then(Weak::upgrade);
        let engine = engine.map(|engine| engine.status());
        self.vms.counters.write(&mut page, engine, self.fanout.work());
        page.into_text()
    }

    fn events(self: &Arc<Self>, of: OfEvents, request: &Request) -> Response {
        let uuid: Arc<str> = crate::os::random_uuid().into();
        let agent = request.user_agent.clone();
        let since = of.since.as_ref();
        let uuid_of = Arc::clone(&uuid);
        let subscribed =
            self.vms.cache.subscribe(uuid_of, agent.clone(), since);
        let Some(subscription) = subscribed else {
            let most = self.vms.limits.subscribers;
            let why = format!(
                "{most} subscribers are connected already, the most allowed \
                 (setting subscribers); try again"
            );
            return Response::Full(busy(&why));
        };
        let listening = Listening {
            hub: Arc::clone(&self.vms.hub),
            id: subscription.id,
            is_taken: false,
        };
        let beginning = ReadyLine {
            uuid,
            epoch: Arc::clone(self.vms.cache.epoch()),
            wanted: &of.wanted,
            form: of.snapshot,
        };
        let seq = subscription.seq;
        let from = of.since.as_ref().map_or(0, |since| since.seq);
        let (first, missed) =
            self.first_lines(subscription.start, &beginning, from);
        let fanout = Arc::clone(&self.fanout);
        let hub = Arc::clone(&self.vms.hub);
        let wanted = of.wanted;
        Response::Stream(Box::new(move |stream| {
            let mut subscriber =
                Subscriber::new(listening.id, seq, agent, wanted, stream);
            for text in
                snapshot_line::framed(first, &hub, subscriber.stream.chunked)
            {
                subscriber.push_uncounted(OutgoingLine::Text(text));
            }
            for line in missed {
                if let Some(line) =
                    SharedEvent::new(&line).to(&subscriber.wanted)
                {
                    subscriber.push_uncounted(OutgoingLine::Event(line));
                }
            }
            listening.hand_over();
            fanout.join(subscriber);
        }))
    }

    /// The first line of a stream, and the events that a client has missed if
    /// it resumes after event `from`.
    fn first_lines(
        &self,
        start: Start,
        beginning: &ReadyLine<'_>,
        from: u64,
    ) -> (snapshot_line::LinePieces, Vec<Arc<EventLine>>) {
        let VmResponses { hub, counters, .. } = &*self.vms;
        let snapshots = &self.snapshots;
        match start {
            Start::Snapshot(snapshot) => {
                (beginning.line(&snapshot, None, hub, snapshots), Vec::new())
            }
            Start::Reset(snapshot, why) => {
                counters.resets.add(&[why.reason()]);
                let why = Some(why);
                (beginning.line(&snapshot, why, hub, snapshots), Vec::new())
            }
            Start::Resumed(missed) => {
                counters.resumed();
                (beginning.resumed(from, hub), missed)
            }
        }
    }
}

/// A subscription in the hub. Dropping it ends the subscription, unless the
/// fan-out has taken it over.
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
