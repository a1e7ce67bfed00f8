//! The extension's part in the demo: a worker that reads a session, acknowledges, sends, dies and comes back.
//!
//! Owns: what an extension has to do with the bridge's messages, and the lists from which `account` counts. Does not
//! show anything: each message becomes [`News`] for the story.
//!
//! The fields of [`Extension`] stand for its storage: they outlive the worker, which is the port.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::account::Arrival;
use super::browser::Port;
use crate::wire::{PROTOCOL, Stage};

/// The name of the session.
const SESSION: &str = "demo";

/// Something that a worker was told, as far as the story cares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The session is open, and so many messages have waited for a worker.
    Opened { waited: u64 },
    /// The connection's state has changed.
    State { state: String, reason: Option<String> },
    /// A task has come so far.
    Progress { percent: u64, text: String },
    /// A task has something to tell.
    Log { level: String, text: String },
    /// A task is done.
    Complete,
    /// The connection was away for so long, and what the server sent meanwhile is unknown.
    Gap { lasted_ms: u64 },
    /// The server has sent again what was missing.
    Resumed { messages: u64 },
    /// Something else, or something that was handled before.
    Nothing,
}

/// What should not have happened, as the end of a sentence that says what should have.
#[derive(Debug)]
pub(super) struct Surprise(pub(super) String);

/// An extension with one session, and its worker while it lives.
#[derive(Debug)]
pub(super) struct Extension {
    program: PathBuf,
    home: PathBuf,
    url: String,
    worker: Option<Port>,
    epoch: Option<String>,
    /// The highest number of the session that was handled: what comes again is known by it.
    handled: u64,
    /// The server's number of the newest message, from which it can resume.
    cursor: u64,
    posted: u64,
    /// Numbers that the server is not known to have.
    unconfirmed: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    arrived: Vec<Arrival>,
}

impl Extension {
    /// An extension without a worker, for the server at `url` whose stream stands at `cursor`.
    pub(super) fn new(program: PathBuf, home: PathBuf, url: String, cursor: u64) -> Self {
        Self {
            program,
            home,
            url,
            worker: None,
            epoch: None,
            handled: 0,
            cursor,
            posted: 0,
            unconfirmed: BTreeSet::new(),
            refused: BTreeSet::new(),
            arrived: Vec::new(),
        }
    }

    /// Starts a worker, which opens the session and repeats what may have been lost with the one before; the bridge knows
    /// by the id what it has already. Returns the process id of its host.
    pub(super) fn wake(&mut self) -> Result<u32, Surprise> {
        let port = Port::open(&self.program, &self.home)
            .map_err(|error| Surprise(format!("{} cannot be started: {error}", self.program.display())))?;
        let host = port.host();
        self.worker = Some(port);
        self.post(&json!({"type": "hello", "protocol": PROTOCOL, "client": "demo"}));
        self.post(&json!({"type": "open", "session": SESSION, "url": self.url}));
        for number in &self.unconfirmed {
            self.post_number(*number);
        }
        Ok(host)
    }

    /// Kills the worker, and with it the host.
    pub(super) fn die(&mut self) {
        if let Some(port) = self.worker.take() {
            port.kill();
        }
    }

    /// Tells the server something that is not counted.
    pub(super) fn tell(&self, payload: &Value) {
        self.post(&json!({"type": "send", "session": SESSION, "payload": payload}));
    }

    /// Sends the next numbered message.
    pub(super) fn send_next(&mut self) {
        self.posted += 1;
        self.unconfirmed.insert(self.posted);
        self.post_number(self.posted);
    }

    fn post_number(&self, number: u64) {
        let payload = json!({"type": "message", "number": number});
        self.post(&json!({"type": "send", "session": SESSION, "id": number.to_string(), "payload": payload}));
    }

    fn post(&self, message: &Value) {
        if let Some(port) = &self.worker {
            port.post(message);
        }
    }

    /// How many numbered messages were sent.
    pub(super) fn posted(&self) -> u64 {
        self.posted
    }

