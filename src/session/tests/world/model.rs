//! What must come out of a session, from what went in: the protocol once more, in the simplest words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::wire::Opened;

const INBOX_BYTES: usize = 16 << 20;
const ENTRY_BYTES: usize = 64;
const QUEUE_BYTES: usize = 64 << 20;
const PONG_TIME: Duration = Duration::from_secs(10);
const OVERDUE_TIME: Duration = Duration::from_secs(10);
const LINGER_TIME: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Closed,
    Dialling,
    Open,
    Waiting,
    Parked,
}

/// One number of the stream.
#[derive(Debug)]
pub(super) enum Slot {
    Message { at: u64, body: Body },
    Outage { since: u64, until: u64 },
}

/// A port that reads.
#[derive(Debug)]
struct Reader {
    consumer: &'static str,
    auto: bool,
    text: bool,
    head_at_open: u64,
    delivered: u64,
    in_flight: VecDeque<(u64, usize)>,
    /// Since when something waits though it does not move, and whether that was told.
    stuck: Option<(Duration, bool)>,
    state: Option<State>,
}

/// What was dropped for want of room.
#[derive(Debug)]
struct Dropped {
    first: u64,
    last: u64,
    outage: bool,
}

/// What a message is to be reported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) stage: Stage,
    pub(super) reason: Option<&'static str>,
}

/// A message to the server.
#[derive(Debug)]
struct Post {
    number: Option<u64>,
    body: Body,
    id: Option<String>,
    port: u64,
    consumer: &'static str,
    receipts: bool,
    resend: bool,
    expires: Option<Duration>,
    reached: Option<Due>,
    ended: bool,
}

/// An ending that was not yet told.
#[derive(Debug)]
struct Owed {
    due: Due,
    /// The port that it is for, while that is there at the moment of the ending.
    port: Option<u64>,
    consumer: &'static str,
}

#[derive(Debug)]
struct Ping {
    payload: [u8; PING_BYTES],
    sent: Duration,
    /// The last message before it.
    behind: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) phase: Phase,
    pub(super) dialled: Duration,
    /// The next disconnection is asked for.
    pub(super) closing: bool,
    /// The answer to `open` that must come: port, head, acked, pending, state.
    pub(super) opened: Option<(u64, u64, u64, u64, Option<State>)>,
    /// Errors that must come.
    pub(super) errors: Vec<(u64, Code)>,
    stream: Vec<Slot>,
    /// Numbers that are kept as they came, and what they cost.
    kept: VecDeque<(u64, usize)>,
    kept_bytes: usize,
    dropped: Option<Dropped>,
    outage_since: Option<u64>,
    acked: BTreeMap<&'static str, u64>,
    readers: BTreeMap<u64, Reader>,
    deserted: Option<Duration>,
    posts: Vec<Post>,
    /// Posts that have not ended; the first `written` are on the connection.
    queue: VecDeque<usize>,
    written: usize,
    server_has: BTreeSet<usize>,
    /// The server counts as one that never answers pings.
    pub(super) written_is_received: bool,
    ever_ponged: bool,
    heard: Duration,
    ping: Option<Ping>,
    /// The ping whose time was over when the timers were last served.
    unanswered: Option<Duration>,
    /// When a ping was last given up.
    given_up: Duration,
    /// Receipts that must come with this input.
    due: Vec<(u64, String, Due)>,
    owed: BTreeMap<String, Owed>,
}

/// The stream to the extension.
impl Model {
    pub(super) fn place(&self, port: u64) -> Option<(u64, u64)> {
        self.readers.get(&port).map(|reader| (self.acked[reader.consumer], reader.delivered))
    }

