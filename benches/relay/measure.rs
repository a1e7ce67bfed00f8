//! One measurement of one contender.
//!
//! Owns: what is done with the contender and when the clocks are read. What the figures mean together is `report`'s.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::contender::{Arrivals, Contender, Port};
use crate::flow::{Flow, together};
use crate::frames::Input;
use crate::server;

/// How long nothing may move before a measurement is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was found, by the names below.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

pub(crate) const P50: &str = "p50_us";
pub(crate) const P99: &str = "p99_us";
pub(crate) const RATE: &str = "messages_per_s";
pub(crate) const THROUGHPUT: &str = "megabytes_per_s";
/// CPU time of host and daemon for one message, or for one round trip.
pub(crate) const CPU: &str = "cpu_ns";
pub(crate) const HOST_PEAK: &str = "host_peak_megabytes";
pub(crate) const DAEMON_PEAK: &str = "daemon_peak_megabytes";

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// One message at a time, to the server and back.
    RoundTrip,
    ToExtension,
    ToServer,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) way: Way,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// One message a write, as browsers and most servers do it, not 64 KiB of them.
    pub(crate) one_a_write: bool,
    /// The extension announced that it takes several messages as one.
    pub(crate) batch: bool,
}

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Task {
    pub(crate) const fn new(way: Way, size: usize) -> Self {
        Self { way, size, one_a_write: false, batch: false }
    }

    pub(crate) const fn one_a_write(self) -> Self {
        Self { one_a_write: true, ..self }
    }

    pub(crate) const fn batch(self) -> Self {
        Self { batch: true, ..self }
    }

    pub(crate) fn measure(self, contender: &Contender, times: Times) -> Result<Figures> {
        let (mut port, client) = contender.start()?;
        let mut figures = match self.way {
            Way::RoundTrip => self.round_trip(&mut port, client, times),
            Way::ToExtension => self.to_extension(&mut port, client, times),
            Way::ToServer => self.to_server(&mut port, client, times),
        }?;
        let peaks = port.processes().into_iter().map(peak_megabytes);
        figures.extend([HOST_PEAK, DAEMON_PEAK].into_iter().zip(peaks).filter_map(|(name, peak)| Some((name, peak?))));
        Ok(figures)
    }

    fn round_trip(self, port: &mut Port, client: TcpStream, times: Times) -> Result<Figures> {
        let payload = payload(self.size);
        let mut message = Vec::new();
        port.language().put_send(&mut message, &payload);
        let mut arrivals = Arrivals::of(&payload, port.language());
        let mut stdout = port.stdout.take().context("nobody reads yet")?;
        let mut acknowledgement = Vec::new();
        thread::spawn(move || server::echo(client));
        let _watch = kill_after(times.warm_up + times.measured + PATIENCE, port.killer());

        let begin = Instant::now() + times.warm_up;
        let mut before = None;
        let mut took = Vec::new();
        loop {
            let start = Instant::now();
            if start >= begin + times.measured {
                break;
            }
            if start >= begin && before.is_none() {
                before = Some(Snapshot::take(port, 0));
                continue;
            }
            port.stdin.write_all(&message)?;
            while take_all(&mut stdout, &mut arrivals)? == 0 {
                ensure!(stdout.read()?, "the host ended, or nothing came back for too long");
            }
            if before.is_some() {
                took.push(start.elapsed());
            }
            arrivals.put_acknowledgement(&mut acknowledgement);
            port.stdin.write_all(&acknowledgement)?;
            acknowledgement.clear();
        }
        let before = before.context("a machine that stands still cannot be measured")?;
        let mut figures = before.until(&Snapshot::take(port, took.len()));
        took.sort_unstable();
        for (name, quantile) in [(P50, 0.5), (P99, 0.99)] {
            let index = (took.len() as f64 * quantile) as usize;
            figures.insert(name, took.get(index).context("not one round trip was done")?.as_secs_f64() * 1e6);
        }
        Ok(figures)
    }

    fn to_extension(self, port: &mut Port, client: TcpStream, times: Times) -> Result<Figures> {
        let payload = payload(self.size);
        let flow = Arc::new(Flow::new(self.size));
        let mut stdout = port.stdout.take().context("nobody reads yet")?;
        let mut arrivals = Arrivals::of(&payload, port.language());
        let meter = Meter::start(port, &flow, times);
        let (sender, together) = (Arc::clone(&flow), self.together());
        thread::spawn(move || server::flood(client, &payload, together, &sender));

        let mut acknowledgement = Vec::new();
        let mut read = || -> Result<()> {
            while !flow.is_over()? {
                ensure!(stdout.read()?, "the host ended");
                flow.receive(take_all(&mut stdout, &mut arrivals)?);
                arrivals.put_acknowledgement(&mut acknowledgement);
                port.stdin.write_all(&acknowledgement)?;
                acknowledgement.clear();
            }
            Ok(())
        };
        let read = read();
        meter.end(read, &flow, self.size)
    }

    fn to_server(self, port: &mut Port, client: TcpStream, times: Times) -> Result<Figures> {
        let payload = payload(self.size);
        let flow = Arc::new(Flow::new(self.size));
        let together = self.together();
        let mut messages = Vec::new();
        (0..together).for_each(|_| port.language().put_send(&mut messages, &payload));
        let counted = Arc::clone(&flow);
        thread::spawn(move || {
            if let Err(error) = server::count(client, &payload, &counted) {
                counted.fail(format!("the server failed: {error}"));
            }
        });
        let (said, stdout) = (Arc::clone(&flow), port.stdout.take().context("nobody reads yet")?);
        let arrivals = Arrivals::of(b"", port.language());
        thread::spawn(move || {
            if let Err(error) = expect_nothing(stdout, arrivals) {
                said.fail(error.to_string());
            }
        });
        let meter = Meter::start(port, &flow, times);

        let mut write = || -> Result<()> {
            loop {
                let last = flow.send(together);
                port.stdin.write_all(&messages)?;
                if last {
                    return Ok(());
                }
            }
        };
        let written = write();
        meter.end(written, &flow, self.size)
    }

    fn together(self) -> usize {
        if self.one_a_write { 1 } else { together(self.size) }
    }
}

