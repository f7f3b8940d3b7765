//! The client library: ask the daemon, follow its events, keep a mirror of
//! its VMs. The program's own tools stand on it.
//!
//! Everything blocks, and everything has a time limit. The interface behind
//! it is vminfod-http(7).
//!
//! ```no_run
//! use std::time::Duration;
//! use vminfod::client::{Client, VmsQuery};
//!
//! let client = Client::new("127.0.0.1:9090".parse()?).name("my-agent/1.0");
//! let running = VmsQuery::new().equals("state", "running").fields("alias");
//! for vm in client.vms(&running)? {
//!     println!("{vm}");
//! }
//! let minute = Duration::from_secs(60);
//! client.wait("5595d88c-…", &[("state", "running")], minute)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A JavaScript or Python client needs no library: see vminfod-http(7).

mod error;
mod event;
mod http;
mod mirror;
mod query;
mod stream;
mod watcher;

use std::net::SocketAddr;
use std::time::Duration;

pub use crate::hub::EventKind;
pub use error::Error;
pub use event::{Event, Ready};
pub use mirror::Mirror;
pub use query::{EventsQuery, HEARTBEAT, VmsQuery};
pub use stream::{EventStream, Item, Stopper};
pub use watcher::{Told, Watcher};

use crate::json::Json;
use http::Answer;
use query::{Target, seconds};

/// How long an answer may take, unless one says.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Asks one daemon; each question has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
    agent: String,
    time: Duration,
}

