//! `wait`: waits until a VM meets a goal, after running a command if there is
//! one.
//!
//! Events of the VM can show that the goal is met, and so can a *look*: the
//! daemon is asked to load the VM from the system. Looks are needed because the
//! goal may be met before the first event, and because an event may be lost.

mod goal;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use vminfod_client::{
    Client, Error, Event, EventStream, EventsQuery, Ready, TIME_LIMIT, Vm,
    VmsQuery, Watcher,
};

use super::args::{Args, CLIENT, switch, value};
use super::verb::{Call, Verb};
use super::{Failure, complain, events, print_json, status, vmadm};
use crate::backoff::Backoff;
use crate::vm::json::Json;
use goal::{Goal, goal};

/// How long to wait, unless `--timeout` says.
pub const TIME: Duration = Duration::from_secs(60);

/// The longest time that one look may take.
const SYNC_TIME: Duration = Duration::from_secs(30);

/// The pauses between looks while no event has met the goal.
const LOOKS: Backoff =
    Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// The pause before a failed look is repeated, once an event has met the goal.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long before the end the last look begins.
const LOOK_LAST: Duration = Duration::from_secs(1);

/// The shortest time that the daemon gets for an answer, however short
/// `--timeout` is.
const ANSWER_MIN: Duration = Duration::from_secs(5);

/// The longest time that the stream may take to begin, whatever the time limit
/// is: a day.
const LIMIT_MAX: Duration = Duration::from_secs(86_400);

/// The exit status when the time is over.
const EXIT_TIME: u8 = 3;

/// The exit status if the command is not found, as in a shell.
const EXIT_NO_COMMAND: u8 = 127;

/// The exit status if the command can't be run, as in a shell.
const EXIT_NOT_RUN: u8 = 126;

pub const VERB: Verb = Verb {
    names: &["wait"],
    operands: "NAME PROP=VALUE...|--gone [-- COMMAND...]",
    summary: "run COMMAND, if given, and wait until a VM meets conditions",
    about: "Runs COMMAND, if there is one, waits until all conditions hold \
            for the VM, and prints the VM. VALUE is a text to be equal to, or \
            ~ and a regular expression; a ! before it means that it must not \
            match. With a COMMAND, a condition that already held before it \
            does not count.",
    options: &[
        &[
            switch(&["gone"], "wait until there is no such VM"),
            value(
                &["since"],
                "SEQ",
                "count what has held after this event; EPOCH-SEQ for one of \
                 another life of the daemon",
            ),
            value(
                &["timeout"],
                "SECS",
                "how long to wait after COMMAND has ended, in seconds (60)",
            ),
        ],
        &CLIENT,
    ],
    examples: [
        (
            "wait UUID state=running -- vmadm start UUID",
            "start a VM, and go on when it runs",
        ),
        ("wait UUID --gone --timeout 300", "until it has been deleted"),
    ],
    status: "0 if the conditions hold, 3 if the time was over first; if \
             COMMAND fails, its status (126 if it can't be run, 127 if it is \
             not found); 1 for any other failure, 2 if the command line is \
             wrong.",
    run,
};

/// The VM as it was at some moment.
#[derive(Clone)]
enum Presence {
    /// It existed, and this was its object.
    There(Json),
    /// There was no such VM.
    Gone,
}

impl From<Option<Json>> for Presence {
    fn from(vm: Option<Json>) -> Self {
        vm.map_or(Self::Gone, Self::There)
    }
}

/// The object of a VM.
fn object(vm: &Arc<Vm>) -> Json {
    Json::from(vm.json())
}

/// What events and looks have shown so far.
#[derive(Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The VM as it was when it first met the goal, or as a later look found it
    /// to meet the goal. `None` if it never has.
    met: Option<Presence>,
    /// Whether a look has succeeded since then. What the daemon serves from
    /// then on is not older than that look.
    has_looked: bool,
    /// The VM as the stream or a look last showed it; `None` if neither has.
    vm: Option<Presence>,
    /// Whether a look has ever succeeded.
    has_answer: bool,
    /// Why the last look failed, if it did.
    unseen: Option<String>,
    /// Why events are missing, if they are: the stream is broken, or the VM
    /// can't be read.
    broken: Option<String>,
    /// Why it can't be known whether the VM meets the goal. This ends the wait.
    refused: Option<String>,
    /// Whether a change may have happened without an event, so that a look is
    /// due at once.
    is_missed: bool,
    is_over: bool,
}

