//! What reaches the server: order, confirmation, endings and receipts.

use super::*;

#[test]
fn a_message_is_written_stored_and_received_when_the_ping_behind_it_is_answered() {
    let mut rig = Rig::connected();
    assert_eq!(rig.send("a"), ["#1 send text:a", "#1 ping", "1: stored a"]);
    assert_eq!(rig.pong(), ["1: received a"]);
    assert_eq!(rig.status()["outbox"], json!({"messages": 0, "bytes": 0, "subscriptions": 0}));
}

#[test]
fn what_is_sent_without_a_connection_goes_out_in_order_before_what_is_sent_later() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.send("a"), ["1: stored a"]);
    assert_eq!(rig.send("b"), ["1: stored b"]);
    assert_eq!(rig.connect(), ["1: connected", "#1 send text:a", "#1 send text:b", "#1 ping"]);
    assert_eq!(rig.send("c"), ["#1 send text:c", "1: stored c"]);
    assert_eq!(rig.pong(), ["#1 ping", "1: received a b"]);
    assert_eq!(rig.pong(), ["1: received c"]);
}

#[test]
fn stored_is_said_only_when_it_is_kept_safely() {
    let mut rig = Rig::connected();
    rig.disk = false;
    assert_eq!(rig.send("a"), ["#1 send text:a", "#1 ping"]);
    assert_eq!(rig.save(), ["1: stored a"]);
}

#[test]
fn what_was_received_first_is_not_called_stored_afterwards() {
    let mut rig = Rig::connected();
    rig.disk = false;
    rig.send("a");
    assert_eq!(rig.pong(), ["1: received a"]);
    assert_eq!(rig.save(), [""; 0]);
}

#[test]
fn whoever_asks_only_for_stored_hears_that_also_if_the_server_was_faster_than_the_disk() {
    let mut rig = Rig::connected();
    rig.disk = false;
    rig.send_as(1, Send { receipts: Some(vec![Stage::Stored]), ..send("a") });
    assert_eq!(rig.pong(), ["1: stored a"]);
    assert_eq!(rig.save(), [""; 0], "once");
    rig.disk = true;
    rig.send_as(1, Send { receipts: Some(vec![Stage::Stored]), ..send("b") });
    assert_eq!(rig.pong(), [""; 0], "it was told before");
}

#[test]
fn one_ping_is_out_at_a_time_and_its_answer_stands_for_all_before_it() {
    let mut rig = Rig::connected();
    assert!(rig.send("a").contains(&"#1 ping".into()));
    for text in ["b", "c", "d"] {
        assert!(!rig.send(text).contains(&"#1 ping".into()));
    }
    assert_eq!(said_to(1, &rig.pong()), ["received a"], "b, c and d were written behind the ping");
    assert_eq!(said_to(1, &rig.pong()), ["received b c d"]);
    assert_eq!(rig.ping, None);
}

#[test]
fn an_answer_to_no_ping_of_this_connection_proves_nothing() {
    let mut rig = Rig::connected();
    rig.send("a");
    let (attempt, payload) = rig.ping.unwrap();
    let mut foreign = payload;
    foreign[0] ^= 1;
    assert_eq!(rig.input(Input::Pong { attempt, payload: foreign }), [""; 0]);
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.input(Input::Pong { attempt, payload }), [""; 0], "from the old connection");
    assert_eq!(rig.input(Input::Pong { attempt: 2, payload }), [""; 0], "the old connection's");
    assert_eq!(rig.pong(), ["1: received a"]);
}

#[test]
fn after_a_loss_what_is_not_confirmed_is_sent_again_in_order_before_what_waits() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.pong();
    rig.send("b");
    rig.send("c");
    rig.lose(reset());
    rig.send("d");
    rig.next_timer();
    let lines = rig.connect();
    let sent: Vec<_> = lines.iter().filter(|line| line.starts_with("#2")).collect();
    assert_eq!(sent, ["#2 send text:b", "#2 send text:c", "#2 send text:d", "#2 ping"]);
    assert_eq!(said_to(1, &rig.pong()), ["received b c d"]);
}

#[test]
fn what_may_not_be_sent_again_is_refused_when_its_delivery_is_unknown() {
    let mut rig = Rig::connected();
    rig.send_as(1, Send { resend: false, ..send("a") });
    rig.send("b");
    assert_eq!(said_to(1, &rig.lose(reset())), ["reconnecting (reset)", "refused a (unknown-delivery)"]);
    rig.send_as(1, Send { resend: false, ..send("c") });
    rig.next_timer();
    let sent: Vec<_> = rig.connect().into_iter().filter(|line| line.contains("send")).collect();
    assert_eq!(sent, ["#2 send text:b", "#2 send text:c"], "c was never on the wire");
}

