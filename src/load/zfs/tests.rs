//! Listings of zfs: good, odd and incomplete ones.

use super::*;

fn line(name: &str, kind: &str, mountpoint: &str, zoned: &str) -> String {
    format!(
        "lz4\t1700000000\t18446744073709551615\t{name}\t\
         26843545600\t131072\t0\t0\t18446744073709551615\t{kind}\t0\t-\t-\
         \t-\t65536\t{zoned}\t{mountpoint}\n"
    )
}

fn snapshot(name: &str, userrefs: u32) -> String {
    format!(
        "-\t1700001000\t-\t{name}\t-\t-\t-\t-\t-\tsnapshot\t-\t\
         {userrefs}\t-\t-\t2097152\t-\t-\n"
    )
}

#[test]
fn datasets_are_found_by_name_and_mountpoint() {
    let text = line("zones/a", "filesystem", "/zones/a", "off")
        + &line("zones/a/data", "filesystem", "/zones/a/data", "on")
        + &line("zones/a/disk0", "volume", "-", "-")
        + &line("zones/b", "filesystem", "legacy", "off")
        + &line("zones/c", "filesystem", "none", "off")
        + &line("zones/d", "filesystem", "/zones/d", "on");
    let datasets = parse(&text, Depth::Children, |_| true).unwrap();
    let at = |path| datasets.mounted_at(path).map(|d| &*d.name);
    assert_eq!(at("/zones/a"), Some("zones/a"));
    assert_eq!(at("/zones/a/data"), None);
    assert!(datasets.get("zones/a/data").is_some());
    assert_eq!(at("/dev/zvol/rdsk/zones/a/disk0"), Some("zones/a/disk0"));
    assert_eq!(at("/zones/b"), Some("zones/b"));
    assert_eq!(at("none"), None);
    // A zone manages it.
    assert_eq!(at("/zones/d"), None);
    assert!(datasets.get("zones/d").is_some());
}

#[test]
fn only_snapshots_that_matter_are_kept() {
    let text = line("zones/a", "filesystem", "/zones/a", "off")
        + &snapshot("zones/a@backup", 0)
        + &snapshot("zones/a@vmsnap-x", 0)
        + &snapshot("zones/a@vmsnap-x", 0)
        + &snapshot("zones/a@indestructible", 1);
    let datasets = parse(&text, Depth::Children, |_| true).unwrap();
    let snapshots = &datasets.get("zones/a").unwrap().snapshots;
    let names: Vec<_> = snapshots.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["vmsnap-x", "indestructible"]);
    assert!(snapshots[1].held && !snapshots[0].held);
}

#[test]
fn if_a_line_is_forged_only_the_first_line_counts() {
    let real =
        |name: &str| line(name, "filesystem", &format!("/{name}"), "off");
    let forged = [
        // Datasets that come too early, too late or twice; snapshots of other
        // datasets.
        real("zones/v") + &real("zones/u"),
        real("zones/v/data"),
        real("zones/s"),
        real("zones/v"),
        snapshot("zones/v@indestructible", 1),
        snapshot("zones/s@indestructible", 1),
    ];
    for forged in forged {
        let text =
            real("zones") + &real("zones/t") + &forged + &real("zones/v");
        let datasets = parse(&text, Depth::Children, |_| true).unwrap();
        assert!(datasets.cut().is_some(), "{forged}");
        let names: Vec<_> = datasets.by_name.keys().collect();
        assert_eq!(names, [&Arc::from("zones")], "{forged}");
        assert!(datasets.elsewhere.is_empty());
        let odd = datasets.odd().unwrap();
        assert!(matches!(odd, OutputError::NotInOrder(_)), "{odd}");
    }
}

#[test]
fn a_dataset_that_zfs_does_not_open_is_not_there_even_if_it_is_listed() {
    let run = list_pool(&Paths::new(std::path::Path::new("/")), "zones");
    let told = |stdout: String, gone: &[&str]| {
        let say =
            |name| format!("cannot open '{name}': dataset does not exist\n");
        let stderr = gone.iter().map(say).collect::<String>();
        let exit = Some(i32::from(!gone.is_empty()));
        let output = Output { stdout, stderr, exit };
        answer(&run, &output, Depth::Children, |_| true).unwrap()
    };
    let [a, b, c] = ["zones/a", "zones/b", "zones/c"]
        .map(|name| line(name, "filesystem", &format!("/{name}"), "off"));
    let mut datasets = Datasets::default();
    datasets.merge(told(a + &c, &["zones/b", "zones/c"]));
    datasets.merge(told(b, &[]));
    for (name, is_there) in
        [("zones/a", true), ("zones/b", false), ("zones/c", false)]
    {
        assert_eq!(datasets.get(name).is_some(), is_there, "{name}");
        assert_eq!(datasets.is_missing(name), !is_there, "{name}");
        let at = datasets.mounted_at(&format!("/{name}"));
        assert_eq!(at.is_some(), is_there, "{name}");
    }
}

