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
