//! docs/openapi.yaml: what it says of VMs is what the table of properties says,
//! and what the daemon says is as it describes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use vminfod::source::MAPS;
use vminfod::vm::json::Json;
use vminfod::vm::properties::{self, ARRAYS, Holder, Property, Type};

use crate::harness::programs::{command, needs};
use crate::harness::{Daemon, Stream, TestHost, parse, text};
use crate::model::Kind;
use crate::model::step::Steps;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.yaml")
}

/// The lines that describe a property.
fn lines_of(property: &Property) -> String {
    let mut kind = match property.kind {
        Type::Text | Type::Base64 => vec!["string"],
        Type::Number | Type::Mib | Type::Column => vec!["number"],
        Type::Bool => vec!["boolean"],
        Type::List | Type::Numbers => vec!["array"],
        Type::Object => vec!["object"],
        Type::Null => vec!["\"null\""],
    };
    match (property.kind, property.source) {
        // What can't be translated remains a text, or becomes null.
        (Type::Bool, "xml") => kind.push("string"),
        (Type::Number | Type::Mib | Type::Column, _) => kind.push("\"null\""),
        _ => {}
    }
    let kind = format!("type: [{}]", kind.join(", "));
    let kind = match property.kind {
        Type::Column => format!("anyOf: [{{{kind}}}, {{const: \"-\"}}]"),
        _ => kind,
    };
    let mut lines = format!(
        "        {}:\n          description: \"{}\"\n          {kind}\n",
        property.name, property.meaning,
    );
    match property.kind {
        Type::List => lines += "          items: {type: string}\n",
        Type::Numbers => {
            lines += "          items: {type: [number, \"null\"]}\n";
        }
        _ => {}
    }
    let source = match property.key {
        Some(key) => format!("{} {key}", property.source),
        None => property.source.to_string(),
    };
    lines += &format!("          x-source: \"{source}\"\n");
    lines + &format!("          x-brands: \"{}\"\n", property.brands)
}

/// The lines that describe the properties of a holder.
fn lines(holder: Holder) -> String {
    let arrays = ARRAYS.map(|(name, _)| name);
    let plain = properties::of(holder)
        .filter(|p| holder != Holder::Vm || !arrays.contains(&p.name));
    let mut lines: String = plain.map(lines_of).collect();
    if holder == Holder::Vm {
        for (name, of) in ARRAYS {
            lines += &format!(
                "        {name}:\n          type: array\n          items: \
                 {{$ref: \"#/components/schemas/{of:?}\"}}\n"
            );
        }
        for map in MAPS {
            lines += &format!(
                "        {}:\n          description: \"what the file has, \
                 unchanged; usually an object with any names\"\n          \
                 x-source: \"{}\"\n          x-brands: \"all\"\n",
                map.name,
                map.file.name()
            );
        }
    }
    lines
}

/// The document with the properties as the table has them now.
fn generated(document: &str) -> String {
    let mut out = String::new();
    let mut lines_left = document.lines().peekable();
    while let Some(line) = lines_left.next() {
        out += line;
        out.push('\n');
        let Some(name) = line.trim().strip_prefix("# properties of ") else {
            continue;
        };
        let all = ARRAYS.map(|(_, holder)| holder);
        let mut all = all.into_iter().chain([Holder::Vm]);
        let is_it = |h: &Holder| format!("{h:?}").eq_ignore_ascii_case(name);
        out += &lines(all.find(is_it).unwrap());
        // What was there before is left out.
        while lines_left.next_if(|l| l.starts_with("        ")).is_some() {}
    }
    out
}

/// `make schema` writes what this test compares.
#[test]
fn the_schema_has_the_properties_of_the_table() {
    let document = fs::read_to_string(path()).unwrap();
    let wanted = generated(&document);
    if std::env::var_os("SCHEMA").is_some_and(|what| what == "write") {
        fs::write(path(), &wanted).unwrap();
        return;
    }
    let version = format!("version: \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(document.contains(&version), "{version}");
    let first = document.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert_eq!(first, None, "make schema writes it again");
    assert_eq!(document, wanted, "make schema writes it again");
}

/// What is known of the properties of today's daemon: for each its holder, name
/// and source, and for some the key in the XML, the translator and the brands.
const KNOWN: &str = include_str!("../fixtures/vm-properties.json");

/// The brands that a property's row names.
fn brands_of(property: &Property) -> BTreeSet<&'static str> {
    let zones = ["builder", "joyent", "joyent-minimal", "lx"];
    let named = property.brands.split(", ").flat_map(|name| match name {
        "all" => [&zones[..], &["bhyve", "kvm"]].concat(),
        "zones" => zones.to_vec(),
        name => vec![name],
    });
    named.collect()
}

