//! What the live view shows. It makes the lines of a frame from VMs, events,
//! /status, keys and the time. It is pure: it reads and writes nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;
use vminfod_client::{self as client, Event, Unreadable, Vm, Watcher};

use super::keys::KeyPress;
use super::screen::{ScreenLine, Style, begin_of};
use crate::cli::status::{faults, long_time};
use crate::cli::terminal::printable;
use crate::vm::filter::type_of_brand;
use crate::vm::json::{Json, number_text};

/// How long a VM stands out after a change.
const HIGHLIGHT: Duration = Duration::from_secs(5);

/// The most lines of events that are kept.
const EVENTS_MAX: usize = 500;

/// Latencies of events older than this are dropped.
const LATENCY_TIME: Duration = Duration::from_secs(60);

/// The most latencies that are kept.
const LATENCIES_MAX: usize = 10_000;

/// The longest filter, in characters.
const FILTER_MAX: usize = 60;

/// From this width on, in cells, uuids are shown whole.
const WIDE: usize = 110;

/// A column, which VMs can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewColumn {
    /// The uuid.
    Uuid,
    /// The type.
    Type,
    /// The memory.
    Ram,
    /// The state.
    State,
    /// The alias.
    Alias,
    /// The last change; the latest comes first.
    Changed,
}

impl ViewColumn {
    const ALL: [(Self, &'static str, char); 6] = [
        (Self::Uuid, "UUID", 'u'),
        (Self::Type, "TYPE", 't'),
        (Self::Ram, "RAM", 'm'),
        (Self::State, "STATE", 's'),
        (Self::Alias, "ALIAS", 'a'),
        (Self::Changed, "LAST CHANGE", 'c'),
    ];
}

/// The last change of a VM.
#[derive(Clone, Debug)]
struct Change {
    at: Instant,
    what: String,
}

/// Everything that is shown, and how.
#[derive(Debug)]
pub struct View {
    /// The address of the daemon that is shown.
    pub server: String,
    /// The VMs.
    pub vms: BTreeMap<String, Arc<Vm>>,
    /// The last /status.
    pub status: Option<Json>,
    /// Why the VMs shown may be old, if they may.
    pub trouble: Option<String>,
    /// VMs that can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Why the daemon does not answer /status, if it does not.
    pub silence: Option<String>,
    changes: HashMap<String, Change>,
    events: VecDeque<(String, Style)>,
    latencies: VecDeque<(Instant, u64)>,
    sort: ViewColumn,
    is_reversed: bool,
    filter: String,
    is_filtering: bool,
    has_events: bool,
    has_help: bool,
    top: usize,
    /// How many VMs the last frame had room for, and how many there were.
    page: (usize, usize),
    /// Whether the user has asked for the end.
    pub is_over: bool,
}

/// A VM in the table.
struct Row<'a> {
    zonename: &'a str,
    uuid: &'a str,
    kind: &'static str,
    ram: Option<f64>,
    state: String,
    alias: String,
    change: Option<&'a Change>,
}

impl View {
    /// A view that shows nothing yet.
    pub fn new(server: String) -> Self {
        Self {
            server,
            vms: BTreeMap::new(),
            status: None,
            trouble: None,
            unreadable: Vec::new(),
            silence: None,
            changes: HashMap::new(),
            events: VecDeque::new(),
            latencies: VecDeque::new(),
            sort: ViewColumn::Ram,
            is_reversed: false,
            filter: String::new(),
            is_filtering: false,
            has_events: true,
            has_help: false,
            top: 0,
            page: (1, 0),
            is_over: false,
        }
    }

    /// Copies the VMs and faults of a watcher.
    pub fn mirror(&mut self, watcher: &Watcher) {
        self.vms = watcher.vms();
        self.trouble = watcher.trouble();
        self.unreadable = watcher.unreadable();
    }

