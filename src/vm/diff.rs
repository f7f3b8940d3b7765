//! Finds what has changed from one version of a VM object to the next, in the
//! form in which /events publishes it. Pure.
//!
//! Arrays are compared as sets of elements, except for the VM's `disks` and
//! `nics`, whose elements have an identity. An array in which only the order
//! differs is `changed` as a whole, because order can matter: resolvers are
//! asked in order.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use crate::vm::json::{Json, Object};

/// Arrays of the VM object whose elements are matched, and the member that
/// identifies an element.
const IDENTIFIED: [(&str, &str); 2] = [("disks", "path"), ("nics", "mac")];

/// Arrays with more elements than this are compared by hash.
const SCAN_MAX: usize = 32;

/// If an object or array has more changes than this, one change shows all of
/// it: a tenant chooses how many keys the metadata of a VM has, and each change
/// goes to every subscriber.
const CHANGES_MAX: usize = 1000;

/// A part of a path; `None` stands for "an element of this array".
pub type PathPart = Option<String>;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it happened.
    pub path: Vec<PathPart>,
    /// What happened there.
    pub action: Action,
    /// For a change within a disk or nic: which one.
    pub ident: Option<Json>,
}

/// What happened to a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is new.
    Added(Json),
    /// It is gone.
    Removed(Json),
    /// It changed from the first value to the second.
    Changed(Json, Json),
}

impl Change {
    /// The change, as published in /events.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = Object::new();
        object.set("prettyPath", pretty_path(&self.path));
        let path = self.path.iter().map(|part| Json::from(part.as_deref()));
        object.set("path", path.collect::<Vec<_>>());
        let (action, old, new) = match &self.action {
            Action::Added(new) => ("added", None, Some(new)),
            Action::Removed(old) => ("removed", Some(old), None),
            Action::Changed(old, new) => ("changed", Some(old), Some(new)),
        };
        object.set("action", action);
        if let Some(old) = old {
            object.set("oldValue", old.clone());
        }
        if let Some(new) = new {
            object.set("newValue", new.clone());
        }
        if let Some(ident) = &self.ident {
            object.set("ident", ident.clone());
        }
        Json::from(object)
    }
}

/// A path for people: parts joined by `.`, `*` for an element.
#[must_use]
pub fn pretty_path(path: &[PathPart]) -> String {
    let mut pretty = String::new();
    for part in path {
        let part = part.as_deref().unwrap_or("*");
        if part.contains(['.', '[', ']']) {
            let escaped = part.replace('[', "\\[").replace(']', "\\]");
            pretty.push_str(&format!("[{escaped}]"));
        } else {
            if !pretty.is_empty() {
                pretty.push('.');
            }
            pretty.push_str(part);
        }
    }
    pretty
}

/// All changes from one VM object to another.
///
/// ```
/// use vminfod::vm::diff::{diff, pretty_path};
/// use vminfod::vm::json::Json;
///
/// let object = |text| Json::parse(text).unwrap();
/// let (from, to) = (
///     object(r#"{"nics":[{"mac":"a","ip":"10.0.0.1"}]}"#),
///     object(r#"{"nics":[{"mac":"a","ip":"10.0.0.2"}]}"#),
/// );
/// let changes = diff(from.as_object().unwrap(), to.as_object().unwrap());
/// assert_eq!(pretty_path(&changes[0].path), "nics.*.ip");
/// assert_eq!(changes[0].ident, Some(Json::from("a")));
/// ```
#[must_use]
pub fn diff(from: &Object, to: &Object) -> Vec<Change> {
    let mut differ = Differ { path: Vec::new(), ident: None, changes: vec![] };
    differ.objects(from, to);
    differ.changes
}

struct Differ {
    path: Vec<PathPart>,
    ident: Option<Json>,
    changes: Vec<Change>,
}

impl Differ {
    fn push(&mut self, action: Action) {
        let (path, ident) = (self.path.clone(), self.ident.clone());
        self.changes.push(Change { path, action, ident });
    }

    fn within(&mut self, part: PathPart, tell: impl FnOnce(&mut Self)) {
        self.path.push(part);
        tell(self);
        self.path.pop();
    }

    /// Stops as soon as it is clear that too much has changed.
    fn objects(&mut self, from: &Object, to: &Object) {
        let before = self.changes.len();
        for (name, old) in from.iter() {
            self.within(Some(name.to_string()), |this| match to.get(name) {
                None => this.push(Action::Removed(old.clone())),
                Some(new) => this.values(old, new),
            });
            if self.is_too_much(before) {
                return;
            }
        }
        for (name, new) in to.iter().filter(|(n, _)| !from.contains(n)) {
            self.within(Some(name.to_string()), |this| {
                this.push(Action::Added(new.clone()));
            });
            if self.is_too_much(before) {
                return;
            }
        }
    }