#[test]
fn a_message_expires_when_it_has_waited_too_long_and_is_then_not_sent() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.send_as(1, Send { ttl_ms: Some(1000), ..send("a") });
    rig.send_as(1, Send { ttl_ms: Some(500), ..send("b") });
    rig.send("c");
    assert_eq!(rig.wait(Duration::from_millis(499)), [""; 0]);
    assert_eq!(rig.wait(Duration::from_millis(1)), ["1: expired b"]);
    assert_eq!(rig.wait(Duration::from_millis(500)), ["1: expired a"]);
    assert_eq!(rig.connect(), ["1: connected", "#1 send text:c", "#1 ping"]);
}

#[test]
fn what_is_on_the_wire_does_not_expire_until_the_connection_is_lost() {
    let mut rig = Rig::connected();
    rig.send_as(1, Send { ttl_ms: Some(1000), ..send("a") });
    assert_eq!(rig.wait(seconds(2)), [""; 0]);
    rig.lose(reset());
    assert_eq!(said_to(1, &rig.wait(Duration::ZERO)), ["expired a"]);
}

#[test]
fn the_longest_time_to_live_is_no_overflow() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.send_as(1, Send { ttl_ms: Some(u64::MAX), ..send("a") }), ["1: stored a"]);
    rig.wait(seconds(1));
}

#[test]
fn a_full_queue_refuses_by_receipt_or_for_a_message_without_id_by_error() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    for _ in 0..9_999 {
        assert_eq!(rig.send_as(1, Send { id: None, ..send("x") }), [""; 0], "no id, no receipts");
    }
    assert_eq!(rig.send("last"), ["1: stored last"]);
    assert_eq!(rig.send("a"), ["1: refused a (full)"]);
    assert_eq!(rig.send_as(1, Send { id: None, ..send("x") }), ["1: error queue-full"]);
    rig.connect();
    rig.pong();
    assert_eq!(rig.send("a"), ["#1 send text:a", "#1 ping", "1: stored a"], "a refused id may be tried again");
}

#[test]
fn a_queue_is_full_by_bytes_too_but_takes_anything_when_it_is_empty() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    let half = Bytes::from(vec![b' '; 32 << 20]);
    let large = |id: &str| Send { body: Body::Json(half.clone()), ..send(id) };
    assert_eq!(rig.send_as(1, large("a")), ["1: stored a"]);
    assert_eq!(rig.send_as(1, large("b")), ["1: stored b"], "exactly full");
    assert_eq!(rig.send("c"), ["1: refused c (full)"]);
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.send_as(1, Send { body: super::large(65 << 20), ..send("a") }), ["1: stored a"]);
}

#[test]
fn a_repeated_id_is_answered_with_the_stage_reached_and_not_queued_again() {
    let mut rig = Rig::connected();
    rig.disk = false;
    rig.send("a");
    assert_eq!(rig.send("a"), [""; 0], "nothing is reached yet");
    rig.save();
    assert_eq!(rig.send("a"), ["1: stored a"]);
    rig.pong();
    assert_eq!(rig.send("a"), ["1: received a"]);
    assert_eq!(rig.send("a"), ["1: received a"]);
    assert_eq!(rig.status()["messages_sent"], 1);
}

#[test]
fn a_repeated_id_is_answered_with_how_it_ended_badly() {
    let mut rig = Rig::connected();
    rig.send_as(1, Send { resend: false, ..send("a") });
    rig.lose(reset());
    rig.send_as(1, Send { ttl_ms: Some(10), ..send("b") });
    assert!(rig.wait(Duration::from_millis(10)).contains(&"1: expired b".into()));
    assert_eq!(rig.send("a"), ["1: refused a (unknown-delivery)"]);
    assert_eq!(rig.send("b"), ["1: expired b"]);
}

#[test]
fn receipts_go_to_the_port_that_last_repeated_the_id() {
    let mut rig = Rig::connected();
    rig.open(2, "other");
    rig.send("a");
    assert_eq!(rig.send_as(2, send("a")), ["2: stored a"]);
    assert_eq!(rig.pong(), ["2: received a"]);
}

