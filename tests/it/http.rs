//! The HTTP interface by real sockets: its contract, and clients that are
//! slow, broken or many.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vminfod::vm::json::Json;

use crate::harness::{
    Answer, DEADLINE, TestHost, few_or_many, parse, text, wait_for,
};

#[test]
fn ping_vms_and_refusals_have_the_documented_answers() {
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(1);
    let daemon = host.start();

    let ping = daemon.get("/ping");
    assert_eq!(
        (ping.status, ping.text().as_str()),
        (200, "{\"ping\":\"pong\"}")
    );
    assert!(ping.head.contains("Content-Type: application/json"));
    assert!(ping.head.contains("Content-Length: 15"));

    let vm = daemon.get(&format!("/vms/{zonename}"));
    assert_eq!(text(&parse(&vm.body), "zonename"), zonename);
    let encoded = zonename.replace('-', "%2D");
    assert_eq!(daemon.get(&format!("/vms/{encoded}")).body, vm.body);
    assert_eq!(daemon.vms().as_array().unwrap().len(), 3);

    for (path, status, body) in [
        ("/vms/nobody", 404, "VM Not Found: nobody"),
        ("/", 404, "Unsupported URL Path"),
        ("/pings", 404, "Unsupported URL Path"),
        ("/vms?bogus=1", 400, "unknown query parameter or value: bogus"),
    ] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(body), "{path}: {}", answer.text());
        assert_eq!(answer.field("Content-Type"), Some("application/json"));
    }
    for (path, same) in [("/ping/", "/ping"), ("/vms/", "/vms")] {
        assert_eq!(daemon.get(path).body, daemon.get(same).body);
    }
    assert_eq!(daemon.get(&format!("/vms/{zonename}/")).body, vm.body);
    let post = "POST /vms HTTP/1.1\r\nConnection: close\r\n\r\n";
    let post = daemon.send(post.as_bytes());
    assert_eq!((post.status, post.text().as_str()), (400, ""));
    let head = daemon.send(b"HEAD /vms HTTP/1.0\r\n\r\n");
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    let length = daemon.get("/vms").body.len();
    assert!(head.head.contains(&format!("Content-Length: {length}")));
}

#[test]
fn a_vm_that_is_being_deleted_is_served_as_configured() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    host.stop(&name, 0).unwrap();
    host.uninstall(&name).unwrap();
    // The state and the dataset are reported by different sources.
    let both = "wait=state=configured&wait=zfs_filesystem=!~.";
    let vm = daemon.get(&format!("/vms/{name}?{both}")).json();
    assert_eq!(text(&vm, "zone_state"), "configured");
    for gone in ["quota", "zfs_filesystem"] {
        assert_eq!(vm.get(gone), None, "{gone}");
    }
    assert_eq!(daemon.vms().as_array().unwrap().len(), 2);
    host.zonecfg_delete(&name).unwrap();
    assert_eq!(daemon.get(&format!("/vms/{name}?wait=gone")).status, 200);
}

#[test]
fn a_closed_subscriber_is_removed_without_an_event() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let listeners = |wanted: usize| {
        wait_for(&format!("{wanted} listeners"), || {
            let status = daemon.status();
            let listeners = status.get("eventsListeners").unwrap();
            match listeners.as_object().unwrap().len() {
                n if n == wanted => Ok(status),
                _ => Err(listeners.to_string()),
            }
        })
    };
    let mut client = TcpStream::connect(daemon.addr).unwrap();
    client.write_all(b"GET /events HTTP/1.1\r\n\r\n").unwrap();
    let before = listeners(1);
    drop(client);
    assert_eq!(listeners(0).get("seq"), before.get("seq"));
}

