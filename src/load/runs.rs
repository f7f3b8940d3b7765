//! Runs of commands, with a breaker for each *circuit*. zoneadm is one circuit
//! and kstat another; zfs has one for each pool, because a pool that hangs does
//! not hold up the other pools.
//!
//! A run is a process with a thread of its own. A load waits a moment for it,
//! then goes on without the answer. The job of that load is then *owed* the
//! answer: the job is done again when the run has ended. A circuit has at most
//! two runs at a time. While both are overdue, a load that needs the circuit is
//! refused at once.
//!
//! If the last run of the same sort, such as a list of a whole pool, was slow,
//! a load waits longer for the next one: up to twice as long as the last one
//! took. Otherwise the answers of a command that is always slow would never be
//! used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::command::{Output, Run, Runner};
use super::error::{CommandError, CommandProblem};
use crate::event::{Job, Lane};
use crate::source::{Source, Sources};
use crate::threads;

/// The most runs of a circuit at a time.
const RUNS_MAX: usize = 2;

/// When the daemon ends, it waits this long for the runs that it has killed.
const END_TIME: Duration = Duration::from_millis(500);

/// Called with the jobs that must be done again.
pub type Redo = Box<dyn Fn(Vec<LateJob>) + Send + Sync>;

/// A job that must be done again, because it went on without an answer.
#[derive(Clone, Debug)]
pub struct LateJob {
    /// The job.
    pub job: Job,
    /// The source whose answer was missing.
    pub source: Source,
    /// Why the run failed, if it did.
    pub error: Option<CommandError>,
}

/// All runs of commands.
#[derive(Clone)]
pub struct Runs(Arc<Shared>);

struct Shared {
    runner: Runner,
    /// How long a load waits for a run, unless the last run of its sort was
    /// slow.
    stuck_time: Duration,
    /// The most jobs that are owed answers. If there is one more, every VM is
    /// loaded again instead.
    owed_max: usize,
    state: Mutex<State>,
    /// Notified when a run has ended.
    ended: Condvar,
    redo: OnceLock<Redo>,
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Runs").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    last_id: u64,
    running: BTreeMap<u64, Running>,
    /// How long the last run took, by circuit and sort, if it was slow and
    /// ended by itself.
    slow: HashMap<(String, &'static str), Duration>,
    owed: HashMap<(Lane, Source), Owed>,
}

/// A run that is under way.
struct Running {
    circuit: String,
    source: Source,
    begun: Instant,
    /// Whether a load has given up waiting for it.
    is_overdue: bool,
}

/// A job that is owed an answer.
struct Owed {
    job: Job,
    /// The runs that it waits for.
    runs: BTreeSet<u64>,
    /// The circuits that had no room for its run. It waits until a run of each
    /// of them ends.
    refused: BTreeSet<String>,
}

/// What a run printed, or why it failed.
pub type RunAnswer = Arc<Result<Output, CommandError>>;

/// A request to start a run.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The command, and for zfs also the pool.
    pub circuit: String,
    /// Runs of one sort take about the same time.
    pub timing_class: &'static str,
    /// The source of a VM that the run reads.
    pub source: Source,
    /// The program and its arguments.
    pub run: Run,
    /// The run is killed after this time.
    pub limit: Duration,
    /// Whether to wait until the run ends, even if it is overdue.
    pub is_patient: bool,
}

impl PendingRun {
    /// The program and its arguments.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.ask.run
    }

    /// The command, and for zfs also the pool.
    #[must_use]
    pub fn circuit(&self) -> &str {
        &self.ask.circuit
    }
}

/// A run that was started, or that waits for room in its circuit.
#[derive(Debug)]
pub struct PendingRun {
    ask: RunRequest,
    since: Instant,
    /// The run, if it has begun.
    begun: Option<StartedRun>,
}

#[derive(Clone, Debug)]
struct StartedRun {
    id: u64,
    /// The time until which a load waits for it.
    until: Instant,
    end: Arc<OnceLock<RunAnswer>>,
}

/// An answer that a load did not get in time.
#[derive(Clone, Debug)]
pub struct Unanswered {
    circuit: String,
    begun: Option<StartedRun>,
    /// The source that was asked.
    pub source: Source,
    /// A message that names the command.
    pub error: CommandError,
}

/// A circuit that has an overdue run.
#[derive(Clone, Debug)]
pub struct Overdue {
    /// The command, and for zfs also the pool.
    pub circuit: String,
    /// The source of a VM that its runs read.
    pub source: Source,
    /// How long its oldest overdue run has taken so far.
    pub time: Duration,
    /// The lanes that wait for its answers.
    pub waiting: Vec<Lane>,
}

impl Runs {
    /// Runs commands with `runner`. A load waits `stuck_time` for a run; at
    /// most `owed_max` jobs are owed answers.
    #[must_use]
    pub fn new(runner: Runner, stuck_time: Duration, owed_max: usize) -> Self {
        Self(Arc::new(Shared {
            runner,
            stuck_time,
            owed_max,
            state: Mutex::default(),
            ended: Condvar::new(),
            redo: OnceLock::new(),
        }))
    }

