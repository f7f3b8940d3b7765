//! `events`: prints a line for each change, as it happens.

use std::os::fd::AsFd;
use std::sync::Arc;

use vminfod_client::{
    Change, Client, Event, EventKind, EventStream, EventsQuery, Mirror, Ready,
    TIME_LIMIT, Vm,
};

use super::args::{Args, CLIENT, flag, switch, value};
use super::event_lines::{Form, Lines};
use super::terminal::has_colours;
use super::verb::{Call, Program, STATUS, Verb};
use super::{Failure, complain, print};
use crate::os;
use crate::vm::diff::{self, diff};
use crate::vm::json::Json;
use crate::vm::path::{Path, split_list};

pub const VERB: Verb = Verb {
    names: &["events"],
    operands: "[NAME]",
    summary: "changes of VMs as they happen",
    about: "Prints a line for each change of a VM, or of the VM with this \
            uuid or zonename, until it is interrupted. If the daemon restarts, \
            it goes on where it was.",
    options: &[
        &[
            flag('j', &["json"], "print one JSON object for each line"),
            switch(
                &["short"],
                "print lines as vmadm does: time of day, first part of the \
                 zonename, alias",
            ),
            flag('f', &["full"], "as --short, with whole dates and zonenames"),
            flag('r', &["ready"], "print a line when the stream has begun"),
            value(
                &["uuid"],
                "NAME",
                "only events of this VM, which need not exist yet; can be \
                 repeated",
            ),
            value(
                &["path"],
                "PATH,...",
                "of modifications, only those with a change at or below one of \
                 these paths, such as state or nics.*.ip",
            ),
            value(
                &["type"],
                "TYPE,...",
                "only events of these types: create, modify, delete",
            ),
            value(
                &["since"],
                "SEQ",
                "begin after this event; EPOCH-SEQ for one of another life of \
                 the daemon",
            ),
            value(
                &["retry"],
                "SECS",
                "how long to try again when the daemon is gone, in seconds \
                 (for ever; vmadm and vminfo: 0)",
            ),
            flag('v', &["verbose"], "does nothing; vmadm has it"),
            flag('d', &["debug"], "does nothing; vmadm has it"),
        ],
        &CLIENT,
    ],
    examples: [
        ("events --path state", "each VM that starts or stops"),
        (
            "events -j --type create,delete",
            "VMs that come and go, for a program",
        ),
    ],
    status: STATUS,
    run,
};

/// Prints events until the stream or the output ends.
fn run(call: Call) -> Result<(), Failure> {
    let program = call.program;
    let args = Args::parse(call.args, call.verb.options, None)?;
    let form = match program {
        _ if args.has("json") => Form::Json,
        _ if args.has("full") => Form::Full,
        Program::Vminfod if !args.has("short") => Form::Rfd,
        _ => Form::Short,
    };
    let lines = Lines { form, has_colours: has_colours() };
    let has_ready = args.has("ready");
    // The VM of the operand must exist; those of `--uuid` may be created later.
    let only = args.operands.first().map(String::as_str);
    let paths = paths_of(&args)?;
    let mut query = query_of(&args)?;
    let retry = match (args.seconds("retry")?, program) {
        (Some(time), _) => Some(time),
        (None, Program::Vminfod) => None,
        (None, Program::Vminfo | Program::Vmadm) => {
            Some(std::time::Duration::ZERO)
        }
    };
    let goes_on = retry.is_none_or(|time| !time.is_zero());
    // Here the VMs are not needed at the start, so do not pay for them.
    let shows_vms = has_ready && form == Form::Json;
    if !goes_on && !shows_vms && only.is_none() {
        query = query.without_snapshot();
    }
    let client = args.client_with_deadline("vminfod")?;
    let mut stream = match args.last("since") {
        None => client.events(query.clone()),
        Some(since) => {
            let (seq, epoch) = since_of(since, &client)?;
            client.events_since(query.clone(), seq, &epoch)
        }
    }?;
    if let Some(time) = retry {
        stream = stream.retry_for(time);
    }
    Follow { stream, lines, paths, has_ready, goes_on }.run(only)
}

