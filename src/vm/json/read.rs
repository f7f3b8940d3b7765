//! Reading JSON, by serde_json.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use serde_json::value::RawValue;

use super::{Json, Key, Object};

/// The text of each element of an array. The elements themselves may be such
/// that [`Json::parse`] can't read them.
///
/// # Errors
/// If `array` is not an array.
pub fn elements_of(array: &str) -> Result<Vec<&str>, serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_str(array)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// The text of each member of an object. The members themselves may be such
/// that [`Json::parse`] can't read them.
///
/// # Errors
/// If `object` is not an object.
pub fn members_of(
    object: &str,
) -> Result<BTreeMap<String, &str>, serde_json::Error> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object)?;
    Ok(members.into_iter().map(|(k, v)| (k, v.get())).collect())
}

impl From<&RawValue> for Json {
    /// Reads an object that the client library has read already; so this does
    /// not fail. If it did, the result would be `null`.
    fn from(text: &RawValue) -> Self {
        Self::parse(text.get()).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Json, E> {
        Ok(Json::Bool(b))
    }
    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E>(self, n: i64) -> Result<Json, E> {
        Ok(Json::Number(n as f64))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Json, E> {
        Ok(Json::from(n))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Json, E> {
        Ok(Json::Number(n))
    }
    fn visit_str<E>(self, s: &str) -> Result<Json, E> {
        Ok(Json::from(s))
    }
    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut seq: A,
    ) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Json::from(elements))
    }
    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            members.push((Key::Owned(key), value));
        }
        // JavaScript's order: integer-like keys first, ascending.
        if members.iter().any(|(k, _)| array_index(k).is_some()) {
            members.sort_by_key(|(k, _)| array_index(k).unwrap_or(u32::MAX));
        }
        Ok(Json::from(Object::from_members(members)))
    }
}

/// The number of a key that JavaScript treats as an array index.
fn array_index(key: &str) -> Option<u32> {
    let canonical = key == "0"
        || (key.starts_with(|c: char| ('1'..='9').contains(&c))
            && key.bytes().all(|b| b.is_ascii_digit()));
    if canonical { key.parse().ok().filter(|n| *n < u32::MAX) } else { None }
}
