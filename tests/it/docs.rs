//! The documentation: manual pages, shell completion, and the examples in
//! README.md and docs/TOUR.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vminfod::source::Source;
use vminfod::vm::json::Json;

use crate::harness::programs::needs;
use crate::harness::{
    TempDir, TestHost, VMINFOD, free_address, simhost_program, wait_for,
};
use crate::terminal::Terminal;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap()
}

fn output_of(args: &[&str]) -> String {
    let output = Command::new(VMINFOD).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const PAGES: [&str; 3] =
    ["man/vminfod.8", "man/vminfo.8", "man/vminfod-http.7"];

#[test]
fn mandoc_finds_nothing_wrong_in_the_manual_pages() {
    needs!["mandoc"];
    let linted = Command::new("mandoc")
        .arg("-Tlint")
        .args(PAGES.map(project))
        .current_dir(project("man"))
        .output()
        .unwrap();
    let said = String::from_utf8(linted.stdout).unwrap();
    assert!(linted.status.success() && said.is_empty(), "{said}");
    for page in PAGES {
        let text = Command::new("mandoc")
            .args(["-Tutf8", "-Owidth=78"])
            .arg(project(page))
            .output()
            .unwrap();
        assert!(text.status.success() && text.stdout.len() > 1000, "{page}");
    }
}

/// The long options in a text, without their dashes.
fn options_in(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c: char| !is_word(c))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(|word| word[2..].to_string())
        .collect()
}

/// The help of every verb.
fn helps() -> BTreeMap<String, String> {
    let verbs = verbs_in(&output_of(&["help"]));
    let help = |verb: String| {
        let help = output_of(&[&verb, "--help"]);
        (verb, help)
    };
    verbs.into_iter().filter(|verb| verb != "help").map(help).collect()
}

/// The options that a help explains: the letter, if there is one, else the long
/// name.
fn options_of(help: &str) -> Vec<&str> {
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let (options, _) = options.split_once("\nExamples:\n").unwrap();
    let lines = options.lines().filter_map(|line| line.strip_prefix("  -"));
    let names = lines.map(|line| {
        let end = line.find([' ', ',']).unwrap_or(line.len());
        &line[..end]
    });
    names.collect()
}

#[test]
fn every_verb_has_a_help_of_its_own() {
    let helps = helps();
    assert!(helps.len() >= 17, "{helps:?}");
    for (verb, help) in &helps {
        assert!(help.starts_with(&format!("usage: vminfod {verb} ")), "{help}");
        assert!(help.lines().all(|line| line.len() <= 80), "{help}");
        let examples = help.lines().filter(|l| l.starts_with("  vminfod "));
        assert_eq!(examples.count(), 2, "{help}");
        let (_, status) = help.split_once("\nExit status:\n").unwrap();
        assert!(status.starts_with("  0 if "), "{help}");
        assert_eq!(*help, output_of(&["help", verb]));
        if !options_of(help).contains(&"h") {
            assert_eq!(*help, output_of(&[verb, "-h"]));
        }
    }
    // A value is a value, whatever it looks like.
    let events = Command::new(VMINFOD)
        .args(["events", "--type", "--help"])
        .output()
        .unwrap();
    assert_eq!(events.status.code(), Some(2), "{events:?}");
    assert_eq!(output_of(&["help", "help"]), output_of(&["help"]));
    assert_eq!(output_of(&["events", "-fh"]), helps["events"]);
    // What comes after `--` belongs to another program.
    let args = ["wait", "x", "state=x", "--timeout", "0", "--", "ls", "--help"];
    let wait = Command::new(VMINFOD)
        .args(args)
        .env("VMINFOD_SERVER", "127.0.0.1:1")
        .output()
        .unwrap();
    assert!(!wait.stdout.starts_with(b"usage"), "{wait:?}");
}

