//! Sorts VMs as vmadm does, by JavaScript's rules of comparison.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::fields::ListField;
use crate::vm::filter::text_of;
use crate::vm::json::{Json, Object};

/// A key to sort by.
#[derive(Debug)]
pub struct SortKey {
    /// The field whose values are compared.
    pub field: ListField,
    /// Whether the order is reversed.
    pub is_descending: bool,
}

/// Sorts by these keys. VMs that are equal by all of them keep their order.
///
/// This is a merge sort of our own: JavaScript's comparison of values of
/// different types is not a total order, and the standard library's sort
/// requires one.
#[must_use]
pub fn sorted<'a>(vms: &[&'a Object], keys: &[SortKey]) -> Vec<&'a Object> {
    if vms.len() < 2 {
        return vms.to_vec();
    }
    let (left, right) = vms.split_at(vms.len() / 2);
    let (left, right) = (sorted(left, keys), sorted(right, keys));
    let mut left = left.into_iter().peekable();
    let mut merged = Vec::with_capacity(vms.len());
    for vm in right {
        while let Some(first) =
            left.next_if(|first| compare(first, vm, keys).is_le())
        {
            merged.push(first);
        }
        merged.push(vm);
    }
    merged.extend(left);
    merged
}

fn compare(a: &Object, b: &Object, keys: &[SortKey]) -> Ordering {
    let by_key = keys.iter().map(|key| {
        let (a, b) = (key.field.of(a), key.field.of(b));
        let ascending = compare_values(a.as_deref(), b.as_deref());
        match key.is_descending {
            true => ascending.reverse(),
            false => ascending,
        }
    });
    by_key.into_iter().find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// An absent value, `null`, 0, `false` and `""` come last.
fn compare_values(a: Option<&Json>, b: Option<&Json>) -> Ordering {
    let (a, b) = (a.filter(|v| is_truthy(v)), b.filter(|v| is_truthy(v)));
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => match (primitive(a), primitive(b)) {
            (Primitive::Text(a), Primitive::Text(b)) => {
                a.encode_utf16().cmp(b.encode_utf16())
            }
            // A value that is not a number is neither less nor greater than any
            // other, so it counts as equal.
            (a, b) => {
                let numbers = a.number().partial_cmp(&b.number());
                numbers.unwrap_or(Ordering::Equal)
            }
        },
    }
}

/// Whether JavaScript takes a value for true.
#[must_use]
pub fn is_truthy(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(b) => *b,
        Json::Number(n) => *n != 0.0,
        Json::String(text) => !text.is_empty(),
        Json::Array(_) | Json::Object(_) => true,
    }
}

enum Primitive<'a> {
    Number(f64),
    Text(Cow<'a, str>),
}

fn primitive(value: &Json) -> Primitive<'_> {
    match value {
        Json::Number(n) => Primitive::Number(*n),
        Json::Bool(b) => Primitive::Number(f64::from(u8::from(*b))),
        other => Primitive::Text(text_of(other).unwrap_or_default()),
    }
}

impl Primitive<'_> {
    fn number(&self) -> f64 {
        match self {
            Self::Number(n) => *n,
            Self::Text(text) => number_of(text),
        }
    }
}

/// A text as a number, by the rules of JavaScript's `Number()`; NaN if it is
/// not a number.
#[must_use]
pub fn number_of(text: &str) -> f64 {
    let text = text.trim();
    let radix = |digits: &str, radix| {
        let is_digit = |c: char| c.is_digit(radix);
        let is_number = !digits.is_empty() && digits.chars().all(is_digit);
        let number = is_number.then(|| u64::from_str_radix(digits, radix));
        #[allow(clippy::cast_precision_loss)]
        number.and_then(Result::ok).map_or(f64::NAN, |n| n as f64)
    };
    match text {
        "" => return 0.0,
        "Infinity" | "+Infinity" => return f64::INFINITY,
        "-Infinity" => return f64::NEG_INFINITY,
        _ => {}
    }
    match text.get(..2) {
        Some("0x" | "0X") => return radix(&text[2..], 16),
        Some("0o" | "0O") => return radix(&text[2..], 8),
        Some("0b" | "0B") => return radix(&text[2..], 2),
        _ => {}
    }
    // Rust would also parse words, such as `inf`.
    let is_decimal = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    match text.bytes().all(is_decimal) {
        true => text.parse().unwrap_or(f64::NAN),
        false => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_in_javascript() {
        use Ordering::{Equal, Greater, Less};
        let value = |text: &str| match text {
            "absent" => None,
            text => Some(Json::parse(text).unwrap()),
        };
        for (a, b, order) in [
            ("9", "10", Less),
            (r#""9""#, r#""10""#, Greater),
            (r#""9""#, "10", Less),
            (r#""abc""#, "10", Equal),
            ("true", "2", Less),
            ("-1", "1", Less),
            ("0", "1", Greater),
            ("0", "absent", Equal),
            (r#""""#, "null", Equal),
            ("false", r#""a""#, Greater),
            (r#""B""#, r#""a""#, Less),
            // By code units: U+FF00 is above the surrogates of the other.
            (r#""\uff00""#, r#""\ud83d\ude00""#, Greater),
            (r#"["a","b"]"#, r#""a,c""#, Less),
        ] {
            let (x, y) = (value(a), value(b));
            let found = compare_values(x.as_ref(), y.as_ref());
            assert_eq!(found, order, "{a} {b}");
            let found = compare_values(y.as_ref(), x.as_ref());
            assert_eq!(found, order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn values_without_an_order_can_be_sorted() {
        let values = (0..1000).map(|n| match n % 4 {
            0 => format!(r#"{{"quota":{}}}"#, (n * 7) % 100),
            1 => format!(r#"{{"quota":"{}"}}"#, (n * 13) % 100),
            2 => r#"{"quota":"abc"}"#.to_string(),
            _ => "{}".to_string(),
        });
        let vms: Vec<_> = values.map(|v| Json::parse(&v).unwrap()).collect();
        let vms: Vec<_> = vms.iter().map(|v| v.as_object().unwrap()).collect();
        let field = ListField::parse("quota").unwrap();
        let keys = [SortKey { field, is_descending: false }];
        let sorted = sorted(&vms, &keys);
        assert_eq!(sorted.len(), 1000);
        assert!(
            sorted[750 - 7..]
                .iter()
                .all(|vm| vm.get("quota").is_none_or(|q| !is_truthy(q)))
        );
    }

    #[test]
    fn texts_are_numbers_as_in_javascript() {
        for (text, number) in [
            ("", 0.0),
            (" 1 ", 1.0),
            ("0x1", 1.0),
            ("1e0", 1.0),
            (".5", 0.5),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert!(
                (number_of(text) - number).abs() < 1e-9
                    || number.is_infinite() && number_of(text) == number,
                "{text}"
            );
        }
        for text in ["a", "1=2", "inf", "nan", "0x", "1e", "e1", "--1", "1 2"] {
            assert!(number_of(text).is_nan(), "{text}");
        }
    }
}
