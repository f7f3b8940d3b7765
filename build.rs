//! Compiles what is C: the file watcher, since event ports are a C API, and
//! how commands are started, since that takes vfork(2).
//!
//! `VMINFOD_SKIP_C=1` leaves it out, and so does building for another system
//! without a C compiler for it (`CC_x86_64_unknown_illumos`): enough for
//! `cargo check`, not for linking.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=VMINFOD_SKIP_C");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let (host, target) = (variable("HOST"), variable("TARGET"));
    let cross_compiler = format!("CC_{}", target.replace('-', "_"));
    println!("cargo::rerun-if-env-changed={cross_compiler}");
    let no_compiler = host != target && env::var_os(cross_compiler).is_none();
    if variable("VMINFOD_SKIP_C") == "1" || no_compiler {
        println!("cargo::warning=without the C part: to be checked only");
        return;
    }
    let illumos = variable("CARGO_CFG_TARGET_OS") == "illumos";
    let mut build = cc::Build::new();
    build
        .file("c/fswatch.c")
        .file("c/spawn.c")
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-Wno-unused-result");
    if !illumos {
        build.file("c/linux/ports_inotify.c");
    }
    build.compile("fswatch");
}
