//! A way to break each fact: the check must find that fact, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::*;

/// The shared object to load before the C library: see `deaf.c`.
pub fn deaf() -> &'static Path {
    static OBJECT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, object) = OBJECT.get_or_init(|| {
        let dir = TempDir::new();
        let object = dir.0.join("deaf.so");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/check/deaf.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .args([&object, &source])
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(built.success());
        (dir, object)
    });
    object
}

/// A way to make one fact differ.
struct Case {
    fact: &'static str,
    break_it: Break,
}

enum Break {
    /// A command is replaced by a script.
    Script(&'static str, String),
    /// Something is done to the host.
    Host(fn(&TestHost)),
    /// Something is done to the host, and the check gets more arguments.
    With(&'static [&'static str], fn(&TestHost)),
    /// A system call does not do what it should: see `deaf.c`.
    Deaf(&'static str),
}

fn script(fact: &'static str, command: &'static str, text: &str) -> Case {
    Case { fact, break_it: Break::Script(command, text.to_string()) }
}

fn host(fact: &'static str, act: fn(&TestHost)) -> Case {
    Case { fact, break_it: Break::Host(act) }
}

/// A way to break every fact, except those of `against`.
fn cases() -> Vec<Case> {
    let all = "list -p -c";
    let zoneadm = |fact, words: &str, then: &str| {
        script(fact, "zoneadm", &when(words, then))
    };
    let zfs =
        |fact, words: &str, then: &str| script(fact, "zfs", &when(words, then));
    let kstat = |fact, text: &str| script(fact, "kstat", text);
    let mut cases = vec![
        script("host.root", "id", "echo 'uid=100(op) gid=1(other)'"),
        script("host.global-zone", "zonename", "echo web01"),
        script(
            "host.platform",
            "uname",
            "echo Linux 6.1 joyent_20260101T000000Z",
        ),
        script(
            "host.build-stamp",
            "uname",
            "echo SunOS 5.11 joyent_20250101T000000Z",
        ),
        host("host.sysinfo", |host| {
            edit(&host.path("/tmp/.sysinfo.json"), |text| {
                text.replace("\"UUID\"", "\"Other\"")
            });
        }),
        script(
            "host.privileges",
            "ppriv",
            "$real \"$@\" | sed 's/E: all/E: basic/'",
        ),
        script(
            "host.port-events",
            "prctl",
            &when("port-events", "$real \"$@\" | sed 's/ 65536 / 20 /'"),
        ),
        script(
            "host.descriptors",
            "prctl",
            &when("file-descriptor", "$real \"$@\" | sed 's/ 65536 / 256 /'"),
        ),
        zoneadm("zoneadm.list", all, "$real \"$@\"; echo odd >&2"),
        zoneadm("zoneadm.global", all, "$real \"$@\" | grep -v :global:"),
        script(
            "zoneadm.fields",
            "zoneadm",
            "$real \"$@\" | sed 's/:running:/:jogging:/; s/:jogging:\\/:/:running:\\/:/'",
        ),
        Case {
            fact: "zoneadm.escaping",
            break_it: Break::With(&[], |host| {
                let (name, _) = stopped(host);
                host.move_zone(&name, "/zones/a:b").unwrap();
                let then = "$real \"$@\" | sed 's/a\\\\:b/a%b/'";
                replace(host, "zoneadm", &when("list", then));
            }),
        },
        zoneadm("zoneadm.order", all, "$real \"$@\" | sort -r"),
        zoneadm(
            "zoneadm.index",
            all,
            "$real \"$@\" | sed 's/:joyent:excl/:native:excl/'",
        ),
        zoneadm("zoneadm.by-name", "-z ", "$real \"$@\" && $real \"$@\""),
        zoneadm(
            "zoneadm.columns",
            "-z ",
            "$real \"$@\" | sed 's#:/zones/#:/other/#'",
        ),
        host("zoneadm.dtd", |host| {
            let (name, _) = stopped(host);
            let then = format!(
                "echo \"zoneadm: {name}: No such zone configured\" >&2; exit 1"
            );
            replace(host, "zoneadm", &when(&format!("-z {name}"), &then));
        }),
        zoneadm(
            "zoneadm.unknown",
            "no-such-zone",
            "echo 'zoneadm: there is no such zone' >&2; exit 1",
        ),
        host("files.index", |host| {
            edit_index(host, |text| text.replace("global:", "#global:"));
            // The zoneadm of a platform that does not read the index.
            let then = "echo '0:global:running:/::liveimg:shared:0'; \
                exec $real \"$@\"";
            replace(host, "zoneadm", &when("list -p -c", then));
        }),
        host("files.index-lines", |host| {
            edit_index(host, |text| text + "rubbish\n");
        }),
        host("files.xml", |host| {
            let (_, xml) = stopped(host);
            edit(&xml, |text| text[..text.len() / 2].to_string());
        }),
        host("files.xml-valid", |host| {
            let (_, xml) = stopped(host);
            let attr = "<attr name=\"billing-id\" value=\"x\"/></zone>";
            edit(&xml, |text| text.replace("</zone>", attr));
        }),
        host("files.xml-known", |host| {
            let (_, xml) = stopped(host);
            let attr =
                "<attr name=\"novelty\" type=\"string\" value=\"x\"/></zone>";
            edit(&xml, |text| text.replace("</zone>", attr));
        }),
        host("files.xml-agrees", |host| {
            let (_, xml) = stopped(host);
            edit(&xml, |text| {
                text.replace("zonepath=\"/zones/", "zonepath=\"/other/")
            });
        }),
        host("files.directory", |host| {
            let config = config_file(host, "");
            let config = config.parent().unwrap().join("config");
            let away = config.with_file_name("away");
            fs::rename(&config, &away).unwrap();
            symlink(&away, &config).unwrap();
        }),
        host("files.lastexited", |host| {
            let (name, _) = stopped(host);
            let path = host.zone_dir(&name).unwrap().join("lastexited");
            fs::write(path, "rubbish\n").unwrap();
        }),
        host("files.metadata", |host| {
            let text = "{\"customer_metadata\":[]}";
            fs::write(config_file(host, "metadata.json"), text).unwrap();
        }),
        host("files.tags", |host| {
            fs::write(config_file(host, "tags.json"), "[1]").unwrap();
        }),
        host("files.routes", |host| {
            fs::write(config_file(host, "routes.json"), "{").unwrap();
        }),
        zfs(
            "zfs.columns",
            "volblocksize",
            "echo \"bad property list: invalid 'volblocksize'\" >&2; exit 2",
        ),
        zfs(
            "zfs.list",
            "-d 2",
            "$real \"$@\"; echo 'cannot iterate filesystems: I/O error' >&2",
        ),
        zfs("zfs.fields", "-d 2", "$real \"$@\"; echo rubbish"),
        zfs("zfs.order", "-d 2", "$real \"$@\" | tac"),
        script(
            "zfs.numbers",
            "zfs",
            "$real \"$@\" | sed 's/\\t26843545600\\t/\\t25G\\t/'",
        ),
        zfs("zfs.pools", "-o name", "$real \"$@\" | grep -v cores/"),
        zfs(
            "zfs.missing",
            "no-such-dataset",
            "$real \"$@\" 2>/dev/null; echo 'cannot open it' >&2; exit 1",
        ),
        zfs("zfs.depth", "-d 1", "$real \"$@\" | head -n 1"),
        host("zfs.datasets", |host| {
            let (name, _) = stopped(host);
            let own = format!("zones/{name}");
            host.zfs_set(&own, "mountpoint", "/elsewhere").unwrap();
        }),
        kstat(
            "kstat.filters",
            "$real \"$@\"; printf 'zones:0:global:nsec_user\\t5\\n'",
        ),
        kstat(
            "kstat.global",
            "case \"$*\" in *' -i '*) exec $real \"$@\" ;; esac
             $real \"$@\" | grep -v :global:",
        ),
        host("kstat.running", |host| {
            // The last running zone: the check asks for the first one by its
            // id.
            let dumped = host.dumped();
            let vms = dumped.as_array().unwrap().iter();
            let mut running =
                vms.filter(|vm| text(vm, "zone_state") == "running");
            let name = text(running.next_back().unwrap(), "zonename");
            let script = format!("$real \"$@\" | grep -v {}", &name[..30]);
            replace(host, "kstat", &script);
        }),
        kstat(
            "kstat.one",
            "$real -p -m zones -c zone_misc -s \
             '/^(zonename|boot_time|init_pid|init_restarts)$/'",
        ),
        host("sysevent.zones", |host| {
            host.hurt("sysevent-zone-start", "fail no").unwrap();
        }),
        host("sysevent.zfs", |host| {
            host.hurt("sysevent-zfs-start", "fail no").unwrap();
        }),
        script(
            "sysevent.no-channel",
            "sysevent",
            &when("vminfod:none", "exit 0"),
        ),
        host("load.whole", |host| {
            let names = host.zonenames().unwrap();
            host.set_uuid(&names[1], &names[0]).unwrap();
        }),
        Case {
            fact: "load.commands",
            break_it: Break::With(&["--set", "command-time=6"], |host| {
                host.hurt("kstat", "slow 3200").unwrap();
            }),
        },
        Case {
            fact: "load.start",
            break_it: Break::With(&["--set", "list-time=1"], |host| {
                host.hurt("zoneadm", "slow 600").unwrap();
            }),
        },
    ];
    cases.extend(
        [
            ("ports.create", "create"),
            ("ports.write", "write"),
            ("ports.truncate", "truncate"),
            ("ports.chmod", "chmod"),
            ("ports.rename-over", "rename-over"),
            ("ports.rename-away", "rename-away"),
            ("ports.unlink", "unlink"),
            ("ports.directory", "directory"),
            ("ports.mount-point", "mount-point"),
        ]
        .map(|(fact, what)| Case { fact, break_it: Break::Deaf(what) }),
    );
    cases
}

/// The facts that cannot be tried if this one differs.
fn follows(fact: &str) -> &'static [&'static str] {
    match fact {
        // A listing without the global zone is not accepted.
        "zoneadm.global" => {
            &["kstat.running", "load.commands", "load.start", "load.whole"]
        }
        "zfs.columns" => &[
            "zfs.datasets",
            "zfs.depth",
            "zfs.fields",
            "zfs.list",
            "zfs.missing",
            "zfs.numbers",
            "zfs.order",
            "zfs.pools",
        ],
        _ => &[],
    }
}

