//! The verbs that load the system themselves: `daemon` and `dump`.

use std::net::SocketAddr;
use std::path::Path;

use lexopt::prelude::*;
use log::LevelFilter;

use super::args::{seconds, socket_address};
use super::{Failure, complain, print_json};
use crate::config::{DEFAULT_LISTEN, Paths, Settings};
use crate::json::Json;
use crate::settings;

/// Serves the VMs of this host.
pub fn run(mut parser: lexopt::Parser) -> Result<(), Failure> {
    let mut settings = Settings::new(Path::new("/"));
    let mut level = LevelFilter::Debug;
    let mut remote = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("root") => {
                set_root(&mut settings, &parser.value()?.string()?)?;
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
    crate::os::memory::share_heap();
    crate::log_format::start(level);
    crate::daemon::run(&settings).inspect_err(|e| {
        log::error!("{e}");
        log::logger().flush();
    })?;
    Ok(())
}

/// Prints what a daemon would serve.
pub fn dump(mut parser: lexopt::Parser) -> Result<(), Failure> {
    let mut settings = Settings::new(Path::new("/"));
    while let Some(arg) = parser.next()? {
        match arg {
            Long("root") => {
                set_root(&mut settings, &parser.value()?.string()?)?;
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

/// Reads and runs everything below this directory.
pub fn set_root(settings: &mut Settings, root: &str) -> Result<(), Failure> {
    // Commands are run by absolute path, wherever we are called from.
    let absolute = std::path::absolute(root)
        .map_err(|e| Failure::Usage(format!("--root {root}: {e}")))?;
    if !absolute.is_dir() {
        return Err(Failure::Failed(format!("--root {root}: no directory")));
    }
    settings.paths = Paths::new(&absolute);
    Ok(())
}
