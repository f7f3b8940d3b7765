//! Reads from and writes to a socket that does not block.

use std::io;

/// What a read or a write has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// It has moved this many bytes, at least one.
    Bytes(usize),
    /// The other side has closed the connection.
    End,
    /// The socket has nothing to read, or takes nothing, for now.
    NotYet,
}

/// Reads or writes once; tries again if a signal interrupts that.
///
/// # Errors
/// Whatever else makes the call fail.
pub fn transfer(
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<Transfer> {
    loop {
        match call() {
            Ok(0) => return Ok(Transfer::End),
            Ok(n) => return Ok(Transfer::Bytes(n)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Transfer::NotYet);
            }
            Err(e) => return Err(e),
        }
    }
}
