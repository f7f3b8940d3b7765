//! /status: its members, and their forms as today's clients know them.

use regex_lite::Regex;
use vminfod::vm::json::Json;
use vminfod_client::{Client, EventsQuery};

use crate::harness::{TestHost, parse, text, wait_for};

/// The members that today's clients read, each with a value of its form. `*`
/// stands for any name; the text `any` for any text.
const FORM: &str = include_str!("../fixtures/answers/status-full.json");

/// The forms of texts. A text of a form may only be replaced by another of it.
const FORMS: [(&str, &str); 4] = [
    ("a date", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"),
    ("a moment of a clock", r"^\d+\.\d{9}s \(\d+\.\d\ds\)$"),
    ("a time ago, and a duration", r"^\d+\.\ds \(\d+\.\ds\)$"),
    ("a number of seconds", r"^\d+\.\ds$"),
];

/// Adds to `wrong` where `answer` lacks a member of `form`, or has a value of
/// another kind there. Each element of an array has to be like the first one of
/// `form`.
fn compare(answer: &Json, form: &Json, at: &str, wrong: &mut Vec<String>) {
    match (answer, form) {
        (Json::Object(answer), Json::Object(form)) => {
            for (name, form) in form.iter() {
                let at = format!("{at}.{name}");
                match (name, answer.get(name)) {
                    ("*", _) => answer.iter().for_each(|(_, value)| {
                        compare(value, form, &at, wrong)
                    }),
                    (_, Some(value)) => compare(value, form, &at, wrong),
                    (_, None) => wrong.push(format!("{at} is missing")),
                }
            }
        }
        (Json::Array(answer), Json::Array(form)) => {
            for (value, form) in answer.iter().zip(form.iter().cycle()) {
                compare(value, form, &format!("{at}[]"), wrong);
            }
        }
        (Json::String(answer), Json::String(form)) => {
            for (what, regex) in FORMS {
                let regex = Regex::new(regex).unwrap();
                if regex.is_match(form) && !regex.is_match(answer) {
                    wrong.push(format!("{at} is {answer:?}, not {what}"));
                }
            }
        }
        (Json::Number(_), Json::Number(_)) | (Json::Bool(_), Json::Bool(_)) => {
        }
        _ => wrong.push(format!("{at} is {answer}")),
    }
}

/// Where `answer` differs from [`FORM`].
fn differences(answer: &Json) -> Vec<String> {
    let mut wrong = Vec::new();
    compare(answer, &parse(FORM.as_bytes()), "", &mut wrong);
    wrong
}

#[test]
fn every_member_of_status_has_the_form_that_todays_clients_know() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    host.hurt("zoneadm", "fail broken").unwrap();
    let client = Client::new(daemon.addr).name("test");
    let _stream = client.events(EventsQuery::new()).unwrap();
    daemon.get("/vms?sync=1&timeout=0.1");
    let status = wait_for("an error of a reload", || {
        let status = daemon.get("/status?full").json();
        let errors = status.get("refreshErrors").unwrap().as_array().unwrap();
        if errors.is_empty() { Err(status.to_string()) } else { Ok(status) }
    });
    assert_eq!(differences(&status), [""; 0]);
    // Without `full`, the two long members are left out.
    let short = daemon.get("/status").json();
    let missing = [".refreshLog is missing", ".fswatcher is missing"];
    assert_eq!(differences(&short), missing);
}

#[test]
fn a_wrong_form_is_found() {
    let form = parse(FORM.as_bytes());
    assert_eq!(differences(&form), [""; 0]);
    for (right, wrong, at) in [
        ("\"uptime\":1427", "\"uptime\":\"1427\"", ".uptime is"),
        ("\"now\":", "\"then\":", ".queue.now is missing"),
        ("4.777089214s (4.78s)", "4.78s", "a moment of a clock"),
        ("\"12.3s (12.3s)\"", "null", ".lastRefresh is null"),
        ("\"took\":\"any\"", "\"took\":1", ".refreshLog[].took is 1"),
    ] {
        let text = form.to_string().replace(right, wrong);
        let found = differences(&parse(text.as_bytes())).join(", ");
        assert!(found.contains(at), "{wrong}: {found}");
    }
}

