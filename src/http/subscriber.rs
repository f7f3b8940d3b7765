//! One subscriber of /events: the queue of its lines, and how they are written
//! to its socket.

use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use super::open::StreamSocket;
use super::subscription_filter::SubscriptionFilter;
use super::transfer::{Transfer, transfer};
use crate::hub::{EventLine, LineDraft, Text};
use crate::settings::HttpLimits;

/// The most bytes that a client may send after its request for /events.
const RECEIVED_MAX: usize = 64 << 10;

/// Lines that one writev(2) takes.
const PIECES_MAX: usize = 64;

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Something to write to a subscriber.
#[derive(Debug)]
pub enum OutgoingLine {
    /// An event.
    Event(Arc<EventLine>),
    /// Bytes that are sent unchanged: a line or a part of one, with its chunk
    /// framing if the client gets chunks.
    Text(Arc<Text>),
}

/// Why a subscriber gets no more lines.
#[derive(Debug)]
pub enum EndReason {
    /// The client has closed the connection, or the connection has failed.
    Gone,
    /// It is cut off, for this reason: mostly because it does not read.
    Behind(String),
}

/// A client that gets events.
#[derive(Debug)]
pub struct Subscriber {
    /// Its id in the hub.
    pub id: u64,
    /// Events up to this number are not sent to it: they are in its snapshot,
    /// or were queued when it joined.
    pub seq: u64,
    /// The User-Agent of its request.
    pub agent: Option<String>,
    /// Which events it wants, and in what form.
    pub wanted: SubscriptionFilter,
    /// Its connection.
    pub stream: StreamSocket,
    /// The key under which its socket is parked in the poller.
    pub key: Option<u64>,
    /// Since when it has taken nothing, although something waits.
    pub blocked: Option<Instant>,
    /// When an event or a heartbeat was last queued for it.
    pub last_sent: Instant,
    /// When to check whether a heartbeat is due.
    pub heartbeat_at: Option<Instant>,
    queue: VecDeque<Queued>,
    /// How many bytes of the first item are written already.
    sent: usize,
    /// The number of queued events that count as lag, and their bytes.
    lag: (u64, u64),
    /// Bytes that are queued and not written yet.
    waiting_bytes: usize,
    /// Bytes that the client has sent since its request. They are dropped.
    received: usize,
}

#[derive(Debug)]
struct Queued {
    item: OutgoingLine,
    is_lag: bool,
}

impl Subscriber {
    /// A subscriber with an empty queue.
    #[must_use]
    pub fn new(
        id: u64,
        seq: u64,
        agent: Option<String>,
        wanted: SubscriptionFilter,
        stream: StreamSocket,
    ) -> Self {
        Self {
            id,
            seq,
            agent,
            wanted,
            stream,
            key: None,
            blocked: None,
            last_sent: Instant::now(),
            heartbeat_at: None,
            queue: VecDeque::new(),
            sent: 0,
            lag: (0, 0),
            waiting_bytes: 0,
            received: 0,
        }
    }

    /// A line as this client gets it: as a chunk, or unchanged.
    #[must_use]
    pub fn framed(&self, line: &[u8]) -> Vec<u8> {
        match self.stream.chunked {
            true => {
                let (chunk, begin, _) = LineDraft::of(line).into_chunk();
                chunk[begin..].to_vec()
            }
            false => line.to_vec(),
        }
    }

    /// Queues something that does not count as lag, because the client has
    /// asked for it.
    pub fn push_uncounted(&mut self, item: OutgoingLine) {
        self.waiting_bytes += self.bytes_of(&item).len();
        self.queue.push_back(Queued { item, is_lag: false });
    }

    /// Queues an event.
    ///
    /// # Errors
    /// If more would wait for it than `limits` allow even after it was written
    /// to, or if it has gone.
    pub fn push(
        &mut self,
        item: OutgoingLine,
        limits: &HttpLimits,
    ) -> Result<(), EndReason> {
        let bytes = self.bytes_of(&item).len();
        self.waiting_bytes += bytes;
        self.lag.0 += 1;
        self.lag.1 += bytes as u64;
        self.queue.push_back(Queued { item, is_lag: true });
        self.last_sent = Instant::now();
        if self.is_behind(limits) {
            // Perhaps nothing was written to it for a while: try that first.
            self.write()?;
        }
        match self.is_behind(limits) {
            false => Ok(()),
            true => {
                let (events, bytes) = self.lag;
                let why = format!(
                    "it is {events} events and {bytes} bytes behind \
                     (settings lag-events, lag-bytes)"
                );
                Err(EndReason::Behind(why))
            }
        }
    }

    fn is_behind(&self, limits: &HttpLimits) -> bool {
        let (events, bytes) = self.lag;
        // A single line may always wait, however long it is.
        events > limits.lag_events || (bytes > limits.lag_bytes && events > 1)
    }

    /// Whether nothing waits for it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// The bytes that wait for it.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    fn bytes_of<'a>(&self, item: &'a OutgoingLine) -> &'a [u8] {
        match item {
            OutgoingLine::Event(line) if self.stream.chunked => line.chunk(),
            OutgoingLine::Event(line) => line.text(),
            OutgoingLine::Text(text) => text.bytes(),
        }
    }

    /// Reads and drops what the client sends. Only the end of the connection
    /// matters.
    ///
    /// # Errors
    /// If the client has gone, or has sent more than [`RECEIVED_MAX`] bytes.
    pub fn read(&mut self) -> Result<(), EndReason> {
        let mut bytes = [0; 4096];
        loop {
            match transfer(|| (&*self.stream.socket).read(&mut bytes)) {
                Ok(Transfer::End) | Err(_) => return Err(EndReason::Gone),
                Ok(Transfer::NotYet) => return Ok(()),
                Ok(Transfer::Bytes(n)) if self.received + n > RECEIVED_MAX => {
                    let why = format!(
                        "it has sent over {RECEIVED_MAX} bytes after its \
                         request"
                    );
                    return Err(EndReason::Behind(why));
                }
                Ok(Transfer::Bytes(n)) => self.received += n,
            }
        }
    }

    /// Writes as much of the queue as the client takes now.
    ///
    /// # Errors
    /// If the client has gone.
    pub fn write(&mut self) -> Result<(), EndReason> {
        while !self.queue.is_empty() {
            let items = self.queue.iter().take(PIECES_MAX).enumerate();
            let slices = items.map(|(i, queued)| {
                let from = if i == 0 { self.sent } else { 0 };
                IoSlice::new(&self.bytes_of(&queued.item)[from..])
            });
            let slices: Vec<_> = slices.collect();
            match transfer(|| (&*self.stream.socket).write_vectored(&slices)) {
                Ok(Transfer::End) | Err(_) => return Err(EndReason::Gone),
                Ok(Transfer::Bytes(n)) => {
                    self.blocked = None;
                    self.advance(n);
                }
                Ok(Transfer::NotYet) => {
                    self.blocked.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        self.sent += written;
        self.waiting_bytes -= written;
        while let Some(first) = self.queue.front() {
            let len = self.bytes_of(&first.item).len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            if first.is_lag {
                self.lag.0 -= 1;
                self.lag.1 -= len as u64;
            }
            self.queue.pop_front();
        }
    }

    /// Ends the stream as HTTP requires, with a last chunk, unless it would
    /// come in the middle of a line.
    pub fn end(mut self) {
        let is_between = self.write().is_ok() && self.queue.is_empty();
        if self.stream.chunked && is_between {
            let _ = (&*self.stream.socket).write(LAST_CHUNK);
        }
        let _ = self.stream.socket.shutdown(Shutdown::Write);
    }
}
