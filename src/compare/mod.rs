//! Compares VMs with VMs, property by property: the VMs that one daemon serves
//! with those of another daemon, or with those that the system has.
//!
//! VMs change while they are compared: a difference that is seen once may be a
//! change that is still on its way. A difference is lasting if it is seen in
//! every look, and the daemon's side has not changed meanwhile.

pub mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use vminfod_client::{self as client, Client, VmsQuery};

use crate::daemon::dump::dump;
use crate::load::error::CommandError;
use crate::load::zoneadm::is_uuid;
use crate::settings::Settings;
use crate::source::Source;
use crate::vm::diff::{Action, diff, pretty_path};
use crate::vm::json::{Json, Object};

/// The pauses between one look and the next, as long as anything differs or
/// fails: a command that fails once may not fail the next time.
pub const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1600),
];

/// After this time, no further look is begun.
pub const LOOKS_TIME: Duration = Duration::from_secs(5);

/// Where two lists of VMs differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The VM.
    pub zonename: String,
    /// The property; empty if one of the lists lacks the VM.
    pub path: String,
    /// Which nic or disk the property belongs to, if it belongs to one.
    pub ident: Option<String>,
    /// Tells elements of an array apart, because they all have the same path.
    nth: usize,
}

impl Place {
    /// The property, and which nic or disk it belongs to.
    #[must_use]
    pub fn name(&self) -> String {
        match (&*self.path, &self.ident) {
            ("", _) => "the VM".to_string(),
            (path, None) => path.to_string(),
            (path, Some(ident)) => format!("{path} ({ident})"),
        }
    }
}

/// The values that both lists have at a place, the left one first. `None` if a
/// list has no value there.
pub type Values = (Option<Json>, Option<Json>);

/// All differences of two lists.
pub type Differences = BTreeMap<Place, Values>;

/// Finds where two lists of VMs differ. VMs are the same if they have the same
/// zonename.
#[must_use]
pub fn differences(left: &[Json], right: &[Json]) -> Differences {
    let named = |vms| -> BTreeMap<String, Json> {
        let vms: &[Json] = vms;
        let named = vms.iter().filter_map(|vm| {
            let zonename = vm.get("zonename")?.as_str()?;
            Some((zonename.to_string(), vm.clone()))
        });
        named.collect()
    };
    let (left, right) = (named(left), named(right));
    let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let mut all = Differences::new();
    for name in names {
        add_differences(&mut all, name, left.get(name), right.get(name));
    }
    all
}

/// Adds the places where two objects of one VM differ.
pub fn add_differences(
    to: &mut Differences,
    zonename: &str,
    left: Option<&Json>,
    right: Option<&Json>,
) {
    let mut add = |path: String, ident: Option<String>, values: Values| {
        let zonename = zonename.to_string();
        let mut place = Place { zonename, path, ident, nth: 0 };
        while to.contains_key(&place) {
            place.nth += 1;
        }
        to.insert(place, values);
    };
    let objects =
        (left.and_then(Json::as_object), right.and_then(Json::as_object));
    let (Some(a), Some(b)) = objects else {
        // Only says that the VM exists; the whole object is not shown.
        let is_there = |vm: Option<&Json>| vm.map(|_| Json::from(true));
        if left.is_some() || right.is_some() {
            add(String::new(), None, (is_there(left), is_there(right)));
        }
        return;
    };
    for change in diff(a, b) {
        let path = pretty_path(&change.path);
        let ident = change.ident.as_ref().and_then(Json::as_str);
        let values = match change.action {
            Action::Added(right) => (None, Some(right)),
            Action::Removed(left) => (Some(left), None),
            Action::Changed(left, right) => (Some(left), Some(right)),
        };
        add(path, ident.map(str::to_string), values);
    }
}

/// The result of one look, or of several.
#[derive(Debug)]
pub struct SystemDifferences {
    /// Where the system, on the left, and the daemon differ.
    pub differences: Differences,
    /// What can't be compared, and why.
    pub faults: BTreeSet<String>,
    /// Those faults that are not caused by a file of a VM: a command did not
    /// answer, or the daemon's VM can't be read.
    pub unanswered: BTreeSet<String>,
    /// How many VMs were compared.
    pub vms: usize,
}

