//! Lists of VMs.

use std::fmt;

use super::Vm;

/// A list of VMs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Vms<T = Vm> {
    /// The VMs that can be read, in the daemon's order.
    pub vms: Vec<T>,
    /// The VMs that can't be read.
    pub unreadable: Vec<Unreadable>,
}

impl<T> Default for Vms<T> {
    fn default() -> Self {
        Self { vms: Vec::new(), unreadable: Vec::new() }
    }
}

impl<T> IntoIterator for Vms<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    /// The VMs that can be read.
    fn into_iter(self) -> Self::IntoIter {
        self.vms.into_iter()
    }
}

/// A VM or an event of the daemon that the client can't read, for example
/// because it is nested too deeply. The rest of the same answer can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// The zone, if at least that can be read.
    pub zonename: Option<String>,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zonename {
            Some(zonename) => write!(f, "VM {zonename}")?,
            None => f.write_str("a VM")?,
        }
        write!(f, " can't be read: {}", self.why)
    }
}
