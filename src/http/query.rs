//! Query strings: names and values, decoded, and what each of them may be.

use std::time::Duration;

/// One `NAME=VALUE` of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// The value; empty without `=`.
    pub value: String,
}

/// Reads a query: `+` is a space, `%XX` a byte.
///
/// # Errors
/// A sentence, if that is no text.
pub fn parse(query: &str) -> Result<Vec<Parameter>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let read = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| {
            percent_decode(&text.replace('+', " "))
                .ok_or_else(|| format!("not UTF-8 behind its %: {text}"))
        };
        Ok(Parameter { name: decoded(name)?, value: decoded(value)? })
    });
    read.collect()
}

/// Decodes `%XX` once; `None` if that is no text.
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
    /// That there is no such parameter here.
    #[must_use]
    pub fn unknown(&self) -> String {
        format!("unknown query parameter or value: {}", self.name)
    }

    fn wrong(&self, wanted: &str) -> String {
        format!("{}={}: {wanted}", self.name, self.value)
    }

    /// Yes or no.
    ///
    /// # Errors
    /// A sentence, for anything else.
    pub fn flag(&self) -> Result<bool, String> {
        match self.value.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(self.wrong("1 or 0 is wanted")),
        }
    }

    /// A time in seconds, from `least` to `most`.
    ///
    /// # Errors
    /// A sentence, for anything else.
    pub fn seconds(
        &self,
        least: Duration,
        most: Duration,
    ) -> Result<Duration, String> {
        let number = self.value.parse::<f64>().ok();
        let time = number.and_then(|n| Duration::try_from_secs_f64(n).ok());
        time.filter(|time| (least..=most).contains(time)).ok_or_else(|| {
            let (least, most) = (least.as_secs_f64(), most.as_secs_f64());
            self.wrong(&format!("seconds from {least} to {most} are wanted"))
        })
    }

    /// A number.
    ///
    /// # Errors
    /// A sentence, for anything else.
    pub fn number(&self) -> Result<u64, String> {
        let number = self.value.parse().ok();
        number.ok_or_else(|| self.wrong("a number is wanted"))
    }

    /// One of these.
    ///
    /// # Errors
    /// A sentence, for anything else.
    pub fn one_of<T: Copy>(&self, all: &[(&str, T)]) -> Result<T, String> {
        let found = all.iter().find(|(name, _)| *name == self.value);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
            self.wrong(&format!("one of {} is wanted", names.join(", ")))
        })
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// A sentence, for one that is.
    pub fn text(self) -> Result<String, String> {
        match self.value.is_empty() {
            true => Err(self.wrong("a value is wanted")),
            false => Ok(self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(query: &str) -> Parameter {
        parse(query).unwrap().remove(0)
    }

    #[test]
    fn names_and_values_are_decoded_once() {
        let pairs = |query: &str| {
            let parsed = parse(query).unwrap().into_iter();
            parsed.map(|p| (p.name, p.value)).collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("&&"), []);
        assert_eq!(pairs("a"), [pair("a", "")]);
        assert_eq!(pairs("a=b=c&d="), [pair("a", "b=c"), pair("d", "")]);
        assert_eq!(pairs("a%3db=x+y%2B%252B"), [pair("a=b", "x y+%2B")]);
        assert!(parse("a=%ff").is_err() && parse("%4=a").is_err());
    }

    #[test]
    fn values_are_what_they_have_to_be_or_are_named() {
        assert_eq!(one("x=1").flag(), Ok(true));
        assert_eq!(one("x=false").flag(), Ok(false));
        assert!(one("x=yes").flag().unwrap_err().contains("x=yes"));
        let second = Duration::from_secs(1);
        let seconds = |q: &str| one(q).seconds(second / 2, second * 5);
        assert_eq!(seconds("x=1.5"), Ok(second * 3 / 2));
        for bad in ["x=", "x=-1", "x=0.1", "x=6", "x=NaN", "x=inf", "x=1s"] {
            assert!(seconds(bad).unwrap_err().contains(bad), "{bad}");
        }
        assert_eq!(one("x=7").number(), Ok(7));
        for bad in ["x=", "x=-1", "x=1.5", "x=99999999999999999999999"] {
            assert!(one(bad).number().unwrap_err().contains(bad), "{bad}");
        }
        assert_eq!(one("x=b").one_of(&[("a", 1), ("b", 2)]), Ok(2));
        let error = one("x=c").one_of(&[("a", 1), ("b", 2)]).unwrap_err();
        assert_eq!(error, "x=c: one of a, b is wanted");
        assert!(one("x=").text().is_err());
    }
}
