//! The client library: ask the daemon, follow its events, keep a mirror of
//! its VMs. The program's own tools stand on it.
//!
//! Everything blocks, and everything has a time limit. The interface behind
//! it is vminfod-http(7).
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

/// How long an answer may take, unless one says.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The longest time that anything may take: longer ones are cut to this, a
/// hundred years.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 86400);

/// What is kept of an error's words, in characters.
const SAID_MAX: usize = 2000;

/// The field that names what could not be read, and is as it was before.
const STALE: &str = "x-vminfod-stale";

/// What [`Client::sync`] has found.
#[derive(Clone, Debug)]
pub struct Look {
    /// The VM, if there is one.
    pub vm: Option<Json>,
    /// Sources of it that can't be understood, joined by commas: what they
    /// say is as it was before.
    pub stale: Option<String>,
}

/// Asks one daemon; each question has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    server: Address,
    agent: String,
    time: Duration,
    /// When all answers have to be there, if that is said.
    until: Option<Instant>,
}

impl Client {
    /// A client of the daemon that listens there.
    #[must_use]
    pub fn new(server: impl Into<Address>) -> Self {
        let server = server.into();
        let agent = concat!("vminfod/", env!("CARGO_PKG_VERSION")).to_string();
        Self { server, agent, time: TIME_LIMIT, until: None }
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
        self.time = time.min(TIME_MAX);
        self
    }

    /// When the last answer has to be there, however many questions are asked,
    /// and whatever time each may take. Of a stream, when it has to be open.
    #[must_use]
    pub fn until(mut self, until: Instant) -> Self {
        self.until = Some(until);
        self
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn server(&self) -> &Address {
        &self.server
    }

    /// Whether the daemon is there, and has loaded every VM: `/ping`.
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
    pub fn vms(&self, query: &VmsQuery) -> Result<Vms, Error> {
        let path = query.target().into_text();
        let time =
            query.sync_time().unwrap_or_default().saturating_add(self.time);
        let limit = self.limit(time);
        let mut answer = self.get(&path, limit, |_| Ok(()))?;
        let text = self.text_of(&path, &mut answer, limit)?;
        Vms::parse(&text).map_err(|e| self.nonsense("/vms", e))
    }

    /// The VM of a zonename, if there is one: `/vms/NAME`.
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

    /// The VM of a zonename as it is on the system: the daemon loads it first,
    /// in at most `time`. The answer is not older than the question.
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
    /// life `epoch`. If they are no longer there, the stream begins again, and
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

    /// The answer to a GET of any path, whatever its status is but 200. The
    /// socket is shown to `register` before anything is waited for.
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

    /// The limit of a question that may take this long, from now on.
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

    /// One VM, and the answer that it came with.
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
            _ => Err(self.nonsense(&path, "no object")),
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
            _ => Err(self.nonsense(&path, "no object")),
        }
    }

    fn nonsense(&self, path: &str, what: impl fmt::Display) -> Error {
        let path = path.split('?').next().unwrap_or(path);
        let asked = format!("{}{path}", self.server);
        Error::Nonsense { asked, what: what.to_string() }
    }
}

/// How long a question may take, and when that is over: connection, head and
/// body together.
#[derive(Clone, Copy, Debug)]
struct Limit {
    time: Duration,
    until: Instant,
}

/// The moment after this time.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(TIME_MAX)
}
