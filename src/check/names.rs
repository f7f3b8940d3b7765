//! Text that comes from the machine, marked within our own sentences, so that
//! a report for others can be made without it.

/// Stands before what comes from the machine: a private character of Unicode,
/// which is taken out of what comes from there.
const BEGIN: char = '\u{e000}';

/// Stands behind it.
const END: char = '\u{e001}';

/// Marks text that comes from the machine.
#[must_use]
pub fn given(text: &str) -> String {
    let text: String = plain(text);
    format!("{BEGIN}{text}{END}")
}

/// A text without marks.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| ![BEGIN, END].contains(c)).collect()
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
    fn what_comes_from_the_machine_is_kept_apart() {
        let text = format!("zone {}: exit {}", given("a\u{e001}b"), 1);
        let wanted = [(false, "zone "), (true, "ab"), (false, ": exit 1")];
        assert_eq!(pieces(&text), wanted);
        assert_eq!(plain(&text), "zone ab: exit 1");
        assert_eq!(pieces("own"), [(false, "own")]);
    }
}
