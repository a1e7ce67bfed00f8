//! The stream to the server: order, stages, endings, subscriptions.

use super::*;

/// So many lost connections with the same message unconfirmed, and it is that message.
const FATAL: u32 = 3;
/// How long ids are remembered, in milliseconds.
const ID_TIME: u64 = 24 * 60 * 60 * 1000;

/// What a message is to be reported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Due {
    pub(in super::super) stage: Stage,
    pub(in super::super) reason: Option<Refusal>,
}

/// A message to the server.
#[derive(Debug)]
struct Post {
    number: Option<u64>,
    body: Body,
    id: Option<String>,
    port: u64,
    wants: Vec<Stage>,
    resend: bool,
    expires: Option<Duration>,
    /// A subscription, or its end: it belongs to the connection.
    passing: bool,
    /// Connections that ended, perhaps for a message, while this one was unconfirmed on them.
    losses: u32,
    /// An earlier daemon sent it, and this one has not.
    resent: bool,
    state: PostState,
    /// Whose it is on the disk: a full one takes no other.
    written_consumer: &'static str,
}

/// What became of a message so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PostState {
    consumer: &'static str,
    reached: Option<Due>,
    ended: bool,
    /// When, by the clock on the wall.
    ended_at: u64,
    /// Its id counts.
    known: bool,
}

impl PostState {
    /// What is written of it: that it is written needs no saying, and that it was received is asked again.
    fn written(self) -> Self {
        Self { reached: self.reached.filter(|_| self.ended), ..self }
    }

    fn of(consumer: &'static str) -> Self {
        Self { consumer, reached: None, ended: false, ended_at: 0, known: true }
    }
}

impl Post {
    fn is_suspect(&self) -> bool {
        self.losses + 1 >= FATAL
    }
}

/// An ending that was not yet told.
#[derive(Debug, Clone, PartialEq)]
struct Owed {
    index: usize,
    due: Due,
    /// What a later port is told: all that was reached, not only what was asked for.
    reached: Due,
    /// The port that it is for, while that is there at the moment of the ending.
    port: Option<u64>,
    consumer: &'static str,
}

