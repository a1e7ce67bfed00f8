//! One world: a machine, a server and an extension with two workers, to whom faults happen until there were enough. Then
//! everything is healed, and the world waits until it has come to rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::ambush::{Ambush, Moment};
use crate::extension::{Command, Upbringing, Worker};
use crate::fault::Kind;
use crate::log::{Consumer, Entry, Event, Log};
use crate::machine::{Machine, Workshop, signal};
use crate::reckoning::{Reckoning, Terms, reckon};
use crate::server::{Cut, Marks, Server};

/// Milliseconds from one fault to the next.
const PACE: std::ops::Range<u64> = 150..1300;

/// How long a worker stays away whose messages are to be on the disk when the daemon is killed: longer than the judge
/// grants a busy machine, by far.
const AWAY: Duration = Duration::from_secs(4);

/// How long everything may take to come to rest.
const REST: Duration = Duration::from_secs(60);

/// Close codes that say nothing of credentials or of a fault of this side, so that the bridge comes back.
const CLOSE_CODES: &[u16] = &[1000, 1001, 1011, 1012, 1013, 3999, 4000];

/// What is to happen.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The world's number, from 0.
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) faults: u64,
    pub(crate) kinds: Vec<Kind>,
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) log: Vec<Entry>,
    pub(crate) reckoning: Reckoning,
}

/// What each world has of its own.
fn terms(number: u64) -> (Terms, Value) {
    let persist_after_ms = [50, 50, 0, 200][number as usize % 4];
    let overflow = ["drop-oldest", "drop-oldest", "drop-oldest", "pause"][number as usize % 4];
    // Two of four fill up as soon as nobody reads or acknowledges.
    let max_messages = [100_000, 100_000, 150, 150][number as usize % 4];
    let terms = Terms {
        resuming: number % 2 == 1,
        persist_after: Duration::from_millis(persist_after_ms),
        overflows: max_messages < 1000 && overflow == "drop-oldest",
    };
    let settings = json!({
        "reconnect": {"first_ms": 100, "max_ms": 400, "stable_ms": 0, "burst": 100, "refill_ms": 1000},
        "heartbeat": {"interval_ms": 400, "timeout_ms": 700},
        "inbox": {"persist_after_ms": persist_after_ms, "max_messages": max_messages, "overflow": overflow},
    });
    (terms, settings)
}

/// Lets it all happen, until `enough` or there were enough faults.
pub(crate) fn run(plan: &Plan, workshop: Workshop, interrupted: &AtomicBool) -> Result<Outcome> {
    let mut rng = fastrand::Rng::with_seed(plan.seed ^ plan.number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (terms, settings) = terms(plan.number);
    let log = Arc::new(Log::new());
    let machine = Arc::new(Machine::new(workshop, plan.directory.clone())?);
    let marks = Arc::<Marks>::default();
    // An address that no client has, nor another torture beside this one, so that nobody else takes its port while the
    // server is down.
    let ip = [127, 0, (std::process::id() % 256) as u8, 2 + (plan.number % 250) as u8];
    let server = Server::start(ip, terms.resuming, rng.u64(..), Arc::clone(&log), Arc::clone(&marks));
    let server = server.context("the server cannot listen")?;
    let ambush = Arc::<Ambush>::default();
    let upbringing = Upbringing {
        log: Arc::clone(&log),
        machine: Arc::clone(&machine),
        marks: Arc::clone(&marks),
        ambush: Arc::clone(&ambush),
        url: server.url(),
        settings,
        ports: Arc::default(),
    };
    let workers = Consumer::ALL.map(|consumer| Worker::start(consumer, upbringing.clone(), rng.u64(..)));
    let active = Vec::new();
    let kinds = plan.kinds.clone();
    let mut world = World { log, machine, marks, ambush, server, workers, rng, kinds, active };
    let went = world.go(plan, interrupted);
    let World { log, machine, server, workers, .. } = world;
    drop(workers);
    let stopped = machine.daemon().map_or(Ok(()), |pid| machine.stop_daemon(pid));
    drop(server);
    for error in [went, stopped].into_iter().filter_map(Result::err) {
        log.wrong(format!("{error:#}"));
    }
    // A process lets go of everything just before it ends.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut left = machine.processes();
    while !left.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
        left = machine.processes();
    }
    if !left.is_empty() {
        log.wrong(format!("processes are left: {left:?}"));
    }
    let entries = std::mem::take(&mut *log.entries());
    let reckoning = reckon(&entries, &terms);
    if !reckoning.findings.is_empty() {
        machine.keep_home(&plan.directory.join("kept"))?;
        std::fs::write(
            plan.directory.join("kept/log.txt"),
            entries.iter().map(|entry| format!("{entry}\n")).collect::<String>(),
        )?;
    }
    Ok(Outcome { log: entries, reckoning })
}

