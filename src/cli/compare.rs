//! `compare`: follows two daemons, and reports where their VMs differ.
//!
//! Other threads read the streams, ask for /vms and wait for signals. They send
//! what they have to the main thread, which hands it to [`Comparison`] and
//! prints what that finds.

use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use vminfod_client::{
    self as client, Client, Event, EventStream, EventsQuery, TIME_LIMIT, Vms,
    VmsQuery,
};

use super::args::{Args, CLIENT, flag, seconds, socket_address, value};
use super::terminal::{printable, text_for_reader};
use super::verb::{Call, STATUS_OF_COMPARISON, Verb};
use super::{EXIT_DIFFERENT, EXIT_TROUBLE, Failure, print};
use crate::compare::streams::{Comparison, News, Pair, StreamCounts};
use crate::compare::{set_value, shown};
use crate::os::signals::{Signal, Signals};
use crate::threads;
use crate::vm::json::{Json, Object};
use crate::vm::values::iso_date;

/// How long a difference must last to be reported, unless `--settle` says.
pub const SETTLE: Duration = Duration::from_secs(5);

/// How often the VMs that have changed are compared.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// How often the VMs that a daemon serves as /vms are compared with those of
/// its stream. If they differ, they are compared again after the settle time.
const SERVED_TIME: Duration = Duration::from_secs(60);

/// The most messages that may wait for the main thread. When so many wait, the
/// streams are not read, and the daemons wait.
const MESSAGES_MAX: usize = 1024;

/// How long the end may take after a signal. After that the process exits
/// without a summary.
const END_TIME: Duration = Duration::from_secs(1);

/// What the two daemons are called in the output.
const NAMES: [&str; 2] = ["A", "B"];

/// What the other threads send to the main thread.
enum Message {
    Event(usize, Event),
    /// The stream of this daemon can't go on, and why.
    Ended(usize, String),
    /// The VMs that this daemon serves as /vms, or why it did not answer.
    Served(usize, Result<Vms<Json>, client::Error>),
    /// A signal has asked for the end.
    End,
}

pub const VERB: Verb = Verb {
    names: &["compare"],
    operands: "A B",
    summary: "compare the VMs and events of two daemons",
    about: "Follows two daemons, each at an ADDR:PORT or a socket, until it is \
            interrupted. One of them may be today's daemon. A difference that \
            lasts is printed, and printed again when it is over.",
    options: &[&[
        flag('j', &["json"], "print JSON, one object for each line"),
        value(&["for"], "SECS", "end after so many seconds"),
        value(
            &["settle"],
            "SECS",
            "how long a difference has to last, in seconds (5)",
        ),
        CLIENT[1],
    ]],
    examples: [
        (
            "compare 127.0.0.1:9090 127.0.0.1:9091",
            "today's daemon and this one, side by side",
        ),
        (
            "compare -j --for 3600 127.0.0.1:9090 /var/run/vminfod.sock",
            "an hour of it, for a program",
        ),
    ],
    status: STATUS_OF_COMPARISON,
    run,
};

/// Follows two daemons until a signal arrives, or the time of `--for` is over.
fn run(call: Call) -> Result<(), Failure> {
    let args = call.parse(2)?;
    let settle = args.last("settle").map(seconds).transpose()?;
    let settle = settle.unwrap_or(SETTLE);
    let time = args.last("for").map(seconds).transpose()?;
    let clients = clients_of(&args)?;
    let (sender, messages) = bounded(MESSAGES_MAX);
    end_at_signals(sender.clone())?;
    let mut sides = Vec::new();
    for (side, client) in clients.into_iter().enumerate() {
        let query = EventsQuery::new();
        let stream = client.events(query);
        let stream = stream.map_err(|e| trouble(side, &e.to_string()))?;
        follow(side, stream, sender.clone())?;
        sides.push(Served::new(side, client, sender.clone())?);
    }
    let end = time.and_then(|time| Instant::now().checked_add(time));
    let mut watch = Watch {
        comparison: Comparison::new(settle),
        is_json: args.has("json"),
        settle,
        sides,
        begin: Instant::now(),
    };
    let ended = watch.run(&messages, end)?;
    watch.finish(ended)
}

fn clients_of(args: &Args) -> Result<[Client; 2], Failure> {
    let [a, b] = &args.operands[..] else {
        let what = "compare: expected two daemons, each as ADDR:PORT or the \
                    path of a socket";
        return Err(Failure::Usage(what.to_string()));
    };
    let servers = [socket_address(a)?, socket_address(b)?];
    let limit = args.last("time-limit").map(seconds).transpose()?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(servers.map(|server| {
        let client = Client::new(server).name(&format!("vminfod/{version}"));
        client.time_limit(limit.unwrap_or(TIME_LIMIT))
    }))
}

fn trouble(side: usize, what: &str) -> Failure {
    Failure::trouble(format!("{}: {what}", NAMES[side]))
}

