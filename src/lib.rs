//! vminfod: the VM information daemon of SmartOS.
//!
//! The modules stand here in the order in which data flows through the daemon,
//! with those first that all of it stands on: each uses only those above it.

// What all stages share.
pub mod address;
pub mod backoff;
pub mod config;
pub mod os;
pub mod settings;
pub mod sync;
pub mod threads;
pub mod metrics;

// What a VM object is, and where what is known of it comes from.
pub mod source;
pub mod vm;

// The stages, from the kernel to the client, each with what it hands on.
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

// What joins them, and what people and programs see.
pub mod log_format;
pub mod daemon;
pub mod client;
pub mod compare;
pub mod check;
pub mod cli;
