//! Compares the VMs of a running daemon with those that a load of the system
//! gives.

use vminfod_client::Error;

use super::{Check, Difference, Fact, Findings, Obstacle, given};
use crate::compare::{
    Differences, Group, by_property, known_of_reference, shown, with_system,
    without_growth,
};

/// How many reasons why VMs can't be compared are shown.
const FAULTS_SHOWN: usize = 10;

pub(super) static FACTS: [Fact; 2] = [
    Fact {
        id: "against.vms",
        why: "clients of that daemon must find the same VMs here",
        expected: "it serves the VMs that a load of the system gives",
        harm: "VMs come or go when daemons are switched",
    },
    Fact {
        id: "against.properties",
        why: "clients of that daemon must find the same VMs here",
        expected: "each VM is the same, property by property; values that \
            change without an event, and known differences of today's daemon, \
            are left out",
        harm: "properties change when daemons are switched",
    },
];

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [vms, properties] = &FACTS;
    let Some(client) = &check.against else { return Ok(()) };
    // The status of our daemon has an epoch; that of today's daemon has none.
    let is_ours = match client.status(false) {
        Ok(status) => status.epoch.is_some(),
        Err(Error::Refused { .. }) => false,
        Err(e) => return Err(Obstacle::given(e)),
    };
    let seen = with_system(&check.settings, client, without_growth);
    let seen = seen.map_err(Obstacle::given)?;
    let (mut whole, mut others) = (Differences::new(), Differences::new());
    let mut known = 0;
    for (place, values) in seen.differences {
        let (ours, theirs) = (values.0.as_ref(), values.1.as_ref());
        if place.path.is_empty() {
            whole.insert(place, values);
        } else if !is_ours && known_of_reference(&place, ours, theirs).is_some()
        {
            known += 1;
        } else {
            others.insert(place, values);
        }
    }
    let differences = whole.iter().map(|(place, (ours, _))| {
        let seen = match ours {
            Some(_) => "the system has it, the daemon does not",
            None => "the daemon has it, the system does not",
        };
        Difference::new(format!("VM {}", given(&place.zonename)), seen)
    });
    findings.judge(vms, format!("{} VMs", seen.vms), differences.collect());
    let mut text = format!("{} VMs", seen.vms);
    if known > 0 {
        text += &format!(
            "; {known} known differences of today's daemon were left out"
        );
    }
    let groups = by_property(&others);
    let differences: Vec<_> = groups.iter().map(difference).collect();
    // A VM that can't be read completely is not compared. The facts of the
    // group `files` name the broken files.
    let first = seen.unanswered.iter().take(FAULTS_SHOWN).map(given);
    let first: Vec<_> = first.collect();
    if differences.is_empty() && !first.is_empty() {
        let faults = seen.unanswered.len();
        let why = format!(
            "{faults} sources can't be read, so their VMs were not compared: \
             {}",
            first.join("; ")
        );
        findings.untried(properties, why);
    } else {
        findings.judge(properties, text, differences);
    }
    Ok(())
}

/// `quota: 3 VMs, the daemon has null, the system has 0, for example …`
fn difference(group: &Group) -> Difference {
    let Group { path, vms, values, are_alike } = group;
    let (ours, theirs) = (shown(values.0.as_ref()), shown(values.1.as_ref()));
    let values = format!(
        "the daemon has {}, the system has {}",
        given(&theirs),
        given(&ours)
    );
    let first = vms.first().map(given).unwrap_or_default();
    let count = match vms.len() {
        1 => "1 VM".to_string(),
        n => format!("{n} VMs"),
    };
    let seen = match are_alike {
        true => format!("{count}, {values}, for example {first}"),
        false => format!("{count}, for example {first}: {values}"),
    };
    Difference::new(given(path), seen)
}
