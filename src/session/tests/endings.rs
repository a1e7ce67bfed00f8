//! How connections end: for each way the state, the reason and the delay, and that all of them together storm nobody.

use std::collections::BTreeMap;

use super::*;
use crate::wire::event::Hint;

/// What a loss leads to: the longest and the shortest of many delays, or none.
fn delays(reason: &Reason, connected: bool, change: impl Fn(&mut Birth)) -> Option<(Duration, Duration)> {
    let drawn: Option<Vec<Duration>> = (0..300)
        .map(|seed| {
            let mut rig = Rig::with(|birth| {
                birth.url = Url::parse("wss://example.org/").unwrap();
                birth.settings = Settings::default();
                birth.seed = seed;
                change(birth);
            });
            rig.open(1, "main");
            if connected {
                rig.connect();
            }
            let lines = rig.lose(reason.clone());
            let (state, code) = (shown_state(rig.session.state()), reason.code);
            assert_eq!(lines, [format!("1: {state} ({code})")]);
            rig.delay()
        })
        .collect();
    let drawn = drawn?;
    Some((drawn.iter().min().copied().unwrap(), drawn.iter().max().copied().unwrap()))
}

fn closed(close_code: u16) -> Reason {
    Reason { code: "closed", close_code: Some(close_code), ..reset() }
}

fn hinted(after_ms: u64, window_ms: Option<u64>, reason: Reason) -> Reason {
    Reason { hint: Some(Hint { after_ms, window_ms }), ..reason }
}

/// Whether the delays fill the time from `from` to `to`.
#[track_caller]
fn assert_spread(found: Option<(Duration, Duration)>, from: u64, to: u64) {
    let (low, high) = found.expect("it is tried again");
    let (from, to) = (seconds(from), seconds(to));
    let margin = (to - from) / 20;
    assert!(low >= from && low <= from + margin, "{low:?} is not just above {from:?}");
    assert!(high <= to && high >= to - margin, "{high:?} is not just below {to:?}");
}

#[test]
fn what_looks_like_everybodys_loss_is_spread_over_the_window() {
    for code in [1000, 1001, 1005, 1009, 1011, 1012, 1013, 1014, 3008, 4000, 4429, 4999] {
        assert_spread(delays(&closed(code), true, |_| {}), 0, 30);
    }
    for status in [200, 204, 301, 302, 308, 400, 404, 410, 426, 429, 500, 502, 503, 504] {
        assert_spread(delays(&refused(status), false, |_| {}), 0, 30);
    }
    for code in ["refused", "reset", "tls", "upgrade", "upgrade-timeout", "protocol", "message-too-large"] {
        assert_spread(delays(&Reason { code, ..reset() }, false, |_| {}), 0, 30);
    }
}

#[test]
fn what_looks_like_our_loss_alone_is_tried_within_a_second() {
    for code in ["dns", "timeout", "network", "write-timeout", "heartbeat", "sleep", "network-change"] {
        assert_spread(delays(&Reason { code, ..reset() }, true, |_| {}), 0, 1);
    }
}

#[test]
fn the_window_is_a_setting_and_there_is_none_on_this_machine() {
    assert_spread(delays(&closed(1012), true, |birth| birth.settings.reconnect.herd_window = seconds(120)), 0, 120);
    assert_spread(delays(&closed(1012), true, |birth| birth.settings = super::birth().settings), 0, 1);
}

#[test]
fn a_hint_of_the_server_is_obeyed_with_a_spread_of_its_own_or_the_window() {
    assert_spread(delays(&hinted(60_000, None, refused(503)), false, |_| {}), 60, 90);
    assert_spread(delays(&hinted(60_000, None, refused(429)), false, |_| {}), 60, 90);
    assert_spread(delays(&hinted(0, None, refused(503)), false, |_| {}), 0, 30);
    assert_spread(delays(&hinted(5_000, Some(600_000), closed(1012)), true, |_| {}), 5, 605);
    assert_spread(delays(&hinted(5_000, Some(0), closed(1012)), true, |_| {}), 5, 6);
}

