//! The fan-out: one thread writes /events to every subscriber, without ever
//! waiting for one of them.
//!
//! The cost of an event depends on how many subscribers want it, not on how
//! many are connected: a subscriber that wants only some VMs is looked up by
//! their names. A subscriber that can't take more is left alone until it can.
//! When too much waits for it, it is cut off. The poller watches every socket,
//! and so notices when a client has gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::poller::{Interest, Poller, WakeReason};
use super::subscriber::{EndReason, OutgoingLine, Subscriber};
use super::subscription_filter::SharedEvent;
use crate::hub::{EventLine, Hub};
use crate::settings::HttpLimits;
use crate::threads::Stop;
use crate::vm::json::write_string;
use crate::vm::values::date_text;

/// The most lines that are taken from the hub at a time. They are written to
/// their subscribers before more are taken; meanwhile the hub keeps some
/// thousands of lines.
const LINES_MAX: usize = 128;

/// The longest wait of the thread for an event, a message or a heartbeat.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A message to the thread.
enum Message {
    /// A new subscriber.
    Join(Box<Subscriber>),
    /// The poller has fired for the subscriber with this id.
    Ready(u64, WakeReason),
}

/// The fan-out.
pub struct Fanout {
    hub: Arc<Hub>,
    poller: Arc<Poller>,
    limits: HttpLimits,
    inbox: Mutex<Vec<Message>>,
    stop: Stop,
    /// How many subscribers were checked for an event, summed over all events.
    looks: AtomicU64,
    /// Lines that were queued for subscribers.
    queued: AtomicU64,
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fanout").finish_non_exhaustive()
    }
}

/// The subscribers, by id and by the VMs that they want.
#[derive(Default)]
struct Subscribers {
    by_id: BTreeMap<u64, Subscriber>,
    /// Those that want events of every VM.
    of_all: BTreeSet<u64>,
    /// Those that want events of a VM, by its uuid or zonename.
    of_vm: HashMap<String, BTreeSet<u64>>,
    /// When to check whether a heartbeat is due, and for which subscriber.
    heartbeats: BTreeSet<(Instant, u64)>,
}

