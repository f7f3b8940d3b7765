//! `check --against`, and `--report`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use vminfod::vm::json::Json;

use super::*;

/// Serves one answer to `/vms`, as today's daemon does, and 404 to all else.
fn serve(vms: &Json) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let body = vms.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut head = BufReader::new(&stream);
            let mut first = String::new();
            let _ = head.read_line(&mut first);
            let mut line = first.clone();
            while line.trim() != "" {
                line.clear();
                let _ = head.read_line(&mut line);
            }
            let (status, body) = match first.starts_with("GET /vms ") {
                true => ("200 OK", body.as_str()),
                false => ("404 Not Found", "Unsupported URL Path"),
            };
            let length = body.len();
            let _ = (&stream).write_all(
                format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\nConnection: close\r\n\r\n\
                     {body}"
                )
                .as_bytes(),
            );
        }
    });
    address
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

#[test]
fn check_against_the_recorded_reference_finds_no_difference() {
    for set in ["objects-basic", "objects-edge"] {
        let host = TestHost::recorded(&fixture(set).join("host"));
        let recorded = fixture(set).join("expected-vms.json");
        let recorded = parse(&fs::read(recorded).unwrap());
        let address = serve(&recorded);
        let output = check(&host, &["-j", "--against", &address]);
        let found = verdicts(&output);
        for fact in ["against.vms", "against.properties"] {
            assert!(found.holds.contains(fact), "{set}: {}", stdout(&output));
        }
    }
}

/// The VMs of a host, with a member of the first `n` of them set.
fn with_member(vms: &Json, name: &'static str, value: &str, n: usize) -> Json {
    let vms = vms.as_array().unwrap().iter().enumerate();
    let changed = vms.map(|(at, vm)| {
        let mut vm = vm.as_object().unwrap().clone();
        if at < n {
            vm.set(name, Json::parse(value).unwrap());
        }
        Json::from(vm)
    });
    Json::from(changed.collect::<Vec<_>>())
}

