//! The connection: states, heartbeat, when it is tried again and when not.

use super::*;

#[test]
fn a_failed_attempt_is_tried_again_at_the_time_that_is_told() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.session.handle(Input::Lost { attempt: 1, reason: reset() }, rig.now);
    let Some(Action::ToExtension { event: Event::State { state, .. }, .. }) = rig.session.poll_action() else {
        panic!()
    };
    assert_eq!((state.state, state.attempt, state.since), (State::Reconnecting, None, BEGIN));
    assert_eq!(state.reason.unwrap().code, "reset");
    let (at, timer) = rig.due().unwrap();
    assert_eq!(timer, Timer::Retry);
    assert_eq!(state.retry_at, Some(BEGIN + (at - rig.now.elapsed).as_millis() as u64));
    assert_eq!(rig.next_timer(), ["1: reconnecting", "#2 connect /ws"]);
}

#[test]
fn the_protocol_that_the_server_chose_is_told() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.session.handle(Input::Connected { attempt: 1, protocol: Some("chat".into()) }, rig.now);
    let Some(Action::ToExtension { event: Event::State { state, .. }, .. }) = rig.session.poll_action() else {
        panic!()
    };
    assert_eq!((state.protocol.as_deref(), state.attempt), (Some("chat"), Some(1)));
}

#[test]
fn what_an_older_attempt_reports_is_ignored() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.break_and_redial();
    for input in [
        Input::Connected { attempt: 1, protocol: None },
        Input::Frame { attempt: 1, body: Body::Json("a".into()) },
        Input::Frame { attempt: 2, body: Body::Json("too early".into()) },
        Input::Pong { attempt: 1, payload: [0; PING_BYTES] },
        Input::Alive { attempt: 1 },
        Input::Lost { attempt: 1, reason: reset() },
        Input::Lost { attempt: 3, reason: reset() },
    ] {
        assert_eq!(rig.input(input), [""; 0]);
    }
    assert_eq!(rig.connect(), ["1: connected"]);
    for attempt in [1, 2, 3] {
        assert_eq!(rig.input(Input::Connected { attempt, protocol: None }), [""; 0]);
    }
    assert_eq!(rig.input(Input::Lost { attempt: 1, reason: reset() }), [""; 0]);
    assert_eq!(rig.frame("a"), ["1: message 1 a"]);
}

#[test]
fn delays_grow_while_attempts_fail() {
    let mut longest = [Duration::ZERO; 12];
    for seed in 0..200 {
        let mut rig = Rig::new();
        rig.session.rng = fastrand::Rng::with_seed(seed);
        rig.open(1, "main");
        for longest in &mut longest {
            rig.lose(reset());
            let delay = rig.due().unwrap().0 - rig.now.elapsed;
            *longest = delay.max(*longest);
            rig.next_timer();
        }
    }
    for (failures, longest) in longest.iter().enumerate() {
        let bound = seconds(1 << failures).min(seconds(300));
        assert!(*longest <= bound && *longest > bound.mul_f64(0.8), "after {failures}: {longest:?}");
    }
}

#[test]
fn only_a_connection_that_was_stable_begins_the_delays_anew() {
    for (lived, bound) in [(29, 512), (30, 1)] {
        let longest = (0..100).map(|seed| {
            let mut rig = Rig::new();
            rig.session.rng = fastrand::Rng::with_seed(seed);
            rig.open(1, "main");
            for _ in 0..8 {
                rig.break_and_redial();
            }
            rig.connect();
            rig.now.elapsed += seconds(lived);
            rig.lose(reset());
            rig.due().unwrap().0 - rig.now.elapsed
        });
        let bound = seconds(bound).min(seconds(300));
        let longest = longest.max().unwrap();
        assert!(longest <= bound && longest > bound / 2, "{lived}: {longest:?}");
    }
}

#[test]
fn a_server_that_says_no_to_a_credential_is_not_asked_again() {
    for status in [401, 403, 407] {
        let mut rig = Rig::new();
        rig.open(1, "main");
        rig.session.handle(Input::Lost { attempt: 1, reason: refused(status) }, rig.now);
        let Some(Action::ToExtension { event: Event::State { state, .. }, .. }) = rig.session.poll_action() else {
            panic!()
        };
        let reason = state.reason.unwrap();
        assert_eq!((state.state, reason.retryable, reason.http_status), (State::Error, false, Some(status)));
        assert_eq!(rig.due(), None);
        assert_eq!(rig.status()["health"], 0);
    }
    for status in [400, 404, 429, 500, 503] {
        let mut rig = Rig::new();
        rig.open(1, "main");
        assert_eq!(rig.lose(refused(status)), ["1: reconnecting (http-status)"]);
    }
}

