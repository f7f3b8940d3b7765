//! The memory of this process.

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Memory of this process, in bytes; what the system does not tell is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident set size.
    pub rss: Option<u64>,
    /// Heap obtained from the system.
    pub heap_total: Option<u64>,
    /// Heap in use.
    pub heap_used: Option<u64>,
}

/// Bytes of the heap, and those in use.
type Heap = (Option<u64>, Option<u64>);

/// To look at the heap takes tens of milliseconds when it has many holes, and
/// nobody gets memory meanwhile: what was found is told for so long.
const HEAP_TIME: Duration = Duration::from_secs(30);

/// What was found of the heap, and when.
static HEAP: Mutex<Option<(Instant, Heap)>> = Mutex::new(None);

/// Measures the memory of this process; the heap's part may be of half a
/// minute ago.
#[must_use]
pub fn measure() -> Memory {
    let mut last = HEAP.lock();
    let known = last.filter(|(at, _)| at.elapsed() < HEAP_TIME);
    let (at, (heap_total, heap_used)) =
        known.unwrap_or_else(|| (Instant::now(), heap()));
    *last = Some((at, (heap_total, heap_used)));
    Memory { rss: rss(), heap_total, heap_used }
}

/// The resident set size of this process, in bytes.
#[must_use]
#[cfg(target_os = "linux")]
pub fn rss() -> Option<u64> {
    let statm = std::fs::read_to_string(Path::new("/proc/self/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

/// The resident set size of this process, in bytes. proc(5): `psinfo_t` of a
/// 64-bit process has `pr_rssize`, in KiB, at 56.
#[must_use]
#[cfg(not(target_os = "linux"))]
pub fn rss() -> Option<u64> {
    let psinfo = std::fs::read(Path::new("/proc/self/psinfo")).ok()?;
    let size = psinfo.get(56..64)?.try_into().ok()?;
    Some(u64::from_ne_bytes(size) * 1024)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap() -> Heap {
    // SAFETY: mallinfo2 has no preconditions.
    let info = unsafe { libc::mallinfo2() };
    let total = info.arena as u64 + info.hblkhd as u64;
    (Some(total), Some(info.uordblks as u64 + info.hblkhd as u64))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap() -> Heap {
    (None, None)
}

/// Has all threads take memory from one heap. glibc gives each thread one of
/// its own, up to eight a processor, none of which has use for what another
/// has free; VMs are loaded by one thread and freed by another. To be called
/// before there is a second thread. (illumos' malloc(3C) has one heap.)
pub fn share_heap() {
    // SAFETY: mallopt has no preconditions.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives what is free of the heap back to the system, where that can be done.
pub fn give_back() {
    // SAFETY: malloc_trim has no preconditions.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
