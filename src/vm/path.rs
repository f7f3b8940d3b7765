//! Paths into a VM object: `state`, `nics.*.ip`, `disks.0.size`, `tags.role`.

use std::collections::BTreeSet;
use std::fmt;

use crate::source::{MAPS, is_map};
use crate::vm::json::{Json, Object};
use crate::vm::properties::{self, ARRAYS, Holder};

/// The names of the members that VM objects can have, sorted.
#[must_use]
pub fn member_names() -> BTreeSet<&'static str> {
    let own = properties::of(Holder::Vm).map(|property| property.name);
    let maps = MAPS.iter().map(|map| map.name);
    own.chain(maps).chain(ARRAYS.map(|(name, _)| name)).collect()
}

/// Whether VM objects have members of this name, at any level. These names are
/// the same on every machine.
#[must_use]
pub fn is_member_name(name: &str) -> bool {
    shape_of(name).is_some() || properties::ALL.iter().any(|p| p.name == name)
}

/// What a member holds.
enum Shape {
    /// A value, or an array of values.
    Plain,
    /// An array of objects with the members of this holder.
    Elements(Holder),
    /// An object whose members can have any names.
    Map,
}

fn shape_of(member: &str) -> Option<Shape> {
    let array = ARRAYS.iter().find(|(name, _)| *name == member);
    if let Some((_, holder)) = array {
        return Some(Shape::Elements(*holder));
    }
    match member {
        map if is_map(map) => Some(Shape::Map),
        other => properties::has(Holder::Vm, other).then_some(Shape::Plain),
    }
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The member of this name.
    Name(String),
    /// Every element, or every member.
    Any,
    /// The element at this index, counted from 0.
    Index(usize),
}

/// A path that no VM object can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownProperty(pub String);

impl fmt::Display for UnknownProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such property: {}", self.0)
    }
}

impl std::error::Error for UnknownProperty {}

impl UnknownProperty {
    /// The names that there are instead, sorted: the members of an array's
    /// elements if the array exists, else those of VMs. None if a member exists
    /// that has no members of its own.
    #[must_use]
    pub fn known(&self) -> Vec<&'static str> {
        let array = self.0.split('.').next().and_then(shape_of);
        match array {
            Some(Shape::Elements(holder)) => {
                let names: BTreeSet<_> =
                    properties::of(holder).map(|p| p.name).collect();
                names.into_iter().collect()
            }
            Some(Shape::Plain) => Vec::new(),
            _ => member_names().into_iter().chain(["type"]).collect(),
        }
    }
}

/// A path to something in a VM object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Part>);

impl Path {
    /// Parses a path: parts joined by `.`, `*` for every element. What follows
    /// `tags.`, or the name of another map, is one name, even if it contains
    /// dots; in such a name `\=`, `\,`, `\*` and `\\` stand for the character
    /// itself.
    ///
    /// # Errors
    /// If no VM object can have such a path.
    pub fn parse(text: &str) -> Result<Self, UnknownProperty> {
        let unknown = || UnknownProperty(text.to_string());
        let (member, rest) = match text.split_once('.') {
            Some((member, rest)) => (member, Some(rest)),
            None => (text, None),
        };
        let shape = shape_of(member).ok_or_else(unknown)?;
        let mut parts = vec![Part::Name(member.to_string())];
        let Some(rest) = rest else { return Ok(Self(parts)) };
        if let Shape::Map = shape {
            if rest.is_empty() {
                return Err(unknown());
            }
            parts.push(match rest {
                "*" => Part::Any,
                name => Part::Name(unescaped(name)),
            });
            return Ok(Self(parts));
        }
        for (n, word) in rest.split('.').enumerate() {
            parts.push(match (&shape, n) {
                (Shape::Elements(holder), 1) => {
                    if !properties::has(*holder, word) {
                        return Err(unknown());
                    }
                    Part::Name(word.to_string())
                }
                (Shape::Elements(..), 0 | 2) | (_, 0) => {
                    place(word).ok_or_else(unknown)?
                }
                _ => return Err(unknown()),
            });
        }
        Ok(Self(parts))
    }

