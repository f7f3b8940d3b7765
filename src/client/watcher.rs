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

/// What a watcher reports to its listener.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The stream has begun, or goes on after a break.
    Ready(&'a Ready),
    /// Something has happened, or must have happened while the stream was
    /// broken.
    Event(&'a Event),
    /// A VM can't be read, or an event of it can't.
    Unreadable(&'a Unreadable),
    /// The stream is broken. The watcher connects again.
    Broken(&'a Error),
    /// The stream can't go on. This is the last notice.
    Ended(&'a Error),
}

/// Keeps a mirror of VMs current, calls a listener, and waits for conditions.
///
/// ```no_run
#[doc = include_str!("../../examples/watch.rs")]
/// ```
pub struct Watcher {
    shared: Arc<Shared>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

/// The condition that a waiter waits for.
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
    /// The event after which the condition held.
    found: Option<Event>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Follows the events of `query`, and returns when the VMs are known. The
    /// watcher's own thread calls `listener` for each notice, in order. A slow
    /// listener delays the notices after it; if it is so slow that events are
    /// not read, the daemon ends the stream. The listener must not wait for
    /// anything that this watcher has to do first, such as
    /// [`Watcher::wait_for`].
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

    /// Like [`Watcher::start`], for a stream that is already open. `time` is
    /// how long the stream may take to begin.
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
            let asked = "can't start the watcher's thread".to_string();
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

    /// The VM with this zonename.
    #[must_use]
    pub fn vm(&self, zonename: &str) -> Option<Json> {
        self.shared.state.lock().mirror.vms().get(zonename).cloned()
    }

    /// Why the mirror may be out of date: the stream is broken.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.state.lock().trouble.clone()
    }

    /// The VMs that can't be read: see [`Mirror::unreadable`].
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.shared.state.lock().mirror.unreadable().cloned().collect()
    }

    /// Waits until the VM with this zonename is as wanted, however briefly;
    /// returns at once if it is already. `wanted` is called for each version of
    /// the VM, and with `None` while there is no VM. Returns the VM as it was
    /// then. `wanted` is called while the mirror is locked: it must not use
    /// this watcher, and must be fast.
    ///
    /// # Errors
    /// [`Error::TimeIsOver`] after `time`, with the VM as it is then.
    /// [`Error::Nonsense`] instead if the VM can't be read. [`Error::Ended`]
    /// with the reason if the watcher has ended.
    pub fn wait_for(
        &self,
        zonename: &str,
        mut wanted: impl FnMut(Option<&Json>) -> bool + Send + 'static,
        time: Duration,
    ) -> Result<Option<Json>, Error> {
        let until = after(time);
        let mut state = self.shared.state.lock();
        let now = state.mirror.vms().get(zonename);
        // A VM that can't be read does exist.
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
            // A listener may drop its own watcher: its thread can't join
            // itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Reports to all waiters that the watcher's thread has ended, even by a panic.
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
