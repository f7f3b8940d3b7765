//! Filters and conditions: `PROP=VALUE`, as in `vmadm lookup`.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use regex_lite::{Regex, RegexBuilder};

use super::path::{Part, Path, UnknownProperty};
use crate::vm::json::{Json, Object, number_text};

/// The most memory that one regular expression may take, in bytes.
const REGEX_BYTES: usize = 16 << 10;

/// An expression that takes no more memory than this counts as small, and may
/// search the most text. In bytes.
const REGEX_BYTES_SMALL: usize = 1 << 10;

/// How deeply the groups of a regular expression may be nested.
const REGEX_DEPTH: u32 = 16;

/// How much of a text the largest expression searches from its beginning, in
/// bytes. An expression of half its size searches twice as much, and so on.
/// There is a limit because a tenant decides how long metadata are, and a
/// single search can't be interrupted.
const SEARCHED_BYTES: usize = 16 << 10;

/// A time limit for all searches by regular expressions together: a search can
/// cost as much as the length of the expression times that of the text.
#[derive(Debug)]
pub struct Search {
    until: Instant,
    is_over: Cell<bool>,
    is_cut: Cell<bool>,
}

impl Search {
    /// A time limit of `time` that begins now.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self {
            until: Instant::now() + time,
            is_over: Cell::new(false),
            is_cut: Cell::new(false),
        }
    }

    /// Why the result is unknown; `None` if it is known.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        match (self.is_over(), self.is_cut.get()) {
            (true, _) => Some("the search by regular expression took too long"),
            (_, true) => Some("a value is too long to be searched to its end"),
            (false, false) => None,
        }
    }

    /// Whether the time ran out, so that not everything was searched.
    fn is_over(&self) -> bool {
        self.is_over.get()
    }

    fn goes_on(&self) -> bool {
        let is_over = self.is_over() || Instant::now() >= self.until;
        self.is_over.set(is_over);
        !is_over
    }
}

/// The most conditions of one request.
pub const CONDITIONS_MAX: usize = 32;

/// A condition that a VM meets or does not meet.
#[derive(Clone, Debug)]
pub struct Condition {
    what: What,
    test: Test,
    is_negated: bool,
}

/// What a condition looks at.
#[derive(Clone, Debug)]
enum What {
    /// A property.
    Property(Path),
    /// `type`, which vmadm derives from the brand.
    Type,
    /// `ram`, which vmadm takes from another property for most brands.
    Ram,
}

/// How a condition tests a value.
#[derive(Clone, Debug)]
enum Test {
    /// The text of the value equals this.
    Equals(String),
    /// The text of the value matches this anywhere, ignoring case. The number
    /// is how many bytes of the text are searched.
    Matches(Regex, usize),
}

impl Condition {
    /// Parses a condition. `value` is a text to be equal to, or `~` and a
    /// regular expression, or `!` and either of these, which then must not
    /// hold. After `\` comes a text to be equal to, whatever it begins with.
    ///
    /// # Errors
    /// If no VM can have the property, or the regular expression is not valid.
    pub fn new(property: &str, value: &str) -> Result<Self, ConditionError> {
        let what = match property {
            "type" => What::Type,
            "ram" => What::Ram,
            _ => What::Property(Path::parse(property)?),
        };
        let (is_negated, value) = match value.strip_prefix('!') {
            Some(value) => (true, value),
            None => (false, value),
        };
        let test = match value.strip_prefix('~') {
            Some(pattern) => {
                let (regex, searched) = regex(pattern)?;
                Test::Matches(regex, searched)
            }
            None => {
                let text = value.strip_prefix('\\').unwrap_or(value);
                Test::Equals(match is_mac(&what) {
                    true => whole_mac(text),
                    false => text.to_string(),
                })
            }
        };
        Ok(Self { what, test, is_negated })
    }

    /// Whether the condition has a regular expression.
    #[must_use]
    pub fn has_regex(&self) -> bool {
        matches!(self.test, Test::Matches(..))
    }

    /// The values of the condition's property in a VM, as texts.
    #[must_use]
    pub fn texts(&self, vm: &Object) -> Vec<String> {
        let mut texts = Vec::new();
        let mut take = |value: &Json| {
            texts.extend(text_of(value).map(Cow::into_owned));
            false
        };
        match &self.what {
            What::Property(path) => {
                path.any(vm, take);
            }
            What::Type => texts.push(type_of(vm).to_string()),
            What::Ram => {
                vm.get(ram_member(vm)).map(&mut take);
            }
        }
        texts
    }