#[derive(Debug, Default)]
pub(in super::super) struct Posts {
    posts: Vec<Post>,
    /// Posts that have not ended; the first `written` are on the connection.
    queue: VecDeque<usize>,
    bytes: usize,
    pub(super) written: usize,
    /// The server's peer has those on the connection up to this one.
    received: Option<usize>,
    /// Those with an id stay until the server names them.
    pub(super) awaits_acks: bool,
    last_number: u64,
    server_has: BTreeSet<usize>,
    subscriptions: Vec<(&'static str, Body)>,
    /// What comes first on the new connection.
    first: VecDeque<Body>,
    /// Receipts that must come with this input.
    due: Vec<(u64, String, Due)>,
    owed: BTreeMap<String, Owed>,
    pub(in super::super) disk_full: bool,
    /// The subscriptions on the disk: a full one takes no others.
    written_subscriptions: Vec<(&'static str, Body)>,
    /// Those whose endings nobody waits to hear of, in that order: their ids are remembered for a while.
    told: VecDeque<usize>,
    /// What happened in this input.
    pub(super) met: Vec<&'static str>,
}

impl Posts {
    pub(super) fn new(awaits_acks: bool) -> Self {
        Self { awaits_acks, ..Self::default() }
    }

    pub(super) fn forget(&mut self) {
        assert_eq!(self.due, [], "receipts that were not given");
        // Numbers go on.
        let Self { last_number, disk_full, awaits_acks, .. } = *self;
        *self = Self { last_number, disk_full, awaits_acks, ..Self::default() };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_blank(&self) -> bool {
        self.queue.is_empty() && self.subscriptions.is_empty() && self.owed.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.owed.is_empty() && self.queue.is_empty() && self.posts.iter().all(|post| post.state.ended)
    }

    /// A port that reads posts a message. Says what it is told, if that is an error.
    pub(super) fn post(
        &mut self,
        port: u64,
        consumer: &'static str,
        send: &Send,
        mode: Mode,
        settings: &settings::Queue,
        now: Now,
    ) -> Option<Code> {
        let wants = send.receipts.clone();
        if mode == Mode::Memory && wants.as_ref().is_some_and(|wants| wants.contains(&Stage::Stored)) {
            return Some(Code::NotDurable);
        }
        self.forget_ids(now);
        let earlier = self.posts.iter_mut().find(|post| post.state.known && post.id.is_some() && post.id == send.id);
        if let (Some(post), Some(id)) = (earlier, &send.id) {
            (post.port, post.state.consumer) = (port, consumer);
            // The answer to the repeat is its report.
            self.told.extend(self.owed.remove(id).map(|owed| owed.index));
            self.due.extend(post.state.reached.map(|reached| (port, id.clone(), reached)));
            self.met.push("repeated");
            return None;
        }
        let full = self.is_full(send.body.len(), settings).then_some((Code::QueueFull, Refusal::Full));
        if let Some((code, refusal)) = self.disk_full.then_some((Code::DiskFull, Refusal::Disk)).or(full) {
            let Some(id) = &send.id else { return Some(code) };
            self.due.push((port, id.clone(), Due { stage: Stage::Refused, reason: Some(refusal) }));
            return None;
        }
        let ttl = send.ttl_ms.map(Duration::from_millis).or(settings.ttl);
        self.enqueue(Post {
            number: None,
            body: send.body.clone(),
            id: send.id.clone(),
            port,
            wants: wants.unwrap_or_else(|| vec![Stage::Stored, Stage::Received]),
            resend: send.resend,
            expires: ttl.map(|ttl| now.elapsed + ttl),
            passing: false,
            losses: 0,
            resent: false,
            state: PostState::of(consumer),
            written_consumer: consumer,
        });
        None
    }

    /// An id is remembered for a day after its last stage.
    fn forget_ids(&mut self, now: Now) {
        while let Some(index) =
            self.told.pop_front_if(|index| self.posts[*index].state.ended_at + ID_TIME < now.unix_ms)
        {
            self.posts[index].state.known = false;
            self.met.push("an id is forgotten");
        }
    }

    /// The queue takes anything while it is empty.
    fn is_full(&self, more: usize, settings: &settings::Queue) -> bool {
        let full = self.queue.len() >= settings.max_messages || self.bytes + more > settings.max_bytes;
        full && !self.queue.is_empty()
    }

    fn enqueue(&mut self, post: Post) {
        self.bytes += post.body.len();
        self.queue.push_back(self.posts.len());
        self.posts.push(post);
    }

    /// A live subscription, or the end of one, joins the queue in posting order.
    fn pass(&mut self, port: u64, consumer: &'static str, body: Body) {
        self.enqueue(Post {
            number: None,
            body,
            id: None,
            port,
            wants: vec![],
            resend: false,
            expires: None,
            passing: true,
            losses: 0,
            resent: false,
            state: PostState::of(consumer),
            written_consumer: consumer,
        });
    }

    /// Subscriptions are remembered until unsubscribed. Says what the port is told, if that is an error.
    pub(super) fn subscribe(
        &mut self,
        port: u64,
        consumer: &'static str,
        key: &'static str,
        body: Option<Body>,
        settings: &settings::Queue,
        connected: bool,
    ) -> Option<Code> {
        let Some(body) = body else { return Some(Code::NoTemplate) };
        let place = self.subscriptions.iter().position(|(known, _)| *known == key);
        if place.is_some_and(|place| same(&self.subscriptions[place].1, &body)) {
            return None;
        }
        let others = self.subscriptions.iter().filter(|(known, _)| *known != key);
        if others.map(|(_, body)| body.len()).sum::<usize>() + body.len() > settings.max_bytes {
            return Some(Code::TooManySubscriptions);
        }
        if connected && self.is_full(body.len(), settings) {
            return Some(Code::QueueFull);
        }
        match place {
            Some(place) => self.subscriptions[place].1 = body.clone(),
            None => self.subscriptions.push((key, body.clone())),
        }
        if connected {
            self.pass(port, consumer, body);
        }
        None
    }

    pub(super) fn unsubscribe(
        &mut self,
        port: u64,
        consumer: &'static str,
        key: &'static str,
        body: Option<Body>,
        settings: &settings::Queue,
        connected: bool,
    ) -> Option<Code> {
        let Some(body) = body else { return Some(Code::NoTemplate) };
        let place = self.subscriptions.iter().position(|(known, _)| *known == key)?;
        if connected && self.is_full(body.len(), settings) {
            return Some(Code::QueueFull);
        }
        self.subscriptions.remove(place);
        if connected {
            self.pass(port, consumer, body);
        }
        None
    }

    /// A write has reached the disk, with a beginning of what was queued when it was asked for.
    pub(in super::super) fn lie_on(&mut self, shelf: &Shelf, picture: &PostsPicture) {
        let mut queued =
            picture.queue.iter().filter(|index| self.posts[**index].number.is_none()).collect::<VecDeque<_>>();
        for (number, (row, body)) in shelf.posts.range(self.last_number + 1..) {
            self.last_number = *number;
            let post = &mut self.posts[*queued.pop_front().expect("what is kept was posted")];
            assert!(post.id == row.id && same(&post.body, body), "{row:?} is kept in place of {post:?}");
            post.number = Some(*number);
        }
    }

    /// And the session hears of that.
    pub(in super::super) fn stored(&mut self, picture: &PostsPicture, stream: &Stream) {
        let stored = Due { stage: Stage::Stored, reason: None };
        self.written_subscriptions.clone_from(&picture.subscriptions);
        for index in &picture.queue {
            let post = &mut self.posts[*index];
            post.written_consumer = picture.states[*index].consumer;
            if post.number.is_none() || post.state.reached.is_some() {
                continue;
            }
            post.state.reached = Some(stored);
            if let Some(id) = post.id.clone()
                && post.wants.contains(&Stage::Stored)
                && stream.is_attached(post.port)
            {
                self.due.push((post.port, id, stored));
            }
        }
    }

    /// The connection ended, perhaps because of a message on it: after the third time with the same one it must be that.
    pub(super) fn blame(&mut self, stream: &Stream, now: Now) {
        let unconfirmed = self.unconfirmed();
        let first = unconfirmed.start;
        for index in self.queue.range(unconfirmed) {
            self.posts[*index].losses += 1;
        }
        let fatal = self.queue.range(first..self.written).next().copied();
        if let Some(index) = fatal.filter(|index| self.posts[*index].losses >= FATAL) {
            self.queue.remove(first);
            self.written -= 1;
            self.end(index, Stage::Refused, Some(Refusal::EndsConnections), stream, now);
        }
    }

    pub(super) fn connected(&mut self) {
        self.first = self.subscriptions.iter().map(|(_, body)| body.clone()).collect();
    }

    /// Authentication accepted → subscriptions → unconfirmed → queued. Gives the message that goes.
    pub(super) fn goes(&mut self, body: &Body, now: Now) -> Option<usize> {
        if let Some(first) = self.first.pop_front() {
            assert!(same(&first, body), "the subscriptions come first, in the order first made");
            self.met.push("subscribed again");
            return None;
        }
        let index = *self.queue.get(self.written).expect("a message that waits");
        let post = &self.posts[index];
        assert!(same(&post.body, body), "messages leave in order");
        assert!(post.expires.is_none_or(|expires| expires >= now.elapsed), "what has expired is not sent");
        self.met.extend(post.passing.then_some("subscribed live"));
        self.met.extend(self.server_has.contains(&index).then_some("doubled"));
        self.met.extend(std::mem::take(&mut self.posts[index].resent).then_some("sent again by the next daemon"));
        self.written += 1;
        Some(index)
    }

    /// Where in the queue those stand that are on the connection and not confirmed.
    fn unconfirmed(&self) -> std::ops::Range<usize> {
        let confirmed = self.queue.iter().take(self.written).filter(|index| Some(**index) <= self.received);
        confirmed.count()..self.written
    }

    pub(super) fn last_written(&self) -> Option<usize> {
        self.written.checked_sub(1).map(|index| self.queue[index]).filter(|index| Some(*index) > self.received)
    }

    pub(in super::super) fn server_has(&mut self, post: Option<usize>) {
        self.server_has.extend(post);
    }

    /// A ping behind this message is answered: the server's peer has everything before it.
    pub(super) fn confirmed(&mut self, behind: Option<usize>, stream: &Stream, now: Now) {
        let mut written = self.queue.range(..self.written);
        let unread = written.find(|post| Some(**post) <= behind && !self.server_has.contains(*post));
        assert_eq!(unread, None, "a ping overtook a message");
        self.received(behind, stream, now);
    }

    pub(super) fn received(&mut self, up_to: Option<usize>, stream: &Stream, now: Now) {
        let before = self.received;
        self.received = before.max(up_to);
        let behind = self.queue.split_off(self.written);
        for index in std::mem::take(&mut self.queue) {
            if Some(index) > up_to {
                self.queue.push_back(index);
            } else if self.awaits_acks && self.posts[index].id.is_some() {
                self.queue.push_back(index);
                if Some(index) > before {
                    self.reached(index, stream);
                }
            } else {
                self.end(index, Stage::Received, None, stream, now);
            }
        }
        self.written = self.queue.len();
        self.queue.extend(behind);
    }

    /// The peer has it, and the server has not named it yet.
    fn reached(&mut self, index: usize, stream: &Stream) {
        let post = &mut self.posts[index];
        let due = Due { stage: Stage::Received, reason: None };
        let before = post.state.reached.map(|due| due.stage);
        if before >= Some(Stage::Received) {
            return;
        }
        post.state.reached = Some(due);
        let told = post.wants.iter().copied().filter(|wanted| *wanted <= Stage::Received).max();
        let told = told.filter(|told| before.is_none_or(|before| before < *told));
        if let Some((id, stage)) = post.id.clone().zip(told)
            && stream.is_attached(post.port)
        {
            self.due.push((post.port, id, Due { stage, ..due }));
        }
    }

    /// The server names an id.
    pub(in super::super) fn acknowledged(&mut self, id: &str, stream: &Stream, now: Now) {
        if !self.awaits_acks {
            return;
        }
        let place = (0..self.written).find(|at| self.posts[self.queue[*at]].id.as_deref() == Some(id));
        if let Some(place) = place {
            let index = self.queue.remove(place).unwrap();
            self.written -= 1;
            self.end(index, Stage::Acknowledged, None, stream, now);
            self.met.push("acknowledged by the server");
        }
    }

    /// The id of a message that the server's peer has and that the server has not named, if it is to.
    pub(in super::super) fn acknowledgeable(&self) -> Option<String> {
        let there = self.queue.iter().take(self.written).filter(|index| self.server_has.contains(index));
        there.filter_map(|index| self.posts[*index].id.clone()).next().filter(|_| self.awaits_acks)
    }

    pub(super) fn expire(&mut self, stream: &Stream, now: Now) {
        for index in self.queue.split_off(self.written) {
            if self.posts[index].expires.is_some_and(|expires| expires <= now.elapsed) {
                self.end(index, Stage::Expired, None, stream, now);
            } else {
                self.queue.push_back(index);
            }
        }
    }

    pub(super) fn check_expiry(&self, now: Now) {
        let waits = |index: &usize| self.posts[*index].expires.is_some_and(|expires| expires <= now.elapsed);
        assert!(!self.queue.range(self.written..).any(waits), "a message waits for longer than its `ttl_ms`");
    }

    /// The server said that a message was too large: the largest that it has not confirmed must be it, unless a
    /// subscription is as large. Says whether there is one.
    pub(super) fn refuse_largest(&mut self, stream: &Stream, now: Now) -> bool {
        let largest = self.subscriptions.iter().map(|(_, body)| body.len()).max().unwrap_or_default();
        let size = |at: usize| self.posts[self.queue[at]].body.len();
        let Some(at) = self.unconfirmed().rev().max_by_key(|at| size(*at)) else { return false };
        if size(at) <= largest {
            return false;
        }
        let index = self.queue.remove(at).unwrap();
        self.written -= 1;
        self.end(index, Stage::Refused, Some(Refusal::TooLarge), stream, now);
        true
    }

    pub(super) fn connection_lost(&mut self, stream: &Stream, now: Now) {
        let behind = self.queue.split_off(self.written);
        for index in std::mem::take(&mut self.queue) {
            if self.posts[index].resend {
                self.queue.push_back(index);
            } else if Some(index) <= self.received {
                self.end(index, Stage::Received, None, stream, now);
            } else {
                self.end(index, Stage::Refused, Some(Refusal::UnknownDelivery), stream, now);
            }
        }
        self.queue.extend(behind);
        (self.written, self.received) = (0, None);
        self.first.clear();
    }

    fn end(&mut self, index: usize, stage: Stage, reason: Option<Refusal>, stream: &Stream, now: Now) {
        let post = &mut self.posts[index];
        assert!(!post.state.ended);
        self.bytes -= post.body.len();
        (post.state.ended, post.state.ended_at) = (true, now.unix_ms);
        let ended_as = stage;
        let before = post.state.reached.replace(Due { stage, reason }).map(|due| due.stage);
        // A message that ends badly is always told. A good stage stands for those below it.
        let asked = post.wants.iter().copied().filter(|wanted| *wanted <= stage).max();
        let told = if stage > Stage::Acknowledged { Some(stage) } else { asked };
        let told = told.filter(|told| before.is_none_or(|before| before < *told));
        if let Some((id, stage)) = post.id.clone().zip(told) {
            let port = Some(post.port).filter(|port| stream.is_attached(*port));
            let reached = Due { stage: ended_as, reason };
            self.owed
                .insert(id, Owed { index, reached, due: Due { stage, reason }, port, consumer: post.state.consumer });
        } else if post.id.is_some() {
            self.told.push_back(index);
        }
    }

    /// A receipt came; says whether it is one for a port that came later.
    pub(in super::super) fn receipt(&mut self, port: u64, id: &str, told: Due, stream: &Stream) -> bool {
        if let Some(index) = self.due.iter().position(|due| *due == (port, id.to_owned(), told)) {
            self.due.remove(index);
            return false;
        }
        let owed = self.owed.remove(id).unwrap_or_else(|| panic!("port {port} is told {told:?} of {id}"));
        assert!(owed.due == told || (owed.port.is_none() && owed.reached == told), "{told:?} is not {owed:?}");
        let reads = || stream.consumer_of(port) == Some(owed.consumer);
        assert!(owed.port.map_or_else(reads, |expected| expected == port), "told to port {port}: {owed:?}");
        self.told.push_back(owed.index);
        owed.port.is_none()
    }

    /// What holds after every input.
    pub(super) fn check(&mut self, session: &Session, connected: bool, stream: &Stream) {
        assert_eq!(self.due, [], "receipts that were not given");
        for (id, owed) in &mut self.owed {
            assert_eq!(owed.port.take(), None, "the ending of {id} was not told");
            assert_eq!(stream.reader_of(owed.consumer), None, "the ending of {id} was not told: {owed:?}");
        }
        assert_eq!(session.outbox.kept(), (self.queue.len(), self.bytes), "what is kept for the server");
        assert!(self.first.is_empty(), "a subscription was not sent");
        let unconfirmed = self.unconfirmed();
        let first = self.queue.get(unconfirmed.start).map(|index| &self.posts[*index]);
        let next = self.queue.get(self.written).map(|index| &self.posts[*index]);
        let alone = !unconfirmed.is_empty() && [first, next].iter().flatten().any(|post| post.is_suspect());
        assert!(!connected || alone || next.is_none(), "something waits though there is a connection");
        self.met.extend((connected && next.is_some()).then_some("waits for one that is suspected"));
    }

    pub(super) fn len(&self) -> usize {
        self.posts.len()
    }
}

/// What is kept of it, as it was when a write was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct PostsPicture {
    states: Vec<PostState>,
    queue: Vec<usize>,
    owed: BTreeMap<String, Owed>,
    told: VecDeque<usize>,
    subscriptions: Vec<(&'static str, Body)>,
}

/// When the daemon is killed.
impl Posts {
    pub(super) fn picture(&self) -> PostsPicture {
        let kept = self.queue.iter().filter(|index| !self.posts[**index].passing);
        PostsPicture {
            states: self.posts.iter().map(|post| post.state.written()).collect(),
            queue: kept.copied().collect(),
            owed: self.owed.clone(),
            told: self.told.clone(),
            subscriptions: self.subscriptions.clone(),
        }
    }

    /// What a full disk takes of that.
    pub(super) fn picture_for_full_disk(&self) -> PostsPicture {
        let mut picture = self.picture();
        picture.subscriptions.clone_from(&self.written_subscriptions);
        for (post, state) in self.posts.iter().zip(&mut picture.states).filter(|(post, _)| !post.state.ended) {
            state.consumer = post.written_consumer;
        }
        picture
    }

    /// Whether everything that is queued is on the disk.
    pub(in super::super) fn are_written(&self) -> bool {
        self.queue.iter().all(|index| self.posts[*index].number.is_some() || self.posts[*index].passing)
    }

    /// What is stored is queued again, and what has ended is known to have ended, if that was written. Returns how many
    /// were lost with a damaged file.
    pub(super) fn restart(&mut self, picture: PostsPicture, record: &Record, now: Now) -> u64 {
        let PostsPicture { states, queue, owed, told, subscriptions } = picture;
        let rows: BTreeMap<_, _> = record.posts.iter().map(|(row, body)| (row.number, (row, body))).collect();
        for (index, post) in self.posts.iter_mut().enumerate() {
            let is_stored = post.state.reached.is_some_and(|reached| reached.stage == Stage::Stored);
            assert!(!is_stored || post.number.is_some(), "`stored` was said of what is not on the disk");
            let unknown = PostState { ended: true, known: false, ..post.state };
            post.state = states.get(index).copied().unwrap_or(unknown);
            post.state.ended |= post.passing;
            (post.port, post.losses, post.written_consumer) = (0, 0, post.state.consumer);
        }
        let (kept, gone): (Vec<usize>, Vec<usize>) =
            queue.iter().partition(|index| self.posts[**index].number.is_some());
        for index in gone {
            let state = &mut self.posts[index].state;
            (state.ended, state.known) = (true, false);
        }
        (self.bytes, self.written, self.received) = (0, 0, None);
        (self.owed, self.told) = (owed, told);
        self.met.extend((!self.owed.is_empty()).then_some("an ending outlives the daemon"));
        self.written_subscriptions.clone_from(&subscriptions);
        self.subscriptions = subscriptions;
        self.first.clear();
        self.due.clear();
        let nobody = Stream::default();
        let mut lost = 0;
        self.queue.clear();
        for index in kept {
            let post = &mut self.posts[index];
            let Some((row, body)) = rows.get(&post.number.unwrap()) else {
                (post.state.ended, post.state.known) = (true, false);
                lost += 1;
                continue;
            };
            assert_eq!(post.expires.is_some(), row.expires_at.is_some());
            post.expires = row.expires_at.map(|at| now.elapsed_until(at));
            post.state.reached = Some(Due { stage: Stage::Stored, reason: None });
            match body {
                Some(body) => {
                    self.bytes += body.len();
                    post.resent = true;
                    self.queue.push_back(index);
                }
                None => {
                    self.bytes += post.body.len();
                    self.end(index, Stage::Refused, Some(Refusal::Damage), &nobody, now);
                }
            }
        }
        self.met.extend((lost > 0).then_some("stored messages are lost with the file"));
        lost
    }
}
