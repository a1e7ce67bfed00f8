//! What goes to the disk and when, and what the next daemon makes of it.

use super::*;
use crate::settings;

const INSTANT: Duration = Duration::from_millis(1);
const PERSIST_AFTER: Duration = Duration::from_millis(50);

/// Time enough for everything to be on the disk.
const IDLE: Duration = Duration::from_millis(200);

fn inbox(change: impl FnOnce(&mut settings::Inbox)) -> Rig {
    let mut rig = Rig::with(|birth| change(&mut birth.settings.inbox));
    rig.open(1, "main");
    rig.connect();
    rig
}

fn rows(rig: &Rig) -> Vec<u64> {
    rig.shelf.arrivals.keys().copied().collect()
}

#[test]
fn a_message_that_is_acknowledged_in_time_never_touches_the_disk() {
    let mut rig = Rig::connected();
    for seq in 1..=100 {
        rig.frame("a");
        rig.wait(INSTANT);
        rig.ack(1, seq);
        assert_eq!(rows(&rig), [0; 0]);
    }
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [0; 0]);
    assert_eq!((rig.shelf.sheet().head, rig.shelf.sheet().floor), (100, 100));
}

#[test]
fn a_message_that_waits_is_on_the_disk_after_the_time_that_the_settings_say() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.wait(PERSIST_AFTER - INSTANT);
    assert_eq!(rows(&rig), [0; 0]);
    rig.wait(INSTANT);
    assert_eq!(rows(&rig), [1]);
    rig.ack(1, 1);
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [0; 0]);
}

#[test]
fn what_was_not_acknowledged_is_there_after_a_crash_and_in_order() {
    let mut rig = Rig::connected();
    for text in ["a", "b", "c"] {
        rig.frame(text);
    }
    rig.ack(1, 1);
    rig.wait(IDLE);
    let epoch = rig.session.epoch.clone();
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(lines[0], "1: opened reconnecting head 3 acked 1 pending 2");
    assert_eq!(deliveries(&lines), ["1: replay 2 b", "1: replay 3 c"]);
    assert_eq!(rig.session.epoch, epoch);
    let lines = rig.reconnect();
    assert_eq!(deliveries(&lines).len(), 1, "nothing is missing but the outage: {lines:?}");
    assert_eq!(deliveries(&rig.frame("d")), ["1: message 5 d"]);
}

#[test]
fn what_a_crash_may_have_lost_is_told_and_its_numbers_are_not_used_again() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=257 crash count unknown at most 257 from +0 to +0"]);
    rig.ack(1, 257);
    rig.reconnect();
    assert_eq!(deliveries(&rig.frame("c")), ["1: message 259 c"]);
}

#[test]
fn after_a_crash_while_nothing_happened_nothing_is_told() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.ack(1, 1);
    rig.wait(2 * PERSIST_AFTER);
    rig.crash();
    assert_eq!(rig.open(1, "main"), ["1: opened reconnecting head 1 acked 1 pending 0", "1: reconnecting (restart)"]);
}

#[test]
fn nothing_is_given_out_whose_number_is_not_safe() {
    let mut rig = Rig::connected();
    rig.disk = false;
    assert_eq!(rig.frame("a"), [""; 0], "its number is on its way to the disk");
    assert_eq!(rig.frame("b"), [""; 0]);
    assert_eq!(rig.save(), ["1: message 1 a", "1: message 2 b"]);
    assert_eq!(rig.frame("c"), ["1: message 3 c"], "more than one was reserved");
}

#[test]
fn a_number_that_is_being_given_back_is_not_given_out() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.ack(1, 1);
    rig.disk = false;
    while rig.unsaved.as_ref().is_none_or(|(_, changes)| !gives_back(changes)) {
        if rig.unsaved.is_some() {
            rig.save();
        }
        rig.wait(PERSIST_AFTER);
    }
    assert_eq!(rig.frame("b"), [""; 0]);
    assert_eq!(rig.save(), [""; 0], "and now it is asked for again");
    assert_eq!(rig.save(), ["1: message 2 b"]);
}

fn gives_back(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::Sheet(sheet) if sheet.head == sheet.reserved))
}

