//! Generated histories of a session whose server keeps what it said, and says it again.
//!
//! The server numbers what it publishes and gives most of it an id. Asked for more behind a cursor it repeats it from
//! there on, often from further back, or refuses; unasked it repeats the last of it. Connections break, the disk takes its
//! time, the daemon is killed at any moment and goes on with what is there. The model knows one rule: a message does not
//! reach the extension if, and only if, its id is among the last `window` ids of messages that were given a number and are
//! not lost. If the server never refuses, the extension must have had everything at the end.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use fastrand::Rng;
use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

use super::world::shortest;
use super::*;
use crate::settings::{Dedupe, Layer};

/// What happened, and how often.
type Met = BTreeMap<&'static str, usize>;

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish {
        count: usize,
    },
    /// So much of what the server has said arrives, each so much later than the one before.
    Arrive {
        count: usize,
        ms: u64,
    },
    Drop,
    Connect,
    /// The port acknowledges so many percent of what it was given.
    Acknowledge {
        percent: usize,
    },
    Wait {
        ms: u64,
    },
    /// From now on the disk takes its time, or does not any more.
    DiskIsSlow(bool),
    /// What is under way on a slow disk is done, or fails.
    DiskSaves,
    DiskFails,
    DiskIsDamaged,
    /// The daemon is killed. What was under way to the disk got there, or did not; and perhaps a file was changed
    /// meanwhile.
    Crash {
        lands: bool,
        other_place: bool,
    },
    /// Other settings hold from the next connection on.
    Configure {
        place: &'static str,
        window: usize,
    },
    Forget,
}

const PLACES: [&str; 2] = ["/id", "/of/id"];
const WINDOWS: [usize; 6] = [1, 2, 3, 5, 8, 1000];

fn history(rng: &mut Rng, mode: Mode) -> Vec<Step> {
    let count = rng.usize(1..120);
    std::iter::repeat_with(|| step(rng, mode)).take(count).collect()
}

fn step(rng: &mut Rng, mode: Mode) -> Step {
    match rng.u32(0..60) {
        0..14 => Step::Publish { count: rng.usize(1..6) },
        14..28 => Step::Arrive { count: rng.usize(1..12), ms: if rng.bool() { 0 } else { rng.u64(1..20) } },
        28..32 => Step::Drop,
        32..38 => Step::Connect,
        38..43 => Step::Acknowledge { percent: rng.usize(0..=100) },
        43..47 => Step::Wait { ms: rng.u64(0..200) },
        47..49 => Step::DiskIsSlow(rng.bool()),
        49..52 => Step::DiskSaves,
        52 => Step::DiskFails,
        53 => Step::DiskIsDamaged,
        54..57 if mode == Mode::Durable => Step::Crash { lands: rng.bool(), other_place: rng.u8(0..8) == 0 },
        57 => Step::Configure { place: PLACES[rng.usize(0..2)], window: WINDOWS[rng.usize(0..WINDOWS.len())] },
        58 if rng.u8(0..4) == 0 => Step::Forget,
        _ => Step::Arrive { count: 3, ms: 0 },
    }
}

/// The server: what it has published, and how it repeats it.
struct Server {
    published: Vec<Published>,
    /// What it has said on this connection and has not arrived.
    wire: VecDeque<Said>,
    /// It repeats so much more than it is asked for.
    overlap: usize,
    /// Every so many times it cannot go on.
    refuses_every: Option<usize>,
    asked: usize,
}

#[derive(Clone)]
struct Published {
    text: String,
    /// What it is called at each of [`PLACES`].
    ids: [Option<String>; 2],
}

#[derive(Clone, Copy)]
enum Said {
    /// Something that was published.
    Published(usize),
    Answer(bool),
}