#[test]
fn only_the_stages_that_were_asked_for_are_reported_but_a_bad_end_always_is() {
    let mut rig = Rig::connected();
    assert_eq!(said_to(1, &rig.send_as(1, Send { receipts: Some(vec![Stage::Received]), ..send("a") })), [""; 0]);
    assert_eq!(rig.pong(), ["1: received a"]);
    rig.send_as(1, Send { receipts: Some(vec![]), ..send("b") });
    assert_eq!(rig.pong(), [""; 0]);
    rig.send_as(1, Send { receipts: Some(vec![]), resend: false, ..send("c") });
    assert!(rig.lose(reset()).contains(&"1: refused c (unknown-delivery)".into()));
}

#[test]
fn an_ending_that_nobody_heard_is_told_when_the_consumer_opens_again_and_only_once() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.send_as(1, Send { receipts: Some(vec![Stage::Stored]), ..send("b") });
    rig.detach(1);
    rig.pong();
    rig.pong();
    assert_eq!(said_to(2, &rig.open(2, "other"))[2..], [""; 0], "not this one's");
    assert_eq!(said_to(3, &rig.open(3, "main"))[2..], ["received a"], "and of b nobody asked");
    rig.detach(3);
    assert_eq!(said_to(4, &rig.open(4, "main"))[2..], [""; 0]);
}

#[test]
fn an_ending_that_a_repeat_was_answered_with_is_not_told_again() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.detach(1);
    rig.pong();
    rig.open(2, "side");
    assert_eq!(rig.send_as(2, send("a")), ["2: received a"]);
    for consumer in ["side", "main"] {
        assert!(!rig.open(3, consumer).contains(&"3: received a".into()), "{consumer}");
    }
}

#[test]
fn the_bridge_remembers_ten_thousand_ids_that_have_ended() {
    let mut rig = Rig::connected();
    for number in 0..10_001 {
        rig.send(&number.to_string());
        rig.pong();
    }
    assert_eq!(rig.send("1"), ["1: received 1"]);
    assert_eq!(rig.send("0"), ["#1 send text:0", "#1 ping", "1: stored 0"]);
}

#[test]
fn what_was_never_opened_cannot_send_or_acknowledge() {
    let mut rig = Rig::connected();
    assert_eq!(rig.send_as(9, send("a")), ["9: error unknown-session"]);
    assert_eq!(rig.ack(9, 0), ["9: error unknown-session"]);
    rig.detach(9);
    rig.detach(1);
    assert_eq!(rig.send("a"), ["1: error unknown-session"]);
}

#[test]
fn a_payload_leaves_as_it_was_posted() {
    let mut rig = Rig::connected();
    for (body, sent) in [
        (Body::Json(r#"{"n":12345678901234567890, "n":1}"#.into()), r#"{"n":12345678901234567890, "n":1}"#),
        (Body::Text("é".into()), "text:é"),
        (Body::Binary("x".into()), "binary:x"),
        (Body::Text(Bytes::new()), "text:"),
    ] {
        assert_eq!(rig.send_as(1, Send { body, id: None, ..send("x") })[0], format!("#1 send {sent}"));
    }
}

#[test]
fn an_ending_goes_to_the_port_that_reads_for_the_senders_consumer_by_then() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.detach(1);
    rig.open(2, "main");
    assert_eq!(rig.pong(), ["2: received a"]);
    assert_eq!(said_to(3, &rig.open(3, "main"))[2..], [""; 0], "once");
}

#[test]
fn nothing_counts_as_received_on_a_connection_that_is_dead_from_the_start() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.pong();
    rig.send("b");
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.wait(seconds(10)), ["#2 disconnect 1001", "1: reconnecting (heartbeat)"]);
    rig.next_timer();
    assert!(rig.connect().contains(&"#3 send text:b".into()));
}

#[test]
fn what_expired_while_nobody_looked_is_not_sent() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    rig.send_as(1, Send { ttl_ms: Some(1000), ..send("a") });
    rig.send("b");
    // A machine that slept: the clock is ahead of every timer.
    rig.set_time(rig.now.elapsed + seconds(5));
    assert_eq!(rig.connect(), ["1: connected", "#1 send text:b", "#1 ping", "1: expired a"]);
}