#[test]
fn numbers_are_reserved_further_ahead_as_long_as_messages_come() {
    let mut rig = Rig::connected();
    let mut saves = 0;
    rig.disk = false;
    for _ in 0..100_000 {
        rig.frame("a");
        if rig.unsaved.is_some() {
            saves += 1;
            rig.save();
        }
        rig.ack(1, rig.session.inbox.head());
    }
    assert!(saves < 30, "{saves}");
}

#[test]
fn with_nothing_to_wait_for_each_message_is_on_the_disk_before_it_is_delivered() {
    let mut rig = inbox(|inbox| inbox.persist_after = Duration::ZERO);
    rig.disk = false;
    assert_eq!(rig.frame("a"), [""; 0]);
    assert_eq!(rig.frame("b"), [""; 0]);
    assert_eq!(rig.save(), ["1: message 1 a"]);
    assert_eq!(rows(&rig), [1]);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay 1 a"], "the other was never given out");
}

#[test]
fn a_stop_loses_nothing_however_young() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.send("x");
    rig.stop_and_go_on();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay 1 a"]);
    assert_eq!(sent(&rig.reconnect()), ["#1 send text:x"]);
}

#[test]
fn what_was_closed_stays_so_in_the_next_daemon_and_in_the_one_after() {
    let mut rig = Rig::connected();
    rig.input(close(false));
    rig.stop_and_go_on();
    rig.stop_and_go_on();
    assert_eq!(rig.status()["state"], "disconnected");
    assert_eq!(rig.delay(), None);
}

#[test]
fn a_session_that_was_closed_when_the_daemon_was_killed_is_written_by_the_next_without_anybody_coming() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.input(close(false));
    rig.crash();
    rig.wait(IDLE);
    assert!(rig.session.is_saved() && !rig.session.is_needed(), "the daemon may end");
}

#[test]
fn a_session_that_was_stopped_twice_before_it_could_connect_connects_in_the_third_daemon() {
    let mut rig = Rig::connected();
    rig.stop_and_go_on();
    rig.stop_and_go_on();
    assert_eq!(rig.next_timer(), ["#1 connect /ws"]);
}

#[test]
fn the_outage_of_a_crash_begins_when_the_daemon_is_last_known_to_have_lived() {
    let mut rig = Rig::connected();
    rig.wait(IDLE);
    let lived = rig.shelf.sheet().written_at - BEGIN;
    rig.wait(seconds(10));
    rig.crash();
    rig.open(1, "main");
    let gap = deliveries(&rig.reconnect()).join("");
    assert_eq!(gap, format!("1: gap 1..=1 disconnected count unknown from +{lived} to +10200"));
}

#[test]
fn what_a_daemon_may_have_read_on_a_connection_that_nothing_was_written_of_is_told() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.disk = false;
    rig.wait(IDLE);
    rig.save();
    rig.connect();
    assert_eq!(rig.frame("a"), [""; 0], "its number is on its way to the disk");
    rig.crash();
    rig.disk = true;
    rig.open(1, "main");
    let lines = rig.reconnect();
    assert_eq!(deliveries(&lines), ["1: gap 1..=1 disconnected count unknown from +50 to +200"]);
}

#[test]
fn an_outage_is_told_though_its_mark_was_too_young_to_be_written() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.wait(IDLE);
    rig.lose(reset());
    rig.wait(seconds(10));
    let lost = rig.session.outage_since.unwrap() - BEGIN;
    rig.connect();
    assert_eq!(rows(&rig), [1]);
    rig.crash();
    let lines = rig.open(1, "main");
    assert!(deliveries(&lines)[1].contains("gap 2..=258 crash"), "{lines:?}");
    let lines = rig.reconnect();
    assert!(deliveries(&lines)[0].contains(&format!(" disconnected count unknown from +{lost} to")), "{lines:?}");
}

#[test]
fn what_is_stored_is_sent_by_the_next_daemon_and_reported_to_whoever_comes() {
    let mut rig = Rig::connected();
    assert!(rig.send("x").contains(&"1: stored x".into()));
    rig.crash();
    assert_eq!(sent(&rig.reconnect()), ["#1 send text:x"]);
    rig.pong();
    assert!(rig.open(1, "main").contains(&"1: received x".into()));
    rig.wait(IDLE);
    assert_eq!(rig.shelf.posts.len(), 0);
    rig.crash();
    assert!(!rig.open(1, "main").contains(&"1: received x".into()), "once");
    assert_eq!(rig.send("x"), ["1: received x"], "and the id is remembered");
}

