//! The daemon's report on itself.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::value::{FromValue, members, take};

/// The daemon's report on itself: /status.
///
/// A member is `None` if the daemon does not have it; the vminfod before this
/// one lacks a few. [`Status::json`] is all of it as the daemon wrote it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The daemon's process.
    pub pid: Option<u32>,
    /// For how many seconds the daemon has been running.
    pub uptime: Option<f64>,
    /// How many VMs there are.
    pub num_vms: Option<u64>,
    /// The daemon's version.
    pub version: Option<String>,
    /// The number of the last event.
    pub seq: Option<u64>,
    /// The epoch, which names the daemon's life.
    pub epoch: Option<String>,
    /// What is wrong now.
    pub errors: Vec<Fault>,
    /// All other members.
    pub other: Map<String, Value>,
    json: Box<RawValue>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fault {
    /// The VM that has the fault; `None` if the host has it.
    pub zonename: Option<String>,
    /// The file or command that can't be read.
    pub source: String,
    /// What is wrong, in words.
    pub error: String,
    /// Since when: ISO 8601, UTC.
    pub since: String,
    /// How often it was tried again.
    pub retries: u64,
    /// All other members.
    pub other: Map<String, Value>,
}

impl Status {
    /// The report as the daemon wrote it.
    #[must_use]
    pub fn json(&self) -> &RawValue {
        &self.json
    }
}

impl<'de> Deserialize<'de> for Status {
    /// Only from JSON, by serde_json.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        let mut other = members(json.get()).map_err(D::Error::custom)?;
        Ok(Self {
            pid: take(&mut other, "pid"),
            uptime: take(&mut other, "uptime"),
            num_vms: take(&mut other, "numVms"),
            version: take(&mut other, "version"),
            seq: take(&mut other, "seq"),
            epoch: take(&mut other, "epoch"),
            errors: take(&mut other, "errors").unwrap_or_default(),
            other,
            json,
        })
    }
}

impl FromValue for Fault {
    fn from_value(value: &Value) -> Option<Self> {
        let mut other = Map::from_value(value)?;
        Some(Self {
            zonename: take(&mut other, "zonename").flatten(),
            source: take(&mut other, "source").unwrap_or_default(),
            error: take(&mut other, "error").unwrap_or_default(),
            since: take(&mut other, "since").unwrap_or_default(),
            retries: take(&mut other, "retries").unwrap_or_default(),
            other,
        })
    }
}
