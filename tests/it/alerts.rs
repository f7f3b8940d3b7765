//! Every alert of `contrib/`, on the metrics of a real daemon: the test makes
//! the fault, and promtool must find that the alert fires.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use simhost::emit::Channel;

use crate::harness::programs::{command, needs};
use crate::harness::{Daemon, TempDir, TestHost, wait_for};

/// The name of an alert; and each text of its rule that is too long or too
/// large for a test, with its replacement.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

/// The /metrics pages of a daemon before and after its fault; the second is
/// `None` if the daemon does not answer any more.
type Pages = (String, Option<String>);

fn page(daemon: &Daemon) -> String {
    daemon.get("/metrics").text()
}

/// Waits until a sample is at least `least`; returns that page.
fn page_with(daemon: &Daemon, sample: &str, least: f64) -> Option<String> {
    Some(wait_for(sample, || {
        let page = page(daemon);
        let mut lines = page.lines();
        let value = lines.find_map(|line| {
            line.strip_prefix(sample)?.trim().parse::<f64>().ok()
        });
        match value.is_some_and(|value| value >= least) {
            true => Ok(page),
            false => Err(page),
        }
    }))
}

/// Samples of a page by name and labels.
fn samples(page: &str) -> BTreeMap<&str, &str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).collect()
}

/// Has promtool evaluate the rules on two pages: `Ok` if the alert fires, else
/// what promtool said.
fn fires(case: &Case, pages: &Pages) -> Result<(), String> {
    let (alert, shorter) = case;
    let dir = TempDir::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rules =
        std::fs::read_to_string(root.join("contrib/vminfod.rules.yml"))
            .unwrap();
    for (long, short) in *shorter {
        assert_eq!(rules.matches(long).count(), 1, "{long}");
        rules = rules.replace(long, short);
    }
    std::fs::write(dir.0.join("rules.yml"), rules).unwrap();
    let (first, second) = pages;
    let (before, after) =
        (samples(first), samples(second.as_deref().unwrap_or_default()));
    let mut test = String::from(
        "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n\
         - interval: 1m\n  input_series:\n",
    );
    let up = if second.is_some() { "1x60" } else { "0x60" };
    let mut add = |name: &str, labels: &str, values: &str| {
        let comma = if labels.is_empty() { "" } else { "," };
        test += &format!(
            "  - series: '{name}{{{labels}{comma}job=\"vminfod\",\
             instance=\"hv1\"}}'\n    values: '{values}'\n"
        );
    };
    add("up", "", &format!("1x3 {up}"));
    let names: std::collections::BTreeSet<_> =
        before.keys().chain(after.keys()).collect();
    for sample in names {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let of = |page: &BTreeMap<&str, &str>| {
            page.get(*sample).map_or("_", |value| value).to_string()
        };
        let (was, is) = (of(&before), of(&after));
        let values = format!("{was} {was} {was} {was} {is}x60");
        add(name, labels.trim_end_matches('}'), &values);
    }
    // After the longest `for`, and within the windows of all other rules.
    let at = if *alert == "VminfodMemory" { "45m" } else { "15m" };
    test += &format!(
        "  promql_expr_test:\n  - expr: 'count(ALERTS{{alertname=\"{alert}\",\
         alertstate=\"firing\"}}) > bool 0'\n    eval_time: {at}\n    \
         exp_samples: [{{labels: '{{}}', value: 1}}]\n"
    );
    let file = dir.0.join("test.yml");
    std::fs::write(&file, &test).unwrap();
    let run = command("promtool").args(["test", "rules"]).arg(&file).output();
    let run = run.unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned()
        + &String::from_utf8_lossy(&run.stdout);
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("{alert}: {said}\n{test}")),
    }
}

/// Starts a daemon, and takes a page before its fault is made.
fn started(vms: u64, settings: &[&str]) -> (TestHost, Daemon, String) {
    let host = TestHost::with_vms(vms);
    let args: Vec<_> =
        settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let daemon = host.start_with(&args);
    // The first load is still at work when the daemon begins to answer.
    daemon.settle(&host);
    let before = page(&daemon);
    (host, daemon, before)
}

fn own(host: &TestHost) -> String {
    format!("zones/{}", host.zonenames().unwrap()[0])
}

fn down() -> Pages {
    let (_host, mut daemon, before) = started(1, &[]);
    daemon.signal("KILL");
    daemon.wait();
    assert!(TcpStream::connect(daemon.addr).is_err());
    (before, None)
}

fn source_down() -> Pages {
    let (host, daemon, before) = started(1, &["restart-first=0.1"]);
    host.hurt("sysevent-zfs-start", "fail no").unwrap();
    host.kill_sysevent(Channel::Zfs).unwrap();
    let after = wait_for("it is down", || {
        let page = page(&daemon);
        match page.contains("vminfod_source_ready{source=\"zfs\"} 0") {
            true => Ok(page),
            false => Err(page),
        }
    });
    (before, Some(after))
}

fn source_restarts() -> Pages {
    let settings = ["restart-first=0.01", "restart-last=0.01"];
    let (host, daemon, before) = started(1, &settings);
    let sample = "vminfod_source_restarts_total{source=\"zfs\"}";
    for n in 1..6 {
        host.kill_sysevent(Channel::Zfs).unwrap();
        page_with(&daemon, sample, f64::from(n));
        page_with(&daemon, "vminfod_source_ready{source=\"zfs\"}", 1.0);
    }
    (before, Some(page(&daemon)))
}

