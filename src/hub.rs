//! The last events, kept for their subscribers.
//!
//! There is one list of event lines, and a subscriber is a place in it: a line
//! is made once, whoever gets it, and a subscriber that is behind costs
//! nothing but patience. Who is further behind than allowed is cut off. The
//! list itself is bounded by number and bytes.
//!
//! The hub does no I/O: it says when there is something to send.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::SystemTime;

use crate::sync::{Bell, Mutex};

/// One event as it goes to subscribers.
#[derive(Debug)]
pub struct Line {
    /// Its number.
    pub seq: u64,
    /// A chunk of HTTP/1.1: size, JSON and newline, end.
    chunk: Box<[u8]>,
    /// Where in it the JSON begins.
    begin: usize,
    /// Bytes of all lines up to this one.
    total: u64,
}

impl Line {
    /// The chunk.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        &self.chunk
    }

    /// The line itself, newline included.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.chunk[self.begin..self.chunk.len() - 2]
    }
}

/// Puts a line, newline included, into a chunk of its own. Returns it with the
/// place at which the line begins.
#[must_use]
pub fn chunk_of(line: &[u8]) -> (Vec<u8>, usize) {
    let mut chunk = format!("{:x}\r\n", line.len()).into_bytes();
    let begin = chunk.len();
    chunk.extend_from_slice(line);
    chunk.extend_from_slice(b"\r\n");
    (chunk, begin)
}

/// Who listens to /events.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The subscription's name, a UUID.
    pub uuid: Arc<str>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// Since when.
    pub created: SystemTime,
}

/// How much is kept, and how far behind a subscriber may be.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Lines kept.
    pub kept_events: usize,
    /// Bytes kept.
    pub kept_bytes: usize,
    /// Lines that a subscriber may be behind.
    pub lag_events: u64,
    /// Bytes that a subscriber may be behind.
    pub lag_bytes: u64,
    /// Subscribers at once.
    pub subscribers: usize,
}

/// A place in the list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last event that is not wanted any more.
    pub seq: u64,
    /// Bytes of all lines up to that one.
    total: u64,
}

/// Why a subscriber gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFarBehind {
    /// Events that it did not get.
    pub events: u64,
    /// Bytes that it did not get.
    pub bytes: u64,
}

/// The list of events.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    inner: Mutex<Inner>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    seq: u64,
    total: u64,
    listeners: BTreeMap<u64, Listener>,
    last_id: u64,
    cut_off: u64,
}

