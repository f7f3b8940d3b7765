//! What a VM object is: its JSON, its members, what of it can be asked for, and
//! what has changed from one to the next. Pure.

pub mod json;
pub mod values;
pub mod properties;
pub mod path;
pub mod fields;
pub mod filter;
pub mod diff;