    /// Whether a change at `path`, as published in /events, may concern what
    /// this condition looks at.
    #[must_use]
    pub fn may_be_changed_at(&self, path: &[Json]) -> bool {
        match &self.what {
            What::Property(own) => own.may_meet(path),
            _ => {
                let member = path.first().and_then(Json::as_str);
                member.is_none_or(|member| self.members().contains(&member))
            }
        }
    }

    /// The members from which `type` and `ram` are derived.
    fn members(&self) -> &'static [&'static str] {
        match &self.what {
            What::Property(_) => &[],
            What::Type => &["brand"],
            What::Ram => &["brand", "ram", "max_physical_memory"],
        }
    }

    /// Whether the condition holds for a VM. If the property is missing or
    /// `null`, only a negated condition holds. If `search` reports a failure
    /// afterwards, the result is unknown.
    #[must_use]
    pub fn holds(&self, vm: &Object, search: &Search) -> bool {
        let is_so = match &self.what {
            What::Property(path) => {
                path.any(vm, |value| self.test.is_met(value, search))
            }
            What::Type => self.test.is_met_by(type_of(vm), search),
            What::Ram => {
                let is_met = |value| self.test.is_met(value, search);
                vm.get(ram_member(vm)).is_some_and(is_met)
            }
        };
        is_so != self.is_negated
    }
}

impl Test {
    fn is_met(&self, value: &Json, search: &Search) -> bool {
        text_of(value).is_some_and(|text| self.is_met_by(&text, search))
    }

    fn is_met_by(&self, text: &str, search: &Search) -> bool {
        match self {
            Self::Equals(wanted) => wanted == text,
            Self::Matches(regex, searched) => {
                let mut end = text.len().min(*searched);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                if !search.goes_on() {
                    return false;
                }
                let found = regex.find(&text[..end]);
                if end == text.len() {
                    return found.is_some();
                }
                // A match that reaches the end of the searched part does not
                // count: `$` means the end of the text.
                let is_within = found.is_some_and(|found| found.end() < end);
                search.is_cut.set(search.is_cut.get() || !is_within);
                is_within
            }
        }
    }
}

/// Why a condition is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionError {
    /// No VM can have the property.
    Unknown(UnknownProperty),
    /// It is not a valid regular expression.
    Regex {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// There are already [`CONDITIONS_MAX`] conditions.
    TooMany,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(error) => error.fmt(f),
            Self::Regex { pattern, why } => {
                write!(f, "no regular expression: {pattern}: {why}")
            }
            Self::TooMany => write!(f, "more than {CONDITIONS_MAX} conditions"),
        }
    }
}

impl std::error::Error for ConditionError {}

impl From<UnknownProperty> for ConditionError {
    fn from(error: UnknownProperty) -> Self {
        Self::Unknown(error)
    }
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    conditions: Vec<(String, Condition)>,
}

impl Filter {
    /// Adds a condition. It replaces an earlier one on the same property.
    ///
    /// # Errors
    /// Those of [`Condition::new`], and [`ConditionError::TooMany`].
    pub fn add(
        &mut self,
        property: &str,
        value: &str,
    ) -> Result<(), ConditionError> {
        let condition = Condition::new(property, value)?;
        self.conditions.retain(|(name, _)| name != property);
        if self.conditions.len() >= CONDITIONS_MAX {
            return Err(ConditionError::TooMany);
        }
        self.conditions.push((property.to_string(), condition));
        Ok(())
    }

    /// Whether every VM passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether any condition has a regular expression, which takes time.
    #[must_use]
    pub fn has_regex(&self) -> bool {
        self.conditions.iter().any(|(_, condition)| condition.has_regex())
    }

    /// Whether all conditions hold for a VM. If `search` reports a failure
    /// afterwards, the result is unknown.
    #[must_use]
    pub fn passes(&self, vm: &Object, search: &Search) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.all(|(_, condition)| condition.holds(vm, search))
    }
}