    /// Takes in an event.
    pub fn take_in(&mut self, event: &Event, now: Instant) {
        let Some(header) = event.header() else { return };
        let time = header.date.split_once('T');
        let time = time.map_or("", |(_, time)| time.get(..8).unwrap_or(time));
        let short = header.zonename.split('-').next().unwrap_or_default();
        let alias = event.vm().and_then(|vm| vm.alias.as_deref());
        let alias = alias.filter(|alias| !alias.is_empty()).unwrap_or("-");
        let who = format!("{time} {short} {alias}");
        let (what, style) = match event {
            Event::Create { .. } => (vec!["create".to_string()], Style::Green),
            Event::Delete { .. } => (vec!["delete".to_string()], Style::Red),
            other => {
                let changes = other.changes().iter();
                (changes.map(change_text).collect(), Style::Plain)
            }
        };
        for what in &what {
            if self.events.len() >= EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back((printable(&format!("{who} {what}")), style));
        }
        if let Event::Delete { .. } = event {
            self.changes.remove(&header.zonename);
        } else if let Some(what) = main_change(event, &what) {
            let change = Change { at: now, what };
            self.changes.insert(header.zonename.clone(), change);
        }
        let latency = header.cause.as_ref().and_then(|c| c.latency_us);
        if let Some(latency) = latency {
            if self.latencies.len() >= LATENCIES_MAX {
                self.latencies.pop_front();
            }
            self.latencies.push_back((now, latency));
        }
    }

    /// Acts on a key.
    pub fn press(&mut self, key: KeyPress) {
        if self.is_filtering && key != KeyPress::Interrupt {
            match key {
                KeyPress::Enter => self.is_filtering = false,
                KeyPress::Escape => {
                    self.is_filtering = false;
                    self.filter.clear();
                }
                KeyPress::Backspace => {
                    self.filter.pop();
                }
                KeyPress::Char(c)
                    if self.filter.chars().count() < FILTER_MAX =>
                {
                    self.filter.push(c);
                }
                _ => {}
            }
            self.top = 0;
            return;
        }
        let (page, count) = self.page;
        let last = count.saturating_sub(page);
        match key {
            KeyPress::Char('q') | KeyPress::Interrupt => self.is_over = true,
            KeyPress::Char('/') => self.is_filtering = true,
            KeyPress::Char('e') => self.has_events = !self.has_events,
            KeyPress::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyPress::Char('r') => self.is_reversed = !self.is_reversed,
            KeyPress::Escape => {
                self.filter.clear();
                self.has_help = false;
            }
            KeyPress::Up | KeyPress::Char('k') => {
                self.top = self.top.saturating_sub(1)
            }
            KeyPress::Down | KeyPress::Char('j') => {
                self.top = (self.top + 1).min(last)
            }
            KeyPress::PageUp => self.top = self.top.saturating_sub(page),
            KeyPress::PageDown | KeyPress::Char(' ') => {
                self.top = (self.top + page).min(last);
            }
            KeyPress::Home | KeyPress::Char('g') => self.top = 0,
            KeyPress::End | KeyPress::Char('G') => self.top = last,
            KeyPress::Char(c) => {
                let mut columns = ViewColumn::ALL.into_iter();
                if let Some((column, ..)) = columns.find(|row| row.2 == c) {
                    let is_same = self.sort == column;
                    self.is_reversed = is_same && !self.is_reversed;
                    self.sort = column;
                    self.top = 0;
                }
            }
            KeyPress::Enter
            | KeyPress::Backspace
            | KeyPress::Redraw
            | KeyPress::Suspend => {}
        }
    }

