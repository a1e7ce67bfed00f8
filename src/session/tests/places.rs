//! Places in the stream: where a port begins, who only watches, what is kept for whom and for how long.

use super::*;

fn after(epoch: &str, seq: u64) -> Open {
    Open { after: Some(After { epoch: epoch.into(), seq }), ..open("main") }
}

fn observing() -> Open {
    Open { observe: true, ..open("main") }
}

/// A connected session to which `count` messages have come.
fn with_messages(count: u64, change: impl FnOnce(&mut Birth)) -> Rig {
    let mut rig = Rig::with(change);
    rig.open(1, "main");
    rig.connect();
    for number in 1..=count {
        rig.frame(&number.to_string());
    }
    rig
}

#[test]
fn a_port_begins_behind_the_place_that_it_names() {
    let mut rig = with_messages(4, |_| {});
    let epoch = rig.session.epoch.to_string();
    assert_eq!(rig.open_as(2, after(&epoch, 3))[1], "2: opened connected head 4 acked 0 pending 1");
    assert_eq!(deliveries(&rig.open_as(3, after(&epoch, 1))), ["3: replay 2 2", "3: replay 3 3", "3: replay 4 4"]);
    assert_eq!(
        rig.open(4, "main")[1],
        "4: opened connected head 4 acked 0 pending 4",
        "naming a place acknowledges nothing"
    );
}

#[test]
fn a_new_consumer_has_its_place_where_it_says() {
    let mut rig = with_messages(4, |_| {});
    let epoch = rig.session.epoch.to_string();
    let open = Open { consumer: "late".into(), ..after(&epoch, 2) };
    assert_eq!(deliveries(&rig.open_as(2, open)), ["2: replay 3 3", "2: replay 4 4"]);
    assert_eq!(rig.status()["consumers"][1], json!({"consumer": "late", "acked": 2, "attached": true}));
}

#[test]
fn a_place_above_all_that_came_is_none() {
    let mut rig = with_messages(2, |_| {});
    let epoch = rig.session.epoch.to_string();
    assert_eq!(deliveries(&rig.open_as(2, after(&epoch, 3))), ["2: replay 1 1", "2: replay 2 2"]);
}

#[test]
fn a_place_before_all_that_is_kept_is_told_as_a_gap() {
    let mut rig = with_messages(5, |_| {});
    let epoch = rig.session.epoch.to_string();
    rig.ack(1, 3);
    let lines = rig.open_as(2, after(&epoch, 1));
    assert_eq!(lines[1], "2: opened connected head 5 acked 3 pending 3");
    let gap = "2: replay gap 2..=3 retention count unknown at most 2";
    assert_eq!(lines[3..], [gap, "2: replay 4 4", "2: replay 5 5"]);
    assert_eq!(rig.ack(2, 3), [""; 0]);
}

#[test]
fn a_place_in_another_epoch_is_told_as_a_gap_and_then_comes_what_is_kept() {
    let mut rig = with_messages(3, |_| {});
    rig.ack(1, 1);
    let lines = rig.open_as(2, after("another", 17));
    assert_eq!(lines[1], "2: opened connected head 3 acked 1 pending 3");
    assert_eq!(lines[3..], ["2: replay gap 1..=1 epoch count unknown", "2: replay 2 2", "2: replay 3 3"]);
    let mut rig = with_messages(1, |_| {});
    let lines = rig.open_as(2, after("another", 17));
    assert_eq!(lines[3..], ["2: replay gap 0..=0 epoch count unknown", "2: replay 1 1"], "nothing was dropped yet");
}

#[test]
fn an_observer_gets_what_comes_and_acknowledges_nothing() {
    let mut rig = with_messages(2, |_| {});
    let lines = rig.open_as(2, observing());
    assert_eq!(lines, ["2: opened connected head 2 acked 2 pending 0", "2: connected"]);
    assert_eq!(rig.frame("3"), ["1: message 3 3", "2: message 3 3"]);
    rig.written(2, 3);
    assert_eq!(rig.status()["observers"], 1);
    assert_eq!(rig.status()["consumers"].as_array().unwrap().len(), 1);
    rig.ack(1, 3);
    assert_eq!(rig.status()["inbox"]["messages"], 0, "an observer holds nothing back");
}

