//! One connection: requests in, answers out, one at a time, without ever
//! blocking on the client.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::answer::{
    Deferred, FullResponse, Handler, JSON, Response, StartStream, head,
};
use super::open::{LINGER_BYTES, LINGER_TIME, Slot, StreamSocket};
use super::outgoing::Outgoing;
use super::poller::{Interest, Poller, WakeReason, wait_for};
use super::pool::Pool;
use super::request::{ParsedHead, Request, parse};
use super::transfer::{Transfer, transfer};
use super::waker::Waker;
use crate::settings::HttpLimits;
use crate::sync::Wake;

/// The most bytes that are read at a time.
const READ_BYTES: usize = 4096;

const READ: Interest = Interest { read: true, write: false };
const WRITE: Interest = Interest { read: false, write: true };

/// What all connections share.
pub struct Serving {
    pub limits: HttpLimits,
    pub handler: Box<dyn Handler>,
    pub poller: Arc<Poller>,
    /// Bytes held for parked answers, which clients have not read yet.
    pub unsent: Arc<AtomicUsize>,
    pub pool: Arc<Pool>,
}

/// One connection.
pub struct Connection {
    serving: Arc<Serving>,
    socket: Arc<TcpStream>,
    slot: Option<Slot>,
    local: Option<IpAddr>,
    /// Bytes that were read and not used yet.
    buffer: Vec<u8>,
    state: State,
    /// When the wait of the present state times out.
    until: Instant,
}

/// What a connection is doing.
enum State {
    /// Reading a request.
    Reading,
    /// Reading and dropping the body of this request, of which so many bytes
    /// are left.
    Skipping(Request, usize),
    /// Waiting for the answer to this request.
    Waiting(Request, Box<dyn Deferred>, Arc<Waker>),
    /// Writing an answer.
    Writing(Outgoing, After),
    /// Giving the client time to read the end of its last answer. It may send
    /// so many more bytes.
    Lingering(usize),
}

/// What comes after an answer is sent.
enum After {
    /// The next request.
    Request,
    /// The connection is closed.
    Close,
    /// A stream of lines. The flag says whether the client gets them in chunks.
    Stream(StartStream, bool),
}

/// What to do after a step.
enum Step {
    /// There is more to do.
    Next,
    /// There is more to do, but other connections may go first.
    Yield,
    /// Nothing more can be done until the socket is ready for this.
    Park(Interest),
    /// The connection is over, or a stream has taken it over.
    End,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(
        serving: Arc<Serving>,
        socket: Arc<TcpStream>,
        slot: Slot,
    ) -> Self {
        let local = socket.local_addr().ok().map(|address| address.ip());
        let until = Instant::now() + serving.limits.idle_time;
        Self {
            serving,
            socket,
            slot: Some(slot),
            local,
            buffer: Vec::new(),
            state: State::Reading,
            until,
        }
    }

    /// Lets one of the pool's threads go on with it.
    pub fn serve(self, why: WakeReason) {
        let pool = Arc::clone(&self.serving.pool);
        pool.run(Box::new(move || self.run(why)));
    }

    /// Does what can be done, and parks the connection.
    fn run(mut self, mut why: WakeReason) {
        loop {
            match self.step(why) {
                Ok(Step::Next) => {}
                Ok(Step::Park(wants)) => {
                    // If the client goes on at once, the connection is not
                    // parked.
                    let patience = self.serving.limits.patience;
                    let is_waiting = matches!(self.state, State::Waiting(..));
                    let stays = !is_waiting
                        && !self.serving.pool.is_busy()
                        && wait_for(&self.socket, wants, patience);
                    if !stays {
                        return self.park(wants);
                    }
                }
                Ok(Step::Yield) if self.serving.pool.is_busy() => {
                    // A client that sends one request after the other takes
                    // turns with other clients.
                    return self.serve(WakeReason::Ready);
                }
                Ok(Step::Yield) if self.buffer.is_empty() => {
                    // The next request may be on its way. To wait for it costs
                    // less than to try a read first.
                    let patience = self.serving.limits.patience;
                    if !wait_for(&self.socket, READ, patience) {
                        return self.park(READ);
                    }
                }
                Ok(Step::Yield) => {}
                Ok(Step::End) | Err(_) => return,
            }
            if self.serving.pool.is_ending() {
                return;
            }
            why = WakeReason::Ready;
        }
    }

    fn park(mut self, wants: Interest) {
        let serving = Arc::clone(&self.serving);
        let poller = &serving.poller;
        let (socket, until) = (Arc::clone(&self.socket), self.until);
        let key = poller.key();
        let (mut waker, mut held) = (None, None);
        match &mut self.state {
            State::Waiting(_, _, own) => waker = Some(Arc::clone(own)),
            State::Writing(outgoing, _) => {
                held = Some(outgoing.count(&serving.unsent));
            }
            State::Reading | State::Skipping(..) | State::Lingering(_) => {}
        }
        let then = Box::new(move |why| self.serve(why));
        match (waker, held) {
            (None, Some(bytes)) => {
                poller.park_answer(key, socket, until, bytes, then);
            }
            (None, None) => {
                poller.park(key, socket, wants, Some(until), then);
            }
            (Some(waker), _) => waker.park_at(key, || {
                poller.park(key, socket, wants, Some(until), then);
            }),
        }
    }

