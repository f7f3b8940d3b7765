//! A simulated SmartOS host: a directory with the files of a host, and
//! programs named zoneadm, zfs, kstat and sysevent that answer from it.
//!
//! Each operation does to files, command output and sysevents what the
//! platform does, in that order. A step that changes what commands say and the
//! sysevent that tells of it are one, under the host's lock: a command that
//! shows a change runs after its sysevent was published.

pub mod commands;
pub mod emit;
pub mod hurt;
pub mod layout;
pub mod state;
pub mod xml;

mod datasets;
mod update;
mod zones;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emit::Channel;
use state::{State, lock};

/// A host below a directory.
#[derive(Clone)]
pub struct Host {
    root: PathBuf,
    between: Option<Between>,
}

/// What is done between two steps of an operation.
type Between = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What went wrong, for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Host {
    /// The host at `root`, which [`Host::init`] or [`Host::import`] has laid
    /// out, or will.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), between: None }
    }

    /// The same host; this is done after each step of its operations, as if
    /// they took their time: who looks meanwhile sees them half done.
    #[must_use]
    pub fn slowly(&self, between: impl Fn() + Send + Sync + 'static) -> Self {
        let between: Between = Arc::new(between);
        Self { between: Some(between), ..self.clone() }
    }

    fn done(&self) {
        if let Some(between) = &self.between {
            between();
        }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the host.
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

    /// Hurts `what` (a command, or `sysevent-zone`, `sysevent-zfs`); see
    /// [`hurt::Fault`] for the words.
    ///
    /// # Errors
    /// If the words are no fault.
    pub fn hurt(&self, what: &str, words: &str) -> Result<()> {
        Ok(hurt::set(&self.root, what, words)?)
    }

    /// Ends every `sysevent` process of a channel.
    ///
    /// # Errors
    /// If none can be told.
    pub fn kill_sysevent(&self, channel: Channel) -> Result<()> {
        Ok(emit::send(&self.root, channel, emit::DIE)?)
    }

    /// Makes `sysevent` print bytes as they are.
    ///
    /// # Errors
    /// If none can be told.
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

    /// Changes the state and publishes what tells of it, as one step.
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
            state.save(&self.root, &before)?;
            emit::publish(&self.root, channel, &records)?;
            value
        };
        self.done();
        Ok(value)
    }

    /// Reads the state.
    fn state(&self) -> io::Result<State> {
        let _lock = lock(&self.root, true)?;
        State::load(&self.root)
    }
}
