//! Threads that the daemon can't do without: if one panics, so does the whole.

use std::io;
use std::thread::JoinHandle;

use crate::os;

/// Starts a thread whose panic ends the process: SMF starts a new one, which
/// knows what is true.
///
/// # Errors
/// Those of starting a thread.
pub fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let owned = name.to_string();
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let body = std::panic::AssertUnwindSafe(body);
        if let Err(panic) = std::panic::catch_unwind(body) {
            let what = panic_text(panic.as_ref());
            log::error!("{owned}: panic: {what}; ending, to be started again");
            log::logger().flush();
            exit(EXIT_PANIC);
        }
    })
}

/// Ends the process at once, and its children with it.
pub fn exit(status: i32) -> ! {
    os::process::kill_all();
    os::exit_now(status);
}

/// The exit status after a panic: EX_SOFTWARE of sysexits(3HEAD).
pub const EXIT_PANIC: i32 = 70;

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_string())
}
