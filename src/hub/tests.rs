//! The hub: what is kept, for whom, and how it is counted.

use super::*;

fn hub(kept_events: usize) -> Hub {
    Hub::new(HubLimits {
        kept_events,
        kept_bytes: 1 << 20,
        subscribers: 2,
        versions: 9,
        lag_events: 5,
        lag_bytes: 1 << 20,
    })
}

fn about() -> About {
    let kind = EventKind::Modify;
    About { kind, zonename: "z".into(), uuid: "u".into() }
}

fn publish_only(hub: &Hub) {
    hub.publish(about(), None, LineDraft::default(), |seq, line| {
        line.extend_from_slice(format!("{seq}\n").as_bytes());
    });
}

/// Publishes a line, and hands it out.
fn publish(hub: &Hub) {
    publish_only(hub);
    hub.hand_out(9).unwrap();
}

fn numbers(lines: Option<Vec<Arc<EventLine>>>) -> Option<Vec<u64>> {
    lines.map(|lines| lines.iter().map(|line| line.seq).collect())
}

#[test]
fn a_client_that_comes_back_gets_all_missed_events_or_none() {
    let hub = hub(3);
    assert_eq!(numbers(hub.inner.lock().after(0, 9)), Some(vec![]));
    assert_eq!(numbers(hub.inner.lock().after(1, 9)), None, "not yet");
    (0..5).for_each(|_| publish(&hub));
    assert_eq!(numbers(hub.inner.lock().after(1, 9)), None, "no longer");
    assert_eq!(numbers(hub.inner.lock().after(2, 9)), Some(vec![3, 4, 5]));
    assert_eq!(numbers(hub.inner.lock().after(2, 2)), Some(vec![3, 4]));
    assert_eq!(numbers(hub.inner.lock().after(5, 9)), Some(vec![]));
    for bad in [6, u64::MAX] {
        assert_eq!(numbers(hub.inner.lock().after(bad, 9)), None);
    }
    let begun = hub.subscribe("x".into(), None, Some(3)).unwrap();
    assert_eq!((begun.seq, numbers(begun.missed)), (5, Some(vec![4, 5])));
}

#[test]
fn a_silent_hub_numbers_events_but_keeps_none() {
    let hub = Hub::silent(hub(3).limits);
    (0..5).for_each(|_| publish_only(&hub));
    assert_eq!((hub.seq(), hub.size().0, hub.held()), (5, 0, 0));
    hub.speak();
    publish_only(&hub);
    assert_eq!(numbers(hub.hand_out(9)), Some(vec![6]));
    assert_eq!(numbers(hub.inner.lock().after(4, 9)), None);
    assert_eq!(numbers(hub.inner.lock().after(5, 9)), Some(vec![6]));
}

#[test]
fn lines_not_handed_out_yet_are_kept_up_to_a_bound() {
    let hub = hub(1);
    (0..4).for_each(|_| publish_only(&hub));
    assert_eq!(numbers(hub.hand_out(2)), Some(vec![1, 2]));
    let id = hub.subscribe("x".into(), None, None).unwrap().id;
    assert_eq!(numbers(hub.hand_out(9)), Some(vec![3, 4]));
    publish(&hub);
    assert_eq!(hub.size().0, 1, "what was handed out is kept no more");
    publish(&hub);
    publish_only(&hub);
    // It gets what was handed out since it subscribed, and not what still
    // waits.
    let (seq, missed) = hub.join(id, 4);
    assert_eq!((seq, numbers(missed)), (6, Some(vec![5, 6])));
    (0..9).for_each(|_| publish_only(&hub));
    assert_eq!(numbers(hub.hand_out(9)), None, "too many");
    publish(&hub);
    assert_eq!(hub.size().0, 1);
    let late = hub.subscribe("x".into(), None, None).unwrap();
    (0..9).for_each(|_| publish(&hub));
    assert_eq!(numbers(hub.join(late.id, late.seq).1), None);
}

#[test]
fn a_line_is_a_chunk_of_its_own() {
    let hub = hub(3);
    publish(&hub);
    let line = hub.inner.lock().after(0, 1).unwrap().remove(0);
    assert_eq!(line.text(), b"1\n");
    assert_eq!(line.chunk(), b"2\r\n1\n\r\n");
    assert_eq!(
        line.reworded(LineDraft::of(b"one\n")).chunk(),
        b"4\r\none\n\r\n"
    );
}

#[test]
fn lines_are_counted_as_long_as_they_are_held() {
    let hub = hub(1);
    publish(&hub);
    let held = hub.inner.lock().after(0, 1).unwrap();
    publish(&hub);
    assert_eq!(hub.size(), (1, 7, 14));
    drop(held);
    assert_eq!(hub.size(), (1, 7, 7));
}

#[test]
fn kept_lines_are_bounded_by_bytes() {
    let hub = hub(100);
    for _ in 0..9 {
        hub.publish(about(), None, LineDraft::of(&[b'x'; 300_000]), |_, _| ());
        hub.hand_out(9).unwrap();
    }
    assert_eq!(hub.size().0, 3);
    let line = LineDraft::of(&vec![b'x'; 2 << 20]);
    hub.publish(about(), None, line, |_, _| ());
    assert_eq!(hub.size().0, 1);
}

#[test]
fn subscribers_are_bounded_and_forgotten() {
    let hub = hub(2);
    let subscribe = || hub.subscribe("x".into(), None, None);
    let id = subscribe().unwrap().id;
    subscribe().unwrap();
    assert!(subscribe().is_none());
    hub.unsubscribe(id);
    assert_eq!(hub.subscribers().0.len(), 1);
    assert!(subscribe().is_some());
}

#[test]
fn a_watch_gets_versions_of_its_vm_only() {
    let hub = hub(2);
    let watches = [0, 0, 1].map(|n| {
        let name: Arc<str> = ["z", "other"][n].into();
        hub.watch(&name, Arc::new(|| {}))
    });
    publish(&hub);
    let next = |n: usize| {
        let next = watches[n].next().unwrap();
        next.map(|version| version.seq)
    };
    assert_eq!((next(0), next(1), next(2)), (Some(1), Some(1), None));
    hub.unwatch("z", &watches[0]);
    publish(&hub);
    assert_eq!((next(0), next(1)), (None, Some(2)));
    hub.unwatch("z", &watches[1]);
    hub.unwatch("other", &watches[2]);
    assert!(hub.inner.lock().watches.is_empty());
}

#[test]
fn an_event_wakes_the_waiting_thread() {
    let hub = hub(9);
    let long = || Instant::now() + std::time::Duration::from_secs(60);
    publish(&hub);
    publish(&hub);
    hub.wait(long());
    assert!(!hub.inner.lock().is_woken);
    hub.wait(Instant::now());
    hub.wake();
    hub.wait(long());
}
