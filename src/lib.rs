//! vminfod: the VM information daemon of SmartOS.
//!
//! The modules are listed in the order in which data flows through the daemon.
//! The modules that all others are built on come first. Each module uses only
//! modules above it.

// Used by all stages.
pub mod backoff;
pub mod config;
pub mod os;
pub mod settings;
pub mod sync;
pub mod threads;
pub mod metrics;

// VM objects, and the sources that the daemon reads them from.
pub mod source;
pub mod vm;

// The stages, from the kernel to the client, and the data that they pass on.
pub mod event;
pub mod faults;
pub mod watch;
pub mod plan;
pub mod transitions;
pub mod sync_requests;
pub mod queue;
pub mod load;
pub mod drift;
pub mod hub;
pub mod cache;
pub mod http;

// The daemon, which connects the stages, and what users and other programs use.
pub mod log_format;
pub mod daemon;
pub mod compare;
pub mod check;
pub mod cli;
