//! The sources: each has a thread that blocks on the kernel, parses, and
//! hands an event on. No source knows what an event is good for.
//!
//! A source never waits for the daemon: on the platform, a reader of sysevents
//! that stalls holds up the delivery to every subscriber of the machine. When
//! the daemon is behind, the events become one bit: everything has to be
//! loaded anew.

pub mod files;
pub mod sysevent;
pub mod zfs;
pub mod zone;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Select, Sender, TryRecvError, TrySendError,
    bounded,
};
use parking_lot::Mutex;

use crate::event::{Event, EventSource, Seen};
use crate::faults::Fault;

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
}

/// The status of one source, shared with who tells of it.
pub type SharedStatus = Arc<Mutex<SourceStatus>>;

/// Where a source hands its events on.
#[derive(Clone, Debug)]
pub struct Sink {
    sender: Sender<Seen>,
    lost: Arc<AtomicBool>,
    status: SharedStatus,
}

/// The other end of all sinks. Zones have a channel of their own, which is
/// read first: neither does a flood of others push their transitions out, nor
/// is a reload done before they are known.
#[derive(Debug)]
pub struct Events {
    of_zones: Receiver<Seen>,
    others: Receiver<Seen>,
    lost: Arc<AtomicBool>,
}

impl Events {
    /// The next event; waits for it until `until`, if that is set.
    ///
    /// # Errors
    /// If the time is over, or every source has ended.
    pub fn next(
        &self,
        until: Option<Instant>,
    ) -> Result<Seen, RecvTimeoutError> {
        loop {
            let mut select = Select::new();
            let mut has_ended = true;
            for channel in [&self.of_zones, &self.others] {
                match channel.try_recv() {
                    Ok(seen) => return Ok(seen),
                    Err(TryRecvError::Disconnected) => {}
                    Err(TryRecvError::Empty) => {
                        select.recv(channel);
                        has_ended = false;
                    }
                }
            }
            if has_ended {
                return Err(RecvTimeoutError::Disconnected);
            }
            // Whichever it is, or if one has ended: look again, zones first.
            let ready = match until {
                None => Ok(select.ready()),
                Some(until) => select.ready_deadline(until),
            };
            if ready.is_err() {
                return Err(RecvTimeoutError::Timeout);
            }
        }
    }

    /// Whether events were lost since this was last asked. To be asked after
    /// each event.
    #[must_use]
    pub fn were_lost(&self) -> bool {
        self.lost.swap(false, Ordering::SeqCst)
    }
}

/// Channels for `bound` events each, and a sink for each source, in the order of
/// [`EventSource::ALL`].
#[must_use]
pub fn channel(bound: usize) -> ([Sink; 3], Events) {
    let (zone_sender, of_zones) = bounded(bound);
    let (sender, others) = bounded(bound);
    let lost = Arc::new(AtomicBool::new(false));
    let sinks = EventSource::ALL.map(|source| Sink {
        sender: match source {
            EventSource::Zone => zone_sender.clone(),
            EventSource::Zfs | EventSource::File => sender.clone(),
        },
        lost: Arc::clone(&lost),
        status: SharedStatus::default(),
    });
    (sinks, Events { of_zones, others, lost })
}

impl Sink {
    /// Hands an event on, or remembers that one was lost. Never blocks.
    pub fn send(&self, event: Event) {
        {
            let mut status = self.status.lock();
            status.events += 1;
            status.last_event = Some(Instant::now());
        }
        self.try_send(Seen::now(event));
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
        self.try_send(Seen::now(Event::Ready(source)));
    }

    fn try_send(&self, seen: Seen) {
        if let Err(TrySendError::Full(seen)) = self.sender.try_send(seen) {
            self.lost.store(true, Ordering::SeqCst);
            self.status.lock().lost += 1;
            // The receiver looks at the bit after each event. If it has taken
            // all of them before the bit was set, this one makes it look.
            let _ = self.sender.try_send(seen);
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
        let ([sink, ..], events) = channel(2);
        let event = |name: &str| Event::InitRestart { zonename: name.into() };
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
        let ([zones, zfs, files], events) = channel(2);
        let event = |name: &str| Event::InitRestart { zonename: name.into() };
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
        assert_eq!(timeout, Err(RecvTimeoutError::Timeout));
        drop((zones, zfs, files));
        assert_eq!(next(), Err(RecvTimeoutError::Disconnected));
    }
}