impl Hub {
    /// A hub without events.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(limits: HubLimits) -> io::Result<Self> {
        Ok(Self { limits, inner: Mutex::default(), bell: Bell::new()? })
    }

    /// The number of the last event.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.inner.lock().seq
    }

    /// Adds the next event. `line` gets its number, and returns it as JSON
    /// with a newline.
    pub fn publish(&self, line: impl FnOnce(u64) -> Vec<u8>) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let (chunk, begin) = chunk_of(&line(inner.seq));
        inner.total += chunk.len() as u64;
        inner.bytes += chunk.len();
        let (seq, total) = (inner.seq, inner.total);
        let chunk = chunk.into_boxed_slice();
        inner.lines.push_back(Arc::new(Line { seq, chunk, begin, total }));
        while inner.lines.len() > self.limits.kept_events
            || (inner.bytes > self.limits.kept_bytes && inner.lines.len() > 1)
        {
            let Some(old) = inner.lines.pop_front() else { break };
            inner.bytes -= old.chunk.len();
        }
        drop(inner);
        self.wake();
    }

    /// Adds a listener, whose place is after the last event; `None` if there
    /// are as many as there may be.
    pub fn subscribe(
        &self,
        uuid: Arc<str>,
        user_agent: Option<String>,
    ) -> Option<(u64, Cursor)> {
        let mut inner = self.inner.lock();
        if inner.listeners.len() >= self.limits.subscribers {
            return None;
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let created = SystemTime::now();
        inner.listeners.insert(id, Listener { uuid, user_agent, created });
        Some((id, Cursor { seq: inner.seq, total: inner.total }))
    }

    /// Forgets a listener.
    pub fn unsubscribe(&self, id: u64) {
        self.inner.lock().listeners.remove(&id);
    }

    /// Counts a listener that had to be cut off.
    pub fn count_cut_off(&self) {
        self.inner.lock().cut_off += 1;
    }

    /// Who listens, and how many have been cut off.
    #[must_use]
    pub fn listeners(&self) -> (Vec<Listener>, u64) {
        let inner = self.inner.lock();
        (inner.listeners.values().cloned().collect(), inner.cut_off)
    }

    /// The next events after `cursor`, at most `most`; moves it on.
    ///
    /// # Errors
    /// If the subscriber is further behind than it may be.
    pub fn next(
        &self,
        cursor: &mut Cursor,
        most: usize,
    ) -> Result<Vec<Arc<Line>>, TooFarBehind> {
        let inner = self.inner.lock();
        let behind = TooFarBehind {
            events: inner.seq - cursor.seq,
            bytes: inner.total - cursor.total,
        };
        let first = inner.lines.front().map_or(inner.seq + 1, |l| l.seq);
        if behind.events > self.limits.lag_events || cursor.seq + 1 < first {
            return Err(behind);
        }
        // The list has no gaps, so a number is a place in it.
        let skip = usize::try_from(cursor.seq + 1 - first).unwrap_or(0);
        // Who has got all but one line is not behind, however long that is.
        let next = inner.lines.get(skip).map_or(inner.total, |l| l.total);
        if inner.total - next > self.limits.lag_bytes {
            return Err(behind);
        }
        let lines: Vec<_> =
            inner.lines.iter().skip(skip).take(most).cloned().collect();
        if let Some(last) = lines.last() {
            *cursor = Cursor { seq: last.seq, total: last.total };
        }
        Ok(lines)
    }

    /// Wakes who waits for [`Hub::wakeup`].
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// A descriptor that can be read when there is something to send.
    #[must_use]
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }

    /// Waits until there is something to send.
    #[cfg(loom)]
    pub fn wait(&self) {
        self.bell.wait();
    }

    /// To be called before looking for what there is to send.
    pub fn rest(&self) {
        self.bell.silence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(kept_events: usize, lag_events: u64) -> Hub {
        Hub::new(HubLimits {
            kept_events,
            kept_bytes: 1 << 20,
            lag_events,
            lag_bytes: 1000,
            subscribers: 2,
        })
        .unwrap()
    }

    fn publish(hub: &Hub) {
        hub.publish(|seq| format!("{seq}\n").into_bytes());
    }

    fn subscribe(hub: &Hub) -> (u64, Cursor) {
        hub.subscribe("x".into(), None).unwrap()
    }

    #[test]
    fn a_subscriber_gets_what_comes_after_it() {
        let hub = hub(10, 10);
        publish(&hub);
        let (_, mut cursor) = subscribe(&hub);
        assert!(hub.next(&mut cursor, 9).unwrap().is_empty());
        publish(&hub);
        publish(&hub);
        let lines = hub.next(&mut cursor, 1).unwrap();
        assert_eq!(lines[0].text(), b"2\n");
        assert_eq!(lines[0].chunk(), b"2\r\n2\n\r\n");
        assert_eq!(hub.next(&mut cursor, 9).unwrap()[0].seq, 3);
        assert!(hub.next(&mut cursor, 9).unwrap().is_empty());
    }

    #[test]
    fn who_is_too_far_behind_is_told() {
        let hub = hub(10, 3);
        let (_, mut cursor) = subscribe(&hub);
        (0..3).for_each(|_| publish(&hub));
        assert_eq!(hub.next(&mut cursor.clone(), 9).unwrap().len(), 3);
        publish(&hub);
        assert_eq!(hub.next(&mut cursor, 9).unwrap_err().events, 4);
    }

    #[test]
    fn bytes_count_as_well_as_events() {
        let hub = hub(10, 10);
        let (_, mut cursor) = subscribe(&hub);
        hub.publish(|_| vec![b'x'; 2000]);
        // One line can always be had.
        assert_eq!(hub.next(&mut cursor.clone(), 9).unwrap().len(), 1);
        hub.publish(|_| vec![b'x'; 2000]);
        assert!(hub.next(&mut cursor, 9).unwrap_err().bytes > 4000);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let hub = hub(2, 10);
        let (_, mut cursor) = subscribe(&hub);
        (0..3).for_each(|_| publish(&hub));
        assert_eq!(hub.inner.lock().lines.len(), 2);
        assert!(hub.next(&mut cursor, 9).is_err());
    }

    #[test]
    fn subscribers_are_bounded_and_forgotten() {
        let hub = hub(2, 2);
        let (id, _) = subscribe(&hub);
        subscribe(&hub);
        assert!(hub.subscribe("y".into(), None).is_none());
        hub.unsubscribe(id);
        assert_eq!(hub.listeners().0.len(), 1);
        assert!(hub.subscribe("y".into(), None).is_some());
    }

    #[test]
    fn an_event_wakes_the_reader_once() {
        use crate::os::wait_readable;
        use std::time::Duration;
        let hub = hub(10, 10);
        let woken =
            || wait_readable(&[hub.wakeup()], Duration::ZERO).unwrap()[0];
        assert!(!woken());
        publish(&hub);
        publish(&hub);
        assert!(woken());
        hub.rest();
        assert!(!woken());
        publish(&hub);
        assert!(woken());
    }
}
