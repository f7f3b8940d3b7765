//! Signals, as bytes on a descriptor that a thread can wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// A signal that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGHUP: the terminal has gone.
    Hangup,
    /// SIGQUIT: Ctrl-\\.
    Quit,
    /// SIGTSTP: Ctrl-Z.
    Suspend,
    /// SIGCONT: it was stopped, and goes on.
    Continue,
    /// SIGWINCH: the terminal has another size.
    WindowChange,
}

impl Signal {
    const ALL: [Self; 7] = [
        Self::Terminate,
        Self::Interrupt,
        Self::Hangup,
        Self::Quit,
        Self::Suspend,
        Self::Continue,
        Self::WindowChange,
    ];

    fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Hangup => libc::SIGHUP,
            Self::Quit => libc::SIGQUIT,
            Self::Suspend => libc::SIGTSTP,
            Self::Continue => libc::SIGCONT,
            Self::WindowChange => libc::SIGWINCH,
        }
    }
}

/// Signals, kept from killing the process.
#[derive(Debug)]
pub struct Signals {
    from: UnixStream,
}

/// Where the handler writes; -1 until there is one.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

/// Hands a signal on. Only what is async-signal-safe may be done here.
extern "C" fn hand_on(signal: libc::c_int) {
    // No signal's number takes more than a byte.
    let byte = signal.to_le_bytes()[0];
    let fd = SIGNALLED.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe, and `byte` is valid for the call.
    // errno is put back, since the interrupted thread may be about to read it.
    unsafe {
        let errno = errno_location();
        let before = *errno;
        libc::write(fd, (&raw const byte).cast(), 1);
        *errno = before;
    }
}

#[cfg(target_os = "linux")]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: it always gives a valid pointer.
    unsafe { libc::__errno_location() }
}

#[cfg(not(target_os = "linux"))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: it always gives a valid pointer.
    unsafe { libc::___errno() }
}

/// Has the handler called for a signal.
fn install(signal: Signal) -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = hand_on;
    // SAFETY: a zeroed sigaction is valid memory, and all that counts of it is
    // set; the handler is async-signal-safe.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        let number = signal.number();
        libc::sigaction(number, &raw const action, ptr::null_mut())
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Signals {
    /// Catches these from now on. They are not blocked, which
    /// children would inherit: those get them as usual.
    ///
    /// # Errors
    /// Those of sigaction(2), or if there are no descriptors left.
    pub fn catch(signals: &[Signal]) -> io::Result<Self> {
        let (to, from) = UnixStream::pair()?;
        to.set_nonblocking(true)?;
        // The handler may be called for as long as the process lives.
        SIGNALLED.store(to.into_raw_fd(), Ordering::Relaxed);
        for signal in signals {
            install(*signal)?;
        }
        Ok(Self { from })
    }

    /// Blocks until one of them arrives.
    #[must_use]
    pub fn wait(&self) -> Signal {
        let mut byte = [0];
        loop {
            // Its other end is never closed; EINTR is tried again.
            let read = (&self.from).read(&mut byte);
            let number = i32::from(byte[0]);
            let mut all = Signal::ALL.into_iter();
            let signal = all.find(|signal| signal.number() == number);
            if let (Ok(1), Some(signal)) = (read, signal) {
                return signal;
            }
        }
    }

    /// A descriptor that can be read when one has arrived.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Whether a signal does nothing, as who started this process has it.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction, which is filled in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let number = signal.number();
        libc::sigaction(number, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Has a signal do nothing, until it is caught.
pub fn ignore(signal: Signal) {
    // SAFETY: ignoring has no preconditions.
    unsafe { libc::signal(signal.number(), libc::SIG_IGN) };
}

/// Has the ends of children reported again, if who started this process has
/// ignored them: they could not be waited for.
pub fn reset_child_signal() {
    // SAFETY: setting the default has no preconditions.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Stops this process and its group, as Ctrl-Z does, until they are continued;
/// not at all if nobody could do that.
///
/// # Errors
/// Those of sigaction(2).
pub fn stop_here() -> io::Result<()> {
    // SAFETY: neither has preconditions; the handler is put back below.
    unsafe {
        libc::signal(libc::SIGTSTP, libc::SIG_DFL);
        libc::kill(0, libc::SIGTSTP);
    }
    install(Signal::Suspend)
}
