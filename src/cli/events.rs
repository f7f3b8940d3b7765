//! `events`: a line a change, as it comes.

use super::client::Client;
use super::{Failure, print as print_text};
use crate::json::{Json, Object};

/// An alias longer than this is cut in short lines.
const ALIAS_MAX: usize = 30;

/// How events are printed.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// As JSON lines.
    pub json: bool,
    /// Whole dates and zonenames.
    pub full: bool,
    /// Also say that the stream has begun.
    pub ready: bool,
    /// With the VM's alias, as vmadm and vminfo have it.
    pub with_alias: bool,
}

/// Prints events until the stream or the output ends.
///
/// # Errors
/// If the daemon is away, or the stream breaks off.
pub fn print(client: &Client, format: &Format) -> Result<(), Failure> {
    let mut stream = client.get("/events")?;
    if stream.status != 200 {
        let said = stream.read_all().unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        return Err(Failure::Failed(format!("/events: {}", said.trim())));
    }
    let broken = |e: std::io::Error| format!("/events: {e}");
    stream.wait_without_limit().map_err(broken)?;
    while let Some(line) = stream.read_line().map_err(broken)? {
        let event = Json::parse(&line)
            .map_err(|e| format!("/events: not JSON: {e}"))?;
        let text = format_event(&event, format);
        if !text.is_empty() {
            print_text(&text)?;
        }
    }
    Err(Failure::Failed("the daemon has ended the stream".to_string()))
}

/// The lines of an event, each with its end; none for what is not wanted.
fn format_event(event: &Json, format: &Format) -> String {
    let text = |name: &str| event.get(name).and_then(Json::as_str);
    let kind = text("type").unwrap_or_default();
    if kind == "ready" && !format.ready {
        return String::new();
    }
    if format.json {
        return format!("{}\n", json_event(event));
    }
    let date = text("date").unwrap_or_default();
    let time = if format.full {
        date
    } else {
        date.split_once('T').map_or(date, |(_, time)| time)
    };
    if kind == "ready" {
        let uuid = text("uuid").unwrap_or_default();
        return match format.full {
            true => format!("[{time}] ready (uuid {uuid})\n"),
            false => format!("[{time}] ready\n"),
        };
    }
    let zonename = text("zonename").unwrap_or_default();
    let zone = if format.full {
        zonename
    } else {
        zonename.split('-').next().unwrap_or(zonename)
    };
    let mut start = format!("[{time}] {}", printable(zone));
    if format.with_alias {
        let alias = event.get("vm").and_then(|vm| vm.get("alias"));
        let alias = alias.and_then(Json::as_str).filter(|a| !a.is_empty());
        start += &format!(" {}", short_alias(alias.unwrap_or("-")));
    }
    if kind != "modify" {
        return format!("{start} {}\n", printable(kind));
    }
    // vmadm's word for what is not there.
    let absent = if format.with_alias { "undefined" } else { "null" };
    let changes = event.get("changes").and_then(Json::as_array);
    let line = |change: &Json| {
        let text = |name: &str| {
            let text = change.get(name).and_then(Json::as_str);
            printable(text.unwrap_or_default())
        };
        let value = |name: &str| {
            let value = change.get(name).map(ToString::to_string);
            printable(&value.unwrap_or_else(|| absent.to_string()))
        };
        format!(
            "{start} modify: {} {} :: {} -> {}\n",
            text("prettyPath"),
            text("action"),
            value("oldValue"),
            value("newValue")
        )
    };
    changes.unwrap_or_default().iter().map(line).collect()
}

/// The event as it came; `vms` of `ready`, a string of JSON, becomes an object
/// by zonename, as vmadm has it.
fn json_event(event: &Json) -> Json {
    let Some(vms) = event.get("vms").and_then(Json::as_str) else {
        return event.clone();
    };
    let mut by_name = Object::new();
    let vms = Json::parse(vms).unwrap_or_default();
    for vm in vms.as_array().unwrap_or_default() {
        if let Some(zonename) = vm.get("zonename").and_then(Json::as_str) {
            by_name.set(zonename.to_string(), vm.clone());
        }
    }
    let mut event = event.as_object().cloned().unwrap_or_default();
    event.set("vms", by_name);
    Json::from(event)
}

fn short_alias(alias: &str) -> String {
    let alias = printable(alias);
    if alias.chars().count() <= ALIAS_MAX {
        return alias;
    }
    let begin: String = alias.chars().take(ALIAS_MAX - 3).collect();
    begin + "..."
}

/// Text of a VM without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => c.escape_unicode().to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Format =
        Format { json: false, full: true, ready: true, with_alias: false };
    const SHORT: Format =
        Format { json: false, full: false, ready: true, with_alias: true };

    fn text(event: &str, format: Format) -> String {
        format_event(&Json::parse(event).unwrap(), &format)
    }

    #[test]
    fn a_line_a_change() {
        let event = r#"{"type":"modify","date":"2016-05-31T16:29:09.882Z","zonename":"5595d88c-6e4d","vm":{"alias":"web"},"changes":[{"prettyPath":"quota","action":"added","newValue":10},{"prettyPath":"transition_to","action":"removed","oldValue":"running"}]}"#;
        assert_eq!(
            text(event, FULL),
            "[2016-05-31T16:29:09.882Z] 5595d88c-6e4d modify: quota added :: \
             null -> 10\n[2016-05-31T16:29:09.882Z] 5595d88c-6e4d modify: \
             transition_to removed :: \"running\" -> null\n"
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
    fn other_events() {
        let event = r#"{"type":"create","date":"2016-05-31T16:29:09.477Z","zonename":"5595d88c-6e4d","vm":{"alias":"a-very-long-alias-that-is-much-too-long"}}"#;
        assert_eq!(
            text(event, FULL),
            "[2016-05-31T16:29:09.477Z] 5595d88c-6e4d create\n"
        );
        assert_eq!(
            text(event, SHORT),
            "[16:29:09.477Z] 5595d88c a-very-long-alias-that-is-m... create\n"
        );
        let ready = r#"{"type":"ready","date":"2016-05-31T16:29:09.477Z","uuid":"u","vms":"[{\"zonename\":\"z\"}]"}"#;
        assert_eq!(
            text(ready, FULL),
            "[2016-05-31T16:29:09.477Z] ready (uuid u)\n"
        );
        assert_eq!(text(ready, SHORT), "[16:29:09.477Z] ready\n");
        assert_eq!(text(ready, Format { ready: false, ..FULL }), "");
        let json = text(ready, Format { json: true, ..FULL });
        assert!(json.contains(r#""vms":{"z":{"zonename":"z"}}"#), "{json}");
    }

    #[test]
    fn no_vm_writes_to_the_terminal() {
        let event = r#"{"type":"create","date":"d","zonename":"a","vm":{"alias":"\u001b[2Jx"}}"#;
        let line = text(event, SHORT);
        assert_eq!(line, "[d] a \\u{1b}[2Jx create\n");
    }
}
