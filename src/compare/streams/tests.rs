//! Tests of a comparison, without daemons and without a clock.

use super::*;

fn vms(text: &str) -> Vec<Json> {
    Json::parse(text).unwrap().as_array().unwrap().to_vec()
}

fn ready(vms: &str, epoch: &str) -> Event {
    let place = match epoch {
        "" => String::new(),
        epoch => format!(r#""seq":0,"epoch":"{epoch}","#),
    };
    let line =
        format!(r#"{{"type":"ready","date":"","uuid":"",{place}"vms":{vms}}}"#);
    line.parse().unwrap()
}

fn modify(quota: u32) -> Event {
    let line = format!(
        r#"{{"type":"modify","zonename":"a","vm":{{"zonename":"a",
        "quota":{quota}}},"changes":[{{"prettyPath":"quota","path":
        ["quota"],"action":"changed","newValue":{quota}}}]}}"#
    );
    line.parse().unwrap()
}

fn broken() -> Event {
    Event::Broken(Arc::new(vminfod_client::Error::Stopped))
}

const SETTLE: Duration = Duration::from_secs(5);
const ONE: &str = r#"[{"zonename":"a","quota":1}]"#;

fn begun(now: Instant) -> Comparison {
    let mut comparison = Comparison::new(SETTLE);
    comparison.take(0, ready(ONE, ""), now);
    comparison.take(1, ready(ONE, "e"), now);
    comparison
}

/// What is new this many seconds after the beginning.
fn news(c: &mut Comparison, begin: Instant, seconds: u64) -> Vec<String> {
    let news = c.look(begin + Duration::from_secs(seconds));
    let shown = |news: News| match news {
        News::Differs(pair, place, _) => {
            format!("{pair:?} {} differs", place.path)
        }
        News::Agrees(pair, place) => {
            format!("{pair:?} {} agrees", place.path)
        }
        News::Unread(side, vm) => format!("{side} {vm}"),
    };
    news.into_iter().map(shown).collect()
}

#[test]
fn a_short_difference_does_not_count() {
    let now = Instant::now();
    let mut c = begun(now);
    assert_eq!(news(&mut c, now, 0), [""; 0]);
    c.take(0, modify(2), now);
    assert_eq!(news(&mut c, now, 1), [""; 0]);
    c.take(1, modify(2), now + Duration::from_secs(2));
    assert_eq!(news(&mut c, now, 60), [""; 0]);
    let counts = StreamCounts { both: 1, ..StreamCounts::default() };
    assert_eq!(c.counts(), counts);
    assert!(c.is_reference(0) && !c.is_reference(1));
}

#[test]
fn a_lasting_difference_is_reported_once_and_when_it_ends() {
    let now = Instant::now();
    let mut c = begun(now);
    c.take(0, modify(2), now);
    assert_eq!(news(&mut c, now, 1), [""; 0]);
    assert_eq!(news(&mut c, now, 7), ["Daemons quota differs"]);
    assert_eq!(news(&mut c, now, 8), [""; 0]);
    c.take(1, modify(2), now + Duration::from_secs(9));
    assert_eq!(news(&mut c, now, 9), ["Daemons quota agrees"]);
    let counts = StreamCounts {
        alone: [1, 0],
        lasting: 1,
        over: 1,
        ..StreamCounts::default()
    };
    assert_eq!(c.counts(), counts);
    // The change of the other daemon came too late to be matched.
    let _ = news(&mut c, now, 60);
    assert_eq!(c.counts().alone, [1, 1]);
}

#[test]
fn a_difference_whose_values_keep_changing_is_reported() {
    let now = Instant::now();
    let mut c = begun(now);
    let mut reported = Vec::new();
    for n in 0..70 {
        let at = now + Duration::from_secs(n);
        c.take(0, modify(2 + u32::try_from(n).unwrap()), at);
        reported.extend(news(&mut c, now, n));
    }
    assert_eq!(reported, ["Daemons quota differs"]);
}

#[test]
fn a_stream_that_omits_an_event_is_found() {
    let now = Instant::now();
    let mut c = begun(now);
    let list = |text| {
        let mut list = Vms::default();
        list.vms = vms(text);
        list
    };
    let served = list(r#"[{"zonename":"a","quota":2},{"zonename":"b"}]"#);
    let at = |seconds| now + Duration::from_secs(seconds);
    c.take_served(1, &served, at(1));
    assert!(c.is_doubtful(1) && !c.is_doubtful(0));
    // It was seen only once, however long ago that is.
    assert_eq!(news(&mut c, now, 20), [""; 0]);
    c.take_served(1, &served, at(21));
    let wanted = ["Stream(1) quota differs", "Stream(1)  differs"];
    assert_eq!(news(&mut c, now, 22), wanted);
    c.take_served(1, &list(ONE), at(30));
    assert_eq!(news(&mut c, now, 31).len(), 2);
    assert!(!c.is_doubtful(1));
}

#[test]
fn nothing_is_compared_while_a_stream_is_broken() {
    let now = Instant::now();
    let mut c = begun(now);
    c.take(0, modify(2), now);
    let _ = news(&mut c, now, 1);
    c.take(1, broken(), now);
    assert_eq!(news(&mut c, now, 60), [""; 0]);
    let two = r#"[{"zonename":"a","quota":2},{"zonename":"b"}]"#;
    c.take(1, ready(two, "f"), now + Duration::from_secs(61));
    assert_eq!(news(&mut c, now, 62), [""; 0]);
    assert_eq!(news(&mut c, now, 70), ["Daemons  differs"]);
    assert_eq!((c.vms(0), c.vms(1)), (1, 2));
}

#[test]
fn an_unreadable_vm_is_reported_and_not_compared() {
    let now = Instant::now();
    let mut c = begun(now);
    c.take(0, modify(2), now);
    assert_eq!(news(&mut c, now, 0), [""; 0]);
    assert_eq!(news(&mut c, now, 7), ["Daemons quota differs"]);
    let odd = r#"{"type":"create","zonename":"a","error":"odd"}"#;
    c.take(1, odd.parse().unwrap(), now);
    c.take(0, modify(3), now);
    assert_eq!(news(&mut c, now, 9), ["1 VM a can't be read: odd"]);
    assert_eq!(c.counts().unread, 1);
    // A VM in /vms can be unreadable, too.
    let Event::Ready(ready) = ready("[5]", "") else { panic!() };
    let mut served = Vms::default();
    served.unreadable = ready.unreadable;
    c.take_served(0, &served, now + Duration::from_secs(10));
    let news = news(&mut c, now, 20);
    assert!(news[0].starts_with("0 a VM can't be read: "), "{news:?}");
    assert!(!c.is_doubtful(0));
}

#[test]
fn changes_missed_during_a_break_may_arrive_late() {
    let now = Instant::now();
    let mut c = begun(now);
    c.take(1, broken(), now);
    c.take(0, modify(2), now);
    assert_eq!(news(&mut c, now, 60), [""; 0]);
    c.take(1, ready(ONE, "e"), now + Duration::from_secs(61));
    c.take(1, modify(2), now + Duration::from_secs(62));
    assert_eq!(news(&mut c, now, 80), [""; 0]);
    assert_eq!(c.counts(), StreamCounts { both: 1, ..StreamCounts::default() });
}
