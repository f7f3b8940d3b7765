//! /metrics, and the rules and the dashboard in `contrib/`, checked by
//! promtool.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use vminfod::vm::json::Json;

use crate::harness::programs::{command, needs};
use crate::harness::{TestHost, wait_for};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The /metrics page of a daemon that has seen a little of everything.
fn page() -> String {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    let _stream = daemon.events();
    host.update(&names[0], "alias", "x").unwrap();
    host.stop(&names[0], 0).unwrap();
    host.zfs_set(&format!("zones/{}", names[1]), "quota", "1073741824")
        .unwrap();
    host.write_config(&names[1], "tags.json", "{").unwrap();
    host.write_config(&names[2], "routes.json", "{\"a\":\"b\"}").unwrap();
    let path = format!("/vms/{}?wait=state=stopped&sync=1", names[0]);
    assert_eq!(daemon.get(&path).status, 200);
    daemon.get("/vms?bogus=1");
    drop(daemon.events_of("?since=1&epoch=x"));
    wait_for("the fault is counted", || {
        let page = daemon.get("/metrics");
        assert_eq!(page.status, 200);
        let kind = page.field("Content-Type").unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"));
        let page = page.text();
        let has_fault = page.contains("vminfod_faults{source=\"tags.json\"} 1");
        let file = "vminfod_event_latency_seconds_count{source=\"file\"}";
        if has_fault && page.contains(file) { Ok(page) } else { Err(page) }
    })
}

#[test]
fn promtool_accepts_the_metrics_and_none_is_missing() {
    needs!["promtool"];
    let page = page();
    let mut check = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned()
        + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
    for sample in [
        "vminfod_events_received_total{source=\"zone\",type=\"",
        "vminfod_events_received_total{source=\"zfs\",type=\"set\"} 1",
        "vminfod_events_received_total{source=\"file\",type=\"tags.json\"}",
        "vminfod_job_duration_seconds_bucket{kind=\"datasets\",le=\"+Inf\"}",
        "vminfod_event_latency_seconds_count{source=\"file\"}",
        "vminfod_queue_waiting ",
        "vminfod_queue_age_seconds ",
        "vminfod_loads_total{source=\"zoneadm\"}",
        "vminfod_load_failures_total{source=\"tags.json\"}",
        "vminfod_command_runs_total{command=\"zfs\"}",
        "vminfod_source_restarts_total{source=\"zone\"} 0",
        "vminfod_queue_overflows_total 0",
        "vminfod_transitions_lost_total 0",
        "# TYPE vminfod_drift_healed_total counter",
        "vminfod_vms{state=\"stopped\",brand=\"",
        "vminfod_stream_subscribers ",
        "vminfod_stream_cut_offs_total 0",
        "vminfod_stream_resumes_total 0",
        "vminfod_stream_resets_total{reason=\"another epoch\"} 1",
        "vminfod_http_requests_total{route=\"vm-wait\",status=\"200\"} 1",
        "vminfod_http_requests_total{route=\"other\",status=\"400\"} 1",
        "vminfod_http_request_duration_seconds_sum{route=\"events\"}",
        "vminfod_cache_bytes ",
        "process_resident_memory_bytes ",
        "vminfod_event_seq ",
        "vminfod_build_info{version=\"",
    ] {
        assert!(
            page.lines().any(|l| l.starts_with(sample)),
            "{sample}: {page}"
        );
    }
}

/// Names of metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| {
        word.starts_with("vminfod_") || word.starts_with("process_")
    };
    words.filter(ours).map(String::from).collect()
}

#[test]
fn the_rules_and_the_dashboard_use_only_existing_metrics() {
    needs!["promtool"];
    let there = names_in(&page());
    let rules = root().join("contrib/vminfod.rules.yml");
    let tests = root().join("contrib/vminfod.rules.test.yml");
    for (verb, file) in [("check", &rules), ("test", &tests)] {
        let mut run = command("promtool");
        let run = run.arg(verb).arg("rules").arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned()
            + &String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{verb}: {said}");
    }
    let dashboard = root().join("contrib/grafana-vminfod.json");
    for file in [rules, dashboard] {
        let text = std::fs::read_to_string(&file).unwrap();
        let named = names_in(&text);
        assert!(named.len() > 5, "{}", file.display());
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", file.display());
        if file.extension().is_some_and(|e| e == "json") {
            let dashboard = Json::parse(&text).unwrap();
            let panels = dashboard.get("panels").unwrap();
            assert!(panels.as_array().unwrap().len() > 8);
        }
    }
}
