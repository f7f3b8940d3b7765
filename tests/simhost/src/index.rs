//! `/etc/zones/index` as libzonecfg reads and writes it.
//!
//! A reader takes the lines it understands and passes over all others. A
//! writer copies every line, so that comments and malformed lines stay, and
//! renames a temporary file over the index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::emit::now_ns;

/// A line is read into a buffer of this many bytes, including a NUL. The
/// beginning of a longer line is passed over, and its rest is read as a line of
/// its own.
const LINE_MAX: usize = 1140;

/// The length of the longest zonename, and one byte more.
const NAME_MAX: usize = 64;

/// A valid line of the index, which readers do not pass over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The zone's name.
    pub zonename: String,
    /// configured, incomplete or installed.
    pub state: String,
    /// Its zonepath.
    pub zonepath: String,
    /// In lower case; empty if it is not set, or is no UUID.
    pub uuid: String,
    /// Empty on a line from the time before brands were in the index.
    pub brand: String,
    /// Whether it has an IP stack of its own.
    pub is_exclusive: bool,
    /// `None` if the line does not have the field; −1 means undefined.
    pub debugid: Option<i64>,
}

impl IndexEntry {
    /// The line, as libzonecfg writes it.
    #[must_use]
    pub fn line(&self) -> String {
        let zonepath = match self.zonepath.contains(':') {
            true => format!("\"{}\"", self.zonepath),
            false => self.zonepath.clone(),
        };
        let iptype = if self.is_exclusive { "ex" } else { "sh" };
        format!(
            "{}:{}:{zonepath}:{}:{}:{iptype}:{}\n",
            self.zonename,
            self.state,
            self.uuid,
            self.brand,
            self.debugid.unwrap_or(-1)
        )
    }

    /// Parses a line; `None` if readers pass over it.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        // A carriage return ends a line, too.
        let line = line.split(['\r', '\n']).next()?;
        let mut rest = line;
        let mut token = || {
            let (token, after) = match rest.strip_prefix('"') {
                Some(quoted) => match quoted.split_once('"') {
                    Some((token, after)) => {
                        (token, after.strip_prefix(':').unwrap_or(after))
                    }
                    None => (quoted, ""),
                },
                None => rest.split_once(':').unwrap_or((rest, "")),
            };
            rest = after;
            token
        };
        let (zonename, state, zonepath) = (token(), token(), token());
        let (uuid, brand, iptype, debugid) =
            (token(), token(), token(), token());
        let is_state =
            ["configured", "incomplete", "installed"].contains(&state);
        if zonename.is_empty()
            || zonename.len() >= NAME_MAX
            || !is_state
            || zonepath.len() >= 1024
            || brand.len() >= NAME_MAX
        {
            return None;
        }
        let uuid = uuid.to_ascii_lowercase();
        Some(Self {
            zonename: zonename.into(),
            state: state.into(),
            zonepath: zonepath.into(),
            uuid: if is_set(&uuid) { uuid } else { String::new() },
            brand: brand.into(),
            is_exclusive: iptype.starts_with('e'),
            debugid: debugid.parse().ok(),
        })
    }
}

/// Whether a text has the form of a UUID in lower case.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

fn is_set(uuid: &str) -> bool {
    is_uuid(uuid) && uuid.contains(|c| !"0-".contains(c))
}

/// The path of the index.
#[must_use]
pub fn path(root: &Path) -> PathBuf {
    root.join("etc/zones/index")
}

/// The valid lines, in order; `None` if the index can't be opened.
#[must_use]
pub fn read(root: &Path) -> Option<Vec<IndexEntry>> {
    let bytes = fs::read(path(root)).ok()?;
    Some(parse(&String::from_utf8_lossy(&bytes)))
}

/// The valid lines of a text, in order.
#[must_use]
pub fn parse(text: &str) -> Vec<IndexEntry> {
    let lines = text.split_inclusive('\n').flat_map(pieces);
    lines
        .filter(|line| line.ends_with('\n'))
        .filter_map(IndexEntry::parse)
        .collect()
}

/// A line as it is read: in pieces, if it is too long.
fn pieces(line: &str) -> Vec<&str> {
    let mut rest = line;
    let mut pieces = Vec::new();
    while rest.len() >= LINE_MAX {
        let mut end = LINE_MAX - 1;
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Rewrites the index: `edit` gets each valid line, and returns its new form;
/// `None` removes it. `added` is appended at the end.
///
/// # Errors
/// Those of reading, writing and renaming.
pub fn rewrite(
    root: &Path,
    edit: impl Fn(&IndexEntry) -> Option<IndexEntry>,
    added: Option<&IndexEntry>,
) -> io::Result<()> {
    let text = match fs::read_to_string(path(root)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let mut new = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        match IndexEntry::parse(line).filter(|_| line.ends_with('\n')) {
            None => new.push_str(line),
            Some(entry) => match edit(&entry) {
                Some(same) if same == entry => new.push_str(line),
                Some(other) => new.push_str(&other.line()),
                None => {}
            },
        }
    }
    if let Some(added) = added {
        new.push_str(&added.line());
    }
    let temp = format!("zonecfg.b{:05x}", now_ns() & 0xf_ffff);
    let temp = path(root).with_file_name(temp);
    fs::write(&temp, new)?;
    fs::rename(temp, path(root))
}
