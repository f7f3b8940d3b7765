//! The lines that `events` prints.

use serde_json::value::RawValue;
use vminfod_client::{Change, Event, EventHeader, EventKind, Ready, Vm};

use super::terminal::{Colour, json_for_reader, printable};
use crate::vm::json::{Json, Key, Object};

/// An alias longer than this is cut, in UTF-16 code units.
const ALIAS_MAX: usize = 30;

/// What is in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As in the RFD of vminfod: date, uuid, and `null` for a value that is not
    /// there.
    Rfd,
    /// As vmadm prints it: time of day, the first part of the zonename, alias,
    /// and `undefined` for a value that is not there.
    Short,
    /// As vmadm prints it with `-f`: date, zonename and alias.
    Full,
    /// The JSON of the event.
    Json,
}

/// How the lines look.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    pub form: Form,
    pub has_colours: bool,
}

impl Lines {
    /// The lines of an event, each with its line feed; none for a modification
    /// without changes, and for what is not an event of a VM.
    pub fn of_event(self, event: &Event) -> String {
        let (Some(kind), Some(header)) = (event.kind(), event.header()) else {
            return String::new();
        };
        if self.form == Form::Json {
            let line = match header.json() {
                Some(json) => json.to_string(),
                None => concluded_line(kind, header, event),
            };
            return json_for_reader(line + "\n");
        }
        let colour = match kind {
            EventKind::Create => Colour::Green,
            EventKind::Delete => Colour::Red,
            EventKind::Modify => Colour::Yellow,
        };
        let start = self.start(header, event.vm().map(|vm| &**vm));
        if kind != EventKind::Modify {
            let kind = colour.of(kind.name(), self.has_colours);
            return format!("{start} {kind}\n");
        }
        let lines = event.changes().iter().map(|change| {
            let what = self.change(change, colour);
            format!("{start} modify: {what}\n")
        });
        lines.collect()
    }

    /// When it happened, and to which VM.
    fn start(self, header: &EventHeader, vm: Option<&Vm>) -> String {
        let time = self.time(&header.date);
        let zonename = header.zonename.as_str();
        let name = match self.form {
            Form::Rfd if header.uuid.is_empty() => zonename,
            Form::Rfd => &header.uuid,
            Form::Short => zonename.split('-').next().unwrap_or(zonename),
            Form::Full | Form::Json => zonename,
        };
        let name = printable(name);
        if self.form == Form::Rfd {
            return format!("{time} {name}");
        }
        let alias = vm.and_then(|vm| vm.alias.as_deref());
        let alias = alias.filter(|alias| !alias.is_empty());
        format!("{time} {name} {}", short_alias(alias.unwrap_or("-")))
    }

    /// One change of a modification.
    fn change(self, change: &Change, colour: Colour) -> String {
        let absent = match self.form {
            Form::Rfd => "null",
            _ => "undefined",
        };
        let text = |value: Option<&RawValue>| match value {
            Some(value) => printable(&value.to_string()),
            None => absent.to_string(),
        };
        let path = printable(&change.pretty_path);
        format!(
            "{} {} :: {} -> {}",
            colour.of(&path, self.has_colours),
            change.action.name(),
            text(change.old_json()),
            text(change.new_json())
        )
    }

    /// The line of the stream's begin.
    pub fn of_ready(self, ready: &Ready) -> String {
        let time = self.time(&ready.date);
        match self.form {
            Form::Json => json_for_reader(format!("{}\n", ready_json(ready))),
            Form::Short => format!("{time} ready\n"),
            Form::Rfd | Form::Full => {
                format!("{time} ready (uuid {})\n", printable(&ready.uuid))
            }
        }
    }

    fn time(self, date: &str) -> String {
        let time = match self.form {
            Form::Short => date.split_once('T').map_or(date, |(_, time)| time),
            _ => date,
        };
        let time = format!("[{}]", printable(time));
        Colour::Dim.of(&time, self.has_colours)
    }
}

