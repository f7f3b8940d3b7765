//! The event sources. Each has a thread that waits for the kernel, parses what
//! it reports, and passes an event on. A source does not know what its events
//! are used for.
//!
//! A source never waits for the rest of the daemon: on the platform, a sysevent
//! reader that stalls delays the delivery to every subscriber of the machine.
//! When the daemon falls too far behind, the events that find no room become
//! one flag: everything has to be loaded again.

pub mod files;
pub mod sysevent;
pub mod zfs;
pub mod zone;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::config::Paths;
use crate::event::{SourceEvent, TimedEvent};
use crate::faults::Fault;
use crate::source::EventSource;
use crate::threads::Stop;
use sysevent::SyseventStream;

/// The streams of sysevents, one for each source that has one.
#[must_use]
pub fn sysevent_streams(paths: &Paths) -> Vec<SyseventStream> {
    vec![zone::stream(paths), zfs::stream(paths)]
}

/// The state and the counters of an event source.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    /// Process id of its child, if one is running.
    pub pid: Option<u32>,
    /// Whether it is listening to the kernel.
    pub ready: bool,
    /// How many times it was restarted.
    pub restarts: u64,
    /// How many events it has sent, including those that were lost.
    pub events: u64,
    /// When the last event came.
    pub last_event: Option<Instant>,
    /// How many records were ignored because they are of no interest.
    pub ignored: u64,
    /// How many events found no room. After one, everything is loaded again.
    pub lost: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// The present fault; none once the source is ready again.
    pub fault: Option<Fault>,
    /// Why its child was killed although it was running: it reported nothing.
    pub silent: Option<String>,
}

/// The status of one source, shared with the code that reports it.
pub type SharedStatus = Arc<Mutex<SourceStatus>>;

/// The end of the mailbox to which one source sends its events.
#[derive(Clone, Debug)]
pub struct Sink {
    source: EventSource,
    mailbox: Arc<Mailbox>,
    status: SharedStatus,
}

/// The end of the mailbox from which the events of all sinks are read.
#[derive(Debug)]
pub struct Events {
    mailbox: Arc<Mailbox>,
}

/// The events on their way from the sources to the reader of [`Events`]. It is
/// not a channel: the reader of a channel yields its processor a dozen times
/// before it sleeps, which costs more than the rest of an event's path, and a
/// bounded channel takes all of its memory at once.
#[derive(Debug)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// The most zone events that may wait, and the most other events.
    bound: usize,
}

/// Zone events have a queue of their own, which is read first. So a flood of
/// other events does not push transitions out, and no reload is done before the
/// transitions that wait here are known.
#[derive(Debug, Default)]
struct Waiting {
    of_zones: VecDeque<TimedEvent>,
    others: VecDeque<TimedEvent>,
    /// An event found no room since [`Events::were_lost`] was last called.
    lost: bool,
    /// The daemon is ending.
    closed: bool,
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// The deadline has passed.
    Timeout,
    /// The daemon is ending.
    Ended,
}

/// The room for this many events is kept when all have been read.
const EVENTS_KEPT: usize = 64;

impl Events {
    /// Returns the next event. Waits for it until `until`, if that is set.
    ///
    /// # Errors
    /// If `until` has passed, or the daemon is ending.
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
            // The queue is empty: free the memory that a flood has taken.
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

    /// Whether events were lost since the last call. To be called after each
    /// event.
    #[must_use]
    pub fn were_lost(&self) -> bool {
        std::mem::take(&mut self.mailbox.waiting.lock().lost)
    }
}

/// Makes a mailbox. Returns a sink for each source, in the order of
/// [`EventSource::ALL`], and the end from which their events are read until
/// `stop` is set. At most `bound` zone events and as many others may wait.
#[must_use]
pub fn channel(
    bound: usize,
    stop: &Stop,
) -> ([Sink; EventSource::COUNT], Events) {
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
    /// Sends an event, or notes that one was lost. Never blocks.
    pub fn send(&self, event: SourceEvent) {
        {
            let mut status = self.status.lock();
            status.events += 1;
            status.last_event = Some(Instant::now());
        }
        self.try_send(TimedEvent::now(event));
    }

    /// Reports that the source has begun to listen, so that what happened
    /// before is unknown.
    pub fn ready(&self) {
        {
            let mut status = self.status.lock();
            status.ready = true;
            status.fault = None;
        }
        self.gap();
    }

    /// Reports that something has happened, but not what.
    pub fn gap(&self) {
        self.try_send(TimedEvent::now(SourceEvent::Ready(self.source)));
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
            // The reader needs no wake-up: it checks this flag after each
            // event, and the queue is full of events.
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
    use crate::event::DatasetChange;

    fn event(name: &str) -> SourceEvent {
        SourceEvent::Dataset(DatasetChange {
            dataset: name.to_string(),
            operation: "set".to_string(),
            detail: String::new(),
        })
    }

    #[test]
    fn a_full_mailbox_reports_lost_events_and_never_blocks() {
        let stop = Stop::default();
        let ([sink, ..], events) = channel(2, &stop);
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
    fn zone_events_are_read_first_and_have_their_own_queue() {
        let stop = Stop::default();
        let ([zones, zfs, _], events) = channel(2, &stop);
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
