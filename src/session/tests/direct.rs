//! The plain WebSocket of one port.

use super::*;
use crate::wire::After;

/// One in direct mode, of port 1, and a driver that writes down what it says.
struct Plain {
    direct: Direct,
    now: Now,
    /// The tags of what is on its way to the port.
    unwritten: VecDeque<Tag>,
}

impl Plain {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Birth)) -> Self {
        let now = Now { elapsed: Duration::from_secs(1000), unix_ms: BEGIN };
        let mut birth = Birth { mode: Mode::Direct, ..birth() };
        change(&mut birth);
        Self { direct: Direct::new(birth, PortId(1), now), now, unwritten: VecDeque::new() }
    }

    /// One that is connected.
    fn connected() -> Self {
        let mut plain = Self::new();
        plain.open(open("main"));
        plain.connect();
        plain
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        self.direct.handle(input, self.now);
        assert_eq!(self.direct.poll_timeout(), None, "it waits for nothing but the connection");
        let mut lines = Vec::new();
        while let Some(action) = self.direct.poll_action() {
            if let Action::ToExtension { event: Event::Frame { tag, .. } | Event::Sent { tag, .. }, .. } = &action {
                assert_eq!(tag.session, 77);
                self.unwritten.push_back(*tag);
            }
            lines.extend(line(&action));
        }
        lines
    }

    fn open(&mut self, open: Open) -> Vec<String> {
        self.input(opening(1, open, None))
    }

    fn connect(&mut self) -> Vec<String> {
        self.input(Input::Connected { attempt: 1, protocol: None })
    }

    fn frame(&mut self, body: Body) -> Vec<String> {
        self.input(Input::Frame { attempt: 1, body })
    }

    fn send_as(&mut self, send: Send) -> Vec<String> {
        self.input(Input::Send { port: PortId(1), send, reference: None })
    }

    fn send(&mut self, body: Body) -> Vec<String> {
        self.send_as(Send { body, id: None, ..send("") })
    }

    /// The system has so many bytes.
    fn flushed(&mut self, bytes: u64) -> Vec<String> {
        self.input(Input::Flushed { attempt: 1, bytes, all: false })
    }

    /// The oldest thing on its way to the port is written to the browser.
    fn written(&mut self) -> Vec<String> {
        let tag = self.unwritten.pop_front().expect("something is on its way");
        self.input(Input::Written { tag })
    }

    fn close(&mut self, code: Option<u16>, reason: Option<&str>) -> Vec<String> {
        self.input(Input::Close { forget: false, code, reason: reason.map(str::to_owned) })
    }

    fn over(&mut self, code: u16, reason: &str, clean: bool) -> Vec<String> {
        self.input(Input::Over { attempt: 1, close: Closed { code, reason: reason.into(), clean } })
    }
}