impl Client {
    /// A client of the daemon that listens there.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let agent = concat!("vminfod/", env!("CARGO_PKG_VERSION")).to_string();
        Self { server, agent, time: TIME_LIMIT }
    }

    /// What the daemon knows it by, in its log and in /status.
    #[must_use]
    pub fn name(mut self, agent: &str) -> Self {
        // What would end the line is none of a name.
        self.agent = agent.chars().filter(|c| !c.is_control()).collect();
        self
    }

    /// How long an answer may take, from the connection to its last byte. Of
    /// [`Client::sync`] and [`Client::wait`], how much longer than their own
    /// time.
    #[must_use]
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Whether the daemon is there, and has loaded every VM: `/ping`.
    ///
    /// # Errors
    /// If it is not.
    pub fn ping(&self) -> Result<(), Error> {
        let answer = self.document("/ping", self.time)?;
        match answer.get("ping").and_then(Json::as_str) {
            Some("pong") => Ok(()),
            _ => Err(self.nonsense("/ping", &format!("{answer}"))),
        }
    }

    /// How the daemon is: `/status`, in full with the log of reloads.
    ///
    /// # Errors
    /// If it does not say.
    pub fn status(&self, full: bool) -> Result<Json, Error> {
        let path = if full { "/status?full=true" } else { "/status" };
        let status = self.document(path, self.time)?;
        match status.as_object() {
            Some(_) => Ok(status),
            None => Err(self.nonsense(path, "no object")),
        }
    }

    /// VMs, in the daemon's order: `/vms`.
    ///
    /// # Errors
    /// If there is no answer, or the query is not understood.
    pub fn vms(&self, query: &VmsQuery) -> Result<Vec<Json>, Error> {
        let path = query.target().into_text();
        let time = query.sync_time().unwrap_or_default() + self.time;
        let vms = self.document(&path, time)?;
        match vms.as_array() {
            Some(vms) => Ok(vms.to_vec()),
            None => Err(self.nonsense("/vms", "no array")),
        }
    }

    /// The VM of a zonename, if there is one: `/vms/NAME`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn vm(&self, zonename: &str) -> Result<Option<Json>, Error> {
        self.one(Target::of_vm(zonename), self.time)
    }

    /// The VM of a zonename, which the daemon loads from the system first, in
    /// `time` at the most. The answer is not older than the question.
    ///
    /// # Errors
    /// If there is no answer; [`Error::Refused`] with status 504 if it could
    /// not be loaded in time.
    pub fn sync(
        &self,
        zonename: &str,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        let mut target = Target::of_vm(zonename);
        target.add("sync", "1");
        target.add("timeout", &seconds(time));
        self.one(target, time + self.time)
    }

    /// Waits until all of this holds of the VM of a zonename, at once or as
    /// soon as it does, for however short; returns the VM as it was then.
    /// Values are in the daemon's words, as [`VmsQuery::condition`] has them.
    ///
    /// # Errors
    /// [`Error::TimeIsOver`] after `time`.
    pub fn wait(
        &self,
        zonename: &str,
        conditions: &[(&str, &str)],
        time: Duration,
    ) -> Result<Json, Error> {
        let mut target = Target::of_vm(zonename);
        for (property, words) in conditions {
            target.add("wait", &format!("{property}={words}"));
        }
        Ok(self.waited(target, time)?.unwrap_or_default())
    }

    /// Waits until there is no VM of this zonename.
    ///
    /// # Errors
    /// [`Error::TimeIsOver`] after `time`.
    pub fn wait_gone(
        &self,
        zonename: &str,
        time: Duration,
    ) -> Result<(), Error> {
        let mut target = Target::of_vm(zonename);
        target.add("wait", "gone");
        self.waited(target, time).map(|_| ())
    }

    /// The events of this query, from now on.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn events(&self, query: EventsQuery) -> Result<EventStream, Error> {
        EventStream::open(self.clone(), query, None)
    }

    /// The events of this query that came after event `seq` of the daemon's
    /// life `epoch`. If they are no longer there, the stream begins anew, and
    /// says why.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn events_since(
        &self,
        query: EventsQuery,
        seq: u64,
        epoch: &str,
    ) -> Result<EventStream, Error> {
        let since = Some((seq, epoch.to_string()));
        EventStream::open(self.clone(), query, since)
    }

    /// The answer to a GET of any path, whatever its status is but 200.
    fn get(&self, path: &str, time: Duration) -> Result<Answer, Error> {
        let error = |e| Error::of_io(e, self.server, path, time);
        let mut answer =
            http::get(self.server, path, &self.agent, time).map_err(error)?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let body = answer.read_all().map_err(error)?;
        let said = String::from_utf8_lossy(&body).trim().to_string();
        if answer.status == 504
            && let Ok(vm) = Json::parse(&said)
            && vm.get("error").is_none()
        {
            let vm = if let Json::Null = vm { None } else { Some(vm) };
            return Err(Error::TimeIsOver(vm));
        }
        let error = Json::parse(&said).ok();
        let error = error.as_ref().and_then(|e| e.get("error")?.as_str());
        let said = error.map_or(said.clone(), str::to_string);
        Err(Error::Refused { status: answer.status, said })
    }

    fn document(&self, path: &str, time: Duration) -> Result<Json, Error> {
        let mut answer = self.get(path, time)?;
        let body = answer
            .read_all()
            .map_err(|e| Error::of_io(e, self.server, path, time))?;
        Json::parse(&String::from_utf8_lossy(&body))
            .map_err(|e| self.nonsense(path, &format!("not JSON: {e}")))
    }

    fn one(
        &self,
        target: Target,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        let path = target.into_text();
        match self.document(&path, time) {
            Ok(vm) if vm.as_object().is_some() => Ok(Some(vm)),
            Ok(_) => Err(self.nonsense(&path, "no object")),
            Err(Error::Refused { status: 404, said })
                if said.starts_with("VM Not Found") =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn waited(
        &self,
        mut target: Target,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        target.add("timeout", &seconds(time));
        let path = target.into_text();
        match self.document(&path, time + self.time)? {
            Json::Null => Ok(None),
            vm if vm.as_object().is_some() => Ok(Some(vm)),
            _ => Err(self.nonsense(&path, "no object")),
        }
    }

    fn nonsense(&self, path: &str, what: &str) -> Error {
        let path = path.split('?').next().unwrap_or(path);
        let asked = format!("{}{path}", self.server);
        Error::Nonsense { asked, what: what.to_string() }
    }
}
