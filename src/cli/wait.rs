//! `wait`: until a VM is as wanted, perhaps after a command that makes it so.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::args::{Args, Opt, value};
use super::{Failure, events, print_json};
use crate::client::{Client, Error, EventsQuery, TIME_LIMIT, Told, Watcher};
use crate::json::Json;
use crate::select::{CONDITIONS_MAX, Condition, Search};

/// How long it waits, unless one says.
const TIME: Duration = Duration::from_secs(60);

/// How long one may look at the system for the VM, at the most.
const SYNC_TIME: Duration = Duration::from_secs(30);

/// The time between the first two looks at the system while no event tells of
/// what is waited for; doubled with each.
const LOOK_FIRST: Duration = Duration::from_secs(5);

/// The longest time between two looks.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// How long regular expressions may be searched for in one VM.
const SEARCH_TIME: Duration = Duration::from_millis(250);

/// The exit status when the time is over.
const EXIT_TIME: u8 = 3;

/// The exit status of a command that can't be run, as a shell's.
const EXIT_NO_COMMAND: u8 = 127;

const OPTIONS: [Opt; 3] = [
    Opt { short: None, long: &["gone"], has_value: false },
    value(&["since"]),
    value(&["timeout"]),
];

/// What is waited for.
enum Goal {
    /// That there is no such VM.
    Gone,
    /// That all of this holds, by property and value.
    Holds(Vec<(String, Condition)>),
}

/// What events and looks at the system have told so far.
#[derive(Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The VM as it was when it was first as wanted, if it was.
    met: Option<Option<Json>>,
    /// The VM as it was last seen.
    vm: Option<Json>,
    /// Why one can't be sure of that.
    trouble: Option<String>,
}

/// Waits, and prints the VM.
pub fn run(args: Vec<OsString>) -> Result<(), Failure> {
    let mut words = args.into_iter();
    let own: Vec<_> = words.by_ref().take_while(|w| w != "--").collect();
    let command: Vec<_> = words.collect();
    let args = Args::parse(own, &OPTIONS, None)
        .map_err(|wrong| Failure::Usage(wrong.said))?;
    let Some((name, conditions)) = args.operands.split_first() else {
        return Err(Failure::Usage("wait: which VM?".to_string()));
    };
    let goal = Arc::new(goal(conditions, args.has("gone"))?);
    let time = args.seconds("timeout")?.unwrap_or(TIME);
    let client = args.client("vminfod-wait")?;
    let query = EventsQuery::new().vm(name);
    let stream = match args.last("since") {
        None => client.events(query)?,
        Some(since) => {
            let (seq, epoch) = events::since_of(since, &client)?;
            client.events_since(query, seq, &epoch)?
        }
    };
    let seen = Arc::new(Seen::default());
    let mut listener = Listener {
        seen: Arc::clone(&seen),
        goal: Arc::clone(&goal),
        begin: String::new(),
        was_met: false,
    };
    let told = move |told: Told<'_>| listener.take_in(&told);
    let watcher = Watcher::follow(stream, TIME_LIMIT, told)?;
    // By its zonename, as looks know it; one that is not there yet has NAME.
    let zonename = watcher.vms().keys().next().map(ToString::to_string);
    let zonename = zonename.as_deref().unwrap_or(name);
    match &command[..] {
        // What it is already counts, as the daemon knows it.
        [] => seen.found(client.vm(zonename), &goal),
        command => run_command(command)?,
    }
    let until = Instant::now() + time;
    let met = seen.wait(client, zonename, goal.clone(), until)?;
    drop(watcher);
    match met {
        Some(Some(vm)) => print_json(&vm),
        Some(None) => Ok(()),
        None => seen.late(&goal, time),
    }
}

fn goal(operands: &[String], is_gone: bool) -> Result<Goal, Failure> {
    let wrong = |what: &str| Failure::Usage(format!("wait: {what}"));
    match (operands, is_gone) {
        ([], true) => return Ok(Goal::Gone),
        ([], false) => return Err(wrong("for what? PROP=VALUE or --gone")),
        (_, true) => return Err(wrong("a VM that is gone has no properties")),
        (wanted, _) if wanted.len() > CONDITIONS_MAX => {
            return Err(wrong(&format!("over {CONDITIONS_MAX} conditions")));
        }
        _ => {}
    }
    let conditions = operands.iter().map(|operand| {
        let (property, value) = operand.split_once('=').ok_or_else(|| {
            wrong(&format!("{operand}: PROP=VALUE is wanted"))
        })?;
        let condition = Condition::new(property, value);
        let condition = condition.map_err(|e| wrong(&e))?;
        Ok((operand.clone(), condition))
    });
    Ok(Goal::Holds(conditions.collect::<Result<_, Failure>>()?))
}

impl Goal {
    fn is_met(&self, vm: Option<&Json>) -> bool {
        match (self, vm.and_then(Json::as_object)) {
            (Self::Gone, vm) => vm.is_none(),
            (Self::Holds(_), None) => false,
            (Self::Holds(conditions), Some(vm)) => {
                let search = Search::new(SEARCH_TIME);
                let holds = |(_, c): &(_, Condition)| c.holds(vm, &search);
                conditions.iter().all(holds) && !search.is_over()
            }
        }
    }
}