    pub(super) fn consumers(&self) -> Vec<&'static str> {
        self.acked.keys().copied().collect()
    }

    fn head(&self) -> u64 {
        self.stream.len() as u64
    }

    pub(super) fn open(&mut self, port: u64, consumer: &'static str, auto: bool, text: bool) {
        self.readers.remove(&port);
        let older = self.readers.iter().find(|(_, reader)| reader.consumer == consumer).map(|(port, _)| *port);
        if let Some(older) = older {
            self.readers.remove(&older);
            self.errors.push((older, Code::Superseded));
        }
        let head = self.head();
        let first = self.acked.is_empty();
        let acked = *self.acked.entry(consumer).or_insert(if first { 0 } else { head });
        let kept = self.kept.iter().filter(|(seq, _)| *seq > acked).count() as u64;
        let pending = kept + u64::from(self.dropped.as_ref().is_some_and(|dropped| dropped.last > acked));
        let state = (self.phase == Phase::Closed).then_some(State::Connecting);
        self.opened = Some((port, head, acked, pending, state));
        self.deserted = None;
        self.readers.insert(
            port,
            Reader {
                consumer,
                auto,
                text,
                head_at_open: head,
                delivered: acked,
                in_flight: VecDeque::new(),
                stuck: None,
                state: None,
            },
        );
    }

    pub(super) fn answered(&mut self, port: u64, opened: &Opened) {
        let (expected_port, head, acked, pending, state) = self.opened.take().expect("an `open` to be answered");
        assert_eq!((port, opened.head, opened.acked, opened.pending), (expected_port, head, acked, pending));
        assert!(state.is_none_or(|state| state == opened.state));
        self.state_told(port, opened.state);
    }

    pub(super) fn detach(&mut self, port: u64) {
        self.readers.remove(&port);
    }

    pub(super) fn frame(&mut self, body: Body, now: Now) {
        self.heard = now.elapsed;
        self.push(body.len(), Slot::Message { at: now.unix_ms, body });
    }

    fn push(&mut self, bytes: usize, slot: Slot) {
        self.stream.push(slot);
        self.kept.push_back((self.head(), bytes + ENTRY_BYTES));
        self.kept_bytes += bytes + ENTRY_BYTES;
        while self.kept_bytes > INBOX_BYTES {
            // To put an outage's mark in place of itself frees nothing: the next one must go with it.
            let outage = matches!(self.stream[self.kept[0].0 as usize - 1], Slot::Outage { .. });
            let count = if outage && self.dropped.is_none() { 2 } else { 1 };
            if self.kept.len() <= count {
                break;
            }
            for _ in 0..count {
                self.drop_oldest();
            }
        }
    }

    fn drop_oldest(&mut self) {
        let (seq, bytes) = self.kept.pop_front().unwrap();
        self.kept_bytes -= bytes;
        let outage = matches!(self.stream[seq as usize - 1], Slot::Outage { .. });
        let dropped = self.dropped.get_or_insert_with(|| {
            self.kept_bytes += ENTRY_BYTES;
            Dropped { first: seq, last: seq, outage: false }
        });
        dropped.last = seq;
        dropped.outage |= outage;
    }

    /// Deletes what all consumers have acknowledged.
    fn trim(&mut self) {
        let Some(done) = self.acked.values().copied().min() else { return };
        if self.dropped.take_if(|dropped| dropped.last <= done).is_some() {
            self.kept_bytes -= ENTRY_BYTES;
        }
        while let Some((_, bytes)) = self.kept.front().filter(|(seq, _)| *seq <= done) {
            self.kept_bytes -= bytes;
            self.kept.pop_front();
        }
    }

    pub(super) fn ack(&mut self, port: u64, seq: u64) {
        let Some(reader) = self.readers.get_mut(&port) else { return self.errors.push((port, Code::UnknownSession)) };
        if seq > reader.delivered {
            return self.errors.push((port, Code::AckAhead));
        }
        let acked = self.acked.get_mut(reader.consumer).unwrap();
        *acked = seq.max(*acked);
        let before = reader.in_flight.len();
        reader.in_flight.retain(|(number, _)| *number > seq);
        if reader.in_flight.len() < before {
            reader.stuck = None;
        }
        self.trim();
    }

    pub(super) fn written(&mut self, port: u64, seq: u64) {
        if self.readers.get(&port).is_some_and(|reader| reader.auto && seq <= reader.delivered) {
            self.ack(port, seq);
        }
    }

    /// A message is delivered; says whether its port has `ack: auto`.
    pub(super) fn message(&mut self, port: u64, seq: u64, at: u64, body: &Body, replay: bool, bytes: usize) -> bool {
        assert!(self.dropped.as_ref().is_none_or(|dropped| seq > dropped.last), "{seq} was dropped");
        let reader = self.readers.get_mut(&port).expect("a message to a port that reads");
        let Slot::Message { at: came, body: sent } = &self.stream[seq as usize - 1] else {
            panic!("{seq} is no message")
        };
        let sent = if reader.text { sent.clone().into_text() } else { sent.clone() };
        assert!(came == &at && same(&sent, body), "{seq} is not what the server sent");
        reader.deliver(seq, seq, replay, bytes)
    }

    pub(super) fn gap(&mut self, port: u64, seq: u64, gap: Gap, replay: bool) -> bool {
        let reader = self.readers.get_mut(&port).expect("a gap to a port that reads");
        match gap.reason {
            GapReason::Disconnected => {
                let Slot::Outage { since, until } = self.stream[seq as usize - 1] else { panic!("{seq} is no outage") };
                let expected = Gap {
                    from: seq,
                    reason: gap.reason,
                    count: None,
                    at_most: None,
                    since: Some(since),
                    until: Some(until),
                };
                assert_eq!(gap, expected);
            }
            GapReason::Overflow => {
                let dropped = self.dropped.as_ref().expect("something was dropped");
                assert_eq!(seq, dropped.last);
                let count = (!dropped.outage).then_some(seq + 1 - gap.from);
                assert_eq!(gap.count, count);
            }
            other => panic!("nothing was lost by {other:?}"),
        }
        reader.deliver(gap.from, seq, replay, ENTRY_BYTES)
    }

    pub(super) fn first_dropped(&self) -> Option<u64> {
        self.dropped.as_ref().map(|dropped| dropped.first)
    }

    pub(super) fn is_a_window_full_of_messages(&self) -> bool {
        self.readers.values().any(|reader| reader.in_flight.len() == WINDOW.messages as usize)
    }

    pub(super) fn state_told(&mut self, port: u64, state: State) {
        self.readers.get_mut(&port).expect("a state for a port that is attached").state = Some(state);
    }

    pub(super) fn error(&mut self, port: u64, code: Code, now: Now) {
        if code == Code::AckOverdue {
            let stuck = self.readers.get_mut(&port).and_then(|reader| reader.stuck.as_mut());
            let (since, told) = stuck.expect("a window that stands");
            assert!(!*told && *since + OVERDUE_TIME <= now.elapsed, "overdue too early, or told twice");
            *told = true;
            return;
        }
        let index = self.errors.iter().position(|expected| *expected == (port, code));
        self.errors.remove(index.unwrap_or_else(|| panic!("port {port} is told {code:?}")));
    }
}

