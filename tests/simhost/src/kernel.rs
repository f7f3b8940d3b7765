//! What zoneadmd and the kernel do to zones that are booted and halted. The
//! kernel publishes each state before the zone has it.

use std::fs;
use std::io::Write;

use crate::emit::{Channel, init_restart, now, now_ns, zone_change};
use crate::state::{KernelZone, NO_INIT};
use crate::{Host, Result, xml};

pub(crate) const DOWN: &str = "shutting_down";

/// The zone is kept only by a reference; zoneadm shows it as `down`.
pub(crate) const DEAD: &str = "dead";

impl Host {
    /// Whether the kernel has the zone.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn is_up(&self, zonename: &str) -> Result<bool> {
        Ok(self.state()?.kernel.contains_key(zonename))
    }

    pub(crate) fn next_number(&self) -> Result<u64> {
        self.step(Channel::Zone, |state| Ok((state.next_number(), vec![])))
    }

    /// `zoneadm boot`, from beginning to end.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn boot(&self, zonename: &str) -> Result<()> {
        self.boot_without_time(zonename)?;
        self.set_boot_times()
    }

    /// Sets the boot times of zones that have begun to run. The kernel does so
    /// a little after the event that they run, and no event reports it.
    ///
    /// # Errors
    /// If the state can't be written.
    pub fn set_boot_times(&self) -> Result<()> {
        self.step(Channel::Zone, |state| {
            for zone in state.kernel.values_mut() {
                if zone.state == "running" && zone.boot_time == "0" {
                    zone.boot_time = now().to_string();
                }
            }
            Ok(((), vec![]))
        })
    }

    /// Zones whose init has ended, and that the kernel still has.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn zones_without_init(&self) -> Result<Vec<String>> {
        let kernel = self.state()?.kernel.into_iter();
        let ended = kernel.filter(|(_, zone)| zone.init_pid == NO_INIT);
        Ok(ended.map(|(zonename, _)| zonename).collect())
    }

    /// As [`Host::boot`], but without the boot time: see
    /// [`Host::set_boot_times`].
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn boot_without_time(&self, zonename: &str) -> Result<()> {
        let zoneid = self.ready(zonename)?;
        self.add_macs(zonename)?;
        self.begin_booting(zonename, zoneid)?;
        self.step(Channel::Zone, |state| {
            let pid = state.next_number() + 40_000;
            if let Some(zone) = state.kernel.get_mut(zonename) {
                zone.init_pid = pid;
            }
            Ok(((), vec![zone_change(zonename, "ready", "running", zoneid)]))
        })
    }

    /// `zoneadm ready`; returns the zone's id.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn ready(&self, zonename: &str) -> Result<i64> {
        if self.is_up(zonename)? {
            return Err(format!("{zonename}: is running").into());
        }
        self.fix_debugid(zonename)?;
        fs::write(
            self.zone_dir(zonename)?.join("lastbooted"),
            format!("{}\n", now()),
        )?;
        let zoneid = self.step(Channel::Zone, |state| {
            let zoneid = i64::try_from(state.next_number())?;
            let zone = KernelZone {
                state: "initialized".to_string(),
                zoneid: zoneid.to_string(),
                ..KernelZone::default()
            };
            state.kernel.insert(zonename.to_string(), zone);
            let record =
                zone_change(zonename, "uninitialized", "initialized", zoneid);
            Ok((zoneid, vec![record]))
        })?;
        self.kernel_step(zonename, "initialized", "ready", "ready")?;
        Ok(zoneid)
    }

    /// Gives a MAC address to nics that have none, as the brand does.
    fn add_macs(&self, zonename: &str) -> Result<()> {
        let text = fs::read_to_string(self.xml_path(zonename))?;
        let lacks_mac = |line: &str| {
            line.starts_with("  <network ") && !line.contains(" mac-addr=")
        };
        if !text.lines().any(lacks_mac) {
            return Ok(());
        }
        let n = self.next_number()? & 0xffff;
        let mac = format!("2:8:20:0:{:x}:{:x}", n >> 8, n & 0xff);
        let with_mac = |line: &str| match lacks_mac(line) {
            true => line.replacen(
                "<network ",
                &format!("<network mac-addr=\"{mac}\" "),
                1,
            ),
            false => line.to_string(),
        };
        let lines: Vec<_> = text.lines().map(with_mac).collect();
        self.zonecfg(zonename, &(lines.join("\n") + "\n"))
    }

    /// Begins to boot a zone. That state is published as ready, and shown as
    /// running. From now on, the zone has a kstat.
    fn begin_booting(&self, zonename: &str, zoneid: i64) -> Result<()> {
        self.step(Channel::Zone, |state| {
            if let Some(zone) = state.kernel.get_mut(zonename) {
                zone.state = "running".to_string();
                zone.boot_time = "0".to_string();
            }
            Ok(((), vec![zone_change(zonename, "ready", "ready", zoneid)]))
        })
    }

    /// A boot in which a hook or a mount fails: the zone becomes ready, and is
    /// halted again.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn boot_fails(&self, zonename: &str) -> Result<()> {
        self.ready(zonename)?;
        self.halt_of_ready(zonename)
    }

    /// A boot in which init can't be executed.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn boot_without_init(&self, zonename: &str) -> Result<()> {
        let zoneid = self.ready(zonename)?;
        self.begin_booting(zonename, zoneid)?;
        self.kernel_step(zonename, "ready", DOWN, DOWN)?;
        self.end(zonename)
    }

    /// `zoneadm halt` of a zone that is ready: `lastexited` stays as it is.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn halt_of_ready(&self, zonename: &str) -> Result<()> {
        self.kernel_step(zonename, "ready", DOWN, "down")?;
        self.kernel_step(zonename, DOWN, DOWN, "down")?;
        self.leave(zonename)
    }

    fn kernel_step(
        &self,
        zonename: &str,
        oldstate: &str,
        newstate: &str,
        shown: &str,
    ) -> Result<()> {
        self.step(Channel::Zone, |state| {
            let zone = state.kernel.get_mut(zonename);
            let zone =
                zone.ok_or_else(|| format!("{zonename}: is not running"))?;
            zone.state = shown.to_string();
            let zoneid = zone.zoneid.parse()?;
            let record = zone_change(zonename, oldstate, newstate, zoneid);
            Ok(((), vec![record]))
        })
    }

    /// Writes to `lastexited` how init ended, as zoneadmd does before it halts
    /// a zone.
    fn write_lastexited(&self, zonename: &str, status: i32) -> Result<()> {
        let ns = now_ns();
        let (secs, usecs) = (ns / 1_000_000_000, ns / 1000 % 1_000_000);
        // Truncated first, then written: a reader may see it empty.
        let path = self.zone_dir(zonename)?.join("lastexited");
        let mut file = fs::File::create(path)?;
        file.write_all(format!("{secs}.{usecs} {status}\n").as_bytes())?;
        self.done()
    }

    /// The zone stops: by `zoneadm halt` (a status of -1), or because its init
    /// has ended with this wait status. A halt that hangs in `down` goes on.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn halt(&self, zonename: &str, status: i32) -> Result<()> {
        let state = self.kernel_zone(zonename)?.state;
        match state.as_str() {
            "ready" => return self.halt_of_ready(zonename),
            DEAD => return Err(format!("{zonename}: is dead").into()),
            _ => {}
        }
        if status != -1 {
            self.end_init(zonename)?;
        }
        self.write_lastexited(zonename, status)?;
        match state.as_str() {
            "down" => {
                self.kernel_step(zonename, DOWN, DOWN, "down")?;
                return self.leave(zonename);
            }
            DOWN => {}
            _ => self.kernel_step(zonename, "running", DOWN, DOWN)?,
        }
        self.end(zonename)
    }

    /// init has ended, and no event has reported it yet: the zone still runs.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn end_init(&self, zonename: &str) -> Result<()> {
        self.kernel_zone(zonename)?;
        self.step(Channel::Zone, |state| {
            if let Some(zone) = state.kernel.get_mut(zonename) {
                zone.init_pid = NO_INIT;
            }
            Ok(((), vec![]))
        })
    }

    /// A halt that hangs on a mount: the zone stays `down`, until it is
    /// halted again.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn halt_hangs(&self, zonename: &str) -> Result<()> {
        self.must_run(zonename)?;
        self.write_lastexited(zonename, -1)?;
        self.kernel_step(zonename, "running", DOWN, DOWN)?;
        self.end_init(zonename)?;
        self.kernel_step(zonename, DOWN, DOWN, DOWN)?;
        self.kernel_step(zonename, DOWN, DOWN, "down")
    }

    /// Fails unless the zone is running.
    fn must_run(&self, zonename: &str) -> Result<()> {
        match self.kernel_zone(zonename)?.state.as_str() {
            "running" => Ok(()),
            state => Err(format!("{zonename}: is {state}").into()),
        }
    }

    /// Takes a zone from shutting down through empty, down, dying and dead,
    /// until it is gone.
    fn end(&self, zonename: &str) -> Result<()> {
        self.end_init(zonename)?;
        self.kernel_step(zonename, DOWN, DOWN, DOWN)?;
        self.kernel_step(zonename, DOWN, DOWN, "down")?;
        self.kernel_step(zonename, DOWN, DOWN, "down")?;
        self.leave(zonename)
    }

    /// Takes a zone from dying through dead and gone to free.
    fn leave(&self, zonename: &str) -> Result<()> {
        self.kernel_step(zonename, DOWN, "uninitialized", DEAD)?;
        let zoneid = self.remove_from_kernel(zonename)?;
        self.publish_free(zonename, zoneid)
    }

    /// The zone leaves the kernel's tables: no event marks that moment.
    fn remove_from_kernel(&self, zonename: &str) -> Result<i64> {
        self.step(Channel::Zone, |state| {
            let zone = state.kernel.remove(zonename);
            let zone =
                zone.ok_or_else(|| format!("{zonename}: is not running"))?;
            Ok((zone.zoneid.parse()?, vec![]))
        })
    }

    /// Publishes that the last reference to a former zone has gone.
    ///
    /// # Errors
    /// If it can't be published.
    pub fn publish_free(&self, zonename: &str, zoneid: i64) -> Result<()> {
        self.publish(zone_change(zonename, "uninitialized", "free", zoneid))
    }

    /// A halt that hangs because something still has a reference to the zone:
    /// the zone is dead, and stays `down` until [`Host::release`].
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn halt_without_release(&self, zonename: &str) -> Result<()> {
        self.must_run(zonename)?;
        self.write_lastexited(zonename, -1)?;
        self.kernel_step(zonename, "running", DOWN, DOWN)?;
        self.end_init(zonename)?;
        for shown in [DOWN, "down", "down"] {
            self.kernel_step(zonename, DOWN, DOWN, shown)?;
        }
        self.kernel_step(zonename, DOWN, "uninitialized", DEAD)
    }

    /// The last reference to a dead zone is dropped.
    ///
    /// # Errors
    /// If the zone is not dead.
    pub fn release(&self, zonename: &str) -> Result<()> {
        if self.kernel_zone(zonename)?.state != DEAD {
            return Err(format!("{zonename}: is not dead").into());
        }
        let zoneid = self.remove_from_kernel(zonename)?;
        self.publish_free(zonename, zoneid)
    }

    fn kernel_zone(&self, zonename: &str) -> Result<KernelZone> {
        let zone = self.state()?.kernel.remove(zonename);
        Ok(zone.ok_or_else(|| format!("{zonename}: is not running"))?)
    }

    /// A zone's id in the kernel.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn zoneid(&self, zonename: &str) -> Result<i64> {
        Ok(self.kernel_zone(zonename)?.zoneid.parse()?)
    }

    /// The halt of a reboot: `lastexited` is not written. Returns the zone's
    /// id.
    fn halt_to_reboot(&self, zonename: &str) -> Result<i64> {
        self.must_run(zonename)?;
        self.kernel_step(zonename, "running", DOWN, DOWN)?;
        self.end_init(zonename)?;
        for shown in [DOWN, "down", "down"] {
            self.kernel_step(zonename, DOWN, DOWN, shown)?;
        }
        self.kernel_step(zonename, DOWN, "uninitialized", DEAD)?;
        self.remove_from_kernel(zonename)
    }

    /// `vmadm reboot`.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn reboot(&self, zonename: &str) -> Result<()> {
        let zoneid = self.halt_to_reboot(zonename)?;
        self.publish_free(zonename, zoneid)?;
        self.boot(zonename)
    }

    /// As [`Host::reboot`], but the event that the old zone is free comes only
    /// after the new one runs.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn reboot_with_late_free(&self, zonename: &str) -> Result<()> {
        let zoneid = self.halt_to_reboot(zonename)?;
        self.boot(zonename)?;
        self.publish_free(zonename, zoneid)
    }

    /// As [`Host::reboot`], but without the boot time: see
    /// [`Host::set_boot_times`].
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn reboot_without_time(&self, zonename: &str) -> Result<()> {
        let zoneid = self.halt_to_reboot(zonename)?;
        self.publish_free(zonename, zoneid)?;
        self.boot_without_time(zonename)
    }

    /// The kernel starts init of a zone again.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn restart_init(&self, zonename: &str) -> Result<()> {
        let zoneid = self.zoneid(zonename)?;
        self.step(Channel::Zone, |state| {
            let zone = state.kernel.get_mut(zonename);
            let zone = zone.ok_or("is not running")?;
            zone.init_restarts += 1;
            let restarts = zone.init_restarts;
            Ok(((), vec![init_restart(zonename, zoneid, restarts)]))
        })
    }

    /// Sets the attribute of a zone's XML that says whether it is booted with
    /// the host.
    pub(crate) fn set_autoboot(&self, zonename: &str, on: bool) -> Result<()> {
        let value = if on { "true" } else { "false" };
        let text = fs::read_to_string(self.xml_path(zonename))?;
        let is_kvm = self.entry(zonename)?.brand == "kvm";
        let new = match is_kvm {
            true => xml::set_attr(&text, "vm-autoboot", Some(value)),
            false => xml::set_zone_attribute(&text, "autoboot", value),
        };
        match new == text {
            true => Ok(()),
            false => self.edit_xml(zonename, |_| new),
        }
    }
}