    /// The parts. There is at least one.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Whether `holds` is true for a value that this path leads to.
    pub fn any(
        &self,
        object: &Object,
        mut holds: impl FnMut(&Json) -> bool,
    ) -> bool {
        let [Part::Name(member), rest @ ..] = &self.0[..] else {
            return false;
        };
        object.get(member).is_some_and(|value| any(value, rest, &mut holds))
    }

    /// Whether a change at `path`, as published in /events, is at this path or
    /// below it; or above it, so that something may have changed here.
    #[must_use]
    pub fn meets(&self, path: &[Json]) -> bool {
        self.0.iter().zip(path).all(|(part, other)| match part {
            Part::Name(name) => other.as_str() == Some(name),
            Part::Any => true,
            Part::Index(_) => false,
        })
    }

    /// Like [`Path::meets`], but an index matches any element, because the
    /// change may be of that element.
    #[must_use]
    pub fn may_meet(&self, path: &[Json]) -> bool {
        self.0.iter().zip(path).all(|(part, other)| match part {
            Part::Name(name) => other.as_str() == Some(name),
            Part::Any | Part::Index(_) => true,
        })
    }

    /// Whether the path leads to an element by its index.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Index(_)))
    }
}

/// Characters that a name may contain, but that have a meaning of their own
/// where names are listed and compared.
const ESCAPED: [char; 4] = ['=', ',', '*', '\\'];

/// A name without the backslashes before [`ESCAPED`] characters. Any other
/// backslash is kept.
fn unescaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && ESCAPED.contains(next) => {
                out.extend(chars.next());
            }
            _ => out.push(c),
        }
    }
    out
}

/// Splits at the first `separator` that has no backslash before it.
#[must_use]
pub fn split_once(text: &str, separator: char) -> Option<(&str, &str)> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == separator {
            return Some((&text[..at], &text[at + c.len_utf8()..]));
        }
        let mut next = chars.clone();
        if c == '\\' && next.next().is_some_and(|n| ESCAPED.contains(&n.1)) {
            chars = next;
        }
    }
    None
}

/// The paths of a list, separated by commas that have no backslash before them.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (first, after) = match split_once(text, ',') {
            Some((first, after)) => (first, Some(after)),
            None => (text, None),
        };
        rest = after;
        Some(first)
    })
}

fn place(word: &str) -> Option<Part> {
    match word {
        "*" => Some(Part::Any),
        // Only digits: no sign, and nothing else before them.
        word if word.len() < 10 && word.bytes().all(|b| b.is_ascii_digit()) => {
            word.parse().ok().map(Part::Index)
        }
        _ => None,
    }
}

