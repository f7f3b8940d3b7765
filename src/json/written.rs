//! An object as it is written, of which members can be read one by one.

use std::sync::Arc;

use super::text::{write_string, write_value};
use super::{Json, Key, Object};

/// The JSON of an object, and where in it each member begins: to look at one
/// member, the others are not read.
#[derive(Clone, Debug)]
pub struct Written {
    json: Arc<[u8]>,
    places: Arc<[u32]>,
}

/// The common size of the objects that are written, to begin with.
const SIZE: usize = 4096;

impl Written {
    /// Writes an object.
    #[must_use]
    pub fn new(object: &Object) -> Self {
        let mut json = Vec::with_capacity(SIZE);
        let mut places = Vec::with_capacity(object.len());
        json.push(b'{');
        for (name, value) in object.iter() {
            if !places.is_empty() {
                json.push(b',');
            }
            // Past 4 GiB there is nothing that could be found.
            places.push(u32::try_from(json.len()).unwrap_or(u32::MAX));
            write_string(name, &mut json);
            json.push(b':');
            write_value(value, &mut json, None);
        }
        json.push(b'}');
        Self { json: json.into(), places: places.into() }
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> &Arc<[u8]> {
        &self.json
    }

    /// Name and value of each member, as they are written; a name without its
    /// quotes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let ends = self.places.iter().skip(1).copied().map(|next| next - 1);
        let last = u32::try_from(self.json.len() - 1).unwrap_or(u32::MAX);
        let ends = ends.chain([last]);
        self.places.iter().zip(ends).filter_map(|(begin, end)| {
            let member = self.json.get(*begin as usize + 1..end as usize)?;
            let name = end_of_string(member)?;
            Some((&member[..name], member.get(name + 2..)?))
        })
    }

    /// Those of its members that are wanted. A name that is written with a
    /// `\` is asked for as it is written.
    #[must_use]
    pub fn members(&self, is_wanted: impl Fn(&str) -> bool) -> Object {
        let wanted = self.iter().filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            let value = is_wanted(name).then(|| value_of(value))?;
            Some((Key::Owned(name.to_string()), value))
        });
        wanted.collect()
    }
}

/// The value that this is the JSON of; `null` if it is not JSON.
#[must_use]
pub fn value_of(written: &[u8]) -> Json {
    serde_json::from_slice(written).unwrap_or_default()
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

    #[test]
    fn members_are_found_where_they_were_written() {
        let text = r#"{"a":1,"b":{"a":[2,"é}\",\""]},"c":null,"d\"":"\\"}"#;
        let object = Json::parse(text).unwrap();
        let written = Written::new(object.as_object().unwrap());
        assert_eq!(&**written.json(), text.as_bytes());
        let read = |wanted: &[&str]| {
            Json::from(written.members(|name| wanted.contains(&name)))
                .to_string()
        };
        assert_eq!(read(&[]), "{}");
        assert_eq!(read(&["c", "a"]), r#"{"a":1,"c":null}"#);
        assert_eq!(read(&["b", "no"]), r#"{"b":{"a":[2,"é}\",\""]}}"#);
        let all: Vec<_> = written.iter().collect();
        assert_eq!(all.len(), 4);
        assert_eq!(all[3], (&br#"d\""#[..], &br#""\\""#[..]));
        let empty = Written::new(&Object::new());
        assert_eq!((&**empty.json(), empty.iter().count()), (&b"{}"[..], 0));
    }
}
