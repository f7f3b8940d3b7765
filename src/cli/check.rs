//! `check`: tries whether this machine is as vminfod expects.

use std::path::{Path, PathBuf};

use vminfod_client::Client;

use super::args::{Args, ROOT, flag, socket_address, value};
use super::daemon::{directory, settings_of};
use super::terminal::{json_for_reader, printable};
use super::verb::{Call, Verb};
use super::{EXIT_DIFFERENT, EXIT_TROUBLE, Failure, print};
use crate::check::{Check, Report, anonymous, plain, remove_scratch};
use crate::config::SCRATCH;
use crate::os;
use crate::os::signals::{Signal, Signals, is_ignored};
use crate::settings;
use crate::threads;

pub const VERB: Verb = Verb {
    names: &["check"],
    operands: "",
    summary: "check that this machine is as vminfod expects",
    about: "Tests what the daemon relies on, one fact at a time, and with \
            --against compares every VM of a running daemon with the system. \
            It needs no daemon, and changes nothing.",
    options: &[&[
        flag('j', &["json"], "print everything as JSON"),
        flag('v', &["verbose"], "print a line for each fact"),
        ROOT,
        value(
            &["against"],
            "ADDR",
            "compare the VMs of the daemon at this ADDR:PORT or socket with \
             the system",
        ),
        value(
            &["scratch"],
            "DIR",
            "try file events below this directory (/var/tmp and /tmp); can be \
             repeated",
        ),
        value(
            &["report"],
            "FILE",
            "write a report without any name or value of a VM to this file",
        ),
        value(
            &["set"],
            "NAME=VALUE",
            "set a limit, as for the daemon: see 'vminfod settings'; can be \
             repeated",
        ),
    ]],
    examples: [
        ("check -v", "every fact, before this machine runs the daemon"),
        (
            "check --against 127.0.0.1:9090",
            "also whether the daemon that runs has the same VMs as the system",
        ),
    ],
    status: "0 if every fact holds, 1 if a fact differs, 2 if something could \
             not be found out.",
    run,
};

/// Tries every fact, and prints what was found.
fn run(call: Call) -> Result<(), Failure> {
    let args = call.parse(0)?;
    let root = args.last("root").map(directory).transpose();
    let root = root.map_err(Failure::in_trouble)?;
    let mut settings = settings_of(root.as_deref());
    for words in args.all("set") {
        settings::set(&mut settings, words).map_err(Failure::usage)?;
    }
    let against = args.last("against").map(socket_address).transpose()?;
    let time = settings.load.command_time;
    let version = env!("CARGO_PKG_VERSION");
    let client = |server| {
        let client = Client::new(server).name(&format!("vminfod/{version}"));
        client.time_limit(time)
    };
    let scratch = scratch_of(&args)?;
    let report_file = args.last("report").map(PathBuf::from);
    clean_up_at_signals()?;
    let _ = os::process::raise_descriptor_limit();
    let check = Check::new(settings, against.map(client), scratch);
    let report = check.run();
    let printed = match args.has("json") {
        true => {
            let json = report.json(&mut plain).to_pretty() + "\n";
            print(&json_for_reader(json))
        }
        false => {
            // Tenants choose names, which may contain line feeds.
            let lines = report.lines(args.has("verbose"));
            let lines: Vec<_> = lines.iter().map(|l| printable(l)).collect();
            print(&(lines.join("\n") + "\n"))
        }
    };
    if let Some(file) = report_file {
        write_report(&report, &file)?;
    }
    let counts = report.counts();
    let status = match printed {
        Err(failure) => return Err(failure.in_trouble()),
        Ok(()) if counts.differ > 0 => EXIT_DIFFERENT,
        Ok(()) if counts.untried > 0 => EXIT_TROUBLE,
        Ok(()) => return Ok(()),
    };
    Err(Failure::Silent { status })
}

/// The directories of `--scratch`, or the default ones. Event ports are tried
/// on the file systems that they are on.
fn scratch_of(args: &Args) -> Result<Vec<PathBuf>, Failure> {
    let given: Vec<PathBuf> = args.all("scratch").map(PathBuf::from).collect();
    if given.iter().any(|dir| dir.as_os_str().is_empty()) {
        let what = "--scratch: expected a directory";
        return Err(Failure::Usage(what.to_string()));
    }
    match given.is_empty() {
        true => Ok(SCRATCH.map(PathBuf::from).to_vec()),
        false => Ok(given),
    }
}

fn write_report(report: &Report, file: &Path) -> Result<(), Failure> {
    let text = anonymous(report).to_pretty() + "\n";
    os::write_plain_file(file, text.as_bytes())
        .map_err(|e| Failure::trouble(format!("{}: {e}", file.display())))
}

/// Starts a thread that waits for a signal, and then kills the commands that we
/// run, removes our files, and exits.
fn clean_up_at_signals() -> Result<(), Failure> {
    // A signal that the caller has set to be ignored (nohup(1)) stays ignored.
    let all = [Signal::Terminate, Signal::Interrupt, Signal::Hangup];
    let caught: Vec<_> = all.into_iter().filter(|s| !is_ignored(*s)).collect();
    let failed = |e: std::io::Error| Failure::trouble(format!("signals: {e}"));
    let signals = Signals::catch(&caught).map_err(failed)?;
    let wait = move || {
        let _ = signals.wait();
        os::process::kill_all();
        remove_scratch();
        threads::exit(i32::from(EXIT_TROUBLE));
    };
    threads::spawn("signals", wait).map_err(failed)?;
    Ok(())
}
