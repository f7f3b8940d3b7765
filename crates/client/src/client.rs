//! Asks the daemon, once for each call.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::http::{self, Answer, INSTANT};
use super::lines;
use super::query::{Target, seconds};
use super::{
    Address, Error, EventStream, EventsQuery, FormatError, NotAnAddress,
    Status, Vm, Vms, VmsQuery,
};

/// How long an answer may take, unless [`Client::time_limit`] was called.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The longest time that anything may take, a hundred years. A longer time
/// limit is cut to this.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 86400);

/// How many characters of the daemon's error text are kept.
const MESSAGE_MAX: usize = 2000;

/// The header that names the sources that could not be understood; the VM has
/// their last good values.
const STALE: &str = "x-vminfod-stale";

/// The result of [`Client::sync`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Look {
    /// The VM, if there is one.
    pub vm: Option<Vm>,
    /// The sources of the VM that can't be understood, joined by commas. The VM
    /// has their last good values.
    pub stale: Option<String>,
}

/// A client of one daemon. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) server: Address,
    agent: String,
    pub(crate) time: Duration,
    /// The deadline for all answers, if [`Client::until`] has set one.
    pub(crate) until: Option<Instant>,
}

impl Client {
    /// A client of the daemon that listens at this address.
    #[must_use]
    pub fn new(server: impl Into<Address>) -> Self {
        let server = server.into();
        let agent =
            concat!("vminfod-client/", env!("CARGO_PKG_VERSION")).to_string();
        Self { server, agent, time: TIME_LIMIT, until: None }
    }

    /// A client of the daemon that the environment names: see
    /// [`Address::from_env`].
    ///
    /// # Errors
    /// If it names an address that is none.
    pub fn from_env() -> Result<Self, NotAnAddress> {
        Address::from_env().map(Self::new)
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
        let answer: serde_json::Value = self.document("/ping", self.time)?;
        match answer["ping"] == "pong" {
            true => Ok(()),
            false => Err(self.bad_answer("/ping", FormatError::NoPong)),
        }
    }

    /// The daemon's report on itself: `/status`. With `full`, it includes the
    /// log of reloads.
    ///
    /// # Errors
    /// If there is no answer, or not a valid one.
    pub fn status(&self, full: bool) -> Result<Status, Error> {
        let path = if full { "/status?full=true" } else { "/status" };
        self.document(path, self.time)
    }

    /// VMs, in the daemon's order: `/vms`.
    ///
    /// # Errors
    /// If there is no answer, or the daemon does not understand the query.
    pub fn vms(&self, query: &VmsQuery) -> Result<Vms, Error> {
        self.vms_as(&query.clone().with_names())
    }

    /// The same as a type of your own, which has what the query asks for:
    ///
    /// ```no_run
    /// # use vminfod_client::{Client, VmsQuery};
    /// # use std::collections::BTreeMap;
    /// type Names = BTreeMap<String, String>;
    /// let query = VmsQuery::new().fields("uuid,alias");
    /// let names = Client::from_env()?.vms_as::<Names>(&query)?.vms;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Client::vms`]. A VM that is not of this type is in the list of
    /// those that can't be read.
    pub fn vms_as<T: DeserializeOwned>(
        &self,
        query: &VmsQuery,
    ) -> Result<Vms<T>, Error> {
        let path = query.target().into_text();
        let time =
            query.sync_time().unwrap_or_default().saturating_add(self.time);
        let limit = self.limit(time);
        let mut answer = self.get(&path, limit, |_| Ok(()))?;
        let text = self.text_of(&path, &mut answer, limit)?;
        lines::vms(&text).map_err(|e| self.bad_answer("/vms", e))
    }

