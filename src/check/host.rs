//! Which user the daemon would run as, and on what machine.

use super::commands::answered;
use super::{Check, Fact, Findings, Obstacle, given};
use crate::daemon::OWN_DESCRIPTORS;
use crate::load::command::Run;
use crate::load::files::{self, FilePlace};
use crate::load::index::{IndexPiece, lines_of};

/// How many files the daemon watches for each zone.
const WATCHES_PER_ZONE: u64 = 5;

pub(super) static FACTS: [Fact; 8] = [
    Fact {
        id: "host.root",
        why: "only root can read the files of every VM",
        expected: "id says uid=0",
        harm: "VMs lack what their files say, and commands fail",
    },
    Fact {
        id: "host.global-zone",
        why: "every VM can be seen only from the global zone",
        expected: "zonename says global",
        harm: "there are no VMs to serve",
    },
    Fact {
        id: "host.platform",
        why: "commands, files and events are those of SmartOS",
        expected: "uname says SunOS and a joyent_ build stamp",
        harm: "anything may go wrong: vminfod is made for SmartOS only",
    },
    Fact {
        id: "host.build-stamp",
        why: "every VM object has the platform's build stamp, which comes from \
            sysinfo",
        expected: "Live Image in sysinfo is the build stamp that uname prints",
        harm: "platform_buildstamp of every VM is that of another platform",
    },
    Fact {
        id: "host.sysinfo",
        why: "every VM object has values about its server, which come from \
            sysinfo",
        expected: "the sysinfo file has UUID and Live Image as strings; \
            Datacenter Name and Headnode ID, if present, are neither arrays \
            nor objects",
        harm: "every VM object lacks server_uuid or platform_buildstamp",
    },
    Fact {
        id: "host.privileges",
        why: "sysevent, zoneadm, zfs and the files of zones need them",
        expected: "ppriv says that all privileges are in effect",
        harm: "commands fail that work for a user with all privileges",
    },
    Fact {
        id: "host.port-events",
        why: "the number of files that an event port can watch is limited",
        expected: "process.max-port-events allows five for each zone",
        harm: "files beyond the limit are not watched but checked every \
            second; raise config/file_watches",
    },
    Fact {
        id: "host.descriptors",
        why: "each connection needs a descriptor",
        expected: "process.max-file-descriptor allows what `connections` \
            says, and 128 for commands and files",
        harm: "fewer clients are served at once",
    },
];

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [root, zone, platform, stamp, sysinfo, privileges, ports, files] =
        &FACTS;
    let mut say = |fact, program, args: &[&str], is_so: fn(&str) -> bool| {
        let path = check.settings.paths.user_command(program);
        let run = Run::new(path, args);
        match check.ask(program, &run) {
            Ok(output) => {
                let is_so = output.exit == Some(0) && is_so(&output.stdout);
                findings.expect(fact, is_so, program, answered(&output));
            }
            Err(why) => findings.untried(fact, why),
        }
    };
    say(root, "id", &[], |said| said.starts_with("uid=0("));
    say(zone, "zonename", &[], |said| said.trim_end() == "global");
    let pid = std::process::id().to_string();
    say(privileges, "ppriv", &[&pid], |said| {
        said.lines().any(|line| line.trim() == "E: all")
    });
    let name = look_at_platform(check, findings, platform);
    look_at_sysinfo(check, findings, sysinfo, stamp, name.as_deref());
    let watches = zone_count(check).map(|zones| zones * WATCHES_PER_ZONE);
    let descriptors = check.settings.http.connections as u64 + OWN_DESCRIPTORS;
    for (fact, name, least) in [
        (ports, "process.max-port-events", watches),
        (files, "process.max-file-descriptor", Ok(descriptors)),
    ] {
        let least = match least {
            Ok(least) => least,
            Err(why) => {
                findings.untried(fact, why);
                continue;
            }
        };
        let path = check.settings.paths.user_command("prctl");
        let run = Run::new(path, &["-P", "-n", name, &pid]);
        match check.ask("prctl", &run) {
            Err(why) => findings.untried(fact, why),
            Ok(output) => match limit_of(name, &output.stdout) {
                Some(limit) => {
                    let seen = format!("{limit} are allowed, {least} needed");
                    findings.expect(fact, limit >= least, name, seen);
                }
                None => {
                    let why = format!("prctl: {}", answered(&output));
                    findings.untried(fact, why);
                }
            },
        }
    }
    Ok(())
}

