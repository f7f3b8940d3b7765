//! JSON values that behave as the platform's clients expect of JavaScript.
//!
//! Members keep the order of their first assignment, except that integer-like
//! keys of parsed files come first in ascending order, as in a JavaScript
//! object; numbers are doubles and are printed by JavaScript's rules. Values
//! are shared, not copied: a clone costs a reference count, and two values
//! that share storage are known to be equal without being walked.
//!
//! This module does not know what a VM is.

mod read;
mod text;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use read::{elements_of, members_of};
pub use text::{number_text, write_string};
use text::{write_object, write_value};

/// A member's name. Names that the program knows are not allocated.
pub type Key = Cow<'static, str>;

/// One JSON value.
#[derive(Clone, Debug, Default)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A double. NaN and the infinities are printed as `null`.
    Number(f64),
    /// A string.
    String(Arc<str>),
    /// An array.
    Array(Arc<[Json]>),
    /// An object.
    Object(Arc<Object>),
}

impl Json {
    /// Parses one JSON document.
    ///
    /// ```
    /// let json = vminfod::vm::json::Json::parse(r#"{"b":1.0,"10":2,"9":3}"#);
    /// assert_eq!(json.unwrap().to_string(), r#"{"9":3,"10":2,"b":1}"#);
    /// ```
    ///
    /// # Errors
    /// If `text` is not JSON or nests deeper than serde_json's limit of 128.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// An object without members.
    #[must_use]
    pub fn empty() -> Self {
        Self::from(Object::new())
    }

    /// How deeply arrays and objects are nested: 0 for a value that is neither.
    #[must_use]
    pub fn depth(&self) -> usize {
        let below = match self {
            Self::Array(elements) => elements.iter().map(Self::depth).max(),
            Self::Object(object) => {
                object.iter().map(|(_, value)| value.depth()).max()
            }
            _ => return 0,
        };
        1 + below.unwrap_or(0)
    }

