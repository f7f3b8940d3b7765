//! The command line. The program has three names: `vminfod VERB …`; `vminfo`,
//! today's client tool; and `vmadm`, of which it has only the verbs that read.

mod args;
mod check;
mod compare;
mod daemon;
mod diagnose;
mod event_lines;
mod events;
mod status;
mod terminal;
mod top;
mod usage;
mod vmadm;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::client;
use crate::daemon::StartError;
use crate::load::error::CommandError;
use crate::os;
use crate::settings::SettingsError;
use crate::vm::json::Json;
use args::{Args, CLIENT};
use daemon::CantRun;
use events::Caller;

/// The exit status if the command line is wrong.
const EXIT_USAGE: u8 = 2;

/// The exit status of a verb that compares, if something differs, as in
/// diff(1).
const EXIT_DIFFERENT: u8 = 1;

/// The exit status of a verb that compares, if it could not find out whether
/// anything differs.
const EXIT_TROUBLE: u8 = 2;

/// Why a command ends early or without success.
enum Failure {
    /// The command line can't be understood, and why.
    Usage(String),
    /// The command did not work, and why.
    Failed(String),
    /// A message that is printed as it is, with an exit status of its own.
    Said {
        /// The message.
        message: String,
        /// The exit status.
        status: u8,
    },
    /// Everything has been printed already; only the exit status is left.
    Silent {
        /// The exit status.
        status: u8,
    },
    /// The reader of our output has gone. This counts as success.
    OutputClosed,
}

impl Failure {
    /// A command line that can't be understood, and why.
    fn usage(why: impl std::fmt::Display) -> Self {
        Self::Usage(why.to_string())
    }

    /// `what` keeps a verb that compares from finding out whether anything
    /// differs.
    fn trouble(what: impl std::fmt::Display) -> Self {
        let message = format!("vminfod: {what}");
        Self::Said { message, status: EXIT_TROUBLE }
    }

    /// The same failure, with the exit status of a verb that compares.
    fn in_trouble(self) -> Self {
        match self {
            Self::Failed(e) => Self::trouble(e),
            other => other,
        }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(e: lexopt::Error) -> Self {
        Self::Usage(e.to_string())
    }
}

/// Makes each of these errors a [`Failure::Failed`] with the error's text.
macro_rules! failures {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(e: $error) -> Self {
                Self::Failed(e.to_string())
            }
        })*
    };
}

failures!(
    String,
    client::Error,
    CommandError,
    CantRun,
    SettingsError,
    StartError
);