impl SystemDifferences {
    /// Keeps the differences that an earlier look has found, too. A difference
    /// is dropped if the daemon's value has changed since then: the change is
    /// on its way.
    fn since(mut self, before: &Self) -> Self {
        self.differences.retain(|place, (_, daemon)| {
            let before = before.differences.get(place);
            before.is_some_and(|(_, was)| was == daemon)
        });
        self
    }
}

/// Why a daemon could not be compared with the system.
#[derive(Debug)]
pub enum CompareError {
    /// The system can't be read: zoneadm(8) has failed.
    System(CommandError),
    /// The daemon has not answered.
    Daemon(client::Error),
    /// They differ, but could be looked at only once: that does not show what
    /// lasts.
    OneLook,
}

impl fmt::Display for CompareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => error.fmt(f),
            Self::Daemon(error) => error.fmt(f),
            Self::OneLook => f.write_str(
                "there are differences, but they could be checked only once: \
                 try again",
            ),
        }
    }
}

impl std::error::Error for CompareError {}

/// Finds the lasting differences between a daemon and the system.
///
/// # Errors
/// If the system or the daemon can't be read, or if they differ and could be
/// read only once.
pub fn with_system(
    settings: &Settings,
    client: &Client,
    adjust: fn(&Json) -> Json,
) -> Result<SystemDifferences, CompareError> {
    let begin = Instant::now();
    let mut lasting: Option<SystemDifferences> = None;
    let mut looks = 0;
    // Why the last look failed, if it did.
    let mut failure = None;
    for pause in [None].into_iter().chain(PAUSES.map(Some)) {
        std::thread::sleep(pause.unwrap_or_default());
        match look(settings, client, adjust) {
            Ok(now) => {
                (looks, failure) = (looks + 1, None);
                lasting = Some(match &lasting {
                    Some(before) => now.since(before),
                    None => now,
                });
            }
            Err(why) => failure = Some(why),
        }
        let is_late = begin.elapsed() > LOOKS_TIME;
        let is_known = match (&failure, &lasting) {
            // One look says nothing about what lasts, however long it took.
            (None, Some(SystemDifferences { differences, faults, .. })) => {
                let is_equal = differences.is_empty();
                (is_equal && faults.is_empty())
                    || (is_late && (is_equal || looks > 1))
            }
            // A failure that took this long is not a passing one.
            _ => is_late,
        };
        if is_known {
            break;
        }
    }
    let Some(seen) = lasting else {
        return Err(failure.unwrap_or(CompareError::OneLook));
    };
    // One look says nothing about what lasts.
    if looks < 2 {
        if let Some(why) = failure {
            return Err(why);
        }
        if !seen.differences.is_empty() {
            return Err(CompareError::OneLook);
        }
    }
    Ok(seen)
}

/// Compares the system and the daemon once.
fn look(
    settings: &Settings,
    client: &Client,
    adjust: fn(&Json) -> Json,
) -> Result<SystemDifferences, CompareError> {
    let dumped = dump(settings, settings.load.command_time)
        .map_err(CompareError::System)?;
    let served = client.vms_as(VmsQuery::new());
    let served = served.map_err(CompareError::Daemon)?;
    let commands = [Source::Zoneadm, Source::Kstat, Source::Zfs, Source::Index];
    let of_commands =
        dumped.faults.iter().filter(|f| commands.contains(&f.source));
    let of_commands = of_commands.map(ToString::to_string);
    let unreadable = served.unreadable.iter().map(ToString::to_string);
    let unanswered: BTreeSet<_> = of_commands.chain(unreadable).collect();
    let mut faults: BTreeSet<_> =
        dumped.faults.iter().map(ToString::to_string).collect();
    faults.extend(unanswered.iter().cloned());
    let adjusted = |vms: &[Json]| vms.iter().map(adjust).collect::<Vec<_>>();
    let (system, daemon) = (adjusted(&dumped.vms), adjusted(&served.vms));
    let mut differences = differences(&system, &daemon);
    // VMs that could not be read are left out. If the system could not be read,
    // the daemon has the last good values.
    let names = served.unreadable.iter().filter_map(|vm| vm.zonename.as_ref());
    let names: BTreeSet<_> = names.map(String::as_str).collect();
    differences.retain(|place, _| {
        let name = place.zonename.as_str();
        !dumped.unread.contains(name) && !names.contains(name)
    });
    Ok(SystemDifferences { differences, faults, unanswered, vms: system.len() })
}