fn faults() -> Pages {
    let (host, daemon, before) = started(2, &[]);
    let name = host.zonenames().unwrap().remove(0);
    host.write_config(&name, "tags.json", "{").unwrap();
    let sample = "vminfod_faults{source=\"tags.json\"}";
    (before, page_with(&daemon, sample, 1.0))
}

fn slow() -> Pages {
    let settings = ["workers=1", "stuck-time=1000", "command-time=1000"];
    let (host, daemon, before) = started(4, &settings);
    host.hurt("zoneadm", "block").unwrap();
    for name in host.zonenames().unwrap() {
        // One VM is being loaded, and the others wait.
        host.update(&name, "alias", "new").unwrap();
        let _ = host.stop(&name, 0);
    }
    let after = page_with(&daemon, "vminfod_queue_age_seconds", 0.5);
    host.hurt("zoneadm", "heal").unwrap();
    (before, after)
}

fn stuck() -> Pages {
    let (host, daemon, before) = started(1, &["stuck-time=0.001"]);
    let name = host.zonenames().unwrap().remove(0);
    // A file that takes a while to read.
    let mut n = 0;
    let after = wait_for("a worker is at it for long", || {
        n += 1;
        let text = format!("{{\"{n}\":[{}0]}}", "0,".repeat(400_000));
        host.write_config(&name, "tags.json", &text).unwrap();
        let page = page(&daemon);
        match page.contains("vminfod_queue_stuck 1") {
            true => Ok(page),
            false => Err(page),
        }
    });
    (before, Some(after))
}

fn breaker() -> Pages {
    let (host, daemon, before) = started(1, &["stuck-time=0.1"]);
    host.hurt("zfs", "block").unwrap();
    host.zfs_set(&own(&host), "quota", "1073741824").unwrap();
    let sample = "vminfod_breaker_seconds{command=\"zfs zones\"}";
    let after = page_with(&daemon, sample, 0.5);
    host.hurt("zfs", "heal").unwrap();
    (before, after)
}

fn drift() -> Pages {
    let settings = ["refresh-interval=0.3", "drift-time=0.1"];
    let (host, daemon, before) = started(1, &settings);
    host.hurt("sysevent-zfs", "drop").unwrap();
    host.zfs_set(&own(&host), "quota", "1073741824").unwrap();
    let sample = "vminfod_drift_missed_total{source=\"zfs\"}";
    (before, page_with(&daemon, sample, 1.0))
}

fn overflow() -> Pages {
    let (host, daemon, before) = started(6, &["jobs=1"]);
    host.zfs_set("zones", "compression", "gzip").unwrap();
    (before, page_with(&daemon, "vminfod_queue_overflows_total", 1.0))
}

fn cut_offs() -> Pages {
    let (host, daemon, before) = started(1, &["lag-bytes=100k"]);
    let name = host.zonenames().unwrap().remove(0);
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\n\r\n").unwrap();
    page_with(&daemon, "vminfod_stream_subscribers", 1.0);
    let mut n = 0;
    let after = wait_for("it is cut off", || {
        n += 1;
        let text = format!("{{\"{n}\":\"{}\"}}", "x".repeat(200_000));
        host.write_config(&name, "tags.json", &text).unwrap();
        let page = page(&daemon);
        match page.contains("vminfod_stream_cut_offs_total 1") {
            true => Ok(page),
            false => Err(page),
        }
    });
    (before, Some(after))
}

fn full() -> Pages {
    let (_host, daemon, before) = started(1, &["subscribers=1"]);
    let _stream = daemon.events();
    assert_eq!(daemon.get("/events").status, 503);
    (before, Some(page(&daemon)))
}

fn memory() -> Pages {
    let (host, daemon, before) = started(1, &[]);
    let name = host.zonenames().unwrap().remove(0);
    let large = format!("{{\"k\":\"{}\"}}", "x".repeat(15 << 20));
    host.write_config(&name, "tags.json", &large).unwrap();
    let after = page_with(&daemon, "process_resident_memory_bytes", 30e6);
    (before, after)
}

#[test]
fn each_alert_fires_for_its_fault_and_not_without_it() {
    needs!["promtool"];
    let cases: [(Case, fn() -> Pages); 12] = [
        (("VminfodDown", &[]), down),
        (("VminfodSourceDown", &[]), source_down),
        (("VminfodSourceRestarts", &[]), source_restarts),
        (("VminfodFaults", &[]), faults),
        (("VminfodSlow", &[("age_seconds > 60", "age_seconds > 0.4")]), slow),
        (("VminfodStuck", &[]), stuck),
        (("VminfodBreaker", &[("[5m]) > 10", "[5m]) > 0.4")]), breaker),
        (("VminfodDrift", &[]), drift),
        (("VminfodOverflow", &[]), overflow),
        (("VminfodCutOffs", &[]), cut_offs),
        (("VminfodFull", &[]), full),
        (("VminfodMemory", &[("64e6 + 20 *", "25e6 + 0 *")]), memory),
    ];
    let rules = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = rules.join("contrib/vminfod.rules.yml");
    let rules = std::fs::read_to_string(rules).unwrap();
    assert_eq!(rules.matches("- alert: ").count(), cases.len());
    for (case, make) in cases {
        assert!(rules.contains(&format!("- alert: {}\n", case.0)));
        let pages = make();
        if let Err(said) = fires(&case, &pages) {
            panic!("{said}");
        }
        // The alert must not fire without its fault.
        let before = (pages.0.clone(), Some(pages.0));
        let Err(said) = fires(&case, &before) else {
            panic!("{} fires without its fault:\n{}", case.0, before.0);
        };
        assert!(said.contains("got:"), "{said}");
    }
}