impl Reader {
    fn has_room(&self, bytes: usize) -> bool {
        let in_flight: usize = self.in_flight.iter().map(|(_, bytes)| bytes).sum();
        self.in_flight.is_empty()
            || (self.in_flight.len() < WINDOW.messages as usize && in_flight + bytes <= WINDOW.bytes as usize)
    }

    fn deliver(&mut self, from: u64, seq: u64, replay: bool, bytes: usize) -> bool {
        assert_eq!(from, self.delivered + 1, "what is delivered next");
        assert!(self.has_room(bytes), "{seq} is above the window");
        assert_eq!(replay, seq <= self.head_at_open);
        self.delivered = seq;
        self.in_flight.push_back((seq, bytes));
        self.auto
    }
}

/// The stream to the server.
impl Model {
    pub(super) fn earlier_id(&self, back: usize) -> Option<String> {
        self.posts.iter().rev().filter_map(|post| post.id.clone()).nth(back)
    }

    pub(super) fn post(&mut self, port: u64, send: &Send, now: Now) {
        let Some(reader) = self.readers.get(&port) else { return self.errors.push((port, Code::UnknownSession)) };
        let consumer = reader.consumer;
        let earlier = self.posts.iter_mut().find(|post| post.id.is_some() && post.id == send.id);
        if let (Some(post), Some(id)) = (earlier, &send.id) {
            (post.port, post.consumer) = (port, consumer);
            self.due.extend(post.reached.map(|reached| (port, id.clone(), reached)));
            return;
        }
        let bytes: usize = self.queue.iter().map(|index| self.posts[*index].body.len()).sum();
        if !self.queue.is_empty() && bytes + send.body.len() > QUEUE_BYTES {
            match &send.id {
                Some(id) => self.due.push((port, id.clone(), Due { stage: Stage::Refused, reason: Some("full") })),
                None => self.errors.push((port, Code::QueueFull)),
            }
            return;
        }
        self.queue.push_back(self.posts.len());
        self.posts.push(Post {
            number: None,
            body: send.body.clone(),
            id: send.id.clone(),
            port,
            consumer,
            receipts: send.receipts.as_ref().is_none_or(|receipts| !receipts.is_empty()),
            resend: send.resend,
            expires: send.ttl_ms.map(|ttl| now.elapsed + Duration::from_millis(ttl)),
            reached: None,
            ended: false,
        });
    }

