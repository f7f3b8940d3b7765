//! System calls that std does not offer. This is the only place with `unsafe`
//! code.
//!
//! Every function here is a thin, safe wrapper of one or two system calls. None
//! of them knows of VMs.

pub mod fswatch;
pub mod memory;
pub mod net;
pub mod process;
mod read;
pub mod signals;
pub mod socket;
pub mod terminal;
mod unix;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

pub use read::{Dir, FileText, Stamp, read_regular_file, stamp};

/// Waits until one of `fds` can be read (or is at its end), but at most `time`.
/// Returns for each of them whether it can be read; none can if the time is
/// over or a signal came.
///
/// # Errors
/// Those of poll(2).
pub fn wait_readable(
    fds: &[BorrowedFd<'_>],
    time: Duration,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    poll(&mut polled, time)?;
    Ok(polled.iter().map(|p| p.revents != 0).collect())
}

/// Waits until the reading end of the pipe or socket `fd` is closed. For a file
/// or a terminal that never happens.
///
/// # Errors
/// Those of poll(2).
pub fn wait_for_closed(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut polled =
        [libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 }];
    while polled[0].revents == 0 {
        poll(&mut polled, Duration::from_secs(3600))?;
    }
    Ok(())
}

/// poll(2), with the time rounded up to a millisecond. After EINTR, none of
/// `fds` is ready.
fn poll(fds: &mut [libc::pollfd], time: Duration) -> io::Result<()> {
    let ms = time.as_nanos().div_ceil(1_000_000);
    let ms = i32::try_from(ms).unwrap_or(i32::MAX);
    // The type of the count differs between systems.
    #[allow(clippy::cast_possible_truncation)]
    let count = fds.len() as libc::nfds_t;
    // SAFETY: `fds` is a valid array of `count` entries for the whole call.
    if unsafe { libc::poll(fds.as_mut_ptr(), count, ms) } >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    for entry in fds {
        entry.revents = 0;
    }
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// The user and the zone in which this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the user is root.
    pub is_root: bool,
    /// Whether the zone is the global zone; `None` where there are no zones.
    pub is_global: Option<bool>,
}

/// Returns the [`Standing`] of this process.
#[must_use]
pub fn standing() -> Standing {
    // SAFETY: geteuid has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    Standing { is_root, is_global: is_global_zone() }
}

#[cfg(target_os = "illumos")]
fn is_global_zone() -> Option<bool> {
    unsafe extern "C" {
        /// getzoneid(3C)
        safe fn getzoneid() -> libc::c_int;
    }
    Some(getzoneid() == 0)
}

#[cfg(not(target_os = "illumos"))]
fn is_global_zone() -> Option<bool> {
    None
}

/// The name of this machine, for log records.
#[must_use]
pub fn hostname() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the buffer is valid for its whole length, and its last byte is
    // kept out of the call, so that it stays NUL-terminated.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let len = name.iter().position(|b| *b == 0).unwrap_or(0);
    String::from_utf8_lossy(&name[..len]).into_owned()
}

/// A random UUID. It must be unique, not secret, so the keys that std makes for
/// hash maps are random enough.
#[must_use]
pub fn random_uuid() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(std::time::SystemTime::now());
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        0x8000 | (b >> 48 & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}

/// Writes a file, which may exist already. A symbolic link is not followed.
///
/// # Errors
/// Those of open(2) and write(2).
pub fn write_plain_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.write_all(bytes)
}

/// Ends the process at once: nothing is flushed, so nothing is waited for.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_measured() {
        // Other tests may free memory meanwhile, so only a lower bound is
        // checked.
        let block = vec![1u8; 64 << 20];
        let rss = memory::measure().rss.unwrap();
        assert!(rss > 64 << 20, "{rss}");
        assert_eq!(block.iter().filter(|b| **b == 1).count(), 64 << 20);
    }
}
