//! One port of an extension, as the daemon sees it: a link to its host.
//!
//! Owns: reading requests from the link and answering those that no session must decide; writing events to it; and taking
//! leave of hosts when the daemon ends, perhaps for another one ([`crate::wire::link`]). Two tasks serve a link, one for each
//! direction, so that a slow reader stops only what goes to it.
//!
//! A port whose origin is empty is a person's (`person`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::core::{Core, SessionId};
use super::{endpoint, person};
use crate::log::{chain, harmless};
use crate::session::{Input, PortId};
use crate::wire::event::Problem;
use crate::wire::frame::{Decoder, FrameError, MAX_FROM_EXTENSION};
use crate::wire::link::{Control, ControlError};
use crate::wire::request::{Envelope, Malformed};
use crate::wire::{Code, Encoder, Event, Open, Request, Resumption};

/// Bytes that are encoded before they are written: enough to fill a write, little enough to keep none waiting.
const WRITE: usize = 64 * 1024;

/// How much may wait for the host before its requests are no longer read, by [`weight`]: an extension that asks and
/// never listens must not fill our memory with answers.
const MAX_WAITING: usize = 4096;

/// How much may wait before the port is closed: not only answers come unasked, and a host that takes nothing for so long
/// serves nobody.
const MAX_BEHIND: usize = 4 * MAX_WAITING;

/// What an event takes of [`MAX_WAITING`]: a status holds the figures of many sessions; deliveries have windows of their
/// own.
fn weight(event: &Event) -> usize {
    match event {
        event if event.is_delivery() => 0,
        Event::Status { sessions, .. } => 1 + 8 * sessions.len(),
        _ => 1,
    }
}

/// How long requests are read from a host that takes no events any more. It is gone, most likely, and what is left in the
/// link has an end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the daemon, when it ends, waits for hosts that make no progress with what they were saying; and for all of
/// them, whatever they do.
const SILENCE: Duration = Duration::from_secs(1);
const HEARING: Duration = Duration::from_secs(5);

/// What the daemon knows of a port.
pub(super) struct Port {
    queue: Rc<Queue>,
    requests: Rc<Requests>,
    /// The sessions that this port has open, by the names that it uses.
    pub(super) sessions: BTreeMap<String, SessionId>,
}

/// Events on their way to the host.
#[derive(Default)]
struct Queue {
    events: RefCell<VecDeque<Event>>,
    /// [`weight`] of each of them, and of all.
    weights: RefCell<VecDeque<usize>>,
    weight: Cell<usize>,
    /// The port announced that feature.
    batch: Cell<bool>,
    /// The host is to be told that it should say nothing more.
    stop: Cell<bool>,
    /// Nothing comes after what is here but the last word to the host.
    ending: Cell<bool>,
    last_word: RefCell<Option<Control>>,
    /// The link is closed.
    gone: Notify,
    /// The host takes nothing any more; what it said before is still read.
    deaf: Cell<bool>,
    /// Far too much waits.
    overrun: Notify,
    /// There is something to write.
    filled: Notify,
    /// There is room again.
    drained: Notify,
}

/// How far it is with what the host asks for.
#[derive(Default)]
struct Requests {
    /// Bytes that were read from the link.
    read: Cell<u64>,
    /// The same, without what was said about the link itself, when nothing of it was left over.
    taken: Cell<u64>,
    /// The host has nothing more to say, or is gone.
    heard_out: Notify,
    /// Nothing more is done that it asks for.
    over: Cell<bool>,
}

impl Port {
    /// Puts an event on its way.
    pub(super) fn send(&self, event: Event) {
        self.queue.send(event);
    }

    /// The last word to the host will be that the port moves to another daemon, where this is what it has open.
    pub(super) fn moves_with(&self, opens: &[Open]) {
        let opens = opens.iter().map(serde_json::value::to_raw_value).collect::<Result<_, _>>();
        let said = opens.and_then(|opens| serde_json::to_vec(&Resumption { batch: self.queue.batch.get(), opens }));
        match said {
            Ok(said) => {
                let moved = Control::Moved { taken: self.requests.taken.get(), port: said.into() };
                self.queue.last_word.replace(Some(moved));
            }
            Err(error) => error!(%error, "a port cannot be described, and ends"),
        }
    }

