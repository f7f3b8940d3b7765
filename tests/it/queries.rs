//! The answers to queries of /vms and /vms/NAME, rule by rule of the interface.

use vminfod::vm::json::Json;

use crate::harness::{Answer, Daemon, TestHost, text, wait_for};

/// The value of one member of each VM of an answer.
fn values(answer: &Answer, member: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let vms = answer.json();
    let vms = vms.as_array().unwrap().iter();
    vms.map(|vm| text(vm, member).to_string()).collect()
}

fn get_with(daemon: &Daemon, path: &str, fields: &str) -> Answer {
    let request =
        format!("GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    daemon.send(request.as_bytes())
}

/// Names of tags with characters that mean something in a list of names; how
/// each is written in a list; and its value.
const ODD_TAGS: [(&str, &str, &str); 4] = [
    ("a=b", r"a\=b", "1"),
    ("x,y", r"x\,y", "2"),
    ("back\\slash", r"back\\slash", "3"),
    ("docker:label:com.example", "docker:label:com.example", "5"),
];

#[test]
fn tags_with_odd_names_can_be_used_in_every_query() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let tags = include_str!("../fixtures/cases/json/tag-names.json");
    let stream = daemon.events_of(r"?paths=tags.x\,y,alias&snapshot=none");
    host.write_config(&name, "tags.json", tags).unwrap();
    for (tag, written, value) in ODD_TAGS {
        let encoded = written.replace('=', "%3D").replace('\\', "%5C");
        let query = format!("/vms/{name}?wait=tags.{encoded}={value}");
        assert_eq!(daemon.get(&query).status, 200, "{tag}");
        let query = format!("/vms?tags.{encoded}={value}&fields=uuid");
        assert_eq!(values(&daemon.get(&query), "uuid"), [name.as_str()]);
        let query = format!("/vms/{name}?fields=tags.{encoded},alias");
        let vm = daemon.get(&query).json();
        let only = vm.get("tags").unwrap().as_object().unwrap();
        assert_eq!((only.len(), only.get(tag)), (1, Some(&Json::from(value))));
        assert_eq!(text(&vm, "alias"), "vm0");
        // The tools read it in the same way.
        let condition = format!("tags.{written}={value}");
        let output = daemon.tool(&["wait", &name, &condition]);
        assert!(output.status.success(), "{output:?}");
    }
    let mut stream = stream;
    let event = stream.next().unwrap();
    assert_eq!(text(&event, "zonename"), name);
}

#[test]
fn an_answer_has_only_the_requested_fields() {
    let host = TestHost::with_vms(4);
    let daemon = host.start();
    let all = daemon.vms();
    let all = all.as_array().unwrap();
    let some = daemon.get("/vms?fields=uuid,nics.*.ip,tags").json();
    let some = some.as_array().unwrap();
    assert_eq!(some.len(), all.len());
    for (vm, part) in all.iter().zip(some) {
        let part = part.as_object().unwrap();
        assert_eq!(part.get("uuid"), vm.get("uuid"));
        assert_eq!(part.get("tags"), vm.get("tags"));
        let nics = vm.get("nics").unwrap().as_array().unwrap();
        let parts = part.get("nics").unwrap().as_array().unwrap();
        assert!(!nics.is_empty() && nics.len() == parts.len());
        for (nic, part) in nics.iter().zip(parts) {
            let part = part.as_object().unwrap();
            assert_eq!((part.len(), part.get("ip")), (1, nic.get("ip")));
        }
        assert!(part.len() <= 3);
    }
    let name = text(&all[1], "zonename");
    let one = daemon.get(&format!("/vms/{name}?fields=state,zonename")).json();
    assert_eq!(one.as_object().unwrap().len(), 2);
    assert_eq!(text(&one, "zonename"), name);
    for path in ["/vms", &format!("/vms/{name}")] {
        let answer = daemon.get(&format!("{path}?fields=state,bogus"));
        assert_eq!(answer.status, 400);
        assert!(text(&answer.json(), "error").contains("bogus"));
    }
}

