//! The HTTP/1.1 server on loopback, through which clients read the cache.
//!
//! [`request`] parses the head of a request; [`query`] and [`route`] decide
//! what it asks for. All three are pure. The engine accepts connections, reads
//! requests and writes answers. The poller waits for connections on which
//! nothing happens, and the fan-out writes /events. None of these knows about
//! VMs; the service connects them with the cache.
//!
//! The engine is our own. tiny_http was asked for, but it leaves some of a
//! dozen simultaneous connections unanswered, and one request can make it
//! abort. See docs/DEPENDENCIES.md.

// What a request asks for.
pub mod request;
pub mod query;
pub mod subscription_filter;
pub mod route;

// Connections.
mod transfer;
mod poller;
mod waker;
mod pool;
mod open;
mod answer;
mod outgoing;
mod connection;
mod engine;

// What is answered.
mod subscriber;
mod fanout;
mod counters;
mod snapshot_line;
mod vms;
mod deferred;
mod service;

use std::fmt;
use std::io;
use std::sync::Arc;

use vminfod_client::Address;

use crate::cache::Cache;
use crate::hub::Hub;
use crate::metrics::Page;
use crate::os::net::Bound;
use crate::settings::HttpLimits;
use crate::source::Source;
use crate::sync::Wake;
use crate::sync_requests::SyncRequest;
use crate::threads::{Stop, Threads};
use crate::vm::json::Json;
use counters::HttpCounters;
use engine::Engine;
use fanout::Fanout;
use poller::Poller;
use route::Route;
use service::Service;
use vms::VmResponses;

/// Why the server can't listen.
#[derive(Debug)]
pub enum ListenError {
    /// It can't listen on this address.
    Address(Address, io::Error),
    /// A thread can't be started.
    Thread(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, e) => {
                write!(f, "can't listen on {address}: {e}")
            }
            Self::Thread(e) => {
                write!(f, "can't start a thread of the HTTP server: {e}")
            }
        }
    }
}

impl std::error::Error for ListenError {}

/// What the server needs from the daemon besides the cache and the hub.
pub trait Host: Send + Sync {
    /// The answer to /status; `full` asks for the long form.
    fn status(&self, full: bool) -> Json;

    /// Writes all metrics except those of the HTTP server.
    fn metrics(&self, page: &mut Page);

    /// Requests a load of this VM, or of all VMs if `zonename` is `None`.
    /// `wake` is called when the load is done. Returns `None` if too many loads
    /// are requested already.
    fn request(
        &self,
        zonename: Option<&Arc<str>>,
        wake: Wake,
    ) -> Option<Arc<SyncRequest>>;

    /// The faults that affect the served data of this VM, or of all VMs if
    /// `zonename` is `None`: source and error of each fault.
    fn faults(&self, zonename: Option<&str>) -> Vec<(Source, String)>;
}

/// The server. It answers requests from [`Server::listen`] until it is stopped.
pub struct Server {
    engine: Arc<Engine>,
    fanout: Arc<Fanout>,
    poller: Arc<Poller>,
    threads: Threads,
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
        host: Box<dyn Host>,
        stop: &Stop,
    ) -> io::Result<Self> {
        let poller = Poller::new(limits.unsent_bytes, stop.clone())?;
        let poller = Arc::new(poller);
        let fanout = Arc::new(Fanout::new(
            Arc::clone(&hub),
            Arc::clone(&poller),
            limits.clone(),
            stop.clone(),
        ));
        let vms = VmResponses {
            limits: limits.clone(),
            cache,
            hub,
            host,
            counters: HttpCounters::for_routes(&Route::NAMES),
        };
        let service = Arc::new(Service::new(vms, Arc::clone(&fanout)));
        let handler = Box::new(Arc::clone(&service));
        let engine = Engine::new(limits, Arc::clone(&poller), handler, stop)?;
        let engine = Arc::new(engine);
        service.set_engine(&engine);
        let threads = Threads::new(stop.clone());
        Ok(Self { engine, fanout, poller, threads })
    }

    /// Listens and serves, in threads of its own.
    ///
    /// # Errors
    /// If another process was quicker to listen on an address, or a thread
    /// can't be started.
    pub fn listen(&self, bound: Vec<Bound>) -> Result<(), ListenError> {
        let threads = &self.threads;
        let fanout = Arc::clone(&self.fanout);
        let events = threads.spawn("http-events", move || fanout.run());
        events.map_err(ListenError::Thread)?;
        let poller = Arc::clone(&self.poller);
        let poll = threads.spawn("http-poll", move || poller.run());
        poll.map_err(ListenError::Thread)?;
        for bound in bound {
            let address = bound.address().clone();
            let listener =
                bound.listen().map_err(|e| ListenError::Address(address, e))?;
            log::info!("listening on {}", listener.address());
            let engine = Arc::clone(&self.engine);
            let accept = move || engine.accept_all(&listener);
            let accept = threads.spawn("http-accept", accept);
            accept.map_err(ListenError::Thread)?;
        }
        Ok(())
    }

    /// To be called once the server is stopped: waits until every stream has
    /// got its last chunk, then closes every connection.
    pub fn end(&self) {
        self.threads.join();
        self.engine.close_all();
    }
}