/// The facts that differ, too, if this one does.
fn differs_too(fact: &str) -> &'static [&'static str] {
    match fact {
        // The listing then has another zonepath than the index.
        "zoneadm.escaping" => &["zoneadm.index"],
        _ => &[],
    }
}

/// How many cases are tried at once: a check mostly waits.
const AT_ONCE: usize = 16;

#[test]
fn each_broken_fact_is_found_and_no_other() {
    let cases = Mutex::new(cases());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let case = cases.lock().unwrap().pop();
                    let Some(case) = case else { break };
                    if let Err(what) = try_case(&case) {
                        wrong.lock().unwrap().push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn try_case(case: &Case) -> Result<(), String> {
    let Case { fact, break_it } = case;
    let host = TestHost::with_vms(8);
    let output = match break_it {
        Break::Script(command, script) => {
            replace(&host, command, script);
            check(&host, &["-j"])
        }
        Break::Host(act) => {
            act(&host);
            check(&host, &["-j"])
        }
        Break::With(args, act) => {
            act(&host);
            check(&host, &[&["-j"], *args].concat())
        }
        Break::Deaf(what) => {
            let mut only_use = None;
            let dir = match *what {
                "mount-point" => {
                    only_use = Some(MOUNT_POINT_USE.lock().unwrap());
                    Path::new(MOUNT_POINT).to_path_buf()
                }
                _ => host.path("/scratch"),
            };
            fs::create_dir_all(&dir).unwrap();
            let dir = dir.to_str().unwrap();
            let mut command = command(&host, &["-j", "--scratch", dir]);
            command.env("LD_PRELOAD", deaf()).env("DEAF", what);
            let output = command.output().unwrap();
            drop(only_use);
            output
        }
    };
    let found = verdicts(&output);
    let owned = |facts: &[&str]| -> BTreeSet<String> {
        facts.iter().map(ToString::to_string).collect()
    };
    let wanted = owned(&[&[*fact], differs_too(fact)].concat());
    let follows = owned(follows(fact));
    match found.differs == wanted
        && found.untried == follows
        && output.status.code() == Some(1)
    {
        true => Ok(()),
        false => Err(format!("{fact}: {found:?}: {}", shown(&output))),
    }
}

#[test]
fn every_fact_has_a_case_that_breaks_it() {
    let ids = vminfod::check::fact_ids();
    let broken: BTreeSet<_> = cases().iter().map(|case| case.fact).collect();
    let left = ids.into_iter().filter(|id| !broken.contains(id));
    // These two have tests of their own.
    let left: Vec<_> = left.collect();
    assert_eq!(left, ["against.vms", "against.properties"]);
}
