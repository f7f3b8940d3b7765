//! Rows about zoneadm(8): what it lists, says and exits with.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Said, Sim};

const NONE: &str = "No such zone configured";

/// `zoneadm -z N list -p`
fn one(sim: &Sim, n: usize) -> Said {
    sim.run(&format!("zoneadm -z {} list -p", sim.names[n]))
}

fn no_such_zone(name: &str) -> String {
    format!("zoneadm: {name}: {NONE}\n")
}

fn bad_brand(name: &str) -> String {
    format!("zoneadm: zone '{name}': missing or invalid brand\n")
}

/// A field of a line of `zoneadm list -p`.
fn field(line: &str, n: usize) -> String {
    line.trim_end().split(':').nth(n).unwrap().to_string()
}

#[test]
fn row_01_a_zone_that_is_down_needs_a_valid_xml() {
    let sim = Sim::with_vms(3);
    let (name, good) = (&sim.names[2], fs::read_to_string(sim.xml(2)).unwrap());
    let line = sim.listed(2).unwrap() + "\n";
    one(&sim, 2).is(&line, "", 0);
    fs::remove_file(sim.xml(2)).unwrap();
    one(&sim, 2).is("", &no_such_zone(name), 1);
    fs::write(sim.xml(2), &good[..good.len() / 2]).unwrap();
    one(&sim, 2).is("", &no_such_zone(name), 1);
    fs::write(sim.xml(2), &good).unwrap();
    sim.spoil_xml(2);
    one(&sim, 2).is("", &no_such_zone(name), 1);
}

/// Small documents that a less strict reader would judge wrongly.
#[test]
fn row_01_documents_that_the_dtd_accepts_and_refuses() {
    const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <!DOCTYPE zone PUBLIC \"-//Sun Microsystems Inc//DTD Zones//EN\" \
        \"file:///usr/share/lib/xml/dtd/zonecfg.dtd.1\">\n";
    let zone = |attributes: &str, children: &str| {
        format!(
            "{HEAD}<zone name=\"z\" zonepath=\"/z\" autoboot=\"false\" \
             brand=\"joyent\"{attributes}>{children}</zone>"
        )
    };
    let attr = "<attr name=\"a\" type=\"string\" value=\"\"/>";
    for good in [
        zone("", ""),
        zone("", &attr.repeat(2)),
        zone(" version=\"1\" hostid=\"\"", "<!-- a comment --> \n <?pi?>"),
        zone(" ip-type=\"foo\"", "<network physical=\"\"/>"),
        zone(
            "",
            "<device match=\"/d\"><net-attr name=\"\" value=\"\"/></device>",
        ),
    ] {
        assert!(simhost::dtd::parse(&good).is_some(), "{good}");
    }
    for bad in [
        String::new(),
        zone("", "")
            .replace("<!DOCTYPE", "<!-- <!DOCTYPE")
            .replace("dtd.1\">", "dtd.1\"> -->"),
        zone("", "")[..HEAD.len() + 40].to_string(),
        zone("", "\0"),
        zone("", "").replace("\"false\"", "\"yes\""),
        zone("", "").replace(" zonepath=\"/z\"", ""),
        zone(" colour=\"red\"", ""),
        zone(" version=\"2\"", ""),
        zone(" xmlns=\"http://x\"", ""),
        zone("", "text"),
        zone("", "<attr name=\"a\" value=\"\"/>"),
        zone("", "<attr name=\"a\" type=\"text\" value=\"\"/>"),
        zone("", "<attr name=\"a\" type=\"string\" value=\"\"> </attr>"),
        zone("", "<network address=\"1.2.3.4\"/>"),
        zone("", "<nonsense/>"),
        zone("", "<attr name=\"a\" type=\"int\" value=\"1\"><zone/></attr>"),
        zone("", "")
            .replace("zone name", "zones name")
            .replace("/zone", "/zones"),
    ] {
        assert!(simhost::dtd::parse(&bad).is_none(), "{bad}");
    }
}

#[test]
fn row_02_a_zone_that_is_up_needs_a_valid_xml() {
    let sim = Sim::with_vms(2);
    sim.spoil_xml(0);
    one(&sim, 0).is("", &bad_brand(&sim.names[0]), 1);
    fs::remove_file(sim.xml(1)).unwrap();
    one(&sim, 1).is("", &bad_brand(&sim.names[1]), 1);
}

