//! The tests that run the program, or need more than one of its modules.

// A test that can't go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Hosts, daemons and streams for the others.
mod harness;

/// The processes of a simulated host.
mod processes;

/// Recorded hosts and recorded changes.
mod conformance;

/// Every operation, from the command to the client.
mod operations;
mod pools;

/// Files that come, go and are replaced.
mod files;

/// What is broken, and mended.
mod faults;

/// Which zones there are, and what no sysevent tells of.
mod zones;

/// What heals by itself: hangs, gaps, drift, floods, lack of watches.
mod healing;

/// Random operations and faults, checked against what must always hold.
mod model;

/// The interface by real sockets.
mod http;
mod index;

/// The service and what is installed.
mod smf;

/// The safe way from today's daemon to this one, and back.
mod switch;

/// Sockets, settings, and where it may run.
mod sockets;

/// Queries of VMs.
mod queries;

/// Queries of events, and coming back.
mod streams;

/// Waiting for VMs, and loading them first.
mod waiting;

/// Clients that are many, slow, broken or hostile.
mod abuse;

/// curl, Node, Python, wrk.
mod clients;

/// What Prometheus reads.
mod metrics;

/// Alerts, each with its fault.
mod alerts;

/// What a broker gets.
mod brokers;

/// The program as a process, and its tools.
mod process;

/// What it inherits, and what its children do.
mod inherited;

/// vmadm's verbs that only read.
mod vmadm;

/// Tools that wait, watch and compare.
mod tools;

/// A terminal for the others.
mod terminal;

/// The live view.
mod top;

/// Manual pages, completion, the README's examples.
mod docs;

/// What the daemon relies on, tried.
mod check;

/// Two daemons beside each other.
mod compare;

/// JSON that nests deep, and VMs that can't be read.
mod depth;

/// What might make a tool say what is not so.
mod liars;

/// Streams that break on and on, and lines that take long.
mod reconnects;

/// The client library, and what it makes of bad servers.
mod library;

/// The file watcher's C.
mod c_loop;

/// What the fuzzer checks, of its seeds and of what it has found.
mod fuzz;

/// Which module uses which.
mod modules;

/// Rules of the house.
mod tidy;
