//! Running the platform's commands: by absolute path, with a cleared
//! environment, a time limit and a bound on what they print.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{CommandError, CommandProblem};
use crate::os;
use crate::os::process::{Running, kill_group_now, spawn};
use crate::threads::Stop;

/// How often, while a command runs, the runner checks whether the daemon is
/// ending.
const END_CHECK: Duration = Duration::from_millis(100);

/// The longest pause between two checks whether a command that has closed its
/// output has exited. The first pause is a hundredth of this.
const EXIT_CHECK: Duration = Duration::from_millis(10);

/// Room for the output of a command about one zone, in bytes.
const FIRST_ROOM: usize = 4096;

/// What a command printed, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output; invalid UTF-8 is replaced.
    pub stdout: String,
    /// Standard error; invalid UTF-8 is replaced.
    pub stderr: String,
    /// The exit status; `None` if a signal ended it.
    pub exit: Option<i32>,
}

/// One run of a program.
#[derive(Clone, Debug)]
pub struct Run {
    program: PathBuf,
    args: Vec<String>,
}

impl Run {
    /// `program`, an absolute path, with `args`.
    #[must_use]
    pub fn new(program: PathBuf, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        Self { program, args }
    }

    /// Adds an operand.
    pub fn arg(&mut self, arg: &str) {
        self.args.push(arg.to_string());
    }

    /// The command and its first arguments, as messages show it. Not all the
    /// operands of a large batch are shown.
    #[must_use]
    pub fn command(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        let mut command = Path::new(name).display().to_string();
        for (i, arg) in self.args.iter().enumerate() {
            if command.len() > 300 {
                let more = self.args.len() - i;
                command.push_str(&format!(" … ({more} more)"));
                break;
            }
            command.push(' ');
            command.push_str(arg);
        }
        command
    }

    /// An error of this run: its command, and `problem`.
    #[must_use]
    pub fn error(&self, problem: impl Into<CommandProblem>) -> CommandError {
        let command = self.command().into();
        CommandError { command, problem: problem.into() }
    }

    /// The error of a run that ended with a bad status or by a signal.
    #[must_use]
    pub fn failed(&self, output: &Output) -> CommandError {
        let stderr = output.stderr.clone();
        self.error(CommandProblem::Failed { exit: output.exit, stderr })
    }
}

/// How the runs of one command went.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunCount {
    /// The number of all runs.
    pub runs: u64,
    /// The runs that could not be started, or had to be killed.
    pub failures: u64,
    /// The runs that had to be killed because they took too long.
    pub hangs: u64,
    /// The total time of all runs.
    pub time: Duration,
    /// The run that took the largest part of its limit: its time and its limit.
    pub longest: Option<(Duration, Duration)>,
}

impl RunCount {
    /// Whether any run took at least half of its limit.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.longest.is_some_and(|(time, limit)| time * 2 >= limit)
    }

    fn note(&mut self, time: Duration, limit: Duration) {
        self.runs += 1;
        self.time += time;
        let part = |(time, limit): (Duration, Duration)| {
            time.as_secs_f64() / limit.as_secs_f64()
        };
        let is_longest = self
            .longest
            .is_none_or(|longest| part((time, limit)) > part(longest));
        if is_longest {
            self.longest = Some((time, limit));
        }
    }
}

/// How runs went, by the name of the command.
pub type RunCounts = Arc<Mutex<BTreeMap<String, RunCount>>>;

/// Runs commands.
#[derive(Clone, Debug)]
pub struct Runner {
    output_limit: usize,
    stop: Stop,
    counts: RunCounts,
}

impl Runner {
    /// Makes a runner that kills a command that prints more than `output_limit`
    /// bytes, and kills all commands when the daemon ends.
    #[must_use]
    pub fn new(output_limit: usize, stop: Stop) -> Self {
        Self { output_limit, stop, counts: RunCounts::default() }
    }

