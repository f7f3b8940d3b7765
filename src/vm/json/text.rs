//! Writing JSON as JavaScript writes it.

use std::io::Write;

use super::{Json, Object};

/// Whole numbers below this are written as integers, which costs less.
const WHOLE_MAX: f64 = 1e15;

/// A number as JavaScript's `String(n)` prints it; `null` if not finite.
#[must_use]
pub fn number_text(n: f64) -> String {
    if !n.is_finite() {
        "null".to_string()
    } else if n == 0.0 {
        "0".to_string()
    } else if n.abs() >= 1e21 || n.abs() < 1e-6 {
        let text = format!("{n:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                format!("{digits}e+{exponent}")
            }
            _ => text,
        }
    } else {
        format!("{n}")
    }
}

/// Appends `s` as a JSON string, quotes included.
pub fn write_string(s: &str, out: &mut Vec<u8>) {
    // Writing to a Vec can't fail, and any str can be written.
    let _ = serde_json::to_writer(out, s);
}

/// Appends a value: compact without `indent`, otherwise over several lines.
/// `indent` is the indent of the value itself, in spaces.
pub(super) fn write_value(
    value: &Json,
    out: &mut Vec<u8>,
    indent: Option<usize>,
) {
    match value {
        Json::Null => out.extend_from_slice(b"null"),
        Json::Bool(true) => out.extend_from_slice(b"true"),
        Json::Bool(false) => out.extend_from_slice(b"false"),
        Json::Number(n) if n.fract() == 0.0 && n.abs() < WHOLE_MAX => {
            #[allow(clippy::cast_possible_truncation)]
            let whole = *n as i64;
            // Writing to a Vec can't fail.
            let _ = write!(out, "{whole}");
        }
        Json::Number(n) => out.extend_from_slice(number_text(*n).as_bytes()),
        Json::String(s) => write_string(s, out),
        Json::Array(elements) => {
            write_list(out, b"[]", indent, elements.iter(), |e, out, inner| {
                write_value(e, out, inner);
            });
        }
        Json::Object(object) => write_object(object, out, indent),
    }
}

/// Appends an object, like [`write_value`].
pub(super) fn write_object(
    object: &Object,
    out: &mut Vec<u8>,
    indent: Option<usize>,
) {
    let members = object.members.iter();
    write_list(out, b"{}", indent, members, |(k, v), out, inner| {
        write_string(k, out);
        out.push(b':');
        if inner.is_some() {
            out.push(b' ');
        }
        write_value(v, out, inner);
    });
}

fn write_list<T>(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    indent: Option<usize>,
    items: impl ExactSizeIterator<Item = T>,
    write_item: impl Fn(T, &mut Vec<u8>, Option<usize>),
) {
    let inner = indent.map(|i| i + 2);
    let empty = items.len() == 0;
    out.push(brackets[0]);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        new_line(out, inner);
        write_item(item, out, inner);
    }
    if !empty {
        new_line(out, indent);
    }
    out.push(brackets[1]);
}

fn new_line(out: &mut Vec<u8>, indent: Option<usize>) {
    if let Some(spaces) = indent {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', spaces));
    }
}
