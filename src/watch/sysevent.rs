//! Runs a sysevent(8) child and reads its lines, for each source of sysevents.
//!
//! Sysevents are not replayed. If the stream becomes doubtful (the child dies,
//! prints something that is not a record, or is not ready in time), the child
//! is killed, and a new one is started after a pause. When the new one is
//! `ready`, everything has to be loaded again.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::SourceEvent;
use crate::faults::Fault;
use crate::os;
use crate::os::process::{
    ReadSome, Running, kill_group_now, read_some, spawn, terminate_group,
};
use crate::settings::SourceTimes;
use crate::source::EventSource;
use crate::threads::Stop;
use crate::vm::json::Json;
use crate::watch::Sink;

/// The most bytes of a child's standard error that are logged.
const STDERR_MAX: usize = 300;

/// Empty lines ask for a reload no more often than this.
const UNPRINTED_PAUSE: Duration = Duration::from_secs(1);

/// If more empty lines than this come between two such reloads, the child
/// counts as one that prints no records.
const UNPRINTED_MAX: u32 = 1000;

/// How long the reader waits at most for output before it checks the child and
/// the time.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A stream of sysevents.
#[derive(Clone, Debug)]
pub struct SyseventStream {
    /// Which source it is.
    pub source: EventSource,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// Returns the event that a record of type `event` stands for; `None` for a
    /// record of no interest.
    pub parse: fn(&Json) -> Option<SourceEvent>,
}

/// Reads a stream as long as the daemon runs.
#[derive(Debug)]
pub struct Reader {
    stream: SyseventStream,
    sink: Sink,
    times: SourceTimes,
    stop: Stop,
}

impl Reader {
    /// A reader that sends events to `sink`.
    #[must_use]
    pub fn new(
        stream: SyseventStream,
        sink: Sink,
        times: SourceTimes,
        stop: Stop,
    ) -> Self {
        let status = Arc::clone(sink.status());
        stop.on_set(move || {
            if let Some(pid) = status.lock().pid {
                terminate_group(pid);
                // sysevent has nothing to save, and may be stuck.
                kill_group_now(pid);
            }
        });
        Self { stream, sink, times, stop }
    }

    /// Reads until it is stopped; restarts the child whenever it fails.
    pub fn run(self) {
        let name = self.stream.source.name();
        let restart = self.times.restart;
        let mut pause = restart.first;
        let mut last_error = String::new();
        while !self.stop.is_set() {
            let begin = Instant::now();
            let error = self.session();
            let silent = self.sink.status().lock().silent.take();
            let error = silent.unwrap_or_else(|| error.to_string());
            if self.stop.is_set() {
                return;
            }
            if begin.elapsed() > restart.last {
                pause = restart.first;
            }
            // An error is logged once, not for each restart; but again if the
            // source was ready in between.
            if self.sink.status().lock().ready {
                last_error.clear();
            }
            if error != last_error {
                log::error!(
                    "{name} events: {error}; restarting sysevent in {pause:?}, \
                     then loading every VM again"
                );
                last_error.clone_from(&error);
            }
            {
                let mut status = self.sink.status().lock();
                status.ready = false;
                status.restarts += 1;
                status.last_error = Some(error.clone());
                Fault::note(&mut status.fault, error);
            }
            self.stop.sleep(pause);
            pause = restart.next(pause);
        }
    }

    /// Runs one child until it ends or is given up. Returns the reason.
    fn session(&self) -> ReaderError {
        let stream = &self.stream;
        let mut running = match spawn(&stream.program, stream.args) {
            Ok(running) => running,
            Err(e) => {
                let program = self.stream.program.clone();
                return ReaderError::NotStarted(program, e);
            }
        };
        self.set_pid(Some(running.child.id()));
        // A stop that was set before this found no pid to kill.
        let error = match self.stop.is_set() {
            true => ReaderError::Ended,
            false => match self.read(&mut running) {
                Err(error) => error,
                Ok(never) => match never {},
            },
        };
        self.set_pid(None);
        running.kill();
        error
    }

    fn set_pid(&self, pid: Option<u32>) {
        self.sink.status().lock().pid = pid;
    }

