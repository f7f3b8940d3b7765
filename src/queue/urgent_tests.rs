//! The queue: jobs that a client waits for.

use super::tests::{all, names, queue, queue_of, vm};
use super::*;
use crate::source::Sources;

fn is_working(queue: &Queue, name: &str) -> bool {
    queue.at_work().iter().any(|zonename| **zonename == *name)
}

#[test]
fn urgent_jobs_come_first_in_a_batch_of_their_own() {
    let queue = queue(10);
    for name in ["a", "b"] {
        queue.push(vm(name, Sources::ALL));
    }
    let asked = queue.push_urgent(vm("c", Sources::ALL)).unwrap();
    let batch = queue.take().unwrap();
    assert_eq!(names(&batch), ["c"]);
    assert!(batch.number > asked);
    // A job that waits already becomes urgent, and is still one job.
    queue.push_urgent(vm("b", Sources::ALL)).unwrap();
    assert_eq!(names(&queue.take().unwrap()), ["b"]);
    assert_eq!(names(&queue.take().unwrap()), ["a"]);
}

#[test]
fn a_load_that_began_before_a_request_does_not_meet_it() {
    let queue = queue(10);
    queue.push(vm("a", Sources::ALL));
    let begun = queue.take().unwrap();
    let asked = queue.push_urgent(vm("a", Sources::ALL)).unwrap();
    assert!(begun.number <= asked);
    queue.done(&begun.ticket());
    assert!(queue.take().unwrap().number > asked);
}

#[test]
fn urgent_jobs_have_workers_of_their_own() {
    let queue = queue_of(QueueLimits {
        workers: 1,
        workers_max: 2,
        stuck_time: Duration::from_secs(1000),
        ..QueueLimits::default()
    });
    queue.push(vm("a", Sources::ALL));
    let busy = queue.take().unwrap();
    queue.push(vm("b", Sources::ALL));
    queue.push_urgent(vm("c", Sources::ALL)).unwrap();
    assert_eq!(names(&queue.take().unwrap()), ["c"]);
    queue.done(&busy.ticket());
    assert_eq!(names(&queue.take().unwrap()), ["b"]);
    assert!(is_working(&queue, "c"));
}

#[test]
fn urgent_jobs_outlast_an_overflow_and_have_their_own_bound() {
    let limits =
        QueueLimits { jobs: 2, urgent_jobs: 2, ..QueueLimits::default() };
    let queue = queue_of(limits);
    assert!(queue.push_urgent(vm("a", Sources::ALL)).is_some());
    assert!(queue.push_urgent(vm("b", Sources::ALL)).is_some());
    assert!(queue.push_urgent(vm("c", Sources::ALL)).is_none());
    assert!(queue.push_urgent(vm("a", Sources::ALL)).is_some());
    // One job too many that is not urgent.
    queue.push(vm("d", Sources::ALL));
    assert_eq!(queue.status(9).overflows, 1);
    assert_eq!(names(&queue.take().unwrap()), ["a", "b"]);
    // An urgent job finds room however it is pushed.
    queue.push(Job { is_urgent: true, ..vm("e", Sources::ALL) });
    assert_eq!(names(&queue.take().unwrap()), ["e"]);
    let rest = queue.take().unwrap();
    assert!(rest.jobs.iter().any(|job| job.lane == all().lane));
}
