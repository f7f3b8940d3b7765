//! Marks text that comes from the machine within our own sentences, so that a
//! report for other people can be made without it.

use std::{fmt, io};

use crate::load::error::{CommandError, FileError};

/// Stands before text that comes from the machine. It is a private character of
/// Unicode, and is removed from the machine's text itself.
const BEGIN: char = '\u{e000}';

/// Stands after text that comes from the machine.
const END: char = '\u{e001}';

/// Marks text that comes from the machine.
#[must_use]
pub fn given(text: impl fmt::Display) -> String {
    let text = plain(&text.to_string());
    format!("{BEGIN}{text}{END}")
}

/// A text without the marks.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| ![BEGIN, END].contains(c)).collect()
}

/// Why a fact could not be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle(String);

impl Obstacle {
    /// An obstacle in the machine's own words.
    pub fn given(why: impl fmt::Display) -> Self {
        Self(given(why))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Obstacle {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl From<&str> for Obstacle {
    fn from(why: &str) -> Self {
        Self(why.to_string())
    }
}

impl From<CommandError> for Obstacle {
    fn from(error: CommandError) -> Self {
        Self::given(error)
    }
}

impl From<FileError> for Obstacle {
    fn from(error: FileError) -> Self {
        Self::given(error)
    }
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::given(error)
    }
}

/// The pieces of a text, each with whether it comes from the machine.
pub(super) fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((own, after)) = rest.split_once(BEGIN) {
        pieces.push((false, own));
        let (from_machine, after) =
            after.split_once(END).unwrap_or((after, ""));
        pieces.push((true, from_machine));
        rest = after;
    }
    pieces.push((false, rest));
    pieces.retain(|(_, text)| !text.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_machine_is_split_from_our_own() {
        let text = format!("zone {}: exit {}", given("a\u{e001}b"), 1);
        let wanted = [(false, "zone "), (true, "ab"), (false, ": exit 1")];
        assert_eq!(pieces(&text), wanted);
        assert_eq!(plain(&text), "zone ab: exit 1");
        assert_eq!(pieces("own"), [(false, "own")]);
    }
}