impl Server {
    fn publish(&mut self, rng: &mut Rng) {
        let number = self.published.len() + 1;
        let again = (rng.u8(0..6) == 0).then(|| self.published.iter().nth_back(rng.usize(0..10))).flatten();
        let fresh = |number: usize, rng: &mut Rng| match rng.u8(0..12) {
            0 => None,
            1 | 2 => Some(number.to_string()),
            _ => Some(format!("\"m{number}\"")),
        };
        // What it is called at one place another one is called at the other.
        let ids = again.map_or_else(|| [fresh(number, rng), fresh(number + 1, rng)], |older| older.ids.clone());
        let written = |id: &Option<String>, rng: &mut Rng| match (id, rng.u8(0..4)) {
            (Some(id), 0) => id.replace('m', "\\u006d"),
            (Some(id), _) => id.clone(),
            (None, 0) => "true".into(),
            (None, 1) => "null".into(),
            (None, 2) => "[7]".into(),
            (None, _) => "{}".into(),
        };
        let [one, two] = [written(&ids[0], rng), written(&ids[1], rng)];
        let text = format!(r#"{{"id":{one},"of":{{"id":{two}}},"cursor":{number}}}"#);
        self.published.push(Published { text, ids });
        self.wire.push_back(Said::Published(number - 1));
    }

    /// It is asked to go on behind this cursor.
    fn goes_on(&mut self, cursor: usize) {
        self.asked += 1;
        self.wire.clear();
        let goes_on = self.refuses_every.is_none_or(|every| !self.asked.is_multiple_of(every));
        let first = if goes_on { cursor.saturating_sub(self.overlap) } else { self.published.len() };
        self.wire.extend((first..self.published.len()).map(Said::Published));
        self.wire.push_back(Said::Answer(goes_on));
    }
}

/// What must come of it.
#[derive(Default)]
struct Model {
    place: &'static str,
    window: usize,
    next: Option<(&'static str, usize)>,
    /// Numbers and ids of messages, the oldest first.
    ids: Vec<(u64, String)>,
    /// The same of those that count no more, because of other settings; the disk may still have them.
    former: Vec<(u64, String)>,
    /// Those of them that were there when a daemon was killed.
    perhaps: Vec<String>,
    /// What has been given a number that was not lost: which message, and how often.
    kept: Vec<(u64, usize)>,
    duplicates: u64,
    met: Met,
}

impl Model {
    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn configure(&mut self, place: &'static str, window: usize) {
        let keeps = if place == self.place { window.min(self.window).min(self.ids.len()) } else { 0 };
        self.former.extend(self.ids.drain(..self.ids.len() - keeps));
        (self.place, self.window) = (place, window);
    }

    fn connection_is_over(&mut self) {
        if let Some((place, window)) = self.next.take() {
            self.meet("other settings");
            self.configure(place, window);
        }
    }

    fn id_of<'a>(&self, published: &'a Published) -> Option<&'a String> {
        let index = PLACES.iter().position(|place| *place == self.place)?;
        published.ids[index].as_ref()
    }

    fn is_known(&self, id: &str) -> bool {
        self.ids.iter().rev().take(self.window).any(|(_, known)| known == id)
    }

    /// All above `head` is lost.
    fn crash(&mut self, head: u64) {
        let lost = self.ids.iter().filter(|(seq, _)| *seq > head).count();
        if lost > 0 {
            self.meet("ids are lost with their messages");
        }
        self.next = None;
        self.ids.retain(|(seq, _)| *seq <= head);
        self.kept.retain(|(seq, _)| *seq <= head);
        let former = self.former.drain(..).filter(|(seq, _)| *seq <= head).map(|(_, id)| id);
        self.perhaps.extend(former);
    }
}

struct World {
    rig: Rig,
    rng: Rng,
    server: Server,
    model: Model,
    connected: bool,
    /// What the port was given last.
    delivered: u64,
    /// Which of what was published the port has had.
    had: Vec<bool>,
    resumes: bool,
}

impl World {
    fn new(mut rng: Rng, mode: Mode) -> Self {
        let (place, window) = (PLACES[rng.usize(0..2)], WINDOWS[rng.usize(0..WINDOWS.len())]);
        let resumes = rng.u8(0..4) > 0;
        let mut settings = json!({
            "dialect": {"dedupe": {"id": place, "window": window}},
            "inbox": {"persist_after_ms": if rng.bool() { 50 } else { 0 }},
        });
        if resumes {
            settings["dialect"]["resume"] = json!({
                "cursor": "/cursor", "send": {"resume": "{cursor}"},
                "accepted": {"resumed": true}, "refused": {"resumed": false},
            });
        }
        let layer = Layer::from_json(&settings.to_string(), &Limits::default()).unwrap();
        let mut rig = Rig::with(|birth| {
            birth.mode = mode;
            let place = Place { memory: mode == Mode::Memory, loopback: true };
            birth.settings = Settings::effective([&layer], &Limits::default(), place);
        });
        rig.open(1, "main");
        let refuses_every = (rng.u8(0..3) == 0).then(|| rng.usize(2..5));
        let overlap = if rng.u8(0..3) == 0 { 0 } else { rng.usize(0..12) };
        let server = Server { published: Vec::new(), wire: VecDeque::new(), overlap, refuses_every, asked: 0 };
        let model = Model { place, window, ..Model::default() };
        Self { rig, rng, server, model, connected: false, delivered: 0, had: Vec::new(), resumes }
    }

