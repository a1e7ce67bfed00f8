//! What reaches the extension: numbers, places, windows, gaps.

use super::*;

#[test]
fn a_port_gets_opened_then_what_waits_then_what_comes() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.open(1, "main"),
        ["1: opened connecting head 0 acked 0 pending 0", "1: connecting", "#1 connect /ws"]
    );
    assert_eq!(rig.connect(), ["1: connected"]);
    rig.detach(1);
    assert_eq!((rig.frame("a"), rig.frame("b")), (vec![], vec![]));
    assert_eq!(
        rig.open(2, "main"),
        ["2: opened connected head 2 acked 0 pending 2", "2: connected", "2: replay 1 a", "2: replay 2 b"]
    );
    assert_eq!(rig.frame("c"), ["2: message 3 c"]);
}

#[test]
fn the_answer_to_open_carries_its_reference_epoch_and_window() {
    let mut rig = Rig::new();
    let mut open = open("main");
    open.acknowledge = Acknowledge::Auto;
    let (open, reference) = (Box::new(open), Some("r".into()));
    rig.session.handle(Input::Open { port: PortId(1), open, url: None, settings: None, reference }, rig.now);
    let Some(Action::ToExtension { event: Event::Opened(opened), .. }) = rig.session.poll_action() else { panic!() };
    assert_eq!((opened.reference.as_deref(), opened.ack, opened.window), (Some("r"), "auto", Some(WINDOW)));
    assert_eq!(&*opened.epoch, &*rig.session.epoch);
}

#[test]
fn two_sessions_have_different_epochs() {
    let epoch = |seed| Session::new(Birth { seed, ..birth() }, Now::default()).epoch;
    assert_ne!(epoch(1), epoch(2));
}

#[test]
fn at_most_so_many_messages_are_in_flight() {
    let mut rig = Rig::connected();
    for _ in 0..WINDOW.messages {
        assert_eq!(rig.frame("a").len(), 1);
    }
    assert_eq!(rig.frame("b"), [""; 0]);
    assert_eq!(rig.frame("c"), [""; 0]);
    assert_eq!(rig.ack(1, 1), ["1: message 1025 b"]);
    assert_eq!(rig.ack(1, 1024), ["1: message 1026 c"]);
}

#[test]
fn at_most_so_many_bytes_are_in_flight() {
    let mut rig = Rig::connected();
    let window = WINDOW.bytes as usize;
    // As base64 these are two thirds of the window, then just what is left, then one byte.
    rig.frame_of(large(window / 2));
    let envelope = r#"{"type":"message","session":"s","seq":1,"at":1000000,"payload":}"#.len();
    let in_flight =
        r#"{"type":"message","session":"s","seq":1,"at":1000000,"binary":""}"#.len() + (window / 2).div_ceil(3) * 4;
    let fits = "1".repeat(window - in_flight - envelope);
    assert_eq!(rig.frame(&format!("{fits}1")), [""; 0], "one byte too many");
    rig.ack(1, 1);
    rig.ack(1, 2);
    rig.frame_of(large(window / 2));
    assert_eq!(rig.frame(&fits).len(), 1, "exactly full");
    assert_eq!(rig.frame("1"), [""; 0]);
    assert_eq!(rig.ack(1, 3), ["1: message 5 1"]);
}

#[test]
fn anything_fits_into_an_empty_window() {
    let mut rig = Rig::connected();
    assert_eq!(rig.frame_of(large(8 << 20)), ["1: message 1 binary:8388608 bytes"]);
    assert_eq!(rig.frame("a"), [""; 0]);
    assert_eq!(rig.ack(1, 1), ["1: message 2 a"]);
}

#[test]
fn an_acknowledgement_moves_the_place_for_good() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.frame("c");
    assert_eq!(rig.ack(1, 2), [""; 0]);
    assert_eq!(
        rig.open(2, "main"),
        ["1: error superseded", "2: opened connected head 3 acked 2 pending 1", "2: connected", "2: replay 3 c"]
    );
}

#[test]
fn an_acknowledgement_below_the_place_changes_nothing() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.ack(1, 2);
    assert_eq!((rig.ack(1, 1), rig.ack(1, 0), rig.ack(1, 2)), (vec![], vec![], vec![]));
    assert_eq!(rig.open(1, "main")[0], "1: opened connected head 2 acked 2 pending 0");
}