/// JSON of exactly `size` bytes, of the kind that servers send.
fn payload(size: usize) -> Vec<u8> {
    let item = |message: &str| {
        format!(
            r#"{{"type":"progress","taskId":"b-7","data":{{"stage":"build","progress":42,"message":"{message}"}}}}"#
        )
    };
    let padded = |rest: usize| item(&"x".repeat(rest - item("").len()));
    if size < 1000 {
        return padded(size).into_bytes();
    }
    let mut list = String::from("[");
    while size - list.len() > 500 {
        list.push_str(&item("compiling, 42 of 100 crates \\u2026"));
        list.push(',');
    }
    list.push_str(&padded(size - list.len() - 1));
    list.push(']');
    list.into_bytes()
}

/// Takes all whole frames. Returns how many messages of the server they brought.
fn take_all(stdout: &mut Input<ChildStdout>, arrivals: &mut Arrivals) -> Result<usize> {
    let mut came = 0;
    while let Some(frame) = stdout.native() {
        came += arrivals.take(frame)?;
    }
    Ok(came)
}

/// Reads until the host ends, and fails if it says anything of importance.
fn expect_nothing(mut stdout: Input<ChildStdout>, mut arrivals: Arrivals) -> Result<()> {
    // A pipe that breaks is the end, too.
    while stdout.read().unwrap_or(false) {
        take_all(&mut stdout, &mut arrivals)?;
    }
    Ok(())
}

/// Calls `kill` when `limit` is over, unless what is returned is dropped before.
fn kill_after(limit: Duration, kill: impl Fn() + Send + 'static) -> Sender<()> {
    let (sender, dropped) = mpsc::channel();
    thread::spawn(move || {
        if let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(limit) {
            kill();
        }
    });
    sender
}

/// Reads the clocks during a throughput measurement, and ends it.
struct Meter(JoinHandle<Result<Figures>>);

impl Meter {
    fn start(port: &Port, flow: &Arc<Flow>, times: Times) -> Self {
        let (flow, processes, kill) = (Arc::clone(flow), port.processes(), port.killer());
        Self(thread::spawn(move || {
            thread::sleep(times.warm_up);
            let before = Snapshot::of(&processes, flow.received());
            thread::sleep(times.measured);
            let after = Snapshot::of(&processes, flow.received());
            flow.stop();
            flow.wait_until_over(PATIENCE).inspect_err(|_| kill())?;
            Ok(before.until(&after))
        }))
    }

    /// The figures, when everything that was sent has arrived; `moved` is how this thread's part of it ended.
    fn end(self, moved: Result<()>, flow: &Flow, size: usize) -> Result<Figures> {
        if let Err(error) = moved {
            flow.fail(error.to_string());
        }
        let mut figures = self.0.join().map_err(|_| anyhow!("the meter panicked"))??;
        figures.insert(THROUGHPUT, figures[RATE] * size as f64 / 1e6);
        Ok(figures)
    }
}

/// What the clocks show at one moment.
struct Snapshot {
    at: Instant,
    messages: usize,
    cpu: Option<Duration>,
}

impl Snapshot {
    fn take(port: &Port, messages: usize) -> Self {
        Self::of(&port.processes(), messages)
    }

    fn of(processes: &[u32], messages: usize) -> Self {
        let cpu = processes.iter().copied().map(cpu_time).sum();
        Self { at: Instant::now(), messages, cpu }
    }

    fn until(&self, after: &Self) -> Figures {
        let messages = (after.messages - self.messages) as f64;
        let mut figures = Figures::from([(RATE, messages / (after.at - self.at).as_secs_f64())]);
        if let (Some(before), Some(after)) = (self.cpu, after.cpu) {
            figures.insert(CPU, (after - before).as_secs_f64() * 1e9 / messages);
        }
        figures
    }
}

/// CPU time of all threads of a process, where the system tells it (Linux).
fn cpu_time(process: u32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let of_thread = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.flatten().map(|thread| of_thread(thread.path())).sum()
}

/// The most memory that a process has had in use, where the system tells it (Linux).
fn peak_megabytes(process: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0 / 1e6)
}
