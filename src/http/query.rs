//! Query strings: decodes names and values, and checks the values.

use std::fmt;
use std::time::Duration;

use crate::vm::filter::ConditionError;
use crate::vm::path::UnknownProperty;

/// One `NAME=VALUE` of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// The value; empty if there is no `=`.
    pub value: String,
    /// Whether there is a `=`.
    pub has_value: bool,
}

/// Why a query is not valid. Its text is the error of an answer with status
/// 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// A name or value can't be decoded: see [`percent_decode`].
    NotText(String),
    /// The name of a VM in the path can't be decoded: see [`percent_decode`].
    NotAName(String),
    /// There is no such parameter, but there are these.
    Unknown(String, &'static [&'static str]),
    /// It is neither a parameter nor a condition that a VM could meet, and why.
    Condition(String, ConditionError),
    /// No VM can have this field or path.
    Property(UnknownProperty),
    /// A parameter can't have this value.
    Value {
        /// The parameter.
        name: String,
        /// What it was set to.
        value: String,
        /// What it can be.
        wanted: WantedValue,
    },
    /// The first makes no sense without the second.
    Without(&'static str, &'static str),
}

/// What a parameter's value can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedValue {
    /// `1` or `0`.
    Flag,
    /// A time.
    Seconds {
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A number.
    Number,
    /// One of these words.
    OneOf(Vec<String>),
    /// Any text that is not empty.
    Value,
    /// A path without array indices: in the path of a change, an element is
    /// `*`.
    PathOfChanges,
    /// `PROPERTY=VALUE`, or `gone`.
    WaitWords,
    /// Either conditions or `gone`, but not both.
    OneKindOfWait,
    /// A valid condition; the error says why this is none.
    Condition(ConditionError),
}

impl fmt::Display for WantedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("must be 1 or 0"),
            Self::Seconds { least, most } => {
                let [least, most] = [least, most].map(Duration::as_secs_f64);
                write!(f, "must be {least} to {most} seconds")
            }
            Self::Number => f.write_str("must be a number"),
            Self::OneOf(names) => {
                write!(f, "must be one of {}", names.join(", "))
            }
            Self::Value => f.write_str("must not be empty"),
            Self::PathOfChanges => {
                f.write_str("use * for an array element, not its index")
            }
            Self::WaitWords => f.write_str("must be PROPERTY=VALUE or gone"),
            Self::OneKindOfWait => f.write_str(
                "wait=gone can't be combined with wait=PROPERTY=VALUE",
            ),
            Self::Condition(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = "unknown query parameter or value";
        match self {
            Self::NotText(text) => {
                write!(f, "bad %XX, or not UTF-8 once decoded: {text}")
            }
            Self::NotAName(name) => write!(
                f,
                "bad %XX, or not UTF-8 once decoded, in the name of the VM: \
                 {name}"
            ),
            Self::Unknown(name, known) => {
                let (name, known) = (shortened(name), known.join(", "));
                write!(f, "{unknown}: {name}; there are {known}")
            }
            Self::Condition(name, ConditionError::Unknown(error)) => {
                write!(f, "{unknown}: {}", shortened(name))?;
                write_known(f, error)?;
                f.write_str("; besides, there are fields, sync, timeout")
            }
            Self::Condition(name, error) => {
                write!(f, "{unknown}: {}: {error}", shortened(name))
            }
            Self::Property(error) => {
                write!(f, "no such property: {}", shortened(&error.0))?;
                write_known(f, error)
            }
            Self::Value { name, value, wanted } => {
                write!(f, "{name}={value}: {wanted}")
            }
            Self::Without(name, other) => write!(f, "{name}= needs {other}"),
        }
    }
}

/// Writes which properties there are.
fn write_known(
    f: &mut fmt::Formatter<'_>,
    error: &UnknownProperty,
) -> fmt::Result {
    match &error.known()[..] {
        [] => f.write_str("; it has no members of its own"),
        known => write!(f, "; there are {}", known.join(", ")),
    }
}

/// The most characters of a wrong name that an error repeats.
const SHOWN_MAX: usize = 100;

/// A wrong name as an error repeats it.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(SHOWN_MAX) {
        _ if name.is_empty() => "an empty name".to_string(),
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_string(),
    }
}

impl std::error::Error for QueryError {}

impl From<UnknownProperty> for QueryError {
    fn from(error: UnknownProperty) -> Self {
        Self::Property(error)
    }
}

/// The parameters of a query, each an error if its name or value can't be
/// decoded: see [`percent_decode`]. `+` is a space, `%XX` a byte.
pub fn parse(
    query: &str,
) -> impl Iterator<Item = Result<Parameter, QueryError>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        let decoded = |text: &str| {
            percent_decode(&text.replace('+', " "))
                .ok_or_else(|| QueryError::NotText(text.to_string()))
        };
        Ok(Parameter {
            name: decoded(name)?,
            value: decoded(value.unwrap_or_default())?,
            has_value: value.is_some(),
        })
    })
}

