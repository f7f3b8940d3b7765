//! A mirror of VMs that a thread keeps current.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::after;
use super::sync::Shared;
use super::{
    Address, Client, Error, Event, EventStream, EventsQuery, FormatError,
};
use super::{Mirror, Stopper, Unreadable, Vm};

/// Keeps a mirror of VMs current, calls a listener, and waits for conditions.
///
/// ```no_run
#[doc = include_str!("../examples/watch.rs")]
/// ```
pub struct Watcher {
    server: Address,
    shared: Arc<Shared<State>>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

/// The condition that a waiter waits for.
type Condition = dyn FnMut(Option<&Vm>) -> bool + Send;

#[derive(Default)]
struct State {
    mirror: Mirror,
    waiters: Vec<Waiter>,
    last_id: u64,
    /// Whether the VMs are known.
    has_snapshot: bool,
    /// Whether the listener knows it, too.
    has_begun: bool,
    trouble: Option<String>,
    ended: Option<Error>,
}

struct Waiter {
    id: u64,
    zonename: String,
    wanted: Box<Condition>,
    /// The VM when the condition held: `Some(None)` if there was none.
    found: Option<Option<Arc<Vm>>>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Follows the events of `query`, and returns when the VMs are known. The
    /// watcher's own thread calls `listener` for each event, in order, and for
    /// what must have happened while the stream was broken. With an error, it
    /// is called a last time: the stream can't go on. A slow listener delays
    /// the events after it; if it is so slow that events are not read, the
    /// daemon ends the stream. The listener must not wait for anything that
    /// this watcher has to do first, such as [`Watcher::wait_for`]; nor for a
    /// lock of a thread that drops the watcher, since that waits for the
    /// listener.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn start(
        client: &Client,
        query: EventsQuery,
        listener: impl FnMut(Result<&Event, &Error>) + Send + 'static,
    ) -> Result<Self, Error> {
        let stream = client.events(query.with_snapshot())?;
        let time = client.limit(client.time).time;
        Self::follow(stream, time, listener)
    }

    /// Like [`Watcher::start`], for a stream that is already open, and whose
    /// query has a snapshot: without one, no VM is known. `time` is how long the
    /// stream may take to begin.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub fn follow(
        stream: EventStream,
        time: Duration,
        mut listener: impl FnMut(Result<&Event, &Error>) + Send + 'static,
    ) -> Result<Self, Error> {
        let shared: Arc<Shared<State>> = Arc::default();
        shared.lock().mirror = Mirror::new(stream.query().clone());
        let stopper = stream.stopper();
        let server = stream.server().clone();
        let of_thread = Arc::clone(&shared);
        let follow = move || {
            let mut end = End { shared: &of_thread, why: None };
            end.why = Some(run(&of_thread, stream, &mut listener));
        };
        let spawned =
            std::thread::Builder::new().name("vminfod-watcher".into());
        let thread = spawned.spawn(follow).map_err(|source| {
            let request = "can't start the watcher's thread".to_string();
            Error::Io { request, source }
        })?;
        let watcher = Self { server, shared, stopper, thread: Some(thread) };
        let until = after(time);
        let mut state = watcher.shared.lock();
        while !state.has_begun {
            if let Some(error) = state.ended.take() {
                return Err(error);
            }
            if Instant::now() >= until && !state.has_snapshot {
                let request = format!("{}/events", watcher.server);
                return Err(Error::Timeout { request, time });
            }
            // Then only the listener takes its time.
            let until = if state.has_snapshot { after(time) } else { until };
            state = watcher.shared.wait(state, until);
        }
        drop(state);
        Ok(watcher)
    }

    /// All VMs, by zonename. They are shared, not copied.
    #[must_use]
    pub fn vms(&self) -> BTreeMap<String, Arc<Vm>> {
        self.shared.lock().mirror.vms().clone()
    }

    /// The VM with this zonename.
    #[must_use]
    pub fn vm(&self, zonename: &str) -> Option<Arc<Vm>> {
        self.shared.lock().mirror.vms().get(zonename).cloned()
    }

    /// Why the mirror may be out of date: the stream is broken.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// The VMs that can't be read: see [`Mirror::unreadable`].
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.shared.lock().mirror.unreadable().cloned().collect()
    }

    /// Waits until the VM with this zonename is as wanted, however briefly;
    /// returns at once if it is already. `wanted` is called for each version of
    /// the VM, and with `None` while there is no VM. Returns the VM as it was
    /// then. `wanted` is called while the mirror is locked: it must not use
    /// this watcher, and must be fast. If it panics, the watcher ends.
    ///
    /// # Errors
    /// [`Error::NotMet`] after `time`, with the VM as it is then.
    /// [`Error::BadAnswer`] instead if the VM can't be read. [`Error::Ended`]
    /// with the reason if the watcher has ended.
    pub fn wait_for(
        &self,
        zonename: &str,
        mut wanted: impl FnMut(Option<&Vm>) -> bool + Send + 'static,
        time: Duration,
    ) -> Result<Option<Arc<Vm>>, Error> {
        let until = after(time);
        let mut state = self.shared.lock();
        let now = state.mirror.vms().get(zonename);
        // A VM that can't be read does exist.
        let is_known =
            now.is_some() || state.mirror.unreadable_as(zonename).is_none();
        if is_known && wanted(now.map(|vm| &**vm)) {
            return Ok(now.cloned());
        }
        state.last_id += 1;
        let id = state.last_id;
        let (name, wanted) = (zonename.to_string(), Box::new(wanted));
        state.waiters.push(Waiter { id, zonename: name, wanted, found: None });
        loop {
            let at = state.waiters.iter().position(|waiter| waiter.id == id);
            let found = at.and_then(|at| state.waiters[at].found.take());
            let is_over = Instant::now() >= until || state.ended.is_some();
            if found.is_none() && !is_over {
                state = self.shared.wait(state, until);
                continue;
            }
            at.map(|at| state.waiters.swap_remove(at));
            if let Some(vm) = found {
                return Ok(vm);
            }
            if let Some(why) = &state.ended {
                return Err(Error::Ended { why: why.to_string() });
            }
            if let Some(vm) = state.mirror.unreadable_as(zonename) {
                let source = FormatError::BadVm(vm.clone());
                return Err(Error::of_answer(&self.server, "/events", source));
            }
            let vm = state.mirror.vms().get(zonename).cloned();
            return Err(Error::NotMet { vm });
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
    shared: &'a Shared<State>,
    why: Option<Error>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let why = self.why.take().unwrap_or_else(|| Error::Ended {
            why: "a listener or a condition has panicked".to_string(),
        });
        let mut state = self.shared.lock();
        state.trouble = Some(why.to_string());
        state.ended = Some(why);
        drop(state);
        self.shared.notify();
    }
}