#[test]
fn an_ending_that_nobody_heard_is_told_by_the_next_daemon() {
    let mut rig = Rig::connected();
    rig.send("x");
    rig.detach(1);
    rig.pong();
    rig.wait(IDLE);
    rig.crash();
    assert_eq!(rig.open(1, "main").last().unwrap(), "1: received x");
}

#[test]
fn an_ending_that_was_told_and_forgotten_before_either_was_written_is_not_told_by_the_next_daemon() {
    let mut rig = Rig::connected();
    rig.send("x");
    rig.detach(1);
    rig.pong();
    rig.wait(IDLE);
    rig.now.unix_ms += 25 * 60 * 60 * 1000;
    rig.disk = false;
    assert!(rig.open(1, "main").contains(&"1: received x".into()));
    rig.send_as(1, Send { id: None, ..send("y") });
    rig.disk = true;
    rig.wait(IDLE);
    rig.crash();
    assert!(!rig.open(1, "main").contains(&"1: received x".into()));
}

#[test]
fn what_became_of_an_ending_after_a_write_that_failed_is_what_counts() {
    let mut rig = Rig::connected();
    rig.send("x");
    rig.detach(1);
    rig.disk = false;
    rig.pong();
    rig.wait(PERSIST_AFTER);
    let (ticket, _) = rig.unsaved.take().unwrap();
    assert!(rig.open(1, "main").contains(&"1: received x".into()));
    rig.input(Input::NotSaved { ticket });
    rig.disk = true;
    rig.wait(seconds(2));
    rig.crash();
    assert!(!rig.open(1, "main").contains(&"1: received x".into()));
}

#[test]
fn ids_are_forgotten_after_a_day() {
    let mut rig = Rig::connected();
    rig.send("x");
    rig.pong();
    rig.wait(seconds(24 * 60 * 60 - 1));
    assert_eq!(rig.send("x"), ["1: received x"]);
    rig.now.unix_ms += 2000;
    assert_eq!(rig.send("x"), ["1: stored x"]);
}

#[test]
fn a_message_that_nobody_wants_to_hear_of_has_time_to_be_confirmed_before_it_is_written() {
    let mut rig = Rig::connected();
    let silent = |text: &str| Send { id: None, ..send(text) };
    for _ in 0..100 {
        rig.send_as(1, silent("a"));
        rig.wait(INSTANT);
        rig.pong();
        assert_eq!(rig.shelf.posts.len(), 0);
    }
    rig.send_as(1, silent("b"));
    rig.wait(IDLE);
    assert_eq!(rig.shelf.posts.len(), 1);
    rig.crash();
    assert_eq!(sent(&rig.reconnect()), ["#1 send text:b"]);
}

#[test]
fn a_promise_that_has_ended_is_no_reason_to_write_again_and_again() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.disk = false;
    rig.send("a");
    rig.send_as(1, Send { ttl_ms: Some(100), ..send("b") });
    rig.wait(Duration::from_millis(100));
    rig.connect();
    rig.frame("c");
    for _ in 0..3 {
        rig.save();
        if rig.unsaved.is_none() {
            return;
        }
    }
    panic!("{:?}", rig.unsaved);
}

#[test]
fn a_message_that_was_too_young_for_one_write_has_its_time_though_nothing_else_happens() {
    let mut rig = Rig::connected();
    rig.lose(reset());
    rig.wait(IDLE);
    rig.send_as(1, Send { id: None, ..send("a") });
    rig.send("b");
    rig.input(close(false));
    rig.send_as(1, Send { id: None, ..send("c") });
    rig.input(close(false));
    rig.wait(IDLE);
    assert_eq!(rig.shelf.posts.len(), 3);
}

#[test]
fn nothing_is_written_again_and_again_while_a_message_has_its_time() {
    let mut rig = inbox(|inbox| inbox.persist_after = seconds(10));
    rig.frame("a");
    rig.wait(IDLE);
    let before = rig.shelf.sheet().written_at;
    rig.wait(seconds(9));
    assert_eq!(rig.shelf.sheet().written_at, before);
    rig.wait(seconds(2));
    assert_eq!(rows(&rig), [1]);
    assert!(rig.session.is_saved());
}

