//! The sources: each has a thread that blocks on the kernel, parses, and
//! hands an event on. No source knows what an event is good for.
//!
//! A source never waits for the daemon: on the platform, a reader of sysevents
//! that stalls holds up the delivery to every subscriber of the machine. When
//! the daemon is behind, the events become one bit: everything has to be
//! loaded again.

pub mod files;
pub mod sysevent;
pub mod zfs;
pub mod zone;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::event::{SourceEvent, TimedEvent};
use crate::faults::Fault;
use crate::source::EventSource;
use crate::threads::Stop;

/// What a source says of itself.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    /// Process id of its child, if it has one now.
    pub pid: Option<u32>,
    /// Whether it is listening to the kernel.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// How many events it has handed on.
    pub events: u64,
    /// When the last one came.
    pub last_event: Option<Instant>,
    /// Records that were of no interest.
    pub ignored: u64,
    /// Events that found no room, so that everything had to be loaded.
    pub lost: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What is wrong now.
    pub fault: Option<Fault>,
    /// Why its child was killed though it ran: it reported nothing.
    pub silent: Option<String>,
}

/// The status of one source, shared with who tells of it.
pub type SharedStatus = Arc<Mutex<SourceStatus>>;

/// Where a source hands its events on.
#[derive(Clone, Debug)]
pub struct Sink {
    source: EventSource,
    mailbox: Arc<Mailbox>,
    status: SharedStatus,
}

/// The other end of all sinks.
#[derive(Debug)]
pub struct Events {
    mailbox: Arc<Mailbox>,
}

/// What is on its way from the sources to who reads [`Events`]. (A channel's
/// reader yields its processor a dozen times before it sleeps, which costs
/// more than the rest of an event's way; and a bounded one takes all of its
/// memory at once.)
#[derive(Debug)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// The most events of zones, and of others.
    bound: usize,
}

/// Zones have a queue of their own, which is read first: neither does a flood
/// of others push their transitions out, nor is a reload done before they are
/// known.
#[derive(Debug, Default)]
struct Waiting {
    of_zones: VecDeque<TimedEvent>,
    others: VecDeque<TimedEvent>,
    /// An event found no room since this was last asked.
    lost: bool,
    /// The daemon is ending.
    closed: bool,
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// The time is over.
    Timeout,
    /// The daemon is ending.
    Ended,
}

/// Memory for so many events stays when all have been read.
const EVENTS_KEPT: usize = 64;

impl Events {
    /// The next event; waits for it until `until`, if that is set.
    ///
    /// # Errors
    /// If the time is over, or the daemon is ending.
    pub fn next(&self, until: Option<Instant>) -> Result<TimedEvent, NoEvent> {
        let Mailbox { waiting, changed, .. } = &*self.mailbox;
        let mut waiting = waiting.lock();
        let mut is_over = false;
        loop {
            let seen = match waiting.of_zones.pop_front() {
                Some(seen) => Some(seen),
                None => waiting.others.pop_front(),
            };
            if let Some(seen) = seen {
                return Ok(seen);
            }
            if waiting.closed {
                return Err(NoEvent::Ended);
            }
            if is_over {
                return Err(NoEvent::Timeout);
            }
            // A flood is over.
            waiting.others.shrink_to(EVENTS_KEPT);
            waiting.of_zones.shrink_to(EVENTS_KEPT);
            match until {
                None => changed.wait(&mut waiting),
                Some(until) => {
                    let result = changed.wait_until(&mut waiting, until);
                    is_over = result.timed_out();
                }
            }
        }
    }

    /// Whether events were lost since this was last asked. To be asked after
    /// each event.
    #[must_use]
    pub fn were_lost(&self) -> bool {
        std::mem::take(&mut self.mailbox.waiting.lock().lost)
    }
}

/// A sink for each source, in the order of [`EventSource::ALL`], and where
/// their events come out, until they are stopped; `bound` of zones and as many
/// others may wait.
#[must_use]
pub fn channel(bound: usize, stop: &Stop) -> ([Sink; 3], Events) {
    let (waiting, changed) = (Mutex::default(), Condvar::new());
    let mailbox = Arc::new(Mailbox { waiting, changed, bound });
    let closing = Arc::clone(&mailbox);
    stop.on_set(move || {
        closing.waiting.lock().closed = true;
        closing.changed.notify_all();
    });
    let sinks = EventSource::ALL.map(|source| Sink {
        source,
        mailbox: Arc::clone(&mailbox),
        status: SharedStatus::default(),
    });
    (sinks, Events { mailbox })
}

impl Sink {
    /// Hands an event on, or remembers that one was lost. Never blocks.
    pub fn send(&self, event: SourceEvent) {
        {
            let mut status = self.status.lock();
            status.events += 1;
            status.last_event = Some(Instant::now());
        }
        self.try_send(TimedEvent::now(event));
    }

    /// Says that the source has begun to listen, so that what happened
    /// before is unknown.
    pub fn ready(&self, source: EventSource) {
        {
            let mut status = self.status.lock();
            status.ready = true;
            status.fault = None;
        }
        self.gap(source);
    }

    /// Says that something has happened of which nothing is known.
    pub fn gap(&self, source: EventSource) {
        self.try_send(TimedEvent::now(SourceEvent::Ready(source)));
    }

    fn try_send(&self, seen: TimedEvent) {
        let Mailbox { waiting, changed, bound } = &*self.mailbox;
        let mut waiting = waiting.lock();
        let queue = match self.source {
            EventSource::Zone => &mut waiting.of_zones,
            EventSource::Zfs | EventSource::File => &mut waiting.others,
        };
        if queue.len() < *bound {
            queue.push_back(seen);
            drop(waiting);
            changed.notify_one();
        } else {
            // The reader looks at the bit after each event, and there are
            // some.
            waiting.lost = true;
            drop(waiting);
            self.status.lock().lost += 1;
        }
    }

    /// The source's status.
    #[must_use]
    pub fn status(&self) -> &SharedStatus {
        &self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_sets_the_bit_and_never_blocks() {
        let stop = Stop::default();
        let ([sink, ..], events) = channel(2, &stop);
        let event =
            |name: &str| SourceEvent::InitRestart { zonename: name.into() };
        for name in ["a", "b"] {
            sink.send(event(name));
            assert!(!events.were_lost());
        }
        sink.send(event("c"));
        assert!(events.next(None).is_ok());
        assert!(events.were_lost());
        assert!(!events.were_lost());
        assert_eq!(sink.status().lock().events, 3);
    }

    #[test]
    fn zones_come_first_and_have_room_of_their_own() {
        let stop = Stop::default();
        let ([zones, zfs, _], events) = channel(2, &stop);
        let event =
            |name: &str| SourceEvent::InitRestart { zonename: name.into() };
        for _ in 0..3 {
            zfs.send(event("flood"));
        }
        zones.send(event("zone"));
        assert_eq!(zones.status().lock().lost, 0);
        let next = || events.next(None).map(|seen| seen.event);
        assert_eq!(next(), Ok(event("zone")));
        assert_eq!(next(), Ok(event("flood")));
        let soon = Some(Instant::now());
        assert_eq!(next(), Ok(event("flood")));
        let timeout = events.next(soon).map(|_| ());
        assert_eq!(timeout, Err(NoEvent::Timeout));
        stop.set();
        assert_eq!(next(), Err(NoEvent::Ended));
    }
}
