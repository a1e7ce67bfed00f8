//! Judges what came to the server. What it knows of the bridge is what `PROTOCOL.md` promises:
//!
//! - Messages come in the order in which they were posted, on each connection and over all.
//! - One comes twice only on different connections, and not if the daemon knew that it had come, unless it ended abruptly
//!   right after that.
//! - `received` is said of what has come. What is `stored` comes, or ends in another way.
//! - An ending has its reason: only what may expire does, after its time; only what must not be sent again is refused
//!   because of a lost connection, only what was under way when three were lost because of those, and nothing for want of
//!   room on a disk that was never full. Each message has one ending, which the extension learns.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{About, Count, History, Reckoning};
use crate::log::{Consumer, Entry, Event, Post, Stage};

/// Timers may be early by as much as clocks are coarse.
const COARSE: Duration = Duration::from_millis(20);

pub(super) fn judge(log: &[Entry], history: &History, reckoning: &mut Reckoning) {
    let mut judge = Judge {
        history,
        reckoning,
        fates: BTreeMap::new(),
        last_on: HashMap::new(),
        last: [0; 2],
        newest_connection: 0,
        ended_connections: 0,
    };
    for (index, entry) in log.iter().enumerate() {
        judge.see(index, entry);
    }
    judge.judge_ends(log.len().saturating_sub(1));
}

struct Judge<'a> {
    history: &'a History,
    reckoning: &'a mut Reckoning,
    fates: BTreeMap<Post, Fate>,
    /// The last message of each consumer on each connection.
    last_on: HashMap<(Consumer, u32), u64>,
    /// The last message of each consumer that came for the first time.
    last: [u64; 2],
    /// The newest connection on which anything came.
    newest_connection: u32,
    /// How many connections have ended.
    ended_connections: u64,
}

/// What is known of one message.
#[derive(Default)]
struct Fate {
    first_posted: Duration,
    /// How many connections had ended by then.
    ended_before: u64,
    resend: bool,
    ttl: Option<Duration>,
    /// It was posted again, and may have been refused before for want of room, without that being heard.
    maybe_refused: bool,
    stored: bool,
    /// Where it last came.
    arrived_on: Option<u32>,
    /// How it ended, as the extension was last told.
    ending: Option<Stage>,
    /// The same, if the daemon that said it had the time to write it, or has not ended abruptly since; and when it said so.
    known_ending: Option<(Stage, Duration)>,
    /// It was posted again after it had ended, so that it may come in another place if that ending is forgotten.
    asked_again: bool,
}

