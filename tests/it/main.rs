//! The tests that run the program, or need more than one of its modules.

/// Recorded hosts and recorded changes.
mod conformance;