#[test]
fn many_vms_are_served_while_events_run() {
    let vms = few_or_many(300, 1000);
    let host = TestHost::with_vms(vms);
    let daemon = host.start();
    let mut stream = daemon.events();
    let names = host.zonenames().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (host, names) = (host.host.clone(), names.clone());
        let stop = Arc::clone(&stop);
        move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) || n < 20 {
                let name = &names[n % 50];
                host.update(name, "tags.n", &n.to_string()).unwrap();
                n += 1;
            }
            n
        }
    });
    for round in 0..20 {
        assert_eq!(daemon.get("/ping").text(), "{\"ping\":\"pong\"}");
        assert_eq!(daemon.vms().as_array().unwrap().len() as u64, vms);
        let name = &names[round * 7];
        assert_eq!(text(&daemon.vm(name).unwrap(), "zonename"), name);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() >= 20);
    let served = daemon.settle(&host);
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    let events = stream.read_to(seq);
    assert!(!events.is_empty());
    assert_eq!(
        crate::harness::first_difference(&stream.array(), &served),
        None
    );
}

#[test]
fn connections_are_kept_alive_and_take_pipelined_requests() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let ping = "GET /ping HTTP/1.1\r\n\r\n";
    let last = "GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n";
    // One request in pieces, and then several in one write.
    for piece in ping.as_bytes().chunks(5) {
        stream.write_all(piece).unwrap();
    }
    stream.write_all([ping, ping, last].concat().as_bytes()).unwrap();
    // A client that will send nothing more is still answered.
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("{\"ping\":\"pong\"}").count(), 4);
}

#[test]
fn a_body_is_read_and_dropped_and_the_connection_stays() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let hidden = format!("GET /vms/{name} HTTP/1.1\r\n\r\n");
    let bodies = ["{}".to_string(), hidden, "x".repeat(64 << 10)];
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    for body in &bodies {
        let length = body.len();
        let head =
            format!("GET /ping HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // In pieces, as a network may bring it.
        for piece in body.as_bytes().chunks(1 + length / 3) {
            stream.write_all(piece).unwrap();
        }
    }
    let last = "HEAD /ping HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}\
        GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n";
    stream.write_all(last.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 5, "{answers}");
    assert_eq!(answers.matches("{\"ping\":\"pong\"}").count(), 4, "{answers}");
    // A body that does not come is not waited for without end.
    drop(daemon);
    let daemon = host.start_with(&["--set", "head-time=0.1"]);
    let answer = daemon.send(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(answer.status, 408);
}

#[test]
fn malformed_requests_get_an_error_and_harm_no_other_client() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(10_000));
    let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(9000));
    for (request, status) in [
        ("rubbish\r\n\r\n".as_bytes(), 400),
        (b"\0\0\0\0\r\n\r\n", 400),
        (b"GET /ping HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 100000000000\r\n\r\n", 413),
        (
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /",
            400,
        ),
        (b"GET /vms/%00 HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /vms/../ping HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (long.as_bytes(), 414),
        (fields.as_bytes(), 431),
    ] {
        let shown = String::from_utf8_lossy(&request[..request.len().min(40)]);
        assert_eq!(daemon.send(request).status, status, "{shown}");
    }
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn a_burst_of_connections_is_answered_beside_idle_ones() {
    let host = TestHost::with_vms(50);
    let daemon = host.start();
    let mut open: Vec<_> =
        (0..200).map(|_| TcpStream::connect(daemon.addr).unwrap()).collect();
    // Some begin a request and do not go on; some ask for much and do not read.
    for (i, stream) in open.iter_mut().enumerate() {
        match i % 4 {
            0 => stream.write_all(b"GET /pi").unwrap(),
            1 => stream
                .write_all("GET /vms HTTP/1.1\r\n\r\n".repeat(50).as_bytes())
                .unwrap(),
            _ => stream.write_all(b"GET /ping HTTP/1.1\r\n\r\n").unwrap(),
        }
    }
    let mut stream = daemon.events();
    for (i, stream) in open.iter_mut().enumerate().filter(|(i, _)| i % 4 > 1) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "connection {i}");
    }
    host.update(&host.zonenames().unwrap()[0], "alias", "x").unwrap();
    assert_eq!(text(&stream.next().unwrap(), "type"), "modify");
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn a_slow_subscriber_is_cut_off_and_others_get_every_event() {
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start_with(&["--log-level", "info"]);
    let mut idle = TcpStream::connect(daemon.addr).unwrap();
    let request = "GET /events HTTP/1.1\r\nUser-Agent: sleeper\r\n\r\n";
    idle.write_all(request.as_bytes()).unwrap();
    let mut stream = daemon.events();
    // 16 MiB of events are more than a subscriber may fall behind.
    let filler = "x".repeat(400_000);
    let mut rounds = 0;
    wait_for("the sleeper is cut off", || {
        rounds += 1;
        let value = format!("{filler}{rounds}");
        host.update(&zonename, "customer_metadata.k", &value).unwrap();
        stream.next().unwrap();
        let log = daemon.log();
        let cut = log.iter().any(|l| l.contains("cut off: sleeper"));
        if cut { Ok(()) } else { Err(format!("{rounds} events")) }
    });
    let status = daemon.status();
    let listeners = status.get("eventsListeners").unwrap();
    assert_eq!(listeners.as_object().unwrap().len(), 1);
    let count = status.get("eventsListenersCutOff");
    assert_eq!(count, Some(&Json::Number(1.0)));
}