/// Runs the verb that the program's name and command line ask for.
pub fn main() -> ExitCode {
    if let Err(e) = os::signals::start() {
        complain(&format!("vminfod: signals: {e}"));
        return ExitCode::FAILURE;
    }
    let mut args = std::env::args_os();
    let called = args.next().map(PathBuf::from);
    let called = called.as_deref().and_then(Path::file_name);
    let name = match called.map(|name| name.to_string_lossy()).as_deref() {
        Some("vminfo") => "vminfo",
        Some("vmadm") => "vmadm",
        _ => "vminfod",
    };
    match run(name, args.collect()) {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(e)) => {
            complain(&format!("{name}: {e}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(e)) => {
            complain(&format!("{name}: {e}; try '{name} help'"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Said { message, status }) => {
            complain(&message);
            ExitCode::from(status)
        }
        Err(Failure::Silent { status }) => ExitCode::from(status),
    }
}

fn run(name: &str, args: Vec<OsString>) -> Result<(), Failure> {
    let mut args = args.into_iter();
    let verb = args.next().map(|verb| verb.to_string_lossy().into_owned());
    let args: Vec<_> = args.collect();
    let verb = verb.as_deref();
    match (name, verb) {
        ("vmadm", Some(verb)) => vmadm::main(verb, args),
        ("vmadm", None) => Err(usage::of_vmadm("")),
        (_, None) => Err(Failure::Usage("no verb given".to_string())),
        ("vminfo", Some(verb)) => vminfo(verb, args),
        (_, Some(verb)) => vminfod(verb, args),
    }
}

fn vminfod(verb: &str, args: Vec<OsString>) -> Result<(), Failure> {
    match verb {
        "help" | "-h" | "--help" => print(usage::VMINFOD),
        "--version" => print(VERSION),
        "settings" => daemon::settings(args),
        "daemon" => daemon::run(args),
        "dump" => daemon::dump(args),
        "list" | "lookup" | "get" | "json" => vmadm::main(verb, args),
        "events" => events::run(args, Caller::Vminfod),
        "wait" => wait::run(args),
        "top" => top::run(args),
        "status" => status::run(args),
        "diagnose" => diagnose::run(args),
        "check" => check::run(args),
        "compare" => compare::run(args),
        "ping" => {
            let client = asked(args, 0)?.client_with_deadline("vminfod")?;
            client.ping()?;
            print("{\n  \"ping\": \"pong\"\n}\n")
        }
        "vms" => vms(args),
        "vm" => vm(args),
        "complete" => complete(args),
        other => Err(no_command(other, usage::VMINFOD)),
    }
}

/// `vminfo`, today's client tool.
fn vminfo(verb: &str, args: Vec<OsString>) -> Result<(), Failure> {
    match verb {
        "help" | "-h" | "--help" => print(usage::VMINFO),
        "--version" => print(VERSION),
        "events" => events::run(args, Caller::Vminfo),
        "status" => status::run(args),
        "ping" => {
            asked(args, 0)?.client_with_deadline("vminfo")?.ping()?;
            print("pong\n")
        }
        "vms" => vms(args),
        "vm" => vm(args),
        "complete" => complete(args),
        other => Err(no_command(other, usage::VMINFO)),
    }
}

const VERSION: &str = concat!("vminfod ", env!("CARGO_PKG_VERSION"), "\n");

fn no_command(verb: &str, usage: &str) -> Failure {
    let message = format!("Invalid command: \"{verb}\".\n{usage}");
    Failure::Said { message, status: EXIT_USAGE }
}

/// Parses the command line of a verb that has no options except those of a
/// client, and at most so many operands.
fn asked(args: Vec<OsString>, operands: usize) -> Result<Args, Failure> {
    Args::with_operands(args, &[&CLIENT], operands)
}

/// Prints all VMs.
fn vms(args: Vec<OsString>) -> Result<(), Failure> {
    let client = asked(args, 0)?.client_with_deadline("vminfod")?;
    let read = client.vms(&client::VmsQuery::new())?;
    print_json(&Json::from(read.vms))?;
    all_read("vminfod", &read.unreadable)
}

/// Fails if VMs can't be read, and names them: what was printed lacks them.
fn all_read(
    name: &str,
    unreadable: &[client::Unreadable],
) -> Result<(), Failure> {
    let lines = unreadable.iter().map(|vm| format!("{name}: {vm}\n"));
    match lines.collect::<String>() {
        lines if lines.is_empty() => Ok(()),
        message => Err(Failure::Said { message, status: 1 }),
    }
}

/// Prints what shells offer for completion: a line for each VM, with its uuid
/// and, if a shell takes it as it is, its alias. Tenants choose aliases, so
/// only plain ones are printed, and no other text of tenants.
fn complete(args: Vec<OsString>) -> Result<(), Failure> {
    let client = asked(args, 0)?.client_with_deadline("vminfod-complete")?;
    let query = client::VmsQuery::new().fields("uuid,alias");
    let mut lines = String::new();
    for vm in client.vms(&query)?.vms {
        let text = |name: &str| vm.get(name).and_then(Json::as_str);
        let is_plain = |text: &&str| {
            let can_be =
                |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            text.bytes().all(can_be)
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let uuid = text("uuid").filter(|uuid| vmadm::is_uuid(uuid));
        if let Some(uuid) = uuid.filter(is_plain) {
            let alias = text("alias").filter(is_plain).unwrap_or_default();
            lines += &format!("{uuid} {alias}\n");
        }
    }
    print(&lines)
}

fn vm(args: Vec<OsString>) -> Result<(), Failure> {
    let args = asked(args, 1)?;
    let named = args.operands.first().filter(|name| !name.is_empty());
    let Some(name) = named else {
        let error = "vm: no zonename given";
        return Err(Failure::Usage(error.to_string()));
    };
    match args.client_with_deadline("vminfod")?.vm(name)? {
        Some(vm) => print_json(&vm),
        None => Err(Failure::Failed(format!("VM Not Found: {name}"))),
    }
}

/// Writes lines to standard error. If that fails, the lines are lost.
fn complain(lines: &str) {
    let lines = lines.trim_end_matches('\n').split('\n');
    let lines: Vec<_> = lines.map(terminal::printable).collect();
    let _ = writeln!(std::io::stderr(), "{}", lines.join("\n"));
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Failed(format!("standard output: {e}")),
    })
}

fn print_json(value: &Json) -> Result<(), Failure> {
    print(&terminal::json_for_reader(value.to_pretty() + "\n"))
}