/// The line of an event that the daemon has not sent: what must have happened
/// while the stream was broken. It is made of texts: together they may be nested
/// more deeply than can be read.
fn concluded_line(
    kind: EventKind,
    header: &EventHeader,
    event: &Event,
) -> String {
    let text = |text: &str| Json::from(text).to_string();
    let mut members = vec![
        ("type", text(kind.name())),
        ("date", text(&header.date)),
        ("zonename", text(&header.zonename)),
        ("uuid", text(&header.uuid)),
    ];
    if let Some(vm) = event.vm() {
        members.push(("vm", vm.to_string()));
    }
    if let Event::Modify { changes, .. } = event
        && let Ok(changes) = serde_json::to_string(changes)
    {
        members.push(("changes", changes));
    }
    members.push(("seq", header.seq.to_string()));
    members.push(("epoch", text(&header.epoch)));
    if let Some(cause) = &header.cause {
        let mut object = Object::new();
        object.set("source", cause.source.as_str());
        object.set("detail", cause.detail.as_str());
        members.push(("cause", Json::from(object).to_string()));
    }
    let members =
        members.iter().map(|(name, text)| format!("\"{name}\":{text}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// The line of the stream's begin as vmadm prints it: the VMs by zonename.
fn ready_json(ready: &Ready) -> Json {
    let mut json = Object::new();
    json.set("type", "ready");
    json.set("date", ready.date.as_str());
    json.set("uuid", ready.uuid.as_str());
    if let Some(vms) = &ready.vms {
        let named = vms
            .iter()
            .map(|vm| (Key::Owned(vm.zonename.clone()), Json::from(vm.json())));
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
    Json::from(json)
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

    fn text(event: &str, form: Form) -> String {
        let lines = Lines { form, has_colours: false };
        lines.of_event(&event.parse().unwrap())
    }

    #[test]
    fn each_change_is_printed_on_its_own_line() {
        let event = r#"{"type":"modify","date":"2016-05-31T16:29:09.882Z","zonename":"5595d88c-6e4d","uuid":"5595d88c-6e4d-u","vm":{"zonename":"z","alias":"web"},"changes":[{"prettyPath":"quota","action":"added","newValue":10},{"prettyPath":"transition_to","action":"removed","oldValue":"running"}]}"#;
        for (form, printed) in [
            (
                Form::Rfd,
                "[2016-05-31T16:29:09.882Z] 5595d88c-6e4d-u modify: quota \
                 added :: null -> 10\n[2016-05-31T16:29:09.882Z] \
                 5595d88c-6e4d-u modify: transition_to removed :: \"running\" \
                 -> null\n",
            ),
            (
                Form::Full,
                "[2016-05-31T16:29:09.882Z] 5595d88c-6e4d web modify: quota \
                 added :: undefined -> 10\n[2016-05-31T16:29:09.882Z] \
                 5595d88c-6e4d web modify: transition_to removed :: \
                 \"running\" -> undefined\n",
            ),
            (
                Form::Short,
                "[16:29:09.882Z] 5595d88c web modify: quota added :: undefined \
                 -> 10\n[16:29:09.882Z] 5595d88c web modify: transition_to \
                 removed :: \"running\" -> undefined\n",
            ),
        ] {
            assert_eq!(text(event, form), printed);
        }
        let none = r#"{"type":"modify","date":"","zonename":"a","vm":{"zonename":"a"},"changes":[]}"#;
        assert_eq!(text(none, Form::Full), "");
    }

    #[test]
    fn create_and_delete_lines_have_no_values() {
        let event = r#"{"type":"create","date":"2016-05-31T16:29:09.477Z","zonename":"5595d88c-6e4d","vm":{"zonename":"z","alias":"a-very-long-alias-that-is-much-too-long"}}"#;
        assert_eq!(
            text(event, Form::Rfd),
            "[2016-05-31T16:29:09.477Z] 5595d88c-6e4d create\n"
        );
        assert_eq!(
            text(event, Form::Short),
            "[16:29:09.477Z] 5595d88c a-very-long-alias-that-is-m... create\n"
        );
        let event = event.replace("create", "delete").replace("vm\":", "x\":");
        assert_eq!(
            text(&event, Form::Full),
            "[2016-05-31T16:29:09.477Z] 5595d88c-6e4d - delete\n"
        );
    }

    #[test]
    fn a_ready_line_names_the_subscription_unless_it_is_short() {
        let ready = r#"{"type":"ready","date":"2016-05-31T16:29:09.477Z","uuid":"u","seq":1,"epoch":"e","vms":[{"zonename":"z"}]}"#;
        let Event::Ready(ready) = ready.parse().unwrap() else { panic!() };
        let line = |form| Lines { form, has_colours: false }.of_ready(&ready);
        let full = "[2016-05-31T16:29:09.477Z] ready (uuid u)\n";
        assert_eq!(line(Form::Rfd), full);
        assert_eq!(line(Form::Full), full);
        assert_eq!(line(Form::Short), "[16:29:09.477Z] ready\n");
        let json = line(Form::Json);
        assert!(json.contains(r#""vms":{"z":{"zonename":"z"}}"#), "{json}");
    }

    #[test]
    fn control_characters_in_an_alias_are_escaped() {
        let event = r#"{"type":"create","date":"d","zonename":"a","vm":{"zonename":"z","alias":"\u001b[2Jx"}}"#;
        assert_eq!(text(event, Form::Short), "[d] a \\u001b[2Jx create\n");
        let coloured = Lines { form: Form::Short, has_colours: true };
        assert_eq!(
            coloured.of_event(&event.parse().unwrap()),
            "\x1b[2m[d]\x1b[0m a \\u001b[2Jx \x1b[32mcreate\x1b[0m\n"
        );
    }
}
