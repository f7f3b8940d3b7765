//! `top`: a live view of VMs and of what happens to them.

mod keys;
mod screen;
mod view;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::terminal::has_colours;
use super::{Failure, asked, print};
use crate::client::{Client, Event, EventsQuery, Told, Watcher};
use crate::json::Json;
use crate::os;
use crate::os::signals::{Signal, Signals};
use crate::os::terminal::{RawMode, size};
use crate::sync::Bell;
use keys::Key;
use screen::Screen;
use view::View;

/// How often the daemon is asked how it is.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How often times that are shown go on.
const TICK: Duration = Duration::from_secs(1);

/// The shortest time between two frames: a flood of events is not shown one
/// by one.
const FRAME_TIME: Duration = Duration::from_millis(50);

/// Events that wait to be shown; of more, the oldest are not.
const INBOX_MAX: usize = 1000;

/// The size of a terminal that does not tell it.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// What other threads have found, until the view takes it in.
struct Inbox {
    state: Mutex<Found>,
    /// Rung when there is something.
    bell: Bell,
    ended: Condvar,
}

#[derive(Default)]
struct Found {
    events: VecDeque<Event>,
    status: Option<Json>,
    is_over: bool,
}

impl Inbox {
    fn put(&self, put: impl FnOnce(&mut Found)) {
        put(&mut self.state.lock());
        self.bell.ring();
    }
}

/// Shows it until the user has seen enough.
pub fn run(args: Vec<OsString>) -> Result<(), Failure> {
    let client = asked(args, 0)?.client("vminfod-top")?;
    let bell = Bell::new().map_err(|e| Failure::Failed(e.to_string()))?;
    let inbox = Arc::new(Inbox {
        state: Mutex::default(),
        bell,
        ended: Condvar::new(),
    });
    let listener = {
        let inbox = Arc::clone(&inbox);
        move |told: Told<'_>| {
            inbox.put(|found| {
                if let Told::Event(event) = told {
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
        view.vms = watcher.vms();
        view.status = Some(client.status(false)?);
        return print(&view.text(Instant::now()));
    }
    let asker = {
        let inbox = Arc::clone(&inbox);
        let thread = std::thread::Builder::new().name("status".to_string());
        thread.spawn(move || ask_for_status(&client, &inbox))
    };
    asker.map_err(|e| Failure::Failed(format!("a thread: {e}")))?;
    let shown = live(&mut view, &watcher, &inbox);
    inbox.state.lock().is_over = true;
    inbox.ended.notify_all();
    shown.map_err(|e| Failure::Failed(format!("terminal: {e}")))
}

/// Asks the daemon how it is, now and again.
fn ask_for_status(client: &Client, inbox: &Inbox) {
    loop {
        // While it is away the stream of events says so.
        if let Ok(status) = client.status(false) {
            inbox.put(|found| found.status = Some(status));
        }
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

/// A terminal that shows the view, and is as before when this is dropped.
struct Terminal {
    keys: RawMode,
    screen: Screen,
}

impl Terminal {
    fn begin() -> io::Result<Self> {
        let keys = RawMode::begin()?;
        let terminal = Self { keys, screen: Screen::default() };
        write(screen::BEGIN)?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone.
        let _ = write(screen::END);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn live(view: &mut View, watcher: &Watcher, inbox: &Inbox) -> io::Result<()> {
    let signals = Signals::catch(&[
        Signal::Terminate,
        Signal::Interrupt,
        Signal::Hangup,
        Signal::WindowChange,
    ])?;
    let mut terminal = Terminal::begin()?;
    let colours = has_colours();
    let mut next_tick = Instant::now();
    loop {
        let now = Instant::now();
        let found = {
            let mut state = inbox.state.lock();
            let events = std::mem::take(&mut state.events);
            (events, state.status.take())
        };
        for event in &found.0 {
            view.take_in(event, now);
        }
        if found.1.is_some() {
            view.status = found.1;
        }
        view.vms = watcher.vms();
        view.trouble = watcher.trouble();
        let size = size(&io::stdout()).unwrap_or(DEFAULT_SIZE);
        let frame = view.frame(size, now);
        let out = terminal.screen.show(frame, size, colours);
        if !out.is_empty() {
            write(&out)?;
        }
        if next_tick <= now {
            next_tick = now + TICK;
        }
        let frame_at = now + FRAME_TIME;
        let (mut is_key, mut is_rung) = (false, false);
        // Keys and signals at once; events not before the next frame is due.
        while !is_key {
            let until = if is_rung { frame_at } else { next_tick };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let stdin = io::stdin();
            let mut fds = vec![stdin.as_fd(), signals.fd()];
            if !is_rung {
                fds.push(inbox.bell.fd());
            }
            let ready = os::wait_readable(&fds, left)?;
            if ready[0] {
                let bytes = terminal.keys.read()?;
                if bytes.is_empty() {
                    // Nobody is there any more.
                    return Ok(());
                }
                for key in keys::parse(&bytes) {
                    if key == Key::Redraw {
                        terminal.screen = Screen::default();
                    }
                    view.press(key);
                }
                is_key = true;
            }
            if ready[1] {
                match signals.wait() {
                    Signal::WindowChange => is_key = true,
                    _ => return Ok(()),
                }
            }
            if ready.get(2) == Some(&true) {
                inbox.bell.silence();
                is_rung = true;
            }
        }
        if view.is_over {
            return Ok(());
        }
    }
}
