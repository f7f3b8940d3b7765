//! Workers: what a panic costs, and when an end is believed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::event::{Cause, Job, Lane};
use crate::load::assemble::Parts;
use crate::load::error::LoadError;
use crate::load::{LoadOutcome, LoadRequest, Loaded, zoneadm, zonexml};
use crate::source::{EventSource, Source, Sources};
use crate::threads::EXIT_PANIC;
use crate::vm::json::Json;
use crate::watch::files::FileWatcher;

fn worker() -> (Worker, Arc<Shared>) {
    let settings = Settings::new(&std::env::temp_dir());
    let stop = Stop::default();
    let (sinks, _) = watch::channel(1, &stop);
    let sources = std::array::from_fn(|i| {
        (EventSource::ALL[i], Arc::clone(sinks[i].status()))
    });
    let loader = new_loader(&settings, stop.clone());
    let runs = loader.runs().clone();
    let shared = Arc::new(Shared::new(&settings, sources, runs));
    let [.., file_sink] = sinks;
    let files =
        FileWatcher::new(settings.paths.clone(), file_sink, stop).unwrap();
    let after = AfterLoad {
        shared: Arc::clone(&shared),
        files,
        times: settings.sources,
    };
    let worker = Worker {
        shared: Arc::clone(&shared),
        loader,
        after,
        limits: settings.load,
        loaded: bounded(1).0,
    };
    (worker, shared)
}

#[test]
fn a_panic_in_a_worker_affects_only_the_jobs_of_its_batch() {
    let (worker, shared) = worker();
    for name in ["a", "b"] {
        let lane = Lane::Vm(name.into());
        let cause = Cause::now(EventSource::Zone, "x");
        let sources = Sources::of(Source::Tags);
        shared.queue.push(Job::new(lane, sources, cause));
    }
    let batch = shared.queue.take().unwrap();
    assert_eq!(batch.jobs.len(), 2);
    worker.guarded(&batch, |_| panic!("planted"));
    let faults: Vec<_> = shared.faults.list();
    assert_eq!(faults.len(), 2);
    for ((_, source), fault) in faults {
        assert_eq!((source, &*fault.error), (Source::Worker, "panic: planted"));
    }
    let status = shared.queue.status(9);
    assert!(status.working.is_empty(), "the lanes are free");
    assert_eq!(status.later_count, 2);
    // The jobs come again.
    let batch = shared.queue.take().unwrap();
    assert_eq!(batch.jobs[0].tries, 1);
}

/// Set for the process that must panic.
const PANICS: &str = "VMINFOD_TEST_PANICS";