struct World {
    log: Arc<Log>,
    machine: Arc<Machine>,
    marks: Arc<Marks>,
    ambush: Arc<Ambush>,
    server: Server,
    workers: [Worker; 2],
    rng: fastrand::Rng,
    /// What may happen.
    kinds: Vec<Kind>,
    /// Faults that last, and how to end them.
    active: Vec<Active>,
}

struct Active {
    kind: Kind,
    until: Instant,
    /// The worker, or the process, that it concerns.
    whom: Whom,
}

#[derive(Clone, Copy)]
enum Whom {
    All,
    Worker(usize),
    Process(u32),
}

impl World {
    fn go(&mut self, plan: &Plan, interrupted: &AtomicBool) -> Result<()> {
        // Both consumers are there before the first message.
        self.wait_for("both consumers open the session", |world| {
            let opened = |entry: &Entry| matches!(entry.event, Event::Opened { .. });
            world.log.entries().iter().filter(|entry| opened(entry)).count() == Consumer::ALL.len()
        })?;
        self.server.let_flow();
        let mut made = 0;
        while made < plan.faults && !interrupted.load(Ordering::Relaxed) {
            let next = Instant::now() + Duration::from_millis(self.rng.u64(PACE));
            self.heal_until(next)?;
            let kind = Kind::draw(&self.kinds, &mut self.rng);
            // Some cannot be made just now: there is no connection to lose, or it is that way already.
            made += u64::from(self.make(kind)?);
        }
        self.come_to_rest()
    }

    /// Ends what is over, and waits until `moment`.
    fn heal_until(&mut self, moment: Instant) -> Result<()> {
        loop {
            let now = Instant::now();
            while let Some(index) = self.active.iter().position(|active| active.until <= now) {
                let over = self.active.swap_remove(index);
                self.heal(&over)?;
            }
            if now >= moment {
                return Ok(());
            }
            let next = self.active.iter().map(|active| active.until).chain([moment]).min().unwrap_or(moment);
            thread::sleep(next.saturating_duration_since(now));
        }
    }

    /// Makes a fault; says whether it could be made.
    fn make(&mut self, kind: Kind) -> Result<bool> {
        if self.active.iter().any(|active| active.kind == kind) {
            return Ok(false);
        }
        let worker = self.rng.usize(..self.workers.len());
        let whom = match kind {
            Kind::ReaderStalled | Kind::AcksStopped | Kind::HostSuspended => Whom::Worker(worker),
            Kind::DaemonSuspended => match self.machine.daemon() {
                Some(pid) => Whom::Process(pid),
                None => return Ok(false),
            },
            _ => Whom::All,
        };
        if !self.begin(kind, worker)? {
            return Ok(false);
        }
        if let Some(time) = kind.draw_time(&mut self.rng) {
            self.active.push(Active { kind, until: Instant::now() + Duration::from_millis(time), whom });
        }
        Ok(true)
    }

    fn begin(&mut self, kind: Kind, worker: usize) -> Result<bool> {
        let fault = |log: &Log| log.add(Event::Fault(kind, None));
        let worker = &self.workers[worker];
        match kind {
            Kind::HostKilled => return Ok(worker.command(Command::KillHost)),
            Kind::WorkerGone => {
                let back_after = Duration::from_millis(self.rng.u64(..2000));
                return Ok(worker.command(Command::Die { back_after }));
            }
            Kind::TakenOver => return Ok(worker.command(Command::OpenAnother)),
            Kind::ReaderStalled => return Ok(worker.command(Command::Stall(true))),
            Kind::AcksStopped => return Ok(worker.command(Command::StopAcks(true))),
            Kind::HostSuspended => return Ok(worker.command(Command::Suspend(true))),
            Kind::DaemonKilled | Kind::DaemonStopped | Kind::DaemonSuspended => {
                let Some(pid) = self.machine.daemon() else { return Ok(false) };
                let suspended = self.active.iter().any(|active| active.kind == Kind::DaemonSuspended);
                if suspended && kind == Kind::DaemonStopped {
                    // It would not hear.
                    return Ok(false);
                }
                match kind {
                    Kind::DaemonKilled => self.kill_daemon(pid)?,
                    Kind::DaemonStopped => {
                        fault(&self.log);
                        self.machine.stop_daemon(pid)?;
                    }
                    _ => {
                        fault(&self.log);
                        signal(pid, Signal::SIGSTOP);
                        return Ok(true);
                    }
                }
                self.log.add(Event::Healed(kind));
            }
            Kind::Reset | Kind::Dropped | Kind::Closed | Kind::Torn | Kind::Refusing => {
                if !self.server.is_connected() {
                    return Ok(false);
                }
                fault(&self.log);
                self.server.set_refusing(kind == Kind::Refusing);
                self.server.cut(match kind {
                    Kind::Reset => Cut::Reset,
                    Kind::Closed => Cut::Close(CLOSE_CODES[self.rng.usize(..CLOSE_CODES.len())]),
                    Kind::Torn => Cut::Torn { reset: self.rng.bool() },
                    _ => Cut::Drop,
                });
            }
            Kind::ServerKilled => {
                fault(&self.log);
                self.server.set_down(true);
            }
            Kind::Blackholed => {
                fault(&self.log);
                self.server.set_silent(true);
            }
            Kind::DiskFilled => {
                fault(&self.log);
                self.machine.fill_disk().context("the disk cannot be filled")?;
            }
            Kind::ClockMoved => {
                fault(&self.log);
                let far = self.rng.i64(1..3 * 3600);
                self.machine.move_clock(if self.rng.bool() { far } else { -far })?;
            }
        }
        Ok(true)
    }

