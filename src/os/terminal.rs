//! The terminal: its size, and keys as they are pressed.

use std::io::{self, Read, Stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Width and height of the terminal at a descriptor, in cells; `None` if it
/// is no terminal, or does not know.
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

/// A terminal that gives each key at once, and shows none; as it was before
/// when this is dropped.
pub struct RawMode {
    stdin: Stdin,
    before: libc::termios,
}

impl RawMode {
    /// Takes standard input, which has to be a terminal.
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

    /// Takes the terminal again, after [`RawMode::restore`], or after somebody
    /// else had it.
    ///
    /// # Errors
    /// Those of tcsetattr(3).
    pub fn begin_again(&self) -> io::Result<()> {
        let mut raw = self.before;
        // Of output nothing is changed: lines still begin at the left.
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        raw.c_iflag &= !(libc::IXON | libc::ICRNL);
        // A read returns what there is.
        raw.c_cc[libc::VMIN] = 0;
        raw.c_cc[libc::VTIME] = 0;
        let fd = self.stdin.as_raw_fd();
        // SAFETY: `raw` is valid for the call.
        match unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the terminal as it was before, whatever waits to be written.
    pub fn restore(&self) {
        let fd = self.stdin.as_raw_fd();
        // SAFETY: `before` is what tcgetattr gave.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const self.before) };
    }

    /// What was pressed, which may be nothing.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read(&self) -> io::Result<Vec<u8>> {
        // As large as std's own buffer, which then keeps nothing back.
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
