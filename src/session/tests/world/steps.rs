//! What can happen to a session, and how often it does.

use fastrand::Rng;

use super::*;

/// One thing that happens. What cannot happen at its time does not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Open(Opening),
    OpenElsewhere {
        port: u64,
    },
    Detach {
        port: u64,
    },
    BrowserQuits,
    /// The browser takes so many messages.
    Written {
        port: u64,
        messages: usize,
    },
    /// Of what was delivered and not acknowledged, so many percent.
    Ack {
        port: u64,
        percent: u64,
    },
    AckBelow {
        port: u64,
    },
    AckAhead {
        port: u64,
    },
    AckOldEpoch {
        port: u64,
    },
    Send {
        port: u64,
        id: bool,
        ttl_ms: Option<u64>,
        resend: bool,
        receipts: Option<&'static [Stage]>,
        bytes: usize,
    },
    /// The id of an earlier message, counted from the last.
    Repeat {
        port: u64,
        back: usize,
    },
    /// Without `bytes` there is no payload.
    Subscribe {
        port: u64,
        key: &'static str,
        version: u8,
        bytes: Option<usize>,
    },
    Unsubscribe {
        port: u64,
        key: &'static str,
        payload: bool,
    },
    /// The attempt succeeds, and perhaps the server says at once over which window those who lose it are to return.
    Connected {
        window_ms: Option<u64>,
    },
    /// The attempt fails.
    Refused(Loss),
    /// The connection ends.
    Dropped(Loss),
    /// The connection ends so again and again, as soon as it is made again.
    Flaps {
        loss: Loss,
        times: usize,
    },
    Frames {
        count: usize,
        content: Content,
    },
    /// The server sends a ping of its own.
    Alive,
    /// The server takes so many messages and pings from its socket.
    ServerReads {
        things: usize,
    },
    /// From now on the server does not answer pings, or does again.
    ServerIsMute(bool),
    /// The same for the ping messages of its own kind.
    ServerIgnoresBeats(bool),
    /// From now on the system does not take what is sent, or does again.
    SystemIsStuck(bool),
    /// Something that an older attempt reports late.
    Stale {
        what: u8,
    },
    Wait {
        ms: u64,
    },
    /// The daemon is busy: time passes, and what happens next comes before the timers.
    Stall {
        ms: u64,
    },
    /// The machine sleeps: time passes, and the timers are served late, after it was told so or before.
    Sleep {
        ms: u64,
        told: bool,
    },
    /// From now on the disk takes its time, or does not any more.
    DiskIsSlow(bool),
    /// What is under way on a slow disk is done.
    DiskSaves,
    DiskReads,
    /// What is being read cannot be.
    DiskIsDamaged,
    /// So much is read at once.
    DiskPage {
        bytes: usize,
    },
    /// The next writes fail.
    DiskFails {
        times: usize,
    },
    /// From now on the disk takes no messages, or does again.
    DiskIsFull(bool),
    /// The daemon is killed. What was under way to the disk got there, or did not.
    Crash {
        lands: bool,
        outage: Outage,
    },
    /// The daemon is told to end.
    Stop {
        outage: Outage,
    },
    NetworkChanged,
    /// Somebody sets the wall clock.
    WallClock {
        ms: i64,
    },
    /// A configuration file says something else.
    Configure {
        settings: u64,
    },
    Close {
        port: u64,
        forget: bool,
    },
    Reconnect {
        port: u64,
    },
}

/// What a port asks for when it opens the session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) port: u64,
    pub(super) consumer: &'static str,
    pub(super) observe: bool,
    pub(super) auto: bool,
    pub(super) text: bool,
    pub(super) after: Named,
    /// [`settings`] that it carries.
    pub(super) settings: Option<u64>,
    /// The URL's query, if it names the server at all.
    pub(super) query: Option<u8>,
    /// The sub-protocol that it offers, if it speaks of them.
    pub(super) protocol: Option<&'static str>,
}

