//! A stream of events, which is checked while it is read.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use vminfod::vm::json::Json;

use super::{DEADLINE, text};

/// A stream of events, and the VMs that they add up to.
pub struct Stream {
    lines: Receiver<String>,
    pub ready: Json,
    pub vms: BTreeMap<String, Json>,
    pub seq: u64,
    pub events: Vec<Json>,
    /// What the stream was asked for. Without a query, every `seq` must come.
    query: String,
}

impl Stream {
    pub fn open(addr: SocketAddr, query: &str) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        let request = format!("GET /events{query} HTTP/1.1\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            read_chunks(stream, |line| sender.send(line).is_ok())
        });
        let ready = lines.recv_timeout(DEADLINE).unwrap();
        let ready = Json::parse(&ready).unwrap();
        assert_eq!(text(&ready, "type"), "ready");
        let vms = match ready.get("vms") {
            Some(Json::String(vms)) => Json::parse(vms).unwrap(),
            Some(vms) => vms.clone(),
            None => Json::from(Vec::new()),
        };
        let vms = vms.as_array().unwrap().iter();
        let vms = vms
            .map(|vm| (text(vm, "zonename").to_string(), vm.clone()))
            .collect();
        let seq = ready.get("seq").unwrap().as_u64().unwrap();
        let query = query.to_string();
        Self { lines, ready, vms, seq, events: Vec::new(), query }
    }

    /// The next event, applied to `vms`; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Json> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(self.apply(&line)),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event in time"),
        }
    }

    /// Reads events up to number `seq`, and returns them.
    pub fn read_to(&mut self, seq: u64) -> Vec<Json> {
        let mut read = Vec::new();
        while self.seq < seq {
            read.push(self.next().expect("the stream has ended"));
        }
        assert_eq!(self.seq, seq);
        read
    }

    /// The VMs as an array.
    pub fn array(&self) -> Json {
        Json::from(self.vms.values().cloned().collect::<Vec<_>>())
    }

    fn apply(&mut self, line: &str) -> Json {
        let event = Json::parse(line).unwrap();
        let seq = event.get("seq").unwrap().as_u64().unwrap();
        let kind = text(&event, "type");
        assert!(is_asked_for(kind, &self.query), "not asked for: {line}");
        if kind == "heartbeat" {
            assert!(seq >= self.seq, "{line}");
            return event;
        }
        let is_whole = self.query.is_empty();
        let is_next = seq == self.seq + 1;
        let is_later = seq > self.seq && !is_whole;
        assert!(is_next || is_later, "after {}: {line}", self.seq);
        self.seq = seq;
        assert_eq!(event.get("epoch"), self.ready.get("epoch"));
        let name = text(&event, "zonename").to_string();
        let known = self.vms.contains_key(&name);
        let vm = event.get("vm");
        match kind {
            "create" => {
                assert!(!known, "create of a known VM: {line}");
                self.vms.insert(name, vm.unwrap().clone());
            }
            "modify" => {
                assert!(known || !is_whole, "of an unknown VM: {line}");
                let changes = event.get("changes").unwrap();
                let changes = changes.as_array().unwrap();
                assert!(!changes.is_empty(), "{line}");
                assert!(changes.iter().all(has_path), "{line}");
                self.vms.insert(name, vm.unwrap().clone());
            }
            "delete" => {
                assert!(known || !is_whole, "of an unknown VM: {line}");
                self.vms.remove(&name);
            }
            _ => panic!("unknown type of event: {line}"),
        }
        self.events.push(event.clone());
        event
    }
}

/// Whether a stream with this query may get an event of this type.
fn is_asked_for(kind: &str, query: &str) -> bool {
    let parameter = |name: &str| {
        let pairs = query.trim_start_matches('?').split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)
    };
    match (kind, parameter("types")) {
        ("heartbeat", _) => parameter("heartbeat").is_some(),
        (kind, Some((_, types))) => types.split(',').any(|t| t == kind),
        (kind, None) => ["create", "modify", "delete"].contains(&kind),
    }
}

/// Whether a change has a path, and each part of it is a name, or null for an
/// element of an array; never a number.
fn has_path(change: &Json) -> bool {
    let path = change.get("path").and_then(Json::as_array);
    path.is_some_and(|path| {
        let is_part =
            |part: &Json| matches!(part, Json::String(_) | Json::Null);
        !path.is_empty() && path.iter().all(is_part)
    })
}

/// Reads a chunked body line by line: each line is a chunk of its own.
pub fn read_chunks(stream: TcpStream, mut line: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    loop {
        let mut size = String::new();
        if reader.read_line(&mut size).unwrap_or(0) == 0 {
            return;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        if reader.read_exact(&mut chunk).is_err() || size == 0 {
            return;
        }
        chunk.truncate(size);
        assert_eq!(chunk.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(chunk.pop(), Some(b'\n'));
        if !line(String::from_utf8(chunk).unwrap()) {
            return;
        }
    }
}
