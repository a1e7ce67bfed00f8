//! The extension: a worker for each consumer, which comes and goes with its port, and behind it a memory that stays, as
//! that of a careful extension would. It processes what comes, then acknowledges; it posts, and posts again what it does
//! not know to be stored.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::ambush::{Ambush, Moment};
use crate::fault::Kind;
use crate::log::{Consumer, Event, Gap, Log, PortId, Post, Stage};
use crate::machine::{Machine, ORIGIN, signal};
use crate::numbered::Body;
use crate::port::Port;
use crate::server::Marks;

/// How often a worker looks at its watch.
const TICK: Duration = Duration::from_millis(4);

/// Within this time it is open which of two ports the daemon hears first; it may be suspended, or busy.
const SOON: Duration = Duration::from_secs(3);

/// The session that all of this is about.
const SESSION: &str = "torture";

/// How many messages that were received a worker may ask about again.
const REMEMBERED: usize = 12;

/// What a worker is told to do, or to suffer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    /// Its host is killed.
    KillHost,
    /// It dies, and comes back after that time.
    Die { back_after: Duration },
    /// It opens a second port, and closes the first when that has taken over.
    OpenAnother,
    /// Its browser reads nothing, or reads on.
    Stall(bool),
    /// It acknowledges nothing, or does so again.
    StopAcks(bool),
    /// Its host does not run, or runs on.
    Suspend(bool),
    /// It posts so many messages at once.
    PostMany(u32),
    /// It posts nothing new, opens a new port, and asks what became of everything that it does not know to have ended.
    AskForAll,
}

/// A worker, from outside.
pub(crate) struct Worker {
    inputs: SyncSender<Input>,
    /// How many of its posts have no ending that it knows of.
    unfinished: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What both workers of a world are born with.
#[derive(Clone)]
pub(crate) struct Upbringing {
    pub(crate) log: Arc<Log>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) ambush: Arc<Ambush>,
    pub(crate) url: String,
    /// `open.settings`.
    pub(crate) settings: serde_json::Value,
    /// Numbers of ports.
    pub(crate) ports: Arc<AtomicU32>,
}

enum Input {
    Message(PortId, Vec<u8>),
    Over(PortId),
    Command(Command, SyncSender<bool>),
    End,
}

impl Worker {
    pub(crate) fn start(consumer: Consumer, upbringing: Upbringing, seed: u64) -> Self {
        // Bounded: who does not get round to reading stops the host.
        let (inputs, taken) = sync_channel(64);
        let unfinished = Arc::<AtomicUsize>::default();
        let life = Life {
            consumer,
            upbringing,
            rng: fastrand::Rng::with_seed(seed),
            inputs: inputs.clone(),
            present: None,
            leaving: Vec::new(),
            return_at: Some(Instant::now()),
            last_opened: None,
            posts: BTreeMap::new(),
            received: VecDeque::new(),
            last_post: 0,
            post_at: Instant::now(),
            quiet: false,
            ask_for_all: false,
            acks_stopped: false,
            unfinished: Arc::clone(&unfinished),
        };
        Self { inputs, unfinished, thread: Some(thread::spawn(move || life.live(&taken))) }
    }

    /// Says whether it could be done.
    pub(crate) fn command(&self, command: Command) -> bool {
        let (done, answer) = sync_channel(1);
        self.inputs.send(Input::Command(command, done)).is_ok() && answer.recv().unwrap_or(false)
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.inputs.send(Input::End);
        if let Some(thread) = self.thread.take() {
            // It has told on its standard error what was wrong, if anything was.
            let _ = thread.join();
        }
    }
}

struct Life {
    consumer: Consumer,
    upbringing: Upbringing,
    rng: fastrand::Rng,
    inputs: SyncSender<Input>,
    present: Option<Present>,
    /// Ports that are closed, and one that another has taken over from.
    leaving: Vec<Port>,
    return_at: Option<Instant>,
    last_opened: Option<Instant>,
    /// What is not known to have ended.
    posts: BTreeMap<u64, Letter>,
    /// The last few that were received.
    received: VecDeque<(u64, Letter)>,
    last_post: u64,
    post_at: Instant,
    quiet: bool,
    ask_for_all: bool,
    acks_stopped: bool,
    unfinished: Arc<AtomicUsize>,
}

/// The port that the worker uses.
struct Present {
    port: Port,
    /// It was opened soon after another one.
    is_second: bool,
    /// Epoch and head as `opened` told them.
    opened: Option<(Box<str>, u64)>,
    chunks: Vec<String>,
    manner: Manner,
    /// The highest number that was processed, and the highest that was acknowledged.
    processed: u64,
    acked: u64,
    waiting: u32,
    ack_at: Option<Instant>,
}