    /// The lines of a frame of this width and height.
    pub fn frame(
        &mut self,
        (width, height): (usize, usize),
        now: Instant,
    ) -> Vec<ScreenLine> {
        let long_ago = |at: Instant, time| now.duration_since(at) > time;
        let is_old = |(at, _): &(Instant, u64)| long_ago(*at, LATENCY_TIME);
        while self.latencies.front().is_some_and(is_old) {
            self.latencies.pop_front();
        }
        let mut lines = vec![self.title(), self.health()];
        let foot = if self.has_help { help() } else { vec![self.foot()] };
        let room = height.saturating_sub(lines.len() + 1 + foot.len());
        let events = match self.has_events && room >= 8 {
            true => room / 3,
            false => 0,
        };
        let divider = usize::from(events > 0);
        let places = room - events - divider;
        let rows = self.rows();
        let count = rows.len();
        let top = self.top.min(count.saturating_sub(places));
        lines.push(self.header(width));
        for row in rows.iter().skip(top).take(places) {
            lines.push(row.line(width, now));
        }
        lines.resize_with(3 + places, ScreenLine::default);
        if events > 0 {
            lines.push(ScreenLine::of("events".to_string(), Style::Reverse));
            let skipped = self.events.len().saturating_sub(events);
            for (text, style) in self.events.iter().skip(skipped) {
                lines.push(ScreenLine::of(text.clone(), *style));
            }
            lines.resize_with(3 + places + 1 + events, ScreenLine::default);
        }
        lines.extend(foot);
        lines.truncate(height);
        (self.top, self.page) = (top, (places.max(1), count));
        lines
    }

    /// The view as text, for when there is no terminal: title, health and all
    /// VMs.
    pub fn text(&self, now: Instant) -> String {
        let mut lines = vec![self.title(), self.health(), self.header(WIDE)];
        lines.extend(self.rows().iter().map(|row| row.line(WIDE, now)));
        lines.iter().map(|line| line.text() + "\n").collect()
    }

    fn title(&self) -> ScreenLine {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for vm in self.vms.values() {
            let state = vm.state.as_deref();
            *states.entry(state.unwrap_or("unknown")).or_default() += 1;
        }
        let states = states.iter().map(|(state, n)| format!("{n} {state}"));
        let states = states.collect::<Vec<_>>().join(", ");
        let count = match self.vms.len() {
            1 => "1 VM".to_string(),
            n => format!("{n} VMs"),
        };
        let colon = if states.is_empty() { "" } else { ": " };
        let text = format!("vminfod {}  {count}{colon}{states}", self.server);
        ScreenLine::of(printable(&text), Style::Bold)
    }

    fn health(&self) -> ScreenLine {
        let trouble = self.trouble.as_ref().or(self.silence.as_ref());
        if let Some(trouble) = trouble {
            let text = format!("{trouble}; trying again");
            return ScreenLine::of(printable(&text), Style::Red);
        }
        if let Some(vm) = self.unreadable.first() {
            return ScreenLine::of(printable(&vm.to_string()), Style::Red);
        }
        let Some(status) = &self.status else {
            return ScreenLine::of(
                "waiting for /status".to_string(),
                Style::Dim,
            );
        };
        let number = |path: [&str; 2]| {
            let found = status.get(path[0]).and_then(|v| v.get(path[1]));
            found.and_then(Json::as_u64).unwrap_or(0)
        };
        let waiting = status.get("queue").and_then(|q| q.get("vasync_queue"));
        let waiting = waiting.and_then(|q| q.get("nqueued")?.as_u64());
        let (working, waiting) =
            (number(["queue", "working"]), waiting.unwrap_or(0));
        #[allow(clippy::cast_precision_loss)]
        let ms = |us: u64| us as f64 / 1000.0;
        let most = self.latencies.iter().map(|(_, us)| *us).max();
        let latency = match (self.latencies.back(), most) {
            (Some((_, last)), Some(most)) => {
                let (last, most) = (ms(*last), ms(most));
                format!("latency {last:.1} ms, max {most:.1} ms")
            }
            _ => "no event for a minute".to_string(),
        };
        let faults = faults(status);
        let queue = format!("queue: {working} running, {waiting} waiting");
        match &faults[..] {
            [] => {
                let text = format!("healthy; {queue}; {latency}");
                ScreenLine::of(text, Style::Green)
            }
            [first, ..] => {
                let count = match faults.len() {
                    1 => "1 fault".to_string(),
                    n => format!("{n} faults"),
                };
                let who = first.zonename.as_deref().unwrap_or("the host");
                let who = who.split('-').next().unwrap_or(who);
                let (source, error) = (&first.source, &first.error);
                let text = format!(
                    "{count}; {queue}; {latency}; {who}: {source}: {error}"
                );
                ScreenLine::of(printable(&text), Style::Red)
            }
        }
    }

