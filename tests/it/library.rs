//! The client library: streams that resume, mirrors that stay right, and clear
//! errors for servers that are not vminfod.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vminfod::vm::json::Json;
use vminfod_client::{
    Address, Client, Error, Event, EventKind, EventsQuery, Mirror, Vm,
    VmsQuery, Watcher,
};

use crate::harness::{
    DEADLINE, TestHost, first_difference, free_address, wait_for,
};

/// A listener that ignores everything.
fn ignore(_: Result<&Event, &Error>) {}

fn array(mirror: &Mirror) -> Json {
    let vms = mirror.vms().values().map(|vm| Json::from(vm.json()));
    Json::from(vms.collect::<Vec<_>>())
}

/// A proxy between client and daemon, which cuts each connection after a number
/// of bytes of its answer.
struct Cutter {
    addr: SocketAddr,
    cuts: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Cutter {
    fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let cutter =
            Self { addr, cuts: Arc::default(), is_over: Arc::default() };
        let (cuts, is_over) =
            (Arc::clone(&cutter.cuts), Arc::clone(&cutter.is_over));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, cuts) = (client.unwrap(), Arc::clone(&cuts));
                let is_over = Arc::clone(&is_over);
                std::thread::spawn(move || {
                    let n = cuts.fetch_add(1, Ordering::Relaxed);
                    // At any byte between the head and some events later.
                    let most = match is_over.load(Ordering::Relaxed) {
                        true => u64::MAX,
                        false => 100 + n * 7919 % 20_000,
                    };
                    Self::carry(client, to, most);
                });
            }
        });
        cutter
    }

    /// Passes on the request, and at most `most` bytes of the answer.
    fn carry(mut client: TcpStream, to: SocketAddr, most: u64) {
        let mut daemon = TcpStream::connect(to).unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            if !matches!(client.read(&mut byte), Ok(1)) {
                return;
            }
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let own = client.local_addr().unwrap().to_string();
        let request = request.replace(&own, &to.to_string());
        daemon.write_all(request.as_bytes()).unwrap();
        let mut left = most;
        let mut bytes = [0; 512];
        while left > 0 {
            let n = daemon.read(&mut bytes).unwrap_or(0) as u64;
            let n = usize::try_from(n.min(left)).unwrap();
            if n == 0 || client.write_all(&bytes[..n]).is_err() {
                return;
            }
            left -= n as u64;
        }
    }
}

#[test]
fn a_stream_resumes_after_cuts_and_misses_no_event() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let cutter = Cutter::new(daemon.addr);
    let zonename = host.zonenames().unwrap().remove(0);
    let client = Client::new(cutter.addr);
    // The first connection may be cut within its head.
    let mut stream = wait_for("a stream begins", || {
        client.events(EventsQuery::new()).map_err(|e| e.to_string())
    });
    let mut mirror = Mirror::new(EventsQuery::new());
    let mut last = None;
    let mut resumed = 0;
    let mut take = |event: Event, mirror: &mut Mirror| {
        for event in mirror.apply(event) {
            if let Event::Ready(ready) = &event {
                assert_eq!(ready.reset, None);
                resumed += u32::from(ready.is_resumed);
                if !ready.is_resumed {
                    // The stream was cut before its snapshot was complete:
                    // nothing is known yet.
                    assert!(last.is_none());
                    last = Some(ready.seq);
                }
            }
            let Some(header) = event.header() else { continue };
            let next = last.map_or(header.seq, |last| last + 1);
            assert_eq!(header.seq, next);
            last = Some(header.seq);
        }
    };
    for n in 0..150 {
        host.update(&zonename, "tags.n", &n.to_string()).unwrap();
        let wanted = Some(serde_json::Value::from(n));
        let of = |mirror: &Mirror| {
            let vm = mirror.vms().get(&zonename)?;
            vm.tags.as_ref()?.get("n").cloned()
        };
        while of(&mirror) != wanted {
            let event = stream.next_within(DEADLINE).unwrap();
            take(event.expect("nothing came"), &mut mirror);
        }
    }
    cutter.is_over.store(true, Ordering::Relaxed);
    let served = daemon.settle(&host);
    while let Some(difference) = first_difference(&array(&mirror), &served) {
        let event = stream.next_within(DEADLINE).unwrap();
        take(event.unwrap_or_else(|| panic!("{difference}")), &mut mirror);
    }
    assert!(resumed > 20, "{resumed} of {:?}", cutter.cuts);
    assert!(
        daemon.metric("vminfod_stream_resumes_total") >= f64::from(resumed)
    );
}

