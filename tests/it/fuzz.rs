//! Each fuzz target, run on its seeds: recorded and hand-made inputs, and
//! inputs with which the fuzzer has found a bug (`regress-…`).

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Runs a target on all of its seeds, and on each seed cut off, or with one
/// byte changed, at about 50 places.
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
fn seeds_of_zone_xml_pass() {
    try_seeds("zonexml", targets::zonexml);
}

#[test]
fn seeds_of_sysevent_pass() {
    try_seeds("sysevent", targets::sysevent);
}

#[test]
fn seeds_of_zoneadm_pass() {
    try_seeds("zoneadm", targets::zoneadm);
}

#[test]
fn seeds_of_zfs_pass() {
    try_seeds("zfs", targets::zfs);
}

#[test]
fn seeds_of_kstat_pass() {
    try_seeds("kstat", targets::kstat);
}

#[test]
fn seeds_of_http_requests_pass() {
    try_seeds("http", targets::http);
}

#[test]
fn seeds_of_changes_pass() {
    try_seeds("diff", targets::diff);
}