    fn header(&self, width: usize) -> ScreenLine {
        let mut line = ScreenLine::default();
        line.add(0, " ".repeat(width), Style::Reverse);
        for (column, name, _) in ViewColumn::ALL {
            let (at, room) = place(column, width);
            let mark = match (self.sort == column, self.is_reversed) {
                (false, _) => "",
                (true, false) => "^",
                (true, true) => "v",
            };
            let text = format!("{name}{mark}");
            let text = match column {
                ViewColumn::Ram => format!("{text:>room$}"),
                _ => text,
            };
            line.add(at, text, Style::Reverse);
        }
        line
    }

    fn foot(&self) -> ScreenLine {
        let text = match (self.is_filtering, self.filter.as_str()) {
            (true, filter) => format!("filter: {filter}_"),
            (false, "") => {
                "q quit  / filter  u t m s a c sort  r reverse  e events  \
                 ? help"
                    .to_string()
            }
            (false, filter) => {
                format!("filter: {filter} (Esc clears it)  q quit  ? help")
            }
        };
        ScreenLine::of(printable(&text), Style::Dim)
    }

    /// The VMs that pass the filter, in order.
    fn rows(&self) -> Vec<Row<'_>> {
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<_> = self
            .vms
            .iter()
            .map(|(zonename, vm)| self.row(zonename, vm))
            .filter(|row| {
                let text = format!(
                    "{} {} {} {} {}",
                    row.zonename, row.uuid, row.kind, row.state, row.alias
                );
                wanted.is_empty() || text.to_lowercase().contains(&wanted)
            })
            .collect();
        // The rows are in the order of their zonenames. Equal rows stay in that
        // order, because the sort is stable.
        rows.sort_by(|a, b| {
            let order = match self.sort {
                ViewColumn::Uuid => a.uuid.cmp(b.uuid),
                ViewColumn::Type => a.kind.cmp(b.kind),
                ViewColumn::Ram => {
                    let (a, b) = (a.ram.unwrap_or(0.0), b.ram.unwrap_or(0.0));
                    a.total_cmp(&b)
                }
                ViewColumn::State => a.state.cmp(&b.state),
                ViewColumn::Alias => a.alias.cmp(&b.alias),
                ViewColumn::Changed => {
                    let at = |row: &Row<'_>| row.change.map(|c| c.at);
                    at(b).cmp(&at(a))
                }
            };
            if self.is_reversed { order.reverse() } else { order }
        });
        rows
    }

    fn row<'a>(&'a self, zonename: &'a str, vm: &'a Vm) -> Row<'a> {
        let text =
            |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
        let kind = type_of_brand(vm.brand.as_deref());
        Row {
            zonename,
            uuid: &vm.uuid,
            kind,
            ram: match kind {
                "KVM" | "BHYV" => vm.ram,
                _ => vm.max_physical_memory,
            },
            state: text(&vm.state),
            alias: text(&vm.alias),
            change: self.changes.get(zonename),
        }
    }
}

