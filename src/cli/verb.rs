//! What a verb is: its options, what its help says of it, and what runs it.

use std::ffi::OsString;

use super::Failure;
use super::args::{Args, Opt, long_of, nearest};

/// The name by which the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// All verbs.
    Vminfod,
    /// Today's client tool.
    Vminfo,
    /// The verbs of vmadm that only read.
    Vmadm,
}

impl Program {
    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vminfod => "vminfod",
            Self::Vminfo => "vminfo",
            Self::Vmadm => "vmadm",
        }
    }
}

/// A verb.
pub struct Verb {
    /// Its name, and what else it is called.
    pub names: &'static [&'static str],
    /// Its operands, as the usage has them.
    pub operands: &'static str,
    /// What it does, in a few words; empty if it is not for people.
    pub summary: &'static str,
    /// What it does, in sentences.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [&'static [Opt]],
    /// Two command lines, without the name of the program, and what they are
    /// for.
    pub examples: [(&'static str, &'static str); 2],
    /// What its exit status means.
    pub status: &'static str,
    /// Runs it.
    pub run: fn(Call) -> Result<(), Failure>,
}

/// The exit status of most verbs.
pub const STATUS: &str =
    "0 if it worked, 1 if not, 2 if the command line is wrong.";

/// The exit status of verbs that compare.
pub const STATUS_OF_COMPARISON: &str = "0 if nothing differs, 1 if something \
     does, 2 if that could not be found out.";

/// A command line.
pub struct Call {
    /// The program's name.
    pub program: Program,
    /// What it runs.
    pub verb: &'static Verb,
    /// By which of its names the verb is called.
    pub name: String,
    /// What comes after the verb.
    pub args: Vec<OsString>,
}

impl Call {
    /// Parses the command line, which may have at most so many operands.
    pub fn parse(self, operands: usize) -> Result<Args, Failure> {
        let args = Args::parse(self.args, self.verb.options, None)?;
        match args.operands.get(operands) {
            Some(extra) => {
                Err(Failure::Usage(format!("unexpected argument {extra:?}")))
            }
            None => Ok(args),
        }
    }
}

impl Verb {
    /// All its options.
    pub fn all_options(&self) -> impl Iterator<Item = &'static Opt> {
        self.options.iter().copied().flatten()
    }

    /// Its line of the list of verbs.
    #[must_use]
    pub fn line(&self) -> String {
        let left = format!("  {} {}", self.names.join("|"), self.operands);
        row(left.trim_end(), self.summary)
    }

    /// Its own help.
    #[must_use]
    pub fn help(&self, program: Program, name: &str) -> String {
        let program = program.name();
        let operands = match self.operands {
            "" => String::new(),
            operands => format!(" {operands}"),
        };
        let mut text =
            format!("usage: {program} {name} [OPTION]...{operands}\n\n");
        text += &lines(&wrapped(self.about, WIDTH), "");
        text += "\nOptions:\n";
        for option in self.all_options() {
            let long = long_of(option);
            let left = match option.short {
                Some(short) => format!("  -{short}, {long}"),
                None => format!("  {long}"),
            };
            text += &row(&left, option.meaning);
        }
        text += &row("  --help", "print this");
        text += "\nExamples:\n";
        for (line, purpose) in self.examples {
            text += &format!("  {program} {line}\n      {purpose}\n");
        }
        text += "\nExit status:\n";
        text + &lines(&wrapped(self.status, WIDTH - 2), "  ")
    }
}

/// The verb of this name among `verbs`.
pub fn find(verbs: &[&'static Verb], name: &str) -> Option<&'static Verb> {
    verbs.iter().copied().find(|verb| verb.names.contains(&name))
}

/// The name that is probably meant by a mistyped one.
pub fn similar(verbs: &[&'static Verb], name: &str) -> Option<&'static str> {
    let shown = verbs.iter().filter(|verb| !verb.summary.is_empty());
    let names = shown.flat_map(|verb| verb.names.iter().copied());
    nearest(name, names.chain(["help"]))
}

/// The width of a line.
const WIDTH: usize = 80;

/// The column at which meanings begin.
const COLUMN: usize = 28;

/// Two columns; the second one begins on a line of its own if the first one is
/// too wide.
fn row(left: &str, right: &str) -> String {
    let indent = " ".repeat(COLUMN);
    let right = lines(&wrapped(right, WIDTH - COLUMN), &indent);
    match left.len() + 2 > COLUMN {
        true => format!("{left}\n{right}"),
        false => format!("{left:COLUMN$}{}", right.trim_start()),
    }
}

fn lines(lines: &[String], indent: &str) -> String {
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

/// The words of a text in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if last.len() + 1 + word.len() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}
