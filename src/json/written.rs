//! An object as it is written, of which members can be read one by one.

use std::sync::Arc;

use super::text::{write_string, write_value};
use super::{Json, Key, Object};

/// The JSON of an object, and where in it each member begins, and each member
/// of those that are objects themselves: to look at one, the others are not
/// read. How large those are may be up to a tenant.
#[derive(Clone, Debug)]
pub struct Written {
    json: Arc<[u8]>,
    /// Places of the members, then those of members of members.
    places: Arc<[u32]>,
    members: usize,
}

/// The common size of the objects that are written, to begin with.
const SIZE: usize = 4096;

/// A member as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name, without quotes.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// Where the value begins.
    at: usize,
}

/// What is to be read of an object.
#[derive(Clone, Debug, Default)]
pub struct Wants(Vec<(String, Keys)>);

/// What is to be read of a member.
#[derive(Clone, Debug)]
enum Keys {
    All,
    Some(Vec<String>),
}

impl Wants {
    /// Adds a member.
    pub fn add(&mut self, member: &str) {
        self.0.retain(|(name, _)| name != member);
        self.0.push((member.to_string(), Keys::All));
    }

    /// Adds a member of a member. If that is no object, it is read whole.
    pub fn add_key(&mut self, member: &str, key: &str) {
        let known = self.0.iter_mut().find(|(name, _)| name == member);
        match known {
            None => {
                let keys = Keys::Some(vec![key.to_string()]);
                self.0.push((member.to_string(), keys));
            }
            Some((_, Keys::All)) => {}
            Some((_, Keys::Some(keys))) => keys.push(key.to_string()),
        }
    }

    fn of(&self, written: &[u8]) -> Option<&Keys> {
        let wanted = self.0.iter().find(|(name, _)| is_name(written, name));
        wanted.map(|(_, keys)| keys)
    }
}

impl Written {
    /// Writes an object.
    #[must_use]
    pub fn new(object: &Object) -> Self {
        let mut json = Vec::with_capacity(SIZE);
        let mut places = Vec::with_capacity(object.len());
        let mut inner = Vec::new();
        write_members(
            object,
            &mut json,
            &mut places,
            |value, json| match value {
                Json::Object(object) => {
                    write_members(object, json, &mut inner, |value, json| {
                        write_value(value, json, None);
                    });
                }
                value => write_value(value, json, None),
            },
        );
        let members = places.len();
        places.extend(inner);
        Self { json: json.into(), places: places.into(), members }
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> &Arc<[u8]> {
        &self.json
    }

    /// The members.
    pub fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        self.between(&self.places[..self.members], self.json.len() - 1)
    }

    /// What is wanted of the members.
    #[must_use]
    pub fn members(&self, wants: &Wants) -> Object {
        let wanted = self.iter().filter_map(|member| {
            let value = match wants.of(member.name)? {
                Keys::All => value_of(member.value),
                Keys::Some(keys) => self.part_of(&member, keys),
            };
            Some((name_of(member.name)?, value))
        });
        wanted.collect()
    }

    /// These members of a member; if that is no object, all of it.
    #[must_use]
    pub fn part_of<S: AsRef<str>>(
        &self,
        member: &Member<'_>,
        keys: &[S],
    ) -> Json {
        if !member.value.starts_with(b"{") {
            return value_of(member.value);
        }
        let end = member.at + member.value.len();
        let inner = &self.places[self.members..];
        let first = inner.partition_point(|at| (*at as usize) < member.at);
        let next = inner.partition_point(|at| (*at as usize) < end);
        let part = self.between(&inner[first..next], end - 1);
        let part = part.filter_map(|inner| {
            let is_wanted =
                keys.iter().any(|key| is_name(inner.name, key.as_ref()));
            let name = is_wanted.then(|| name_of(inner.name))?;
            Some((name?, value_of(inner.value)))
        });
        Json::from(part.collect::<Object>())
    }

