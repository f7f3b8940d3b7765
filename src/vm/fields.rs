//! `fields=`: which parts of a VM object a client wants.

use super::path::{Part, Path, UnknownProperty, split_list};
use crate::vm::json::{Json, Object, write_string};

/// Some of the properties of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    paths: Vec<Path>,
}

impl Fields {
    /// Parses `a,b,nics.*.ip`, and adds it to the fields that are wanted
    /// already.
    ///
    /// # Errors
    /// If no VM can have one of the fields.
    pub fn add(&mut self, text: &str) -> Result<(), UnknownProperty> {
        for name in split_list(text) {
            let path = Path::parse(name)?;
            if !self.paths.contains(&path) {
                self.paths.push(path);
            }
        }
        Ok(())
    }

    /// The wanted parts of `object`, in the object's own order. Parts that do
    /// not exist are left out. An array of objects keeps all elements that a
    /// path selects, even those without any wanted member.
    #[must_use]
    pub fn of(&self, object: &Object) -> Object {
        members(object, &self.parts())
    }

    /// Appends the wanted parts as compact JSON. Whole members are written
    /// without making an object of them, and without looking at the members
    /// after the last of them.
    pub fn write(&self, object: &Object, out: &mut Vec<u8>) {
        let is_whole = |path: &Path| matches!(path.parts(), [Part::Name(_)]);
        if !self.paths.iter().all(is_whole) {
            return self.of(object).write(out);
        }
        let is_wanted = |name: &str| {
            self.paths.iter().any(
                |path| matches!(path.parts(), [Part::Name(own)] if own == name),
            )
        };
        let wanted = object.iter().filter(|(name, _)| is_wanted(name));
        out.push(b'{');
        for (n, (name, value)) in wanted.take(self.paths.len()).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            write_string(name, out);
            out.push(b':');
            value.write(out);
        }
        out.push(b'}');
    }

    fn parts(&self) -> Vec<&[Part]> {
        self.paths.iter().map(Path::parts).collect()
    }
}

fn members(object: &Object, paths: &[&[Part]]) -> Object {
    object.filter_map(|name, value| {
        let below = below(paths, |part| match part {
            Part::Name(wanted) => wanted == name,
            Part::Any => true,
            Part::Index(_) => false,
        });
        part_of(value, &below)
    })
}

/// The rest of each path whose first part matches.
fn below<'a>(
    paths: &[&'a [Part]],
    is_meant: impl Fn(&Part) -> bool,
) -> Vec<&'a [Part]> {
    let rests = paths.iter().filter_map(|path| match path {
        [first, rest @ ..] if is_meant(first) => Some(rest),
        _ => None,
    });
    rests.collect()
}

/// The parts of a value that `paths` lead to; `None` if no path leads here.
fn part_of(value: &Json, paths: &[&[Part]]) -> Option<Json> {
    if paths.is_empty() {
        return None;
    }
    if paths.iter().any(|path| path.is_empty()) {
        return Some(value.clone());
    }
    match value {
        Json::Object(object) => Some(Json::from(members(object, paths))),
        Json::Array(elements) => {
            let wanted =
                elements.iter().enumerate().filter_map(|(i, value)| {
                    let below = below(paths, |part| match part {
                        Part::Index(at) => *at == i,
                        Part::Any => true,
                        Part::Name(_) => false,
                    });
                    part_of(value, &below)
                });
            Some(Json::from(wanted.collect::<Vec<_>>()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_fields_keep_the_order_of_the_vm_object() {
        let vm = r#"{"uuid":"u","state":"running","zoneid":null,
            "nics":[{"mac":"m","ip":"1"},{"mac":"n"}],
            "resolvers":["a","b"],"tags":{"x.y":1,"z":2}}"#;
        let vm = Json::parse(vm).unwrap();
        for (fields, wanted) in [
            ("state,uuid", r#"{"uuid":"u","state":"running"}"#),
            ("uuid,zoneid,uuid", r#"{"uuid":"u","zoneid":null}"#),
            ("zoneid,alias", r#"{"zoneid":null}"#),
            ("nics.*.ip", r#"{"nics":[{"ip":"1"},{}]}"#),
            ("nics.1", r#"{"nics":[{"mac":"n"}]}"#),
            (
                "nics.0.ip,nics.*.mac",
                r#"{"nics":[{"mac":"m","ip":"1"},{"mac":"n"}]}"#,
            ),
            (
                "nics.0.ip,nics",
                r#"{"nics":[{"mac":"m","ip":"1"},{"mac":"n"}]}"#,
            ),
            ("resolvers.1", r#"{"resolvers":["b"]}"#),
            ("tags.x.y", r#"{"tags":{"x.y":1}}"#),
            ("tags.*", r#"{"tags":{"x.y":1,"z":2}}"#),
            ("tags.no", r#"{"tags":{}}"#),
            ("resolvers.0,quota", r#"{"resolvers":["a"]}"#),
        ] {
            let mut wants = Fields::default();
            wants.add(fields).unwrap();
            let vm = vm.as_object().unwrap();
            assert_eq!(
                Json::from(wants.of(vm)).to_string(),
                wanted,
                "{fields}"
            );
            let mut written = Vec::new();
            wants.write(vm, &mut written);
            assert_eq!(String::from_utf8(written).unwrap(), wanted);
        }
    }

    #[test]
    fn unknown_fields_are_named() {
        for (fields, named) in [("state,bogus", "bogus"), ("", ""), ("a,", "a")]
        {
            let error = Fields::default().add(fields).unwrap_err();
            assert!(error.0.contains(named), "{error}");
        }
    }
}
