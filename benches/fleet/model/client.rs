//! A client that is the real thing: the session, whole, as the daemon drives it.
//!
//! Durable mode, the default settings for a server that is not on this machine, one port that has it open.
//!
//! A session takes 3.4 kB, most of them for what has no part in this, and a million of them 3.4 GB. In a large fleet a client
//! therefore has its session only from the moment that it dials until it has heard the answer. In between there is only
//! what it has heard so far, from which the same session is made again: it knows no chance but its seed and no time but what
//! it is told.

use std::sync::Arc;
use std::time::Duration;

use url::Url;
use websocket_bridge::session::{Action, Birth, Conversation as _, Input, Now, PortId, Session};
use websocket_bridge::settings::Settings;
use websocket_bridge::wire::event::{Hint, Reason};
use websocket_bridge::wire::{Acknowledge, Body, Mode, Open};

use super::{Client, News, Next, seed};

/// How long the connection has lasted that is lost.
const BEFORE: Duration = Duration::from_secs(3600);

/// The largest fleet whose sessions are all in memory.
const MANY: u32 = 50_000;

/// What the server has said about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Nothing.
    None,
    /// In the first message of each connection: the window over which those who lose it are to return.
    InGreeting(Duration),
    /// In the reason of the close frame: the same.
    InCloseReason(Duration),
}

/// Clients that are sessions, and have heard the same advice.
pub(crate) struct Bridges {
    birth: Birth,
    open: Open,
    advice: Advice,
    /// Whether all sessions stay in memory.
    pub(crate) whole: bool,
}

/// One of them.
pub(crate) struct Bridge<'a> {
    fleet: &'a Bridges,
    number: u32,
    heard: Vec<(News, Duration)>,
    session: Option<Box<Running>>,
}

/// A session, and what is done for it.
struct Running {
    session: Session,
    /// The number of the present attempt, or connection.
    attempt: u64,
}

impl Bridges {
    pub(crate) fn new(clients: u32, advice: Advice) -> Self {
        let url = Url::parse("wss://example.org/ws").expect("a URL");
        let (name, settings) = (Arc::from("default"), Settings::default());
        let birth = Birth { number: 1, name, mode: Mode::Durable, url, settings, seed: 0 };
        let open = Open {
            session: "default".into(),
            profile: String::new(),
            url: None,
            mode: Mode::Durable,
            consumer: "main".into(),
            observe: false,
            after: None,
            connect: true,
            acknowledge: Acknowledge::Manual,
            as_text: false,
            protocols: None,
            settings: None,
        };
        Self { birth, open, advice, whole: clients <= MANY }
    }

    /// Its chance comes from `number`.
    pub(crate) fn client(&self, number: u32) -> Bridge<'_> {
        Bridge { fleet: self, number, heard: Vec::new(), session: None }
    }

    /// The session of that client, connected.
    fn connected(&self, number: u32) -> Running {
        let now = at(Duration::ZERO);
        let birth = Birth { seed: seed(number), ..self.birth.clone() };
        let mut running = Running { session: Session::new(birth, now), attempt: 0 };
        let (open, port) = (Box::new(self.open.clone()), PortId(1));
        running.tell(Input::Open { port, open, url: None, settings: None, reference: None }, now);
        let attempt = running.attempt;
        running.tell(Input::Connected { attempt, protocol: None }, now);
        if let Advice::InGreeting(window) = self.advice {
            let text = format!(r#"{{"type":"welcome","reconnect_window_ms":{}}}"#, window.as_millis());
            running.tell(Input::Frame { attempt, body: Body::from_text_frame(text) }, now);
            running.tell(Input::Ack { port, seq: 1, epoch: None, reference: None }, now);
        }
        running
    }

    /// Why the connection is lost.
    fn loss(&self) -> Reason {
        let hint = match self.advice {
            Advice::InCloseReason(window) => Some(Hint { after_ms: 0, window_ms: Some(window.as_millis() as u64) }),
            Advice::None | Advice::InGreeting(_) => None,
        };
        Reason { close_code: Some(1012), hint, ..Reason::new("closed", String::new()) }
    }
}

impl Client for Bridge<'_> {
    fn hear(&mut self, news: News, since: Duration) -> Next {
        let fleet = self.fleet;
        let mut running = self.session.take().unwrap_or_else(|| {
            let mut running = Box::new(fleet.connected(self.number));
            for (news, since) in &self.heard {
                running.hear(*news, *since, fleet);
            }
            running
        });
        let next = running.hear(news, since, fleet);
        if !fleet.whole {
            self.heard.push((news, since));
        }
        self.session = (fleet.whole || next == Next::Dial).then_some(running);
        next
    }
}

impl Running {
    fn hear(&mut self, news: News, since: Duration, fleet: &Bridges) -> Next {
        let now = at(BEFORE + since);
        let attempt = self.attempt;
        let lost = |reason| Input::Lost { attempt, reason };
        let dials = match news {
            News::Lost => self.tell(lost(fleet.loss()), now),
            News::Refused => self.tell(lost(Reason::new("refused", String::new())), now),
            News::Overloaded => {
                self.tell(lost(Reason { http_status: Some(503), ..Reason::new("http-status", String::new()) }), now)
            }
            News::Back => self.tell(Input::Connected { attempt, protocol: None }, now),
            News::Time => {
                self.session.handle_timeout(now);
                self.act(now)
            }
        };
        match self.session.poll_timeout() {
            _ if dials => Next::Dial,
            Some((until, _)) => Next::At(until.saturating_sub(BEFORE)),
            None => Next::Rest,
        }
    }

    /// Whether the session wants to connect then.
    fn tell(&mut self, input: Input, now: Now) -> bool {
        self.session.handle(input, now);
        self.act(now)
    }

    /// Does what the session asks for, as far as it matters here; whether that is to connect.
    fn act(&mut self, now: Now) -> bool {
        let mut dials = false;
        loop {
            let mut saving = None;
            while let Some(action) = self.session.poll_action() {
                match action {
                    Action::Connect { attempt, .. } => {
                        self.attempt = attempt;
                        dials = true;
                    }
                    Action::Save { ticket, .. } => saving = Some(ticket),
                    _ => {}
                }
            }
            let Some(ticket) = saving else { return dials };
            self.session.handle(Input::Saved { ticket }, now);
        }
    }
}

fn at(elapsed: Duration) -> Now {
    Now { elapsed, unix_ms: 1_800_000_000_000 + elapsed.as_millis() as u64 }
}
