//! What a VM object is: its JSON, its members, which of them a client can ask
//! for, and what has changed between two versions of it. Pure.

pub mod json;
pub mod values;
pub mod properties;
pub mod path;
pub mod fields;
pub mod filter;
pub mod diff;
