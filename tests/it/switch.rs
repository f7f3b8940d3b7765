//! The safe way to switch in docs/OPERATING.md, from the first step to the
//! last. `tests/smf` stands in for SMF.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::programs::needs;
use crate::harness::*;
use crate::smf::Image;

/// A platform with a daemon of its own, and a vminfod that is laid out beside
/// it.
struct Platform {
    dir: TempDir,
    beside: Image,
}

/// The start method of the platform's daemon. Like today's, it returns once the
/// daemon answers.
fn start_script(platform: &Path, image: &Image) -> String {
    let (platform, root) = (platform.display(), image.host.root().display());
    let address = &image.address;
    format!(
        "#!/bin/sh\n\
         '{VMINFOD}' daemon --root {root} --listen {address} \
         >{platform}/daemon.log 2>&1 &\n\
         echo $! >{platform}/platform.pid\n\
         until '{VMINFOD}' ping --server {address} >/dev/null 2>&1; do\n\
         \tkill -0 $! || exit 1\n\tsleep 0.1\ndone\n"
    )
}

impl Platform {
    fn new() -> Self {
        let (dir, beside) = (TempDir::new(), Image::new());
        let at = |path: &str| dir.0.join(path);
        for path in [
            "usr/bin",
            "repository/service/start",
            "repository/service/stop",
            "repository/instance",
        ] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["svcadm", "svccfg", "svcs"] {
            let from = project.join("tests/smf").join(name);
            fs::copy(from, at("usr/bin").join(name)).unwrap();
        }
        let method = at("start-of-today");
        fs::write(&method, start_script(&dir.0, &beside)).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&method, mode).unwrap();
        let exec = format!("{} %m\n", method.display());
        fs::write(at("repository/service/start/exec"), exec).unwrap();
        fs::write(at("repository/service/stop/exec"), ":kill\n").unwrap();
        fs::write(at("state"), "disabled\n").unwrap();
        let platform = Self { dir, beside };
        let fmri = "svc:/system/smartdc/vminfod:default";
        for words in [&["refresh", fmri][..], &["enable", fmri]] {
            let svcadm = platform.dir.0.join("usr/bin/svcadm");
            let done = Command::new(svcadm).args(words).status().unwrap();
            assert!(done.success());
        }
        platform.wait_for_state("online");
        platform
    }

    /// The command line of vminfod-switch.
    fn script(&self, word: &str) -> Command {
        let script = self.beside.dir.0.join("usr/vm/smf/vminfod-switch");
        let path = std::env::var("PATH").unwrap();
        let own = self.dir.0.join("usr/bin");
        let mut command = Command::new(script);
        command.arg(word);
        command.env("PATH", format!("{}:{path}", own.display()));
        command
    }

    fn switch(&self, word: &str) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } =
            self.script(word).output().unwrap();
        let said = [stdout, stderr].concat();
        (status.code(), String::from_utf8(said).unwrap())
    }

    fn wait_for_state(&self, wanted: &str) {
        let path = self.dir.0.join("state");
        wait_for("the service is as wanted", || {
            let state = fs::read_to_string(&path).unwrap_or_default();
            match state.trim_end() == wanted {
                true => Ok(()),
                false => Err(state),
            }
        });
    }

    /// Replaces the program of the daemon by a shell script.
    fn set_program(&self, script: &str) {
        let program = self.beside.dir.0.join("usr/vm/sbin/vminfod");
        fs::remove_file(&program).unwrap();
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
    }

    /// The pid of the daemon that answers.
    fn served_by(&self) -> u64 {
        let output = Command::new(VMINFOD)
            .args(["status", "-j", "--server", &self.beside.address])
            .output()
            .unwrap();
        let status = parse(&output.stdout);
        status.get("pid").unwrap().as_u64().unwrap()
    }

    fn platform_pid(&self) -> u64 {
        let text = fs::read_to_string(self.dir.0.join("platform.pid"));
        text.unwrap().trim().parse().unwrap()
    }

    fn startd_log(&self) -> String {
        let log = fs::read_to_string(self.dir.0.join("startd.log"));
        log.unwrap_or_default()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.dir.0.join("platform.pid"));
        if let Ok(pid) = pid {
            kill("KILL", pid.trim());
        }
        if std::thread::panicking() {
            eprintln!("--- startd ---\n{}", self.startd_log());
        }
    }
}