/// Compiles an expression. Returns it, and how many bytes of a text it may
/// search: the smaller it is, the more.
fn regex(pattern: &str) -> Result<(Regex, usize), ConditionError> {
    let mut size = REGEX_BYTES_SMALL;
    loop {
        let built = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .size_limit(size)
            .nest_limit(REGEX_DEPTH)
            .build();
        match built {
            Ok(regex) => {
                return Ok((regex, SEARCHED_BYTES * (REGEX_BYTES / size)));
            }
            Err(e) if size >= REGEX_BYTES => {
                return Err(ConditionError::Regex {
                    pattern: pattern.to_string(),
                    why: e.to_string(),
                });
            }
            Err(_) => size *= 2,
        }
    }
}

/// The type of a VM, as vmadm(8) shows it: at most four letters.
#[must_use]
pub fn type_of(vm: &Object) -> &'static str {
    type_of_brand(vm.get_str("brand"))
}

/// What vmadm calls the type of a VM of this brand.
#[must_use]
pub fn type_of_brand(brand: Option<&str>) -> &'static str {
    match brand {
        Some("lx") => "LX",
        Some("kvm") => "KVM",
        Some("bhyve") => "BHYV",
        _ => "OS",
    }
}

/// The name of the member that holds the memory of a VM, in MiB.
#[must_use]
pub fn ram_member(vm: &Object) -> &'static str {
    match type_of(vm) {
        "KVM" | "BHYV" => "ram",
        _ => "max_physical_memory",
    }
}

/// A value as JavaScript's `String(value)` writes it; `None` for `null`.
#[must_use]
pub fn text_of(value: &Json) -> Option<Cow<'_, str>> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(true) => "true".into(),
        Json::Bool(false) => "false".into(),
        Json::Number(n) => number_text(*n).into(),
        Json::String(text) => Cow::from(&**text),
        Json::Array(elements) => {
            let texts = elements.iter().map(|e| text_of(e).unwrap_or_default());
            texts.collect::<Vec<_>>().join(",").into()
        }
        Json::Object(_) => "[object Object]".into(),
    })
}

fn is_mac(what: &What) -> bool {
    let What::Property(path) = what else { return false };
    matches!(path.parts(), [Part::Name(nics), _, Part::Name(mac)]
        if nics == "nics" && mac == "mac")
}