#[test]
fn an_observer_asks_for_nothing_that_needs_a_place() {
    let mut rig = Rig::connected();
    rig.open_as(2, observing());
    let (port, reference) = (PortId(2), None);
    assert_eq!(rig.send_as(2, send("a")), ["2: error read-only"]);
    assert_eq!(rig.ack(2, 0), ["2: error read-only"]);
    let subscribe = Input::Subscribe { port, key: "k".into(), payload: Some(Body::Json("1".into())), reference };
    assert_eq!(rig.input(subscribe), ["2: error read-only"]);
}

#[test]
fn an_observer_that_is_more_than_a_mebibyte_behind_skips_ahead() {
    let mut rig = Rig::connected();
    rig.open_as(2, observing());
    let part = OBSERVER_BYTES / 4;
    for _ in 0..2 {
        // In base64, each of these takes more than a third of what it may be behind.
        rig.frame_of(large(part));
        rig.ack(1, rig.session.inbox.head());
    }
    for _ in 0..3 {
        let lines = rig.frame_of(large(part));
        assert_eq!(said_to(2, &lines), [""; 0]);
        rig.ack(1, rig.session.inbox.head());
    }
    assert_eq!(rig.written(2, 1), ["2: gap 3..=5 observer-lag count 3"]);
    assert!(rig.frame_of(large(part)).contains(&format!("2: message 6 binary:{part} bytes")));
}

#[test]
fn an_observer_becomes_a_consumer_and_the_other_way_round() {
    let mut rig = Rig::connected();
    rig.open_as(2, observing());
    rig.open(2, "other");
    assert_eq!(rig.frame("1"), ["1: message 1 1", "2: message 1 1"]);
    rig.open_as(1, observing());
    assert_eq!(rig.status()["observers"], 1);
    rig.detach(1);
    assert_eq!(rig.status()["observers"], 0);
}

#[test]
fn only_so_many_ports_watch() {
    let mut rig = Rig::connected();
    for port in 0..MAX_CONSUMERS as u64 {
        assert!(!rig.open_as(10 + port, observing())[0].contains("error"));
    }
    assert_eq!(rig.open_as(9, observing()), ["9: error too-many-consumers"]);
    assert!(!rig.open_as(10, observing())[0].contains("error"), "it watches already");
}

#[test]
fn what_waits_longer_than_it_is_kept_becomes_a_gap() {
    let mut rig = with_messages(2, |birth| birth.settings.inbox.retention = seconds(60));
    rig.detach(1);
    rig.wait(seconds(30));
    rig.frame("3");
    rig.wait(seconds(30));
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=2 retention count 2", "1: replay 3 3"]);
    rig.wait(seconds(60));
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=3 retention count 3"], "the newest is no exception");
}

#[test]
fn nothing_is_kept_for_a_consumer_that_stays_away_too_long() {
    let mut rig = with_messages(0, |birth| birth.settings.inbox.retention = seconds(60));
    rig.open(2, "other");
    rig.detach(1);
    rig.wait(seconds(30));
    rig.frame("1");
    rig.ack(2, 1);
    assert_eq!(rig.status()["inbox"]["messages"], 1);
    rig.wait(seconds(30));
    assert_eq!(rig.status()["inbox"]["messages"], 0);
    assert_eq!(rig.status()["consumers"].as_array().unwrap().len(), 1);
    rig.frame("2");
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=1 retention count unknown at most 1", "1: replay 2 2"]);
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines).len(), 2, "what was not acknowledged is told again");
}