impl Fanout {
    /// A fan-out of the hub's events.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        poller: Arc<Poller>,
        limits: HttpLimits,
        stop: Stop,
    ) -> Self {
        let woken = Arc::clone(&hub);
        stop.on_set(move || woken.wake());
        Self {
            hub,
            poller,
            limits,
            inbox: Mutex::default(),
            stop,
            looks: AtomicU64::new(0),
            queued: AtomicU64::new(0),
        }
    }

    /// How many subscribers were checked for an event, and how many event lines
    /// were queued for subscribers, both since the start.
    #[must_use]
    pub fn work(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.looks), load(&self.queued))
    }

    fn send(&self, message: Message) {
        self.inbox.lock().push(message);
        self.hub.wake();
    }

    /// Hands a new subscriber to the thread. Its first lines are queued
    /// already.
    pub fn join(&self, subscriber: Subscriber) {
        self.send(Message::Join(Box::new(subscriber)));
    }

    /// Writes events until it is stopped, then ends each stream with its last
    /// chunk.
    pub fn run(self: &Arc<Self>) {
        let mut subscribers = Subscribers::default();
        let mut has_more = false;
        while !self.stop.is_set() {
            if !has_more {
                let next = subscribers.heartbeats.first().map(|(at, _)| *at);
                let latest = Instant::now() + WAIT_MAX;
                self.hub.wait(next.map_or(latest, |next| next.min(latest)));
            }
            // Events and messages take turns. Otherwise a steady flow of events
            // would keep new subscribers out.
            has_more = self.dispatch(&mut subscribers);
            let messages = std::mem::take(&mut *self.inbox.lock());
            for message in messages {
                match message {
                    Message::Join(subscriber) => {
                        self.welcome(&mut subscribers, *subscriber);
                    }
                    Message::Ready(id, why) => {
                        self.handle_ready(&mut subscribers, id, why);
                    }
                }
            }
            self.send_heartbeats(&mut subscribers);
        }
        let late = std::mem::take(&mut *self.inbox.lock());
        let late = late.into_iter().filter_map(|message| match message {
            Message::Join(subscriber) => Some(*subscriber),
            Message::Ready(..) => None,
        });
        subscribers.by_id.into_values().chain(late).for_each(Subscriber::end);
    }

    /// Takes the next events from the hub and writes them to their subscribers;
    /// `false` if there are none.
    fn dispatch(self: &Arc<Self>, subscribers: &mut Subscribers) -> bool {
        let Some(lines) = self.hub.hand_out(LINES_MAX) else {
            // The hub has dropped lines that no subscriber has got yet.
            let ids: Vec<_> = subscribers.by_id.keys().copied().collect();
            for id in ids {
                let why = "it missed events, which came faster than they \
                           could be sent"
                    .to_string();
                self.remove_subscriber(
                    subscribers,
                    id,
                    &EndReason::Behind(why),
                );
            }
            return true;
        };
        let mut touched = BTreeSet::new();
        for line in &lines {
            let mut event = SharedEvent::new(line);
            let ids = subscribers.of(line);
            self.looks.fetch_add(ids.len() as u64, Ordering::Relaxed);
            for id in ids {
                let Some(subscriber) = subscribers.by_id.get_mut(&id) else {
                    continue;
                };
                // A new subscriber may have this event in its snapshot.
                if line.seq <= subscriber.seq {
                    continue;
                }
                let Some(wanted) = event.to(&subscriber.wanted) else {
                    continue;
                };
                self.queued.fetch_add(1, Ordering::Relaxed);
                match subscriber.push(OutgoingLine::Event(wanted), &self.limits)
                {
                    Ok(()) => {
                        touched.insert(id);
                    }
                    Err(over) => self.remove_subscriber(subscribers, id, &over),
                }
            }
        }
        for id in touched {
            self.write(subscribers, id);
        }
        self.keep_within_bounds(subscribers);
        !lines.is_empty()
    }

    /// All lines that are held for subscribers have a common limit, too. While
    /// they are over it, the subscriber with the most waiting bytes is cut off.
    fn keep_within_bounds(&self, subscribers: &mut Subscribers) {
        while self.hub.held() > self.limits.held_bytes {
            let waiting = subscribers
                .by_id
                .iter()
                .map(|(id, subscriber)| (subscriber.waiting_bytes(), *id));
            let Some((bytes @ 1.., id)) = waiting.max() else { return };
            let why = format!(
                "{bytes} bytes wait for it, the most of all subscribers, and \
                 over {} bytes of events are held (setting held-bytes)",
                self.limits.held_bytes
            );
            self.remove_subscriber(subscribers, id, &EndReason::Behind(why));
        }
    }

    fn welcome(
        self: &Arc<Self>,
        subscribers: &mut Subscribers,
        mut subscriber: Subscriber,
    ) {
        let id = subscriber.id;
        let (seq, missed) = self.hub.join(id, subscriber.seq);
        let is_whole = missed.is_some();
        for line in missed.into_iter().flatten() {
            if let Some(wanted) = SharedEvent::new(&line).to(&subscriber.wanted)
            {
                self.queued.fetch_add(1, Ordering::Relaxed);
                subscriber.push_uncounted(OutgoingLine::Event(wanted));
            }
        }
        subscriber.seq = subscriber.seq.max(seq);
        if let Some(every) = subscriber.wanted.heartbeat {
            let at = Instant::now() + every;
            subscriber.heartbeat_at = Some(at);
            subscribers.heartbeats.insert((at, id));
        }
        match &subscriber.wanted.vms[..] {
            [] => {
                subscribers.of_all.insert(id);
            }
            vms => {
                for vm in vms {
                    let of_vm = subscribers.of_vm.entry(vm.clone());
                    of_vm.or_default().insert(id);
                }
            }
        }
        self.park(&mut subscriber);
        subscribers.by_id.insert(id, subscriber);
        if is_whole {
            self.write(subscribers, id);
        } else {
            let why = "it missed events, which came faster than they could \
                       be sent"
                .to_string();
            self.remove_subscriber(subscribers, id, &EndReason::Behind(why));
        }
    }

    /// Serves a subscriber whose socket is ready or has failed, and cuts it off
    /// if it has taken nothing for too long.
    fn handle_ready(
        self: &Arc<Self>,
        subscribers: &mut Subscribers,
        id: u64,
        why: WakeReason,
    ) {
        let Some(subscriber) = subscribers.by_id.get_mut(&id) else { return };
        let stall = self.limits.write_stall_time;
        let over = match (why, subscriber.blocked) {
            (WakeReason::Late, Some(since)) if since.elapsed() >= stall => {
                Err(EndReason::Behind(format!(
                    "it has read nothing for {stall:?} (setting \
                     write-stall-time)"
                )))
            }
            _ => subscriber.read(),
        };
        if let Err(over) = over {
            return self.remove_subscriber(subscribers, id, &over);
        }
        subscriber.key = None;
        self.write(subscribers, id);
        if let Some(subscriber) = subscribers.by_id.get_mut(&id)
            && subscriber.key.is_none()
        {
            self.park(subscriber);
        }
    }

    fn write(self: &Arc<Self>, subscribers: &mut Subscribers, id: u64) {
        let Some(subscriber) = subscribers.by_id.get_mut(&id) else { return };
        let was_blocked = subscriber.blocked;
        if let Err(over) = subscriber.write() {
            return self.remove_subscriber(subscribers, id, &over);
        }
        let is_other = was_blocked != subscriber.blocked;
        if let Some(key) = subscriber.key.filter(|_| is_other) {
            let (wants, until) = self.waits_for(subscriber);
            self.poller.change(key, wants, until);
        }
    }

    /// Lets the poller watch a subscriber's socket.
    fn park(self: &Arc<Self>, subscriber: &mut Subscriber) {
        let (id, key) = (subscriber.id, self.poller.key());
        let (wants, until) = self.waits_for(subscriber);
        let socket = Arc::clone(&subscriber.stream.socket);
        subscriber.key = Some(key);
        let fanout = Arc::clone(self);
        let then = Box::new(move |why| fanout.send(Message::Ready(id, why)));
        self.poller.park(key, socket, wants, until, then);
    }

    fn waits_for(
        &self,
        subscriber: &Subscriber,
    ) -> (Interest, Option<Instant>) {
        let stall = self.limits.write_stall_time;
        let write = subscriber.blocked.is_some();
        let until = subscriber.blocked.map(|since| since + stall);
        (Interest { read: true, write }, until)
    }

    fn send_heartbeats(self: &Arc<Self>, to: &mut Subscribers) {
        let now = Instant::now();
        while let Some((at, id)) = to.heartbeats.first().copied()
            && at <= now
        {
            to.heartbeats.remove(&(at, id));
            let Some(subscriber) = to.by_id.get_mut(&id) else { continue };
            let Some(every) = subscriber.wanted.heartbeat else { continue };
            if subscriber.is_idle() && subscriber.last_sent + every <= now {
                let line = heartbeat(self.hub.handed_out());
                let bytes = subscriber.framed(&line);
                let item = OutgoingLine::Text(self.hub.text(bytes));
                subscriber.push_uncounted(item);
                subscriber.last_sent = now;
                subscriber.heartbeat_at = Some(now + every);
                to.heartbeats.insert((now + every, id));
                self.write(to, id);
            } else {
                // Something has been queued for it since, or still waits.
                let next = (subscriber.last_sent + every).max(now + every / 2);
                subscriber.heartbeat_at = Some(next);
                to.heartbeats.insert((next, id));
            }
        }
    }

    fn remove_subscriber(
        &self,
        subscribers: &mut Subscribers,
        id: u64,
        over: &EndReason,
    ) {
        let Some(subscriber) = subscribers.remove(id) else { return };
        self.hub.unsubscribe(id);
        let agent = subscriber.agent.as_deref().unwrap_or("-");
        match over {
            EndReason::Gone => {
                log::debug!("subscriber has disconnected: {agent}");
            }
            EndReason::Behind(why) => {
                self.hub.count_cut_off();
                log::warn!("subscriber is cut off: {agent}: {why}");
            }
        }
        let _ = subscriber.stream.socket.shutdown(Shutdown::Both);
        if let Some(key) = subscriber.key {
            self.poller.fire(key);
        }
    }
}

