//! Makes text safe for a terminal, and colours it. Tenants choose much of the
//! text in VMs, and a terminal would obey control characters in it.

use std::fmt::Write;
use std::io::IsTerminal;

/// Text in which nothing is left that a terminal would obey: control
/// characters, and those that change the direction of writing, are replaced by
/// JSON's escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// A text of a VM as a part of a line. It is [`printable`] if standard output
/// is a terminal, so that it can neither end the line nor shift a column, and
/// unchanged if a program reads it.
#[must_use]
pub fn text_for_reader(text: String) -> String {
    match text.chars().any(is_obeyed) && std::io::stdout().is_terminal() {
        true => printable(&text),
        false => text,
    }
}

/// JSON that is [`printable`] if standard output is a terminal, and unchanged
/// if a program reads it. Line feeds stay: they are never in JSON's strings.
#[must_use]
pub fn json_for_reader(json: String) -> String {
    let is_safe = |c: char| c == '\n' || !is_obeyed(c);
    if json.chars().all(is_safe) || !std::io::stdout().is_terminal() {
        return json;
    }
    let lines: Vec<_> = json.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Whether to print colours: standard output is a terminal, and NO_COLOR
/// (no-color.org) is not set, or is empty.
#[must_use]
pub fn has_colours() -> bool {
    let no_colour = std::env::var_os("NO_COLOR");
    std::io::stdout().is_terminal() && no_colour.is_none_or(|v| v.is_empty())
}

/// A colour of text, or dim text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Less important.
    Dim,
    /// Good, or new.
    Green,
    /// Bad, or gone.
    Red,
    /// Changed.
    Yellow,
}

impl Colour {
    /// `text` in this colour, if there are colours.
    #[must_use]
    pub fn of(self, text: &str, has_colours: bool) -> String {
        let code = match self {
            Self::Dim => "2",
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
        };
        match has_colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_a_terminal_would_obey_are_escaped() {
        for (text, printed) in [
            ("web:1 é 漢", "web:1 é 漢"),
            ("\x1b[2Jx", "\\u001b[2Jx"),
            ("a\nb\tc\r", "a\\u000ab\\u0009c\\u000d"),
            ("\u{9b}31m\x7f", "\\u009b31m\\u007f"),
            ("\u{202e}gpj.exe", "\\u202egpj.exe"),
        ] {
            assert_eq!(printable(text), printed);
        }
    }
}
