//! The tests of the C code, run under AddressSanitizer and
//! UndefinedBehaviorSanitizer, and again under ThreadSanitizer. Every compiler
//! warning is an error.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::TempDir;

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compiles a test of the C code, and runs it.
fn check(test: &str, sanitizers: &str) {
    let dir = TempDir::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let program = dir.0.join("test");
    let empty = dir.0.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_string());
    run(Command::new(cc)
        .args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg("-Wno-unused-result")
        .args([sanitizers, "-fno-sanitize-recover=all"])
        .args(
            [test, "fswatch.c", "linux/ports_inotify.c"]
                .map(|file| sources.join(file)),
        )
        .arg("-o")
        .arg(&program)
        .arg("-lpthread"));
    let output = run(Command::new(program).arg(empty));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().last().unwrap().ends_with(" checks"), "{said}");
}

const MEMORY: &str = "-fsanitize=address,undefined";
const THREADS: &str = "-fsanitize=thread";

#[test]
fn the_c_tests_of_the_ports_pass_with_memory_sanitizers() {
    check("tests/ports_test.c", MEMORY);
}

#[test]
fn the_c_tests_of_the_watcher_pass_with_memory_sanitizers() {
    check("tests/fswatch_test.c", MEMORY);
}

#[test]
fn the_c_tests_have_no_data_races() {
    check("tests/ports_test.c", THREADS);
    check("tests/fswatch_test.c", THREADS);
}
