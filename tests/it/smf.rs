//! The SMF service: its manifest, its method, and the installed files.
//! `tests/smf` stands in for the platform.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use roxmltree::{Document, Node, ParsingOptions};

use crate::harness::programs::needs;
use crate::harness::*;

const FMRI: &str = "svc:/system/smartdc/vminfod:default";

/// An exit status of smf_method(7).
const ERR_CONFIG: i32 = 96;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn install(program: &Path, to: &Path) {
    let script = project("package/install.sh");
    run(Command::new(script).arg(program).arg(to));
}

/// An installed image, with a simulated host on which its method works.
pub struct Image {
    pub host: TestHost,
    pub dir: TempDir,
    pub address: String,
}

impl Image {
    pub fn new() -> Self {
        let image = Self {
            host: TestHost::with_vms(3),
            dir: TempDir::new(),
            address: free_address(),
        };
        let at = |path: &str| image.dir.0.join(path);
        install(Path::new(VMINFOD), &image.dir.0);
        for dir in ["lib/svc/share", "usr/bin", "var/run", "config"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for (name, path) in [
            ("smf_include.sh", "lib/svc/share/smf_include.sh"),
            ("svcprop", "usr/bin/svcprop"),
            ("ctrun", "usr/bin/ctrun"),
            ("prctl", "usr/bin/prctl"),
        ] {
            fs::copy(project("tests/smf").join(name), at(path)).unwrap();
        }
        image.set("listen", &image.address);
        image.set("root", image.host.root().to_str().unwrap());
        image.set("socket", "\"\"");
        image.set("refresh_interval", "300");
        image.set("log_level", "debug");
        image
    }

    fn set(&self, property: &str, value: &str) {
        let path = self.dir.0.join("config").join(property);
        fs::write(path, format!("{value}\n")).unwrap();
    }

    /// Edits the installed method.
    fn change_method(&self, change: impl FnOnce(String) -> String) {
        let path = self.dir.0.join("usr/vm/smf/system-vminfod");
        let method = fs::read_to_string(&path).unwrap();
        let changed = change(method.clone());
        assert_ne!(changed, method);
        fs::remove_file(&path).unwrap();
        fs::write(&path, changed).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts a method as startd does, with both outputs to the log.
    fn begin(&self, method: &str) -> Child {
        let path = self.dir.0.join("log");
        let log = File::options().create(true).append(true).open(path);
        let log = log.unwrap();
        Command::new(self.dir.0.join("usr/vm/smf/system-vminfod"))
            .arg(method)
            .env("SMF_FMRI", FMRI)
            .env("SMF_METHOD", method)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn method(&self, method: &str) -> i32 {
        self.end_of(self.begin(method))
    }

    fn end_of(&self, mut method: Child) -> i32 {
        let status = wait_for("the method ends", || {
            method.try_wait().unwrap().ok_or_else(|| self.log())
        });
        status.code().unwrap_or(-1)
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.0.join("log"));
        log.unwrap_or_default()
    }

    fn wait_for_log(&self, what: &str) {
        wait_for("it is logged", || match self.log() {
            log if log.contains(what) => Ok(()),
            log => Err(format!("{what}: {log}")),
        });
    }

    pub fn pid(&self) -> Option<u32> {
        let path = self.dir.0.join("var/run/vminfod.pid");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn wait_for_pid(&self) -> u32 {
        wait_for("the daemon is started", || {
            self.pid().ok_or_else(|| self.log())
        })
    }

    /// The processes of a contract; a session stands in for the contract.
    pub fn in_contract(session: u32) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.parse::<u32>().ok()
        });
        let is_in = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            let stat = stat.unwrap_or_default();
            let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
            let mut words = rest.split(' ');
            // A zombie has ended, though its parent has not reaped it yet.
            words.next() != Some("Z")
                && words.nth(2) == Some(&session.to_string())
        };
        pids.filter(is_in).collect()
    }

    pub fn wait_until_contract_is_empty(&self, session: u32) {
        wait_for("nothing is left", || match Self::in_contract(session) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}: {}", self.log())),
        });
    }

    fn ping(&self) -> bool {
        let output = Command::new(VMINFOD)
            .args(["ping", "--server", &self.address])
            .output();
        output.unwrap().status.success()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            for left in Self::in_contract(pid) {
                kill("KILL", left);
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of the service ---\n{}", self.log());
        }
    }
}

