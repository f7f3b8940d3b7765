//! Parses the bytes that a terminal sends into keys.

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPress {
    /// A letter, a digit, a sign.
    Char(char),
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One screen up.
    PageUp,
    /// One screen down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L.
    Redraw,
    /// Ctrl-Z.
    Suspend,
}

/// The sequences that terminals send for keys, without the escape before them.
const SEQUENCES: &[(&[u8], KeyPress)] = &[
    (b"[A", KeyPress::Up),
    (b"[B", KeyPress::Down),
    (b"OA", KeyPress::Up),
    (b"OB", KeyPress::Down),
    (b"[5~", KeyPress::PageUp),
    (b"[6~", KeyPress::PageDown),
    (b"[H", KeyPress::Home),
    (b"[F", KeyPress::End),
    (b"OH", KeyPress::Home),
    (b"OF", KeyPress::End),
    (b"[1~", KeyPress::Home),
    (b"[4~", KeyPress::End),
];

/// Parses keys, and returns them with the number of bytes used. Unknown
/// sequences are skipped. Bytes at the end that may be the beginning of a
/// longer sequence are left over, unless `is_all` says that no more will come.
pub fn parse(bytes: &[u8], is_all: bool) -> (Vec<KeyPress>, usize) {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if !is_all && is_beginning(rest) {
            break;
        }
        rest = after;
        match first {
            0x1b => {
                let known =
                    SEQUENCES.iter().find(|(s, _)| after.starts_with(s));
                if let Some((sequence, key)) = known {
                    keys.push(*key);
                    rest = &after[sequence.len()..];
                } else if let [b'[' | b'O', unknown @ ..] = after {
                    let end =
                        unknown.iter().position(|b| (0x40..0x7f).contains(b));
                    rest = end.map_or(&[], |end| &unknown[end + 1..]);
                } else {
                    keys.push(KeyPress::Escape);
                }
            }
            b'\r' | b'\n' => keys.push(KeyPress::Enter),
            0x7f | 0x08 => keys.push(KeyPress::Backspace),
            0x03 => keys.push(KeyPress::Interrupt),
            0x0c => keys.push(KeyPress::Redraw),
            0x1a => keys.push(KeyPress::Suspend),
            0x20..0x7f => keys.push(KeyPress::Char(char::from(*first))),
            0xc2..0xf5 => {
                let length = match first {
                    0xc2..0xe0 => 2,
                    0xe0..0xf0 => 3,
                    _ => 4,
                };
                let begin = bytes.len() - rest.len() - 1;
                let text = bytes.get(begin..begin + length);
                let text = text.and_then(|t| std::str::from_utf8(t).ok());
                if let Some(c) = text.and_then(|text| text.chars().next()) {
                    keys.push(KeyPress::Char(c));
                    rest = &bytes[begin + length..];
                }
            }
            _ => {}
        }
    }
    (keys, bytes.len() - rest.len())
}

/// Whether these may be the first bytes of a longer sequence.
fn is_beginning(bytes: &[u8]) -> bool {
    match bytes {
        [0x1b] | [0x1b, b'[' | b'O'] => true,
        [0x1b, b'[', rest @ ..] => {
            rest.iter().all(|b| (0x20..0x40).contains(b))
        }
        [0xc2..0xe0] | [0xe0..0xf0] | [0xf0..0xf5] => true,
        [0xe0..0xf0, _] | [0xf0..0xf5, _] | [0xf0..0xf5, _, _] => {
            bytes[1..].iter().all(|b| (0x80..0xc0).contains(b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_what_terminals_send() {
        for (bytes, keys) in [
            (&b"q/"[..], &[KeyPress::Char('q'), KeyPress::Char('/')][..]),
            (
                b"\x1b[A\x1bOB\x1b[5~x",
                &[
                    KeyPress::Up,
                    KeyPress::Down,
                    KeyPress::PageUp,
                    KeyPress::Char('x'),
                ],
            ),
            (b"\x1b", &[KeyPress::Escape]),
            (b"\x1b[200~\x1b[1;5Cj", &[KeyPress::Char('j')]),
            (b"\x1b[9", &[]),
            (
                "\u{e9}\u{6f22}".as_bytes(),
                &[KeyPress::Char('\u{e9}'), KeyPress::Char('\u{6f22}')],
            ),
            (b"\xc3", &[]),
            (b"\xff\xfe\x00\x01", &[]),
            (
                b"\r\x7f\x08\x03\x0c",
                &[
                    KeyPress::Enter,
                    KeyPress::Backspace,
                    KeyPress::Backspace,
                    KeyPress::Interrupt,
                    KeyPress::Redraw,
                ],
            ),
        ] {
            let found = parse(bytes, true);
            assert_eq!(found, (keys.to_vec(), bytes.len()), "{bytes:?}");
        }
    }

    #[test]
    fn an_incomplete_key_sequence_is_left_for_the_next_read() {
        for (bytes, keys, used) in [
            (&b"a\x1b"[..], &[KeyPress::Char('a')][..], 1),
            (b"\x1b[", &[], 0),
            (b"\x1b[1;5", &[], 0),
            (b"\x1b[A\x1bO", &[KeyPress::Up], 3),
            (b"\xe6\xbc", &[], 0),
            (b"\x1bx", &[KeyPress::Escape, KeyPress::Char('x')], 2),
        ] {
            let found = parse(bytes, false);
            assert_eq!(found, (keys.to_vec(), used), "{bytes:?}");
        }
    }
}
