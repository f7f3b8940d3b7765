//! Clients that send the next request as soon as they have the answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// What the clients received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Had {
    /// Answers a second.
    pub answers: f64,
    /// Bytes a second.
    pub bytes: f64,
}

/// Requests `path` for `time`, again and again, on this many connections.
pub fn ask(
    addr: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<Had> {
    let is_over = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let (path, is_over) = (path.to_string(), Arc::clone(&is_over));
            std::thread::spawn(move || client(addr, &path, &is_over))
        })
        .collect();
    std::thread::sleep(time);
    is_over.store(true, Ordering::Relaxed);
    let mut had = Had::default();
    for client in clients {
        let of_one = client.join().map_err(|_| "a client has panicked")?;
        let (answers, bytes) = of_one.map_err(|e| format!("{path}: {e}"))?;
        had.answers += answers;
        had.bytes += bytes;
    }
    let seconds = begin.elapsed().as_secs_f64();
    had.answers /= seconds;
    had.bytes /= seconds;
    Ok(had)
}

fn client(
    addr: SocketAddr,
    path: &str,
    is_over: &AtomicBool,
) -> std::io::Result<(f64, f64)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut buffer = vec![0; 256 << 10];
    let (mut answers, mut bytes) = (0.0, 0.0);
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(request.as_bytes())?;
        bytes += read_answer(&mut stream, &mut buffer)?;
        answers += 1.0;
    }
    Ok((answers, bytes))
}

/// Reads one answer, whose head must fit into `buffer`. Returns its length.
#[allow(clippy::cast_precision_loss)]
fn read_answer(
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> std::io::Result<f64> {
    let broken = |what: &str| std::io::Error::new(ErrorKind::InvalidData, what);
    let mut have = 0;
    let end = loop {
        let n = stream.read(&mut buffer[have..])?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        have += n;
        let mut windows = buffer[..have].windows(4);
        if let Some(end) = windows.position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = std::str::from_utf8(&buffer[..end])
        .map_err(|_| broken("the answer's head is not UTF-8"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(broken(head));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = end + length.ok_or_else(|| broken("no Content-Length"))?;
    let mut rest = length.saturating_sub(have);
    while rest > 0 {
        let most = rest.min(buffer.len());
        let n = stream.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        rest -= n;
    }
    Ok(length as f64)
}

/// Returns a client that sends one request each time it is called, all on one
/// connection.
pub fn one(
    addr: SocketAddr,
    path: &str,
) -> std::io::Result<impl FnMut() -> std::io::Result<()>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut buffer = vec![0; 256 << 10];
    Ok(move || {
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream, &mut buffer)?;
        Ok(())
    })
}