/// A copy of a VM without the amounts of data in it: they change without an
/// event.
#[must_use]
pub fn without_growth(vm: &Json) -> Json {
    let Some(object) = vm.as_object() else { return vm.clone() };
    let mut object = object.clone();
    object.remove("free_space");
    let snapshots = object.get("snapshots").and_then(Json::as_array);
    if let Some(snapshots) = snapshots {
        let without_size = |snapshot: &Json| match snapshot.as_object() {
            Some(snapshot) => {
                let mut snapshot = snapshot.clone();
                snapshot.remove("size");
                Json::from(snapshot)
            }
            None => snapshot.clone(),
        };
        let snapshots: Vec<_> = snapshots.iter().map(without_size).collect();
        object.set("snapshots", snapshots);
    }
    Json::from(object)
}

/// Members that today's daemon lacks for every zone whose name is not a UUID.
const OF_KSTAT: [&str; 3] = ["pid", "boot_timestamp", "init_restarts"];

/// The known reason why today's daemon has another value than ours here; `None`
/// if the difference is not a known one.
#[must_use]
pub fn known_of_reference(
    place: &Place,
    ours: Option<&Json>,
    reference: Option<&Json>,
) -> Option<&'static str> {
    let is_of_kstat = OF_KSTAT.contains(&place.path.as_str());
    if is_of_kstat && reference.is_none() && !is_uuid(&place.zonename) {
        return Some(
            "today's daemon reads no kstat of a zone whose name is not a UUID",
        );
    }
    if place.path == "indestructible_delegated" && reference.is_none() {
        return Some(
            "today's daemon sets it only after an event of the dataset",
        );
    }
    let epoch = reference.and_then(Json::as_str);
    if place.path == "boot_timestamp"
        && epoch.is_some_and(|date| date.starts_with("1970-"))
    {
        return Some("today's daemon reads it before the kernel has set it");
    }
    let arrays =
        (ours.and_then(Json::as_array), reference.and_then(Json::as_array));
    if let (Some(a), Some(b)) = arrays
        && a.len() == b.len()
        && a.iter().all(|element| b.contains(element))
    {
        return Some("today's daemon does not notice a change of order");
    }
    None
}

/// The differences of one property.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// The property; empty for the VM as a whole.
    pub path: String,
    /// The VMs, by zonename.
    pub vms: BTreeSet<String>,
    /// The values, if they are the same for all of these VMs; otherwise those
    /// of the first VM, as an example.
    pub values: Values,
    /// Whether the values are the same for all of these VMs.
    pub are_alike: bool,
}

/// Groups differences by property.
#[must_use]
pub fn by_property(differences: &Differences) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for (place, values) in differences {
        let path = place.path.as_str();
        let group = groups.entry(path).or_insert_with(|| Group {
            path: path.to_string(),
            vms: BTreeSet::new(),
            values: values.clone(),
            are_alike: true,
        });
        group.vms.insert(place.zonename.clone());
        group.are_alike &= group.values == *values;
    }
    groups.into_values().collect()
}

/// A value as text, for a line of output.
#[must_use]
pub fn shown(value: Option<&Json>) -> String {
    value.map_or_else(|| "nothing".to_string(), ToString::to_string)
}