#[test]
fn a_panic_elsewhere_ends_the_process_and_says_why() {
    if std::env::var_os(PANICS).is_some() {
        crate::log_format::start();
        log::set_max_level(log::LevelFilter::Debug);
        let thread = spawn("planner", || panic!("planted")).unwrap();
        let _ = thread.join();
        unreachable!("the process has ended");
    }
    let name = "daemon::tests::a_panic_elsewhere_ends_the_process";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--nocapture"])
        .env(PANICS, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(EXIT_PANIC), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "thread planner panicked: planted; exiting with status 70";
    assert!(said.contains(wanted), "{said}");
}

/// An installed zone of which nothing else is known.
fn parts(name: &str, shared: &Shared) -> Parts {
    let line =
        format!("5:{name}:installed:/zones/{name}:{name}:joyent:excl:1\n");
    let row = zoneadm::parse(&line).rows.pop().unwrap();
    let xml = format!(
        "<zone name=\"{name}\" zonepath=\"/zones/{name}\" brand=\"joyent\"/>"
    );
    let xml = Arc::new(zonexml::parse(&xml).unwrap().xml);
    Parts::new(row, xml, shared.sysinfo.get())
}

#[test]
fn an_end_is_published_in_time_even_if_other_loads_go_on() {
    let (mut worker, shared) = worker();
    worker.after.times.end_time = Duration::from_millis(100);
    let name: Arc<str> = "0aa46416-2c8d-658d-cb21-eba504d46270".into();
    let sysinfo = shared.sysinfo.get();
    let parts = parts(&name, &shared);
    let finish = |sources: Sources, loaded: Loaded| {
        let cause = Cause::now(EventSource::File, "a test");
        worker.after.finish(
            &Job::new(Lane::Vm(name.clone()), sources, cause),
            loaded,
            0,
        );
    };
    let answer = |found: LoadOutcome| Loaded {
        zonename: name.clone(),
        prior: shared.cache.parts(&name),
        found,
        faults: vec![(Source::Zoneadm, None)],
        unanswered: Vec::new(),
        is_configured: false,
    };
    finish(Sources::ALL, answer(LoadOutcome::Parts(Box::new(parts))));
    let deadline = Instant::now() + Duration::from_secs(60);
    while shared.cache.contains(&name) {
        assert!(Instant::now() < deadline, "it is served on and on");
        finish(Sources::ALL, answer(LoadOutcome::Gone));
        let request = LoadRequest {
            zonename: name.clone(),
            sources: Sources::of(Source::Tags),
            prior: shared.cache.parts(&name),
        };
        // A load of its files does not show that it has ended.
        let arm = |_: &_, _: Option<&Path>, _| {};
        for loaded in worker.loader.load(vec![request], &sysinfo, &arm) {
            finish(Sources::of(Source::Tags), loaded);
        }
    }
}

#[test]
fn a_vm_that_could_not_be_stored_is_read_again_completely() {
    let (mut worker, shared) = worker();
    worker.after.times.retry.first = Duration::from_millis(1);
    let name: Arc<str> = "0aa46416-2c8d-658d-cb21-eba504d46270".into();
    let loaded = |found, faults| Loaded {
        zonename: name.clone(),
        prior: shared.cache.parts(&name),
        found,
        faults,
        unanswered: Vec::new(),
        is_configured: false,
    };
    let cause = Cause::now(EventSource::Zone, "a test");
    let job = Job::new(Lane::Vm(name.clone()), Sources::XML, cause);
    let found = LoadOutcome::Parts(Box::new(parts(&name, &shared)));
    worker.after.finish(&job, loaded(found, vec![(Source::Zoneadm, None)]), 0);
    assert!(shared.cache.contains(&name));
    // Another zone of the same name, whose XML can't be read: what zoneadm has
    // said of it is lost with the load.
    let torn = LoadError::Lines(vec!["torn".to_string()]);
    let bad = vec![(Source::Zoneadm, None), (Source::ZoneXml, Some(torn))];
    worker.after.finish(&job, loaded(LoadOutcome::Unknown, bad), 0);
    let again = shared.queue.take().unwrap();
    assert!(again.jobs[0].sources.contains(Sources::ALL));
}

#[test]
fn what_is_written_while_watches_are_armed_is_read() {
    let (_, shared) = worker();
    let root = format!("vminfod-armed-{}", std::process::id());
    let root = std::env::temp_dir().join(root);
    let name: Arc<str> = "0aa46416-2c8d-658d-cb21-eba504d46270".into();
    let loader = new_loader(&Settings::new(&root), Stop::default());
    let write_tags = |_: &Arc<str>, dir: Option<&Path>, _: bool| {
        let config = dir.unwrap().join(crate::config::CONFIG_DIR);
        std::fs::create_dir_all(&config).unwrap();
        let tags = config.join(Source::Tags.name());
        std::fs::write(tags, r#"{"role":"db"}"#).unwrap();
    };
    let request = LoadRequest {
        zonename: name.clone(),
        sources: Sources::of(Source::Tags) | Sources::REARM,
        prior: Some(Arc::new(parts(&name, &shared))),
    };
    let sysinfo = shared.sysinfo.get();
    let loaded = loader.load(vec![request], &sysinfo, &write_tags);
    std::fs::remove_dir_all(&root).unwrap();
    let LoadOutcome::Parts(parts) = &loaded[0].found else {
        panic!("{loaded:?}")
    };
    assert_eq!(parts.maps[3].to_string(), r#"{"role":"db"}"#);
}

#[test]
fn a_zone_on_its_way_is_looked_at_until_it_is_there() {
    let (mut worker, shared) = worker();
    worker.after.times.passing.first = Duration::from_millis(1);
    let name: Arc<str> = "0aa46416-2c8d-658d-cb21-eba504d46270".into();
    let cause = Cause::now(EventSource::Zone, "a test");
    let mut job = Job::new(Lane::Vm(name.clone()), Sources::STATE, cause);
    let waits = || shared.queue.status(9).later_count;
    for (zoneid, state, is_passing) in [
        (Json::from(5u32), "ready", true),
        (Json::from(5u32), "shutting_down", true),
        // zoneadm looked twice, and the zone ended in between.
        (Json::from(5u32), "installed", true),
        (Json::Null, "installed", false),
    ] {
        let mut parts = parts(&name, &shared);
        parts.row.zone_state = state.into();
        parts.row.zoneid = zoneid;
        parts.row.uuid_is_set = true;
        let loaded = Loaded {
            zonename: name.clone(),
            prior: shared.cache.parts(&name),
            found: LoadOutcome::Parts(Box::new(parts)),
            faults: vec![(Source::Zoneadm, None)],
            unanswered: Vec::new(),
            is_configured: false,
        };
        worker.after.finish(&job, loaded, 0);
        assert_eq!(waits(), usize::from(is_passing), "{state}");
        if is_passing {
            // No event reports it: the job comes by itself.
            let batch = shared.queue.take().unwrap();
            job = batch.jobs[0].clone();
            assert!(job.sources.contains(Sources::ZONEADM));
            // Its kstat is not known: it may have been read too early.
            assert!(job.sources.contains(Sources::KSTAT));
            shared.queue.done(&batch.ticket());
        }
    }
}