impl Opening {
    pub(super) fn plain(port: u64, consumer: &'static str) -> Self {
        let (observe, auto, text, after) = (false, false, false, Named::No);
        Self { port, consumer, observe, auto, text, after, settings: None, query: None, protocol: None }
    }
}

/// The place that an `open` names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named {
    No,
    /// So many percent of the head.
    Behind(u64),
    AboveHead,
    /// One that no epoch has.
    OtherEpoch,
}

/// What happens until another daemon is started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outage {
    pub(super) ms: u64,
    /// Somebody sets the wall clock.
    pub(super) jump_ms: i64,
    pub(super) damage: Damage,
}

/// What the file loses: every so many of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Damage {
    #[default]
    No,
    /// Messages and gaps, without a trace.
    Rows { every: usize },
    /// Messages, which nobody notices before they are read.
    Bodies { every: usize },
    /// Messages to the server, without a trace.
    Posts { every: usize },
    /// Their content.
    PostBodies { every: usize },
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    pub(super) end: End,
    pub(super) hint: Option<Hint>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Code(&'static str),
    Status(u16),
    Close(u16),
}

impl Loss {
    pub(super) fn reason(self) -> Reason {
        let (code, http_status, close_code) = match self.end {
            End::Code(code) => (code, None, None),
            End::Status(status) => ("http-status", Some(status), None),
            End::Close(code) => ("closed", None, Some(code)),
        };
        Reason { code, http_status, close_code, hint: self.hint, ..reset() }
    }
}

/// What a message of the server is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Small,
    Bytes(usize),
    /// Like those of one of [`COLLAPSES`], with this key.
    Progress {
        which: usize,
        key: u8,
    },
    /// The answer to a ping message, though perhaps nobody asked.
    Pong,
    /// Names a window for those who lose the server; it counts if it is the first message.
    Greeting {
        window_ms: u64,
    },
    /// Names the id of a message that the server has, or of none.
    Acknowledgement,
}

/// The server's own kind of ping message, and the answer to it.
pub(super) const BEAT: &str = r#"{"type":"ping"}"#;
pub(super) const BEAT_REPLY: &str = r#"{"t":1,"type":"pong"}"#;

/// What `inbox.collapse` may be.
pub(super) static COLLAPSES: LazyLock<[Collapse; 2]> = LazyLock::new(|| {
    [
        Collapse { when: json!({"type": "progress"}), key: "/task".into() },
        Collapse { when: json!({"data": {"type": "progress"}}), key: "/data/task".into() },
    ]
});

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// Everything that happens in one life of a session.
///
/// Each history has its own weather: some things happen in it often, some never. What needs many of one kind in a row, or
/// long times without another, would otherwise hardly ever come about.
pub(super) fn history(rng: &mut Rng) -> Vec<Step> {
    let weights: Vec<u32> = STEPS
        .iter()
        .map(|(weight, _)| match rng.u32(0..10) {
            0 => 0,
            1..=7 => 2 * weight,
            _ => 8 * weight,
        })
        .collect();
    let sum = weights.iter().sum::<u32>() + 1;
    let length = if rng.u32(0..8) == 0 { rng.usize(400..1500) } else { rng.usize(1..400) };
    let one = |rng: &mut Rng| {
        let mut at = rng.u32(0..sum);
        for (weight, (_, make)) in weights.iter().zip(STEPS) {
            if at < *weight {
                return make(rng);
            }
            at -= weight;
        }
        Step::Connected { window_ms: None }
    };
    std::iter::repeat_with(|| one(rng)).take(length).collect()
}

type Make = fn(&mut Rng) -> Step;

