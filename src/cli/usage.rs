//! The usage texts, one for each name of the program.

use super::Failure;

/// The usage text of vminfod.
pub const VMINFOD: &str = "\
usage: vminfod VERB [OPTION]...

VMs (list, lookup, get and json are as in vmadm(8)):
  list [-p] [-H] [-o FIELD,...] [-s FIELD,...] [FIELD=VALUE]...
                     a table of VMs
  lookup [-j] [-1] [-o FIELD,...] [FIELD=VALUE]...
                     the uuids of VMs; -j: the VMs, as JSON
  get|json UUID [--sync]
                     one VM, as JSON; --sync: load it from the system first
  events [-j] [-f] [-r] [--short] [--uuid NAME]... [--path PATH,...]...
         [--type TYPE,...]... [--since SEQ] [--retry SECS] [NAME]
                     changes of VMs as they happen; goes on when the daemon
                     has restarted; --short: as vmadm prints them
  wait NAME PROP=VALUE... | --gone [--since SEQ] [--timeout SECS]
         [-- COMMAND...]
                     run COMMAND, if given, and wait until the VM meets all
                     conditions (--gone: until it no longer exists); exit
                     status 3 if that takes longer than --timeout (60 s)
  top                a live view of VMs and events

The daemon:
  daemon [--root DIR] [--listen ADDR:PORT|none]... [--socket PATH]
         [--allow-remote] [--allow-host NAME]... [--refresh-interval SECS]
         [--command-timeout SECS] [--set NAME=VALUE]... [--settings FILE]
         [--log-level LEVEL] [--check]
                     serve the VMs of this host, or of the one below DIR;
                     --check: only check options and settings
  settings [FILE]    list all settings with defaults and meanings, or check
                     that FILE can be used with --settings
  ping               check that the daemon is up and has loaded every VM
  status [-j] [-f]   whether the daemon is healthy and, if not, what is wrong;
                     -j: as JSON
  diagnose [-j] [--root DIR]
                     compare what the daemon serves with the system; exit
                     status 1 if anything differs
  check [-jv] [--root DIR] [--against ADDR:PORT|SOCKET] [--scratch DIR]...
         [--set NAME=VALUE]... [--report FILE]
                     check that this machine is as vminfod expects and, with
                     --against, that a running daemon has the same VMs as the
                     system. Changes nothing. Exit status 1 if anything differs
  compare [-j] [--for SECS] [--settle SECS] A B
                     compare the VMs and events of two daemons until
                     interrupted, or for --for seconds; exit status as check
  vms, vm NAME       all VMs, or one, as the daemon has them
  dump [--root DIR]  load all VMs from the system and print them, without a
                     daemon

  help, --version

All verbs except daemon, settings, dump, check and compare ask a daemon. Its
address is --server ADDR:PORT, or the path of its socket, else the variable
VMINFOD_SERVER, else 127.0.0.1:9090. An answer may take --time-limit SECS (30).
See vminfod(8), vminfo(8) and vminfod-http(7).
";

/// The usage text of vminfo.
pub const VMINFO: &str = "\
usage: vminfo VERB [OPTION]...

  ping               check that the daemon is up and has loaded every VM
  status [-j] [-f]   whether the daemon is healthy and, if not, what is wrong;
                     -j: as JSON
  vms, vm NAME       all VMs, or one, as JSON
  events [-j] [-f] [-r] [NAME]
                     changes of VMs as they happen
  help, --version

The address of the daemon is --server ADDR:PORT, else the variable
VMINFOD_SERVER, else 127.0.0.1:9090. See vminfo(8) and vminfod(8).
";

/// The usage text of vmadm.
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

/// The failure of a wrong vmadm command line: `message`, then the usage text.
pub fn of_vmadm(message: &str) -> Failure {
    let end = if message.is_empty() { "" } else { "\n" };
    Failure::Said { message: format!("{message}{end}{VMADM}"), status: 2 }
}