#[test]
fn row_03_a_listing_of_all_reads_no_xml() {
    let sim = Sim::with_vms(3);
    let before = sim.run("zoneadm list -pc");
    assert_eq!(before.output.lines().count(), 4);
    for n in 0..3 {
        fs::write(sim.xml(n), "<zone").unwrap();
    }
    assert_eq!(sim.run("zoneadm list -pc"), before);
}

#[test]
fn row_04_a_zone_without_an_index_line_is_not_listed() {
    let sim = Sim::with_vms(3);
    let name = &sim.names[2];
    let text: String = sim
        .index_text()
        .lines()
        .filter(|line| !line.starts_with(name.as_str()))
        .map(|line| format!("{line}\n"))
        .collect();
    sim.set_index(&text);
    let error = format!("zoneadm: {name}: could not get state: {NONE}\n");
    one(&sim, 2).is("", &error, 1);
    assert_eq!(sim.listed(2), None);
}

#[test]
fn row_05_a_zone_that_is_up_is_listed_without_an_index_line() {
    let sim = Sim::with_vms(1);
    let with_line = sim.listed(0).unwrap();
    sim.set_index("global:installed:/\n");
    let said = one(&sim, 0);
    assert_eq!(field(&said.output, 4), "");
    let uuid = field(&with_line, 4);
    let without = with_line.replace(&format!(":{uuid}:joyent"), "::joyent");
    said.is(&(without + "\n"), "", 0);
}

#[test]
fn row_06_a_brand_that_is_not_installed_fails_after_the_line() {
    let sim = Sim::with_vms(1);
    let line = sim.listed(0).unwrap() + "\n";
    fs::remove_file(sim.path("/usr/lib/brand/joyent/platform.xml")).unwrap();
    one(&sim, 0).is(&line, &bad_brand(&sim.names[0]), 1);
    sim.run("zoneadm list -p").is(
        &("0:global:running:/::liveimg:shared:0\n".to_string() + &line),
        "",
        0,
    );
}

#[test]
fn row_07_an_xml_that_is_removed_after_the_line_was_printed() {
    let sim = Sim::with_vms(3);
    let line = sim.listed(2).unwrap() + "\n";
    let words = format!("zoneadm -z {} list -p", sim.names[2]);
    sim.run_held(&words, "halfway 3", |sim| {
        fs::remove_file(sim.xml(2)).unwrap();
    })
    .is(&line, &format!("zoneadm: list: {NONE}\n"), 1);
}

#[test]
fn row_08_an_xml_that_is_removed_during_the_run() {
    let sim = Sim::with_vms(3);
    let name = &sim.names[2];
    let words = format!("zoneadm -z {name} list -p");
    let good = fs::read_to_string(sim.xml(2)).unwrap();
    let remove = |sim: &Sim| fs::remove_file(sim.xml(2)).unwrap();
    sim.run_held(&words, "halfway 1", remove).is("", &bad_brand(name), 1);
    fs::write(sim.xml(2), &good).unwrap();
    let said = sim.run_held(&words, "halfway 2", remove);
    let start = format!("zoneadm: {name}: could not get brand name: ");
    assert!(said.error.starts_with(&start), "{said:?}");
    assert_eq!((said.output.as_str(), said.status), ("", Some(1)));
    // For a zone that is up and has no line, the zonepath is missing.
    let words = format!("zoneadm -z {} list -p", sim.names[0]);
    sim.set_index("global:installed:/\n");
    let said = sim.run_held(&words, "halfway 2", |sim| {
        fs::remove_file(sim.xml(0)).unwrap();
    });
    let text = format!("could not get zone path.: {NONE}\n");
    said.is("", &format!("zoneadm: {}: {text}", sim.names[0]), 1);
}

#[test]
fn row_09_an_index_that_cannot_be_read_lists_nothing() {
    let sim = Sim::with_vms(2);
    let index = sim.path("/etc/zones/index");
    fs::rename(&index, index.with_extension("away")).unwrap();
    sim.run("zoneadm list -pc").is("", "", 0);
    fs::create_dir(&index).unwrap();
    fs::set_permissions(&index, fs::Permissions::from_mode(0o700)).unwrap();
    sim.run("zoneadm list -pc").is("", "", 0);
}

