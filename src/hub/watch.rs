//! A watch shows every version of one VM, however short-lived, to a request
//! that waits until something is true of that VM.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::sync::{Mutex, Wake};
use crate::vm::json::Object;

/// A VM as it was at one moment.
#[derive(Clone, Debug)]
pub struct VmVersion {
    /// The VM that is served; `None` if there is none.
    pub vm: Option<Vm>,
    /// The number of the event that made it so.
    pub seq: u64,
}

/// A VM as it is served. A clone shares its memory.
#[derive(Clone, Debug)]
pub struct Vm {
    object: Arc<Object>,
    json: Arc<[u8]>,
}

impl Vm {
    /// Makes a VM of an object, and writes its JSON.
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

    /// Whether both share one object, so that nothing differs.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
    }
}

/// The versions of a VM that the request has not looked at yet.
pub struct Watch {
    waiting: Mutex<Waiting>,
    most: usize,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Waiting {
    versions: VecDeque<VmVersion>,
    is_over: bool,
}

/// A VM has had more versions than could be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.waiting).finish()
    }
}

impl Watch {
    /// A watch that keeps `most` versions, and calls `wake` for each.
    #[must_use]
    pub fn new(most: usize, wake: Wake) -> Self {
        Self { waiting: Mutex::default(), most, wake }
    }

    /// Adds a version.
    pub fn push(&self, version: VmVersion) {
        let mut waiting = self.waiting.lock();
        if waiting.versions.len() >= self.most {
            waiting.is_over = true;
        } else {
            waiting.versions.push_back(version);
        }
        drop(waiting);
        (self.wake)();
    }

    /// The next version, if there is one.
    ///
    /// # Errors
    /// If there were more than could be kept, so that some are missing.
    pub fn next(&self) -> Result<Option<VmVersion>, TooMuch> {
        let mut waiting = self.waiting.lock();
        match (waiting.versions.pop_front(), waiting.is_over) {
            (None, true) => Err(TooMuch),
            (version, _) => Ok(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_order_and_a_gap_is_an_error() {
        let watch = Watch::new(2, Arc::new(|| {}));
        for seq in 1..=3 {
            watch.push(VmVersion { vm: None, seq });
        }
        let next = || watch.next().map(|version| version.map(|v| v.seq));
        assert_eq!(next(), Ok(Some(1)));
        assert_eq!(next(), Ok(Some(2)));
        assert_eq!(next(), Err(TooMuch));
    }
}
