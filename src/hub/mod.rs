//! The hub keeps the last events, for clients that subscribe or come back.
//!
//! There is one list of event lines: each line is made once and shared by all
//! subscribers. The list is bounded by number and bytes. The bytes of a line
//! are counted as long as anything holds the line.
//!
//! The hub does no I/O: it wakes the thread that sends.

mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use vminfod_client::EventKind;

use crate::sync::{Condvar, Mutex};
pub use watch::{TooMuch, Vm, VmVersion, Watch};

/// What an event is about.
#[derive(Clone, Debug)]
pub struct About {
    /// What happened.
    pub kind: EventKind,
    /// The zone.
    pub zonename: Arc<str>,
    /// The VM's uuid.
    pub uuid: Arc<str>,
}

/// Bytes that go to subscribers. They are counted as long as anything holds
/// them.
#[derive(Debug)]
pub struct Text {
    bytes: Box<[u8]>,
    /// Where the bytes that are sent begin.
    begin: usize,
    held: Arc<AtomicUsize>,
}

impl Text {
    fn new(bytes: Vec<u8>, begin: usize, held: &Arc<AtomicUsize>) -> Self {
        let bytes = bytes.into_boxed_slice();
        let text = Self { bytes, begin, held: Arc::clone(held) };
        text.held.fetch_add(text.bytes().len(), Ordering::Relaxed);
        text
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes().len(), Ordering::Relaxed);
    }
}

/// Room for the size of a chunk: sixteen hexadecimal digits, and an end of
/// line.
const CHUNK_HEAD: usize = 18;

/// A line of /events that is not finished yet. Neither finishing it nor making
/// a chunk of HTTP/1.1 of it moves any of its bytes, however long it is.
#[derive(Debug)]
pub struct LineDraft(Vec<u8>);

impl Default for LineDraft {
    fn default() -> Self {
        Self::new(0)
    }
}

impl LineDraft {
    /// An empty draft with room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD + capacity + 2);
        bytes.resize(CHUNK_HEAD, 0);
        Self(bytes)
    }

    /// A draft of this line, newline included.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        let mut draft = Self::new(line.len());
        draft.0.extend_from_slice(line);
        draft
    }

    /// The bytes, to append to.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Makes a chunk of it. Returns the bytes, and the offsets at which the
    /// chunk and the line in it begin.
    #[must_use]
    pub fn into_chunk(mut self) -> (Vec<u8>, usize, usize) {
        let line = self.0.len() - CHUNK_HEAD;
        let head = format!("{line:x}\r\n");
        let begin = CHUNK_HEAD - head.len();
        self.0[begin..CHUNK_HEAD].copy_from_slice(head.as_bytes());
        self.0.extend_from_slice(b"\r\n");
        (self.0, begin, CHUNK_HEAD)
    }
}

/// One event as it goes to subscribers.
#[derive(Debug)]
pub struct EventLine {
    /// Its number.
    pub seq: u64,
    /// What it is about.
    pub about: About,
    /// A chunk of HTTP/1.1: size, JSON and newline, end.
    chunk: Text,
    /// How many bytes of the chunk come before the JSON.
    head: usize,
}

impl EventLine {
    fn new(
        seq: u64,
        about: About,
        line: LineDraft,
        held: &Arc<AtomicUsize>,
    ) -> Self {
        let (chunk, begin, json) = line.into_chunk();
        let chunk = Text::new(chunk, begin, held);
        Self { seq, about, chunk, head: json - begin }
    }

    /// The same event with another line.
    #[must_use]
    pub fn reworded(&self, line: LineDraft) -> Self {
        Self::new(self.seq, self.about.clone(), line, &self.chunk.held)
    }

    /// The chunk.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        self.chunk.bytes()
    }

    /// The line itself, newline included.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.chunk()[self.head..self.chunk().len() - 2]
    }
}

/// A subscriber of /events.
#[derive(Clone, Debug)]
pub struct SubscriberInfo {
    /// The subscription's name, a UUID.
    pub uuid: Arc<str>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// When it subscribed, for people.
    pub created: SystemTime,
    /// The same, for measuring.
    pub subscribed: Instant,
}

/// How much the hub keeps, and for how many subscribers.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Lines kept.
    pub kept_events: usize,
    /// Bytes kept.
    pub kept_bytes: usize,
    /// Subscribers at once.
    pub subscribers: usize,
    /// Versions of its VM that a watch keeps.
    pub versions: usize,
    /// Lines that are kept, even if they are more than `kept_events`, while the
    /// oldest waits to be handed out.
    pub lag_events: u64,
    /// The same in bytes.
    pub lag_bytes: u64,
}