#[test]
fn row_10_a_read_error_shortens_the_listing() {
    let sim = Sim::with_vms(3);
    let all = sim.run("zoneadm list -pc").output;
    sim.hurt("zoneadm", "short 2").unwrap();
    let first: String =
        all.lines().take(2).map(|line| format!("{line}\n")).collect();
    sim.run("zoneadm list -pc").is(&first, "", 0);
}

#[test]
fn row_11_malformed_lines_are_passed_over() {
    let sim = Sim::with_vms(2);
    let name = sim.names[1].clone();
    let before = sim.run("zoneadm list -pc");
    let long = "x".repeat(1200);
    let mut text = sim.index_text();
    for odd in [
        "# a comment",
        "",
        ":installed:/x:",
        " #no comment:installed:/x:",
        "odd:running:/zones/odd:",
        &format!("{}:installed:/x:", "n".repeat(64)),
        &long,
    ] {
        text = text.replacen('\n', &format!("\n{odd}\n"), 1);
    }
    // A leading blank is a part of the name.
    let text = text.replace(" #no comment:installed", " #no comment:odd");
    sim.set_index(&text);
    assert_eq!(sim.run("zoneadm list -pc"), before);
    // The rest of a line that is too long counts as a line.
    let rest = "tail:installed:/t::joyent:ex:7";
    sim.set_index(&format!("{}{rest}\n", "y".repeat(1139)));
    let said = sim.run("zoneadm list -pc");
    let zero = "00000000-0000-0000-0000-000000000000";
    said.is(&format!("-:tail:installed:/t:{zero}:joyent:excl:7\n"), "", 0);
    // If the line has only four fields, the XML says the rest.
    sim.set_index(&format!("{name}:installed:/zones/{name}:\n"));
    let said = sim.run("zoneadm list -pc");
    let wanted = format!("2:{name}:running:/zones/{name}::lx:excl:1001\n");
    said.is(&wanted, "", 0);
    fs::write(sim.xml(1), "<zone").unwrap();
    let said = sim.run("zoneadm list -pc");
    let start = format!("zoneadm: {name}: could not get brand name: ");
    assert!(said.error.starts_with(&start), "{said:?}");
    assert_eq!((said.output.as_str(), said.status), ("", Some(0)));
}

#[test]
fn row_12_a_last_line_without_its_end_is_passed_over() {
    let sim = Sim::with_vms(2);
    let text = sim.index_text();
    sim.set_index(text.trim_end());
    assert!(sim.listed(0).is_some());
    assert_eq!(sim.listed(1), None);
}

#[test]
fn row_13_the_first_of_several_lines_of_one_zone_counts() {
    let sim = Sim::with_vms(3);
    let name = &sim.names[2];
    let again = format!("{name}:configured:/other:::ex:9\n");
    sim.set_index(&(sim.index_text() + &again));
    let said = sim.run("zoneadm list -pc");
    let own = said.output.lines().filter(|line| line.contains(name.as_str()));
    assert_eq!(own.count(), 2, "{said:?}");
    let said = one(&sim, 2);
    assert_eq!(said.output.lines().count(), 1);
    assert_eq!(field(&said.output, 2), "installed");
}

#[test]
fn row_14_a_missing_uuid_is_all_zeros_in_a_full_listing() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    sim.edit_index(&name, |entry| entry.uuid = String::new()).unwrap();
    let zeros = "00000000-0000-0000-0000-000000000000";
    assert_eq!(field(&sim.listed(0).unwrap(), 4), zeros);
    assert_eq!(field(&one(&sim, 0).output, 4), "");
}

#[test]
fn row_15_uuids_are_in_lower_case() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    let upper = name.to_ascii_uppercase();
    let text = sim
        .index_text()
        .replace(&format!(":{name}:joyent"), &format!(":{upper}:joyent"));
    assert!(text.contains(&upper));
    sim.set_index(&text);
    assert_eq!(field(&sim.listed(0).unwrap(), 4), name);
    assert_eq!(field(&one(&sim, 0).output, 4), name);
}

#[test]
fn row_16_a_zone_with_a_shared_ip_stack_is_listed_as_shared() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    sim.edit_index(&name, |entry| entry.is_exclusive = false).unwrap();
    assert!(sim.index_text().contains(":joyent:sh:"));
    assert_eq!(field(&sim.listed(0).unwrap(), 6), "shared");
}