/// Looks at what the stream tells.
struct Listener {
    seen: Arc<Seen>,
    goal: Arc<Goal>,
    /// When the stream has begun, by the daemon's clock.
    begin: String,
    /// Whether the VM was as wanted by then, and after each event.
    was_met: bool,
}

impl Listener {
    fn take_in(&mut self, told: &Told<'_>) {
        match told {
            Told::Ready(ready) => {
                // What is asked for since some event has begun before.
                if self.begin.is_empty() && !ready.is_resumed {
                    self.begin.clone_from(&ready.date);
                    let vms = ready.vms.as_deref().unwrap_or_default();
                    self.was_met = self.goal.is_met(vms.first());
                }
            }
            Told::Event(event) => {
                let is_met = self.goal.is_met(event.vm());
                let was_met = std::mem::replace(&mut self.was_met, is_met);
                // The daemon may tell late of what it had heard before: the
                // command has not done that. Nor has it what was so already.
                let cause = event.json.get("cause");
                let heard = cause.and_then(|c| c.get("seen")?.as_str());
                let is_old = heard.is_some_and(|heard| *heard < *self.begin);
                if is_met && !was_met && !is_old {
                    self.seen.met(event.vm().cloned());
                }
            }
            // That is us.
            Told::Ended(Error::Stopped) => {}
            Told::Broken(error) | Told::Ended(error) => {
                self.seen.state.lock().trouble = Some(error.to_string());
            }
        }
    }
}

impl Seen {
    fn met(&self, vm: Option<Json>) {
        self.state.lock().met.get_or_insert(vm);
        self.changed.notify_all();
    }

    /// Takes in what a look has found.
    fn found(&self, found: Result<Option<Json>, Error>, goal: &Goal) {
        match found {
            Ok(vm) if goal.is_met(vm.as_ref()) => self.met(vm),
            Ok(vm) => {
                let mut state = self.state.lock();
                (state.vm, state.trouble) = (vm, None);
            }
            Err(e) => self.state.lock().trouble = Some(e.to_string()),
        }
    }

    /// Waits for the goal: an event that tells of it, or a look at the system
    /// that finds it so; `None` when the time is over.
    fn wait(
        self: &Arc<Self>,
        client: Client,
        name: &str,
        goal: Arc<Goal>,
        until: Instant,
    ) -> Result<Option<Option<Json>>, Failure> {
        // By a thread of its own: events may be quicker than a look that a
        // command of the system holds up.
        let (seen, name) = (Arc::clone(self), name.to_string());
        let look = move || seen.look(&client, &name, &goal, until);
        let thread = std::thread::Builder::new().name("look".to_string());
        let spawned = thread.spawn(look);
        spawned.map_err(|e| Failure::Failed(format!("a thread: {e}")))?;
        let mut state = self.state.lock();
        while state.met.is_none() {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        Ok(state.met.take())
    }

    /// Looks at the system, now and again: what an event would tell may be so
    /// already, or the event may be lost.
    fn look(&self, client: &Client, name: &str, goal: &Goal, until: Instant) {
        let mut pause = LOOK_FIRST;
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            self.found(client.sync(name, left.min(SYNC_TIME)), goal);
            let next = Instant::now() + pause;
            let mut state = self.state.lock();
            while state.met.is_none()
                && !self.changed.wait_until(&mut state, next).timed_out()
            {
            }
            if state.met.is_some() {
                return;
            }
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Tells that the time is over, and what the VM is instead.
    fn late(&self, goal: &Goal, time: Duration) -> Result<(), Failure> {
        let state = self.state.lock();
        let instead = match (&state.vm, goal) {
            (None, _) => "there is no such VM".to_string(),
            (Some(_), Goal::Gone) => "it is there".to_string(),
            (Some(vm), Goal::Holds(wanted)) => unmet(vm, wanted),
        };
        if let Some(vm) = &state.vm {
            print_json(vm)?;
        }
        let mut message =
            format!("vminfod: not in {} s: {instead}", time.as_secs_f64());
        if let Some(trouble) = &state.trouble {
            message += &format!(" ({trouble})");
        }
        Err(Failure::Said { message, status: EXIT_TIME })
    }
}

/// What does not hold of a VM, and what is so instead.
fn unmet(vm: &Json, wanted: &[(String, Condition)]) -> String {
    let Some(vm) = vm.as_object() else { return String::new() };
    let search = Search::new(SEARCH_TIME);
    let unmet = wanted.iter().filter(|(_, c)| !c.holds(vm, &search));
    let told = unmet.map(|(words, condition)| {
        let property = words.split('=').next().unwrap_or_default();
        match &condition.texts(vm)[..] {
            [] => format!("there is no {property}, wanted {words}"),
            texts => {
                let texts = texts.join(", ");
                format!("{property} is {texts}, wanted {words}")
            }
        }
    });
    super::terminal::printable(&told.collect::<Vec<_>>().join("; "))
}

fn run_command(words: &[OsString]) -> Result<(), Failure> {
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let shown = program.to_string_lossy();
    let status = Command::new(program).args(args).status().map_err(|e| {
        let message = format!("vminfod: {shown}: {e}");
        Failure::Said { message, status: EXIT_NO_COMMAND }
    })?;
    if status.success() {
        return Ok(());
    }
    let message = format!("vminfod: {shown}: {status}; not waited for");
    Err(Failure::Said { message, status: exit_of(status) })
}

/// A command's exit status, as a shell gives it.
fn exit_of(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