    fn read(&self, running: &mut Running) -> Result<Infallible, ReaderError> {
        let ready_until = Instant::now() + self.times.ready_time;
        let mut is_ready = false;
        let mut lines = Lines::new(self.times.line_bytes);
        let mut unprinted = Unprinted::default();
        let mut stderr_is_open = true;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let stderr = stderr_is_open.then(|| running.stderr.as_fd());
            let fds: Vec<_> = [Some(running.stdout.as_fd()), stderr]
                .into_iter()
                .flatten()
                .collect();
            os::wait_readable(&fds, WAIT_MAX).map_err(ReaderError::Poll)?;
            let stderr = read_some(&mut running.stderr, &mut buffer);
            match stderr.map_err(ReaderError::Read)? {
                ReadSome::Bytes(n) => {
                    let said = &buffer[..n.min(STDERR_MAX)];
                    let text = String::from_utf8_lossy(said);
                    return Err(ReaderError::Said(text.trim().to_string()));
                }
                // It is not polled any more, because a closed pipe is always
                // readable.
                ReadSome::End => stderr_is_open = false,
                ReadSome::Nothing => {}
            }
            let stdout = read_some(&mut running.stdout, &mut buffer);
            match stdout.map_err(ReaderError::Read)? {
                ReadSome::End => return Err(ReaderError::Ended),
                // The child may have ended while other processes keep its pipe
                // open.
                ReadSome::Nothing => {
                    let ended = running.child.has_ended();
                    if ended.map_err(ReaderError::Wait)? {
                        return Err(ReaderError::Ended);
                    }
                }
                ReadSome::Bytes(n) => {
                    lines.split(&buffer[..n], |line| {
                        self.line(line, &mut is_ready, &mut unprinted)
                    })?;
                }
            }
            self.report_unprinted(&mut unprinted);
            if !is_ready && Instant::now() > ready_until {
                return Err(ReaderError::NotReady(self.times.ready_time));
            }
        }
    }

    /// Asks for a reload if empty lines have come, but not too often.
    fn report_unprinted(&self, unprinted: &mut Unprinted) {
        let is_soon =
            unprinted.reported.is_some_and(|at| at.elapsed() < UNPRINTED_PAUSE);
        if unprinted.count > 0 && !is_soon {
            self.sink.gap();
            *unprinted = Unprinted { reported: Some(Instant::now()), count: 0 };
        }
    }

    /// Handles one line.
    fn line(
        &self,
        line: &[u8],
        is_ready: &mut bool,
        unprinted: &mut Unprinted,
    ) -> Result<(), ReaderError> {
        match (Record::parse(line)?, *is_ready) {
            (Record::Unprinted, true) => {
                unprinted.count += 1;
                // A few empty lines cost a reload; so many mean that it prints
                // no records.
                if unprinted.count > UNPRINTED_MAX {
                    return Err(ReaderError::NoRecords);
                }
                self.report_unprinted(unprinted);
            }
            (Record::Ready, false) => {
                *is_ready = true;
                let name = self.stream.source.name();
                log::info!("{name} events: sysevent is ready");
                self.sink.ready();
            }
            (Record::Event(record), true) => {
                match (self.stream.parse)(&record) {
                    Some(event) => self.sink.send(event),
                    None => self.sink.status().lock().ignored += 1,
                }
            }
            (_, _) => return Err(ReaderError::not_a_record(line)),
        }
        Ok(())
    }
}

/// Counts the empty lines.
#[derive(Debug, Default)]
struct Unprinted {
    /// When a reload was last asked for.
    reported: Option<Instant>,
    /// How many have come since.
    count: u32,
}

/// The meaning of a line.
#[derive(Debug)]
pub enum Record {
    /// The subscription has begun.
    Ready,
    /// Something has happened.
    Event(Json),
    /// An empty line. sysevent prints it if it fails to format a record:
    /// something has happened, but it is unknown what.
    Unprinted,
}

