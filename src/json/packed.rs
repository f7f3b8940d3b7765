//! Values that are kept for long and looked at seldom, in few bytes.
//!
//! As a tree, an object takes several times the size of its JSON: each member
//! has its place in a list, and each string memory of its own. Packed, it is
//! one piece of memory, and to unpack it costs a tenth of parsing its JSON.

use std::sync::{Arc, LazyLock};

use super::{Json, Key, Object};

/// A value in one piece of memory. Two of the same bytes are equal; objects
/// whose members have another order are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(Arc<[u8]>);

/// Names that members are expected to have, sorted: each takes one byte. Who
/// unpacks has to have the same. Past 255 they are written out like others.
pub type Names = [&'static str];

/// Stands before a name that is written out.
const OTHER_NAME: u8 = u8::MAX;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const NUMBER: u8 = 3;
/// A whole number from 0 on, below [`SMALL_MAX`].
const SMALL: u8 = 4;
const STRING: u8 = 5;
const ARRAY: u8 = 6;
const OBJECT: u8 = 7;
/// A string that is a UUID as programs write them: a VM has half a dozen.
const UUID: u8 = 8;

/// Where a UUID has its hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_BYTES: usize = 16;
const UUID_TEXT: usize = 2 * UUID_BYTES + HYPHENS.len();

const SMALL_MAX: f64 = 4_294_967_296.0;

/// Most VMs have some: they share it.
static EMPTY: LazyLock<Packed> =
    LazyLock::new(|| Packed([OBJECT, 0].as_slice().into()));

/// An object without members.
impl Default for Packed {
    fn default() -> Self {
        EMPTY.clone()
    }
}

impl Packed {
    /// Packs a value.
    #[must_use]
    pub fn new(value: &Json, names: &Names) -> Self {
        let mut packer = Packer { out: Vec::new(), names };
        packer.value(value);
        packer.packed()
    }

    /// Packs an object.
    #[must_use]
    pub fn object(object: &Object, names: &Names) -> Self {
        let mut packer = Packer { out: Vec::new(), names };
        packer.object(object);
        packer.packed()
    }

    /// Whether both are one piece of memory.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The value.
    #[must_use]
    pub fn value(&self, names: &Names) -> Json {
        // We have packed it, so that it can be unpacked.
        Unpacker { rest: &self.0, names }.value().unwrap_or_default()
    }

    /// The value, if it is an object, else an empty one; with room for `more`
    /// members.
    #[must_use]
    pub fn members(&self, names: &Names, more: usize) -> Object {
        let mut unpacker = Unpacker { rest: &self.0, names };
        match unpacker.byte() {
            Some(OBJECT) => unpacker.object(more).unwrap_or_default(),
            _ => Object::default(),
        }
    }
}

struct Packer<'a> {
    out: Vec<u8>,
    names: &'a Names,
}

impl Packer<'_> {
    fn packed(self) -> Packed {
        match self.out[..] == *EMPTY.0 {
            true => Packed::default(),
            false => Packed(self.out.into()),
        }
    }

    fn value(&mut self, value: &Json) {
        match value {
            Json::Null => self.out.push(NULL),
            Json::Bool(false) => self.out.push(FALSE),
            Json::Bool(true) => self.out.push(TRUE),
            Json::Number(n) => self.number(*n),
            Json::String(text) => match uuid(text) {
                Some(bytes) => {
                    self.out.push(UUID);
                    self.out.extend_from_slice(&bytes);
                }
                None => {
                    self.out.push(STRING);
                    self.text(text);
                }
            },
            Json::Array(elements) => {
                self.out.push(ARRAY);
                self.size(elements.len());
                elements.iter().for_each(|element| self.value(element));
            }
            Json::Object(object) => self.object(object),
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn number(&mut self, n: f64) {
        // Not -0, which is another double, although it is printed as 0.
        let is_small = n.fract() == 0.0 && n < SMALL_MAX;
        if is_small && n.is_sign_positive() {
            self.out.push(SMALL);
            self.size(n as usize);
        } else {
            self.out.push(NUMBER);
            self.out.extend_from_slice(&n.to_ne_bytes());
        }
    }

    fn object(&mut self, object: &Object) {
        self.out.push(OBJECT);
        self.size(object.len());
        for (name, value) in object.iter() {
            let known = self.names.binary_search(&name).ok();
            match known.and_then(|place| u8::try_from(place).ok()) {
                Some(place) if place != OTHER_NAME => self.out.push(place),
                _ => {
                    self.out.push(OTHER_NAME);
                    self.text(name);
                }
            }
            self.value(value);
        }
    }

    fn text(&mut self, text: &str) {
        self.size(text.len());
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Seven bits a byte, the lowest first; the last byte is below 128.
    #[allow(clippy::cast_possible_truncation)]
    fn size(&mut self, mut size: usize) {
        while size >= 128 {
            self.out.push(size as u8 | 128);
            size >>= 7;
        }
        self.out.push(size as u8);
    }
}

struct Unpacker<'a> {
    rest: &'a [u8],
    names: &'a Names,
}

impl<'a> Unpacker<'a> {
    fn value(&mut self) -> Option<Json> {
        Some(match self.byte()? {
            FALSE => Json::Bool(false),
            TRUE => Json::Bool(true),
            #[allow(clippy::cast_precision_loss)]
            SMALL => Json::Number(self.size()? as f64),
            NUMBER => {
                let bytes = self.bytes(8)?.try_into().ok()?;
                Json::Number(f64::from_ne_bytes(bytes))
            }
            STRING => Json::from(self.text()?),
            UUID => {
                let text = uuid_text(self.bytes(UUID_BYTES)?);
                Json::from(std::str::from_utf8(&text).ok()?)
            }
            ARRAY => {
                let elements = (0..self.size()?).map(|_| self.value());
                Json::Array(elements.collect::<Option<Arc<[_]>>>()?)
            }
            OBJECT => Json::Object(Arc::new(self.object(0)?)),
            _ => Json::Null,
        })
    }

    fn object(&mut self, more: usize) -> Option<Object> {
        let count = self.size()?;
        let mut members = Vec::with_capacity(count + more);
        for _ in 0..count {
            let name = match self.byte()? {
                OTHER_NAME => Key::Owned(self.text()?.to_string()),
                place => Key::Borrowed(*self.names.get(usize::from(place))?),
            };
            members.push((name, self.value()?));
        }
        Some(Object::of_distinct(members))
    }

    fn text(&mut self) -> Option<&'a str> {
        let size = self.size()?;
        std::str::from_utf8(self.bytes(size)?).ok()
    }

    fn size(&mut self) -> Option<usize> {
        let (mut size, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            size |= usize::from(byte & 127) << shift;
            if byte < 128 {
                return Some(size);
            }
            shift += 7;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }
}

/// The bytes of a UUID; `None` of a text that could not be made of them again.
fn uuid(text: &str) -> Option<[u8; UUID_BYTES]> {
    let text: &[u8; UUID_TEXT] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; UUID_BYTES];
    let mut digits = 0;
    for (place, c) in text.iter().enumerate() {
        let digit = match c {
            b'-' if HYPHENS.contains(&place) => continue,
            _ if HYPHENS.contains(&place) => return None,
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => return None,
        };
        bytes[digits / 2] = bytes[digits / 2] << 4 | digit;
        digits += 1;
    }
    Some(bytes)
}