#[test]
fn subscriptions_and_protocols_are_there_in_the_next_daemon() {
    let mut rig = Rig::new();
    rig.open_as(1, Open { protocols: Some(vec!["v1".into()]), ..open("main") });
    for (key, text) in [("b", "1"), ("a", "2")] {
        let payload = Some(Body::Json(text.into()));
        rig.input(Input::Subscribe { port: PortId(1), key: key.into(), payload, reference: None });
    }
    rig.wait(IDLE);
    rig.crash();
    assert_eq!(rig.session.protocols, ["v1"]);
    assert_eq!(sent(&rig.reconnect()), ["#1 send 1", "#1 send 2"]);
}

#[test]
fn what_is_known_of_the_server_is_written_though_nothing_else_is() {
    let beat = |birth: &mut Birth| {
        birth.settings.heartbeat.send = Some("1".into());
        birth.settings.heartbeat.reply = Some(json!({"type": "pong"}));
    };
    let mut rig = Rig::with(beat);
    rig.open(1, "main");
    rig.connect();
    rig.wait(IDLE);
    rig.frame(r#"{"type":"pong"}"#);
    rig.wait(IDLE);
    assert!(rig.shelf.sheet().answers_beats);
    rig.send_as(1, Send { id: None, ..send("x") });
    rig.pong();
    rig.wait(IDLE);
    assert!(rig.shelf.sheet().answers_pings);
}

#[test]
fn a_daemon_that_crashes_again_and_again_does_not_refill_the_budget() {
    let mut rig = Rig::with(|birth| {
        birth.settings.reconnect.burst = 3;
        birth.settings.reconnect.refill = seconds(60);
    });
    rig.open(1, "main");
    for _ in 0..2 {
        rig.wait(IDLE);
        rig.crash();
        rig.next_timer();
    }
    rig.wait(IDLE);
    rig.crash();
    assert_eq!(rig.next_timer(), [""; 0]);
    assert!(rig.delay().is_some_and(|delay| delay > seconds(50)), "{:?}", rig.delay());
}

#[test]
fn who_stays_away_is_counted_across_daemons() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.detach(1);
    rig.wait(seconds(12 * 60 * 60));
    rig.crash();
    rig.wait(seconds(12 * 60 * 60 + 1));
    assert_eq!(rig.status()["consumers"], json!([]));
    assert_eq!(rig.status()["state"], "disconnected", "it lingers a day");
}

#[test]
fn what_an_observer_saw_or_has_missed_already_is_not_missed_again_when_it_is_dropped() {
    let mut rig = inbox(|inbox| inbox.max_messages = 3);
    rig.detach(1);
    rig.open_as(2, Open { observe: true, ..open("main") });
    for _ in 0..2 {
        rig.frame_of(large(1 << 20));
    }
    rig.wait(IDLE);
    rig.disk = false;
    for _ in 0..3 {
        rig.frame_of(large(1 << 20));
    }
    rig.save();
    let lines = rig.written(2, 1);
    assert_eq!(deliveries(&lines), ["2: gap 2..=5 observer-lag count 4"]);
}

#[test]
fn what_had_to_wait_for_the_disk_is_shown_before_it_leaves_the_memory() {
    let mut rig = inbox(|inbox| inbox.persist_after = Duration::ZERO);
    rig.open_as(2, Open { observe: true, ..open("main") });
    let lines = rig.frame_of(large(2 << 20));
    assert_eq!(deliveries(&lines), ["1: message 1 binary:2097152 bytes", "2: message 1 binary:2097152 bytes"]);
}

#[test]
fn many_messages_that_wait_are_in_memory_only_in_part_and_come_in_order() {
    let mut rig = Rig::connected();
    rig.detach(1);
    let body = |number: usize| Body::Text(format!("{number:01000}").into());
    for number in 1..=10_000 {
        rig.frame_of(body(number));
        if number % 100 == 0 {
            rig.wait(IDLE);
        }
    }
    assert!(rig.session.inbox.resident() <= 1100 * 1024, "{}", rig.session.inbox.resident());
    rig.crash();
    assert_eq!(rig.session.inbox.resident(), 0);
    let lines = rig.open(1, "main");
    let mut seen = deliveries(&lines).len();
    assert_eq!(seen, 1024, "the window");
    while seen < 10_000 {
        let lines = rig.ack(1, seen as u64);
        let lines = deliveries(&lines);
        assert!(lines[0].starts_with(&format!("1: replay {} ", seen + 1)), "{}", lines[0]);
        seen += lines.len();
    }
}

