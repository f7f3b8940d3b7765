//! The questions that one load asks the platform's commands, and their answers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use super::Loader;
use super::command::{Output, Run};
use super::error::CommandError;
use super::question::Question;
use super::runs::{PendingRun, RunRequest, Unanswered};

/// Asks the platform's commands on behalf of one load.
pub(super) struct Asker<'a> {
    loader: &'a Loader,
    /// Whether to wait for every command until it answers or is killed.
    is_patient: bool,
    /// The circuits in which a run of this load was overdue, or was killed
    /// because it took too long, and why. This load asks nothing more in them.
    hung_circuits: RefCell<HashMap<String, NoAnswer>>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// The command has failed.
    Failed(CommandError),
    /// It has not answered yet.
    NotYet(Unanswered),
}

impl NoAnswer {
    /// The error of the command's run.
    #[must_use]
    pub fn error(&self) -> &CommandError {
        match self {
            Self::Failed(error) => error,
            Self::NotYet(unanswered) => &unanswered.error,
        }
    }
}

impl<'a> Asker<'a> {
    pub(super) fn new(loader: &'a Loader, is_patient: bool) -> Self {
        Self { loader, is_patient, hung_circuits: RefCell::default() }
    }

    pub(super) fn loader(&self) -> &'a Loader {
        self.loader
    }

    /// Asks a question. Its run is killed after `limit`.
    ///
    /// # Errors
    /// If an earlier run of this load in the same circuit was overdue, or was
    /// killed because it took too long.
    pub(super) fn ask(
        &self,
        question: &Question,
        limit: Duration,
    ) -> Result<PendingRun, NoAnswer> {
        let circuit = question.circuit();
        if let Some(why) = self.hung_circuits.borrow().get(&circuit) {
            return Err(why.clone());
        }
        Ok(self.loader.runs.ask(RunRequest {
            circuit,
            timing_class: question.timing_class(),
            source: question.source(),
            run: question.run(&self.loader.paths),
            limit,
            is_patient: self.is_patient,
        }))
    }

    /// Waits for the answer, for as long as a load may wait.
    ///
    /// # Errors
    /// If there is no answer in time, or the command failed.
    pub(super) fn answer<T>(
        &self,
        asked: Result<PendingRun, NoAnswer>,
        parse: impl Fn(&Run, &Output) -> Result<T, CommandError>,
    ) -> Result<T, NoAnswer> {
        let asked = asked?;
        let (run, circuit) = (asked.run().clone(), asked.circuit().to_string());
        let why = match self.loader.runs.wait(asked) {
            Ok(answer) => match &*answer {
                Ok(output) => {
                    return parse(&run, output).map_err(NoAnswer::Failed);
                }
                Err(e) if e.is_hang() => NoAnswer::Failed(e.clone()),
                Err(e) => return Err(NoAnswer::Failed(e.clone())),
            },
            Err(unanswered) => NoAnswer::NotYet(unanswered),
        };
        self.hung_circuits.borrow_mut().insert(circuit, why.clone());
        Err(why)
    }

    /// Asks, and waits for the answer.
    pub(super) fn get<T>(
        &self,
        question: &Question,
        parse: impl Fn(&Run, &Output) -> Result<T, CommandError>,
    ) -> Result<T, NoAnswer> {
        let limit = self.loader.limits.command_time;
        self.answer(self.ask(question, limit), parse)
    }
}