#[test]
fn a_server_that_was_not_allowed_is_asked_about_again_when_a_file_changes() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.lose(Reason { code: "not-allowed", ..reset() }), ["1: error (not-allowed)"]);
    let configure = || Input::Configure { settings: Box::new(birth().settings) };
    assert_eq!(rig.input(configure()), ["1: reconnecting", "#2 connect /ws"]);
    rig.lose(refused(401));
    assert_eq!(rig.input(configure()), [""; 0], "no file changes a server's mind");
}

#[test]
fn a_reconnect_request_ends_the_parking_but_not_within_a_second() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.lose(refused(401));
    let reconnect = || Input::Reconnect { port: PortId(1), reference: None };
    assert_eq!(rig.input(reconnect()), ["1: error rate-limited"]);
    rig.wait(seconds(1));
    assert_eq!(rig.input(reconnect()), ["1: reconnecting", "#2 connect /ws"]);
    assert_eq!(rig.input(reconnect()), [""; 0], "it is being tried");
    rig.connect();
    assert_eq!(rig.input(reconnect()), [""; 0], "it is connected");
}

#[test]
fn a_reconnect_request_need_not_wait_for_the_delay() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    for _ in 0..9 {
        rig.break_and_redial();
    }
    rig.lose(reset());
    rig.now.elapsed += seconds(1);
    let lines = rig.input(Input::Reconnect { port: PortId(1), reference: None });
    assert_eq!(lines, ["1: reconnecting", "#11 connect /ws"]);
}

#[test]
fn closed_stays_closed_until_somebody_opens_or_reconnects() {
    let mut rig = Rig::connected();
    rig.open(2, "other");
    assert_eq!(rig.input(close(false)), ["#1 disconnect 1000", "1: disconnected", "2: disconnected"]);
    assert_eq!(rig.wait(seconds(1000)), [""; 0]);
    assert_eq!(rig.send("a"), ["1: stored a"]);
    assert!(rig.input(Input::Reconnect { port: PortId(1), reference: None }).contains(&"#2 connect /ws".into()));
    assert!(rig.connect().contains(&"#2 send text:a".into()));
    rig.input(close(false));
    let lines = rig.open(3, "third");
    assert_eq!(lines[0], "3: opened connecting head 1 acked 1 pending 0");
    assert!(lines.contains(&"#3 connect /ws".into()), "{lines:?}");
}

#[test]
fn closing_ends_an_attempt_too() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.input(close(false)), ["#1 disconnect 1000", "1: disconnected"]);
    assert_eq!(rig.input(Input::Connected { attempt: 1, protocol: None }), [""; 0]);
    assert_eq!(rig.input(close(false)), ["1: disconnected"], "it is answered");
}

#[test]
fn forgetting_begins_an_epoch_under_the_ports_that_stay() {
    let mut rig = Rig::connected();
    rig.frame("a");
    let epoch = Arc::clone(&rig.session.epoch);
    let lines = rig.input(close(true));
    let opened = "1: opened disconnected head 0 acked 0 pending 0";
    assert_eq!(lines, ["#1 disconnect 1000", "1: disconnected", "forgotten", opened]);
    assert_ne!(rig.session.epoch, epoch);
    assert_eq!(
        rig.open_url(1, "ws://localhost:9/")[1..],
        ["1: connecting", "#2 connect /"],
        "it may be another server"
    );
    rig.connect();
    assert_eq!(rig.frame("b"), ["1: message 1 b"]);
}

#[test]
fn a_forgotten_session_that_its_ports_leave_is_void() {
    let mut rig = Rig::connected();
    rig.input(close(true));
    assert!(!rig.session.is_void());
    rig.detach(1);
    assert!(rig.session.is_void());
}

#[test]
fn another_server_is_refused_and_another_path_is_used_next_time() {
    let mut rig = Rig::connected();
    for url in ["ws://localhost:8081/ws", "wss://localhost:8080/ws", "ws://127.0.0.1:8080/ws"] {
        assert_eq!(rig.open_url(2, url), ["2: error url-differs"]);
    }
    assert_eq!(rig.session.url().as_str(), SERVER);
    assert_eq!(rig.open_url(1, "ws://localhost:8080/other?x=1")[0], "1: opened connected head 0 acked 0 pending 0");
    assert_eq!(rig.break_and_redial().last().unwrap(), "#2 connect /other");
}