fn no_thread(e: std::io::Error) -> Failure {
    Failure::trouble(format!("cannot start a thread: {e}"))
}

fn end_at_signals(sender: Sender<Message>) -> Result<(), Failure> {
    let caught = [Signal::Interrupt, Signal::Terminate];
    let signals = Signals::catch(&caught).map_err(no_thread)?;
    let wait = move || {
        let _ = signals.wait();
        let _ = sender.send_timeout(Message::End, END_TIME);
        // A main thread that waits for a daemon, or for the reader of its
        // output, does not take that message: exit all the same.
        std::thread::sleep(END_TIME);
        threads::exit(i32::from(EXIT_TROUBLE));
    };
    threads::spawn("signals", wait).map_err(no_thread)?;
    Ok(())
}

/// Starts a thread that sends the events of a stream to the main thread.
fn follow(
    side: usize,
    stream: EventStream,
    sender: Sender<Message>,
) -> Result<(), Failure> {
    let read = move || {
        for event in stream {
            let message = match event {
                Ok(event) => Message::Event(side, event),
                Err(e) => Message::Ended(side, e.to_string()),
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    };
    threads::spawn("compare-events", read).map_err(no_thread)?;
    Ok(())
}

/// A thread that asks a daemon for its /vms, each time that `wanted` says so.
struct Served {
    wanted: Sender<()>,
    due: Instant,
    /// Whether the last request has not been answered yet.
    is_asked: bool,
}

impl Served {
    fn new(
        side: usize,
        client: Client,
        sender: Sender<Message>,
    ) -> Result<Self, Failure> {
        let (wanted, questions) = bounded(1);
        let ask = move || {
            while questions.recv().is_ok() {
                let vms = client.vms_as(VmsQuery::new());
                if sender.send(Message::Served(side, vms)).is_err() {
                    return;
                }
            }
        };
        threads::spawn("compare-vms", ask).map_err(no_thread)?;
        Ok(Self { wanted, due: Instant::now(), is_asked: false })
    }
}

struct Watch {
    comparison: Comparison,
    is_json: bool,
    settle: Duration,
    sides: Vec<Served>,
    begin: Instant,
}

impl Watch {
    /// Compares until the end. If a stream could not go on, returns the number
    /// of its daemon, and why.
    fn run(
        &mut self,
        messages: &Receiver<Message>,
        end: Option<Instant>,
    ) -> Result<Option<(usize, String)>, Failure> {
        let mut look_at = Instant::now() + LOOK_TIME;
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(None);
            }
            match messages.recv_deadline(look_at) {
                Ok(Message::End) => return Ok(None),
                Ok(Message::Ended(side, why)) => return Ok(Some((side, why))),
                Ok(Message::Event(side, event)) => {
                    if let Event::Broken(e) = &event {
                        let what = e.to_string();
                        self.say_of_stream(side, "broken", Some(&what))?;
                    }
                    let is_ready = matches!(event, Event::Ready(_));
                    self.comparison.take(side, event, Instant::now());
                    if is_ready {
                        self.say_of_stream(side, "ready", None)?;
                        self.sides[side].due = Instant::now() + self.settle;
                    }
                }
                Ok(Message::Served(side, vms)) => {
                    let now = Instant::now();
                    self.sides[side].is_asked = false;
                    match vms {
                        Ok(vms) => {
                            self.comparison.take_served(side, &vms, now);
                        }
                        Err(why) => {
                            let why = why.to_string();
                            self.say_of_stream(side, "unserved", Some(&why))?;
                        }
                    }
                    let is_doubtful = self.comparison.is_doubtful(side);
                    let pause = match is_doubtful {
                        true => self.settle,
                        false => SERVED_TIME,
                    };
                    self.sides[side].due = now + pause;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    look_at = now + LOOK_TIME;
                    for news in self.comparison.look(now) {
                        self.say(&news)?;
                    }
                    for side in &mut self.sides {
                        if now >= side.due && !side.is_asked {
                            side.is_asked = side.wanted.try_send(()).is_ok();
                        }
                    }
                }
            }
        }
    }

    fn print(&self, mut json: Object, text: &str) -> Result<(), Failure> {
        let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ms = date.map_or(0, |d| d.as_millis());
        let date = i64::try_from(ms).ok().and_then(iso_date);
        let date = date.unwrap_or_default();
        let printed = match self.is_json {
            true => {
                json.set("date", date);
                let line = Json::from(json).to_string();
                print(&(text_for_reader(line) + "\n"))
            }
            // Tenants choose the names of tags.
            false => print(&format!("[{date}] {}\n", printable(text))),
        };
        printed.map_err(Failure::in_trouble)
    }

    /// Prints that a stream is ready or broken, or that a daemon did not answer
    /// /vms.
    fn say_of_stream(
        &self,
        side: usize,
        what: &'static str,
        why: Option<&str>,
    ) -> Result<(), Failure> {
        let mut json = Object::new();
        json.set("type", what);
        json.set("daemon", NAMES[side]);
        let name = NAMES[side];
        let text = match (what, why) {
            ("ready", _) => {
                let vms = self.comparison.vms(side);
                json.set("vms", u32::try_from(vms).unwrap_or(u32::MAX));
                let kind = match self.comparison.is_reference(side) {
                    true => "today's daemon",
                    false => "vminfod",
                };
                json.set("kind", kind);
                format!("{name} is ready: {kind}, {vms} VMs")
            }
            ("broken", Some(why)) => {
                format!("{name}: the event stream broke: {why}; reconnecting")
            }
            (_, why) => {
                let why = why.unwrap_or_default();
                format!("{name} did not answer /vms: {why}")
            }
        };
        if let Some(why) = why {
            json.set("error", why);
        }
        self.print(json, &text)
    }

    fn say(&self, news: &News) -> Result<(), Failure> {
        let (pair, place, values) = match news {
            News::Differs(pair, place, values) => (pair, place, Some(values)),
            News::Agrees(pair, place) => (pair, place, None),
            News::Unread(side, vm) => {
                let mut json = Object::new();
                json.set("type", "unread");
                json.set("daemon", NAMES[*side]);
                json.set("zonename", vm.zonename.as_deref());
                json.set("error", vm.why.as_str());
                let text =
                    format!("{}: {vm}; this VM is not compared", NAMES[*side]);
                return self.print(json, &text);
            }
        };
        let mut json = Object::new();
        let kind = if values.is_some() { "differs" } else { "agrees" };
        json.set("type", kind);
        json.set("zonename", place.zonename.as_str());
        json.set("path", place.path.as_str());
        if let Some(ident) = &place.ident {
            json.set("ident", ident.as_str());
        }
        let sides = match pair {
            Pair::Daemons => ["A".to_string(), "B".to_string()],
            Pair::Stream(side) => {
                json.set("daemon", NAMES[*side]);
                let name = NAMES[*side];
                [format!("the events of {name}"), format!("the /vms of {name}")]
            }
        };
        let path = place.name();
        let zonename = &place.zonename;
        let [left, right] = &sides;
        let text = match values {
            Some((a, b)) => {
                let names = match pair {
                    Pair::Daemons => ["a", "b"],
                    Pair::Stream(_) => ["events", "vms"],
                };
                set_value(&mut json, names[0], a.as_ref());
                set_value(&mut json, names[1], b.as_ref());
                let (a, b) = (shown(a.as_ref()), shown(b.as_ref()));
                format!("{zonename} {path}: {left} {a}, {right} {b}")
            }
            None => {
                format!("{zonename} {path}: {left} and {right} agree again")
            }
        };
        self.print(json, &text)
    }

    /// Prints the summary. Fails if there was a lasting difference, a daemon
    /// could not be followed, or a VM could not be compared.
    fn finish(mut self, ended: Option<(usize, String)>) -> Result<(), Failure> {
        for news in self.comparison.look(Instant::now()) {
            self.say(&news)?;
        }
        let StreamCounts { both, alone, lasting, over, unread } =
            self.comparison.counts();
        let time = self.begin.elapsed();
        let mut json = Object::new();
        json.set("type", "summary");
        json.set("seconds", time.as_secs_f64().floor());
        for (name, count) in [
            ("both", both),
            ("a_alone", alone[0]),
            ("b_alone", alone[1]),
            ("lasting", lasting),
            ("over", over),
            ("unread", unread),
        ] {
            #[allow(clippy::cast_precision_loss)]
            json.set(name, count as f64);
        }
        let count = match lasting {
            0 => "no lasting difference".to_string(),
            1 => "1 lasting difference".to_string(),
            n => format!("{n} lasting differences"),
        };
        let of_them = match (lasting, over) {
            (_, 0) => String::new(),
            (1, _) => " (it has ended)".to_string(),
            (_, over) => format!(" ({over} of them ended)"),
        };
        let not_compared = match unread {
            0 => String::new(),
            1 => "; 1 VM could not be compared".to_string(),
            n => format!("; {n} VMs could not be compared"),
        };
        let text = format!(
            "{count}{of_them} in {:.0} s; {both} changes reported by both, {} \
             by A alone, {} by B alone{not_compared}",
            time.as_secs_f64(),
            alone[0],
            alone[1]
        );
        self.print(json, &text)?;
        if let Some((side, why)) = ended {
            return Err(trouble(side, &why));
        }
        if lasting > 0 {
            return Err(Failure::Silent { status: EXIT_DIFFERENT });
        }
        if let Some(side) = [0, 1].iter().find(|s| !self.comparison.stands(**s))
        {
            let why = "its event stream was broken at the end";
            return Err(trouble(*side, why));
        }
        match unread {
            0 => Ok(()),
            _ => Err(Failure::Silent { status: EXIT_TROUBLE }),
        }
    }
}