#[test]
fn two_that_read_at_different_places_take_turns_at_the_disk() {
    let mut rig = Rig::connected();
    rig.open(2, "side");
    for number in 0..4000 {
        rig.frame_of(Body::Text(format!("{number:01000}").into()));
    }
    rig.ack(1, 1000);
    rig.wait(IDLE);
    rig.crash();
    let mut lines = rig.open(1, "main");
    lines.extend(rig.open(2, "side"));
    assert_eq!(said_to(1, &lines).iter().filter(|line| line.starts_with("replay")).count(), 1024);
    assert_eq!(said_to(2, &lines).iter().filter(|line| line.starts_with("replay")).count(), 1024);
}

#[test]
fn a_full_disk_refuses_what_it_cannot_store_and_goes_on_with_the_rest() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.wait(IDLE);
    assert_eq!(rig.input(Input::Room(false)), ["1: error disk-full"]);
    assert_eq!(rig.status()["can_store"], false);
    assert_eq!(rig.send("x"), ["1: refused x (disk)"]);
    assert_eq!(rig.send_as(1, Send { id: None, ..send("y") }), ["1: error disk-full"]);
    assert_eq!(deliveries(&rig.frame("b")), ["1: message 2 b"]);
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [1], "no message goes to the disk");
    assert!(!rig.session.is_saved(), "so the daemon must not end");
    assert_eq!(
        rig.due().map(|(_, timer)| timer),
        rig.session.poll_timeout().map(|(_, timer)| timer),
        "no use in trying"
    );
    rig.ack(1, 1);
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [0; 0], "but one can go");
    rig.input(Input::Room(true));
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [2]);
    assert_eq!(rig.send("x"), ["#1 send text:x", "#1 ping", "1: stored x"]);
}

#[test]
fn a_full_disk_is_as_full_after_everything_was_forgotten() {
    let mut rig = Rig::connected();
    rig.input(Input::Room(false));
    rig.input(close(true));
    rig.open(1, "main");
    rig.connect();
    rig.frame("a");
    assert_eq!(rig.send("x"), ["1: refused x (disk)"]);
    rig.wait(IDLE);
    assert_eq!(rows(&rig), [0; 0]);
}

#[test]
fn a_daemon_stays_for_a_subscription_that_a_full_disk_does_not_take_but_ends_if_it_is_told_to() {
    let mut rig = Rig::connected();
    rig.input(Input::Room(false));
    let payload = Some(Body::Json("1".into()));
    rig.input(Input::Subscribe { port: PortId(1), key: "a".into(), payload, reference: None });
    rig.frame("b");
    rig.wait(IDLE);
    assert!(!rig.session.is_saved());
    rig.input(Input::Stop);
    assert!(rig.session.is_saved(), "nothing more can be done");
}

#[test]
fn on_a_full_disk_memory_holds_no_more_than_in_memory_mode() {
    let mut rig = inbox(|inbox| inbox.max_bytes = 64 << 20);
    rig.input(Input::Room(false));
    rig.detach(1);
    for _ in 0..20 {
        rig.frame_of(large(1 << 20));
    }
    assert!(rig.session.inbox.resident() <= settings::MAX_MEMORY_INBOX);
    let lines = rig.open(1, "main");
    assert!(deliveries(&lines)[0].starts_with("1: replay gap 1..=4 overflow count 4"), "{lines:?}");
}

#[test]
fn on_a_full_disk_a_server_that_must_lose_nothing_is_not_read_when_memory_is_full() {
    let mut rig = inbox(|inbox| {
        inbox.max_bytes = 64 << 20;
        inbox.overflow = Overflow::Pause;
    });
    rig.input(Input::Room(false));
    rig.detach(1);
    for _ in 0..16 {
        assert_eq!(rig.frame_of(large(1 << 20)), [""; 0]);
    }
    assert_eq!(rig.frame_of(large(1 << 20)), ["#1 pause"]);
    assert!(rig.input(Input::Room(true)).contains(&"#1 resume".into()), "the disk takes it");
}