/// Sets member `name`, if there is a value.
pub fn set_value(to: &mut Object, name: &'static str, value: Option<&Json>) {
    if let Some(value) = value {
        to.set(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vms(text: &str) -> Vec<Json> {
        Json::parse(text).unwrap().as_array().unwrap().to_vec()
    }

    #[test]
    fn a_difference_lasts_only_if_the_daemon_does_not_change() {
        let seen = |quota: u32, daemon: u32| {
            let list = |quota: u32| {
                vms(&format!(r#"[{{"zonename":"a","quota":{quota}}}]"#))
            };
            let differences = differences(&list(quota), &list(daemon));
            let none = BTreeSet::new();
            let (faults, unanswered) = (none.clone(), none);
            SystemDifferences { differences, faults, unanswered, vms: 1 }
        };
        let lasting = |before: SystemDifferences, now: SystemDifferences| {
            now.since(&before).differences.into_values().count()
        };
        assert_eq!(lasting(seen(2, 1), seen(2, 1)), 1);
        // The system changes again, and the daemon does not follow.
        assert_eq!(lasting(seen(2, 1), seen(3, 1)), 1);
        // The daemon follows.
        assert_eq!(lasting(seen(2, 1), seen(3, 2)), 0);
        assert_eq!(lasting(seen(2, 2), seen(3, 2)), 0);
    }

    #[test]
    fn differences_are_listed_by_property() {
        let system = vms(r#"[{"zonename":"a","quota":1,"tags":{"x":1}},
            {"zonename":"b"},{"zonename":"c","snapshots":[{"n":1},{"n":2}]}]"#);
        let daemon = vms(r#"[{"zonename":"a","quota":2,"tags":{"x":1,"y":2}},
            {"zonename":"d"},{"zonename":"c","snapshots":[]}]"#);
        let found: Vec<_> = differences(&system, &daemon)
            .into_keys()
            .map(|Place { zonename, path, nth, .. }| {
                format!("{zonename} {path} {nth}")
            })
            .collect();
        let wanted = [
            "a quota 0",
            "a tags.y 0",
            "b  0",
            "c snapshots.* 0",
            "c snapshots.* 1",
            "d  0",
        ];
        assert_eq!(found, wanted);
        assert!(differences(&system, &system).is_empty());
    }

    #[test]
    fn groups_have_one_property_each() {
        let left = vms(r#"[{"zonename":"a","quota":null,"ram":1},
            {"zonename":"b","quota":null,"ram":2},{"zonename":"c"}]"#);
        let right = vms(r#"[{"zonename":"a","quota":0,"ram":3},
            {"zonename":"b","quota":0,"ram":4}]"#);
        let groups = by_property(&differences(&left, &right));
        let groups: Vec<_> = groups
            .iter()
            .map(|g| {
                let (a, b) = (&g.values.0, &g.values.1);
                let values = (shown(a.as_ref()), shown(b.as_ref()));
                let alike = g.are_alike;
                format!("{} {} {values:?} {alike}", g.path, g.vms.len())
            })
            .collect();
        let wanted = [
            " 1 (\"true\", \"nothing\") true",
            "quota 2 (\"null\", \"0\") true",
            "ram 2 (\"1\", \"3\") false",
        ];
        assert_eq!(groups, wanted);
    }

    #[test]
    fn known_differences_of_todays_daemon_are_recognised() {
        let left =
            vms(r#"[{"zonename":"lx-zone","pid":7,"resolvers":["a","b"],
            "ram":1}]"#);
        let right = vms(r#"[{"zonename":"lx-zone","resolvers":["b","a"],
            "ram":2}]"#);
        let unknown: Vec<_> = differences(&left, &right)
            .into_iter()
            .filter(|(place, (ours, reference))| {
                let values = (ours.as_ref(), reference.as_ref());
                known_of_reference(place, values.0, values.1).is_none()
            })
            .map(|(place, _)| place.path)
            .collect();
        assert_eq!(unknown, ["ram"]);
    }

    #[test]
    fn free_space_and_snapshot_sizes_are_not_compared() {
        let vm = |size: u32, free: u32| {
            let text = format!(
                r#"[{{"zonename":"a","free_space":{free},
                "snapshots":[{{"name":"s","size":{size}}}]}}]"#
            );
            vms(&text).iter().map(without_growth).collect::<Vec<_>>()
        };
        assert!(differences(&vm(1, 2), &vm(3, 4)).is_empty());
        assert_eq!(vm(1, 2)[0].get("free_space"), None);
    }
}