#[test]
fn filters_select_vms() {
    let host = TestHost::with_vms(10);
    let daemon = host.start();
    let all = daemon.vms();
    let all = all.as_array().unwrap();
    let names = |is: &dyn Fn(&Json) -> bool| -> Vec<String> {
        let chosen = all.iter().filter(|vm| is(vm));
        chosen.map(|vm| text(vm, "zonename").to_string()).collect()
    };
    let first = all[0].clone();
    let alias = text(&first, "alias").to_string();
    let mac = first.get("nics").unwrap().as_array().unwrap()[0].clone();
    let mac = text(&mac, "mac").to_string();
    // As zonecfg writes it: without leading zeros.
    let short_mac = mac.replace(":0", ":");
    for (query, wanted) in [
        ("state=running", names(&|vm| text(vm, "state") == "running")),
        ("brand=kvm", names(&|vm| text(vm, "brand") == "kvm")),
        ("type=KVM", names(&|vm| text(vm, "brand") == "kvm")),
        ("brand=~^KV", names(&|vm| text(vm, "brand") == "kvm")),
        ("brand=!kvm", names(&|vm| text(vm, "brand") != "kvm")),
        (
            "brand=!~^kv&state=running",
            names(&|vm| {
                text(vm, "brand") != "kvm" && text(vm, "state") == "running"
            }),
        ),
        (&format!("alias={alias}"), names(&|vm| text(vm, "alias") == alias)),
        (&format!("nics.*.mac={short_mac}"), names(&|vm| *vm == first)),
        ("state=nothing", Vec::new()),
        ("state=running&state=nothing", Vec::new()),
        (
            "zoneid=~^",
            names(&|vm| vm.get("zoneid").and_then(Json::as_f64).is_some()),
        ),
    ] {
        let answer = daemon.get(&format!("/vms?{query}&fields=zonename"));
        assert_eq!(values(&answer, "zonename"), wanted, "{query}");
    }
    assert!(!names(&|vm| text(vm, "brand") == "kvm").is_empty());
    for (query, named) in [
        ("bogus=1", "bogus"),
        ("state!=running", "state!"),
        ("nics.*.bogus=1", "nics.*.bogus"),
        ("alias=~(", "("),
        ("alias=%ff", "%ff"),
    ] {
        let answer = daemon.get(&format!("/vms?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        let error = text(&answer.json(), "error").to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn an_unchanged_etag_gets_304() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    let paths = [
        "/vms".to_string(),
        "/vms?fields=alias".to_string(),
        format!("/vms/{}", names[0]),
        format!("/vms/{}?fields=alias", names[0]),
    ];
    let other = format!("/vms/{}", names[1]);
    let etag_of = |path: &str| {
        let answer = daemon.get(path);
        assert_eq!(answer.status, 200);
        assert!(answer.field("X-Vminfod-Seq").unwrap().parse::<u64>().is_ok());
        answer.field("ETag").unwrap().to_string()
    };
    let before = paths.each_ref().map(|path| etag_of(path));
    let other_before = etag_of(&other);
    let ask = |path: &str, etag: &str| {
        let field = format!("If-None-Match: {etag}\r\n");
        get_with(&daemon, path, &field)
    };
    for (path, etag) in paths.iter().zip(&before) {
        let answer = ask(path, etag);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{path}");
        assert_eq!(answer.field("ETag"), Some(&**etag));
        assert_eq!(ask(path, "\"x\"").status, 200);
    }
    let mut stream = daemon.events();
    host.update(&names[0], "alias", "another").unwrap();
    while text(&stream.vms[&names[0]], "alias") != "another" {
        stream.next().unwrap();
    }
    for (path, etag) in paths.iter().zip(&before) {
        let answer = ask(path, etag);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.text().contains("another"));
    }
    // A VM that has not changed still has the same ETag.
    assert_eq!(ask(&other, &other_before).status, 304);
    let missing = daemon.get("/vms/nobody");
    assert_eq!(missing.status, 404);
    assert!(missing.field("X-Vminfod-Seq").is_some());
}

#[test]
fn the_seq_of_an_answer_matches_the_events_up_to_it() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let mut stream = daemon.events();
    for n in 0..20 {
        host.update(&name, "tags.n", &n.to_string()).unwrap();
        let answer = daemon.get("/vms");
        let seq = answer.field("X-Vminfod-Seq").unwrap().parse().unwrap();
        if seq > stream.seq {
            stream.read_to(seq);
        }
        if seq == stream.seq {
            let vms = answer.json();
            let difference =
                crate::harness::first_difference(&vms, &stream.array());
            assert_eq!(difference, None);
        }
    }
}

#[test]
fn foreign_origins_and_host_names_are_refused() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--allow-host", "hv1.example"]);
    let port = daemon.addr.port();
    for (fields, status) in [
        (String::new(), 200),
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: localhost:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        ("Host: HV1.example\r\n".to_string(), 200),
        ("Host: evil.example\r\n".to_string(), 403),
        (format!("Host: evil.example:{port}\r\n"), 403),
        ("Host: localhost.evil.example\r\n".to_string(), 403),
        (format!("Host: 0.0.0.0:{port}\r\n"), 403),
        ("Host: \r\n".to_string(), 403),
        ("Host: localhost\r\nHost: localhost\r\n".to_string(), 400),
        ("Origin: http://localhost\r\n".to_string(), 403),
        ("Origin: null\r\n".to_string(), 403),
        ("Sec-Fetch-Site: cross-site\r\n".to_string(), 403),
        ("Sec-Fetch-Site: none\r\n".to_string(), 200),
    ] {
        for path in ["/vms", "/events?snapshot=none", "/ping"] {
            let is_stream = path.starts_with("/events") && status == 200;
            if !is_stream {
                let answer = get_with(&daemon, path, &fields);
                assert_eq!(answer.status, status, "{path} {fields}");
                assert!(status == 200 || !answer.text().contains("uuid"));
            }
        }
    }
}

#[test]
fn head_gets_the_status_and_fields_of_get() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    for path in [
        "/ping",
        "/status",
        "/vms",
        "/vms?fields=uuid",
        &format!("/vms/{name}"),
        &format!("/vms/{name}?wait=gone&timeout=0"),
        &format!("/vms/{name}?sync=1&fields=uuid"),
        "/vms/nobody",
        "/vms?bogus=1",
        "/nothing",
        "/metrics",
    ] {
        let get = daemon.get(path);
        let head = format!("HEAD {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
        let head = daemon.send(head.as_bytes());
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        let is_json = path != "/metrics";
        let kind = get.field("Content-Type").unwrap();
        assert_eq!(kind == "application/json", is_json, "{path}: {kind}");
        let length = get.field("Content-Length").unwrap();
        assert_eq!(length, get.body.len().to_string(), "{path}");
        if !matches!(path, "/status" | "/metrics") {
            assert_eq!(head.field("Content-Length"), Some(length), "{path}");
        }
    }
    let head = b"HEAD /events HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(daemon.send(head).status, 200);
    wait_for("nobody listens", || {
        let status = daemon.status();
        let listeners = status.get("eventsListeners").unwrap();
        let count = listeners.as_object().unwrap().len();
        if count == 0 { Ok(()) } else { Err(format!("{count}")) }
    });
}