#[test]
fn of_messages_that_match_only_the_newest_of_a_kind_waits() {
    let collapse = Collapse { when: json!({"type": "progress"}), key: "/task".into() };
    let mut rig = with_messages(0, |birth| birth.settings.inbox.collapse = Some(collapse));
    rig.frame(r#"{"type":"progress","task":0}"#);
    rig.detach(1);
    for (kind, task) in [("progress", 1), ("progress", 2), ("log", 1), ("progress", 1), ("progress", 1)] {
        rig.frame(&format!(r#"{{"type":"{kind}","task":{task}}}"#));
    }
    rig.frame(r#"{"type":"progress"}"#);
    assert_eq!(rig.status()["inbox"]["collapsed"], 2);
    let lines = rig.open(1, "main");
    assert_eq!(lines[0], "1: opened connected head 7 acked 0 pending 5");
    assert_eq!(
        deliveries(&lines),
        [
            r#"1: replay 1 {"type":"progress","task":0}"#,
            r#"1: replay 3 {"type":"progress","task":2}"#,
            r#"1: replay 4 {"type":"log","task":1}"#,
            r#"1: replay 6 {"type":"progress","task":1}"#,
            r#"1: replay 7 {"type":"progress"}"#,
        ]
    );
    rig.ack(1, 7);
    assert_eq!(rig.status()["inbox"]["messages"], 0);
}

#[test]
fn a_message_that_was_handed_out_does_not_give_way() {
    let collapse = Collapse { when: json!({}), key: "/k".into() };
    let mut rig = with_messages(0, |birth| birth.settings.inbox.collapse = Some(collapse));
    for value in 1..=3 {
        assert_eq!(rig.frame(&format!(r#"{{"k":1,"v":{value}}}"#)).len(), 1);
    }
    assert_eq!(rig.status()["inbox"]["collapsed"], 0);
}

#[test]
fn a_hundred_thousand_messages_of_few_kinds_wait_as_few() {
    let collapse = Collapse { when: json!({}), key: "/k".into() };
    let mut rig = with_messages(0, |birth| birth.settings.inbox.collapse = Some(collapse));
    rig.detach(1);
    for number in 0..100_000 {
        rig.frame(&format!(r#"{{"k":{}}}"#, number % 3));
    }
    assert_eq!(rig.status()["inbox"]["messages"], 3);
    assert_eq!(deliveries(&rig.open(1, "main")).len(), 3);
}

#[test]
fn a_full_inbox_that_must_lose_nothing_stops_reading() {
    let mut rig = with_messages(0, |birth| {
        birth.settings.inbox.overflow = Overflow::Pause;
        birth.settings.inbox.max_messages = 3;
    });
    rig.frame("1");
    rig.frame("2");
    assert_eq!(rig.frame("3"), ["1: message 3 3", "#1 pause"]);
    assert_eq!(rig.frame("4"), ["1: message 4 4"], "what was read already is kept");
    assert_eq!(rig.wait(seconds(600)), [""; 0], "whoever does not listen expects no answer");
    assert_eq!(rig.ack(1, 1), [""; 0]);
    assert_eq!(rig.ack(1, 2), ["#1 resume"]);
    assert_eq!(rig.wait(seconds(25)), ["#1 ping"]);
    let mut other = with_messages(0, |birth| {
        birth.settings.inbox.overflow = Overflow::Pause;
        birth.settings.inbox.max_messages = 1;
    });
    other.frame("1");
    other.break_and_redial();
    assert!(other.connect().contains(&"#2 pause".into()), "the next connection is as full");
}

#[test]
fn other_settings_hold_from_the_next_connection_on() {
    let mut rig = Rig::connected();
    let mut settings = Box::new(birth().settings);
    settings.heartbeat.interval = seconds(5);
    rig.input(Input::Configure { settings });
    assert_eq!(rig.wait(seconds(24)), [""; 0]);
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.wait(seconds(5)), ["#2 ping"]);
    assert_eq!(rig.status()["settings"]["heartbeat"]["interval_ms"], 5000);
}

/// A session that keeps only the newest message for each value of `k`, and is connected.
fn collapsing(change: impl FnOnce(&mut Birth)) -> Rig {
    let collapse = Collapse { when: json!({}), key: "/k".into() };
    with_messages(0, |birth| {
        birth.settings.inbox.collapse = Some(collapse);
        change(birth);
    })
}

fn keyed(rig: &mut Rig, keys: &[u64]) {
    for key in keys {
        rig.frame(&format!(r#"{{"k":{key}}}"#));
    }
}

#[test]
fn a_sleeper_does_not_wake_to_all_that_others_have_read() {
    let mut rig = collapsing(|_| {});
    rig.open(2, "sleeper");
    rig.detach(2);
    for seq in 1..=10 {
        keyed(&mut rig, &[7]);
        rig.ack(1, seq);
    }
    assert_eq!(deliveries(&rig.open(2, "sleeper")), [r#"2: replay 10 {"k":7}"#]);
}

#[test]
fn what_gave_way_to_a_newer_message_is_never_part_of_a_gap() {
    let mut rig = collapsing(|birth| birth.settings.inbox.retention = seconds(60));
    rig.detach(1);
    keyed(&mut rig, &[1, 2, 1]);
    rig.wait(seconds(30));
    keyed(&mut rig, &[2]);
    rig.wait(seconds(30));
    assert_eq!(deliveries(&rig.open(1, "main")), ["1: replay gap 3..=3 retention count 1", r#"1: replay 4 {"k":2}"#]);
    let mut rig = collapsing(|birth| birth.settings.inbox.max_messages = 2);
    rig.detach(1);
    keyed(&mut rig, &[1, 1, 1, 1, 2]);
    assert_eq!(deliveries(&rig.open(1, "main")), [r#"1: replay 4 {"k":1}"#, r#"1: replay 5 {"k":2}"#]);
}

#[test]
fn what_gave_way_before_and_behind_an_outage_is_counted_once() {
    let mut rig = collapsing(|birth| birth.settings.inbox.retention = seconds(60));
    rig.detach(1);
    keyed(&mut rig, &[1]);
    rig.break_and_redial();
    rig.connect();
    keyed(&mut rig, &[2, 2, 1]);
    assert_eq!(rig.status()["inbox"]["messages"], 3, "the mark of the outage, and the newest of each kind");
    rig.wait(seconds(60));
    assert_eq!(rig.status()["inbox"]["messages"], 1, "one mark for all of it");
    assert_eq!(rig.status()["inbox"]["collapsed"], 2);
}

#[test]
fn what_gave_way_to_a_newer_message_cannot_be_acknowledged() {
    let mut rig = collapsing(|_| {});
    for _ in 0..2 {
        rig.frame_of(large(2 << 20));
    }
    keyed(&mut rig, &[1]);
    rig.frame_of(large(2 << 20));
    keyed(&mut rig, &[1]);
    assert_eq!(deliveries(&rig.ack(1, 1)), ["1: message 2 binary:2097152 bytes"]);
    assert_eq!(rig.ack(1, 3), ["1: error ack-ahead"], "3 gave way, 4 does not fit into the window");
}

#[test]
fn a_port_that_opens_anew_what_it_is_told_goes_on_behind_what_it_was_given() {
    let mut rig = with_messages(3, |_| {});
    rig.ack(1, 1);
    let reopening = rig.session.reopening(PortId(1)).unwrap();
    assert_eq!(reopening.after, Some(After { epoch: rig.session.epoch.to_string(), seq: 3 }));
    rig.detach(1);
    rig.frame("4");
    assert_eq!(deliveries(&rig.open_as(2, reopening)), ["2: replay 4 4"], "nothing twice, nothing left out");
    assert_eq!(rig.ack(2, 3), [""; 0], "what the other port was given can be acknowledged");
    assert_eq!(rig.status()["consumers"][0]["acked"], 3);
}

#[test]
fn what_a_port_would_open_anew_is_as_it_has_it_open() {
    let mut rig = Rig::new();
    let protocols = vec!["a".to_owned(), "b".to_owned()];
    let (acknowledge, protocols) = (Acknowledge::Auto, Some(protocols));
    let asked = Open { acknowledge, as_text: true, protocols: protocols.clone(), ..open("c") };
    rig.open_as(1, asked.clone());
    let after = Some(After { epoch: rig.session.epoch.to_string(), seq: 0 });
    let url = Some(SERVER.to_owned());
    assert_eq!(rig.session.reopening(PortId(1)), Some(Open { after, url: url.clone(), ..asked }));
    let watching = Open { as_text: true, ..observing() };
    rig.open_as(2, watching.clone());
    let reopening = rig.session.reopening(PortId(2));
    assert_eq!(reopening, Some(Open { url, protocols, acknowledge, ..watching }));
}

#[test]
fn a_port_that_is_not_attached_any_more_has_nothing_to_open_anew() {
    let mut rig = Rig::connected();
    rig.open(2, "main");
    assert_eq!((rig.session.reopening(PortId(1)), rig.session.reopening(PortId(3))), (None, None));
    rig.detach(2);
    assert_eq!(rig.session.reopening(PortId(2)), None);
}

#[test]
fn a_session_that_was_closed_stays_so_for_a_port_that_does_not_want_it_to_connect() {
    let mut rig = Rig::connected();
    assert!(rig.session.reopening(PortId(1)).unwrap().connect);
    rig.input(Input::Close { forget: false, code: None, reason: None });
    let reopening = rig.session.reopening(PortId(1)).unwrap();
    assert!(!reopening.connect);
    let lines = rig.open_as(2, reopening);
    assert!(lines.contains(&"2: opened disconnected head 0 acked 0 pending 0".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(" connect ")), "{lines:?}");
    assert!(rig.open(2, "main").iter().any(|line| line.contains(" connect ")));
}
