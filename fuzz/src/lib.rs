//! What must hold for any input from outside: a function for each parser,
//! called by the fuzzer with generated inputs, and by the tests with the seeds.

mod apply;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vminfod::cache::Prepared;
use vminfod::config::{Paths, is_zonename};
use vminfod::event::SourceEvent;
use vminfod::http::request::{ParsedHead, parse as parse_request};
use vminfod::http::route::{Route, Wait, route};
use vminfod::hub::Vm;
use vminfod::load::assemble::{Parts, assemble};
use vminfod::load::zfs::Depth;
use vminfod::load::{kstat, zfs, zoneadm, zonexml};
use vminfod::settings::HttpLimits;
use vminfod::vm::diff::diff as changes_of;
use vminfod::vm::fields::Fields;
use vminfod::vm::filter::Search;
use vminfod::vm::json::{Json, Object};
use vminfod::watch::sysevent::Record;
use vminfod::watch::{zfs as zfs_events, zone as zone_events};

const UUID: &str = "0aa46416-2c8d-658d-cb21-eba504d46270";

/// Parses zone XML, and checks the VM object that is served and its JSON.
pub fn zonexml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = zonexml::parse(text) else { return };
    let line = format!("-:z:installed:/zones/z:{UUID}:joyent:excl:7\n");
    let row = zoneadm::parse(&line).rows.remove(0);
    let parts = Parts::new(row, Arc::new(parsed.xml), Arc::new(Object::new()));
    let object = assemble(&parts).expect("it has a uuid");
    assert_eq!(object.get_str("uuid"), Some(UUID));
    assert!(changes_of(&object, &object).is_empty());
    let served = Json::from(object).to_string();
    let read = Json::parse(&served).expect("it is JSON");
    assert_eq!(read.to_string(), served);
    assert!(Prepared::new(parts).is_some());
}

/// Parses a line of sysevent, and checks the event of either source.
pub fn sysevent(data: &[u8]) {
    let Ok(Record::Event(record)) = Record::parse(data) else { return };
    let events = [zone_events::parse(&record), zfs_events::parse(&record)];
    for event in events.into_iter().flatten() {
        // It must be short: it is logged, and kept while it waits.
        assert!(event.to_string().len() < 1 << 16);
        match event {
            SourceEvent::Zone(change) => assert!(is_zonename(&change.zonename)),
            SourceEvent::Vm(change) => assert!(is_zonename(&change.zonename)),
            SourceEvent::Dataset(change) => assert!(!change.dataset.is_empty()),
            other => panic!("not of sysevent: {other}"),
        }
    }
}

/// Parses lines of zoneadm, and checks that names and paths never lead out of
/// the directories where they belong.
pub fn zoneadm(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let paths = Paths::new(Path::new("/root"));
    for row in zoneadm::parse(&text).rows {
        assert!(is_zonename(&row.zonename));
        let xml = paths.zone_xml(&row.zonename);
        assert_eq!(xml.parent(), Some(Path::new("/root/etc/zones")));
        if let Some(dir) = paths.zone_dir(&row.zonepath) {
            assert!(dir.starts_with("/root/"));
            let above = |c: &std::path::Component<'_>| c.as_os_str() == "..";
            assert!(!dir.components().any(|c| above(&c)));
        }
    }
}

/// Parses lines of zfs, and checks the datasets that are found by their
/// mountpoints.
pub fn zfs(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for depth in [Depth::Alone, Depth::Children] {
        let Ok(datasets) = zfs::parse(&text, depth, |_| true) else { continue };
        for line in text.lines() {
            let Some(at) = line.split('\t').nth(16) else { continue };
            if let Some(found) = datasets.mounted_at(at) {
                assert!(datasets.get(&found.name).is_some());
                // A dataset that a zone manages is not found. Of the columns,
                // `zoned` is 15, and the name is 3.
                let says_so = |line: &str| {
                    let fields: Vec<_> = line.splitn(17, '\t').collect();
                    fields.len() == 17
                        && fields[3] == &*found.name
                        && fields[15] != "on"
                };
                assert!(text.lines().any(says_so));
            }
        }
    }
}

/// Parses lines of kstat, and checks what the kernel says of zones.
pub fn kstat(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(zones) = kstat::parse(&text) {
        for (zonename, info) in zones {
            assert!(text.contains(&zonename));
            assert!(!info.boot_time.is_nan() && !info.init_pid.is_nan());
        }
    }
}

