//! Children: reading their output with a time limit, and killing them with
//! all that they started.

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

/// The environment of all commands: nothing but the C locale, and where to
/// look for others.
const ENVIRONMENT: [&CStr; 3] =
    [c"LANG=C", c"LC_ALL=C", c"PATH=/usr/sbin:/usr/bin"];

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    /// Once it has been waited for.
    ended: Option<ExitStatus>,
}

impl Child {
    /// Its process id, which is that of its process group, too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Whether it has ended. It is not waited for by that: as long as it is
    /// not, no other process gets its id, nor a group that of its group.
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

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            // Once it is waited for, its id may be another's: no thread
            // that kills all children may find it.
            let mut children = CHILDREN.lock();
            let mut status = 0;
            // SAFETY: `status` is valid for the call. Nothing else waits for
            // the process, so that its id is still its own.
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

/// Children that are there, and those that were killed and do not end: one
/// that is stuck in the kernel holds up nobody who waits for it.
#[derive(Default)]
struct Children {
    running: BTreeSet<u32>,
    unreaped: Vec<u32>,
    /// How many are being started.
    starting: usize,
    /// Whether no more are to be started.
    is_over: bool,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    running: BTreeSet::new(),
    unreaped: Vec::new(),
    starting: 0,
    is_over: false,
});

/// One that was being started is.
static STARTED: Condvar = Condvar::new();

/// How long those are waited for that are being started: exec(2) takes a
/// millisecond.
const START_TIME: Duration = Duration::from_millis(500);

/// If there are as many children that do not end, no more are started.
const UNREAPED_MAX: usize = 64;

/// How long a child that was killed is waited for.
const REAP_TIME: Duration = Duration::from_millis(100);

/// How often it is looked at meanwhile.
const REAP_CHECK: Duration = Duration::from_millis(1);

/// The limit of descriptors that this process was started with.
static STARTED_WITH: OnceLock<u64> = OnceLock::new();

/// Descriptors that POSIX grants any process.
const DESCRIPTORS_MIN: u64 = 20;

/// Lets this process, and not its children, have as many descriptors as it
/// may; returns how many.
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

/// The limit of descriptors that children get; 0 if it is that of this
/// process.
fn descriptor_limit_of_children() -> c_ulong {
    STARTED_WITH.get().copied().unwrap_or(0)
}

/// Kills every child with all that it has started; none is started from then
/// on. To be called when the process ends.
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

/// Reaps those that have ended after all; returns how many have not.
fn reap() -> usize {
    let mut children = CHILDREN.lock();
    children.unreaped.retain(|pid| {
        let Ok(pid) = i32::try_from(*pid) else { return false };
        // SAFETY: a status that is not asked for needs no memory. The process
        // is a child of ours that nobody else waits for.
        let reaped =
            unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
        reaped == 0
    });
    children.unreaped.len()
}

/// Starts a program, by its absolute path: with [`ENVIRONMENT`], no input, both
/// outputs on pipes that do not block, known signals, the limit of descriptors
/// that this process was started with, and a process group of its own, so that
/// it can be killed with what it starts.
///
/// # Errors
/// Those of starting a process, as text that does not name the program.
pub fn spawn(
    program: &Path,
    args: &[impl AsRef<OsStr>],
) -> io::Result<Running> {
    if reap() >= UNREAPED_MAX {
        let error = format!("{UNREAPED_MAX} processes were killed and live");
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
    let ((stdout, out), (stderr, err)) = (io::pipe()?, io::pipe()?);
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    let fds = [stdin.as_raw_fd(), out.as_raw_fd(), err.as_raw_fd()];
    let files = descriptor_limit_of_children();
    {
        let mut children = CHILDREN.lock();
        if children.is_over {
            return Err(io::Error::other("the daemon is ending"));
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
    /// Kills the child and everything in its process group, and reaps it; if
    /// it does not end, later.
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

/// What a non-blocking read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadSome {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end.
    End,
}

/// Reads what there is.
///
/// # Errors
/// Those of read(2), but for EAGAIN and EINTR, which are "nothing".
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

/// Has reads and writes of it not wait.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    set_flags(fd, |flags| flags | libc::O_NONBLOCK)
}

/// Has them wait.
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