/// Follows the stream to its end. Returns why it has ended.
fn run(
    shared: &Shared<State>,
    mut stream: EventStream,
    listener: &mut dyn FnMut(Result<&Event, &Error>),
) -> Error {
    loop {
        let error = match stream.next() {
            Some(Ok(event)) => {
                let is_ready = matches!(event, Event::Ready(_));
                let events = shared.lock().take_in(event);
                shared.notify();
                for event in &events {
                    listener(Ok(event));
                }
                if is_ready {
                    // Only now: what follows the start of a watcher comes after
                    // what its listener does first.
                    shared.lock().has_begun = true;
                    shared.notify();
                }
                continue;
            }
            Some(Err(error)) => error,
            None => Error::Stopped,
        };
        listener(Err(&error));
        return error;
    }
}

impl State {
    /// Asks all waiters about the VMs as they are now.
    fn ask_waiters(&mut self) {
        for waiter in &mut self.waiters {
            let vm = self.mirror.vms().get(&waiter.zonename);
            let unreadable = self.mirror.unreadable_as(&waiter.zonename);
            let is_known = vm.is_some() || unreadable.is_none();
            if waiter.found.is_none()
                && is_known
                && (waiter.wanted)(vm.map(|vm| &**vm))
            {
                waiter.found = Some(vm.cloned());
            }
        }
    }

    fn take_in(&mut self, event: Event) -> Vec<Event> {
        match &event {
            Event::Ready(_) => (self.has_snapshot, self.trouble) = (true, None),
            Event::Broken(error) => self.trouble = Some(error.to_string()),
            _ => {}
        }
        let is_ready = matches!(event, Event::Ready(_));
        let events = self.mirror.apply(event);
        if is_ready {
            self.ask_waiters();
        }
        for event in &events {
            let Some(header) = event.header() else { continue };
            for waiter in &mut self.waiters {
                let vm = event.vm();
                let is_wanted = waiter.found.is_none()
                    && waiter.zonename == header.zonename
                    && (waiter.wanted)(vm.map(|vm| &**vm));
                if is_wanted {
                    waiter.found = Some(vm.cloned());
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_snapshot_can_show_that_a_condition_holds() {
        let ready = |vms: &str| -> Event {
            let line = format!(
                r#"{{"type":"ready","date":"d","uuid":"u","seq":1,"epoch":"e","vms":{vms}}}"#
            );
            line.parse().unwrap()
        };
        let mut state = State::default();
        // A VM that can't be read may be any one.
        state.take_in(ready("[5]"));
        state.waiters.push(Waiter {
            id: 1,
            zonename: "x".to_string(),
            wanted: Box::new(|vm| vm.is_none()),
            found: None,
        });
        state.take_in(ready("[5]"));
        assert!(state.waiters[0].found.is_none());
        state.take_in(ready("[]"));
        assert_eq!(state.waiters[0].found, Some(None));
    }
}