#[test]
fn endings_are_told_in_the_order_of_the_messages() {
    let mut rig = Rig::connected();
    for id in ["a", "b", "c"] {
        rig.send_as(1, Send { resend: false, ..send(id) });
    }
    assert_eq!(rig.lose(reset()), ["1: reconnecting (reset)", "1: refused a b c (unknown-delivery)"]);
    for id in ["d", "e", "f"] {
        rig.send_as(1, Send { ttl_ms: Some(1), ..send(id) });
    }
    assert!(rig.wait(Duration::from_millis(1)).contains(&"1: expired d e f".into()));
}

#[test]
fn a_stage_that_is_asked_for_a_million_times_is_remembered_once() {
    let mut outbox = Outbox::new(&Settings::default());
    let send = Send { receipts: Some(vec![Stage::Received; 1_000_000]), ..send("a") };
    outbox.push(Now::default(), PortId(1), "main", send);
    assert!(format!("{outbox:?}").len() < 1000);
}

#[test]
fn what_was_not_yet_written_stays_behind_what_is_sent_again() {
    let mut outbox = Outbox::new(&Settings::default());
    for (id, resend) in [("a", true), ("b", false), ("c", true), ("d", true)] {
        outbox.push(Now::default(), PortId(1), "main", Send { resend, ..send(id) });
    }
    for _ in 0..3 {
        outbox.write_next();
    }
    outbox.connection_lost(Now::default());
    let again: Vec<_> = std::iter::from_fn(|| outbox.write_next().map(|item| item.body.clone())).collect();
    assert_eq!(again, ["a", "c", "d"].map(|text| send(text).body));
}

#[test]
fn for_a_server_that_never_answers_pings_a_message_is_received_when_the_system_has_it() {
    let mut rig = Rig::connected();
    rig.send("a");
    rig.wait(seconds(10));
    assert_eq!(rig.status()["answers_pings"], false);
    // A server that reads nothing: what is sent waits in this process, and is not received by anybody.
    rig.socket = false;
    assert_eq!(said_to(1, &rig.send("b")), ["stored b"]);
    assert_eq!(rig.status()["outbox"]["messages"], 1);
    let attempt = rig.attempt();
    assert_eq!(said_to(1, &rig.input(flushed(attempt))), ["received b"]);
    assert_eq!(rig.status()["outbox"]["messages"], 0);
}

fn subscribe(rig: &mut Rig, key: &str, payload: Option<&str>) -> Vec<String> {
    let payload = payload.map(|text| Body::Json(Bytes::copy_from_slice(text.as_bytes())));
    let lines = rig.input(Input::Subscribe { port: PortId(1), key: key.into(), payload, reference: None });
    without_pings(lines)
}

fn unsubscribe(rig: &mut Rig, key: &str, payload: &str) -> Vec<String> {
    let payload = Some(Body::Json(Bytes::copy_from_slice(payload.as_bytes())));
    let lines = rig.input(Input::Unsubscribe { port: PortId(1), key: key.into(), payload, reference: None });
    without_pings(lines)
}

#[test]
fn subscriptions_come_first_on_every_connection_in_the_order_first_made() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(subscribe(&mut rig, "b", Some("\"b\"")), [""; 0]);
    rig.send("queued");
    assert_eq!(without_pings(rig.connect()), ["1: connected", "#1 send \"b\"", "#1 send text:queued"]);
    assert_eq!(subscribe(&mut rig, "a", Some("\"a\"")), ["#1 send \"a\""]);
    let mut lines = without_pings(rig.break_and_redial());
    lines.extend(without_pings(rig.connect()));
    let sent: Vec<_> = lines.iter().filter(|line| line.starts_with("#2 send")).collect();
    assert_eq!(sent, ["#2 send \"b\"", "#2 send \"a\"", "#2 send text:queued"]);
    assert_eq!(rig.status()["outbox"]["subscriptions"], 2);
}

#[test]
fn a_subscription_that_stands_is_not_sent_again_unless_it_says_something_else() {
    let mut rig = Rig::connected();
    assert_eq!(subscribe(&mut rig, "a", Some("1")), ["#1 send 1"]);
    assert_eq!(subscribe(&mut rig, "a", Some("1")), [""; 0]);
    subscribe(&mut rig, "b", Some("2"));
    assert_eq!(subscribe(&mut rig, "a", Some("3")), ["#1 send 3"]);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#2 send 3", "#2 send 2"], "its place is the one first made");
}

