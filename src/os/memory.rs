//! The memory of this process.

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Memory of this process, in bytes; `None` where the system does not report
/// it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident set size.
    pub rss: Option<u64>,
    /// Heap obtained from the system.
    pub heap_total: Option<u64>,
    /// Heap in use.
    pub heap_used: Option<u64>,
}

/// The bytes of the heap, and how many of them are in use.
type Heap = (Option<u64>, Option<u64>);

/// How long a measurement of the heap is used. Measuring takes tens of
/// milliseconds if the heap has many holes, and no thread can allocate memory
/// meanwhile.
const HEAP_TIME: Duration = Duration::from_secs(30);

/// The last measurement of the heap, and when it was made.
static HEAP: Mutex<Option<(Instant, Heap)>> = Mutex::new(None);

/// Measures the memory of this process. The values of the heap may be half a
/// minute old.
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
/// 64-bit process has `pr_rssize`, in KiB, at byte 56.
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

/// Makes all threads allocate memory from one heap. glibc gives each thread a
/// heap of its own, up to eight for each processor, and none of them can use
/// the free memory of another; but VMs are loaded by one thread and freed by
/// another. To be called before there is a second thread. (illumos' malloc(3C)
/// has one heap.)
pub fn share_heap() {
    // SAFETY: mallopt has no preconditions.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the free memory of the heap back to the system, where that is
/// possible.
pub fn give_back() {
    // SAFETY: malloc_trim has no preconditions.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
