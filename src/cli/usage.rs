//! The usage texts, one for each name of the program.

use super::Failure;

/// The usage text of vminfod.
pub const VMINFOD: &str = "\
usage: vminfod VERB [OPTION]...

VMs, as vmadm(8) has them:
  list [-p] [-H] [-o FIELD,...] [-s FIELD,...] [FIELD=VALUE]...
                     a table of VMs
  lookup [-j] [-1] [-o FIELD,...] [FIELD=VALUE]...
                     the uuids of VMs; -j: the VMs, as JSON
  get|json UUID [--sync]
                     one VM, as JSON; --sync: as the system is right now
  events [-j] [-f] [-r] [--uuid NAME]... [--path PATH,...]...
         [--type TYPE,...]... [--since SEQ] [--retry SECS] [NAME]
                     what happens to VMs, as it happens, across restarts of
                     the daemon
  wait NAME PROP=VALUE... | --gone [--since SEQ] [--timeout SECS]
         [-- COMMAND...]
                     until a VM is so, after COMMAND if there is one; exit
                     status 3 if it is not in 60 seconds
  top                a live view of VMs and events

The daemon:
  daemon [--root DIR] [--listen ADDR:PORT|none]... [--socket PATH]
         [--allow-remote] [--allow-host NAME]... [--refresh-interval SECS]
         [--command-timeout SECS] [--set NAME=VALUE]... [--settings FILE]
         [--log-level LEVEL] [--check]
                     serve the VMs of this host, or of the one below DIR;
                     --check: could it be started so?
  settings [FILE]    what --set can set, with defaults and meanings; or, can
                     FILE be used with --settings?
  ping               is it up, and has it loaded every VM?
  status [-j] [-f]   is it healthy, and if not, what is wrong; -j: as JSON
  diagnose [-j] [--root DIR]
                     what it has otherwise than the system; exit status 1 if
                     there is anything
  check [-jv] [--root DIR] [--against ADDR:PORT|SOCKET] [--scratch DIR]...
         [--set NAME=VALUE]... [--report FILE]
                     is this machine as vminfod expects, and are the VMs of
                     the daemon that runs there the same? It changes nothing.
                     Exit status 1 if something differs
  compare [-j] [--for SECS] [--settle SECS] A B
                     do two daemons have the same VMs, and report the same
                     changes, until that is interrupted? Exit status as check
  vms, vm NAME       all VMs, or one, as the daemon has them
  dump [--root DIR]  all VMs, without a daemon

  help, --version

All but daemon, settings, dump, check and compare ask the daemon at --server ADDR:PORT or at
a socket's path, else at that of the variable VMINFOD_SERVER, else at
127.0.0.1:9090; an answer may take --time-limit SECS (30).
See vminfod(8), vminfo(8) and vminfod-http(7).
";

/// The usage text of vminfo.
pub const VMINFO: &str = "\
usage: vminfo VERB [OPTION]...

  ping               is the daemon up, and has it loaded every VM?
  status [-j] [-f]   how it is; -j: as JSON
  vms, vm NAME       all VMs, or one, as JSON
  events [-j] [-f] [-r] [NAME]
                     what happens to VMs, as it happens
  help, --version

The daemon is asked at --server ADDR:PORT, else at that of the variable
VMINFOD_SERVER, else at 127.0.0.1:9090. See vminfo(8) and vminfod(8).
";

/// The usage text of vmadm.
pub const VMADM: &str = "\
usage: vmadm COMMAND [OPTION]... [ARGUMENT]...

  list [-p] [-H] [-o FIELD,...] [-s FIELD,...] [FIELD=VALUE]...
  lookup [-j] [-1] [-o FIELD,...] [FIELD=VALUE]...
  get|json UUID [--sync [--timeout SECS]]
  events [-f] [-j] [-r] [UUID]
  help

VALUE is a text, or ~ and a regular expression. These commands are vminfod's,
and read only: see vminfod(8).
";

/// The failure of a wrong vmadm command line: `message`, then the usage text.
pub fn of_vmadm(message: &str) -> Failure {
    let end = if message.is_empty() { "" } else { "\n" };
    Failure::Said { message: format!("{message}{end}{VMADM}"), status: 2 }
}