/// Every file below a directory, and its contents.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&path)),
            false => {
                let text = fs::read(&path).unwrap_or_default();
                found.insert(path, text);
            }
        }
    }
    found
}

#[test]
fn switching_to_vminfod_and_back_leaves_nothing_behind() {
    needs!["ps"];
    let platform = Platform::new();
    let Platform { beside, dir } = &platform;
    let program = beside.dir.0.join("usr/vm/sbin/vminfod");
    let run = |args: &[&str]| {
        let output = Command::new(&program).args(args).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        said
    };
    let laid_out = files(&beside.dir.0);
    let repository = files(&dir.0.join("repository"));
    let root = beside.host.root().to_str().unwrap();
    // 1: the machine is as expected, and its daemon serves the same VMs.
    let scratch = beside.host.path("/scratch");
    fs::create_dir_all(&scratch).unwrap();
    let scratch = scratch.to_str().unwrap();
    let check = [
        "check",
        "--root",
        root,
        "--against",
        &beside.address,
        "--scratch",
        scratch,
    ];
    let said = run(&check);
    assert!(said.contains("\nagainst: 2 facts hold\n"), "{said}");
    // 2: both daemons side by side.
    let second = beside.host.start();
    let name = beside.host.zonenames().unwrap().remove(0);
    let both = second.addr.to_string();
    let compare = ["compare", &beside.address, &both, "--for", "3"];
    let said = std::thread::scope(|scope| {
        let compared = scope.spawn(|| run(&compare));
        beside.host.update(&name, "alias", "compared").unwrap();
        beside.host.reboot(&name).unwrap();
        compared.join().unwrap()
    });
    assert!(said.contains("no lasting difference"), "{said}");
    drop(second);
    // 3: the switch.
    let before = platform.platform_pid();
    assert_eq!(platform.served_by(), before);
    assert_eq!(platform.switch("status").1, "the platform's\n");
    let (status, said) = platform.switch("to");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("the service now runs the vminfod below "), "{said}");
    let daemon = beside.pid().unwrap();
    assert_eq!(platform.served_by(), u64::from(daemon));
    let args = fs::read_to_string(format!("/proc/{daemon}/cmdline")).unwrap();
    assert!(args.starts_with(program.to_str().unwrap()), "{args}");
    let shown = platform.switch("status").1;
    assert!(shown.starts_with("the vminfod below "), "{shown}");
    // A second switch changes nothing. The start method has its group and user.
    assert_eq!(platform.switch("to").0, Some(0));
    let start = dir.0.join("repository/instance/start");
    let read = |name: &str| fs::read_to_string(start.join(name)).unwrap();
    assert_eq!((&*read("group"), &*read("user")), ("staff\n", "root\n"));
    assert_eq!(beside.pid(), Some(daemon));
    // 4: the way back.
    let (status, said) = platform.switch("back");
    assert_eq!(status, Some(0), "{said}");
    beside.wait_until_contract_is_empty(daemon);
    platform.wait_for_state("online");
    let after = platform.platform_pid();
    assert_ne!(after, before);
    assert_eq!(platform.served_by(), after);
    assert_eq!(platform.switch("status").1, "the platform's\n");
    assert_eq!(platform.switch("back").0, Some(0));
    assert_eq!(platform.platform_pid(), after);
    let mut left = files(&beside.dir.0);
    // Only the file in which the stand-in of prctl(1) notes its calls is new.
    left.retain(|path, _| !path.ends_with("prctl.asked"));
    assert_eq!(
        left.keys().collect::<Vec<_>>(),
        laid_out.keys().collect::<Vec<_>>()
    );
    let mut now = files(&dir.0.join("repository"));
    now.retain(|path, _| !path.to_str().unwrap().contains("/running/"));
    assert_eq!(now, repository);
}

/// The beginning of a script that passes for a program that can run here.
const COULD_RUN: &str = "case \"$*\" in 'daemon --check'|settings*) exit 0 ;; \
    esac; ";

