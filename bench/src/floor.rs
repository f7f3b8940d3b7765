//! The servers with which the daemon's HTTP server is compared: one that does
//! the least that a server can do, and tiny_http. Each runs as a process of its
//! own, as the daemon does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::Result;

/// The arguments that make this program run as one of the servers.
pub const FLOOR: &str = "serve-floor";
/// See [`FLOOR`].
pub const TINY: &str = "serve-tiny-http";

/// A server that has been started; killed when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts the server of this name, which answers with the content of a
    /// file.
    pub fn start(name: &str, answer: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(name)
            .arg(answer)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        let mut out = std::io::BufReader::new(out);
        std::io::BufRead::read_line(&mut out, &mut line)?;
        Ok(Self { child, addr: line.trim().parse()? })
    }
}

/// Serves each connection by a thread that reads a head and writes the bytes.
pub fn serve_floor(answer: &Path) -> Result<()> {
    let bytes: Arc<[u8]> = std::fs::read(answer)?.into();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, bytes) = (stream?, Arc::clone(&bytes));
        std::thread::spawn(move || answer_all(stream, &bytes));
    }
    Ok(())
}

fn answer_all(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 4096];
    let mut have = 0;
    loop {
        let n = stream.read(&mut head[have..])?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        if head[..have].ends_with(b"\r\n\r\n") {
            stream.write_all(bytes)?;
            have = 0;
        }
    }
}

/// Serves by tiny_http as its documentation shows it, with as many threads.
pub fn serve_tiny(answer: &Path) -> Result<()> {
    let bytes = std::fs::read(answer)?;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let body: Arc<[u8]> = bytes[end.ok_or("no head")? + 4..].into();
    let server = tiny_http::Server::http("127.0.0.1:0")?;
    println!("{}", server.server_addr());
    let server = Arc::new(server);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), Arc::clone(&body));
            std::thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    // With its length, as the clients here expect.
                    let answer = tiny_http::Response::from_data(&*body)
                        .with_chunked_threshold(usize::MAX);
                    // Its client may have gone.
                    let _ = request.respond(answer);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")?;
    }
    Ok(())
}