#[test]
fn a_server_may_say_in_its_greeting_over_which_window_its_clients_are_to_return() {
    let greeted = |greeting: &str, then: fn(&mut Rig)| -> Vec<Duration> {
        let drawn = (0..300).map(|seed| {
            let mut rig = Rig::with(|birth| {
                birth.settings = Settings::default();
                birth.seed = seed;
            });
            rig.open(1, "main");
            rig.connect();
            assert_eq!(deliveries(&rig.frame(greeting)), [format!("1: message 1 {greeting}")]);
            then(&mut rig);
            rig.lose(closed(1012));
            rig.delay().unwrap()
        });
        drawn.collect()
    };
    let longest = |drawn: Vec<Duration>| drawn.into_iter().max().unwrap();
    let welcome = r#"{"type":"welcome","reconnect_window_ms":200000}"#;
    let high = longest(greeted(welcome, |_| {}));
    assert!(high <= seconds(200) && high > seconds(180), "{high:?}");
    let later = longest(greeted(r#"{"type":"welcome"}"#, |rig| {
        rig.frame(r#"{"reconnect_window_ms":200000}"#);
    }));
    assert!(later <= seconds(30), "only the first message is looked into: {later:?}");
    let forgotten = longest(greeted(welcome, |rig| {
        rig.input(Input::Close { forget: true, code: None, reason: None });
        rig.open(1, "main");
        rig.connect();
    }));
    assert!(forgotten <= seconds(30), "{forgotten:?}");
    for nonsense in [r#"{"reconnect_window_ms":-1}"#, r#"{"reconnect_window_ms":"long"}"#, "[1]", "7"] {
        assert!(longest(greeted(nonsense, |_| {})) <= seconds(30), "{nonsense}");
    }
}

#[test]
fn a_wrong_hint_costs_no_more_than_an_hour_and_another_for_its_window() {
    assert_spread(delays(&hinted(u64::MAX, None, refused(503)), false, |_| {}), 3600, 3630);
    assert_spread(delays(&hinted(u64::MAX, Some(u64::MAX), refused(503)), false, |_| {}), 3600, 7200);
}

#[test]
fn a_refused_credential_parks_whatever_way_it_is_said() {
    for reason in [401, 403, 407].map(refused).into_iter().chain([3000, 3003, 4401, 4403].map(closed)) {
        let mut rig = Rig::connected();
        rig.input(Input::Lost { attempt: 1, reason });
        assert_eq!(rig.session.state(), State::Error);
        let told = rig.session.report(rig.now).reason.unwrap();
        assert!(!told.retryable);
        assert_eq!(rig.due(), None);
    }
}

#[test]
fn a_server_that_finds_fault_three_times_in_a_row_is_left_alone() {
    for code in [1002, 1003, 1007, 1008, 1010] {
        let mut rig = Rig::connected();
        for _ in 0..2 {
            assert_eq!(rig.lose(closed(code)), ["1: reconnecting (closed)"]);
            // Other troubles in between prove nothing.
            rig.next_timer();
            assert_eq!(rig.lose(reset()), ["1: reconnecting (reset)"]);
            rig.next_timer();
            rig.connect();
        }
        assert_eq!(rig.lose(closed(code)), ["1: error (closed)"]);
        assert!(
            rig.session
                .report(rig.now)
                .reason
                .unwrap()
                .message
                .contains("; said 3 times in a row; nothing is tried until")
        );
        rig.wait(seconds(1));
        rig.input(Input::Reconnect { port: PortId(1), reference: None });
        rig.connect();
        assert_eq!(rig.lose(closed(code)), ["1: reconnecting (closed)"], "somebody asked, so it is heard out again");
    }
}

#[test]
fn a_stable_connection_forgives_faults() {
    let mut rig = Rig::connected();
    for _ in 0..5 {
        assert_eq!(rig.lose(closed(1008)), ["1: reconnecting (closed)"]);
        rig.next_timer();
        rig.connect();
        rig.now.elapsed += seconds(30);
    }
}

