//! Compiles the file watcher, which is C since event ports are a C API.
//!
//! `VMINFOD_SKIP_C=1` leaves it out: enough for `cargo check` for a system
//! whose C compiler is not at hand.

fn main() {
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=VMINFOD_SKIP_C");
    if std::env::var_os("VMINFOD_SKIP_C").is_some_and(|v| v == "1") {
        return;
    }
    let illumos =
        std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "illumos");
    let mut build = cc::Build::new();
    build
        .file("c/fswatch.c")
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-Wno-unused-result");
    if !illumos {
        build.file("c/ports_inotify.c");
    }
    build.compile("fswatch");
}