#[test]
fn a_mistyped_verb_or_option_suggests_the_nearest() {
    let said = |args: &[&str]| {
        let output = Command::new(VMINFOD).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (args, meant) in [
        (
            &["evnets"][..],
            "Invalid command: \"evnets\". Did you mean events?\n",
        ),
        (&["help", "statsu"], "\"statsu\". Did you mean status?\n"),
        (&["wiat"], "Did you mean wait?\n"),
        (&["hlep"], "Did you mean help?\n"),
        (
            &["list", "--oder", "x"],
            "(did you mean '--order'?)\ntry 'vminfod list",
        ),
        (
            &["events", "--jsno"],
            " (did you mean '--json'?); try 'vminfod events",
        ),
        (&["wait", "x", "--tiemout", "1"], "(did you mean '--timeout'?)"),
    ] {
        assert!(said(args).contains(meant), "{}", said(args));
    }
    for args in [&["bogus"][..], &["rm"], &["foo"], &["events", "--bogus"]] {
        assert!(!said(args).to_lowercase().contains("did you mean"));
    }
    // Without a verb, the usage is printed.
    assert_eq!(said(&[]), output_of(&["help"]));
}

#[test]
fn the_manual_the_completions_and_the_help_have_the_same_options() {
    let page = read("man/vminfod.8");
    let words: Vec<_> = page.split_whitespace().collect();
    let in_page: BTreeSet<_> = words
        .windows(2)
        .filter(|pair| pair[0] == "Fl" || pair[0] == ".Fl")
        .filter_map(|pair| pair[1].strip_prefix('-'))
        .filter(|option| !option.is_empty())
        .collect();
    let mut in_help = BTreeSet::from(["version", "output"].map(String::from));
    let bash = read("completion/vminfod.bash");
    let zsh = read("completion/_vminfod");
    for (verb, help) in helps() {
        let (_, options) = help.split_once("\nOptions:\n").unwrap();
        let (options, _) = options.split_once("\nExamples:\n").unwrap();
        let longs = options_in(options);
        for option in &longs {
            let is_there = in_page.contains(option.as_str());
            assert!(is_there, "{verb} --{option} is not in the manual");
        }
        in_help.extend(longs);
        // Every verb has these, and the completions have them in one place.
        // What does nothing is not completed.
        let common = ["v", "d", "-help", "-server", "-time-limit"];
        let does_nothing = help.contains("does nothing");
        let section = |text: &str| {
            let begins = text.match_indices("\n    ").filter(|(at, _)| {
                let line = text[at + 5..].lines().next().unwrap_or_default();
                let names = line.split(')').next().unwrap_or_default();
                line.contains(')') && names.split(" | ").any(|n| n == verb)
            });
            let sections = begins.map(|(at, _)| {
                let rest = &text[at + 1..];
                &rest[..rest.find(";;").unwrap_or(rest.len())]
            });
            sections.collect::<String>()
        };
        for option in options_of(&help) {
            let is_common =
                common.contains(&option) && (option.len() > 1 || does_nothing);
            if is_common {
                continue;
            }
            let option = format!("-{option}");
            for (shell, text) in [("bash", &bash), ("zsh", &zsh)] {
                let section = section(text);
                let is_there = section
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                    .any(|word| word == option);
                assert!(is_there, "{shell}: {verb} {option}: {section}");
            }
        }
    }
    for option in in_page {
        let is_known = in_help.contains(option);
        assert!(is_known, "--{option} is in no help");
    }
}

/// The verbs of the usage: the first word, or words, of a line that is indented
/// by two spaces, as `get|json UUID` and `vms, vm NAME`.
fn verbs_in(usage: &str) -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    let lines = usage.lines().filter_map(|line| line.strip_prefix("  "));
    for line in lines.filter(|line| line.starts_with(char::is_alphabetic)) {
        for word in line.split(' ') {
            let names = word.trim_end_matches(',').split('|');
            verbs.extend(names.map(String::from));
            if !word.ends_with(',') {
                break;
            }
        }
    }
    verbs.retain(|verb| verb.chars().all(|c| c.is_ascii_lowercase()));
    verbs
}