fn text(text: &str) -> Body {
    Body::Text(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_port_gets_opened_and_then_the_states_of_one_attempt() {
    let mut plain = Plain::new();
    assert!(plain.direct.is_void() && !plain.direct.is_needed());
    assert_eq!(plain.open(open("main")), ["1: opened", "1: connecting", "#1 connect /ws"]);
    assert!(plain.direct.is_attached(PortId(1)) && !plain.direct.is_attached(PortId(2)));
    assert_eq!(plain.connect(), ["1: connected"]);
}

#[test]
fn the_protocols_and_the_limit_of_a_message_go_out_and_the_choice_comes_back() {
    let mut plain = Plain::with(|birth| birth.settings.inbox.max_message_bytes = 5);
    let protocols = Some(vec!["a".to_owned(), "b".to_owned()]);
    plain.direct.handle(opening(1, Open { protocols: protocols.clone(), ..open("main") }, None), plain.now);
    let connect = std::iter::from_fn(|| plain.direct.poll_action()).last();
    let Some(Action::Connect { protocols: offered, max_message, .. }) = connect else { panic!() };
    assert_eq!((Some(offered), max_message), (protocols, 5));
    plain.direct.handle(Input::Connected { attempt: 1, protocol: Some("b".into()) }, plain.now);
    let Some(Action::ToExtension { event: Event::State { state, .. }, .. }) = plain.direct.poll_action() else {
        panic!()
    };
    assert_eq!((state.state, state.protocol.as_deref()), (State::Connected, Some("b")));
}

#[test]
fn what_the_settings_of_the_open_say_counts() {
    let mut plain = Plain::new();
    let mut settings = birth().settings;
    settings.inbox.max_message_bytes = 7;
    let mut opening = opening(1, open("main"), None);
    if let Input::Open { settings: said, .. } = &mut opening {
        *said = Some(Box::new(settings));
    }
    plain.input(opening);
    assert_eq!(plain.direct.status(plain.now)["settings"]["inbox"]["max_message_bytes"], 7);
}

#[test]
fn messages_pass_in_both_directions_and_every_text_comes_as_text() {
    let mut plain = Plain::connected();
    assert_eq!(plain.frame(Body::Json("[1]".into())), ["1: message text:[1]"]);
    assert_eq!(plain.frame(text("a")), ["1: message text:a"]);
    assert_eq!(plain.frame(large(1000)), ["1: message binary:1000 bytes"]);
    assert_eq!(plain.send(text("b")), ["#1 send text:b"]);
    assert_eq!(plain.send(Body::Json("{}".into())), ["#1 send {}"]);
}

#[test]
fn a_message_before_the_connection_or_after_its_end_is_an_error() {
    let mut plain = Plain::new();
    plain.open(open("main"));
    assert_eq!(plain.send(text("a")), ["1: error not-connected"]);
    plain.connect();
    plain.close(None, None);
    assert_eq!(plain.send(text("a")), ["1: error not-connected"]);
    plain.over(1005, "", true);
    assert_eq!(plain.direct.status(plain.now)["messages_sent"], 0);
}

#[test]
fn what_only_a_session_has_that_keeps_something_is_refused() {
    let (port, reference) = (PortId(1), || Some("r".to_owned()));
    let payload = || Some(text("p"));
    let mut plain = Plain::connected();
    for input in [
        Input::Ack { port, seq: 1, epoch: None, reference: reference() },
        Input::Subscribe { port, key: "k".into(), payload: payload(), reference: reference() },
        Input::Unsubscribe { port, key: "k".into(), payload: payload(), reference: reference() },
        Input::Reconnect { port, reference: reference() },
        Input::Send { port, send: send("with an id"), reference: reference() },
        Input::Send { port, send: Send { id: None, ttl_ms: Some(1), ..send("") }, reference: reference() },
        Input::Send {
            port,
            send: Send { id: None, receipts: Some(vec![Stage::Received]), ..send("") },
            reference: reference(),
        },
    ] {
        plain.direct.handle(input, plain.now);
        let Some(Action::ToExtension { event: Event::Error(problem), .. }) = plain.direct.poll_action() else {
            panic!()
        };
        assert_eq!(
            (problem.code, problem.reference, problem.session),
            (Code::Unsupported, reference(), Some("s".into()))
        );
        assert!(plain.direct.poll_action().is_none());
    }
    for refused in [
        Open { observe: true, ..open("main") },
        Open { after: Some(After { epoch: "e".into(), seq: 1 }), ..open("main") },
        Open { connect: false, ..open("main") },
    ] {
        let mut plain = Plain::new();
        assert!(plain.direct.admits(PortId(1), &open("main"), None) && !plain.direct.admits(PortId(1), &refused, None));
        assert_eq!(plain.open(refused), ["1: error unsupported"]);
        assert!(plain.direct.is_void());
    }
}

#[test]
fn what_a_plain_websocket_does_not_look_at_changes_nothing() {
    let mut plain = Plain::connected();
    let settings = Box::new(birth().settings);
    for input in [
        Input::Woke,
        Input::NetworkChanged,
        Input::Alive { attempt: 1 },
        Input::Pong { attempt: 1, payload: [0; PING_BYTES] },
        Input::Configure { settings },
    ] {
        assert_eq!(plain.input(input), [""; 0]);
    }
}

#[test]
fn sent_tells_what_the_system_has_once_at_a_time() {
    let mut plain = Plain::connected();
    for _ in 0..4 {
        plain.send(text("12345"));
    }
    assert_eq!(plain.flushed(0), [""; 0], "there is nothing to tell");
    assert_eq!(plain.flushed(5), ["1: sent 5"]);
    // The browser does not have that one yet: it would only read an old count first.
    assert_eq!((plain.flushed(10), plain.flushed(15)), (vec![], vec![]));
    assert_eq!(plain.written(), ["1: sent 15"]);
    assert_eq!(plain.written(), [""; 0], "it is told already");
    assert_eq!(plain.flushed(15), [""; 0]);
    assert_eq!(plain.flushed(20), ["1: sent 20"]);
}

#[test]
fn sent_goes_on_while_the_connection_is_closed() {
    let mut plain = Plain::connected();
    plain.send(text("12345"));
    assert_eq!(plain.close(Some(1000), None), ["1: disconnected", "#1 finish 1000"]);
    assert_eq!(plain.flushed(5), ["1: sent 5"]);
    assert_eq!(plain.over(1000, "", true), ["1: closed 1000 clean"]);
}

#[test]
fn a_full_pipe_to_the_extension_stops_reading_the_server() {
    let mut plain = Plain::connected();
    let half = || large(WINDOW.bytes as usize / 2);
    assert_eq!(plain.frame(half()).len(), 1);
    assert_eq!(plain.frame(half())[1..], ["#1 pause"]);
    // What was read before it stopped is not lost.
    assert_eq!(plain.frame(text("a")), ["1: message text:a"]);
    assert_eq!(plain.written(), ["#1 resume"]);
    assert_eq!((plain.written(), plain.written()), (vec![], vec![]));
    assert_eq!(plain.direct.status(plain.now)["inbox"]["bytes"], 0);
}

#[test]
fn many_empty_messages_fill_the_pipe_too() {
    let mut plain = Plain::connected();
    let most = WINDOW.bytes / 100;
    assert!((0..most).any(|_| plain.frame(text("")).len() == 2), "not stopped after {most}");
}

#[test]
fn a_server_that_takes_too_little_is_left_as_a_browser_would() {
    let mut plain = Plain::with(|birth| birth.settings.queue.max_bytes = 1000);
    plain.open(open("main"));
    plain.connect();
    assert_eq!(plain.send(large(800)), ["#1 send binary:800 bytes"]);
    plain.flushed(800);
    assert_eq!(plain.send(large(800)), ["#1 send binary:800 bytes"], "the first waits no more");
    assert_eq!(
        plain.send(text(&"a".repeat(100))),
        ["1: error queue-full", "#1 disconnect 1001", "1: disconnected"],
        "each message takes room besides its content"
    );
    assert_eq!(plain.over(1006, "", false), ["1: closed 1006 not clean"]);
}

#[test]
fn close_sends_what_a_browser_would_send() {
    for (code, reason, sent) in [
        (None, None, "#1 finish 1005"),
        (None, Some(""), "#1 finish 1005"),
        (None, Some("done"), "#1 finish 1000 done"),
        (Some(1000), None, "#1 finish 1000"),
        (Some(4999), Some("why"), "#1 finish 4999 why"),
    ] {
        let mut plain = Plain::connected();
        assert_eq!(plain.close(code, reason), ["1: disconnected", sent]);
        assert_eq!(plain.close(Some(1000), None), [""; 0], "once is enough");
        assert!(plain.direct.is_needed());
        assert_eq!(plain.over(code.unwrap_or(1005), "", true).len(), 1);
        assert!(plain.direct.is_void() && !plain.direct.is_needed() && !plain.direct.is_attached(PortId(1)));
    }
}

#[test]
fn a_close_before_the_connection_is_made_gives_it_up() {
    let mut plain = Plain::new();
    plain.open(open("main"));
    assert_eq!(plain.close(None, None), ["1: disconnected", "#1 finish 1005"]);
    assert_eq!(plain.connect(), [""; 0], "too late");
    assert_eq!(plain.over(1006, "", false), ["1: closed 1006 not clean"]);
}

#[test]
fn the_end_of_the_connection_is_told_with_its_reason_and_as_a_browser_tells_it() {
    let mut plain = Plain::connected();
    let reason = Reason { close_code: Some(4000), ..Reason::new("closed", "it closed".into()) };
    assert_eq!(plain.input(Input::Lost { attempt: 1, reason }), ["1: disconnected (closed)"]);
    assert_eq!(plain.send(text("a")), ["1: error not-connected"]);
    assert_eq!(plain.close(None, None), [""; 0]);
    assert_eq!(plain.over(4000, "bye", true), ["1: closed 4000 clean bye"]);
}

#[test]
fn a_connection_that_cannot_be_made_is_not_tried_again() {
    let mut plain = Plain::new();
    plain.open(open("main"));
    plain.direct.handle(Input::Lost { attempt: 1, reason: refused(503) }, plain.now);
    let Some(Action::ToExtension { event: Event::State { state, .. }, .. }) = plain.direct.poll_action() else {
        panic!()
    };
    let reason = state.reason.unwrap();
    assert_eq!((state.state, reason.http_status, reason.retryable), (State::Disconnected, Some(503), false));
    assert_eq!(plain.over(1006, "", false), ["1: closed 1006 not clean"]);
}

#[test]
fn a_port_that_goes_away_or_detaches_closes_with_1001_behind_what_it_sent() {
    let mut plain = Plain::connected();
    plain.send(text("a"));
    assert_eq!(plain.input(Input::Detach { port: PortId(1) }), ["1: disconnected", "#1 finish 1001"]);
    assert!(plain.direct.is_needed(), "until the server knows");
    assert_eq!(plain.input(Input::Detach { port: PortId(1) }), [""; 0]);
    assert_eq!(plain.over(1001, "", true), ["1: closed 1001 clean"]);
}

#[test]
fn the_status_shows_the_figures_and_no_query() {
    let mut plain = Plain::with(|birth| birth.url.set_query(Some("token=secret")));
    plain.open(open("main"));
    assert_eq!(plain.direct.status(plain.now)["health"], 40);
    plain.connect();
    plain.frame(text("abc"));
    plain.send(text("12345"));
    plain.send(text("678"));
    plain.flushed(5);
    let status = plain.direct.status(plain.now);
    for (field, expected) in [
        ("session", json!("s")),
        ("mode", json!("direct")),
        ("url", json!("ws://localhost:8080/ws")),
        ("state", json!("connected")),
        ("connected_at", json!(BEGIN)),
        ("messages_received", json!(1)),
        ("bytes_received", json!(3)),
        ("messages_sent", json!(2)),
        ("bytes_sent", json!(5)),
        ("outbox", json!({"messages": 1, "bytes": 3})),
        ("health", json!(100)),
    ] {
        assert_eq!(status[field], expected, "{field}");
    }
    assert!(!status.to_string().contains("secret"));
}