    /// Sends what is left, and closes the link.
    pub(super) fn end(&self) {
        self.queue.ending.set(true);
        self.queue.filled.notify_one();
    }
}

impl Queue {
    fn send(&self, event: Event) {
        if self.deaf.get() {
            return;
        }
        let weight = weight(&event);
        self.weights.borrow_mut().push_back(weight);
        self.weight.set(self.weight.get() + weight);
        if self.weight.get() > MAX_BEHIND {
            self.overrun.notify_one();
        }
        self.events.borrow_mut().push_back(event);
        self.filled.notify_one();
    }

    /// Moves what waits into `out`, up to about [`WRITE`] bytes. Returns whether anything is left.
    fn encode(&self, encoder: &mut Encoder, out: &mut BytesMut) -> bool {
        let mut events = self.events.borrow_mut();
        let before = events.len();
        let more = encoder.encode(&mut events, out, WRITE);
        let gone: usize = self.weights.borrow_mut().drain(..before - events.len()).sum();
        self.weight.set(self.weight.get() - gone);
        self.drained.notify_one();
        more
    }

    /// Nothing waits any more, and nothing will.
    fn deafen(&self) {
        self.deaf.set(true);
        self.events.borrow_mut().clear();
        self.weights.borrow_mut().clear();
        self.weight.set(0);
        self.drained.notify_one();
    }

    fn is_full(&self) -> bool {
        self.weight.get() >= MAX_WAITING
    }
}

/// Serves a host that has called, until one side is gone.
pub(super) async fn run(core: Rc<RefCell<Core>>, stream: Stream) {
    let path = core.borrow().paths.socket().to_owned();
    let mut leaving = core.borrow().leaving.subscribe();
    let link = tokio::select! {
        biased;
        // Whoever has not been answered calls again, and gets the next daemon.
        _ = leaving.wait_for(|leaving| *leaving) => return,
        link = endpoint::greet(stream, &path) => link,
    };
    let link = match link {
        Ok(link) => link,
        Err(error) => return warn!(error = %chain(&error), "a caller was turned away"),
    };
    if link.host.origin.is_empty() {
        return person::serve(&core, &link.stream).await;
    }
    let origin: Arc<str> = link.host.origin.into();
    let (queue, requests) = (Rc::<Queue>::default(), Rc::<Requests>::default());
    let id = {
        let mut core = core.borrow_mut();
        let id = PortId(core.next_number());
        let port = Port { queue: Rc::clone(&queue), requests: Rc::clone(&requests), sessions: BTreeMap::new() };
        core.ports.insert(id, port);
        core.need_changed.notify_one();
        id
    };
    info!(port = id.0, origin = %harmless(&origin), host = link.host.build, "port opened");
    // Through a `&Stream` each read would be followed by one that finds nothing, to learn that.
    let (reader, writer) = tokio::io::split(link.stream);
    let end = {
        let mut reading = std::pin::pin!(read_requests(&core, id, &origin, reader, &queue, &requests));
        tokio::select! {
            end = &mut reading => end,
            () = queue.overrun.notified() => "the host does not take what it is sent".to_owned(),
            end = write_events(&core, writer, &queue) => {
                if !queue.ending.get() {
                    // The host is gone, but what the extension posted last may still lie in the link.
                    queue.deafen();
                    let _ = tokio::time::timeout(LAST_WORDS, reading).await;
                }
                end
            }
        }
    };
    info!(port = id.0, reason = end, "port closed");
    requests.heard_out.notify_one();
    queue.gone.notify_one();
    let mut core = core.borrow_mut();
    if let Some(port) = core.ports.remove(&id) {
        for session in port.sessions.into_values() {
            core.input(session, Input::Detach { port: id });
        }
    }
    core.need_changed.notify_one();
}

