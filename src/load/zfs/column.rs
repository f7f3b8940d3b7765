//! A numeric column of zfs(8), in eight bytes: there are ten a dataset.

use crate::json::Json;
use crate::translate::parse_number;

/// What a numeric column says. Sizes are bytes, dates seconds since the epoch
/// (`zfs list -p`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column(u64);

/// The bits of a number; no number is NaN, so that two of its many patterns
/// are free for what is none.
const NOT_APPLICABLE: u64 = 0x7ff8_0000_0000_0001;
/// See [`NOT_APPLICABLE`].
const NO_NUMBER: u64 = 0x7ff8_0000_0000_0002;

impl Column {
    pub(super) fn parse(field: &str) -> Self {
        match (field, parse_number(field)) {
            ("-", _) => Self(NOT_APPLICABLE),
            (_, Some(number)) => Self(number.to_bits()),
            (_, None) => Self(NO_NUMBER),
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        Some(f64::from_bits(self.0)).filter(|number| !number.is_nan())
    }

    /// As it is served: a column that does not apply is the string `-`, as the
    /// reference keeps it, and what is no number is `null`.
    #[must_use]
    pub fn json(self) -> Json {
        match self.0 {
            NOT_APPLICABLE => Json::from("-"),
            _ => self.number().map_or(Json::Null, Json::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_what_zfs_prints() {
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
