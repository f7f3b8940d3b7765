//! Frames, and how they are drawn on a terminal. Only lines that have changed
//! are written, because the connection to the terminal may be slow.

use std::fmt::Write;

/// How text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Ordinary text.
    #[default]
    Plain,
    /// Less important.
    Dim,
    /// More important.
    Bold,
    /// A heading.
    Reverse,
    /// Good, or new.
    Green,
    /// Bad, or gone.
    Red,
    /// Changed.
    Yellow,
}

impl Style {
    fn code(self, has_colours: bool) -> &'static str {
        match (self, has_colours) {
            (Self::Plain, _) | (Self::Green, false) => "",
            (Self::Dim, _) => "\x1b[2m",
            (Self::Bold, _) | (Self::Yellow | Self::Red, false) => "\x1b[1m",
            (Self::Reverse, _) => "\x1b[7m",
            (Self::Green, true) => "\x1b[32m",
            (Self::Red, true) => "\x1b[1;31m",
            (Self::Yellow, true) => "\x1b[1;33m",
        }
    }
}

/// A piece of a line. It begins in a given cell, even if the terminal draws the
/// text before it wider or narrower than we expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The cell in which it begins, counted from 0.
    pub at: usize,
    /// The text, which must be safe for a terminal.
    pub text: String,
    /// How it looks.
    pub style: Style,
}

/// A line of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScreenLine {
    spans: Vec<Span>,
}

impl ScreenLine {
    /// A line of one piece.
    pub fn of(text: String, style: Style) -> Self {
        let mut line = Self::default();
        line.add(0, text, style);
        line
    }

    /// Adds a piece.
    pub fn add(&mut self, at: usize, text: String, style: Style) {
        self.spans.push(Span { at, text, style });
    }

    /// The line as plain text, without styles.
    pub fn text(&self) -> String {
        let mut cells: Vec<char> = Vec::new();
        for span in &self.spans {
            let begin = span.at.min(cells.len());
            let covered = span.text.chars().count().min(cells.len() - begin);
            cells.splice(begin..begin + covered, []);
            let blanks = span.at.saturating_sub(cells.len());
            cells.extend(std::iter::repeat_n(' ', blanks));
            let rest = cells.split_off(span.at);
            cells.extend(span.text.chars());
            cells.extend(rest);
        }
        let text: String = cells.into_iter().collect();
        text.trim_end().to_string()
    }
}

/// What is on the terminal.
#[derive(Debug, Default)]
pub struct Screen {
    shown: Vec<ScreenLine>,
    size: (usize, usize),
}

/// Switches to the alternate screen, hides the cursor, turns line wrapping off,
/// and clears the screen.
pub const BEGIN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";

/// Restores all that [`BEGIN`] has changed. The alternate screen is cleared
/// first: some terminals would copy its content to the normal screen if the
/// size has changed meanwhile.
pub const END: &str = "\x1b[2J\x1b[?7h\x1b[?25h\x1b[?1049l";

impl Screen {
    /// What must be written to the terminal to show `lines`.
    pub fn show(
        &mut self,
        lines: Vec<ScreenLine>,
        size: (usize, usize),
        has_colours: bool,
    ) -> String {
        let mut out = String::new();
        if size != self.size {
            out.push_str("\x1b[2J");
            *self = Self { shown: Vec::new(), size };
        }
        let count = lines.len().max(self.shown.len());
        let none = ScreenLine::default();
        for row in 0..count {
            let new = lines.get(row).unwrap_or(&none);
            if self.shown.get(row) == Some(new) {
                continue;
            }
            // Writing to a string does not fail.
            let _ = write!(out, "\x1b[{};1H\x1b[2K", row + 1);
            for span in &new.spans {
                let Some(room) = size.0.checked_sub(span.at) else { continue };
                let text = begin_of(&span.text, room);
                let code = span.style.code(has_colours);
                let end = if code.is_empty() { "" } else { "\x1b[0m" };
                let at = span.at + 1;
                let _ = write!(out, "\x1b[{at}G{code}{text}{end}");
            }
        }
        self.shown = lines;
        out
    }
}

/// The longest beginning of a text that takes at most `room` cells.
pub fn begin_of(text: &str, room: usize) -> String {
    let mut cells = 0;
    let fits = |c: &char| {
        cells += width(*c);
        cells <= room
    };
    text.chars().take_while(fits).collect()
}

/// How many cells a character takes, in most terminals.
fn width(c: char) -> usize {
    match u32::from(c) {
        // Marks above or below the character before, and joiners.
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe4f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_lines_are_written() {
        let mut screen = Screen::default();
        let line = |text: &str| ScreenLine::of(text.to_string(), Style::Plain);
        let size = (10, 3);
        let out = screen.show(vec![line("a"), line("b")], size, true);
        let wanted = "\x1b[2J\x1b[1;1H\x1b[2K\x1b[1Ga\x1b[2;1H\x1b[2K\x1b[1Gb";
        assert_eq!(out, wanted);
        let out = screen.show(vec![line("a"), line("c")], size, true);
        assert_eq!(out, "\x1b[2;1H\x1b[2K\x1b[1Gc");
        assert_eq!(screen.show(vec![line("a"), line("c")], size, true), "");
        let out = screen.show(vec![line("a")], size, true);
        assert_eq!(out, "\x1b[2;1H\x1b[2K");
        // The size has changed: everything is written, cut to the width.
        let mut wide = ScreenLine::of("0123456789".to_string(), Style::Plain);
        wide.add(3, "xyz".to_string(), Style::Red);
        wide.add(9, "never".to_string(), Style::Red);
        let out = screen.show(vec![wide], (5, 3), false);
        let wanted =
            "\x1b[2J\x1b[1;1H\x1b[2K\x1b[1G01234\x1b[4G\x1b[1mxy\x1b[0m";
        assert_eq!(out, wanted);
    }

    #[test]
    fn a_line_can_be_rendered_as_plain_text() {
        let mut line = ScreenLine::of("ab".to_string(), Style::Bold);
        line.add(4, "cd ".to_string(), Style::Plain);
        assert_eq!(line.text(), "ab  cd");
        // Text that is added over other text replaces it.
        let mut line = ScreenLine::of(" ".repeat(10), Style::Reverse);
        line.add(2, "RAM".to_string(), Style::Reverse);
        line.add(6, "STATE".to_string(), Style::Reverse);
        line.add(0, "x".to_string(), Style::Reverse);
        assert_eq!(line.text(), "x RAM STATE");
    }

    #[test]
    fn a_wide_character_takes_two_cells() {
        for (text, room, begin) in [
            ("abc", 2, "ab"),
            ("漢字x", 4, "漢字"),
            ("漢字x", 3, "漢"),
            ("e\u{301}x", 1, "e\u{301}"),
            ("😀😀", 3, "😀"),
        ] {
            assert_eq!(begin_of(text, room), begin);
        }
    }
}
