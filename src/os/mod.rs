//! The only place with `unsafe`: what std does not offer of the system.
//!
//! Every function here is a thin, safe cover of one or two system calls. No
//! function here knows of VMs.

pub mod fswatch;
pub mod memory;
pub mod net;
pub mod process;
pub mod signals;
pub mod terminal;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// A file's content and the time of its last change.
#[derive(Debug)]
pub struct FileText {
    /// The content; invalid UTF-8 is replaced, as JavaScript does.
    pub text: String,
    /// Modification time in whole seconds since the epoch.
    pub mtime: i64,
}

/// Reads a regular file of at most `limit` bytes.
///
/// A symbolic link is refused, not followed, and a FIFO never blocks.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidInput` for what is no regular file,
/// `FileTooLarge` past the limit.
pub fn read_regular_file(path: &Path, limit: u64) -> io::Result<FileText> {
    let opened =
        OpenOptions::new().read(true).custom_flags(FILE_FLAGS).open(path);
    read_opened(opened, limit)
}

/// As [`read_regular_file`], by a way below a directory on which no symbolic
/// link is followed either.
///
/// # Errors
/// As there; `InvalidInput` for a link on the way.
pub fn read_below(
    dir: &Path,
    below: &[&str],
    limit: u64,
) -> io::Result<FileText> {
    let Some((name, way)) = below.split_last() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = libc::O_DIRECTORY;
    let mut at = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
    for name in way {
        at = match open_at(&at, name, libc::O_DIRECTORY | libc::O_NOFOLLOW) {
            // What a link with O_DIRECTORY gives differs between systems.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let is_link = dir.join(name).is_symlink();
                return Err(if is_link { is_a_link() } else { e });
            }
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                return Err(is_a_link());
            }
            opened => opened?,
        };
    }
    read_opened(open_at(&at, name, FILE_FLAGS), limit)
}

/// A FIFO must not block, nor a link be followed.
const FILE_FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

fn open_at(dir: &File, name: &str, flags: i32) -> io::Result<File> {
    let name = CString::new(name)?;
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the directory is open, and the name is NUL-terminated.
    let fd = unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn is_a_link() -> io::Error {
    let what = "is a symbolic link, which is not followed";
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn read_opened(opened: io::Result<File>, limit: u64) -> io::Result<FileText> {
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(is_a_link());
        }
        opened => opened?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        let what = "is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let too_large = || {
        let why = format!("larger than the limit of {limit} bytes");
        io::Error::new(io::ErrorKind::FileTooLarge, why)
    };
    if meta.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into());
    Ok(FileText { text, mtime: meta.mtime() })
}

/// Waits until one of `fds` can be read (or is at its end), at most `time`.
/// Returns which can; none of them when the time is over or a signal came.
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

/// poll(2), rounding the time up to a millisecond. EINTR reads as "none".
/// Waits until whoever reads what is written to `fd` has gone. Of a file or a
/// terminal that is never.
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

/// A random UUID. It has to be unlike others, not secret: the keys that std
/// makes for hash maps will do.
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

/// Lets this process have as many descriptors as it may; returns how many.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return DESCRIPTORS_MIN;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `raised` is valid for the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } {
        0 => raised.rlim_cur,
        _ => limit.rlim_cur,
    }
}

/// Descriptors that POSIX grants any process.
const DESCRIPTORS_MIN: u64 = 20;

/// Ends the process at once: nothing is flushed, and so nothing is waited for.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = std::env::temp_dir()
            .join(format!("vminfod-os-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, b"h\xffi").unwrap();
        let read = |name: &str, limit| {
            read_regular_file(&dir.join(name), limit).map(|f| f.text)
        };
        assert_eq!(read("file", 3).unwrap(), "h\u{fffd}i");
        assert!(read("file", 2).unwrap_err().to_string().contains("limit"));
        std::os::unix::fs::symlink(&file, dir.join("link")).unwrap();
        let refused = read("link", 9).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        let refused = read("", 9).unwrap_err().to_string();
        assert!(refused.contains("regular file"), "{refused}");
        let fifo =
            std::process::Command::new("mkfifo").arg(dir.join("fifo")).status();
        assert!(fifo.unwrap().success());
        assert!(read("fifo", 9).is_err());
        let below =
            |way: &[&str]| read_below(&dir, way, 9).map_err(|e| e.to_string());
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/x"), b"x").unwrap();
        std::os::unix::fs::symlink("sub", dir.join("way")).unwrap();
        assert_eq!(below(&["sub", "x"]).unwrap().text, "x");
        assert!(below(&["way", "x"]).unwrap_err().contains("symbolic link"));
        assert!(below(&["link"]).unwrap_err().contains("symbolic link"));
        assert!(below(&["none", "x"]).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn memory_is_measured() {
        // Other tests may free memory meanwhile, so a lower bound it is.
        let block = vec![1u8; 64 << 20];
        let rss = memory::measure().rss.unwrap();
        assert!(rss > 64 << 20, "{rss}");
        assert_eq!(block.iter().filter(|b| **b == 1).count(), 64 << 20);
    }
}
