//! Many zones that boot, or halt, at the same time: each of them takes a step
//! before any takes the next one.

use std::fs;

use crate::emit::{self, Channel, now, now_ns, zone_change};
use crate::kernel::{DEAD, DOWN};
use crate::state::{KernelZone, NO_INIT, State};
use crate::{Host, Result};

/// What a step does to one zone; returns the record of it.
type Step = fn(&mut State, &str) -> Result<String>;

/// The steps of a boot.
const BOOT: [Step; 4] = [
    |state, zonename| {
        let zoneid = state.next_number();
        let zone = KernelZone {
            state: "initialized".to_string(),
            zoneid: zoneid.to_string(),
            ..KernelZone::default()
        };
        state.kernel.insert(zonename.to_string(), zone);
        changed(state, zonename, "uninitialized", "initialized")
    },
    |state, zonename| {
        zone(state, zonename)?.state = "ready".to_string();
        changed(state, zonename, "initialized", "ready")
    },
    |state, zonename| {
        let zone = zone(state, zonename)?;
        zone.state = "running".to_string();
        zone.boot_time = "0".to_string();
        changed(state, zonename, "ready", "ready")
    },
    |state, zonename| {
        let pid = state.next_number() + 40_000;
        let zone = zone(state, zonename)?;
        (zone.init_pid, zone.boot_time) = (pid, now().to_string());
        changed(state, zonename, "ready", "running")
    },
];

/// The steps of a halt.
const HALT: [Step; 4] = [
    |state, zonename| {
        zone(state, zonename)?.state = DOWN.to_string();
        changed(state, zonename, "running", DOWN)
    },
    |state, zonename| {
        let zone = zone(state, zonename)?;
        (zone.state, zone.init_pid) = ("down".to_string(), NO_INIT);
        changed(state, zonename, DOWN, DOWN)
    },
    |state, zonename| {
        zone(state, zonename)?.state = DEAD.to_string();
        changed(state, zonename, DOWN, "uninitialized")
    },
    |state, zonename| {
        let record = changed(state, zonename, "uninitialized", "free");
        state.kernel.remove(zonename);
        record
    },
];

fn zone<'a>(
    state: &'a mut State,
    zonename: &str,
) -> Result<&'a mut KernelZone> {
    let zone = state.kernel.get_mut(zonename);
    Ok(zone.ok_or_else(|| format!("{zonename}: is not up"))?)
}

fn changed(
    state: &mut State,
    zonename: &str,
    from: &str,
    to: &str,
) -> Result<String> {
    let zoneid = zone(state, zonename)?.zoneid.parse()?;
    Ok(zone_change(zonename, from, to, zoneid))
}

impl Host {
    /// Boots these zones together. `after` is called after each step.
    ///
    /// # Errors
    /// If the state can't be written.
    pub fn boot_all(
        &self,
        zonenames: &[String],
        after: impl FnMut(),
    ) -> Result<()> {
        self.take_steps(zonenames, &BOOT, after)
    }

    /// Halts these zones together, and writes how each has ended. `after` is
    /// called after each step.
    ///
    /// # Errors
    /// If one of them is not up, or the state can't be written.
    pub fn halt_all(
        &self,
        zonenames: &[String],
        after: impl FnMut(),
    ) -> Result<()> {
        for zonename in zonenames {
            let ns = now_ns();
            let (secs, usecs) = (ns / 1_000_000_000, ns / 1000 % 1_000_000);
            let path = self.zone_dir(zonename)?.join("lastexited");
            fs::write(path, format!("{secs}.{usecs} -1\n"))?;
        }
        self.take_steps(zonenames, &HALT, after)
    }

    fn take_steps(
        &self,
        zonenames: &[String],
        steps: &[Step],
        mut after: impl FnMut(),
    ) -> Result<()> {
        for step in steps {
            // The kernel publishes a transition a moment before it is visible.
            // To publish hundreds takes longer than that moment, so they are
            // visible first here.
            let records = self.step(Channel::Zone, |state| {
                let records = zonenames.iter().map(|name| step(state, name));
                Ok((records.collect::<Result<Vec<_>>>()?, vec![]))
            })?;
            emit::publish(self.root(), Channel::Zone, &records)?;
            after();
        }
        Ok(())
    }
}
