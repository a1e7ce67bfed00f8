//! The session's side of the ports: who reads, what they ask for, what they are told.
//!
//! Owns: attaching and leaving, the answers to requests, deliveries and receipts on their way out. What is delivered is
//! `inbox`'s, what is sent is `outbox`'s.

use super::connection::Connection;
use super::inbox::{Content, Delivery, Manner, Place};
use super::outbox::{NoRoom, Queued};
use super::*;
use crate::settings::{Blank, Template};
use crate::wire::event::{Opened, Refusal};
use crate::wire::{Acknowledge, After, MAX_CONSUMERS, MAX_SUBSCRIPTIONS, Stage, State, Tag, WINDOW};

/// The least time between two attempts that an extension asks for.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn handle_open(
        &mut self,
        port: PortId,
        open: Open,
        url: Option<Url>,
        settings: Option<Box<Settings>>,
        reference: Option<String>,
        now: Now,
    ) {
        if let Some(problem) = self.refusal(port, &open, url.as_ref()) {
            return self.tell(port, problem, reference);
        }
        self.blank = false;
        self.changed();
        let mut changed = false;
        if let Some(settings) = settings {
            changed |= *settings != *self.coming_settings();
            self.configure(settings, now);
        }
        if let Some(url) = url {
            if self.url != url {
                changed = true;
                // Another stream, perhaps: what is missing of it is not known.
                self.cursors = Cursors::default();
            }
            if !same_server(&self.url, &url) {
                self.credentials = Credentials::default();
            }
            self.url = url;
        }
        if let Some(protocols) = open.protocols {
            changed |= self.protocols != protocols;
            self.protocols = protocols;
        }
        let manner = Manner { acknowledge: open.acknowledge, as_text: open.as_text };
        let place = if open.observe {
            self.inbox.observe(port, open.as_text, now.elapsed);
            Place { acked: self.inbox.head(), pending: 0, superseded: None }
        } else {
            self.inbox.attach(port, &open.consumer, manner, open.after.as_ref(), &self.epoch, now.elapsed)
        };
        if let Some(older) = place.superseded.filter(|older| *older != port) {
            self.ports.retain(|attached| *attached != older);
            let message = format!("another port opened session `{}` as consumer `{}`", self.name, open.consumer);
            self.tell(older, Problem::new(Code::Superseded, message), None);
        }
        if !self.ports.contains(&port) {
            self.ports.push(port);
        }
        self.deserted = None;
        let connect = match self.connection {
            Connection::Closed => open.connect,
            // Somebody has changed what it may have waited for.
            Connection::Parked { .. } => changed,
            _ => false,
        };
        let state = match self.connection {
            _ if !connect => self.state(),
            Connection::Closed if self.may_dial(now) => State::Connecting,
            _ => State::Reconnecting,
        };
        let acknowledge = if open.observe { None } else { Some(open.acknowledge) };
        self.tell_opened(port, acknowledge, place.acked, place.pending, state, reference);
        if connect {
            self.retry.start_anew();
            self.dial(now);
        } else {
            let event = self.state_event(now);
            self.actions.push_back(Action::ToExtension { port, event });
        }
        if !open.observe {
            if !connect {
                self.ask_newcomer(port, now);
            }
            self.outbox.report_to(port, &open.consumer);
            self.send_receipts();
            self.tell_losses(port);
        }
        if self.can_store() == Some(false) {
            self.tell_disk_full(port);
        }
    }

    /// What `port` would have to ask for to go on elsewhere where it is here.
    pub(super) fn reopening_of(&self, port: PortId) -> Option<Open> {
        let (manner, place) = self.inbox.manner_of(port)?;
        Some(Open {
            session: self.name.to_string(),
            profile: String::new(),
            url: Some(self.url.to_string()),
            mode: self.mode,
            consumer: place.map_or("main", |(consumer, _)| consumer).to_owned(),
            observe: place.is_none(),
            after: place.map(|(_, seq)| After { epoch: self.epoch.to_string(), seq }),
            connect: !matches!(self.connection, Connection::Closed),
            acknowledge: manner.acknowledge,
            as_text: manner.as_text,
            protocols: Some(self.protocols.clone()),
            settings: None,
        })
    }

    /// Why a port may not open the session so.
    pub(super) fn refusal(&self, port: PortId, open: &Open, url: Option<&Url>) -> Option<Problem> {
        if let Some(url) = url.filter(|url| !self.blank && !same_server(&self.url, url)) {
            let message = format!(
                "session `{}` belongs to {}; close it with `forget: true` first, or use another name for {}",
                self.name,
                server_of(&self.url),
                server_of(url)
            );
            return Some(Problem::new(Code::UrlDiffers, message));
        }
        if open.observe && !self.inbox.admits_observer(port) {
            let message = format!("session `{}` is watched by {MAX_CONSUMERS} ports, which is the limit", self.name);
            return Some(Problem::new(Code::TooManyConsumers, message));
        }
        if !open.observe && !self.inbox.admits(&open.consumer) {
            let message = format!(
                "session `{}` has {MAX_CONSUMERS} consumers, which is the limit, and `{}` is none of them; a consumer's name \
                 belongs to a reader that comes back, not to each of its lives",
                self.name, open.consumer
            );
            return Some(Problem::new(Code::TooManyConsumers, message));
        }
        None
    }

    pub(super) fn handle_send(&mut self, port: PortId, send: Send, reference: Option<String>, now: Now) {
        let consumer = if port == PortId::PERSON { Some("") } else { self.inbox.consumer_of(port) };
        let Some(consumer) = consumer else { return self.tell_no_place(port, reference) };
        let wants = |stage| send.receipts.as_ref().is_some_and(|receipts| receipts.contains(&stage));
        if self.mode == Mode::Memory && wants(Stage::Stored) {
            let message = format!(
                "session `{}` is in memory mode, in which nothing is stored, so `stored` cannot be said; the message was \
                 not taken. Ask for other `receipts`, or open the session in durable mode",
                self.name
            );
            return self.tell(port, Problem::new(Code::NotDurable, message), reference);
        }
        match self.outbox.push(now, port, consumer, send) {
            Queued::New => {
                self.blank = false;
                self.write_queue(now);
            }
            Queued::Repeated | Queued::Refused { told: true, .. } => {}
            Queued::Refused { refusal: Refusal::Disk, .. } => self.tell_not_stored(port, reference),
            Queued::Refused { .. } => self.tell_queue_full(port, reference),
        }
        self.send_receipts();
    }

    pub(super) fn handle_subscribe(
        &mut self,
        port: PortId,
        key: String,
        payload: Option<Body>,
        reference: Option<String>,
        now: Now,
    ) {
        let template = self.coming_settings().dialect.subscribe.as_ref();
        let body = payload.or_else(|| template.map(|template| message_about(&key, template)));
        let Some(body) = self.subscription_body(port, body, &reference) else { return };
        let taken = self.outbox.subscribe(key, body, self.takes_messages());
        self.subscriptions_changed(taken, port, reference, now);
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        port: PortId,
        key: &str,
        payload: Option<Body>,
        reference: Option<String>,
        now: Now,
    ) {
        let template = self.coming_settings().dialect.unsubscribe.as_ref();
        let body = payload.or_else(|| template.map(|template| message_about(key, template)));
        let Some(body) = self.subscription_body(port, body, &reference) else { return };
        let taken = self.outbox.unsubscribe(key, body, self.takes_messages());
        self.subscriptions_changed(taken, port, reference, now);
    }

    fn subscriptions_changed(&mut self, taken: Result<(), NoRoom>, port: PortId, reference: Option<String>, now: Now) {
        match taken {
            Ok(()) => {
                self.blank &= self.outbox.subscriptions().len() == 0;
                self.write_queue(now);
            }
            Err(NoRoom::Full) => self.tell_queue_full(port, reference),
            Err(NoRoom::TooMany) => {
                let message = format!(
                    "session `{}` has {MAX_SUBSCRIPTIONS} subscriptions, or they are larger than its queue; send \
                     `unsubscribe` for what is not needed any more",
                    self.name
                );
                self.tell(port, Problem::new(Code::TooManySubscriptions, message), reference);
            }
        }
    }

    /// What a subscription of this port is to send; if there is nothing, the port is told.
    fn subscription_body(&mut self, port: PortId, body: Option<Body>, reference: &Option<String>) -> Option<Body> {
        if self.inbox.consumer_of(port).is_none() {
            self.tell_no_place(port, reference.clone());
            return None;
        }
        if body.is_none() {
            let message = "there is no template for this; say in `payload` what to send, or in the settings \
                           `dialect.subscribe` and `dialect.unsubscribe`";
            self.tell(port, Problem::new(Code::NoTemplate, message), reference.clone());
        }
        body
    }

    pub(super) fn handle_ack(&mut self, port: PortId, seq: u64, epoch: Option<&str>, reference: Option<String>) {
        if self.inbox.consumer_of(port).is_none() {
            return self.tell_no_place(port, reference);
        }
        if epoch.is_some_and(|epoch| epoch != &*self.epoch) {
            return;
        }
        if let Err(ahead) = self.inbox.acknowledge(port, seq) {
            let message = format!(
                "`seq` {seq} is above {}, the highest that was delivered to this port; acknowledge only what has come",
                ahead.delivered
            );
            self.tell(port, Problem::new(Code::AckAhead, message), reference);
        }
    }

    pub(super) fn handle_reconnect(&mut self, port: PortId, reference: Option<String>, now: Now) {
        match self.connection {
            Connection::Dialling { .. } | Connection::Open(_) => {}
            _ if self.attempts > 0 && now.elapsed < self.last_attempt + RECONNECT_PAUSE => {
                let message = "the last attempt was less than a second ago; ask again a second later";
                self.tell(port, Problem::new(Code::RateLimited, message), reference);
            }
            _ if !self.may_dial(now) => {
                let message = format!(
                    "there were too many attempts in a short time; the next one is possible in {} s. The settings \
                     `reconnect.burst` and `reconnect.refill_ms` say how many",
                    self.may_dial_at().saturating_sub(now.elapsed).as_secs() + 1
                );
                self.tell(port, Problem::new(Code::RateLimited, message), reference);
            }
            _ => {
                if matches!(self.connection, Connection::Parked { .. }) {
                    self.retry.start_anew();
                }
                self.dial(now);
            }
        }
    }

    pub(super) fn detach(&mut self, port: PortId, now: Now) {
        self.changed();
        self.inbox.detach(port, now.elapsed);
        self.ports.retain(|attached| *attached != port);
        if self.ports.is_empty() && self.deserted.is_none() {
            self.deserted = Some(now.elapsed);
        }
    }

    /// All that can go out now.
    pub(super) fn deliver(&mut self, now: Now) {
        let limit = self.may_give_out().min(self.decided());
        let Self { inbox, actions, name, number, .. } = self;
        let wanted = inbox.pump(limit, now.elapsed, |delivery| actions.push_back(delivery.action(name, *number)));
        if let Some(wanted) = wanted {
            self.load(wanted);
        }
    }

    pub(super) fn send_receipts(&mut self) {
        let Self { ports, inbox, outbox, .. } = self;
        for receipt in outbox.take_receipts(|port| ports.contains(&port), |consumer| inbox.reader_of(consumer)) {
            let session = Arc::clone(&self.name);
            let event = Event::Receipt { session, stage: receipt.stage, ids: receipt.ids, reason: receipt.refusal };
            self.actions.push_back(Action::ToExtension { port: receipt.port, event });
        }
    }

    fn tell_opened(
        &mut self,
        port: PortId,
        acknowledge: Option<Acknowledge>,
        acked: u64,
        pending: u64,
        state: State,
        reference: Option<String>,
    ) {
        let opened = Opened {
            reference,
            session: Arc::clone(&self.name),
            epoch: Arc::clone(&self.epoch),
            state,
            head: self.inbox.head(),
            acked,
            pending,
            ack: acknowledge.unwrap_or(Acknowledge::Auto).as_str(),
            window: acknowledge.map(|_| WINDOW),
        };
        self.actions.push_back(Action::ToExtension { port, event: Event::Opened(Box::new(opened)) });
    }

    /// An epoch has begun under all attached ports.
    pub(super) fn tell_new_epoch(&mut self) {
        let state = self.state();
        for (port, acknowledge) in self.inbox.ports().collect::<Vec<_>>() {
            self.tell_opened(port, acknowledge, 0, 0, state, None);
        }
    }

    pub(super) fn tell(&mut self, port: PortId, problem: Problem, reference: Option<String>) {
        let event = problem.about(&*self.name).answering(reference).into();
        self.actions.push_back(Action::ToExtension { port, event });
    }

    fn tell_queue_full(&mut self, port: PortId, reference: Option<String>) {
        let message = format!(
            "the queue of session `{}` towards the server is full; the message was not taken. Send it again when the \
             session is connected and the queue shorter",
            self.name
        );
        self.tell(port, Problem::new(Code::QueueFull, message), reference);
    }

    fn tell_not_stored(&mut self, port: PortId, reference: Option<String>) {
        let message = "the disk is full or does not work, so nothing can be stored; the message was not taken. Send it again \
                       when there is room";
        self.tell(port, Problem::new(Code::DiskFull, message), reference);
    }

    /// From now on nothing is stored.
    pub(super) fn tell_disk_full(&mut self, port: PortId) {
        let message = format!(
            "the disk is full or does not work: session `{}` takes no messages for the server, and what comes from it waits \
             in memory only. Free some space, or look into the log of websocket-bridge for what the system says",
            self.name
        );
        self.tell(port, Problem::new(Code::DiskFull, message), None);
    }

    fn tell_losses(&mut self, port: PortId) {
        let lost = std::mem::take(&mut self.lost);
        if lost == Losses::default() {
            return;
        }
        self.changed();
        let Losses { posts, outcomes, subscriptions } = lost;
        let lost = [
            (posts, "messages to the server with their ids: send again what has no receipt"),
            (outcomes, "endings of messages: if you send one of these again, it may arrive twice"),
            (subscriptions, "subscriptions: subscribe again"),
        ];
        let lost = lost.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let message = format!(
            "the file that session `{}` is kept in was damaged, and these cannot be read any more: {}",
            self.name,
            lost.collect::<Vec<_>>().join("; ")
        );
        self.tell(port, Problem::new(Code::Damaged, message), None);
    }

    /// The port asked for what only a consumer's port can have.
    pub(super) fn tell_no_place(&mut self, port: PortId, reference: Option<String>) {
        let name = &self.name;
        let problem = if self.inbox.is_observer(port) {
            let message = format!("this port only watches session `{name}`; open it without `observe` for that");
            Problem::new(Code::ReadOnly, message)
        } else {
            let message = format!("this port does not read session `{name}` (any more); send `open` first");
            Problem::new(Code::UnknownSession, message)
        };
        self.tell(port, problem, reference);
    }
}

/// What a template says of the subscription `key`.
fn message_about(key: &str, template: &Template) -> Body {
    let key = serde_json::Value::from(key).to_string();
    Body::Json(template.fill(Blank::Key, &key).into())
}

impl Delivery {
    fn action(self, session: &Arc<str>, number: u64) -> Action {
        let Self { port, seq, at, content, replay, attachment } = self;
        let tag = attachment.map(|attachment| Tag { session: number, attachment, seq });
        let session = Arc::clone(session);
        let event = match content {
            Content::Message(body) => Event::Message { session, seq, at, body, replay, tag },
            Content::Gap(gap) => Event::Gap { session, seq, gap, replay, tag },
        };
        Action::ToExtension { port, event }
    }
}
