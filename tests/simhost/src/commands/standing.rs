//! id(1), zonename(1), uname(1), ppriv(1) and prctl(1): they say that a process
//! is root in the global zone, with all privileges.

use super::failed;
use crate::hurt::Answer;

/// The build stamp of the platform that is laid out.
pub const STAMP: &str = "20260101T000000Z";

/// Runs one of these commands.
#[must_use]
pub fn run(command: &str, args: &[&str]) -> Answer {
    let output = match (command, args) {
        ("id", []) => "uid=0(root) gid=0(root)\n".to_string(),
        ("zonename", []) => "global\n".to_string(),
        ("uname", ["-srv"]) => format!("SunOS 5.11 joyent_{STAMP}\n"),
        ("ppriv", [pid]) => format!(
            "{pid}:\tvminfod check\nflags = <none>\n\tE: all\n\tI: basic\n\
             \tP: all\n\tL: all\n"
        ),
        ("prctl", ["-P", "-n", name, pid]) => {
            // A basic limit names the process for which it was asked.
            let basic = match *name {
                "process.max-file-descriptor" => {
                    format!("{name} basic 256 - deny {pid}\n")
                }
                _ => String::new(),
            };
            format!(
                "process: {pid}: vminfod check\n{basic}\
                 {name} privileged 65536 - deny -\n\
                 {name} system 2147483647 max deny -\n"
            )
        }
        _ => return failed(format!("usage: {command}\n"), 2),
    };
    Answer { output, ..Answer::default() }
}