fn uuid_text(bytes: &[u8]) -> [u8; UUID_TEXT] {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut digits =
        digits.map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    let mut text = [b'-'; UUID_TEXT];
    for (place, c) in text.iter_mut().enumerate() {
        if !HYPHENS.contains(&place) {
            *c = digits.next().unwrap_or(b'0');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &Names = &["alias", "nics", "ram"];

    #[test]
    fn what_is_packed_comes_back() {
        let long = "é".repeat(10_000);
        let many: Vec<_> = (0..300).map(|n| format!("\"{n}k\":{n}")).collect();
        for text in [
            "null",
            r#"{"ram":128,"alias":"a","nics":[{"x":[]},{}],"other":null}"#,
            r#"[true,false,0,127,128,4294967295,4294967296,1.5,-1,-0.5,1e300]"#,
            &format!("{{\"ram\":{long:?}}}"),
            &format!("{{{}}}", many.join(",")),
        ] {
            let value = Json::parse(text).unwrap();
            let packed = Packed::new(&value, NAMES);
            let again = packed.value(NAMES);
            // As text, so that the order counts.
            assert_eq!(again.to_string(), value.to_string());
            if let Some(object) = value.as_object() {
                assert_eq!(Packed::object(object, NAMES), packed);
                let members = packed.members(NAMES, 1);
                assert_eq!(Json::from(members).to_string(), value.to_string());
                let last = object.iter().last();
                let last = last.map(|(name, _)| name.to_string()).unwrap();
                let again = again.as_object().unwrap();
                assert_eq!(again.get(&last), object.get(&last));
            }
        }
        for n in [f64::NAN, f64::NEG_INFINITY, -0.0, 2f64.powi(53)] {
            let packed = Packed::new(&Json::Number(n), &[]).value(&[]);
            assert_eq!(packed.as_f64().map(f64::to_bits), Some(n.to_bits()));
        }
    }

    #[test]
    fn a_known_name_takes_one_byte() {
        let value = Json::parse(r#"{"alias":null,"nics":null}"#).unwrap();
        assert_eq!(Packed::new(&value, NAMES).0.len(), 6);
        assert_eq!(Packed::new(&value, &[]).0.len(), 6 + 6 + 5);
    }

    #[test]
    fn a_uuid_takes_its_own_bytes() {
        let uuid = "0aa46416-83c2-4f49-a1bc-fd0a53b3e5c9";
        let packed = Packed::new(&Json::from(uuid), &[]);
        assert_eq!(packed.0.len(), 1 + UUID_BYTES);
        let others = [
            uuid.to_string(),
            uuid.to_uppercase(),
            uuid.replace('-', "0"),
            uuid.replace("-4f", "4-f"),
            uuid.replace("-8", "--"),
            uuid.replace('5', "g"),
            uuid[1..].to_string(),
            format!("{uuid}0"),
            uuid.replace("aa", "é"),
        ];
        for text in others {
            let value = Json::from(text.as_str());
            let again = Packed::new(&value, &[]).value(&[]);
            assert_eq!(again.as_str(), Some(&*text));
        }
    }

    #[test]
    fn packed_values_of_other_content_are_not_equal() {
        let packed = |text| Packed::new(&Json::parse(text).unwrap(), NAMES);
        assert_eq!(packed(r#"{"ram":1}"#), packed(r#"{"ram":1}"#));
        assert_ne!(packed(r#"{"ram":1}"#), packed(r#"{"ram":2}"#));
        assert_eq!(packed("[1]").members(NAMES, 0).len(), 0);
        assert_eq!(packed("{}"), Packed::default());
    }
}