#[test]
fn row_17_one_zone_is_listed_by_its_xml_and_all_by_the_index() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    sim.edit_index(&name, |entry| {
        entry.brand = "lx".to_string();
        entry.is_exclusive = false;
        entry.debugid = Some(77);
    })
    .unwrap();
    let end = |line: &str| {
        let fields: Vec<_> = (5..8).map(|n| field(line, n)).collect();
        fields.join(":")
    };
    assert_eq!(end(&sim.listed(2).unwrap()), "lx:shared:77");
    assert_eq!(end(&one(&sim, 2).output), "bhyve:excl:1002");
    // If the index lacks the debug id, zoneadm prints whatever the memory held.
    let text = sim.index_text().replace(":lx:sh:77", ":lx:sh");
    sim.set_index(&text);
    assert!(field(&sim.listed(2).unwrap(), 7).parse::<u64>().is_ok());
}

#[test]
fn row_18_a_boot_replaces_a_debug_id_that_is_taken() {
    let sim = Sim::with_vms(3);
    let (name, other) = (sim.names[2].clone(), sim.names[0].clone());
    sim.edit_xml(&name, |xml| {
        simhost::xml::set_zone_attribute(xml, "debugid", "1000")
    })
    .unwrap();
    assert_eq!(field(&sim.listed(2).unwrap(), 7), "1000");
    sim.boot(&name).unwrap();
    let new = field(&sim.listed(2).unwrap(), 7);
    assert_ne!(new, "1000");
    assert_eq!(field(&one(&sim, 2).output, 7), new);
    // A debug id that no other zone has stays.
    sim.reboot(&other).unwrap();
    assert_eq!(field(&sim.listed(0).unwrap(), 7), "1000");
}

#[test]
fn row_19_to_22_a_known_uuid_replaces_the_name() {
    let sim = Sim::with_vms(3);
    let (a, b) = (&sim.names[0], &sim.names[2]);
    let line = |n| sim.listed(n).unwrap() + "\n";
    // 19: the uuid of another zone.
    sim.run(&format!("zoneadm -z {a} -u {b} list -p")).is(&line(2), "", 0);
    // 20: a uuid that is not known.
    let unknown = "11111111-2222-4333-8444-555555555555";
    sim.run(&format!("zoneadm -z {a} -u {unknown} list -p")).is(
        &line(0),
        "",
        0,
    );
    // 21: without a name, it is as if no uuid was given.
    let running = sim.run("zoneadm list -p");
    assert_eq!(running.output.lines().count(), 3);
    assert_eq!(sim.run(&format!("zoneadm -u {unknown} list -p")), running);
    let zeros = "00000000-0000-0000-0000-000000000000";
    assert_eq!(sim.run(&format!("zoneadm -u {zeros} list -p")), running);
    // 22: a text that is no UUID.
    let illegal = "illegal UUID value specified\n";
    sim.run("zoneadm -u web list -p").is("", &format!("zoneadm: {illegal}"), 1);
    sim.run(&format!("zoneadm -z {a} -u web list -p")).is(
        "",
        &format!("zoneadm: zone '{a}': {illegal}"),
        1,
    );
}

#[test]
fn row_23_the_options_of_a_full_listing_are_refused_for_one_zone() {
    let sim = Sim::with_vms(1);
    let name = &sim.names[0];
    for flags in ["-pc", "-pi", "-pn", "-p more"] {
        let said = sim.run(&format!("zoneadm -z {name} list {flags}"));
        assert_eq!((said.output.as_str(), said.status), ("", Some(2)));
        assert!(said.error.starts_with("usage"), "{said:?}");
    }
    let text = "zoneadm: list -p and -v are mutually exclusive.\n";
    sim.run("zoneadm list -pv").is("", text, 1);
}

#[test]
fn row_24_a_number_is_the_id_of_any_zone() {
    let sim = Sim::with_vms(1);
    for id in ["1", "0x1", "01"] {
        sim.run(&format!("zoneadm -z {id} list -p")).is("", &bad_brand(id), 1);
    }
    sim.run("zoneadm -z 42 list -p").is("", &no_such_zone("42"), 1);
}

#[test]
fn row_25_the_global_zone_can_be_listed_by_name() {
    let sim = Sim::with_vms(1);
    let line = "0:global:running:/::liveimg:shared:0\n";
    sim.run("zoneadm -z global list -p").is(line, "", 0);
}