/// Parses a request, which must be complete at the last byte of its head, and
/// checks its route.
pub fn http(data: &[u8]) {
    let limits = HttpLimits::default();
    let parsed = parse_request(data, &limits);
    if let ParsedHead::Request(request, len) = &parsed {
        assert!(*len <= data.len());
        assert_eq!(parse_request(&data[..*len], &limits), parsed);
        // A head is complete at its last byte, and not before.
        let before = parse_request(&data[..*len - 1], &limits);
        assert_eq!(before, ParsedHead::Partial);
        let target = &request.target;
        let route = route(&request.method, target, &limits);
        if let Route::Vm(name, _) = &route {
            assert!(!name.is_empty() && target.starts_with("/vms/"));
        }
        try_route(&route);
    }
    let target = String::from_utf8_lossy(data);
    for path in ["", "/vms/", "/vms?", "/vms/a?", "/events?", "/status?"] {
        try_route(&route("GET", &format!("{path}{target}"), &limits));
    }
}

/// Applies the query of a route to a VM: that must work for every query that
/// was accepted.
fn try_route(route: &Route) {
    let vm = r#"{"uuid":"u","alias":"a","quota":1,"zoneid":null,"tags":{"a":1},
        "nics":[{"mac":"m","ips":["1"]}],"resolvers":["a"]}"#;
    let vm = Json::parse(vm).expect("it is JSON");
    let vm = vm.as_object().expect("it is an object");
    let search = Search::new(Duration::from_secs(1));
    let is_part = |fields: &Option<Fields>| {
        let Some(fields) = fields else { return };
        let part = fields.of(vm);
        assert!(part.iter().all(|(name, _)| vm.contains(name)));
    };
    match route {
        Route::Vms(of) => {
            is_part(&of.fields);
            let _ = of.filter.passes(vm, &search);
        }
        Route::Vm(_, of) => {
            is_part(&of.fields);
            if let Some(Wait::Holds(conditions)) = &of.wait {
                assert!(!conditions.is_empty());
                let _ = conditions.iter().all(|c| c.holds(vm, &search));
            }
        }
        Route::Events(of) => {
            is_part(&of.wanted.fields);
            let _ = of.wanted.has_vm(&Vm::new(vm.clone()));
        }
        Route::BadQuery(error) => assert!(!error.to_string().is_empty()),
        _ => {}
    }
}

/// Makes two objects from the bytes: the changes from one to the other must
/// lead to the other.
pub fn diff(data: &[u8]) {
    let mut bytes = Bytes { data, at: 0 };
    let (from, to) = (bytes.vm(), bytes.vm());
    let changes = changes_of(&from, &to);
    assert_eq!(
        changes.is_empty(),
        Json::from(from.clone()) == Json::from(to.clone())
    );
    let reached = apply::apply(&from, &changes)
        .unwrap_or_else(|what| panic!("{what}: {changes:?}"));
    assert_eq!(
        apply::as_set(&Json::from(reached)),
        apply::as_set(&Json::from(to.clone())),
        "from {}",
        Json::from(from)
    );
}

/// Makes objects from bytes, with few names and values, so that two objects
/// have some in common.
struct Bytes<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn below(&mut self, below: u8) -> u8 {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte % below
    }

    fn vm(&mut self) -> Object {
        let mut vm = self.object(2);
        for (array, member) in [("nics", "mac"), ("disks", "path")] {
            let elements = (0..self.below(4)).map(|n| {
                let mut element = self.object(1);
                element.set(member, Json::Number(f64::from(n)));
                Json::from(element)
            });
            let mut elements: Vec<_> = elements.collect();
            if self.below(4) == 0 {
                elements.reverse();
            }
            vm.set(array, elements);
        }
        vm
    }

    fn object(&mut self, depth: u8) -> Object {
        const NAMES: [&str; 6] = ["a", "b.c", "[", "nics", "*", ""];
        let mut object = Object::new();
        for _ in 0..self.below(4) {
            let name = NAMES[usize::from(self.below(6))];
            object.set(name, self.value(depth));
        }
        object
    }

    fn value(&mut self, depth: u8) -> Json {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => Json::Null,
            1 => Json::Bool(self.below(2) == 0),
            2 => Json::Number(f64::from(self.below(3))),
            3 => Json::from(["x", "y"][usize::from(self.below(2))]),
            4 => Json::from(self.object(depth - 1)),
            _ => {
                let count = self.below(4);
                let elements = (0..count).map(|_| self.value(depth - 1));
                Json::from(elements.collect::<Vec<_>>())
            }
        }
    }
}
