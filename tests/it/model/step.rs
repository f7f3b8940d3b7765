//! The steps of the model: operations on a host, and faults of its commands.

use simhost::Host;
use simhost::emit::{Channel, records, zone_change};

use super::Kind;

/// Hosts begin with this many VMs.
pub const VMS: u64 = 5;

/// How many VMs steps may create; each number has its own name.
const SPECS: u64 = 4;

/// One step. It chooses a VM by a number, modulo the number of VMs, so that a
/// sequence still makes sense if any step is left out.
#[derive(Clone, Debug)]
pub enum Step {
    /// Creates a VM of this number, if it is not there.
    Create(u64),
    /// Deletes a VM.
    Delete(usize),
    /// Deletes a VM, and creates another of the same name.
    Remake(u64),
    /// Starts a VM.
    Start(usize),
    /// Stops a VM.
    Stop(usize),
    /// Reboots a VM.
    Reboot(usize),
    /// Reboots a VM; its boot time is set later.
    RebootLate(usize),
    /// The kernel starts its init again.
    RestartInit(usize),
    /// `vmadm update`.
    Update(usize, &'static str, String),
    /// A file of its config directory is replaced.
    Write(usize, &'static str, String),
    /// A file is replaced, and thousands of its members change at once.
    WriteLarge(usize, &'static str, String),
    /// A file of its config directory is removed.
    Remove(usize, &'static str),
    /// A file of its config directory is cut in half, in place.
    Tear(usize, &'static str),
    /// Its XML is cut in half.
    TearXml(usize),
    /// Its XML becomes invalid by the DTD.
    SpoilXml(usize),
    /// `zonecfg set zonename`, to a name with this number.
    Rename(usize, u64),
    /// `zonecfg set uuid`, to a uuid with this number.
    SetUuid(usize, u64),
    /// `zoneadm mark`, and back.
    Mark(usize, &'static str),
    /// `zoneadm detach` and `attach`.
    Reattach(usize),
    /// `zonecfg create -F`, and its installation.
    Reconfigure(usize),
    /// A reboot; the event that the old zone is free comes late.
    RebootLateFree(usize),
    /// A boot that fails: in a hook or a mount (true), or because init can't be
    /// executed.
    BootFails(usize, bool),
    /// A halt that hangs: on a mount (true), or because something still holds
    /// the zone.
    HaltHangs(usize, bool),
    /// A halt that hangs goes on.
    Release(usize),
    /// Its init ends, and nothing reacts to that yet.
    EndInit(usize),
    /// An operation that is killed after so many steps.
    Killed(usize, Box<Step>),
    /// The index is empty or cut while the daemon looks at it.
    IndexLost(usize),
    /// The dataset that holds /etc/zones is rolled back to the state before an
    /// edit.
    RollbackConfig(usize),
    /// Its `lastexited` is emptied, then written.
    LastExited(usize, i32),
    /// A property of its dataset is set.
    Set(usize, &'static str, String),
    /// A property of its dataset is inherited.
    Inherit(usize, &'static str),
    /// A property of the pool is set.
    SetPool(String),
    /// `vmadm create-snapshot`.
    Snapshot(usize, u64),
    /// `vmadm delete-snapshot`.
    DeleteSnapshot(usize, u64),
    /// `vmadm rollback-snapshot`.
    Rollback(usize, u64),
    /// Its dataset is renamed away, and back.
    RenameAndBack(usize),
    /// History records of datasets in which nothing has changed.
    Noise(usize),
    /// The file of sysinfo(8) changes.
    Sysinfo(String),
    /// A command gets a fault.
    Hurt(&'static str, &'static str),
    /// What is below a VM's dataset can't be read.
    Damage(usize),
    /// A channel of sysevents gets a fault.
    HurtChannel(&'static str, &'static str),
    /// All sysevent processes of a channel die: of zones (true), or of ZFS.
    Kill(bool),
    /// All sysevent processes of a channel stand still.
    Stall(bool),
    /// Everything is loaded again, and that takes a while.
    SlowReload,
    /// The sysevent processes of a channel print this.
    Raw(bool, &'static str),
    /// A reboot, and many records of zones that never existed.
    Burst(usize),
    /// No new sysevent can be started, for a moment.
    NoStart(&'static str, &'static str),
    /// An operation that waits after each of its steps until the daemon has
    /// looked: because a client asks it to (true), or because of the events.
    Slowly(bool, Box<Step>),
    /// All faults end.
    Heal,
    /// Snapshot and stream are compared.
    Compare,
}

/// Makes steps from a seed.
pub struct Steps {
    random: u64,
    kind: Kind,
}

impl Steps {
    pub fn new(seed: u64, kind: Kind) -> Self {
        // Seeds that follow each other should have nothing in common.
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), kind }
    }

    /// The next random number below `below` (splitmix64).
    fn below(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    fn vm(&mut self) -> usize {
        usize::try_from(self.below(1000)).unwrap()
    }

    fn value(&mut self) -> String {
        self.below(90).to_string()
    }

    /// An operation, without a fault.
    pub fn operation(&mut self) -> Step {
        const FILES: [&str; 3] = ["metadata.json", "tags.json", "routes.json"];
        match self.below(56) {
            0..=2 => Step::Create(self.below(SPECS)),
            3 => Step::Delete(self.vm()),
            4 => Step::Remake(self.below(SPECS)),
            5..=7 => Step::Start(self.vm()),
            8..=10 => Step::Stop(self.vm()),
            11 | 12 => Step::Reboot(self.vm()),
            13 => Step::RebootLate(self.vm()),
            14 => Step::RestartInit(self.vm()),
            15..=18 => {
                let property = self.one_of(&[
                    "alias",
                    "cpu_cap",
                    "max_physical_memory",
                    "quota",
                    "tags.colour",
                    "customer_metadata.k",
                    "internal_metadata.k",
                    "resolvers",
                ]);
                Step::Update(self.vm(), property, format!("1{}", self.value()))
            }
            19 => {
                Step::WriteLarge(self.vm(), self.one_of(&FILES), self.value())
            }
            20..=22 => {
                let text = format!("{{\"k\":\"{}\"}}", self.value());
                Step::Write(self.vm(), self.one_of(&FILES), text)
            }
            23 => Step::Remove(self.vm(), self.one_of(&FILES)),
            24 => Step::Tear(self.vm(), self.one_of(&FILES)),
            25 => Step::TearXml(self.vm()),
            26 => Step::LastExited(self.vm(), self.one_of(&[0, 256, 9])),
            27 | 28 => {
                let property = self.one_of(&[
                    "recsize",
                    "quota",
                    "snapshot_limit",
                    "compression",
                ]);
                Step::Set(self.vm(), property, format!("1{}", self.value()))
            }
            29 => {
                let property = self.one_of(&["recsize", "compression"]);
                Step::Inherit(self.vm(), property)
            }
            30 => Step::SetPool(format!("lz{}", self.value())),
            31 | 32 => Step::Snapshot(self.vm(), self.below(3)),
            33 => Step::DeleteSnapshot(self.vm(), self.below(3)),
            34 => Step::Rollback(self.vm(), self.below(3)),
            35 => Step::RenameAndBack(self.vm()),
            36 => Step::Noise(self.vm()),
            37 => Step::Sysinfo(self.value()),
            38 => Step::SpoilXml(self.vm()),
            39 | 40 => Step::Rename(self.vm(), self.below(4)),
            41 => Step::SetUuid(self.vm(), self.below(1000)),
            42 => {
                let states = ["incomplete", "installed", "configured"];
                Step::Mark(self.vm(), self.one_of(&states))
            }
            43 => Step::Reattach(self.vm()),
            44 => Step::Reconfigure(self.vm()),
            45 => Step::RebootLateFree(self.vm()),
            46 => Step::BootFails(self.vm(), self.below(2) == 0),
            47 => Step::HaltHangs(self.vm(), self.below(2) == 0),
            48 => Step::Release(self.vm()),
            49 => Step::EndInit(self.vm()),
            50 => Step::IndexLost(self.vm()),
            51 => Step::RollbackConfig(self.vm()),
            _ => Step::Compare,
        }
    }

    fn fault(&mut self) -> Step {
        const COMMANDS: [&str; 3] = ["zoneadm", "zfs", "kstat"];
        const FAULTS: [&str; 10] = [
            "short 3",
            "slow 20",
            "slow 100",
            "fail out of order",
            "garbage",
            "linger",
            "truncate",
            "empty",
            "hang times=2",
            "fail once times=1",
        ];
        const POOL_FAULTS: [&str; 5] =
            ["suspended", "exported", "cut 7", "slow 50", "hang times=2"];
        match (self.kind, self.below(9)) {
            (Kind::Lossy, 0..=1) => {
                let channel = self.one_of(&["sysevent-zone", "sysevent-zfs"]);
                let fault = self.one_of(&["drop", "duplicate", "reorder"]);
                Step::HurtChannel(channel, fault)
            }
            (Kind::Lossy, 2) => match self.below(4) {
                n @ 0..=1 => Step::Kill(n == 0),
                n => Step::Stall(n == 2),
            },
            (Kind::Lossy, 3) => {
                let words = self.one_of(&[
                    "\n",
                    "rubbish\n",
                    "{\"type\":\"event\"}\n",
                    "{\"type\":7}\n",
                    "\u{1}\u{2}",
                    "{\"type\":\"event\",\"class\":[]}\n",
                ]);
                Step::Raw(self.below(2) == 0, words)
            }
            (Kind::Lossy, 4) => {
                let channel =
                    self.one_of(&["sysevent-zone-start", "sysevent-zfs-start"]);
                let fault = self.one_of(&["fail no times=2", "hang times=1"]);
                Step::NoStart(channel, fault)
            }
            (Kind::Tiny, 0..=2) => Step::Burst(self.vm()),
            (Kind::Strict, 0..=1) => Step::SlowReload,
            (_, 8) => match self.below(2) {
                0 => Step::Hurt("zfs:zones", self.one_of(&POOL_FAULTS)),
                _ => Step::Damage(self.vm()),
            },
            _ => Step::Hurt(self.one_of(&COMMANDS), self.one_of(&FAULTS)),
        }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        Some(match self.below(20) {
            0..=1 => self.fault(),
            2 => Step::Heal,
            3 => {
                let is_asked = self.below(2) == 0;
                Step::Slowly(is_asked, Box::new(self.operation()))
            }
            4 => {
                let steps = 1 + self.vm() % 8;
                Step::Killed(steps, Box::new(self.operation()))
            }
            _ => self.operation(),
        })
    }
}

/// The commands and channels that may have a fault: `Heal` ends it.
pub const HURT: [&str; 8] = [
    "zfs:zones",
    "zoneadm",
    "zfs",
    "kstat",
    "sysevent-zone",
    "sysevent-zfs",
    "sysevent-zone-start",
    "sysevent-zfs-start",
];

fn channel(is_zone: bool) -> Channel {
    if is_zone { Channel::Zone } else { Channel::Zfs }
}

impl Step {
    /// Runs the step on a host, unless only the model itself can run it. The
    /// host may refuse it in its present state; that is an error.
    pub fn run(&self, host: &Host, debugid: u64) -> simhost::Result<()> {
        let names = host.zonenames()?;
        let name = |n: &usize| {
            let name = names.get(n % names.len().max(1));
            name.cloned().ok_or("no VM is left")
        };
        match self {
            Self::Create(n) => create(host, *n, debugid),
            Self::Delete(n) => host.delete(&name(n)?),
            Self::Remake(n) => {
                host.delete(&Host::spec(50 + n).uuid)?;
                create(host, *n, debugid)
            }
            Self::Start(n) => host.start(&name(n)?),
            Self::Stop(n) => host.stop(&name(n)?, 256),
            Self::Reboot(n) => host.reboot(&name(n)?),
            Self::RebootLate(n) => host.reboot_without_time(&name(n)?),
            Self::RestartInit(n) => host.restart_init(&name(n)?),
            Self::Update(n, property, value) => {
                host.update(&name(n)?, property, value)
            }
            Self::Write(n, file, text) => {
                host.write_config(&name(n)?, file, text)
            }
            Self::WriteLarge(n, file, value) => {
                let member = |key| format!("\"k{key}\":\"{value}\"");
                let members = (0..3000).map(member).collect::<Vec<_>>();
                let members = members.join(",");
                let text = format!(
                    "{{\"customer_metadata\":{{{members}}},{members}}}"
                );
                host.write_config(&name(n)?, file, &text)
            }
            Self::Remove(n, file) => {
                let path = host.zone_dir(&name(n)?)?.join("config").join(file);
                Ok(std::fs::remove_file(path)?)
            }
            Self::Rename(n, new) => {
                let new = format!("renamed{new}");
                match names.contains(&new) {
                    true => Err("there is such a zone".into()),
                    false => host.rename(&name(n)?, &new),
                }
            }
            Self::SetUuid(n, uuid) => {
                let uuid = format!("11111111-2222-4333-8444-{uuid:012}");
                host.set_uuid(&name(n)?, &uuid)
            }
            Self::Mark(n, state) => {
                host.mark(&name(n)?, state)?;
                host.mark(&name(n)?, "installed")
            }
            Self::Reattach(n) => {
                host.detach(&name(n)?)?;
                host.attach(&name(n)?)
            }
            Self::Reconfigure(n) => {
                let name = name(n)?;
                if host.is_up(&name)? {
                    return Err("is up".into());
                }
                let xml = std::fs::read_to_string(host.xml_path(&name))?;
                host.zonecfg_create(&name, &xml, true)?;
                host.attach(&name)
            }
            Self::RebootLateFree(n) => host.reboot_with_late_free(&name(n)?),
            Self::BootFails(n, true) => host.boot_fails(&name(n)?),
            Self::BootFails(n, false) => host.boot_without_init(&name(n)?),
            Self::HaltHangs(n, true) => host.halt_hangs(&name(n)?),
            Self::HaltHangs(n, false) => host.halt_without_release(&name(n)?),
            Self::Release(n) => match host.release(&name(n)?) {
                Ok(()) => Ok(()),
                Err(_) => host.halt(&name(n)?, -1),
            },
            Self::EndInit(n) => host.end_init(&name(n)?),
            Self::Killed(steps, step) => {
                step.run(&host.killed_after(*steps), debugid)
            }
            Self::RollbackConfig(n) => {
                let snapshot = format!("s{debugid}");
                host.snapshot_config("zones", &snapshot)?;
                host.update(&name(n)?, "alias", "rolled back")?;
                host.zfs_rollback("zones/config", &snapshot)
            }
            Self::LastExited(n, status) => {
                let path = host.zone_dir(&name(n)?)?.join("lastexited");
                std::fs::write(&path, "")?;
                let text = format!("1700000000.5 {status}\n");
                Ok(std::fs::write(path, text)?)
            }
            Self::Set(n, property, value) => {
                host.zfs_set(&own(host, &name(n)?)?, property, value)
            }
            Self::Inherit(n, property) => {
                host.zfs_inherit(&own(host, &name(n)?)?, property)
            }
            Self::SetPool(value) => host.zfs_set("zones", "compression", value),
            Self::Snapshot(n, snapshot) => {
                host.snapshot(&name(n)?, &format!("s{snapshot}"))
            }
            Self::DeleteSnapshot(n, snapshot) => {
                host.delete_snapshot(&name(n)?, &format!("s{snapshot}"))
            }
            Self::Rollback(n, snapshot) => {
                host.rollback(&name(n)?, &format!("s{snapshot}"))
            }
            Self::RenameAndBack(n) => {
                let own = own(host, &name(n)?)?;
                let other = format!("{own}-away");
                host.zfs_rename(&own, &other)?;
                host.zfs_rename(&other, &own)
            }
            Self::Noise(n) => {
                let own = own(host, &name(n)?)?;
                for operation in ["something new", "bookmark", "hold"] {
                    host.zfs_record(&own, operation, "")?;
                    host.zfs_record("zones/cores/x", operation, "")?;
                }
                Ok(())
            }
            Self::Sysinfo(value) => {
                host.touch_sysinfo(Some(("Datacenter Name", value)))
            }
            Self::Hurt(what, words)
            | Self::HurtChannel(what, words)
            | Self::NoStart(what, words) => host.hurt(what, words),
            Self::Damage(n) => {
                let below = format!("zfs:zones/{}/data", name(n)?);
                host.hurt(&below, "io-error")
            }
            Self::SlowReload => {
                host.hurt("zfs", "slow 150 times=1")?;
                // This loses no events of zones.
                host.kill_sysevent(Channel::Zfs)
            }
            Self::Kill(is_zone) => host.kill_sysevent(channel(*is_zone)),
            Self::Stall(is_zone) => host.stall_sysevent(channel(*is_zone)),
            Self::Raw(is_zone, words) => {
                host.raw_sysevent(channel(*is_zone), words.as_bytes())
            }
            Self::Burst(n) => {
                // The records of the reboot come in the middle of the burst.
                let before = records(host.root(), Channel::Zone).len();
                host.hurt("sysevent-zone", "drop")?;
                let rebooted = name(n).map(|name| host.reboot(&name));
                host.hurt("sysevent-zone", "heal")?;
                let told =
                    records(host.root(), Channel::Zone).split_off(before);
                let others = |from: i64| {
                    (from..from + 200).map(|n| {
                        let name = format!("nobody{n}");
                        format!(
                            "{{{}",
                            zone_change(&name, "ready", "running", n)
                        )
                    })
                };
                let all = others(0).chain(told).chain(others(200));
                let lines =
                    all.fold(String::new(), |all, line| all + &line + "\n");
                host.raw_sysevent(Channel::Zone, lines.as_bytes())?;
                rebooted?
            }
            Self::Heal => {
                let of_datasets = simhost::hurt::names(host.root());
                let of_datasets = of_datasets.iter().map(String::as_str);
                for what in HURT.into_iter().chain(of_datasets) {
                    host.hurt(what, "heal")?;
                }
                Ok(())
            }
            Self::Tear(..)
            | Self::TearXml(_)
            | Self::SpoilXml(_)
            | Self::IndexLost(_)
            | Self::Slowly(..)
            | Self::Compare => Ok(()),
        }
    }
}

fn create(host: &Host, n: u64, debugid: u64) -> simhost::Result<()> {
    let mut spec = Host::spec(50 + n);
    spec.debugid = debugid;
    spec.autoboot = n < 2;
    host.create(&spec)
}

/// The dataset at a zone's zonepath.
fn own(host: &Host, zonename: &str) -> simhost::Result<String> {
    let dir = host.zone_dir(zonename)?;
    let below = dir.strip_prefix(host.root())?;
    Ok(below.to_string_lossy().into_owned())
}
