//! What the demo server knows: the one stream that every transport shows, who is there, what was received,
//! and which fault it is asked to play.
//!
//! Owns: cursors and the bounded history ([`History`]), a place in it ([`Reader`]), the log of what the
//! application received, rooms, ids already seen, and the switches for faults ([`Hub`]). Does not own: any
//! transport (`super` speaks HTTP, `super::conversation` speaks WebSocket).
//!
//! Nobody has a queue of their own. A published message is stored once and every reader pulls it from there, so
//! a slow reader costs nothing until the history moves past it; then it is told so and leaves.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::ws::Utf8Bytes;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

/// How many names of clients the server keeps subscriptions for; later ones share the unnamed client's.
const REMEMBERED_CLIENTS: usize = 4096;
/// How many subscriptions it keeps for one name; the unnamed client's are those of everybody without a name.
const REMEMBERED_TOPICS: usize = 10_000;
/// How many message ids are remembered to recognise doubles.
const SEEN_IDS: usize = 10_000;

/// How much the server keeps. The defaults let a burst of 100 000 messages pass before anybody is too slow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages that a resume can reach back.
    pub history_messages: usize,
    /// Bytes of text in them.
    pub history_bytes: usize,
    /// Received messages that the oracle can still show.
    pub log_messages: usize,
    /// Bytes of payload in them.
    pub log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history_messages: 100_000,
            history_bytes: 64 * 1024 * 1024,
            log_messages: 100_000,
            log_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Whom a message of the stream concerns. Written `*`, `channel:NAME`, `task:ID`, `room:NAME`, `user:ID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Topic {
    /// Every client, subscribed or not.
    Everyone,
    /// Subscribers of a channel.
    Channel(String),
    /// Subscribers of a task.
    Task(String),
    /// Who is in a room.
    Room(String),
    /// One user, by the id they gave.
    User(String),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("*"),
            Self::Channel(name) => write!(f, "channel:{name}"),
            Self::Task(id) => write!(f, "task:{id}"),
            Self::Room(name) => write!(f, "room:{name}"),
            Self::User(id) => write!(f, "user:{id}"),
        }
    }
}

/// Text that names no topic.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a topic is \"*\", or \"channel:\", \"task:\", \"room:\" or \"user:\" and a name of 1 to 200 bytes")]
pub struct NotATopic;

impl FromStr for Topic {
    type Err = NotATopic;

    fn from_str(text: &str) -> Result<Self, NotATopic> {
        if text == "*" {
            return Ok(Self::Everyone);
        }
        let (kind, name) = text.split_once(':').ok_or(NotATopic)?;
        let name = Some(name).filter(|name| is_name(name)).ok_or(NotATopic)?.to_owned();
        match kind {
            "channel" => Ok(Self::Channel(name)),
            "task" => Ok(Self::Task(name)),
            "room" => Ok(Self::Room(name)),
            "user" => Ok(Self::User(name)),
            _ => Err(NotATopic),
        }
    }
}

impl TryFrom<String> for Topic {
    type Error = NotATopic;

    fn try_from(text: String) -> Result<Self, NotATopic> {
        text.parse()
    }
}

/// Whether `name` may name a topic, a user or a client.
pub(super) fn is_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
}

/// Milliseconds since the Unix epoch, as every message of the server gives its time.
pub(super) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Who gets to see an entry besides subscribers of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Kept, replayed, shown on every transport.
    Kept,
    /// Of the moment (typing, presence): only for WebSockets that are there, and not for its author.
    Passing { author: u64 },
}

#[derive(Debug)]
struct Entry {
    cursor: u64,
    topic: Topic,
    life: Life,
    text: Utf8Bytes,
}

/// A message of the stream, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) cursor: u64,
    pub(super) topic: Topic,
    pub(super) text: Utf8Bytes,
}

/// A cursor from which the stream cannot go on without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) requested: u64,
    /// The oldest message still kept; behind `head` if there is none.
    pub(super) oldest: u64,
    pub(super) head: u64,
}

impl Lost {
    /// A stable word for the two ways to be lost.
    pub(super) fn reason(self) -> &'static str {
        if self.requested > self.head { "unknown-cursor" } else { "too-old" }
    }

    /// How the stream itself says so. No member is called `cursor`: it would be taken for a place to resume from.
    pub(super) fn message(self) -> serde_json::Value {
        serde_json::json!({
            "type": "resume_failed", "reason": self.reason(), "requested": self.requested,
            "oldest": self.oldest, "head": self.head,
        })
    }
}

/// The messages that can still be replayed. Cursors have no holes, so that a place is found by subtraction.
#[derive(Debug)]
pub(super) struct History {
    beginning: u64,
    head: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    limits: Limits,
}

impl History {
    /// An empty history whose first cursor is `beginning + 1`.
    fn new(beginning: u64, limits: Limits) -> Self {
        Self { beginning, head: beginning, entries: VecDeque::new(), bytes: 0, limits }
    }

    fn oldest(&self) -> u64 {
        self.entries.front().map_or(self.head + 1, |entry| entry.cursor)
    }

    /// Adds `json`, which must be a valid JSON text, and drops what no longer fits.
    fn push(&mut self, topic: Topic, life: Life, json: &str) -> u64 {
        self.head += 1;
        let text = Utf8Bytes::from(with_cursor(json, self.head));
        self.bytes += text.len();
        self.entries.push_back(Entry { cursor: self.head, topic, life, text });
        while self.entries.len() > 1
            && (self.entries.len() > self.limits.history_messages || self.bytes > self.limits.history_bytes)
        {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.text.len());
        }
        self.head
    }

    /// Checks that everything after `cursor` is still here; 0 stands for the very beginning.
    fn place(&self, cursor: u64) -> Result<u64, Lost> {
        let place = if cursor == 0 { self.beginning } else { cursor };
        if place + 1 < self.oldest() || place > self.head {
            return Err(Lost { requested: cursor, oldest: self.oldest(), head: self.head });
        }
        Ok(place)
    }

    fn after(&self, cursor: u64) -> impl Iterator<Item = &Entry> {
        let skipped = (cursor + 1).saturating_sub(self.oldest());
        self.entries.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }
}

/// Puts the cursor into an object, as its last member so that it wins over one of the same name, and anything
/// else into an envelope. Works on the text: numbers, key order and escapes stay as they were published.
fn with_cursor(json: &str, cursor: u64) -> String {
    let json = json.trim();
    match json.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(members) if members.trim().is_empty() => format!(r#"{{"cursor":{cursor}}}"#),
        Some(members) => format!(r#"{{{members},"cursor":{cursor}}}"#),
        None => format!(r#"{{"type":"message","data":{json},"cursor":{cursor}}}"#),
    }
}

/// A reader that the history has moved past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overtaken;

/// How much one look into the history may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portion {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// A place in the stream, and what is wanted from there on.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    /// `None`: everything but what is addressed to single users.
    topics: Option<BTreeSet<Topic>>,
    position: u64,
    /// Who reads, and since when it is there to see [`Life::Passing`] entries; `None` never sees them.
    present: Option<(u64, u64)>,
}

impl Reader {
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn topics(&mut self) -> &mut BTreeSet<Topic> {
        self.topics.get_or_insert_default()
    }

    fn wants(&self, entry: &Entry) -> bool {
        let addressed = match (&entry.topic, &self.topics) {
            (Topic::Everyone, _) => true,
            (Topic::User(_), None) => false,
            (_, None) => true,
            (topic, Some(topics)) => topics.contains(topic),
        };
        let alive = match (entry.life, self.present) {
            (Life::Kept, _) => true,
            (Life::Passing { author }, Some((id, since))) => author != id && entry.cursor > since,
            (Life::Passing { .. }, None) => false,
        };
        addressed && alive
    }

    fn take(&mut self, history: &History, portion: Portion) -> Result<Vec<Delivery>, Overtaken> {
        if self.position + 1 < history.oldest() {
            return Err(Overtaken);
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in history.after(self.position) {
            if self.wants(entry) {
                bytes += entry.text.len();
                if taken.len() == portion.messages || (bytes > portion.bytes && !taken.is_empty()) {
                    return Ok(taken);
                }
                taken.push(Delivery { cursor: entry.cursor, topic: entry.topic.clone(), text: entry.text.clone() });
            }
            self.position = entry.cursor;
        }
        Ok(taken)
    }
}

/// What a client's application message carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Payload {
    Text(Utf8Bytes),
    Binary(Bytes),
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(data) => data.len(),
        }
    }
}

/// One message that the server's application took from a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Counts all received messages from 1, over all connections.
    pub number: u64,
    /// The connection it came from; they are numbered from 1 in the order of their upgrades.
    pub connection: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub(super) payload: Payload,
}

impl Received {
    /// The text, exactly as it was sent, if it was a text frame.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.payload {
            Payload::Text(text) => Some(text),
            Payload::Binary(_) => None,
        }
    }

    /// The bytes, if it was a binary frame.
    #[must_use]
    pub fn binary(&self) -> Option<&[u8]> {
        match &self.payload {
            Payload::Text(_) => None,
            Payload::Binary(data) => Some(data),
        }
    }
}

/// Totals since the server was bound, and who is connected now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// WebSockets that are open now.
    pub connections: u64,
    /// Event streams (SSE) that are open now.
    pub event_streams: u64,
    /// WebSockets that were ever opened.
    pub accepted: u64,
    /// Upgrades that were answered with a status on request, or for a bad token.
    pub upgrades_refused: u64,
    /// TCP connections that were closed at once while refusing.
    pub connections_refused: u64,
    /// Text messages that the application took.
    pub texts: u64,
    /// Binary messages that the application took.
    pub binaries: u64,
    /// Payload bytes in both.
    pub bytes: u64,
    /// Messages with an id that had been taken before, and so were not passed on again.
    pub duplicates: u64,
    /// Clients that were dropped because the history moved past them.
    pub too_slow: u64,
}

/// Received messages, newest kept.
#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Received>,
    bytes: usize,
    last: u64,
}

impl Log {
    fn push(&mut self, connection: u64, payload: Payload, limits: Limits) {
        self.last += 1;
        self.bytes += payload.len();
        self.entries.push_back(Received { number: self.last, connection, at_ms: now_ms(), payload });
        while self.entries.len() > 1 && (self.entries.len() > limits.log_messages || self.bytes > limits.log_bytes) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.payload.len());
        }
    }
}

/// Ids already taken, oldest forgotten first.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl Seen {
    fn first_time(&mut self, sender: &str, id: &str) -> bool {
        let key = (sender.to_owned(), id.to_owned());
        if !self.ids.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// How upgrades are answered instead of with 101.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UpgradeAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
}

/// What all current clients are told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Let the socket go, without a word.
    Drop,
    /// Close it as the protocol asks.
    Close { code: u16, reason: String },
}

#[derive(Debug)]
struct State {
    history: History,
    log: Log,
    seen: Seen,
    /// Room → connection → user.
    rooms: BTreeMap<String, BTreeMap<u64, String>>,
    /// Client's name → what it subscribed to; the empty name stands for all who gave none.
    remembered: BTreeMap<String, BTreeSet<Topic>>,
    generators: BTreeSet<Topic>,
    refuse_until: Option<Instant>,
    upgrade_answer: Option<UpgradeAnswer>,
    last_connection: u64,
}

impl State {
    /// The name under which a client's subscriptions are kept: its own while there is room for names.
    fn known_as<'a>(&self, client: &'a str) -> &'a str {
        let has_room = self.remembered.len() < REMEMBERED_CLIENTS;
        if has_room || self.remembered.contains_key(client) { client } else { "" }
    }
}

/// Everything the parts of the server share. No method waits while it holds the lock.
#[derive(Debug)]
pub(super) struct Hub {
    limits: Limits,
    state: Mutex<State>,
    head: watch::Sender<u64>,
    counts: watch::Sender<Counts>,
    silent: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    orders: broadcast::Sender<Order>,
}

impl Hub {
    pub(super) fn new(limits: Limits) -> Self {
        // Cursors start at the time in microseconds, so that one from an earlier run of the server is known to be
        // too old instead of being taken for one of this run. They stay exact in JavaScript until the year 2255.
        let beginning = now_ms() * 1000;
        let state = State {
            history: History::new(beginning, limits),
            log: Log::default(),
            seen: Seen::default(),
            rooms: BTreeMap::new(),
            remembered: BTreeMap::new(),
            generators: BTreeSet::new(),
            refuse_until: None,
            upgrade_answer: None,
            last_connection: 0,
        };
        Self {
            limits,
            state: Mutex::new(state),
            head: watch::Sender::new(beginning),
            counts: watch::Sender::default(),
            silent: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            orders: broadcast::Sender::new(16),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so that a poisoned state is still a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The stream.

    /// Adds a message, given as a valid JSON text, and returns its cursor.
    pub(super) fn publish(&self, topic: Topic, json: &str) -> u64 {
        self.push(topic, Life::Kept, json)
    }

    /// Shows a message to those who are there now, except to the connection it comes from.
    pub(super) fn pass(&self, topic: Topic, author: u64, json: &str) {
        self.push(topic, Life::Passing { author }, json);
    }

    fn push(&self, topic: Topic, life: Life, json: &str) -> u64 {
        // The head is told under the lock: two publishers must not tell theirs in the wrong order.
        let mut state = self.state();
        let cursor = state.history.push(topic, life, json);
        self.head.send_replace(cursor);
        cursor
    }

    /// The cursor of the newest message.
    pub(super) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// The head, to wait for its changes.
    pub(super) fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// A reader for connection `id`, which subscribes to topics one by one and starts with what comes next.
    pub(super) fn reader_from_now(&self, id: u64) -> Reader {
        let head = self.state().history.head;
        Reader { topics: Some(BTreeSet::new()), position: head, present: Some((id, head)) }
    }

    /// A reader for a request: `topics` (or all of them) after `cursor` (or from the oldest message kept).
    pub(super) fn reader_after(&self, topics: Option<BTreeSet<Topic>>, cursor: Option<u64>) -> Result<Reader, Lost> {
        let state = self.state();
        let position = match cursor {
            Some(cursor) => state.history.place(cursor)?,
            None => state.history.oldest() - 1,
        };
        Ok(Reader { topics, position, present: None })
    }

    /// Moves a connection's reader back to `cursor` and gives it what its client had subscribed to: the client
    /// cannot repeat its subscriptions before it resumes without missing what is published in between.
    /// Returns the head up to which this is a replay.
    pub(super) fn resume(&self, reader: &mut Reader, client: &str, cursor: u64) -> Result<u64, Lost> {
        let state = self.state();
        reader.position = state.history.place(cursor)?;
        reader.present = reader.present.map(|(id, _)| (id, state.history.head));
        if let Some(topics) = state.remembered.get(state.known_as(client)) {
            reader.topics().extend(topics.iter().cloned());
        }
        Ok(state.history.head)
    }

    /// The next messages for `reader`.
    pub(super) fn read(&self, reader: &mut Reader, portion: Portion) -> Result<Vec<Delivery>, Overtaken> {
        reader.take(&self.state().history, portion)
    }

    /// Returns when the history has moved past `position`.
    pub(super) async fn overtaken(&self, position: u64) {
        let mut head = self.head.subscribe();
        while self.state().history.oldest() <= position + 1 {
            // Cannot fail: the sender lives in `self`.
            let _ = head.changed().await;
        }
    }

    /// Keeps a subscription for a later resume; false if the client has too many.
    pub(super) fn remember(&self, client: &str, topic: Topic) -> bool {
        let mut state = self.state();
        let name = state.known_as(client).to_owned();
        if name.is_empty() && matches!(topic, Topic::User(_)) {
            // Clients without a name share what is kept, and nobody else's direct messages are to be shared.
            return true;
        }
        let topics = state.remembered.entry(name).or_default();
        if topics.len() >= REMEMBERED_TOPICS && !topics.contains(&topic) {
            return false;
        }
        topics.insert(topic);
        true
    }

    /// Forgets a subscription. Those of clients without a name stay: another one may still count on them.
    pub(super) fn forget(&self, client: &str, topic: &Topic) {
        if !client.is_empty()
            && let Some(topics) = self.state().remembered.get_mut(client)
        {
            topics.remove(topic);
        }
    }

    // Who is there.

    /// Enters a room and returns the users in it, in order. The others see a new user come online.
    pub(super) fn enter(&self, room: &str, connection: u64, user: &str) -> Vec<String> {
        let mut state = self.state();
        let members = state.rooms.entry(room.to_owned()).or_default();
        let news = !members.values().any(|member| member == user);
        members.insert(connection, user.to_owned());
        let users: BTreeSet<_> = members.values().cloned().collect();
        drop(state);
        if news {
            self.announce("user_online", room, connection, user);
        }
        users.into_iter().collect()
    }

    /// Leaves a room; the others see the user go when this was their last connection in it.
    pub(super) fn leave(&self, room: &str, connection: u64) {
        let mut state = self.state();
        let Some(members) = state.rooms.get_mut(room) else { return };
        let Some(user) = members.remove(&connection) else { return };
        let gone = !members.values().any(|member| *member == user);
        if members.is_empty() {
            state.rooms.remove(room);
        }
        drop(state);
        if gone {
            self.announce("user_offline", room, connection, &user);
        }
    }

    fn announce(&self, kind: &str, room: &str, connection: u64, user: &str) {
        let news = serde_json::json!({ "type": kind, "room": room, "userId": user, "timestamp": now_ms() });
        self.pass(Topic::Room(room.to_owned()), connection, &news.to_string());
    }

    /// Whether the connection has entered the room.
    pub(super) fn is_in(&self, room: &str, connection: u64) -> bool {
        self.state().rooms.get(room).is_some_and(|members| members.contains_key(&connection))
    }

    /// Numbers a new WebSocket.
    pub(super) fn arrive(&self) -> u64 {
        let mut state = self.state();
        state.last_connection += 1;
        self.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.connections += 1;
        });
        state.last_connection
    }

    /// Forgets a WebSocket, its rooms included.
    pub(super) fn depart(&self, connection: u64) {
        let rooms: Vec<_> = {
            let state = self.state();
            let entered = state.rooms.iter().filter(|(_, members)| members.contains_key(&connection));
            entered.map(|(room, _)| room.clone()).collect()
        };
        for room in rooms {
            self.leave(&room, connection);
        }
        self.count(|counts| counts.connections -= 1);
    }

    /// Marks `topic` as fed by a generator; false if it is already, or if `most` of them run.
    pub(super) fn start_generator(&self, topic: &Topic, most: usize) -> bool {
        let mut state = self.state();
        state.generators.len() < most && state.generators.insert(topic.clone())
    }

    pub(super) fn end_generator(&self, topic: &Topic) {
        self.state().generators.remove(topic);
    }

    // The oracle.

    /// Notes that the application took a message.
    pub(super) fn record(&self, connection: u64, payload: Payload) {
        let bytes = payload.len() as u64;
        let is_text = matches!(payload, Payload::Text(_));
        self.state().log.push(connection, payload, self.limits);
        self.count(|counts| {
            counts.bytes += bytes;
            *if is_text { &mut counts.texts } else { &mut counts.binaries } += 1;
        });
    }

    /// Whether `sender` gives this id for the first time.
    pub(super) fn first_time(&self, sender: &str, id: &str) -> bool {
        let first = self.state().seen.first_time(sender, id);
        if !first {
            self.count(|counts| counts.duplicates += 1);
        }
        first
    }

    /// What was received after the message with this number and is still kept.
    pub(super) fn received(&self, after: u64) -> Vec<Received> {
        let state = self.state();
        state.log.entries.iter().filter(|entry| entry.number > after).cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    /// Waits until the counts satisfy `condition`, and returns them.
    pub(super) async fn until(&self, mut condition: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        loop {
            let now = *counts.borrow_and_update();
            if condition(&now) {
                return now;
            }
            // Cannot fail: the sender lives in `self`.
            let _ = counts.changed().await;
        }
    }

    // Faults.

    /// The orders given from now on.
    pub(super) fn orders(&self) -> broadcast::Receiver<Order> {
        self.orders.subscribe()
    }

    /// Gives an order to all current clients; there may be none.
    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    pub(super) fn refuse_for(&self, time: Duration) {
        self.state().refuse_until = Instant::now().checked_add(time);
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.state().refuse_until.is_some_and(|end| Instant::now() < end)
    }

    pub(super) fn answer_upgrades_with(&self, answer: Option<UpgradeAnswer>) {
        self.state().upgrade_answer = answer;
    }

    pub(super) fn upgrade_answer(&self) -> Option<UpgradeAnswer> {
        self.state().upgrade_answer
    }

    pub(super) fn go_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// Drives `work` except while the server is silent: then it is not polled, so that it neither reads nor writes.
    pub(super) async fn unless_silent<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.silence(false).await;
            tokio::select! {
                biased;
                () = self.silence(true) => {}
                result = &mut work => return result,
            }
        }
    }

    /// Returns when silence has begun, or ended.
    pub(super) async fn silence(&self, wanted: bool) {
        // Cannot fail: the sender lives in `self`.
        let _ = self.silent.subscribe().wait_for(|silent| *silent == wanted).await;
    }

    /// Begins the end: no new clients, generators stop.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns when [`Hub::stop`] was called.
    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender lives in `self`.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

/// Takes the next order; a client that fell behind on orders is let go.
pub(super) async fn next_order(orders: &mut broadcast::Receiver<Order>) -> Order {
    orders.recv().await.unwrap_or(Order::Drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Portion = Portion { messages: usize::MAX, bytes: usize::MAX };

    fn history_of(count: usize, limits: Limits) -> History {
        let mut history = History::new(100, limits);
        for number in 0..count {
            history.push(Topic::Everyone, Life::Kept, &number.to_string());
        }
        history
    }

    #[test]
    fn the_cursor_is_added_without_touching_the_rest_of_the_text() {
        assert_eq!(
            with_cursor(r#" {"n": 12345678901234567890.10, "n":1} "#, 7),
            r#"{"n": 12345678901234567890.10, "n":1,"cursor":7}"#
        );
        assert_eq!(with_cursor("{ }", 7), r#"{"cursor":7}"#);
        assert_eq!(with_cursor(r#""}{""#, 7), r#"{"type":"message","data":"}{","cursor":7}"#);
    }

    #[test]
    fn a_topic_reads_as_it_is_written() {
        for text in ["*", "channel:updates", "task:a:b", "room:r", "user:ann"] {
            assert_eq!(text.parse::<Topic>().unwrap().to_string(), text);
        }
        for text in ["", "updates", "channel:", "planet:mars"] {
            assert_eq!(text.parse::<Topic>(), Err(NotATopic), "{text}");
        }
    }

    #[test]
    fn a_history_gives_up_its_oldest_messages_first_and_says_which_cursors_are_lost() {
        let history = history_of(5, Limits { history_messages: 3, ..Limits::default() });
        assert_eq!(history.oldest(), 103);
        assert_eq!(history.place(102), Ok(102));
        assert_eq!(history.place(105), Ok(105));
        assert_eq!(history.place(101).unwrap_err().reason(), "too-old");
        assert_eq!(history.place(0).unwrap_err().reason(), "too-old");
        assert_eq!(history.place(106).unwrap_err().reason(), "unknown-cursor");
        assert_eq!(history.after(103).map(|entry| entry.cursor).collect::<Vec<_>>(), [104, 105]);
    }

    #[test]
    fn a_history_is_bounded_in_bytes_but_always_keeps_the_newest_message() {
        let mut history = history_of(3, Limits { history_bytes: 10, ..Limits::default() });
        assert_eq!(history.entries.len(), 1);
        history.push(Topic::Everyone, Life::Kept, "\"large enough to be over the limit alone\"");
        assert_eq!(history.oldest(), history.head);
    }

    #[test]
    fn a_reader_takes_portions_and_is_told_when_it_was_overtaken() {
        let history = history_of(5, Limits { history_messages: 3, ..Limits::default() });
        let mut reader = Reader { topics: None, position: 102, present: None };
        let portion = Portion { messages: 2, bytes: usize::MAX };
        let taken = reader.take(&history, portion).unwrap();
        assert_eq!(taken.iter().map(|delivery| delivery.cursor).collect::<Vec<_>>(), [103, 104]);
        assert_eq!(reader.take(&history, portion).unwrap().len(), 1);
        assert_eq!(reader.take(&history, portion).unwrap(), []);
        reader.position = 101;
        assert_eq!(reader.take(&history, portion), Err(Overtaken));
    }

    #[test]
    fn what_is_of_the_moment_reaches_only_others_who_are_there() {
        let mut history = History::new(100, Limits::default());
        let room = Topic::Room("r".into());
        history.push(room.clone(), Life::Passing { author: 1 }, "{}");
        let take = |present| {
            let topics = Some(BTreeSet::from([room.clone()]));
            Reader { topics, position: 100, present }.take(&history, ALL).unwrap().len()
        };
        assert_eq!(take(Some((2, 100))), 1, "somebody who is there");
        assert_eq!(take(Some((1, 100))), 0, "its author");
        assert_eq!(take(Some((2, 101))), 0, "somebody who came later and reads a replay");
        assert_eq!(take(None), 0, "a poll");
    }

    #[test]
    fn a_resume_brings_back_the_subscriptions_of_its_client_alone() {
        let hub = Hub::new(Limits::default());
        assert!(hub.remember("a", Topic::Task("1".into())));
        assert!(hub.remember("b", Topic::Task("2".into())));
        let beginning = hub.head();
        hub.publish(Topic::Task("1".into()), r#"{"n":1}"#);
        hub.publish(Topic::Task("2".into()), r#"{"n":2}"#);
        let mut reader = hub.reader_from_now(9);
        assert_eq!(hub.resume(&mut reader, "a", beginning), Ok(beginning + 2));
        assert_eq!(hub.read(&mut reader, ALL).unwrap().len(), 1);
        assert!(hub.remember("", Topic::User("ann".into())));
        hub.publish(Topic::User("ann".into()), "{}");
        let mut reader = hub.reader_from_now(10);
        hub.resume(&mut reader, "", beginning).unwrap();
        assert_eq!(hub.read(&mut reader, ALL).unwrap(), [], "what is for one user is not for all without a name");
        hub.forget("a", &Topic::Task("1".into()));
        let mut reader = hub.reader_from_now(10);
        hub.resume(&mut reader, "a", beginning).unwrap();
        assert_eq!(hub.read(&mut reader, ALL).unwrap(), []);
    }

    #[test]
    fn the_log_of_received_messages_is_bounded_and_keeps_their_numbers() {
        let hub = Hub::new(Limits { log_messages: 2, ..Limits::default() });
        for text in ["a", "b", "c"] {
            hub.record(1, Payload::Text(text.into()));
        }
        let kept: Vec<_> =
            hub.received(0).iter().map(|entry| (entry.number, entry.text().unwrap().to_owned())).collect();
        assert_eq!(kept, [(2, "b".to_owned()), (3, "c".to_owned())]);
        assert_eq!(hub.counts().texts, 3);
        assert_eq!(hub.received(2).len(), 1);
    }
}