#[test]
fn an_acknowledgement_of_another_epoch_is_ignored() {
    let mut rig = Rig::connected();
    rig.frame("a");
    for (epoch, acked) in [("other".to_owned(), 0), (rig.session.epoch.to_string(), 1)] {
        // Ahead or not: what is of another epoch says nothing about this one.
        let seq = if acked == 0 { 99 } else { 1 };
        let ack = Input::Ack { port: PortId(1), seq, epoch: Some(epoch), reference: None };
        assert_eq!(rig.input(ack), [""; 0]);
        assert_eq!(rig.status()["consumers"][0]["acked"], acked);
    }
}

#[test]
fn an_acknowledgement_above_what_was_delivered_is_an_error() {
    let mut rig = Rig::connected();
    rig.frame("a");
    assert_eq!(rig.ack(1, 2), ["1: error ack-ahead"]);
    assert_eq!(rig.open(1, "main")[0], "1: opened connected head 1 acked 0 pending 1");
    let ack = Input::Ack { port: PortId(1), seq: 2, epoch: None, reference: Some("r".into()) };
    rig.session.handle(ack, rig.now);
    let Some(Action::ToExtension { event: Event::Error(problem), .. }) = rig.session.poll_action() else { panic!() };
    assert_eq!((problem.reference.as_deref(), problem.session.as_deref()), (Some("r"), Some("s")));
}

#[test]
fn what_waits_outside_the_window_cannot_be_acknowledged_yet() {
    let mut rig = Rig::connected();
    rig.frame_of(large(8 << 20));
    rig.frame("a");
    assert_eq!(rig.ack(1, 2), ["1: error ack-ahead"]);
}

#[test]
fn a_newer_port_takes_over_and_the_olders_acks_count_no_more() {
    let mut rig = Rig::connected();
    rig.frame("a");
    let lines = rig.open(2, "main");
    assert_eq!(lines[0], "1: error superseded");
    assert_eq!(deliveries(&lines), ["2: replay 1 a"]);
    assert_eq!(rig.ack(1, 1), ["1: error unknown-session"]);
    assert_eq!(rig.frame("b"), ["2: message 2 b"]);
    assert_eq!(deliveries(&rig.open(3, "main")), ["3: replay 1 a", "3: replay 2 b"]);
}

#[test]
fn the_older_port_may_take_over_again() {
    let mut rig = Rig::connected();
    rig.open(2, "main");
    assert_eq!(rig.open(1, "main")[0], "2: error superseded");
    assert_eq!(rig.frame("a"), ["1: message 1 a"]);
}

#[test]
fn a_port_that_opens_again_begins_at_its_place() {
    let mut rig = Rig::connected();
    rig.frame("a");
    assert_eq!(rig.open(1, "main"), ["1: opened connected head 1 acked 0 pending 1", "1: connected", "1: replay 1 a"]);
}

#[test]
fn a_port_has_one_consumer_and_the_second_open_replaces_the_first() {
    let mut rig = Rig::connected();
    rig.open(1, "other");
    assert_eq!(rig.frame("a"), ["1: message 1 a"]);
    rig.ack(1, 1);
    assert_eq!(deliveries(&rig.open(2, "main")), ["2: replay 1 a"]);
}

#[test]
fn the_first_consumer_begins_at_one_and_later_ones_behind_the_head() {
    let mut rig = Rig::connected();
    rig.frame("a");
    assert_eq!(rig.open(2, "late"), ["2: opened connected head 1 acked 1 pending 0", "2: connected"]);
    assert_eq!(rig.frame("b"), ["1: message 2 b", "2: message 2 b"]);
}

#[test]
fn a_message_is_kept_until_every_consumer_has_acknowledged_it() {
    let mut rig = Rig::connected();
    rig.open(2, "other");
    rig.frame("a");
    rig.frame("b");
    rig.ack(1, 2);
    assert_eq!(rig.status()["inbox"]["messages"], 2);
    rig.detach(2);
    assert_eq!(deliveries(&rig.open(3, "other")), ["3: replay 1 a", "3: replay 2 b"]);
    rig.ack(3, 1);
    assert_eq!(rig.status()["inbox"]["messages"], 1);
    rig.ack(3, 2);
    assert_eq!(rig.status()["inbox"]["messages"], 0);
    assert_eq!(rig.status()["inbox"]["bytes"], 0);
}

#[test]
fn one_consumers_full_window_does_not_stop_another() {
    let mut rig = Rig::connected();
    rig.open(2, "other");
    rig.frame_of(large(8 << 20));
    rig.ack(2, 1);
    assert_eq!(rig.frame("a"), ["2: message 2 a"]);
}

