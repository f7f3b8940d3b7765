//! Reads files that another user may have put there: no link is followed out of
//! a directory, no FIFO blocks, and nothing is read past a limit.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file's content, and the stamp of the state that was read.
#[derive(Debug)]
pub struct FileText {
    /// The content; invalid UTF-8 is replaced, as JavaScript does.
    pub text: String,
    /// The stamp of the moment before the file was read.
    pub stamp: Stamp,
}

/// Identifies one state of a file: which file it is, its size, and when it was
/// written, as stat(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Modification time in whole seconds since the epoch.
    pub mtime: i64,
    /// A hash of all of that.
    hash: u64,
    /// Whether the last write was long enough ago when the stamp was taken. If
    /// not, another write right after it may have left the times unchanged,
    /// because file systems' clocks advance in ticks.
    is_settled: bool,
}

/// Two writes this far apart have different times on any file system.
const SETTLE_TIME: Duration = Duration::from_secs(2);

impl Stamp {
    fn of(meta: &Metadata, now: SystemTime) -> Self {
        let times =
            [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Self::new(meta.dev(), meta.ino(), meta.len(), times, now)
    }

    /// `now` is when the file was looked at, or a moment before.
    fn new(
        device: u64,
        inode: u64,
        size: u64,
        times: [i64; 4],
        now: SystemTime,
    ) -> Self {
        let [mtime, _, ctime, _] = times;
        let mut hasher = DefaultHasher::new();
        (device, inode, size, times).hash(&mut hasher);
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let last = u64::try_from(ctime.max(mtime)).unwrap_or(u64::MAX);
        let is_settled =
            last.checked_add(SETTLE_TIME.as_secs()).is_some_and(|t| t < now);
        Self { mtime, hash: hasher.finish(), is_settled }
    }

    /// A stamp that never holds, even if the file does not change, so that the
    /// file is read again each time.
    #[must_use]
    pub fn never_holding(self) -> Self {
        Self { is_settled: false, ..self }
    }

    /// Whether a file that had this stamp when it was read, and has the stamp
    /// `now` now, still has the content that was read.
    #[must_use]
    pub fn still_holds(&self, now: &Self) -> bool {
        self.is_settled && self.hash == now.hash
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// A symbolic link is refused, not followed, and a FIFO never blocks.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidInput` if it is not a regular file,
/// `FileTooLarge` if it is larger than the limit.
pub fn read_regular_file(path: &Path, limit: u64) -> io::Result<FileText> {
    let opened =
        OpenOptions::new().read(true).custom_flags(FILE_FLAGS).open(path);
    read_opened(opened, limit)
}

/// The stamp of the file at `path`. A link is not followed.
///
/// # Errors
/// Those of lstat(2).
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    let now = SystemTime::now();
    std::fs::symlink_metadata(path).map(|meta| Stamp::of(&meta, now))
}

/// An open directory. Files are read in this very directory, whatever its path
/// leads to by then.
#[derive(Debug)]
pub struct Dir(File);

impl Dir {
    /// Opens a directory whose path is trusted: links in it are followed.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY;
        OpenOptions::new().read(true).custom_flags(flags).open(path).map(Self)
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// Those of openat(2); `InvalidInput` for a link.
    pub fn open_below(&self, name: &str) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        self.open_at(name, flags).map(Self).map_err(|e| {
            // The error for a link with O_DIRECTORY differs between systems.
            let may_be_link = e.kind() == io::ErrorKind::NotADirectory
                || e.raw_os_error() == Some(libc::ELOOP);
            let is_link = |stat: &libc::stat| {
                stat.st_mode & libc::S_IFMT == libc::S_IFLNK
            };
            match may_be_link && self.stat(name).is_ok_and(|s| is_link(&s)) {
                true => is_a_link(),
                false => e,
            }
        })
    }

    /// Reads a file in this directory: see [`read_regular_file`].
    ///
    /// # Errors
    /// Those of [`read_regular_file`].
    pub fn read(&self, name: &str, limit: u64) -> io::Result<FileText> {
        read_opened(self.open_at(name, FILE_FLAGS), limit)
    }

    /// The stamp of the file of this name here. A link is not followed.
    ///
    /// # Errors
    /// Those of fstatat(2).
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    pub fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let now = SystemTime::now();
        let stat = self.stat(name)?;
        let times = [
            stat.st_mtime as i64,
            stat.st_mtime_nsec as i64,
            stat.st_ctime as i64,
            stat.st_ctime_nsec as i64,
        ];
        // As std casts them: the types differ between systems.
        let (device, inode) = (stat.st_dev as u64, stat.st_ino as u64);
        Ok(Stamp::new(device, inode, stat.st_size as u64, times, now))
    }

