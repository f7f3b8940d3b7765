//! The client library: it asks the daemon for VMs, follows its events, and
//! keeps a mirror of its VMs. The program's own tools are built on it.
//!
//! Every call blocks, and everything has a time limit. The HTTP interface that
//! it uses is described in vminfod-http(7).
//!
//! ```no_run
#![doc = include_str!("../../examples/ask.rs")]
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

use std::fmt;
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub use crate::vm::diff::EventKind;
pub use error::Error;
pub use event::{Event, Ready, Unreadable, Vms};
pub use mirror::Mirror;
pub use query::{EventsQuery, HEARTBEAT, VmsQuery};
pub use stream::{EventStream, Item, Stopper};
pub use watcher::{Notice, Watcher};

use crate::address::Address;
use crate::os::net;
use crate::vm::json::Json;
use http::{Answer, INSTANT};
use query::{Target, seconds};

/// How long an answer may take, unless [`Client::time_limit`] was called.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The longest time that anything may take, a hundred years. A longer time
/// limit is cut to this.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 86400);

/// How many characters of the daemon's error text are kept.
const SAID_MAX: usize = 2000;

/// The header that names the sources that could not be understood; the VM has
/// their last good values.
const STALE: &str = "x-vminfod-stale";

/// The result of [`Client::sync`].
#[derive(Clone, Debug)]
pub struct Look {
    /// The VM, if there is one.
    pub vm: Option<Json>,
    /// The sources of the VM that can't be understood, joined by commas. The VM
    /// has their last good values.
    pub stale: Option<String>,
}

/// A client of one daemon. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    server: Address,
    agent: String,
    time: Duration,
    /// The deadline for all answers, if [`Client::until`] has set one.
    until: Option<Instant>,
}

impl Client {
    /// A client of the daemon that listens at this address.
    #[must_use]
    pub fn new(server: impl Into<Address>) -> Self {
        let server = server.into();
        let agent = concat!("vminfod/", env!("CARGO_PKG_VERSION")).to_string();
        Self { server, agent, time: TIME_LIMIT, until: None }
    }

    /// Sets the client's name for the daemon's log and for /status.
    #[must_use]
    pub fn name(mut self, agent: &str) -> Self {
        // A control character could end the header line.
        self.agent = agent.chars().filter(|c| !c.is_control()).collect();
        self
    }