#[test]
fn with_ack_auto_a_message_is_acknowledged_when_it_is_written() {
    let mut rig = Rig::connected();
    rig.open_as(1, Open { acknowledge: Acknowledge::Auto, ..open("main") });
    rig.frame("first");
    rig.written(1, 1);
    rig.session.handle(Input::Frame { attempt: 1, body: Body::Json("a".into()) }, rig.now);
    let Some(Action::ToExtension { event: Event::Message { tag, .. }, .. }) = rig.session.poll_action() else {
        panic!()
    };
    let tag = tag.unwrap();
    assert_eq!(tag.session, 77);
    assert_eq!(rig.status()["consumers"][0]["acked"], 1);
    assert_eq!(rig.input(Input::Written { tag }), [""; 0]);
    assert_eq!(rig.status()["consumers"][0]["acked"], 2);
    assert_eq!(rig.status()["inbox"]["messages"], 0);
}

#[test]
fn what_was_not_written_to_a_port_with_ack_auto_goes_to_the_next() {
    let mut rig = Rig::connected();
    rig.open_as(1, Open { acknowledge: Acknowledge::Auto, ..open("main") });
    rig.frame("a");
    rig.frame("b");
    rig.written(1, 1);
    assert_eq!(deliveries(&rig.open(2, "main")), ["2: replay 2 b"]);
}

#[test]
fn a_message_without_ack_auto_wants_no_word_when_it_is_written() {
    let mut rig = Rig::connected();
    rig.frame("first");
    rig.session.handle(Input::Frame { attempt: 1, body: Body::Json("a".into()) }, rig.now);
    let action = rig.session.poll_action();
    assert!(matches!(action, Some(Action::ToExtension { event: Event::Message { tag: None, .. }, .. })), "{action:?}");
}

#[test]
fn as_text_is_the_ports_own_and_leaves_binary_alone() {
    let mut rig = Rig::connected();
    rig.open_as(2, Open { as_text: true, ..open("other") });
    assert_eq!(rig.frame("{ }"), ["1: message 1 { }", "2: message 1 text:{ }"]);
    assert_eq!(rig.frame_of(Body::Text("x".into())), ["1: message 2 text:x", "2: message 2 text:x"]);
    assert_eq!(rig.frame_of(Body::Binary("y".into())), ["1: message 3 binary:y", "2: message 3 binary:y"]);
}

#[test]
fn too_many_messages_become_a_gap_with_their_exact_number() {
    let mut rig = Rig::connected();
    rig.detach(1);
    for _ in 0..100_000 {
        rig.frame("a");
    }
    assert_eq!(deliveries(&rig.open(1, "main"))[0], "1: replay 1 a", "just full");
    rig.detach(1);
    for _ in 0..11 {
        rig.frame("b");
    }
    let lines = rig.open(1, "main");
    assert_eq!(lines[0], "1: opened connected head 100011 acked 0 pending 100000");
    assert_eq!(deliveries(&lines)[..2], ["1: replay gap 1..=12 overflow count 12", "1: replay 13 a"]);
}

#[test]
fn too_many_bytes_become_a_gap_and_the_newest_message_stays_whatever_its_size() {
    let mut rig = Rig::connected();
    rig.detach(1);
    rig.frame("a");
    rig.frame("b");
    rig.frame_of(large(20 << 20));
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines), ["1: replay gap 1..=2 overflow count 2"], "the window has room for the gap only");
    assert_eq!(rig.ack(1, 2), ["1: replay 3 binary:20971520 bytes"]);
}

#[test]
fn a_gap_leaves_out_what_a_port_has_had_as_messages() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.frame_of(large(8 << 20));
    assert_eq!(rig.frame_of(large(9 << 20)), ["1: gap 3..=3 overflow count 1"]);
    assert_eq!(rig.status()["inbox"]["messages"], 2, "1 to 3 are dropped, 4 is kept");
    assert_eq!(rig.ack(1, 3), ["1: message 4 binary:9437184 bytes"]);
}

#[test]
fn another_port_gets_a_gap_for_all_that_is_not_acknowledged() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.frame("b");
    rig.frame_of(large(8 << 20));
    rig.frame_of(large(9 << 20));
    rig.ack(1, 1);
    assert_eq!(deliveries(&rig.open(2, "main")), ["2: replay gap 2..=3 overflow count 2"]);
}

