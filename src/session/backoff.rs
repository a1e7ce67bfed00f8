//! How long to wait before the next attempt, and whether there is to be one.
//!
//! Owns: the delays and the verdict on each way a connection can end. Does not know about time or states.

use std::time::Duration;

use crate::wire::Reason;

/// Upper bound of the first delay.
const FIRST: Duration = Duration::from_secs(1);
/// Upper bound of any delay.
const MAX: Duration = Duration::from_secs(300);
/// A connection that lived this long has proved the server well: the next delay is a first one again.
const STABLE: Duration = Duration::from_secs(30);

/// Counts failures and draws delays.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure: anything between none and a bound that doubles ("full jitter": clients that
    /// failed together do not return together).
    pub(super) fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rng.f64())
    }

    /// A connection that was open for `lifetime` has ended.
    pub(super) fn connection_lived(&mut self, lifetime: Duration) {
        if lifetime >= STABLE {
            self.failures = 0;
        }
    }
}

/// Whether trying again by itself can help. What cannot is parked: a server that says no to a credential says it again.
pub(super) fn retryable(reason: &Reason) -> bool {
    reason.retryable && !matches!(reason.http_status, Some(401 | 403 | 407))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_spread_below_a_bound_that_doubles_up_to_its_maximum() {
        let mut rng = fastrand::Rng::with_seed(7);
        for failures in 0..40 {
            let bound = Duration::from_secs(1 << failures.min(10)).min(MAX);
            let drawn: Vec<Duration> = (0..200).map(|_| Backoff { failures }.next(&mut rng)).collect();
            let (low, high) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(
                *high <= bound && *high > bound.mul_f64(0.9) && *low < bound.mul_f64(0.1),
                "{failures}: {low:?} {high:?}"
            );
        }
    }

    #[test]
    fn only_a_connection_that_lived_resets_the_bound() {
        let mut backoff = Backoff { failures: 5 };
        backoff.connection_lived(Duration::from_secs(29));
        assert_eq!(backoff.failures, 5);
        backoff.connection_lived(Duration::from_secs(30));
        assert_eq!(backoff.failures, 0);
    }
}