#[test]
fn a_status_shows_no_query() {
    let mut rig = Rig::connected();
    rig.open_url(1, "ws://localhost:8080/ws?token=secret");
    assert_eq!(rig.status()["url"], "ws://localhost:8080/ws");
    assert!(!rig.status().to_string().contains("secret"));
}

#[test]
fn a_silent_server_is_pinged() {
    let mut rig = Rig::connected();
    assert_eq!(rig.wait(seconds(25) - Duration::from_millis(1)), [""; 0]);
    assert_eq!(rig.wait(Duration::from_millis(1)), ["#1 ping"]);
    rig.pong();
    rig.wait(seconds(20));
    rig.frame("a");
    assert_eq!(rig.wait(seconds(24)), [""; 0], "it was heard");
    rig.input(Input::Alive { attempt: 1 });
    assert_eq!(rig.wait(seconds(24)), [""; 0], "it was heard again");
    assert_eq!(rig.wait(seconds(1)), ["#1 ping"]);
}

#[test]
fn a_server_that_answered_once_and_then_is_silent_is_given_up() {
    let mut rig = Rig::connected();
    rig.wait(seconds(25));
    rig.pong();
    rig.wait(seconds(25));
    assert_eq!(rig.wait(seconds(10) - Duration::from_millis(1)), [""; 0]);
    assert_eq!(rig.wait(Duration::from_millis(1)), ["#1 disconnect 1001", "1: reconnecting (heartbeat)"]);
}

#[test]
fn a_server_that_sends_something_else_than_the_answer_lives() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.pong();
    rig.send("b");
    rig.wait(seconds(5));
    rig.frame("x");
    assert_eq!(rig.wait(seconds(5)), ["#1 ping"], "it is asked again");
    assert_eq!(rig.pong(), ["1: received b"]);
}

#[test]
fn for_a_server_that_never_answers_pings_written_counts_as_received() {
    let mut rig = Rig::connected();
    assert_eq!(rig.status()["answers_pings"], json!(null));
    rig.send("a");
    assert_eq!(said_to(1, &rig.wait(seconds(10))), ["received a"]);
    assert_eq!(rig.status()["answers_pings"], false);
    assert_eq!(rig.status()["health"], 80);
    assert_eq!(rig.send("b"), ["#1 send text:b", "1: received b"]);
    let lines = rig.wait(seconds(3600));
    assert!(lines.iter().all(|line| line == "#1 ping") && lines.len() > 50, "not dropped, but asked: {lines:?}");
    rig.pong();
    assert_eq!(rig.status()["answers_pings"], true);
    assert_eq!(rig.send("c"), ["#1 send text:c", "#1 ping", "1: stored c"]);
}

#[test]
fn the_connection_lingers_a_day_without_ports() {
    let mut rig = Rig::connected();
    rig.detach(1);
    let day = 24 * 60 * 60;
    for _ in 0..(day / 20 - 1) {
        rig.wait(seconds(20));
        rig.input(Input::Alive { attempt: 1 });
    }
    assert!(rig.session.is_needed());
    assert_eq!(rig.wait(seconds(21)), ["#1 disconnect 1000"]);
    assert!(!rig.session.is_needed());
}

#[test]
fn a_session_that_nobody_opens_for_thirty_days_is_forgotten() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.detach(1);
    let day = seconds(24 * 60 * 60);
    rig.input(close(false));
    assert_eq!(rig.wait(30 * day - seconds(1)), [""; 0]);
    assert!(!rig.session.is_void());
    assert_eq!(rig.wait(seconds(1)), ["forgotten"]);
    assert!(rig.session.is_void());
    assert_eq!(rig.due(), None);
}

#[test]
fn a_port_that_comes_back_ends_the_lingering() {
    let mut rig = Rig::with(|birth| birth.settings.linger = seconds(60));
    rig.open(1, "main");
    rig.lose(refused(401));
    rig.detach(1);
    assert_eq!(rig.due(), Some((rig.now.elapsed + seconds(60), Timer::Linger)));
    rig.open(2, "main");
    assert_eq!(rig.due(), None);
}

