//! Generated histories of a session, its ports and its server, checked after every step.
//!
//! The [`World`] drives the session as the daemon does: actions are taken at once, timers are served when they are due, a
//! port that is not attached is not asked; the [`Disk`] takes its time, is full, fails or loses something, and at any moment
//! the daemon is killed and another one goes on with what is there. What must come out is said by a [`Model`] that was
//! written from the protocol alone: it knows what was pushed, posted and acknowledged, and nothing of how the session
//! keeps it. Of the disk it knows which numbers and messages are safe, and a [`Picture`] of itself for each write.
//!
//! A history is a list of [`Step`]s; one that fails is made as short as it can be and printed. Two variables of proptest
//! say more: `PROPTEST_CASES`, how many histories are tried, and `PROPTEST_RNG_SEED`, which; with
//! `PROPTEST_MAX_SHRINK_ITERS=0` the first failure is the end.

mod disk;
mod drive;
mod model;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::catch_unwind;
use std::sync::LazyLock;

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

use super::*;
use crate::session::record::Record;
use crate::wire::event::{Hint, Refusal, message_len};
use crate::wire::{After, Opened, Tag, Window};
use disk::Disk;
use drive::{Link, SentPing, Wire, World};
use model::{Attaching, Due, Model, Phase, Picture};
use steps::{BEAT, BEAT_REPLY, COLLAPSES, Content, Damage, Named, Opening, Outage, Step};

const PORTS: u64 = 3;
const CONSUMERS: [&str; 3] = ["main", "side", "log"];

/// What large messages are cut from.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'1'; 32 << 20].into());

/// What happened, and how often.
type Met = BTreeMap<&'static str, usize>;

#[test]
fn whatever_happens_to_a_durable_session_nothing_is_lost_doubled_or_out_of_order() {
    explore(Mode::Durable, MUST_HAPPEN_WITH_A_DISK);
}

#[test]
fn whatever_happens_to_a_memory_session_nothing_is_lost_doubled_or_out_of_order() {
    explore(Mode::Memory, &["not-durable"]);
}

fn explore(mode: Mode, special: &[&'static str]) {
    let config = ProptestConfig::default();
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => 1,
    };
    let mut rng = fastrand::Rng::with_seed(2 * seed + mode as u64);
    let mut met = Met::new();
    for _ in 0..config.cases {
        let history = steps::history(&mut rng);
        match catch_unwind(|| live_through(mode, &history)) {
            Ok(lived) => {
                for (what, times) in lived {
                    *met.entry(what).or_default() += times;
                }
            }
            Err(_) if config.max_shrink_iters == 0 => {
                panic!("a history of {} steps fails as said above", history.len())
            }
            Err(_) => fail(mode, history),
        }
    }
    say(mode, &met);
    assert_met(&met, special);
}

/// Makes the history as short as it can be, and says what it is.
fn fail(mode: Mode, history: Vec<Step>) -> ! {
    let history = shortest(history, |history| catch_unwind(|| live_through(mode, history)).is_err());
    let script: String = history.iter().map(|step| format!("    {step:?}\n")).collect();
    assert!(catch_unwind(|| live_through(mode, &history)).is_err());
    panic!("the shortest history that fails as said above, of a session in {} mode:\n{script}", mode.as_str());
}

/// The history without what it does not need in order to fail.
pub(super) fn shortest<S: Clone>(mut history: Vec<S>, fails: impl Fn(&[S]) -> bool) -> Vec<S> {
    let mut size = history.len().div_ceil(2);
    loop {
        let before = history.len();
        let mut end = before;
        while end > 0 {
            let start = end.saturating_sub(size);
            let shorter = [&history[..start], &history[end..]].concat();
            if fails(&shorter) {
                history = shorter;
            }
            end = start;
        }
        match size {
            1 if history.len() == before => return history,
            _ => size = size.div_ceil(2),
        }
    }
}

/// Plays a history to its end; returns what happened in it.
fn live_through(mode: Mode, history: &[Step]) -> Met {
    let mut world = World::new(mode);
    for step in history {
        world.step(step);
        world.meet("step");
    }
    world.check_figures();
    world.come_to_rest();
    world.met
}

#[expect(clippy::print_stdout, reason = "a proof says how large it is")]
fn say(mode: Mode, met: &Met) {
    println!("{} steps of sessions in {} mode", met.get("step").copied().unwrap_or_default(), mode.as_str());
}

/// Histories in which something hardly ever happens would prove little about it.
fn assert_met(met: &Met, special: &[&'static str]) {
    let enough = met["step"] / 40_000;
    let missing: Vec<_> = MUST_HAPPEN
        .iter()
        .chain(special)
        .filter(|what| met.get(**what).copied().unwrap_or_default() < enough)
        .collect();
    assert!(missing.is_empty(), "hardly ever met: {missing:?} in {met:#?}");
}

const MUST_HAPPEN: &[&str] = &[
    "message",
    "replay",
    "opened at a place",
    "superseded",
    "collapsed",
    "acknowledged by the server",
    "a consumer is removed",
    "window full of messages",
    "gap disconnected",
    "gap overflow",
    "gap overflow of unknown number",
    "gap retention",
    "gap retention of unknown number",
    "gap retention for one that was away",
    "gap too-large",
    "gap epoch",
    "gap observer-lag",
    "gap behind what was delivered",
    "received",
    "expired",
    "refused full",
    "refused unknown-delivery",
    "refused too-large",
    "refused ends-connections",
    "waits for one that is suspected",
    "repeated",
    "an id is forgotten",
    "doubled",
    "told to a later port",
    "subscribed again",
    "subscribed live",
    "ack-ahead",
    "ack-overdue",
    "no-template",
    "queue-full",
    "rate-limited",
    "read-only",
    "too-large",
    "too-many-subscriptions",
    "unknown-session",
    "url-differs",
    "closed on request",
    "closed for want of ports",
    "forgotten",
    "heartbeat",
    "sleep",
    "network-change",
    "never answers pings",
    "a ping of the server's own kind",
    "the answer to it",
    "paused",
    "resumed",
    "other settings hold for the next connection",
    "parked at once",
    "parked for the third fault",
    "parked after `max_attempts`",
    "asked again",
    "stable again",
    "the network is tried",
    "waits, early",
    "waits, late",
    "waits longer than at first",
    "waits for the network, early",
    "waits for the network, late",
    "waits in the herd's window, early",
    "waits in the herd's window, late",
    "waits in the window that was asked for, early",
    "waits in the window that was asked for, late",
    "waits as the server said, early",
    "waits as the server said, late",
    "waits for the budget",
];

const MUST_HAPPEN_WITH_A_DISK: &[&str] = &[
    "stored",
    "killed",
    "killed while writing, and it was written",
    "killed while writing, and it was not written",
    "stopped",
    "restarted",
    "restarted without a loss",
    "a place falls back",
    "sent again by the next daemon",
    "an ending outlives the daemon",
    "gap crash",
    "gap damage",
    "gap damage of unknown number",
    "damaged",
    "refused damage",
    "disk-full",
    "refused disk",
    "dropped because the disk is full",
    "not saved",
    "waits for the disk to write",
    "waits for the disk to read",
    "read from the disk",
    "paused for the disk",
    "waits for the budget after a restart",
];
