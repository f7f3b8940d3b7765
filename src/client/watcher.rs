//! A mirror of VMs that a thread keeps current.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Client, Error, Event, EventStream, EventsQuery, Item, Mirror};
use super::{Ready, Stopper, Unreadable, after};
use crate::vm::json::Json;

/// What a watcher tells who listens to it.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The stream has begun, or goes on.
    Ready(&'a Ready),
    /// Something has happened; or must have, while the stream was broken.
    Event(&'a Event),
    /// Something has happened to a VM, or it is there, and can't be read.
    Unreadable(&'a Unreadable),
    /// The stream is broken. It is tried again.
    Broken(&'a Error),
    /// The stream can't go on: nothing more is told.
    Ended(&'a Error),
}

/// Keeps a mirror of VMs current, calls back, and waits for what is wanted.
///
/// ```no_run
#[doc = include_str!("../../examples/watch.rs")]
/// ```
pub struct Watcher {
    shared: Arc<Shared>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

/// What a waiter wants of a VM.
type Wanted<'a> = dyn FnMut(Option<&Json>) -> bool + Send + 'a;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    mirror: Mirror,
    waiters: Vec<Waiter>,
    last_id: u64,
    has_begun: bool,
    trouble: Option<String>,
    ended: Option<Error>,
}

struct Waiter {
    id: u64,
    zonename: Arc<str>,
    wanted: Box<Wanted<'static>>,
    /// The event after which the VM was as wanted.
    found: Option<Event>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Follows the events of `query`, and returns when the VMs are there.
    /// `listener` is called by the watcher's own thread, in order; what it
    /// holds up comes later, and a daemon whose events are not taken ends the
    /// stream. It must not wait for what this watcher waits for.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn start(
        client: &Client,
        query: EventsQuery,
        listener: impl FnMut(Notice<'_>) + Send + 'static,
    ) -> Result<Self, Error> {
        Self::follow(client.events(query)?, client.time, listener)
    }

    /// As [`Watcher::start`], of a stream that was opened already. `time` is
    /// how long it may take to begin.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn follow(
        stream: EventStream,
        time: Duration,
        mut listener: impl FnMut(Notice<'_>) + Send + 'static,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        shared.state.lock().mirror = Mirror::new(stream.query().clone());
        let stopper = stream.stopper();
        let of_thread = Arc::clone(&shared);
        let run = move || {
            let mut end = End { shared: &of_thread, why: None };
            end.why = Some(of_thread.run(stream, &mut listener));
        };
        let spawned =
            std::thread::Builder::new().name("vminfod-watcher".into());
        let thread = spawned.spawn(run).map_err(|error| {
            let asked = "a thread that watches".to_string();
            Error::Broken { asked, error }
        })?;
        let watcher = Self { shared, stopper, thread: Some(thread) };
        let until = after(time);
        let mut state = watcher.shared.state.lock();
        while !state.has_begun {
            if let Some(error) = state.ended.take() {
                return Err(error);
            }
            if watcher.shared.changed.wait_until(&mut state, until).timed_out()
            {
                let asked = "/events".to_string();
                return Err(Error::Slow { asked, time });
            }
        }
        drop(state);
        Ok(watcher)
    }

    /// All VMs, by zonename. They are shared, not copied.
    #[must_use]
    pub fn vms(&self) -> BTreeMap<Arc<str>, Json> {
        self.shared.state.lock().mirror.vms().clone()
    }

    /// The VM of a zonename.
    #[must_use]
    pub fn vm(&self, zonename: &str) -> Option<Json> {
        self.shared.state.lock().mirror.vms().get(zonename).cloned()
    }

    /// Why the mirror may not be current: the stream is broken.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.state.lock().trouble.clone()
    }

    /// The VMs that can't be read: see [`Mirror::unreadable`].
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.shared.state.lock().mirror.unreadable().cloned().collect()
    }

    /// Waits until the VM of a zonename is as wanted, at once or as soon as it
    /// is, for however short: `wanted` sees each state, and `None` while there
    /// is none. Returns the VM as it was then. `wanted` is called while the
    /// mirror is locked: it must not use this watcher, nor take its time.
    ///
    /// # Errors
    /// [`Error::TimeIsOver`] after `time`, with the VM as it is, or
    /// [`Error::Nonsense`] if it can't be read; or why the watcher has ended.
    pub fn wait_for(
        &self,
        zonename: &str,
        mut wanted: impl FnMut(Option<&Json>) -> bool + Send + 'static,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        let until = after(time);
        let mut state = self.shared.state.lock();
        let now = state.mirror.vms().get(zonename);
        // One that can't be read is there.
        let is_known =
            now.is_some() || state.mirror.unreadable_as(zonename).is_none();
        if is_known && wanted(now) {
            return Ok(now.cloned());
        }
        state.last_id += 1;
        let id = state.last_id;
        let (zonename, wanted) = (Arc::from(zonename), Box::new(wanted));
        let waiter = Waiter { id, zonename, wanted, found: None };
        state.waiters.push(waiter);
        loop {
            let at = state.waiters.iter().position(|waiter| waiter.id == id);
            let found = at.map(|at| &mut state.waiters[at]);
            let found = found.and_then(|waiter| waiter.found.take());
            let is_over = Instant::now() >= until || state.ended.is_some();
            if found.is_none() && !is_over {
                self.shared.changed.wait_until(&mut state, until);
                continue;
            }
            let waiter = at.map(|at| state.waiters.swap_remove(at));
            if let Some(event) = found {
                return Ok(event.vm().cloned());
            }
            if let Some(why) = &state.ended {
                return Err(Error::Ended(why.to_string()));
            }
            let zonename = waiter.map(|waiter| waiter.zonename);
            let mirror = &state.mirror;
            let unreadable =
                zonename.as_ref().and_then(|name| mirror.unreadable_as(name));
            if let Some(vm) = unreadable {
                let (asked, what) = ("/events".to_string(), vm.to_string());
                return Err(Error::Nonsense { asked, what });
            }
            let vms = state.mirror.vms();
            let vm = zonename.and_then(|name| vms.get(&name).cloned());
            return Err(Error::TimeIsOver(vm));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A listener may end its own watcher.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Tells who waits that a watcher's thread has ended, even by a panic.
struct End<'a> {
    shared: &'a Shared,
    why: Option<Error>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let why = self.why.take().unwrap_or_else(|| {
            Error::Ended("a listener has panicked".to_string())
        });
        let mut state = self.shared.state.lock();
        state.trouble = Some(why.to_string());
        state.ended = Some(why);
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(
        &self,
        mut stream: EventStream,
        listener: &mut dyn FnMut(Notice<'_>),
    ) -> Error {
        loop {
            let item = match stream.next() {
                Ok(item) => item,
                Err(error) => {
                    listener(Notice::Ended(&error));
                    return error;
                }
            };
            match &item {
                Item::Ready(ready) => {
                    listener(Notice::Ready(ready));
                    for vm in &ready.unreadable {
                        listener(Notice::Unreadable(vm));
                    }
                }
                Item::Unreadable(vm) => listener(Notice::Unreadable(vm)),
                Item::Broken(error) => listener(Notice::Broken(error)),
                Item::Event(_) => {}
            }
            let events = self.state.lock().take_in(&item);
            self.changed.notify_all();
            for event in &events {
                listener(Notice::Event(event));
            }
        }
    }
}

impl State {
    fn take_in(&mut self, item: &Item) -> Vec<Event> {
        let events = self.mirror.apply(item);
        match item {
            Item::Ready(_) => (self.has_begun, self.trouble) = (true, None),
            Item::Broken(error) => self.trouble = Some(error.to_string()),
            Item::Event(_) | Item::Unreadable(_) => {}
        }
        for event in &events {
            for waiter in &mut self.waiters {
                let is_wanted = waiter.found.is_none()
                    && waiter.zonename == event.zonename
                    && (waiter.wanted)(event.vm());
                if is_wanted {
                    waiter.found = Some(event.clone());
                }
            }
        }
        events
    }
}
