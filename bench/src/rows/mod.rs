//! The rows of the table, as they are numbered in docs/PERFORMANCE.md.

mod abuse;
mod events;
mod fanout;
mod http;
mod scale;
mod storms;
mod tools;

use crate::Result;
use crate::host::Programs;
use crate::report::Figure;

pub use events::cpu_of_file_events;
pub use scale::{calm, reload_once};

/// Measures a row, in this many runs.
type Measure = fn(&Programs, usize) -> Result<Vec<Figure>>;

/// All rows.
pub const ALL: [(u8, Measure); 14] = [
    (1, http::small),
    (2, http::all_vms),
    (3, events::latency),
    (4, events::cpu),
    (5, events::burst),
    (6, scale::start),
    (7, scale::memory),
    (8, scale::reload),
    (9, fanout::subscribers),
    (10, tools::cpu),
    (11, storms::states),
    (12, storms::creations),
    (13, storms::command_runs),
    (14, storms::queries),
];
