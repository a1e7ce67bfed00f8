//! What must hold of a fleet of sessions, as inequalities.

use super::{Outcome, Scenario};

/// The window that is drawn from by default, in seconds: `reconnect.herd_window_ms`.
const HERD_WINDOW: f64 = 30.0;

/// With the advice of a window in which the server can accept them all: it never sees more than a fifth above what it
/// accepts, and 99 % are back within one and a half windows of the loss, or of the server's return if it stays away for longer
/// than half a window.
pub(crate) fn with_advice(scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
    let accepts = scenario.server.accepts;
    let peak = outcome.peak(std::time::Duration::ZERO, accepts) / accepts;
    if peak > 1.2 {
        return Err(format!("{peak:.2} times what the server accepts came in a second: 1.2 is the most"));
    }
    let from = if scenario.server.down > scenario.window() / 2 { scenario.server.down } else { Default::default() };
    let within = outcome.back_at(0.99).map(|back| (back - from).as_secs_f64() / scenario.window().as_secs_f64());
    match within {
        Some(within) if within <= 1.5 => Ok(()),
        Some(within) => Err(format!("99 % were back after {within:.2} windows: 1.5 is the most")),
        None => Err("99 % never came back".into()),
    }
}

/// Without advice: never more attempts a second than the clients over the herd window, and a tenth; and fewer attempts for
/// each client that is back than with any of `others`.
///
/// It is for each client that is back, because whoever gives up after four attempts makes few.
pub(crate) fn without_advice(scenario: &Scenario, outcome: &Outcome, others: &[(&str, Outcome)]) -> Result<(), String> {
    let wave = f64::from(scenario.clients) / HERD_WINDOW;
    let peak = outcome.peak(std::time::Duration::ZERO, wave) / wave;
    if peak > 1.1 {
        return Err(format!("{peak:.2} times the clients over the herd window came in a second: 1.1 is the most"));
    }
    let ours = outcome.attempts_for_each_back();
    match others.iter().find(|(_, other)| other.attempts_for_each_back() <= ours) {
        Some((name, other)) => {
            let theirs = other.attempts_for_each_back();
            Err(format!("{ours:.2} attempts for each client that is back: {name} makes {theirs:.2}"))
        }
        None => Ok(()),
    }
}
