//! A stream of events that reconnects by itself when its connection breaks.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::iter::FusedIterator;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Limit, TIME_MAX, after};
use super::http::{Answer, Piece};
use super::lines::Line;
use super::sync::Shared;
use super::{Address, Client, Error, Event, EventsQuery, FormatError, Ready};

/// The first pause before connecting again. Each pause is twice as long as the
/// one before.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. A stream that lasts as long counts as healthy again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest single wait for something to read, if the caller has no limit.
const LONG: Duration = Duration::from_secs(3600);

/// The events of a daemon. If the connection breaks, or the daemon is
/// restarted, the stream connects again and goes on: with all events that were
/// missed, or with a new snapshot and the reason for it.
///
/// As an iterator, it waits for the next event without a time limit. An error
/// means that the stream can't go on: it is the last item. The iterator also
/// ends when the stream is stopped.
///
/// ```no_run
#[doc = include_str!("../examples/follow.rs")]
/// ```
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    query: EventsQuery,
    /// The number of the last known event, and the epoch of the daemon's life.
    since: Option<(u64, String)>,
    answer: Option<Answer>,
    /// When the last line arrived.
    heard: Instant,
    /// When the last bytes of the next line arrived, and how many bytes of it
    /// there are; `None` if no part of it has arrived.
    begun: Option<(Instant, usize)>,
    /// When the stream last began or went on; `None` while it is broken.
    ready: Option<Instant>,
    trouble: Option<Trouble>,
    pause: Duration,
    retry_time: Option<Duration>,
    control: Arc<Shared<Control>>,
    /// The VMs to begin with, if the daemon does not send them because the
    /// stream is resumed.
    base: Option<Ready>,
}

/// What keeps a stream from going on. This is over when the stream has brought
/// something new, or has lasted long enough. A stream that always breaks right
/// after its beginning is therefore in trouble all the time.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    next: Instant,
    /// The last error, in words.
    why: String,
}

/// What the stream shares with the thread that connects and with [`Stopper`]s.
#[derive(Debug, Default)]
struct Control {
    is_stopped: bool,
    socket: Option<TcpStream>,
    attempt: Attempt,
}

/// The state of a reconnection. A thread of its own connects: that may take as
/// long as the server likes, and the caller must not have to wait for it.
#[derive(Debug, Default)]
enum Attempt {
    #[default]
    None,
    Connecting,
    Done(Box<Result<Answer, Error>>),
}

/// Stops a stream from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Shared<Control>>);

impl Stopper {
    /// Ends the stream: its iterator ends, and a caller of
    /// [`EventStream::next_within`] gets [`Error::Stopped`].
    pub fn stop(&self) {
        let mut control = self.0.lock();
        control.is_stopped = true;
        if let Some(socket) = control.socket.take() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.0.notify();
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // If a thread is still connecting, its result is not needed.
        self.stopper().stop();
    }
}

impl EventStream {
    pub(super) fn open(
        client: Client,
        query: EventsQuery,
        since: Option<(u64, String)>,
    ) -> Result<Self, Error> {
        let mut stream = Self {
            client,
            query,
            since,
            answer: None,
            heard: Instant::now(),
            begun: None,
            ready: None,
            trouble: None,
            pause: PAUSE,
            retry_time: None,
            control: Arc::default(),
            base: None,
        };
        if stream.since.is_some() && stream.query.has_snapshot() {
            stream.base = Some(stream.base()?);
        }
        let since = stream.since.as_ref().map(|(seq, e)| (*seq, &**e));
        let path = stream.query.target(since).into_text();
        stream.answer = Some(ask(&stream.client, &stream.control, &path)?);
        stream.heard = Instant::now();
        // The deadline was for opening the stream; reconnections have their own
        // time.
        stream.client.until = None;
        Ok(stream)
    }

