#![doc = include_str!("../README.md")]

mod address;
mod client;
mod error;
mod event;
mod http;
mod lines;
mod list;
mod mirror;
mod query;
mod status;
mod stream;
mod sync;
mod value;
mod vm;
mod watcher;

pub use address::{Address, NotAnAddress};
pub use client::{Client, Synced, TIME_LIMIT};
pub use error::Error;
pub use event::{Action, Cause, Change, Event, EventHeader, EventKind, Ready};
pub use lines::FormatError;
pub use list::{Unreadable, Vms};
pub use mirror::Mirror;
pub use query::{EventsQuery, HEARTBEAT, VmsQuery};
pub use status::{Fault, Status};
pub use stream::{EventStream, Stopper};
pub use vm::{Disk, Nic, Snapshot, Vm};
pub use watcher::Watcher;
