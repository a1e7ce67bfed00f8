//! Other ways to the server while there is no WebSocket.

use super::*;

const SSE: &str = "http://localhost:8080/events?after={cursor}";
const POLL: &str = "http://localhost:8080/poll?after={cursor}";
const POST: &str = "http://localhost:8080/post";

/// A session that port 1 has opened, with these ways, after two attempts.
fn rig(mut fallback: serde_json::Value) -> Rig {
    fallback["after_attempts"] = 2.into();
    let mut resume = json!({"cursor": "/cursor", "send": {"resume": "{cursor}"}, "accepted": {"resumed": true}});
    resume["refused"] = json!({"resumed": false});
    let mut rig = speaking(json!({ "fallback": fallback, "dialect": { "resume": resume } }));
    rig.open(1, "main");
    rig
}

/// The same when the attempts have failed, and the next one has begun.
fn turned_down(fallback: serde_json::Value) -> (Rig, Vec<String>) {
    let mut rig = rig(fallback);
    rig.break_and_redial();
    let lines = rig.break_and_redial();
    (rig, lines)
}

/// On a detour that takes messages, when it is there.
fn on_a_detour() -> Rig {
    let (mut rig, _) = turned_down(json!({"sse_url": SSE, "post_url": POST}));
    rig.connect();
    rig
}

/// How long until the session wants to be woken.
fn until_due(rig: &Rig) -> Duration {
    rig.due().map(|(at, _)| at - rig.now.elapsed).unwrap()
}

#[test]
fn after_some_attempts_other_ways_are_tried_in_turn_with_the_websocket() {
    let (mut rig, lines) = turned_down(json!({"sse_url": SSE, "poll_url": POLL}));
    let mut tried = vec![lines.last().cloned().unwrap()];
    tried.extend((0..4).map(|_| rig.break_and_redial().pop().unwrap()));
    assert_eq!(tried, ["#3 events /events", "#4 polls /poll", "#5 connect /ws", "#6 events /events", "#7 polls /poll"]);
}

#[test]
fn without_a_fallback_nothing_but_the_websocket_is_tried() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    let tried: Vec<_> = (0..6).map(|_| rig.break_and_redial().pop().unwrap()).collect();
    assert!(tried.iter().all(|line| line.ends_with("connect /ws")), "{tried:?}");
}

#[test]
fn a_websocket_on_which_nothing_is_ever_heard_is_as_good_as_none() {
    let mut rig = rig(json!({"poll_url": POLL}));
    rig.connect();
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.break_and_redial().pop().unwrap(), "#3 polls /poll");
    let mut rig = self::rig(json!({"poll_url": POLL}));
    for _ in 0..5 {
        rig.connect();
        rig.frame("[]");
        let lines = rig.break_and_redial();
        assert!(lines.last().unwrap().ends_with("connect /ws"), "{lines:?}");
    }
}

#[test]
fn a_network_that_forbids_websockets_does_not_end_the_search_for_other_ways() {
    let mut rig = rig(json!({"poll_url": POLL}));
    for _ in 0..2 {
        rig.lose(refused(403));
        rig.next_timer();
    }
    assert_eq!(rig.connect(), ["1: polling"]);
    let mut rig = Rig::new();
    rig.open(1, "main");
    assert_eq!(rig.lose(refused(403)), ["1: error (http-status)"], "where there are none it does");
}