/// How often each thing happens, beside the others.
const STEPS: &[(u32, Make)] = &[
    (14, |rng| Step::Open(opening(rng))),
    (1, |rng| Step::OpenElsewhere { port: port(rng) }),
    (4, |rng| Step::Detach { port: port(rng) }),
    (1, |_| Step::BrowserQuits),
    (10, |rng| Step::Written { port: port(rng), messages: rng.usize(1..30) }),
    (10, |rng| Step::Ack { port: port(rng), percent: rng.u64(0..=100) }),
    (10, |rng| Step::Ack { port: port(rng), percent: 100 }),
    (1, |rng| Step::AckBelow { port: port(rng) }),
    (1, |rng| Step::AckAhead { port: port(rng) }),
    (1, |rng| Step::AckOldEpoch { port: port(rng) }),
    (24, send),
    (3, |rng| Step::Repeat { port: port(rng), back: rng.usize(0..12) }),
    (6, |rng| Step::Subscribe {
        port: port(rng),
        key: pick(rng, &KEYS),
        version: rng.u8(0..2),
        bytes: pick(rng, &[None, Some(0), Some(0), Some(0), Some(700), Some(700)]),
    }),
    (3, |rng| Step::Unsubscribe { port: port(rng), key: pick(rng, &KEYS), payload: rng.u8(0..8) > 0 }),
    (16, |rng| Step::Connected { window_ms: one_in(rng, 6).then(|| pick(rng, &[0, 7_000, 900_000, u64::MAX])) }),
    (5, |rng| Step::Refused(Loss { end: refusal(rng), hint: hint(rng) })),
    (5, |rng| Step::Dropped(Loss { end: drop(rng), hint: hint(rng) })),
    (2, |rng| Step::Flaps { loss: Loss { end: drop(rng), hint: None }, times: rng.usize(2..6) }),
    (24, frames),
    (1, |_| Step::Alive),
    (20, |rng| Step::ServerReads { things: rng.usize(1..20) }),
    (2, |rng| Step::ServerIsMute(rng.u8(0..5) < 2)),
    (1, |rng| Step::ServerIgnoresBeats(rng.bool())),
    (1, |rng| Step::SystemIsStuck(rng.u8(0..5) < 2)),
    (2, |rng| Step::Stale { what: rng.u8(0..5) }),
    (16, |rng| Step::Wait { ms: moment(rng) }),
    (2, |rng| Step::Stall { ms: moment(rng) }),
    (3, |rng| Step::Sleep { ms: sleep(rng), told: rng.u8(0..3) > 0 }),
    (1, |_| Step::Sleep { ms: 0, told: true }),
    (2, |rng| Step::DiskIsSlow(rng.u8(0..5) < 3)),
    (14, |_| Step::DiskSaves),
    (14, |_| Step::DiskReads),
    (1, |_| Step::DiskIsDamaged),
    (1, |rng| Step::DiskPage { bytes: pick(rng, &[1, 200, 3000, 1 << 20]) }),
    (1, |rng| Step::DiskFails { times: rng.usize(0..3) }),
    (2, |rng| Step::DiskIsFull(rng.u8(0..5) < 2)),
    (3, |rng| Step::Crash { lands: rng.bool(), outage: outage(rng) }),
    (1, |rng| Step::Stop { outage: outage(rng) }),
    (2, |_| Step::NetworkChanged),
    (1, |rng| Step::WallClock { ms: rng.i64(-2_000_000..2_000_000) }),
    (2, |rng| Step::Configure { settings: wish(rng) }),
    (1, |rng| Step::Close { port: port(rng), forget: rng.u8(0..3) == 0 }),
    (3, |rng| Step::Reconnect { port: port(rng) }),
];

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

fn one_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(0..times) == 0
}

fn port(rng: &mut Rng) -> u64 {
    rng.u64(1..=PORTS)
}

fn opening(rng: &mut Rng) -> Opening {
    let after = match rng.u8(0..10) {
        0..6 => Named::No,
        6 | 7 => Named::Behind(rng.u64(0..=100)),
        8 => Named::AboveHead,
        _ => Named::OtherEpoch,
    };
    Opening {
        port: port(rng),
        consumer: pick(rng, &CONSUMERS),
        observe: one_in(rng, 6),
        auto: one_in(rng, 4),
        text: one_in(rng, 5),
        after,
        settings: one_in(rng, 6).then(|| wish(rng)),
        query: one_in(rng, 5).then(|| rng.u8(0..2)),
        protocol: one_in(rng, 6).then(|| pick(rng, &["chat", "news"])),
    }
}

