//! The open connections: counts them, so that their number can be limited, and
//! closes all of them when the daemon ends.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// How long a client may go on sending after its last answer before it is cut
/// off. Without that time, it might never read the end of the answer.
pub const LINGER_TIME: Duration = Duration::from_millis(500);

/// The most bytes that the client may send in that time.
pub const LINGER_BYTES: usize = 1 << 20;

/// A connection on which the lines of /events are sent.
#[derive(Debug)]
pub struct StreamSocket {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// Whether lines are sent in chunks: `false` for a client of HTTP/1.0.
    pub chunked: bool,
    /// Keeps the connection counted among the open ones.
    pub _slot: Slot,
}

/// The open connections.
#[derive(Debug, Default)]
pub struct OpenConnections {
    /// The last id that was given out, and the open sockets by id.
    sockets: Mutex<(u64, HashMap<u64, Arc<TcpStream>>)>,
}

/// One open connection; it is counted until this is dropped.
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
    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.sockets.lock().1.len()
    }

    /// Counts one more connection; `None` if `most` are open already.
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

    /// Shuts all of them down. A thread that is serving one sees the end of its
    /// socket.
    pub fn shut_down(&self) {
        for socket in self.sockets.lock().1.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