impl Subscribers {
    /// The ids of the subscribers that may want an event.
    fn of(&self, line: &EventLine) -> Vec<u64> {
        let about = &line.about;
        let of_vm = |name: &str| self.of_vm.get(name).into_iter().flatten();
        let mut ids: Vec<_> = self.of_all.iter().copied().collect();
        ids.extend(of_vm(&about.uuid));
        if about.zonename != about.uuid {
            ids.extend(of_vm(&about.zonename));
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    fn remove(&mut self, id: u64) -> Option<Subscriber> {
        let subscriber = self.by_id.remove(&id)?;
        self.of_all.remove(&id);
        if let Some(at) = subscriber.heartbeat_at {
            self.heartbeats.remove(&(at, id));
        }
        for vm in &subscriber.wanted.vms {
            if let Some(of_vm) = self.of_vm.get_mut(vm) {
                of_vm.remove(&id);
                if of_vm.is_empty() {
                    self.of_vm.remove(vm);
                }
            }
        }
        Some(subscriber)
    }
}

fn heartbeat(seq: u64) -> Vec<u8> {
    let mut line = b"{\"type\":\"heartbeat\",\"date\":".to_vec();
    write_string(&date_text(SystemTime::now()), &mut line);
    line.extend_from_slice(format!(",\"seq\":{seq}}}\n").as_bytes());
    line
}
