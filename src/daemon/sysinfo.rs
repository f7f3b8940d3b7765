//! The host's sysinfo, as it was last read. Every VM object contains some of
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::load::files::Sysinfo;

/// The host's sysinfo.
#[derive(Debug, Default)]
pub struct StoredSysinfo {
    /// The sysinfo, and the number of the reading that it is from.
    stored: RwLock<(u64, Arc<Sysinfo>)>,
    readings: AtomicU64,
}

impl StoredSysinfo {
    /// The sysinfo as it was last read.
    #[must_use]
    pub fn get(&self) -> Arc<Sysinfo> {
        Arc::clone(&self.stored.read().1)
    }

    /// Returns the number of a reading that is about to begin.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.readings.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Stores the result of a reading, unless the result of a reading that
    /// began later is stored already. Returns the result, and whether the
    /// stored sysinfo has changed. If the two are equal, the stored one is
    /// returned, so that its memory is shared.
    pub fn store(
        &self,
        reading: u64,
        found: Arc<Sysinfo>,
    ) -> (Arc<Sysinfo>, bool) {
        let mut stored = self.stored.write();
        let (last, sysinfo) = &mut *stored;
        let is_newer = *last < reading;
        let is_same = *sysinfo == found;
        if is_newer {
            *last = reading;
        }
        if is_newer && !is_same {
            *sysinfo = Arc::clone(&found);
        }
        let found = if is_same { Arc::clone(sysinfo) } else { found };
        (found, is_newer && !is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::json::Object;

    #[test]
    fn the_reading_that_began_later_is_stored() {
        let cell = StoredSysinfo::default();
        let sysinfo = |uuid: &str| {
            let mut object = Object::new();
            object.set("server_uuid", uuid);
            Arc::new(object)
        };
        let (first, second) = (cell.begin(), cell.begin());
        assert!(cell.store(second, sysinfo("new")).1);
        assert!(!cell.store(first, sysinfo("old")).1);
        assert_eq!(cell.get(), sysinfo("new"));
        let (same, has_changed) = cell.store(cell.begin(), sysinfo("new"));
        assert!(!has_changed && Arc::ptr_eq(&same, &cell.get()));
    }
}