fn send(rng: &mut Rng) -> Step {
    use Stage::{Acknowledged, Received, Stored};
    const RECEIPTS: [Option<&[Stage]>; 8] = [
        None,
        None,
        None,
        Some(&[Stored, Received]),
        Some(&[Received]),
        Some(&[Received, Acknowledged]),
        Some(&[Stored]),
        Some(&[]),
    ];
    Step::Send {
        port: port(rng),
        id: rng.u8(0..10) < 7,
        ttl_ms: match rng.u8(0..10) {
            0..6 => None,
            6 => Some(0),
            _ => Some(rng.u64(1..20_000)),
        },
        resend: rng.u8(0..4) > 0,
        receipts: pick(rng, &RECEIPTS),
        bytes: pick(rng, &[0, 0, 0, 0, 0, 600, 900, 30 << 20]),
    }
}

fn frames(rng: &mut Rng) -> Step {
    if one_in(rng, 150) {
        // More than a window holds.
        return Step::Frames { count: rng.usize(1000..1100), content: Content::Small };
    }
    if one_in(rng, 100) {
        // More than memory holds while the disk is full, or slow.
        return Step::Frames { count: rng.usize(4..10), content: Content::Bytes(3 << 20) };
    }
    let count = if one_in(rng, 5) { rng.usize(4..30) } else { rng.usize(1..4) };
    let content = match rng.u8(0..20) {
        0..10 => Content::Small,
        10 => Content::Bytes(300),
        11 => Content::Bytes(40_000),
        12 => Content::Bytes(1 << 20),
        13 => Content::Bytes(3 << 20),
        14 => Content::Pong,
        15 => Content::Greeting { window_ms: 9_000 },
        16..18 => Content::Acknowledgement,
        _ => Content::Progress { which: rng.usize(0..2), key: rng.u8(0..3) },
    };
    Step::Frames { count, content }
}

fn moment(rng: &mut Rng) -> u64 {
    match rng.u8(0..10) {
        0..4 => rng.u64(0..50),
        4..7 => rng.u64(50..3_000),
        7 | 8 => rng.u64(3_000..40_000),
        _ => rng.u64(40_000..400_000),
    }
}

fn sleep(rng: &mut Rng) -> u64 {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    match rng.u8(0..16) {
        0..13 => rng.u64(0..50_000),
        13 | 14 => rng.u64(50_000..3 * DAY),
        _ => rng.u64(3 * DAY..40 * DAY),
    }
}

fn outage(rng: &mut Rng) -> Outage {
    let every = rng.usize(1..4);
    let damage = match rng.u8(0..30) {
        0 => Damage::Rows { every },
        1 => Damage::Bodies { every },
        2 => Damage::Posts { every },
        3 => Damage::PostBodies { every },
        _ => Damage::No,
    };
    let jump_ms = if one_in(rng, 8) { rng.i64(-2_000_000..2_000_000) } else { 0 };
    Outage { ms: if rng.bool() { moment(rng) } else { sleep(rng) }, jump_ms, damage }
}

fn refusal(rng: &mut Rng) -> End {
    match rng.u8(0..8) {
        0 => End::Status(pick(rng, &[401, 403, 407])),
        1 => End::Status(pick(rng, &[200, 302, 404, 429, 500, 503])),
        _ => End::Code(pick(
            rng,
            &["dns", "refused", "timeout", "network", "tls", "upgrade-timeout", "upgrade", "reset", "not-allowed"],
        )),
    }
}

fn drop(rng: &mut Rng) -> End {
    match rng.u8(0..16) {
        0..4 => End::Code("reset"),
        4..6 => End::Code(pick(rng, &["protocol", "message-too-large", "write-timeout", "network"])),
        6..10 => End::Close(pick(rng, &[1002, 1003, 1007, 1008, 1010])),
        10 => End::Close(1009),
        11 => End::Close(pick(rng, &[3000, 3003, 4401, 4403])),
        _ => End::Close(pick(rng, &[1000, 1001, 1005, 1011, 1012, 1013, 1014, 3001, 4000, 4999])),
    }
}