#[test]
fn status_has_true_values_in_the_members_that_todays_clients_read() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let stream = daemon.events();
    let status = parse(&daemon.get("/status?full=true").body);
    for (member, value) in [
        ("pid", Json::from(daemon.child.id())),
        ("state", Json::from("running")),
        ("status", Json::from("working")),
        ("numVms", Json::Number(2.0)),
        ("refreshErrors", Json::from(Vec::new())),
        ("eventsListenersCutOff", Json::Number(0.0)),
        ("version", Json::from(env!("CARGO_PKG_VERSION"))),
        ("epoch", stream.ready.get("epoch").unwrap().clone()),
        ("seq", stream.ready.get("seq").unwrap().clone()),
    ] {
        assert_eq!(status.get(member), Some(&value), "{member}");
    }
    // What today's `vminfo status -f` reads.
    let fswatcher = status.get("fswatcher").unwrap();
    let listed = |name: &str| -> Vec<String> {
        let paths = fswatcher.get(name).unwrap().as_array().unwrap().iter();
        paths.map(|path| path.as_str().unwrap().to_string()).collect()
    };
    let path = |path: &str| host.path(path).to_str().unwrap().to_string();
    assert!(listed("watching").contains(&path("/etc/zones/index")));
    let zonename = host.zonenames().unwrap().remove(0);
    let routes = path(&format!("/zones/{zonename}/config/routes.json"));
    assert!(listed("not_yet_watching").contains(&routes));
    assert_eq!(fswatcher.get("running"), Some(&Json::Bool(true)));
    assert_eq!(fswatcher.get("watcher_pid"), status.get("pid"));
    assert!(fswatcher.get("pending_actions").unwrap().as_object().is_some());
    assert!(fswatcher.get("message_delays").unwrap().as_object().is_some());
    let queue = status.get("queue").unwrap();
    assert_eq!(queue.get("max_jobs"), Some(&Json::Number(2.0)));
    assert_eq!(queue.get("paused"), Some(&Json::Bool(false)));
    let vasync = queue.get("vasync_queue").unwrap();
    assert_eq!(vasync.get("concurrency"), Some(&Json::Number(2.0)));
    let uuid = text(&stream.ready, "uuid");
    let listeners = status.get("eventsListeners").unwrap();
    assert!(listeners.get(uuid).is_some(), "{listeners}");
    let rss = status.get("memory").unwrap().get("rss").unwrap();
    assert!(rss.as_u64().unwrap() > 1 << 20);
}

#[test]
fn the_log_of_full_reloads_says_what_each_has_changed() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--refresh-interval", "100000"]);
    let log = || {
        let status = parse(&daemon.get("/status?full=true").body);
        let log = status.get("refreshLog").unwrap().as_array().unwrap();
        (log.to_vec(), text(&status, "lastRefresh").to_string())
    };
    let list = |of: &Json, name: &str| {
        of.get(name).unwrap().as_array().unwrap().to_vec()
    };
    let (first, _) = log();
    assert_eq!(first.len(), 1);
    assert_eq!(text(&first[0], "cause"), "start");
    assert_eq!(first[0].get("numVms"), Some(&Json::Number(2.0)));
    let names = host.zonenames().unwrap();
    let created = list(&first[0], "cacheChanges");
    let created: Vec<_> = created
        .iter()
        .map(|c| (text(c, "type"), text(c, "zonename")))
        .collect();
    assert_eq!(created, [("create", &*names[0]), ("create", &*names[1])]);
    assert_eq!(list(&first[0], "vmChanges"), []);

    // No event reports this change, so only a full reload finds it.
    host.hurt("sysevent-zfs", "drop").unwrap();
    let own = format!("zones/{}", names[1]);
    host.zfs_set(&own, "quota", "64424509440").unwrap();
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    let (second, last) = log();
    assert_eq!(second.len(), 2);
    assert_eq!(list(&second[1], "cacheChanges"), []);
    let changes = list(&second[1], "vmChanges");
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(text(&changes[0], "zonename"), names[1]);
    let paths = list(&changes[0], "paths");
    assert!(paths.contains(&Json::from("quota")), "{paths:?}");
    // Both are times of the same reload.
    let (_, took) = last.split_once(" (").unwrap();
    assert_eq!(took.trim_end_matches(')'), text(&second[1], "took"));
}
