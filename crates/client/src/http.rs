//! One HTTP/1.1 request over a socket, and its answer, which is read as it
//! arrives. Everything has a time limit.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The most bytes of an answer's head, or of the line with a chunk's size.
const HEAD_MAX: usize = 64 << 10;

/// The most bytes of a body, or of a line of events.
const BODY_MAX: usize = 1 << 30;

/// The most bytes that are read from the socket at a time.
const READ_MAX: usize = 64 << 10;

/// The shortest timeout that is set on a socket.
pub const INSTANT: Duration = Duration::from_millis(1);

/// An answer whose body is read as it arrives.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    fields: Vec<(String, String)>,
    stream: TcpStream,
    /// Bytes that were read from the socket, but not decoded yet.
    raw: Vec<u8>,
    /// Decoded bytes of the body that the caller has not taken yet.
    body: Vec<u8>,
    /// How many bytes of `body` are known to contain no end of a line.
    searched: usize,
    state: State,
}

/// Where in the body the bytes of `raw` begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the size of a chunk.
    Size,
    /// In a chunk, with this many bytes left.
    Chunk(usize),
    /// Before the line end that follows a chunk.
    ChunkEnd,
    /// In a body of known length, with this many bytes left.
    Bytes(usize),
    /// In a body that ends when the connection is closed.
    UntilClosed,
    /// After the end of the body.
    End,
}

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The line, without its end.
    Line(String),
    /// The line is not complete yet.
    Later {
        /// How many bytes of it have arrived; 0 if none.
        bytes: usize,
    },
    /// There is no further line: the body has ended.
    End,
}

/// Sends a GET request for `path`. The answer's head must arrive by `until`.
///
/// # Errors
/// If the head does not arrive in time, or is not HTTP.
pub fn ask(
    stream: TcpStream,
    host: &str,
    path: &str,
    agent: &str,
    until: Instant,
) -> io::Result<Answer> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\
         Connection: close\r\n\r\n",
    );
    stream.set_write_timeout(Some(left(until).max(INSTANT)))?;
    (&stream).write_all(request.as_bytes())?;
    let (mut raw, end) = read_head(&stream, until)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&raw[..end]).map_err(|_| invalid("not an HTTP answer"))?;
    let status = parsed.code.ok_or_else(|| invalid("no status"))?;
    let fields = parsed.headers.iter().map(|h| {
        let value = String::from_utf8_lossy(h.value).trim().to_string();
        (h.name.to_ascii_lowercase(), value)
    });
    let fields: Vec<_> = fields.collect();
    raw.drain(..end);
    let mut answer = Answer {
        status,
        fields,
        stream,
        raw,
        body: Vec::new(),
        searched: 0,
        state: State::UntilClosed,
    };
    let is_chunked = answer
        .field("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    if is_chunked {
        answer.state = State::Size;
    } else if let Some(length) = answer.field("content-length") {
        let length = length.parse().ok().filter(|n| *n <= BODY_MAX);
        let length = length.ok_or_else(|| {
            invalid("the Content-Length of the answer is invalid or too large")
        })?;
        answer.state = State::Bytes(length);
    }
    answer.understand()?;
    Ok(answer)
}