impl Record {
    /// Parses a line without its newline.
    ///
    /// # Errors
    /// If it is not a record.
    pub fn parse(line: &[u8]) -> Result<Self, ReaderError> {
        if line.is_empty() {
            return Ok(Self::Unprinted);
        }
        let not_a_record = || ReaderError::not_a_record(line);
        let text = std::str::from_utf8(line).map_err(|_| not_a_record())?;
        let record = Json::parse(text).map_err(|_| not_a_record())?;
        match record.get("type").and_then(Json::as_str) {
            Some("ready") => Ok(Self::Ready),
            Some("event") => Ok(Self::Event(record)),
            _ => Err(not_a_record()),
        }
    }
}

/// Why a sysevent(8) is given up and another one is started.
#[derive(Debug)]
pub enum ReaderError {
    /// The program can't be started.
    NotStarted(PathBuf, io::Error),
    /// Its pipes can't be waited for.
    Poll(io::Error),
    /// Its pipes can't be read.
    Read(io::Error),
    /// It can't be waited for.
    Wait(io::Error),
    /// It has written this on standard error.
    Said(String),
    /// It has ended.
    Ended,
    /// It was not ready in this time.
    NotReady(Duration),
    /// It has printed something that is not a record, or a record that can't
    /// come at this point.
    NotARecord(String),
    /// It has printed a line of more bytes than this.
    LongLine(usize),
    /// It prints empty lines in place of records.
    NoRecords,
}

impl ReaderError {
    fn not_a_record(line: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
        Self::NotARecord(shown.into_owned())
    }
}

impl fmt::Display for ReaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(program, e) => {
                write!(f, "{}: can't be started: {e}", program.display())
            }
            Self::Poll(e) => {
                write!(f, "can't wait for the output of sysevent: {e}")
            }
            Self::Read(e) => {
                write!(f, "can't read the output of sysevent: {e}")
            }
            Self::Wait(e) => {
                write!(f, "can't tell whether sysevent has ended: {e}")
            }
            Self::Said(text) => {
                write!(f, "sysevent printed an error: {text:?}")
            }
            Self::Ended => f.write_str("sysevent has ended"),
            Self::NotReady(time) => {
                write!(f, "sysevent was not ready in {time:?}")
            }
            Self::NotARecord(line) => {
                write!(f, "sysevent printed an unexpected line: {line:?}")
            }
            Self::LongLine(limit) => write!(
                f,
                "sysevent printed a line longer than {limit} bytes (setting \
                 line-bytes)"
            ),
            Self::NoRecords => {
                f.write_str("sysevent printed empty lines instead of records")
            }
        }
    }
}

/// Splits what is read into lines.
struct Lines {
    begun: Vec<u8>,
    limit: usize,
}

impl Lines {
    fn new(limit: usize) -> Self {
        Self { begun: Vec::new(), limit }
    }

    fn split(
        &mut self,
        bytes: &[u8],
        mut line: impl FnMut(&[u8]) -> Result<(), ReaderError>,
    ) -> Result<(), ReaderError> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if self.begun.is_empty() {
                line(&rest[..end])?;
            } else {
                self.begun.extend_from_slice(&rest[..end]);
                line(&self.begun)?;
                self.begun.clear();
            }
            rest = &rest[end + 1..];
        }
        self.begun.extend_from_slice(rest);
        if self.begun.len() > self.limit {
            return Err(ReaderError::LongLine(self.limit));
        }
        Ok(())
    }
}

