//! Where the daemon listens, and from when on.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use vminfod_client::Address;

use crate::http::{ListenError, Server};
use crate::os;
use crate::os::net::{self, Bound};
use crate::settings::Settings;
use crate::threads::{Stop, exit};

/// Limits the connections, so that clients do not take the descriptors that
/// loading needs.
pub fn within_descriptors(mut settings: Settings) -> Settings {
    let limit = os::process::raise_descriptor_limit();
    let free = limit.saturating_sub(OWN_DESCRIPTORS).max(1);
    let most = usize::try_from(free).unwrap_or(usize::MAX);
    if settings.http.connections > most {
        log::warn!(
            "the limit of open files is {limit}: connections is lowered from \
             {} to {most}",
            settings.http.connections
        );
        settings.http.connections = most;
    }
    settings
}

/// Descriptors that are kept free for commands, files and event sources.
pub const OWN_DESCRIPTORS: u64 = 128;

/// How long to keep trying to bind an address that is in use. A daemon that was
/// killed may have left a child that has not called exec(2) yet, and which
/// still holds every descriptor that the daemon had open.
const BIND_TIME: Duration = Duration::from_secs(1);

/// The pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Binds every address of the settings.
///
/// # Errors
/// If an address can't be bound, or is still in use after [`BIND_TIME`].
pub fn bind(settings: &Settings) -> Result<Vec<Bound>, ListenError> {
    let until = Instant::now() + BIND_TIME;
    let bind_one = |address: &Address| loop {
        match net::bind(address, settings.http.send_buffer) {
            Ok(bound) => return Ok(bound),
            Err(e)
                if e.kind() == io::ErrorKind::AddrInUse
                    && Instant::now() < until =>
            {
                std::thread::sleep(BIND_PAUSE);
            }
            Err(e) => return Err(ListenError::Address(address.clone(), e)),
        }
    };
    settings.listen.iter().map(bind_one).collect()
}

/// Starts to listen for HTTP requests once the first full load is done.
pub fn start_http(
    server: &Arc<Server>,
    bound: Vec<Bound>,
    when_loaded: &Receiver<()>,
    stop: &Stop,
) {
    if when_loaded.recv().is_err() || stop.is_set() {
        return;
    }
    if let Err(e) = server.listen(bound) {
        log::error!("{e}");
        log::logger().flush();
        let _ = writeln!(io::stderr(), "vminfod: {e}");
        exit(1);
    }
}
