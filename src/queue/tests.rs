//! The queue: what is merged, what is kept apart, what comes when.

use super::*;
use crate::event::GONE;

pub fn queue_of(limits: QueueLimits) -> Queue {
    Queue::new(limits, &SourceTimes::default())
}

pub fn queue(jobs: usize) -> Queue {
    queue_of(QueueLimits { jobs, ..QueueLimits::default() })
}

pub fn vm(name: &str, sources: Sources) -> Job {
    let lane = Lane::Vm(name.into());
    Job::new(lane, sources, Cause::now("zone", name))
}

pub fn all() -> Job {
    Job { lane: Lane::All, ..vm("all", Sources::ALL) }
}

pub fn names(batch: &Batch) -> Vec<String> {
    batch.jobs.iter().map(|job| job.lane.to_string()).collect()
}

#[test]
fn jobs_of_a_lane_are_one_while_they_wait() {
    let queue = queue(10);
    queue.push(vm("a", Sources::XML));
    queue.push(vm("a", Sources::TAGS));
    let batch = queue.take().unwrap();
    assert_eq!(batch.jobs.len(), 1);
    assert!(batch.jobs[0].sources.contains(Sources::XML | Sources::TAGS));
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
    queue.done(&first.ticket(), &[]);
    assert_eq!(names(&queue.take().unwrap()), ["a"]);
}

