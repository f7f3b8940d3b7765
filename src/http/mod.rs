//! HTTP/1.1 on loopback: what clients see of the picture.
//!
//! [`request`] parses, [`route`] decides (both pure), [`engine`] accepts
//! connections and writes answers, [`fanout`] writes /events to everyone.
//! Engine and fan-out know nothing of VMs; here both are joined with the
//! picture.
//!
//! The engine is our own: tiny_http, which was wanted, leaves some of a dozen
//! simultaneous connections unanswered, and aborts on one request. See
//! docs/DEPENDENCIES.md.

mod engine;
mod fanout;
pub mod request;
pub mod route;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::cache::{Cache, Snapshot, date_text};
use crate::config::HttpLimits;
use crate::hub::Hub;
use crate::json::{Json, Object, write_string};
use crate::os::net;
use engine::{Answer, Body, Engine, StreamStart};
use fanout::Fanout;
use request::Request;
use route::{Route, route};

/// Makes the answer to /status; `true` asks for the long one.
pub type StatusOf = Box<dyn Fn(bool) -> Json + Send + Sync>;

/// An address that is taken, and not listened on yet.
#[derive(Debug)]
pub struct Bound {
    /// The address, for messages.
    pub address: SocketAddr,
    /// The socket.
    pub socket: net::Bound,
}

