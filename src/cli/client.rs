//! A small HTTP client, for the daemon's own tools.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::json::Json;

/// How long the daemon may take to accept, and then to say something.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The most bytes of an answer's head, or of a chunk's size.
const HEAD_MAX: u64 = 64 << 10;

/// The most bytes of a body or a line of events.
const BODY_MAX: u64 = 1 << 30;

/// Asks one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
}

impl Client {
    /// A client of the daemon at `server`.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self { server }
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// A sentence, if the daemon is away, refuses, or says what is not JSON.
    pub fn get_json(&self, path: &str) -> Result<Json, String> {
        let mut answer = self.get(path)?;
        let body = answer.read_all().map_err(|e| self.failed(path, &e))?;
        let text = String::from_utf8_lossy(&body);
        if answer.status != 200 {
            let said = text.trim();
            let status = answer.status;
            return Err(match said {
                "" => format!("{}{path}: status {status}", self.server),
                said => said.to_string(),
            });
        }
        Json::parse(&text)
            .map_err(|e| format!("{}{path}: not JSON: {e}", self.server))
    }

    /// Asks for a path; the answer's body is read from what is returned.
    ///
    /// # Errors
    /// A sentence, if the daemon is away or does not speak HTTP.
    pub fn get(&self, path: &str) -> Result<AnswerReader, String> {
        self.try_get(path).map_err(|e| self.failed(path, &e))
    }

    fn failed(&self, path: &str, e: &io::Error) -> String {
        let server = self.server;
        match e.kind() {
            io::ErrorKind::ConnectionRefused => format!(
                "no daemon answers at {server}: it is not running, or has \
                 not loaded every VM yet"
            ),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{server}{path}: no answer in {TIME_LIMIT:?}")
            }
            _ => format!("{server}{path}: {e}"),
        }
    }

    fn try_get(&self, path: &str) -> io::Result<AnswerReader> {
        let stream = TcpStream::connect_timeout(&self.server, TIME_LIMIT)?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: vminfod/{version}\
             \r\nConnection: close\r\n\r\n",
            self.server
        );
        (&stream).write_all(request.as_bytes())?;
        AnswerReader::new(BufReader::new(stream))
    }
}

/// An answer whose body is read as it comes.
#[derive(Debug)]
pub struct AnswerReader {
    /// The status.
    pub status: u16,
    stream: BufReader<TcpStream>,
    chunked: bool,
    /// Bytes of the present chunk, or of the body, that are not read yet.
    left: u64,
}

impl AnswerReader {
    fn new(mut stream: BufReader<TcpStream>) -> io::Result<Self> {
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
        let (mut chunked, mut left) = (false, BODY_MAX);
        for header in parsed.headers.iter() {
            let value = String::from_utf8_lossy(header.value);
            if header.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if header.name.eq_ignore_ascii_case("content-length") {
                left = value.trim().parse().map_err(|_| invalid("length"))?;
            }
        }
        let left = if chunked { 0 } else { left.min(BODY_MAX) };
        Ok(Self { status, stream, chunked, left })
    }

    /// Lets the next line take as long as it likes.
    ///
    /// # Errors
    /// If the socket is no more.
    pub fn wait_without_limit(&self) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(None)
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// If it ends too early, or is too large.
    pub fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while self.more()? {
            self.read_left(&mut body)?;
        }
        Ok(body)
    }

    /// Reads the next line, without its end; `None` at the end of the body.
    ///
    /// # Errors
    /// If the body breaks off.
    pub fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if !self.more()? {
                return if line.is_empty() {
                    Ok(None)
                } else {
                    Err(invalid("the stream broke off within a line"))
                };
            }
            let before = line.len();
            (&mut self.stream).take(self.left).read_until(b'\n', &mut line)?;
            self.consumed(line.len() - before)?;
            if line.len() as u64 > BODY_MAX {
                return Err(invalid("a line is too long"));
            }
        }
        line.pop();
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    fn read_left(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        let before = body.len();
        let bounded = !self.chunked && self.left == BODY_MAX;
        (&mut self.stream).take(self.left).read_to_end(body)?;
        if bounded {
            // A body without a length ends with the connection.
            self.left = 0;
            return Ok(());
        }
        self.consumed(body.len() - before)?;
        if body.len() as u64 > BODY_MAX {
            return Err(invalid("the body is too long"));
        }
        Ok(())
    }

    /// Whether there is more of the body; begins the next chunk.
    fn more(&mut self) -> io::Result<bool> {
        if self.left > 0 || !self.chunked {
            return Ok(self.left > 0);
        }
        let size = self.chunk_line()?;
        let size = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16)
            .ok()
            .filter(|size| *size <= BODY_MAX)
            .ok_or_else(|| invalid("not a chunk"))?;
        if self.left == 0 {
            self.chunked = false;
        }
        Ok(self.left > 0)
    }

    fn consumed(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            ));
        }
        self.left -= n as u64;
        if self.left == 0 && self.chunked && !self.chunk_line()?.is_empty() {
            return Err(invalid("a chunk without its end"));
        }
        Ok(())
    }

    fn chunk_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(HEAD_MAX).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            ));
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
