//! The platform's commands, as a check runs them: a command that has hung once
//! is not run again.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::given;
use crate::load::command::{Output, Run, Runner};
use crate::load::error::CommandError;
use crate::settings::LoadLimits;
use crate::threads::Stop;

#[derive(Debug)]
pub(super) struct Commands {
    runner: Runner,
    /// By what hangs together, and why.
    hung: Mutex<HashMap<String, CommandError>>,
}

impl Commands {
    pub(super) fn new(limits: &LoadLimits) -> Self {
        let runner = Runner::new(limits.command_output, Stop::default());
        Self { runner, hung: Mutex::default() }
    }

    /// Runs a command to its end. Runs of one circuit hang together.
    ///
    /// # Errors
    /// Why there is no answer: it can't be started, was killed after `limit`,
    /// or hung before.
    pub(super) fn run(
        &self,
        circuit: &str,
        run: &Run,
        limit: Duration,
    ) -> Result<Output, CommandError> {
        if let Some(why) = self.hung.lock().get(circuit) {
            return Err(why.clone());
        }
        self.runner.run(run, limit).inspect_err(|e| {
            if e.is_hang() {
                self.hung.lock().insert(circuit.to_string(), e.clone());
            }
        })
    }
}

/// What a run has answered, as a line shows it.
pub(super) fn answered(output: &Output) -> String {
    let exit = match output.exit {
        Some(exit) => format!("exit status {exit}"),
        None => "ended by a signal".to_string(),
    };
    let said = match (output.stdout.trim_end(), output.stderr.trim_end()) {
        ("", "") => "nothing was printed".to_string(),
        (out, "") => format!("printed {}", quoted(out)),
        ("", err) => format!("said {}", quoted(err)),
        (out, err) => format!("printed {}, said {}", quoted(out), quoted(err)),
    };
    format!("{exit}, {said}")
}

/// The most characters of an answer that are shown.
const SHOWN_MAX: usize = 300;

/// What something on this machine has printed, as a line shows it: line ends
/// and tabs are ours then.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let mut out = String::from('"');
    for piece in shown.split_inclusive(['\n', '\t', '\r']) {
        let end = match piece.chars().next_back() {
            Some('\n') => "\\n",
            Some('\t') => "\\t",
            Some('\r') => "\\r",
            _ => "",
        };
        out += &given(piece.trim_end_matches(['\n', '\t', '\r']));
        out += end;
    }
    if shown.len() < text.len() {
        out.push('…');
    }
    out + "\""
}
