//! Asks the daemon, once for each call.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::error::request;
use super::http::{self, Answer, INSTANT};
use super::lines;
use super::query::{Target, seconds};
use super::value::{self, Plain, take};
use super::{
    Address, Error, EventStream, EventsQuery, FormatError, Status, Vm, Vms,
    VmsQuery,
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

/// The header with the number of the last event before the answer was made.
const SEQ: &str = "x-vminfod-seq";

/// How the daemon's answer begins if there is no such VM.
const NOT_FOUND: &str = "VM Not Found";

/// The result of [`Client::sync`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Synced {
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
    /// If the variable is not an address.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self::new(Address::from_env()?))
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
        let Plain(answer) = self.document("/ping", self.time)?;
        match answer["ping"] == "pong" {
            true => Ok(()),
            false => Err(self.bad_answer("/ping", FormatError::NotPong)),
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
    pub fn vms(&self, query: VmsQuery) -> Result<Vms, Error> {
        self.vms_as(query.with_names())
    }

    /// Like [`Client::vms`], but reads each VM as `T`, a type of your own:
    ///
    /// ```no_run
    /// # use vminfod_client::{Client, VmsQuery};
    /// # use std::collections::BTreeMap;
    /// type Names = BTreeMap<String, String>;
    /// let query = VmsQuery::new().fields("uuid,alias");
    /// let names = Client::from_env()?.vms_as::<Names>(query)?.vms;
    /// # Ok::<(), vminfod_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Client::vms`]. A VM that is not of this type is in the list of
    /// those that can't be read.
    pub fn vms_as<T: DeserializeOwned>(
        &self,
        query: VmsQuery,
    ) -> Result<Vms<T>, Error> {
        let (vms, answer) = self.list(&query)?;
        if query.selects() {
            self.check_not_ignored("/vms", &answer)?;
        }
        Ok(vms)
    }

    /// VMs, and the answer that contained them.
    fn list<T: DeserializeOwned>(
        &self,
        query: &VmsQuery,
    ) -> Result<(Vms<T>, Answer), Error> {
        let path = query.target().into_text();
        let time =
            query.sync_time().unwrap_or_default().saturating_add(self.time);
        let limit = self.limit(time);
        let mut answer = self.get(&path, limit, |_| Ok(()))?;
        let text = self.text_of(&path, &mut answer, limit)?;
        let vms = lines::vms(&text).map_err(|e| self.bad_answer("/vms", e))?;
        Ok((vms, answer))
    }

    /// Checks that the daemon has read the parameters of the request. Today's
    /// vminfod ignores them; its answers have no number, which shows that.
    fn check_not_ignored(
        &self,
        path: &str,
        answer: &Answer,
    ) -> Result<(), Error> {
        match answer.field(SEQ) {
            Some(_) => Ok(()),
            None => Err(self.ignored(path)),
        }
    }

    /// The VM with this zonename or uuid, if there is one: `/vms/NAME`, and
    /// then `/vms?uuid=NAME`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn vm(&self, name: &str) -> Result<Option<Vm>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        let (vm, _) = self.one(Target::of_vm(name), self.time)?;
        if vm.is_some() {
            return Ok(vm);
        }
        let of_uuid = VmsQuery::new().equals("uuid", name);
        // Today's vminfod answers with all VMs.
        let (mut found, _) = self.list::<Vm>(&of_uuid)?;
        let vm = found.vms.into_iter().find(|vm| vm.uuid == name);
        match found.unreadable.pop().filter(|_| vm.is_none()) {
            Some(vm) => Err(self.bad_answer("/vms", FormatError::BadVm(vm))),
            None => Ok(vm),
        }
    }

    /// The VM with this zonename as it is on the system: the daemon loads it
    /// first, in at most `time`. The answer is not older than the request.
    ///
    /// # Errors
    /// If there is no answer; [`Error::Refused`] with status 504 if it could
    /// not be loaded in time.
    pub fn sync(
        &self,
        zonename: &str,
        time: Duration,
    ) -> Result<Synced, Error> {
        let mut target = Target::of_vm(zonename);
        target.add("sync", "1");
        target.add("timeout", &seconds(time));
        let (vm, answer) = self.one(target, time.saturating_add(self.time))?;
        let stale = answer.and_then(|a| a.field(STALE).map(String::from));
        Ok(Synced { vm, stale })
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
        let answer = http::ask(stream, &host, path, &self.agent, until)
            .map_err(error)?;
        match answer.status {
            200 => Ok(answer),
            _ => Err(self.refusal(path, answer, limit)),
        }
    }

    /// The error of an answer whose status is not 200.
    fn refusal(&self, path: &str, mut answer: Answer, limit: Limit) -> Error {
        let body = match answer.read_all(limit.until) {
            Ok(body) => body,
            Err(e) => return Error::of_io(e, &self.server, path, limit.time),
        };
        let said = String::from_utf8_lossy(&body).trim().to_string();
        let error = value::members(&said).ok();
        let error: Option<String> =
            error.and_then(|mut e| take(&mut e, "error"));
        if answer.status == 504
            && error.is_none()
            && let Ok(vm) = serde_json::from_str::<Option<Vm>>(&said)
        {
            return Error::NotMet { vm: vm.map(Arc::new) };
        }
        // Today's vminfod says so, too.
        let is_gone = answer.status == 404 && said.starts_with(NOT_FOUND);
        if is_gone && answer.field(SEQ).is_none() && has_query(path) {
            return self.ignored(path);
        }
        let said = error.as_ref().unwrap_or(&said);
        let message = said.chars().take(MESSAGE_MAX).collect();
        Error::Refused { status: answer.status, message }
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
                if message.starts_with(NOT_FOUND) =>
            {
                return Ok((None, None));
            }
            Err(e) => return Err(e),
        };
        let vm = self.document_of(&path, &mut answer, limit)?;
        if has_query(&path) {
            self.check_not_ignored(&path, &answer)?;
        }
        Ok((Some(vm), Some(answer)))
    }

    fn waited<T: DeserializeOwned>(
        &self,
        mut target: Target,
        time: Duration,
    ) -> Result<T, Error> {
        target.add("timeout", &seconds(time));
        let path = target.into_text();
        let limit = self.limit(time.saturating_add(self.time));
        let mut answer = self.get(&path, limit, |_| Ok(()))?;
        let document = self.document_of(&path, &mut answer, limit)?;
        self.check_not_ignored(&path, &answer).map(|()| document)
    }

    pub(crate) fn ignored(&self, path: &str) -> Error {
        Error::Ignored { request: request(&self.server, path) }
    }

    pub(crate) fn bad_answer(&self, path: &str, why: FormatError) -> Error {
        Error::of_answer(&self.server, path, why)
    }
}

/// Whether a request has parameters.
fn has_query(path: &str) -> bool {
    path.contains('?')
}

/// How long a request may take, and when that time is over. Connecting, head
/// and body count together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub time: Duration,
    pub until: Instant,
}

/// The moment that is `time` from now.
pub(crate) fn after(time: Duration) -> Instant {
    Instant::now() + time.min(TIME_MAX)
}
