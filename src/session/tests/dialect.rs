//! What the server's own language changes: subscriptions from templates, questions of the server, going on after an outage.

use super::*;

/// One whose server goes on where the last connection ended, has sent two messages, and was lost.
fn after_an_outage() -> Rig {
    let mut rig = speaking(json!({"dialect": {"resume": {
        "cursor": "/cursor",
        "send": {"resume": "{cursor}"},
        "accepted": {"resumed": true},
        "refused": {"resumed": false},
    }}}));
    rig.open(1, "main");
    assert_eq!(sent(&rig.connect()), [""; 0], "nothing has come yet that it could go on behind");
    rig.frame(r#"{"cursor":7}"#);
    rig.frame(r#"{"cursor":8}"#);
    rig.ack(1, 2);
    rig.break_and_redial();
    rig
}

fn subscribe(rig: &mut Rig, key: &str, payload: Option<&str>) -> Vec<String> {
    let payload = payload.map(|text| Body::Json(Bytes::copy_from_slice(text.as_bytes())));
    rig.input(Input::Subscribe { port: PortId(1), key: key.into(), payload, reference: None })
}

fn unsubscribe(rig: &mut Rig, key: &str) -> Vec<String> {
    rig.input(Input::Unsubscribe { port: PortId(1), key: key.into(), payload: None, reference: None })
}

#[test]
fn a_subscription_needs_no_payload_where_the_dialect_has_a_template() {
    let mut rig = speaking(json!({"dialect": {"preset": "task"}}));
    rig.open(1, "main");
    rig.connect();
    assert_eq!(sent(&subscribe(&mut rig, "t\"1", None)), [r#"#1 send {"taskId":"t\"1","type":"subscribe"}"#]);
    assert_eq!(sent(&subscribe(&mut rig, "own", Some("[1]"))), ["#1 send [1]"]);
    rig.pong();
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), [r#"#2 send {"taskId":"t\"1","type":"subscribe"}"#, "#2 send [1]"]);
    assert_eq!(sent(&unsubscribe(&mut rig, "t\"1")), [r#"#2 send {"taskId":"t\"1","type":"unsubscribe"}"#]);
}

#[test]
fn without_a_template_a_subscription_without_a_payload_is_refused() {
    let mut rig = speaking(json!({"dialect": {"subscribe": ["{key}"]}}));
    rig.open(1, "main");
    rig.connect();
    assert_eq!(sent(&subscribe(&mut rig, "k", None)), [r#"#1 send ["k"]"#]);
    assert_eq!(unsubscribe(&mut rig, "k"), ["1: error no-template"]);
}

#[test]
fn a_question_of_the_server_is_answered_and_the_extension_does_not_get_it() {
    let mut rig = speaking(json!({"dialect": {"answer": {"when": {"type": "ping"}, "send": {"type": "pong"}}}}));
    rig.open(1, "main");
    rig.connect();
    assert_eq!(rig.frame(r#"{"type":"ping"}"#), [r#"#1 send {"type":"pong"}"#]);
    assert_eq!(rig.frame(r#"{"type":"pong"}"#), [r#"1: message 1 {"type":"pong"}"#]);
}

#[test]
fn an_outage_that_the_server_bridges_is_no_gap() {
    let mut rig = after_an_outage();
    assert_eq!(deliveries(&rig.connect()), [""; 0]);
    assert_eq!(rig.frame(r#"{"cursor":9}"#), [""; 0], "nobody knows yet what is missing before it");
    assert_eq!(rig.frame(r#"{"resumed":true}"#), [r#"1: message 4 {"cursor":9}"#, r#"1: message 5 {"resumed":true}"#]);
    assert_eq!(rig.frame(r#"{"cursor":10}"#), [r#"1: message 6 {"cursor":10}"#]);
    rig.ack(1, 6);
    assert_eq!(rig.status()["inbox"]["messages"], 0);
}

#[test]
fn the_server_is_asked_before_anything_else_is_sent_with_the_last_cursor_as_it_came() {
    let mut rig = after_an_outage();
    rig.send("queued");
    subscribe(&mut rig, "k", Some("[1]"));
    assert_eq!(sent(&rig.connect()), [r#"#2 send {"resume":8}"#, "#2 send [1]", "#2 send text:queued"]);
    rig.frame(r#"{"cursor":"nine"}"#);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect())[0], r#"#3 send {"resume":"nine"}"#);
}

#[test]
fn an_outage_that_the_server_cannot_bridge_is_a_gap_at_its_place() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.frame(r#"{"cursor":20}"#);
    let lines = rig.frame(r#"{"resumed":false}"#);
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("1: gap 3..=3 disconnected count unknown"), "{lines:?}");
    assert_eq!(lines[1..], [r#"1: message 4 {"cursor":20}"#, r#"1: message 5 {"resumed":false}"#]);
}

#[test]
fn a_server_that_does_not_say_whether_it_goes_on_is_not_waited_for_longer_than_for_a_pong() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.frame(r#"{"cursor":20}"#);
    let timeout = rig.session.settings.heartbeat.timeout;
    assert_eq!(deliveries(&rig.wait(timeout - seconds(1))), [""; 0]);
    let lines = rig.wait(seconds(1));
    assert_eq!(deliveries(&lines).len(), 2, "{lines:?}");
    assert!(deliveries(&lines)[0].starts_with("1: gap 3..=3 disconnected"), "{lines:?}");
    assert_eq!(deliveries(&rig.frame(r#"{"resumed":true}"#)), [r#"1: message 5 {"resumed":true}"#]);
}

#[test]
fn a_connection_that_is_lost_before_the_answer_makes_the_outage_longer() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.wait(seconds(1));
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect())[0], r#"#3 send {"resume":8}"#);
    let lines = rig.frame(r#"{"resumed":false}"#);
    assert!(lines[0].starts_with("1: gap 4..=4 disconnected count unknown from +0 to +"), "{lines:?}");
    assert_eq!(deliveries(&lines).len(), 2);
}

#[test]
fn what_comes_before_the_server_is_asked_is_no_place_to_go_on_from() {
    let mut rig = speaking(json!({
        "auth": {"via": "message", "send": {"hello": true}, "accepted": {"in": true}},
        "dialect": {"resume": {"cursor": "/cursor", "send": {"resume": "{cursor}"}, "accepted": {"resumed": true}}},
    }));
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"in":true}"#);
    rig.frame(r#"{"cursor":8}"#);
    rig.break_and_redial();
    rig.connect();
    rig.frame(r#"{"cursor":20}"#);
    assert_eq!(sent(&rig.frame(r#"{"in":true,"cursor":21}"#)), [r#"#2 send {"resume":8}"#]);
}

#[test]
fn a_cursor_that_is_null_is_none() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.frame(r#"{"resumed":true,"cursor":null}"#);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect())[0], r#"#3 send {"resume":8}"#);
}

#[test]
fn a_replay_may_take_longer_than_an_answer_but_not_for_ever() {
    let mut rig = after_an_outage();
    rig.connect();
    let timeout = rig.session.settings.heartbeat.timeout;
    for cursor in 9..13 {
        rig.wait(timeout - seconds(1));
        assert_eq!(deliveries(&rig.frame(&format!(r#"{{"cursor":{cursor}}}"#))), [""; 0]);
    }
    let lines = rig.frame(r#"{"resumed":true}"#);
    assert!(deliveries(&lines).iter().all(|line| line.contains("message")), "no gap: {lines:?}");
    rig.break_and_redial();
    rig.connect();
    let mut told = false;
    for cursor in 13..30 {
        rig.wait(timeout - seconds(1));
        told |= !deliveries(&rig.frame(&format!(r#"{{"cursor":{cursor}}}"#))).is_empty();
    }
    assert!(told, "who goes on and on without an answer has not confirmed it");
}

#[test]
fn no_more_is_withheld_than_the_inbox_holds() {
    let mut rig = after_an_outage();
    rig.session.settings.inbox.max_messages = 4;
    rig.session.settings.inbox.overflow = Overflow::Pause;
    rig.session.inbox.configure(rig.session.settings.inbox.clone());
    rig.connect();
    assert_eq!(deliveries(&rig.frame("1")), [""; 0]);
    assert_eq!(deliveries(&rig.frame("2")), [""; 0]);
    let lines = rig.frame("3");
    assert!(deliveries(&lines)[0].starts_with("1: gap 3..=3 disconnected"), "{lines:?}");
}

#[test]
fn another_path_of_the_server_may_be_another_stream() {
    let mut rig = after_an_outage();
    rig.open_url(1, "ws://localhost:8080/other");
    assert_eq!(sent(&rig.connect()), [""; 0], "its cursors are others");
}

#[test]
fn a_subscription_speaks_the_dialect_that_it_came_with_also_before_that_holds() {
    let mut rig = Rig::connected();
    let settings = speaking(json!({"dialect": {"preset": "task"}})).session.settings.clone();
    rig.input(Input::Configure { settings: Box::new(settings) });
    assert_eq!(sent(&subscribe(&mut rig, "t", None)), [r#"#1 send {"taskId":"t","type":"subscribe"}"#]);
}

#[test]
fn a_resume_that_nobody_confirms_bridges_nothing() {
    let mut rig = speaking(json!({"dialect": {"resume": {"cursor": "/n", "send": ["{cursor}"]}}}));
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"n":1}"#);
    rig.break_and_redial();
    let lines = rig.connect();
    assert_eq!(sent(&lines), ["#2 send [1]"]);
    assert_eq!(deliveries(&lines).len(), 1, "the gap is told at once: {lines:?}");
}

#[test]
fn the_next_daemon_goes_on_behind_what_is_on_the_disk() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.frame(r#"{"cursor":9}"#);
    rig.frame(r#"{"resumed":true}"#);
    rig.wait(seconds(1));
    // This one does not come to the disk any more.
    rig.frame(r#"{"cursor":10}"#);
    rig.crash();
    let lines = rig.open(1, "main");
    assert_eq!(deliveries(&lines).len(), 3, "two messages, and what the crash may have cost: {lines:?}");
    let lines = rig.reconnect();
    assert_eq!(sent(&lines), [r#"#1 send {"resume":9}"#]);
    assert_eq!(deliveries(&lines), [""; 0]);
    let lines = rig.frame(r#"{"resumed":true}"#);
    assert_eq!(deliveries(&lines).len(), 1, "what it was asked for has come: {lines:?}");
}

#[test]
fn what_was_not_decided_when_the_daemon_ended_is_a_gap() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.frame(r#"{"cursor":9}"#);
    rig.wait(seconds(1));
    rig.crash();
    let lines = rig.open(1, "main");
    assert!(deliveries(&lines)[0].starts_with("1: replay gap 3..=3 disconnected"), "{lines:?}");
}

#[test]
fn the_mark_of_an_outage_that_went_on_does_not_come_back_with_a_damaged_file() {
    let mut rig = after_an_outage();
    rig.connect();
    rig.wait(seconds(1));
    rig.crash();
    rig.open(1, "main");
    rig.reconnect();
    rig.wait(seconds(1));
    rig.lose(reset());
    rig.ack(1, 2);
    rig.input(Input::Damaged);
    rig.wait(seconds(1));
    assert_eq!(rig.shelf.arrivals.keys().collect::<Vec<_>>(), [&3]);
}

#[test]
fn who_forgets_a_session_does_not_go_on_in_it() {
    let mut rig = after_an_outage();
    rig.input(close(true));
    rig.open(1, "main");
    assert_eq!(sent(&rig.connect()), [""; 0]);
}

#[test]
fn in_memory_mode_the_server_is_asked_as_well() {
    let mut rig = speaking(json!({"dialect": {"preset": "jira"}}));
    let mut birth = birth();
    (birth.mode, birth.settings) = (Mode::Memory, rig.session.settings.clone());
    rig.session = Session::new(birth, rig.now);
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"cursor":7}"#);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), [r#"#2 send {"cursor":7,"type":"resume"}"#]);
    assert_eq!(deliveries(&rig.frame(r#"{"type":"resumed"}"#)).len(), 1);
}

/// One that knows messages by their ids, the last three of them.
fn remembering(settings: serde_json::Value) -> Rig {
    let mut rig = speaking(settings);
    rig.open(1, "main");
    rig.connect();
    for id in 1..=4 {
        assert_eq!(deliveries(&rig.frame(&format!(r#"{{"id":{id}}}"#))).len(), 1);
    }
    rig
}

fn three_ids() -> serde_json::Value {
    json!({"dialect": {"dedupe": {"id": "/id", "window": 3}}})
}

#[test]
fn a_message_whose_id_came_before_does_not_reach_the_extension_and_is_counted() {
    let mut rig = remembering(three_ids());
    assert_eq!(rig.frame(r#"{"id":2,"again":true}"#), [""; 0]);
    assert_eq!(rig.status()["duplicates"], 1);
    assert_eq!(rig.frame(r#"{"id":1}"#), [r#"1: message 5 {"id":1}"#], "that was too long ago");
    assert_eq!(rig.frame(r#"{"id":2}"#), [r#"1: message 6 {"id":2}"#], "and now this was too");
    assert_eq!(rig.status()["inbox"]["head"], 6, "what is left out has no number");
}

#[test]
fn what_has_no_id_passes() {
    let mut rig = remembering(three_ids());
    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(255));
    for text in [r#"{"n":1}"#, r#"{"id":null}"#, r#"{"id":[4]}"#, r#"{"id":{}}"#, r#"{"id":true}"#, &long, r#""4""#] {
        for _ in 0..2 {
            assert_eq!(deliveries(&rig.frame(text)).len(), 1, "{text}");
        }
    }
    for body in [Body::Text("4".into()), Body::Binary("4".into())] {
        assert_eq!(deliveries(&rig.frame_of(body)).len(), 1);
    }
    assert_eq!(rig.frame(r#"{"id":4}"#), [""; 0], "and nothing is forgotten for it");
}

#[test]
fn an_id_is_the_same_text_however_it_is_written_and_no_number() {
    let mut rig = remembering(three_ids());
    assert_eq!(deliveries(&rig.frame(r#"{"id":"4"}"#)).len(), 1);
    assert_eq!(rig.frame(r#"{"id":"\u0034"}"#), [""; 0]);
    assert_eq!(deliveries(&rig.frame(r#"{"id":4.0}"#)).len(), 1);
}

#[test]
fn what_a_message_says_that_came_before_is_heard_all_the_same() {
    let mut settings = three_ids();
    settings["dialect"]["ack"] = json!({"id": "/ack"});
    let mut rig = remembering(settings);
    let receipts = Some([Stage::Acknowledged].into());
    rig.send_as(1, Send { receipts, ..send("m") });
    assert_eq!(rig.frame(r#"{"id":4,"ack":"m"}"#), ["1: acknowledged m"]);
}

#[test]
fn the_beginning_of_an_outage_does_not_move_back_with_what_came_before() {
    let mut rig = speaking(json!({"dialect": {
        "dedupe": {"id": "/id"},
        "resume": {"cursor": "/cursor", "send": [ "{cursor}" ], "accepted": {"resumed": true}},
    }}));
    rig.open(1, "main");
    rig.connect();
    for cursor in 1..=3 {
        rig.frame(&format!(r#"{{"id":"i{cursor}","cursor":{cursor}}}"#));
    }
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#2 send [3]"]);
    assert_eq!(rig.frame(r#"{"id":"i2","cursor":2}"#), [""; 0]);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#3 send [3]"]);
    rig.frame(r#"{"id":"i3","cursor":3}"#);
    rig.frame(r#"{"id":"i4","cursor":4}"#);
    let lines = rig.frame(r#"{"resumed":true}"#);
    let expected = [r#"1: message 6 {"id":"i4","cursor":4}"#, r#"1: message 7 {"resumed":true}"#];
    assert_eq!(deliveries(&lines), expected, "no gap, and nothing twice");
}

#[test]
fn a_cursor_beside_a_message_that_came_before_is_not_that_of_the_next_one() {
    let mut rig = speaking(json!({"dialect": {
        "dedupe": {"id": "/id"}, "resume": {"cursor": "/cursor", "send": ["{cursor}"]},
    }}));
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"id":1,"cursor":1}"#);
    rig.frame(r#"{"id":2,"cursor":2}"#);
    let attempt = rig.attempt();
    rig.input(Input::Cursor { attempt, cursor: "1".into() });
    rig.frame(r#"{"id":1}"#);
    rig.frame(r#"{"id":3}"#);
    rig.break_and_redial();
    assert_eq!(sent(&rig.connect()), ["#2 send [2]"]);
}

#[test]
fn a_killed_daemon_takes_the_ids_along_whose_messages_it_takes_along() {
    let mut rig = remembering(three_ids());
    rig.wait(seconds(1));
    rig.frame(r#"{"id":5}"#);
    rig.crash();
    rig.open(1, "main");
    rig.reconnect();
    for (id, known) in [(2, true), (3, true), (4, true), (5, false), (5, true)] {
        let lines = rig.frame(&format!(r#"{{"id":{id}}}"#));
        assert_eq!(lines.is_empty(), known, "{id}: {lines:?}");
    }
}

#[test]
fn what_was_acknowledged_before_it_came_to_the_disk_is_known_to_the_next_daemon() {
    let mut rig = remembering(three_ids());
    rig.ack(1, 4);
    rig.wait(seconds(1));
    assert!(rig.shelf.arrivals.is_empty());
    rig.crash();
    rig.open(1, "main");
    rig.reconnect();
    assert_eq!(rig.frame(r#"{"id":4}"#), [""; 0]);
}

#[test]
fn ids_at_another_place_or_of_another_path_are_others_and_fewer_are_the_newest() {
    let change = |rig: &mut Rig, dedupe: serde_json::Value| {
        let settings = speaking(json!({"dialect": {"dedupe": dedupe}})).session.settings.clone();
        rig.input(Input::Configure { settings: Box::new(settings) });
        rig.break_and_redial();
        rig.connect();
    };
    let mut rig = remembering(three_ids());
    change(&mut rig, json!({"id": "/id", "window": 1}));
    assert_eq!(deliveries(&rig.frame(r#"{"id":3}"#)).len(), 1);
    change(&mut rig, json!({"id": "/id", "window": 9}));
    assert_eq!(rig.frame(r#"{"id":3}"#), [""; 0]);
    change(&mut rig, json!({"id": "/n"}));
    assert_eq!(deliveries(&rig.frame(r#"{"id":3,"n":3}"#)).len(), 1);
    rig.wait(seconds(1));
    assert_eq!(rig.shelf.seen.values().map(|seen| &*seen.id).collect::<Vec<_>>(), ["3"]);
    rig.open_url(1, "ws://localhost:8080/other");
    rig.break_and_redial();
    rig.connect();
    assert_eq!(deliveries(&rig.frame(r#"{"n":3}"#)).len(), 1);
}

#[test]
fn no_more_ids_lie_on_the_disk_than_are_remembered_and_none_of_a_forgotten_session() {
    let mut rig = remembering(three_ids());
    for id in 5..50 {
        rig.frame(&format!(r#"{{"id":{id}}}"#));
        if id % 7 == 0 {
            rig.wait(seconds(1));
        }
    }
    rig.wait(seconds(1));
    assert_eq!(rig.shelf.seen.keys().collect::<Vec<_>>(), [&47, &48, &49]);
    rig.input(close(true));
    assert!(rig.shelf.seen.is_empty());
    rig.open(1, "main");
    rig.connect();
    assert_eq!(deliveries(&rig.frame(r#"{"id":49}"#)).len(), 1);
}

#[test]
fn in_memory_mode_ids_are_remembered_too() {
    let mut rig = speaking(three_ids());
    let mut birth = birth();
    (birth.mode, birth.settings) = (Mode::Memory, rig.session.settings.clone());
    rig.session = Session::new(birth, rig.now);
    rig.open(1, "main");
    rig.connect();
    rig.frame(r#"{"id":1}"#);
    assert_eq!(rig.frame(r#"{"id":1}"#), [""; 0]);
}

/// A session that speaks STOMP and has been let in.
fn stomp(settings: serde_json::Value) -> Rig {
    let mut all = json!({"dialect": {"preset": "stomp"}});
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let mut rig = speaking(all);
    rig.open(1, "main");
    rig.connect();
    rig.text("CONNECTED\nversion:1.2\n\n\0");
    rig
}

impl Rig {
    /// A text frame that is no JSON.
    fn text(&mut self, text: &str) -> Vec<String> {
        self.frame_of(Body::from_text_frame(text.to_owned()))
    }
}

#[test]
fn with_stomp_nothing_is_sent_before_the_server_has_answered_connect() {
    let mut rig = speaking(json!({"dialect": {"preset": "stomp"}}));
    rig.open(1, "main");
    let lines = rig.connect();
    assert_eq!(sent(&lines), ["#1 send text:CONNECT\naccept-version:1.2,1.1\nheart-beat:0,0\nhost:/\n\n\0"]);
    assert_eq!(subscribe(&mut rig, "/topic/a:b", None), [""; 0]);
    let lines = rig.text("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0");
    assert_eq!(sent(&lines), ["#1 send text:SUBSCRIBE\ndestination:/topic/a\\cb\nid:/topic/a\\cb\n\n\0"]);
    assert!(lines.contains(&"1: message 1 text:CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0".into()), "{lines:?}");
    assert_eq!(sent(&unsubscribe(&mut rig, "/topic/a:b")), ["#1 send text:UNSUBSCRIBE\nid:/topic/a\\cb\n\n\0"]);
}

#[test]
fn the_sub_protocols_of_the_dialect_are_offered_unless_others_are_named() {
    let offered = |protocols: Option<&str>| {
        let mut rig = speaking(json!({"dialect": {"preset": "stomp"}}));
        let protocols = protocols.map(|name| vec![name.to_owned()]);
        rig.session.handle(opening(1, Open { protocols, ..open("main") }, None), rig.now);
        let actions = std::iter::from_fn(|| rig.session.poll_action());
        let connect = |action| match action {
            Action::Connect { protocols, .. } => Some(protocols),
            _ => None,
        };
        actions.filter_map(connect).next().expect("it connects")
    };
    assert_eq!(offered(None), ["v12.stomp", "v11.stomp"]);
    assert_eq!(offered(Some("mine")), ["mine"]);
}

#[test]
fn a_stomp_server_that_refuses_is_told_from_one_that_complains_later() {
    let mut rig = stomp(json!({}));
    assert_eq!(rig.text("ERROR\nmessage:no\n\nno\0"), ["1: message 2 text:ERROR\nmessage:no\n\nno\0"]);
    rig.break_and_redial();
    rig.connect();
    let lines = rig.text("ERROR\nmessage:who are you\n\n\0");
    assert!(lines.iter().any(|line| line.contains("(auth-refused)")), "{lines:?}");
}

#[test]
fn signs_of_life_of_a_stomp_server_are_not_delivered() {
    let mut rig = stomp(json!({}));
    assert_eq!(rig.text("\n"), [""; 0]);
    assert_eq!(deliveries(&rig.text("MESSAGE\nmessage-id:1\n\nhi\0")).len(), 1);
}

#[test]
fn ids_acknowledgements_and_questions_stand_in_frames_of_stomp_as_in_json() {
    let mut rig = stomp(json!({"dialect": {
        "preset": "stomp",
        "ack": {"id": "/headers/receipt-id"},
        "dedupe": {"id": "/body/id"},
        "answer": {"when": {"headers": {"kind": "ping"}}, "send": {"command": "SEND", "headers": {"kind": "pong"}, "body": "!"}},
    }}));
    let receipts = Some([Stage::Acknowledged].into());
    rig.send_as(1, Send { receipts, ..send("m") });
    assert!(rig.text("RECEIPT\nreceipt-id:m\n\n\0").contains(&"1: acknowledged m".into()));
    assert_eq!(deliveries(&rig.text("MESSAGE\nmessage-id:1\n\n{\"id\":7}\0")).len(), 1);
    assert_eq!(rig.text("MESSAGE\nmessage-id:2\n\n{\"id\":7}\0"), [""; 0]);
    let answer = ["#1 send text:SEND\nkind:pong\ncontent-length:1\n\n!\0"];
    assert_eq!(rig.text("MESSAGE\nkind:ping\n\n\0"), answer);
}

#[test]
fn a_token_in_a_stomp_frame_cannot_become_another_header() {
    let connect = json!({"command": "CONNECT", "headers": {"accept-version": "1.2", "passcode": "{token}"}});
    let mut rig = speaking(json!({"dialect": {"preset": "stomp"}, "auth": {"via": "message", "send": connect}}));
    rig.open(1, "main");
    let token =
        Input::Token { port: PortId(1), token: "a\nlogin:admin".to_owned().into(), expires_at: None, reference: None };
    rig.input(token);
    assert_eq!(sent(&rig.connect()), ["#1 send text:CONNECT\naccept-version:1.2\npasscode:a\u{fffd}login:admin\n\n\0"]);
}
