//! `events`: prints a line for each change, as it happens.

use std::ffi::OsString;
use std::os::fd::AsFd;

use super::args::{Args, CLIENT, Opt, flag, value};
use super::terminal::{Colour, has_colours, json_for_reader, printable};
use super::{Failure, complain, print as print_text, usage};
use crate::client::{
    Client, EventKind, EventStream, EventsQuery, Item, Mirror, Ready,
    TIME_LIMIT,
};
use crate::os;
use crate::vm::json::{Json, Object};
use crate::vm::path::{Path, split_list};

/// An alias longer than this is cut, in UTF-16 code units.
const ALIAS_MAX: usize = 30;

/// The name by which the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// vminfod, which goes on when the daemon comes back.
    Vminfod,
    /// vminfo, which ends when the stream ends.
    Vminfo,
    /// vmadm, which ends when the stream ends.
    Vmadm,
}

const OPTIONS: [Opt; 10] = [
    flag('j', &["json"]),
    flag('f', &["full"]),
    flag('r', &["ready"]),
    flag('v', &["verbose"]),
    flag('d', &["debug"]),
    value(&["uuid"]),
    value(&["path"]),
    value(&["type"]),
    value(&["since"]),
    value(&["retry"]),
];

/// How events are printed.
#[derive(Clone, Copy, Debug)]
struct Format {
    is_json: bool,
    /// Whether dates and zonenames are printed whole.
    is_full: bool,
    /// Whether to print a line when the stream begins, too.
    has_ready: bool,
    has_colours: bool,
}

/// Prints events until the stream or the output ends.
pub fn run(args: Vec<OsString>, caller: Caller) -> Result<(), Failure> {
    let wrong = |said: &str| match caller {
        Caller::Vmadm => usage::of_vmadm(said),
        _ => Failure::Usage(said.to_string()),
    };
    let args = Args::parse(args, &[&OPTIONS, &CLIENT], None)
        .map_err(|e| wrong(&e.to_string()))?;
    let format = Format {
        is_json: args.has("json"),
        is_full: args.has("full"),
        has_ready: args.has("ready"),
        has_colours: has_colours() && !args.has("json"),
    };
    // The VM of the operand must exist; those of `--uuid` may be created later.
    let only = args.operands.first().map(String::as_str);
    let mut query = query_of(&args, wrong)?;
    let retry = match (args.seconds("retry")?, caller) {
        (Some(time), _) => Some(time),
        (None, Caller::Vminfod) => None,
        (None, Caller::Vminfo | Caller::Vmadm) => {
            Some(std::time::Duration::ZERO)
        }
    };
    let goes_on = retry.is_none_or(|time| !time.is_zero());
    // Here the VMs are not needed at the start, so do not pay for them.
    let shows_vms = format.has_ready && format.is_json;
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
    follow(stream, only, &format, goes_on)
}

