//! What is read off a simulation: attempts over time, attempts of each client, who was back when.

use std::time::Duration;

/// How it went.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    clients: usize,
    /// Attempts that began in each tenth of a second.
    tenths: Vec<u32>,
    /// How many each client made.
    attempts: Vec<u32>,
    /// When clients were back, in milliseconds, in that order.
    back: Vec<u32>,
    /// How many try no more.
    given_up: usize,
}

impl Outcome {
    pub(super) fn new(clients: u32) -> Self {
        let clients = clients as usize;
        let attempts = vec![0; clients];
        Self { clients, tenths: Vec::new(), attempts, back: Vec::new(), given_up: 0 }
    }

    pub(super) fn note_attempt(&mut self, number: u32, now: Duration) {
        let tenth = (now.as_millis() / 100) as usize;
        if tenth >= self.tenths.len() {
            self.tenths.resize(tenth + 1, 0);
        }
        self.tenths[tenth] += 1;
        self.attempts[number as usize] += 1;
    }

    pub(super) fn note_back(&mut self, now: Duration) {
        self.back.push(now.as_millis() as u32);
    }

    pub(super) fn note_given_up(&mut self) {
        self.given_up += 1;
    }

    /// The most attempts a second, from then on.
    ///
    /// They are counted in spans in which `expected` a second makes a thousand, or of a second if that is longer: what is
    /// above it in such a span is more than luck.
    pub(crate) fn peak(&self, from: Duration, expected: f64) -> f64 {
        let span = (10_000.0 / expected).ceil().max(10.0) as usize;
        let tenths = self.tenths.get((from.as_millis() / 100) as usize..).unwrap_or(&[]);
        let most = tenths.chunks(span).map(|span| span.iter().sum::<u32>()).max().unwrap_or(0);
        f64::from(most) * 10.0 / span as f64
    }

    /// Attempts in each second.
    pub(crate) fn per_second(&self) -> Vec<u32> {
        self.tenths.chunks(10).map(|second| second.iter().sum()).collect()
    }

    /// All attempts, over all clients.
    pub(crate) fn mean_attempts(&self) -> f64 {
        self.attempts.iter().map(|&attempts| f64::from(attempts)).sum::<f64>() / self.clients as f64
    }

    /// All attempts, over the clients that they brought back.
    pub(crate) fn attempts_for_each_back(&self) -> f64 {
        self.mean_attempts() * self.clients as f64 / self.back.len() as f64
    }

    /// The most that a client made.
    pub(crate) fn most_attempts(&self) -> u32 {
        self.attempts.iter().copied().max().unwrap_or(0)
    }

    /// When that share of the clients was back, if it ever was.
    pub(crate) fn back_at(&self, share: f64) -> Option<Duration> {
        let number = (self.clients as f64 * share).ceil() as usize;
        let ms = self.back.get(number.checked_sub(1)?)?;
        Some(Duration::from_millis(u64::from(*ms)))
    }

    /// The share of the clients that try no more.
    pub(crate) fn given_up(&self) -> f64 {
        self.given_up as f64 / self.clients as f64
    }
}
