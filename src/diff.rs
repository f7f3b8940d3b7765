//! What has changed from one VM object to the next, as /events tells it: pure.
//!
//! Arrays compare as sets of elements, but for the VM's `disks` and `nics`,
//! whose elements have an identity. An array that differs in order alone is
//! `changed` as a whole: resolvers are asked in order, after all.

use std::collections::HashSet;

use crate::json::{Json, Object};

/// Arrays of the VM object whose elements are matched, and the member that
/// identifies an element.
const IDENTIFIED: [(&str, &str); 2] = [("disks", "path"), ("nics", "mac")];

/// Arrays of more elements are compared by hash.
const SCAN_MAX: usize = 32;

/// An object of which more has changed is told as a whole: a tenant chooses
/// how many keys his metadata has, and every subscriber gets what is told.
const CHANGES_MAX: usize = 1000;

/// A part of a path; `None` stands for "an element of this array".
pub type PathPart = Option<String>;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub path: Vec<PathPart>,
    /// What happened there.
    pub action: Action,
    /// Of a change within a disk or nic, which one.
    pub ident: Option<Json>,
}

/// What happened to a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is new.
    Added(Json),
    /// It is gone.
    Removed(Json),
    /// It was the first and is the second.
    Changed(Json, Json),
}

impl Change {
    /// The change as /events tells it.
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
/// use vminfod::diff::{diff, pretty_path};
/// use vminfod::json::Json;
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
    fn tell(&mut self, action: Action) {
        let (path, ident) = (self.path.clone(), self.ident.clone());
        self.changes.push(Change { path, action, ident });
    }

    fn within(&mut self, part: PathPart, tell: impl FnOnce(&mut Self)) {
        self.path.push(part);
        tell(self);
        self.path.pop();
    }

    fn objects(&mut self, from: &Object, to: &Object) {
        for (name, old) in from.iter() {
            self.within(Some(name.to_string()), |this| match to.get(name) {
                None => this.tell(Action::Removed(old.clone())),
                Some(new) => this.values(old, new),
            });
        }
        for (name, new) in to.iter().filter(|(n, _)| !from.contains(n)) {
            self.within(Some(name.to_string()), |this| {
                this.tell(Action::Added(new.clone()));
            });
        }
    }

    fn values(&mut self, old: &Json, new: &Json) {
        match (old, new) {
            // Equal objects and arrays may still differ in the text.
            (Json::Array(from), Json::Array(to)) if old != new => {
                self.arrays(from, to);
            }
            (Json::Object(from), Json::Object(to)) if old != new => {
                let before = self.changes.len();
                self.objects(from, to);
                if self.changes.len() - before > CHANGES_MAX {
                    self.changes.truncate(before);
                    self.tell(Action::Changed(old.clone(), new.clone()));
                }
            }
            _ if old == new => {}
            _ => self.tell(Action::Changed(old.clone(), new.clone())),
        }
    }

    fn arrays(&mut self, from: &[Json], to: &[Json]) {
        let removed = only_in(from, to);
        let mut added = only_in(to, from);
        if removed.is_empty() && added.is_empty() {
            let (from, to) = (Json::from(from.to_vec()), to.to_vec());
            self.tell(Action::Changed(from, Json::from(to)));
            return;
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
                _ => this.tell(Action::Removed(old.clone())),
            });
        }
        for new in added {
            self.within(None, |this| this.tell(Action::Added(new.clone())));
        }
    }
}

/// The elements of `these` that are not in `those`, without repeats.
fn only_in<'a>(these: &'a [Json], those: &'a [Json]) -> Vec<&'a Json> {
    let mut found: Vec<&Json> = Vec::new();
    if these.len().max(those.len()) <= SCAN_MAX {
        for value in these {
            if !those.contains(value) && !found.contains(&value) {
                found.push(value);
            }
        }
    } else {
        let mut seen: HashSet<_> = those.iter().map(canonical).collect();
        found.extend(these.iter().filter(|v| seen.insert(canonical(v))));
    }
    found
}

/// A text that is the same for equal values: members sorted by name.
fn canonical(value: &Json) -> Vec<u8> {
    fn sorted(value: &Json) -> Json {
        match value {
            Json::Array(elements) => {
                Json::from(elements.iter().map(sorted).collect::<Vec<_>>())
            }
            Json::Object(object) => {
                let mut members: Vec<_> = object.iter().collect();
                members.sort_by_key(|(name, _)| *name);
                Json::from(
                    members
                        .into_iter()
                        .map(|(name, v)| (name.to_string().into(), sorted(v)))
                        .collect::<Object>(),
                )
            }
            other => other.clone(),
        }
    }
    sorted(value).to_bytes()
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
    fn what_has_changed_too_much_is_told_as_a_whole() {
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
    fn large_arrays_compare_as_small_ones() {
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