#[test]
fn a_switch_to_a_vminfod_that_fails_goes_back() {
    needs!["ps"];
    let platform = Platform::new();
    let before = platform.platform_pid();
    // A program that can't run at all: the platform's daemon is not stopped.
    platform.set_program("exit 1");
    let (status, said) = platform.switch("to");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("can't run here"), "{said}");
    assert_eq!(platform.served_by(), before);
    // A program that ends while it starts.
    platform.set_program(&format!("{COULD_RUN} exit 1"));
    let (status, said) = platform.switch("to");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("did not start; switching back"), "{said}");
    assert!(
        said.ends_with("the service runs the platform's daemon again\n"),
        "{said}"
    );
    let after = platform.platform_pid();
    assert_ne!(after, before);
    assert_eq!(platform.served_by(), after);
    // Methods that were not set by this script stay as they are.
    let own = platform.dir.0.join("repository/instance/start");
    fs::create_dir_all(&own).unwrap();
    let (status, said) = platform.switch("to");
    assert_eq!(status, Some(1));
    assert!(said.contains("methods that this script has not set"), "{said}");
    assert!(own.is_dir());
    assert_eq!(platform.served_by(), after);
    fs::remove_dir(&own).unwrap();
    // Without a program there is nothing to switch to.
    let program = platform.beside.dir.0.join("usr/vm/sbin/vminfod");
    fs::remove_file(&program).unwrap();
    let (status, said) = platform.switch("to");
    assert_eq!(status, Some(1));
    assert!(said.contains("there is no vminfod below "), "{said}");
    assert_eq!(platform.switch("sideways").0, Some(2));
}

#[test]
fn a_switch_that_is_interrupted_goes_back() {
    needs!["ps"];
    let platform = Platform::new();
    let before = platform.platform_pid();
    platform.set_program(&format!("{COULD_RUN} exec sleep 1000"));
    let mut script = platform.script("to");
    let mut child =
        script.stderr(std::process::Stdio::piped()).spawn().unwrap();
    platform.wait_for_state("offline*");
    assert!(kill("TERM", child.id()));
    let status = wait_for("it ends", || {
        child.try_wait().unwrap().ok_or_else(|| platform.startd_log())
    });
    assert_eq!(status.code(), Some(1));
    platform.wait_for_state("online");
    assert_ne!(platform.platform_pid(), before);
    assert_eq!(platform.served_by(), platform.platform_pid());
    assert_eq!(platform.switch("status").1, "the platform's\n");
}

#[test]
fn a_switch_that_was_killed_halfway_can_be_undone() {
    needs!["ps"];
    let platform = Platform::new();
    let svcadm = platform.dir.0.join("usr/bin/svcadm");
    let fmri = "svc:/system/smartdc/vminfod:default";
    let instance = platform.dir.0.join("repository/instance");
    for groups in [&["switch"][..], &["switch", "start"], &["switch", "stop"]] {
        // The script had stopped the service, and added these property groups.
        let done = Command::new(&svcadm).args(["disable", "-t", fmri]).status();
        assert!(done.unwrap().success());
        for group in groups {
            fs::create_dir_all(instance.join(group)).unwrap();
        }
        let (status, said) = platform.switch("back");
        assert_eq!(status, Some(0), "{said}");
        platform.wait_for_state("online");
        assert_eq!(platform.served_by(), platform.platform_pid());
        assert_eq!(fs::read_dir(&instance).unwrap().count(), 0);
    }
}

#[test]
fn errors_of_svccfg_stop_the_switch() {
    needs!["ps"];
    let platform = Platform::new();
    let fails = platform.dir.0.join("svccfg.fails");
    let before = platform.platform_pid();
    fs::write(&fails, "listpg\n").unwrap();
    for word in ["to", "back", "status"] {
        let (status, said) = platform.switch(word);
        assert_eq!(status, Some(1), "{word}: {said}");
        assert!(said.contains("can't list the property groups"), "{said}");
    }
    assert_eq!(platform.served_by(), before);
    fs::remove_file(&fails).unwrap();
    assert_eq!(platform.switch("to").0, Some(0));
    // A property group that could not be removed is not reported as removed.
    fs::write(&fails, "delpg\n").unwrap();
    let (status, said) = platform.switch("back");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("could not be removed"), "{said}");
    assert!(!said.contains("runs the platform's daemon again"), "{said}");
    fs::remove_file(&fails).unwrap();
    assert_eq!(platform.switch("back").0, Some(0));
    assert_eq!(platform.served_by(), platform.platform_pid());
}