#[test]
fn what_could_not_be_written_is_tried_again() {
    let mut rig = Rig::connected();
    rig.disk = false;
    rig.send("x");
    let (ticket, _) = rig.unsaved.take().unwrap();
    assert_eq!(rig.input(Input::NotSaved { ticket }), [""; 0], "not stored");
    assert_eq!(rig.wait(seconds(1)), [""; 0]);
    assert_eq!(rig.save(), ["1: stored x"]);
    assert_eq!(rig.shelf.posts.len(), 1);
}

#[test]
fn what_cannot_be_read_any_more_is_a_gap_at_its_place() {
    let mut rig = Rig::connected();
    for text in ["a", "b", "c", "d"] {
        rig.frame(text);
    }
    rig.wait(IDLE);
    rig.shelf.damage(2);
    rig.shelf.damage(3);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay 1 a", "1: replay gap 2..=3 damage count 2", "1: replay 4 d"]);
    rig.wait(IDLE);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay 1 a", "1: replay gap 2..=3 damage count 2", "1: replay 4 d"]);
}

#[test]
fn what_is_found_to_be_damaged_when_it_is_read_is_a_gap_too() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.wait(IDLE);
    rig.crash();
    let whole = rig.shelf.clone();
    rig.shelf.damage(1);
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=1 damage count 1", "1: replay 2 b"]);
    rig.shelf = whole;
    rig.wait(IDLE);
    assert!(matches!(rig.shelf.arrivals[&1].content, record::Content::Gap(_)), "and stays one");
}

#[test]
fn a_message_whose_content_is_damaged_is_refused_and_one_without_a_trace_is_told() {
    let mut rig = Rig::connected();
    rig.lose(reset());
    rig.send("x");
    rig.send("y");
    let mut record = rig.shelf.record().unwrap();
    record.posts[0].1 = None;
    record.posts.pop();
    rig.session = Session::restore(birth(), record, rig.now);
    let lines = rig.open(1, "main");
    assert!(lines.contains(&"1: refused x (damage)".into()), "{lines:?}");
    assert!(lines.contains(&"1: error damaged".into()), "{lines:?}");
}

#[test]
fn a_message_whose_content_is_damaged_does_not_leave_the_disk_before_its_ending_is_there() {
    let mut rig = Rig::connected();
    rig.send("x");
    let mut record = rig.shelf.record().unwrap();
    record.posts[0].1 = None;
    rig.session = Session::restore(birth(), record, rig.now);
    rig.detach(9);
    assert_eq!(rig.shelf.posts.len(), 0, "something was written");
    rig.crash();
    assert!(rig.open(1, "main").contains(&"1: refused x (damage)".into()));
}

#[test]
fn a_message_that_was_lost_with_the_file_is_told_though_the_daemon_is_killed_again_before_anybody_comes() {
    let mut rig = Rig::connected();
    rig.lose(reset());
    rig.send("x");
    rig.shelf.damage_post(1);
    for _ in 0..2 {
        rig.crash();
        rig.wait(IDLE);
    }
    assert!(rig.open(1, "main").contains(&"1: error damaged".into()));
    rig.wait(IDLE);
    rig.crash();
    assert!(!rig.open(1, "main").contains(&"1: error damaged".into()), "once");
}

#[test]
fn what_a_consumer_has_not_acknowledged_waits_for_it_though_its_place_was_lost_with_the_file() {
    let mut rig = Rig::connected();
    rig.open(2, "log");
    rig.frame("a");
    rig.frame("b");
    rig.ack(1, 1);
    rig.ack(2, 1);
    rig.ack(2, 2);
    rig.wait(IDLE);
    rig.shelf.damage_bookmark("main");
    rig.crash();
    rig.open(2, "log");
    rig.wait(IDLE);
    rig.crash();
    assert_eq!(deliveries(&rig.open(1, "main")), ["1: replay 2 b"]);
    assert_eq!(deliveries(&rig.open(3, "new")), [""; 0], "there was one such place");
}

#[test]
fn it_is_told_that_endings_and_subscriptions_were_lost_with_the_file() {
    let mut rig = Rig::connected();
    rig.send("x");
    rig.pong();
    let payload = Some(Body::Text("on".into()));
    rig.input(Input::Subscribe { port: PortId(1), key: "k".into(), payload, reference: None });
    rig.wait(IDLE);
    rig.shelf.damage_notes();
    rig.crash();
    assert!(rig.open(1, "main").contains(&"1: error damaged".into()));
}

