//! One request, and its answer as it comes: HTTP/1.1 over a socket, with a
//! time limit on everything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::os;

/// The most bytes of an answer's head, or of a chunk's size.
const HEAD_MAX: u64 = 64 << 10;

/// The most bytes of a body, or of a line of events.
const BODY_MAX: u64 = 1 << 30;

/// What is read from the socket at a time, in bytes.
const BUFFER: usize = 64 << 10;

/// A socket each of whose reads has to be over by some moment.
#[derive(Debug)]
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(bytes)
    }
}

/// An answer whose body is read as it comes.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    fields: Vec<(String, String)>,
    stream: BufReader<Timed>,
    length: Length,
}

/// How much of the body there still is.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes of this chunk, and then others.
    Chunks(u64),
    /// All until the connection is closed.
    UntilClosed,
}

/// Asks for a path, by GET; all up to the answer's head has to be there in
/// `time`.
///
/// # Errors
/// If nobody listens, the time is over, or the answer is not HTTP.
pub fn get(
    server: SocketAddr,
    path: &str,
    agent: &str,
    time: Duration,
) -> io::Result<Answer> {
    let until = Instant::now() + time;
    let stream = TcpStream::connect_timeout(&server, time)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(time))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: {agent}\r\n\
         Connection: close\r\n\r\n",
    );
    (&stream).write_all(request.as_bytes())?;
    let timed = Timed { stream, until };
    Answer::begin(BufReader::with_capacity(BUFFER, timed))
}

impl Answer {
    fn begin(mut stream: BufReader<Timed>) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let room = HEAD_MAX - head.len() as u64;
            let n = (&mut stream).take(room).read_until(b'\n', &mut head)?;
            if n == 0 {
                return Err(invalid("no whole head of an answer"));
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(|_| invalid("not an HTTP answer"))?;
        let status = parsed.code.ok_or_else(|| invalid("no status"))?;
        let fields: Vec<_> = parsed
            .headers
            .iter()
            .map(|h| {
                let value = String::from_utf8_lossy(h.value).into_owned();
                (h.name.to_ascii_lowercase(), value)
            })
            .collect();
        let mut answer =
            Self { status, fields, stream, length: Length::UntilClosed };
        let is_chunked = answer
            .field("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if is_chunked {
            answer.length = Length::Chunks(0);
        } else if let Some(length) = answer.field("content-length") {
            let length = length.trim().parse().ok();
            let length = length.filter(|bytes| *bytes <= BODY_MAX);
            let length = length.ok_or_else(|| invalid("no such length"))?;
            answer.length = Length::Bytes(length);
        }
        Ok(answer)
    }

    /// A field of the head, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// What can be shut down from another thread.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().stream.try_clone()
    }

    /// Waits until there is something to read, for `time` at the most; then
    /// `false`.
    ///
    /// # Errors
    /// If the system can't wait.
    pub fn wait(&self, time: Duration) -> io::Result<bool> {
        if !self.stream.buffer().is_empty() {
            return Ok(true);
        }
        let socket = self.stream.get_ref().stream.as_fd();
        Ok(os::wait_readable(&[socket], time)?[0])
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// If it is not there by the time that the request has, breaks off, or is
    /// too large.
    pub fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let room = BODY_MAX - body.len() as u64;
            let left = match self.left()? {
                Some(0) => return Ok(body),
                left => left,
            };
            let most = left.unwrap_or(room + 1).min(room + 1);
            let n = (&mut self.stream).take(most).read_to_end(&mut body)?;
            if body.len() as u64 > BODY_MAX {
                return Err(invalid("the body is too long"));
            }
            if left.is_none() {
                return Ok(body);
            }
            self.took(n)?;
        }
    }

    /// Reads the next line, without its end, which has to be there in `time`;
    /// `None` at the end of the body.
    ///
    /// # Errors
    /// If it is not, or the body breaks off.
    pub fn read_line(&mut self, time: Duration) -> io::Result<Option<String>> {
        self.stream.get_mut().until = Instant::now() + time;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let most = match self.left()? {
                Some(0) if line.is_empty() => return Ok(None),
                Some(0) => return Err(invalid("a line without its end")),
                left => left.unwrap_or(BODY_MAX),
            };
            let mut part = (&mut self.stream).take(most);
            let n = part.read_until(b'\n', &mut line)?;
            if n == 0 && matches!(self.length, Length::UntilClosed) {
                return match line.is_empty() {
                    true => Ok(None),
                    false => Err(closed()),
                };
            }
            self.took(n)?;
            if line.len() as u64 > BODY_MAX {
                return Err(invalid("a line is too long"));
            }
        }
        line.pop();
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    /// How many bytes can be read before the next chunk begins; none at the
    /// end, `None` if only the connection's end tells.
    fn left(&mut self) -> io::Result<Option<u64>> {
        match self.length {
            Length::UntilClosed => Ok(None),
            Length::Bytes(left) => Ok(Some(left)),
            Length::Chunks(0) => {
                let size = self.chunk_line()?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).ok();
                let size = size.filter(|size| *size <= BODY_MAX);
                let size = size.ok_or_else(|| invalid("not a chunk"))?;
                self.length = match size {
                    0 => Length::Bytes(0),
                    size => Length::Chunks(size),
                };
                Ok(Some(size))
            }
            Length::Chunks(left) => Ok(Some(left)),
        }
    }

    /// Counts what was read.
    fn took(&mut self, n: usize) -> io::Result<()> {
        let (Length::Bytes(left) | Length::Chunks(left)) = &mut self.length
        else {
            return Ok(());
        };
        if n == 0 {
            return Err(closed());
        }
        *left = left.saturating_sub(n as u64);
        if matches!(self.length, Length::Chunks(0))
            && !self.chunk_line()?.is_empty()
        {
            return Err(invalid("a chunk without its end"));
        }
        Ok(())
    }

    fn chunk_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(HEAD_MAX).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(closed());
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
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