    fn step(&mut self, why: WakeReason) -> io::Result<Step> {
        match std::mem::replace(&mut self.state, State::Reading) {
            State::Reading => self.read(why),
            State::Skipping(request, left) => self.skip(request, left, why),
            State::Waiting(request, later, waker) => {
                self.wait(request, later, waker, why)
            }
            State::Writing(outgoing, after) => self.write(outgoing, after, why),
            State::Lingering(left) => self.linger(left, why),
        }
    }

    /// Reads until there is a request, and has it answered.
    fn read(&mut self, why: WakeReason) -> io::Result<Step> {
        let serving = Arc::clone(&self.serving);
        match parse(&self.buffer, &serving.limits) {
            ParsedHead::Request(request, len) => {
                self.buffer.drain(..len);
                let body = request.body;
                self.state = State::Skipping(request, body);
                return Ok(Step::Next);
            }
            ParsedHead::Refused(status) => {
                self.refuse(status);
                return Ok(Step::Next);
            }
            ParsedHead::Partial
                if why == WakeReason::Late || Instant::now() >= self.until =>
            {
                // A client that has sent nothing gets no answer.
                if self.buffer.is_empty() {
                    return Ok(Step::End);
                }
                self.refuse(408);
                return Ok(Step::Next);
            }
            ParsedHead::Partial => {}
        }
        loop {
            let was_empty = self.buffer.is_empty();
            let mut piece = [0; READ_BYTES];
            match self.receive(&mut piece)? {
                Transfer::End => return Ok(Step::End),
                Transfer::NotYet => return Ok(Step::Park(READ)),
                Transfer::Bytes(n) => {
                    if was_empty {
                        self.until = Instant::now() + serving.limits.head_time;
                    }
                    self.buffer.extend_from_slice(&piece[..n]);
                    let is_long =
                        self.buffer.len() > serving.limits.target_bytes;
                    // Only a newline can complete a head.
                    if is_long || piece[..n].contains(&b'\n') {
                        return Ok(Step::Next);
                    }
                }
            }
        }
    }

    fn receive(&self, piece: &mut [u8]) -> io::Result<Transfer> {
        transfer(|| (&*self.socket).read(piece))
    }

    /// Reads and drops the body of a request, of which `left` bytes are left;
    /// then has the request answered.
    fn skip(
        &mut self,
        request: Request,
        left: usize,
        why: WakeReason,
    ) -> io::Result<Step> {
        let here = left.min(self.buffer.len());
        self.buffer.drain(..here);
        let left = left - here;
        if left == 0 {
            let handler = &self.serving.handler;
            let answer = handler.answer(&request, self.local);
            self.answer(request, answer);
            return Ok(Step::Next);
        }
        if why == WakeReason::Late || Instant::now() >= self.until {
            self.refuse(408);
            return Ok(Step::Next);
        }
        let mut piece = [0; READ_BYTES];
        let step = match self.receive(&mut piece)? {
            Transfer::End => return Ok(Step::End),
            Transfer::NotYet => Step::Park(READ),
            Transfer::Bytes(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Step::Next
            }
        };
        self.state = State::Skipping(request, left);
        Ok(step)
    }

    /// Refuses something that is not a valid request, and closes the
    /// connection: where the next request would begin is unknown.
    fn refuse(&mut self, status: u16) {
        self.serving.handler.refused(status);
        let full = FullResponse::text(status, "");
        let outgoing = Outgoing::new(full.head(true, None), None);
        self.begin_writing(outgoing, After::Close);
    }

    fn answer(&mut self, request: Request, answer: Response) {
        match answer {
            Response::Full(full) => self.start_full_answer(&request, full),
            Response::Deferred(start) => {
                let poller = Arc::clone(&self.serving.poller);
                let waker = Arc::new(Waker::new(poller));
                let later = start({
                    let waker = Arc::clone(&waker);
                    Arc::new(move || waker.wake()) as Wake
                });
                self.until = later.until();
                self.state = State::Waiting(request, later, waker);
            }
            Response::Stream(start) => {
                if request.method == "HEAD" {
                    let head = head(200, JSON) + "Connection: close\r\n\r\n";
                    let outgoing = Outgoing::new(head, None);
                    self.begin_writing(outgoing, After::Close);
                    return;
                }
                let chunked = request.is_http11;
                let head = head(200, JSON)
                    + match chunked {
                        true => "Transfer-Encoding: chunked\r\n\r\n",
                        false => "Connection: close\r\n\r\n",
                    };
                let outgoing = Outgoing::new(head, None);
                self.begin_writing(outgoing, After::Stream(start, chunked));
            }
        }
    }

