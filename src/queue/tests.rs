//! The queue: what is merged, what is kept apart, what comes when.

use super::*;
use crate::event::GONE;
use crate::source::{EventSource, Source, Sources};

pub fn queue_of(limits: QueueLimits) -> Queue {
    Queue::new(limits, &SourceTimes::default())
}

pub fn queue(jobs: usize) -> Queue {
    queue_of(QueueLimits { jobs, ..QueueLimits::default() })
}

pub fn vm(name: &str, sources: Sources) -> Job {
    let lane = Lane::Vm(name.into());
    Job::new(lane, sources, Cause::now(EventSource::Zone, name))
}

pub fn all() -> Job {
    Job { lane: Lane::All, ..vm("all", Sources::ALL) }
}

pub fn names(batch: &Batch) -> Vec<String> {
    batch.jobs.iter().map(|job| job.lane.to_string()).collect()
}

/// Takes at most `count` transitions of zone `a`.
fn take_transitions(queue: &Queue, count: usize) -> Vec<Transition> {
    let mut due = queue.transitions_of("a");
    due.truncate(count);
    assert!(queue.take_transitions("a", &due));
    due.into_iter().map(|(_, transition)| transition).collect()
}

#[test]
fn waiting_jobs_of_one_lane_are_merged() {
    let queue = queue(10);
    queue.push(vm("a", Sources::XML));
    queue.push(vm("a", Sources::of(Source::Tags)));
    let batch = queue.take().unwrap();
    assert_eq!(batch.jobs.len(), 1);
    assert!(
        batch.jobs[0]
            .sources
            .contains(Sources::XML | Sources::of(Source::Tags))
    );
}

#[test]
fn a_lane_at_work_keeps_its_next_job_waiting() {
    let queue = queue(10);
    queue.push(vm("a", Sources::XML));
    let first = queue.take().unwrap();
    queue.push(vm("a", Sources::XML));
    queue.push(vm("b", Sources::XML));
    let second = queue.take().unwrap();
    assert_eq!(names(&second), ["b"]);
    queue.done(&first.ticket());
    assert_eq!(names(&queue.take().unwrap()), ["a"]);
}

#[test]
fn waiting_jobs_that_need_the_same_commands_are_taken_together() {
    let queue = queue(10);
    queue.push(vm("a", Sources::ZONEADM));
    queue.push(vm("b", Sources::of(Source::Tags)));
    queue.push(vm("c", Sources::KSTAT));
    queue.push(vm("d", Sources::ZFS));
    let mut taken = Vec::new();
    for _ in 0..3 {
        let batch = queue.take().unwrap();
        taken.push(names(&batch).join(" "));
        queue.done(&batch.ticket());
    }
    assert_eq!(taken, ["a c", "b", "d"]);
}

#[test]
fn a_full_queue_remembers_everything_in_one_job() {
    let queue = queue(2);
    for name in ["a", "b", "c"] {
        queue.push(vm(name, Sources::ZFS));
    }
    let batch = queue.take().unwrap();
    assert_eq!(batch.jobs[0].lane, Lane::All);
    let status = queue.status(9);
    assert_eq!((status.overflows, status.waiting_count), (1, 0));
}

#[test]
fn a_job_that_is_put_off_comes_after_its_pause() {
    let queue = queue(10);
    let begin = Instant::now();
    let pause = Duration::from_millis(20);
    queue.push_later(vm("a", Sources::ZFS), pause);
    assert_eq!(queue.status(9).waiting_count, 0);
    assert_eq!(names(&queue.take().unwrap()), ["a"]);
    assert!(begin.elapsed() >= pause);
}

#[test]
fn jobs_of_one_lane_that_are_put_off_are_merged() {
    let queue = queue(10);
    let pause = Duration::from_millis(1);
    queue.push_later(vm("a", Sources::ZFS), pause * 100_000);
    queue.push_later(vm("a", Sources::of(Source::Tags)), pause);
    let batch = queue.take().unwrap();
    assert!(
        batch.jobs[0]
            .sources
            .contains(Sources::ZFS | Sources::of(Source::Tags))
    );
    assert_eq!(queue.status(9).later_count, 0);
}

