//! vminfod: the VM information daemon of SmartOS.
//!
//! The modules stand here in reading order, which is the order in which data
//! flows through the daemon; the last few are what all of it stands on.

pub mod config;
pub mod event;
pub mod plan;
pub mod queue;
pub mod load;
pub mod diff;
pub mod json;
pub mod translate;
pub mod os;
