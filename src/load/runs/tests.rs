//! Runs that hang, are slow, or are killed, and the jobs that are done again
//! because of them.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::event::Cause;
use crate::source::{EventSource, Source, Sources};
use crate::threads::Stop;

const STUCK: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);
const OWED_MAX: usize = 4;

/// Runs that are killed when their test ends.
struct Own {
    runs: Runs,
    stop: Stop,
}

impl std::ops::Deref for Own {
    type Target = Runs;
    fn deref(&self) -> &Runs {
        &self.runs
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop.set();
        if !std::thread::panicking() {
            wait_until(|| self.runs.0.state.lock().running.is_empty());
        }
    }
}

fn runs() -> (Own, Receiver<LateJob>) {
    let stop = Stop::default();
    let runner = Runner::new(1000, stop.clone());
    let runs = Runs::new(runner, STUCK, OWED_MAX);
    let (sender, redone) = mpsc::channel();
    runs.set_redo(Box::new(move |again| {
        for again in again {
            // The test may have ended.
            let _ = sender.send(again);
        }
    }));
    (Own { runs, stop }, redone)
}

fn ask(circuit: &str, script: &str) -> RunRequest {
    RunRequest {
        circuit: circuit.to_string(),
        timing_class: "pool",
        source: Source::Zfs,
        run: Run::new("/bin/sh".into(), &["-c", script]),
        limit: LONG,
        is_patient: false,
    }
}

const HANG: &str = "exec sleep 1000";

/// Makes a run end when the test opens the gate, and not before.
struct Gate(PathBuf);