    fn step(&mut self, step: Step) {
        self.model.meet("step");
        match step {
            Step::Publish { count } => {
                for _ in 0..count {
                    self.server.publish(&mut self.rng);
                    self.had.push(false);
                }
                if !self.connected {
                    self.server.wire.clear();
                }
            }
            Step::Arrive { count, ms } => {
                for _ in 0..count {
                    self.wait(Duration::from_millis(ms));
                    self.arrive();
                }
            }
            Step::Drop => self.drop(),
            Step::Connect => self.connect(),
            Step::Acknowledge { percent } => {
                let acked = self.rig.session.inbox.consumers().next().map_or(0, |(_, acked, _)| acked);
                let seq = acked + (self.delivered.saturating_sub(acked)) * percent as u64 / 100;
                let lines = self.rig.ack(1, seq);
                self.read(&lines);
            }
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Step::DiskIsSlow(slow) => {
                self.rig.disk = !slow;
                self.disk_saves();
            }
            Step::DiskSaves => self.disk_saves(),
            Step::DiskFails => {
                if let Some((ticket, _)) = self.rig.unsaved.take() {
                    let lines = self.rig.input(Input::NotSaved { ticket });
                    self.read(&lines);
                }
            }
            Step::DiskIsDamaged => {
                // Of the ids nothing is left, and it is made good before the daemon is killed.
                self.rig.shelf.seen.clear();
                let lines = self.rig.input(Input::Damaged);
                self.read(&lines);
                self.rig.disk = true;
                self.disk_saves();
                self.wait(seconds(2));
            }
            Step::Crash { lands, other_place } => self.crash(lands, other_place),
            Step::Configure { place, window } => {
                let mut settings = self.rig.session.settings.clone();
                settings.dialect.dedupe = Some(Dedupe { id: place.into(), window });
                let lines = self.rig.input(Input::Configure { settings: Box::new(settings) });
                self.read(&lines);
                if self.connected {
                    self.model.next = Some((place, window));
                } else {
                    self.model.configure(place, window);
                }
            }
            Step::Forget => self.forget(),
        }
    }