#[test]
fn the_manual_and_the_completions_have_all_verbs() {
    let verbs = verbs_in(&output_of(&["help"]));
    assert!(verbs.contains("json") && verbs.contains("vm"), "{verbs:?}");
    let synopsis = read("man/vminfod.8");
    let end = synopsis.find(".Sh DESCRIPTION").unwrap();
    let synopsis: BTreeSet<_> = synopsis[..end].split_whitespace().collect();
    let bash = read("completion/vminfod.bash");
    let in_bash = bash.split("verbs").skip(1).take(2).flat_map(|text| {
        let list = text.split('\'').nth(1).unwrap_or_default();
        list.split_whitespace()
    });
    let in_bash: BTreeSet<_> = in_bash.collect();
    let zsh = read("completion/_vminfod");
    for verb in &verbs {
        let verb = verb.as_str();
        assert!(synopsis.contains(verb), "{verb} is not in the manual");
        assert!(in_bash.contains(verb), "bash does not complete {verb}");
        let in_zsh = zsh.contains(&format!("\n            '{verb}:"));
        assert!(in_zsh, "zsh does not complete {verb}");
    }
}

#[test]
fn the_manual_and_the_completions_have_all_list_fields() {
    let page = read("man/vminfod.8");
    let begin = page.find("The fields are\n").unwrap() + 15;
    let end = begin + page[begin..].find(".\n").unwrap();
    let fields: Vec<_> = page[begin..end]
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty() && *word != "and")
        .collect();
    assert_eq!(fields.len(), 44);
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let output = daemon.tool(&["list", "-o", &fields.join(",")]);
    assert!(output.status.success(), "{output:?}");
    let bash = read("completion/vminfod.bash");
    let begin = bash.find("_vminfod_fields='").unwrap() + 17;
    let in_bash = bash[begin..].split('\'').next().unwrap();
    let in_bash: Vec<_> = in_bash.split_whitespace().collect();
    assert_eq!(in_bash, fields);
    let zsh = read("completion/_vminfod");
    let begin = zsh.find("_vminfod_fields=(").unwrap() + 17;
    let in_zsh = zsh[begin..].split(')').next().unwrap();
    let in_zsh: Vec<_> = in_zsh.split_whitespace().collect();
    assert_eq!(in_zsh, fields);
}

/// Types `typed` and Tab, and waits until the screen shows `wanted`.
fn completes(terminal: &Terminal, typed: &str, wanted: &str) {
    terminal.press(&["-l", typed]);
    terminal.press(&["Tab"]);
    terminal.wait_for_text(wanted);
    // Clear the line and the screen.
    terminal.press(&["C-u"]);
    terminal.press(&["C-l"]);
    terminal.wait_for("an empty line", |s| !s.contains(wanted));
}

