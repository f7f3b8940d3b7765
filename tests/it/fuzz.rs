//! Each fuzz target, on its seeds: recorded and hand-made inputs, and those by
//! which the fuzzer found something (`regress-…`).

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Runs a target on all of its seeds, and on what is left of each when it is
/// cut at any place, or has one byte changed.
fn try_seeds(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut count = 0;
    for entry in fs::read_dir(dir.join(name)).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        target(&seed);
        let step = seed.len() / 50 + 1;
        for at in (0..seed.len()).step_by(step) {
            target(&seed[..at]);
            let mut changed = seed.clone();
            for byte in [0, b'"', b'\n', b':', b'\t', 0xff] {
                changed[at] = byte;
                target(&changed);
            }
        }
        count += 1;
    }
    assert!(count > 0, "{name} has no seeds");
}

#[test]
fn zone_xml() {
    try_seeds("zonexml", targets::zonexml);
}

#[test]
fn lines_of_sysevent() {
    try_seeds("sysevent", targets::sysevent);
}

#[test]
fn lines_of_zoneadm() {
    try_seeds("zoneadm", targets::zoneadm);
}

#[test]
fn lines_of_zfs() {
    try_seeds("zfs", targets::zfs);
}

#[test]
fn lines_of_kstat() {
    try_seeds("kstat", targets::kstat);
}

#[test]
fn requests() {
    try_seeds("http", targets::http);
}

#[test]
fn changes() {
    try_seeds("diff", targets::diff);
}
