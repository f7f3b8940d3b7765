//! The command line. The program has three names: `vminfod VERB …`; `vminfo`,
//! today's client tool; and `vmadm`, of which it has only the verbs that read.

mod args;
mod check;
mod compare;
mod daemon;
mod diagnose;
mod event_lines;
mod events;
mod schema;
mod status;
mod terminal;
mod top;
mod usage;
mod verb;
mod verbs;
mod vmadm;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vminfod_client as client;

use crate::daemon::StartError;
use crate::load::error::CommandError;
use crate::os;
use crate::settings::SettingsError;
use crate::vm::json::Json;
use args::CLIENT;
use daemon::CantRun;
use verb::{Call, Program, STATUS, Verb};

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
    /// The command line asks for the help of the verb.
    Help,
    /// The command line can't be understood, and why.
    Usage(String),
    /// The same for a verb of vmadm: the first line is exactly what vmadm says.
    VmadmUsage(String),
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
    let program = match called.map(|name| name.to_string_lossy()).as_deref() {
        Some("vminfo") => Program::Vminfo,
        Some("vmadm") => Program::Vmadm,
        _ => Program::Vminfod,
    };
    let name = program.name();
    match run(program, args.collect()) {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(e)) => {
            complain(&format!("{name}: {e}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(e) | Failure::VmadmUsage(e)) => {
            complain(&format!("{name}: {e}; try '{name} help'"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Said { message, status }) => {
            complain(&message);
            ExitCode::from(status)
        }
        Err(Failure::Silent { status }) => ExitCode::from(status),
        // Each verb has printed it already.
        Err(Failure::Help) => ExitCode::SUCCESS,
    }
}

fn run(program: Program, args: Vec<OsString>) -> Result<(), Failure> {
    let mut args = args.into_iter();
    let name = args.next().map(|name| name.to_string_lossy().into_owned());
    let args: Vec<_> = args.collect();
    let verbs = verbs::of(program);
    match name.as_deref() {
        None => Err(usage::wrong("", &verbs::usage(program))),
        Some("help" | "-h" | "-?" | "--help") => help(program, &verbs, &args),
        Some("--version") if program != Program::Vmadm => match args.first() {
            None => print(VERSION),
            Some(extra) => {
                Err(Failure::Usage(format!("unexpected argument {extra:?}")))
            }
        },
        Some(name) => match verb::find(&verbs, name) {
            Some(verb) => call(program, verb, name, args),
            None => Err(no_verb(program, &verbs, name)),
        },
    }
}

const VERSION: &str = concat!("vminfod ", env!("CARGO_PKG_VERSION"), "\n");

/// Prints the help of the verb that is named, or the usage.
fn help(
    program: Program,
    verbs: &[&'static Verb],
    args: &[OsString],
) -> Result<(), Failure> {
    let names: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
    match &names[..] {
        [] => print(&verbs::usage(program)),
        [name] if ["help", "-h", "--help"].contains(&&**name) => {
            print(&verbs::usage(program))
        }
        [name] => match verb::find(verbs, name) {
            Some(verb) => print(&verb.help(program, name)),
            None => Err(no_verb(program, verbs, name)),
        },
        [_, extra, ..] => {
            Err(Failure::Usage(format!("unexpected argument {extra:?}")))
        }
    }
}

/// Runs a verb, or prints its help if the command line asks for that.
fn call(
    program: Program,
    verb: &'static Verb,
    name: &str,
    args: Vec<OsString>,
) -> Result<(), Failure> {
    let help = format!("try '{} {name} --help'", program.name());
    let call = Call { program, verb, name: name.to_string(), args };
    match (verb.run)(call) {
        Err(Failure::Help) => print(&verb.help(program, name)),
        Err(Failure::Usage(e) | Failure::VmadmUsage(e))
            if program == Program::Vmadm =>
        {
            Err(usage::of_vmadm(&e))
        }
        Err(Failure::Usage(e)) => {
            let message = format!("{}: {e}; {help}", program.name());
            Err(Failure::Said { message, status: EXIT_USAGE })
        }
        Err(Failure::VmadmUsage(e)) => {
            let message = format!("{e}\n{help}");
            Err(Failure::Said { message, status: EXIT_USAGE })
        }
        other => other,
    }
}

/// The failure that there is no such verb.
fn no_verb(program: Program, verbs: &[&'static Verb], name: &str) -> Failure {
    if program == Program::Vmadm {
        return vmadm::no_verb(name);
    }
    let meant = match verb::similar(verbs, name) {
        Some(meant) => format!(" Did you mean {meant}?"),
        None => String::new(),
    };
    let message = format!("Invalid command: \"{name}\".{meant}");
    usage::wrong(&message, &verbs::usage(program))
}

/// Has the daemon answer /ping.
const PING: Verb = Verb {
    names: &["ping"],
    operands: "",
    summary: "check that the daemon is up and has loaded every VM",
    about: "Ends with 0 if the daemon answers. It answers once every VM is \
            loaded.",
    options: &[&CLIENT],
    examples: [
        ("ping", "is it up?"),
        (
            "ping --time-limit 1 --server /var/run/vminfod.sock",
            "the daemon at a socket, which must answer within a second",
        ),
    ],
    status: "0 if the daemon answers, 1 if not, 2 if the command line is wrong.",
    run: |call| {
        let program = call.program;
        call.parse(0)?.client_with_deadline(program.name())?.ping()?;
        print(match program {
            Program::Vminfo => "pong\n",
            _ => "{\n  \"ping\": \"pong\"\n}\n",
        })
    },
};

const VMS: Verb = Verb {
    names: &["vms"],
    operands: "",
    summary: "all VMs, as the daemon has them",
    about: "Prints every VM as the daemon has it, as a JSON array.",
    options: &[&CLIENT],
    examples: [
        ("vms", "every VM"),
        ("vms --server 10.0.0.2:9090", "those of another host"),
    ],
    status: STATUS,
    run: vms,
};

const VM: Verb = Verb {
    names: &["vm"],
    operands: "NAME",
    summary: "one VM, as the daemon has it",
    about: "Prints the VM with this zonename as the daemon has it, as JSON.",
    options: &[&CLIENT],
    examples: [
        ("vm 9e3779b9-7f4a-4c15-8000-000000000000", "this VM"),
        ("vm web --time-limit 2", "the zone web, within two seconds"),
    ],
    status: STATUS,
    run: vm,
};

/// Is for the completion of shells, and so not in the usage.
const COMPLETE: Verb = Verb {
    names: &["complete"],
    operands: "",
    summary: "",
    about: "Prints a line for each VM, with its uuid and, if a shell reads the \
            alias literally, its alias: for the completion of shells.",
    options: &[&CLIENT],
    examples: [
        ("complete", "what a shell offers"),
        ("complete --time-limit 2", "within two seconds"),
    ],
    status: STATUS,
    run: complete,
};

/// Prints all VMs.
fn vms(call: Call) -> Result<(), Failure> {
    let client = call.parse(0)?.client_with_deadline("vminfod")?;
    let read = client.vms_as(client::VmsQuery::new())?;
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
fn complete(call: Call) -> Result<(), Failure> {
    let client = call.parse(0)?.client_with_deadline("vminfod-complete")?;
    let query = client::VmsQuery::new().fields("alias");
    let mut lines = String::new();
    for vm in client.vms(query)?.vms {
        let is_plain = |text: &&str| {
            let can_be =
                |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            text.bytes().all(can_be)
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let uuid = vm.uuid.as_str();
        if vmadm::is_uuid(uuid) && is_plain(&uuid) {
            let alias = vm.alias.as_deref().filter(is_plain);
            let alias = alias.unwrap_or_default();
            lines += &format!("{uuid} {alias}\n");
        }
    }
    print(&lines)
}

fn vm(call: Call) -> Result<(), Failure> {
    let args = call.parse(1)?;
    let named = args.operands.first().filter(|name| !name.is_empty());
    let Some(name) = named else {
        let error = "vm: no zonename given";
        return Err(Failure::Usage(error.to_string()));
    };
    match args.client_with_deadline("vminfod")?.vm(name)? {
        Some(vm) => print_json(&Json::from(vm.json())),
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