/// The built-in aliases of ksh93, which is the platform's /bin/sh. If the
/// method had a function of such a name, the alias would be used instead.
const KSH_ALIASES: &str = "\
alias autoload='typeset -fu' command='command ' compound='typeset -C'
alias fc=hist float='typeset -lE' functions='typeset -f'
alias hash='alias -t --' history='hist -l' integer='typeset -li'
alias nameref='typeset -n' nohup='nohup ' r='hist -s'
alias redirect='command exec' source='command .'
alias stop='kill -s STOP' suspend='kill -s STOP $$'
alias times='{ { time;} 2>&1;}' type='whence -v'
";

#[test]
fn the_service_starts_and_stops() {
    needs!["ps"];
    starts_and_stops(&Image::new());
}

#[test]
fn the_method_works_in_ksh93_with_its_aliases() {
    needs!["ksh93", "ps"];
    let image = Image::new();
    image.change_method(|method| {
        let method = method.replacen("#!/bin/sh\n", "", 1);
        format!("#!/usr/bin/env ksh93\n{KSH_ALIASES}{method}")
    });
    starts_and_stops(&image);
}

fn starts_and_stops(image: &Image) {
    assert_eq!(image.method("start"), 0);
    assert!(image.ping());
    let daemon = image.pid().unwrap();
    let vms = run(Command::new(VMINFOD).args([
        "list",
        "-H",
        "--server",
        &image.address,
    ]));
    assert_eq!(String::from_utf8(vms.stdout).unwrap().lines().count(), 3);
    // Its sysevents run, and nothing of startd's is in its environment.
    assert!(Image::in_contract(daemon).len() >= 3);
    let environ = fs::read(format!("/proc/{daemon}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environ).contains("SMF_FMRI"));
    // A start ends a daemon that still runs: startd does not know of it.
    assert_eq!(image.method("start"), 0);
    image.wait_until_contract_is_empty(daemon);
    let daemon = image.pid().unwrap();

    image.set("log_level", "info");
    image.set("refresh_interval", "1234");
    assert_eq!(image.method("refresh"), 0);
    image.wait_for_log("log-level is now info");
    image.wait_for_log("refresh-interval is now 1234 s");
    // A refresh reports mistakes in properties that only a start uses.
    for (property, value, said) in [
        ("listen", "192.0.2.1:9090", "not a loopback address"),
        ("listen", "nowhere", "nowhere: neither ADDR:PORT nor"),
        ("allow_host", "http://hv1", "not a host name or address"),
        ("limits", "workers=0", "workers=0: must be a whole number"),
    ] {
        image.set(property, value);
        assert_eq!(image.method("refresh"), 0);
        image.wait_for_log(said);
        image.set(
            property,
            if property == "listen" { &image.address } else { "" },
        );
        assert!(image.ping());
    }
    assert_eq!(image.pid(), Some(daemon));

    assert_eq!(image.method("stop"), 0);
    image.wait_until_contract_is_empty(daemon);
    assert!(image.log().contains("got signal Terminate"), "{}", image.log());
    assert!(image.log().contains("\"stopped\""), "{}", image.log());
    assert!(!image.ping());
    // Without a daemon, stop and refresh do nothing; it can be started again.
    assert_eq!(image.method("stop"), 0);
    assert_eq!(image.method("refresh"), 0);
    assert_eq!(image.method("start"), 0);
    let daemon = image.pid().unwrap();
    // Broken properties do not replace the settings in use.
    image.set("limits", "bogus=1");
    assert_eq!(image.method("refresh"), 0);
    image.wait_for_log("no such setting: bogus");
    assert!(!image.dir.0.join("var/run/vminfod.settings.new").exists());
    assert_eq!(image.pid(), Some(daemon));
    // Without the pid file, the daemon is ended through its contract.
    let parent = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap();
    let (_, words) = parent.rsplit_once(") ").unwrap();
    let contract = words.split(' ').nth(1).unwrap();
    let dir = image.dir.0.join("restarter");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("contract"), contract).unwrap();
    fs::remove_file(image.dir.0.join("var/run/vminfod.pid")).unwrap();
    assert_eq!(image.method("stop"), 0);
    image.wait_until_contract_is_empty(daemon);
}

#[test]
fn a_stop_kills_a_daemon_that_does_not_end() {
    needs!["ps"];
    let image = Image::new();
    image.change_method(|method| method.replace("end_time=20", "end_time=1"));
    assert_eq!(image.method("start"), 0);
    let daemon = image.pid().unwrap();
    assert!(kill("STOP", daemon));
    assert_eq!(image.method("stop"), 0);
    image.wait_until_contract_is_empty(daemon);
}

#[test]
fn the_method_passes_the_properties_to_the_daemon() {
    needs!["ps"];
    let image = Image::new();
    let socket = image.dir.0.join("var/run/vminfod.sock");
    image.set("listen", "none");
    image.set("socket", socket.to_str().unwrap());
    // As svcprop(1) writes it.
    image.set("limits", "jobs\\=77 subscribers=7");
    image.set("allow_host", "hv1");
    image.set("file_watches", "200000");
    assert_eq!(image.method("start"), 0);
    let asked = fs::read_to_string(image.dir.0.join("prctl.asked")).unwrap();
    let wanted = "-n process.max-port-events -t privileged -r -v 200000 ";
    assert!(asked.starts_with(wanted), "{asked}");
    let mut ping = Command::new(VMINFOD);
    let ping = ping.arg("ping").arg("--server").arg(&socket);
    run(ping);
    let settings = image.dir.0.join("var/run/vminfod.settings");
    assert_eq!(
        fs::read_to_string(settings).unwrap(),
        "log-level=debug\nrefresh-interval=300\njobs=77\nsubscribers=7\n"
    );
    let pid = image.pid().unwrap();
    let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let args = String::from_utf8(args).unwrap().replace('\0', " ");
    assert!(args.contains("--listen none"), "{args}");
    assert!(args.contains("--allow-host hv1"), "{args}");
    assert!(!args.contains("--allow-remote"), "{args}");
    assert_eq!(image.method("stop"), 0);
    assert!(!socket.exists());

    // It listens on all addresses, and is asked at the local one. A limit that
    // can't be raised is reported.
    fs::write(image.dir.0.join("usr/bin/prctl"), "#!/bin/sh\nexit 1\n")
        .unwrap();
    let (_, port) = image.address.rsplit_once(':').unwrap();
    image.set("socket", "\"\"");
    image.set("listen", &format!("0.0.0.0:{port}"));
    image.set("allow_remote", "true");
    assert_eq!(image.method("start"), 0);
    assert!(image.ping());
    image.wait_for_log("process.max-port-events was not raised to ");
    assert_eq!(image.method("stop"), 0);
}

#[test]
fn a_failed_start_says_why() {
    needs!["ps"];
    let image = Image::new();
    image.set("limits", "bogus=1");
    assert_eq!(image.method("start"), ERR_CONFIG);
    image.wait_for_log("no such setting: bogus");
    image.set("limits", "");
    image.set("listen", "192.0.2.1:9090");
    assert_eq!(image.method("start"), ERR_CONFIG);
    image.wait_for_log("not a loopback address");
    image.set("listen", &image.address);

    // Another daemon has the address; its answers do not count for this one.
    let other = TestHost::with_vms(2);
    let mut taken = other.start_with(&["--listen", &image.address]);
    assert_eq!(image.method("start"), 1);
    image.wait_for_log("can't listen on");
    image.wait_for_log("has ended while starting, with status 1");
    assert!(image.ping());
    taken.signal("TERM");
    assert_eq!(taken.wait(), Some(0));

    assert_eq!(image.method("restart"), ERR_CONFIG);
    fs::remove_file(image.dir.0.join("usr/vm/sbin/vminfod")).unwrap();
    assert_eq!(image.method("start"), ERR_CONFIG);
    image.wait_for_log("vminfod does not exist, or is not executable");
}

#[test]
fn no_child_process_survives_a_dead_daemon() {
    needs!["ps"];
    let image = Image::new();
    let kill = |pid: u32| assert!(kill("KILL", pid));
    // While it starts: the method fails.
    image.host.hurt("zoneadm", "block").unwrap();
    let start = image.begin("start");
    let pid = image.wait_for_pid();
    wait_for("zoneadm is run", || {
        match image.host.runs().iter().any(|r| r.starts_with("zoneadm")) {
            true => Ok(()),
            false => Err(image.log()),
        }
    });
    kill(pid);
    assert_eq!(image.end_of(start), 1);
    image.wait_until_contract_is_empty(pid);
    image.host.hurt("zoneadm", "heal").unwrap();

    // While it runs: no process is left, so that startd notices.
    assert_eq!(image.method("start"), 0);
    let pid = image.pid().unwrap();
    // The end of a child does no harm.
    let child = Image::in_contract(pid).into_iter().find(|p| *p != pid);
    kill(child.unwrap());
    image.wait_for_log("sysevent");
    assert!(image.ping());
    assert_eq!(image.pid(), Some(pid));
    kill(pid);
    image.wait_until_contract_is_empty(pid);
    // The process that may have its pid by then is not signalled.
    assert_eq!(image.method("stop"), 0);
    assert_eq!(image.method("start"), 0);
}

#[test]
fn the_installed_files_match_the_package_manifest() {
    let dir = TempDir::new();
    let top = dir.0.join("x y");
    // Twice, because an image is updated, too.
    install(Path::new(VMINFOD), &top);
    install(Path::new(VMINFOD), &top);
    let manifest = fs::read_to_string(project("package/manifest")).unwrap();
    let mut files = 0;
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        let (path, mode) = match words[..] {
            ["f" | "d", path, mode, "root", "bin"] => (path, mode),
            ["s", link] => {
                let (path, to) = link.split_once('=').unwrap();
                files += 1;
                let found = fs::read_link(top.join(path)).unwrap();
                assert_eq!(found, Path::new(to));
                assert!(fs::metadata(top.join(path)).unwrap().is_file());
                continue;
            }
            _ => panic!("{line}"),
        };
        let found = fs::symlink_metadata(top.join(path)).unwrap();
        let mode = u32::from_str_radix(mode, 8).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{line}");
        assert_eq!(found.is_dir(), words[0] == "d", "{line}");
        files += usize::from(words[0] == "f");
    }
    let all = run(Command::new("find")
        .arg(&top)
        .args(["(", "-type", "f", "-o", "-type", "l", ")"]));
    let all = String::from_utf8(all.stdout).unwrap();
    assert_eq!(all.lines().count(), files, "{all}");
    assert!(files >= 9, "{files}");
}

