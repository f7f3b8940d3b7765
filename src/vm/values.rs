//! Translates text from the system into members of a VM object.
//!
//! Each rule is one of the reference's translators, including its edge cases:
//! clients depend on them.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::macros::format_description;

use crate::vm::json::Json;

/// Text as it is.
#[must_use]
pub fn text(s: &str) -> Json {
    Json::from(s)
}

/// JavaScript's `Number(s)`; text that is not a number becomes `null`.
#[must_use]
pub fn number(s: &str) -> Json {
    parse_number(s).map_or(Json::Null, Json::Number)
}

/// `true` and `false`; any other text stays text.
#[must_use]
pub fn bool_strict(s: &str) -> Json {
    match s {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        other => Json::from(other),
    }
}

/// Decodes base64 of UTF-8. Blanks and foreign characters are skipped, padding
/// may be missing, `-` and `_` stand for `+` and `/`, and invalid UTF-8 becomes
/// U+FFFD.
#[must_use]
pub fn base64_utf8(s: &str) -> Json {
    let mut bytes = Vec::with_capacity(s.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for c in s.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Json::from(String::from_utf8_lossy(&bytes).into_owned())
}

/// The parts between commas. They are not trimmed, and empty ones are kept.
#[must_use]
pub fn split_commas(s: &str) -> Json {
    Json::from(s.split(',').map(Json::from).collect::<Vec<_>>())
}

/// The parts between commas, as numbers.
#[must_use]
pub fn split_commas_number(s: &str) -> Json {
    Json::from(s.split(',').map(number).collect::<Vec<_>>())
}

/// Converts bytes to MiB; a fraction is kept.
#[must_use]
pub fn bytes_to_mib(s: &str) -> Json {
    parse_number(s).map_or(Json::Null, |n| Json::Number(n / MIB))
}

/// Bytes in a MiB.
pub const MIB: f64 = 1_048_576.0;

/// Bytes in a GiB.
pub const GIB: f64 = 1_073_741_824.0;

/// JavaScript's `Number(s)`, `None` for NaN.
#[must_use]
pub fn parse_number(s: &str) -> Option<f64> {
    let s = s.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let radix = |digits: &str, radix| {
        let value = digits.chars().try_fold(0.0, |value, c| {
            Some(value * f64::from(radix) + f64::from(c.to_digit(radix)?))
        });
        value.filter(|_| !digits.is_empty())
    };
    match s.get(..2) {
        Some("0x" | "0X") => return radix(&s[2..], 16),
        Some("0o" | "0O") => return radix(&s[2..], 8),
        Some("0b" | "0B") => return radix(&s[2..], 2),
        _ => {}
    }
    match s {
        "" => Some(0.0),
        "Infinity" | "+Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        // Rust would also accept "inf" and "nan".
        _ if s.contains(|c: char| {
            !c.is_ascii_digit() && !"+-.eE".contains(c)
        }) =>
        {
            None
        }
        _ => s.parse().ok(),
    }
}

/// Formats milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SS.mmmZ`, like
/// `Date.prototype.toISOString`: years after 9999 and before 0 have a sign and
/// six digits. `None` outside the range of a JavaScript date.
#[must_use]
pub fn iso_date(ms: i64) -> Option<String> {
    if !(-DATE_MAX_MS..=DATE_MAX_MS).contains(&ms) {
        return None;
    }
    // The calendar repeats itself every 400 years. So the date is computed
    // within the 400 years from 1970 on, and the year is then moved by as many
    // cycles as needed.
    let (cycles, ms) = (ms.div_euclid(CYCLE_MS), ms.rem_euclid(CYCLE_MS));
    let nanos = i128::from(ms) * 1_000_000;
    let date = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    let year = i64::from(date.year()) + 400 * cycles;
    let rest = date.format(format_description!(
        "-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    ));
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    Some(year + &rest.ok()?)
}

/// 400 years, in milliseconds.
const CYCLE_MS: i64 = 146_097 * 86_400_000;

/// How far a JavaScript date can be from the epoch, in milliseconds before or
/// after it.
const DATE_MAX_MS: i64 = 8_640_000_000_000_000;

/// A point in time as ISO 8601, UTC, with milliseconds.
#[must_use]
pub fn date_text(date: SystemTime) -> String {
    let since = date.duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(0));
    iso_date(ms).unwrap_or_default()
}

/// Converts seconds since the epoch to ISO 8601. The fraction is truncated to
/// milliseconds. `None` if JavaScript has no such date.
#[must_use]
pub fn epoch_seconds_to_iso(seconds: f64) -> Option<String> {
    let ms = (seconds * 1000.0).trunc();
    // A value that is too large becomes the largest integer, which is outside
    // the range of dates.
    #[allow(clippy::cast_possible_truncation)]
    if ms.is_nan() { None } else { iso_date(ms as i64) }
}

/// Seconds since the epoch as an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn http_date(seconds: u64) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] \
         [hour]:[minute]:[second] GMT"
    );
    let date = i64::try_from(seconds).ok();
    let date = date.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    date.and_then(|date| date.format(format).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        for (text, value) in [
            ("", Some(0.0)),
            (" 12\n", Some(12.0)),
            ("0x10", Some(16.0)),
            ("0b101", Some(5.0)),
            ("1e3", Some(1000.0)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("+7", Some(7.0)),
            ("-0x10", None),
            ("0x", None),
            ("12px", None),
            ("nan", None),
            ("inf", None),
            ("1_000", None),
            (".", None),
            ("Infinity", Some(f64::INFINITY)),
        ] {
            assert_eq!(parse_number(text), value, "{text:?}");
        }
    }

    #[test]
    fn base64_is_lenient() {
        for (text, decoded) in [
            ("", ""),
            ("dm0tMzk=", "vm-39"),
            ("dm0tMzk", "vm-39"),
            (" d m\n0t*Mzk=", "vm-39"),
            ("c8OpY3JldA==", "sécret"),
            ("_-8=", "\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(base64_utf8(text), Json::from(decoded), "{text:?}");
        }
    }

    #[test]
    fn lists_are_split_at_commas_only() {
        assert_eq!(split_commas("").to_string(), r#"[""]"#);
        assert_eq!(split_commas("a, b").to_string(), r#"["a"," b"]"#);
        assert_eq!(split_commas_number("25,,x").to_string(), "[25,0,null]");
    }

    #[test]
    fn text_that_is_not_a_boolean_stays_text() {
        assert_eq!(bool_strict("true"), Json::Bool(true));
        assert_eq!(bool_strict("True"), Json::from("True"));
        assert_eq!(bool_strict(""), Json::from(""));
    }

    #[test]
    fn sizes_keep_their_fraction() {
        assert_eq!(bytes_to_mib("268435457").to_string(), "256.0000009536743");
        assert_eq!(bytes_to_mib("x"), Json::Null);
    }

    #[test]
    fn dates_have_three_decimals_and_truncate() {
        assert_eq!(
            epoch_seconds_to_iso(1_430_183_276.578_94).as_deref(),
            Some("2015-04-28T01:07:56.578Z")
        );
        assert_eq!(
            epoch_seconds_to_iso(0.0).as_deref(),
            Some("1970-01-01T00:00:00.000Z")
        );
        for (seconds, text) in [
            (253_402_300_799.999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800.0, "+010000-01-01T00:00:00.000Z"),
            (-62_167_219_200.001, "-000001-12-31T23:59:59.999Z"),
            (8.64e12, "+275760-09-13T00:00:00.000Z"),
            (-8.64e12, "-271821-04-20T00:00:00.000Z"),
        ] {
            let date = epoch_seconds_to_iso(seconds);
            assert_eq!(date.as_deref(), Some(text));
        }
        assert_eq!(epoch_seconds_to_iso(8.64e12 + 0.001), None);
        assert_eq!(iso_date(i64::MIN), None);
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(epoch_seconds_to_iso(f64::INFINITY), None);
        assert_eq!(epoch_seconds_to_iso(1e14), None);
    }
}