#[test]
fn shells_complete_verbs_options_and_vms() {
    needs!["tmux", "zsh"];
    let host = TestHost::with_vms(3);
    let names = host.zonenames().unwrap();
    host.update(&names[1], "alias", "web-server").unwrap();
    host.update(&names[2], "alias", "$(touch owned)").unwrap();
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let bin = host.root().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(VMINFOD, bin.join("vminfod")).unwrap();
    let completion = project("completion");
    let completion = completion.to_str().unwrap();
    let setup = |text: String| {
        let path = host.root().join("setup");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let path = format!("PATH=\"{}:$PATH\"\n", bin.display());
    let bash = setup(format!(
        "{path}PS1='> '\nbind 'set bell-style none'\n\
         . \"{completion}/vminfod.bash\"\ncd {}\n",
        host.root().display()
    ));
    let zsh = format!("HOME={} exec zsh -d", host.root().display());
    fs::write(
        host.path("/.zshrc"),
        format!(
            "{path}PS1='> '\nfpath=(\"{completion}\" $fpath)\ncd {}\n\
             autoload -Uz compinit; compinit -u -D\nunsetopt beep\n\
             bindkey -e\n",
            host.root().display()
        ),
    )
    .unwrap();
    for shell in [format!("exec bash --rcfile {bash} -i"), zsh] {
        let terminal = Terminal::run(&shell, &addr);
        terminal.wait_for("a prompt", |screen| screen.contains("\n>"));
        completes(&terminal, "vminfod diag", "vminfod diagnose");
        // All VMs, if nothing is typed yet.
        terminal.press(&["-l", "vminfod get "]);
        terminal.press(&["Tab", "Tab"]);
        terminal.wait_for_text(&names[2]);
        terminal.press(&["C-u"]);
        terminal.press(&["C-l"]);
        terminal.wait_for("a prompt", |s| !s.contains(&names[2]));
        // The command after `--` is completed like any command.
        let command = format!("vminfod wait {} x=y -- vminf", names[0]);
        completes(&terminal, &command, "-- vminfod");
        completes(&terminal, "vminfod wait --timeo", "vminfod wait --timeout");
        completes(&terminal, "vminfod list -o zone_s", "-o zone_state");
        completes(&terminal, "vminfod list quo", "vminfod list quota=");
        let begin = &names[0][..5];
        let whole = format!("vminfod get {}", names[0]);
        completes(&terminal, &format!("vminfod get {begin}"), &whole);
        // An alias becomes the uuid.
        let whole = format!("vminfod wait {}", names[1]);
        completes(&terminal, "vminfod wait web", &whole);
        completes(&terminal, "vminfod events -f --type cre", "--type create");
        // Text of a tenant never gets onto the command line: the beginning of a
        // hostile alias is not completed.
        for (n, (alias, begin)) in HOSTILE.iter().enumerate() {
            host.update(&names[2], "alias", alias).unwrap();
            wait_for("the alias is known", || {
                let vm = daemon.vm(&names[2]).unwrap();
                let now = vm.get("alias").cloned();
                let is_so = now == Some(Json::from(*alias));
                if is_so { Ok(()) } else { Err(format!("{now:?}")) }
            });
            terminal.press(&["-l", &format!("vminfod get {begin}")]);
            terminal.press(&["Tab"]);
            // The shell shows these characters only after it has handled Tab.
            let end = format!(" #{n}#");
            terminal.press(&["-l", &end]);
            let wanted = format!("> vminfod get {begin}");
            terminal.wait_for("it is not completed", |screen| {
                let line = screen.lines().find(|line| line.ends_with(&end));
                let line = line.and_then(|line| line.strip_suffix(&end));
                line.is_some_and(|line| line.trim_end() == wanted)
            });
            terminal.press(&["C-u"]);
            terminal.press(&["C-l"]);
            terminal.wait_for("a prompt", |s| !s.contains(&end));
        }
        completes(&terminal, "vminfod sta", "vminfod status");
        completes(&terminal, "vminfod schema --he", "vminfod schema --help");
        completes(&terminal, "vminfod wait --he", "vminfod wait --help");
        assert!(!host.path("/owned").exists());
    }
}

/// Aliases that a shell would execute, or that look like the lines of other
/// VMs; and the beginning that a user would type to get each.
const HOSTILE: [(&str, &str); 9] = [
    ("x\nqqq;touch owned #", "qq"),
    ("x\n11111111-1111-4111-8111-111111111111 qqq", "qq"),
    ("x\n11111111-1111-4111-8111-111111111111:qqq", "qq"),
    ("$(touch owned)", "$(touch ow"),
    ("`touch owned`", "`touch ow"),
    ("qqq\"'touch owned'", "qq"),
    ("-qq --server evil", "-q"),
    ("qqq*[a-z]?", "qq"),
    ("qqq web", "qq"),
];

/// The commands of a page, each with the output that the page shows.
fn examples(page: &str) -> Vec<(String, Vec<String>)> {
    let mut examples: Vec<(String, Vec<String>)> = Vec::new();
    let mut is_open = false;
    for line in page.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            is_open = false;
            continue;
        };
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => {
                examples.push((command.to_string(), Vec::new()));
                is_open = true;
            }
            (None, Some((_, lines))) if is_open => lines.push(line.to_string()),
            (None, _) => {}
        }
    }
    examples
}

/// Whether a line matches `wanted`, in which `...` stands for any text.
fn is_as(line: &str, wanted: &str) -> bool {
    let mut parts = wanted.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default())
    else {
        return false;
    };
    let mut is_whole = false;
    for part in parts {
        is_whole = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    is_whole || rest.is_empty()
}

