//! What of a session outlives the daemon, and the changes of it: as data.
//!
//! Owns: the vocabulary between a session and whatever keeps it. Does not know files or tables (`spool`), nor when what
//! is written (`journal`). Times are milliseconds since 1970, because no other clock goes on while nobody runs.
//!
//! The changes of one [`super::Action::Save`] are kept together or not at all, and after those of the one before.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire::event::{Gap, Refusal};
use crate::wire::{Body, Stage};

/// Whose session it is, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The extension, as the browser names it.
    pub origin: String,
    /// What keeps apart what different browser profiles do.
    pub profile: String,
    /// The name of the session.
    pub name: String,
}

/// The small things of a session, written as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sheet {
    /// Its server.
    pub url: String,
    /// The sub-protocols that are offered.
    pub protocols: Vec<String>,
    /// Under which the numbers of the stream count.
    pub epoch: String,
    /// Everything up to this number is kept, or nobody needs it any more.
    pub head: u64,
    /// Numbers up to this may have been given out. Above `head` it says that something may have been lost with the daemon.
    pub reserved: u64,
    /// Nothing up to this number is kept, nor needed.
    pub floor: u64,
    /// How many [`Arrival`]s are kept.
    pub arrivals: u64,
    /// How many [`Bookmark`]s are kept.
    pub bookmarks: u64,
    /// How many [`Post`]s are kept.
    pub posts: u64,
    /// How many [`Outcome`]s are kept.
    pub outcomes: u64,
    /// How many [`Subscription`]s are kept.
    pub subscriptions: u64,
    /// The highest number that a message to the server had.
    pub last_post: u64,
    /// What was lost with a damaged file, of which nobody was told yet.
    pub lost: Losses,
    /// It was closed on request, or because no port came back, and is not to connect by itself.
    pub closed: bool,
    /// Since when no port is attached; `None` if one is.
    pub deserted_at: Option<u64>,
    /// When the connection was lost that has not come back yet.
    pub outage_since: Option<u64>,
    /// When this was written: until then, at least, the daemon lived. After it there may have been a connection.
    pub written_at: u64,
    /// When the budget of attempts will be full again.
    pub budget_full_at: u64,
    /// The window that the server asked for, in milliseconds.
    pub learnt_window_ms: Option<u64>,
    /// Whether the server has ever answered a ping.
    pub answers_pings: bool,
    /// Whether it has ever answered a ping message of its own kind.
    pub answers_beats: bool,
    /// How many messages gave way to newer ones.
    pub collapsed: u64,
    /// From where the server can go on behind `head`, as JSON text, if it says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Where in messages the ids stand that are kept as [`Seen`], as a JSON Pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids_at: Option<String>,
}

/// How much of what concerns the server was lost with a damaged file. (What came from it shows by itself, as gaps.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Messages, with their ids.
    pub posts: u64,
    /// What became of messages.
    pub outcomes: u64,
    /// Subscriptions.
    pub subscriptions: u64,
}

impl Losses {
    /// These and others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self {
            posts: self.posts + others.posts,
            outcomes: self.outcomes + others.outcomes,
            subscriptions: self.subscriptions + others.subscriptions,
        }
    }
}

/// How far a consumer has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// Its name.
    pub consumer: String,
    /// Everything up to this number has been processed.
    pub acked: u64,
    /// When its last port left; `None` if one is there.
    pub left_at: Option<u64>,
    /// It was away for too long, and nothing is kept for it any more.
    pub dropped: bool,
}

/// One place in the stream to the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Its number; of a gap: the highest that it covers.
    pub seq: u64,
    /// When it came.
    pub at: u64,
    /// What stands there.
    pub content: Content,
}

/// What stands at one place of the stream to the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A message of the server.
    Message(Body),
    /// The mark that something is missing.
    Gap(Gap),
}

/// The same without the message, which is read when somebody wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Its number.
    pub seq: u64,
    /// When it came.
    pub at: u64,
    /// What stands there.
    pub content: OutlineContent,
}

