//! Children: reading their output with a time limit, and killing them with
//! all that they started.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

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

/// Starts `command`, isolated; both pipes are non-blocking.
///
/// # Errors
/// Those of starting a process, as text that does not name the command.
pub fn spawn(command: &mut Command) -> io::Result<Running> {
    let mut child = isolate(command).spawn()?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = pipes else {
        kill_group(child.id(), libc::SIGKILL);
        let _ = child.wait();
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
    /// Kills the child and everything in its process group, and reaps it.
    pub fn kill(&mut self) {
        kill_group(self.child.id(), libc::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
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

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the length of the borrow; F_GETFL
    // and F_SETFL take and give integers.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
