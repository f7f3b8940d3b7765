//! Children: reading their output with a time limit, and killing them with
//! all that they started.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Sets `command` up as this program starts all its children: a cleared
/// environment but for the C locale, no input, both outputs on pipes, and a
/// process group of its own, so that it can be killed with what it starts.
pub fn isolate(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("LANG", "C")
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
}

/// Children that are there, and those that were killed and do not end: one
/// that is stuck in the kernel holds up nobody who waits for it.
#[derive(Default)]
struct Children {
    running: BTreeSet<u32>,
    unreaped: Vec<u32>,
}

static CHILDREN: Mutex<Children> =
    Mutex::new(Children { running: BTreeSet::new(), unreaped: Vec::new() });

/// If there are as many children that do not end, no more are started.
const UNREAPED_MAX: usize = 64;

/// How long a child that was killed is waited for.
const REAP_TIME: Duration = Duration::from_millis(100);

/// How often it is looked at meanwhile.
const REAP_CHECK: Duration = Duration::from_millis(1);

/// Kills every child with all that it has started.
pub fn kill_all() {
    let running = std::mem::take(&mut CHILDREN.lock().running);
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
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        reaped == 0
    });
    children.unreaped.len()
}

/// Starts `command`, isolated; both pipes are non-blocking.
///
/// # Errors
/// Those of starting a process, as text that does not name the command.
pub fn spawn(command: &mut Command) -> io::Result<Running> {
    if reap() >= UNREAPED_MAX {
        let error = format!("{UNREAPED_MAX} processes were killed and live");
        return Err(io::Error::other(error));
    }
    let mut child = isolate(command).spawn()?;
    CHILDREN.lock().running.insert(child.id());
    let pipes = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = pipes else {
        kill_group(child.id(), libc::SIGKILL);
        let _ = child.wait();
        CHILDREN.lock().running.remove(&child.id());
        return Err(io::Error::other("no pipes to the child"));
    };
    let mut running = Running { child, stdout, stderr };
    if let Err(e) = set_nonblocking(&running.stdout)
        .and_then(|()| set_nonblocking(&running.stderr))
    {
        running.kill();
        return Err(e);
    }
    Ok(running)
}

/// A child and its pipes. It must be reaped by `kill` or `child.wait`.
#[derive(Debug)]
pub struct Running {
    /// The child.
    pub child: Child,
    /// Its standard output, non-blocking.
    pub stdout: ChildStdout,
    /// Its standard error, non-blocking.
    pub stderr: ChildStderr,
}

impl Running {
    /// Kills the child and everything in its process group, and reaps it; if
    /// it does not end, later.
    pub fn kill(&mut self) {
        kill_group(self.child.id(), libc::SIGKILL);
        let _ = self.child.kill();
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
