//! The log: bunyan records on standard output, for SMF's log file and
//! bunyan(1). If standard error is a terminal and standard output is not, lines
//! for people go there as well.
//!
//! A thread that logs never waits for a reader of the log: lines go through a
//! bounded queue to a thread that writes them. Lines that find no room in the
//! queue, and lines that can't be written completely, are counted, and the next
//! line says how many are missing.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{
    ColorChoice, CombinedLogger, Config, SharedLogger, TermLogger, TerminalMode,
};

use crate::os;
use crate::vm::json::write_string;
use crate::vm::values::date_text;

/// How many lines may wait to be written.
const LINES_MAX: usize = 8192;

/// How long the program waits at its end for lines to be written.
const FLUSH_TIME: Duration = Duration::from_millis(300);

/// Starts logging. [`log::set_max_level`] sets what is logged.
pub fn start() {
    let (lines, receiver) = bounded(LINES_MAX);
    // Write without std's buffer, which keeps what could not be written.
    let Ok(out) = io::stdout().as_fd().try_clone_to_owned() else { return };
    let writer = Writer::new(File::from(out), os::hostname());
    let thread = std::thread::Builder::new().name("log".to_string());
    if thread.spawn(move || writer.run(&receiver)).is_err() {
        return;
    }
    let bunyan =
        Bunyan { hostname: os::hostname(), lines, missed: AtomicU64::new(0) };
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![Box::new(bunyan)];
    // If both outputs are the same terminal, each line is shown only once.
    if io::stderr().is_terminal() && !io::stdout().is_terminal() {
        loggers.push(TermLogger::new(
            LevelFilter::Trace,
            Config::default(),
            TerminalMode::Stderr,
            ColorChoice::Auto,
        ));
    }
    // It fails only if there is a logger already.
    let _ = CombinedLogger::init(loggers);
}

/// Makes a line of JSON of each record, as node-bunyan does.
struct Bunyan {
    hostname: String,
    lines: Sender<Message>,
    /// How many lines found no room in the queue.
    missed: AtomicU64,
}

/// A message to the thread that writes.
enum Message {
    /// A line.
    Line(Vec<u8>),
    /// To be answered when everything before it has been written.
    Flush(Sender<()>),
}

/// Writes lines. After a line that was written only in part, the next one still
/// begins on a line of its own.
struct Writer<W> {
    out: W,
    hostname: String,
    /// Whether the last line was written only in part.
    is_torn: bool,
    /// How many lines were not written completely since the last one that was.
    lost: u64,
}

impl<W: Write> Writer<W> {
    fn new(out: W, hostname: String) -> Self {
        Self { out, hostname, is_torn: false, lost: 0 }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Line(line) => self.write(&line),
                Message::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        let mut before = Vec::new();
        if self.is_torn {
            before.push(b'\n');
        }
        if self.lost > 0 {
            let what = format!(
                "{} log lines before this one could not be written",
                self.lost
            );
            before.extend_from_slice(&warning(&self.hostname, &what));
        }
        let text = [&before[..], line].concat();
        let written = self.write_most(&text);
        if written >= before.len() {
            self.lost = 0;
        }
        if written < text.len() {
            self.lost += 1;
        }
        if let Some(last) = written.checked_sub(1) {
            self.is_torn = text[last] != b'\n';
        }
    }

    /// Writes as much as possible. Returns how many bytes that was.
    fn write_most(&mut self, text: &[u8]) -> usize {
        let mut written = 0;
        while written < text.len() {
            match self.out.write(&text[written..]) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The log itself has failed, so only the next line can report
                // that.
                Err(_) => break,
            }
        }
        written
    }
}

/// A log record about the log itself.
fn warning(hostname: &str, what: &str) -> Vec<u8> {
    let mut record = Record::builder();
    record.level(log::Level::Warn).target(module_path!());
    let now = SystemTime::now();
    line(hostname, &record.args(format_args!("{what}")).build(), now)
}

impl Log for Bunyan {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = line(&self.hostname, record, SystemTime::now());
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && !self.send(self.missed_line(missed)) {
            self.missed.fetch_add(missed, Ordering::Relaxed);
        }
        if !self.send(line) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, is_done) = bounded(1);
        if self.lines.send_timeout(Message::Flush(done), FLUSH_TIME).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIME);
        }
    }
}

impl Bunyan {
    fn send(&self, line: Vec<u8>) -> bool {
        self.lines.try_send(Message::Line(line)).is_ok()
    }

