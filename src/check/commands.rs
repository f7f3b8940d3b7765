//! Runs the platform's commands for a check. A command that has hung once is
//! not run again.

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
    /// The circuits in which a command has hung, and why.
    hung: Mutex<HashMap<String, CommandError>>,
}

impl Commands {
    pub(super) fn new(limits: &LoadLimits) -> Self {
        let runner = Runner::new(limits.command_output, Stop::default());
        Self { runner, hung: Mutex::default() }
    }

    /// Runs a command to its end. Commands of one circuit hang together: after
    /// one has hung, none of them is run again.
    ///
    /// # Errors
    /// If there is no answer: the command can't be started, was killed after
    /// `limit`, or hung before.
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

/// What a command has answered, as one line.
pub(super) fn answered(output: &Output) -> String {
    let exit = match output.exit {
        Some(exit) => format!("exit status {exit}"),
        None => "ended by a signal".to_string(),
    };
    let said = match (output.stdout.trim_end(), output.stderr.trim_end()) {
        ("", "") => "nothing was printed".to_string(),
        (out, "") => format!("stdout {}", quoted(out)),
        ("", err) => format!("stderr {}", quoted(err)),
        (out, err) => format!("stdout {}, stderr {}", quoted(out), quoted(err)),
    };
    format!("{exit}, {said}")
}

/// The most characters of printed text that are shown.
const SHOWN_MAX: usize = 300;

/// Text that something on this machine has printed, quoted for one line. Line
/// ends and tabs become escapes, which count as our own text.
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