/// Reads requests until the link ends; returns how it ended.
async fn read_requests(
    core: &Rc<RefCell<Core>>,
    id: PortId,
    origin: &Arc<str>,
    mut reader: ReadHalf<Stream>,
    queue: &Queue,
    requests: &Requests,
) -> String {
    let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
    // Bytes of what the host said about the link.
    let mut controls = 0;
    loop {
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => {
                return match decoder.finish() {
                    Ok(()) => "the host closed the link".into(),
                    Err(torn) => format!("the host closed the link: {torn}"),
                };
            }
            Ok(count) => requests.read.set(requests.read.get() + count as u64),
            Err(error) => return format!("cannot read from the host: {error}"),
        }
        loop {
            if requests.over.get() {
                return std::future::pending().await;
            }
            match decoder.next() {
                Ok(Some(frame)) => {
                    handle_frame(&mut core.borrow_mut(), id, origin, &frame);
                    // Others on this thread get their turn although more may be here.
                    tokio::task::coop::consume_budget().await;
                }
                Ok(None) => break,
                Err(error @ FrameError::TooLong { .. }) => {
                    queue.send(Problem::new(Code::TooLarge, format!("{error}; send it in parts")).into());
                }
                Err(torn @ FrameError::Torn { .. }) => return torn.to_string(),
                Err(FrameError::NoFrame) => {
                    let control = match Control::read(decoder.rest()) {
                        Ok(None) => break,
                        Ok(Some((control, length))) => {
                            decoder.pass_over(length);
                            controls += length as u64;
                            control
                        }
                        Err(error) => return error.to_string(),
                    };
                    match control {
                        Control::Resume { port } => resume(&mut core.borrow_mut(), id, origin, &port),
                        Control::Stopped => {
                            requests.taken.set(requests.read.get() - controls);
                            requests.heard_out.notify_one();
                            return std::future::pending().await;
                        }
                        Control::Stop | Control::Moved { .. } => return ControlError.to_string(),
                    }
                }
            }
            while queue.is_full() {
                queue.drained.notified().await;
            }
        }
        if decoder.finish().is_ok() {
            requests.taken.set(requests.read.get() - controls);
        }
    }
}

/// Writes events until the link ends; returns how it ended.
async fn write_events(core: &Rc<RefCell<Core>>, mut writer: WriteHalf<Stream>, queue: &Queue) -> String {
    let mut encoder = Encoder::default();
    let mut out = BytesMut::new();
    loop {
        if queue.batch.get() {
            encoder.allow_batches();
        }
        if queue.stop.take() {
            Control::Stop.put(&mut out);
        }
        let more = queue.encode(&mut encoder, &mut out);
        if out.is_empty() && !more {
            if !queue.ending.get() {
                queue.filled.notified().await;
                continue;
            }
            let Some(last) = queue.last_word.take() else { return "the daemon ends".into() };
            last.put(&mut out);
        }
        while out.has_remaining() {
            match writer.write_buf(&mut out).await {
                Ok(0) => return "the host takes no more".into(),
                Ok(_) => {}
                Err(error) => return format!("cannot write to the host: {error}"),
            }
        }
        if out.capacity() > 4 * WRITE {
            // A long message is gone; its room goes too.
            out = BytesMut::new();
        }
        for tag in encoder.take_written() {
            core.borrow_mut().input(SessionId(tag.session), Input::Written { tag });
        }
    }
}

fn handle_frame(core: &mut Core, id: PortId, origin: &Arc<str>, frame: &Bytes) {
    let mut reference = None;
    let handled = Envelope::read(frame).map_err(Problem::from).and_then(|envelope| {
        reference = envelope.reference()?;
        let request = envelope.request(frame)?;
        handle_request(core, id, origin, request, reference.clone())
    });
    let Err(problem) = handled else { return };
    debug!(port = id.0, code = problem.code.as_str(), "request refused");
    let mut problem = problem.answering(reference);
    // Read again, because next to no message needs it.
    let session = || Envelope::read(frame).ok()?.session_name();
    problem.session = problem.session.or_else(session);
    if let Some(port) = core.ports.get(&id) {
        port.send(problem.into());
    }
}

/// Goes on with a port that was another daemon's, which says how it was.
fn resume(core: &mut Core, id: PortId, origin: &Arc<str>, said: &[u8]) {
    let Resumption { batch, opens } = match serde_json::from_slice(said) {
        Ok(resumption) => resumption,
        Err(error) => return warn!(port = id.0, %error, "what the other daemon said of the port cannot be understood"),
    };
    info!(port = id.0, sessions = opens.len(), "the port was another daemon's");
    if let Some(port) = core.ports.get(&id) {
        port.queue.batch.set(batch);
    }
    for open in opens {
        handle_frame(core, id, origin, &Bytes::copy_from_slice(open.get().as_bytes()));
    }
}