fn any(
    value: &Json,
    parts: &[Part],
    holds: &mut dyn FnMut(&Json) -> bool,
) -> bool {
    let Some((part, rest)) = parts.split_first() else { return holds(value) };
    match (part, value) {
        (Part::Name(name), Json::Object(object)) => {
            object.get(name).is_some_and(|value| any(value, rest, holds))
        }
        (Part::Any, Json::Array(elements)) => {
            elements.iter().any(|value| any(value, rest, holds))
        }
        (Part::Any, Json::Object(object)) => {
            object.iter().any(|(_, value)| any(value, rest, holds))
        }
        (Part::Index(at), Json::Array(elements)) => {
            elements.get(*at).is_some_and(|value| any(value, rest, holds))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(value: &Json, path: &str, found: &mut Vec<String>) {
        found.push(path.to_string());
        match value {
            Json::Array(elements) => {
                for value in elements.iter() {
                    paths_of(value, &format!("{path}.*"), found);
                }
            }
            Json::Object(object) => {
                for (name, value) in object.iter() {
                    let dot = if path.is_empty() { "" } else { "." };
                    paths_of(value, &format!("{path}{dot}{name}"), found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_path_of_the_recorded_vms_is_known() {
        let mut count = 0;
        for host in ["basic", "edge"] {
            let file = format!("tests/fixtures/objects-{host}");
            let file = format!("{file}/expected-vms.json");
            let vms = std::fs::read_to_string(file).unwrap();
            for vm in Json::parse(&vms).unwrap().as_array().unwrap() {
                let mut found = Vec::new();
                paths_of(vm, "", &mut found);
                let object = vm.as_object().unwrap();
                for text in found.iter().filter(|text| !text.is_empty()) {
                    let path = Path::parse(text).unwrap();
                    assert!(path.any(object, |_| true), "{text}");
                    count += 1;
                }
            }
        }
        assert!(count > 1000, "{count}");
    }

    #[test]
    fn an_unknown_path_is_refused_and_named() {
        for text in [
            "",
            ".",
            "bogus",
            "state.x",
            "state.-1",
            "nics.x",
            "nics.ip",
            "nics.*.bogus",
            "nics.*.ips.0.x",
            "nics.*.",
            "nics..ip",
            "nics.+1.ip",
            "nics.99999999999999999999.ip",
            "tags.",
            "Tags.x",
        ] {
            let error = Path::parse(text).unwrap_err();
            assert!(error.0.ends_with(text), "{error}");
        }
    }

    #[test]
    fn a_metadata_key_may_contain_dots() {
        let path = Path::parse("customer_metadata.a.b.*").unwrap();
        let vm = r#"{"customer_metadata":{"a.b.*":"x","c":"y"}}"#;
        let vm = Json::parse(vm).unwrap();
        let vm = vm.as_object().unwrap();
        assert!(path.any(vm, |v| v.as_str() == Some("x")));
        assert!(!path.any(vm, |v| v.as_str() == Some("y")));
        let all = Path::parse("customer_metadata.*").unwrap();
        assert!(all.any(vm, |v| v.as_str() == Some("y")));
    }

    #[test]
    fn a_tag_name_may_contain_escaped_separators() {
        let vm = r#"{"tags":{"a=b":"1","x,y":"2","b\\s":"3","*":"4"}}"#;
        let vm = Json::parse(vm).unwrap();
        let vm = vm.as_object().unwrap();
        for (path, value) in [
            (r"tags.a\=b", "1"),
            ("tags.a=b", "1"),
            (r"tags.x\,y", "2"),
            (r"tags.b\\s", "3"),
            (r"tags.b\s", "3"),
            (r"tags.\*", "4"),
        ] {
            let path = Path::parse(path).unwrap();
            let mut found = Vec::new();
            path.any(vm, |v| {
                found.push(v.as_str().unwrap().to_string());
                false
            });
            assert_eq!(found, [value], "{path:?}");
        }
    }

    #[test]
    fn only_unescaped_separators_split() {
        let once = |text| split_once(text, '=');
        assert_eq!(once(r"tags.a\=b=c=d"), Some((r"tags.a\=b", "c=d")));
        assert_eq!(once(r"tags.a\\=b"), Some((r"tags.a\\", "b")));
        assert_eq!(once(r"tags.a\b=c"), Some((r"tags.a\b", "c")));
        assert_eq!(once(r"tags.a\="), None);
        assert_eq!(once(r"a\"), None);
        let list = |text| split_list(text).collect::<Vec<_>>();
        assert_eq!(list(r"a,tags.x\,y,b"), ["a", r"tags.x\,y", "b"]);
        assert_eq!(list(""), [""]);
        assert_eq!(list("a,"), ["a", ""]);
        assert_eq!(list(r"é\é,b"), [r"é\é", "b"]);
    }

    #[test]
    fn a_path_meets_changes_at_below_and_above_it() {
        let meets = |path: &str, of: &str| {
            let of = Json::parse(of).unwrap();
            Path::parse(path).unwrap().meets(of.as_array().unwrap())
        };
        assert!(meets("state", r#"["state"]"#));
        assert!(meets("nics", r#"["nics",null,"ip"]"#));
        assert!(meets("nics.*.ip", r#"["nics",null,"ip"]"#));
        assert!(meets("nics.*.ip", r#"["nics",null]"#));
        assert!(meets("nics.*.ip", r#"["nics"]"#));
        assert!(!meets("nics.*.ip", r#"["nics",null,"mac"]"#));
        assert!(!meets("state", r#"["zone_state"]"#));
        assert!(meets("tags.*", r#"["tags","a.b"]"#));
        assert!(meets("tags.a.b", r#"["tags","a.b"]"#));
    }
}