    fn stat(&self, name: &str) -> io::Result<libc::stat> {
        let name = CString::new(name)?;
        let mut stat = MaybeUninit::uninit();
        // SAFETY: the directory is open, the name is NUL-terminated, and
        // `stat` has room for what is written.
        let result = unsafe {
            libc::fstatat(
                self.0.as_raw_fd(),
                name.as_ptr(),
                stat.as_mut_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded, and has filled in all of it.
        Ok(unsafe { stat.assume_init() })
    }

    fn open_at(&self, name: &str, flags: i32) -> io::Result<File> {
        let name = CString::new(name)?;
        let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: the directory is open, and the name is NUL-terminated.
        let fd =
            unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open, and nothing else owns it.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}

/// A FIFO must not block, and a link must not be followed.
const FILE_FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

fn is_a_link() -> io::Error {
    let what = "is a symbolic link, which is not followed";
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn read_opened(opened: io::Result<File>, limit: u64) -> io::Result<FileText> {
    let mut file = match opened {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(is_a_link());
        }
        opened => opened?,
    };
    let now = SystemTime::now();
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
    // One byte more than the file should have: if a read leaves room, it has
    // met the end of the file, and no other read is needed to find that out.
    let size = usize::try_from(meta.len()).map_err(|_| too_large())?;
    let mut bytes = vec![0; size + 1];
    let read = loop {
        match file.read(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    let is_longer = read > size;
    bytes.truncate(read);
    if is_longer {
        let left = limit.saturating_add(1).saturating_sub(read as u64);
        file.take(left).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into());
    Ok(FileText { text, stamp: Stamp::of(&meta, now) })
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
        let trusted = Dir::open(&dir).unwrap();
        let below = |way: &str, name: &str| {
            let opened = trusted.open_below(way);
            let read = opened.and_then(|dir| dir.read(name, 9));
            read.map_err(|e| e.to_string())
        };
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/x"), b"x").unwrap();
        std::os::unix::fs::symlink("sub", dir.join("way")).unwrap();
        assert_eq!(below("sub", "x").unwrap().text, "x");
        assert!(below("way", "x").unwrap_err().contains("symbolic link"));
        let refused = trusted.read("link", 9).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        assert!(below("none", "x").is_err());
        assert!(below("file", "x").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_stamp_holds_only_if_it_is_old_and_the_file_is_unchanged() {
        let dir = std::env::temp_dir()
            .join(format!("vminfod-stamp-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, opened) = (dir.join("file"), Dir::open(&dir).unwrap());
        std::fs::write(&path, "one").unwrap();
        let fresh = stamp(&path).unwrap();
        assert_eq!(opened.stamp("file").unwrap(), fresh);
        assert_eq!(opened.read("file", 9).unwrap().stamp, fresh);
        // It was written a moment ago, and may have been written again since.
        assert!(!fresh.still_holds(&fresh));
        let old = Stamp { is_settled: true, ..fresh };
        assert!(old.still_holds(&fresh));
        std::fs::write(dir.join("other"), "one").unwrap();
        std::fs::rename(dir.join("other"), &path).unwrap();
        assert!(!old.still_holds(&stamp(&path).unwrap()));
        std::fs::remove_dir_all(&dir).unwrap();

        let of = |ctime: i64| {
            let times = [1_000_000_000, 5, ctime, 5];
            Stamp::new(1, 2, 3, times, SystemTime::now())
        };
        assert!(of(1_000_000_000).is_settled);
        // The clock was set back: the next write may have the same times.
        assert!(!of(i64::MAX).is_settled);
        let old = of(1_000_000_000);
        assert!(old.still_holds(&of(1_000_000_000)));
        assert!(!old.still_holds(&of(1_000_000_001)));
    }
}