#[test]
fn a_bad_line_does_not_spoil_the_other_lines() {
    let text = line("zones/a", "filesystem", "/zones/a", "off")
        + &line("zones/a/data", "filesystem", "/x\ty\nz", "on")
        + &line("zones/b", "filesystem", "/x\ty", "off");
    let datasets = parse(&text, Depth::Children, |_| true).unwrap();
    assert!(datasets.mounted_at("/zones/a").is_some());
    assert!(datasets.get("zones/a/data").is_some());
    let at = datasets.mounted_at("/x\ty").map(|dataset| &*dataset.name);
    assert_eq!(at, Some("zones/b"));
    assert!(datasets.odd().unwrap().to_string().contains('z'));
}

#[test]
fn a_snapshot_may_come_without_its_dataset() {
    let mut datasets = parse(
        &line("zones/a", "filesystem", "/zones/a", "off"),
        Depth::Children,
        |_| true,
    )
    .unwrap();
    let text = snapshot("zones/a@indestructible", 1);
    datasets.merge(parse(&text, Depth::Alone, |_| true).unwrap());
    assert!(datasets.get("zones/a").unwrap().snapshots[0].held);
}

#[test]
fn a_forged_snapshot_does_not_count_unless_it_was_asked_for() {
    let text = line("zones/a", "filesystem", "/zones/a", "on")
        + &snapshot("zones/b@indestructible", 1)
        + &line("zones/c", "filesystem", "/zones/c", "off");
    for (asked, held) in [
        (&["zones/a", "zones/c"][..], false),
        (&["zones/a", "zones/b@indestructible"], true),
    ] {
        let listed = parse(&text, Depth::Alone, |name| asked.contains(&name));
        let listed = listed.unwrap();
        assert!(listed.cut().is_none());
        let mut datasets = Datasets::default();
        datasets.merge(listed);
        assert_eq!(datasets.has("zones/b@indestructible"), held);
    }
}

#[test]
fn an_incomplete_listing_is_an_error() {
    let text = line("zones/a", "filesystem", "/zones/a", "off");
    assert!(parse(&text[..text.len() - 1], Depth::Children, |_| true).is_err());
    assert!(parse(&text[..30], Depth::Children, |_| true).is_err());
    assert!(parse("garbage\n", Depth::Children, |_| true).is_err());
    assert!(parse("", Depth::Children, |_| true).unwrap().by_name.is_empty());
}

#[test]
fn a_name_that_could_be_an_option_is_not_an_operand() {
    for bad in [
        "-r", "", "a//b", "a/", "a@", "a@b@c", "a%b", "/a", "a\tb", "a/../b",
        "a/.", "a@b/c",
    ] {
        assert!(!is_dataset_name(bad), "{bad}");
    }
    assert!(is_dataset_name("zones/0aa46416-disk0"));
}

#[test]
fn long_lists_of_names_are_split_over_several_runs() {
    let names: BTreeSet<_> =
        (0..10).map(|i| Arc::from(format!("zones/{i}"))).collect();
    // 16 bytes each.
    let runs = parts(names.clone(), 48);
    assert_eq!(runs.len(), 4);
    assert_eq!(runs.into_iter().flatten().collect::<BTreeSet<_>>(), names);
    assert_eq!(parts(names.clone(), 1 << 20).len(), 1);
    // A name that is too long is asked for all the same.
    assert_eq!(parts(names, 1).len(), 10);
    assert!(parts(BTreeSet::new(), 48).is_empty());
}

#[test]
fn a_name_that_zfs_does_not_mention_counts_as_failed() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).into()).collect();
    let text = line("zones/a", "filesystem", "/zones/a", "off")
        + &snapshot("zones/a@indestructible", 1);
    let mut datasets = parse(&text, Depth::Alone, |_| true).unwrap();
    datasets.missing.insert("zones/gone".into());
    datasets.merge(
        parse(&snapshot("zones/b@indestructible", 1), Depth::Alone, |_| true)
            .unwrap(),
    );
    let good = [
        "zones/a",
        "zones/a@indestructible",
        "zones/b@indestructible",
        "zones/gone",
        "-no operand",
    ];
    datasets.fail_unmentioned(&names(&good));
    assert!(datasets.failed.is_empty(), "{:?}", datasets.failed);
    datasets.fail_unmentioned(&names(&["zones/c", "zones/a@other"]));
    assert_eq!(datasets.failure("zones/c"), Some(&DatasetError::NotListed));
    assert_eq!(datasets.failed.len(), 2);
}
