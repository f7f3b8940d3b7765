//! vminfod: the VM information daemon of SmartOS.
//!
//! The modules stand here in reading order, which is the order in which data
//! flows through the daemon, with those first that all of it stands on.

// What all stages share.
pub mod address;
pub mod config;
pub mod event;
pub mod json;
pub mod metrics;
pub mod os;
pub mod requested;
pub mod select;
pub mod settings;
pub mod sync;
pub mod threads;
pub mod translate;

// The stages, from the kernel to the client.
pub mod cache;
pub mod diff;
pub mod drift;
pub mod faults;
pub mod http;
pub mod hub;
pub mod load;
pub mod plan;
pub mod queue;
pub mod transition;
pub mod watch;

// What joins them, and what people and programs see.
pub mod check;
pub mod cli;
pub mod client;
pub mod compare;
pub mod daemon;
pub mod log_format;