#[test]
fn the_largest_message_is_not_sent_again_to_a_server_that_found_one_too_large() {
    let mut rig = Rig::connected();
    for text in ["a", "bbbbbb", "cc"] {
        rig.send(text);
    }
    let lines = rig.lose(closed(1009));
    assert_eq!(lines, ["1: error too-large", "1: reconnecting (closed)", "1: refused bbbbbb (too-large)"]);
    rig.next_timer();
    assert_eq!(sent(&rig.connect()), ["#2 send text:a", "#2 send text:cc"]);
}

#[test]
fn nothing_is_refused_for_being_too_large_when_all_has_arrived() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.pong();
    assert_eq!(rig.lose(closed(1009)), ["1: reconnecting (closed)"]);
}

#[test]
fn a_message_over_the_limit_is_a_gap_before_that_of_the_outage() {
    let mut rig = Rig::connected();
    rig.frame("a");
    let too_large = Reason { code: "message-too-large", ..reset() };
    assert_eq!(rig.lose(too_large), ["1: reconnecting (message-too-large)", "1: gap 2..=2 too-large count 1"]);
    rig.next_timer();
    let lines = rig.connect();
    assert!(lines[1].starts_with("1: gap 3..=3 disconnected"), "{lines:?}");
}

#[test]
fn it_is_given_up_after_as_many_attempts_as_the_settings_say() {
    let mut rig = Rig::with(|birth| birth.settings.reconnect.max_attempts = 3);
    rig.open(1, "main");
    assert_eq!(rig.break_and_redial(), ["1: reconnecting (reset)", "1: reconnecting", "#2 connect /ws"]);
    rig.break_and_redial();
    assert_eq!(rig.lose(reset()), ["1: error (reset)"]);
    assert!(
        rig.session.report(rig.now).reason.unwrap().message.contains("after 3 in a row (`reconnect.max_attempts`)")
    );
}

#[test]
fn so_many_attempts_in_a_short_time_and_not_one_more() {
    let mut rig = Rig::with(|birth| {
        birth.settings.reconnect.burst = 4;
        birth.settings.reconnect.refill = seconds(30);
        birth.settings.reconnect.max = Duration::from_millis(10);
        birth.settings.reconnect.first = Duration::from_millis(10);
    });
    rig.open(1, "main");
    let began = rig.now.elapsed;
    let mut dialled = vec![began];
    for _ in 0..8 {
        rig.lose(reset());
        rig.next_timer();
        dialled.push(rig.now.elapsed);
    }
    for (index, at) in dialled.iter().enumerate() {
        let refilled = began + seconds(30) * (index as u32).saturating_sub(3);
        assert!(*at >= refilled && *at < refilled + seconds(1), "attempt {index} at {:?}", *at - began);
    }
}

#[test]
fn an_extension_that_opens_and_closes_again_and_again_has_no_more_attempts_than_others() {
    let mut rig = Rig::with(|birth| birth.settings.reconnect.refill = seconds(30));
    for attempt in 1..=10 {
        assert!(rig.open(1, "main").contains(&format!("#{attempt} connect /ws")));
        rig.input(close(false));
    }
    let lines = rig.open(1, "main");
    assert_eq!(lines, ["1: opened reconnecting head 0 acked 0 pending 0", "1: reconnecting (attempt-budget)"]);
    assert_eq!(rig.delay(), Some(seconds(30)));
    assert_eq!(rig.next_timer(), ["1: reconnecting", "#11 connect /ws"]);
    rig.lose(refused(401));
    rig.wait(seconds(2));
    let reconnect = Input::Reconnect { port: PortId(1), reference: None };
    assert_eq!(rig.input(reconnect), ["1: error rate-limited"]);
}

#[test]
fn every_ending_has_one_row_that_counts() {
    let rows = ENDINGS.iter().filter_map(|ending| match ending.sign {
        Sign::Code(code) => Some(code),
        _ => None,
    });
    let rows: Vec<_> = rows.collect();
    let mut once = rows.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), rows.len(), "a code has two rows");
    for (status, close_code) in
        (100..1000).map(|status| (Some(status), None)).chain((1000..5000).map(|c| (None, Some(c))))
    {
        let reason = Reason { http_status: status, close_code, ..reset() };
        assert!(ENDINGS.iter().any(|ending| ending.fits(&reason)), "{reason:?}");
    }
}