/// The server: it answers from when it listens until it is ended.
pub struct Server {
    service: Arc<Service>,
    engine: Arc<Engine>,
    fanout: Arc<Fanout>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ended: AtomicBool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A server that does not listen yet.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(
        limits: HttpLimits,
        cache: Arc<Cache>,
        hub: Arc<Hub>,
        status: StatusOf,
    ) -> io::Result<Self> {
        let fanout =
            Arc::new(Fanout::new(Arc::clone(&hub), limits.write_stall_time));
        let service = Service {
            limits: limits.clone(),
            cache,
            hub,
            status,
            fanout: Arc::clone(&fanout),
        };
        Ok(Self {
            service: Arc::new(service),
            engine: Arc::new(Engine::new(limits)?),
            fanout,
            threads: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Listens and serves, in threads of its own.
    ///
    /// # Errors
    /// A sentence, if another process was quicker.
    pub fn listen(&self, bound: Vec<Bound>) -> Result<(), String> {
        let mut started = self.threads.lock();
        if self.ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut start = |name: String, run: Box<dyn FnOnce() + Send>| {
            match crate::threads::spawn(&name, run) {
                Ok(thread) => started.push(thread),
                Err(e) => return Err(format!("thread {name}: {e}")),
            }
            Ok(())
        };
        let fanout = Arc::clone(&self.fanout);
        start("http-events".into(), Box::new(move || fanout.run()))?;
        for Bound { address, socket } in bound {
            let listener = socket
                .listen()
                .map_err(|e| format!("can't listen on {address}: {e}"))?;
            // The port may have been left to the system.
            let address = listener.local_addr().unwrap_or(address);
            log::info!("listening on {address}");
            let engine = Arc::clone(&self.engine);
            let service = Arc::clone(&self.service);
            start(
                format!("http-{}", address.port()),
                Box::new(move || {
                    engine.accept_all(&listener, move |request| {
                        service.answer(request)
                    });
                }),
            )?;
        }
        Ok(())
    }

    /// Ends streams cleanly and closes every connection.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut *self.threads.lock());
        if !threads.is_empty() {
            self.fanout.end();
        }
        self.engine.end();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// What the answers are made of.
struct Service {
    limits: HttpLimits,
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    status: StatusOf,
    fanout: Arc<Fanout>,
}

impl Service {
    fn answer(&self, request: &Request) -> Answer {
        match route(&request.method, &request.target) {
            Route::Ping => json(200, b"{\"ping\":\"pong\"}".to_vec()),
            Route::Status { full } => json(200, (self.status)(full).to_bytes()),
            Route::Vms => Answer::new(
                200,
                engine::JSON,
                Body::Parts(array_of(self.cache.snapshot())),
            ),
            Route::Vm(name) => match self.cache.vm(&name) {
                Some(vm) => {
                    Answer::new(200, engine::JSON, Body::Parts(vec![vm]))
                }
                None => text(404, format!("VM Not Found: {name}")),
            },
            Route::Events => self.events(request),
            Route::Unsupported => text(404, "Unsupported URL Path".into()),
            Route::BadMethod => {
                Answer::new(400, engine::TEXT, Body::Bytes(Vec::new()))
            }
            Route::BadQuery(error) => {
                let mut object = Object::new();
                object.set("error", error);
                json(400, Json::from(object).to_bytes())
            }
        }
    }

    fn events(&self, request: &Request) -> Answer {
        let uuid: Arc<str> = crate::os::random_uuid().into();
        let agent = request.user_agent.clone();
        let subscribed = self.cache.subscribe(Arc::clone(&uuid), agent.clone());
        let Some(subscription) = subscribed else {
            let most = self.limits.subscribers;
            return text(503, format!("{most} subscribers are the most"))
                .retry_after();
        };
        let ready = ready_line(&uuid, &subscription.snapshot, &self.cache);
        let (id, cursor) = (subscription.id, subscription.cursor);
        let (hub, fanout) = (Arc::clone(&self.hub), Arc::clone(&self.fanout));
        Answer::Stream(StreamStart {
            first_line: ready,
            take_over: Box::new(move |stream| {
                let subscriber = fanout::Subscriber { id, agent, cursor };
                fanout.join(stream, subscriber);
            }),
            abandon: Box::new(move || hub.unsubscribe(id)),
        })
    }
}

fn json(status: u16, body: Vec<u8>) -> Answer {
    Answer::new(status, engine::JSON, Body::Bytes(body))
}

fn text(status: u16, body: String) -> Answer {
    Answer::new(status, engine::TEXT, Body::Bytes(body.into_bytes()))
}

/// The pieces of the array of all VMs: their JSON is shared, not copied.
fn array_of(snapshot: Snapshot) -> Vec<Arc<[u8]>> {
    let [begin, comma, end] = [&b"["[..], b",", b"]"].map(Arc::<[u8]>::from);
    let mut parts = Vec::with_capacity(snapshot.vms.len() * 2 + 1);
    for vm in snapshot.vms {
        let separator = if parts.is_empty() { &begin } else { &comma };
        parts.push(Arc::clone(separator));
        parts.push(vm);
    }
    if parts.is_empty() {
        parts.push(begin);
    }
    parts.push(end);
    parts
}

/// The first line of a stream. `vms` is the array of VMs as a *string*.
fn ready_line(uuid: &str, snapshot: &Snapshot, cache: &Cache) -> Vec<u8> {
    let size: usize = snapshot.vms.iter().map(|vm| vm.len()).sum();
    let mut out = Vec::with_capacity(size + size / 4 + 512);
    out.extend_from_slice(b"{\"type\":\"ready\",\"date\":");
    write_string(&date_text(std::time::SystemTime::now()), &mut out);
    out.extend_from_slice(b",\"uuid\":");
    write_string(uuid, &mut out);
    out.extend_from_slice(b",\"vms\":\"[");
    for (i, vm) in snapshot.vms.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        escape_json(vm, &mut out);
    }
    let seq = snapshot.seq;
    out.extend_from_slice(format!("]\",\"seq\":{seq},\"epoch\":").as_bytes());
    write_string(cache.epoch(), &mut out);
    out.extend_from_slice(b"}\n");
    out
}

/// Appends JSON as the content of a JSON string. JSON that we wrote has no
/// control characters, so that two bytes are all that is special.
fn escape_json(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_of_vms_is_json() {
        let array = |vms: &[&str]| {
            let vms = vms.iter().map(|vm| vm.as_bytes().into()).collect();
            let parts = array_of(Snapshot { vms, seq: 0 });
            String::from_utf8(parts.concat()).unwrap()
        };
        assert_eq!(array(&[]), "[]");
        assert_eq!(array(&["{}"]), "[{}]");
        assert_eq!(array(&["{}", "1"]), "[{},1]");
    }

    #[test]
    fn escaped_json_is_a_string_of_it() {
        let value = Json::parse(r#"{"a":"q\"\\\n\u0001é"}"#).unwrap();
        let mut out = b"\"".to_vec();
        escape_json(&value.to_bytes(), &mut out);
        out.push(b'"');
        let text = Json::parse(std::str::from_utf8(&out).unwrap()).unwrap();
        assert_eq!(Json::parse(text.as_str().unwrap()).unwrap(), value);
    }
}