    /// Whether there are so many changes since there were `before` of them that
    /// one change should show the whole value. The VM's own members always have
    /// their own changes.
    fn is_too_much(&self, before: usize) -> bool {
        !self.path.is_empty() && self.changes.len() - before > CHANGES_MAX
    }

    fn values(&mut self, old: &Json, new: &Json) {
        match (old, new) {
            // Arrays that are equal are unchanged, even if their text differs.
            (Json::Array(from), Json::Array(to)) if old != new => {
                let before = self.changes.len();
                if !self.arrays(from, to) {
                    self.changes.truncate(before);
                    self.push(Action::Changed(old.clone(), new.clone()));
                }
            }
            (Json::Object(from), Json::Object(to)) => {
                // Looking for differences costs no more than finding out
                // whether there are any.
                if !Arc::ptr_eq(from, to) {
                    let before = self.changes.len();
                    self.objects(from, to);
                    if self.is_too_much(before) {
                        self.changes.truncate(before);
                        self.push(Action::Changed(old.clone(), new.clone()));
                    }
                }
            }
            _ if old == new => {}
            _ => self.push(Action::Changed(old.clone(), new.clone())),
        }
    }

    /// Reports the elements in which two arrays differ. Returns `false` if only
    /// their order differs, or if too much has changed.
    fn arrays(&mut self, from: &[Json], to: &[Json]) -> bool {
        let removed = only_in(from, to);
        let mut added = only_in(to, from);
        let count = removed.len() + added.len();
        if count == 0 || count > CHANGES_MAX {
            return false;
        }
        let identifier = match &self.path[..] {
            [Some(name)] => IDENTIFIED.iter().find(|(array, _)| array == name),
            _ => None,
        };
        for old in removed {
            let twin = identifier.and_then(|(_, member)| {
                let same = |new: &&Json| old.get(member) == new.get(member);
                added.iter().position(same).filter(|at| {
                    old.as_object().is_some()
                        && added[*at].as_object().is_some()
                })
            });
            let twin = twin.map(|at| added.remove(at));
            self.within(None, |this| match (twin, identifier) {
                (Some(new), Some((_, member))) => {
                    this.ident = new.get(member).cloned();
                    this.values(old, new);
                    this.ident = None;
                }
                _ => this.push(Action::Removed(old.clone())),
            });
        }
        for new in added {
            self.within(None, |this| this.push(Action::Added(new.clone())));
        }
        true
    }
}

/// The elements of `these` that are not in `those`, without repeats. It stops
/// at one more than [`CHANGES_MAX`].
fn only_in<'a>(these: &'a [Json], those: &'a [Json]) -> Vec<&'a Json> {
    let mut found: Vec<&Json> = Vec::new();
    if these.len().max(those.len()) <= SCAN_MAX {
        for value in these {
            if !those.contains(value) && !found.contains(&value) {
                found.push(value);
            }
        }
    } else {
        let hasher = Hasher::default();
        let mut seen: HashSet<_> = those.iter().map(|v| hasher.of(v)).collect();
        let fresh = these.iter().filter(|v| seen.insert(hasher.of(v)));
        found.extend(fresh.take(CHANGES_MAX + 1));
    }
    found
}

/// Recognises equal values by their hash. The hash has 128 bits and keys that
/// no tenant knows, so different values with the same hash need not be
/// considered.
#[derive(Default)]
struct Hasher(RandomState, RandomState);

impl Hasher {
    fn of(&self, value: &Json) -> u128 {
        match value {
            // All numbers that are printed as `null` are equal, and so are 0
            // and -0.
            Json::Number(n) if !n.is_finite() => self.hash((0, 0)),
            Json::Number(n) => self.hash((1, (n + 0.0).to_bits())),
            Json::Null => self.hash(2),
            Json::Bool(b) => self.hash((3, b)),
            Json::String(s) => self.hash((4, s)),
            Json::Array(elements) => {
                let of = elements.iter().map(|v| self.of(v));
                self.hash((5, of.collect::<Vec<_>>()))
            }
            // The order of members does not count.
            Json::Object(object) => {
                let of = object.iter().map(|(k, v)| self.hash((k, self.of(v))));
                self.hash((6, of.fold(0, u128::wrapping_add)))
            }
        }
    }

