//! Clients that are many, slow, broken or hostile, and what other clients
//! notice of them. The tests print figures (`--nocapture`); they assert which
//! clients are answered, and that threads, descriptors and memory are bounded
//! and released.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Daemon, TestHost, text, wait_for};

/// What the daemon holds: threads, descriptors, resident KiB.
fn held(daemon: &Daemon) -> (u64, usize, u64) {
    let pid = daemon.child.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (number("Threads:"), fds, number("VmRSS:"))
}

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn send(stream: &TcpStream, bytes: &[u8]) {
    // The daemon may cut a client off while it sends.
    let _ = (&*stream).write_all(bytes);
}

/// Percentiles of some times.
fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p50 {:?} p99 {:?} max {:?}", at(50), at(99), at(100))
}

#[test]
fn idle_and_slow_clients_do_not_delay_others() {
    let host = TestHost::with_vms(300);
    let name = host.zonenames().unwrap().remove(0);
    let daemon = host.start();
    let mut stream = daemon.events_of(&format!("?uuid={name}"));
    let before = held(&daemon);

    let idle: Vec<_> = (0..500).map(|_| connect(&daemon)).collect();
    let slow: Vec<_> = (0..200).map(|_| connect(&daemon)).collect();
    let unread: Vec<_> = (0..50).map(|_| connect(&daemon)).collect();
    let half_closed: Vec<_> = (0..50).map(|_| connect(&daemon)).collect();
    for stream in &unread {
        send(stream, b"GET /vms HTTP/1.1\r\n\r\n");
    }
    for stream in &half_closed {
        send(stream, b"GET /pi");
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let dripping = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut bytes = b"GET /ping HTTP/1.1\r\nA: ".iter().copied();
            while !stop.load(Ordering::Relaxed) {
                let byte = [bytes.next().unwrap_or(b'x')];
                for stream in &slow {
                    send(stream, &byte);
                }
            }
        }
    });
    wait_for("all are there", || {
        let open = daemon.metric("vminfod_http_connections");
        if open >= 751.0 { Ok(()) } else { Err(open.to_string()) }
    });

    let mut pings = Vec::new();
    let mut events = Vec::new();
    for n in 0..50 {
        let begun = Instant::now();
        assert_eq!(daemon.get("/ping").status, 200);
        pings.push(begun.elapsed());
        host.update(&name, "tags.n", &format!("n{n}")).unwrap();
        let begun = Instant::now();
        assert_eq!(text(&stream.next().unwrap(), "type"), "modify");
        events.push(begun.elapsed());
    }
    let during = held(&daemon);
    println!("/ping: {}", told(pings));
    println!("event after its file: {}", told(events));
    println!("threads, descriptors, KiB: {before:?}, then {during:?}");
    // A connection costs a descriptor, and no thread.
    assert!(during.0 <= before.0 + 34, "{during:?}");
    stop.store(true, Ordering::Relaxed);
    dripping.join().unwrap();
    drop((idle, unread, half_closed));
    wait_for("what they held is given back", || {
        let after = held(&daemon);
        let is_back = after.1 <= before.1 + 10 && after.0 <= before.0 + 34;
        if is_back { Ok(()) } else { Err(format!("{after:?}")) }
    });
}

