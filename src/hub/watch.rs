//! Watches: who waits for something to become true of one VM sees every state
//! of it, however short.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::sync::{Mutex, Wake};
use crate::vm::json::Object;

/// A VM as it was at one moment.
#[derive(Clone, Debug)]
pub struct VmVersion {
    /// What is served; `None` where there is no VM.
    pub vm: Option<Vm>,
    /// The number of the event that made it so.
    pub version: u64,
}

/// A VM as it is served. A clone is the same piece of memory.
#[derive(Clone, Debug)]
pub struct Vm {
    object: Arc<Object>,
    json: Arc<[u8]>,
}

impl Vm {
    /// Writes an object's JSON.
    #[must_use]
    pub fn new(object: Object) -> Self {
        let object = Arc::new(object.fitted());
        let json = object.to_bytes().into();
        Self { object, json }
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Its JSON.
    #[must_use]
    pub fn json(&self) -> &Arc<[u8]> {
        &self.json
    }

    /// Whether both are one piece of memory, so that nothing differs.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
    }
}

/// What was seen of a VM and not looked at yet.
pub struct Watch {
    seen: Mutex<Seen>,
    most: usize,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Seen {
    sights: VecDeque<VmVersion>,
    is_over: bool,
}

/// More was seen of a VM than could be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.seen).finish()
    }
}

impl Watch {
    /// A watch that keeps `most` sights, and tells `wake` of each.
    #[must_use]
    pub fn new(most: usize, wake: Wake) -> Self {
        Self { seen: Mutex::default(), most, wake }
    }

    /// Keeps what is to be looked at.
    pub fn see(&self, sight: VmVersion) {
        let mut seen = self.seen.lock();
        if seen.sights.len() >= self.most {
            seen.is_over = true;
        } else {
            seen.sights.push_back(sight);
        }
        drop(seen);
        (self.wake)();
    }

    /// The next sight, if there is one.
    ///
    /// # Errors
    /// If there were more than could be kept, so that some are missing.
    pub fn next(&self) -> Result<Option<VmVersion>, TooMuch> {
        let mut seen = self.seen.lock();
        match (seen.sights.pop_front(), seen.is_over) {
            (None, true) => Err(TooMuch),
            (sight, _) => Ok(sight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sights_come_in_order_and_a_gap_is_told() {
        let watch = Watch::new(2, Arc::new(|| {}));
        for version in 1..=3 {
            watch.see(VmVersion { vm: None, version });
        }
        let next = || watch.next().map(|sight| sight.map(|s| s.version));
        assert_eq!(next(), Ok(Some(1)));
        assert_eq!(next(), Ok(Some(2)));
        assert_eq!(next(), Err(TooMuch));
    }
}
