//! `fields=`: what of a VM object is wanted.

use super::path::{Part, Path, split_list};
use crate::json::{Json, Key, Object, Written, WrittenNames, value_of};

/// Some of the properties of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    paths: Vec<Path>,
}

impl Fields {
    /// Reads `a,b,nics.*.ip`, and adds it to what is wanted already.
    ///
    /// # Errors
    /// A sentence that names what no VM can have.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        for name in split_list(text) {
            self.paths.push(Path::parse(name)?);
        }
        Ok(())
    }

    /// What of `object` is wanted, in its own order. What is not there is
    /// left out; of an array of objects all that are meant stay, even if
    /// nothing of one is wanted.
    #[must_use]
    pub fn of(&self, object: &Object) -> Object {
        members(object, &self.parts())
    }

    /// Appends what is wanted of an object, as [`Fields::of`]. What is wanted
    /// whole is not read.
    pub fn write(&self, object: &Written, out: &mut Vec<u8>) {
        let paths = self.parts();
        out.push(b'{');
        let begin = out.len();
        for member in object.iter() {
            let below = below(&paths, |part| match part {
                // The names of properties are written as they are.
                Part::Name(wanted) => wanted.as_bytes() == member.name,
                Part::Any => true,
                Part::Index(_) => false,
            });
            let is_whole = below.iter().any(|path| path.is_empty());
            let part = match is_whole || below.is_empty() {
                true => None,
                false => {
                    let value = match keys(&below) {
                        Some(keys) => object.part_of(&member, &keys),
                        None => value_of(member.value),
                    };
                    part_of(&value, &below)
                }
            };
            if !is_whole && part.is_none() {
                continue;
            }
            if out.len() > begin {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(member.name);
            out.extend_from_slice(b"\":");
            match part {
                Some(part) => part.write(out),
                None => out.extend_from_slice(member.value),
            }
        }
        out.push(b'}');
    }

    fn parts(&self) -> Vec<&[Part]> {
        self.paths.iter().map(Path::parts).collect()
    }
}

/// The names that all of these paths begin with, if each begins with one.
fn keys<'a>(paths: &[&'a [Part]]) -> Option<WrittenNames> {
    let first = |path: &&'a [Part]| match path {
        [Part::Name(name), ..] => Some(name.as_str()),
        _ => None,
    };
    paths.iter().map(first).collect()
}

fn members(object: &Object, paths: &[&[Part]]) -> Object {
    let wanted = object.iter().filter_map(|(name, value)| {
        let below = below(paths, |part| match part {
            Part::Name(wanted) => wanted == name,
            Part::Any => true,
            Part::Index(_) => false,
        });
        let value = part_of(value, &below)?;
        Some((Key::Owned(name.to_string()), value))
    });
    wanted.collect()
}

/// The rests of those paths whose first part is meant.
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

/// What `paths` lead to within a value; `None` if none leads here.
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
    fn what_is_wanted_comes_in_its_own_order() {
        let vm = r#"{"uuid":"u","state":"running","zoneid":null,
            "nics":[{"mac":"m","ip":"1"},{"mac":"n"}],
            "resolvers":["a","b"],"tags":{"x.y":1,"z":2}}"#;
        let vm = Json::parse(vm).unwrap();
        for (fields, wanted) in [
            ("state,uuid", r#"{"uuid":"u","state":"running"}"#),
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
            let mut out = Vec::new();
            wants.write(&Written::new(vm), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "{fields}");
        }
    }

    #[test]
    fn unknown_fields_are_named() {
        for (fields, named) in [("state,bogus", "bogus"), ("", ""), ("a,", "a")]
        {
            let error = Fields::default().add(fields).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