    fn arrive(&mut self) {
        let Some(said) = self.server.wire.pop_front().filter(|_| self.connected) else { return };
        let head = self.rig.session.inbox.head();
        let text = match said {
            Said::Published(index) => self.server.published[index].text.clone(),
            Said::Answer(goes_on) => format!(r#"{{"resumed":{goes_on}}}"#),
        };
        let lines = self.rig.frame(&text);
        let is_new = self.rig.session.inbox.head() > head;
        if let Said::Published(index) = said {
            let id = self.model.id_of(&self.server.published[index]).cloned();
            let known = id.as_ref().is_some_and(|id| self.model.is_known(id));
            let perhaps = id.as_ref().is_some_and(|id| self.model.perhaps.contains(id));
            assert!(is_new || known || perhaps, "{text} is swallowed, and nobody has had it");
            assert!(!(is_new && known), "{text} is doubled within the window");
            self.model.meet(if is_new { "new" } else { "swallowed" });
            self.model.duplicates += u64::from(!is_new);
            if !is_new {
                // Whoever published it under another cursor has said nothing new.
                self.had[index] |= true;
            } else {
                self.model.kept.push((head + 1, index));
                self.model.ids.extend(id.map(|id| (head + 1, id)));
            }
        } else {
            assert!(is_new, "a message without an id passes");
        }
        assert_eq!(self.rig.status()["duplicates"], self.model.duplicates, "they are counted");
        self.read(&lines);
    }

    /// What the port is given.
    fn read(&mut self, lines: &[String]) {
        for line in lines.iter().filter_map(|line| line.strip_prefix("1: ")) {
            let line = line.strip_prefix("replay ").or_else(|| line.strip_prefix("message ")).unwrap_or(line);
            let mut words = line.splitn(2, ' ');
            let (first, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if first == "gap" {
                let last = rest.split(' ').next().and_then(|range| range.split_once("..=")).unwrap().1;
                self.delivered = last.parse().unwrap();
            } else if let Ok(seq) = first.parse() {
                self.delivered = seq;
                if let Some(index) = self.server.published.iter().position(|published| published.text == rest) {
                    let given = self.model.kept.iter().any(|(kept, which)| (*kept, *which) == (seq, index));
                    assert!(given, "{rest} is delivered under {seq}");
                    self.had[index] = true;
                }
            }
        }
    }

    fn connect(&mut self) {
        if self.connected {
            return;
        }
        if self.rig.session.attempt().is_none() {
            let lines = self.rig.next_timer();
            self.read(&lines);
        }
        if self.rig.session.attempt().is_none() {
            return;
        }
        let lines = self.rig.connect();
        self.connected = true;
        self.read(&lines);
        let asked = lines.iter().find_map(|line| line.split_once(r#"send {"resume":"#));
        match asked.map(|(_, cursor)| cursor.trim_end_matches('}').parse::<usize>().unwrap()) {
            Some(cursor) => {
                self.model.meet("asked");
                self.server.goes_on(cursor);
            }
            // Unasked: all that there is, or the last of it.
            None => {
                let last = if self.resumes { self.server.published.len() } else { self.server.overlap };
                let first = self.server.published.len().saturating_sub(last);
                self.server.wire = (first..self.server.published.len()).map(Said::Published).collect();
            }
        }
    }

    fn drop(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.server.wire.clear();
            let lines = self.rig.lose(reset());
            self.model.connection_is_over();
            self.read(&lines);
        }
    }

    fn wait(&mut self, time: Duration) {
        let lines = self.rig.wait(time);
        self.read(&lines);
    }

    fn disk_saves(&mut self) {
        if let Some(saved) = self.rig.commit() {
            let lines = self.rig.input(saved);
            self.read(&lines);
        }
    }

    fn crash(&mut self, lands: bool, other_place: bool) {
        if lands {
            self.rig.commit();
        }
        if self.rig.shelf.record().is_none() {
            return;
        }
        self.model.crash(self.rig.shelf.sheet().head);
        if other_place {
            let dedupe = self.rig.session.settings.dialect.dedupe.as_mut().expect("it has one");
            let other = PLACES[usize::from(dedupe.id == PLACES[0])];
            dedupe.id = other.into();
            self.model.configure(other, self.model.window);
        }
        self.rig.crash();
        (self.connected, self.model.duplicates) = (false, 0);
        self.server.wire.clear();
        self.model.meet("killed");
        let lines = self.rig.open(1, "main");
        self.delivered = 0;
        self.read(&lines);
    }

    fn forget(&mut self) {
        // What is under way to the disk means nothing any more.
        self.rig.unsaved = None;
        self.rig.input(close(true));
        self.connected = false;
        self.server.wire.clear();
        self.model.connection_is_over();
        self.model.ids.clear();
        self.model.former.clear();
        self.model.perhaps.clear();
        self.model.kept.clear();
        self.delivered = 0;
        let lines = self.rig.open(1, "main");
        self.read(&lines);
    }

    /// The server goes on from wherever it is asked to, and everything arrives.
    fn come_to_rest(&mut self) {
        self.rig.disk = true;
        self.disk_saves();
        self.drop();
        self.connect();
        while self.connected && !self.server.wire.is_empty() {
            self.arrive();
        }
        for _ in 0..8 {
            self.wait(seconds(20));
            self.step(Step::Acknowledge { percent: 100 });
        }
        if self.resumes && self.server.refuses_every.is_none() && self.connected {
            self.model.meet("nothing is missing");
            let missing = self.had.iter().position(|had| !had);
            assert_eq!(missing.map(|index| &self.server.published[index].text), None, "it was never delivered");
        }
    }
}

/// Plays a history to its end; returns what happened in it.
fn live_through(history: &[Step], rng: Rng, mode: Mode) -> Met {
    let mut world = World::new(rng, mode);
    history.iter().for_each(|step| world.step(*step));
    world.come_to_rest();
    world.model.met
}

#[test]
fn whatever_happens_to_a_server_that_repeats_itself_nothing_unseen_is_swallowed_and_nothing_known_doubled() {
    let config = ProptestConfig::default();
    let first = match config.rng_seed {
        RngSeed::Fixed(seed) => seed << 32,
        RngSeed::Random => 1 << 32,
    };
    let mut met = Met::new();
    for seed in first..first + u64::from(config.cases) {
        let mode = if seed % 4 == 0 { Mode::Memory } else { Mode::Durable };
        let mut rng = Rng::with_seed(seed);
        let history = history(&mut rng, mode);
        let live = |history: &[Step]| catch_unwind(|| live_through(history, rng.clone(), mode));
        let Ok(lived) = live(&history) else {
            assert!(config.max_shrink_iters > 0, "the history of seed {seed} fails as said above");
            let history = shortest(history, |history| live(history).is_err());
            let script: String = history.iter().map(|step| format!("    {step:?}\n")).collect();
            assert!(live(&history).is_err());
            panic!("the shortest history that fails as said above, of seed {seed}:\n{script}");
        };
        for (what, times) in lived {
            *met.entry(what).or_default() += times;
        }
    }
    let enough = met["step"] / 2000;
    let must = [
        "new",
        "swallowed",
        "asked",
        "killed",
        "other settings",
        "ids are lost with their messages",
        "nothing is missing",
    ];
    let missing: Vec<_> = must.iter().filter(|what| met.get(**what).copied().unwrap_or_default() < enough).collect();
    assert!(missing.is_empty(), "hardly ever met: {missing:?} in {met:#?}");
}
