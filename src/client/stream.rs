//! A stream of events that goes on by itself when its connection breaks.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::event::Line;
use super::http::Answer;
use super::{Client, Error, Event, EventsQuery, Ready};

/// How long to wait before a broken connection is made again; doubled with
/// each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long nobody looks whether there is something to read, at the most.
const LONG: Duration = Duration::from_secs(3600);

/// What comes from a stream.
#[derive(Debug)]
pub enum Item {
    /// It has begun, or goes on.
    Ready(Ready),
    /// Something has happened.
    Event(Event),
    /// The connection is broken. It is made again until that succeeds, or the
    /// time for that is over.
    Broken(Error),
}

/// The events of a daemon. If the connection breaks, or the daemon is started
/// again, it goes on: with all that was missed, or with a new snapshot and
/// the reason for that.
///
/// ```no_run
/// use vminfod::client::{Client, EventsQuery, Item};
///
/// let client = Client::new("127.0.0.1:9090".parse()?);
/// let mut stream = client.events(EventsQuery::new().path("state"))?;
/// loop {
///     match stream.next()? {
///         Item::Ready(ready) => match ready.reset {
///             Some(why) => eprintln!("begun anew: {why}"),
///             None => eprintln!("ready"),
///         },
///         Item::Event(event) => println!("{}", event.json),
///         Item::Broken(error) => eprintln!("{error}; trying again"),
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), vminfod::client::Error>(())
/// ```
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    query: EventsQuery,
    /// Number and daemon's life of the last event that is known.
    since: Option<(u64, String)>,
    answer: Option<Answer>,
    heard: Instant,
    trouble: Option<Trouble>,
    pause: Duration,
    retry_time: Option<Duration>,
    control: Arc<Control>,
}

/// What keeps a stream from going on.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    next: Instant,
    last: Option<Error>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<ControlState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ControlState {
    is_stopped: bool,
    socket: Option<TcpStream>,
}