/// What stands at a place, of a message only its length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutlineContent {
    /// A message of so many bytes.
    Message(usize),
    /// The mark that something is missing.
    Gap(Gap),
}

/// A message on its way to the server, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// Its number: they leave in the order of their numbers.
    pub number: u64,
    /// What the extension calls it.
    pub id: Option<String>,
    /// Who sent it.
    pub consumer: String,
    /// The stages that it wants to hear of.
    pub wanted: Vec<Stage>,
    /// Whether it may be sent again.
    pub resend: bool,
    /// When it has waited too long.
    pub expires_at: Option<u64>,
}

/// What became of a message to the server that had an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Endings are numbered in their order.
    pub ordinal: u64,
    /// What the extension calls the message.
    pub id: String,
    /// Who sent it.
    pub consumer: String,
    /// How it ended.
    pub stage: Stage,
    /// Why, if it was refused.
    pub refusal: Option<Refusal>,
    /// When.
    pub at: u64,
    /// The sender's consumer is still to be told.
    pub unreported: bool,
}

/// Something that is sent on every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// They are sent in the order of these.
    pub position: u64,
    /// What the extension calls it.
    pub key: String,
    /// What is sent.
    pub body: Body,
}

/// The id of a message that came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The number of the message.
    pub seq: u64,
    /// What the server calls it, as JSON text.
    pub id: Arc<str>,
}

/// One change of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Whose session it is; the first change of all.
    Owner(Owner),
    /// The settings that the last `open` that carried any gave, as JSON text; empty if none did.
    Given(String),
    /// The small things.
    Sheet(Box<Sheet>),
    /// A place, new or moved.
    Bookmark(Bookmark),
    /// A consumer is forgotten.
    NoBookmark {
        /// Its name.
        consumer: String,
    },
    /// Something came from the server, or something else stands at its place now.
    Arrived(Arrival),
    /// What stood at these places is not needed any more.
    Gone {
        /// The lowest number.
        from: u64,
        /// The highest number.
        to: u64,
    },
    /// A message for the server, or what is to be known about it.
    Posted {
        /// About it.
        post: Post,
        /// The message.
        body: Body,
    },
    /// These have ended.
    Unposted {
        /// The lowest number.
        from: u64,
        /// The highest number.
        to: u64,
    },
    /// What became of a message; replaces what is known of the same id.
    Ended(Outcome),
    /// Endings up to this ordinal are forgotten, but for unreported ones.
    EndingsForgotten {
        /// The highest ordinal.
        to: u64,
    },
    /// A subscription, new or with another content; one key has one.
    Subscribed(Subscription),
    /// A subscription ends.
    Unsubscribed {
        /// What the extension calls it.
        key: String,
    },
    /// A message came that has an id.
    Seen(Seen),
    /// The ids of messages up to this number are forgotten.
    Unseen {
        /// The highest number.
        to: u64,
    },
    /// Nothing of the session may stay.
    Forgotten,
}

/// Everything that is kept of one session, as a daemon that starts finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The latest changes may be missing, though it was said that they were written: numbers above [`Sheet::reserved`]
    /// may have been given out, and what was acknowledged may be there again. It is said until the session writes its
    /// sheet, which is where it draws its conclusions.
    pub rewound: bool,
    /// The small things.
    pub sheet: Sheet,
    /// All places.
    pub bookmarks: Vec<Bookmark>,
    /// What came, in the order of the numbers. Some may be missing if the file was damaged.
    pub arrivals: Vec<Outline>,
    /// What is to be sent, in the order of the numbers; without its content if only that was damaged.
    pub posts: Vec<(Post, Option<Body>)>,
    /// What became of messages, in the order of their ordinals.
    pub outcomes: Vec<Outcome>,
    /// What is sent on every connection, in its order.
    pub subscriptions: Vec<Subscription>,
    /// The ids of messages that came, in the order of the numbers.
    pub seen: Vec<Seen>,
}