#[test]
fn messages_flow_both_ways_on_a_detour_in_the_order_and_the_numbers_of_the_stream() {
    let (mut rig, _) = turned_down(json!({"sse_url": SSE, "post_url": POST}));
    rig.send("a");
    assert_eq!(rig.connect(), ["1: polling", "#3 send text:a", "1: received a"], "what is posted is there");
    assert_eq!(rig.frame(r#"{"cursor":1}"#), [r#"1: message 1 {"cursor":1}"#]);
    assert_eq!(rig.send("b"), ["#3 send text:b", "1: received b"]);
    assert_eq!(rig.status()["state"], "polling");
    assert_eq!(rig.wait(seconds(100)), [""; 0], "nobody is pinged");
}

#[test]
fn without_an_address_to_post_to_messages_wait_for_the_websocket() {
    let (mut rig, _) = turned_down(json!({"poll_url": POLL}));
    rig.connect();
    assert_eq!(rig.send("a"), ["1: stored a"]);
    let payload = Some(Body::Json("[1]".into()));
    assert_eq!(rig.input(Input::Subscribe { port: PortId(1), key: "k".into(), payload, reference: None }), [""; 0]);
    let lines = rig.next_timer();
    assert_eq!(lines, ["#4 connect /ws"], "the WebSocket is tried beside it");
    let lines = rig.input(Input::Connected { attempt: 4, protocol: None });
    assert_eq!(sent(&lines), ["#4 send [1]", "#4 send text:a"]);
}

#[test]
fn the_websocket_is_tried_again_beside_the_detour_and_taken_back() {
    let mut rig = on_a_detour();
    rig.frame(r#"{"cursor":7}"#);
    let max = rig.session.settings.reconnect.max;
    let wait = until_due(&rig);
    assert!((max / 2..=max).contains(&wait), "{wait:?}");
    assert_eq!(rig.next_timer(), ["#4 connect /ws"]);
    assert_eq!(rig.frame(r#"{"cursor":8}"#).last().unwrap(), r#"1: message 2 {"cursor":8}"#, "which goes on");
    assert_eq!(rig.input(Input::Lost { attempt: 4, reason: reset() }), [""; 0], "and hears nothing of a failure");
    let wait = until_due(&rig);
    assert!((max / 2..=max).contains(&wait), "{wait:?}");
    assert_eq!(rig.next_timer(), ["#5 connect /ws"]);
    let lines = rig.input(Input::Connected { attempt: 5, protocol: None });
    assert_eq!(without_pings(lines), ["#3 disconnect 1000", "1: connected", r#"#5 send {"resume":8}"#]);
    assert_eq!(
        rig.frame(r#"{"resumed":true}"#),
        [r#"1: message 4 {"resumed":true}"#],
        "nothing is missing, and the server says so"
    );
}

#[test]
fn where_the_server_does_not_say_that_it_goes_on_a_change_of_ways_is_a_gap() {
    let mut rig = on_a_detour();
    rig.frame("[]");
    rig.next_timer();
    let lines = rig.input(Input::Connected { attempt: 4, protocol: None });
    assert!(deliveries(&lines)[0].starts_with("1: gap 2..=2 disconnected"), "{lines:?}");
    rig.break_and_redial();
    let lines = rig.break_and_redial();
    assert_eq!(lines.last().unwrap(), "#6 events /events", "it was never heard, so the count goes on");
}

#[test]
fn a_detour_that_was_lost_is_gone_again_from_the_last_cursor() {
    let mut rig = on_a_detour();
    rig.frame(r#"{"cursor":"a b"}"#);
    let lines = rig.break_and_redial();
    assert_eq!(lines.last().unwrap(), "#4 events /events?after=a+b");
    assert_eq!(rig.connect(), ["1: polling"], "nothing is said of the outage, because the server was asked");
    assert_eq!(rig.frame(r#"{"resumed":true}"#), [r#"1: message 3 {"resumed":true}"#]);
}

#[test]
fn the_id_of_an_event_is_a_cursor_unless_the_message_has_one_itself() {
    let mut rig = on_a_detour();
    for (id, text, expected) in [
        ("e1", "[]", "e1"),
        ("e2", r#"{"cursor":2}"#, "2"),
        (&"x".repeat(400), "[]", "2"), // too long to be kept
    ] {
        let attempt = rig.attempt();
        rig.input(Input::Cursor { attempt, cursor: format!("\"{id}\"").into() });
        rig.frame(text);
        let lines = rig.break_and_redial();
        assert_eq!(lines.last().unwrap(), &format!("#{} events /events?after={expected}", attempt + 1));
        rig.connect();
    }
}

#[test]
fn a_poll_goes_on_behind_the_last_cursor_if_its_address_has_a_place_for_it() {
    let (mut rig, _) = turned_down(json!({"poll_url": POLL}));
    rig.connect();
    assert_eq!(rig.frame(r#"{"cursor":"a"}"#), ["#3 poll /poll?after=a", r#"1: message 1 {"cursor":"a"}"#]);
    let (mut rig, _) = turned_down(json!({"poll_url": "http://localhost/poll?x="}));
    rig.connect();
    assert_eq!(rig.frame(r#"{"cursor":"a"}"#), [r#"1: message 1 {"cursor":"a"}"#]);
}

#[test]
fn whoever_closes_the_session_ends_the_attempt_beside_the_detour_too() {
    let mut rig = on_a_detour();
    rig.next_timer();
    assert_eq!(rig.input(close(false)), ["#3 disconnect 1000", "#4 disconnect 1000", "1: disconnected"]);
    let mut rig = on_a_detour();
    rig.next_timer();
    let lines = rig.lose(reset());
    assert_eq!(lines[0], "#4 disconnect 1000");
    assert_eq!(rig.input(Input::Connected { attempt: 4, protocol: None }), [""; 0], "it comes too late");
}

#[test]
fn a_message_is_posted_when_the_one_before_it_is_there() {
    let (mut rig, _) = turned_down(json!({"sse_url": SSE, "post_url": POST}));
    rig.send("a");
    rig.send("b");
    rig.socket = false;
    assert_eq!(rig.connect(), ["1: polling", "#3 send text:a"]);
    assert_eq!(rig.input(flushed(3)), ["#3 send text:b", "1: received a"]);
    rig.lose(reset());
    rig.next_timer();
    assert_eq!(sent(&rig.connect()), ["#4 send text:b"], "what is there is not posted again");
}

#[test]
fn only_what_the_server_answers_to_a_message_is_held_against_it() {
    let (mut rig, _) = turned_down(json!({"sse_url": SSE, "post_url": POST}));
    rig.send("a");
    rig.socket = false;
    let mut lose = |reason: fn() -> Reason| {
        (0..3)
            .flat_map(|_| {
                while !rig.session.takes_messages() {
                    // The WebSocket has its turn in between.
                    rig.connect();
                    if rig.status()["state"] == "connected" {
                        rig.break_and_redial();
                    }
                }
                let mut lines = rig.frame("[]");
                lines.extend(rig.lose(reason()));
                lines.extend(rig.next_timer());
                lines
            })
            .filter(|line| line.starts_with("1: refused"))
            .collect::<Vec<_>>()
    };
    assert_eq!(lose(reset), [""; 0]);
    assert_eq!(lose(|| Reason::new("post-refused", "422".into())), ["1: refused a (ends-connections)"]);
}

#[test]
fn however_often_a_detour_is_lost_the_websocket_is_tried_at_its_time() {
    let mut rig = on_a_detour();
    let due = rig.now.elapsed + until_due(&rig);
    let tried = std::iter::from_fn(|| {
        rig.frame("[]");
        let line = rig.break_and_redial().pop();
        rig.connect();
        line.filter(|line| !line.ends_with("connect /ws"))
    });
    assert!(tried.count() > 3);
    assert!(rig.now.elapsed >= due && rig.now.elapsed < due + rig.session.settings.reconnect.max * 2);
}

#[test]
fn a_detour_on_which_nothing_comes_is_no_better_than_the_next_way() {
    let mut rig = on_a_detour();
    assert_eq!(rig.break_and_redial().pop().unwrap(), "#4 connect /ws");
}

#[test]
fn another_network_may_let_websockets_through() {
    let mut rig = on_a_detour();
    rig.input(Input::NetworkChanged);
    assert_eq!(rig.next_timer().pop().unwrap(), "#4 connect /ws");
}

#[test]
fn what_only_the_websocket_was_to_show_is_not_refused_on_the_detour() {
    let mut rig = speaking(json!({"fallback": {"sse_url": SSE, "after_attempts": 1}, "auth": {"via": "header"}}));
    rig.open(1, "main");
    let token = |rig: &mut Rig, text: &str| {
        let token = text.to_owned().into();
        rig.input(Input::Token { port: PortId(1), token, expires_at: None, reference: None })
    };
    token(&mut rig, "old");
    rig.break_and_redial();
    rig.connect();
    rig.frame("[]");
    token(&mut rig, "new");
    assert_eq!(rig.next_timer(), ["#3 connect /ws header Bearer new"]);
    rig.lose(refused(401));
    assert_eq!(rig.next_timer().pop().unwrap(), "#4 events /events", "with the new one");
    assert_eq!(token(&mut rig, "new"), [""; 0], "which nobody has refused");
}

#[test]
fn what_a_server_answers_that_was_asked_for_what_comes_behind_the_cursor_is_that() {
    let lost = || {
        let mut rig = on_a_detour();
        rig.frame(r#"{"cursor":1}"#);
        rig.break_and_redial();
        assert_eq!(rig.connect(), ["1: polling"]);
        rig
    };
    let mut rig = lost();
    assert_eq!(rig.frame(r#"{"cursor":2}"#), [r#"1: message 3 {"cursor":2}"#], "nothing is missing before it");
    let mut rig = lost();
    assert_eq!(rig.wait(seconds(20)), [""; 0], "and nothing if nothing comes");
    assert_eq!(rig.frame("[]"), ["1: message 3 []"]);
    let mut rig = lost();
    let lines = rig.frame(r#"{"resumed":false}"#);
    assert!(deliveries(&lines)[0].starts_with("1: gap 2..=2 disconnected"), "unless it says so: {lines:?}");
    let (mut rig, _) = turned_down(json!({"sse_url": "http://localhost/events", "post_url": POST}));
    rig.connect();
    rig.frame(r#"{"cursor":1}"#);
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.frame(r#"{"cursor":2}"#), [""; 0], "many servers do not know `Last-Event-ID`");
}

#[test]
fn a_server_that_was_not_asked_from_where_to_go_on_cannot_confirm_it() {
    let (mut rig, _) = turned_down(json!({"poll_url": "http://localhost/poll"}));
    rig.connect();
    rig.frame(r#"{"cursor":1}"#);
    rig.break_and_redial();
    let lines = rig.connect();
    assert!(deliveries(&lines)[0].starts_with("1: gap 2..=2 disconnected"), "{lines:?}");
}

#[test]
fn a_sleep_or_another_network_ends_a_detour_of_which_nobody_knows_whether_it_lives() {
    let mut rig = on_a_detour();
    assert_eq!(rig.input(Input::Woke)[0], "#3 disconnect 1001");
}

#[test]
fn the_budget_of_attempts_holds_beside_a_detour_too() {
    let mut rig = speaking(json!({
        "fallback": {"sse_url": SSE, "after_attempts": 1},
        "reconnect": {"max_ms": 10_000, "burst": 1, "refill_ms": 3_600_000},
    }));
    rig.open(1, "main");
    rig.break_and_redial();
    rig.connect();
    assert_eq!(until_due(&rig), seconds(3600));
}
