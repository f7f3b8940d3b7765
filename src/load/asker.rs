//! What one load asks the platform's commands, and what it is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use super::Loader;
use super::command::{CommandError, Output, Run};
use super::question::Question;
use super::runs::{Ask, Asked, Unanswered};

/// Asks for one load.
pub(super) struct Asker<'a> {
    loader: &'a Loader,
    /// Whether to wait for every command until it answers or is killed.
    is_patient: bool,
    /// By circuit: there is no answer yet, and nothing more is asked.
    not_yet: RefCell<HashMap<String, Unanswered>>,
}

/// A question that has been asked.
pub(super) struct Asking {
    circuit: String,
    run: Run,
    asked: Result<Asked, Unanswered>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// The command has failed.
    Failed(CommandError),
    /// It has not answered yet.
    NotYet(Unanswered),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::NotYet(unanswered) => unanswered.error.fmt(f),
        }
    }
}

impl<'a> Asker<'a> {
    pub(super) fn new(loader: &'a Loader, is_patient: bool) -> Self {
        Self { loader, is_patient, not_yet: RefCell::default() }
    }

    pub(super) fn loader(&self) -> &'a Loader {
        self.loader
    }

    /// Asks; the run is killed after `limit`.
    pub(super) fn ask(&self, question: &Question, limit: Duration) -> Asking {
        let circuit = question.circuit();
        let run = question.run(&self.loader.paths);
        let unanswered = self.not_yet.borrow().get(&circuit).cloned();
        let asked = match unanswered {
            Some(unanswered) => Err(unanswered),
            None => Ok(self.loader.runs.ask(Ask {
                circuit: circuit.clone(),
                source: question.source(),
                run: run.clone(),
                limit,
                is_patient: self.is_patient,
            })),
        };
        Asking { circuit, run, asked }
    }

    /// Waits for an answer, as long as a load may.
    pub(super) fn answer<T>(
        &self,
        asking: Asking,
        parse: impl Fn(&Run, &Output) -> Result<T, CommandError>,
    ) -> Result<T, NoAnswer> {
        let Asking { circuit, run, asked } = asking;
        match asked.and_then(|asked| self.loader.runs.wait(asked)) {
            Ok(finished) => match &*finished {
                Ok(output) => parse(&run, output).map_err(NoAnswer::Failed),
                Err(e) => Err(NoAnswer::Failed(e.clone())),
            },
            Err(unanswered) => {
                let mut not_yet = self.not_yet.borrow_mut();
                not_yet.insert(circuit, unanswered.clone());
                Err(NoAnswer::NotYet(unanswered))
            }
        }
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
