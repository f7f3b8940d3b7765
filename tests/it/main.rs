//! The tests that run the program, or need more than one of its modules.

// A test that can't go on panics, and so it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Simulated hosts, daemons and event streams for the other modules.
mod harness;

/// Temporary directories, and processes that a test has left there.
mod processes;

/// Recorded hosts and recorded changes.
mod conformance;

/// Every operation on a host, from the command to the event of a client.
mod operations;
mod pools;

/// What a tenant can write must not affect the VMs of others.
mod tenants;

/// Files that come, go and are replaced.
mod files;

/// Files and commands that are broken, and mended again.
mod faults;

/// Which zones exist, and changes that no sysevent reports.
mod zones;

/// Recovery without an operator: from hangs, gaps, drift, floods, and too few
/// file watches.
mod healing;
mod storms;

/// Random operations and faults, checked against what must always hold.
mod model;

/// The HTTP interface, over real sockets.
mod http;
mod index;

/// /status, and its form.
mod status;

/// The description of the interface for machines.
mod schema;

/// The SMF service, and the installed files.
mod smf;

/// The safe way from today's daemon to this one, and back.
mod switch;

/// The Unix socket, the settings file, and where the daemon may run.
mod sockets;

/// Queries of /vms and /vms/NAME.
mod queries;

/// Queries of /events, and streams that resume.
mod streams;

/// `wait=` and `sync=1`: waiting for a VM, and loading it first.
mod waiting;

/// Clients that are many, slow, broken or hostile.
mod abuse;

/// Real clients: curl, Node, Python, wrk.
mod clients;

/// /metrics, which Prometheus reads.
mod metrics;

/// Each alert fires for its fault, and not without it.
mod alerts;

/// The events that a broker gets.
mod brokers;

/// The program as a process, and its tools.
mod process;

/// What the daemon inherits, and what its children inherit from it.
mod inherited;

/// vmadm's verbs that only read.
mod vmadm;

/// Tools that wait, watch and compare.
mod tools;

/// A terminal for the other modules.
mod terminal;

/// `vminfod top`, the live view.
mod top;

/// Manual pages, completion, the README's examples.
mod docs;

/// `vminfod check`: the facts that the daemon relies on.
mod check;

/// `vminfod compare`: two daemons side by side.
mod compare;

/// Deeply nested JSON, and VMs that can't be read.
mod depth;

/// Situations that could make a tool say something false.
mod liars;

/// Streams that break again and again, and lines that arrive slowly.
mod reconnects;

/// The client library, also with servers that answer badly.
mod examples;
mod library;

/// The C code of the file watcher.
mod c_loop;

/// The fuzz targets, run on seeds and on inputs that once failed.
mod fuzz;

/// Which module uses which.
mod modules;

/// Rules that every source file must follow.
mod tidy;
