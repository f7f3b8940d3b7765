//! `list`: prints a table of VMs.

use super::fields::ListField;
use super::order::{SortKey, is_truthy, sorted};
use super::{COMMON, find, parse, said};
use crate::cli::args::{CLIENT, Opt, flag, value};
use crate::cli::terminal::text_for_reader;
use crate::cli::verb::{Call, Verb};
use crate::cli::{Failure, all_read, print};
use crate::vm::filter::text_of;
use crate::vm::json::{Json, Object};

const DEFAULT_FIELDS: &str = "uuid,type,ram,state,alias";
const DEFAULT_SORT: &str = "ram,uuid";

pub const VERB: Verb = Verb {
    names: &["list"],
    operands: "[FIELD=VALUE]...",
    summary: "a table of VMs",
    about: "Prints a table of the VMs for which every FIELD has its VALUE: a \
            text to be equal to, or ~ and a regular expression.",
    options: &[
        &[
            Opt {
                short: Some('o'),
                ..value(
                    &["order", "output"],
                    "FIELD,...",
                    "the columns (uuid,type,ram,state,alias)",
                )
            },
            Opt {
                short: Some('s'),
                ..value(
                    &["sortby"],
                    "FIELD,...",
                    "the fields to sort by (ram,uuid); - before a field is \
                     for descending order",
                )
            },
            flag(
                'p',
                &["parsable"],
                "for programs: columns are separated by :, without a header",
            ),
            flag('H', &["no-header"], "without a header"),
            flag('h', &["header"], "with a header, even with -p"),
        ],
        &COMMON,
        &CLIENT,
    ],
    examples: [
        (
            "list -o uuid,alias,nics.0.ip -s alias state=running",
            "the running VMs, by alias",
        ),
        ("list -Hp -o zoneid uuid=UUID", "one value, for a script"),
    ],
    status: "0 if it worked; 1 if not, or if there is no such field; 2 if an \
             option is wrong.",
    run,
};

/// Prints the table.
fn run(call: Call) -> Result<(), Failure> {
    let args = parse(call)?;
    let order = args.last("order").unwrap_or(DEFAULT_FIELDS);
    let sort = args.last("sortby").unwrap_or(DEFAULT_SORT);
    for (what, names) in [("order", order), ("sort", sort)] {
        let has_any = |name: &&str| name.split('.').nth(1) == Some("*");
        let mut names = names.split(',').filter(|n| n.split('.').count() == 3);
        if let Some(name) = names.find(has_any) {
            return Err(said(format!("Invalid {what} key: \"{name}\"")));
        }
    }
    let names: Vec<_> = order.split(',').collect();
    // Errors in fields are reported only after `find`, so that errors in
    // filters come first.
    let keys = sort_keys(sort, &names);
    let columns = names.iter().map(|name| {
        let unknown = || said(format!("invalid order field: {name}"));
        ListField::parse(name).ok_or_else(unknown)
    });
    let columns: Result<Vec<_>, _> = columns.collect();
    let mut paths = Vec::new();
    for field in columns.iter().flatten() {
        field.ask(&mut paths);
    }
    if paths.is_empty() {
        paths.push("uuid".to_string());
    }
    let found = find(&args, "filter", Some(&paths))?;
    let (keys, columns) = (keys?, columns?);
    let vms: Vec<_> = found.vms.iter().filter_map(Json::as_object).collect();
    let is_parsable = args.has("parsable");
    let has_header = match args.later("header", "no-header") {
        Some(option) => option == "header",
        None => !is_parsable,
    };
    let mut lines = String::new();
    if has_header {
        let headers: Vec<_> =
            columns.iter().map(|c| c.header.clone()).collect();
        add_line(&mut lines, &headers, &columns, is_parsable);
    }
    for vm in sorted(&vms, &keys) {
        let cells: Vec<_> = columns
            .iter()
            .map(|column| cell(column, vm, is_parsable, columns.len()))
            .collect();
        add_line(&mut lines, &cells, &columns, is_parsable);
    }
    print(&lines)?;
    all_read("vmadm", &found.unreadable)
}

/// The keys to sort by. vmadm sorts what it lists, so a field that is not among
/// the listed names is left out.
fn sort_keys(sort: &str, listed: &[&str]) -> Result<Vec<SortKey>, Failure> {
    let mut keys = Vec::new();
    for name in sort.split(',') {
        let bare = name.strip_prefix(['-', '+']).unwrap_or(name);
        let unknown = || said(format!("invalid sort field: {name}"));
        let field = ListField::parse(bare).ok_or_else(unknown)?;
        if listed.contains(&bare) {
            let is_descending = name.starts_with('-');
            keys.push(SortKey { field, is_descending });
        }
    }
    Ok(keys)
}

/// The text of a cell. As in vmadm, `false` is shown like an absent value.
fn cell(
    column: &ListField,
    vm: &Object,
    is_parsable: bool,
    columns: usize,
) -> String {
    let value = column.of(vm);
    let is_zero = |v: &Json| v.as_f64() == Some(0.0);
    let shown = value.as_deref().filter(|v| is_truthy(v) || is_zero(v));
    match (shown.and_then(text_of), is_parsable) {
        // Only with more columns than one are there separators to escape.
        (Some(text), true) if columns > 1 && !column.is_time() => {
            let text = text.replace('\\', "\\\\").replace(':', "\\:");
            text_for_reader(text)
        }
        (Some(text), _) => text_for_reader(text.into_owned()),
        (None, true) => String::new(),
        (None, false) => "-".to_string(),
    }
}

fn add_line(
    lines: &mut String,
    cells: &[String],
    columns: &[ListField],
    is_parsable: bool,
) {
    let line = match is_parsable {
        true => cells.join(":"),
        false => {
            let padded = cells.iter().zip(columns).map(|(cell, column)| {
                // As JavaScript counts: in UTF-16 code units.
                let length = cell.encode_utf16().count();
                let blanks = column.width.saturating_sub(length);
                format!("{cell}{}", " ".repeat(blanks))
            });
            let line = padded.collect::<Vec<_>>().join("  ");
            line.trim_end_matches(' ').to_string()
        }
    };
    lines.push_str(&line);
    lines.push('\n');
}