#[test]
fn an_outage_is_a_gap_at_its_place_with_its_times() {
    let mut rig = Rig::connected();
    rig.frame("a");
    rig.wait(seconds(5));
    assert_eq!(rig.lose(reset()), ["1: reconnecting (reset)"]);
    rig.next_timer();
    rig.wait(seconds(2));
    let since = 5000;
    let until = rig.now.unix_ms - BEGIN;
    assert_eq!(
        rig.connect(),
        ["1: connected".to_owned(), format!("1: gap 2..=2 disconnected count unknown from +{since} to +{until}")]
    );
    assert_eq!(rig.frame("b"), ["1: message 3 b"]);
}

#[test]
fn an_outage_with_many_attempts_is_one_gap() {
    let mut rig = Rig::connected();
    for _ in 0..5 {
        rig.break_and_redial();
    }
    let until = rig.now.unix_ms - BEGIN;
    assert_eq!(deliveries(&rig.connect()), [format!("1: gap 1..=1 disconnected count unknown from +0 to +{until}")]);
}

#[test]
fn before_the_first_connection_there_is_no_outage() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.lose(reset());
    rig.next_timer();
    assert_eq!(rig.connect(), ["1: connected"]);
    assert_eq!(rig.frame("a"), ["1: message 1 a"]);
}

#[test]
fn an_outage_is_replayed_and_acknowledged_like_a_message() {
    let mut rig = Rig::connected();
    rig.break_and_redial();
    rig.connect();
    rig.frame("a");
    let lines = rig.open(2, "main");
    assert_eq!(deliveries(&lines).len(), 2);
    assert!(deliveries(&lines)[0].starts_with("2: replay gap 1..=1 disconnected"), "{lines:?}");
    rig.ack(2, 1);
    assert_eq!(deliveries(&rig.open(3, "main")), ["3: replay 2 a"]);
}

#[test]
fn an_outage_among_dropped_messages_makes_their_number_unknown() {
    let mut rig = Rig::connected();
    rig.detach(1);
    rig.frame("a");
    rig.break_and_redial();
    rig.connect();
    rig.frame_of(large(9 << 20));
    rig.frame_of(large(9 << 20));
    assert_eq!(deliveries(&rig.open(1, "main"))[0], "1: replay gap 1..=3 overflow count unknown from +0 to +239");
}

#[test]
fn a_full_window_is_told_once_after_ten_seconds() {
    let mut rig = Rig::connected();
    rig.frame_of(large(8 << 20));
    assert_eq!(without_pings(rig.wait(seconds(20))), [""; 0], "full, but nothing waits");
    rig.frame("a");
    assert_eq!(without_pings(rig.wait(seconds(10) - Duration::from_millis(1))), [""; 0]);
    assert_eq!(without_pings(rig.wait(Duration::from_millis(1))), ["1: error ack-overdue"]);
    assert_eq!(rig.status()["health"], 80);
    rig.frame("b");
    assert_eq!(without_pings(rig.wait(seconds(9))), [""; 0]);
    rig.ack(1, 1);
    assert_eq!(rig.status()["health"], 100);
    rig.frame_of(large(8 << 20));
    assert_eq!(without_pings(rig.wait(seconds(10))), ["1: error ack-overdue"], "the next one is told again");
}

#[test]
fn the_port_that_takes_over_has_its_own_window_and_its_own_ten_seconds() {
    let mut rig = Rig::connected();
    rig.frame_of(large(8 << 20));
    rig.frame("a");
    rig.wait(seconds(9));
    assert_eq!(deliveries(&rig.open(2, "main")), ["2: replay 1 binary:8388608 bytes"]);
    assert_eq!(without_pings(rig.wait(seconds(9))), [""; 0]);
    assert_eq!(without_pings(rig.wait(seconds(1))), ["2: error ack-overdue"]);
}

#[test]
fn what_is_written_to_a_port_that_reads_no_more_is_nobodys_business() {
    let auto = || Open { acknowledge: Acknowledge::Auto, ..open("main") };
    let mut rig = Rig::connected();
    rig.open_as(1, auto());
    rig.frame("a");
    rig.frame("b");
    rig.open_as(2, auto());
    assert_eq!(rig.written(1, 1), [""; 0], "superseded");
    rig.detach(2);
    assert_eq!(rig.written(2, 1), [""; 0], "detached");
    assert_eq!(deliveries(&rig.open(3, "main")), ["3: replay 1 a", "3: replay 2 b"]);
}