#[test]
fn what_waits_together_and_needs_alike_is_taken_together() {
    let queue = queue(10);
    queue.push(vm("a", Sources::ZONEADM));
    queue.push(vm("b", Sources::TAGS));
    queue.push(vm("c", Sources::KSTAT));
    queue.push(vm("d", Sources::ZFS));
    let mut taken = Vec::new();
    for _ in 0..3 {
        let batch = queue.take().unwrap();
        taken.push(names(&batch).join(" "));
        queue.done(&batch.ticket(), &[]);
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
fn a_job_for_later_comes_later() {
    let queue = queue(10);
    let begin = Instant::now();
    let pause = Duration::from_millis(20);
    queue.push_later(vm("a", Sources::ZFS), pause);
    assert_eq!(queue.status(9).waiting_count, 0);
    assert_eq!(names(&queue.take().unwrap()), ["a"]);
    assert!(begin.elapsed() >= pause);
}

#[test]
fn a_lane_has_one_job_for_later() {
    let queue = queue(10);
    let pause = Duration::from_millis(1);
    queue.push_later(vm("a", Sources::ZFS), pause * 100_000);
    queue.push_later(vm("a", Sources::TAGS), pause);
    let batch = queue.take().unwrap();
    assert!(batch.jobs[0].sources.contains(Sources::ZFS | Sources::TAGS));
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
    let take = |count| -> Vec<_> {
        let taken = queue.take_transitions("a", batch.noted, |all, n| {
            assert_eq!(n, all.len());
            count
        });
        taken.iter().map(|t| t.zone_state).collect()
    };
    assert_eq!(take(1), ["ready"]);
    assert_eq!(take(9), ["running"]);
    assert_eq!(take(9), [""; 0]);
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
    let has = |name: &str| {
        let mut count = 0;
        queue.take_transitions(name, u64::MAX, |all, _| {
            count = all.len();
            0
        });
        count > 0
    };
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
fn news_of_who_is_over_is_late() {
    let queue = queue(9);
    let name: Arc<str> = "a".into();
    let add = |zone_state: &'static str| {
        let is_first = zone_state == "configured";
        let transition =
            Transition { is_first, ..Transition::new(zone_state, None) };
        queue.push_transition(&name, transition, true);
    };
    let waiting = || -> Vec<_> {
        let taken = queue.take_transitions("a", u64::MAX, |all, _| all.len());
        taken.iter().map(|t| t.zone_state).collect()
    };
    // Its end comes late, and then another of its name.
    queue.expect_end(&name);
    for state in ["incomplete", GONE, "configured", "incomplete"] {
        add(state);
    }
    assert_eq!(waiting(), ["configured", "incomplete"]);
    // Its end never comes: the next begins all the same.
    queue.expect_end(&name);
    for state in ["incomplete", "configured", "installed", GONE] {
        add(state);
    }
    assert_eq!(waiting(), ["configured", "installed", GONE]);
    // A part of it waits already.
    for state in ["incomplete", GONE, "configured"] {
        add(state);
    }
    queue.expect_end(&name);
    add("installed");
    assert_eq!(waiting(), ["configured", "installed"]);
    // A source that begins anew brings nothing of before.
    queue.expect_end(&name);
    queue.expect_no_ends();
    add("running");
    assert_eq!(waiting(), ["running"]);
    // Nor does what is found just after: its end was lost in the gap.
    queue.expect_end(&name);
    add("shutting_down");
    assert_eq!(waiting(), ["shutting_down"]);
}

#[test]
fn an_end_is_believed_once_it_is_reported_or_has_had_its_time() {
    let limits = QueueLimits { unknown_zones: 2, ..QueueLimits::default() };
    let queue = queue_of(limits);
    let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
    let (long, none) = (Duration::from_secs(1000), Duration::ZERO);
    assert!(queue.is_unheard(&a, long));
    assert!(queue.is_unheard(&b, long));
    // So many can be remembered.
    assert!(!queue.is_unheard(&c, long));
    assert!(!queue.is_unheard(&b, none));
    queue.is_heard(&b);
    assert!(queue.is_unheard(&c, long));
    queue.push_transition(&a, Transition::new("incomplete", None), true);
    assert!(queue.is_unheard(&a, long));
    queue.push_transition(&a, Transition::new(GONE, None), true);
    assert!(!queue.is_unheard(&a, long));
}

#[test]
fn of_too_many_that_are_put_off_all_are_put_off() {
    let now = Instant::now();
    let times = SourceTimes::default();
    let limits = QueueLimits { jobs: 2, ..QueueLimits::default() };
    let mut state = State::new(limits, times.pace_first, times.pace_last);
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

/// A state whose clock is the test's.
struct Clock {
    state: State,
    now: Instant,
}

impl Clock {
    fn new() -> Self {
        let limits = QueueLimits {
            stuck_time: Duration::from_secs(1),
            ..QueueLimits::default()
        };
        let pace = Duration::from_millis(20);
        let state = State::new(limits, pace, pace * 8);
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
fn who_hangs_gets_a_substitute() {
    let mut clock = Clock::new();
    for name in ["a", "b", "c"] {
        clock.state.push(vm(name, Sources::ZFS));
        if name != "c" {
            assert_eq!(clock.taken(), name);
        }
    }
    assert_eq!(clock.taken(), "-");
    let in_a_second = clock.now + Duration::from_secs(1);
    assert_eq!(clock.state.take(clock.now).unwrap_err(), Some(in_a_second));
    clock.pass(1000);
    assert_eq!(clock.taken(), "c");
    assert_eq!(clock.state.status(9, clock.now).stuck, 2);
}

#[test]
fn what_hangs_never_has_all_workers() {
    let mut clock = Clock::new();
    for n in 0..20 {
        clock.state.push(vm(&format!("zfs{n}"), Sources::ZFS));
        clock.taken();
        clock.pass(1000);
    }
    // Eight workers: zfs leaves two to other commands, and two to files.
    assert_eq!(clock.state.status(99, clock.now).stuck, 4);
    for n in 0..20 {
        clock.state.push(vm(&format!("state{n}"), Sources::STATE));
        clock.taken();
        clock.pass(1000);
    }
    assert_eq!(clock.state.status(99, clock.now).stuck, 6);
    clock.state.push(vm("file", Sources::TAGS));
    assert_eq!(clock.taken(), "file");
}

#[test]
fn who_has_hung_is_tried_apart() {
    let mut clock = Clock::new();
    let push = |clock: &mut Clock, names: &str| {
        for name in names.split(' ') {
            clock.state.push(vm(name, Sources::ZFS));
        }
    };
    let done = |clock: &mut Clock, number, hung: &str| {
        let lanes = hung.split(' ').filter(|name| !name.is_empty());
        let lanes: Vec<_> =
            lanes.map(|n| (Lane::Vm(n.into()), Kind::Datasets)).collect();
        clock.state.done(number, &lanes);
    };
    push(&mut clock, "a b c d e f");
    let (number, _) = clock.take().unwrap();
    done(&mut clock, number, "a b c d e f");
    push(&mut clock, "a b c d e f well");
    // Never two at once, and not with those that are well.
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "a");
    assert_eq!(clock.taken(), "well");
    assert_eq!(clock.taken(), "-");
    done(&mut clock, number, "");
    // Twice as many each time that it goes well.
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "b c");
    done(&mut clock, number, "");
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "d e f");
    done(&mut clock, number, "d e f");
    push(&mut clock, "d e f a");
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "d");
    done(&mut clock, number, "d");
    let sick = clock.state.status(9, clock.now).sick;
    assert_eq!(sick, ["d", "e", "f"].map(|n| Lane::Vm(n.into())));
}

#[test]
fn who_hangs_in_zfs_goes_on_with_all_else() {
    let mut clock = Clock::new();
    for name in ["a", "b", "c"] {
        clock.state.push(vm(name, Sources::ZFS));
    }
    let (number, _) = clock.take().unwrap();
    let lanes = ["a", "b", "c"].map(|n| (Lane::Vm(n.into()), Kind::Datasets));
    clock.state.done(number, &lanes);
    for name in ["a", "b", "c"] {
        clock.state.push(vm(name, Sources::ZFS));
    }
    assert_eq!(clock.taken(), "a");
    // b and c wait for their turn at zfs, and for nothing else.
    clock.state.push(vm("b", Sources::STATE));
    clock.state.push(vm("c", Sources::TAGS));
    let parts = |clock: &mut Clock| {
        let (number, jobs) = clock.state.take(clock.now).unwrap();
        let told = format!("{} {}", jobs[0].lane, jobs[0].sources);
        clock.state.done(number, &[]);
        told
    };
    assert_eq!(parts(&mut clock), "b zoneadm+kstat+lastexited");
    assert_eq!(parts(&mut clock), "c tags.json");
    let status = clock.state.status(9, clock.now);
    assert_eq!(status.sick.len(), 3);
    let waiting: Vec<_> =
        status.waiting.iter().map(|(_, s, _)| s.to_string()).collect();
    assert_eq!(waiting, ["zfs", "zfs"]);
    // What is of no use in part is not taken in part.
    let whole = Job { is_whole: true, ..vm("b", Sources::ALL) };
    clock.state.push(whole);
    assert_eq!(clock.taken(), "-");
}

#[test]
fn a_storm_is_loaded_ever_less_often_and_its_end_soon() {
    let mut clock = Clock::new();
    let mut loads = 0;
    let mut last = 0;
    // 2000 snapshots in ten seconds.
    for n in 0..2000 {
        let job = vm("a", Sources::ZFS);
        clock.state.push_paced(job, clock.now);
        if let Some((number, _)) = clock.take() {
            clock.state.done(number, &[]);
            loads += 1;
            last = n;
        }
        clock.pass(5);
    }
    assert!((50..80).contains(&loads), "{loads}");
    assert!(last < 1999);
    // The last is not forgotten, and comes soon.
    clock.pass(160);
    assert_eq!(clock.taken(), "a");
    // What comes alone is not put off.
    clock.pass(1000);
    clock.state.push_paced(vm("b", Sources::ZFS), clock.now);
    assert_eq!(clock.taken(), "b");
}

#[test]
fn who_is_loaded_while_everything_is_is_loaded_again() {
    let mut clock = Clock::new();
    clock.state.push(vm("a", Sources::TAGS));
    let (of_a, _) = clock.take().unwrap();
    clock.state.push(all());
    let (of_all, names) = clock.take().unwrap();
    assert_eq!(names, "refresh");
    clock.state.done(of_all, &[]);
    clock.state.done(of_a, &[]);
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
    clock.state.done(number, &[]);
    let (number, names) = clock.take().unwrap();
    assert_eq!(names, "refresh");
    clock.state.done(number, &[]);
    set(&mut clock);
    clock.state.push(vm("a", Sources::ZFS));
    assert_eq!(clock.taken(), "a");
    clock.pass(2000);
    assert_eq!(clock.taken(), "refresh");
}

/// Every sequence of steps of two workers and a pusher, as deep as it goes in
/// a small queue: never two workers in a lane, and each push is followed by a
/// load of its lane, or of everything, that began after it.
#[test]
fn every_sequence_of_few_steps_is_sound() {
    fn lane(n: usize) -> Job {
        let sources = [Sources::TAGS, Sources::STATE, Sources::ZFS][n % 3];
        vm(["a", "b", "c"][n], sources)
    }

    #[derive(Clone)]
    enum Step {
        Push(usize),
        Later(usize),
        Paced(usize),
        Take,
        Done(usize, bool),
        Pass,
    }

    /// Runs the steps, then empties the queue; `None` if they can't be done.
    fn run(steps: &[Step]) -> Option<()> {
        let limits =
            QueueLimits { jobs: 2, workers_max: 4, ..QueueLimits::default() };
        let pause = Duration::from_millis(10);
        let mut state = State::new(limits, pause, pause * 4);
        let mut now = Instant::now();
        // By lane: whether it is owed a load.
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
                Step::Done(at, hung) => {
                    if *at >= working.len() {
                        return None;
                    }
                    let (number, jobs) = working.remove(*at);
                    let lanes = jobs
                        .into_iter()
                        .map(|job| (job.lane, job.sources.kind()));
                    let lanes: Vec<_> = lanes.filter(|_| *hung).collect();
                    state.done(number, &lanes);
                }
                Step::Pass => now += pause * 200,
            }
        }
        // Two workers that do whatever there is.
        for _ in 0..20 {
            while take(&mut state, &mut working, &mut owed, now) {}
            if let Some((number, _)) = working.pop() {
                state.done(number, &[]);
            }
            now += pause;
        }
        assert_eq!(owed, [false; 3], "lost");
        assert!(working.is_empty());
        let status = state.status(9, now);
        assert_eq!((status.waiting_count, status.later_count), (0, 0));
        Some(())
    }

    let mut alphabet = vec![Step::Take, Step::Pass];
    for n in 0..3 {
        alphabet.extend([Step::Push(n), Step::Later(n), Step::Paced(n)]);
    }
    for at in 0..2 {
        alphabet.extend([Step::Done(at, false), Step::Done(at, true)]);
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
