//! Child processes: starting them, reading their output without blocking, and
//! killing them with everything that they started.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_ulong};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

unsafe extern "C" {
    fn spawn_command(
        path: *const c_char,
        argv: *const *const c_char,
        envp: *const *const c_char,
        fds: *const [c_int; 3],
        files: c_ulong,
        pid: *mut libc::pid_t,
    ) -> c_int;
}

/// The environment of all commands: the C locale, and the path on which they
/// find other commands; nothing else.
const ENVIRONMENT: [&CStr; 3] =
    [c"LANG=C", c"LC_ALL=C", c"PATH=/usr/sbin:/usr/bin"];

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    /// How it has ended, once it has been reaped.
    ended: Option<ExitStatus>,
}

impl Child {
    /// Its process id, which is also the id of its process group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Whether it has ended. This does not reap it: until it is reaped, no
    /// other process can get its id, and no other group the id of its group.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn has_ended(&self) -> io::Result<bool> {
        if self.ended.is_some() {
            return Ok(true);
        }
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: all-zero bytes are a valid siginfo_t, which is filled in.
        let (failed, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = self.id() as libc::id_t;
            let failed = libc::waitid(libc::P_PID, id, &raw mut info, options);
            (failed, info)
        };
        match failed {
            0 => Ok(info.si_signo != 0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reaps it if it has ended. Returns how it has ended.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            // Once it is reaped, another process may get its id. So it must be
            // gone from the list before a thread that kills all children can
            // read that.
            let mut children = CHILDREN.lock();
            let mut status = 0;
            // SAFETY: `status` is valid for the call. Nothing else reaps the
            // process, so that its id is still its own.
            let reaped = unsafe {
                libc::waitpid(self.pid, &raw mut status, libc::WNOHANG)
            };
            match reaped {
                0 => return Ok(None),
                -1 => return Err(io::Error::last_os_error()),
                _ => {
                    children.running.remove(&self.id());
                    self.ended = Some(ExitStatus::from_raw(status));
                }
            }
        }
        Ok(self.ended)
    }
}

/// The running children, and those that were killed but have not ended. Such a
/// child may be stuck in the kernel; no thread waits for it.
#[derive(Default)]
struct Children {
    running: BTreeSet<u32>,
    unreaped: Vec<u32>,
    /// How many are being started.
    starting: usize,
    /// Whether no more may be started.
    is_over: bool,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    running: BTreeSet::new(),
    unreaped: Vec::new(),
    starting: 0,
    is_over: false,
});

/// Notified when a child has been started, or could not be.
static STARTED: Condvar = Condvar::new();

/// How long to wait for children that are being started; exec(2) takes a
/// millisecond.
const START_TIME: Duration = Duration::from_millis(500);

/// If this many children were killed and have not ended, no more are started.
const UNREAPED_MAX: usize = 64;

/// How long to wait for the end of a child that was killed.
const REAP_TIME: Duration = Duration::from_millis(100);

/// How often to check meanwhile whether it has ended.
const REAP_CHECK: Duration = Duration::from_millis(1);

/// The limit of descriptors that this process was started with.
static STARTED_WITH: OnceLock<u64> = OnceLock::new();

/// How many descriptors POSIX grants to any process.
const DESCRIPTORS_MIN: u64 = 20;

/// Raises the limit of descriptors of this process, but not of its children, as
/// far as it may. Returns the limit.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return DESCRIPTORS_MIN;
    }
    STARTED_WITH.get_or_init(|| limit.rlim_cur);
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `raised` is valid for the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } {
        0 => raised.rlim_cur,
        _ => limit.rlim_cur,
    }
}

/// The limit of descriptors that children get; 0 if it is the same as that of
/// this process.
fn descriptor_limit_of_children() -> c_ulong {
    STARTED_WITH.get().copied().unwrap_or(0)
}

/// Kills every child and everything that it has started. No more children can
/// be started after that. To be called when the process ends.
pub fn kill_all() {
    let mut children = CHILDREN.lock();
    children.is_over = true;
    let until = Instant::now() + START_TIME;
    while children.starting > 0 && Instant::now() < until {
        STARTED.wait_until(&mut children, until);
    }
    let running = std::mem::take(&mut children.running);
    running.into_iter().for_each(kill_group_now);
}

/// Reaps killed children that have ended by now. Returns how many have not.
fn reap() -> usize {
    let mut children = CHILDREN.lock();
    children.unreaped.retain(|pid| {
        let Ok(pid) = i32::try_from(*pid) else { return false };
        // SAFETY: a status that is not asked for needs no memory. The process
        // is a child of ours that nothing else reaps.
        let reaped =
            unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
        reaped == 0
    });
    children.unreaped.len()
}