    pub(super) fn persist(&mut self, number: u64, body: &Body) {
        let post = self.posts.last_mut().filter(|post| post.number.is_none()).expect("a message was just posted");
        assert!(same(&post.body, body));
        post.number = Some(number);
    }

    pub(super) fn persisted(&mut self, number: u64) {
        let post = self.posts.iter_mut().find(|post| post.number == Some(number)).unwrap();
        if post.ended {
            return;
        }
        let stored = Due { stage: Stage::Stored, reason: None };
        post.reached = Some(stored);
        if let Some(id) = post.id.clone().filter(|_| post.receipts && self.readers.contains_key(&post.port)) {
            self.due.push((post.port, id, stored));
        }
    }

    pub(super) fn goes_to_server(&mut self, body: &Body, now: Now) -> usize {
        let index = *self.queue.get(self.written).expect("a message that waits");
        let post = &self.posts[index];
        assert!(same(&post.body, body), "out of order, or changed");
        assert!(post.expires.is_none_or(|expires| expires >= now.elapsed), "it had expired");
        self.written += 1;
        if self.written_is_received {
            self.received(Some(index));
        }
        index
    }

    pub(super) fn ping(&mut self, payload: [u8; PING_BYTES], now: Now) {
        assert!(self.ping.is_none(), "a second ping is out");
        let behind = self.written.checked_sub(1).map(|index| self.queue[index]);
        self.ping = Some(Ping { payload, sent: now.elapsed, behind });
    }

    pub(super) fn server_has(&mut self, post: usize) {
        self.server_has.insert(post);
    }

    pub(super) fn pong(&mut self, payload: [u8; PING_BYTES], now: Now) {
        self.heard = now.elapsed;
        let Some(ping) = self.ping.take_if(|ping| ping.payload == payload) else { return };
        self.ever_ponged = true;
        self.written_is_received = false;
        let unread = self
            .queue
            .range(..self.written)
            .find(|post| ping.behind.is_some_and(|behind| **post <= behind) && !self.server_has.contains(*post));
        assert_eq!(unread, None, "a ping overtook a message");
        self.received(ping.behind);
    }

    /// What the session thinks of the server: is it right?
    pub(super) fn answers_pings(&mut self, answers: Option<bool>, now: Now) {
        let mute = answers == Some(false);
        if mute && !self.written_is_received {
            assert!(!self.ever_ponged, "this server has answered pings");
            let unanswered = self.unanswered.expect("a ping without an answer");
            assert!(unanswered + PONG_TIME <= now.elapsed, "it still has time");
            self.received(self.written.checked_sub(1).map(|index| self.queue[index]));
        }
        self.written_is_received = mute;
    }

    fn received(&mut self, up_to: Option<usize>) {
        while self.written > 0 && self.queue.front().copied() <= up_to {
            let index = self.queue.pop_front().unwrap();
            self.written -= 1;
            self.end(index, Stage::Received, None);
        }
    }

