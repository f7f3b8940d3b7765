//! `top`: a live view of VMs and of what happens to them, or a table printed
//! once if there is no terminal.
//!
//! Other threads follow the events, ask for /status and wait for signals. They
//! put what they find into an [`Inbox`] and ring its bell. The main thread
//! alone reads keys and draws.

mod keys;
mod screen;
mod view;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use vminfod_client::{self as client, Client, Event, EventsQuery, Watcher};

use super::args::CLIENT;
use super::terminal::has_colours;
use super::verb::{Call, STATUS, Verb};
use super::{Failure, print};
use crate::os;
use crate::os::signals::{Signal, Signals};
use crate::os::terminal::{RawMode, size};
use crate::sync::Bell;
use crate::vm::json::Json;
use keys::KeyPress;
use screen::Screen;
use view::View;

/// How often the daemon is asked for /status.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How long it may take to answer that.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// How long a terminal that takes no output can delay the end after a signal.
/// After that the process exits all the same.
const END_TIME: Duration = Duration::from_secs(1);

/// How long to wait for the rest of a key's sequence: the connection to the
/// terminal may be slow.
const SEQUENCE_TIME: Duration = Duration::from_millis(200);

/// How often the times that are shown are updated.
const TICK: Duration = Duration::from_secs(1);

/// The shortest time between two frames, except after a key, so that a flood of
/// events is not drawn one by one.
const FRAME_TIME: Duration = Duration::from_millis(50);

/// The most events that may wait to be shown. If there are more, the oldest are
/// dropped.
const INBOX_MAX: usize = 1000;

/// The width and height, in cells, of a terminal that does not report its size.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// What other threads have found, and the view has not yet taken.
struct Inbox {
    state: Mutex<Found>,
    /// Rung when there is something to take.
    bell: Bell,
    ended: Condvar,
}

#[derive(Default)]
struct Found {
    events: VecDeque<Event>,
    /// The last /status, or why the daemon did not answer.
    status: Option<Result<Json, client::Error>>,
    /// Whether a signal has asked for the end.
    is_ending: bool,
    is_over: bool,
    /// Whether a signal or Ctrl-Z has asked to suspend the program.
    is_suspended: bool,
    /// Whether the program was continued: another one may have used the
    /// terminal meanwhile.
    is_continued: bool,
}

/// What a signal, or Ctrl-Z, has asked for.
enum Asked {
    Nothing,
    /// To end.
    End,
    /// To suspend, and leave the terminal to the shell.
    Suspend,
    /// To take the terminal back, which another program may have used
    /// meanwhile.
    Continue,
}

impl Inbox {
    /// Hands what other threads have found to the view. Returns what a signal
    /// has asked for.
    fn take(&self, view: &mut View, now: Instant) -> Asked {
        let mut found = self.state.lock();
        for event in std::mem::take(&mut found.events) {
            view.take_in(&event, now);
        }
        match found.status.take() {
            Some(Ok(status)) => {
                (view.status, view.silence) = (Some(status), None);
            }
            Some(Err(why)) => view.silence = Some(why.to_string()),
            None => {}
        }
        let is_suspended = std::mem::take(&mut found.is_suspended);
        let is_continued = std::mem::take(&mut found.is_continued);
        match (found.is_ending, is_suspended, is_continued) {
            (true, ..) => Asked::End,
            (_, true, _) => Asked::Suspend,
            (_, _, true) => Asked::Continue,
            _ => Asked::Nothing,
        }
    }

    fn put(&self, put: impl FnOnce(&mut Found)) {
        put(&mut self.state.lock());
        self.bell.ring();
    }
}

pub const VERB: Verb = Verb {
    names: &["top"],
    operands: "",
    summary: "a live view of VMs and events",
    about: "Shows VMs and events until q is pressed; ? shows the keys. If \
            standard output is not a terminal, it prints a table once.",
    options: &[&CLIENT],
    examples: [
        ("top", "the VMs of this host"),
        ("top --server 10.0.0.2:9090", "those of another host"),
    ],
    status: STATUS,
    run,
};