/// How a worker acknowledges.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Promptly,
    Late(Duration),
    InBursts(u32),
}

/// A message to the server that is not known to have ended.
struct Letter {
    stored: bool,
    resend: bool,
    ttl: Option<Duration>,
}

/// A native message, with the fields of all kinds.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, rename = "ref")]
    reference: Option<Cow<'a, str>>,
    seq: Option<u64>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    binary: Option<Cow<'a, str>>,
    #[serde(default)]
    replay: bool,
    from: Option<u64>,
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
    count: Option<u64>,
    at_most: Option<u64>,
    since: Option<u64>,
    until: Option<u64>,
    epoch: Option<Box<str>>,
    acked: Option<u64>,
    head: Option<u64>,
    pending: Option<u64>,
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    stage: Option<Cow<'a, str>>,
    ids: Option<Vec<String>>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
    index: Option<u64>,
    data: Option<String>,
}

impl Life {
    fn live(mut self, inputs: &Receiver<Input>) {
        loop {
            match inputs.recv_timeout(TICK) {
                Ok(Input::Message(port, message)) => self.take(port, &message),
                Ok(Input::Over(port)) => self.over(port),
                Ok(Input::Command(command, done)) => {
                    let _ = done.send(self.suffer(command));
                }
                Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if self.present.is_none() && self.return_at.is_some_and(|at| at <= now) {
                self.open_port();
            }
            self.post_next(now);
            self.acknowledge_if_due(now);
            self.leaving.retain_mut(|port| !port.is_gone());
            self.unfinished.store(self.posts.len(), Ordering::Relaxed);
        }
        if let Some(mut present) = self.present.take() {
            present.port.close();
            self.leaving.push(present.port);
        }
        while !self.leaving.is_empty() {
            // What still comes is for nobody, but no port can leave that has not said it.
            let _ = inputs.recv_timeout(TICK);
            self.leaving.retain_mut(|port| !port.is_gone());
        }
    }

    fn log(&self) -> &Log {
        &self.upbringing.log
    }

    fn suffer(&mut self, command: Command) -> bool {
        match command {
            Command::StopAcks(stop) => {
                if stop {
                    self.log().add(Event::Fault(Kind::AcksStopped, Some(self.consumer)));
                }
                self.acks_stopped = stop;
                return true;
            }
            Command::PostMany(count) => {
                (0..count).for_each(|_| self.post_new());
                return true;
            }
            Command::AskForAll => {
                (self.quiet, self.ask_for_all) = (true, true);
                self.close_port(Duration::ZERO);
                return true;
            }
            _ => {}
        }
        let Some(present) = &mut self.present else { return false };
        let (log, consumer) = (Arc::clone(&self.upbringing.log), Some(self.consumer));
        match command {
            Command::KillHost => {
                log.add(Event::Fault(Kind::HostKilled, consumer));
                present.port.kill();
            }
            Command::Die { back_after } => {
                log.add(Event::Fault(Kind::WorkerGone, consumer));
                self.close_port(back_after);
            }
            Command::OpenAnother => {
                log.add(Event::Fault(Kind::TakenOver, consumer));
                self.leaving.extend(self.present.take().map(|present| present.port));
                self.open_port();
            }
            Command::Stall(stall) => {
                if stall {
                    log.add(Event::Fault(Kind::ReaderStalled, consumer));
                }
                present.port.stall(stall);
            }
            Command::Suspend(suspend) => {
                if suspend {
                    log.add(Event::Fault(Kind::HostSuspended, consumer));
                }
                signal(present.port.pid(), if suspend { Signal::SIGSTOP } else { Signal::SIGCONT });
            }
            Command::StopAcks(_) | Command::PostMany(_) | Command::AskForAll => {}
        }
        true
    }

    /// The worker dies, or its host did.
    fn close_port(&mut self, back_after: Duration) {
        if let Some(mut present) = self.present.take() {
            self.log().add(Event::Closed(present.port.id));
            present.port.close();
            self.leaving.push(present.port);
        }
        self.return_at = Some(Instant::now() + back_after);
    }

    fn open_port(&mut self) {
        let number = self.upbringing.ports.fetch_add(1, Ordering::Relaxed) + 1;
        let id = PortId { consumer: self.consumer, number };
        self.log().add(Event::Started(id));
        let inputs = self.inputs.clone();
        let came = move |message: Option<&[u8]>| {
            // Nobody listens any more when all is over.
            let _ = inputs.send(match message {
                Some(message) => Input::Message(id, message.to_vec()),
                None => Input::Over(id),
            });
        };
        let mut command = self.upbringing.machine.command();
        command.arg(ORIGIN);
        let port = match Port::open(id, command, came) {
            Ok(port) => port,
            Err(error) => return self.log().wrong(format!("a host cannot be started: {error}")),
        };
        if self.rng.bool() {
            port.post(json!({"type": "hello", "protocol": 1, "features": ["batch"]}).to_string());
        }
        let (consumer, settings) = (self.consumer.name(), &self.upbringing.settings);
        let mut open = json!({"type": "open", "session": SESSION, "consumer": consumer, "url": self.upbringing.url});
        open["settings"] = settings.clone();
        port.post(open.to_string());
        let manner = match self.rng.u32(..4) {
            0 => Manner::Late(Duration::from_millis(self.rng.u64(20..400))),
            1 => Manner::InBursts(self.rng.u32(5..200)),
            _ => Manner::Promptly,
        };
        self.return_at = None;
        let before = self.last_opened.replace(Instant::now());
        self.present = Some(Present {
            port,
            is_second: before.is_some_and(|before| before.elapsed() < SOON),
            opened: None,
            chunks: Vec::new(),
            manner,
            processed: 0,
            acked: 0,
            waiting: 0,
            ack_at: None,
        });
    }

    /// A host has closed its output.
    fn over(&mut self, port: PortId) {
        self.log().add(Event::Over(port));
        if self.present.as_ref().is_some_and(|present| present.port.id == port) {
            let back_after = Duration::from_millis(self.rng.u64(..300));
            self.close_port(back_after);
        } else if let Some(port) = self.leaving.iter_mut().find(|leaving| leaving.id == port) {
            port.close();
        }
    }

    /// Takes a native message.
    fn take(&mut self, port: PortId, message: &[u8]) {
        let is_present = self.present.as_ref().is_some_and(|present| present.port.id == port);
        if !is_present {
            // A dead worker processes nothing; of a port that another took over from, nobody cares what it still says.
            return;
        }
        if message.len() > 1024 * 1024 {
            self.log().wrong(format!("{port}: a native message of {} bytes", message.len()));
        }
        let Ok(text) = std::str::from_utf8(message) else {
            return self.log().wrong(format!("{port}: a native message that is not UTF-8"));
        };
        match serde_json::from_str::<Incoming<'_>>(text) {
            Ok(incoming) if incoming.kind == "chunk" => self.take_chunk(&incoming),
            Ok(incoming) => {
                if self.present.as_ref().is_some_and(|present| !present.chunks.is_empty()) {
                    self.log().wrong(format!("{port}: {} between the chunks of another message", incoming.kind));
                }
                self.take_whole(port, &incoming);
            }
            Err(error) => self.log().wrong(format!("{port}: {error} in {text:.200}")),
        }
    }