/// The events that the command line asks for.
///
/// # Errors
/// `wrong`, which gets the reason, if a name, a path or a type is wrong.
fn query_of(
    args: &Args,
    wrong: impl Fn(&str) -> Failure,
) -> Result<EventsQuery, Failure> {
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

fn follow(
    mut stream: EventStream,
    only: Option<&str>,
    format: &Format,
    goes_on: bool,
) -> Result<(), Failure> {
    let mut mirror = Mirror::new(stream.query().clone());
    let mut is_first = true;
    end_with_the_reader()?;
    loop {
        // The daemon has accepted the request, so the stream must begin in
        // time.
        let item = match is_first {
            false => stream.next()?,
            true => stream.next_within(TIME_LIMIT)?.ok_or_else(|| {
                let what = format!(
                    "/events: the stream did not start in {TIME_LIMIT:?}"
                );
                Failure::Failed(what)
            })?,
        };
        match &item {
            Item::Ready(ready) => {
                if let Some(name) = only.filter(|_| is_first) {
                    expect_vm(ready, name)?;
                }
                report_begin(ready, is_first);
                if format.has_ready {
                    let line = format_ready(ready, format);
                    print_text(&safe(line, format))?;
                }
            }
            Item::Broken(error) => {
                complain(&format!("vminfod: {error}; reconnecting"));
            }
            Item::Unreadable(vm) => complain(&format!("vminfod: {vm}")),
            Item::Event(_) => {}
        }
        is_first &= !matches!(item, Item::Ready(_));
        let events = match goes_on {
            true => mirror.apply(&item),
            false => match item {
                Item::Event(event) => vec![event],
                _ => Vec::new(),
            },
        };
        let lines: String =
            events.iter().map(|e| format_event(&e.json, format)).collect();
        if !lines.is_empty() {
            print_text(&safe(lines, format))?;
        }
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

/// Makes JSON safe for a terminal; other lines already are.
fn safe(lines: String, format: &Format) -> String {
    if format.is_json { json_for_reader(lines) } else { lines }
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

fn format_ready(ready: &Ready, format: &Format) -> String {
    if format.is_json {
        let mut json = Object::new();
        json.set("type", "ready");
        json.set("date", ready.date.as_str());
        json.set("uuid", ready.uuid.as_str());
        if let Some(vms) = &ready.vms {
            // By zonename, as vmadm has it.
            let named = vms.iter().filter_map(|vm| {
                let zonename = vm.get("zonename")?.as_str()?;
                Some((zonename.to_string().into(), vm.clone()))
            });
            json.set("vms", named.collect::<Object>());
        }
        if ready.is_resumed {
            json.set("resumed", true);
        }
        if let Some(reset) = &ready.reset {
            json.set("reset", reset.as_str());
        }
        json.set("seq", ready.seq);
        json.set("epoch", ready.epoch.as_str());
        return format!("{}\n", Json::from(json));
    }
    let time = format_time(&ready.date, format);
    match format.is_full {
        true => format!("{time} ready (uuid {})\n", printable(&ready.uuid)),
        false => format!("{time} ready\n"),
    }
}

fn format_time(date: &str, format: &Format) -> String {
    let time = match format.is_full {
        true => date,
        false => date.split_once('T').map_or(date, |(_, time)| time),
    };
    let time = format!("[{}]", printable(time));
    Colour::Dim.of(&time, format.has_colours)
}

/// The lines of an event, each with its line feed; none for a modification
/// without changes.
fn format_event(event: &Json, format: &Format) -> String {
    if format.is_json {
        return format!("{event}\n");
    }
    let text = |name: &str| event.get(name).and_then(Json::as_str);
    let time = format_time(text("date").unwrap_or_default(), format);
    let zonename = text("zonename").unwrap_or_default();
    let zone = match format.is_full {
        true => zonename,
        false => zonename.split('-').next().unwrap_or(zonename),
    };
    let alias = event.get("vm").and_then(|vm| vm.get("alias"));
    let alias = alias.and_then(Json::as_str).filter(|a| !a.is_empty());
    let alias = short_alias(alias.unwrap_or("-"));
    let start = format!("{time} {} {alias}", printable(zone));
    let kind = text("type").unwrap_or_default();
    let colour = match kind {
        "create" => Colour::Green,
        "delete" => Colour::Red,
        _ => Colour::Yellow,
    };
    if kind != "modify" {
        let kind = colour.of(&printable(kind), format.has_colours);
        return format!("{start} {kind}\n");
    }
    let changes = event.get("changes").and_then(Json::as_array);
    let lines = changes.unwrap_or_default().iter().map(|change| {
        let text = |name: &str| {
            let text = change.get(name).and_then(Json::as_str);
            printable(text.unwrap_or_default())
        };
        let value = |name: &str| {
            let value = change.get(name).map(ToString::to_string);
            // vmadm's word for an absent value.
            printable(&value.unwrap_or_else(|| "undefined".to_string()))
        };
        let path = colour.of(&text("prettyPath"), format.has_colours);
        format!(
            "{start} modify: {path} {} :: {} -> {}\n",
            text("action"),
            value("oldValue"),
            value("newValue")
        )
    });
    lines.collect()
}

fn short_alias(alias: &str) -> String {
    let length = alias.encode_utf16().count();
    if length <= ALIAS_MAX {
        return printable(alias);
    }
    // Cut between characters, never within a surrogate pair.
    let mut units = 0;
    let begin = alias.chars().take_while(|c| {
        units += c.len_utf16();
        units <= ALIAS_MAX - 3
    });
    printable(&begin.collect::<String>()) + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Format = Format {
        is_json: false,
        is_full: false,
        has_ready: true,
        has_colours: false,
    };
    const FULL: Format = Format { is_full: true, ..SHORT };

    fn text(event: &str, format: Format) -> String {
        format_event(&Json::parse(event).unwrap(), &format)
    }

    #[test]
    fn each_change_is_printed_on_its_own_line() {
        let event = r#"{"type":"modify","date":"2016-05-31T16:29:09.882Z","zonename":"5595d88c-6e4d","vm":{"alias":"web"},"changes":[{"prettyPath":"quota","action":"added","newValue":10},{"prettyPath":"transition_to","action":"removed","oldValue":"running"}]}"#;
        assert_eq!(
            text(event, FULL),
            "[2016-05-31T16:29:09.882Z] 5595d88c-6e4d web modify: quota added \
             :: undefined -> 10\n[2016-05-31T16:29:09.882Z] 5595d88c-6e4d web \
             modify: transition_to removed :: \"running\" -> undefined\n"
        );
        assert_eq!(
            text(event, SHORT),
            "[16:29:09.882Z] 5595d88c web modify: quota added :: undefined -> \
             10\n[16:29:09.882Z] 5595d88c web modify: transition_to removed \
             :: \"running\" -> undefined\n"
        );
        let none = r#"{"type":"modify","date":"","zonename":"a","changes":[]}"#;
        assert_eq!(text(none, FULL), "");
    }

    #[test]
    fn create_delete_and_ready_lines_are_formatted() {
        let event = r#"{"type":"create","date":"2016-05-31T16:29:09.477Z","zonename":"5595d88c-6e4d","vm":{"alias":"a-very-long-alias-that-is-much-too-long"}}"#;
        assert_eq!(
            text(event, SHORT),
            "[16:29:09.477Z] 5595d88c a-very-long-alias-that-is-m... create\n"
        );
        let event = event.replace("create", "delete").replace("vm\":", "x\":");
        assert_eq!(
            text(&event, FULL),
            "[2016-05-31T16:29:09.477Z] 5595d88c-6e4d - delete\n"
        );
        let ready = Ready {
            date: "2016-05-31T16:29:09.477Z".to_string(),
            uuid: "u".to_string(),
            seq: 1,
            epoch: "e".to_string(),
            vms: Some(vec![Json::parse(r#"{"zonename":"z"}"#).unwrap()]),
            unreadable: Vec::new(),
            is_resumed: false,
            reset: None,
        };
        assert_eq!(
            format_ready(&ready, &FULL),
            "[2016-05-31T16:29:09.477Z] ready (uuid u)\n"
        );
        assert_eq!(format_ready(&ready, &SHORT), "[16:29:09.477Z] ready\n");
        let json = format_ready(&ready, &Format { is_json: true, ..FULL });
        assert!(json.contains(r#""vms":{"z":{"zonename":"z"}}"#), "{json}");
    }

    #[test]
    fn control_characters_in_an_alias_are_escaped() {
        let event = r#"{"type":"create","date":"d","zonename":"a","vm":{"alias":"\u001b[2Jx"}}"#;
        assert_eq!(text(event, SHORT), "[d] a \\u001b[2Jx create\n");
        let coloured = Format { has_colours: true, ..SHORT };
        assert_eq!(
            text(event, coloured),
            "\x1b[2m[d]\x1b[0m a \\u001b[2Jx \x1b[32mcreate\x1b[0m\n"
        );
    }
}