/// A MAC address with two digits for each octet; zonecfg(8) leaves leading
/// zeros out.
fn whole_mac(mac: &str) -> String {
    let octets = mac.split(':').map(|octet| format!("{octet:0>2}"));
    octets.collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> Search {
        Search::new(Duration::from_secs(1000))
    }

    const VM: &str = r#"{"uuid":"u","alias":"Web=1","brand":"joyent",
        "quota":10,"max_physical_memory":256,"autoboot":false,"zoneid":null,
        "resolvers":["8.8.8.8","8.8.4.4"],"empty":"","hostname":"",
        "nics":[{"mac":"02:08:20:00:00:01","ip":"10.0.0.1"},
                {"mac":"02:08:20:00:00:02","vlan_id":7}],
        "disks":[{"size":0.5}],"tags":{"a.b":"x","n":3,"t":true,"odd":"!x","odder":"\\~"}}"#;

    #[test]
    fn conditions_hold_as_in_vmadm_lookup() {
        let vm = Json::parse(VM).unwrap();
        let vm = vm.as_object().unwrap();
        for (property, value, holds) in [
            ("alias", "Web=1", true),
            ("alias", "web=1", false),
            ("alias", "~^web", true),
            ("alias", "~b.1$", true),
            ("alias", "~", true),
            ("alias", "", false),
            ("hostname", "", true),
            ("quota", "10", true),
            ("quota", "10.0", false),
            ("autoboot", "false", true),
            ("zoneid", "null", false),
            ("zoneid", "", false),
            ("zoneid", "~.", false),
            ("billing_id", "", false),
            ("resolvers", "8.8.8.8,8.8.4.4", true),
            ("resolvers.1", "8.8.4.4", true),
            ("type", "OS", true),
            ("type", "os", false),
            ("type", "~os", true),
            ("ram", "256", true),
            ("nics.*.ip", "10.0.0.1", true),
            ("nics.1.ip", "10.0.0.1", false),
            ("nics.*.vlan_id", "7", true),
            ("nics.*.mac", "2:8:20:0:0:2", true),
            ("nics.0.mac", "2:8:20:0:0:2", false),
            ("nics.*.mac", "~^2:8", false),
            ("disks.*.size", "0.5", true),
            ("tags.a.b", "x", true),
            ("tags.n", "3", true),
            ("tags.t", "true", true),
            ("tags.*", "3", true),
            ("alias", "\\Web=1", true),
            ("tags.odd", "\\!x", true),
            ("tags.odd", "!\\!x", false),
            ("tags.odder", "\\\\~", true),
            ("nics.*.mac", "\\2:8:20:0:0:2", true),
            ("alias", "!Web=1", false),
            ("alias", "!other", true),
            ("alias", "!~^web", false),
            ("billing_id", "!x", true),
            ("nics.*.ip", "!10.0.0.2", true),
        ] {
            let condition = Condition::new(property, value).unwrap();
            assert_eq!(
                condition.holds(vm, &long()),
                holds,
                "{property}={value}"
            );
        }
    }

    #[test]
    fn type_and_ram_are_derived_from_the_brand() {
        for (brand, kind, ram) in [
            ("kvm", "KVM", "1"),
            ("bhyve", "BHYV", "1"),
            ("lx", "LX", "2"),
            ("joyent-minimal", "OS", "2"),
            ("new", "OS", "2"),
        ] {
            let vm = format!(
                r#"{{"brand":"{brand}","ram":1,"max_physical_memory":2}}"#
            );
            let vm = Json::parse(&vm).unwrap();
            let mut filter = Filter::default();
            filter.add("type", kind).unwrap();
            filter.add("ram", ram).unwrap();
            assert!(filter.passes(vm.as_object().unwrap(), &long()), "{brand}");
        }
    }

    #[test]
    fn all_conditions_must_hold_and_a_repeat_replaces() {
        let vm = Json::parse(VM).unwrap();
        let vm = vm.as_object().unwrap();
        let mut filter = Filter::default();
        assert!(filter.is_empty() && filter.passes(vm, &long()));
        filter.add("quota", "11").unwrap();
        assert!(!filter.passes(vm, &long()));
        filter.add("quota", "10").unwrap();
        assert!(filter.passes(vm, &long()));
        filter.add("alias", "x").unwrap();
        assert!(!filter.passes(vm, &long()));
    }

    #[test]
    fn the_cost_of_a_search_is_bounded() {
        let mut filter = Filter::default();
        for n in 0..CONDITIONS_MAX {
            filter.add(&format!("tags.{n}"), "x").unwrap();
        }
        assert!(filter.add("tags.0", "y").is_ok());
        let error = filter.add("tags.more", "x").unwrap_err();
        assert_eq!(error, ConditionError::TooMany);
        let vm = |len: usize| {
            let text = "é".repeat(len) + "end";
            Json::parse(&format!(r#"{{"tags":{{"t":"{text}"}}}}"#)).unwrap()
        };
        let at_end = Condition::new("tags.t", "~end").unwrap();
        assert!(at_end.has_regex() && !filter.has_regex());
        assert!(at_end.holds(vm(1000).as_object().unwrap(), &long()));
        // A small expression searches a quarter of a MiB. Past that the result
        // is unknown, unless the expression has matched before.
        let far = vm(200_000);
        for (pattern, is_found) in [("~end", None), ("~éé", Some(true))] {
            let condition = Condition::new("tags.t", pattern).unwrap();
            let search = long();
            let holds = condition.holds(far.as_object().unwrap(), &search);
            let found = search.failure().is_none().then_some(holds);
            assert_eq!(found, is_found, "{pattern}");
        }
        let to_the_end = Condition::new("tags.t", "~é$").unwrap();
        let search = long();
        assert!(!to_the_end.holds(far.as_object().unwrap(), &search));
        assert_eq!(
            search.failure(),
            Some("a value is too long to be searched to its end")
        );
        let search = Search::new(Duration::ZERO);
        let vm = vm(10);
        assert!(!at_end.holds(vm.as_object().unwrap(), &search));
        assert_eq!(
            search.failure(),
            Some("the search by regular expression took too long")
        );
        // Expressions that operators write are within the limits.
        let uuid = "~^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-";
        assert!(Condition::new("uuid", uuid).is_ok());
    }

    #[test]
    fn an_invalid_condition_is_named_in_the_error() {
        for (property, value, named) in [
            ("bogus", "1", "bogus"),
            ("state!", "running", "state!"),
            ("alias", "~(", "("),
            ("alias", "!~[", "["),
            ("alias", "~(a{0,50}){0,50}", "a{0,50}"),
            ("alias", "~((((((((((((((((((x))))))))))))))))))", "((x))"),
        ] {
            let error =
                Condition::new(property, value).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