    /// The runner, which counts how the runs of each command went.
    #[must_use]
    pub fn runner(&self) -> &Runner {
        &self.0.runner
    }

    /// Sets the function that takes the jobs that must be done again. It is set
    /// once.
    pub fn set_redo(&self, redo: Redo) {
        let _ = self.0.redo.set(redo);
    }

    /// Starts a run. If its circuit has no room now, [`Self::wait`] starts it
    /// later.
    #[must_use]
    pub fn ask(&self, ask: RunRequest) -> PendingRun {
        let begun = self.begin(&mut self.0.state.lock(), &ask);
        if let Some(begun) = &begun {
            self.start(&ask, begun.clone());
        }
        PendingRun { ask, since: Instant::now(), begun }
    }

    fn begin(&self, state: &mut State, ask: &RunRequest) -> Option<StartedRun> {
        let circuit = &ask.circuit;
        if state.of_circuit(circuit).count() >= RUNS_MAX {
            return None;
        }
        state.last_id += 1;
        let (id, begun) = (state.last_id, Instant::now());
        let running = Running {
            circuit: circuit.clone(),
            source: ask.source,
            begun,
            is_overdue: false,
        };
        state.running.insert(id, running);
        let last =
            state.slow.get(&(circuit.clone(), ask.timing_class)).copied();
        // A run that takes half of its limit probably hangs.
        let patience = (last.unwrap_or_default() * 2).min(ask.limit / 2);
        let until = begun + self.0.stuck_time.max(patience);
        Some(StartedRun { id, until, end: Arc::default() })
    }

    fn start(&self, ask: &RunRequest, begun: StartedRun) {
        let (runs, own, id) = (self.clone(), ask.clone(), begun.clone());
        let thread = threads::spawn("run", move || {
            let output = runs.0.runner.run(&own.run, own.limit);
            runs.finish(&own, &id, output);
        });
        if let Err(e) = thread {
            let error = ask.run.error(CommandProblem::NoThread(e.to_string()));
            self.finish(ask, &begun, Err(error));
        }
    }

    /// Waits for the answer of a run until the run is overdue, or until it ends
    /// if the request is patient.
    ///
    /// # Errors
    /// If there is no answer by then.
    pub fn wait(&self, asked: PendingRun) -> Result<RunAnswer, Unanswered> {
        let PendingRun { ask, since, mut begun } = asked;
        let mut state = self.0.state.lock();
        loop {
            if let Some(finished) = begun.as_ref().and_then(|b| b.end.get()) {
                return Ok(Arc::clone(finished));
            }
            if begun.is_none() {
                begun = self.begin(&mut state, &ask);
                if let Some(begun) = &begun {
                    drop(state);
                    self.start(&ask, begun.clone());
                    state = self.0.state.lock();
                    continue;
                }
            }
            if ask.is_patient {
                self.0.ended.wait(&mut state);
                continue;
            }
            let until = match &begun {
                Some(begun) => begun.until,
                None if state.all_overdue(&ask.circuit) => break,
                None => since + self.0.stuck_time,
            };
            if Instant::now() >= until {
                break;
            }
            let _ = self.0.ended.wait_until(&mut state, until);
        }
        let problem = match &begun {
            Some(begun) => state.note_overdue(begun.id, &ask.run),
            None => CommandProblem::OthersHang,
        };
        let RunRequest { circuit, source, run, .. } = ask;
        Err(Unanswered { circuit, begun, source, error: run.error(problem) })
    }

    fn finish(
        &self,
        ask: &RunRequest,
        begun: &StartedRun,
        output: Result<Output, CommandError>,
    ) {
        let error = output.as_ref().err().cloned();
        let again = {
            let mut state = self.0.state.lock();
            let _ = begun.end.set(Arc::new(output));
            state.end(begun.id, ask, error.as_ref(), self.0.stuck_time)
        };
        self.0.ended.notify_all();
        self.redo(again);
    }

    fn redo(&self, again: Vec<LateJob>) {
        let is_ending = self.0.runner.is_ending();
        match self.0.redo.get() {
            Some(redo) if !again.is_empty() && !is_ending => redo(again),
            _ => {}
        }
    }

    /// Has a job done again when the run whose answer it lacks has ended.
    pub fn owe(&self, unanswered: &Unanswered, job: Job) {
        let Unanswered { circuit, begun, source, .. } = unanswered;
        let mut state = self.0.state.lock();
        let run = begun.as_ref().map(|begun| begun.id);
        let is_to_come = match run {
            Some(id) => state.running.contains_key(&id),
            None => state.of_circuit(circuit).next().is_some(),
        };
        if !is_to_come {
            // The run has ended in the meantime.
            drop(state);
            self.redo(vec![LateJob { job, source: *source, error: None }]);
            return;
        }
        let key = (job.lane.clone(), *source);
        // Urgent jobs have a bound of their own. They must be loaded even if it
        // turns out that there is no such VM.
        let has_room = state.owed.len() < self.0.owed_max
            || state.owed.contains_key(&key)
            || job.is_urgent;
        let job = match has_room {
            true => job,
            false => Job { lane: Lane::All, sources: Sources::ALL, ..job },
        };
        let key = (job.lane.clone(), *source);
        let owed = state.owed.entry(key).or_insert_with(|| Owed {
            job: job.clone(),
            runs: BTreeSet::new(),
            refused: BTreeSet::new(),
        });
        owed.job.merge(&job);
        match run {
            Some(id) => drop(owed.runs.insert(id)),
            None => drop(owed.refused.insert(circuit.clone())),
        }
    }