#[test]
fn row_26_a_ready_zone_does_not_count_as_running() {
    let sim = Sim::with_vms(3);
    sim.ready(&sim.names[2]).unwrap();
    let lists = |flags: &str| {
        let said = sim.run(&format!("zoneadm list {flags}"));
        said.output.contains(sim.names[2].as_str())
    };
    assert!(!lists("-p"));
    assert!(lists("-pi") && lists("-pc"));
    assert_eq!(field(&sim.listed(2).unwrap(), 2), "ready");
}

#[test]
fn row_27_id_and_state_are_read_at_different_moments() {
    let sim = Sim::with_vms(3);
    let (up, down) = (sim.names[0].clone(), sim.names[2].clone());
    let start = |line: &str| {
        let fields: Vec<_> = (0..3).map(|n| field(line, n)).collect();
        fields.join(":")
    };
    let words = format!("zoneadm -z {up} list -p");
    let said = sim.run_held(&words, "halfway 2", |sim| {
        sim.halt(&up, -1).unwrap();
    });
    assert_eq!(start(&said.output), format!("1:{up}:installed"));
    let words = format!("zoneadm -z {down} list -p");
    let said = sim.run_held(&words, "halfway 2", |sim| {
        sim.boot(&down).unwrap();
    });
    assert_eq!(start(&said.output), format!("-:{down}:running"));
}

#[test]
fn row_28_every_command_needs_the_default_brand() {
    let sim = Sim::with_vms(1);
    let name = &sim.names[0];
    fs::write(sim.path("/etc/zones/SUNWdefault.xml"), "<zone/>").unwrap();
    let text = "unable to determine default brand\n";
    sim.run("zoneadm list -pc").is("", &format!("zoneadm: {text}"), 1);
    let of_zone = format!("zoneadm: zone '{name}': {text}");
    one(&sim, 0).is("", &of_zone, 1);
}

#[test]
fn row_29_every_command_needs_zfs() {
    let sim = Sim::with_vms(1);
    sim.hurt("zoneadm", "no-zfs").unwrap();
    let text = "failed to initialize ZFS library\n";
    sim.run("zoneadm list -pc").is("", text, 1);
    one(&sim, 0).is("", text, 1);
}

#[test]
fn row_77_the_halt_of_a_zone_with_an_invalid_xml() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    sim.spoil_xml(0);
    let words = format!("zoneadm -z {name} list -p");
    let looks = sim.steps(
        move |host| {
            let mut parts = words.split(' ').skip(1);
            let mut command =
                std::process::Command::new(host.path("/usr/sbin/zoneadm"));
            super::said(command.args(&mut parts).output().unwrap()).error
        },
        |host| host.halt(&name, -1).unwrap(),
    );
    let (bad, none) = (bad_brand(&name), no_such_zone(&name));
    let at = looks.iter().position(|error| *error == none).unwrap();
    assert!(looks[..at].iter().all(|error| *error == bad), "{looks:?}");
    assert!(looks[at..].iter().all(|error| *error == none), "{looks:?}");
    assert_eq!(field(&sim.listed(0).unwrap(), 2), "installed");
}

#[test]
fn row_78_an_edit_in_place_has_a_moment_without_a_zone() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let good = fs::read_to_string(sim.xml(2)).unwrap();
    let line = sim.listed(2).unwrap() + "\n";
    fs::write(sim.xml(2), "").unwrap();
    one(&sim, 2).is("", &no_such_zone(&name), 1);
    fs::write(sim.xml(2), good).unwrap();
    one(&sim, 2).is(&line, "", 0);
}

#[test]
fn row_79_zonecfg_refuses_what_the_dtd_refuses() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    sim.spoil_xml(2);
    let before = fs::read_to_string(sim.xml(2)).unwrap();
    assert!(sim.update(&name, "alias", "other").is_err());
    assert!(sim.start(&name).is_err() && sim.delete(&name).is_err());
    assert_eq!(fs::read_to_string(sim.xml(2)).unwrap(), before);
    assert!(!sim.is_up(&name).unwrap());
}

#[test]
fn row_80_a_zone_of_the_kernel_without_an_index_line_is_not_listed() {
    let sim = Sim::with_vms(1);
    sim.set_index("global:installed:/\n");
    let global = "0:global:running:/::liveimg:shared:0\n";
    sim.run("zoneadm list -pc").is(global, "", 0);
}