/// Lets hosts end what they are saying and does what they ask for until then: afterwards nobody asks for anything.
pub(super) async fn hear_out(core: &Rc<RefCell<Core>>) {
    let all: Vec<_> = {
        let core = core.borrow();
        core.leaving.send_replace(true);
        let stop = |port: &Port| {
            port.queue.stop.set(true);
            port.queue.filled.notify_one();
            Rc::clone(&port.requests)
        };
        core.ports.values().map(stop).collect()
    };
    let heard_out = async {
        for requests in &all {
            requests.heard_out.notified().await;
        }
    };
    let read = || all.iter().map(|requests| requests.read.get()).sum::<u64>();
    let silence = async {
        let mut before = None;
        while before.replace(read()) != Some(read()) {
            tokio::time::sleep(SILENCE).await;
        }
    };
    tokio::select! {
        () = heard_out => {}
        () = silence => info!("a host does not end what it was saying"),
        () = tokio::time::sleep(HEARING) => info!("a host does not come to the end of what it was saying"),
    }
    for requests in all {
        requests.over.set(true);
    }
}

/// Waits until ports that were told to end are gone, which is when their hosts have taken what was left.
pub(super) async fn see_off(ports: &[Port]) {
    let all_gone = async {
        for port in ports {
            port.queue.gone.notified().await;
        }
    };
    // A browser that reads nothing loses its port.
    let _ = tokio::time::timeout(LAST_WORDS, all_gone).await;
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.code, malformed.message)
    }
}

fn handle_request(
    core: &mut Core,
    id: PortId,
    origin: &Arc<str>,
    request: Request,
    reference: Option<String>,
) -> Result<(), Problem> {
    match request {
        Request::Send { session, send } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Send { port: id, send, reference });
        }
        Request::Ack { session, seq, epoch } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Ack { port: id, seq, epoch, reference });
        }
        Request::Hello { batch } => {
            if let Some(port) = core.ports.get(&id) {
                port.queue.batch.set(batch || port.queue.batch.get());
                port.send(Event::Welcome { reference, origin: Arc::clone(origin) });
            }
        }
        Request::Open(open) => core.open(id, origin, open, reference)?,
        Request::Subscribe { session, key, payload } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Subscribe { port: id, key, payload, reference });
        }
        Request::Unsubscribe { session, key, payload } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Unsubscribe { port: id, key, payload, reference });
        }
        Request::Token { session, token, expires_at } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Token { port: id, token, expires_at, reference });
        }
        Request::Reconnect { session } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Reconnect { port: id, reference });
        }
        Request::Close { session, forget, code, reason } => {
            let session = opened(core, id, &session)?;
            core.input(session, Input::Close { forget, code, reason });
        }
        Request::Detach { session } => {
            let number = opened(core, id, &session)?;
            core.input(number, Input::Detach { port: id });
            // In direct mode the name stays taken until everything is said.
            if !core.is_attached(number, id)
                && let Some(port) = core.ports.get_mut(&id)
            {
                port.sessions.remove(&session);
            }
        }
        // To gather figures takes time, and nobody would read them.
        Request::Status { .. } if core.ports.get(&id).is_none_or(|port| port.queue.deaf.get()) => {}
        Request::Status { session } => {
            let only = session.map(|session| opened(core, id, &session)).transpose()?;
            let sessions = core.statuses_for(id, origin, only);
            if let Some(port) = core.ports.get(&id) {
                port.send(Event::Status { reference, sessions });
            }
        }
    }
    Ok(())
}

fn opened(core: &Core, id: PortId, session: &str) -> Result<SessionId, Problem> {
    core.ports.get(&id).and_then(|port| port.sessions.get(session)).copied().ok_or_else(|| {
        let message = format!("this port has not opened session `{session}`; send `open` first");
        Problem::new(Code::UnknownSession, message)
    })
}