#[test]
fn transitions_stay_in_order_until_taken() {
    let queue = queue(10);
    for zone_state in ["ready", "running"] {
        let transition = Transition::new(zone_state, None);
        queue.push_transition(&"a".into(), transition, true);
    }
    queue.push(vm("a", Sources::STATE));
    let batch = queue.take().unwrap();
    let reported = queue.transitions_of("a");
    assert!(reported.iter().all(|(n, _)| *n <= batch.noted));
    let take = |count| -> Vec<_> {
        let taken = take_transitions(&queue, count);
        taken.iter().map(|t| t.zone_state).collect()
    };
    assert_eq!(take(1), ["ready"]);
    assert_eq!(take(9), ["running"]);
    assert_eq!(take(9), [""; 0]);
}

#[test]
fn due_transitions_are_taken_once_and_in_order() {
    let queue = queue(10);
    let add = |zone_state| {
        let transition = Transition::new(zone_state, None);
        queue.push_transition(&"a".into(), transition, true);
    };
    add("ready");
    add("running");
    let due = queue.transitions_of("a");
    // A transition that comes meanwhile does not prevent this, and waits.
    add("shutting_down");
    assert!(!queue.take_transitions("a", &due[1..]));
    assert!(queue.take_transitions("a", &due));
    assert!(!queue.take_transitions("a", &due));
    assert!(queue.take_transitions("a", &[]));
    let rest = take_transitions(&queue, usize::MAX);
    assert_eq!(rest[0].zone_state, "shutting_down");
    assert!(!queue.take_transitions("b", &due));
}

#[test]
fn transitions_of_zones_that_are_no_vms_are_bounded_and_forgotten() {
    let limits =
        QueueLimits { jobs: 2, unknown_zones: 2, ..QueueLimits::default() };
    let queue = queue_of(limits);
    let add = |name: &str, is_vm| {
        let transition = Transition::new("running", None);
        queue.push_transition(&name.into(), transition, is_vm);
    };
    add("a", false);
    add("b", false);
    add("c", false);
    add("vm", true);
    let has = |name: &str| !queue.transitions_of(name).is_empty();
    assert_eq!(["a", "b", "c", "vm"].map(has), [true, true, false, true]);
    // A full queue does not forget them: the reload that it asks for does.
    for name in ["b", "c", "d"] {
        queue.push(vm(name, Sources::STATE));
    }
    let batch = queue.take().unwrap();
    queue.push(vm("b", Sources::STATE));
    queue.forget_transitions(batch.noted, |name| name == "vm");
    assert_eq!(["a", "b", "c", "vm"].map(has), [false, true, false, true]);
}

#[test]
fn more_transitions_than_may_wait_are_counted() {
    let limits = QueueLimits { transitions: 2, ..QueueLimits::default() };
    let queue = queue_of(limits);
    for state in ["ready", "running", "shutting_down", "installed", "ready"] {
        let transition = Transition::new(state, None);
        queue.push_transition(&"a".into(), transition, true);
    }
    assert_eq!(queue.status(9).transitions_lost, 3);
    let taken = take_transitions(&queue, usize::MAX);
    let taken: Vec<_> = taken.iter().map(|t| (t.zone_state, t.lost)).collect();
    assert_eq!(taken, [("installed", 3), ("ready", 0)]);
    assert!(QueueLimits::default().transitions >= 1024);
}

#[test]
fn reports_of_a_zone_that_has_ended_are_dropped() {
    let queue = queue(9);
    let name: Arc<str> = "a".into();
    let add = |zone_state: &'static str| {
        let is_first = zone_state == "configured";
        let transition =
            Transition { is_first, ..Transition::new(zone_state, None) };
        queue.push_transition(&name, transition, true);
    };
    let waiting = || -> Vec<_> {
        let taken = take_transitions(&queue, usize::MAX);
        taken.iter().map(|t| t.zone_state).collect()
    };
    // Its end is reported late, and then another zone of its name begins.
    queue.expect_end(&name);
    for state in ["incomplete", GONE, "configured", "incomplete"] {
        add(state);
    }
    assert_eq!(waiting(), ["configured", "incomplete"]);
    // Its end is never reported: the next zone begins all the same.
    queue.expect_end(&name);
    for state in ["incomplete", "configured", "installed", GONE] {
        add(state);
    }
    assert_eq!(waiting(), ["configured", "installed", GONE]);
    // Some of the late reports wait already.
    for state in ["incomplete", GONE, "configured"] {
        add(state);
    }
    queue.expect_end(&name);
    add("installed");
    assert_eq!(waiting(), ["configured", "installed"]);
    // A source that is restarted reports nothing from before.
    queue.expect_end(&name);
    queue.expect_no_ends();
    add("running");
    assert_eq!(waiting(), ["running"]);
    // The same holds for an end that is found just after: its report was lost
    // in the gap.
    queue.expect_end(&name);
    add("shutting_down");
    assert_eq!(waiting(), ["shutting_down"]);
}

