//! Streams that break again and again, and lines that arrive slowly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use vminfod_client::{Client, Error, Event, EventStream, EventsQuery};

use crate::harness::{DEADLINE, VMINFOD};

/// The HTTP head of a stream.
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn ready(seq: u32) -> String {
    chunk(&format!(
        "{{\"type\":\"ready\",\"date\":\"d\",\"uuid\":\"u\",\"seq\":{seq},\
         \"epoch\":\"e\",\"vms\":[]}}\n"
    ))
}

fn event(seq: u32) -> String {
    format!(
        "{{\"type\":\"delete\",\"date\":\"d\",\"zonename\":\"z\",\
         \"uuid\":\"z\",\"seq\":{seq},\"epoch\":\"e\"}}\n"
    )
}

/// A server that answers one connection after the other; `answer` gets the
/// number of the connection. Returns the address, and the count of connections.
fn serve(
    answer: impl Fn(u32, &mut TcpStream) + Send + 'static,
) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let count: Arc<AtomicU32> = Arc::default();
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            answer(counted.fetch_add(1, Ordering::SeqCst), &mut client);
        }
    });
    (addr, count)
}

/// The error with which a stream ends.
fn end_of(mut stream: EventStream) -> Error {
    let (sender, end) = channel();
    std::thread::spawn(move || {
        let error = stream.find_map(Result::err);
        let _ = sender.send(error.unwrap());
    });
    end.recv_timeout(DEADLINE).unwrap()
}

#[test]
fn a_stream_that_always_breaks_at_its_start_gives_up() {
    let begins_and_ends = |_: u32, client: &mut TcpStream| {
        let _ = client.write_all((HEAD.to_string() + &ready(5)).as_bytes());
    };
    let (addr, count) = serve(begins_and_ends);
    let client = Client::new(addr);
    let stream = client.events(EventsQuery::new().without_snapshot()).unwrap();
    end_of(stream.retry_for(Duration::from_secs(2)));
    // The pauses are at least 0.05 s and double each time, and so there are few
    // tries.
    let tries = count.load(Ordering::SeqCst);
    assert!((2..=8).contains(&tries), "{tries}");
    let output = std::process::Command::new(VMINFOD)
        .args(["events", "--retry", "1", "--server", &addr.to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_event_resets_the_pause_between_retries() {
    let brings_one = |n: u32, client: &mut TcpStream| {
        let text = ready(5 + n) + &chunk(&event(6 + n));
        let _ = client.write_all((HEAD.to_string() + &text).as_bytes());
    };
    let (addr, _) = serve(brings_one);
    let client = Client::new(addr);
    let stream = client.events(EventsQuery::new().without_snapshot()).unwrap();
    let mut stream = stream.retry_for(DEADLINE);
    let mut seen = 0;
    while seen < 20 {
        // With pauses that grow, this would take minutes.
        match stream.next_within(DEADLINE).unwrap() {
            Some(Event::Delete { header, .. }) => {
                seen += 1;
                assert_eq!(header.seq, 5 + seen);
            }
            Some(_) => {}
            None => panic!("only {seen} events"),
        }
    }
}

#[test]
fn a_slow_line_is_read_while_its_bytes_keep_coming() {
    let drips = |_: u32, client: &mut TcpStream| {
        let _ = client.set_nodelay(true);
        let text = event(6);
        let begin = format!("{HEAD}{}{:x}\r\n", ready(5), text.len());
        let _ = client.write_all(begin.as_bytes());
        let (_keep, pause) = channel::<()>();
        for byte in text.as_bytes() {
            let _ = client.write_all(&[*byte]);
            let _ = pause.recv_timeout(Duration::from_millis(10));
        }
        // Then the next line begins, and nothing more of it comes.
        let _ = client.write_all(b"\r\n50\r\n{");
        let _ = client.read(&mut [0; 1]);
    };
    let (addr, _) = serve(drips);
    let time = Duration::from_millis(500);
    let client = Client::new(addr).time_limit(time);
    let stream = client.events(EventsQuery::new().without_snapshot()).unwrap();
    let mut stream = stream.retry_for(Duration::ZERO);
    assert!(matches!(stream.next().unwrap().unwrap(), Event::Ready(_)));
    // Wait in short pieces, as a program does that has other work, too.
    let event = loop {
        let next = stream.next_within(Duration::from_millis(50)).unwrap();
        if let Some(event) = next {
            break event;
        }
    };
    assert_eq!(event.header().unwrap().seq, 6);
    let error = end_of(stream);
    assert!(matches!(error, Error::Timeout { time: t, .. } if t == time));
}

#[test]
fn a_time_limit_covers_all_requests_of_a_verb() {
    let host = crate::harness::TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    daemon.signal("STOP");
    let sync = ["get", &zonename, "--sync", "--timeout", "50"];
    for args in [
        &["ping"][..],
        &["vms"],
        &["vm", &zonename],
        &["status"],
        &["list"],
        &["lookup"],
        &["get", &zonename],
        &["get", &zonename, "--sync"],
        &sync,
        &["events"],
        &["top"],
        &["wait", &zonename, "state=x", "--timeout", "1"],
    ] {
        let mut args = args.to_vec();
        args.extend(["--time-limit", "0.5"]);
        let begin = std::time::Instant::now();
        let output = daemon.tool(&args);
        // The default limit, which --time-limit replaces.
        let most = vminfod_client::TIME_LIMIT;
        assert!(begin.elapsed() < most, "{args:?}");
        assert!(!output.status.success(), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        // The error has the time that was left for the last request.
        assert!(said.contains("no answer in 0."), "{args:?}: {said}");
    }
    daemon.signal("CONT");
}

#[test]
fn a_dripping_answer_is_limited_in_total_time() {
    // A server that is never silent for long, and never finishes.
    let (addr, _) = serve(|_, client| {
        let (_keep, pause) = channel::<()>();
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        let mut is_open = client.write_all(head.as_bytes()).is_ok();
        while is_open {
            is_open = client.write_all(b" ").is_ok();
            let _ = pause.recv_timeout(Duration::from_millis(10));
        }
    });
    let time = Duration::from_millis(300);
    let client = Client::new(addr).time_limit(time);
    assert!(matches!(client.ping(), Err(Error::Timeout { .. })));
}