    /// The members that begin at these places, of an object whose bracket is
    /// closed at `end`.
    fn between<'a>(
        &'a self,
        places: &'a [u32],
        end: usize,
    ) -> impl Iterator<Item = Member<'a>> {
        let ends = places.iter().skip(1).map(|next| *next as usize - 1);
        places.iter().zip(ends.chain([end])).filter_map(|(begin, end)| {
            let begin = *begin as usize + 1;
            let member = self.json.get(begin..end)?;
            let name = end_of_string(member)?;
            let (name, value) = (&member[..name], member.get(name + 2..)?);
            Some(Member { name, value, at: end - value.len() })
        })
    }
}

/// Writes an object, and notes where each member begins.
fn write_members(
    object: &Object,
    json: &mut Vec<u8>,
    places: &mut Vec<u32>,
    mut write: impl FnMut(&Json, &mut Vec<u8>),
) {
    json.push(b'{');
    for (i, (name, value)) in object.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        // Past 4 GiB there is nothing that could be found.
        places.push(u32::try_from(json.len()).unwrap_or(u32::MAX));
        write_string(name, json);
        json.push(b':');
        write(value, json);
    }
    json.push(b'}');
}

/// The value that this is the JSON of; `null` if it is not JSON.
#[must_use]
pub fn value_of(written: &[u8]) -> Json {
    serde_json::from_slice(written).unwrap_or_default()
}

/// Whether a name that is written so, without quotes, is this one.
#[must_use]
pub fn is_name(written: &[u8], name: &str) -> bool {
    match written.contains(&b'\\') {
        false => written == name.as_bytes(),
        true => name_of(written).is_some_and(|written| written == name),
    }
}

fn name_of(written: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(written).ok()?;
    if !text.contains('\\') {
        return Some(Key::Owned(text.to_string()));
    }
    serde_json::from_str(&format!("\"{text}\"")).ok().map(Key::Owned)
}

/// Where the string ends whose first quote has been passed.
fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Written {
        let written =
            Written::new(Json::parse(text).unwrap().as_object().unwrap());
        assert_eq!(&**written.json(), text.as_bytes());
        written
    }

    /// Reads members, or keys of them by `MEMBER/KEY`.
    fn read(written: &Written, wanted: &[&str]) -> String {
        let mut wants = Wants::default();
        for name in wanted {
            match name.split_once('/') {
                Some((member, key)) => wants.add_key(member, key),
                None => wants.add(name),
            }
        }
        Json::from(written.members(&wants)).to_string()
    }

    #[test]
    fn members_are_found_where_they_were_written() {
        let written =
            written(r#"{"a":1,"b":{"a":[2,"é}\",\""]},"c":null,"d\"":"\\"}"#);
        for (wanted, found) in [
            (&[][..], "{}"),
            (&["c", "a"], r#"{"a":1,"c":null}"#),
            (&["b", "no"], r#"{"b":{"a":[2,"é}\",\""]}}"#),
            (&["d\""], r#"{"d\"":"\\"}"#),
        ] {
            assert_eq!(read(&written, wanted), found);
        }
        let all: Vec<_> = written.iter().collect();
        assert_eq!(all.len(), 4);
        assert_eq!(
            (all[3].name, all[3].value),
            (&br#"d\""#[..], &br#""\\""#[..])
        );
        let empty = Written::new(&Object::new());
        assert_eq!((&**empty.json(), empty.iter().count()), (&b"{}"[..], 0));
    }

    #[test]
    fn members_of_members_are_found_by_themselves() {
        let written = written(
            r#"{"t":{},"m":{"k":{"k":1},"l\n":"}","":2},"n":[{"k":3}],"o":{"k":4}}"#,
        );
        for (wanted, found) in [
            (&["m/k"][..], r#"{"m":{"k":{"k":1}}}"#),
            (&["m/l\n", "m/"], r#"{"m":{"l\n":"}","":2}}"#),
            (&["m/no", "t/k"], r#"{"t":{},"m":{}}"#),
            (&["o/k", "m/l"], r#"{"m":{},"o":{"k":4}}"#),
            (&["n/k"], r#"{"n":[{"k":3}]}"#),
            (&["o/no", "o"], r#"{"o":{"k":4}}"#),
            (&["o", "o/no"], r#"{"o":{"k":4}}"#),
        ] {
            assert_eq!(read(&written, wanted), found, "{wanted:?}");
        }
    }
}
