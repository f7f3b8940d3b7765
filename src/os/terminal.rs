//! The terminal: its size, and keys as they are pressed.

use std::io::{self, Read, Stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Width and height of the terminal at a descriptor, in cells; `None` if it is
/// not a terminal, or its size is unknown.
#[must_use]
pub fn size(fd: &impl AsFd) -> Option<(usize, usize)> {
    // SAFETY: all-zero bytes are a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes a winsize, and `size` is valid for that.
    let failed = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    let known = failed == 0 && size.ws_col > 0 && size.ws_row > 0;
    known.then_some((size.ws_col.into(), size.ws_row.into()))
}

/// A terminal that passes on each key at once, and echoes none. When this is
/// dropped, the terminal is as it was before.
pub struct RawMode {
    stdin: Stdin,
    before: libc::termios,
}

impl RawMode {
    /// Changes the mode of standard input, which must be a terminal.
    ///
    /// # Errors
    /// Those of tcgetattr(3) and tcsetattr(3).
    pub fn begin() -> io::Result<Self> {
        let stdin = io::stdin();
        let fd = stdin.as_raw_fd();
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills `before`, if it succeeds.
        if unsafe { libc::tcgetattr(fd, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it has succeeded.
        let before = unsafe { before.assume_init() };
        let mode = Self { stdin, before };
        mode.begin_again()?;
        Ok(mode)
    }

    /// Changes the mode again, after [`RawMode::restore`], or after another
    /// process has used the terminal.
    ///
    /// # Errors
    /// Those of tcsetattr(3).
    pub fn begin_again(&self) -> io::Result<()> {
        let mut raw = self.before;
        // Output does not change: lines still begin at the left.
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        raw.c_iflag &= !(libc::IXON | libc::ICRNL);
        // A read returns at once, with the keys that were pressed.
        raw.c_cc[libc::VMIN] = 0;
        raw.c_cc[libc::VTIME] = 0;
        let fd = self.stdin.as_raw_fd();
        // SAFETY: `raw` is valid for the call.
        match unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Restores the mode that the terminal had before, without waiting for
    /// output.
    pub fn restore(&self) {
        let fd = self.stdin.as_raw_fd();
        // SAFETY: `before` is what tcgetattr gave.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const self.before) };
    }

    /// The keys that were pressed, which may be none.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read(&self) -> io::Result<Vec<u8>> {
        // As large as std's own buffer, so that std keeps nothing back.
        let mut bytes = [0; 8 << 10];
        let n = self.stdin.lock().read(&mut bytes)?;
        Ok(bytes[..n].to_vec())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore();
    }
}