#[test]
fn a_watcher_reports_a_new_daemon_and_the_missed_changes() {
    let host = TestHost::with_vms(4);
    let addr = free_address();
    let names = host.zonenames().unwrap();
    let daemon = host.start_with(&["--listen", &addr]);
    let client = Client::new(daemon.addr);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = {
        let told = Arc::clone(&told);
        move |event: Result<&Event, &Error>| {
            let line = match event {
                Ok(Event::Ready(ready)) => format!("ready {:?}", ready.reset),
                Ok(Event::Unreadable(vm)) => vm.to_string(),
                Ok(Event::Broken(_)) => "broken".to_string(),
                Ok(event) => {
                    let header = event.header().unwrap();
                    format!("{} {}", event.kind().unwrap(), header.zonename)
                }
                Err(e) => format!("ended {e}"),
            };
            told.lock().unwrap().push(line);
        }
    };
    let watcher =
        Watcher::start(&client, EventsQuery::new(), listener).unwrap();
    assert_eq!(watcher.vms().len(), 4);
    drop(daemon);
    wait_for("it knows", || match watcher.trouble() {
        Some(_) => Ok(()),
        None => Err(format!("{:?}", told.lock().unwrap())),
    });
    host.update(&names[0], "alias", "changed").unwrap();
    host.delete(&names[1]).unwrap();
    let new = simhost::Host::spec(30);
    host.create(&new).unwrap();
    let daemon = host.start_with(&["--listen", &addr]);
    let is_new = |vm: Option<&Vm>| vm.is_some();
    let vm = watcher.wait_for(&new.uuid, is_new, DEADLINE).unwrap();
    assert_eq!(vm.unwrap().zonename, new.uuid);
    wait_for("the mirror is right", || {
        let vms = watcher.vms().into_values();
        let vms = vms.map(|vm| Json::from(vm.json())).collect::<Vec<_>>();
        match first_difference(&Json::from(vms), &daemon.vms()) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    });
    assert_eq!(watcher.trouble(), None);
    drop(watcher);
    let mut told = told.lock().unwrap().clone();
    // Leave out the changes of the new VM while it is being created.
    told.retain(|line| *line != format!("modify {}", new.uuid));
    let mut wanted = vec![
        "ready None".to_string(),
        "broken".to_string(),
        "ready Some(\"another epoch\")".to_string(),
        format!("delete {}", names[1]),
        format!("modify {}", names[0]),
        format!("create {}", new.uuid),
        "ended stopped".to_string(),
    ];
    // These two come in the order of their zonenames.
    told[4..6].sort();
    wanted[4..6].sort();
    assert_eq!(told, wanted);
}

#[test]
fn a_watcher_sees_states_that_last_only_a_moment() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let client = Client::new(daemon.addr);
    let query = EventsQuery::new().vm(&zonename);
    let watcher = Watcher::start(&client, query, ignore).unwrap();
    assert_eq!(watcher.vms().len(), 1);
    let state_is = |wanted: &'static str| {
        move |vm: Option<&Vm>| {
            vm.and_then(|vm| vm.zone_state.as_deref()) == Some(wanted)
        }
    };
    let vm = watcher.vm(&zonename).unwrap();
    assert_eq!(vm.zone_state.as_deref(), Some("running"));
    // A state that the VM has already.
    let now = watcher.wait_for(&zonename, state_is("running"), DEADLINE);
    assert_eq!(now.unwrap(), Some(vm));
    // A state that the VM only passes through.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            watcher.wait_for(&zonename, state_is("shutting_down"), DEADLINE)
        });
        let gone = scope
            .spawn(|| watcher.wait_for(&zonename, |vm| vm.is_none(), DEADLINE));
        host.stop(&zonename, 0).unwrap();
        let vm = waiting.join().unwrap().unwrap().unwrap();
        assert_eq!(vm.zone_state.as_deref(), Some("shutting_down"));
        host.delete(&zonename).unwrap();
        assert_eq!(gone.join().unwrap().unwrap(), None);
    });
    // A VM that never comes, and that is not in the query of the watcher.
    let short = Duration::from_millis(20);
    let error = watcher.wait_for("no-such-vm", |vm| vm.is_some(), short);
    assert!(matches!(error, Err(Error::NotMet { vm: None })), "{error:?}");
}

