//! The verbs `daemon` and `dump`, which load the system themselves, and
//! `settings`, which lists the daemon's settings.

use std::fmt;
use std::path::{Path, PathBuf};

use vminfod_client::Address;

use super::args::{ROOT, socket_address, switch, value};
use super::verb::{Call, STATUS, Verb};
use super::{Failure, complain, print, print_json};
use crate::daemon::Reread;
use crate::http::request::host_name;
use crate::os::signals::Signal;
use crate::os::{self, Standing};
use crate::settings;
use crate::settings::{Settings, SettingsError};
use crate::vm::json::Json;

/// The daemon's command line, parsed.
#[derive(Default)]
struct Options {
    root: Option<PathBuf>,
    listen: Vec<Address>,
    no_tcp: bool,
    remote: bool,
    /// Whether only to check that a daemon could be started with these options.
    check: bool,
    hosts: Vec<String>,
    /// The settings file, which is read again at SIGHUP.
    file: Option<PathBuf>,
    /// Settings of the command line, `NAME=VALUE` each. They override the file.
    set: Vec<String>,
}

pub const DAEMON: Verb = Verb {
    names: &["daemon"],
    operands: "",
    summary: "serve the VMs of this host",
    about: "Loads every VM, and then serves VMs and events over HTTP, until a \
            signal ends it.",
    options: &[&[
        ROOT,
        value(
            &["listen"],
            "ADDR:PORT",
            "where to listen (127.0.0.1:9090); none: only on --socket; can be \
             repeated",
        ),
        value(
            &["socket"],
            "PATH",
            "also listen on this Unix socket, which only root can open",
        ),
        switch(
            &["allow-remote"],
            "allow --listen an address that other machines reach",
        ),
        value(
            &["allow-host"],
            "NAME",
            "answer requests whose Host is this name; can be repeated",
        ),
        value(
            &["settings"],
            "FILE",
            "a file of settings, which is read again at SIGHUP",
        ),
        value(
            &["set"],
            "NAME=VALUE",
            "a setting: see 'vminfod settings'; can be repeated",
        ),
        value(
            &["refresh-interval"],
            "SECS",
            "the same as --set refresh-interval=SECS",
        ),
        value(
            &["command-timeout"],
            "SECS",
            "the same as --set command-time=SECS",
        ),
        value(&["log-level"], "LEVEL", "the same as --set log-level=LEVEL"),
        switch(&["check"], "only check options and settings"),
    ]],
    examples: [
        (
            "daemon --root /tmp/host --listen 127.0.0.1:9091",
            "serve a simulated host",
        ),
        (
            "daemon --check --settings /opt/vminfod.conf",
            "whether it would start with these settings",
        ),
    ],
    status: "0 if a signal ended it, 1 if it failed, 2 if the command line is \
             wrong.",
    run,
};

pub const DUMP: Verb = Verb {
    names: &["dump"],
    operands: "",
    summary: "all VMs from the system, without a daemon",
    about: "Loads every VM from the system, and prints what a daemon would \
            serve, as JSON.",
    options: &[&[ROOT]],
    examples: [
        ("dump", "every VM of this host"),
        ("dump --root /tmp/host", "those of a simulated host"),
    ],
    status: STATUS,
    run: dump,
};

pub const SETTINGS: Verb = Verb {
    names: &["settings"],
    operands: "[FILE]",
    summary: "list all settings, or check a file of settings",
    about: "Lists every setting with its default and meaning. With a FILE, \
            checks that it can be used with 'daemon --settings'.",
    options: &[],
    examples: [
        ("settings", "every limit, time and default"),
        ("settings /opt/vminfod.conf", "whether this file is right"),
    ],
    status: STATUS,
    run: settings,
};