/// Stops a stream from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    /// Ends the stream: who waits for its next item gets [`Error::Stopped`].
    pub fn stop(&self) {
        let mut state = self.0.state.lock();
        state.is_stopped = true;
        if let Some(socket) = state.socket.take() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.0.changed.notify_all();
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
            trouble: None,
            pause: PAUSE_MIN,
            retry_time: None,
            control: Arc::default(),
        };
        stream.connect()?;
        Ok(stream)
    }

    /// How long it tries to go on when it is broken; without this, for ever.
    #[must_use]
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_time = Some(time);
        self
    }

    /// What it was asked for.
    #[must_use]
    pub fn query(&self) -> &EventsQuery {
        &self.query
    }

    /// What stops it from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }

    /// The next item, however long that takes.
    ///
    /// # Errors
    /// If it can't go on, or was stopped.
    // It is no iterator: what comes after an error is up to the caller.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Item, Error> {
        loop {
            if let Some(item) = self.next_within(LONG)? {
                return Ok(item);
            }
        }
    }

    /// The next item, if it comes in `time`.
    ///
    /// # Errors
    /// If it can't go on, or was stopped.
    pub fn next_within(
        &mut self,
        time: Duration,
    ) -> Result<Option<Item>, Error> {
        let until = Instant::now() + time;
        loop {
            if self.control.state.lock().is_stopped {
                return Err(Error::Stopped);
            }
            if self.answer.is_none() {
                if !self.pause_until(until)? {
                    return Ok(None);
                }
                self.try_again()?;
                continue;
            }
            match self.read(until) {
                Ok(Some(Line::Ready(ready))) => {
                    self.since = Some((ready.seq, ready.epoch.clone()));
                    (self.trouble, self.pause) = (None, PAUSE_MIN);
                    return Ok(Some(Item::Ready(ready)));
                }
                Ok(Some(Line::Event(event))) => {
                    return Ok(Some(Item::Event(event)));
                }
                Ok(Some(Line::Heartbeat(_) | Line::Other)) => {}
                Ok(None) => return Ok(None),
                Err(error) => {
                    if self.control.state.lock().is_stopped {
                        return Err(Error::Stopped);
                    }
                    return self.broken(error).map(Some);
                }
            }
        }
    }

    /// The next line, if it comes by `until`.
    fn read(&mut self, until: Instant) -> Result<Option<Line>, Error> {
        let silence_max = self.query.silence_max();
        let deaf_at = self.heard + silence_max;
        let (server, time) = (self.client.server, self.client.time);
        let failed = |e: io::Error| Error::of_io(e, server, "/events", time);
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let wait = deaf_at.min(until);
        let wait = wait.saturating_duration_since(Instant::now());
        if !answer.wait(wait).map_err(failed)? {
            return match Instant::now() >= deaf_at {
                false => Ok(None),
                true => Err(Error::Slow {
                    asked: format!("{server}/events"),
                    time: silence_max,
                }),
            };
        }
        let text = answer.read_line(time).map_err(failed)?;
        self.heard = Instant::now();
        let Some(text) = text else {
            let end = "the daemon has ended the stream";
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, end);
            return Err(failed(error));
        };
        let line = Line::parse(&text);
        let line = line.map_err(|e| self.client.nonsense("/events", &e))?;
        self.check(&line)?;
        Ok(Some(line))
    }

    /// Counts a line, which has to be one that can come now.
    fn check(&mut self, line: &Line) -> Result<(), Error> {
        let is_whole = self.query.is_whole();
        let Some((last, _)) = &mut self.since else {
            return match line {
                Line::Ready(_) => Ok(()),
                _ => Err(self.client.nonsense("/events", "it is not ready")),
            };
        };
        let (seq, is_due) = match line {
            Line::Ready(_) | Line::Other => return Ok(()),
            // It may be of before the snapshot.
            Line::Heartbeat(seq) => (*seq, *seq <= *last || !is_whole),
            Line::Event(event) if is_whole => {
                (event.seq, event.seq == *last + 1)
            }
            Line::Event(event) => (event.seq, event.seq > *last),
        };
        if is_due {
            *last = seq.max(*last);
            return Ok(());
        }
        let what = format!("event {seq} after event {last}");
        Err(self.client.nonsense("/events", &what))
    }

    fn broken(&mut self, error: Error) -> Result<Item, Error> {
        self.answer = None;
        self.control.state.lock().socket = None;
        let now = Instant::now();
        let since = self.trouble.as_ref().map_or(now, |t| t.since);
        if !error.may_pass() || self.is_too_long(since) {
            return Err(error);
        }
        self.fail_again(since, None);
        Ok(Item::Broken(error))
    }

    fn try_again(&mut self) -> Result<(), Error> {
        let since = self.trouble.as_ref().map_or(Instant::now(), |t| t.since);
        match self.connect() {
            Ok(()) => Ok(()),
            Err(e) if !e.may_pass() || self.is_too_long(since) => Err(e),
            Err(e) => {
                self.fail_again(since, Some(e));
                Ok(())
            }
        }
    }

    fn is_too_long(&self, since: Instant) -> bool {
        self.retry_time.is_some_and(|time| since.elapsed() >= time)
    }

    fn fail_again(&mut self, since: Instant, last: Option<Error>) {
        let next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.trouble = Some(Trouble { since, next, last });
    }

    /// Waits until it is time to try again; `false` if that is after `until`.
    fn pause_until(&self, until: Instant) -> Result<bool, Error> {
        let next = self.trouble.as_ref().map_or(until, |t| t.next);
        let wait = next.min(until);
        let mut state = self.control.state.lock();
        while !state.is_stopped && Instant::now() < wait {
            self.control.changed.wait_until(&mut state, wait);
        }
        match state.is_stopped {
            true => Err(Error::Stopped),
            false => Ok(next <= until),
        }
    }

    fn connect(&mut self) -> Result<(), Error> {
        let since = self.since.as_ref().map(|(seq, epoch)| (*seq, &**epoch));
        let path = self.query.target(since).into_text();
        let answer = self.client.get(&path, self.client.time)?;
        let (server, time) = (self.client.server, self.client.time);
        let failed = |e| Error::of_io(e, server, "/events", time);
        let socket = answer.socket().map_err(failed)?;
        let mut state = self.control.state.lock();
        if state.is_stopped {
            return Err(Error::Stopped);
        }
        state.socket = Some(socket);
        self.answer = Some(answer);
        self.heard = Instant::now();
        Ok(())
    }

    /// Why it is broken, if it is.
    #[must_use]
    pub fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref().and_then(|trouble| trouble.last.as_ref())
    }
}
