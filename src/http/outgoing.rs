//! An answer on its way to the client, as far as it is written.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::answer::Body;
use super::transfer::{Transfer, transfer};

/// Pieces that one writev(2) takes; illumos has an IOV_MAX of 1024.
const PIECES_MAX: usize = 512;

/// An answer that is being written.
pub struct Outgoing {
    head: Vec<u8>,
    body: Option<Body>,
    /// The index of the first piece that is not fully written. Piece 0 is the
    /// head; the others are those of the body.
    at: usize,
    /// How many bytes of that piece are written.
    sent: usize,
    /// How many bytes of the whole answer are not written yet.
    left: usize,
    /// When it began to be written.
    pub begun: Instant,
    /// The counter of unsent bytes, and how much this answer has added to it;
    /// `None` before [`Outgoing::count`].
    counted: Option<(Arc<AtomicUsize>, usize)>,
}

impl Outgoing {
    pub fn new(head: String, body: Option<Body>) -> Self {
        let left = head.len() + body.as_ref().map_or(0, Body::len);
        let (head, begun) = (head.into_bytes(), Instant::now());
        Self { head, body, at: 0, sent: 0, left, begun, counted: None }
    }

    pub fn left(&self) -> usize {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Adds the bytes that are held for this answer to `unsent`, only once, and
    /// returns how many they are.
    pub fn count(&mut self, unsent: &Arc<AtomicUsize>) -> usize {
        if let Some((_, own)) = &self.counted {
            return *own;
        }
        let own = self.head.len() + self.body.as_ref().map_or(0, Body::held);
        unsent.fetch_add(own, Ordering::Relaxed);
        self.counted = Some((Arc::clone(unsent), own));
        own
    }

    fn piece(&self, at: usize) -> &[u8] {
        match (at.checked_sub(1), &self.body) {
            (None, _) => &self.head,
            (Some(at), Some(body)) => body.piece(at),
            (Some(_), None) => &[],
        }
    }

    /// Writes until everything is written, or the client takes no more.
    pub fn write(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        let count = 1 + self.body.as_ref().map_or(0, Body::count);
        while !self.is_empty() {
            let end = count.min(self.at + PIECES_MAX);
            let mut slices = Vec::with_capacity(end - self.at);
            slices.push(IoSlice::new(&self.piece(self.at)[self.sent..]));
            let others = self.at + 1..end;
            slices.extend(others.map(|at| IoSlice::new(self.piece(at))));
            match transfer(|| socket.write_vectored(&slices))? {
                Transfer::End => return Err(io::ErrorKind::WriteZero.into()),
                // After a partial write there is often room again: go on.
                Transfer::Bytes(n) => self.advance(n),
                Transfer::NotYet => break,
            }
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        self.left -= written;
        self.sent += written;
        while !self.is_empty() && self.sent >= self.piece(self.at).len() {
            self.sent -= self.piece(self.at).len();
            self.at += 1;
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some((unsent, own)) = &self.counted {
            unsent.fetch_sub(*own, Ordering::Relaxed);
        }
    }
}
