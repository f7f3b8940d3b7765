//! Options and operands of a verb.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use vminfod_client::{Address, Client, TIME_LIMIT};

use super::Failure;
use crate::settings;

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// Its long names, without the dashes. [`Args`] knows it by the first.
    pub long: &'static [&'static str],
    /// What the help calls its value; `None` if it has none.
    pub value: Option<&'static str>,
    /// What it does, with its unit and default: for the help.
    pub meaning: &'static str,
}

/// An option with a letter and without a value.
pub const fn flag(
    short: char,
    long: &'static [&'static str],
    meaning: &'static str,
) -> Opt {
    Opt { short: Some(short), ..switch(long, meaning) }
}

/// An option without a letter and without a value.
pub const fn switch(
    long: &'static [&'static str],
    meaning: &'static str,
) -> Opt {
    Opt { short: None, long, value: None, meaning }
}

/// An option without a letter that has a value.
pub const fn value(
    long: &'static [&'static str],
    value: &'static str,
    meaning: &'static str,
) -> Opt {
    Opt { value: Some(value), ..switch(long, meaning) }
}

/// An option as it is written: `--since SEQ`.
#[must_use]
pub fn long_of(option: &Opt) -> String {
    let name = option.long.first().copied().unwrap_or_default();
    match option.value {
        Some(value) => format!("--{name} {value}"),
        None => format!("--{name}"),
    }
}

/// The options of every verb that asks a daemon.
pub const CLIENT: [Opt; 2] = [
    value(
        &["server"],
        "ADDR",
        "the daemon's ADDR:PORT, or the path of its socket (the variable \
         VMINFOD_SERVER, else 127.0.0.1:9090)",
    ),
    value(
        &["time-limit"],
        "SECS",
        "how long an answer may take, in seconds (30)",
    ),
];

/// `--root`, which the verbs have that load a host.
pub const ROOT: Opt = value(
    &["root"],
    "DIR",
    "load the simulated host below this directory (/, this host)",
);

/// The command line after the verb.
#[derive(Debug)]
pub struct Args {
    given: Vec<(&'static str, String)>,
    /// The arguments that are not options.
    pub operands: Vec<String>,
}

impl Args {
    /// Parses a command line that may have these options. If the last option
    /// lacks its value, it gets `lacking`; without `lacking` that is an error.
    pub fn parse(
        args: Vec<OsString>,
        options: &[&[Opt]],
        lacking: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut parsed = Self { given: Vec::new(), operands: Vec::new() };
        while let Some(arg) = parser.next()? {
            let is_meant = |o: &&Opt| match arg {
                Short(letter) => o.short == Some(letter),
                Long(name) => o.long.contains(&name),
                Value(_) => false,
            };
            let option = options.iter().copied().flatten().find(is_meant);
            match (option.copied(), arg) {
                (Some(option), _) => {
                    let value = match (option.value.is_some(), lacking) {
                        (false, _) => String::new(),
                        (true, None) => parser.value()?.string()?,
                        (true, Some(lacking)) => match parser.value() {
                            Err(lexopt::Error::MissingValue { .. }) => {
                                lacking.to_string()
                            }
                            value => value?.string()?,
                        },
                    };
                    parsed.given.push((option.long[0], value));
                }
                (None, Value(operand)) => {
                    parsed.operands.push(operand.string()?);
                }
                (None, Long("help") | Short('h')) => {
                    return Err(Failure::Help);
                }
                (None, Long(name)) => {
                    let known = options.iter().copied().flatten();
                    let known = known.flat_map(|o| o.long.iter().copied());
                    return Err(unknown(name, known));
                }
                (None, other) => return Err(other.unexpected().into()),
            }
        }
        Ok(parsed)
    }

    /// The options in the order in which they are given, with their values.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.given.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether an option is given.
    pub fn has(&self, option: &str) -> bool {
        self.last(option).is_some()
    }

    /// The value of an option. If it is given more than once, the last one
    /// counts.
    pub fn last(&self, option: &str) -> Option<&str> {
        let mut given = self.given.iter().rev();
        given.find(|(name, _)| *name == option).map(|(_, v)| v.as_str())
    }

    /// The values of an option that may be given more than once.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        let given = self.given.iter().filter(move |(name, _)| *name == option);
        given.map(|(_, value)| value.as_str())
    }

    /// Which of two options is given last.
    pub fn later<'a>(&self, a: &'a str, b: &'a str) -> Option<&'a str> {
        let mut given = self.given.iter().rev();
        let later = given.find(|(name, _)| [a, b].contains(name))?;
        Some(if later.0 == a { a } else { b })
    }

    /// The value of an option in seconds, which may be 0; `None` if the option
    /// is not given.
    pub fn seconds(&self, option: &str) -> Result<Option<Duration>, Failure> {
        let read = |text: &str| match text {
            "0" => Ok(Duration::ZERO),
            text => seconds(text),
        };
        self.last(option).map(read).transpose()
    }

    /// A client that must have all its answers within `--time-limit`, counted
    /// from now. Without that option, each answer may take [`TIME_LIMIT`].
    pub fn client_with_deadline(&self, agent: &str) -> Result<Client, Failure> {
        let client = self.client(agent)?;
        Ok(match self.seconds("time-limit")? {
            // A deadline too far away to compute is no deadline.
            Some(time) => match Instant::now().checked_add(time) {
                Some(until) => client.until(until),
                None => client,
            },
            None => client,
        })
    }

    /// A client of the daemon at `--server`, else where the environment
    /// says. The daemon sees `agent` as the client's name.
    pub fn client(&self, agent: &str) -> Result<Client, Failure> {
        let server = match self.last("server") {
            Some(text) => socket_address(text)?,
            None => Address::from_env().map_err(Failure::usage)?,
        };
        let version = env!("CARGO_PKG_VERSION");
        let client = Client::new(server).name(&format!("{agent}/{version}"));
        let time = self.last("time-limit").map(seconds).transpose()?;
        Ok(client.time_limit(time.unwrap_or(TIME_LIMIT)))
    }
}

/// The failure that there is no long option of this name.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let meant = match nearest(name, known) {
        Some(meant) => format!(" (did you mean '--{meant}'?)"),
        None => String::new(),
    };
    Failure::Usage(format!("invalid option '--{name}'{meant}"))
}

/// The most typos in a name: one letter is wrong, missing or too many, or two
/// are swapped.
const TYPOS_MAX: usize = 2;

/// There may be one typo for so many letters.
const LETTERS_PER_TYPO: usize = 3;

/// The name that is probably meant by a mistyped one.
#[must_use]
pub fn nearest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let typos = known.map(|known| (distance(name, known), known));
    let near = typos.filter(|(n, known)| {
        *n <= TYPOS_MAX.min(known.len() / LETTERS_PER_TYPO)
    });
    near.min_by_key(|(n, _)| *n).map(|(_, known)| known)
}

/// How many letters must be replaced, added or removed, or neighbours swapped,
/// to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<_>>());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let is_other = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j - 1] + is_other)
                .min(rows[i - 1][j] + 1)
                .min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Parses a time in seconds, which must be more than 0.
pub fn seconds(text: &str) -> Result<Duration, Failure> {
    settings::seconds(text)
        .ok_or_else(|| Failure::Usage(format!("not a time in seconds: {text}")))
}

/// Parses an address: one to listen on, or that of a daemon to ask.
pub fn socket_address(text: &str) -> Result<Address, Failure> {
    text.parse::<Address>().map_err(Failure::usage)
}
