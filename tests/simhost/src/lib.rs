//! A simulated SmartOS host: a directory with the files of a host, and
//! programs named zoneadm, zfs, kstat and sysevent that answer from it.
//!
//! Each operation changes files, command output and sysevents as the platform
//! does, in the platform's order and steps. A process that looks between two
//! steps sees the operation half done; an operation that is killed there stays
//! half done.
//!
//! The kernel publishes a zone's event, then stores the zone's new state.
//! libzonecfg replaces the index, then publishes, without a lock on both. ZFS
//! changes and publishes under a lock that its listings wait for.

pub mod commands;
pub mod dtd;
pub mod emit;
pub mod hurt;
pub mod index;
pub mod layout;
pub mod state;
mod storms;
pub mod xml;

mod datasets;
mod kernel;
mod update;
mod vms;
mod zones;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use emit::Channel;
use index::IndexEntry;
use state::{State, lock};

/// A host below a directory.
#[derive(Clone)]
pub struct Host {
    root: PathBuf,
    between: Option<Between>,
    /// How many steps are left until its operations are killed.
    life: Option<Arc<AtomicUsize>>,
}

/// What is done between two steps of an operation.
type Between = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("root", &self.root).finish_non_exhaustive()
    }
}

/// An error, as a message for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Host {
    /// The host at `root`, which [`Host::init`] or [`Host::import`] has laid
    /// out, or will.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), between: None, life: None }
    }

    /// The same host, but `between` is called after each step of its
    /// operations, as if they were slow: a process that looks meanwhile sees
    /// them half done.
    #[must_use]
    pub fn slowly(&self, between: impl Fn() + Send + Sync + 'static) -> Self {
        let between: Between = Arc::new(between);
        Self { between: Some(between), ..self.clone() }
    }

    /// The same host, but its operations are killed after this many steps: the
    /// later steps never happen.
    #[must_use]
    pub fn killed_after(&self, steps: usize) -> Self {
        let life = Some(Arc::new(AtomicUsize::new(steps)));
        Self { life, ..self.clone() }
    }

    /// Called after each step of an operation. An error means that the
    /// operation is killed here.
    fn done(&self) -> Result<()> {
        if let Some(between) = &self.between {
            between();
        }
        let Some(life) = &self.life else { return Ok(()) };
        match life.fetch_sub(1, Ordering::SeqCst) {
            0 | 1 => {
                life.store(0, Ordering::SeqCst);
                Err("killed".into())
            }
            _ => Ok(()),
        }
    }

    /// The host's root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the host, below its root.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// How many sysevents it has published on the zone and zfs channels.
    #[must_use]
    pub fn published(&self) -> (u64, u64) {
        (
            emit::published(&self.root, Channel::Zone),
            emit::published(&self.root, Channel::Zfs),
        )
    }

    /// Sets a fault of `what`: a command, `sysevent-zone`, `sysevent-zfs`, or
    /// `zfs:` and a pool or dataset; see [`hurt::Fault`] for the words.
    ///
    /// # Errors
    /// If the words are no fault.
    pub fn hurt(&self, what: &str, words: &str) -> Result<()> {
        Ok(hurt::set(&self.root, what, words)?)
    }

    /// Ends every `sysevent` process of a channel.
    ///
    /// # Errors
    /// If no message can be sent.
    pub fn kill_sysevent(&self, channel: Channel) -> Result<()> {
        Ok(emit::send(&self.root, channel, emit::DIE)?)
    }

    /// Makes every `sysevent` of a channel stand still.
    ///
    /// # Errors
    /// If no message can be sent.
    pub fn stall_sysevent(&self, channel: Channel) -> Result<()> {
        Ok(emit::send(&self.root, channel, emit::STALL)?)
    }

    /// Makes `sysevent` print bytes as they are.
    ///
    /// # Errors
    /// If no message can be sent.
    pub fn raw_sysevent(&self, channel: Channel, bytes: &[u8]) -> Result<()> {
        let message = [&[emit::RAW], bytes].concat();
        Ok(emit::send(&self.root, channel, &message)?)
    }

    /// The command lines that were run, a line each.
    #[must_use]
    pub fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("sim/runs"));
        text.unwrap_or_default().lines().map(String::from).collect()
    }

    /// Changes the state of the kernel, and publishes the records of that
    /// change, as one step under the host's lock. The events come before the
    /// state.
    fn step<T>(
        &self,
        channel: Channel,
        change: impl FnOnce(&mut State) -> Result<(T, Vec<String>)>,
    ) -> Result<T> {
        let value = {
            let _lock = lock(&self.root, false)?;
            let mut state = State::load(&self.root)?;
            let before = state.clone();
            let (value, records) = change(&mut state)?;
            emit::publish(&self.root, channel, &records)?;
            state.save(&self.root, &before)?;
            value
        };
        self.done()?;
        Ok(value)
    }

    /// Publishes a zone's record, as a step of its own.
    fn publish(&self, record: String) -> Result<()> {
        emit::publish(&self.root, Channel::Zone, &[record])?;
        self.done()
    }

    /// Rewrites the index, as a step of its own; see [`index::rewrite`].
    fn rewrite_index(
        &self,
        edit: impl Fn(&IndexEntry) -> Option<IndexEntry>,
        added: Option<&IndexEntry>,
    ) -> Result<()> {
        {
            let _lock = lock(&self.root, false)?;
            index::rewrite(&self.root, edit, added)?;
        }
        self.done()
    }

    /// Reads the state.
    fn state(&self) -> io::Result<State> {
        let _lock = lock(&self.root, true)?;
        State::load(&self.root)
    }

    /// The valid lines of the index.
    fn index(&self) -> Vec<IndexEntry> {
        index::read(&self.root).unwrap_or_default()
    }
}