#[test]
fn bursts_are_all_answered() {
    let host = TestHost::with_vms(20);
    let daemon = host.start();
    let begun = Instant::now();
    for round in 0..5 {
        let streams: Vec<_> = (0..200).map(|_| connect(&daemon)).collect();
        for (i, stream) in streams.iter().enumerate() {
            let path = ["/ping", "/vms", "/status", "/nothing"][i % 4];
            send(stream, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        }
        for (i, mut stream) in streams.iter().enumerate() {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            let status = if i % 4 == 3 { "404" } else { "200" };
            let wanted = format!("HTTP/1.1 {status}");
            assert_eq!(answer, *wanted.as_bytes(), "{round} {i}");
        }
    }
    println!("1000 connections in bursts of 200: {:?}", begun.elapsed());
    // Streams too.
    let streams: Vec<_> = (0..200).map(|_| connect(&daemon)).collect();
    for stream in &streams {
        send(stream, b"GET /events HTTP/1.1\r\n\r\n");
    }
    for mut stream in &streams {
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    let (_, _, rss) = held(&daemon);
    println!("200 streams: {rss} KiB");
}

#[test]
fn above_each_limit_clients_get_503_and_retry_after() {
    let host = TestHost::with_vms(2);
    let daemon =
        host.start_with(&["--set", "connections=8", "--set", "subscribers=2"]);
    let streams: Vec<_> = (0..2).map(|_| daemon.events()).collect();
    let refused = daemon.get("/events");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.field("Retry-After"), Some("1"));
    assert_eq!(daemon.get("/ping").status, 200);
    let idle: Vec<_> = (0..6).map(|_| connect(&daemon)).collect();
    let answer = wait_for("no more connections", || {
        let answer = daemon.get("/ping");
        if answer.status == 503 { Ok(answer) } else { Err("200".to_string()) }
    });
    assert_eq!(answer.field("Retry-After"), Some("1"));
    drop((streams, idle));
    // The connections end one after the other.
    let page = wait_for("there is room again", || {
        let answer = daemon.get("/metrics");
        match answer.status {
            200 => Ok(answer.text()),
            other => Err(other.to_string()),
        }
    });
    let refused = page.lines().find_map(|line| {
        line.strip_prefix("vminfod_http_connections_refused_total ")
    });
    assert!(refused.unwrap().parse::<f64>().unwrap() > 0.0, "{refused:?}");
}

#[test]
fn the_daemon_survives_few_descriptors_and_resets() {
    let host = TestHost::with_vms(3);
    // Fewer descriptors than connections that the setting allows.
    let daemon = host.start_under(&["--set", "connections=4000"], "-n 200");
    let mut rounds = 0;
    for _ in 0..3 {
        let streams: Vec<_> = (0..300)
            .filter_map(|_| TcpStream::connect(daemon.addr).ok())
            .collect();
        for (i, stream) in streams.iter().enumerate() {
            send(stream, b"GET /vms HTTP/1.1\r\n\r\n");
            if i % 3 == 0 {
                // Answers are abandoned midway, with a reset.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        rounds += 1;
        drop(streams);
    }
    assert_eq!(rounds, 3);
    wait_for("it answers as before", || {
        match TcpStream::connect(daemon.addr) {
            Ok(_) => match daemon.get("/ping").status {
                200 => Ok(()),
                other => Err(other.to_string()),
            },
            Err(e) => Err(e.to_string()),
        }
    });
    let name = host.zonenames().unwrap().remove(0);
    host.update(&name, "alias", "x").unwrap();
    let answer = daemon.get(&format!("/vms/{name}?wait=alias=x"));
    assert_eq!(answer.status, 200);
}

#[test]
fn hostile_requests_are_refused_or_closed() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let megabyte = "A: bbbbbbbbbbbb\r\n".repeat(65_536);
    let long_path = "a".repeat(1 << 20);
    let smuggled = format!("GET /vms/{name} HTTP/1.1\r\n\r\n");
    for request in [
        // Lengths and bodies, with a second request hidden behind them.
        format!(
            "GET /ping HTTP/1.1\r\nContent-Length: 0\r\n\
            Content-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        )
        .into_bytes(),
        format!(
            "GET /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
            0\r\n\r\n{smuggled}"
        )
        .into_bytes(),
        format!(
            "GET /ping HTTP/1.1\r\nTransfer-Encoding: identity\r\n\
            Content-Length: 5\r\n\r\n{smuggled}"
        )
        .into_bytes(),
        format!(
            "GET /ping HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n\
            {smuggled}"
        )
        .into_bytes(),
        format!("GET /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n{smuggled}")
            .into_bytes(),
        format!("GET /ping HTTP/1.1\r\nContent-Length: +0\r\n\r\n{smuggled}")
            .into_bytes(),
        format!(
            "GET /ping HTTP/1.1\r\nContent-Length: 99999999999999999999\
            \r\n\r\n{smuggled}"
        )
        .into_bytes(),
        format!("GET /ping HTTP/1.1\r\n folded: x\r\n\r\n{smuggled}")
            .into_bytes(),
        // Bytes that are not text, and targets that lead elsewhere.
        b"GET /vms/\0 HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /vms/\xff\xfe HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /vms/%ff%fe HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /vms/%00 HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /vms/.. HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /vms/..%2f..%2fetc HTTP/1.1\r\nConnection: close\r\n\r\n"
            .to_vec(),
        format!("GET /vms/../vms/{name} HTTP/1.1\r\nConnection: close\r\n\r\n")
            .into_bytes(),
        b"GET ../../etc/passwd HTTP/1.1\r\n\r\n".to_vec(),
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"TRACE / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        // Requests that are very long, and other protocols.
        format!("GET / HTTP/1.1\r\n{megabyte}\r\n").into_bytes(),
        format!("GET /{long_path} HTTP/1.1\r\n\r\n").into_bytes(),
        long_path.clone().into_bytes(),
        "\r\n".repeat(1 << 19).into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ] {
        let stream = connect(&daemon);
        send(&stream, &request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = (&stream).read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]);
        let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(is_refused, "{shown:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), answer.len().min(1));
        assert!(!answer.contains("zonepath"), "{shown:?}: {answer}");
    }
    let log = daemon.log();
    assert!(!log.iter().any(|line| line.contains("panic")), "{log:?}");
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn clients_that_pipeline_without_reading_do_not_delay_others() {
    let host = TestHost::with_vms(100);
    let daemon = host.start();
    let before = held(&daemon);
    let greedy: Vec<_> = (0..8).map(|_| connect(&daemon)).collect();
    let requests = "GET /vms HTTP/1.1\r\n\r\n".repeat(10_000);
    for stream in &greedy {
        stream.set_nonblocking(true).unwrap();
        // As many requests as the daemon takes.
        let mut rest = requests.as_bytes();
        while let Ok(n @ 1..) = (&*stream).write(rest) {
            rest = &rest[n..];
        }
    }
    // Another client asks for events, and sends more requests after that.
    let stream = connect(&daemon);
    send(&stream, b"GET /events HTTP/1.1\r\n\r\n");
    send(&stream, "GET /vms HTTP/1.1\r\n\r\n".repeat(8).as_bytes());
    for _ in 0..20 {
        assert_eq!(daemon.get("/ping").status, 200);
    }
    let during = held(&daemon);
    println!("8 clients pipeline without reading: {before:?}, {during:?}");
    assert!(during.2 < before.2 + (64 << 10), "{before:?} {during:?}");
}

#[test]
fn a_waiting_client_that_resets_or_floods_is_dropped() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let waiting = connect(&daemon);
    let path = format!("/vms/{name}?wait=alias=never");
    // Because it leaves an answer unread, its close sends a reset.
    send(&waiting, b"GET /ping HTTP/1.1\r\n\r\n");
    send(&waiting, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
    let waits = |wanted: f64| {
        wait_for("waiting requests", || {
            let n = daemon.metric("vminfod_http_requests_waiting");
            if n == wanted { Ok(()) } else { Err(n.to_string()) }
        });
    };
    waits(1.0);
    drop(waiting);
    waits(0.0);
    // A client that sends more than the daemon keeps is let go, too: the daemon
    // could not see when it ends.
    let flooding = connect(&daemon);
    send(&flooding, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
    waits(1.0);
    send(&flooding, &[b'x'; 60_000]);
    waits(0.0);
}

#[test]
fn the_largest_unread_answers_are_dropped_first() {
    let host = TestHost::with_vms(200);
    let set = ["--set", "unsent-bytes=1m", "--set", "send-buffer=16k"];
    let daemon = host.start_with(&set);
    let request = |path: &str| {
        let stream = connect(&daemon);
        send(&stream, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        stream
    };
    // These answers share one body, and so cost next to nothing.
    let modest: Vec<_> = (0..5).map(|_| request("/vms")).collect();
    let all = "alias,uuid,nics,tags,customer_metadata,internal_metadata,state";
    let greedy: Vec<_> =
        (0..40).map(|_| request(&format!("/vms?fields={all}"))).collect();
    wait_for("what is held is within bounds", || {
        let held = daemon.metric("vminfod_http_unsent_bytes");
        let log = daemon.log();
        let told = log.iter().any(|line| line.contains("do not read"));
        match told && held <= f64::from(1 << 20) {
            true => Ok(()),
            false => Err(format!("{held}")),
        }
    });
    let length = daemon.get("/vms").body.len();
    for mut stream in modest {
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).unwrap();
    }
    drop(greedy);
}

#[test]
fn clients_that_flood_requests_do_not_starve_others() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--set", "http-threads=2"]);
    let stop = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = (0..4)
        .map(|_| {
            let (stream, stop) = (connect(&daemon), Arc::clone(&stop));
            std::thread::spawn(move || {
                let reading = stream.try_clone().unwrap();
                let reader = std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &reading, &mut std::io::sink());
                });
                let some = "GET /ping HTTP/1.1\r\n\r\n".repeat(500);
                while !stop.load(Ordering::Relaxed) {
                    send(&stream, some.as_bytes());
                }
                let _ = stream.shutdown(Shutdown::Both);
                reader.join().unwrap();
            })
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(daemon.get("/ping").status, 200);
    }
    println!("20 /ping beside 4 floods with 2 threads: {:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    for flood in flooding {
        flood.join().unwrap();
    }
}

#[test]
fn a_request_head_that_arrives_too_slowly_gets_408() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--set", "head-time=0.2"]);
    let stream = connect(&daemon);
    stream.set_nonblocking(true).unwrap();
    send(&stream, b"GET /ping HTTP/1.1\r\nA: ");
    let mut answer = Vec::new();
    wait_for("it is refused", || {
        send(&stream, b"x");
        let mut piece = [0; 512];
        if let Ok(n @ 1..) = (&stream).read(&mut piece) {
            answer.extend_from_slice(&piece[..n]);
        }
        let said = String::from_utf8_lossy(&answer).into_owned();
        if said.starts_with("HTTP/1.1 408") { Ok(()) } else { Err(said) }
    });
}

#[test]
fn new_subscribers_are_served_during_a_storm_of_events() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    // Each stream selects other fields, which is expensive.
    let _dear: Vec<_> = (0..20)
        .map(|n| daemon.events_of(&format!("?fields=uuid,tags.t{n}")))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (host, stop) = (host.host.clone(), Arc::clone(&stop));
        move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                host.update(&name, "tags.n", &format!("n{n}")).unwrap();
            }
        }
    });
    for _ in 0..20 {
        let mut stream = daemon.events();
        stream.next().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn expensive_queries_are_refused_or_bounded() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let long = "a".repeat(200_000);
    host.update(&name, "customer_metadata.big", &long).unwrap();
    daemon.settle(&host);
    let before = held(&daemon);
    for query in [
        "customer_metadata.big=!~((a{0,50}){0,50}){0,40}x".to_string(),
        "alias=~((((((((((((((((((((x))))))))))))))))))))".to_string(),
        (0..200).map(|n| format!("tags.{n}=~.{{50}}&")).collect(),
        (0..200).map(|n| format!("tags.{n}=x&")).collect(),
    ] {
        let answer = daemon.get(&format!("/vms?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.field("Content-Type") == Some("application/json"));
    }
    let waits: String =
        (0..60).map(|_| "&wait=alias=~.{9}".to_string()).collect();
    let answer = daemon.get(&format!("/vms/{name}?{}", &waits[1..]));
    assert_eq!(answer.status, 400);
    // A pattern within the limits may be expensive: it is searched for, or
    // refused when its time is over.
    let dear = "customer_metadata.big=~(a|aa|a?)*(a?a?a?){9}b";
    let status = daemon.get(&format!("/vms?{dear}")).status;
    assert!(status == 200 || status == 400, "{status}");
    let waits: Vec<_> = (0..40)
        .map(|_| {
            let stream = connect(&daemon);
            let path = format!("/vms/{name}?wait={dear}");
            send(&stream, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
            stream
        })
        .collect();
    assert_eq!(daemon.get("/ping").status, 200);
    drop(waits);
    let after = held(&daemon);
    assert!(after.2 < before.2 + (32 << 10), "{before:?} {after:?}");
}