    /// How long a broken stream tries to connect again. Without this call, it
    /// tries forever.
    #[must_use]
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_time = Some(time);
        self
    }

    /// The query of this stream.
    #[must_use]
    pub fn query(&self) -> &EventsQuery {
        &self.query
    }

    /// The address of the daemon.
    pub(crate) fn server(&self) -> &Address {
        &self.client.server
    }

    /// The number of the last event that was read, and the epoch of the
    /// daemon's life: what [`Client::events_since`] needs to go on here. `None`
    /// if events have no numbers.
    #[must_use]
    pub fn position(&self) -> Option<(u64, &str)> {
        self.since.as_ref().map(|(seq, epoch)| (*seq, epoch.as_str()))
    }

    /// A handle that stops the stream from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }

    /// The next event, if it comes in `time`.
    ///
    /// # Errors
    /// If the stream can't go on; [`Error::Stopped`] if it was stopped, or had
    /// ended already.
    pub fn next_within(
        &mut self,
        time: Duration,
    ) -> Result<Option<Event>, Error> {
        let next = self.next_by(after(time));
        if next.is_err() {
            self.stopper().stop();
        }
        next
    }

    fn next_by(&mut self, until: Instant) -> Result<Option<Event>, Error> {
        loop {
            if self.control.lock().is_stopped {
                return Err(Error::Stopped);
            }
            if self.answer.is_none() {
                if !self.connect_again(until)? {
                    return Ok(None);
                }
                continue;
            }
            match self.read(until) {
                Ok(Some(Line::Event(event, _))) => {
                    let Event::Ready(mut ready) = *event else {
                        self.is_well();
                        return Ok(Some(*event));
                    };
                    let base = self.base.take();
                    if let (None, Some(base)) = (&ready.vms, base) {
                        ready.vms = base.vms;
                        ready.vms_seq = base.vms_seq;
                        ready.unreadable = base.unreadable;
                    }
                    let is_numbered = !ready.epoch.is_empty();
                    if !is_numbered && !self.query.is_whole() {
                        return Err(self.client.ignored("/events"));
                    }
                    self.since =
                        is_numbered.then(|| (ready.seq, ready.epoch.clone()));
                    self.ready = Some(Instant::now());
                    return Ok(Some(Event::Ready(ready)));
                }
                Ok(Some(Line::Heartbeat(_) | Line::Other(_))) => {}
                Ok(None) if Instant::now() < until => {}
                Ok(None) => return Ok(None),
                Err(error) => {
                    if self.control.lock().is_stopped {
                        return Err(Error::Stopped);
                    }
                    return self.broken(error).map(Some);
                }
            }
        }
    }

    /// The next line, if it comes by `until`.
    fn read(&mut self, until: Instant) -> Result<Option<Line>, Error> {
        // A daemon that does not number its events does not send heartbeats
        // either: it may be silent for any length of time.
        let is_numbered = self.since.is_some() || self.ready.is_none();
        let silence_max = match is_numbered {
            true => self.query.silence_max(),
            false => TIME_MAX,
        };
        let deaf_at = self.heard + silence_max;
        let (server, time) = (self.client.server.clone(), self.client.time);
        let failed = |e: io::Error| Error::of_io(e, &server, "/events", time);
        let Some(answer) = &mut self.answer else { return Ok(None) };
        // A line that has begun must end in time, too.
        let late_at = self.begun.map_or(deaf_at, |(last, _)| last + time);
        let piece = answer.read_line(until.min(late_at)).map_err(failed)?;
        let text = match piece {
            Piece::Line(text) => text,
            Piece::End => {
                let end = "the daemon has ended the stream";
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, end);
                return Err(failed(error));
            }
            Piece::Later { bytes } => {
                let now = Instant::now();
                // A line may be of any length and take any time, as long as its
                // bytes keep arriving.
                if bytes > self.begun.map_or(0, |(_, before)| before) {
                    self.begun = Some((now, bytes));
                    return Ok(None);
                }
                let time = if bytes > 0 { time } else { silence_max };
                let request = format!("{server}/events");
                return match now >= late_at {
                    false => Ok(None),
                    true => Err(Error::Timeout { request, time }),
                };
            }
        };
        (self.heard, self.begun) = (Instant::now(), None);
        let line = Line::parse(&text).and_then(|line| self.checked(line));
        line.map(Some).map_err(|e| self.client.bad_answer("/events", e))
    }

    /// Checks that a line may come now, and keeps its number.
    fn checked(&mut self, line: Line) -> Result<Line, FormatError> {
        let is_whole = self.query.is_whole();
        let Some((last, _)) = &mut self.since else {
            return match line {
                Line::Event(_, None) => Ok(line),
                // Without numbers, there is nothing to check.
                _ if self.ready.is_some() => Ok(line),
                _ => Err(FormatError::NotReady),
            };
        };
        let (seq, is_due) = match &line {
            Line::Event(_, None) | Line::Other(_) => return Ok(line),
            // A heartbeat may have a number from before the snapshot.
            Line::Heartbeat(seq) => (*seq, *seq <= *last || !is_whole),
            Line::Event(_, Some(seq)) => {
                let is_next = last.checked_add(1) == Some(*seq);
                (*seq, is_next || (!is_whole && *seq > *last))
            }
        };
        if !is_due {
            return Err(FormatError::OutOfOrder { seq, last: *last });
        }
        *last = seq.max(*last);
        Ok(line)
    }

    /// Notes that the stream is healthy again.
    fn is_well(&mut self) {
        (self.trouble, self.pause) = (None, PAUSE);
    }

    fn broken(&mut self, error: Error) -> Result<Event, Error> {
        let ready = self.ready.take();
        if ready.is_some_and(|at| at.elapsed() >= PAUSE_MAX) {
            self.is_well();
        }
        self.answer = None;
        self.control.lock().socket = None;
        let now = Instant::now();
        let since = self.trouble.as_ref().map_or(now, |t| t.since);
        self.fail_again(since, &error);
        match error.is_transient() && !self.is_too_long(since) {
            true => Ok(Event::Broken(Arc::new(error))),
            false => Err(error),
        }
    }

    /// Starts a reconnection when it is due, and takes its result. `false` if
    /// there is no result by `until`.
    fn connect_again(&mut self, until: Instant) -> Result<bool, Error> {
        let control = Arc::clone(&self.control);
        let mut state = control.lock();
        let give_up = self.trouble.as_ref().zip(self.retry_time);
        let give_up = give_up.map(|(t, time)| t.since + time.min(TIME_MAX));
        let until = give_up.map_or(until, |at| at.min(until));
        loop {
            if state.is_stopped {
                return Err(Error::Stopped);
            }
            let wait = match std::mem::take(&mut state.attempt) {
                Attempt::Done(result) => {
                    drop(state);
                    return self.tried(*result).map(|()| true);
                }
                Attempt::Connecting => {
                    state.attempt = Attempt::Connecting;
                    until
                }
                Attempt::None => {
                    let next = self.trouble.as_ref().map(|t| t.next);
                    let next = next.filter(|next| Instant::now() < *next);
                    if next.is_none() {
                        self.try_again()?;
                        state.attempt = Attempt::Connecting;
                    }
                    next.unwrap_or(until).min(until)
                }
            };
            state = control.wait(state, wait);
            let is_done = matches!(state.attempt, Attempt::Done(_));
            if !is_done && wait == until && Instant::now() >= until {
                if give_up != Some(until) {
                    return Ok(false);
                }
                // A thread that is still connecting is not needed any more.
                if let Some(socket) = state.socket.take() {
                    let _ = socket.shutdown(Shutdown::Both);
                }
                let why = self.trouble().unwrap_or_default().to_string();
                return Err(Error::Ended { why });
            }
        }
    }

    /// Starts a thread that connects again.
    fn try_again(&self) -> Result<(), Error> {
        let since = self.since.as_ref().map(|(seq, epoch)| (*seq, &**epoch));
        let path = self.query.target(since).into_text();
        let (client, control) =
            (self.client.clone(), Arc::clone(&self.control));
        let thread = std::thread::Builder::new().name("connect".to_string());
        let spawned = thread.spawn(move || {
            let result = ask(&client, &control, &path);
            let mut state = control.lock();
            if !state.is_stopped {
                state.attempt = Attempt::Done(Box::new(result));
            }
            control.notify();
        });
        let request = "can't start a thread that connects".to_string();
        spawned.map(|_| ()).map_err(|source| Error::Io { request, source })
    }

    fn tried(&mut self, result: Result<Answer, Error>) -> Result<(), Error> {
        let since = self.trouble.as_ref().map_or(Instant::now(), |t| t.since);
        match result {
            Ok(answer) => {
                self.answer = Some(answer);
                (self.heard, self.begun) = (Instant::now(), None);
                Ok(())
            }
            Err(e) => {
                self.control.lock().socket = None;
                let is_end = !e.is_transient() || self.is_too_long(since);
                self.fail_again(since, &e);
                if is_end { Err(e) } else { Ok(()) }
            }
        }
    }

    fn is_too_long(&self, since: Instant) -> bool {
        self.retry_time.is_some_and(|time| since.elapsed() >= time)
    }

    fn fail_again(&mut self, since: Instant, why: &Error) {
        // The pause is random, so that not all clients of a daemon that went
        // away come back at once.
        let next = Instant::now() + self.pause.mul_f64(random_from_half());
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let why = why.to_string();
        self.trouble = Some(Trouble { since, next, why });
    }

    /// The VMs that a resumed stream needs to begin with, read from the
    /// snapshot of a second stream. They may be newer than the event after
    /// which this stream goes on; its events lead up to them.
    fn base(&self) -> Result<Ready, Error> {
        let path = self.query.target(None).into_text();
        let Limit { time, until } = self.client.limit(self.client.time);
        let mut answer = ask(&self.client, &self.control, &path)?;
        let failed = |e| Error::of_io(e, &self.client.server, "/events", time);
        let ready = match answer.read_line(until).map_err(failed)? {
            Piece::Line(text) => text.parse(),
            Piece::Later { .. } => {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            Piece::End => Err(FormatError::NotReady),
        };
        let bad = |e| self.client.bad_answer("/events", e);
        match ready.map_err(bad)? {
            Event::Ready(ready) if ready.vms.is_some() => Ok(ready),
            _ => Err(bad(FormatError::NotReady)),
        }
    }

    /// Why the stream is broken, if it is.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        let trouble = self.trouble.as_ref().filter(|_| self.ready.is_none());
        trouble.map(|trouble| trouble.why.as_str())
    }
}

impl Iterator for EventStream {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            match self.next_within(LONG) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(Error::Stopped) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl FusedIterator for EventStream {}

/// A random number between 0.5 and 1.
fn random_from_half() -> f64 {
    let bits = RandomState::new().hash_one(Instant::now());
    #[allow(clippy::cast_precision_loss)]
    let fraction = bits as f64 / u64::MAX as f64;
    0.5 + fraction / 2.0
}

/// Requests a stream. Its socket is given to `control`, so that the stream can
/// be stopped meanwhile.
fn ask(
    client: &Client,
    control: &Shared<Control>,
    path: &str,
) -> Result<Answer, Error> {
    let time = client.time;
    client.get(path, client.limit(time), |socket| {
        let socket = socket.try_clone();
        let socket = socket
            .map_err(|e| Error::of_io(e, &client.server, "/events", time))?;
        let mut state = control.lock();
        if state.is_stopped {
            return Err(Error::Stopped);
        }
        state.socket = Some(socket);
        Ok(())
    })
}