/// Decodes `%XX` once; `None` if a `%` has no two hexadecimal digits after it,
/// or if the result is not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

impl Parameter {
    /// The error that there is no such parameter here, but these.
    #[must_use]
    pub fn unknown_name(&self, known: &'static [&'static str]) -> QueryError {
        QueryError::Unknown(self.name.clone(), known)
    }

    /// The error that its value is not what is `wanted`.
    #[must_use]
    pub fn bad_value(&self, wanted: WantedValue) -> QueryError {
        let (name, value) = (self.name.clone(), self.value.clone());
        QueryError::Value { name, value, wanted }
    }

    /// Yes (`1` or `true`) or no (`0` or `false`).
    ///
    /// # Errors
    /// For any other value.
    pub fn flag(&self) -> Result<bool, QueryError> {
        match self.value.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(self.bad_value(WantedValue::Flag)),
        }
    }

    /// Yes or no as today's daemon reads it: only an empty value, `0` and
    /// `false` are no. A name without a value is yes.
    #[must_use]
    pub fn loose_flag(&self) -> bool {
        !self.has_value || !matches!(self.value.as_str(), "" | "0" | "false")
    }

    /// A time in seconds, from `least` to `most`.
    ///
    /// # Errors
    /// For any other value.
    pub fn seconds(
        &self,
        least: Duration,
        most: Duration,
    ) -> Result<Duration, QueryError> {
        let number = self.value.parse::<f64>().ok();
        let time = number.and_then(|n| Duration::try_from_secs_f64(n).ok());
        time.filter(|time| (least..=most).contains(time))
            .ok_or_else(|| self.bad_value(WantedValue::Seconds { least, most }))
    }

    /// A number from 0 to the largest `u64`.
    ///
    /// # Errors
    /// For any other value.
    pub fn number(&self) -> Result<u64, QueryError> {
        let number = self.value.parse().ok();
        number.ok_or_else(|| self.bad_value(WantedValue::Number))
    }

    /// The item of `all` whose name is the value.
    ///
    /// # Errors
    /// For any other value.
    pub fn one_of<T: Copy>(&self, all: &[(&str, T)]) -> Result<T, QueryError> {
        let found = all.iter().find(|(name, _)| *name == self.value);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names = all.iter().map(|(name, _)| (*name).to_string());
            self.bad_value(WantedValue::OneOf(names.collect()))
        })
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// If it is empty.
    pub fn non_empty(self) -> Result<String, QueryError> {
        match self.value.is_empty() {
            true => Err(self.bad_value(WantedValue::Value)),
            false => Ok(self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(query: &str) -> Parameter {
        parse(query).next().unwrap().unwrap()
    }

    #[test]
    fn names_and_values_are_decoded_once() {
        let pairs = |query: &str| {
            let parsed = parse(query).map(Result::unwrap);
            parsed.map(|p| (p.name, p.value)).collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("&&"), []);
        assert_eq!(pairs("a"), [pair("a", "")]);
        assert_eq!(pairs("a=b=c&d="), [pair("a", "b=c"), pair("d", "")]);
        assert_eq!(pairs("a%3db=x+y%2B%252B"), [pair("a=b", "x y+%2B")]);
        assert!(["a=%ff", "%4=a"].iter().all(|q| parse(q).all(|p| p.is_err())));
    }

    #[test]
    fn a_value_that_is_not_allowed_is_named_in_the_error() {
        assert_eq!(one("x=1").flag(), Ok(true));
        assert_eq!(one("x=false").flag(), Ok(false));
        assert!(one("x=yes").flag().unwrap_err().to_string().contains("x=yes"));
        let second = Duration::from_secs(1);
        let seconds = |q: &str| one(q).seconds(second / 2, second * 5);
        assert_eq!(seconds("x=1.5"), Ok(second * 3 / 2));
        for bad in ["x=", "x=-1", "x=0.1", "x=6", "x=NaN", "x=inf", "x=1s"] {
            assert!(
                seconds(bad).unwrap_err().to_string().contains(bad),
                "{bad}"
            );
        }
        assert_eq!(one("x=7").number(), Ok(7));
        for bad in ["x=", "x=-1", "x=1.5", "x=99999999999999999999999"] {
            assert!(
                one(bad).number().unwrap_err().to_string().contains(bad),
                "{bad}"
            );
        }
        assert_eq!(one("x=b").one_of(&[("a", 1), ("b", 2)]), Ok(2));
        let error = one("x=c").one_of(&[("a", 1), ("b", 2)]).unwrap_err();
        assert_eq!(error.to_string(), "x=c: must be one of a, b");
        assert!(one("x=").non_empty().is_err());
    }
}