    fn missed_line(&self, missed: u64) -> Vec<u8> {
        let what = format!(
            "{missed} log lines before this one were dropped: the log's reader \
             was too slow"
        );
        warning(&self.hostname, &what)
    }
}

/// A record as node-bunyan writes it.
fn line(hostname: &str, record: &Record<'_>, time: SystemTime) -> Vec<u8> {
    let level = match record.level() {
        log::Level::Error => 50,
        log::Level::Warn => 40,
        log::Level::Info => 30,
        log::Level::Debug => 20,
        log::Level::Trace => 10,
    };
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"name\":\"vminfod\",\"hostname\":");
    write_string(hostname, &mut out);
    let pid = std::process::id();
    out.extend_from_slice(
        format!(",\"pid\":{pid},\"level\":{level}").as_bytes(),
    );
    let component = record.target();
    let component = component.strip_prefix("vminfod::");
    out.extend_from_slice(b",\"component\":");
    write_string(component.unwrap_or(record.target()), &mut out);
    out.extend_from_slice(b",\"msg\":");
    write_string(&record.args().to_string(), &mut out);
    out.extend_from_slice(b",\"time\":");
    write_string(&date_text(time), &mut out);
    out.extend_from_slice(b",\"v\":0}\n");
    out
}

impl SharedLogger for Bunyan {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::json::Json;

    fn bunyan(lines_max: usize) -> (Bunyan, Receiver<Message>) {
        let (lines, receiver) = bounded(lines_max);
        let missed = AtomicU64::new(0);
        (Bunyan { hostname: "h".into(), lines, missed }, receiver)
    }

    #[test]
    fn logging_never_blocks_and_missing_lines_are_counted() {
        let (bunyan, receiver) = bunyan(2);
        let log = |text: &str| {
            let mut record = Record::builder();
            record.level(log::Level::Warn).target("vminfod::x");
            bunyan.log(&record.args(format_args!("{text}")).build());
        };
        let next = || match receiver.try_recv().unwrap() {
            Message::Line(line) => String::from_utf8(line).unwrap(),
            Message::Flush(_) => panic!("no flush is expected"),
        };
        for text in ["one", "two", "three", "four"] {
            log(text);
        }
        assert!(next().contains("one") && next().contains("two"));
        log("five");
        assert!(next().contains("2 log lines before this one were dropped"));
        assert!(next().contains("five"));
        assert!(receiver.is_empty());
    }

    /// A disk with room for this many more bytes.
    struct Disk {
        text: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.extend_from_slice(&bytes[..n]);
            self.room -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_partly_written_line_is_counted_and_breaks_no_other_line() {
        let disk = Disk { text: Vec::new(), room: 6 };
        let mut writer = Writer::new(disk, "h".to_string());
        for text in ["one\n", "two\n", "three\n"] {
            writer.write(text.as_bytes());
        }
        assert_eq!(writer.out.text, b"one\ntw");
        // There is room again, but only for a part of the warning.
        writer.out.room = 20;
        writer.write(b"four\n");
        writer.out.room = 1000;
        writer.write(b"five\n");
        writer.write(b"six\n");
        let text = String::from_utf8(writer.out.text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["one", "tw"]);
        assert!(lines[2].starts_with("{\"name\":"), "{}", lines[2]);
        assert!(Json::parse(lines[2]).is_err());
        let found = Json::parse(lines[3]).unwrap();
        let what = found.get("msg").and_then(Json::as_str).unwrap();
        let wanted = "3 log lines before this one could not be written";
        assert_eq!(what, wanted);
        assert_eq!(lines[4..], ["five", "six"]);
    }

    #[test]
    fn a_log_record_has_all_members_of_bunyan() {
        let record = Record::builder()
            .level(log::Level::Warn)
            .target("vminfod::queue")
            .args(format_args!("two\nlines"))
            .build();
        let line = line("h", &record, SystemTime::UNIX_EPOCH);
        let text = String::from_utf8(line).unwrap();
        assert!(text.ends_with('\n') && text.matches('\n').count() == 1);
        let json = Json::parse(&text).unwrap();
        for (member, value) in [
            ("v", Json::Number(0.0)),
            ("level", Json::Number(40.0)),
            ("name", Json::from("vminfod")),
            ("hostname", Json::from("h")),
            ("component", Json::from("queue")),
            ("time", Json::from("1970-01-01T00:00:00.000Z")),
            ("msg", Json::from("two\nlines")),
        ] {
            assert_eq!(json.get(member), Some(&value), "{member}");
        }
        assert!(json.get("pid").and_then(Json::as_u64).unwrap() > 0);
    }
}