/// Waits, and prints the VM.
fn run(call: Call) -> Result<(), Failure> {
    let mut words = call.args.into_iter();
    let own: Vec<_> = words.by_ref().take_while(|w| w != "--").collect();
    let command: Vec<_> = words.collect();
    let args = Args::parse(own, call.verb.options, None)?;
    let named = args.operands.split_first().filter(|(n, _)| !n.is_empty());
    let Some((name, conditions)) = named else {
        return Err(Failure::Usage("wait: no VM given".to_string()));
    };
    let goal = Arc::new(goal(conditions, args.has("gone"))?);
    let time = args.seconds("timeout")?.unwrap_or(TIME);
    let begun = Instant::now();
    let limit = args.seconds("time-limit")?;
    let limit = limit.unwrap_or(time.clamp(ANSWER_MIN, TIME_LIMIT));
    let client = args.client("vminfod-wait")?.time_limit(limit);
    let ready_by = begun + limit.min(LIMIT_MAX);
    let at_first = client.clone().until(ready_by);
    let stream = stream_of(&args, name, &at_first)?;
    // With `--since` the stream begins with earlier events. Those up to now do
    // not count, because the command has not caused them.
    let before_command = match (args.has("since"), command.is_empty()) {
        (true, false) => at_first.status(false)?.seq.unwrap_or(0),
        _ => 0,
    };
    let seen = Arc::new(Seen::default());
    let mut listener = Listener {
        seen: Arc::clone(&seen),
        goal: Arc::clone(&goal),
        begin: None,
        before_command,
        was_met: None,
    };
    let listen = move |event: Result<&Event, &Error>| listener.take_in(event);
    let left = ready_by.saturating_duration_since(Instant::now());
    let watcher = Watcher::follow(stream, left, listen)?;
    if !command.is_empty() {
        run_command(&command)?;
    }
    // The time limit does not include the command.
    let begun = if command.is_empty() { begun } else { Instant::now() };
    let until = begun + time;
    if time.is_zero() {
        // Look once all the same: after a command at the system, else at what
        // the daemon serves.
        let time = if command.is_empty() { time } else { LOOK_LAST };
        seen.look_once(&client, name, &goal, time);
    }
    seen.start_looking(client, name, &goal, until)?;
    let result = match seen.wait(until)? {
        Some(Presence::There(vm)) => print_json(&vm),
        Some(Presence::Gone) => Ok(()),
        None => Err(seen.late(&goal, time)),
    };
    drop(watcher);
    result
}

/// The events of the VM, from now on or from where `--since` says.
fn stream_of(
    args: &Args,
    name: &str,
    client: &Client,
) -> Result<EventStream, Failure> {
    let query = EventsQuery::new().vm(name);
    Ok(match args.last("since") {
        None => client.events(query)?,
        Some(since) => {
            let (seq, epoch) = events::since_of(since, client)?;
            client.events_since(query, seq, &epoch)?
        }
    })
}

/// Takes in the events of the stream. The watcher's thread calls it.
struct Listener {
    seen: Arc<Seen>,
    goal: Arc<Goal>,
    /// The number of the last event that does not count, because it happened
    /// before the wait or before the command. Times do not decide that, because
    /// a clock may be set. `None` before the stream has begun.
    begin: Option<u64>,
    /// What `begin` becomes if `--since` makes the stream begin with earlier
    /// events: the number of the last event before the command, or 0 without a
    /// command.
    before_command: u64,
    /// Whether the VM met the goal at `begin`, and then after each event;
    /// `None` while that is not known.
    was_met: Option<bool>,
}

impl Listener {
    /// The stream has begun, for the first time or again.
    fn begin(&mut self, ready: &Ready) {
        let mut state = self.seen.state.lock();
        state.broken = None;
        if let Some(why) = &ready.reset {
            let what = "events may be missing; loading the VM from the system";
            complain(&format!(
                "vminfod: the event stream started over ({why}): {what}"
            ));
            state.is_missed = true;
            self.seen.changed.notify_all();
            // Numbers from before the reset mean nothing now.
            self.begin = self.begin.map(|_| ready.seq);
        }
        if self.begin.is_none() {
            let vms = ready.vms.as_deref().unwrap_or_default();
            let vm = vms.first().map(object);
            let is_met = self.goal.is_met(vm.as_ref()).ok();
            state.vm = Some(vm.into());
            // How the VM was after the event of `--since` is not known.
            self.was_met = match ready.is_resumed {
                true => None,
                false => is_met,
            };
            self.begin = Some(match ready.is_resumed {
                true => self.before_command,
                false => ready.seq,
            });
        }
    }