/// Shows the view until the user ends it. Without a terminal, or on one that is
/// dumb, prints it once as text.
fn run(call: Call) -> Result<(), Failure> {
    let client = call.parse(0)?.client("vminfod-top")?;
    let bell = Bell::new().map_err(|e| Failure::Failed(e.to_string()))?;
    let inbox = Arc::new(Inbox {
        state: Mutex::default(),
        bell,
        ended: Condvar::new(),
    });
    let listener = {
        let inbox = Arc::clone(&inbox);
        move |event: Result<&Event, &client::Error>| {
            inbox.put(|found| {
                if let Ok(event) = event
                    && event.kind().is_some()
                {
                    if found.events.len() >= INBOX_MAX {
                        found.events.pop_front();
                    }
                    found.events.push_back(event.clone());
                }
            });
        }
    };
    let watcher = Watcher::start(&client, EventsQuery::new(), listener)?;
    let mut view = View::new(client.server().to_string());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let is_live =
        io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb;
    if !is_live {
        view.mirror(&watcher);
        view.status = Some(Json::from(client.status(false)?.json()));
        return print(&view.text(Instant::now()));
    }
    let asker = {
        let inbox = Arc::clone(&inbox);
        let thread = std::thread::Builder::new().name("status".to_string());
        let client = client.time_limit(STATUS_TIME);
        thread.spawn(move || ask_for_status(&client, &inbox))
    };
    asker
        .map_err(|e| Failure::Failed(format!("cannot start a thread: {e}")))?;
    let shown = live(&mut view, &watcher, &inbox);
    // The terminal is restored already, so the rest of the end may take its
    // time.
    inbox.state.lock().is_over = true;
    inbox.ended.notify_all();
    shown.map_err(|e| Failure::Failed(format!("terminal: {e}")))
}

/// Asks the daemon for /status, again and again until the view has ended.
fn ask_for_status(client: &Client, inbox: &Inbox) {
    loop {
        let status = client.status(false);
        let status = status.map(|status| Json::from(status.json()));
        inbox.put(|found| found.status = Some(status));
        let mut found = inbox.state.lock();
        let next = Instant::now() + STATUS_EVERY;
        while !found.is_over
            && !inbox.ended.wait_until(&mut found, next).timed_out()
        {}
        if found.is_over {
            return;
        }
    }
}

/// The terminal that shows the view. It is restored when this is dropped.
struct Terminal {
    keys: Arc<RawMode>,
    screen: Screen,
    /// The beginning of a sequence, and when its last bytes arrived.
    pressed: Vec<u8>,
    pressed_at: Instant,
}

impl Terminal {
    fn begin() -> io::Result<Self> {
        let terminal = Self {
            keys: Arc::new(RawMode::begin()?),
            screen: Screen::default(),
            pressed: Vec::new(),
            pressed_at: Instant::now(),
        };
        write(screen::BEGIN)?;
        Ok(terminal)
    }

    fn end(&self) {
        // The terminal may be gone, so ignore an error.
        let _ = write(screen::END);
        self.keys.restore();
    }

    fn begin_again(&mut self) -> io::Result<()> {
        self.keys.begin_again()?;
        self.screen = Screen::default();
        write(screen::BEGIN)
    }

    /// The keys that were pressed; `None` if the terminal is gone.
    fn read(&mut self) -> io::Result<Option<Vec<KeyPress>>> {
        let bytes = self.keys.read()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.pressed.extend(bytes);
        self.pressed_at = Instant::now();
        Ok(Some(self.take(false)))
    }

    /// Until when to wait for the rest of a sequence; `None` if none has begun.
    fn rest_until(&self) -> Option<Instant> {
        let until = self.pressed_at + SEQUENCE_TIME;
        (!self.pressed.is_empty()).then_some(until)
    }

