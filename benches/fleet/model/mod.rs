//! A fleet of clients loses one server and comes back to it, in virtual time.
//!
//! Owns: the course of events. What clients decide is `client`'s (the real session) and `policies`' (other libraries), whom
//! the server takes is `server`'s, what is read off at the end `outcome`'s, and what must hold of it `bars`'.
//!
//! All lose the connection at 0, hear of it and of everything else after a round trip of their own, and try again when they
//! decide so. An attempt that is not taken is answered, not left without an answer: who hears at once tries again the
//! soonest, so that this is the hardest for the server. Whoever is back stays.

pub(crate) mod bars;
pub(crate) mod client;
mod outcome;
pub(crate) mod policies;
mod server;

pub(crate) use outcome::Outcome;
pub(crate) use server::Server;

use std::time::Duration;

/// What happens, to whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// How many lose the server.
    pub(crate) clients: u32,
    /// The server that they lose.
    pub(crate) server: Server,
    /// When the simulation ends, whoever is still away.
    pub(crate) until: Duration,
}

impl Scenario {
    /// A fleet of that size, and a server that would accept `accepts` of a million in a second and has lost them for `down`.
    ///
    /// All is proportional to the size of the fleet, but not what may wait in the server's queue: there it is bounded by the
    /// time that somebody waits for an answer.
    pub(crate) fn new(clients: u32, accepts: u32, down: Duration) -> Self {
        let accepts = f64::from(accepts) * f64::from(clients) / 1e6;
        let server = Server { down, accepts, backlog: (5.0 * accepts).min(1024.0) };
        Self { clients, server, until: Duration::from_secs(3600) }
    }

    /// The shortest window over which the server can accept them all.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.clients) / self.server.accepts)
    }
}

/// Something that a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The connection is lost.
    Lost,
    /// Nothing listens where the server was.
    Refused,
    /// There is a server, but it has too much to do: HTTP status 503.
    Overloaded,
    /// It is connected again.
    Back,
    /// The time has come that it named.
    Time,
}

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It tries to connect.
    Dial,
    /// It waits for this time.
    At(Duration),
    /// Nothing, ever.
    Rest,
}

/// One of the fleet.
pub(crate) trait Client {
    /// Something happened; times are since the loss.
    fn hear(&mut self, news: News, now: Duration) -> Next;
}

/// Lets it happen. `client` makes one of them, by its number.
pub(crate) fn run<C: Client>(scenario: &Scenario, client: impl Fn(u32) -> C) -> Outcome {
    let mut clients: Vec<Option<C>> = (0..scenario.clients).map(|number| Some(client(number))).collect();
    let mut news = vec![News::Lost; clients.len()];
    let mut wheel = Wheel::new(scenario.clients);
    for number in 0..scenario.clients {
        wheel.insert(number, round_trip(number));
    }
    let mut server = scenario.server.waits_for_them();
    let mut outcome = Outcome::new(scenario.clients);
    while wheel.now < scenario.until.as_millis() as u64 && wheel.waiting > 0 {
        let now = Duration::from_millis(wheel.now);
        while let Some(number) = wheel.pop() {
            let at = number as usize;
            let Some(client) = &mut clients[at] else { continue };
            let heard = std::mem::replace(&mut news[at], News::Time);
            match client.hear(heard, now) {
                _ if heard == News::Back => {
                    outcome.note_back(now);
                    // It stays, and its memory is for those who do not.
                    clients[at] = None;
                }
                Next::Rest => outcome.note_given_up(),
                Next::At(time) => wheel.insert(number, time.as_nanos().div_ceil(1_000_000) as u64),
                Next::Dial => {
                    outcome.note_attempt(number, now);
                    let (answer, at_ms) = server.take(now);
                    news[at] = answer;
                    wheel.insert(number, at_ms + round_trip(number));
                }
            }
        }
        wheel.turn();
    }
    outcome
}

/// Milliseconds from a client to the server and back: 20 to 219, always the same for one client.
fn round_trip(number: u32) -> u64 {
    20 + (seed(number) >> 32) % 200
}

/// What a client's chance comes from: neighbours have nothing in common (the finaliser of SplitMix64).
fn seed(number: u32) -> u64 {
    let mut bits = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Who is woken when: a place for each millisecond, in a circle, with a list of clients in it.
struct Wheel {
    /// The first of each list.
    places: Vec<u32>,
    /// To each client the next of its list.
    next: Vec<u32>,
    now: u64,
    waiting: usize,
}

impl Wheel {
    /// Longer than any delay of any client: 140 minutes.
    const PLACES: u64 = 1 << 23;
    const NOBODY: u32 = u32::MAX;

    fn new(clients: u32) -> Self {
        let places = vec![Self::NOBODY; Self::PLACES as usize];
        Self { places, next: vec![Self::NOBODY; clients as usize], now: 0, waiting: 0 }
    }

    /// `number` is woken at that millisecond, or now if it is over.
    fn insert(&mut self, number: u32, at_ms: u64) {
        let at_ms = at_ms.max(self.now);
        assert!(at_ms - self.now < Self::PLACES, "a client waits longer than the wheel is round");
        let place = &mut self.places[(at_ms % Self::PLACES) as usize];
        self.next[number as usize] = std::mem::replace(place, number);
        self.waiting += 1;
    }

    /// Somebody who is woken now.
    fn pop(&mut self) -> Option<u32> {
        let place = &mut self.places[(self.now % Self::PLACES) as usize];
        let number = *place;
        *place = *self.next.get(number as usize)?;
        self.waiting -= 1;
        Some(number)
    }

    fn turn(&mut self) {
        self.now += 1;
    }
}