impl Options {
    fn parse(call: Call) -> Result<Self, Failure> {
        let args = call.parse(0)?;
        let file = args.last("settings");
        let mut options = Self {
            remote: args.has("allow-remote"),
            check: args.has("check"),
            root: args.last("root").map(directory).transpose()?,
            file: file.map(|f| absolute("--settings", f)).transpose()?,
            ..Self::default()
        };
        for (name, value) in args.given() {
            match name {
                "listen" if value == "none" => options.no_tcp = true,
                "listen" => options.listen.push(match socket_address(value)? {
                    Address::Unix(_) => absolute("--listen", value)?.into(),
                    inet @ Address::Inet(_) => inet,
                }),
                "socket" => {
                    options.listen.push(absolute("--socket", value)?.into());
                }
                "allow-host" => {
                    let name = host_name(value).ok_or_else(|| {
                        let what = "not a host name or address";
                        let what = format!("--allow-host {value:?}: {what}");
                        Failure::Usage(what)
                    })?;
                    options.hosts.push(name);
                }
                "set" => options.set.push(value.to_string()),
                "refresh-interval" | "log-level" => {
                    options.set.push(format!("{name}={value}"));
                }
                "command-timeout" => {
                    options.set.push(format!("command-time={value}"));
                }
                _ => {}
            }
        }
        options.check_addresses()?;
        Ok(options)
    }

    /// Checks that the addresses go together. Without a TCP address, and
    /// without `--listen none`, adds the default one.
    fn check_addresses(&mut self) -> Result<(), Failure> {
        for (n, address) in self.listen.iter().enumerate() {
            if self.listen[..n].contains(address) {
                let what = format!("{address} is given twice");
                return Err(Failure::Usage(what));
            }
        }
        let is_tcp = |a: &Address| matches!(a, Address::Inet(_));
        let has_tcp = self.listen.iter().any(is_tcp);
        if self.no_tcp && has_tcp {
            let what =
                "--listen none cannot be combined with --listen ADDR:PORT";
            return Err(Failure::Usage(what.to_string()));
        }
        if self.no_tcp && self.listen.is_empty() {
            let what = "--listen none needs --socket: otherwise no client \
                        could connect";
            return Err(Failure::Usage(what.to_string()));
        }
        if !self.no_tcp && !has_tcp {
            self.listen.push(Address::DEFAULT);
        }
        match self.listen.iter().find(|address| !address.is_local()) {
            Some(address) if !self.remote => Err(Failure::Usage(format!(
                "--listen {address} is not a loopback address: any client that \
                 reaches it can read passwords of VMs. To allow that, add \
                 --allow-remote"
            ))),
            _ => Ok(()),
        }
    }

    /// All settings. The settings file, as it is now, overrides the defaults,
    /// and the command line overrides the file.
    fn settings(&self) -> Result<Settings, SettingsError> {
        let mut settings = settings_of(self.root.as_deref());
        settings.listen.clone_from(&self.listen);
        settings.http.hosts.extend(self.hosts.iter().cloned());
        if let Some(file) = &self.file {
            settings::set_by_file(&mut settings, file)?;
        }
        for words in &self.set {
            settings::set(&mut settings, words)?;
        }
        Ok(settings)
    }
}

/// Serves the VMs of this host, or of the one below `--root`.
fn run(call: Call) -> Result<(), Failure> {
    let options = Options::parse(call)?;
    os::signals::start_service();
    if options.file.is_some() {
        // Ignore SIGHUP until the daemon catches it: it asks to read the file,
        // which is about to be read anyway.
        os::signals::ignore(Signal::Hangup);
    }
    let settings = options.settings().map_err(Failure::usage)?;
    if options.check {
        return Ok(());
    }
    os::memory::share_heap();
    crate::log_format::start();
    log::set_max_level(settings.log_level);
    let reread = || options.settings();
    let reread: Option<Reread<'_>> = match options.file {
        Some(_) => Some(&reread),
        None => None,
    };
    let report = |e: &dyn fmt::Display| {
        os::process::kill_all();
        log::error!("{e}");
        log::logger().flush();
    };
    may_run(options.root.as_deref(), os::standing())
        .inspect_err(|e| report(e))?;
    crate::daemon::run(settings, reread).inspect_err(|e| report(e))?;
    Ok(())
}

