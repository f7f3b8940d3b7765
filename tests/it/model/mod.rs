//! The model test: random operations on a host, with random faults switched on
//! and off, against the real daemon. At every moment, its events must add up to
//! what it serves; once the faults are over, it must serve what a load gives.
//!
//! A run depends on its seed alone. `MODEL_SEED` sets the first, `MODEL_RUNS`
//! how many there are, `MODEL_STEPS` how many steps each has, and
//! `MODEL_SECONDS` for how long to go on; `make soak` uses them. A run that
//! fails is tried again with ever fewer steps, unless `MODEL_SHRINK=0`, and its
//! steps are printed.

mod check;
pub mod step;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::harness::few_or_many;
use check::Model;
use step::{Step, Steps};

/// The number of runs in `make test`, and with LONG=1.
const RUNS: (u64, u64) = (6, 30);

/// The number of steps in each run.
const STEPS: usize = 100;

/// How often, and for how long, a shorter failing sequence is looked for.
const SHRINK_TRIES: usize = 100;
const SHRINK_TIME: Duration = Duration::from_secs(180);

/// The kind of a run, which its seed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only events report changes, and none is lost: every transition must be
    /// published.
    Strict,
    /// Events are dropped, duplicated and reordered: the periodic reload must
    /// find what they missed.
    Lossy,
    /// Queues are tiny, so that they overflow.
    Tiny,
}

impl Kind {
    fn of(seed: u64) -> Self {
        match seed % 4 {
            0 | 1 => Self::Strict,
            2 => Self::Lossy,
            _ => Self::Tiny,
        }
    }

    /// The daemon's arguments: short times, so that much happens, and the
    /// settings of the kind.
    fn args(self) -> Vec<&'static str> {
        let times = [
            "command-time=0.5",
            "stuck-time=0.1",
            "retry-first=0.02",
            "retry-last=0.2",
            "restart-first=0.02",
            "restart-last=0.2",
            "ready-time=1",
            "settle-last=0.2",
            "passing-first=0.05",
            "passing-last=0.2",
            "poll-time=0.1",
            "sync-time=0.1",
            // Long enough on a busy machine, too.
            "end-time=5",
        ];
        let own: &[&str] = match self {
            Self::Strict => &["refresh-interval=100000"],
            Self::Lossy => {
                &["refresh-interval=0.7", "drift-time=0.1", "end-time=0.1"]
            }
            Self::Tiny => &[
                "refresh-interval=100000",
                "jobs=2",
                "batch=2",
                "events=1",
                "workers-max=3",
            ],
        };
        let settings = times.iter().chain(own);
        settings.flat_map(|setting| ["--set", setting]).collect()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value}?"))
    })
}

/// Runs the steps; returns what went wrong, if anything did. With `each`,
/// snapshot and stream are compared at every step, which leaves the daemon less
/// to do at once.
fn failure_of(kind: Kind, each: bool, steps: &[Step]) -> Option<String> {
    let run = AssertUnwindSafe(|| {
        let mut model = Model::new(kind, &kind.args());
        for (n, step) in steps.iter().enumerate() {
            model.step(n, step);
            if each {
                model.step(n, &Step::Compare);
            }
        }
        model.settle();
    });
    let panic = catch_unwind(run).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| "a panic without text".to_string()))
}

/// Leaves out steps as long as the rest still fails.
fn shrunk(kind: Kind, each: bool, steps: Vec<Step>) -> Vec<Step> {
    let begin = Instant::now();
    let mut shortest = steps;
    let mut chunk = shortest.len() / 2;
    let mut tries = 0;
    while chunk > 0 {
        let mut at = 0;
        while at < shortest.len() {
            if tries >= SHRINK_TRIES || begin.elapsed() > SHRINK_TIME {
                return shortest;
            }
            tries += 1;
            let mut fewer = shortest.clone();
            fewer.drain(at..(at + chunk).min(fewer.len()));
            if failure_of(kind, each, &fewer).is_some() {
                shortest = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    shortest
}

#[test]
fn after_random_operations_and_faults_the_cache_is_right() {
    let begin = Instant::now();
    let first = number("MODEL_SEED", 1);
    let seconds = number("MODEL_SECONDS", 0);
    let steps = usize::try_from(number("MODEL_STEPS", STEPS as u64)).unwrap();
    let runs = match seconds {
        0 => number("MODEL_RUNS", few_or_many(RUNS.0, RUNS.1)),
        _ => u64::MAX / 2,
    };
    let mut count = 0;
    for seed in first..first + runs {
        if seconds > 0 && begin.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let kind = Kind::of(seed);
        let steps: Vec<_> = Steps::new(seed, kind).take(steps).collect();
        count += steps.len();
        let each = seed % 8 < 4;
        let Some(failure) = failure_of(kind, each, &steps) else { continue };
        eprintln!("seed {seed}, {kind:?}: {failure}\nnow with fewer steps:");
        let fewer = match number("MODEL_SHRINK", 1) {
            0 => steps,
            _ => shrunk(kind, each, steps),
        };
        let again = failure_of(kind, each, &fewer);
        let listed: Vec<_> =
            fewer.iter().map(|step| format!("  {step:?}")).collect();
        panic!(
            "seed {seed}, {kind:?}, {} steps:\n{}\n{}",
            fewer.len(),
            listed.join("\n"),
            again.unwrap_or(format!("not again, but once: {failure}"))
        );
    }
    eprintln!("{count} steps in {:?}", begin.elapsed());
}
