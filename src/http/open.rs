//! The connections that are open: so many may be, and all are closed at the end.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// How long a client may go on sending after its last answer before it is cut
/// off; without that time, it might never read the end of the answer.
pub const LINGER_TIME: Duration = Duration::from_millis(500);

/// How much it may send.
pub const LINGER_BYTES: usize = 1 << 20;

/// A connection on which lines are sent.
#[derive(Debug)]
pub struct StreamSocket {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// Whether lines are sent in chunks: not to HTTP/1.0.
    pub chunked: bool,
    /// Keeps the connection counted.
    pub _slot: Slot,
}

/// The connections that are open.
#[derive(Debug, Default)]
pub struct OpenConnections {
    sockets: Mutex<(u64, HashMap<u64, Arc<TcpStream>>)>,
}

/// One of the connections that there may be, until dropped.
#[derive(Debug)]
pub struct Slot {
    id: u64,
    open: Arc<OpenConnections>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.sockets.lock().1.remove(&self.id);
    }
}

impl OpenConnections {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.sockets.lock().1.len()
    }

    /// Counts one more, unless there are `most` already.
    pub fn slot(
        self: &Arc<Self>,
        socket: &Arc<TcpStream>,
        most: usize,
    ) -> Option<Slot> {
        let mut sockets = self.sockets.lock();
        if sockets.1.len() >= most {
            return None;
        }
        sockets.0 += 1;
        let id = sockets.0;
        sockets.1.insert(id, Arc::clone(socket));
        Some(Slot { id, open: Arc::clone(self) })
    }

    /// Ends all of them. A thread that works on one sees its end.
    pub fn shut_down(&self) {
        for socket in self.sockets.lock().1.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
