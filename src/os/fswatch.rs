//! A safe wrapper of the file watcher in `c/fswatch.c`.
//!
//! It reports which watch has an event, never what has changed. The caller
//! reads the file to find that out.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The most events that one wait returns.
const EVENTS_MAX: usize = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawEvent {
    id: u64,
    changes: c_int,
    exchanged: c_int,
    gone: c_int,
}

#[repr(C)]
struct RawWatcher {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn fswatch_open(out: *mut *mut RawWatcher) -> c_int;
    fn fswatch_close(watcher: *mut RawWatcher);
    fn fswatch_add(
        watcher: *mut RawWatcher,
        id: u64,
        path: *const c_char,
        changed: *mut c_int,
    ) -> c_int;
    fn fswatch_check(
        watcher: *mut RawWatcher,
        id: u64,
        path: *const c_char,
        changed: *mut c_int,
    ) -> c_int;
    fn fswatch_remove(watcher: *mut RawWatcher, id: u64);
    fn fswatch_wait(
        watcher: *mut RawWatcher,
        events: *mut RawEvent,
        max: u32,
        n: *mut u32,
    ) -> c_int;
    fn fswatch_stop(watcher: *mut RawWatcher) -> c_int;
}

/// An event of one watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The number that the watch was added with.
    pub id: u64,
    /// Whether the path leads to another file than before.
    pub exchanged: bool,
    /// Whether the watch has ended: the path leads nowhere, or can't be
    /// watched.
    pub gone: bool,
}

/// A set of watched paths.
#[derive(Debug)]
pub struct FsWatch {
    raw: *mut RawWatcher,
}

// SAFETY: the C side guards all of its state with mutexes, as its head comment
// says.
unsafe impl Send for FsWatch {}
// SAFETY: as above.
unsafe impl Sync for FsWatch {}

impl FsWatch {
    /// A watcher without watches.
    ///
    /// # Errors
    /// Those of `port_create(3C)`.
    pub fn new() -> io::Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is valid for the call, which sets it on success.
        check(unsafe { fswatch_open(&raw mut raw) })?;
        Ok(Self { raw })
    }

    /// Watches `path` under the number `id`, or arms that watch again. Returns
    /// `true` if the file has changed since the watch was last armed.
    ///
    /// # Errors
    /// Those of lstat(2) and `port_associate(3C)`; they end the watch.
    pub fn add(&self, id: u64, path: &Path) -> io::Result<bool> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut changed = 0;
        // SAFETY: the watcher is open; the path is NUL-terminated and copied
        // by the callee; `changed` is valid for the call.
        check(unsafe {
            fswatch_add(self.raw, id, path.as_ptr(), &raw mut changed)
        })?;
        Ok(changed != 0)
    }

    /// As [`FsWatch::add`], but leaves a watch alone if its path leads to the
    /// same file as when it was armed, and the file has not changed.
    ///
    /// # Errors
    /// Those of [`FsWatch::add`].
    pub fn check(&self, id: u64, path: &Path) -> io::Result<bool> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut changed = 0;
        // SAFETY: as in `add`.
        check(unsafe {
            fswatch_check(self.raw, id, path.as_ptr(), &raw mut changed)
        })?;
        Ok(changed != 0)
    }

    /// Ends watch `id`, if there is one.
    pub fn remove(&self, id: u64) {
        // SAFETY: the watcher is open.
        unsafe { fswatch_remove(self.raw, id) }
    }

    /// Blocks until there are events; `None` once [`FsWatch::stop`] was called.
    /// Watches that are not gone have been armed again.
    ///
    /// # Errors
    /// Those of `port_getn(3C)`.
    pub fn wait(&self) -> io::Result<Option<Vec<WatchEvent>>> {
        let none = RawEvent { id: 0, changes: 0, exchanged: 0, gone: 0 };
        let mut events = [none; EVENTS_MAX];
        let mut count = 0;
        #[allow(clippy::cast_possible_truncation)]
        let max = EVENTS_MAX as u32;
        // SAFETY: the watcher is open, and the array has `max` entries.
        let error = unsafe {
            fswatch_wait(self.raw, events.as_mut_ptr(), max, &raw mut count)
        };
        if error == libc::ECANCELED {
            return Ok(None);
        }
        check(error)?;
        let events = events.iter().take(count as usize);
        Ok(Some(
            events
                .map(|e| WatchEvent {
                    id: e.id,
                    exchanged: e.exchanged != 0,
                    gone: e.gone != 0,
                })
                .collect(),
        ))
    }

    /// Ends the wait that is going on, or the next one.
    ///
    /// # Errors
    /// Those of `port_send(3C)`.
    pub fn stop(&self) -> io::Result<()> {
        // SAFETY: the watcher is open.
        check(unsafe { fswatch_stop(self.raw) })
    }
}

impl Drop for FsWatch {
    fn drop(&mut self) {
        // SAFETY: there is no other reference, so no other call is running.
        unsafe { fswatch_close(self.raw) }
    }
}

fn check(error: c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