    /// Whether the server is known to have all of them.
    pub(super) fn all_confirmed(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// Those of which the bridge said that they will not arrive.
    pub(super) fn refused(&self) -> &BTreeSet<u64> {
        &self.refused
    }

    /// All that came, in order.
    pub(super) fn arrived(&self) -> &[Arrival] {
        &self.arrived
    }

    /// Handles the next message from the bridge.
    pub(super) async fn next(&mut self) -> Result<News, Surprise> {
        let frame = match &mut self.worker {
            Some(port) => port.next().await,
            None => None,
        };
        let frame = frame.ok_or_else(|| Surprise("the host ended".to_owned()))?;
        let message = serde_json::from_slice(&frame)
            .map_err(|error| Surprise(format!("the bridge said {}: {error}", String::from_utf8_lossy(&frame))))?;
        match message {
            FromBridge::Opened { epoch, pending } => self.opened(epoch, pending),
            FromBridge::Message { seq, payload } => self.message(seq, payload.unwrap_or_default()),
            FromBridge::Gap { from, seq, reason, since, until } => {
                let lasted_ms = until.unwrap_or(0).saturating_sub(since.unwrap_or(0));
                Ok(self.gap(from, seq, &reason, lasted_ms))
            }
            FromBridge::Receipt { stage, ids } => Ok(self.receipt(stage, &ids)),
            FromBridge::State { state, reason } => Ok(News::State { state, reason: reason.map(|it| it.message) }),
            FromBridge::Error { code, message } => Err(Surprise(format!("the bridge answered {code}: {message}"))),
            FromBridge::Other => Ok(News::Nothing),
        }
    }

    fn opened(&mut self, epoch: String, waited: u64) -> Result<News, Surprise> {
        match self.epoch.replace(epoch) {
            Some(before) if self.epoch.as_ref() != Some(&before) => {
                Err(Surprise("the session began anew, under another epoch".to_owned()))
            }
            _ => Ok(News::Opened { waited }),
        }
    }

    fn message(&mut self, seq: u64, payload: Payload) -> Result<News, Surprise> {
        // What is of a task is numbered by the generator; what answers a request names no task or has no cursor.
        let number = payload.cursor.filter(|_| payload.task.is_some());
        let is_new = self.take(seq, Arrival::Message { seq, number });
        self.cursor = number.map_or(self.cursor, |number| number.max(self.cursor));
        if is_new { payload.news() } else { Ok(News::Nothing) }
    }

    fn gap(&mut self, from: u64, seq: u64, reason: &str, lasted_ms: u64) -> News {
        let is_new = self.take(seq, Arrival::Gap { from, seq });
        if !is_new || reason != "disconnected" {
            return News::Nothing;
        }
        // The gap stands in the stream behind everything that came before the outage: from there the server is asked to
        // go on. It concerns this connection alone, so that it must not be sent again on another one.
        let payload = json!({"type": "resume", "cursor": self.cursor});
        self.post(&json!({"type": "send", "session": SESSION, "payload": payload, "resend": false}));
        News::Gap { lasted_ms }
    }

    /// Notes and acknowledges what came; whether it had not been here before.
    fn take(&mut self, seq: u64, arrival: Arrival) -> bool {
        self.arrived.push(arrival);
        self.post(&json!({"type": "ack", "session": SESSION, "epoch": self.epoch, "seq": seq}));
        let is_new = seq > self.handled;
        self.handled = self.handled.max(seq);
        is_new
    }

    fn receipt(&mut self, stage: Stage, ids: &[String]) -> News {
        let numbers = ids.iter().filter_map(|id| id.parse::<u64>().ok());
        match stage {
            Stage::Stored => {}
            Stage::Received | Stage::Acknowledged => numbers.for_each(|number| {
                self.unconfirmed.remove(&number);
            }),
            Stage::Expired | Stage::Refused => numbers.for_each(|number| {
                self.unconfirmed.remove(&number);
                self.refused.insert(number);
            }),
        }
        News::Nothing
    }
}

/// What the bridge says, as far as this extension listens.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromBridge {
    Opened {
        epoch: String,
        pending: u64,
    },
    Message {
        seq: u64,
        payload: Option<Payload>,
    },
    Gap {
        from: u64,
        seq: u64,
        reason: String,
        since: Option<u64>,
        until: Option<u64>,
    },
    Receipt {
        stage: Stage,
        ids: Vec<String>,
    },
    State {
        state: String,
        reason: Option<Reason>,
    },
    Error {
        code: String,
        message: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Reason {
    message: String,
}

/// What the server says, in its task dialect.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "taskId")]
    task: Option<String>,
    cursor: Option<u64>,
    data: Data,
    /// Of `resumed`.
    replayed: u64,
    /// Of `error`.
    message: String,
    /// Of `resume_failed`.
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    progress: u64,
    level: String,
    message: String,
}

impl Payload {
    fn news(self) -> Result<News, Surprise> {
        let Data { progress, level, message: text } = self.data;
        Ok(match &*self.kind {
            "progress" => News::Progress { percent: progress, text },
            "log" => News::Log { level, text },
            "complete" => News::Complete,
            "resumed" => News::Resumed { messages: self.replayed },
            "error" | "resume_failed" => {
                return Err(Surprise(format!("the server answered {} {}{}", self.kind, self.message, self.reason)));
            }
            _ => News::Nothing,
        })
    }
}