/// Returns what uname says. It names the platform, which readers of any report
/// must know.
fn look_at_platform(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
) -> Option<String> {
    let path = check.settings.paths.user_command("uname");
    match check.ask("uname", &Run::new(path, &["-srv"])) {
        Err(why) => {
            findings.untried(fact, why);
            None
        }
        Ok(output) => {
            let said = output.stdout.trim_end().to_string();
            let is_smartos =
                said.starts_with("SunOS ") && build_stamp(&said).is_some();
            findings.expect(fact, is_smartos, "uname", format!("{said:?}"));
            Some(said)
        }
    }
}

/// `SunOS 5.11 joyent_20260101T000000Z`
fn build_stamp(uname: &str) -> Option<&str> {
    let version = uname.split_whitespace().nth(2)?;
    version.strip_prefix("joyent_")
}

fn look_at_sysinfo(
    check: &Check,
    findings: &mut Findings,
    sysinfo: &'static Fact,
    stamp: &'static Fact,
    uname: Option<&str>,
) {
    let path = check.settings.paths.sysinfo();
    let place = FilePlace::At(&path);
    let json = match files::read_json(place, check.settings.load.json_bytes) {
        Ok(json) => json.value,
        Err(why) => {
            findings.expect(sysinfo, false, "the file", given(&why));
            findings.untried(stamp, given(&why));
            return;
        }
    };
    let text = |key: &str| json.get(key).and_then(|value| value.as_str());
    let is_right = |key: &str| match key {
        "UUID" | "Live Image" => text(key).is_some(),
        // A server that is in no datacenter has neither of them.
        _ => json.get(key).is_none_or(|value| {
            value.as_object().is_none() && value.as_array().is_none()
        }),
    };
    let keys = files::SYSINFO_MEMBERS.map(|(_, key)| key);
    let wrong: Vec<_> = keys.into_iter().filter(|k| !is_right(k)).collect();
    let lacking = keys.into_iter().filter(|key| json.get(key).is_none());
    let lacking: Vec<_> = lacking.collect();
    let seen = match (wrong.is_empty(), lacking.is_empty()) {
        (false, _) => {
            format!("missing or of the wrong type: {}", wrong.join(", "))
        }
        (true, false) => format!("it lacks {} (allowed)", lacking.join(", ")),
        (true, true) => "it has all keys".to_string(),
    };
    findings.expect(sysinfo, wrong.is_empty(), "the file", seen);
    let stamps = (text("Live Image"), uname.and_then(build_stamp));
    match stamps {
        (Some(image), Some(running)) => {
            let seen = format!("sysinfo has {image:?}, uname {running:?}");
            findings.expect(stamp, image == running, "the stamps", seen);
        }
        _ => findings.untried(stamp, "sysinfo or uname gives no build stamp"),
    }
}

/// How many zones have a line in the index.
///
/// # Errors
/// If the index can't be read: that is not an index without zones.
fn zone_count(check: &Check) -> Result<u64, Obstacle> {
    let text = super::xml::read_index(check)?;
    let is_zone = |line: &IndexPiece<'_>| matches!(line, IndexPiece::Zone(..));
    Ok(lines_of(&text).filter(is_zone).count() as u64)
}

/// The lowest privileged or system limit of a resource control, from the output
/// of `prctl -P`:
///
/// ```text
/// process: 3053: vminfod check
/// process.max-port-events privileged 65536 - deny -
/// process.max-port-events system 2147483647 max deny -
/// ```
///
/// A basic limit does not count: the process itself may raise it.
fn limit_of(name: &str, text: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [own, "privileged" | "system", value, ..] if own == name => {
                value.parse::<u64>().ok()
            }
            _ => None,
        }
    });
    values.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_that_is_not_basic_counts() {
        let text = "process: 7: vminfod check\n\
            process.max-file-descriptor basic 256 - deny 7\n\
            process.max-file-descriptor privileged 65536 - deny -\n\
            process.max-file-descriptor system 2147483647 max deny -\n";
        let name = "process.max-file-descriptor";
        assert_eq!(limit_of(name, text), Some(65_536));
        assert_eq!(limit_of("process.max-port-events", text), None);
        assert_eq!(limit_of(name, ""), None);
    }
}