    fn hash(&self, value: impl Hash) -> u128 {
        let (high, low) = (self.0.hash_one(&value), self.1.hash_one(&value));
        u128::from(high) << 64 | u128::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(from: &str, to: &str) -> String {
        let parse = |text| Json::parse(text).unwrap();
        let (from, to) = (parse(from), parse(to));
        let changes = diff(from.as_object().unwrap(), to.as_object().unwrap());
        let changes = changes.iter().map(Change::to_json).collect::<Vec<_>>();
        Json::from(changes).to_string()
    }

    #[test]
    fn a_reorder_is_a_change_of_the_array() {
        assert_eq!(
            changes(r#"{"r":[1,2]}"#, r#"{"r":[2,1]}"#),
            r#"[{"prettyPath":"r","path":["r"],"action":"changed","oldValue":[1,2],"newValue":[2,1]}]"#
        );
        let nics = r#"{"nics":[{"mac":"a"},{"mac":"b"}]}"#;
        let turned = r#"{"nics":[{"mac":"b"},{"mac":"a"}]}"#;
        assert!(changes(nics, turned).contains(r#""prettyPath":"nics","#));
        assert_eq!(changes(nics, nics), "[]");
    }

    #[test]
    fn null_to_an_object_is_a_change() {
        assert_eq!(
            changes(r#"{"a":null}"#, r#"{"a":{"b":1}}"#),
            r#"[{"prettyPath":"a","path":["a"],"action":"changed","oldValue":null,"newValue":{"b":1}}]"#
        );
    }

    #[test]
    fn an_element_that_is_no_object_has_no_identity() {
        let text = changes(r#"{"nics":[5]}"#, r#"{"nics":[{"ip":"x"}]}"#);
        assert!(text.contains(r#""action":"removed","oldValue":5"#), "{text}");
        assert!(text.contains(r#""action":"added""#), "{text}");
    }

    #[test]
    fn too_many_changes_are_published_as_one() {
        let object = |value: u32, count: u32| {
            let members: Vec<_> =
                (0..count).map(|i| format!("\"k{i}\":{value}")).collect();
            format!("{{\"x\":{{{}}},\"y\":0}}", members.join(","))
        };
        let text = changes(&object(1, 1000), &object(2, 1000));
        assert_eq!(text.matches("\"action\"").count(), 1000);
        let text = changes(&object(1, 1001), &object(2, 1001));
        assert_eq!(text.matches("\"action\"").count(), 1);
        assert!(text.starts_with(r#"[{"prettyPath":"x","path":["x"],"#));
    }

    #[test]
    fn the_search_for_changes_stops_at_the_limit() {
        // Nested parts: each has fewer changes than the limit, and all of them
        // together have about a million.
        let parts = |value: u32| {
            let part: Vec<_> =
                (0..999).map(|i| format!("\"k{i}\":{value}")).collect();
            let part = format!("{{{}}}", part.join(","));
            let parts: Vec<_> =
                (0..1000).map(|i| format!("\"p{i}\":{part}")).collect();
            let text = format!("{{\"tags\":{{{}}}}}", parts.join(","));
            Json::parse(&text).unwrap()
        };
        let (from, to) = (parts(1), parts(2));
        let mut differ =
            Differ { path: Vec::new(), ident: None, changes: vec![] };
        differ.objects(from.as_object().unwrap(), to.as_object().unwrap());
        assert_eq!(differ.changes.len(), 1);
        assert!(differ.changes.capacity() < 4 * CHANGES_MAX);
        let list = |value: u32| {
            let text = (0..2000).map(|i| format!("[{i},{value}]"));
            format!("{{\"x\":[{}]}}", text.collect::<Vec<_>>().join(","))
        };
        let text = changes(&list(1), &list(2));
        assert_eq!(text.matches("\"action\"").count(), 1);
        assert!(text.starts_with(r#"[{"prettyPath":"x","path":["x"],"#));
    }

    #[test]
    fn hashes_are_equal_exactly_for_equal_values() {
        let hasher = Hasher::default();
        let values = [
            "null",
            "0",
            "1",
            "false",
            "\"\"",
            "\"0\"",
            "[]",
            "[0]",
            "[[]]",
            "{}",
            "[null]",
            "[0,1]",
            "[1,0]",
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":1}"#,
        ];
        for (n, a) in values.iter().enumerate() {
            for (m, b) in values.iter().enumerate() {
                let of = |text| hasher.of(&Json::parse(text).unwrap());
                assert_eq!(of(a) == of(b), n == m, "{a} {b}");
            }
        }
        let of = |text| hasher.of(&Json::parse(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":2}"#), of(r#"{"b":2,"a":1}"#));
        assert_eq!(of("-0"), of("0"));
        let of = |n| hasher.of(&Json::Number(n));
        assert_eq!(of(f64::NAN), of(f64::INFINITY));
    }

    #[test]
    fn large_and_small_arrays_compare_alike() {
        let list = |range: std::ops::Range<u32>| {
            let elements: Vec<_> =
                range.map(|i| format!("{{\"a\":{i},\"b\":0}}")).collect();
            format!("{{\"x\":[{}]}}", elements.join(","))
        };
        let text = changes(&list(0..50_000), &list(1..50_001));
        assert_eq!(text.matches("\"action\"").count(), 2, "{text}");
        let turned = r#"{"x":[{"b":0,"a":0}]}"#;
        assert_eq!(changes(&list(0..1), turned), "[]");
    }
}
