//! The planner's thread: events in, jobs out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::daemon::Shared;
use crate::drift::Heard;
use crate::event::{Cause, Event, Job, Lane, Seen, Trigger};
use crate::os::process::kill_group_now;
use crate::plan::{DatasetIndex, Known, plan};
use crate::source::{EventSource, Sources};
use crate::watch::{Events, NoEvent, SourceStatus};

/// Turns events into jobs until every source has ended.
///
/// The first full load begins once both sysevent sources listen, so that
/// nothing happens unseen between load and subscription; after `ready_time`
/// it begins without the one that does not, whose own beginning will make
/// another.
pub fn run(events: &Events, shared: &Shared, ready_time: Duration) {
    let mut beginning = Beginning::new(Instant::now() + ready_time);
    let mut next_look = Instant::now() + shared.drift_time;
    loop {
        let now = Instant::now();
        if now >= next_look {
            next_look = now + shared.drift_time;
            look_at_sources(shared);
        }
        let begin_at = (!beginning.is_over).then_some(beginning.until);
        let until = begin_at.map_or(next_look, |at| at.min(next_look));
        match events.next(Some(until)) {
            Err(NoEvent::Ended) => return,
            Err(NoEvent::Timeout) => {
                if begin_at.is_some_and(|at| at <= Instant::now()) {
                    log::warn!("not every source is ready; loading anyway");
                    beginning.end(shared);
                }
            }
            Ok(seen) => {
                shared.numbers.event(&seen);
                if beginning.is_over {
                    handle(&seen, shared);
                } else {
                    // What happened before the first load is in it.
                    beginning.note(&seen.event, shared);
                }
            }
        }
        if events.were_lost() && beginning.is_over {
            log::warn!("events came too fast; every VM is loaded again");
            shared.queue.expect_no_ends();
            shared
                .queue
                .push_overflow(&Cause::now(Trigger::Refresh, "events lost"));
        }
    }
}

/// Starts readers again that stand still: their sysevent runs, and tells
/// nothing of what full reloads find.
fn look_at_sources(shared: &Shared) {
    for heard in shared.drift.news() {
        let (Heard::Silent(source) | Heard::Well(source)) = heard;
        let fault = source.missing();
        let Heard::Silent(_) = heard else {
            shared.faults.clear(None, fault);
            continue;
        };
        let name = source.name();
        let mut why = format!(
            "full reloads found, twice in a row, what {name} events should \
             have told"
        );
        let mut sources = shared.sources.iter();
        let status = sources.find(|(of, _)| *of == source);
        if let Some((_, status)) = status
            && restart(&mut status.lock(), &why)
        {
            why += "; its sysevent was started again";
        }
        log::error!("{why}");
        shared.faults.add(None, fault, &why);
    }
}

/// Kills the sysevent of a source, if it has one: its reader starts another.
fn restart(status: &mut SourceStatus, why: &str) -> bool {
    let Some(pid) = status.pid else { return false };
    status.silent = Some(why.to_string());
    // It is no one else's pid: it is waited for once it is not here any more.
    kill_group_now(pid);
    true
}

fn handle(seen: &Seen, shared: &Shared) {
    log::debug!("event: {}", seen.event);
    if matches!(seen.event, Event::Ready(EventSource::Zone)) {
        shared.queue.expect_no_ends();
    }
    let plan = shared.cache.look(|datasets, is_vm| {
        plan(seen, &PlannerView { datasets, is_vm, shared })
    });
    if let Some((zonename, transition)) = plan.transition {
        let is_vm = shared.cache.contains(&zonename);
        shared.queue.push_transition(&zonename, transition, is_vm);
    }
    // Until all VMs are known, no one can tell whose dataset it is.
    let is_dataset = matches!(seen.event, Event::Dataset(_));
    if is_dataset && shared.refreshes.lock().is_empty() {
        let cause = Cause::now(Trigger::Refresh, "a dataset changed meanwhile");
        shared.queue.push(reload(cause));
        return;
    }
    for job in plan.jobs {
        if let Lane::Vm(zonename) = &job.lane {
            shared.drift.heard(zonename);
            shared.gaps.heard(zonename);
        }
        if matches!(seen.event, Event::InitRestart { .. }) {
            // The kernel may publish this before it has counted the restart.
            let (again, pause) = (job.clone(), shared.settle_time);
            shared.queue.push_later(again, pause);
        }
        match job.lane {
            Lane::Index => shared.queue.push_later(job, shared.index_time),
            _ if is_dataset => shared.queue.push_paced(job),
            _ => shared.queue.push(job),
        }
    }
}

fn reload(cause: Cause) -> Job {
    Job::new(Lane::All, Sources::ALL, cause)
}

/// What the planner may know: the cache, and what is about to be in it.
struct PlannerView<'a> {
    datasets: &'a DatasetIndex,
    is_vm: &'a dyn Fn(&str) -> bool,
    shared: &'a Shared,
}

impl Known for PlannerView<'_> {
    fn datasets(&self) -> &DatasetIndex {
        self.datasets
    }

    fn is_vm(&self, zonename: &str) -> bool {
        (self.is_vm)(zonename) || self.shared.queue.concerns(zonename)
    }

    fn begun(&self) -> Vec<Arc<str>> {
        let at_work = self.shared.queue.at_work().into_iter();
        at_work.filter(|zonename| !(self.is_vm)(zonename)).collect()
    }

    fn is_reloading(&self) -> bool {
        self.shared.queue.is_reloading()
    }
}

/// The time before the first full load.
struct Beginning {
    until: Instant,
    waiting_for: Vec<EventSource>,
    is_over: bool,
}

impl Beginning {
    fn new(until: Instant) -> Self {
        let waiting_for = vec![EventSource::Zone, EventSource::Zfs];
        Self { until, waiting_for, is_over: false }
    }

    fn note(&mut self, event: &Event, shared: &Shared) {
        if let Event::Ready(source) = event {
            self.waiting_for.retain(|waiting| waiting != source);
            if self.waiting_for.is_empty() {
                self.end(shared);
            }
        }
    }

    fn end(&mut self, shared: &Shared) {
        self.is_over = true;
        shared.queue.push(reload(Cause::now(Trigger::Refresh, "start")));
    }
}