    fn expire(&mut self, now: Now) {
        let waiting = self.queue.split_off(self.written);
        for index in waiting {
            if self.posts[index].expires.is_some_and(|expires| expires <= now.elapsed) {
                self.end(index, Stage::Expired, None);
            } else {
                self.queue.push_back(index);
            }
        }
    }

    fn end(&mut self, index: usize, stage: Stage, reason: Option<&'static str>) {
        let post = &mut self.posts[index];
        assert!(!post.ended);
        post.ended = true;
        post.reached = Some(Due { stage, reason });
        if let Some(id) = post.id.clone().filter(|_| post.receipts || stage != Stage::Received) {
            let port = Some(post.port).filter(|port| self.readers.contains_key(port));
            self.owed.insert(id, Owed { due: Due { stage, reason }, port, consumer: post.consumer });
        }
    }

    /// A receipt came; says whether it is one for a port that came later.
    pub(super) fn receipt(&mut self, port: u64, id: &str, told: Due) -> bool {
        if let Some(index) = self.due.iter().position(|due| *due == (port, id.to_owned(), told)) {
            self.due.remove(index);
            return false;
        }
        let owed = self.owed.remove(id).unwrap_or_else(|| panic!("port {port} is told {told:?} of {id}"));
        assert_eq!(owed.due, told);
        let reads = || self.readers.get(&port).is_some_and(|reader| reader.consumer == owed.consumer);
        assert!(owed.port.map_or_else(reads, |expected| expected == port), "told to port {port}: {owed:?}");
        owed.port.is_none()
    }
}

/// The connection.
impl Model {
    pub(super) fn dial(&mut self, now: Now) {
        self.phase = Phase::Dialling;
        self.dialled = now.elapsed;
    }

    pub(super) fn connected(&mut self, now: Now) {
        self.phase = Phase::Open;
        self.heard = now.elapsed;
        if let Some(since) = self.outage_since.take() {
            self.push(0, Slot::Outage { since, until: now.unix_ms });
        }
        self.expire(now);
    }

    pub(super) fn lost(&mut self, http_status: Option<u16>, now: Now) {
        self.over(now);
        self.phase = if matches!(http_status, Some(401 | 403 | 407)) { Phase::Parked } else { Phase::Waiting };
    }

    /// The session ended the connection: by request, for want of ports, or of an answer.
    pub(super) fn disconnected(&mut self, now: Now) {
        let deserted = self.deserted.is_some_and(|since| since + LINGER_TIME <= now.elapsed);
        let silent = self.ever_ponged
            && self.phase == Phase::Open
            && self.unanswered.is_some_and(|sent| sent + PONG_TIME <= now.elapsed && self.heard <= sent);
        assert!(self.closing || deserted || silent, "nobody wanted this");
        self.over(now);
        if !self.closing {
            self.expire(now);
        }
        self.phase = if self.closing || deserted { Phase::Closed } else { Phase::Waiting };
    }

    fn over(&mut self, now: Now) {
        if self.phase == Phase::Open {
            self.outage_since.get_or_insert(now.unix_ms);
        }
        self.ping = None;
        self.unanswered = None;
        self.written_is_received = false;
        let behind = self.queue.split_off(self.written);
        for index in std::mem::take(&mut self.queue) {
            if self.posts[index].resend {
                self.queue.push_back(index);
            } else {
                self.end(index, Stage::Refused, Some("unknown-delivery"));
            }
        }
        self.queue.extend(behind);
        self.written = 0;
    }

    /// The timers are about to be served.
    pub(super) fn timeout(&mut self, now: Now) {
        self.unanswered = self.ping.take_if(|ping| ping.sent + PONG_TIME <= now.elapsed).map(|ping| ping.sent);
        if self.unanswered.is_some() {
            self.given_up = now.elapsed;
        }
        self.expire(now);
        let deserted = self.deserted.is_some_and(|since| since + LINGER_TIME <= now.elapsed);
        if deserted && matches!(self.phase, Phase::Waiting | Phase::Parked) {
            self.phase = Phase::Closed;
        }
    }