/// The beginning of a subscription.
#[derive(Debug)]
pub struct NewSubscription {
    /// The hub's number of the listener.
    pub id: u64,
    /// The number of the last event when the subscription began.
    pub seq: u64,
    /// The events that it has missed, if it comes back and they are still kept.
    pub missed: Option<Vec<Arc<EventLine>>>,
}

/// The list of events.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    inner: Mutex<Inner>,
    woken: Condvar,
    held: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Arc<EventLine>>,
    bytes: usize,
    seq: u64,
    is_woken: bool,
    listeners: BTreeMap<u64, SubscriberInfo>,
    last_id: u64,
    cut_off: u64,
    watches: HashMap<Arc<str>, Vec<Arc<Watch>>>,
    /// The number of the last line that was handed out.
    handed_out: u64,
    /// Listeners that have subscribed and are not handed lines yet: by id, the
    /// number of the last event when they subscribed.
    joining: BTreeMap<u64, u64>,
    /// Events are counted, but no lines are made of them.
    is_silent: bool,
}

impl Hub {
    /// A hub without events.
    #[must_use]
    pub fn new(limits: HubLimits) -> Self {
        let (inner, woken) = (Mutex::default(), Condvar::new());
        Self { limits, inner, woken, held: Arc::default() }
    }

    /// A hub for the first load of all VMs. No client listens yet, and none can
    /// come back to an event of that time, so no events are kept until
    /// [`Hub::speak`].
    #[must_use]
    pub fn silent(limits: HubLimits) -> Self {
        let hub = Self::new(limits);
        hub.inner.lock().is_silent = true;
        hub
    }

    /// Keeps events from now on.
    pub fn speak(&self) {
        let mut inner = self.inner.lock();
        if inner.is_silent {
            inner.is_silent = false;
            inner.handed_out = inner.seq;
        }
    }