impl Gate {
    fn new(name: &str) -> Self {
        let own = format!("vminfod-runs-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(own);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn script(&self, says: &str) -> String {
        let path = self.0.display();
        format!("until [ -e {path} ]; do sleep 0.01; done; echo {says}")
    }

    fn open(&self) {
        std::fs::write(&self.0, "").unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn lane(name: &str) -> Lane {
    Lane::Vm(name.into())
}

fn job(name: &str, sources: Sources) -> Job {
    Job::new(lane(name), sources, Cause::now(EventSource::Zfs, "a test"))
}

fn said(finished: &Result<Output, CommandError>) -> &str {
    finished.as_ref().unwrap().stdout.trim_end()
}

/// Asks, and expects that there is no answer in time.
fn unanswered(runs: &Runs, asked: RunRequest) -> Unanswered {
    runs.wait(runs.ask(asked)).unwrap_err()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG / 3;
    while !is_so() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

fn redone(jobs: &Receiver<LateJob>, count: usize) -> Vec<String> {
    let lane = |_| jobs.recv_timeout(LONG).unwrap().job.lane.to_string();
    let mut lanes: Vec<_> = (0..count).map(lane).collect();
    lanes.sort();
    lanes
}

#[test]
fn a_hanging_run_holds_up_only_its_own_circuit() {
    let (runs, _jobs) = runs();
    let hung = [0, 1].map(|_| runs.ask(ask("zfs a", HANG)));
    for asked in hung {
        let error = runs.wait(asked).unwrap_err().error.to_string();
        assert!(error.contains("has not answered for"), "{error}");
    }
    // Further requests are refused at once, and start nothing.
    for _ in 0..100 {
        let error = unanswered(&runs, ask("zfs a", "echo never")).error;
        let error = error.to_string();
        assert!(error.contains("earlier runs have not answered"), "{error}");
    }
    assert_eq!(runs.0.runner.counts().lock().len(), 0, "none has ended");
    for circuit in ["zfs b", "zoneadm"] {
        let asked = runs.ask(ask(circuit, "echo well"));
        assert_eq!(said(&runs.wait(asked).unwrap()), "well");
    }
    let open = runs.overdue();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].circuit, "zfs a");
    assert!(open[0].time >= STUCK);
}

#[test]
fn a_circuit_has_two_runs_at_a_time_and_others_wait_for_room() {
    let (runs, _jobs) = runs();
    let gate = Gate::new("room");
    let script = gate.script("first");
    let patient = || RunRequest { is_patient: true, ..ask("zoneadm", &script) };
    let asked: Vec<_> = (0..4).map(|_| runs.ask(patient())).collect();
    let begun = asked.iter().filter(|asked| asked.begun.is_some());
    assert_eq!(begun.count(), 2);
    gate.open();
    for asked in asked {
        assert_eq!(said(&runs.wait(asked).unwrap()), "first");
    }
}

#[test]
fn the_end_of_a_run_redoes_owed_jobs_and_closes_the_breaker() {
    let (runs, jobs) = runs();
    let gate = Gate::new("end");
    let script = gate.script("late");
    let [first, second] = [0, 1].map(|_| runs.ask(ask("zfs a", &script)));
    let late = runs.wait(first).unwrap_err();
    let second = runs.wait(second).unwrap_err();
    let refused = unanswered(&runs, ask("zfs a", "echo x"));
    runs.owe(&late, job("a", Sources::ZFS));
    runs.owe(&late, job("b", Sources::ZFS));
    runs.owe(&refused, job("c", Sources::ZFS));
    runs.owe(&refused, job("c", Sources::ALL));
    assert_eq!(runs.overdue()[0].waiting, ["a", "b", "c"].map(lane));
    assert_eq!(runs.owed(&lane("c")), Sources::ALL);
    gate.open();
    assert_eq!(redone(&jobs, 3), ["a", "b", "c"]);
    assert_eq!(runs.owed(&lane("c")), Sources::NONE);
    // A job that comes too late to wait is done again at once.
    wait_until(|| runs.overdue().is_empty());
    runs.owe(&second, job("d", Sources::ZFS));
    runs.owe(&refused, job("e", Sources::ZFS));
    assert_eq!(redone(&jobs, 2), ["d", "e"]);
    let again = runs.ask(ask("zfs a", "echo again"));
    assert_eq!(said(&runs.wait(again).unwrap()), "again");
}

#[test]
fn a_job_that_is_owed_several_answers_is_redone_once() {
    let (runs, jobs) = runs();
    let gates = [Gate::new("one"), Gate::new("two")];
    for (circuit, gate) in [("zfs a", &gates[0]), ("zfs b", &gates[1])] {
        let late = unanswered(&runs, ask(circuit, &gate.script("x")));
        runs.owe(&late, job("vm", Sources::ZFS));
    }
    gates[0].open();
    wait_until(|| runs.overdue().len() == 1);
    assert!(jobs.try_recv().is_err());
    gates[1].open();
    assert_eq!(redone(&jobs, 1), ["vm"]);
    assert!(runs.0.state.lock().owed.is_empty());
}

#[test]
fn a_load_waits_longer_for_a_run_that_was_slow_last_time() {
    let (runs, jobs) = runs();
    let late = unanswered(&runs, ask("zfs a", "sleep 0.2"));
    runs.owe(&late, job("a", Sources::ZFS));
    assert_eq!(redone(&jobs, 1), ["a"]);
    let patience = |circuit| {
        let begin = Instant::now();
        let asked = runs.ask(ask(circuit, "true"));
        asked.begun.unwrap().until - begin
    };
    assert!(patience("zfs a") >= Duration::from_millis(400));
    // This does not change the time for another circuit or another sort.
    let other = RunRequest { timing_class: "trees", ..ask("zfs a", "true") };
    let begin = Instant::now();
    let until = runs.ask(other).begun.unwrap().until;
    assert!(until <= Instant::now() + STUCK && until >= begin + STUCK);
    let state = runs.0.state.lock();
    assert_eq!(state.slow.keys().filter(|(c, _)| c != "zfs a").count(), 0);
    drop(state);
    // A load does not wait for so long that the run is hardly ever killed
    // first.
    let limit = Duration::from_millis(100);
    let begin = Instant::now();
    let asked = runs.ask(RunRequest { limit, ..ask("zfs a", "true") });
    if let Some(begun) = asked.begun {
        assert!(begun.until <= Instant::now() + STUCK.max(limit / 2));
        assert!(begun.until >= begin);
    }
}

#[test]
fn the_end_of_a_run_does_not_redo_jobs_of_another_run() {
    let (runs, jobs) = runs();
    let gate = Gate::new("other");
    let late = unanswered(&runs, ask("zfs a", HANG));
    let second = runs.ask(ask("zfs a", &gate.script("x")));
    let second = runs.wait(second).unwrap_err();
    let refused = unanswered(&runs, ask("zfs a", "echo x"));
    runs.owe(&late, job("hangs", Sources::ZFS));
    runs.owe(&second, job("second", Sources::ZFS));
    runs.owe(&refused, job("refused", Sources::ZFS));
    gate.open();
    assert_eq!(redone(&jobs, 2), ["refused", "second"]);
    assert_eq!(runs.owed(&lane("hangs")), Sources::ZFS);
    assert!(jobs.try_recv().is_err());
}

#[test]
fn a_killed_run_reports_why_and_closes_the_breaker() {
    let (runs, jobs) = runs();
    let limit = Duration::from_millis(200);
    let late = unanswered(&runs, RunRequest { limit, ..ask("kstat", HANG) });
    assert_eq!(runs.overdue().len(), 1);
    runs.owe(&late, job("a", Sources::STATE));
    let again = jobs.recv_timeout(LONG).unwrap();
    assert!(again.job.sources.contains(Sources::STATE));
    let error = again.error.unwrap();
    assert!(error.is_hang(), "{error}");
    assert!(runs.overdue().is_empty());
    // A run that was killed is no sign that the next one will be slow.
    assert!(runs.0.state.lock().slow.is_empty());
}

#[test]
fn too_many_owed_jobs_become_one_load_of_all_vms() {
    let (runs, jobs) = runs();
    let gate = Gate::new("many");
    let late = unanswered(&runs, ask("zfs a", &gate.script("x")));
    for n in 0..100 {
        runs.owe(&late, job(&format!("vm{n}"), Sources::ZFS));
    }
    runs.owe(&late, job("vm0", Sources::ALL));
    gate.open();
    let wanted = ["refresh", "vm0", "vm1", "vm2", "vm3"];
    assert_eq!(redone(&jobs, 5), wanted);
    assert!(runs.0.state.lock().owed.is_empty());
}
