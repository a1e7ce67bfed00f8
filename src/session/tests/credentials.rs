//! What the server is shown, when another credential is wanted, and what a refusal costs.

use super::*;
use crate::settings::{Layer, Source};

const WRONG: &str = r#"{"ok":false}"#;
const RIGHT: &str = r#"{"ok":true}"#;

/// A session that port 1 has opened, whose server is shown a credential so.
fn rig(auth: serde_json::Value) -> Rig {
    let layer = Layer::from_json(&json!({ "auth": auth }).to_string(), &Limits::default()).unwrap();
    let place = Place { memory: false, loopback: true };
    let mut rig = Rig::with(|birth| birth.settings = Settings::effective([&layer], &Limits::default(), place));
    let lines = rig.open(1, "main");
    assert_eq!(said_to(1, &lines)[0], "opened connecting head 0 acked 0 pending 0");
    rig
}

fn by_message() -> Rig {
    rig(json!({
        "via": "message",
        "send": {"is": "{token}"},
        "accepted": {"ok": true},
        "refused": {"ok": false},
        "renew": "message",
    }))
}

/// The settings, with this.
fn settings_with(auth: &serde_json::Value) -> Box<Settings> {
    let layer = Layer::from_json(&json!({ "auth": auth }).to_string(), &Limits::default()).unwrap();
    Box::new(Settings::effective([&layer], &Limits::default(), Place { memory: false, loopback: true }))
}

fn token(rig: &mut Rig, text: &str) -> Vec<String> {
    expiring_token(rig, text, None)
}

fn expiring_token(rig: &mut Rig, text: &str, expires_at: Option<u64>) -> Vec<String> {
    let token = text.to_owned().into();
    rig.input(Input::Token { port: PortId(1), token, expires_at, reference: None })
}