#[test]
fn the_table_says_what_is_known_of_each_property() {
    let known = parse(KNOWN.as_bytes());
    let known = known.as_array().unwrap();
    assert_eq!(known.len(), 168);
    let mut compared = 0;
    for row in known {
        let (name, holder) = (text(row, "name"), text(row, "holder"));
        let is_container = ARRAYS.iter().any(|(array, _)| *array == name)
            || MAPS.iter().any(|map| map.name == name);
        // vmadm makes `type` itself.
        if is_container || (name, holder) == ("type", "vm") {
            continue;
        }
        let of_name = properties::ALL.iter().filter(|p| p.name == name);
        let is_of = |p: &&Property| {
            format!("{:?}", p.holder).eq_ignore_ascii_case(holder)
        };
        let found: Vec<_> = of_name.filter(is_of).collect();
        assert!(!found.is_empty(), "{row}");
        if let Some(key) = row.get("key").and_then(Json::as_str) {
            let key = key.strip_prefix("zone.").unwrap();
            let below = ["network.", "device.", "filesystem."];
            let below = below.iter().find_map(|b| key.strip_prefix(b));
            let key = below.unwrap_or(key);
            let kind = match text(row, "translator") {
                "none" => Type::Text,
                "base64_utf8" => Type::Base64,
                "number" => Type::Number,
                "bytes_to_mib" => Type::Mib,
                "bool_strict" => Type::Bool,
                "split_commas" => Type::List,
                "split_commas_number" => Type::Numbers,
                other => panic!("{other}: {row}"),
            };
            let is_it = |p: &&Property| (p.key, p.kind) == (Some(key), kind);
            assert!(found.iter().any(is_it), "{row}: {found:?}");
        }
        // vmadm takes `ram` for every brand, but keeps it only for these two.
        let brands = row.get("brands").and_then(Json::as_array);
        if let Some(brands) = brands.filter(|_| name != "ram") {
            let brands = brands.iter().map(|b| b.as_str().unwrap());
            let all = known.iter().filter(|other| {
                text(other, "name") == name && text(other, "holder") == holder
            });
            let all = all.filter_map(|other| other.get("brands")?.as_array());
            let mut wanted: BTreeSet<_> = brands.collect();
            wanted.extend(all.flatten().map(|b| b.as_str().unwrap()));
            let is_so = found.iter().any(|p| brands_of(p) == wanted);
            assert!(is_so, "{row}: {found:?}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

/// What validate.py prints of these lines, and whether all are valid.
fn validated(lines: &str) -> (String, bool) {
    let script = path().with_file_name("../tests/it/clients/validate.py");
    let mut child = command("vminfod-validator")
        .arg(script)
        .arg(path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_string();
    let writer =
        std::thread::spawn(move || stdin.write_all(lines.as_bytes()).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (said, output.status.success())
}

/// How many events are validated, at least.
const EVENTS: u64 = 240;

fn seq_of(daemon: &Daemon) -> u64 {
    daemon.status().get("seq").unwrap().as_u64().unwrap()
}

#[test]
fn what_the_daemon_says_is_as_the_schema_describes() {
    needs!["vminfod-validator"];
    let host = TestHost::with_vms(8);
    let daemon = host.start();
    let mut stream = daemon.events();
    let mut steps = Steps::new(11, Kind::Strict);
    // On a busy machine, one event may show what several operations have done.
    let mut debugid = 2_000_000;
    while debugid < 2_000_250 || seq_of(&daemon) < EVENTS {
        // An operation that the host refuses does not count.
        let _ = steps.operation().run(&host, debugid);
        debugid += 1;
    }
    let name = host.zonenames().unwrap().remove(0);
    host.write_config(&name, "tags.json", "{").unwrap();
    host.write_config(&name, "routes.json", "[1,2]").unwrap();
    let odd = r#"{"customer_metadata":[1],"internal_metadata":"s"}"#;
    host.write_config(&name, "metadata.json", odd).unwrap();
    daemon.get("/vms?sync=1");
    let mut lines = String::new();
    let mut add = |schema: &str, json: &Json| {
        lines += &format!("{schema}\t{json}\n");
    };
    add("Ready", &stream.ready);
    add("Status", &daemon.status());
    add("Status", &daemon.get("/status?full").json());
    let answers = ["/vms?bogus=1", "/vms?fields=x", "/events?since=x"];
    for path in answers {
        add("Error", &daemon.get(path).json());
    }
    for vm in daemon.vms().as_array().unwrap() {
        add("WholeVm", vm);
        let fields = format!("/vms/{}?fields=uuid,nics", text(vm, "zonename"));
        add("Vm", &daemon.get(&fields).json());
    }
    for recorded in ["objects-basic", "objects-edge"] {
        let host = TestHost::recorded(
            &path()
                .with_file_name(format!("../tests/fixtures/{recorded}/host")),
        );
        for vm in host.dumped().as_array().unwrap() {
            add("WholeVm", vm);
        }
    }
    for event in stream.read_to(seq_of(&daemon)) {
        add("Line", &event);
    }
    let query = "?heartbeat=0.1&snapshot=array&fields=uuid,nics.*.ip";
    let mut other: Stream = daemon.events_of(query);
    add("Line", &other.ready);
    add("Line", &other.next().unwrap());
    let count = lines.lines().count();
    assert!(count > 300, "{count} values");
    let (said, is_valid) = validated(&lines);
    assert!(is_valid, "{said}");
}

#[test]
fn a_wrong_answer_does_not_pass_the_schema() {
    needs!["vminfod-validator"];
    for (schema, json, wrong) in [
        ("Vm", r#"{"quota":"10"}"#, "'10' is not of type"),
        ("Vm", r#"{"qouta":10}"#, "'qouta' was unexpected"),
        ("Vm", r#"{"nics":[{"mtu":"x"}]}"#, "nics.0.mtu"),
        ("WholeVm", r#"{"uuid":"u"}"#, "'zonename' is a required property"),
        (
            "Change",
            r#"{"path":[0],"prettyPath":"a","action":"added"}"#,
            "path.0",
        ),
        ("Error", "{}", "'error' is a required property"),
        ("Clock", r#""4.78s""#, "does not match"),
    ] {
        let (said, is_valid) = validated(&format!("{schema}\t{json}\n"));
        assert!(!is_valid && said.contains(wrong), "{json}: {said}");
        assert!(said.starts_with("the document is valid OpenAPI 3.1.0\n"));
    }
}
