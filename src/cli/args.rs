//! Options and operands of a verb.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lexopt::prelude::*;

use super::Failure;
use crate::address::Address;
use crate::client::{Client, TIME_LIMIT};
use crate::config::DEFAULT_LISTEN;
use crate::settings;

/// The environment variable that says where the daemon listens, if `--server`
/// does not.
pub const SERVER_VARIABLE: &str = "VMINFOD_SERVER";

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// Its long names, without the dashes. [`Args`] knows it by the first.
    pub long: &'static [&'static str],
    /// Whether it has a value.
    pub has_value: bool,
}

/// An option with a letter and without a value.
pub const fn flag(short: char, long: &'static [&'static str]) -> Opt {
    Opt { short: Some(short), long, has_value: false }
}

/// An option without a letter and without a value.
pub const fn switch(long: &'static [&'static str]) -> Opt {
    Opt { short: None, long, has_value: false }
}

/// An option without a letter that has a value.
pub const fn value(long: &'static [&'static str]) -> Opt {
    Opt { short: None, long, has_value: true }
}

/// The options of every verb that asks a daemon: where the daemon listens, and
/// how long its answers may take.
pub const CLIENT: [Opt; 2] = [value(&["server"]), value(&["time-limit"])];

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
    ) -> Result<Self, lexopt::Error> {
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
                    let value = match (option.has_value, lacking) {
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
                (None, other) => return Err(other.unexpected()),
            }
        }
        Ok(parsed)
    }

    /// Like [`Args::parse`], but with at most so many operands.
    pub fn with_operands(
        args: Vec<OsString>,
        options: &[&[Opt]],
        operands: usize,
    ) -> Result<Self, Failure> {
        let args = Self::parse(args, options, None)?;
        match args.operands.get(operands) {
            Some(extra) => {
                Err(Failure::Usage(format!("unexpected argument {extra:?}")))
            }
            None => Ok(args),
        }
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

    /// A client of the daemon at `--server`, else at [`SERVER_VARIABLE`], else
    /// at [`DEFAULT_LISTEN`]. The daemon sees `agent` as the client's name.
    pub fn client(&self, agent: &str) -> Result<Client, Failure> {
        let variable = match std::env::var(SERVER_VARIABLE) {
            Err(std::env::VarError::NotUnicode(text)) => {
                Some(text.to_string_lossy().into_owned())
            }
            variable => variable.ok(),
        };
        let variable = variable.as_deref().filter(|text| !text.is_empty());
        let server = match (self.last("server"), variable) {
            (Some(text), _) => socket_address(text)?,
            (None, Some(text)) => text.parse().map_err(|e| {
                Failure::Usage(format!("{SERVER_VARIABLE}: {e}"))
            })?,
            (None, None) => socket_address(DEFAULT_LISTEN)?,
        };
        let version = env!("CARGO_PKG_VERSION");
        let client = Client::new(server).name(&format!("{agent}/{version}"));
        let time = self.last("time-limit").map(seconds).transpose()?;
        Ok(client.time_limit(time.unwrap_or(TIME_LIMIT)))
    }
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