#[test]
fn what_gave_way_leaves_no_row_and_is_no_damage() {
    let collapse = Collapse { when: json!({"type": "p"}), key: "/id".into() };
    let mut rig = inbox(|inbox| inbox.collapse = Some(collapse));
    rig.detach(1);
    rig.frame(r#"{"type":"x"}"#);
    for number in 0..3 {
        rig.frame(&format!(r#"{{"type":"p","id":1,"n":{number}}}"#));
        rig.wait(IDLE);
    }
    assert_eq!(rows(&rig), [1, 4]);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), [r#"1: replay 1 {"type":"x"}"#, r#"1: replay 4 {"type":"p","id":1,"n":2}"#]);
}

#[test]
fn what_was_dropped_is_a_gap_in_the_next_daemon_too() {
    let mut rig = inbox(|inbox| inbox.max_messages = 2);
    rig.detach(1);
    for text in ["a", "b"] {
        rig.frame(text);
    }
    rig.wait(IDLE);
    for text in ["c", "d", "e"] {
        rig.frame(text);
    }
    rig.wait(IDLE);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines)[0], "1: replay gap 1..=4 overflow count 4");
}

#[test]
fn a_message_that_ends_three_connections_is_refused_and_those_behind_it_go_on() {
    let mut rig = Rig::connected();
    for text in ["a", "killer", "c"] {
        rig.send(text);
    }
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#2 send text:a", "#2 send text:killer", "#2 send text:c"]);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#3 send text:a"], "one at a time now");
    assert_eq!(rig.pong(), ["#3 send text:killer", "#3 ping", "1: received a"]);
    let lines = rig.break_and_redial();
    assert!(lines.contains(&"1: refused killer (ends-connections)".into()), "{lines:?}");
    assert_eq!(sent(&rig.connect()), ["#4 send text:c"]);
    assert_eq!(rig.pong(), ["1: received c"]);
}

#[test]
fn what_expires_while_it_waits_for_a_suspect_is_not_sent() {
    let mut rig = Rig::connected();
    rig.send("a");
    for _ in 0..2 {
        rig.break_and_redial();
        rig.connect();
    }
    rig.send_as(1, Send { ttl_ms: Some(1000), ..send("b") });
    rig.now.elapsed += seconds(2);
    assert_eq!(rig.pong(), ["1: expired b", "1: received a"].iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn a_message_is_not_to_blame_for_a_server_that_goes_away() {
    let mut rig = Rig::connected();
    rig.send("a");
    for _ in 0..5 {
        let away = Reason { close_code: Some(1001), ..reset() };
        rig.lose(away);
        rig.next_timer();
        assert_eq!(sent(&rig.connect()).len(), 1);
    }
}

#[test]
fn what_is_kept_for_nobody_any_more_leaves_the_disk_with_the_next_acknowledgement() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.detach(1);
    rig.wait(seconds(24 * 60 * 60));
    rig.open(2, "side");
    rig.wait(IDLE);
    rig.ack(2, 1);
    rig.wait(IDLE);
    assert_eq!(rig.shelf.sheet().floor, 1);
}

#[test]
fn forgetting_leaves_nothing_on_the_disk_and_what_comes_after_it_is_kept_anew() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.send("x");
    rig.wait(IDLE);
    rig.input(close(true));
    rig.wait(IDLE);
    assert!(rig.shelf.record().is_none() && rows(&rig).is_empty());
    rig.open_url(1, SERVER);
    rig.connect();
    rig.frame("b");
    rig.wait(IDLE);
    rig.crash();
    assert_eq!(deliveries(&rig.open(1, "main")), ["1: replay 1 b"]);
}

#[test]
fn memory_mode_writes_nothing() {
    let mut rig = Rig::with(|birth| birth.mode = Mode::Memory);
    rig.open(1, "main");
    rig.connect();
    rig.frame("a");
    rig.send("x");
    rig.wait(seconds(10));
    rig.input(Input::Stop);
    assert!(rig.unsaved.is_none() && rig.shelf.record().is_none());
}
