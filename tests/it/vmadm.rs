//! vmadm's verbs that only read, byte for byte: recordings of today's vmadm,
//! and a case for each further rule of its command line.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use simhost::Host;
use vminfod::vm::json::Json;

use crate::harness::{Daemon, TestHost, VMINFOD, text};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A link named vmadm to the program.
fn vmadm(host: &TestHost) -> PathBuf {
    let link = host.root().join("vmadm");
    symlink(VMINFOD, &link).unwrap();
    link
}

fn run(program: &Path, args: &[&str], daemon: &Daemon) -> Output {
    Command::new(program)
        .args(args)
        .env("VMINFOD_SERVER", daemon.addr.to_string())
        .output()
        .unwrap()
}

#[test]
fn every_recorded_command_line_prints_what_was_recorded() {
    let host = TestHost::recorded(&fixture("objects-basic/host"));
    let daemon = host.start();
    let vmadm = vmadm(&host);
    let cases = fs::read_to_string(fixture("vmadm-cli.json")).unwrap();
    let cases = Json::parse(&cases).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 89);
    for case in cases {
        let args = case.get("args").unwrap().as_array().unwrap();
        let args: Vec<_> = args.iter().map(|a| a.as_str().unwrap()).collect();
        for program in [&vmadm, Path::new(VMINFOD)] {
            let output = run(program, &args, &daemon);
            let stdout = String::from_utf8(output.stdout).unwrap();
            let wanted = text(case, "stdout");
            // JSON is compared by value.
            match Json::parse(wanted) {
                Ok(wanted) if wanted.as_f64().is_none() => {
                    let told = Json::parse(&stdout);
                    assert_eq!(told.unwrap(), wanted, "{args:?}");
                    assert!(stdout.ends_with("]\n") || stdout.ends_with("}\n"));
                }
                _ => assert_eq!(stdout, wanted, "{args:?}"),
            }
            let stderr = String::from_utf8(output.stderr).unwrap();
            let first = stderr.lines().next().unwrap_or_default();
            assert_eq!(first, text(case, "stderr"), "{args:?}");
            let exit = case.get("exit").unwrap().as_f64().unwrap();
            let code = output.status.code().unwrap();
            assert!((f64::from(code) - exit).abs() < 0.1, "{args:?}: {code}");
        }
    }
}

/// A file of `tests/fixtures/vmadm`: sections that begin with `--- NAME`.
#[derive(Debug)]
struct Case {
    name: String,
    vms: String,
    args: Vec<String>,
    stdout: String,
    stderr: String,
    exit: i32,
}

impl Case {
    fn read(path: &Path) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let mut sections: BTreeMap<&str, String> = BTreeMap::new();
        let mut section = "";
        for line in text.lines() {
            match line.strip_prefix("--- ") {
                Some(name) => {
                    section = name;
                    assert!(!sections.contains_key(name), "{path:?}: {name}");
                    sections.insert(name, String::new());
                }
                // Lines before the first section are comments.
                None if section.is_empty() => assert!(line.starts_with('#')),
                None => {
                    let lines = sections.get_mut(section).unwrap();
                    lines.push_str(line);
                    lines.push('\n');
                }
            }
        }
        let mut take = |name: &str| {
            let lines = sections.remove(name);
            lines.unwrap_or_else(|| panic!("{path:?} lacks {name}"))
        };
        let case = Self {
            name,
            vms: take("vms"),
            args: take("command").lines().map(String::from).collect(),
            stdout: take("stdout"),
            stderr: take("stderr"),
            exit: take("exit").trim().parse().unwrap(),
        };
        assert!(sections.is_empty(), "{path:?}: {sections:?}");
        case
    }
}

/// Lays out VMs; each line has the brand, the state and properties of one.
fn lay_out(vms: &str) -> TestHost {
    let host = TestHost::with_vms(0);
    for (number, line) in vms.lines().enumerate() {
        let mut words = line.split(' ');
        let mut spec = Host::spec(number as u64);
        spec.brand = words.next().unwrap().to_string();
        spec.created = "2026-01-12T04:34:48.243Z".to_string();
        if !spec.is_hvm() {
            spec.disks.clear();
        }
        host.create(&spec).unwrap();
        match words.next() {
            Some("running") => host.boot(&spec.uuid).unwrap_or(()),
            Some("stopped") => host.host.stop(&spec.uuid, 0).unwrap_or(()),
            other => panic!("{other:?}"),
        }
        // A bhyve VM has a quota only if the case says so.
        let default = ["quota=0"].into_iter().filter(|_| spec.brand == "bhyve");
        for word in default.chain(words) {
            let (property, value) = word.split_once('=').unwrap();
            let value = value.replace("\\x1b", "\x1b").replace("\\s", " ");
            host.update(&spec.uuid, property, &value).unwrap();
        }
    }
    host
}

#[test]
fn every_case_of_the_vmadm_command_line_prints_as_written() {
    let mut paths: Vec<_> = fs::read_dir(fixture("vmadm"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let cases: Vec<_> = paths.iter().map(|path| Case::read(path)).collect();
    assert!(cases.len() > 40, "{}", cases.len());
    let mut hosts: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in &cases {
        hosts.entry(&case.vms).or_default().push(case);
    }
    for (vms, cases) in hosts {
        let host = lay_out(vms);
        let daemon = host.start();
        let vmadm = vmadm(&host);
        let usage = run(&vmadm, &["help"], &daemon).stdout;
        let usage = String::from_utf8(usage).unwrap();
        for case in cases {
            let args: Vec<_> = case.args.iter().map(String::as_str).collect();
            let output = run(&vmadm, &args, &daemon);
            let stdout = String::from_utf8(output.stdout).unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let name = &case.name;
            assert_eq!(
                stdout.replace(&usage, "{usage}\n"),
                case.stdout,
                "{name}"
            );
            assert_eq!(
                stderr.replace(&usage, "{usage}\n"),
                case.stderr,
                "{name}"
            );
            assert_eq!(output.status.code(), Some(case.exit), "{name}");
        }
    }
}
