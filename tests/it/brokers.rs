//! The way from the daemon's events to a broker: `contrib/events-to-nats.py`,
//! with a real NATS server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vminfod::vm::json::Json;

use crate::harness::programs::{command, needs};
use crate::harness::{
    TempDir, TestHost, VMINFOD, free_address, parse, text, wait_for,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The size limit of a message, in bytes.
const PAYLOAD_MAX: usize = 16 << 10;

/// Starts a NATS server that keeps its streams in `dir`; returns its address,
/// too. It pings its clients every second, and logs their answers.
fn broker(dir: &Path) -> (Running, String) {
    let addr = free_address();
    let (host, port) = addr.split_once(':').unwrap();
    let settings = format!(
        "max_payload: {PAYLOAD_MAX}\nping_interval: \"1s\"\nping_max: 2\n"
    );
    let config = dir.join("config");
    std::fs::write(&config, settings).unwrap();
    let server = command("nats-server")
        .args(["-js", "-V", "-a", host, "-p", port, "-sd"])
        .arg(dir)
        .arg("-c")
        .arg(config)
        .arg("-l")
        .arg(dir.join("log"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Running(server);
    wait_for("the broker listens", || {
        let connected = std::net::TcpStream::connect(&addr);
        connected.map(drop).map_err(|e| e.to_string())
    });
    (server, addr)
}

fn bridge(broker: &str, daemon: &str) -> Running {
    let program = root().join("contrib/events-to-nats.py");
    let bridge = Command::new("python3")
        .arg(program)
        .args(["--nats", broker, "--node", "a.node", "--create"])
        .args(["--vminfod", VMINFOD])
        .env("VMINFOD_SERVER", daemon)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Running(bridge)
}

/// All messages of the stream: the part of the subject after the node, and the
/// message itself.
fn messages(broker: &str) -> Vec<(String, Json)> {
    let script = root().join("tests/it/clients/stream.py");
    let output = Command::new("python3").arg(script).arg(broker).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let message = |line: &str| {
        let (subject, data) = line.split_once(' ').unwrap();
        let subject = subject.strip_prefix("vminfod.a%2Enode.").unwrap();
        (subject.to_string(), parse(data.as_bytes()))
    };
    printed.lines().map(message).collect()
}

fn kinds(messages: &[(String, Json)]) -> Vec<&str> {
    messages.iter().map(|(_, data)| text(data, "type")).collect()
}

/// Waits until the last message is event `seq` or a later one; returns all
/// messages.
fn wait_for_event(broker: &str, seq: u64) -> Vec<(String, Json)> {
    wait_for("the last event is stored", || {
        let all = messages(broker);
        let last = all.last().and_then(|(_, data)| data.get("seq")?.as_u64());
        match last {
            Some(last) if last >= seq => Ok(all),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_broker_gets_every_event_once_across_kills() {
    needs!["nats-server", "python3"];
    let host = TestHost::with_vms(4);
    let zonename = host.zonenames().unwrap().remove(0);
    let addr = free_address();
    let daemon = host.start_with(&["--listen", &addr]);
    daemon.settle(&host);
    let mut direct = daemon.events();
    let store = TempDir::new();
    let (mut server, mut nats) = broker(&store.0);

    let first = bridge(&nats, &addr);
    let begun = wait_for_event(&nats, direct.seq);
    let mut wanted = vec!["reset"];
    wanted.extend(["snapshot"; 4]);
    wanted.push("ready");
    assert_eq!(kinds(&begun), wanted);
    let mut served = daemon.vms().as_array().unwrap().to_vec();
    let mut told: Vec<_> =
        begun[1..5].iter().map(|(_, m)| m.get("vm").unwrap().clone()).collect();
    let by_name = |vm: &Json| text(vm, "zonename").to_string();
    served.sort_by_key(by_name);
    told.sort_by_key(by_name);
    assert_eq!(told, served);

    // While nothing happens, the bridge stays connected: it answers the
    // broker's pings.
    wait_for("the broker is answered", || {
        let log = std::fs::read_to_string(store.0.join("log")).unwrap();
        match log.matches("<<- [PONG]").count() {
            5.. => Ok(()),
            n => Err(n.to_string()),
        }
    });
    let mut first = first;
    assert!(first.0.try_wait().unwrap().is_none());

    // Bridge and broker are killed in between, at various moments.
    let mut running = Some(first);
    for n in 0..60 {
        let tags = format!("{{\"n\":{n}}}");
        host.write_config(&zonename, "tags.json", &tags).unwrap();
        // Wait for every sixth event only, so that several are on their way at
        // once.
        if n % 6 == 0 {
            let path = format!("/vms/{zonename}?wait=tags.n={n}");
            assert_eq!(daemon.get(&path).status, 200);
        }
        match n % 20 {
            5 | 10 => drop(running.replace(bridge(&nats, &addr))),
            15 => {
                drop(server);
                (server, nats) = broker(&store.0);
                running = Some(bridge(&nats, &addr));
            }
            _ => {}
        }
    }
    let path = format!("/vms/{zonename}?wait=tags.n=59");
    assert_eq!(daemon.get(&path).status, 200);
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    let all = wait_for_event(&nats, seq);
    let events = direct.read_to(seq);
    assert!(events.len() >= 10, "{}", events.len());
    let stored: Vec<_> =
        all[begun.len()..].iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(stored, events);
    let subject = format!("{zonename}.modify");
    assert!(all[begun.len()..].iter().all(|(at, _)| *at == subject));

    // An event that is too large for the broker is sent with less in it, and so
    // is the next one if it contains the old value.
    for size in [PAYLOAD_MAX - 3000, PAYLOAD_MAX / 2, PAYLOAD_MAX * 2, 1, 2] {
        let long = "x".repeat(size);
        let tags = format!("{{\"long\":\"{long}\"}}");
        let before = daemon.status().get("seq").unwrap().as_u64().unwrap();
        host.write_config(&zonename, "tags.json", &tags).unwrap();
        let seq = direct.read_to(before + 1).pop().unwrap();
        let seq = seq.get("seq").unwrap().as_u64().unwrap();
        let all = wait_for_event(&nats, seq);
        let (_, last) = all.last().unwrap();
        let is_whole = last.get("too_large").is_none();
        // The event of size 1 is too large as well: it contains the long old
        // value.
        assert_eq!(is_whole, size == 2, "{size}");
        assert_eq!(text(last, "uuid"), zonename);
    }
    let all = messages(&nats);

    // A new daemon has another epoch: the bridge sends all of its VMs.
    drop(daemon);
    wait_for("the bridge has ended", || {
        let ended = running.as_mut().unwrap().0.try_wait().unwrap();
        ended.map_or(Err(String::new()), |status| {
            assert_eq!(status.code(), Some(1));
            Ok(())
        })
    });
    let daemon = host.start_with(&["--listen", &addr]);
    daemon.settle(&host);
    running = Some(bridge(&nats, &addr));
    wait_for("it is begun again", || {
        let again = messages(&nats).split_off(all.len());
        match kinds(&again) == wanted {
            true => Ok(()),
            false => Err(format!("{:?}", kinds(&again))),
        }
    });
    drop((running, server));
}