    /// The timers were served.
    pub(super) fn check_timeout(&mut self, now: Now) {
        for reader in self.readers.values() {
            let overdue = reader.stuck.is_some_and(|(since, told)| !told && since + OVERDUE_TIME <= now.elapsed);
            assert!(!overdue, "a window stands and nobody was told: {reader:?}");
        }
        if self.phase == Phase::Open {
            let silent = self.heard.max(self.given_up) + seconds(25) <= now.elapsed
                && self.ping.is_none()
                && self.unanswered.is_none();
            assert!(!silent, "a silent server is not asked");
        }
        if self.deserted.is_some_and(|since| since + LINGER_TIME <= now.elapsed) {
            assert_eq!(self.phase, Phase::Closed, "nobody came back");
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.owed.is_empty()
            && self.queue.is_empty()
            && self.acked.values().all(|acked| *acked == self.head())
            && self.posts.iter().all(|post| post.ended)
    }

    /// What holds after every input.
    pub(super) fn check(&mut self, session: &Session, now: Now, actions: usize) {
        if std::mem::take(&mut self.closing) {
            self.phase = Phase::Closed;
        }
        let states: &[State] = match self.phase {
            Phase::Closed => &[State::Disconnected],
            Phase::Dialling => &[State::Connecting, State::Reconnecting],
            Phase::Open => &[State::Connected],
            Phase::Waiting => &[State::Reconnecting],
            Phase::Parked => &[State::Error],
        };
        assert!(states.contains(&session.state()), "{:?} is {:?}", self.phase, session.state());
        assert_eq!(self.errors, [], "errors that were not told");
        assert_eq!(self.due, [], "receipts that were not given");
        for (id, owed) in &mut self.owed {
            assert_eq!(owed.port.take(), None, "the ending of {id} was not told");
            let reader = self.readers.values().find(|reader| reader.consumer == owed.consumer);
            assert!(reader.is_none(), "the ending of {id} was not told: {owed:?}");
        }
        let (head, dropped) = (self.head(), self.dropped.as_ref().map_or(0, |dropped| dropped.last));
        for (port, reader) in &mut self.readers {
            assert_eq!(reader.state, Some(session.state()), "port {port} was not told the state");
            if reader.delivered == head {
                reader.stuck = None;
                continue;
            }
            let next = match &self.stream[reader.delivered as usize] {
                _ if reader.delivered < dropped => ENTRY_BYTES,
                Slot::Outage { .. } => ENTRY_BYTES,
                Slot::Message { at, body } if reader.text => {
                    message_len("s", reader.delivered + 1, *at, &body.clone().into_text())
                }
                Slot::Message { at, body } => message_len("s", reader.delivered + 1, *at, body),
            };
            assert!(!reader.has_room(next), "{} is withheld from port {port}", reader.delivered + 1);
            reader.stuck.get_or_insert((now.elapsed, false));
        }
        if self.readers.is_empty() {
            self.deserted.get_or_insert(now.elapsed);
        }
        let entries = self.kept.len() + usize::from(self.dropped.is_some());
        assert_eq!(session.inbox.kept(), (entries, self.kept_bytes));
        assert!(self.kept_bytes <= INBOX_BYTES || self.kept.len() <= 1 || entries <= 2, "the inbox is over its limit");
        let bytes = self.queue.iter().map(|index| self.posts[*index].body.len()).sum::<usize>();
        assert_eq!(session.outbox.kept(), (self.queue.len(), bytes));
        assert!(session.state() != State::Connected || self.written == self.queue.len(), "something waits");
        let deliveries = self.readers.len() * WINDOW.messages as usize;
        assert!(actions <= 32 + deliveries + 3 * self.posts.len(), "{actions} actions of one input");
    }
}

/// Whether two bodies are the same, looking at their content only if they lie at different places.
fn same(one: &Body, other: &Body) -> bool {
    let place = |body: &Body| (std::mem::discriminant(body), body.bytes().as_ptr(), body.len());
    place(one) == place(other) || one == other
}
