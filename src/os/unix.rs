//! Unix sockets: a path that belongs to one daemon, and that only its user may
//! open.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::socket::socket;

/// A socket's lock file is named after the socket, with this suffix.
const LOCK_SUFFIX: &str = ".lock";

/// How often to try to lock the lock file, if another process keeps removing
/// it.
const LOCK_TRIES: usize = 8;

/// A path that belongs to this process until this is dropped. Then the path is
/// removed, if it still leads to our socket.
#[derive(Debug)]
pub struct Taken {
    path: PathBuf,
    /// Device and inode of the socket.
    id: (u64, u64),
    _lock: File,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the path of a socket. It belongs to the process that holds the lock
/// beside it; so if we get the lock, a socket that exists was left behind.
///
/// # Errors
/// `AddrInUse` if another process has it; those of open(2) and bind(2).
pub fn bind(path: &Path) -> io::Result<(OwnedFd, Taken)> {
    let sun = address(path)?;
    let is_there = || match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(true),
        Ok(_) => Err(io::Error::other(
            "the path exists and is not a socket; remove it or choose another \
             path",
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    };
    // Do not make a lock file for a path that can't be used.
    is_there()?;
    let lock = lock(path)?;
    // Check again: another daemon may have come or gone since.
    if is_there()? {
        fs::remove_file(path)?;
    }
    let fd = socket(libc::AF_UNIX)?;
    // SAFETY: umask has no preconditions; it is put back. Until the daemon
    // has bound its addresses, no other thread makes files. `sun` is valid for
    // the call, and its true size is given.
    let result = unsafe {
        let before = libc::umask(0o177);
        let address = (&raw const sun).cast();
        let result = libc::bind(fd.as_raw_fd(), address, size_of_sun());
        libc::umask(before);
        result
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let found = fs::symlink_metadata(path)?;
    let id = (found.dev(), found.ino());
    Ok((fd, Taken { path: path.to_path_buf(), id, _lock: lock }))
}

/// The address of a path.
fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut sun: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)]
    let family = libc::AF_UNIX as libc::sa_family_t;
    sun.sun_family = family;
    let bytes = path.as_os_str().as_bytes();
    // A NUL must follow.
    if bytes.len() >= sun.sun_path.len() || bytes.contains(&0) {
        let what = format!(
            "the path is longer than {} bytes, or has a NUL byte",
            sun.sun_path.len() - 1
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in sun.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(sun)
}

fn size_of_sun() -> libc::socklen_t {
    #[allow(clippy::cast_possible_truncation)]
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    size
}

/// Makes the file beside a socket's path and locks it, as long as it is open.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    let name = Path::new(&name);
    for _ in 0..LOCK_TRIES {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Follow no link, and wait for no FIFO.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(name)?;
        let own = file.metadata()?;
        // SAFETY: geteuid has no preconditions.
        let user = unsafe { libc::geteuid() };
        if !own.is_file() || own.uid() != user || own.nlink() > 1 {
            let what = format!(
                "{}: the lock file is not a regular file of this user, or has \
                 another link; remove it",
                name.display()
            );
            return Err(io::Error::other(what));
        }
        lock_whole(&file)?;
        // If it was removed before it was locked, another process could make
        // and lock a new one: try again.
        let found = fs::symlink_metadata(name);
        let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        if found.is_ok_and(|found| id(&found) == id(&own)) {
            return Ok(file);
        }
    }
    let what = format!("another process keeps removing {}", name.display());
    Err(io::Error::other(what))
}

/// Locks the whole file. `AddrInUse` if another process has locked it.
fn lock_whole(file: &File) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid flock: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)]
    let kind = libc::F_WRLCK as libc::c_short;
    lock.l_type = kind;
    // SAFETY: the descriptor is open, and `lock` is valid for the call.
    let result = unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock)
    };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => {
            Err(io::ErrorKind::AddrInUse.into())
        }
        _ => Err(error),
    }
}
