//! The command line: `vminfod VERB …`, and today's `vminfo` by that name.

mod client;
mod events;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;
use log::LevelFilter;

use crate::config::{DEFAULT_LISTEN, Settings};
use crate::json::Json;
use crate::settings;
use client::Client;
use events::Format;

const USAGE: &str = "\
usage: vminfod VERB [OPTION]...

  daemon [--root DIR] [--listen ADDR:PORT]... [--allow-remote]
         [--allow-host NAME]... [--refresh-interval SECS]
         [--command-timeout SECS] [--set NAME=VALUE]... [--log-level LEVEL]
                     serve the VMs of this host, or of the one below DIR
  dump [--root DIR]  load the system once, without a daemon, and print all VMs
  ping               is the daemon up, and has it loaded every VM?
  status [-j] [-f]   how the daemon is; -j as JSON, -f in full
  vms                all VMs, as JSON
  vm NAME            the VM of this zonename, as JSON
  events [-j] [-f] [-r]
                     what happens to VMs, as it happens; -j as JSON, -r with
                     the line that says that the stream has begun, -f in full
  settings           what --set can set, with defaults and meanings
  help, --version

ping, status, vms, vm and events ask the daemon at --server ADDR:PORT
(127.0.0.1:9090).
";

/// Exit status of a wrong command line.
const EXIT_USAGE: u8 = 2;

/// Why a command ends without success.
enum Failure {
    /// It can't be understood.
    Usage(String),
    /// It did not work.
    Failed(String),
    /// Whoever read our output has gone: nothing more to say.
    OutputClosed,
}

impl From<lexopt::Error> for Failure {
    fn from(e: lexopt::Error) -> Self {
        Self::Usage(e.to_string())
    }
}

impl From<String> for Failure {
    fn from(e: String) -> Self {
        Self::Failed(e)
    }
}

