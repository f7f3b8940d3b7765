//! vminfod: the VM information daemon of SmartOS.
//!
//! The modules stand here in reading order, which is the order in which data
//! flows through the daemon, with those first that all of it stands on.

// What all stages share.
pub mod config;
pub mod event;
pub mod json;
pub mod translate;
pub mod os;

// The stages, from the kernel to the client.
pub mod watch;
pub mod plan;
pub mod queue;
pub mod load;
pub mod diff;
pub mod cache;
pub mod hub;
pub mod http;
pub mod faults;

// What joins them, and what people see.
pub mod daemon;
pub mod log_format;
pub mod cli;