/// Reads until the head is complete. Returns the bytes that were read, and
/// where the head ends.
fn read_head(
    stream: &TcpStream,
    until: Instant,
) -> io::Result<(Vec<u8>, usize)> {
    let mut raw = Vec::new();
    loop {
        let end = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if let Some(end) = end {
            return Ok((raw, end + 4));
        }
        if raw.len() > HEAD_MAX {
            return Err(invalid("the head of the answer is too long"));
        }
        match read(stream, &mut raw, until)? {
            Some(_) if Instant::now() >= until => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Some(0) => {
                return Err(invalid("the head of the answer is incomplete"));
            }
            Some(_) => {}
            None => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Answer {
    /// A field of the head; `name` is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// If the body is not complete by `until`, breaks off, or is too large.
    pub fn read_all(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        while self.state != State::End {
            if Instant::now() >= until || !self.pull(until)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(std::mem::take(&mut self.body))
    }

    /// Reads the next line, if it is complete by `until`.
    ///
    /// # Errors
    /// If the body breaks off, or the line is too long.
    pub fn read_line(&mut self, until: Instant) -> io::Result<Piece> {
        let mut has_pulled = false;
        loop {
            let fresh = &self.body[self.searched..];
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                let line = String::from_utf8_lossy(&self.body[..end]);
                let line = line.into_owned();
                self.body.drain(..=end);
                self.searched = 0;
                return Ok(Piece::Line(line));
            }
            self.searched = self.body.len();
            if self.state == State::End {
                return match self.body.is_empty() {
                    true => Ok(Piece::End),
                    false => {
                        Err(invalid("the answer ended in the middle of a line"))
                    }
                };
            }
            // Bytes that have arrived already are read even after `until`.
            let is_late = has_pulled && Instant::now() >= until;
            has_pulled = true;
            if is_late || !self.pull(until)? {
                let bytes = self.body.len() + self.raw.len();
                return Ok(Piece::Later { bytes });
            }
        }
    }

    /// Reads once from the socket; `false` if nothing arrives by `until`.
    fn pull(&mut self, until: Instant) -> io::Result<bool> {
        match read(&self.stream, &mut self.raw, until)? {
            None => return Ok(false),
            Some(0) if self.state == State::UntilClosed => {
                self.state = State::End;
            }
            Some(0) => return Err(closed()),
            Some(_) => self.understand()?,
        }
        Ok(true)
    }

    /// Decodes the raw bytes into the body, as far as they go.
    fn understand(&mut self) -> io::Result<()> {
        let mut at = 0;
        loop {
            let rest = &self.raw[at..];
            match self.state {
                State::Size => {
                    let Some(line) = line_of(rest)? else { break };
                    at += line.len() + 2;
                    self.state = match chunk_size(&line)? {
                        0 => State::End,
                        size => State::Chunk(size),
                    };
                }
                State::ChunkEnd => {
                    let Some(line) = line_of(rest)? else { break };
                    if !line.is_empty() {
                        return Err(invalid(
                            "a chunk of the answer has no line end after it",
                        ));
                    }
                    at += 2;
                    self.state = State::Size;
                }
                State::Chunk(left) | State::Bytes(left) => {
                    let n = left.min(rest.len());
                    self.body.extend_from_slice(&rest[..n]);
                    at += n;
                    let is_chunk = matches!(self.state, State::Chunk(_));
                    self.state = match (is_chunk, left - n) {
                        (true, 0) => State::ChunkEnd,
                        (true, left) => State::Chunk(left),
                        (false, 0) => State::End,
                        (false, left) => State::Bytes(left),
                    };
                    if left > n {
                        break;
                    }
                }
                State::UntilClosed => {
                    self.body.extend_from_slice(rest);
                    at = self.raw.len();
                    break;
                }
                State::End => {
                    at = self.raw.len();
                    break;
                }
            }
        }
        self.raw.drain(..at);
        match self.body.len() > BODY_MAX {
            true => Err(invalid("the answer is too long")),
            false => Ok(()),
        }
    }
}

/// The size of a chunk, by the line before it.
fn chunk_size(line: &str) -> io::Result<usize> {
    let size = line.split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(size.trim(), 16).ok();
    let size = size.filter(|size| *size <= BODY_MAX);
    size.ok_or_else(|| invalid("a chunk of the answer is malformed"))
}

/// A whole line of the chunked coding itself, without its line end; `None` if
/// it is not complete yet.
fn line_of(raw: &[u8]) -> io::Result<Option<String>> {
    match raw.iter().position(|b| *b == b'\n') {
        Some(end) if end > 0 && raw[end - 1] == b'\r' => {
            let line = String::from_utf8_lossy(&raw[..end - 1]);
            Ok(Some(line.into_owned()))
        }
        Some(_) => Err(invalid("a chunk of the answer is malformed")),
        None if raw.len() > HEAD_MAX => {
            Err(invalid("a chunk of the answer is malformed"))
        }
        None => Ok(None),
    }
}

/// Reads once from the socket. Returns how many bytes there were, 0 at the end
/// of the stream, or `None` if nothing arrives by `until`.
fn read(
    mut stream: &TcpStream,
    to: &mut Vec<u8>,
    until: Instant,
) -> io::Result<Option<usize>> {
    let mut piece = [0; READ_MAX];
    loop {
        stream.set_read_timeout(Some(left(until).max(INSTANT)))?;
        match stream.read(&mut piece) {
            Ok(n) => {
                to.extend_from_slice(&piece[..n]);
                return Ok(Some(n));
            }
            Err(e) => match e.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Ok(None);
                }
                _ => return Err(e),
            },
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection was closed before the end",
    )
}