/// Whether a manifest is valid by our DTD, according to xmllint.
fn is_valid(manifest: &str) -> bool {
    let dir = TempDir::new();
    let path = dir.0.join("manifest.xml");
    fs::write(&path, manifest).unwrap();
    let output = Command::new("xmllint")
        .args(["--noout", "--nonet", "--dtdvalid", "service_bundle.dtd"])
        .arg(&path)
        // Here, because a URL can have no blank, and the path may.
        .current_dir(project("tests/smf"))
        .output()
        .unwrap();
    output.status.success()
}

fn manifest() -> String {
    fs::read_to_string(project("smf/system-vminfod.xml")).unwrap()
}

#[test]
fn the_service_manifest_is_valid() {
    needs!["xmllint"];
    let good = manifest();
    assert!(is_valid(&good));
    for (what, with) in [
        // Elements in the wrong order, without a required attribute, or with a
        // value that is not allowed.
        ("<single_instance/>", ""),
        ("<stability value=\"Evolving\"/>", "<stability value=\"Sound\"/>"),
        (" timeout_seconds=\"60\"", ""),
        (" grouping=\"require_all\"", ""),
        ("restart_on=\"none\"", "restart_on=\"never\""),
        ("type=\"count\"", "type=\"number\""),
        (" xml:lang=\"C\"", ""),
        ("<method_credential user=\"root\"", "<method_credential"),
        ("<common_name>", "<description/><common_name>"),
    ] {
        let bad = match what {
            "<single_instance/>" => {
                let moved = "<stability value=\"Evolving\"/><single_instance/>";
                let without = good.replacen(what, with, 1);
                without.replacen("<stability value=\"Evolving\"/>", moved, 1)
            }
            _ => good.replacen(what, with, 1),
        };
        assert_ne!(bad, good, "{what}");
        assert!(!is_valid(&bad), "{what} {with}");
    }
}