/// The events that the command line asks for.
///
/// # Errors
/// If a name, a path or a type is wrong.
fn query_of(args: &Args) -> Result<EventsQuery, Failure> {
    let wrong = |why: &str| Failure::Usage(why.to_string());
    let mut query = EventsQuery::new();
    match &args.operands[..] {
        [] => {}
        [name] if name.is_empty() => {
            return Err(wrong("events: the name of the VM is empty"));
        }
        [name] => query = query.vm(name),
        [_, extra, ..] => {
            return Err(wrong(&format!("unexpected argument {extra:?}")));
        }
    }
    for name in args.all("uuid") {
        if name.is_empty() {
            return Err(wrong("--uuid: the name of the VM is empty"));
        }
        query = query.vm(name);
    }
    for path in args.all("path").flat_map(split_list) {
        query = query.path(path);
    }
    for word in args.all("type").flat_map(|kinds| kinds.split(',')) {
        let kind = word.parse::<EventKind>();
        query = query.kind(kind.map_err(|_| {
            let what = "expected create, modify or delete";
            wrong(&format!("--type {word}: {what}"))
        })?);
    }
    Ok(query)
}

/// The paths of the command line.
///
/// # Errors
/// If one is wrong.
fn paths_of(args: &Args) -> Result<Vec<Path>, Failure> {
    let paths = args.all("path").flat_map(split_list).map(Path::parse);
    let wrong = |e| Failure::Usage(format!("--path: {e}"));
    paths.collect::<Result<_, _>>().map_err(wrong)
}

/// Parses `SEQ` or `EPOCH-SEQ` into number and epoch. `SEQ` alone belongs to
/// the epoch of the daemon that runs now, which is asked for it.
pub fn since_of(text: &str, client: &Client) -> Result<(u64, String), Failure> {
    let wrong =
        || Failure::Usage(format!("--since {text}: expected SEQ or EPOCH-SEQ"));
    let (epoch, seq) = match text.rsplit_once('-') {
        Some((epoch, seq)) => (Some(epoch.to_string()), seq),
        None => (None, text),
    };
    let seq = seq.parse().map_err(|_| wrong())?;
    if let Some(epoch) = epoch {
        if epoch.is_empty() {
            return Err(wrong());
        }
        return Ok((seq, epoch));
    }
    let epoch = client.status(false)?.epoch;
    let none = || {
        Failure::Failed(
            "/status has no epoch: this daemon is too old for --since".into(),
        )
    };
    Ok((seq, epoch.ok_or_else(none)?))
}

/// An event stream that is printed.
struct Follow {
    stream: EventStream,
    lines: Lines,
    /// Where a modification must be, unless there are none.
    paths: Vec<Path>,
    /// Whether to print a line when the stream begins, too.
    has_ready: bool,
    /// Whether to go on after a break.
    goes_on: bool,
}

impl Follow {
    fn run(mut self, only: Option<&str>) -> Result<(), Failure> {
        let mut mirror = Mirror::new(self.stream.query().clone());
        let mut is_first = true;
        end_with_the_reader()?;
        loop {
            let event = self.next(is_first)?;
            match &event {
                Event::Ready(ready) => {
                    if let Some(name) = only.filter(|_| is_first) {
                        expect_vm(ready, name)?;
                    }
                    report_begin(ready, is_first);
                    if self.has_ready {
                        print(&self.lines.of_ready(ready))?;
                    }
                }
                Event::Broken(error) => {
                    complain(&format!("vminfod: {error}; reconnecting"));
                }
                Event::Unreadable(vm) => complain(&format!("vminfod: {vm}")),
                _ => {}
            }
            is_first &= !matches!(event, Event::Ready(_));
            let events = match self.goes_on {
                true => mirror.apply(event),
                false => vec![event],
            };
            let events = events.into_iter().filter_map(|e| self.precise(e));
            let lines = events.map(|event| self.lines.of_event(&event));
            let lines: String = lines.collect();
            if !lines.is_empty() {
                print(&lines)?;
            }
        }
    }

