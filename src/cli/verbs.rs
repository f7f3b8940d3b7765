//! Which verbs each name of the program has, and the usage that lists them.

use super::verb::{Program, Verb};
use super::{COMPLETE, PING, VM, VMS};
use super::{
    check, compare, daemon, diagnose, events, schema, status, top, vmadm, wait,
};

/// The verbs about VMs.
const OF_VMS: [&Verb; 6] = {
    let [list, lookup, get, events] = vmadm::VERBS;
    [list, lookup, get, events, &wait::VERB, &top::VERB]
};

/// The verbs about the daemon.
const OF_DAEMON: [&Verb; 11] = [
    &daemon::DAEMON,
    &daemon::SETTINGS,
    &PING,
    &status::VERB,
    &diagnose::VERB,
    &check::VERB,
    &compare::VERB,
    &VMS,
    &VM,
    &daemon::DUMP,
    &schema::VERB,
];

/// The verbs of today's client tool.
const OF_VMINFO: [&Verb; 5] = [&PING, &status::VERB, &VMS, &VM, &events::VERB];

/// The verbs that a program has.
#[must_use]
pub fn of(program: Program) -> Vec<&'static Verb> {
    match program {
        Program::Vminfod => [&OF_VMS[..], &OF_DAEMON, &[&COMPLETE]].concat(),
        Program::Vminfo => [&OF_VMINFO[..], &[&COMPLETE]].concat(),
        Program::Vmadm => vmadm::VERBS.to_vec(),
    }
}

fn lines(verbs: &[&Verb]) -> String {
    verbs.iter().map(|verb| verb.line()).collect()
}

/// The usage text of a program.
#[must_use]
pub fn usage(program: Program) -> String {
    let name = program.name();
    let begin = format!("usage: {name} VERB [OPTION]... [ARGUMENT]...\n\n");
    let end = format!(
        "  help [VERB], --version\n\n'{name} VERB --help' shows the options of \
         a verb. "
    );
    match program {
        Program::Vminfod => format!(
            "{begin}VMs (list, lookup, get and json are as in vmadm(8)):\n{}\n\
             The daemon:\n{}\n{end}See vminfod(8)\nand vminfod-http(7).\n",
            lines(&OF_VMS),
            lines(&OF_DAEMON)
        ),
        Program::Vminfo => {
            format!(
                "{begin}{}{end}See vminfo(8)\nand vminfod(8).\n",
                lines(&OF_VMINFO)
            )
        }
        Program::Vmadm => super::usage::VMADM.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vminfod_client::{Address, TIME_LIMIT};

    #[test]
    fn every_verb_and_option_has_a_meaning() {
        for verb in of(Program::Vminfod) {
            for text in [verb.about, verb.status, verb.examples[1].1] {
                assert!(text.len() > 5, "{:?}", verb.names);
            }
            for option in verb.all_options() {
                assert!(option.meaning.len() > 5, "{option:?}");
            }
        }
    }

    #[test]
    fn the_help_has_the_defaults() {
        let seconds =
            |time: std::time::Duration| format!("({})", time.as_secs());
        for (verb, option, default) in [
            ("compare", "settle", seconds(compare::SETTLE)),
            ("wait", "timeout", seconds(wait::TIME)),
            ("get", "timeout", seconds(vmadm::SYNC_TIME)),
            ("events", "time-limit", seconds(TIME_LIMIT)),
            ("events", "server", Address::DEFAULT.to_string()),
            ("daemon", "listen", Address::DEFAULT.to_string()),
        ] {
            let verb = super::super::verb::find(&of(Program::Vminfod), verb);
            let mut options = verb.unwrap().all_options();
            let found = options.find(|o| o.long.contains(&option)).unwrap();
            assert!(found.meaning.contains(&default), "{option}: {default}");
        }
    }
}
