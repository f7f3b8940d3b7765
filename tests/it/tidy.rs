//! Rules of the house that no other tool checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file with more lines is two.
const LINES_MAX: usize = 600;

/// Every source below a directory: its path from the root, and its text.
pub fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_path_buf();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The lines of a file that are not compiled for tests alone. An item ends, as
/// rustfmt writes it, with the next line that is indented like its first and
/// ends with a brace, a comma or a semicolon.
pub fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    let mut indent_of_test = None;
    text.lines().filter(move |line| {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if content == "#[cfg(test)]" {
            indent_of_test = Some(indent);
            return false;
        }
        if indent_of_test.is_none() {
            return true;
        }
        let is_end = content.ends_with(['}', ';', ',']);
        if is_end && indent_of_test == Some(indent) {
            indent_of_test = None;
        }
        false
    })
}

/// The lines of a file that are neither comments nor for tests alone.
fn code(text: &str) -> impl Iterator<Item = &str> {
    without_tests(text).filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn unsafe_code_is_only_in_src_os() {
    for (path, text) in sources("src") {
        if !path.starts_with("src/os") {
            assert!(!text.contains("unsafe"), "{}", path.display());
        }
    }
}

#[test]
fn system_paths_are_only_in_config_and_os() {
    let roots = ["etc", "usr", "zones", "tmp", "var", "proc"];
    for (path, text) in sources("src") {
        let is_free = path.ends_with("config.rs")
            || path.ends_with("tests.rs")
            || path.starts_with("src/os");
        if is_free {
            continue;
        }
        for line in code(&text) {
            for root in roots {
                let literal = format!("\"/{root}/");
                assert!(!line.contains(&literal), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn files_have_at_most_600_lines_and_a_head_comment() {
    for (path, text) in
        ["src", "crates", "tests", "bench"].into_iter().flat_map(sources)
    {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines", path.display());
        let head = text.lines().next().unwrap_or_default();
        let has_head = ["//! ", "#![doc = include_str!("]
            .iter()
            .any(|begin| head.starts_with(begin));
        assert!(has_head, "{} has no head", path.display());
    }
}

/// A patch that fits in two places, or in none, plants another bug than it
/// says, or no bug at all.
/// Every test as cargo names it: its module, and its function.
fn test_paths() -> Vec<String> {
    let mut paths = Vec::new();
    let costs = fs::read_to_string("tests/costs.rs").unwrap();
    let costs = vec![(PathBuf::from("tests/costs.rs"), costs)];
    for (directory, sources) in [
        ("src", sources("src")),
        ("tests/it", sources("tests/it")),
        ("tests", costs),
    ] {
        for (path, text) in sources {
            let below = path.strip_prefix(directory).unwrap();
            let below = below.with_extension("");
            let module = below.to_str().unwrap().replace('/', "::");
            let module = module.trim_end_matches("::mod");
            for test in text.split("#[test]").skip(1) {
                let name = test.split("fn ").nth(1).unwrap();
                let name = name.split('(').next().unwrap();
                paths.push(format!("{module}::tests::{name}"));
                paths.push(format!("{module}::{name}"));
            }
        }
    }
    paths
}

#[test]
fn each_mutant_applies_in_one_place_and_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = test_paths();
    let mut count = 0;
    for entry in fs::read_dir(root.join("tests/mutants")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "patch") {
            continue;
        }
        count += 1;
        let patch = fs::read_to_string(&path).unwrap();
        let mut lines = patch.lines();
        let killers = lines.find_map(|line| line.strip_prefix("killed by: "));
        for killer in killers.unwrap().split(' ') {
            let is_found = killer == "interleavings"
                || tests.iter().any(|test| test.contains(killer));
            assert!(is_found, "{}: no test {killer}", path.display());
        }
        let mut source = String::new();
        for part in patch.split("\n--- a/").skip(1) {
            let (file, _) = part.split_once('\n').unwrap();
            source = fs::read_to_string(root.join(file)).unwrap();
            for hunk in part.split("\n@@ ").skip(1) {
                let lines = hunk.lines().skip(1);
                let before = lines.filter(|line| !line.starts_with('+'));
                let before: String = before
                    .map(|line| line.get(1..).unwrap_or("").to_string() + "\n")
                    .collect();
                let fits = source.matches(&before).count();
                assert_eq!(fits, 1, "{}:\n{before}", path.display());
            }
        }
        assert!(!source.is_empty(), "{}", path.display());
    }
    assert!(count > 0);
}

/// cargo does not fail if a name matches no test.
#[test]
fn the_makefile_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let makefile = makefile.replace("\\\n", " ");
    let tests = test_paths();
    let mut count = 0;
    for line in makefile.lines().filter(|line| line.contains("$(CARGO) test")) {
        let (_, args) = line.split_once("$(CARGO) test").unwrap();
        let mut args = args.split_whitespace().take_while(|arg| *arg != "--");
        while let Some(arg) = args.next() {
            if ["--test", "--target-dir"].contains(&arg) {
                args.next();
            } else if !arg.starts_with(['-', '$']) {
                count += 1;
                let is_found = tests.iter().any(|test| test.contains(arg));
                assert!(is_found, "no test {arg}: {line}");
            }
        }
    }
    assert!(count > 0);
}

/// The page names tests as `module::beginning_of_its_name_…`.
#[test]
fn the_page_of_failures_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/FAILURES.md")).unwrap();
    let tests = test_paths();
    let codes = page.split('`').skip(1).step_by(2);
    let named: Vec<_> = codes.filter(|code| code.contains("::")).collect();
    assert!(!named.is_empty());
    for name in named {
        let (module, begin) = name.rsplit_once("::").unwrap();
        let begin = begin.trim_end_matches('…');
        let is_it = |test: &String| {
            let (path, name) = test.rsplit_once("::").unwrap();
            let path = format!("::{path}::");
            path.contains(&format!("::{module}::")) && name.starts_with(begin)
        };
        assert!(tests.iter().any(is_it), "no test {name}");
    }
}

/// The crates of the program, and of its build, on one system.
fn crates_of(target: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "vminfod"])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}", "--target", target])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    let of_others = |name: &&str| !name.starts_with("vminfod");
    names.filter(of_others).map(String::from).collect()
}

#[test]
fn the_page_of_dependencies_lists_every_crate() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(page.join("docs/DEPENDENCIES.md")).unwrap();
    let table = page.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = table.skip(1).take_while(|line| line.starts_with('|'));
    let name = |row: &str| row.split('|').nth(1).unwrap().trim().to_string();
    let listed: BTreeSet<String> = rows.map(name).collect();
    let mut used = crates_of("x86_64-unknown-illumos");
    used.extend(crates_of("x86_64-unknown-linux-gnu"));
    assert_eq!(listed, used);
    assert!(used.len() < 40, "{}", used.len());
}

#[test]
fn the_client_library_needs_three_crates() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "vminfod-client"])
        .args(["--edges", "normal,build", "--prefix", "none", "--depth", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    let names: BTreeSet<_> = names.skip(1).collect();
    assert_eq!(names, BTreeSet::from(["httparse", "serde", "serde_json"]));
}

#[test]
fn without_tests_removes_only_test_code() {
    let text = "a\n#[cfg(test)]\nmod t;\nb {\n    #[cfg(test)]\n    \
        fn t() {\n        x;\n    }\n    c;\n}\n#[cfg(test)]\nmod t {\n    \
        y;\n}\nd";
    let kept: Vec<_> = without_tests(text).map(str::trim).collect();
    assert_eq!(kept, ["a", "b {", "c;", "}", "d"]);
}