#[test]
fn check_groups_differences_from_a_daemon_by_property() {
    let host = TestHost::with_vms(6);
    let vms = host.dumped();
    let against = |served: &Json| {
        let output = check(&host, &["--against", &serve(served)]);
        (output.status.code(), stdout(&output))
    };
    let (status, said) = against(&vms);
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = against(&with_member(&vms, "odd", "null", 3));
    assert_eq!(status, Some(1));
    let wanted = "odd: 3 VMs, the daemon has null, the system has nothing, \
        for example ";
    assert!(said.contains(wanted), "{said}");
    assert!(!said.contains("against.vms differs"), "{said}");
    let all = vms.as_array().unwrap();
    let fewer = Json::from(all[1..].to_vec());
    let (status, said) = against(&fewer);
    assert_eq!(status, Some(1));
    let name = text(&all[0], "zonename");
    let wanted = format!("VM {name}: the system has it, the daemon does not");
    assert!(said.contains(&wanted), "{said}");
    assert!(!said.contains("against.properties differs"), "{said}");
    // Nothing differs from a real daemon of this host.
    let daemon = host.start();
    let address = daemon.addr.to_string();
    let output = check(&host, &["--against", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
}

/// Collects every string in a JSON value, and the names in maps such as tags,
/// each with the property that it belongs to.
fn texts(json: &Json, of: &str, to: &mut BTreeMap<String, String>) {
    match json {
        Json::String(text) => {
            to.insert(text.to_string(), of.to_string());
        }
        Json::Array(all) => all.iter().for_each(|json| texts(json, of, to)),
        Json::Object(members) => {
            for (name, value) in members.iter() {
                let is_map = ["tags", "customer_metadata", "internal_metadata"];
                if is_map.contains(&of) {
                    to.insert(name.to_string(), of.to_string());
                }
                let of = if is_map.contains(&of) { of } else { name };
                texts(value, of, to);
            }
        }
        _ => {}
    }
}

/// Values that are the same on every machine: a report may have them.
const COMMON: [&str; 26] = [
    "running",
    "stopped",
    "installed",
    "joyent",
    "joyent-minimal",
    "lx",
    "kvm",
    "bhyve",
    "zones",
    "lz4",
    "off",
    "on",
    "net0",
    "net1",
    "virtio",
    "disk",
    "external",
    "1",
    "excl",
    "exclusive",
    "sim",
    "20260101T000000Z",
    "failed",
    "admin",
    "data",
    "lofs",
];

#[test]
fn a_report_contains_no_value_of_any_vm() {
    let host = TestHost::with_vms(10);
    let names = host.zonenames().unwrap();
    for (at, name) in names.iter().enumerate() {
        host.update(name, "alias", &format!("secretalias{at}")).unwrap();
        host.update(name, "tags.hiddenkey", "hiddentag").unwrap();
        host.update(name, "customer_metadata.secretkey", "hush").unwrap();
        host.update(name, "resolvers", "203.0.113.77").unwrap();
    }
    let vms = host.dumped();
    let mut values = BTreeMap::new();
    texts(&vms, "", &mut values);
    // Make as many facts as possible differ, so that much is shown.
    let changed = with_member(&vms, "alias", "\"otheralias\"", 9);
    let changed = with_member(&changed, "tags", "{\"oddkey\":\"oddtag\"}", 9);
    let changed =
        with_member(&changed, "nics", "[{\"ip\":\"10.99.98.97\"}]", 9);
    let mac = "{\"a\":\"90:b8:d0:aa:bb:cc\"}";
    let changed = with_member(&changed, "customer_metadata", mac, 9);
    let (name, xml) = stopped(&host);
    edit(&xml, |text| text[..text.len() / 2].to_string());
    let path = host.zone_dir(&names[0]).unwrap().join("config/tags.json");
    fs::write(path, "{\"hiddenkey\":\"hiddentag\"").unwrap();
    let path = host.zone_dir(&name).unwrap().join("lastexited");
    fs::write(path, "secretalias0 hush 203.0.113.77\n").unwrap();
    replace(&host, "kstat", "$real \"$@\"; echo secretalias1");
    replace(&host, "zoneadm", "$real \"$@\"; echo hush hiddentag >&2");
    edit_index(&host, |text| text + "secretalias2:odd:/zones/secret\n");
    let file = host.path("/report.json");
    let address = serve(&changed);
    let file_name = file.to_str().unwrap();
    let output =
        check(&host, &["-j", "--against", &address, "--report", file_name]);
    let found = verdicts(&output);
    assert!(found.differs.len() >= 8, "{:?}", found.differs);
    let plain = stdout(&output);
    let report = fs::read_to_string(&file).unwrap();
    // The plain output, for the owner of the machine, has these values.
    for secret in ["secretalias2", "hush", "otheralias", &name, "oddtag"] {
        assert!(plain.contains(secret), "{secret}");
    }
    let planted = [
        "otheralias",
        "oddkey",
        "oddtag",
        "10.99.98.97",
        "90:b8:d0:aa:bb:cc",
        "secret",
        "hush",
    ];
    for value in planted {
        assert!(!report.contains(value), "{value}: {report}");
    }
    for (value, of) in values {
        if value.len() > 2 && !COMMON.contains(&value.as_str()) {
            assert!(!report.contains(&value), "{of}: {value}: {report}");
        }
    }
    let root = host.root().file_name().unwrap().to_str().unwrap();
    assert!(!report.contains(root), "{report}");
    // The report still says what is wrong, and has the same name for the same
    // thing everywhere.
    let report = parse(report.as_bytes());
    let sentence = text(&report, "sentence");
    assert!(sentence.starts_with("this machine is not as"), "{sentence}");
    assert_eq!(report.get("differ"), parse(plain.as_bytes()).get("differ"));
}