    fn take(&mut self, is_all: bool) -> Vec<KeyPress> {
        let (keys, used) = keys::parse(&self.pressed, is_all);
        self.pressed.drain(..used);
        keys
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.end();
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Hands signals to the view. If the view can't end in [`END_TIME`], because
/// its terminal takes no output, restores the terminal and exits.
fn heed(signals: &Signals, inbox: &Inbox, keys: &RawMode) {
    loop {
        match signals.wait() {
            Signal::WindowChange => inbox.bell.ring(),
            Signal::Suspend => inbox.put(|found| found.is_suspended = true),
            Signal::Continue => inbox.put(|found| found.is_continued = true),
            Signal::Terminate
            | Signal::Interrupt
            | Signal::Hangup
            | Signal::Quit => {
                inbox.put(|found| found.is_ending = true);
                let mut found = inbox.state.lock();
                let until = Instant::now() + END_TIME;
                while !found.is_over {
                    if inbox.ended.wait_until(&mut found, until).timed_out() {
                        keys.restore();
                        os::exit_now(0);
                    }
                }
            }
        }
    }
}

fn live(
    view: &mut View,
    watcher: &Watcher,
    inbox: &Arc<Inbox>,
) -> io::Result<()> {
    let signals = Signals::catch(&[
        Signal::Terminate,
        Signal::Interrupt,
        Signal::Hangup,
        Signal::Quit,
        Signal::Suspend,
        Signal::Continue,
        Signal::WindowChange,
    ])?;
    let mut terminal = Terminal::begin()?;
    let (heeded, keys) = (Arc::clone(inbox), Arc::clone(&terminal.keys));
    let thread = std::thread::Builder::new().name("signals".to_string());
    thread.spawn(move || heed(&signals, &heeded, &keys))?;
    let colours = has_colours();
    let mut next_tick = Instant::now();
    loop {
        let now = Instant::now();
        match inbox.take(view, now) {
            _ if view.is_over => return Ok(()),
            Asked::End => return Ok(()),
            Asked::Nothing => {}
            Asked::Suspend => {
                terminal.end();
                os::signals::stop_here()?;
                terminal.begin_again()?;
            }
            Asked::Continue => {
                terminal.end();
                terminal.begin_again()?;
            }
        }
        view.mirror(watcher);
        let size = size(&io::stdout()).unwrap_or(DEFAULT_SIZE);
        let frame = view.frame(size, now);
        let out = terminal.screen.show(frame, size, colours);
        if !out.is_empty() {
            write(&out)?;
        }
        if next_tick <= now {
            next_tick = now + TICK;
        }
        if !wait(view, &mut terminal, inbox, now, next_tick)? {
            return Ok(());
        }
    }
}

/// Waits until there is something to draw: a key is drawn at once, what other
/// threads have found not before [`FRAME_TIME`] after `shown_at`, and the times
/// at `tick`. Returns `false` if the terminal is gone.
fn wait(
    view: &mut View,
    terminal: &mut Terminal,
    inbox: &Inbox,
    shown_at: Instant,
    tick: Instant,
) -> io::Result<bool> {
    let frame_at = shown_at + FRAME_TIME;
    let mut is_rung = false;
    loop {
        let rest_until = terminal.rest_until();
        let until = if is_rung { frame_at } else { tick };
        let until = rest_until.map_or(until, |rest| rest.min(until));
        let left = until.saturating_duration_since(Instant::now());
        let stdin = io::stdin();
        let mut fds = vec![stdin.as_fd()];
        if !is_rung {
            fds.push(inbox.bell.fd());
        }
        let ready = os::wait_readable(&fds, left)?;
        if ready.get(1) == Some(&true) {
            inbox.bell.silence();
            is_rung = true;
        }
        let mut pressed = Vec::new();
        if ready[0] {
            match terminal.read()? {
                Some(keys) => pressed = keys,
                None => return Ok(false),
            }
        } else if rest_until.is_some_and(|rest| rest <= Instant::now()) {
            pressed = terminal.take(true);
        }
        for key in &pressed {
            match key {
                KeyPress::Redraw => terminal.screen = Screen::default(),
                KeyPress::Suspend => inbox.state.lock().is_suspended = true,
                key => view.press(*key),
            }
        }
        let now = Instant::now();
        if !pressed.is_empty() || now >= tick || (is_rung && now >= frame_at) {
            return Ok(true);
        }
    }
}
