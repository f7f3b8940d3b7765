//! Why a source has no good answer, in the words that /status shows to an
//! operator.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::dtd::Refusal;
use crate::config::JSON_DEPTH;

/// What is wrong with a source of a VM or of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A command has failed, or has not answered.
    Command(CommandError),
    /// A file can't be read, or its content is not what it should be.
    File(FileError),
    /// The zone is running, but the answer of kstat(8) does not include it.
    NoKstat,
    /// The zone index has a line of a zone that `zoneadm list` does not list.
    NotListed,
    /// The zone index can't be read, so it is not known whether the zone
    /// exists.
    NoIndex(FileError),
    /// zfs(8) could not list a dataset or snapshot of this name.
    Dataset(Arc<str>, DatasetError),
    /// Lines of a listing that could not be parsed, or lines in which the
    /// command reports what it has left out.
    Lines(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::NoKstat => {
                f.write_str("the zone is running, but kstat does not list it")
            }
            Self::NotListed => f.write_str(
                "the zone index has the zone, but zoneadm list does not \
                 list it",
            ),
            Self::NoIndex(why) => {
                write!(f, "can't tell whether the zone exists: {why}")
            }
            Self::Dataset(name, why) => write!(f, "{name}: {why}"),
            Self::Lines(lines) => f.write_str(&lines.join("; ")),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<CommandError> for LoadError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<OutputError> for LoadError {
    fn from(error: OutputError) -> Self {
        Self::Lines(vec![error.to_string()])
    }
}

impl From<FileError> for LoadError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Why a run of a command has no usable output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The command and its first arguments.
    pub command: Box<str>,
    /// What is wrong.
    pub problem: CommandProblem,
}

impl CommandError {
    /// Whether the command had to be killed because it took too long.
    #[must_use]
    pub fn is_hang(&self) -> bool {
        matches!(self.problem, CommandProblem::RanTooLong(_))
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.problem)
    }
}

impl std::error::Error for CommandError {}

/// What is wrong with a run of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandProblem {
    /// It could not be started; the text is the system's error message.
    NotStarted(String),
    /// No thread could be started to wait for it; the text is the system's
    /// error message.
    NoThread(String),
    /// Its output could not be read; the text is the system's error message.
    Io(String),
    /// It was killed because it ran for longer than this limit.
    RanTooLong(Duration),
    /// It was killed because it printed more bytes than this limit.
    PrintedTooMuch(usize),
    /// It was killed because the daemon is ending.
    DaemonEnds,
    /// It ended with a bad exit status, or by a signal.
    Failed {
        /// Its exit status; `None` if a signal ended it.
        exit: Option<i32>,
        /// What it printed on standard error.
        stderr: String,
    },
    /// It is still running, and has not answered for this long.
    NoAnswerFor(Duration),
    /// It has ended, but too late for the load.
    LateAnswer,
    /// It was not started because earlier runs of its circuit have not
    /// answered.
    OthersHang,
    /// It succeeded, but its output can't be right.
    Output(OutputError),
}

impl fmt::Display for CommandProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(why) => write!(f, "can't be started: {why}"),
            Self::NoThread(why) => {
                write!(f, "no thread could be started to run it: {why}")
            }
            Self::Io(why) => f.write_str(why),
            Self::RanTooLong(limit) => {
                write!(f, "killed: ran for over {limit:?}")
            }
            Self::PrintedTooMuch(limit) => {
                write!(f, "killed: printed over {limit} bytes")
            }
            Self::DaemonEnds => f.write_str("killed: the daemon is stopping"),
            Self::Failed { exit, stderr } => {
                match exit {
                    Some(exit) => write!(f, "exit {exit}: ")?,
                    None => f.write_str("killed by a signal: ")?,
                }
                let said: Vec<_> = stderr.trim().lines().take(3).collect();
                f.write_str(&said.join("; "))
            }
            Self::NoAnswerFor(time) => {
                write!(f, "has not answered for {time:.1?}")
            }
            Self::LateAnswer => f.write_str("answered too late for this load"),
            Self::OthersHang => {
                f.write_str("not started: earlier runs have not answered")
            }
            Self::Output(error) => error.fmt(f),
        }
    }
}

