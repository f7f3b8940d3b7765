//! The queue, the hub and the bell, in the interleavings of a few threads: run
//! by `make interleavings`, which sets `--cfg loom`.

#![cfg(loom)]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use vminfod::event::{Cause, Job, Lane};
use vminfod::hub::{About, Hub, HubLimits, LineDraft};
use vminfod::queue::Queue;
use vminfod::settings::{QueueLimits, SourceTimes};
use vminfod::source::{EventSource, Source, Sources};
use vminfod::sync::{Bell, Condvar, Mutex};
use vminfod_client::EventKind;

/// Runs `body` in all interleavings with at most three preemptions: these show
/// most mistakes, and end in a bearable time.
fn in_every_order(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

/// What workers and pushers of a lane note for each other.
#[derive(Default)]
struct Lanes {
    /// By lane: the number of the last push, the number of the last push that
    /// was loaded, and whether a worker is at it.
    state: Mutex<[(u32, u32, bool); 2]>,
    loaded: Condvar,
}

const NAMES: [&str; 2] = ["a", "b"];

fn job(n: usize) -> Job {
    let lane = Lane::Vm(NAMES[n].into());
    let cause = Cause::now(EventSource::Zone, "");
    Job::new(lane, Sources::of(Source::Tags), cause)
}

impl Lanes {
    fn push(&self, queue: &Queue, n: usize) {
        self.state.lock()[n].0 += 1;
        queue.push(job(n));
    }

    fn lanes_of(job: &Job) -> Vec<usize> {
        match &job.lane {
            Lane::Vm(name) => vec![usize::from(**name != *NAMES[0])],
            _ => vec![0, 1],
        }
    }

    /// A worker. It fails if another worker is at one of its lanes.
    fn work(&self, queue: &Queue) {
        while let Some(batch) = queue.take() {
            for job in batch.jobs.iter().filter(|j| j.lane != Lane::All) {
                for n in Self::lanes_of(job) {
                    let lane = &mut self.state.lock()[n];
                    assert!(!lane.2, "two workers in one lane");
                    lane.2 = true;
                }
            }
            // All that was pushed up to now is loaded by this batch.
            let now = self.state.lock().map(|lane| lane.0);
            thread::yield_now();
            for job in &batch.jobs {
                for n in Self::lanes_of(job) {
                    let lane = &mut self.state.lock()[n];
                    lane.1 = lane.1.max(now[n]);
                    if job.lane != Lane::All {
                        lane.2 = false;
                    }
                }
            }
            queue.done(&batch.ticket());
            self.loaded.notify_all();
        }
    }

    /// Waits until all that was pushed has been loaded.
    fn wait(&self) {
        let mut state = self.state.lock();
        while state.iter().any(|lane| lane.0 != lane.1) {
            self.loaded.wait(&mut state);
        }
    }
}

/// Runs two workers, with pushes while they work: all that is pushed is loaded
/// after its push, and closing the queue ends both workers.
fn nothing_is_lost(pushes: &'static [usize], jobs: usize) {
    nothing_is_lost_beside(pushes, jobs, false);
}

/// With `later`, there is only one worker, and it waits with a timeout, because
/// a job is due much later.
fn nothing_is_lost_beside(pushes: &'static [usize], jobs: usize, later: bool) {
    in_every_order(move || {
        let limits =
            QueueLimits { jobs, workers_max: 4, ..QueueLimits::default() };
        let queue = Arc::new(Queue::new(limits, &SourceTimes::default()));
        let lanes = Arc::new(Lanes::default());
        let workers = (0..if later { 1 } else { 2 }).map(|_| {
            let (queue, lanes) = (Arc::clone(&queue), Arc::clone(&lanes));
            thread::spawn(move || lanes.work(&queue))
        });
        let workers: Vec<_> = workers.collect();
        if later {
            let lane = Lane::Vm("much later".into());
            let cause = Cause::now(EventSource::Zone, "");
            let job = Job::new(lane, Sources::of(Source::Tags), cause);
            queue.push_later(job, Duration::from_secs(1_000_000));
        }
        for n in pushes {
            lanes.push(&queue, *n);
        }
        lanes.wait();
        queue.close();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn pushes_to_one_lane_are_all_loaded_by_one_worker_at_a_time() {
    nothing_is_lost(&[0, 0], 10);
}

#[test]
fn pushes_to_two_lanes_are_all_loaded() {
    nothing_is_lost(&[0, 1], 10);
}

#[test]
fn a_worker_that_waits_with_a_timeout_takes_pushed_jobs() {
    nothing_is_lost_beside(&[0, 1], 10, true);
}

#[test]
fn a_full_queue_loads_everything() {
    nothing_is_lost(&[0, 1], 1);
}

#[test]
fn closing_the_queue_ends_all_workers() {
    in_every_order(|| {
        let limits = QueueLimits::default();
        let queue = Arc::new(Queue::new(limits, &SourceTimes::default()));
        let workers = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                while let Some(batch) = queue.take() {
                    queue.done(&batch.ticket());
                }
            })
        });
        queue.push(job(0));
        queue.close();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn each_event_wakes_the_sender_thread() {
    in_every_order(|| {
        let limits = HubLimits {
            kept_events: 9,
            kept_bytes: 1 << 20,
            subscribers: 1,
            versions: 1,
            lag_events: 9,
            lag_bytes: 1 << 20,
        };
        let hub = Arc::new(Hub::new(limits));
        let sender = {
            let hub = Arc::clone(&hub);
            thread::spawn(move || {
                let mut sent = Vec::new();
                while sent.len() < 3 {
                    // Under loom no time passes: only an event ends the wait.
                    hub.wait(Instant::now() + Duration::from_secs(1000));
                    let lines = hub.hand_out(9).unwrap();
                    sent.extend(lines.iter().map(|line| line.seq));
                }
                assert_eq!(sent, [1, 2, 3]);
            })
        };
        for _ in 0..3 {
            let about = About {
                kind: EventKind::Modify,
                zonename: "a".into(),
                uuid: "a".into(),
            };
            hub.publish(about, None, LineDraft::default(), |seq, line| {
                line.extend_from_slice(format!("{seq}\n").as_bytes());
            });
        }
        sender.join().unwrap();
    });
}

#[test]
fn no_ring_of_the_bell_is_lost() {
    in_every_order(|| {
        let bell = Arc::new(Bell::new().unwrap());
        let rung = Arc::new(Mutex::new(0));
        let listener = {
            let (bell, rung) = (Arc::clone(&bell), Arc::clone(&rung));
            thread::spawn(move || {
                while *rung.lock() < 3 {
                    bell.wait();
                    bell.silence();
                }
            })
        };
        for _ in 0..3 {
            *rung.lock() += 1;
            bell.ring();
        }
        listener.join().unwrap();
    });
}
