//! `events`: prints a line for each change, as it happens.

use std::os::fd::AsFd;

use super::args::{Args, CLIENT, flag, switch, value};
use super::event_lines::{Form, Lines};
use super::terminal::has_colours;
use super::verb::{Call, Program, STATUS, Verb};
use super::{Failure, complain, print};
use crate::client::{
    Client, EventKind, EventStream, EventsQuery, Item, Mirror, Ready,
    TIME_LIMIT,
};
use crate::os;
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
    Follow { stream, lines, has_ready, goes_on }.run(only)
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
        Path::parse(path).map_err(|e| wrong(&format!("--path: {e}")))?;
        query = query.path(path);
    }
    for word in args.all("type").flat_map(|kinds| kinds.split(',')) {
        let mut kinds = EventKind::ALL.into_iter();
        let kind = kinds.find(|kind| kind.name() == word);
        query = query.kind(kind.ok_or_else(|| {
            let what = "expected create, modify or delete";
            wrong(&format!("--type {word}: {what}"))
        })?);
    }
    Ok(query)
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
    let status = client.status(false)?;
    let epoch = status.get("epoch").and_then(Json::as_str);
    let none = || {
        Failure::Failed(
            "/status has no epoch: this daemon is too old for --since".into(),
        )
    };
    Ok((seq, epoch.ok_or_else(none)?.to_string()))
}

/// An event stream that is printed.
struct Follow {
    stream: EventStream,
    lines: Lines,
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
            let item = self.next(is_first)?;
            match &item {
                Item::Ready(ready) => {
                    if let Some(name) = only.filter(|_| is_first) {
                        expect_vm(ready, name)?;
                    }
                    report_begin(ready, is_first);
                    if self.has_ready {
                        print(&self.lines.of_ready(ready))?;
                    }
                }
                Item::Broken(error) => {
                    complain(&format!("vminfod: {error}; reconnecting"));
                }
                Item::Unreadable(vm) => complain(&format!("vminfod: {vm}")),
                Item::Event(_) => {}
            }
            is_first &= !matches!(item, Item::Ready(_));
            let events = match self.goes_on {
                true => mirror.apply(&item),
                false => match item {
                    Item::Event(event) => vec![event],
                    _ => Vec::new(),
                },
            };
            let lines = events.iter().map(|e| self.lines.of_event(&e.json));
            let lines: String = lines.collect();
            if !lines.is_empty() {
                print(&lines)?;
            }
        }
    }

    /// The next item. The daemon has accepted the request, so the first one
    /// must come in time.
    fn next(&mut self, is_first: bool) -> Result<Item, Failure> {
        if !is_first {
            return Ok(self.stream.next()?);
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
    let is_it = |vm: &Json| {
        let names = ["zonename", "uuid"].map(|member| vm.get(member));
        names.iter().flatten().any(|own| own.as_str() == Some(name))
    };
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