/// Starts a program by its absolute path. It gets [`ENVIRONMENT`], no input, a
/// pipe for each of its outputs, the default actions of signals, the limit of
/// descriptors that this process was started with, and a process group of its
/// own, so that it can be killed with everything that it starts. The pipes do
/// not block when they are read.
///
/// # Errors
/// Those of starting a process. Their text does not name the program.
pub fn spawn(
    program: &Path,
    args: &[impl AsRef<OsStr>],
) -> io::Result<Running> {
    if reap() >= UNREAPED_MAX {
        let error = format!(
            "{UNREAPED_MAX} killed commands have not ended (stuck in the \
             kernel?); no more are started"
        );
        return Err(io::Error::other(error));
    }
    let path = CString::new(program.as_os_str().as_bytes())?;
    let args = args.iter().map(|arg| CString::new(arg.as_ref().as_bytes()));
    let args = args.collect::<Result<Vec<_>, _>>()?;
    let pointer = |text: &CStr| text.as_ptr();
    let argv: Vec<_> = [pointer(&path)]
        .into_iter()
        .chain(args.iter().map(|arg| pointer(arg)))
        .chain([ptr::null()])
        .collect();
    let envp: Vec<_> =
        ENVIRONMENT.into_iter().map(pointer).chain([ptr::null()]).collect();
    let stdin = File::open("/dev/null")?;
    let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
    let fds = [stdin.as_raw_fd(), out.as_raw_fd(), err.as_raw_fd()];
    let files = descriptor_limit_of_children();
    {
        let mut children = CHILDREN.lock();
        if children.is_over {
            return Err(io::Error::other("the daemon is stopping"));
        }
        children.starting += 1;
    }
    let mut pid = 0;
    // SAFETY: path and lists end with null and outlive the call, and the
    // descriptors are open; none is below 3, as std opens those at the start.
    let error = unsafe {
        spawn_command(
            path.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            &raw const fds,
            files,
            &raw mut pid,
        )
    };
    let child = Child { pid, ended: None };
    let mut children = CHILDREN.lock();
    children.starting -= 1;
    STARTED.notify_all();
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    if children.is_over {
        kill_group_now(child.id());
    }
    children.running.insert(child.id());
    drop(children);
    Ok(Running { child, stdout, stderr })
}

/// Both ends of a pipe, the first non-blocking.
fn pipe() -> io::Result<(PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
}

/// A child and its pipes. It must be reaped by `kill` or `child.try_wait`.
#[derive(Debug)]
pub struct Running {
    /// The child.
    pub child: Child,
    /// Its standard output, non-blocking.
    pub stdout: PipeReader,
    /// Its standard error, non-blocking.
    pub stderr: PipeReader,
}

impl Running {
    /// Kills the child and everything in its process group, and reaps it. If it
    /// does not end soon, it is reaped later.
    pub fn kill(&mut self) {
        kill_group(self.child.id(), libc::SIGKILL);
        let end = Instant::now() + REAP_TIME;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= end {
                CHILDREN.lock().unreaped.push(self.child.id());
                return;
            }
            std::thread::sleep(REAP_CHECK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        CHILDREN.lock().running.remove(&self.child.id());
    }
}

/// Sends SIGTERM to a child's process group.
pub fn terminate_group(pid: u32) {
    kill_group(pid, libc::SIGTERM);
}

/// Sends SIGKILL to a child's process group.
pub fn kill_group_now(pid: u32) {
    kill_group(pid, libc::SIGKILL);
}

fn kill_group(pid: u32, signal: i32) {
    // A pid of 0 or 1 would address ourselves or everything.
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        // SAFETY: kill has no memory preconditions.
        unsafe { libc::kill(-pid, signal) };
    }
}

/// The result of a non-blocking read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadSome {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end.
    End,
}

/// Reads what is available.
///
/// # Errors
/// Those of read(2), except EAGAIN and EINTR, which are [`ReadSome::Nothing`].
pub fn read_some(from: &mut impl Read, to: &mut [u8]) -> io::Result<ReadSome> {
    match from.read(to) {
        Ok(0) => Ok(ReadSome::End),
        Ok(n) => Ok(ReadSome::Bytes(n)),
        Err(e) => match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {
                Ok(ReadSome::Nothing)
            }
            _ => Err(e),
        },
    }
}

/// Makes reads and writes of a descriptor non-blocking.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    set_flags(fd, |flags| flags | libc::O_NONBLOCK)
}

/// Makes reads and writes of a descriptor block.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_blocking(fd: &impl AsFd) -> io::Result<()> {
    set_flags(fd, |flags| flags & !libc::O_NONBLOCK)
}

fn set_flags(fd: &impl AsFd, new: impl Fn(i32) -> i32) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the length of the borrow; F_GETFL
    // and F_SETFL take and give integers.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, new(flags))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
