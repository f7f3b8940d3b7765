//! The queue with a clock that the test sets: slow workers, workers that hang,
//! and paced jobs.

use super::tests::{all, vm};
use super::*;
use crate::backoff::Backoff;
use crate::event::Reload;
use crate::source::{Source, Sources};

/// A state with a clock that the test sets.
struct Clock {
    state: State,
    now: Instant,
}

impl Clock {
    fn new() -> Self {
        let limits = QueueLimits {
            stuck_time: Duration::from_secs(1),
            gather_time: Duration::from_millis(50),
            ..QueueLimits::default()
        };
        let pace = Duration::from_millis(20);
        let state = State::new(limits, Backoff::new(pace, pace * 8));
        Self { state, now: Instant::now() }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// The next batch: its number, and the names in it.
    fn take(&mut self) -> Option<(u64, String)> {
        let (number, jobs) = self.state.take(self.now).ok()?;
        let names: Vec<_> = jobs.iter().map(|j| j.lane.to_string()).collect();
        Some((number, names.join(" ")))
    }

    fn taken(&mut self) -> String {
        self.take().map_or("-".into(), |(_, names)| names)
    }
}

#[test]
fn a_worker_that_hangs_gets_a_substitute() {
    let mut clock = Clock::new();
    for name in ["a", "b", "c"] {
        clock.state.push(vm(name, Sources::ZFS));
        if name != "c" {
            assert_eq!(clock.taken(), name);
            clock.pass(50);
        }
    }
    assert_eq!(clock.taken(), "-");
    let in_a_second = clock.now + Duration::from_millis(900);
    assert_eq!(clock.state.take(clock.now).unwrap_err(), Some(in_a_second));
    clock.pass(950);
    assert_eq!(clock.taken(), "c");
    assert_eq!(clock.state.status(9, clock.now).stuck, 2);
}

#[test]
fn jobs_that_need_commands_gather_while_a_batch_runs() {
    let mut clock = Clock::new();
    clock.state.push(vm("a", Sources::STATE));
    let (first, _) = clock.take().unwrap();
    for name in ["b", "a", "c", "b"] {
        clock.state.push(vm(name, Sources::STATE));
        assert_eq!(clock.taken(), "-");
    }
    clock.state.push(vm("file", Sources::of(Source::Tags)));
    let (file, name) = clock.take().unwrap();
    assert_eq!(name, "file");
    clock.state.done(file);
    // The waiting jobs are loaded together when the first batch is done.
    clock.state.done(first);
    let (second, names) = clock.take().unwrap();
    assert_eq!(names, "b a c");
    // Jobs gather for a slow batch no longer than this; an urgent job does not
    // gather at all.
    clock.state.push(vm("d", Sources::STATE));
    let in_time = clock.now + Duration::from_millis(50);
    assert_eq!(clock.state.take(clock.now).unwrap_err(), Some(in_time));
    clock.state.push_urgent(vm("e", Sources::ALL)).unwrap();
    assert_eq!(clock.taken(), "e");
    clock.pass(50);
    assert_eq!(clock.taken(), "d");
    clock.state.done(second);
}

#[test]
fn workers_that_hang_are_bounded() {
    let mut clock = Clock::new();
    for n in 0..20 {
        clock.state.push(vm(&format!("file{n}"), Sources::of(Source::Tags)));
        clock.taken();
        clock.pass(1000);
    }
    assert_eq!(clock.state.status(99, clock.now).stuck, 8);
    // Jobs that a client waits for have workers of their own.
    clock.state.push_urgent(vm("urgent", Sources::ALL)).unwrap();
    assert_eq!(clock.taken(), "urgent");
}

#[test]
fn a_storm_is_loaded_less_and_less_often_and_its_last_job_soon() {
    let mut clock = Clock::new();
    let mut loads = 0;
    let mut last = 0;
    // 2000 snapshots in ten seconds.
    for n in 0..2000 {
        let job = vm("a", Sources::ZFS);
        clock.state.push_paced(job, clock.now);
        if let Some((number, _)) = clock.take() {
            clock.state.done(number);
            loads += 1;
            last = n;
        }
        clock.pass(5);
    }
    assert!((50..80).contains(&loads), "{loads}");
    assert!(last < 1999);
    // The last job is not forgotten, and comes soon.
    clock.pass(160);
    assert_eq!(clock.taken(), "a");
    // A job that comes alone is not put off.
    clock.pass(1000);
    clock.state.push_paced(vm("b", Sources::ZFS), clock.now);
    assert_eq!(clock.taken(), "b");
}

#[test]
fn a_vm_loaded_during_a_full_load_is_loaded_again() {
    let mut clock = Clock::new();
    clock.state.push(vm("a", Sources::of(Source::Tags)));
    let (of_a, _) = clock.take().unwrap();
    clock.state.push(all());
    let (of_all, names) = clock.take().unwrap();
    assert_eq!(names, "refresh");
    clock.state.done(of_all);
    clock.state.done(of_a);
    assert_eq!(clock.taken(), "a");
}

#[test]
fn the_periodic_job_waits_for_a_quiet_moment_but_not_for_ever() {
    let mut clock = Clock::new();
    let second = Duration::from_secs(1);
    let set = |clock: &mut Clock| {
        let due = clock.now + second;
        clock.state.set_periodic(all(), due, due + second);
    };
    set(&mut clock);
    assert_eq!(
        clock.state.take(clock.now).unwrap_err(),
        Some(clock.now + second)
    );
    clock.state.push(vm("a", Sources::ZFS));
    let (number, _) = clock.take().unwrap();
    clock.pass(1500);
    assert_eq!(clock.taken(), "-");
    clock.state.done(number);
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "refresh");
    clock.state.done(number);
    set(&mut clock);
    clock.state.push(vm("a", Sources::ZFS));
    assert_eq!(clock.taken(), "a");
    clock.pass(2000);
    assert_eq!(clock.taken(), "refresh");
}