impl Judge<'_> {
    fn see(&mut self, index: usize, entry: &Entry) {
        match &entry.event {
            Event::Posted { post, resend, ttl, .. } => {
                let (first_posted, resend, ttl, ended_before) = (entry.at, *resend, *ttl, self.ended_connections);
                if let Some(fate) = self.fates.get_mut(post) {
                    fate.maybe_refused |= self.history.is_full_between(fate.first_posted, entry.at);
                    fate.asked_again |= fate.ending.is_some();
                }
                self.fates.entry(*post).or_insert_with(|| Fate {
                    first_posted,
                    ended_before,
                    resend,
                    ttl,
                    ..Fate::default()
                });
            }
            Event::Arrived { connection, post } => self.see_arrived(index, *connection, *post),
            Event::Receipt { port, post, stage, reason } => {
                let trusted = self.history.is_trusted(port.number, index);
                self.see_receipt(index, entry.at, *post, *stage, reason.as_deref(), trusted);
            }
            Event::Ended { .. } => self.ended_connections += 1,
            Event::Fault(..) if self.history.ends_abruptly(index) => {
                let history = self.history;
                for fate in self.fates.values_mut() {
                    fate.known_ending = fate.known_ending.filter(|(_, heard)| history.could_write(*heard, entry.at));
                }
            }
            _ => {}
        }
    }

    fn see_arrived(&mut self, index: usize, connection: u32, post: Post) {
        let about = About { post: Some(post), ..About::default() };
        let Some(fate) = self.fates.get_mut(&post) else {
            let what = format!("{} came to the server before it was posted", post.id());
            return self.reckoning.find(Count::OtherWrongs, index, about, what);
        };
        let before = fate.arrived_on.replace(connection);
        let Fate { known_ending, maybe_refused, asked_again, .. } = *fate;
        // A server may still find something on a connection that was given up: nobody sends it there any more.
        let stale = connection < self.newest_connection;
        self.newest_connection = self.newest_connection.max(connection);
        if before == Some(connection) {
            let what = format!("{} came twice on connection {connection}", post.id());
            self.reckoning.find(Count::ArrivedTwiceWithoutFault, index, about, what);
        } else if before.is_some() {
            self.reckoning.tally.add(Count::ArrivedTwiceWithFault, 1);
            if known_ending.is_some_and(|(stage, _)| stage == Stage::Received) && !stale {
                let what = format!("{} came again on connection {connection}, after it was `received`", post.id());
                self.reckoning.find(Count::ArrivedTwiceWithoutFault, index, about, what);
            }
        } else {
            self.reckoning.tally.add(Count::Arrived, 1);
        }
        if asked_again {
            return;
        }
        let last_on = self.last_on.insert((post.consumer, connection), post.number).unwrap_or(0);
        if post.number < last_on && !maybe_refused {
            let what = format!("{} came after message {last_on} on connection {connection}", post.id());
            self.reckoning.find(Count::PostsOutOfOrder, index, about, what);
        }
        let last = &mut self.last[post.consumer as usize];
        if before.is_none() && !stale {
            if post.number < *last && !maybe_refused {
                let what = format!("{} came for the first time after message {last} had come", post.id());
                self.reckoning.find(Count::PostsOutOfOrder, index, about, what);
            }
            *last = post.number.max(*last);
        }
    }

    fn see_receipt(
        &mut self,
        index: usize,
        at: Duration,
        post: Post,
        stage: Stage,
        reason: Option<&str>,
        trusted: bool,
    ) {
        let about = About { post: Some(post), ..About::default() };
        let Some(fate) = self.fates.get_mut(&post) else { return };
        if stage == Stage::Stored {
            fate.stored = true;
            return;
        }
        let ended_before = fate.known_ending.map(|(stage, _)| stage);
        fate.ending = Some(stage);
        if trusted {
            fate.known_ending.get_or_insert((stage, at));
        }
        let wrong = match (stage, reason) {
            _ if trusted && ended_before.is_some_and(|before| before != stage) => {
                format!("ended as {stage:?}, after it had ended as {ended_before:?}")
            }
            (Stage::Received, _) if fate.arrived_on.is_none() => "was said to be received, and had not come".into(),
            (Stage::Expired, _) if fate.ttl.is_none() => "expired, and has no time to expire".into(),
            (Stage::Expired, _)
                if !self.history.clock_moved && fate.ttl.is_some_and(|ttl| fate.first_posted + ttl > at + COARSE) =>
            {
                "expired before its time".into()
            }
            (Stage::Refused, Some("unknown-delivery")) if fate.resend => {
                "was refused, though it may be sent again".into()
            }
            (Stage::Refused, Some("unknown-delivery")) => return,
            (Stage::Refused, Some("ends-connections")) if self.ended_connections >= fate.ended_before + 3 => return,
            (Stage::Refused, Some("disk")) if self.history.is_full_between(fate.first_posted, at) => return,
            (Stage::Refused, reason) => format!("was refused because of {reason:?}, which nothing has caused"),
            _ => return,
        };
        self.reckoning.find(Count::OtherWrongs, index, about, format!("{} {wrong}", post.id()));
    }

    fn judge_ends(&mut self, end: usize) {
        for (post, fate) in &self.fates {
            let about = About { post: Some(*post), ..About::default() };
            self.reckoning.tally.add(Count::Posted, 1);
            self.reckoning.tally.add(Count::Stored, u64::from(fate.stored));
            self.reckoning.tally.add(Count::Expired, u64::from(fate.ending == Some(Stage::Expired)));
            self.reckoning.tally.add(Count::Refused, u64::from(fate.ending == Some(Stage::Refused)));
            let excused = matches!(fate.ending, Some(Stage::Expired | Stage::Refused));
            if fate.stored && fate.arrived_on.is_none() && !excused {
                let what = format!("{} was stored, and never came to the server", post.id());
                self.reckoning.find(Count::StoredNeverArrived, end, about, what);
            } else if fate.ending.is_none() {
                let what = format!("nobody ever learnt what became of {}", post.id());
                self.reckoning.find(Count::OtherWrongs, end, about, what);
            }
        }
    }
}