    fn start_full_answer(&mut self, request: &Request, full: FullResponse) {
        let stays = request.keep_alive && !full.is_last;
        let idle_time = stays.then_some(self.serving.limits.idle_time);
        let head = full.head(request.is_http11, idle_time);
        let has_body = request.method != "HEAD" && full.status != 304;
        let outgoing = Outgoing::new(head, has_body.then_some(full.body));
        let after = if stays { After::Request } else { After::Close };
        self.begin_writing(outgoing, after);
    }

    fn begin_writing(&mut self, outgoing: Outgoing, after: After) {
        self.until = Instant::now() + self.serving.limits.write_stall_time;
        self.state = State::Writing(outgoing, after);
    }

    /// Checks whether the deferred answer is ready, or its time is over.
    fn wait(
        &mut self,
        request: Request,
        mut later: Box<dyn Deferred>,
        waker: Arc<Waker>,
        why: WakeReason,
    ) -> io::Result<Step> {
        if why == WakeReason::Broken {
            return Ok(Step::End);
        }
        // What the client sends meanwhile is kept, but within bounds. If it
        // closes the connection, the request ends: no client would read the
        // answer.
        let most = self.serving.limits.head_bytes;
        while self.buffer.len() < most {
            let mut piece = [0; READ_BYTES];
            match self.receive(&mut piece)? {
                Transfer::End => return Ok(Step::End),
                Transfer::NotYet => break,
                Transfer::Bytes(n) => {
                    self.buffer.extend_from_slice(&piece[..n])
                }
            }
        }
        // The check below sees what every wake-up so far was for. A later
        // wake-up may be for a later change, and is kept.
        waker.clear();
        let mut answer = later.look();
        if answer.is_none()
            && (why == WakeReason::Late || Instant::now() >= later.until())
        {
            answer = Some(later.late());
        }
        match answer {
            Some(full) => {
                drop(later);
                self.start_full_answer(&request, full);
                Ok(Step::Next)
            }
            None => {
                if self.buffer.len() >= most {
                    // The buffer is full: nothing more is read, and the end of
                    // the connection would not be noticed.
                    return Ok(Step::End);
                }
                self.until = later.until();
                self.state = State::Waiting(request, later, waker);
                Ok(Step::Park(READ))
            }
        }
    }

    /// Writes as much as the client takes.
    fn write(
        &mut self,
        mut outgoing: Outgoing,
        after: After,
        why: WakeReason,
    ) -> io::Result<Step> {
        if why == WakeReason::GivenUp {
            return Ok(Step::End);
        }
        let before = outgoing.left();
        outgoing.write(&self.socket)?;
        if !outgoing.is_empty() {
            let now = Instant::now();
            if outgoing.left() < before {
                self.until = now + self.serving.limits.write_stall_time;
            } else if why == WakeReason::Late {
                return Ok(Step::End);
            }
            let latest = outgoing.begun + self.serving.limits.answer_time;
            if now >= latest {
                return Ok(Step::End);
            }
            self.until = self.until.min(latest);
            self.state = State::Writing(outgoing, after);
            return Ok(Step::Park(WRITE));
        }
        match after {
            After::Request => {
                let limits = &self.serving.limits;
                let time = match self.buffer.is_empty() {
                    true => limits.idle_time,
                    false => limits.head_time,
                };
                self.until = Instant::now() + time;
                self.state = State::Reading;
                Ok(Step::Yield)
            }
            After::Close => {
                // What the client still sends must be read: closing a socket
                // with unread bytes resets the connection, and the client may
                // lose the end of its answer.
                self.socket.shutdown(Shutdown::Write)?;
                self.until = Instant::now() + LINGER_TIME;
                self.state = State::Lingering(LINGER_BYTES);
                Ok(Step::Next)
            }
            After::Stream(start, chunked) => {
                if let Some(slot) = self.slot.take() {
                    let socket = Arc::clone(&self.socket);
                    start(StreamSocket { socket, chunked, _slot: slot });
                }
                Ok(Step::End)
            }
        }
    }

    /// Reads and drops what the client sends, until it closes the connection or
    /// reaches its limit of time or bytes.
    fn linger(&mut self, mut left: usize, why: WakeReason) -> io::Result<Step> {
        let mut piece = [0; READ_BYTES];
        while why != WakeReason::Late && left > 0 && Instant::now() < self.until
        {
            match self.receive(&mut piece)? {
                Transfer::End => return Ok(Step::End),
                Transfer::Bytes(n) => left = left.saturating_sub(n),
                Transfer::NotYet => {
                    self.state = State::Lingering(left);
                    return Ok(Step::Park(READ));
                }
            }
        }
        Ok(Step::End)
    }
}