    /// An event as the daemon would have sent it: what a mirror concludes has
    /// whole members as its changes. `None` if nothing has changed at the paths
    /// that are asked for.
    fn precise(&self, mut event: Event) -> Option<Event> {
        if let Event::Modify { vm, changes, before: Some(before), header } =
            &mut event
            && header.json().is_none()
        {
            let (old, new) = (Json::from(before.json()), Json::from(vm.json()));
            let (Some(old), Some(new)) = (old.as_object(), new.as_object())
            else {
                return Some(event);
            };
            let found = diff(old, new);
            let found = found.iter().map(diff::Change::to_json).filter(|c| {
                let at = c.get("path").and_then(Json::as_array);
                let at = at.unwrap_or_default();
                self.paths.is_empty() || self.paths.iter().any(|p| p.meets(at))
            });
            let found = Json::from(found.collect::<Vec<_>>()).to_string();
            // If they can't be read, those of whole members stay.
            match serde_json::from_str::<Vec<Change>>(&found) {
                Ok(found) if found.is_empty() => return None,
                Ok(found) => *changes = found,
                Err(_) => {}
            }
        }
        Some(event)
    }

    /// The next event. The daemon has accepted the request, so the first one
    /// must come in time.
    fn next(&mut self, is_first: bool) -> Result<Event, Failure> {
        if !is_first {
            let next = self.stream.next();
            return Ok(next.unwrap_or(Err(vminfod_client::Error::Stopped))?);
        }
        self.stream.next_within(TIME_LIMIT)?.ok_or_else(|| {
            let what =
                format!("/events: the stream did not start in {TIME_LIMIT:?}");
            Failure::Failed(what)
        })
    }
}

/// Fails if the VM of the operand does not exist. If some VM can't be read,
/// that is not known.
fn expect_vm(ready: &Ready, name: &str) -> Result<(), Failure> {
    let is_it = |vm: &Arc<Vm>| vm.zonename == name || vm.uuid == name;
    match &ready.vms {
        Some(vms) if ready.unreadable.is_empty() && !vms.iter().any(is_it) => {
            let message = format!("VM {name} not found");
            Err(Failure::Said { message, status: 1 })
        }
        _ => Ok(()),
    }
}

/// Starts a thread that ends the program when the reader of its output has
/// gone. Printing would show that, too, but there may be nothing to print for a
/// long time.
fn end_with_the_reader() -> Result<(), Failure> {
    let thread = std::thread::Builder::new().name("reader".to_string());
    let spawned = thread.spawn(|| {
        if os::wait_for_closed(std::io::stdout().as_fd()).is_ok() {
            std::process::exit(0);
        }
    });
    let failed = |e| Failure::Failed(format!("cannot start a thread: {e}"));
    spawned.map(|_| ()).map_err(failed)
}

/// Reports on standard error that a stream began elsewhere than at `--since`,
/// that it goes on after a break, and which VMs can't be read.
fn report_begin(ready: &Ready, is_first: bool) {
    match (&ready.reset, is_first) {
        (Some(why), true) => complain(&format!(
            "vminfod: cannot start at --since ({why}): printing only new events"
        )),
        (Some(why), false) => complain(&format!(
            "vminfod: the event stream started over ({why}): events may be \
             missing; printing the differences as events"
        )),
        (None, true) => {}
        (None, false) => complain("vminfod: reconnected; no event was missed"),
    }
    for vm in &ready.unreadable {
        complain(&format!("vminfod: {vm}"));
    }
}