#[test]
fn what_was_unsubscribed_is_not_subscribed_again() {
    let mut rig = Rig::connected();
    subscribe(&mut rig, "a", Some("1"));
    assert_eq!(unsubscribe(&mut rig, "a", "-1"), ["#1 send -1"]);
    assert_eq!(unsubscribe(&mut rig, "a", "-1"), [""; 0], "there is nothing to end");
    rig.lose(reset());
    subscribe(&mut rig, "b", Some("2"));
    assert_eq!(unsubscribe(&mut rig, "b", "-2"), [""; 0], "no connection has it");
    rig.next_timer();
    assert!(!rig.connect().iter().any(|line| line.contains("send")));
}

#[test]
fn a_live_subscription_joins_the_queue_in_posting_order_and_belongs_to_its_connection() {
    let mut rig = Rig::connected();
    rig.send("before");
    subscribe(&mut rig, "a", Some("1"));
    rig.send("after");
    rig.break_and_redial();
    let lines = rig.connect();
    assert_eq!(sent(&lines), ["#2 send 1", "#2 send text:before", "#2 send text:after"], "once, not twice");
    assert_eq!(rig.pong(), ["1: received before after"]);
    assert_eq!(rig.status()["outbox"]["messages"], 0);
}

#[test]
fn without_a_template_a_subscription_must_say_what_to_send() {
    let mut rig = Rig::connected();
    assert_eq!(subscribe(&mut rig, "a", None), ["1: error no-template"]);
    assert_eq!(rig.status()["outbox"]["subscriptions"], 0);
}

#[test]
fn there_are_only_so_many_subscriptions() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    for key in 0..crate::wire::MAX_SUBSCRIPTIONS {
        assert_eq!(subscribe(&mut rig, &key.to_string(), Some("1")), [""; 0]);
    }
    assert_eq!(subscribe(&mut rig, "more", Some("1")), ["1: error too-many-subscriptions"]);
    assert_eq!(subscribe(&mut rig, "7", Some("2")), [""; 0], "it is there already");
}

#[test]
fn memory_mode_promises_nothing_that_needs_a_disk() {
    let mut rig = Rig::with(|birth| birth.mode = Mode::Memory);
    rig.open(1, "main");
    rig.connect();
    assert_eq!(without_pings(rig.send("a")), ["#1 send text:a"]);
    assert!(rig.unsaved.is_none() && rig.shelf.posts.is_empty());
    assert_eq!(rig.pong(), ["1: received a"]);
    let asks = Send { receipts: Some(vec![Stage::Stored]), ..send("b") };
    assert_eq!(rig.send_as(1, asks), ["1: error not-durable"]);
    assert_eq!(rig.status()["mode"], "memory");
}

#[test]
fn a_message_without_a_time_to_live_has_that_of_the_settings() {
    let mut rig = Rig::with(|birth| birth.settings.queue.ttl = Some(seconds(5)));
    rig.open(1, "main");
    rig.send("a");
    rig.send_as(1, Send { ttl_ms: Some(60_000), ..send("b") });
    assert_eq!(rig.wait(seconds(5)), ["1: expired a"]);
}

#[test]
fn the_queue_is_as_long_as_the_settings_say() {
    let mut rig = Rig::with(|birth| birth.settings.queue.max_messages = 1);
    rig.open(1, "main");
    assert_eq!(rig.send("a"), ["1: stored a"]);
    assert_eq!(rig.send("b"), ["1: refused b (full)"]);
}

#[test]
fn a_message_is_not_to_blame_for_its_size_if_a_subscription_is_as_large() {
    let too_large = || Reason { code: "closed", close_code: Some(1009), ..reset() };
    let mut rig = Rig::connected();
    subscribe(&mut rig, "a", Some("\"a long subscription\""));
    rig.send("short");
    assert_eq!(rig.lose(too_large()), ["1: reconnecting (closed)"]);
    rig.next_timer();
    rig.connect();
    rig.send("longer than that subscription");
    let lines = rig.lose(too_large());
    assert!(lines.contains(&"1: refused longer than that subscription (too-large)".into()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("refused short")), "{lines:?}");
}

#[test]
fn subscriptions_take_no_more_room_than_the_queue_has() {
    let large = format!("\"{}\"", "x".repeat(600));
    let mut rig = Rig::with(|birth| birth.settings.queue.max_bytes = 1024);
    rig.open(1, "main");
    assert_eq!(subscribe(&mut rig, "a", Some("1")), [""; 0]);
    assert_eq!(subscribe(&mut rig, "b", Some(&large)), [""; 0]);
    assert_eq!(subscribe(&mut rig, "a", Some(&large)), ["1: error too-many-subscriptions"], "not by growing either");
    let lines = rig.connect();
    assert_eq!(lines[1..], ["#1 send 1".to_owned(), format!("#1 send {}", shown_body(&Body::Json(large.into())))]);
}

