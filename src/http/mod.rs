//! HTTP/1.1 on loopback: what clients see of the cache.
//!
//! [`request`] parses, [`query`] and [`route`] decide (all pure); the engine
//! accepts connections, reads and writes, the poller waits for those on which
//! nothing goes on, and the fan-out writes /events. None of these knows of
//! VMs; the service joins them with the cache.
//!
//! The engine is our own: tiny_http, which was wanted, leaves some of a dozen
//! simultaneous connections unanswered, and aborts on one request. See
//! docs/DEPENDENCIES.md.

mod answer;
mod connection;
mod deferred;
mod engine;
mod fanout;
mod numbers;
mod open;
mod poller;
mod pool;
pub mod query;
mod snapshot_line;
pub mod request;
pub mod route;
mod service;
mod subscriber;
mod vms;
pub mod subscription_filter;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::address::Address;
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
use engine::Engine;
use fanout::Fanout;
use numbers::HttpCounters;
use poller::Poller;
use route::Route;
use service::Service;
use vms::VmResponses;

/// Why the server can't listen.
#[derive(Debug)]
pub enum ListenError {
    /// Not on this address.
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
            Self::Thread(e) => write!(f, "a thread: {e}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// The daemon behind the cache.
pub trait Host: Send + Sync {
    /// The answer to /status; `full` asks for the long one.
    fn status(&self, full: bool) -> Json;

    /// What is counted outside of HTTP.
    fn metrics(&self, page: &mut Page);

    /// Asks for a load of this VM, or of all; `None` if too many are asked
    /// for already.
    fn request(
        &self,
        zonename: Option<&Arc<str>>,
        wake: Wake,
    ) -> Option<Arc<SyncRequest>>;

    /// What is wrong with what is served of a VM, or of all: source and error
    /// of each.
    fn faults(&self, zonename: Option<&str>) -> Vec<(Source, String)>;
}

/// The server: it answers from when it listens until it is stopped.
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
            numbers: HttpCounters::of(&Route::NAMES),
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
    /// If another process was quicker, or a thread can't be started.
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

    /// Once it is stopped: waits until every stream has got its last chunk,
    /// then closes every connection.
    pub fn end(&self) {
        self.threads.join();
        self.engine.close_all();
    }
}
