//! How servers cope with clients that misbehave, and with many clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Result;

/// A request that has no answer by then counts as unanswered.
const TIME: Duration = Duration::from_secs(2);

/// How many connections ask at once and stay open.
const OPEN: usize = 12;

/// How many clients request large answers and do not read them.
const UNREAD: usize = 16;

fn ask(addr: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(TIME))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    Ok(stream)
}

/// The percentage of connections that are answered, if many ask at once and
/// stay open.
pub fn open_connections(addr: SocketAddr, path: &str) -> Result<f64> {
    let streams = (0..OPEN).map(|_| ask(addr, path));
    let streams = streams.collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + TIME;
    let mut answered = 0;
    for mut stream in streams {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        if matches!(stream.read(&mut [0; 64]), Ok(n) if n > 0) {
            answered += 1;
        }
    }
    Ok(f64::from(answered) * 100.0 / OPEN as f64)
}

/// How long a small request takes while other clients do not read the large
/// answers that they have requested; in milliseconds, at most [`TIME`].
pub fn beside_unread(
    addr: SocketAddr,
    large: &str,
    small: &str,
) -> Result<f64> {
    let clients = (0..UNREAD).map(|_| ask(addr, large));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let mut stream = ask(addr, small)?;
    // If there is no answer, the request has taken all of the time.
    let _ = stream.read(&mut [0; 64]);
    let took = begin.elapsed().min(TIME);
    drop(clients);
    Ok(took.as_secs_f64() * 1e3)
}