    /// Kills the daemon just now, or right after it has said something that it must keep, or when it has kept something for
    /// long that nobody else has.
    fn kill_daemon(&mut self, pid: u32) -> Result<()> {
        if self.kinds.contains(&Kind::WorkerGone) && self.rng.u32(..3) == 0 {
            let worker = &self.workers[self.rng.usize(..self.workers.len())];
            worker.command(Command::Die { back_after: AWAY + Duration::from_millis(self.rng.u64(100..1000)) });
            self.heal_until(Instant::now() + AWAY)?;
        }
        let moment = Moment::ALL[self.rng.usize(..Moment::ALL.len())];
        let patience = Duration::from_millis(if self.rng.bool() { self.rng.u64(50..400) } else { 0 });
        if !patience.is_zero() && matches!(moment, Moment::Stored | Moment::Received) {
            if moment == Moment::Stored && self.kinds.contains(&Kind::ServerKilled) && self.rng.bool() {
                // Else the server often has it before the disk.
                self.make(Kind::ServerKilled)?;
            }
            for worker in &self.workers {
                worker.command(Command::PostMany(self.rng.u32(1..20)));
            }
        }
        self.ambush.lay(moment, pid, patience, &self.log);
        self.machine.wait_for_end_of(pid)
    }

    fn heal(&self, over: &Active) -> Result<()> {
        match (over.kind, over.whom) {
            (Kind::ReaderStalled, Whom::Worker(worker)) => drop(self.workers[worker].command(Command::Stall(false))),
            (Kind::AcksStopped, Whom::Worker(worker)) => drop(self.workers[worker].command(Command::StopAcks(false))),
            (Kind::HostSuspended, Whom::Worker(worker)) => drop(self.workers[worker].command(Command::Suspend(false))),
            (Kind::DaemonSuspended, Whom::Process(pid)) if self.machine.processes().contains(&pid) => {
                signal(pid, Signal::SIGCONT);
            }
            (Kind::ServerKilled, _) => self.server.set_down(false),
            (Kind::Refusing, _) => self.server.set_refusing(false),
            (Kind::Blackholed, _) => self.server.set_silent(false),
            (Kind::DiskFilled, _) => self.machine.free_disk().context("the disk cannot be freed")?,
            (Kind::ClockMoved, _) => self.machine.move_clock(0)?,
            _ => {}
        }
        self.log.add(Event::Healed(over.kind));
        Ok(())
    }

    /// Everything is healed; waits until all has arrived that ever will, and nothing is kept any more.
    fn come_to_rest(&mut self) -> Result<()> {
        self.log.note("nothing more goes wrong");
        for over in std::mem::take(&mut self.active) {
            self.heal(&over)?;
        }
        self.server.hold_back();
        for worker in &self.workers {
            worker.command(Command::AskForAll);
        }
        let mut last = self.server.send_one();
        let mut sent_at = Instant::now();
        self.wait_for("the last message comes to both consumers", |world| {
            if sent_at.elapsed() > Duration::from_secs(3) {
                // The one before may have been lost with a connection: behind this one the gap is told.
                (last, sent_at) = (world.server.send_one(), Instant::now());
            }
            world.marks.lowest() >= last
        })?;
        self.wait_for("every message to the server ends", |world| {
            world.workers.iter().all(|worker| worker.unfinished() == 0)
        })?;
        self.wait_for("nothing is kept any more", |world| world.kept().is_some_and(|kept| kept == (0, 0)))
    }

    /// How many messages the daemon keeps for the extension, and for the server.
    fn kept(&self) -> Option<(u64, u64)> {
        let output = self.machine.run(&["status", "--json"]).ok()?;
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let session = &status["sessions"][0];
        Some((session["inbox"]["messages"].as_u64()?, session["outbox"]["messages"].as_u64()?))
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + REST;
        while !done(self) {
            if Instant::now() > deadline {
                let kept = self.kept();
                anyhow::bail!("not within {REST:?}: {what} (kept for the extension and for the server: {kept:?})");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
