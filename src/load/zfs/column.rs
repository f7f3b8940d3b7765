//! A numeric column of zfs(8).

use crate::vm::json::Json;
use crate::vm::values::parse_number;

/// The value of a numeric column. Sizes are in bytes, dates in seconds since
/// the epoch (`zfs list -p`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Column {
    /// A number.
    Number(f64),
    /// `-`: the dataset has no such property.
    NotApplicable,
    /// A text that is not a number, such as `none`.
    NoNumber,
}

impl Column {
    pub(super) fn parse(field: &str) -> Self {
        match (field, parse_number(field)) {
            ("-", _) => Self::NotApplicable,
            (_, Some(number)) if !number.is_nan() => Self::Number(number),
            _ => Self::NoNumber,
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(number),
            Self::NotApplicable | Self::NoNumber => None,
        }
    }

    /// The value as it is served. A column that does not apply is the string
    /// `-`, as in the reference implementation. A text that is not a number is
    /// `null`.
    #[must_use]
    pub fn json(self) -> Json {
        match self {
            Self::Number(number) => Json::Number(number),
            Self::NotApplicable => Json::from("-"),
            Self::NoNumber => Json::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_columns_are_parsed_and_served_as_documented() {
        for (field, number, json) in [
            ("26843545600", Some(26_843_545_600.0), "26843545600"),
            ("0", Some(0.0), "0"),
            ("-", None, "\"-\""),
            ("none", None, "null"),
            ("NaN", None, "null"),
            ("-nan", None, "null"),
        ] {
            let column = Column::parse(field);
            assert_eq!(column.number(), number, "{field}");
            assert_eq!(column.json().to_string(), json, "{field}");
            assert_eq!(column, Column::parse(field), "{field}");
        }
        assert_ne!(Column::parse("-"), Column::parse("none"));
        assert_ne!(Column::parse("1"), Column::parse("2"));
    }
}