#[test]
fn an_end_is_believed_once_it_is_reported_or_its_time_is_over() {
    let limits = QueueLimits { unknown_zones: 2, ..QueueLimits::default() };
    let queue = queue_of(limits);
    let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
    let (long, none) = (Duration::from_secs(1000), Duration::ZERO);
    assert!(queue.await_end_report(&a, long));
    assert!(queue.await_end_report(&b, long));
    // No more than two can be remembered.
    assert!(!queue.await_end_report(&c, long));
    assert!(!queue.await_end_report(&b, none));
    queue.forget_end_report(&b);
    assert!(queue.await_end_report(&c, long));
    queue.push_transition(&a, Transition::new("incomplete", None), true);
    assert!(queue.await_end_report(&a, long));
    queue.push_transition(&a, Transition::new(GONE, None), true);
    assert!(!queue.await_end_report(&a, long));
}

#[test]
fn too_many_jobs_that_are_put_off_become_one_full_reload() {
    let now = Instant::now();
    let times = SourceTimes::default();
    let limits = QueueLimits { jobs: 2, ..QueueLimits::default() };
    let mut state = State::new(limits, times.pace);
    let due = |n: u64| now + Duration::from_secs(n);
    for (name, n) in [("a", 7), ("b", 8), ("c", 5), ("d", 4)] {
        state.push_later(vm(name, Sources::STATE), due(n));
    }
    assert_eq!(state.take(now).unwrap_err(), Some(due(4)));
    let (_, jobs) = state.take(due(4)).unwrap();
    let lanes: Vec<_> = jobs.into_iter().map(|job| job.lane).collect();
    assert_eq!(lanes, [Lane::All]);
    assert_eq!(state.status(9, now).overflows, 2);
}

#[test]
fn closing_ends_the_workers() {
    let queue = Arc::new(queue(10));
    let waiters = [(); 4].map(|()| {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || queue.take().is_none())
    });
    queue.close();
    for waiter in waiters {
        assert!(waiter.join().unwrap());
    }
}

#[test]
fn the_worker_that_worked_last_is_woken_first() {
    const WORKERS: usize = 4;
    let queue = Arc::new(queue(10));
    // As in the daemon, one worker watches the clock for this job.
    queue.set_periodic(all(), Duration::from_secs(1000));
    let (served, done) = crossbeam_channel::unbounded();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (queue, served) = (Arc::clone(&queue), served.clone());
            std::thread::spawn(move || {
                while let Some(batch) = queue.take() {
                    queue.done(&batch.ticket());
                    served.send(worker).unwrap();
                }
            })
        })
        .collect();
    let wait_until_idle = || {
        let begin = Instant::now();
        let is_idle = || {
            let inner = queue.inner.lock();
            let watching = usize::from(inner.watched_until.is_some());
            inner.idle.len() + watching == WORKERS
        };
        while !is_idle() {
            assert!(begin.elapsed() < Duration::from_secs(30));
            std::thread::yield_now();
        }
    };
    let turns = (0..20).map(|_| {
        wait_until_idle();
        queue.push(vm("a", Sources::of(Source::Tags)));
        done.recv_timeout(Duration::from_secs(30)).unwrap()
    });
    let turns: Vec<_> = turns.collect();
    assert!(turns.iter().all(|worker| *worker == turns[0]), "{turns:?}");
    queue.close();
    for worker in workers {
        worker.join().unwrap();
    }
}
