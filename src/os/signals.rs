//! Signals, as bytes on a descriptor that a thread can wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// A signal that can be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// SIGQUIT: Ctrl-\\.
    Quit,
    /// SIGTSTP: Ctrl-Z.
    Suspend,
    /// SIGCONT: the process was stopped, and now continues.
    Continue,
    /// SIGWINCH: the size of the terminal has changed.
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

/// Signals that are caught, so that they do not kill the process.
#[derive(Debug)]
pub struct Signals {
    from: UnixStream,
}

/// The descriptor that the handler writes to; -1 until there is one.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

/// The handler: writes the number of the signal as a byte. Everything that is
/// done here must be async-signal-safe.
extern "C" fn hand_on(signal: libc::c_int) {
    // Every signal's number fits into a byte.
    let byte = signal.to_le_bytes()[0];
    let fd = SIGNALLED.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe, and `byte` is valid for the call.
    // errno is put back, because the interrupted thread may be about to read
    // it.
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

/// Installs the handler for a signal.
fn install(signal: Signal) -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = hand_on;
    handle(signal.number(), handler as libc::sighandler_t)
}

/// Sets the handler of a signal, which must be async-signal-safe.
fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: a zeroed sigaction is valid memory, and every field that matters
    // is set; all handlers in this module are async-signal-safe.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, ptr::null_mut())
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handler of a signal; `None` if there is no such signal.
fn handler_of(signal: libc::c_int) -> Option<libc::sighandler_t> {
    // SAFETY: all-zero bytes are a valid sigaction, which is filled in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let failed = libc::sigaction(signal, ptr::null(), &raw mut action);
        (failed == 0).then_some(action.sa_sigaction)
    }
}

fn is_number_ignored(signal: libc::c_int) -> bool {
    handler_of(signal) == Some(libc::SIG_IGN)
}

impl Signals {
    /// Catches these signals from now on. They are not blocked, because
    /// children would inherit that; children receive them as usual.
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

    /// Blocks until one of the signals arrives.
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

    /// A descriptor that can be read when a signal has arrived.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Whether a signal has no effect: it is ignored, or its handler does nothing.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    let handler: extern "C" fn(libc::c_int) = nothing;
    let nothing = [libc::SIG_IGN, handler as libc::sighandler_t];
    handler_of(signal.number()).is_some_and(|of| nothing.contains(&of))
}

/// Makes a signal do nothing until it is caught. Children do not inherit that.
pub fn ignore(signal: Signal) {
    do_nothing_at(signal.number());
}

/// A handler that does nothing. It is used in place of SIG_IGN, which children
/// would inherit; a handler ends with exec(2).
extern "C" fn nothing(_: libc::c_int) {}

fn do_nothing_at(signal: libc::c_int) {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // It fails only for signals that do not exist.
    let _ = handle(signal, handler as libc::sighandler_t);
}

/// Signals that the caller may have this process ignore on purpose: nohup(1),
/// or a shell that runs it in the background.
const LEFT_TO_CALLER: [libc::c_int; 3] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// No signal has a higher number.
const SIGNALS_MAX: libc::c_int = 128;

/// Resets ignored signals to their default action, and unblocks all signals,
/// whatever this process was started with. Only [`LEFT_TO_CALLER`] stay ignored
/// if they were. SIGPIPE and SIGXFSZ do nothing, so that a write to a pipe
/// without a reader, or past the limit of file size, returns an error in place
/// of a signal.
///
/// # Errors
/// Those of sigprocmask(2).
pub fn start() -> io::Result<()> {
    for signal in 1..=SIGNALS_MAX {
        if is_number_ignored(signal) && !LEFT_TO_CALLER.contains(&signal) {
            let _ = handle(signal, libc::SIG_DFL);
        }
    }
    do_nothing_at(libc::SIGPIPE);
    do_nothing_at(libc::SIGXFSZ);
    // SAFETY: an emptied set is valid; the old one is not asked for.
    let failed = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// To be called after [`start`] by a process whose children must not inherit
/// ignored signals either: signals that the caller has it ignore do nothing
/// instead.
pub fn start_service() {
    let ignored = LEFT_TO_CALLER.into_iter().filter(|n| is_number_ignored(*n));
    ignored.for_each(do_nothing_at);
}

/// Stops this process and its group, as Ctrl-Z does, until they are continued.
/// The system does not stop them if no other process could continue them.
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