/// What is wrong with the output of a command that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputError {
    /// Its last line has no newline.
    CutOff,
    /// A line of kstat(8) is not a statistic.
    NotAStatistic(String),
    /// A line of zfs(8) is not a dataset.
    NotADataset(String),
    /// The line of zfs(8) for this dataset, or for a snapshot of it, does not
    /// come where zfs would print it.
    NotInOrder(Arc<str>),
    /// `zoneadm list` does not list the global zone, which always exists.
    NoGlobalZone,
    /// `zoneadm list` lacks this many zones that the zone index has.
    LacksZones(usize),
    /// zoneadm(8) succeeded, but printed no line for the zone that it was asked
    /// for. The text is what it printed.
    NotListed(String),
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff => f.write_str("the output is cut off"),
            Self::NotAStatistic(line) => {
                write!(f, "not a statistic: {line:?}")
            }
            Self::NotADataset(line) => write!(f, "not a dataset: {line:?}"),
            Self::NotInOrder(name) => write!(
                f,
                "{name} is not listed in the order of names: a tenant's \
                 mountpoint may have forged this line or one before it"
            ),
            Self::NoGlobalZone => f.write_str(
                "does not list the global zone, so its list is incomplete \
                 (can zoneadm read the zone index?)",
            ),
            Self::LacksZones(count) => {
                write!(f, "does not list {count} zones of the zone index")
            }
            Self::NotListed(said) => {
                let separator = if said.is_empty() { "" } else { ": " };
                write!(
                    f,
                    "succeeded, but printed no line for the zone\
                     {separator}{said}"
                )
            }
        }
    }
}

impl From<OutputError> for CommandProblem {
    fn from(error: OutputError) -> Self {
        Self::Output(error)
    }
}

/// Why a dataset or snapshot could not be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetError {
    /// The reason that zfs(8) printed.
    Said(String),
    /// zfs printed neither a line nor an error for it.
    NotListed,
    /// It is listed, but what is below it is not.
    NotWalked,
    /// zfs says that it does not exist, but has not listed its pool either, so
    /// that this does not count.
    PoolNotListed,
    /// It does not exist, and neither does its pool.
    NoPool,
    /// The run that should list it has failed, or has not answered.
    Command(CommandError),
}

impl fmt::Display for DatasetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Said(why) => why,
            Self::NotListed => {
                "zfs list printed neither a line nor an error for it"
            }
            Self::NotWalked => "zfs list did not list what is below it",
            Self::PoolNotListed => "zfs list does not list its pool",
            Self::NoPool => "its pool does not exist",
            Self::Command(error) => return error.fmt(f),
        })
    }
}

/// Why a file has no usable content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: FileProblem,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for FileError {}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileProblem {
    /// It is missing, but must exist.
    Missing,
    /// It can't be read; the text is the system's error message.
    Io(String),
    /// It is not JSON; the text is the parser's error message.
    NotJson(String),
    /// Its JSON nests deeper than [`JSON_DEPTH`].
    TooDeep,
    /// Its JSON is not an object.
    NotAnObject,
    /// It is not the XML of a zone.
    Xml(XmlError),
    /// libzonecfg refuses its XML.
    Refused(Refusal),
    /// It is a `lastexited` that was incomplete at every try. The text is its
    /// content.
    NotLastExited(String),
    /// It is a zone index without the global zone, which it always has.
    NoGlobalZone,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such file"),
            Self::Io(why) => f.write_str(why),
            Self::NotJson(why) => write!(f, "not JSON: {why}"),
            Self::TooDeep => {
                write!(f, "the JSON nests deeper than {JSON_DEPTH} levels")
            }
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::Xml(error) => error.fmt(f),
            Self::Refused(refusal) => {
                write!(f, "zonecfg refuses it: {refusal}")
            }
            Self::NotLastExited(text) => {
                write!(
                    f,
                    "expected SECONDS.MICROSECONDS STATUS, found {text:?}"
                )
            }
            Self::NoGlobalZone => {
                f.write_str("lacks the global zone: the file is incomplete")
            }
        }
    }
}

/// Why a document is not the XML of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XmlError {
    /// It has more attributes than this.
    Attributes(usize),
    /// It is not XML; the text is the parser's error message.
    Malformed(String),
    /// Its root is this element, not `zone`.
    Root(String),
    /// Its zone has no brand.
    NoBrand,
}

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attributes(most) => write!(f, "over {most} attributes"),
            Self::Malformed(why) => f.write_str(why),
            Self::Root(name) => {
                write!(f, "the root element is <{name}>, not <zone>")
            }
            Self::NoBrand => f.write_str("the zone has no brand"),
        }
    }
}