/// Why this process can't load a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CantRun {
    /// This system has no zones.
    NoZones,
    /// This is not the global zone, and does not see other zones.
    NotGlobal,
    /// This process is not root, and only root can read every VM's files.
    NotRoot,
}

impl fmt::Display for CantRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoZones => {
                "this system has no zones: it is not SmartOS. --root DIR loads \
                 a simulated host"
            }
            Self::NotGlobal => {
                "this is not the global zone: only from there can all VMs be \
                 seen"
            }
            Self::NotRoot => "not root: only root can read every VM's files",
        })
    }
}

impl std::error::Error for CantRun {}

/// Checks that this process can load the host below `root`, or this host. Any
/// process may load a simulated host, one whose `root` is not `/`.
pub fn may_run(root: Option<&Path>, standing: Standing) -> Result<(), CantRun> {
    let is_simulated = root.is_some_and(|root| root.parent().is_some());
    match standing {
        _ if is_simulated => Ok(()),
        Standing { is_global: None, .. } => Err(CantRun::NoZones),
        Standing { is_global: Some(false), .. } => Err(CantRun::NotGlobal),
        Standing { is_root: false, .. } => Err(CantRun::NotRoot),
        Standing { is_root: true, is_global: Some(true) } => Ok(()),
    }
}

/// Lists every setting. With a file as its operand, checks instead that the
/// file can be used with `--settings`.
fn settings(call: Call) -> Result<(), Failure> {
    let args = call.parse(1)?;
    match args.operands.first() {
        Some(file) => {
            let mut settings = settings_of(None);
            settings::set_by_file(&mut settings, Path::new(file))?;
            Ok(())
        }
        None => print(&settings::table()),
    }
}

/// Prints what a daemon would serve.
fn dump(call: Call) -> Result<(), Failure> {
    let args = call.parse(0)?;
    let root = args.last("root").map(directory).transpose()?;
    may_run(root.as_deref(), os::standing())?;
    let settings = settings_of(root.as_deref());
    let dumped =
        crate::daemon::dump::dump(&settings, settings.load.command_time)?;
    for fault in &dumped.faults {
        complain(&format!("vminfod: {fault}"));
    }
    print_json(&Json::from(dumped.vms))
}

/// The default settings, for the host below `root` or for this host.
pub fn settings_of(root: Option<&Path>) -> Settings {
    Settings::new(root.unwrap_or(Path::new("/")))
}

/// The directory of `--root`, made absolute: commands below it are run by
/// absolute path, whatever the working directory is.
pub fn directory(root: &str) -> Result<PathBuf, Failure> {
    let path = absolute("--root", root)?;
    if !path.is_dir() {
        return Err(Failure::Failed(format!("--root {root}: not a directory")));
    }
    Ok(path)
}

fn absolute(option: &str, path: &str) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|e| Failure::Usage(format!("{option} {path}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_of_the_global_zone_loads_this_host() {
        let said = |root: Option<&str>, is_root, is_global| {
            let standing = Standing { is_root, is_global };
            may_run(root.map(Path::new), standing).err()
        };
        assert_eq!(said(None, true, Some(true)), None);
        assert_eq!(said(Some("/"), true, Some(true)), None);
        assert_eq!(said(None, false, Some(true)), Some(CantRun::NotRoot));
        let zone = said(Some("/"), true, Some(false));
        assert_eq!(zone, Some(CantRun::NotGlobal));
        assert_eq!(said(None, true, None), Some(CantRun::NoZones));
        assert_eq!(said(Some("/host"), false, None), None);
        assert_eq!(said(Some("/host"), false, Some(false)), None);
    }
}
