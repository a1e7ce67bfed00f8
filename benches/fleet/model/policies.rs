//! When other clients try again: their delays, as their sources had them in November 2026, and nothing else of them.
//!
//! Where a name has no version, the commit that was read is beside it. None of them tells a server that went away from a
//! network that did, or has a window of its server's, so that all they know is how often in a row they have failed.

use std::time::Duration;

use fastrand::Rng;

use super::{Client, News, Next, seed};

/// What a client waits before each attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// The library.
    pub(crate) name: &'static str,
    /// Seconds before the next attempt, when `n` have failed since the loss; none: it gives up. The number that it may
    /// remember is 0 at first.
    delay: fn(n: i32, memory: &mut f64, rng: &mut Rng) -> Option<f64>,
}

/// The others, by name.
pub(crate) const POLICIES: &[Policy] = &[
    // ably-js, 7fa7dc5: at once, then 15 s to 30 s and a fifth of it by chance; after two minutes 30 s.
    Policy {
        name: "Ably",
        delay: |n, waited, rng| {
            let delay = match n {
                0 => 0.0,
                _ if *waited >= 120.0 => 30.0,
                _ => 15.0 * (f64::from(n + 2) / 3.0).min(2.0) * (0.8 + 0.2 * rng.f64()),
            };
            *waited += delay;
            Some(delay)
        },
    },
    // aws-c-mqtt, d699fe4: 1 s to 120 s, any part of it by chance.
    Policy { name: "aws-c-mqtt", delay: |n, _, rng| Some(2f64.powi(n).min(120.0) * rng.f64()) },
    // c9e8678: half a second, and up to as much again, doubled, up to 20 s.
    Policy {
        name: "centrifuge-js",
        delay: |n, _, rng| Some((0.5 + rng.f64() * (0.5 * 2f64.powi(n)).min(20.0)).min(20.0)),
    },
    // google_apis/gcm/engine, which is in the browser: at once, then 30 s, doubled, up to 10 min, a third of it by chance.
    Policy {
        name: "Chromium GCM",
        delay: |n, _, rng| match n {
            0 => Some(0.0),
            _ => Some((30.0 * 2f64.powi(n - 1)).min(600.0) * (1.0 - 0.33 * rng.f64())),
        },
    },
    // af4f5c9: 1 s, doubled, and 0.3 s to 3 s by chance; five times.
    Policy { name: "graphql-ws", delay: |n, _, rng| (n < 5).then(|| 2f64.powi(n) + 0.3 + 2.7 * rng.f64()) },
    // Of the broker: anything from 5 s to thrice the last delay, up to 30 s.
    Policy {
        name: "mosquitto bridge",
        delay: |_, last, rng| {
            *last = (5.0 + rng.f64() * (3.0 * last.max(5.0) - 5.0)).min(30.0);
            Some(*last)
        },
    },
    // 850f889, over TLS: 2 s to 3 s, sixty times.
    Policy { name: "nats.go", delay: |n, _, rng| (n < 60).then(|| 2.0 + rng.f64()) },
    // paho.mqtt.golang, 5e7af3c: 1 s, doubled, up to 10 min.
    Policy { name: "Paho Go", delay: |n, _, _| Some(2f64.powi(n).min(600.0)) },
    // 3 s, by 1.3, up to 10 s.
    Policy { name: "partysocket 1.3", delay: |n, _, _| Some((3.0 * 1.3f64.powi(n)).min(10.0)) },
    // 167c469: nine short ones, then always 5 s.
    Policy {
        name: "phoenix.js",
        delay: |n, _, _| {
            Some([0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0].get(n as usize).copied().unwrap_or(5.0))
        },
    },
    // 1 s to 5 s, drawn once for each page, by 1.3, up to 10 s.
    Policy {
        name: "reconnecting-websocket 4.4",
        delay: |n, first, rng| {
            if n == 0 {
                *first = 1.0 + 4.0 * rng.f64();
            }
            Some((*first * 1.3f64.powi(n)).min(10.0))
        },
    },
    // DefaultReconnectPolicy.ts: four times.
    Policy { name: "SignalR 10", delay: |n, _, _| [0.0, 2.0, 10.0, 30.0].get(n as usize).copied() },
    // Its Socket Mode client: 5 s more with each failure.
    Policy { name: "Slack", delay: |n, _, _| Some(5.0 * f64::from(n + 1)) },
    // d2d753f: 1 s, doubled, half of it either way by chance, and only then no more than 5 s.
    Policy { name: "socket.io-client", delay: |n, _, rng| Some((2f64.powi(n) * (0.5 + rng.f64())).min(5.0)) },
];

/// A client of that policy.
pub(crate) struct Other {
    policy: Policy,
    failures: i32,
    memory: f64,
    rng: Rng,
}

impl Policy {
    /// `number` is what its chance comes from.
    pub(crate) fn client(self, number: u32) -> Other {
        Other { policy: self, failures: 0, memory: 0.0, rng: Rng::with_seed(seed(number)) }
    }
}

impl Client for Other {
    fn hear(&mut self, news: News, now: Duration) -> Next {
        match news {
            News::Time => Next::Dial,
            News::Back => Next::Rest,
            News::Lost | News::Refused | News::Overloaded => {
                let delay = (self.policy.delay)(self.failures, &mut self.memory, &mut self.rng);
                self.failures = (self.failures + 1).min(1000);
                delay.map_or(Next::Rest, |delay| Next::At(now + Duration::from_secs_f64(delay)))
            }
        }
    }
}