/// Restores the text of a record: sysevent prints each *byte* of a character
/// that is not ASCII as a character of its own.
#[must_use]
pub fn recover_text(text: &str) -> String {
    let bytes: Option<Vec<u8>> =
        text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;
    use crate::watch::{Events, channel, zone};

    #[test]
    fn lines_are_joined_across_reads_and_limited_in_length() {
        let mut lines = Lines::new(10);
        let mut got = Vec::new();
        for bytes in [&b"ab"[..], b"c\nd\n\ne", b"f\n"] {
            let keep = |line: &[u8]| {
                got.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            };
            lines.split(bytes, keep).unwrap();
        }
        assert_eq!(got, ["abc", "d", "", "ef"]);
        assert!(lines.split(&[b'x'; 11], |_| Ok(())).is_err());
    }

    #[test]
    fn text_that_sysevent_has_split_into_bytes_is_restored() {
        assert_eq!(recover_text("\u{c3}\u{a9}"), "é");
        assert_eq!(recover_text("plain"), "plain");
        assert_eq!(recover_text("\u{e9}"), "\u{e9}");
        assert_eq!(recover_text("日"), "日");
    }

    /// A reader that runs a shell script in place of sysevent.
    fn reader(script: &'static str) -> (Reader, Events) {
        let stop = Stop::default();
        let ([sink, ..], events) = channel(100, &stop);
        let times = SourceTimes {
            restart: Backoff::new(
                Duration::from_millis(1),
                Duration::from_millis(4),
            ),
            ready_time: Duration::from_millis(50),
            ..SourceTimes::default()
        };
        let args: &'static [&'static str] =
            Box::leak(vec!["-c", script].into_boxed_slice());
        let stream = SyseventStream {
            source: EventSource::Zone,
            program: "/bin/sh".into(),
            args,
            parse: zone::parse,
        };
        (Reader::new(stream, sink, times, stop), events)
    }

    /// Runs a reader until it has restarted its child three times; its last
    /// error must contain `error`.
    fn runs_again(script: &'static str, error: &str) {
        let (reader, events) = reader(script);
        let stop = reader.stop.clone();
        let status = Arc::clone(reader.sink.status());
        let thread = std::thread::spawn(move || reader.run());
        let begin = Instant::now();
        while status.lock().restarts < 3 {
            assert!(begin.elapsed() < Duration::from_secs(60), "{script}");
            let soon = Instant::now() + Duration::from_millis(5);
            let _ = events.next(Some(soon));
        }
        stop.set();
        thread.join().unwrap();
        let said = status.lock().last_error.clone().unwrap();
        assert!(said.contains(error), "{script}: {said}");
    }

    #[test]
    fn any_failure_of_a_sysevent_child_restarts_it() {
        let ready = "echo '{\"type\":\"ready\"}'; ";
        let cases: [(&str, &str); 11] = [
            ("", "has ended"),
            ("echo '{\"type\":\"ready\"}'", "has ended"),
            ("sleep 1000", "was not ready"),
            ("echo rubbish; sleep 1000", "unexpected line"),
            ("echo '{\"type\":\"event\"}'; sleep 1000", "unexpected line"),
            ("echo '{\"type\":7}'; sleep 1000", "unexpected line"),
            ("echo oh no >&2; sleep 1000", "error: \"oh no\""),
            ("echo '{\"type\":\"ready\"}'; yes ''", "empty lines"),
            ("echo; sleep 1000", "unexpected line"),
            ("echo '{\"type\":\"ready\"}'; sleep 1000 & exit", "ended"),
            ("printf '\\377\\n'; sleep 1000", "unexpected line"),
        ];
        for (script, error) in cases {
            runs_again(script, error);
        }
        let long = format!("{ready} head -c 2000000 /dev/zero; sleep 1000");
        runs_again(Box::leak(long.into_boxed_str()), "a line longer than");
    }

    #[test]
    fn events_come_after_ready_and_an_empty_line_asks_for_a_reload() {
        let script = "echo '{\"type\":\"ready\"}'; echo '{\"type\":\"event\",\
            \"class\":\"status\",\"subclass\":\"change\",\"data\":{\
            \"zonename\":\"a\",\"newstate\":\"running\",\"oldstate\":\
            \"ready\",\"zoneid\":3,\"when\":1768472560001734000}}'; echo; \
            exec sleep 1000";
        let (reader, events) = reader(script);
        let stop = reader.stop.clone();
        let thread = std::thread::spawn(move || reader.run());
        let next = || {
            let until = Instant::now() + Duration::from_secs(60);
            events.next(Some(until)).unwrap().event.to_string()
        };
        assert_eq!(next(), "zone ready");
        assert_eq!(next(), "zone a \"ready\" -> \"running\"");
        assert_eq!(next(), "zone ready");
        stop.set();
        thread.join().unwrap();
    }
}