#[test]
fn the_daemon_is_needed_while_anything_is_kept_in_memory() {
    let mut rig = Rig::with(|birth| birth.mode = Mode::Memory);
    rig.open(1, "main");
    rig.connect();
    rig.frame("a");
    rig.input(close(false));
    rig.detach(1);
    assert!(rig.session.is_needed());
    rig.open(1, "main");
    rig.input(close(false));
    rig.ack(1, 1);
    rig.detach(1);
    assert!(!rig.session.is_needed());
}

#[test]
fn the_status_tells_what_happened() {
    let mut rig = Rig::connected();
    rig.frame("abc");
    rig.send("ab");
    rig.wait(Duration::from_millis(250));
    rig.pong();
    let status = rig.status();
    for (field, value) in [
        ("session", json!("s")),
        ("mode", json!("durable")),
        ("state", json!("connected")),
        ("connected_at", json!(BEGIN)),
        ("attempt", json!(1)),
        ("last_ping_at", json!(BEGIN)),
        ("last_pong_at", json!(BEGIN + 250)),
        ("latency_ms", json!(250.0)),
        ("answers_pings", json!(true)),
        ("messages_received", json!(1)),
        ("bytes_received", json!(3)),
        ("messages_sent", json!(1)),
        ("bytes_sent", json!(2)),
        ("reconnections", json!(0)),
        ("errors", json!(0)),
        ("uptime_ms", json!(250)),
        ("health", json!(100)),
        ("consumers", json!([{"consumer": "main", "acked": 0, "attached": true}])),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    rig.break_and_redial();
    assert_eq!(rig.status()["health"], 40);
    rig.connect();
    let status = rig.status();
    assert_eq!((&status["reconnections"], &status["errors"], &status["attempt"]), (&json!(1), &json!(1), &json!(2)));
}

#[test]
fn opening_what_was_closed_is_connecting_and_not_reconnecting() {
    let mut rig = Rig::connected();
    rig.input(close(false));
    assert_eq!(
        rig.open(1, "main"),
        ["1: opened connecting head 0 acked 0 pending 0", "1: connecting", "#2 connect /ws"]
    );
    rig.lose(reset());
    assert_eq!(rig.next_timer(), ["1: reconnecting", "#3 connect /ws"]);
}

#[test]
fn a_session_that_lingered_its_time_is_closed_once() {
    let mut rig = Rig::connected();
    rig.detach(1);
    let day = seconds(24 * 60 * 60);
    rig.set_time(rig.now.elapsed + day);
    rig.session.handle_timeout(rig.now);
    let actions: Vec<_> = std::iter::from_fn(|| rig.session.poll_action()).collect();
    let said = actions.iter().find_map(|action| match action {
        Action::Disconnect { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(said, Some("no port came back"));
    let since = rig.status()["since"].clone();
    rig.set_time(rig.now.elapsed + day);
    rig.session.handle_timeout(rig.now);
    assert_eq!((rig.take_actions(), &rig.status()["since"]), (vec![], &since));
}

#[test]
fn the_end_of_time_is_no_overflow() {
    let mut rig = Rig::connected();
    rig.now.unix_ms = u64::MAX;
    assert_eq!(rig.lose(reset()), ["1: reconnecting (reset)"]);
}

#[test]
fn a_machine_that_slept_longer_than_a_session_lingers_does_not_dial_first() {
    let mut rig = Rig::connected();
    rig.lose(reset());
    rig.detach(1);
    rig.set_time(rig.now.elapsed + seconds(24 * 60 * 60));
    assert_eq!(rig.next_timer(), [""; 0]);
    assert_eq!(rig.status()["state"], "disconnected");
}

#[test]
fn a_parked_session_tries_again_when_it_is_opened_with_another_query_and_not_with_the_same() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.lose(refused(401));
    assert_eq!(rig.due(), None);
    rig.open_url(1, SERVER);
    assert_eq!(rig.status()["state"], "error");
    rig.open_url(1, &format!("{SERVER}?token=fresh"));
    assert_eq!(rig.status()["state"], "reconnecting");
    rig.connect();
    assert_eq!(rig.status()["state"], "connected");
}

#[test]
fn a_connection_that_did_not_outlive_a_sleep_is_left_within_seconds() {
    let mut rig = Rig::connected();
    rig.now.elapsed += seconds(3600);
    assert_eq!(rig.input(Input::Woke), ["#1 ping"]);
    assert_eq!(rig.wait(seconds(4)), [""; 0]);
    let lines = rig.wait(seconds(1));
    assert_eq!(lines[..2], ["#1 disconnect 1001", "1: reconnecting (sleep)"]);
    assert!(rig.delay().is_none_or(|delay| delay <= seconds(1)));
}

#[test]
fn a_connection_that_outlived_a_sleep_goes_on() {
    let mut rig = Rig::connected();
    rig.input(Input::Woke);
    rig.pong();
    assert_eq!(rig.wait(seconds(20)), [""; 0]);
}

#[test]
fn what_was_under_way_before_a_sleep_is_no_proof_of_life() {
    let mut rig = Rig::connected();
    rig.wait(seconds(25));
    let older = rig.ping.unwrap();
    assert_eq!(rig.input(Input::Woke), ["#1 ping"]);
    rig.frame("a");
    rig.input(Input::Pong { attempt: older.0, payload: older.1 });
    assert!(rig.wait(seconds(5)).contains(&"1: reconnecting (sleep)".into()));
}

#[test]
fn a_change_of_the_network_is_asked_about_in_the_same_way() {
    let mut rig = Rig::connected();
    assert_eq!(rig.input(Input::NetworkChanged), ["#1 ping"]);
    assert!(rig.wait(seconds(5)).contains(&"1: reconnecting (network-change)".into()));
}

#[test]
fn a_server_that_never_answers_pings_cannot_prove_that_it_outlived_a_sleep() {
    let mut rig = Rig::connected();
    rig.wait(seconds(40));
    assert_eq!(rig.status()["answers_pings"], json!(false));
    assert_eq!(rig.input(Input::Woke), ["#1 disconnect 1001", "1: reconnecting (sleep)"]);
}

#[test]
fn a_network_that_comes_back_is_tried_at_once_but_only_for_what_the_network_may_have_caused() {
    for (code, sooner) in [("dns", true), ("network", true), ("refused", false)] {
        let mut rig = Rig::with(|birth| birth.settings.reconnect.first = seconds(200));
        rig.open(1, "main");
        rig.lose(Reason { code, ..reset() });
        let told = !rig.input(Input::NetworkChanged).is_empty();
        assert_eq!(told, sooner, "{code}");
        assert!(!sooner || rig.delay().unwrap() <= seconds(1), "{code}");
    }
}

fn beating() -> Rig {
    let mut rig = Rig::with(|birth| {
        birth.settings.heartbeat.send = Some(r#"{"type":"ping"}"#.into());
        birth.settings.heartbeat.reply = Some(json!({"type": "pong"}));
    });
    rig.open(1, "main");
    rig.connect();
    rig
}

/// The times at which the server's own kind of ping is sent, in so many seconds.
fn beats(rig: &mut Rig, time: u64) -> Vec<u64> {
    let mut times = Vec::new();
    for second in 1..=time {
        if rig.wait(seconds(1)).iter().any(|line| line.contains("send")) {
            times.push(second);
        }
        rig.input(Input::Alive { attempt: rig.attempt() });
    }
    times
}

#[test]
fn a_server_with_a_ping_message_of_its_own_gets_it_whether_it_is_silent_or_not() {
    let mut rig = beating();
    let times = beats(&mut rig, 90);
    assert!((12..=25).contains(&times[0]), "the first one is not for everybody at the same time: {times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 25), "{times:?}");
}

#[test]
fn the_answer_to_it_is_for_nobody_else() {
    let mut rig = beating();
    beats(&mut rig, 25);
    rig.now.elapsed += Duration::from_millis(40);
    assert_eq!(rig.frame(r#"{"type":"pong","t":1}"#), [""; 0]);
    assert!(rig.status()["latency_ms"].is_number());
    assert_eq!(rig.frame(r#"{"type":"progress"}"#), [r#"1: message 1 {"type":"progress"}"#]);
}

#[test]
fn a_server_that_answered_it_before_and_says_nothing_more_is_left() {
    let mut rig = beating();
    beats(&mut rig, 25);
    rig.frame(r#"{"type":"pong"}"#);
    let lines = rig.wait(seconds(36));
    assert!(lines.contains(&"1: reconnecting (heartbeat)".into()), "{lines:?}");
    let mut never = beating();
    let lines = never.wait(seconds(200));
    assert!(!lines.iter().any(|line| line.contains("reconnecting")), "it never did, so it is lived with: {lines:?}");
}

#[test]
fn what_was_spent_under_other_settings_never_leaves_less_than_an_empty_budget() {
    let mut rig = Rig::with(|birth| birth.settings.reconnect.refill = seconds(3600));
    rig.open(1, "main");
    for _ in 0..9 {
        rig.lose(reset());
        rig.wait(seconds(1));
        rig.input(Input::Reconnect { port: PortId(1), reference: None });
    }
    rig.lose(reset());
    let mut settings = Box::new(birth().settings);
    settings.reconnect.refill = seconds(2);
    rig.input(Input::Configure { settings });
    let reconnect = || Input::Reconnect { port: PortId(1), reference: None };
    rig.wait(seconds(1));
    assert_eq!(rig.input(reconnect()), ["1: error rate-limited"], "ten attempts were made at once");
    rig.wait(seconds(1));
    assert_eq!(rig.input(reconnect()), ["1: reconnecting", "#11 connect /ws"], "and hours are not to be waited for");
}

#[test]
fn the_loss_of_a_stable_connection_is_no_attempt_that_failed() {
    let mut rig = Rig::with(|birth| birth.settings.reconnect.max_attempts = 1);
    rig.open(1, "main");
    rig.connect();
    rig.now.elapsed += seconds(30);
    assert_eq!(rig.break_and_redial(), ["1: reconnecting (reset)", "1: reconnecting", "#2 connect /ws"]);
    assert_eq!(rig.lose(reset()), ["1: error (reset)"]);
}

#[test]
fn a_parked_session_tries_again_when_it_is_opened_with_other_settings_and_not_with_the_same() {
    let open_with = |rig: &mut Rig, settings: Settings| {
        let Input::Open { port, open, url, reference, .. } = opening(1, open("main"), None) else { panic!() };
        rig.input(Input::Open { port, open, url, settings: Some(Box::new(settings)), reference });
    };
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.lose(refused(403));
    let mut settings = birth().settings;
    open_with(&mut rig, settings.clone());
    assert_eq!(rig.status()["state"], "error");
    settings.linger = seconds(1);
    open_with(&mut rig, settings);
    assert_eq!(rig.status()["state"], "reconnecting");
}

#[test]
fn the_time_of_the_next_attempt_is_told_by_the_clock_as_it_is_set_now() {
    let mut rig = Rig::with(|birth| birth.settings.reconnect.first = seconds(200));
    rig.open(1, "main");
    rig.lose(Reason { code: "dns", ..reset() });
    rig.now.unix_ms += 3_600_000;
    let expected = rig.now.unix_ms + rig.delay().unwrap().as_millis() as u64;
    assert_eq!(rig.status()["retry_at"], expected);
    rig.input(Input::NetworkChanged);
    let expected = rig.now.unix_ms + rig.delay().unwrap().as_millis() as u64;
    assert_eq!(rig.status()["retry_at"], expected);
}

#[test]
fn what_comes_after_it_was_forgotten_is_kept() {
    let mut rig = Rig::connected();
    rig.input(close(true));
    assert_eq!(rig.send("a"), ["1: stored a"]);
    rig.detach(1);
    assert!(!rig.session.is_void(), "a message waits for the server");
    let mut rig = Rig::connected();
    rig.input(close(true));
    rig.wait(seconds(1));
    rig.input(Input::Reconnect { port: PortId(1), reference: None });
    rig.connect();
    rig.frame("b");
    rig.detach(1);
    assert!(!rig.session.is_void(), "a message waits for the extension");
    assert_eq!(rig.open_url(2, "ws://localhost:9/"), ["2: error url-differs"]);
    assert_eq!(deliveries(&rig.open(2, "main")), ["2: replay 1 b"]);
}

#[test]
fn that_a_server_answers_no_pings_is_no_sign_of_life() {
    let mut rig = Rig::with(|birth| {
        birth.settings.heartbeat.send = Some(r#"{"type":"ping"}"#.into());
        birth.settings.heartbeat.reply = Some(json!({"type": "pong"}));
        birth.settings.heartbeat.timeout = seconds(20);
    });
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"type":"pong"}"#);
    // A ping is out, and its time ends before that of the server's own kind of ping, which is sent meanwhile.
    rig.send("a");
    let lines = rig.wait(seconds(45));
    assert!(lines.contains(&"1: reconnecting (heartbeat)".into()), "{lines:?}");
}