    /// Whether the daemon is ending.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stop.is_set()
    }

    /// How the runs of this runner and of all its clones went.
    #[must_use]
    pub fn counts(&self) -> &RunCounts {
        &self.counts
    }

    /// Runs a command until it ends, and kills it after `limit`. A nonzero exit
    /// status is not an error here.
    ///
    /// # Errors
    /// If it can't be started, or had to be killed.
    pub fn run(
        &self,
        run: &Run,
        limit: Duration,
    ) -> Result<Output, CommandError> {
        let begin = Instant::now();
        let result = self.run_uncounted(run, limit);
        let name = run.program.file_name().unwrap_or_default();
        let mut counts = self.counts.lock();
        let name = name.to_string_lossy().into_owned();
        let count = counts.entry(name).or_default();
        count.note(begin.elapsed(), limit);
        if let Err(e) = &result {
            count.failures += 1;
            count.hangs += u64::from(e.is_hang());
        }
        result
    }

    fn run_uncounted(
        &self,
        run: &Run,
        limit: Duration,
    ) -> Result<Output, CommandError> {
        let end = Instant::now() + limit;
        let mut running = spawn(&run.program, &run.args).map_err(|e| {
            run.error(CommandProblem::NotStarted(e.to_string()))
        })?;
        self.finish(&mut running, end).map_err(|problem| {
            running.kill();
            match Instant::now() >= end {
                true => run.error(CommandProblem::RanTooLong(limit)),
                false => run.error(problem),
            }
        })
    }

    fn finish(
        &self,
        running: &mut Running,
        end: Instant,
    ) -> Result<Output, CommandProblem> {
        let mut stdout = Vec::with_capacity(FIRST_ROOM);
        let mut stderr = Vec::new();
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            let time = self.time_left(end)?;
            let Running { stdout: out, stderr: err, .. } = running;
            // A closed pipe is always readable: it is left out.
            let fds =
                [out_open.then(|| out.as_fd()), err_open.then(|| err.as_fd())];
            let polled: Vec<_> = fds.into_iter().flatten().collect();
            os::wait_readable(&polled, time)?;
            if out_open {
                out_open = self.drain(out, &mut stdout)?;
            }
            if err_open {
                err_open = self.drain(err, &mut stderr)?;
            }
            if (out_open || err_open) && running.child.has_ended()? {
                // Processes that the command has started may hold its pipes
                // open for ever. What the pipes contain now is all of its
                // output.
                let Running { stdout: out, stderr: err, child } = running;
                self.drain(out, &mut stdout)?;
                self.drain(err, &mut stderr)?;
                kill_group_now(child.id());
                break;
            }
        }
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap_or_else(|e| {
                String::from_utf8_lossy(e.as_bytes()).into()
            })
        };
        let exit = self.wait_for_exit(running, end)?;
        Ok(Output { stdout: text(stdout), stderr: text(stderr), exit })
    }

    /// Reads what a pipe contains now; returns `false` at its end.
    fn drain(
        &self,
        pipe: &mut impl Read,
        to: &mut Vec<u8>,
    ) -> Result<bool, CommandProblem> {
        let room = self.output_limit.saturating_add(1) - to.len();
        match pipe.take(room as u64).read_to_end(to) {
            Ok(_) if to.len() > self.output_limit => {
                Err(CommandProblem::PrintedTooMuch(self.output_limit))
            }
            Ok(_) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for the exit of a command that has closed its output. Most exit at
    /// once, but a command may keep running. std can't wait with a time limit,
    /// so this checks in steps.
    fn wait_for_exit(
        &self,
        running: &mut Running,
        end: Instant,
    ) -> Result<Option<i32>, CommandProblem> {
        let mut step = EXIT_CHECK / 100;
        loop {
            if let Some(status) = running.child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(step.min(self.time_left(end)?));
            step = (step * 2).min(EXIT_CHECK);
        }
    }

    /// How long the next step may wait; an error if the time is up or the
    /// daemon is ending.
    fn time_left(&self, end: Instant) -> Result<Duration, CommandProblem> {
        if self.is_ending() {
            return Err(CommandProblem::DaemonEnds);
        }
        let left = end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(CommandProblem::LateAnswer),
            false => Ok(left.min(END_CHECK)),
        }
    }
}

impl From<io::Error> for CommandProblem {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<Output, CommandError> {
        let runner = Runner::new(1000, Stop::default());
        runner.run(&Run::new("/bin/sh".into(), &["-c", script]), limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn output_and_status_come_back() {
        let output = sh("echo out; echo err >&2; exit 3", LONG).unwrap();
        assert_eq!(output.stdout, "out\n");
        assert_eq!(output.stderr, "err\n");
        assert_eq!(output.exit, Some(3));
        assert_eq!(sh("kill -9 $$", LONG).unwrap().exit, None);
        assert_eq!(sh("printf 'a\\377'", LONG).unwrap().stdout, "a\u{fffd}");
    }

    #[test]
    fn the_environment_is_that_of_the_c_locale() {
        let mut names: Vec<_> = sh("env", LONG)
            .unwrap()
            .stdout
            .lines()
            .filter_map(|l| l.split('=').next().map(String::from))
            .filter(|name| !["PWD", "_", "SHLVL"].contains(&name.as_str()))
            .collect();
        names.sort();
        assert_eq!(names, ["LANG", "LC_ALL", "PATH"]);
    }

    #[test]
    fn a_command_that_exceeds_its_limit_is_killed_with_its_children() {
        // Both the shell and its child hold the pipe. The call returns only if
        // both are gone.
        let error =
            sh("sleep 1000 & echo $!; sleep 1000", Duration::from_millis(50))
                .unwrap_err()
                .to_string();
        assert!(error.starts_with("sh -c"), "{error}");
        assert!(error.contains("killed: ran for over 50ms"), "{error}");
        // A command that closes its output and keeps running is killed, too.
        let silent = sh("exec >&- 2>&-; sleep 1000", Duration::from_millis(50));
        assert!(silent.unwrap_err().to_string().contains("ran for over"));
    }

    #[test]
    fn a_command_ends_even_if_its_child_keeps_its_pipes_open() {
        let script = "sleep 1000 & echo $!; echo err >&2; exit 3";
        let output = sh(script, LONG).unwrap();
        assert_eq!((output.stderr.as_str(), output.exit), ("err\n", Some(3)));
        // A zombie, for which no process has waited yet, has ended, too.
        let pid = output.stdout.trim();
        let state = format!("ps -o stat= -p {pid}");
        let end = Instant::now() + LONG;
        loop {
            let state = sh(&state, LONG).unwrap().stdout;
            if state.is_empty() || state.starts_with('Z') {
                break;
            }
            assert!(Instant::now() < end, "{pid} is {state}");
        }
    }

    #[test]
    fn a_command_that_prints_too_much_is_killed() {
        let error = sh("yes", LONG).unwrap_err().to_string();
        assert!(error.contains("printed over 1000 bytes"), "{error}");
    }

    #[test]
    fn the_error_of_a_missing_program_names_it() {
        let runner = Runner::new(1000, Stop::default());
        let run = Run::new("/no/such/zoneadm".into(), &["list"]);
        let error = runner.run(&run, LONG).unwrap_err().to_string();
        assert!(error.starts_with("zoneadm list: can't be"), "{error}");
    }
}
