//! The usage text of vmadm.

use super::{EXIT_USAGE, Failure};

/// The text.
pub const VMADM: &str = "\
usage: vmadm COMMAND [OPTION]... [ARGUMENT]...

  list [-p] [-H] [-o FIELD,...] [-s FIELD,...] [FIELD=VALUE]...
  lookup [-j] [-1] [-o FIELD,...] [FIELD=VALUE]...
  get|json UUID [--sync [--timeout SECS]]
  events [-f] [-j] [-r] [UUID]
  help

VALUE is the text that FIELD must equal, or ~ and a regular expression that it
must match. These commands are vminfod's, and only read: see vminfod(8).
";

/// The failure of a wrong command line: `message`, then a usage text.
pub fn wrong(message: &str, usage: &str) -> Failure {
    let end = if message.is_empty() { "" } else { "\n" };
    let message = format!("{message}{end}{usage}");
    Failure::Said { message, status: EXIT_USAGE }
}

/// The failure of a wrong vmadm command line.
pub fn of_vmadm(message: &str) -> Failure {
    wrong(message, VMADM)
}