#[test]
fn the_examples_of_the_pages_print_what_the_pages_show() {
    needs!["curl"];
    for (page, least) in [("README.md", 8), ("docs/TOUR.md", 12)] {
        let examples = examples(&read(page));
        assert!(examples.len() > least, "{page}: {examples:?}");
        try_examples(page, &examples);
    }
}

fn try_examples(page: &str, examples: &[(String, Vec<String>)]) {
    let dir = TempDir::new();
    let host = dir.0.join("host");
    let addr = free_address();
    let place = |text: &str| {
        text.replace("/tmp/host", host.to_str().unwrap())
            .replace("127.0.0.1:9090", &addr)
    };
    let mut script = String::from("exec 2>&1\n");
    for (command, _) in examples {
        // PATH is set below instead, to where the programs were built.
        if !command.starts_with("export PATH=") {
            script += &place(command);
        } else {
            script += &format!("export VMINFOD_SERVER={addr}");
        }
        script += "\nprintf '=====\\n'\n";
    }
    let programs = Path::new(VMINFOD).parent().unwrap();
    assert!(simhost_program().starts_with(programs));
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", format!("{}:{path}", programs.display()))
        .current_dir(&dir.0)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut printed = printed.split("=====\n");
    for (command, wanted) in examples {
        let lines: Vec<_> = printed.next().unwrap().lines().collect();
        let wanted: Vec<_> = wanted.iter().map(|line| place(line)).collect();
        let are_so = lines.len() == wanted.len()
            && lines.iter().zip(&wanted).all(|(l, wanted)| is_as(l, wanted));
        assert!(are_so, "$ {command}\n{lines:#?}\nbut {page}: {wanted:#?}");
    }
}

/// `make walkthrough` also runs what they add.
#[test]
fn the_additions_of_the_architecture_page_apply() {
    needs!["patch"];
    let page = read("docs/ARCHITECTURE.md");
    let diffs: Vec<_> = page.split("```diff\n").skip(1).collect();
    assert!(diffs.len() >= 6, "{} diffs", diffs.len());
    for diff in diffs {
        let (diff, _) = diff.split_once("```").unwrap();
        let dir = TempDir::new();
        for line in diff.lines() {
            let Some(file) = line.strip_prefix("--- a/") else { continue };
            let to = dir.0.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(project(file), to).unwrap();
        }
        let file = dir.0.join("diff");
        fs::write(&file, diff).unwrap();
        let patch = Command::new("patch")
            .args(["-p1", "--fuzz=0", "--batch", "-i"])
            .arg(&file)
            .current_dir(&dir.0)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&patch.stdout);
        assert!(patch.status.success(), "{said}\n{diff}");
    }
}

#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    let readme = read("README.md");
    let words = readme.split_whitespace().count();
    assert!(words <= 1000, "{words} words");
    let links = readme.split("](").skip(1);
    let links: Vec<_> =
        links.filter_map(|l| l.split([')', '#']).next()).collect();
    assert!(links.len() > 8, "{links:?}");
    for link in links {
        assert!(project(link).exists(), "{link}");
    }
}

#[test]
fn dots_stand_for_anything() {
    for (line, wanted, is_so) in [
        ("abc", "abc", true),
        ("abc", "ab", false),
        ("abc", "a...", true),
        ("abc", "...c", true),
        ("abc", "...b", false),
        ("abcabd", "a...b...", true),
        ("abc", "x...", false),
    ] {
        assert_eq!(is_as(line, wanted), is_so, "{line} {wanted}");
    }
}

#[test]
fn the_operating_guide_covers_every_source_of_faults() {
    let page = read("docs/OPERATING.md");
    let (_, table) = page.split_once("| source | what is wrong |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    // `Mtime`, the times of files, never has a fault by itself.
    let sources = Source::all().filter(|source| *source != Source::Mtime);
    let sources = sources.map(Source::name);
    // Readers of events have faults, too, which no load reports.
    let sources: Vec<_> =
        sources.chain(["zone events", "zfs events", "watch"]).collect();
    assert!(sources.len() >= 14, "{sources:?}");
    for source in sources {
        assert!(table.contains(&format!("`{source}`")), "{source}");
    }
}