/// Runs the program by its command line.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    let name = called
        .as_deref()
        .and_then(Path::file_name)
        .map_or("vminfod".into(), |n| n.to_string_lossy().into_owned());
    let name = if name == "vminfo" { "vminfo" } else { "vminfod" };
    match run(name, lexopt::Parser::from_env()) {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(e)) => {
            complain(&format!("{name}: {e}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(e)) => {
            complain(&format!("{name}: {e}; try '{name} help'"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn run(name: &str, mut parser: lexopt::Parser) -> Result<(), Failure> {
    let verb = match parser.next()? {
        Some(Value(verb)) => verb.string()?,
        Some(Short('h') | Long("help")) => "help".to_string(),
        Some(Long("version")) => "version".to_string(),
        Some(other) => return Err(other.unexpected().into()),
        None => return Err(Failure::Usage("no verb".to_string())),
    };
    match verb.as_str() {
        "help" => print(USAGE),
        "version" => print(&format!("{name} {}\n", env!("CARGO_PKG_VERSION"))),
        "settings" if name == "vminfod" => print(&settings::table()),
        "daemon" if name == "vminfod" => daemon(parser),
        "dump" if name == "vminfod" => dump(parser),
        "ping" => {
            let client = Words::parse(parser, "", 0)?.client()?;
            let answer = client.get_json("/ping")?;
            // Today's tool says just that.
            let pong = answer.get("ping").and_then(Json::as_str);
            match (name, pong) {
                ("vminfo", Some(pong)) => print(&format!("{pong}\n")),
                _ => print_json(&answer),
            }
        }
        "status" => {
            let words = Words::parse(parser, "jf", 0)?;
            let path =
                if words.has('f') { "/status?full=true" } else { "/status" };
            let answer = words.client()?.get_json(path)?;
            if words.has('j') {
                print(&format!("{answer}\n"))
            } else {
                print_json(&answer)
            }
        }
        "vms" => {
            let client = Words::parse(parser, "", 0)?.client()?;
            print_json(&client.get_json("/vms")?)
        }
        "vm" => {
            let words = Words::parse(parser, "", 1)?;
            let [vm] = &words.operands[..] else {
                let error = "vm: the zonename of a VM is wanted";
                return Err(Failure::Usage(error.to_string()));
            };
            let path = format!("/vms/{}", percent_encode(vm));
            print_json(&words.client()?.get_json(&path)?)
        }
        "events" => {
            let words = Words::parse(parser, "jfr", 0)?;
            let format = Format {
                json: words.has('j'),
                full: words.has('f') || name == "vminfod",
                ready: words.has('r'),
                with_alias: name == "vminfo",
            };
            let client = words.client()?;
            events::print(&client, &format)
        }
        other => Err(Failure::Usage(format!("no such verb: {other}"))),
    }
}

/// Options and operands of a verb that asks the daemon.
struct Words {
    server: SocketAddr,
    flags: Vec<char>,
    operands: Vec<String>,
}

impl Words {
    fn parse(
        mut parser: lexopt::Parser,
        flags: &str,
        operands_max: usize,
    ) -> Result<Self, Failure> {
        let mut words = Self {
            server: socket_address(DEFAULT_LISTEN)?,
            flags: Vec::new(),
            operands: Vec::new(),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("server") => {
                    words.server = socket_address(&parser.value()?.string()?)?;
                }
                Short(flag) if flags.contains(flag) => words.flags.push(flag),
                Value(operand) if words.operands.len() < operands_max => {
                    words.operands.push(operand.string()?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(words)
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(&flag)
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.server))
    }
}

fn daemon(mut parser: lexopt::Parser) -> Result<(), Failure> {
    let mut settings = Settings::new(Path::new("/"));
    let mut level = LevelFilter::Debug;
    let mut remote = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("root") => {
                set_root(&mut settings, &parser.value()?.string()?)?
            }
            Long("listen") => {
                let address = socket_address(&parser.value()?.string()?)?;
                settings.listen.push(address);
            }
            Long("allow-remote") => remote = true,
            Long("allow-host") => {
                settings.http.hosts.push(parser.value()?.string()?);
            }
            Long("refresh-interval") => {
                settings.refresh_interval =
                    seconds(&parser.value()?.string()?)?;
            }
            Long("set") => {
                let words = parser.value()?.string()?;
                settings::set(&mut settings, &words).map_err(Failure::Usage)?;
            }
            Long("command-timeout") => {
                settings.load.command_time =
                    seconds(&parser.value()?.string()?)?;
            }
            Long("log-level") => {
                level = parser.value()?.parse()?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if settings.listen.is_empty() {
        settings.listen.push(socket_address(DEFAULT_LISTEN)?);
    }
    let is_remote = |a: &&SocketAddr| !a.ip().is_loopback();
    if let Some(address) = settings.listen.iter().find(is_remote)
        && !remote
    {
        return Err(Failure::Usage(format!(
            "--listen {address}: not a loopback address. Whoever reaches it \
             can read passwords of VMs; --allow-remote allows it"
        )));
    }
    crate::log_format::start(level);
    crate::daemon::run(&settings).inspect_err(|e| {
        log::error!("{e}");
        log::logger().flush();
    })?;
    Ok(())
}

fn dump(mut parser: lexopt::Parser) -> Result<(), Failure> {
    let mut settings = Settings::new(Path::new("/"));
    while let Some(arg) = parser.next()? {
        match arg {
            Long("root") => {
                set_root(&mut settings, &parser.value()?.string()?)?
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let dumped = crate::daemon::dump::dump(&settings)?;
    for fault in &dumped.faults {
        complain(&format!("vminfod: {fault}"));
    }
    print_json(&Json::from(dumped.vms))
}

fn set_root(settings: &mut Settings, root: &str) -> Result<(), Failure> {
    // Commands are run by absolute path, wherever we are called from.
    let absolute = std::path::absolute(root)
        .map_err(|e| Failure::Usage(format!("--root {root}: {e}")))?;
    if !absolute.is_dir() {
        return Err(Failure::Failed(format!("--root {root}: no directory")));
    }
    settings.paths = crate::config::Paths::new(&absolute);
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    settings::seconds(text)
        .ok_or_else(|| Failure::Usage(format!("not a time in seconds: {text}")))
}

fn socket_address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| Failure::Usage(format!("not ADDR:PORT: {text}")))
}

/// Writes a line to standard error, if anybody listens there.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
    print(&(value.to_pretty() + "\n"))
}

/// Encodes what is not plainly a part of a path.
fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