/// When a client tries again that fails each time for these reasons; the last one counts on and on.
fn attempts(seed: u64, reasons: &[Reason], change: fn(&mut Retry), until: Duration) -> Vec<Duration> {
    let (mut retry, mut rng) = (Retry::default(), fastrand::Rng::with_seed(seed));
    change(&mut retry);
    let settings = Settings::default().reconnect;
    let mut reasons = reasons.to_vec();
    let (mut at, mut all) = (Duration::ZERO, Vec::new());
    loop {
        let reason = if reasons.len() > 1 { reasons.remove(0) } else { reasons[0].clone() };
        match retry.next(verdict(&reason), reason.hint, &settings, &mut rng) {
            retry::Next::After(delay) => at += delay,
            retry::Next::Never(why) => panic!("{why:?}"),
        }
        if at >= until {
            return all;
        }
        all.push(at);
    }
}

/// What the delays are for.
#[test]
fn however_long_a_server_stays_away_no_second_brings_more_than_the_clients_over_the_window() {
    const CLIENTS: u64 = 30_000;
    let mut in_each = BTreeMap::<u64, u64>::new();
    for seed in 0..CLIENTS {
        // The server dies without a word, then is overrun: those who hear nothing are no others.
        let reasons = [reset(), refused(503), Reason { code: "timeout", ..reset() }];
        for at in attempts(seed, &reasons, |_| {}, seconds(1200)) {
            *in_each.entry(at.as_secs()).or_default() += 1;
        }
    }
    let most = in_each.values().max().unwrap();
    assert!(*most <= CLIENTS / 30 * 11 / 10, "{most} of {CLIENTS} came in one second");
    // From 150 s to 300 s lie between two attempts of a client by then.
    let at_last = in_each.range(900..1200).map(|(_, count)| count).sum::<u64>();
    assert!(at_last <= CLIENTS * 300 / 225 * 11 / 10, "{at_last} attempts of {CLIENTS} clients in five minutes");
}

#[test]
fn everybody_keeps_the_place_that_it_drew_in_a_window_that_the_server_asked_for() {
    let asked = [hinted(0, Some(100_000), closed(1012)), reset()];
    for seed in 0..100 {
        let learnt = attempts(seed, &[reset()], |retry| retry.learn_window(Some(100_000)), seconds(600));
        for tries in [attempts(seed, &asked, |_| {}, seconds(600)), learnt] {
            assert!(tries[0] <= seconds(100));
            assert_eq!(tries.len(), 6, "{tries:?}");
            for pair in tries.windows(2) {
                let apart = (pair[1] - pair[0]).as_secs_f64();
                assert!((apart - 100.0).abs() < 0.001, "{apart} s apart, not a window: {tries:?}");
            }
        }
    }
}

#[test]
fn a_window_that_was_asked_for_counts_until_a_connection_is_stable() {
    let mut rig = Rig::with(|birth| birth.settings = Settings::default());
    rig.open(1, "main");
    rig.connect();
    rig.lose(hinted(0, Some(600_000), closed(1012)));
    rig.next_timer();
    rig.connect();
    rig.lose(reset());
    assert_eq!(rig.delay(), Some(seconds(600)), "a connection that fails at once proves nothing");
    rig.next_timer();
    rig.connect();
    rig.now.elapsed += seconds(30);
    rig.lose(reset());
    assert!(rig.delay().unwrap() <= seconds(30));
}

#[test]
fn what_looked_like_our_trouble_alone_does_not_count_with_everybodys() {
    let alone = Reason { code: "dns", ..reset() };
    for seed in 0..100 {
        let tries = attempts(seed, &[alone.clone(), alone.clone(), alone.clone(), reset()], |_| {}, seconds(100));
        let delays: Vec<f64> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        assert!(delays[0] <= 2.0 && delays[1] <= 4.0 && delays[2] <= 30.0, "{delays:?}");
        assert!(delays.get(3).is_none_or(|delay| (30.0..=60.0).contains(delay)), "{delays:?}");
    }
}