impl Row<'_> {
    fn line(&self, width: usize, now: Instant) -> ScreenLine {
        let is_new = |change: &&Change| {
            now.saturating_duration_since(change.at) < HIGHLIGHT
        };
        let is_new = self.change.as_ref().is_some_and(is_new);
        let style = if is_new { Style::Yellow } else { Style::Plain };
        let mut line = ScreenLine::default();
        let mut add = |column, text: String, style| {
            let (at, room) = place(column, width);
            let text = begin_of(&text, room);
            let text = match column {
                ViewColumn::Ram => format!("{text:>room$}"),
                _ => text,
            };
            line.add(at, text, style);
        };
        let uuid = match width >= WIDE {
            true => self.uuid,
            false => self.uuid.split('-').next().unwrap_or(self.uuid),
        };
        add(ViewColumn::Uuid, printable(uuid), style);
        add(ViewColumn::Type, self.kind.to_string(), style);
        let ram = self.ram.map_or("-".to_string(), number_text);
        add(ViewColumn::Ram, ram, style);
        let of_state = match (is_new, self.state.as_str()) {
            (true, _) => style,
            (false, "running") => Style::Green,
            (false, "failed") => Style::Red,
            (false, _) => Style::Plain,
        };
        add(ViewColumn::State, self.state.clone(), of_state);
        add(ViewColumn::Alias, self.alias.clone(), style);
        if let Some(change) = self.change {
            let ago = now.saturating_duration_since(change.at);
            let ago = long_time(ago.as_secs_f64().floor());
            // Whole seconds, so that one frame a second is enough.
            let ago = ago.replace(".0", "");
            add(ViewColumn::Changed, format!("{ago}: {}", change.what), style);
        }
        line
    }
}

/// Where a column begins, and how many cells it has.
fn place(column: ViewColumn, width: usize) -> (usize, usize) {
    let is_wide = width >= WIDE;
    let uuid = if is_wide { 36 } else { 8 };
    let alias = if is_wide { 24 } else { 16 };
    match column {
        ViewColumn::Uuid => (0, uuid),
        ViewColumn::Type => (uuid + 2, 4),
        ViewColumn::Ram => (uuid + 7, 7),
        ViewColumn::State => (uuid + 16, 13),
        ViewColumn::Alias => (uuid + 31, alias),
        ViewColumn::Changed => {
            let at = uuid + 31 + alias + 2;
            (at, width.saturating_sub(at))
        }
    }
}

/// A change, as the list of events shows it.
fn change_text(change: &client::Change) -> String {
    let (old, new) = (text_of(change.old_json()), text_of(change.new_json()));
    format!("{}: {old} -> {new}", change.pretty_path)
}

fn text_of(value: Option<&RawValue>) -> String {
    value.map_or("nothing".to_string(), ToString::to_string)
}

/// What the last column shows of an event: the state if that has changed, else
/// the first change.
fn main_change(event: &Event, what: &[String]) -> Option<String> {
    let Event::Modify { changes, .. } = event else {
        return what.first().cloned();
    };
    let is_of = |change: &&client::Change, path| change.pretty_path == path;
    let state = ["state", "zone_state"]
        .into_iter()
        .find_map(|path| changes.iter().find(|change| is_of(change, path)));
    // `last_modified` only says when a file was written: what is shown already
    // says more.
    let mut others = changes.iter().filter(|c| !is_of(c, "last_modified"));
    let change = state.or_else(|| others.next())?;
    let new = match &change.new_value {
        Some(Value::String(text)) => text.clone(),
        Some(_) | None => text_of(change.new_json()),
    };
    Some(printable(&match change.pretty_path.as_str() {
        "state" => new,
        path => format!("{path} {new}"),
    }))
}

fn help() -> Vec<ScreenLine> {
    let lines = [
        "u t m s a c  sort by uuid, type, memory, state, alias, last change",
        "             (the same key again, or r, reverses the order)",
        "/            filter by uuid, zonename, type, state or alias; Esc \
         clears it",
        "e            show or hide events",
        "arrows, j k, page keys, space, g G   move",
        "? h          hide this help;  q quit",
    ];
    lines.map(|line| ScreenLine::of(line.to_string(), Style::Dim)).to_vec()
}