#[test]
fn a_live_subscription_waits_for_room_in_the_queue() {
    let mut rig = Rig::with(|birth| birth.settings.queue.max_messages = 1);
    rig.open(1, "main");
    rig.connect();
    assert_eq!(subscribe(&mut rig, "a", Some("1")), ["#1 send 1"]);
    assert_eq!(subscribe(&mut rig, "b", Some("2")), ["1: error queue-full"]);
    assert_eq!(unsubscribe(&mut rig, "a", "-1"), ["1: error queue-full"]);
    assert_eq!(rig.status()["outbox"]["subscriptions"], 1, "nothing has changed");
    rig.pong();
    assert_eq!(unsubscribe(&mut rig, "a", "-1"), ["#1 send -1"]);
}

/// A session whose server acknowledges messages itself.
fn acknowledging() -> Rig {
    let mut rig = Rig::with(|birth| birth.settings.dialect.ack = Some("/ack".to_owned()));
    rig.open(1, "main");
    rig.connect();
    rig
}

fn ask_for_all(id: &str) -> Send {
    Send { receipts: Some(vec![Stage::Stored, Stage::Received, Stage::Acknowledged]), ..send(id) }
}

#[test]
fn a_message_is_kept_until_the_server_itself_has_named_it() {
    let mut rig = acknowledging();
    assert_eq!(rig.send_as(1, ask_for_all("a")), ["#1 send text:a", "#1 ping", "1: stored a"]);
    assert_eq!(rig.pong(), ["1: received a"], "and asks no more: its peer has everything");
    assert_eq!(rig.status()["outbox"]["messages"], 1);
    let acknowledgement = r#"{"type":"ok","ack":"a"}"#;
    assert_eq!(rig.frame(acknowledgement), ["1: acknowledged a".to_owned(), format!("1: message 1 {acknowledgement}")]);
    assert_eq!(rig.status()["outbox"]["messages"], 0);
    assert_eq!(rig.frame(acknowledgement), [format!("1: message 2 {acknowledgement}")], "it is known");
}

#[test]
fn what_its_peer_had_is_sent_again_until_the_server_has_named_it() {
    let mut rig = acknowledging();
    for id in ["1", "2"] {
        rig.send_as(1, ask_for_all(id));
    }
    rig.send_as(1, Send { id: None, ..send("nameless") });
    rig.pong();
    rig.pong();
    assert_eq!(rig.status()["outbox"]["messages"], 2, "what has no id is done with");
    rig.frame(r#"{"ack":1}"#);
    rig.break_and_redial();
    let lines = rig.connect();
    assert!(lines.contains(&"#2 send text:2".into()) && !lines.contains(&"#2 send text:1".into()), "{lines:?}");
    assert_eq!(rig.pong(), [""; 0], "it was said before");
    assert!(rig.frame(r#"{"ack":2}"#).contains(&"1: acknowledged 2".into()));
}

#[test]
fn what_must_not_be_sent_twice_ends_as_far_as_it_is_known_to_have_come() {
    let mut rig = acknowledging();
    rig.send_as(1, Send { resend: false, ..ask_for_all("had") });
    rig.pong();
    rig.send_as(1, Send { resend: false, ..ask_for_all("perhaps") });
    let lines = rig.lose(reset());
    assert!(lines.contains(&"1: refused perhaps (unknown-delivery)".into()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(" had")), "{lines:?}");
    assert_eq!(rig.status()["outbox"]["messages"], 0);
}

#[test]
fn nothing_is_acknowledged_that_the_server_was_not_sent() {
    let mut rig = acknowledging();
    rig.lose(reset());
    rig.send_as(1, ask_for_all("a"));
    rig.next_timer();
    let attempt = rig.attempt();
    assert_eq!(rig.input(Input::Frame { attempt, body: Body::Json(r#"{"ack":"a"}"#.into()) }), [""; 0]);
    rig.connect();
    assert!(!rig.frame(r#"{"ack":"b"}"#).iter().any(|line| line.contains("acknowledged")));
    assert!(rig.frame(r#"{"ack":"a"}"#).contains(&"1: acknowledged a".into()));
}
