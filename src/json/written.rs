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

/// Names of members as they are written, so that none has to be read to be
/// found: sorted, and none twice.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<Box<[u8]>>);

impl Names {
    fn add(&mut self, name: &str) {
        let name = written_name(name);
        if let Err(place) = self.0.binary_search(&name) {
            self.0.insert(place, name);
        }
    }

    fn contains(&self, written: &[u8]) -> bool {
        self.0.binary_search_by(|name| (**name).cmp(written)).is_ok()
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut names: Vec<_> = names.into_iter().map(written_name).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }
}

/// What is to be read of an object: members by their written names.
#[derive(Clone, Debug, Default)]
pub struct Wants(Vec<(Box<[u8]>, Keys)>);

/// What is to be read of a member.
#[derive(Clone, Debug)]
enum Keys {
    All,
    Some(Names),
}

impl Wants {
    /// Adds a member.
    pub fn add(&mut self, member: &str) {
        *self.keys(member) = Keys::All;
    }

    /// Adds a member of a member. If that is no object, it is read whole.
    pub fn add_key(&mut self, member: &str, key: &str) {
        if let Keys::Some(keys) = self.keys(member) {
            keys.add(key);
        }
    }

    /// What is wanted of a member; by now, none of its own.
    fn keys(&mut self, member: &str) -> &mut Keys {
        let name = written_name(member);
        let known = self.0.iter().position(|(known, _)| *known == name);
        let place = known.unwrap_or_else(|| {
            self.0.push((name, Keys::Some(Names::default())));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }

    fn of(&self, written: &[u8]) -> Option<&Keys> {
        let wanted = self.0.iter().find(|(name, _)| **name == *written);
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
    pub fn part_of(&self, member: &Member<'_>, keys: &Names) -> Json {
        if !member.value.starts_with(b"{") {
            return value_of(member.value);
        }
        let end = member.at + member.value.len();
        let inner = &self.places[self.members..];
        let first = inner.partition_point(|at| (*at as usize) < member.at);
        let next = inner.partition_point(|at| (*at as usize) < end);
        let part = self.between(&inner[first..next], end - 1);
        let part = part.filter(|inner| keys.contains(inner.name));
        let part = part.filter_map(|inner| {
            Some((name_of(inner.name)?, value_of(inner.value)))
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

/// A name as it is written, without quotes.
fn written_name(name: &str) -> Box<[u8]> {
    let mut written = Vec::with_capacity(name.len() + 2);
    write_string(name, &mut written);
    written[1..written.len() - 1].into()
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
        // Of many keys each is found, however it is written.
        let names = (0..300).map(|n| format!("{n}\"\\\u{1}é"));
        let names: Vec<_> = names.collect();
        let map = names.iter().map(|name| (name.clone().into(), Json::Null));
        let mut object = Object::new();
        object.set("m", map.collect::<Object>());
        let written = Written::new(&object);
        let wanted: Names =
            names.iter().step_by(2).chain(&names[..9]).map(|n| &**n).collect();
        let member = written.iter().next().unwrap();
        let found = written.part_of(&member, &wanted);
        let found = found.as_object().unwrap();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(found.contains(name), n % 2 == 0 || n < 9, "{name}");
        }
    }
}
