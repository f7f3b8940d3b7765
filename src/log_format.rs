//! The log: bunyan records on standard output, for SMF's log file and
//! bunyan(1); besides, lines for people on standard error, if that is a
//! terminal.

use std::io::{IsTerminal, Write};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{
    ColorChoice, CombinedLogger, Config, SharedLogger, TermLogger, TerminalMode,
};

use crate::cache::date_text;
use crate::json::write_string;
use crate::os;

/// Starts logging.
pub fn start(level: LevelFilter) {
    let bunyan = Bunyan { level, hostname: os::hostname() };
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![Box::new(bunyan)];
    // Where both outputs are the same terminal, once is enough.
    if std::io::stderr().is_terminal() && !std::io::stdout().is_terminal() {
        loggers.push(TermLogger::new(
            level,
            Config::default(),
            TerminalMode::Stderr,
            ColorChoice::Auto,
        ));
    }
    // It fails only if there is a logger already.
    let _ = CombinedLogger::init(loggers);
}

/// Writes a JSON line a record, as node-bunyan does.
struct Bunyan {
    level: LevelFilter,
    hostname: String,
}

impl Log for Bunyan {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = self.line(record, SystemTime::now());
            // Without a log there is nobody to tell that it can't be written.
            let _ = std::io::stdout().write_all(&line);
        }
    }

    fn flush(&self) {
        let _ = std::io::stdout().flush();
    }
}

impl Bunyan {
    fn line(&self, record: &Record<'_>, time: SystemTime) -> Vec<u8> {
        let level = match record.level() {
            log::Level::Error => 50,
            log::Level::Warn => 40,
            log::Level::Info => 30,
            log::Level::Debug => 20,
            log::Level::Trace => 10,
        };
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"name\":\"vminfod\",\"hostname\":");
        write_string(&self.hostname, &mut out);
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
}

impl SharedLogger for Bunyan {
    fn level(&self) -> LevelFilter {
        self.level
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
    use crate::json::Json;

    #[test]
    fn a_record_has_what_bunyan_wants() {
        let bunyan =
            Bunyan { level: LevelFilter::Info, hostname: "h".to_string() };
        let record = Record::builder()
            .level(log::Level::Warn)
            .target("vminfod::queue")
            .args(format_args!("two\nlines"))
            .build();
        let line = bunyan.line(&record, SystemTime::UNIX_EPOCH);
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