    /// The VM with this zonename or uuid, if there is one: `/vms/NAME`, and
    /// then `/vms?uuid=NAME`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn vm(&self, name: &str) -> Result<Option<Vm>, Error> {
        let (vm, _) = self.one(Target::of_vm(name), self.time)?;
        if vm.is_some() {
            return Ok(vm);
        }
        let of_uuid = VmsQuery::new().equals("uuid", name);
        let mut found = self.vms(&of_uuid)?;
        match found.unreadable.pop() {
            Some(vm) => Err(self.bad_answer("/vms", FormatError::BadVm(vm))),
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
    /// [`Error::NotMet`] after `time`.
    pub fn wait(
        &self,
        zonename: &str,
        conditions: &[(&str, &str)],
        time: Duration,
    ) -> Result<Vm, Error> {
        let mut target = Target::of_vm(zonename);
        for (property, words) in conditions {
            target.add("wait", &format!("{property}={words}"));
        }
        self.waited(target, time)
    }

    /// Waits until there is no VM with this zonename.
    ///
    /// # Errors
    /// [`Error::NotMet`] after `time`.
    pub fn wait_gone(
        &self,
        zonename: &str,
        time: Duration,
    ) -> Result<(), Error> {
        let mut target = Target::of_vm(zonename);
        target.add("wait", "gone");
        self.waited::<()>(target, time)
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
    pub(crate) fn get(
        &self,
        path: &str,
        limit: Limit,
        register: impl FnOnce(&TcpStream) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let error = |e| Error::of_io(e, &self.server, path, limit.time);
        let left = limit.until.saturating_duration_since(Instant::now());
        let stream = self.server.connect(left.max(INSTANT)).map_err(error)?;
        register(&stream)?;
        let (host, until) = (self.server.host(), limit.until);
        let mut answer = http::ask(stream, &host, path, &self.agent, until)
            .map_err(error)?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let body = answer.read_all(until).map_err(error)?;
        let said = String::from_utf8_lossy(&body).trim().to_string();
        let error = serde_json::from_str::<serde_json::Value>(&said);
        let error = error.ok().and_then(|e| Some(e.get("error")?.to_owned()));
        if answer.status == 504
            && error.is_none()
            && let Ok(vm) = serde_json::from_str::<Option<Vm>>(&said)
        {
            return Err(Error::NotMet { vm: vm.map(Arc::new) });
        }
        let said = error.as_ref().and_then(|e| e.as_str()).unwrap_or(&said);
        let message = said.chars().take(MESSAGE_MAX).collect();
        Err(Error::Refused { status: answer.status, message })
    }

    /// The time limit of a request that may take `time` from now on. It ends
    /// earlier if [`Client::until`] says so.
    pub(crate) fn limit(&self, time: Duration) -> Limit {
        let until = after(time);
        match self.until {
            Some(end) if end < until => {
                let time = end.saturating_duration_since(Instant::now());
                Limit { time, until: end }
            }
            _ => Limit { time, until },
        }
    }

    fn document<T: DeserializeOwned>(
        &self,
        path: &str,
        time: Duration,
    ) -> Result<T, Error> {
        let limit = self.limit(time);
        let mut answer = self.get(path, limit, |_| Ok(()))?;
        self.document_of(path, &mut answer, limit)
    }

    fn document_of<T: DeserializeOwned>(
        &self,
        path: &str,
        answer: &mut Answer,
        limit: Limit,
    ) -> Result<T, Error> {
        let text = self.text_of(path, answer, limit)?;
        let document = serde_json::from_str(&text);
        document.map_err(|e| self.bad_answer(path, e.into()))
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
    ) -> Result<(Option<Vm>, Option<Answer>), Error> {
        let (path, limit) = (target.into_text(), self.limit(time));
        let mut answer = match self.get(&path, limit, |_| Ok(())) {
            Ok(answer) => answer,
            Err(Error::Refused { status: 404, message })
                if message.starts_with("VM Not Found") =>
            {
                return Ok((None, None));
            }
            Err(e) => return Err(e),
        };
        let vm = self.document_of(&path, &mut answer, limit)?;
        Ok((Some(vm), Some(answer)))
    }

    fn waited<T: DeserializeOwned>(
        &self,
        mut target: Target,
        time: Duration,
    ) -> Result<T, Error> {
        target.add("timeout", &seconds(time));
        self.document(&target.into_text(), time.saturating_add(self.time))
    }

    pub(crate) fn bad_answer(&self, path: &str, why: FormatError) -> Error {
        Error::of_answer(&self.server, path, why)
    }
}

/// How long a request may take, and when that time is over. Connecting, head
/// and body count together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    time: Duration,
    until: Instant,
}

/// The moment that is `time` from now.
pub(crate) fn after(time: Duration) -> Instant {
    Instant::now() + time.min(TIME_MAX)
}
