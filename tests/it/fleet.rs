//! A server that comes back is not stormed: what the fleet's benchmark shows of a million sessions, with few enough of them
//! for every day.

use std::time::Duration;

use model::client::{Advice, Bridges};
use model::{Outcome, Scenario, bars, policies};

#[expect(dead_code, reason = "the benchmark also prints and draws")]
#[path = "../../benches/fleet/model/mod.rs"]
mod model;

const CLIENTS: u32 = 20_000;
const DOWN: Duration = Duration::from_secs(45);

/// Handshakes a second of a server that loses a million.
const ACCEPTED: [u32; 3] = [1000, 2000, 10_000];

fn sessions(scenario: &Scenario, advice: Advice) -> Outcome {
    let bridges = Bridges::new(scenario.clients, advice);
    model::run(scenario, |number| bridges.client(number))
}

#[test]
fn a_fleet_that_knows_the_window_comes_back_as_fast_as_the_server_accepts_it_and_no_faster() {
    for accepted in ACCEPTED {
        let scenario = Scenario::new(CLIENTS, accepted, DOWN);
        for advice in [Advice::InGreeting(scenario.window()), Advice::InCloseReason(scenario.window())] {
            let outcome = sessions(&scenario, advice);
            assert_eq!(bars::with_advice(&scenario, &outcome), Ok(()), "{accepted} accepted, {advice:?}");
        }
    }
}

#[test]
fn a_fleet_that_knows_nothing_is_spread_over_the_herd_window_and_tries_less_often_than_any_other() {
    for accepted in ACCEPTED {
        let scenario = Scenario::new(CLIENTS, accepted, DOWN);
        let others = policies::POLICIES.iter().map(|policy| {
            let outcome = model::run(&scenario, |number| policy.client(number));
            (policy.name, outcome)
        });
        let others: Vec<_> = others.collect();
        let outcome = sessions(&scenario, Advice::None);
        assert_eq!(bars::without_advice(&scenario, &outcome, &others), Ok(()), "{accepted} accepted");
        assert_eq!(outcome.given_up(), 0.0);
    }
}

#[test]
fn a_session_that_is_made_again_from_what_it_has_heard_is_the_same() {
    let scenario = Scenario::new(1000, 2000, DOWN);
    let mut bridges = Bridges::new(scenario.clients, Advice::None);
    assert!(std::mem::take(&mut bridges.whole), "so few are not made again by themselves");
    let in_pieces = model::run(&scenario, |number| bridges.client(number));
    assert_eq!(in_pieces, sessions(&scenario, Advice::None));
}