    /// The string, if this is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The number, if this is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// The number, if this is one that is whole and not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.as_f64()
            .filter(|n| n.fract() == 0.0 && *n >= 0.0 && *n < 1.8e19)
            .map(|n| n as u64)
    }

    /// The elements, if this is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(a) => Some(a),
            _ => None,
        }
    }

    /// The object, if this is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(o) => Some(o),
            _ => None,
        }
    }

    /// The member `key`, if this is an object that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object().and_then(|o| o.get(key))
    }

    /// Appends the value as compact JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_value(self, out, None);
    }

    /// The value as compact JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The value with two spaces of indent, as `JSON.stringify(x, null, 2)`.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        let mut out = Vec::new();
        write_value(self, &mut out, Some(0));
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// Equality as JSON values: the order of members does not count.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            // Two NaNs are both `null` on the wire.
            (Self::Number(a), Self::Number(b)) => {
                a == b || (!a.is_finite() && !b.is_finite())
            }
            (Self::String(a), Self::String(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Array(a), Self::Array(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

impl From<&str> for Json {
    fn from(s: &str) -> Self {
        Self::String(s.into())
    }
}

impl From<String> for Json {
    fn from(s: String) -> Self {
        Self::String(s.into())
    }
}

impl From<&Arc<str>> for Json {
    fn from(s: &Arc<str>) -> Self {
        Self::String(Arc::clone(s))
    }
}

impl From<bool> for Json {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<f64> for Json {
    fn from(n: f64) -> Self {
        Self::Number(n)
    }
}

/// Counters and sizes; past 2^53 they are rounded, as in JavaScript.
impl From<u64> for Json {
    #[allow(clippy::cast_precision_loss)]
    fn from(n: u64) -> Self {
        Self::Number(n as f64)
    }
}

impl From<usize> for Json {
    fn from(n: usize) -> Self {
        Self::from(n as u64)
    }
}

impl From<u32> for Json {
    fn from(n: u32) -> Self {
        Self::Number(f64::from(n))
    }
}

impl From<Vec<Json>> for Json {
    fn from(a: Vec<Self>) -> Self {
        Self::Array(a.into())
    }
}

impl From<Object> for Json {
    fn from(o: Object) -> Self {
        Self::Object(Arc::new(o.fitted()))
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// An object: members in the order of their first assignment.
///
/// Lookup is a scan, because VM objects have some sixty members and most other
/// objects have few. A parsed object with more than [`SCAN_MAX`] members has an
/// index, because the metadata of a VM may have any number of keys, which its
/// tenant chooses.
#[derive(Clone, Debug, Default)]
pub struct Object {
    members: Vec<(Key, Json)>,
    /// Indices into `members`, sorted by key.
    by_key: Option<Box<[u32]>>,
}

/// The most members of an object that are looked up by scanning.
const SCAN_MAX: usize = 64;

impl Object {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of member `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        let place = match &self.by_key {
            None => self.members.iter().position(|(k, _)| k == key)?,
            Some(by_key) => {
                let found = by_key.binary_search_by(|place| {
                    self.members[*place as usize].0.as_ref().cmp(key)
                });
                by_key[found.ok()?] as usize
            }
        };
        Some(&self.members[place].1)
    }

    /// The value of member `key`, if it is a string.
    #[must_use]
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Json::as_str)
    }

    /// Whether there is a member `key`.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets member `key`. An existing member keeps its position.
    pub fn set(&mut self, key: impl Into<Key>, value: impl Into<Json>) {
        let (key, value) = (key.into(), value.into());
        self.by_key = None;
        match self.members.iter_mut().find(|(k, _)| *k == key) {
            Some(member) => member.1 = value,
            None => self.members.push((key, value)),
        }
    }

    /// Sets all members of another object.
    pub fn extend(&mut self, other: &Self) {
        for (key, value) in &other.members {
            self.set(key.clone(), value.clone());
        }
    }

    /// Frees unused memory of an object that will not change any more.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        self.members.shrink_to_fit();
        self
    }

    /// Sets member `key` unless there is one.
    pub fn set_default(
        &mut self,
        key: &'static str,
        value: impl FnOnce() -> Json,
    ) {
        if !self.contains(key) {
            self.by_key = None;
            self.members.push((Key::Borrowed(key), value()));
        }
    }

    /// Removes member `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Json> {
        let at = self.members.iter().position(|(k, _)| k == key)?;
        self.by_key = None;
        Some(self.members.remove(at).1)
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.members.iter().map(|(k, v)| (k.as_ref(), v))
    }

    /// An object of those members for which `value_of` returns a value, with
    /// that value, in order.
    #[must_use]
    pub fn filter_map(
        &self,
        mut value_of: impl FnMut(&str, &Json) -> Option<Json>,
    ) -> Self {
        let members = self.members.iter().filter_map(|(key, value)| {
            let value = value_of(key, value)?;
            Some((key.clone(), value))
        });
        Self::of_distinct(members.collect())
    }

    /// Appends the object as compact JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_object(self, out, None);
    }

    /// The object as compact JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Makes an object of members in order. If a key is repeated, its last
    /// value counts, at the position of the first.
    fn from_members(mut members: Vec<(Key, Json)>) -> Self {
        // A stable sort leaves repeats of a key in the order of the text.
        let mut places: Vec<usize> = (0..members.len()).collect();
        places.sort_by(|a, b| members[*a].0.cmp(&members[*b].0));
        let mut repeats = vec![false; members.len()];
        for run in places.chunk_by(|a, b| members[*a].0 == members[*b].0) {
            for place in &run[1..] {
                repeats[*place] = true;
            }
        }
        if repeats.contains(&true) {
            for pair in (1..places.len()).rev() {
                let (before, place) = (places[pair - 1], places[pair]);
                if repeats[place] {
                    members[before].1 = std::mem::take(&mut members[place].1);
                }
            }
            let mut place = 0;
            members.retain(|_| {
                place += 1;
                !repeats[place - 1]
            });
        }
        Self::of_distinct(members)
    }

    /// Makes an object of members in order. Their names must all differ.
    fn of_distinct(members: Vec<(Key, Json)>) -> Self {
        let by_key = (members.len() > SCAN_MAX).then(|| {
            let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
            let mut by_key: Box<[u32]> = (0..count).collect();
            by_key.sort_by(|a, b| {
                members[*a as usize].0.cmp(&members[*b as usize].0)
            });
            by_key
        });
        Self { members, by_key }
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.members.iter().enumerate().all(|(i, (key, value))| {
                // Most comparisons are of objects made by the same code, whose
                // members stand at the same place.
                match other.members.get(i) {
                    Some((k, v)) if k == key => v == value,
                    _ => other.get(key) == Some(value),
                }
            })
    }
}

impl FromIterator<(Key, Json)> for Object {
    fn from_iter<I: IntoIterator<Item = (Key, Json)>>(iter: I) -> Self {
        Self::from_members(iter.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        Json::parse(text).unwrap().to_string()
    }

    #[test]
    fn integer_like_keys_come_first_in_ascending_order() {
        assert_eq!(
            again(r#"{"b":1,"10":2,"9":3,"01":4,"a":5}"#),
            r#"{"9":3,"10":2,"b":1,"01":4,"a":5}"#
        );
    }

    #[test]
    fn a_duplicate_key_keeps_its_first_place_and_last_value() {
        assert_eq!(again(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn numbers_print_as_javascript_prints_them() {
        for (text, printed) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("256.0000009536743", "256.0000009536743"),
            ("18446744073709551615", "18446744073709552000"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("1.5e-7", "1.5e-7"),
            ("0.000001", "0.000001"),
            ("5e-324", "5e-324"),
            // Read as the nearest double, not as one next to it.
            ("511.9991416931152", "511.9991416931152"),
        ] {
            assert_eq!(again(text), printed);
        }
        assert_eq!(Json::Number(f64::NAN).to_string(), "null");
    }

    #[test]
    fn pretty_text_is_as_json_stringify_writes_it() {
        let value = Json::parse(r#"{"a":[],"b":{},"c":[1,{"d":"é\n"}]}"#);
        assert_eq!(
            value.unwrap().to_pretty(),
            "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \
             \"d\": \"é\\n\"\n    }\n  ]\n}"
        );
    }

    #[test]
    fn the_order_of_members_does_not_count_in_comparison() {
        let parse = |text| Json::parse(text).unwrap();
        assert_eq!(parse(r#"{"a":1,"b":2}"#), parse(r#"{"b":2,"a":1}"#));
        assert_ne!(parse(r#"{"a":1,"b":2}"#), parse(r#"{"b":2,"c":1}"#));
        assert_ne!(parse("[1,2]"), parse("[2,1]"));
        assert_ne!(parse("0"), parse("false"));
    }

    #[test]
    fn large_objects_are_parsed_and_compared_quickly() {
        let member = |i: u32| format!("\"k{i}\":{i}");
        let text = |range: std::ops::Range<u32>| {
            let members: Vec<_> = range.map(member).collect();
            Json::parse(&format!("{{{}}}", members.join(","))).unwrap()
        };
        let (large, shifted) = (text(0..200_000), text(1..200_001));
        assert_ne!(large, shifted);
        assert_eq!(large.get("k199999"), Some(&Json::Number(199_999.0)));
        assert_eq!(large.get("k200000"), None);
        let repeated: Vec<_> = (0..100).map(|i| member(i % 70)).collect();
        let object =
            Json::parse(&format!("{{{},\"k0\":7}}", repeated.join(",")));
        assert!(object.unwrap().to_string().starts_with("{\"k0\":7,\"k1\":1"));
    }

    #[test]
    fn depth_counts_nested_arrays_and_objects() {
        for (text, depth) in
            [("1", 0), ("[]", 1), (r#"{"a":1}"#, 1), (r#"[1,{"a":[]},[]]"#, 3)]
        {
            assert_eq!(Json::parse(text).unwrap().depth(), depth, "{text}");
        }
    }

    #[test]
    fn unreadable_elements_and_members_are_still_split() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let text = format!(r#"[1, {{"a":{deep},"b":"\ud800"}}, "x"]"#);
        assert!(Json::parse(&text).is_err());
        let elements = elements_of(&text).unwrap();
        assert_eq!((elements.len(), elements[2]), (3, "\"x\""));
        let members = members_of(elements[1]).unwrap();
        assert_eq!(members["a"], deep);
        assert_eq!(members["b"], r#""\ud800""#);
        assert!(elements_of("{}").is_err() && members_of("[]").is_err());
    }

    #[test]
    fn nesting_has_a_limit() {
        let deep = "[".repeat(100_000);
        assert!(
            Json::parse(&deep).unwrap_err().to_string().contains("recursion")
        );
    }
}