#[test]
fn without_a_credential_nothing_is_tried_and_the_extension_is_asked() {
    let layer = Layer::from_json(r#"{"auth":{"via":"header"}}"#, &Limits::default()).unwrap();
    let place = Place { memory: false, loopback: true };
    let mut rig = Rig::with(|birth| birth.settings = Settings::effective([&layer], &Limits::default(), place));
    assert_eq!(
        rig.open(1, "main"),
        ["1: opened connecting head 0 acked 0 pending 0", "1: error (token-needed)", "1: token-needed missing"]
    );
    assert_eq!(rig.wait(seconds(3600)), [""; 0]);
    assert_eq!(token(&mut rig, "t"), ["1: reconnecting", "#1 connect /ws header Bearer t"]);
    assert_eq!(rig.connect(), ["1: connected"]);
    assert_eq!(rig.status()["authenticated"], true);
}

#[test]
fn each_way_shows_it_in_its_form() {
    for (auth, expected) in [
        (json!({"via": "header", "send": "Token {token}"}), "#1 connect /ws header Token t"),
        (json!({"via": "query"}), "#1 connect /ws token t"),
        (json!({"via": "query", "name": "key"}), "#1 connect /ws key t"),
        (json!({"via": "protocol", "send": "bearer.{token}"}), "#1 connect /ws protocol bearer.t"),
    ] {
        let mut rig = rig(auth);
        assert_eq!(token(&mut rig, "t")[1], expected);
    }
}

#[test]
fn nothing_is_sent_before_the_server_lets_us_in() {
    let mut rig = by_message();
    rig.send("queued");
    token(&mut rig, "s\"1");
    assert_eq!(rig.connect(), [r#"#1 send {"is":"s\"1"}"#], "nothing else, and it is not connected");
    rig.send("late");
    assert_eq!(
        (rig.status()["state"].as_str(), rig.status()["authenticated"].as_bool()),
        (Some("reconnecting"), Some(false))
    );
    assert_eq!(rig.frame("[]"), ["1: message 1 []"], "a welcome is a message");
    let lines = without_pings(rig.frame(RIGHT));
    assert_eq!(
        lines,
        ["1: connected", r#"1: message 2 {"ok":true}"#, "#1 send text:queued", "#1 send text:late"],
        "and then all in its order"
    );
}

#[test]
fn after_an_outage_nothing_is_given_out_before_it_is_known_who_we_are() {
    let mut rig = by_message();
    token(&mut rig, "t");
    rig.connect();
    rig.frame(RIGHT);
    rig.break_and_redial();
    rig.connect();
    assert_eq!(rig.frame("[]"), [""; 0]);
    let lines = rig.frame(RIGHT);
    let delivered = deliveries(&lines);
    assert!(delivered[0].starts_with("1: gap 2..=2 disconnected"), "{lines:?}");
    assert_eq!(delivered[1..], ["1: message 3 []", r#"1: message 4 {"ok":true}"#]);
}

#[test]
fn a_message_without_a_token_needs_none() {
    let mut rig =
        rig(json!({"via": "message", "send": {"type": "connection_init"}, "accepted": {"type": "connection_ack"}}));
    assert_eq!(rig.connect(), [r#"#1 send {"type":"connection_init"}"#]);
    assert_eq!(rig.frame(r#"{"type":"connection_ack"}"#)[0], "1: connected");
    assert_eq!(token(&mut rig, "t"), ["1: error no-auth"]);
}

#[test]
fn who_does_not_want_to_be_told_is_not_waited_for() {
    let mut rig = rig(json!({"via": "message", "send": ["{token}"]}));
    token(&mut rig, "t");
    rig.send("a");
    assert_eq!(without_pings(rig.connect()), [r#"#1 send ["t"]"#, "1: connected", "#1 send text:a"]);
}

#[test]
fn a_server_that_does_not_say_whether_it_lets_us_in_is_tried_again() {
    let mut rig = by_message();
    token(&mut rig, "t");
    rig.connect();
    let lines = rig.wait(rig.session.settings.heartbeat.timeout);
    assert_eq!(lines[..2], ["#1 disconnect 1001", "1: reconnecting (auth-timeout)"]);
    assert_eq!(deliveries(&lines), [""; 0], "there was no connection that could have been lost");
}

#[test]
fn a_refused_credential_is_renewed_once_and_then_left_in_peace() {
    type Refuse = fn(&mut Rig) -> Vec<String>;
    let by_header: Refuse = |rig| rig.lose(refused(401));
    let by_answer: Refuse = |rig| {
        rig.connect();
        rig.frame(WRONG)
    };
    let by_close: Refuse = |rig| {
        rig.connect();
        rig.lose(Reason { close_code: Some(4401), ..Reason::new("closed", "out".into()) })
    };
    for (mut rig, refuse) in
        [(rig(json!({"via": "header"})), by_header), (by_message(), by_answer), (by_message(), by_close)]
    {
        token(&mut rig, "old");
        let lines = refuse(&mut rig);
        let said: Vec<_> = said_to(1, &lines).into_iter().filter(|said| !said.starts_with("message")).collect();
        assert_eq!(said[0], "token-needed refused");
        assert!(said[1].starts_with("error"), "{said:?}");
        assert_eq!(token(&mut rig, "old"), ["1: error token-refused"]);
        assert_eq!(rig.wait(seconds(3600)), [""; 0]);
        assert!(token(&mut rig, "new")[1].starts_with("#2 connect /ws"));
        let lines = refuse(&mut rig);
        assert!(!lines.iter().any(|line| line.contains("token-needed")), "{lines:?}");
        assert_eq!(rig.wait(seconds(3600)), [""; 0]);
        assert!(
            token(&mut rig, "newer")[1].starts_with("#3 connect /ws"),
            "what nobody asked for is tried all the same"
        );
    }
}

#[test]
fn an_upgrade_that_is_refused_says_nothing_of_what_a_message_would_show() {
    let mut rig = by_message();
    token(&mut rig, "t");
    assert_eq!(rig.lose(refused(401)), ["1: error (http-status)"]);
}

#[test]
fn ten_thousand_credentials_that_are_refused_do_not_make_ten_thousand_tries() {
    let mut rig = rig(json!({"via": "header"}));
    let mut tries = 0;
    for number in 0..10_000 {
        let lines = token(&mut rig, &number.to_string());
        if lines.iter().any(|line| line.contains(" connect ")) {
            tries += 1;
            rig.lose(refused(401));
        }
    }
    assert_eq!(tries, rig.session.settings.reconnect.burst);
}

#[test]
fn once_the_server_has_let_us_in_a_later_refusal_is_a_first_one_again() {
    let mut rig = by_message();
    for text in ["a", "b", "c"] {
        token(&mut rig, text);
        rig.connect();
        rig.frame(RIGHT);
        without_pings(rig.wait(rig.session.settings.reconnect.stable));
        let lines = rig.lose(Reason { close_code: Some(4401), ..Reason::new("closed", "out".into()) });
        assert_eq!(said_to(1, &lines)[0], "token-needed refused");
    }
}

#[test]
fn a_server_that_lets_us_in_and_throws_us_out_at_once_is_left_in_peace_too() {
    let mut rig = rig(json!({"via": "header"}));
    let out = || Reason { close_code: Some(4401), ..Reason::new("closed", "out".into()) };
    token(&mut rig, "a");
    rig.connect();
    assert_eq!(said_to(1, &rig.lose(out()))[0], "token-needed refused");
    token(&mut rig, "b");
    rig.connect();
    assert_eq!(rig.lose(out()), ["1: error (closed)"]);
    let lines = rig.open(2, "main");
    assert!(!lines.iter().any(|line| line.contains("token-needed")), "nor is a newcomer asked: {lines:?}");
}

#[test]
fn a_server_that_forbids_us_before_it_has_let_us_in_means_the_credential() {
    let mut rig = by_message();
    token(&mut rig, "a");
    rig.connect();
    let lines = rig.lose(Reason { close_code: Some(4403), ..Reason::new("closed", "no".into()) });
    assert_eq!(said_to(1, &lines), ["token-needed refused", "error (auth-refused)"]);
    token(&mut rig, "b");
    rig.connect();
    rig.frame(RIGHT);
    let lines = rig.lose(Reason { close_code: Some(4403), ..Reason::new("closed", "no".into()) });
    assert_eq!(said_to(1, &lines), ["error (closed)"], "later it means something else");
}

#[test]
fn a_connection_that_was_made_without_what_the_settings_want_by_then_is_not_used() {
    let mut rig = Rig::new();
    rig.open(1, "main");
    let auth = json!({"via": "message", "send": {"is": "{token}"}, "accepted": {"ok": true}});
    rig.input(Input::Configure { settings: settings_with(&auth) });
    rig.send("queued");
    assert_eq!(rig.connect(), ["#1 disconnect 1000", "1: error (token-needed)", "1: token-needed missing"]);
    token(&mut rig, "t");
    assert_eq!(rig.connect(), [r#"#2 send {"is":"t"}"#]);
}

#[test]
fn a_credential_that_ends_while_the_connection_is_made_is_asked_for_anew() {
    let mut rig = by_message();
    expiring_token(&mut rig, "t", Some(BEGIN + 5000));
    rig.set_time(rig.now.elapsed + seconds(6));
    let lines = rig.connect();
    assert_eq!(lines, ["#1 disconnect 1000", "1: error (token-needed)", "1: token-needed expired"]);
}

#[test]
fn a_credential_for_settings_that_hold_from_the_next_connection_on_is_taken() {
    let mut rig = Rig::connected();
    rig.input(Input::Configure { settings: settings_with(&json!({"via": "header"})) });
    assert_eq!(token(&mut rig, "t"), [""; 0]);
    assert_eq!(rig.break_and_redial().last().unwrap(), "#2 connect /ws header Bearer t");
}

#[test]
fn a_credential_that_came_after_all_was_forgotten_is_shown_to_no_other_server() {
    let mut rig = rig(json!({"via": "header"}));
    rig.input(close(true));
    token(&mut rig, "t");
    let lines = rig.open_url(1, "ws://127.0.0.1:9090/ws");
    assert!(lines.contains(&"1: token-needed missing".to_owned()), "{lines:?}");
}

#[test]
fn a_file_that_wants_no_credential_any_more_ends_the_waiting_for_one() {
    let layer = Layer::from_json(r#"{"auth":{"via":"header"}}"#, &Limits::default()).unwrap();
    let place = Place { memory: false, loopback: true };
    let mut rig = Rig::with(|birth| birth.settings = Settings::effective([&layer], &Limits::default(), place));
    rig.open(1, "main");
    let settings = Box::new(Settings::effective([], &Limits::default(), place));
    assert_eq!(rig.input(Input::Configure { settings })[1], "#1 connect /ws");
}

#[test]
fn a_server_that_says_too_much_before_it_lets_us_in_is_left() {
    let mut rig = by_message();
    rig.session.settings.inbox.max_messages = 3;
    rig.session.inbox.configure(rig.session.settings.inbox.clone());
    token(&mut rig, "t");
    rig.connect();
    rig.frame("1");
    rig.frame("2");
    let lines = rig.frame("3");
    assert!(lines.contains(&"1: reconnecting (auth-timeout)".to_owned()), "{lines:?}");
}

#[test]
fn a_credential_that_ends_is_renewed_in_the_last_part_of_its_life_and_costs_no_refusal() {
    let mut rig = rig(json!({"via": "header"}));
    expiring_token(&mut rig, "short", Some(BEGIN + 100_000));
    rig.connect();
    assert_eq!(without_pings(rig.wait(seconds(79))), [""; 0]);
    assert_eq!(without_pings(rig.wait(seconds(16))), ["1: token-needed expiring"]);
    assert_eq!(token(&mut rig, "next"), [""; 0], "the connection that there is goes on");
    let lines = rig.lose(Reason { close_code: Some(4401), ..Reason::new("closed", "expired".into()) });
    assert_eq!(said_to(1, &lines), ["reconnecting (closed)"], "a newer one is at hand");
    assert_eq!(rig.next_timer()[1], "#2 connect /ws header Bearer next");
}

#[test]
fn a_credential_that_has_ended_is_not_shown() {
    let mut rig = rig(json!({"via": "header"}));
    expiring_token(&mut rig, "short", Some(BEGIN + 10_000));
    rig.connect();
    rig.wait(seconds(20));
    rig.lose(reset());
    assert_eq!(rig.next_timer(), ["1: error (token-needed)", "1: token-needed expired"]);
}

#[test]
fn a_credential_that_has_ended_by_this_machine_s_clock_is_shown_once_and_costs_no_more() {
    let mut rig = rig(json!({"via": "header"}));
    let lines = expiring_token(&mut rig, "t", Some(BEGIN - 1));
    assert_eq!(lines[1], "#1 connect /ws header Bearer t", "the clock may be wrong");
    assert_eq!(said_to(1, &rig.lose(refused(401)))[0], "token-needed refused");
    assert_eq!(expiring_token(&mut rig, "t", Some(BEGIN - 1)), ["1: error token-refused"], "and no question follows");
}

#[test]
fn who_gives_the_same_credential_again_changes_nothing() {
    let mut rig = by_message();
    token(&mut rig, "a");
    rig.connect();
    rig.frame(RIGHT);
    assert_eq!(token(&mut rig, "a"), [""; 0]);
    let lines = rig.lose(Reason { close_code: Some(4401), ..Reason::new("closed", "out".into()) });
    assert_eq!(said_to(1, &lines)[0], "token-needed refused", "it is no newer one");
}

#[test]
fn a_server_that_is_shown_it_in_a_message_takes_a_fresh_one_on_the_same_connection() {
    let mut rig = by_message();
    token(&mut rig, "a");
    rig.connect();
    rig.frame(RIGHT);
    assert_eq!(token(&mut rig, "b"), [r#"#1 send {"is":"b"}"#]);
    let lines = rig.frame(WRONG);
    assert_eq!(said_to(1, &lines)[0], "token-needed refused", "{lines:?}");
}

#[test]
fn a_credential_that_came_before_the_server_let_us_in_is_shown_then() {
    let mut rig = by_message();
    token(&mut rig, "a");
    rig.connect();
    assert_eq!(token(&mut rig, "b"), [""; 0]);
    assert_eq!(sent(&rig.frame(RIGHT)), [r#"#1 send {"is":"b"}"#]);
}

#[test]
fn a_server_that_takes_one_message_only_is_shown_a_fresh_one_on_the_next_connection() {
    let mut rig = rig(json!({"via": "message", "send": ["{token}"], "accepted": {"ok": true}}));
    token(&mut rig, "a");
    rig.connect();
    rig.frame(RIGHT);
    assert_eq!(token(&mut rig, "b"), [""; 0]);
    rig.break_and_redial();
    assert_eq!(rig.connect(), [r#"#2 send ["b"]"#]);
}

#[test]
fn a_port_that_comes_while_a_credential_is_wanted_is_asked_and_one_that_watches_is_not() {
    let mut rig = rig(json!({"via": "header"}));
    rig.detach(1);
    let lines = rig.open(2, "main");
    assert_eq!(said_to(2, &lines)[1..], ["error (token-needed)", "token-needed missing"]);
    let lines = rig.open_as(3, Open { observe: true, ..open("main") });
    assert_eq!(said_to(3, &lines)[1..], ["error (token-needed)"]);
    assert_eq!(token(&mut rig, "t"), ["1: error unknown-session"]);
}

#[test]
fn the_next_daemon_knows_no_credential_and_asks() {
    let mut rig = rig(json!({"via": "header"}));
    token(&mut rig, "t");
    rig.connect();
    rig.wait(seconds(1));
    rig.crash();
    assert_eq!(rig.next_timer(), [""; 0], "nobody is there who could be asked");
    let lines = rig.open(1, "main");
    assert!(lines.contains(&"1: token-needed missing".to_owned()), "{lines:?}");
}

/// The settings of a server that is shown a credential so, which the extension does not give.
fn fetching(auth: &serde_json::Value) -> Box<Settings> {
    let mut settings = settings_with(auth);
    settings.auth.as_mut().unwrap().source = Source::Variable("NAME".into());
    settings
}

/// A session that port 1 has opened, whose credential is fetched.
fn fetching_rig(auth: &serde_json::Value) -> Rig {
    let mut rig = Rig::with(|birth| birth.settings = *fetching(auth));
    assert_eq!(rig.open(1, "main"), ["1: opened connecting head 0 acked 0 pending 0", "1: connecting", "#1 fetch"]);
    rig
}

fn fetched(rig: &mut Rig, text: &str) -> Vec<String> {
    let attempt = rig.attempt();
    rig.input(Input::Fetched { attempt, credential: Ok(text.to_owned().into()) })
}

fn not_fetched(rig: &mut Rig, code: &'static str) -> Vec<String> {
    let attempt = rig.attempt();
    rig.input(Input::Fetched { attempt, credential: Err(Reason::new(code, "no".into())) })
}

#[test]
fn a_credential_that_the_machine_has_is_fetched_for_each_attempt_and_the_extension_is_not_asked() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    assert_eq!(rig.wait(seconds(60)), [""; 0], "whoever fetches it has a time-out");
    assert_eq!(fetched(&mut rig, "a"), ["#1 connect /ws header Bearer a"]);
    assert_eq!(rig.connect(), ["1: connected"]);
    assert_eq!(rig.break_and_redial().last().unwrap(), "#2 fetch");
    assert_eq!(fetched(&mut rig, "b"), ["#2 connect /ws header Bearer b"]);
    assert_eq!(rig.connect()[0], "1: connected");
}

#[test]
fn a_token_of_the_extension_is_not_taken_where_the_file_says_where_it_comes_from() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    assert_eq!(token(&mut rig, "mine"), ["1: error file-only"]);
    assert_eq!(fetched(&mut rig, "a"), ["#1 connect /ws header Bearer a"]);
    rig.connect();
    assert_eq!(token(&mut rig, "mine"), ["1: error file-only"]);
}

#[test]
fn a_fetched_credential_that_is_refused_is_fetched_once_more_and_the_same_one_is_not_shown_again() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    fetched(&mut rig, "old");
    assert_eq!(said_to(1, &rig.lose(refused(401))), ["reconnecting (http-status)"]);
    assert_eq!(rig.next_timer().last().unwrap(), "#2 fetch");
    assert_eq!(fetched(&mut rig, "old"), ["1: error (token-needed)"], "no second refusal");
    assert_eq!(rig.wait(seconds(3600)), [""; 0]);
    let reason = rig.status()["reason"].clone();
    assert!(reason["message"].as_str().unwrap().contains("`NAME`"), "{reason}");
    assert_eq!(rig.input(Input::Renewed).last().unwrap(), "#3 fetch");
    assert_eq!(fetched(&mut rig, "new"), ["#3 connect /ws header Bearer new"]);
    assert_eq!(rig.lose(refused(401)), ["1: error (http-status)"], "it was the second in a row");
    assert_eq!(rig.wait(seconds(3600)), [""; 0]);
    assert!(rig.status()["reason"]["message"].as_str().unwrap().contains("until a daemon has another value"));
    assert_eq!(rig.input(Input::Renewed).last().unwrap(), "#4 fetch");
    assert_eq!(fetched(&mut rig, "newer"), ["#4 connect /ws header Bearer newer"]);
    assert_eq!(rig.connect(), ["1: connected"]);
}

#[test]
fn a_credential_that_cannot_be_had_parks_or_is_tried_again_as_its_reason_says() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    assert_eq!(not_fetched(&mut rig, "token-failed"), ["1: reconnecting (token-failed)"]);
    assert_eq!(rig.next_timer().last().unwrap(), "#2 fetch");
    assert_eq!(not_fetched(&mut rig, "token-needed"), ["1: error (token-needed)"]);
    assert_eq!(rig.wait(seconds(3600)), [""; 0]);
    assert_eq!(rig.status()["reason"]["message"], "no", "which says what to do");
    let lines = rig.open(2, "main");
    assert!(!lines.iter().any(|line| line.contains("token-needed missing")), "nobody is asked: {lines:?}");
    assert_eq!(
        rig.input(Input::Configure { settings: fetching(&json!({"via": "query"})) }).last().unwrap(),
        "#3 fetch"
    );
    assert_eq!(fetched(&mut rig, "a"), ["#3 connect /ws token a"]);
}

#[test]
fn fetching_costs_of_the_budget_whoever_asks_for_it() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    not_fetched(&mut rig, "token-needed");
    let mut fetches = 1;
    for _ in 0..100 {
        let lines = rig.input(Input::Renewed);
        if lines.iter().any(|line| line.ends_with(" fetch")) {
            fetches += 1;
            not_fetched(&mut rig, "token-needed");
        }
    }
    assert_eq!(fetches, rig.session.settings.reconnect.burst);
}

#[test]
fn a_credential_that_was_fetched_by_settings_that_hold_no_more_is_shown_nobody() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    rig.input(Input::Configure { settings: settings_with(&json!({"via": "header"})) });
    assert_eq!(fetched(&mut rig, "a"), ["1: error (token-needed)", "1: token-needed missing"]);
    assert_eq!(token(&mut rig, "mine").last().unwrap(), "#2 connect /ws header Bearer mine");
    rig.connect();
    // And back: what the extension gave is not shown as if it came from there, nor the other way round.
    rig.input(Input::Configure { settings: fetching(&json!({"via": "header"})) });
    rig.lose(reset());
    assert_eq!(rig.next_timer().last().unwrap(), "#3 fetch");
    assert_eq!(fetched(&mut rig, "b"), ["#3 connect /ws header Bearer b"]);
    rig.connect();
    rig.input(Input::Configure { settings: settings_with(&json!({"via": "header"})) });
    rig.lose(reset());
    assert_eq!(rig.next_timer(), ["1: error (token-needed)", "1: token-needed missing"]);
}

#[test]
fn a_session_that_was_closed_meanwhile_shows_nobody_what_was_fetched() {
    let mut rig = fetching_rig(&json!({"via": "header"}));
    rig.input(close(false));
    assert_eq!(rig.input(Input::Fetched { attempt: 1, credential: Ok("a".to_owned().into()) }), [""; 0]);
    rig.open(1, "main");
    assert_eq!(rig.input(Input::Fetched { attempt: 1, credential: Ok("a".to_owned().into()) }), [""; 0]);
    assert_eq!(fetched(&mut rig, "b"), ["#2 connect /ws header Bearer b"]);
}

#[test]
fn a_fetched_credential_that_ends_is_fetched_anew_for_the_connection_that_takes_another_one() {
    let message = json!({"via": "message", "send": ["{token}"], "accepted": {"ok": true}, "renew": "message"});
    let mut rig = fetching_rig(&message);
    let jwt = |seconds: u64| {
        let claims = format!(r#"{{"exp":{}}}"#, BEGIN / 1000 + seconds);
        format!("e30.{}.c2ln", base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims))
    };
    assert_eq!(fetched(&mut rig, &jwt(100)), ["#1 connect /ws"]);
    rig.connect();
    rig.frame(RIGHT);
    assert_eq!(without_pings(rig.wait(seconds(79))), [""; 0]);
    assert_eq!(without_pings(rig.wait(seconds(16))), ["#1 fetch"]);
    assert_eq!(without_pings(not_fetched(&mut rig, "token-failed")), [""; 0], "this one is still good");
    assert_eq!(rig.input(Input::Renewed), ["#1 fetch"]);
    let next = jwt(1000);
    assert_eq!(fetched(&mut rig, &next), [format!(r#"#1 send ["{next}"]"#)]);
}

#[test]
fn a_fetched_credential_that_ends_while_the_connection_is_made_is_fetched_anew() {
    let mut rig = fetching_rig(&json!({"via": "message", "send": ["{token}"], "accepted": {"ok": true}}));
    let claims = format!(r#"{{"exp":{}}}"#, BEGIN / 1000 + 5);
    let claims = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims);
    fetched(&mut rig, &format!("e30.{claims}.c2ln"));
    rig.set_time(rig.now.elapsed + seconds(6));
    assert_eq!(rig.connect(), ["#1 disconnect 1000", "1: reconnecting", "#2 fetch"]);
    assert_eq!(fetched(&mut rig, "b"), ["#2 connect /ws"]);
}

#[test]
fn an_attempt_on_a_detour_and_one_beside_it_have_their_own_fetched_credential() {
    let said = json!({
        "auth": {"via": "header"},
        "fallback": {"poll_url": "http://localhost:8080/poll?after={cursor}", "after_attempts": 1},
    });
    let layer = Layer::from_json(&said.to_string(), &Limits::default()).unwrap();
    let mut settings = Settings::effective([&layer], &Limits::default(), Place { memory: false, loopback: true });
    settings.auth.as_mut().unwrap().source = Source::Variable("NAME".into());
    let mut rig = Rig::with(|birth| birth.settings = settings.clone());
    rig.open(1, "main");
    not_fetched(&mut rig, "token-failed");
    rig.next_timer();
    assert_eq!(fetched(&mut rig, "a"), ["#2 connect /ws header Bearer a"], "that says nothing of the way");
    assert_eq!(rig.break_and_redial().last().unwrap(), "#3 fetch");
    assert_eq!(fetched(&mut rig, "b"), ["#3 polls /poll"]);
    assert_eq!(rig.connect(), ["1: polling"]);
    let try_beside = |rig: &mut Rig, attempt, credential| {
        assert_eq!(rig.next_timer(), [format!("#{attempt} fetch")]);
        rig.input(Input::Fetched { attempt, credential })
    };
    let failed = Err(Reason::new("token-needed", "no".into()));
    assert_eq!(try_beside(&mut rig, 4, failed), [""; 0], "the detour goes on");
    let fresh = Ok("c".to_owned().into());
    assert_eq!(try_beside(&mut rig, 5, fresh), ["#5 connect /ws header Bearer c"]);
    let lines = rig.input(Input::Connected { attempt: 5, protocol: None });
    assert!(lines.contains(&"1: connected".to_owned()), "{lines:?}");
}
