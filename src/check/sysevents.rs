//! Whether sysevents can be subscribed to by sysevent(8), as the daemon does
//! it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::commands::{answered, quoted};
use super::{Check, Fact, Findings, Obstacle, given};
use crate::load::command::Run;
use crate::os;
use crate::os::process::{ReadSome, Running, read_some, spawn};
use crate::watch::sysevent::{Record, SyseventStream};
use crate::watch::{zfs, zone};

/// How long a reader must keep running after it has said that it is ready.
const STAY_TIME: Duration = Duration::from_secs(1);

/// A channel that does not exist.
const NO_CHANNEL: &str = "com.sun:vminfod:none";

/// The longest line that a reader may print, in bytes.
const LINE_MAX: usize = 1 << 20;

pub(super) static FACTS: [Fact; 3] = [
    Fact {
        id: "sysevent.zones",
        why: "changes of zones are learned from this channel",
        expected: "the reader prints its ready line and stays",
        harm: "changes of zones are found by periodic reloads alone",
    },
    Fact {
        id: "sysevent.zfs",
        why: "changes of datasets are learned from these events",
        expected: "the reader prints its ready line and stays",
        harm: "changes of datasets are found by periodic reloads alone",
    },
    Fact {
        id: "sysevent.no-channel",
        why: "a channel that does not exist must not look like a channel \
            without events",
        expected: "for a channel that does not exist: sysevent_evc_bind: No \
            such file or directory, and exit status 1",
        harm: "if the platform renames the zone channel, vminfod does not \
            notice",
    },
];

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [zones, datasets, no_channel] = &FACTS;
    let paths = &check.settings.paths;
    let readers =
        [(zones, zone::stream(paths)), (datasets, zfs::stream(paths))];
    // The time limit of commands applies to a reader, too.
    let ready_time = check.settings.sources.ready_time;
    let ready_time = ready_time.min(check.settings.load.command_time);
    let results = std::thread::scope(|scope| {
        let begun = readers.map(|(fact, stream)| {
            let try_it = move || try_reader(&stream, ready_time);
            (fact, scope.spawn(try_it))
        });
        begun.map(|(fact, thread)| {
            let bug = "it panicked: a bug in vminfod, please report it";
            let bug = || Err(bug.into());
            (fact, thread.join().unwrap_or_else(|_| bug()))
        })
    });
    for (fact, result) in results {
        match result {
            Ok(seen) => findings.expect(fact, true, "the reader", seen),
            Err(seen) => {
                findings.expect(fact, false, "the reader", seen.to_string());
            }
        }
    }
    let run = Run::new(paths.sysevent(), &["-r", "-j", "-c", NO_CHANNEL]);
    let output = check.ask("sysevent", &run)?;
    let is_so = output.exit == Some(1)
        && output.stdout.is_empty()
        && output.stderr.contains("sysevent_evc_bind: No such file");
    findings.expect(no_channel, is_so, "the answer", answered(&output));
    Ok(())
}

/// Starts a reader, and waits until it is ready and has kept running. Returns
/// when it was ready, or what is wrong.
fn try_reader(
    stream: &SyseventStream,
    ready_time: Duration,
) -> Result<String, Obstacle> {
    let program = stream.program.display().to_string();
    let begin = Instant::now();
    let mut running = spawn(&stream.program, stream.args)
        .map_err(|e| format!("{}: {e}", given(&program)))?;
    let result = follow(&mut running, begin, ready_time);
    running.kill();
    result
}

/// Reads the output of a reader for as long as the reader must keep running: a
/// reader whose output is not read holds up the events of other subscribers.
fn follow(
    running: &mut Running,
    begin: Instant,
    ready_time: Duration,
) -> Result<String, Obstacle> {
    let mut ready: Option<Instant> = None;
    let mut text = Vec::new();
    let mut records = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let until = match ready {
            Some(ready) => ready + STAY_TIME,
            None => begin + ready_time,
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return match ready {
                Some(at) => {
                    let time = at - begin;
                    Ok(format!("ready after {time:.1?}, {records} records"))
                }
                None => Err(format!("not ready in {ready_time:?}").into()),
            };
        }
        let fds = [running.stdout.as_fd(), running.stderr.as_fd()];
        os::wait_readable(&fds, left).map_err(|e| format!("poll: {e}"))?;
        let failed = |e: std::io::Error| format!("read: {e}");
        match read_some(&mut running.stderr, &mut buffer).map_err(failed)? {
            ReadSome::Bytes(n) => {
                let said = String::from_utf8_lossy(&buffer[..n]);
                return Err(format!(
                    "it printed on stderr: {}",
                    quoted(said.trim_end())
                )
                .into());
            }
            ReadSome::End => return Err("it has ended".into()),
            ReadSome::Nothing => {}
        }
        match read_some(&mut running.stdout, &mut buffer).map_err(failed)? {
            ReadSome::End => return Err("it has ended".into()),
            ReadSome::Bytes(n) => text.extend_from_slice(&buffer[..n]),
            ReadSome::Nothing => {}
        }
        records += take_records(&mut text, &mut ready)?;
    }
}

/// Takes the complete lines of the output, and counts the records.
fn take_records(
    text: &mut Vec<u8>,
    ready: &mut Option<Instant>,
) -> Result<u32, Obstacle> {
    let mut records = 0;
    while let Some(end) = text.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = text.drain(..=end).collect();
        let line = &line[..end];
        match (Record::parse(line), &ready) {
            (Ok(Record::Ready), None) => *ready = Some(Instant::now()),
            (Ok(Record::Event(_) | Record::Unprinted), Some(_)) => {
                records += 1;
            }
            _ => {
                let line = String::from_utf8_lossy(line);
                return Err(format!(
                    "it printed an unexpected line: {}",
                    quoted(&line)
                )
                .into());
            }
        }
    }
    match text.len() > LINE_MAX {
        true => Err(format!("a line of over {LINE_MAX} bytes").into()),
        false => Ok(records),
    }
}