    /// The number of the last event.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.inner.lock().seq
    }

    /// The lines and bytes that are kept, and the bytes that are held anywhere.
    #[must_use]
    pub fn size(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        (inner.lines.len(), inner.bytes, self.held())
    }

    /// Bytes for subscribers that are held anywhere: kept here, or waiting to
    /// be sent.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes for subscribers that are no event, but are counted in the same
    /// way.
    #[must_use]
    pub fn text(&self, bytes: Vec<u8>) -> Arc<Text> {
        Arc::new(Text::new(bytes, 0, &self.held))
    }

    /// Whether no lines are made of events: see [`Hub::silent`].
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.inner.lock().is_silent
    }

    /// Adds the next event, after which the VM is `vm`. `finish` gets the
    /// event's number, and appends the rest of the line, newline included. It
    /// must be short, because other threads wait meanwhile.
    pub fn publish(
        &self,
        about: About,
        vm: Option<Vm>,
        mut line: LineDraft,
        finish: impl FnOnce(u64, &mut Vec<u8>),
    ) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let seq = inner.seq;
        for watch in inner.watches.get(&about.zonename).into_iter().flatten() {
            watch.push(VmVersion { vm: vm.clone(), seq });
        }
        if inner.is_silent {
            return;
        }
        finish(seq, line.out());
        let line = EventLine::new(seq, about, line, &self.held);
        inner.bytes += line.chunk().len();
        inner.lines.push_back(Arc::new(line));
        inner.drop_old(&self.limits);
        inner.is_woken = true;
        self.woken.notify_one();
    }

    /// Adds a listener; `None` if there are too many already. `since` is the
    /// number of the last event that a client that comes back has received.
    #[must_use]
    pub fn subscribe(
        &self,
        uuid: Arc<str>,
        user_agent: Option<String>,
        since: Option<u64>,
    ) -> Option<NewSubscription> {
        let mut inner = self.inner.lock();
        if inner.listeners.len() >= self.limits.subscribers {
            return None;
        }
        inner.last_id += 1;
        let (id, seq) = (inner.last_id, inner.seq);
        let (created, subscribed) = (SystemTime::now(), Instant::now());
        inner.listeners.insert(
            id,
            SubscriberInfo { uuid, user_agent, created, subscribed },
        );
        inner.joining.insert(id, seq);
        let missed = since.and_then(|since| inner.after(since, usize::MAX));
        Some(NewSubscription { id, seq, missed })
    }

    /// Forgets a listener.
    pub fn unsubscribe(&self, id: u64) {
        let mut inner = self.inner.lock();
        inner.listeners.remove(&id);
        inner.joining.remove(&id);
    }

    /// The next lines for all listeners, at most `most`. `None` if some of them
    /// are no longer kept; then it goes on with the events that come from now
    /// on.
    #[must_use]
    pub fn hand_out(&self, most: usize) -> Option<Vec<Arc<EventLine>>> {
        let mut inner = self.inner.lock();
        let lines = inner.after(inner.handed_out, most);
        inner.handed_out = match &lines {
            Some(lines) => {
                lines.last().map_or(inner.handed_out, |line| line.seq)
            }
            None => inner.seq,
        };
        lines
    }

    /// The number of the last line that was handed out.
    #[must_use]
    pub fn handed_out(&self) -> u64 {
        self.inner.lock().handed_out
    }

    /// From now on, a listener that was at `seq` gets what is handed out.
    /// Returns the number of the last line that was handed out, and the lines
    /// between `seq` and that; `None` if not all of those are kept any more.
    #[must_use]
    pub fn join(
        &self,
        id: u64,
        seq: u64,
    ) -> (u64, Option<Vec<Arc<EventLine>>>) {
        let mut inner = self.inner.lock();
        inner.joining.remove(&id);
        let missed = inner.handed_out.saturating_sub(seq);
        let missed = usize::try_from(missed).unwrap_or(usize::MAX);
        (inner.handed_out, inner.after(seq, missed))
    }

    /// Counts a listener that had to be cut off.
    pub fn count_cut_off(&self) {
        self.inner.lock().cut_off += 1;
    }

    /// The listeners, and how many have been cut off.
    #[must_use]
    pub fn subscribers(&self) -> (Vec<SubscriberInfo>, u64) {
        let inner = self.inner.lock();
        (inner.listeners.values().cloned().collect(), inner.cut_off)
    }

    /// Watches a VM, until [`Hub::unwatch`].
    #[must_use]
    pub fn watch(
        &self,
        zonename: &Arc<str>,
        wake: crate::sync::Wake,
    ) -> Arc<Watch> {
        let watch = Arc::new(Watch::new(self.limits.versions, wake));
        let mut inner = self.inner.lock();
        let watches = inner.watches.entry(Arc::clone(zonename)).or_default();
        watches.push(Arc::clone(&watch));
        watch
    }

    /// Reports to all watches of a VM that there is no such VM. If the VM was
    /// never served, no event says so.
    pub fn report_gone(&self, zonename: &str) {
        let inner = self.inner.lock();
        for watch in inner.watches.get(zonename).into_iter().flatten() {
            watch.push(VmVersion { vm: None, seq: inner.seq });
        }
    }

    /// Ends a watch.
    pub fn unwatch(&self, zonename: &str, watch: &Arc<Watch>) {
        let mut inner = self.inner.lock();
        if let Some(watches) = inner.watches.get_mut(zonename) {
            watches.retain(|other| !Arc::ptr_eq(other, watch));
            if watches.is_empty() {
                inner.watches.remove(zonename);
            }
        }
    }

    /// Wakes the thread that waits in [`Hub::wait`].
    pub fn wake(&self) {
        self.inner.lock().is_woken = true;
        self.woken.notify_one();
    }

    /// Waits until there is an event or [`Hub::wake`] is called, but no longer
    /// than `until`.
    pub fn wait(&self, until: Instant) {
        let mut inner = self.inner.lock();
        while !inner.is_woken && Instant::now() < until {
            self.woken.wait_until(&mut inner, until);
        }
        inner.is_woken = false;
    }
}

impl Inner {
    /// Drops the oldest lines that exceed the limits, but none that must still
    /// be handed out, unless those are too many.
    fn drop_old(&mut self, limits: &HubLimits) {
        let joining = self.joining.values().copied();
        let needed = joining.chain([self.handed_out]).min().unwrap_or(0);
        while let Some(old) = self.lines.front() {
            let (events, bytes) = (self.lines.len(), self.bytes);
            let is_needed = old.seq > needed
                && events as u64 <= limits.lag_events
                && bytes as u64 <= limits.lag_bytes;
            let is_more = events > limits.kept_events
                || (bytes > limits.kept_bytes && events > 1);
            if !is_more || is_needed {
                return;
            }
            self.bytes -= old.chunk().len();
            self.lines.pop_front();
        }
    }

    /// The events after number `seq`, at most `most`. `None` if some of them
    /// are no longer kept, or event `seq` does not exist yet.
    fn after(&self, seq: u64, most: usize) -> Option<Vec<Arc<EventLine>>> {
        // The list has no gaps, so that a number is a place in it.
        let first = self.lines.front().map_or(self.seq + 1, |line| line.seq);
        let skip = seq.checked_add(1)?.checked_sub(first)?;
        let skip = usize::try_from(skip).ok()?;
        (skip <= self.lines.len())
            .then(|| self.lines.iter().skip(skip).take(most).cloned().collect())
    }
}

#[cfg(test)]
mod tests;