    /// The sources that are read again when a lane gets the answers that it is
    /// owed; none if it is owed none.
    #[must_use]
    pub fn owed(&self, lane: &Lane) -> Sources {
        let state = self.0.state.lock();
        let mut sources = Sources::NONE;
        for source in [Source::Zoneadm, Source::Kstat, Source::Zfs] {
            let owed = state.owed.get(&(lane.clone(), source));
            sources |= owed.map_or(Sources::NONE, |owed| owed.job.sources);
        }
        sources
    }

    /// The circuits that have an overdue run.
    #[must_use]
    pub fn overdue(&self) -> Vec<Overdue> {
        let state = self.0.state.lock();
        let mut open: BTreeMap<&str, (Source, Instant)> = BTreeMap::new();
        for running in state.running.values().filter(|run| run.is_overdue) {
            let (source, begun) = (running.source, running.begun);
            let (_, since) =
                open.entry(&running.circuit).or_insert((source, begun));
            *since = begun.min(*since);
        }
        let open = open.into_iter().map(|(circuit, (source, since))| Overdue {
            circuit: circuit.to_string(),
            source,
            time: since.elapsed(),
            waiting: state.waiting_for(circuit),
        });
        open.collect()
    }

    /// Waits until no run is under way, but no longer than [`END_TIME`]. The
    /// runs are killed when the daemon ends.
    pub fn wait_for_end(&self) {
        let until = Instant::now() + END_TIME;
        let mut state = self.0.state.lock();
        while !state.running.is_empty() && Instant::now() < until {
            let _ = self.0.ended.wait_until(&mut state, until);
        }
    }
}

impl State {
    fn of_circuit(&self, circuit: &str) -> impl Iterator<Item = &Running> {
        self.running.values().filter(move |run| run.circuit == *circuit)
    }

    fn all_overdue(&self, circuit: &str) -> bool {
        self.of_circuit(circuit).all(|run| run.is_overdue)
    }

    /// Notes that a load has given up waiting for a run; returns the reason.
    fn note_overdue(&mut self, id: u64, run: &Run) -> CommandProblem {
        let Some(running) = self.running.get_mut(&id) else {
            return CommandProblem::LateAnswer;
        };
        let problem = CommandProblem::NoAnswerFor(running.begun.elapsed());
        if !std::mem::replace(&mut running.is_overdue, true) {
            log::warn!(
                "{}: {problem}; loads go on without it, and the VMs that need \
                 it are loaded again when it ends",
                run.command()
            );
        }
        problem
    }

    /// Removes a run that has ended; returns the jobs that waited for it and
    /// for nothing else.
    fn end(
        &mut self,
        id: u64,
        ask: &RunRequest,
        error: Option<&CommandError>,
        stuck_time: Duration,
    ) -> Vec<LateJob> {
        let Some(Running { circuit, begun, is_overdue, .. }) =
            self.running.remove(&id)
        else {
            return Vec::new();
        };
        let time = begun.elapsed();
        if is_overdue {
            log::warn!(
                "{}: ended after {time:.1?}; the VMs that waited for it are \
                 loaded again",
                ask.run.command()
            );
        }
        let timing_class = (circuit.clone(), ask.timing_class);
        if error.is_none() && time * 2 > stuck_time {
            self.slow.insert(timing_class, time);
        } else {
            self.slow.remove(&timing_class);
        }
        let mut again = Vec::new();
        self.owed.retain(|(_, source), owed| {
            let is_own = owed.runs.remove(&id);
            let had_room = owed.refused.remove(&circuit);
            let waits = !owed.runs.is_empty() || !owed.refused.is_empty();
            if (is_own || had_room) && !waits {
                let (job, source) = (owed.job.clone(), *source);
                let error = error.filter(|_| is_own).cloned();
                again.push(LateJob { job, source, error });
            }
            waits
        });
        again
    }

    fn waiting_for(&self, circuit: &str) -> Vec<Lane> {
        let is_of = |id: &u64| {
            self.running.get(id).is_some_and(|run| run.circuit == *circuit)
        };
        let waiting = self.owed.iter().filter(|(_, owed)| {
            owed.refused.contains(circuit) || owed.runs.iter().any(is_of)
        });
        let lanes: BTreeSet<_> =
            waiting.map(|((lane, _), _)| lane.clone()).collect();
        lanes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