    fn take_in(&mut self, event: Result<&Event, &Error>) {
        match event {
            Ok(Event::Ready(ready)) => {
                self.begin(ready);
                for vm in &ready.unreadable {
                    self.seen.miss(vm.to_string());
                }
            }
            Ok(Event::Unreadable(vm)) => self.seen.miss(vm.to_string()),
            Ok(Event::Broken(error)) => self.seen.broken(error),
            Ok(event) => self.change(event),
            // We have stopped the stream ourselves.
            Err(Error::Stopped) => {}
            Err(error) => self.seen.broken(error),
        }
    }

    /// The VM has changed, or come, or gone.
    fn change(&mut self, event: &Event) {
        let Some(header) = event.header() else { return };
        let vm = event.vm().map(object);
        let is_met = match self.goal.is_met(vm.as_ref()) {
            Ok(is_met) => is_met,
            Err(why) => return self.seen.refuse(why),
        };
        let was_met = self.was_met.replace(is_met);
        // If it is not known whether the goal was met before, it was if it is
        // met now and this event can't have changed that.
        let was_met =
            was_met.unwrap_or(is_met && !self.goal.may_concern(event));
        // An event up to `begin` does not count. Nor does one that the client
        // has made from what differed after a break: it does not show what the
        // command has done.
        let is_old = self.begin.is_some_and(|seq| header.seq <= seq);
        let is_concluded = header.json().is_none();
        let vm = Presence::from(vm);
        if is_met && !was_met && !is_old && !is_concluded {
            self.seen.met(vm.clone());
        }
        self.seen.state.lock().vm = Some(vm);
    }
}

impl Seen {
    /// Starts the thread that looks at the system. Looks have a thread of their
    /// own because a command of the system may hold one up, and an event may be
    /// quicker.
    fn start_looking(
        self: &Arc<Self>,
        client: Client,
        name: &str,
        goal: &Arc<Goal>,
        until: Instant,
    ) -> Result<(), Failure> {
        let (seen, goal) = (Arc::clone(self), Arc::clone(goal));
        let name = name.to_string();
        let look = move || seen.look(&client, &name, &goal, until);
        let thread = std::thread::Builder::new().name("look".to_string());
        let failed = |e| Failure::Failed(format!("cannot start a thread: {e}"));
        thread.spawn(look).map(drop).map_err(failed)
    }

    fn met(&self, vm: Presence) {
        self.state.lock().met.get_or_insert(vm);
        self.changed.notify_all();
    }

    /// A change may have happened without an event.
    fn miss(&self, why: String) {
        let mut state = self.state.lock();
        state.broken = Some(why);
        state.is_missed = true;
        self.changed.notify_all();
    }

    fn broken(&self, error: &Error) {
        self.state.lock().broken = Some(error.to_string());
    }

    fn refuse(&self, why: &str) {
        self.state.lock().refused = Some(why.to_string());
        self.changed.notify_all();
    }

    /// Waits until the goal is met; `None` if the time is over first.
    fn wait(&self, until: Instant) -> Result<Option<Presence>, Failure> {
        let mut state = self.state.lock();
        // The event may come before the daemon has loaded everything else that
        // the command has changed. The caller's next request must find that,
        // too, so wait for a look.
        while (state.met.is_none() || !state.has_looked)
            && state.refused.is_none()
        {
            // When the time is over, a goal that an event has met counts
            // without a look.
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.is_over = true;
        self.changed.notify_all();
        match (state.met.take(), state.refused.take()) {
            (None, Some(why)) => Err(Failure::Failed(format!("wait: {why}"))),
            (met, _) => Ok(met),
        }
    }

    /// Looks at the system, with pauses, until the goal is met or the time is
    /// over.
    fn look(&self, client: &Client, name: &str, goal: &Goal, until: Instant) {
        let mut pause = LOOKS.first;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.look_once(client, name, goal, left.min(SYNC_TIME));
            let now = Instant::now();
            let mut next = now + pause;
            if next >= until {
                // That would be too late: look a last time just before the end.
                next = until.checked_sub(LOOK_LAST).unwrap_or(until);
                if next <= now {
                    return;
                }
            }
            let mut state = self.state.lock();
            // Look early if an event has met the goal, or a change may have
            // been missed.
            while !state.is_over
                && !state.is_missed
                && (state.met.is_none() || state.has_looked)
            {
                if self.changed.wait_until(&mut state, next).timed_out() {
                    break;
                }
            }
            state.is_missed = false;
            if state.is_over || (state.met.is_some() && state.has_looked) {
                return;
            }
            if state.met.is_some() {
                // Not at once: the last look may have failed because the system
                // does not answer.
                let soon = Instant::now() + LOOK_AGAIN;
                self.changed.wait_until(&mut state, soon);
            }
            pause = LOOKS.next(pause);
        }
    }