#[test]
fn a_reload_for_a_client_is_never_taken_for_a_periodic_one() {
    let of = |reload| Job { reload, ..all() };
    for is_periodic_first in [true, false] {
        let mut clock = Clock::new();
        clock.state.push(all());
        let (at_work, _) = clock.take().unwrap();
        // The periodic job is due soon, and then waits for the full load that
        // is being done.
        let due = clock.now + Duration::from_millis(5);
        clock.state.set_periodic(of(Reload::Periodic), due, due);
        if is_periodic_first {
            clock.pass(10);
            assert_eq!(clock.taken(), "-");
        }
        clock.state.push_urgent(of(Reload::Sync));
        clock.pass(10);
        assert_eq!(clock.taken(), "-");
        clock.state.done(at_work);
        let (_, jobs) = clock.state.take(clock.now).unwrap();
        assert_eq!((jobs.len(), jobs[0].reload), (1, Reload::Sync));
    }
}

/// Every sequence of up to five steps of two workers and a pusher, on a small
/// queue: two workers are never in one lane, and each push is followed by a
/// load of its lane, or of everything, that began after the push.
#[test]
fn every_short_sequence_of_steps_keeps_the_promises() {
    fn lane(n: usize) -> Job {
        let sources =
            [Sources::of(Source::Tags), Sources::STATE, Sources::ZFS][n % 3];
        vm(["a", "b", "c"][n], sources)
    }

    #[derive(Clone)]
    enum Step {
        Push(usize),
        Later(usize),
        Paced(usize),
        Take,
        Done(usize),
        Pass,
    }

    /// Runs the steps, then empties the queue; `None` if they can't be done.
    fn run(steps: &[Step]) -> Option<()> {
        let limits =
            QueueLimits { jobs: 2, workers_max: 4, ..QueueLimits::default() };
        let pause = Duration::from_millis(10);
        let mut state = State::new(limits, Backoff::new(pause, pause * 4));
        let mut now = Instant::now();
        // By lane: whether it still needs a load.
        let mut owed = [false; 3];
        let mut working: Vec<(u64, Vec<Job>)> = Vec::new();
        let take = |state: &mut State,
                    working: &mut Vec<(u64, Vec<Job>)>,
                    owed: &mut [bool; 3],
                    now| {
            let Ok((number, jobs)) = state.take(now) else { return false };
            for job in &jobs {
                let busy = working.iter().flat_map(|(_, jobs)| jobs);
                let mut busy = busy.map(|job| &job.lane);
                assert!(!busy.any(|lane| *lane == job.lane), "twice");
                for (n, owed) in owed.iter_mut().enumerate() {
                    if job.lane == Lane::All || job.lane == lane(n).lane {
                        *owed = false;
                    }
                }
            }
            working.push((number, jobs));
            true
        };
        for step in steps {
            match step {
                Step::Push(n) => {
                    owed[*n] = true;
                    state.push(lane(*n));
                }
                Step::Later(n) => {
                    owed[*n] = true;
                    state.push_later(lane(*n), now + pause);
                }
                Step::Paced(n) => {
                    owed[*n] = true;
                    state.push_paced(lane(*n), now);
                }
                Step::Take => {
                    if !take(&mut state, &mut working, &mut owed, now) {
                        return None;
                    }
                }
                Step::Done(at) => {
                    if *at >= working.len() {
                        return None;
                    }
                    state.done(working.remove(*at).0);
                }
                Step::Pass => now += pause * 200,
            }
        }
        // Two workers that do whatever there is.
        for _ in 0..20 {
            while take(&mut state, &mut working, &mut owed, now) {}
            if let Some((number, _)) = working.pop() {
                state.done(number);
            }
            now += pause;
        }
        assert_eq!(owed, [false; 3], "lost");
        assert!(working.is_empty());
        let status = state.status(9, now);
        assert_eq!((status.waiting_count, status.later_count), (0, 0));
        Some(())
    }

    let mut alphabet =
        vec![Step::Take, Step::Pass, Step::Done(0), Step::Done(1)];
    for n in 0..3 {
        alphabet.extend([Step::Push(n), Step::Later(n), Step::Paced(n)]);
    }
    let mut level: Vec<Vec<Step>> = vec![Vec::new()];
    let mut count = 0;
    for _ in 0..5 {
        let mut next = Vec::new();
        for steps in &level {
            for step in &alphabet {
                let mut steps = steps.clone();
                steps.push(step.clone());
                if run(&steps).is_some() {
                    count += 1;
                    next.push(steps);
                }
            }
        }
        level = next;
    }
    assert!(count > 50_000, "{count}");
}