    fn take_chunk(&mut self, chunk: &Incoming<'_>) {
        let Some(present) = &mut self.present else { return };
        let port = present.port.id;
        if chunk.index != Some(present.chunks.len() as u64) {
            self.upbringing.log.wrong(format!("{port}: chunk {:?} out of its place", chunk.index));
        }
        present.chunks.extend(chunk.data.clone());
        if chunk.count == Some(present.chunks.len() as u64) {
            let whole = std::mem::take(&mut present.chunks).concat();
            match serde_json::from_str::<Incoming<'_>>(&whole) {
                Ok(incoming) => self.take_whole(port, &incoming),
                Err(error) => self.log().wrong(format!("{port}: {error} in what was put together from chunks")),
            }
        }
    }

    fn take_whole(&mut self, port: PortId, incoming: &Incoming<'_>) {
        match &*incoming.kind {
            "message" => self.take_message(port, incoming),
            "gap" => self.take_gap(port, incoming),
            "batch" => {
                for element in incoming.messages.iter().flatten() {
                    match serde_json::from_str::<Incoming<'_>>(element.get()) {
                        Ok(element) => self.take_whole(port, &element),
                        Err(error) => self.log().wrong(format!("{port}: {error} in a batch")),
                    }
                }
            }
            "opened" => self.take_opened(port, incoming),
            "receipt" => self.take_receipt(port, incoming),
            "welcome" => {
                let acked = incoming.reference.as_ref().and_then(|text| text.strip_prefix("ack-")?.parse().ok());
                if let Some(seq) = acked {
                    self.log().add(Event::AckTaken { port, seq });
                }
            }
            "state" => {
                let reason = incoming.reason.map(|reason| reason.get()).unwrap_or_default();
                self.log().note(format!("{port}: {} {reason}", incoming.state.as_deref().unwrap_or_default()));
            }
            "error" => self.take_error(port, incoming),
            kind => self.log().wrong(format!("{port}: nobody asked for a message of type {kind}")),
        }
    }

    fn take_message(&mut self, port: PortId, incoming: &Incoming<'_>) {
        let body = match incoming {
            Incoming { payload: Some(payload), .. } => Some(Body::Json(payload.get().to_owned())),
            Incoming { text: Some(text), .. } => Some(Body::Text(text.clone().into_owned())),
            Incoming { binary: Some(binary), .. } => BASE64.decode(&**binary).ok().map(Body::Binary),
            _ => None,
        };
        let (Some(seq), Some((push, number))) = (incoming.seq, body.and_then(|body| body.numbers())) else {
            let what = "a message without a number, or one that was never sent, or was changed";
            return self.log().wrong(format!("{port}: {what}: seq {:?}", incoming.seq));
        };
        self.log().add(Event::Delivered { port, seq, push, number });
        self.upbringing.ambush.spring(Moment::Delivered, self.log());
        self.upbringing.marks.advance(self.consumer, number);
        self.processed(seq, incoming.replay);
    }

    fn take_gap(&mut self, port: PortId, incoming: &Incoming<'_>) {
        let reason = incoming.reason.and_then(|reason| serde_json::from_str(reason.get()).ok());
        let (Some(seq), Some(from), Some(reason)) = (incoming.seq, incoming.from, reason) else {
            return self.log().wrong(format!("{port}: a gap without a number or a reason"));
        };
        if incoming.since > incoming.until {
            self.log().wrong(format!("{port}: gap {seq} is since {:?} until {:?}", incoming.since, incoming.until));
        }
        let (count, at_most) = (incoming.count, incoming.at_most);
        self.log().add(Event::Missing { port, seq, gap: Box::new(Gap { from, reason, count, at_most }) });
        self.processed(seq, incoming.replay);
    }

    /// What came under `seq` is done: it may be acknowledged.
    fn processed(&mut self, seq: u64, replay: bool) {
        let Some(present) = &mut self.present else { return };
        let port = present.port.id;
        match &present.opened {
            Some((_, head)) if replay != (seq <= *head) => {
                self.upbringing.log.wrong(format!("{port}: seq {seq} with head {head} says replay: {replay}"));
            }
            None => self.upbringing.log.wrong(format!("{port}: seq {seq} before `opened`")),
            _ => {}
        }
        present.processed = seq;
        present.waiting += 1;
        let now = Instant::now();
        let due = match present.manner {
            Manner::Promptly => now,
            Manner::Late(delay) => now + delay,
            Manner::InBursts(count) if present.waiting >= count => now,
            // A window must not stay full for ever, nor an inbox at the end.
            Manner::InBursts(_) => now + Duration::from_millis(1500),
        };
        present.ack_at = Some(present.ack_at.map_or(due, |at| at.min(due)));
    }

    fn acknowledge_if_due(&mut self, now: Instant) {
        let Some(present) = &mut self.present else { return };
        if self.acks_stopped || present.ack_at.is_none_or(|at| at > now) || present.processed <= present.acked {
            return;
        }
        (present.ack_at, present.waiting) = (None, 0);
        let (port, seq) = (present.port.id, present.processed);
        present.acked = seq;
        self.upbringing.log.add(Event::Acked { port, seq });
        let mut ack = json!({"type": "ack", "session": SESSION, "seq": seq});
        if let Some((epoch, _)) = present.opened.as_ref().filter(|_| self.rng.bool()) {
            ack["epoch"] = (**epoch).into();
        }
        present.port.post(ack.to_string());
        if self.rng.u32(..8) == 0 {
            // Requests are answered in their order.
            present.port.post(json!({"type": "hello", "protocol": 1, "ref": format!("ack-{seq}")}).to_string());
        }
    }

    fn take_opened(&mut self, port: PortId, incoming: &Incoming<'_>) {
        let &Incoming { acked: Some(acked), head: Some(head), pending: Some(pending), .. } = incoming else {
            return self.log().wrong(format!("{port}: `opened` without acked, head or pending"));
        };
        let epoch = incoming.epoch.clone().unwrap_or_default();
        self.log().add(Event::Opened { port, epoch: epoch.clone(), acked, head, pending });
        self.upbringing.ambush.spring(Moment::Opened, self.log());
        let Some(present) = &mut self.present else { return };
        (present.opened, present.processed, present.acked) = (Some((epoch, head)), acked, acked);
        // One that took over has no use for the older one, sooner or later.
        self.leaving.iter_mut().for_each(Port::close);
        let unsure = self.rng.usize(..=self.received.len());
        for (number, letter) in self.received.iter().take(unsure) {
            // Whoever is not sure asks: nothing is sent again for that.
            self.post(*number, letter);
        }
        let ask_for_all = self.ask_for_all || self.rng.bool();
        for (number, letter) in &self.posts {
            if ask_for_all || !letter.stored {
                self.post(*number, letter);
            }
        }
    }

    /// Posts something new, if it is time for that; without a port it is kept until there is one.
    fn post_next(&mut self, now: Instant) {
        if self.quiet || self.post_at > now {
            return;
        }
        self.post_at = now + Duration::from_millis(self.rng.u64(..200));
        self.post_new();
    }

    fn post_new(&mut self) {
        self.last_post += 1;
        let ttl = (self.rng.u32(..12) == 0).then(|| Duration::from_millis(self.rng.u64(200..3000)));
        let letter = Letter { stored: false, resend: self.rng.u32(..12) > 0, ttl };
        if self.present.as_ref().is_some_and(|present| present.opened.is_some()) {
            self.post(self.last_post, &letter);
        }
        self.posts.insert(self.last_post, letter);
    }

    fn post(&self, number: u64, letter: &Letter) {
        let Some(present) = &self.present else { return };
        let (port, post) = (present.port.id, Post { consumer: self.consumer, number });
        let Letter { resend, ttl, .. } = *letter;
        self.log().add(Event::Posted { port, post, resend, ttl });
        let body = match Body::of(self.consumer as u64, number) {
            Body::Json(text) => format!(r#""payload":{text}"#),
            Body::Text(text) => format!(r#""text":{}"#, json!(text)),
            Body::Binary(bytes) => format!(r#""binary":"{}""#, BASE64.encode(bytes)),
        };
        let ttl = ttl.map(|ttl| format!(r#","ttl_ms":{}"#, ttl.as_millis())).unwrap_or_default();
        let id = post.id();
        present
            .port
            .post(format!(r#"{{"type":"send","session":"{SESSION}","id":"{id}","resend":{resend}{ttl},{body}}}"#));
    }

    fn take_receipt(&mut self, port: PortId, incoming: &Incoming<'_>) {
        let stage = incoming.stage.as_deref().and_then(Stage::named);
        let Some(stage) = stage else {
            return self.log().wrong(format!("{port}: a receipt for the stage {:?}", incoming.stage));
        };
        let reason: Option<Box<str>> = incoming.reason.and_then(|reason| serde_json::from_str(reason.get()).ok());
        for id in incoming.ids.iter().flatten() {
            let Some(post) = Post::from_id(id) else {
                self.log().wrong(format!("{port}: a receipt for {id:?}"));
                continue;
            };
            self.log().add(Event::Receipt { port, post, stage, reason: reason.clone() });
            match stage {
                Stage::Stored => self.upbringing.ambush.spring(Moment::Stored, self.log()),
                Stage::Received => self.upbringing.ambush.spring(Moment::Received, self.log()),
                _ => {}
            }
            match stage {
                Stage::Stored => {
                    if let Some(letter) = self.posts.get_mut(&post.number) {
                        letter.stored = true;
                    }
                }
                Stage::Received => {
                    if let Some(letter) = self.posts.remove(&post.number) {
                        self.received.truncate(REMEMBERED - 1);
                        self.received.push_front((post.number, letter));
                    }
                }
                Stage::Expired | Stage::Refused => drop(self.posts.remove(&post.number)),
            }
        }
    }

    fn take_error(&mut self, port: PortId, incoming: &Incoming<'_>) {
        let code = incoming.code.as_deref().unwrap_or_default();
        let text = format!("{port}: error {code}: {}", incoming.message.as_deref().unwrap_or_default());
        match code {
            // The acknowledgements were stopped, or are late.
            "ack-overdue" => self.log().note(text),
            // Each message that was not taken for that has its receipt, which is judged.
            "disk-full" => self.log().note(text),
            // The host found no daemon: `reckoning` knows whether anybody is to blame. The port is over.
            "daemon-unavailable" => self.log().note(text),
            // Of two ports that were opened at about the same time, each with its own host, either may be the later one
            // for the daemon.
            "superseded" if self.present.as_ref().is_some_and(|present| present.is_second) => {
                self.log().note(text);
                self.close_port(Duration::from_millis(10));
            }
            _ => self.log().wrong(text),
        }
    }
}
