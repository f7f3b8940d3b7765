//! JSON values as Rust types.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Any JSON value, as it is written.
///
/// `Value` itself can't be used to read what a tenant has written: with its
/// feature `raw_value`, serde_json takes an object with a certain key for a text
/// of JSON.
pub struct Plain(pub Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::from(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::from(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::from(n))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(Value::from(n))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut seq: A,
    ) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(Plain(element)) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }
    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Plain(value))) = map.next_entry()? {
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// The members of a JSON object.
///
/// # Errors
/// If the text is not a JSON object.
pub fn members(json: &str) -> Result<Map<String, Value>, serde_json::Error> {
    use serde::de::Error;
    match serde_json::from_str(json)? {
        Plain(Value::Object(members)) => Ok(members),
        Plain(_) => Err(Error::custom("it is not an object")),
    }
}

/// Takes a member out, if it has a value of this type; otherwise it stays.
pub fn take<T: FromValue>(
    members: &mut Map<String, Value>,
    name: &str,
) -> Option<T> {
    let value = T::from_value(members.get(name)?)?;
    members.remove(name);
    Some(value)
}

/// Builds `Self` of these members, which are taken out of `$other`, of what is
/// left there, and of values that are known already.
macro_rules! from_members {
    ($other:ident: $($member:ident)*; $($known:ident)*) => {
        Self {
            $($member: $crate::value::take(&mut $other, stringify!($member)),)*
            $($known,)*
            $other,
        }
    };
}
pub(crate) use from_members;

/// A type that a JSON value can be of.
pub trait FromValue: Sized {
    /// The value, if it is of this type.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $value:ident => $read:expr;)*) => {
        $(impl FromValue for $type {
            fn from_value($value: &Value) -> Option<Self> {
                $read
            }
        })*
    };
}

from_value! {
    bool: value => value.as_bool();
    u32: value => value.as_u64()?.try_into().ok();
    u64: value => value.as_u64();
    i64: value => value.as_i64();
    f64: value => value.as_f64();
    String: value => value.as_str().map(str::to_string);
    Map<String, Value>: value => value.as_object().cloned();
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::from_value).collect()
    }
}

/// `null`, or a value of the other type.
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