    fn look_once(
        &self,
        client: &Client,
        name: &str,
        goal: &Goal,
        time: Duration,
    ) {
        let was_met = self.state.lock().met.is_some();
        match find(client, name, time) {
            Ok(vm) => match goal.is_met(vm.as_ref()) {
                Ok(is_met) => {
                    let mut state = self.state.lock();
                    state.has_looked |= was_met || is_met;
                    state.has_answer = true;
                    let vm = Presence::from(vm);
                    if is_met {
                        state.met = Some(vm.clone());
                    }
                    (state.vm, state.unseen) = (Some(vm), None);
                    self.changed.notify_all();
                }
                Err(why) => self.refuse(why),
            },
            Err(e) => self.state.lock().unseen = Some(e.to_string()),
        }
    }

    /// The failure when the time is over: how the VM differs from the goal, and
    /// what may have gone wrong. Prints the VM, if it exists.
    fn late(&self, goal: &Goal, time: Duration) -> Failure {
        let state = self.state.lock();
        let is_known = state.unseen.is_none() && state.has_answer;
        let instead = match &state.vm {
            Some(Presence::There(vm)) => goal.difference(vm),
            Some(Presence::Gone) if is_known => {
                "there is no such VM".to_string()
            }
            Some(Presence::Gone) | None => {
                "the current state of the VM is not known".to_string()
            }
        };
        if let Some(Presence::There(vm)) = &state.vm {
            // It does not matter here if the reader of our output has gone.
            let _ = print_json(vm);
        }
        let mut message = format!(
            "vminfod: gave up after {} s: {instead}",
            time.as_secs_f64()
        );
        for trouble in state.unseen.iter().chain(&state.broken) {
            message += &format!(" ({trouble})");
        }
        Failure::Said { message, status: EXIT_TIME }
    }
}

/// The VM of a zonename or uuid as it is on the system or, if `time` is zero,
/// as the daemon serves it.
///
/// # Errors
/// Also if the VM may exist and can't be loaded: see [`unloadable`].
fn find(
    client: &Client,
    name: &str,
    time: Duration,
) -> Result<Option<Json>, Error> {
    let vm = match time.is_zero() {
        true => client.vm(name)?,
        false => client.sync(name, time)?.vm,
    };
    if let Some(vm) = vm {
        return Ok(Some(Json::from(vm.json())));
    }
    match unloadable(client, name)? {
        Some(message) => Err(Error::Refused { status: 504, message }),
        None => Ok(None),
    }
}

/// Why a VM that is not served may exist all the same: a zone that can't be
/// loaded may be that VM. If `name` is a uuid, it may be any such zone whose
/// zonename is not a uuid, because the uuid of such a zone is not known.
fn unloadable(client: &Client, name: &str) -> Result<Option<String>, Error> {
    let may_be = |zonename: &str| {
        zonename == name || (vmadm::is_uuid(name) && !vmadm::is_uuid(zonename))
    };
    let status = Json::from(client.status(false)?.json());
    let faults = status::faults(&status).into_iter();
    let mut faults: Vec<_> = faults
        .filter_map(|fault| Some((fault.zonename?, fault.source, fault.error)))
        .filter(|(zonename, ..)| may_be(zonename))
        .collect();
    if !faults.is_empty() {
        let served = client.vms(VmsQuery::new().fields("zonename"))?;
        let names = served.vms.iter().map(|vm| vm.zonename.as_str());
        let names: BTreeSet<_> = names.collect();
        faults.retain(|(zonename, ..)| !names.contains(zonename.as_str()));
    }
    if let Some((zonename, source, error)) = faults.first() {
        let what = format!("{zonename} can't be loaded: {source}: {error}");
        return Ok(Some(what));
    }
    Ok(None)
}

fn run_command(words: &[OsString]) -> Result<(), Failure> {
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let shown = program.to_string_lossy();
    let status = Command::new(program).args(args).status().map_err(|e| {
        let status = match e.kind() {
            std::io::ErrorKind::NotFound => EXIT_NO_COMMAND,
            _ => EXIT_NOT_RUN,
        };
        let message = format!("vminfod: {shown}: {e}");
        Failure::Said { message, status }
    })?;
    if status.success() {
        return Ok(());
    }
    let message = format!("vminfod: {shown} failed ({status}); did not wait");
    Err(Failure::Said { message, status: exit_of(status) })
}

/// A command's exit status, as a shell gives it.
fn exit_of(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
