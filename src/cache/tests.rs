//! The cache alone: what is published, counted and shared.

use std::sync::Arc;

use super::{Applied, Cache, Since, Start, Tally, Update};
use crate::event::{Cause, GONE, Transition};
use crate::hub::{Hub, HubLimits, Vm};
use crate::load::assemble::Parts;
use crate::load::{zoneadm, zonexml};
use crate::settings::HttpLimits;
use crate::source::EventSource;
use crate::vm::json::{Json, Object};

const NAME: &str = "0aa46416-2c8d-658d-cb21-eba504d46270";

fn cache() -> Cache {
    let limits = HttpLimits::default();
    let limits = HubLimits {
        kept_events: 100,
        kept_bytes: 1 << 20,
        subscribers: limits.subscribers,
        versions: 16,
        lag_events: 1000,
        lag_bytes: 8 << 20,
    };
    Cache::new("life".into(), Arc::new(Hub::new(limits)))
}

fn parts(state: &str, key: &str) -> Parts {
    let line = format!("5:{NAME}:{state}:/zones/{NAME}:{NAME}:lx:excl:7\n");
    let row = zoneadm::parse(&line).rows.remove(0);
    let xml = format!("<zone name=\"{NAME}\" brand=\"lx\"/>");
    let xml = Arc::new(zonexml::parse(&xml).unwrap().xml);
    let mut parts = Parts::new(row, xml, Arc::default());
    let mut metadata = Object::new();
    metadata.set(key.to_string(), "value");
    *parts.map_mut("customer_metadata").unwrap() = Json::from(metadata);
    parts
}

/// Applies what was loaded; returns the types of the events.
fn apply(
    cache: &Cache,
    parts: Option<Parts>,
    reported: &[&'static str],
) -> String {
    let name = Arc::from(NAME);
    let base = cache.parts(NAME);
    let update = parts.map_or(Update::Gone, |parts| {
        Update::Vm(cache.prepare(NAME, base.as_ref(), parts).unwrap())
    });
    let transition = |state: &&'static str| Transition::new(state, None);
    let reported: Vec<_> = reported.iter().map(transition).collect();
    let cause = Cause::now(EventSource::Zone, "a test");
    let applied = cache.apply(&name, base.as_ref(), update, &reported, &cause);
    let Applied::Stored { published, .. } = applied else { panic!("dropped") };
    let kinds = published.iter().map(|event| event.kind.name());
    kinds.collect::<Vec<_>>().join(" ")
}

#[test]
fn every_state_that_was_reported_is_published() {
    let cache = cache();
    for (vm, reported, events) in [
        (Some("installed"), &[][..], "create"),
        (Some("installed"), &[], ""),
        (Some("installed"), &["installed"], ""),
        (Some("installed"), &["running", "installed"], "modify modify"),
        // The end of the old zone is reported late: nothing else has changed.
        (Some("installed"), &[GONE], "modify delete create"),
        (Some("installed"), &[], ""),
        (Some("running"), &["ready", "running"], "modify modify"),
        (Some("running"), &[GONE, "running"], "modify delete create"),
        (None, &[GONE], "modify delete"),
        (Some("running"), &[], "create"),
    ] {
        let parts = vm.map(|state| parts(state, "key"));
        assert_eq!(apply(&cache, parts, reported), events, "{reported:?}");
        let served = cache.snapshot().vms;
        let states = served.iter();
        let states = states.filter_map(|vm| vm.object().get_str("zone_state"));
        assert_eq!(states.collect::<Vec<_>>(), Vec::from_iter(vm));
        let mut tally = Tally::default();
        for vm in &*served {
            let of = |name| vm.object().get_str(name).unwrap().to_string();
            *tally.vms.entry(["state", "brand"].map(of)).or_default() += 1;
            tally.bytes += vm.json().len();
        }
        assert_eq!(cache.tally(), tally);
    }
}

#[test]
fn unchanged_members_share_memory_with_the_served_vm() {
    let cache = cache();
    assert_eq!(apply(&cache, Some(parts("running", "a")), &[]), "create");
    let before = cache.snapshot().vms[0].clone();
    let base = cache.parts(NAME);
    let mut new = parts("running", "a");
    *new.map_mut("tags").unwrap() = Json::parse(r#"{"role":"db"}"#).unwrap();
    let prepared = cache.prepare(NAME, base.as_ref(), new).unwrap();
    let shared = |name: &str| {
        let of = |vm: &Vm| vm.object().get(name).cloned();
        match (of(&before), of(&prepared.vm)) {
            (Some(Json::Object(a)), Some(Json::Object(b))) => {
                Arc::ptr_eq(&a, &b)
            }
            _ => panic!("no object"),
        }
    };
    assert!(shared("customer_metadata") && shared("routes"));
    assert!(!shared("tags"));
    let same = parts("running", "a");
    let prepared = cache.prepare(NAME, base.as_ref(), same).unwrap();
    assert!(prepared.vm.is_shared_with(&before));
}

#[test]
fn lost_transitions_are_reported_by_the_next_event() {
    let cache = cache();
    assert_eq!(apply(&cache, Some(parts("running", "a")), &[]), "create");
    let name = Arc::from(NAME);
    let cause = Cause::now(EventSource::Zone, "a test");
    let lost = |state: &'static str, lost| {
        let transition = Transition { lost, ..Transition::new(state, None) };
        let base = cache.parts(NAME);
        let parts = parts(state, "a");
        let vm = cache.prepare(NAME, base.as_ref(), parts).unwrap();
        let update = Update::Vm(vm);
        let reported = vec![transition];
        cache.apply(&name, base.as_ref(), update, &reported, &cause);
    };
    // Nothing else has changed: the next event reports the loss.
    lost("running", 2);
    lost("running", 3);
    lost("shutting_down", 4);
    lost("installed", 0);
    let since = Since { seq: 1, epoch: "life".to_string() };
    let all = cache.subscribe("u".into(), None, Some(&since)).unwrap();
    let Start::Resumed(lines) = all.start else { panic!("{all:?}") };
    let told = |n: usize| {
        let text = String::from_utf8_lossy(lines[n].chunk()).into_owned();
        let (_, cause) = text.split_once("\"cause\":").unwrap();
        let lost = cause.split_once("\"lost_transitions\":");
        lost.map(|(_, n)| n.split(',').next().unwrap().to_string())
    };
    assert_eq!(lines.len(), 2);
    assert_eq!(told(0).as_deref(), Some("9"));
    assert_eq!(told(1), None);
}