#[test]
fn what_was_written_before_a_port_opened_anew_acknowledges_nothing_for_its_new_consumer() {
    let mut rig = Rig::connected();
    rig.open_as(2, Open { acknowledge: Acknowledge::Auto, ..open("other") });
    rig.frame_of(large(8 << 20));
    rig.open(2, "main");
    assert_eq!(rig.written(2, 1), [""; 0]);
    assert_eq!(deliveries(&rig.open(3, "main")), ["3: replay 1 binary:8388608 bytes"]);
}

#[test]
fn a_window_that_moves_is_not_overdue() {
    let mut rig = Rig::connected();
    for _ in 0..5 {
        rig.frame_of(Body::Json(vec![b'1'; 3 << 20].into()));
    }
    for seq in 1..4 {
        assert_eq!(without_pings(rig.wait(seconds(6))), [""; 0]);
        assert_eq!(rig.ack(1, seq).len(), 1);
    }
    assert_eq!(without_pings(rig.wait(seconds(10))), ["1: error ack-overdue"]);
}

#[test]
fn no_more_is_dropped_than_must_be() {
    let mut rig = Rig::connected();
    rig.detach(1);
    for _ in 0..3 {
        rig.frame_of(large(5 << 20));
    }
    rig.frame_of(large(5 << 20));
    assert_eq!(rig.status()["inbox"]["messages"], 4);
    assert_eq!(deliveries(&rig.open(1, "main"))[0], "1: replay gap 1..=1 overflow count 1");
}

#[test]
fn two_large_messages_are_not_both_kept() {
    let mut rig = Rig::connected();
    rig.detach(1);
    rig.frame_of(large(20 << 20));
    rig.frame_of(large(20 << 20));
    assert!(rig.status()["inbox"]["bytes"].as_u64().unwrap() < 21 << 20);
    assert_eq!(deliveries(&rig.open(1, "main")), ["1: replay gap 1..=1 overflow count 1"]);
    assert_eq!(rig.ack(1, 1), ["1: replay 2 binary:20971520 bytes"]);
}

#[test]
fn a_session_has_so_many_consumers_and_no_more() {
    let mut rig = Rig::connected();
    for number in 1..MAX_CONSUMERS as u64 {
        rig.open(number, &format!("c{number}"));
    }
    let [refusal] = &rig.open(99, "one more")[..] else { panic!("more than a refusal") };
    assert!(refusal.contains("too-many-consumers"), "{refusal}");
    assert!(rig.open(99, "c7").iter().any(|line| line.contains("opened")), "one that is known comes back");
}

#[test]
fn what_gives_way_to_new_limits_makes_room_at_once() {
    let mut rig = Rig::connected();
    rig.frame_of(large(2 << 20));
    assert_eq!(rig.frame_of(large(2 << 20)), [""; 0], "both do not fit into the window");
    assert_eq!(rig.frame("3"), [""; 0]);
    let mut settings = Box::new(birth().settings);
    settings.inbox.max_messages = 2;
    rig.input(Input::Configure { settings });
    let lines = rig.lose(reset());
    assert_eq!(deliveries(&lines), ["1: gap 2..=2 overflow count 1", "1: message 3 3"]);
}

#[test]
fn what_was_delivered_before_the_session_was_forgotten_acknowledges_nothing_after_it() {
    let auto = || Open { acknowledge: Acknowledge::Auto, ..open("main") };
    let mut rig = Rig::new();
    rig.open_as(1, auto());
    rig.connect();
    rig.frame("old");
    rig.input(close(true));
    rig.open_as(1, auto());
    rig.connect();
    rig.frame("new");
    rig.written(1, 1);
    assert_eq!(rig.status()["consumers"][0]["acked"], 0, "the old one was written");
    rig.written(1, 1);
    assert_eq!(rig.status()["consumers"][0]["acked"], 1);
}

#[test]
fn what_was_delivered_for_another_consumer_acknowledges_nothing_for_this_one() {
    let auto = |consumer: &str| Open { acknowledge: Acknowledge::Auto, ..open(consumer) };
    let mut rig = Rig::connected();
    rig.open_as(2, auto("other"));
    rig.frame("a");
    rig.open_as(2, auto("main"));
    rig.written(2, 1);
    assert_eq!(deliveries(&rig.open(3, "main")), ["3: replay 1 a"]);
}