    /// Sets how long an answer may take, from connecting to its last byte.
    /// [`Client::sync`] and [`Client::wait`] may take this much longer than the
    /// time they are given.
    #[must_use]
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.time = time.min(TIME_MAX);
        self
    }

    /// Sets a deadline for the last answer, however many requests are made and
    /// whatever time each may take. For a stream, it is the time by which the
    /// stream must be open.
    #[must_use]
    pub fn until(mut self, until: Instant) -> Self {
        self.until = Some(until);
        self
    }

    /// The address at which the daemon listens.
    #[must_use]
    pub fn server(&self) -> &Address {
        &self.server
    }

    /// Checks that the daemon is running and has loaded every VM: `/ping`.
    ///
    /// # Errors
    /// If it is not.
    pub fn ping(&self) -> Result<(), Error> {
        let answer = self.document("/ping", self.time)?;
        match answer.get("ping").and_then(Json::as_str) {
            Some("pong") => Ok(()),
            _ => Err(self.nonsense("/ping", format!("{answer}"))),
        }
    }

    /// The daemon's report on itself: `/status`. With `full`, it includes the
    /// log of reloads.
    ///
    /// # Errors
    /// If there is no answer, or not a valid one.
    pub fn status(&self, full: bool) -> Result<Json, Error> {
        let path = if full { "/status?full=true" } else { "/status" };
        let status = self.document(path, self.time)?;
        match status.as_object() {
            Some(_) => Ok(status),
            None => Err(self.nonsense(path, "the answer is not a JSON object")),
        }
    }

    /// VMs, in the daemon's order: `/vms`.
    ///
    /// # Errors
    /// If there is no answer, or the daemon does not understand the query.
    pub fn vms(&self, query: &VmsQuery) -> Result<Vms, Error> {
        let path = query.target().into_text();
        let time =
            query.sync_time().unwrap_or_default().saturating_add(self.time);
        let limit = self.limit(time);
        let mut answer = self.get(&path, limit, |_| Ok(()))?;
        let text = self.text_of(&path, &mut answer, limit)?;
        Vms::parse(&text).map_err(|e| self.nonsense("/vms", e))
    }

    /// The VM with this zonename or uuid, if there is one: `/vms/NAME`, and
    /// then `/vms?uuid=NAME`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn vm(&self, zonename: &str) -> Result<Option<Json>, Error> {
        let (vm, _) = self.one(Target::of_vm(zonename), self.time)?;
        if vm.is_some() {
            return Ok(vm);
        }
        let of_uuid = VmsQuery::new().equals("uuid", zonename);
        let mut found = self.vms(&of_uuid)?;
        match found.unreadable.pop() {
            Some(vm) => Err(self.nonsense("/vms", vm.to_string())),
            None => Ok(found.vms.pop()),
        }
    }

    /// The VM with this zonename as it is on the system: the daemon loads it
    /// first, in at most `time`. The answer is not older than the request.
    ///
    /// # Errors
    /// If there is no answer; [`Error::Refused`] with status 504 if it could
    /// not be loaded in time.
    pub fn sync(&self, zonename: &str, time: Duration) -> Result<Look, Error> {
        let mut target = Target::of_vm(zonename);
        target.add("sync", "1");
        target.add("timeout", &seconds(time));
        let (vm, answer) = self.one(target, time.saturating_add(self.time))?;
        let stale = answer.and_then(|a| a.field(STALE).map(String::from));
        Ok(Look { vm, stale })
    }

    /// Waits until the VM with this zonename meets all conditions at the same
    /// time, however briefly. Returns at once if it does already. Returns the
    /// VM as it was then. Values are written as for [`VmsQuery::condition`].
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

    /// Waits until there is no VM with this zonename.
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

    /// Opens a stream of the events of this query, from now on.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn events(&self, query: EventsQuery) -> Result<EventStream, Error> {
        EventStream::open(self.clone(), query, None)
    }

    /// Opens a stream of the events of this query that came after event `seq`
    /// of the daemon's life `epoch`. If the daemon no longer has them, the
    /// stream begins again, and says why.
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

    /// Sends a GET for any path. A status other than 200 is an error.
    /// `register` gets the socket before the request is sent.
    fn get(
        &self,
        path: &str,
        limit: Limit,
        register: impl FnOnce(&TcpStream) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let error = |e| Error::of_io(e, &self.server, path, limit.time);
        let left = limit.until.saturating_duration_since(Instant::now());
        let stream = net::connect(&self.server, left.max(INSTANT));
        let stream = stream.map_err(error)?;
        register(&stream)?;
        let (host, until) = (self.server.host(), limit.until);
        let mut answer = http::ask(stream, &host, path, &self.agent, until)
            .map_err(error)?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let body = answer.read_all(until).map_err(error)?;
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
        let said = error.unwrap_or(&said).chars().take(SAID_MAX).collect();
        Err(Error::Refused { status: answer.status, said })
    }

    /// The time limit of a request that may take `time` from now on. It ends
    /// earlier if [`Client::until`] says so.
    fn limit(&self, time: Duration) -> Limit {
        let until = after(time);
        match self.until {
            Some(end) if end < until => {
                let time = end.saturating_duration_since(Instant::now());
                Limit { time, until: end }
            }
            _ => Limit { time, until },
        }
    }

    fn document(&self, path: &str, time: Duration) -> Result<Json, Error> {
        let limit = self.limit(time);
        let mut answer = self.get(path, limit, |_| Ok(()))?;
        self.document_of(path, &mut answer, limit)
    }

    fn document_of(
        &self,
        path: &str,
        answer: &mut Answer,
        limit: Limit,
    ) -> Result<Json, Error> {
        let text = self.text_of(path, answer, limit)?;
        Json::parse(&text)
            .map_err(|e| self.nonsense(path, format!("not JSON: {e}")))
    }

    fn text_of(
        &self,
        path: &str,
        answer: &mut Answer,
        limit: Limit,
    ) -> Result<String, Error> {
        let error = |e| Error::of_io(e, &self.server, path, limit.time);
        let body = answer.read_all(limit.until).map_err(error)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// One VM, and the answer that contained it.
    fn one(
        &self,
        target: Target,
        time: Duration,
    ) -> Result<(Option<Json>, Option<Answer>), Error> {
        let (path, limit) = (target.into_text(), self.limit(time));
        let mut answer = match self.get(&path, limit, |_| Ok(())) {
            Ok(answer) => answer,
            Err(Error::Refused { status: 404, said })
                if said.starts_with("VM Not Found") =>
            {
                return Ok((None, None));
            }
            Err(e) => return Err(e),
        };
        match self.document_of(&path, &mut answer, limit)? {
            vm @ Json::Object(_) => Ok((Some(vm), Some(answer))),
            _ => Err(self.nonsense(&path, "the answer is not a JSON object")),
        }
    }

    fn waited(
        &self,
        mut target: Target,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        target.add("timeout", &seconds(time));
        let path = target.into_text();
        match self.document(&path, time.saturating_add(self.time))? {
            Json::Null => Ok(None),
            vm if vm.as_object().is_some() => Ok(Some(vm)),
            _ => Err(self.nonsense(&path, "the answer is not a JSON object")),
        }
    }

    fn nonsense(&self, path: &str, what: impl fmt::Display) -> Error {
        let path = path.split('?').next().unwrap_or(path);
        let asked = format!("{}{path}", self.server);
        Error::Nonsense { asked, what: what.to_string() }
    }
}

/// How long a request may take, and when that time is over. Connecting, head
/// and body count together.
#[derive(Clone, Copy, Debug)]
struct Limit {
    time: Duration,
    until: Instant,
}

/// The moment that is `time` from now.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(TIME_MAX)
}
