//! The planner's thread: turns events into jobs.

use std::sync::Arc;
use std::time::Instant;

use crate::daemon::Shared;
use crate::drift::SourceHealth;
use crate::event::{Cause, Job, Lane, SourceEvent, TimedEvent, Trigger};
use crate::os::process::kill_group_now;
use crate::plan::{DatasetIndex, Known, plan};
use crate::queue::Queue;
use crate::settings::SourceTimes;
use crate::source::{EventSource, Sources};
use crate::watch::{Events, NoEvent, SourceStatus};

/// The planner.
pub struct Planner {
    pub shared: Arc<Shared>,
    pub times: SourceTimes,
}

impl Planner {
    /// Turns events into jobs until the daemon ends.
    ///
    /// The first full load begins once all sysevent sources listen, so that
    /// nothing happens unseen between the load and the subscription. After
    /// `ready_time` it begins even if a source does not listen yet. When that
    /// source begins to listen, everything is loaded again.
    pub fn run(&self, events: &Events) {
        let SourceTimes { ready_time, drift_time, .. } = self.times;
        let mut beginning = Startup::new(Instant::now() + ready_time);
        let mut next_look = Instant::now() + drift_time;
        loop {
            let now = Instant::now();
            if now >= next_look {
                next_look = now + drift_time;
                self.check_event_sources();
            }
            let begin_at = (!beginning.is_over).then_some(beginning.until);
            let until = begin_at.map_or(next_look, |at| at.min(next_look));
            match events.next(Some(until)) {
                Err(NoEvent::Ended) => return,
                Err(NoEvent::Timeout) => {
                    if begin_at.is_some_and(|at| at <= Instant::now()) {
                        log::warn!(
                            "no {} events yet after {ready_time:?}; loading \
                             every VM anyway, and again when they begin",
                            beginning.names()
                        );
                        beginning.end(&self.shared);
                    }
                }
                Ok(seen) => {
                    self.shared.numbers.event(&seen);
                    if beginning.is_over {
                        self.handle(&seen);
                    } else {
                        // The first load sees what happened before it.
                        beginning.note(&seen.event, &self.shared);
                    }
                }
            }
            if events.were_lost() && beginning.is_over {
                log::warn!(
                    "events were lost because too many waited; loading every \
                     VM again"
                );
                let cause = Cause::now(Trigger::Refresh, "events lost");
                self.shared.queue.expect_no_ends();
                self.shared.queue.push_overflow(&cause);
            }
        }
    }

    /// Restarts readers that are silent: their sysevent runs, but does not
    /// report what full reloads find.
    fn check_event_sources(&self) {
        let shared = &self.shared;
        for heard in shared.reloads.drift.news() {
            let (SourceHealth::Silent(source) | SourceHealth::Well(source)) =
                heard;
            let fault = source.missing();
            let SourceHealth::Silent(_) = heard else {
                shared.faults.clear(None, fault);
                continue;
            };
            let name = source.name();
            let mut why = format!(
                "two full reloads in a row found changes that {name} events \
                 should have reported"
            );
            let mut sources = shared.sources.iter();
            let status = sources.find(|(of, _)| *of == source);
            if let Some((_, status)) = status
                && restart(&mut status.lock(), &why)
            {
                why += "; its sysevent has been restarted";
            }
            shared.faults.add(None, fault, &why);
        }
    }

    fn handle(&self, seen: &TimedEvent) {
        let Shared { queue, cache, reloads, .. } = &*self.shared;
        log::debug!("event: {}", seen.event);
        if matches!(seen.event, SourceEvent::Ready(EventSource::Zone)) {
            queue.expect_no_ends();
        }
        let plan = cache.with_datasets(|datasets, is_vm| {
            plan(seen, &PlannerView { datasets, is_vm, queue })
        });
        if let Some((zonename, transition)) = plan.transition {
            let is_vm = cache.contains(&zonename);
            queue.push_transition(&zonename, transition, is_vm);
        }
        // Until all VMs are known, it is not known whose dataset it is.
        let is_dataset = matches!(seen.event, SourceEvent::Dataset(_));
        if is_dataset && reloads.is_first() {
            let why = "a dataset changed meanwhile";
            queue.push(reload(Cause::now(Trigger::Refresh, why)));
            return;
        }
        for job in plan.jobs {
            if let Lane::Vm(zonename) = &job.lane {
                reloads.event_received(zonename);
            }
            if let SourceEvent::Vm(change) = &seen.event
                && change.is_early
            {
                queue.push_later(job.clone(), self.times.settle.first);
            }
            match job.lane {
                Lane::Index => queue.push_later(job, self.times.index_time),
                _ if is_dataset => queue.push_paced(job),
                _ => queue.push(job),
            }
        }
    }
}

/// Kills the sysevent of a source, if it has one: its reader starts another.
fn restart(status: &mut SourceStatus, why: &str) -> bool {
    let Some(pid) = status.pid else { return false };
    status.silent = Some(why.to_string());
    // The pid can't belong to another process: the reader clears it here before
    // it waits for the child.
    kill_group_now(pid);
    true
}

fn reload(cause: Cause) -> Job {
    Job::new(Lane::All, Sources::ALL, cause)
}

/// What the planner knows: the cache, and what is about to be in it.
struct PlannerView<'a> {
    datasets: &'a DatasetIndex,
    is_vm: &'a dyn Fn(&str) -> bool,
    queue: &'a Queue,
}

impl Known for PlannerView<'_> {
    fn datasets(&self) -> &DatasetIndex {
        self.datasets
    }

    fn is_vm(&self, zonename: &str) -> bool {
        (self.is_vm)(zonename) || self.queue.concerns(zonename)
    }

    fn zones_being_loaded(&self) -> Vec<Arc<str>> {
        let at_work = self.queue.at_work().into_iter();
        at_work.filter(|zonename| !(self.is_vm)(zonename)).collect()
    }

    fn is_reloading(&self) -> bool {
        self.queue.is_reloading()
    }
}

/// The time before the first full load.
struct Startup {
    until: Instant,
    waiting_for: Vec<EventSource>,
    is_over: bool,
}

impl Startup {
    fn new(until: Instant) -> Self {
        let all = EventSource::ALL.into_iter();
        let waiting_for = all.filter(|source| source.is_sysevent()).collect();
        Self { until, waiting_for, is_over: false }
    }

    fn note(&mut self, event: &SourceEvent, shared: &Shared) {
        if let SourceEvent::Ready(source) = event {
            self.waiting_for.retain(|waiting| waiting != source);
            if self.waiting_for.is_empty() {
                self.end(shared);
            }
        }
    }

    /// The sources that are not ready: `zone and zfs`.
    fn names(&self) -> String {
        let names: Vec<_> = self.waiting_for.iter().map(|s| s.name()).collect();
        names.join(" and ")
    }

    fn end(&mut self, shared: &Shared) {
        self.is_over = true;
        shared.queue.push(reload(Cause::now(Trigger::Refresh, "start")));
    }
}