fn hint(rng: &mut Rng) -> Option<Hint> {
    one_in(rng, 8).then(|| Hint {
        after_ms: pick(rng, &[0, 2_000, 90_000, u64::MAX]),
        window_ms: pick(rng, &[None, Some(0), Some(60_000), Some(u64::MAX)]),
    })
}

/// Some [`settings`], often the same.
fn wish(rng: &mut Rng) -> u64 {
    if rng.bool() { rng.u64(0..4) } else { rng.u64(..) }
}

/// Settings that nobody has said anything about, but for more room than memory has.
pub(super) fn plain() -> Settings {
    let mut settings = birth().settings;
    settings.inbox.max_bytes = 64 << 20;
    settings
}

/// Settings drawn from this seed: many are small, so that their limits are met.
pub(super) fn settings(seed: u64) -> Settings {
    let rng = &mut Rng::with_seed(seed);
    let ms = Duration::from_millis;
    let mut settings = plain();
    if rng.bool() {
        let inbox = &mut settings.inbox;
        inbox.max_messages = pick(rng, &[1, 2, 5, 12, 60, 100_000]);
        inbox.max_bytes = pick(rng, &[1024, 3000, 200_000, 6 << 20, 16 << 20]);
        inbox.max_message_bytes = pick(rng, &[1 << 20, 64 << 20]);
    }
    if one_in(rng, 3) {
        settings.inbox.persist_after = ms(pick(rng, &[0, 0, 1, 2000, 10_000]));
    }
    if rng.bool() {
        settings.inbox.retention = ms(pick(rng, &[1000, 7000, 60_000, 3_600_000, 30 * 86_400_000]));
    }
    if one_in(rng, 3) {
        settings.inbox.overflow = Overflow::Pause;
    }
    if rng.bool() {
        settings.inbox.collapse = Some(COLLAPSES[rng.usize(0..2)].clone());
    }
    if rng.bool() {
        let queue = &mut settings.queue;
        queue.max_messages = pick(rng, &[1, 3, 8, 10_000]);
        queue.max_bytes = pick(rng, &[1024, 2000, 64 << 20]);
        queue.ttl = pick(rng, &[None, Some(ms(10)), Some(ms(5000)), Some(ms(60_000))]);
    }
    if rng.bool() {
        settings.dialect.ack = Some("/ack".into());
    }
    if rng.bool() {
        let heartbeat = &mut settings.heartbeat;
        heartbeat.interval = ms(pick(rng, &[100, 2000, 25_000, 3_600_000]));
        heartbeat.timeout = ms(pick(rng, &[100, 3000, 10_000, 600_000]));
    }
    if one_in(rng, 3) {
        settings.heartbeat.send = Some(BEAT.into());
        settings.heartbeat.reply = rng.bool().then(|| json!({"type": "pong"}));
    }
    if one_in(rng, 3) {
        settings.linger = ms(pick(rng, &[0, 5000, 3_600_000, 30 * 86_400_000]));
    }
    if rng.bool() {
        let reconnect = &mut settings.reconnect;
        reconnect.first = ms(pick(rng, &[10, 1000, 20_000]));
        reconnect.max = reconnect.first.max(ms(pick(rng, &[10, 1000, 60_000, 300_000])));
        reconnect.multiplier = pick(rng, &[1.0, 1.5, 2.0, 10.0]);
        reconnect.max_attempts = pick(rng, &[0, 0, 1, 2, 5]);
        reconnect.stable = ms(pick(rng, &[0, 1000, 30_000, 3_600_000]));
        reconnect.herd_window = ms(pick(rng, &[0, 5000, 30_000, 600_000]));
    }
    if rng.bool() {
        settings.reconnect.burst = pick(rng, &[1, 2, 4, 10, 100]);
        settings.reconnect.refill = ms(pick(rng, &[100, 30_000, 3_600_000]));
    }
    settings
}