/// Reads until the connection ends; an error says how much was read.
fn read_to_end(stream: &mut TcpStream) -> Result<Answer, String> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    read.map_err(|e| format!("{e} after {} bytes", bytes.len()))?;
    Ok(Answer::parse(&bytes))
}

#[test]
fn an_answer_arrives_whole_while_the_client_keeps_sending() {
    let host = TestHost::with_vms(40);
    let zonename = host.zonenames().unwrap().remove(0);
    let large = format!("{{\"k\":\"{}\"}}", "x".repeat(4 << 20));
    host.write_config(&zonename, "tags.json", &large).unwrap();
    let daemon = host.start();
    for (request, status) in [
        ("GET /vms HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
        ("GET /vms HTTP/1.0\r\n\r\n", 200),
        ("GET /bogus HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        ("POST /vms HTTP/1.0\r\n\r\n", 400),
        ("rubbish\r\n\r\n", 400),
    ] {
        let mut stream = TcpStream::connect(daemon.addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        // The daemon has begun to answer; when it has finished, there are bytes
        // that it has not read.
        let mut begin = [0; 9];
        stream.read_exact(&mut begin).unwrap();
        stream.write_all(&[b'x'; 10_000]).unwrap();
        let mut bytes = begin.to_vec();
        let mut piece = [0; 64 << 10];
        loop {
            // The client reads so slowly that the system still has bytes to
            // send when the daemon has written all.
            assert_eq!(daemon.get("/ping").status, 200);
            let read = stream.read(&mut piece);
            match read.unwrap_or_else(|e| panic!("{request}: {e}")) {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        let answer = Answer::parse(&bytes);
        assert_eq!(answer.status, status, "{request}");
        let length = answer.field("Content-Length").unwrap();
        assert_eq!(length, answer.body.len().to_string(), "{request}");
    }
    // A client that never stops sending is cut off in the end.
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").unwrap();
    let mut sent = 0;
    while stream.write_all(&[b'x'; 100_000]).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the daemon reads without end");
    }
}

#[test]
fn each_answer_has_date_and_keep_alive_fields() {
    let host = TestHost::with_vms(1);
    let daemon = host.start_with(&["--set", "idle-time=50"]);
    let stays =
        b"GET /ping HTTP/1.1\r\n\r\nGET /bogus HTTP/1.1\r\n\r\nx\r\n\r\n";
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    stream.write_all(stays).unwrap();
    let answers = read_to_end(&mut stream).unwrap();
    let all = answers.head + &String::from_utf8_lossy(&answers.body);
    assert_eq!(all.matches("HTTP/1.1 ").count(), 3, "{all}");
    assert_eq!(all.matches("\r\nDate: ").count(), 3, "{all}");
    assert_eq!(all.matches("\r\nKeep-Alive: timeout=45").count(), 2);
    let old = daemon
        .send(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\nx\r\n\r\n");
    assert_eq!(old.field("Keep-Alive"), Some("timeout=45"));

    let last = daemon.get("/ping");
    assert!(last.field("Keep-Alive").is_none());
    let date = last.field("Date").unwrap();
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
    // The refusal of one connection too many has a date, too.
    let host = TestHost::with_vms(1);
    let daemon = host.start_with(&["--set", "connections=1"]);
    let idle = [(); 2].map(|()| TcpStream::connect(daemon.addr).unwrap());
    let refused = wait_for("it is full", || match daemon.get("/ping") {
        answer if answer.status == 503 => Ok(answer),
        answer => Err(answer.status.to_string()),
    });
    assert!(refused.field("Date").is_some());
    drop(idle);
}

#[test]
fn connections_use_tcp_keepalive() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let _stream = daemon.events();
    let port = format!(":{:04X}", daemon.addr.port());
    // In the table of proc(5), the daemon's end of the connection has its port
    // as the local one, is established (01), and has a keepalive timer (02).
    wait_for("the timer runs", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_kept = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            matches!(fields[..], [_, local, _, "01", _, timer, ..]
                if local.ends_with(&port) && timer.starts_with("02:"))
        };
        table.lines().find(is_kept).map(|_| ()).ok_or(table)
    });
}

/// The refusals in the manual, vminfod-http(7): request, status, content type
/// and body, in which `...` stands for the reason.
const REFUSALS: [(&str, u16, &str, &str); 14] = [
    (
        "GET /vms?bogus=1 HTTP/1.1",
        400,
        "application/json",
        "{\"error\":\"...\"}",
    ),
    (
        "GET /vms?fields=bogus HTTP/1.1",
        400,
        "application/json",
        "{\"error\":\"...\"}",
    ),
    (
        "GET /events?since=x HTTP/1.1",
        400,
        "application/json",
        "{\"error\":\"...\"}",
    ),
    ("POST /vms HTTP/1.1", 400, "application/json", ""),
    ("rubbish", 400, "application/json", ""),
    ("GET / HTTP/1.1\r\nHost: evil", 403, "text/plain", "..."),
    ("GET / HTTP/1.1\r\nOrigin: http://a", 403, "text/plain", "..."),
    ("GET /bogus HTTP/1.1", 404, "application/json", "Unsupported URL Path"),
    ("GET /vms/bogus HTTP/1.1", 404, "application/json", "VM Not Found: bogus"),
    ("GET / HTTP/1.1\r\nContent-Length: 99999", 413, "text/plain", ""),
    ("GET /LONG HTTP/1.1", 414, "text/plain", ""),
    (
        "GET / HTTP/1.1\r\nA: LONG\r\nB: LONG\r\nC: LONG\r\nD: LONG",
        431,
        "text/plain",
        "",
    ),
    (
        "GET /vms/UUID?wait=state=x&timeout=0.1 HTTP/1.1",
        504,
        "application/json",
        "{\"zonename\":...",
    ),
    (
        "GET /vms/bogus?wait=state=x&timeout=0.1 HTTP/1.1",
        504,
        "application/json",
        "null",
    ),
];

#[test]
fn refusals_are_as_documented_in_the_manual() {
    let host = TestHost::with_vms(1);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start();
    for (request, status, kind, body) in REFUSALS {
        let request = request.replace("UUID", &zonename);
        let request = request.replace("LONG", &"x".repeat(10_000));
        let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = daemon.send(bytes.as_bytes());
        let shown = &request[..request.len().min(60)];
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.field("Content-Type"), Some(kind), "{shown}");
        let text = answer.text();
        let is_as = match body.split_once("...") {
            Some((begin, end)) => {
                text.len() > begin.len() + end.len()
                    && text.starts_with(begin)
                    && text.ends_with(end)
            }
            None => text == body,
        };
        assert!(is_as, "{shown}: {text}, and not {body}");
    }
}