fn of_name<'a, 'i>(
    node: Node<'a, 'i>,
    tag: &'a str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants().filter(move |n| n.has_tag_name(tag))
}

#[test]
fn the_service_manifest_matches_the_platforms_service() {
    let text = manifest();
    let options = ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = Document::parse_with_options(&text, options).unwrap();
    let root = document.root();
    let service = of_name(root, "service").next().unwrap();
    assert_eq!(service.attribute("name"), Some("system/smartdc/vminfod"));
    assert_eq!(service.attribute("type"), Some("service"));
    let instance = of_name(root, "create_default_instance").next().unwrap();
    assert_eq!(instance.attribute("enabled"), Some("true"));

    let needs: Vec<_> = of_name(root, "service_fmri")
        .map(|fmri| fmri.attribute("value").unwrap())
        .collect();
    let local = "svc:/system/filesystem/local";
    assert_eq!(needs, [local, "svc:/system/sysevent"]);

    // The methods, with the timeouts of today's service.
    let methods: Vec<_> = of_name(root, "exec_method")
        .map(|method| {
            let of = |name| method.attribute(name).unwrap();
            assert_eq!(of("exec"), "/usr/vm/smf/system-vminfod %m");
            let time: u32 = of("timeout_seconds").parse().unwrap();
            (of("name"), time)
        })
        .collect();
    assert_eq!(methods, [("start", 300), ("stop", 60), ("refresh", 60)]);
    for credential in of_name(root, "method_credential") {
        assert_eq!(credential.attribute("user"), Some("root"));
        assert_eq!(credential.attribute("group"), Some("staff"));
    }
    for text in of_name(root, "loctext") {
        assert!(!text.text().unwrap_or_default().trim().is_empty());
    }

    // The method reads these properties, and no others. Their defaults are the
    // defaults of the program.
    let method = fs::read_to_string(project("smf/system-vminfod")).unwrap();
    let settings = run(Command::new(VMINFOD).arg("settings"));
    let settings = String::from_utf8(settings.stdout).unwrap();
    let group = of_name(root, "property_group").next().unwrap();
    assert_eq!(group.attribute("name"), Some("config"));
    let mut known = Vec::new();
    for property in group.children().filter(Node::is_element) {
        let name = property.attribute("name").unwrap();
        known.push(name);
        assert!(method.contains(name), "the method does not know {name}");
        let setting = name.replace('_', "-");
        let default = settings.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == setting).then(|| words.next())?
        });
        if let Some(default) = default {
            assert_eq!(property.attribute("value"), Some(default), "{name}");
        }
    }
    for asked in method.split("$(property ").skip(1) {
        let name = asked.split(')').next().unwrap();
        assert!(name == "\"$name\"" || known.contains(&name), "{name}");
    }
}

#[test]
fn shellcheck_finds_nothing_wrong_in_the_scripts() {
    needs!["shellcheck"];
    let scripts = [
        "smf/system-vminfod",
        "smf/vminfod-switch",
        "package/install.sh",
        "tests/smf/ctrun",
        "tests/smf/prctl",
        "tests/smf/svcadm",
        "tests/smf/svccfg",
        "tests/smf/svcprop",
        "tests/smf/svcs",
        "tests/demo.sh",
        "tests/walkthrough.sh",
        "tests/pictures.sh",
        "tests/programs.sh",
        "tests/mutants/run.sh",
        ".ci/run",
    ];
    let output =
        Command::new("shellcheck").args(scripts.map(project)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