#[test]
fn client_calls_send_their_queries_and_return_the_answers() {
    let host = TestHost::with_vms(5);
    let daemon = host.start();
    let client = Client::new(daemon.addr).name("test\r\nX: 1");
    client.ping().unwrap();
    let status = client.status(true).unwrap();
    assert_eq!(status.num_vms, Some(5));
    assert!(status.other.contains_key("refreshLog"));
    let zonename = host.zonenames().unwrap().remove(0);
    let query = VmsQuery::new().equals("zonename", &zonename).fields("alias");
    let vms: Vec<Json> = client.vms_as(query.clone()).unwrap().vms;
    assert_eq!(vms.len(), 1);
    assert_eq!(vms[0].as_object().unwrap().len(), 1);
    let vms = client.vms(query).unwrap().vms;
    assert_eq!((vms.len(), &vms[0].zonename), (1, &zonename));
    assert_eq!((vms[0].alias.as_deref(), vms[0].quota), (Some("vm0"), None));
    assert_eq!(
        client.vms(VmsQuery::new().sync(DEADLINE)).unwrap().vms.len(),
        5
    );
    assert_eq!(client.vm("no-such-vm").unwrap(), None);
    let vm = client.sync(&zonename, DEADLINE).unwrap().vm.unwrap();
    assert_eq!(vm.zonename, zonename);
    // What is printed again is what came.
    let got = daemon.get(&format!("/vms/{zonename}")).text();
    assert_eq!(vm.to_string(), got.trim_end());
    let running = &[("state", "running")][..];
    assert_eq!(client.wait(&zonename, running, DEADLINE).unwrap(), vm);
    client.wait_gone("no-such-vm", DEADLINE).unwrap();
    let short = Duration::from_millis(20);
    match client.wait(&zonename, &[("state", "!running")], short) {
        Err(Error::NotMet { vm: Some(instead) }) => assert_eq!(*instead, vm),
        other => panic!("{other:?}"),
    }
    match client.wait("no-such-vm", running, short) {
        Err(Error::NotMet { vm: None }) => {}
        other => panic!("{other:?}"),
    }
    // The daemon's errors name what it does not understand.
    for (error, named) in [
        (client.vms(VmsQuery::new().fields("bogus")).unwrap_err(), "bogus"),
        (client.vms(VmsQuery::new().matches("alias", "(")).unwrap_err(), "("),
        (client.wait("a", &[("bogus", "1")], short).unwrap_err(), "bogus"),
        (client.events(EventsQuery::new().path("x")).unwrap_err(), "x"),
    ] {
        let is_400 = matches!(error, Error::Refused { status: 400, .. });
        assert!(is_400 && error.to_string().contains(named), "{error}");
    }
    // The daemon filters by kind and path.
    let query = EventsQuery::new().kind(EventKind::Modify).path("quota");
    let mut stream = client.events(query.without_snapshot()).unwrap();
    host.update(&zonename, "alias", "other").unwrap();
    host.update(&zonename, "quota", "77").unwrap();
    let first = stream.next_within(DEADLINE).unwrap();
    assert!(matches!(first, Some(Event::Ready(r)) if r.vms.is_none()));
    match stream.next_within(DEADLINE).unwrap() {
        Some(Event::Modify { vm: now, changes, header, .. }) => {
            assert_eq!(changes.len(), 1);
            assert_eq!(changes[0].pretty_path, "quota");
            assert_eq!(now.quota, Some(77.0));
            assert_eq!(header.uuid, vm.uuid);
            assert!(header.date.ends_with('Z'));
            assert_eq!(header.cause.unwrap().source, "zfs");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_can_be_stopped_while_it_reads_or_retries() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let client = Client::new(daemon.addr);
    let mut reading = client.events(EventsQuery::new()).unwrap();
    let stopper = reading.stopper();
    let thread = std::thread::spawn(move || reading.find_map(Result::err));
    wait_for("somebody listens", || {
        let status = daemon.status();
        let listeners = status.get("eventsListeners").unwrap();
        match listeners.as_object().unwrap().len() {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    stopper.stop();
    assert!(thread.join().unwrap().is_none());

    // And while it waits for a daemon that is away.
    let mut waiting = client.events(EventsQuery::new()).unwrap();
    drop(daemon);
    let stopper = waiting.stopper();
    while !matches!(waiting.next(), Some(Ok(Event::Broken(_)))) {}
    let thread = std::thread::spawn(move || waiting.next_within(DEADLINE));
    stopper.stop();
    assert!(matches!(thread.join().unwrap(), Err(Error::Stopped)));
}

/// A server that sends `says` to every client, and then closes the connection
/// if `closes` is set.
fn server_of(says: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = [0; 4096];
            let _ = client.read(&mut request);
            let _ = client.write_all(&says);
            if closes {
                let _ = client.shutdown(std::net::Shutdown::Write);
            }
            kept.push(client);
        }
    });
    addr
}

#[test]
fn servers_that_are_not_vminfod_give_clear_errors() {
    let json = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let chunked = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    let ready = r#"{"type":"ready","date":"d","uuid":"u","seq":5,"epoch":"e","vms":[]}"#;
    let line = |text: &str| format!("{:x}\r\n{text}\n\r\n", text.len() + 1);
    // What the server sends, whether it closes, and what the client's error
    // says.
    let cases: Vec<(String, bool, &str)> = vec![
        (String::new(), true, "head of the answer is incomplete"),
        (String::new(), false, "no answer in"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n".into(), true, "not an HTTP answer"),
        ("HTTP/1.1 200 OK\r\n".into(), false, "no answer in"),
        (format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000)), true, "head"),
        (json("<html>hello</html>"), true, "not JSON"),
        (json("5"), true, "not an answer of vminfod"),
        (json("{\"a\":"), true, "not JSON"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[]".into(),
            true,
            "closed",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[]".into(),
            false,
            "no answer in",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n[]".into(),
            true,
            "Content-Length of the answer is invalid",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[]".into(),
            true,
            "Content-Length of the answer is invalid",
        ),
        (chunked("zz\r\n"), true, "chunk of the answer is malformed"),
        (chunked("ffffffffffff\r\n"), true, "chunk of the answer is malformed"),
        (chunked("5\r\n[]"), true, "closed"),
        (chunked("2\r\n[]xx\r\n"), true, "no line end after it"),
        ("HTTP/1.1 500 Oops\r\n\r\nit hurts".into(), true, "it hurts"),
        ("HTTP/1.1 404 Not Found\r\n\r\nnginx".into(), true, "nginx"),
        (
            "HTTP/1.1 503 Busy\r\n\r\n{\"error\":\"later\"}".into(),
            true,
            "later",
        ),
        ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".into(), true, "302"),
    ];
    let short = Duration::from_millis(300);
    for (says, closes, wanted) in cases {
        let addr = server_of(says.clone().into_bytes(), closes);
        let client = Client::new(addr).time_limit(short);
        let errors = [
            client.ping().unwrap_err(),
            client.status(false).unwrap_err(),
            client.vms(VmsQuery::new()).unwrap_err(),
            client.vm("a").unwrap_err(),
            client.sync("a", short).unwrap_err(),
            client.wait("a", &[("state", "x")], short).unwrap_err(),
        ];
        for error in errors {
            let said = error.to_string();
            assert!(said.contains(wanted), "{says:?}: {said}");
            let is_named = said.contains(&addr.to_string());
            let is_refused = matches!(error, Error::Refused { .. });
            assert!(is_named || is_refused, "{said}");
        }
    }
    // Streams, each with a good HTTP head.
    let ready = line(ready);
    let cases: Vec<(String, bool, &str)> = vec![
        (chunked(&line("{}")), false, "has no type"),
        (chunked(&line("rubbish")), false, "not JSON"),
        (
            chunked(&line(
                r#"{"type":"create","zonename":"a","seq":6,"vm":{}}"#,
            )),
            false,
            "not a ready line",
        ),
        (
            chunked(&format!(
                "{ready}{}",
                line(r#"{"type":"create","zonename":"a","seq":6}"#)
            )),
            false,
            "a line of type create has no vm",
        ),
        (
            chunked(&format!(
                "{ready}{}",
                line(r#"{"type":"delete","zonename":"a","seq":9}"#)
            )),
            false,
            "event 9 after event 5",
        ),
        (
            chunked(&format!(
                "{ready}{}",
                line(r#"{"type":"delete","zonename":"a","seq":5}"#)
            )),
            false,
            "event 5 after event 5",
        ),
        (
            chunked(&format!(
                "{ready}{}",
                line(r#"{"type":"heartbeat","seq":7}"#)
            )),
            false,
            "event 7 after event 5",
        ),
        (chunked(&format!("{ready}0\r\n\r\n")), false, "has ended the stream"),
        (chunked(&format!("{ready}5\r\n{{\"ty")), true, "closed"),
        (chunked(&ready), false, "no answer in"),
    ];
    for (says, closes, wanted) in cases {
        let addr = server_of(says.clone().into_bytes(), closes);
        let client = Client::new(addr).time_limit(short);
        let query = EventsQuery::new().heartbeat(short / 3);
        let mut stream = client.events(query).unwrap();
        let error = loop {
            match stream.next_within(DEADLINE).unwrap() {
                Some(Event::Broken(error)) => break error.to_string(),
                Some(_) => {}
                None => panic!("{says:?}: nothing in {DEADLINE:?}"),
            }
        };
        assert!(error.contains(wanted), "{says:?}: {error}");
        assert!(error.contains(&addr.to_string()), "{error}");
        // It tries again, and gives up after the time of `retry_for`.
        let mut stream = stream.retry_for(Duration::ZERO);
        let error = stream.find_map(Result::err).unwrap().to_string();
        assert!(stream.next().is_none(), "{says:?}");
        assert!(error.contains(wanted), "{says:?}: {error}");
    }
    let away = Client::new(free_address().parse::<Address>().unwrap());
    let error = away.ping().unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error:?}");
    assert!(error.to_string().contains("no daemon answers at"), "{error}");
}

/// A server that ignores every parameter, as today's daemon does.
fn todays_daemon() -> SocketAddr {
    const VMS: &str = r#"[{"zonename":"a","uuid":"1","state":"stopped"},{"zonename":"b","uuid":"2"}]"#;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = vec![0; 4096];
            let n = client.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            let path = request.split([' ', '?']).nth(1).unwrap_or_default();
            let (status, body) = match path {
                "/vms" => ("200 OK", VMS.to_string()),
                "/vms/a" => ("200 OK", r#"{"zonename":"a"}"#.to_string()),
                "/status" => ("200 OK", r#"{"uptime":1.5}"#.to_string()),
                "/events" => {
                    let vms = Json::from(VMS);
                    let ready =
                        r#"{"type":"ready","date":"d","uuid":"u","vms":"#;
                    ("200 OK", format!("{ready}{vms}}}\n"))
                }
                path => ("404 Not Found", format!("VM Not Found: {path}")),
            };
            let answer = format!("HTTP/1.1 {status}\r\n\r\n{body}");
            let _ = client.write_all(answer.as_bytes());
        }
    });
    addr
}

#[test]
fn what_todays_daemon_answers_is_not_taken_for_the_answer_to_a_filter() {
    let client = Client::new(todays_daemon());
    assert_eq!(client.status(false).unwrap().uptime, Some(1.5));
    assert_eq!(
        client.vms(VmsQuery::new().fields("uuid")).unwrap().vms.len(),
        2
    );
    assert_eq!(client.vm("a").unwrap().unwrap().zonename, "a");
    assert_eq!(client.vm("2").unwrap().unwrap().zonename, "b");
    assert_eq!(client.vm("no-such-vm").unwrap(), None);
    let mut stream = client.events(EventsQuery::new()).unwrap();
    let first = stream.next_within(DEADLINE).unwrap();
    assert!(
        matches!(&first, Some(Event::Ready(r)) if r.vms.as_ref().unwrap().len() == 2),
        "{first:?}"
    );
    assert_eq!(stream.position(), None);
    let running = &[("state", "running")];
    let mut filtered = client.events(EventsQuery::new().path("state")).unwrap();
    for error in [
        client.vms(VmsQuery::new().equals("state", "running")).unwrap_err(),
        client.sync("a", DEADLINE).unwrap_err(),
        client.sync("no-such-vm", DEADLINE).unwrap_err(),
        client.wait("a", running, DEADLINE).unwrap_err(),
        client.wait_gone("no-such-vm", DEADLINE).unwrap_err(),
        filtered.next_within(DEADLINE).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Ignored { .. }), "{error:?}");
    }
}
