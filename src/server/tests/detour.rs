//! What takes the place of a WebSocket: server-sent events, polls and posts.

use std::cell::Cell;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use url::Url;

use super::*;
use crate::wire::{Detour, DetourKind, Presented, Reason, Secret};

/// A request as the server sees it.
struct Asked {
    head: String,
    body: Vec<u8>,
    /// How many came before it on the same connection.
    before: usize,
}

impl Asked {
    fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        value(&self.head, name)
    }
}

/// What the server answers, and whether it ends the connection then.
type Answered = (String, bool);

/// Answers requests on any number of connections.
async fn serve(listener: &TcpListener, answer: &impl AsyncFn(Asked) -> Answered) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => connections.push(serve_one(accepted.unwrap().0, answer)),
            Some(()) = connections.next() => {}
        }
    }
}

async fn serve_one(mut stream: TcpStream, answer: &impl AsyncFn(Asked) -> Answered) {
    for before in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let length = value(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let (answer, is_last) = answer(Asked { head, body, before }).await;
        if stream.write_all(answer.as_bytes()).await.is_err() || is_last {
            return;
        }
    }
}

fn answer(status: &str, body: &str) -> Answered {
    (format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()), false)
}

fn stream_of_events(events: &str) -> Answered {
    let kind = "text/event-stream; charset=utf-8";
    (format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{events}"), true)
}

/// Goes on a detour to a server that answers so. What happens is given to `report`, too.
async fn go(
    kind: DetourKind,
    change: impl FnOnce(&mut Target),
    outgoing: &Outgoing,
    mut report: impl FnMut(&Happened),
    answer: impl AsyncFn(Asked) -> Answered,
) -> (End, Vec<String>) {
    let listener = listener().await;
    let mut target = target(&listener, change);
    let at = |path: &str| target.url.join(path).unwrap();
    let (url, post) = (at("/in?after=7"), Some(at("/out")));
    let (last_event, is_behind, interval) = (Some("7".into()), true, Duration::from_millis(100));
    target.detour = Some(Detour { kind, url, last_event, is_behind, post, interval });
    let mut happened = Vec::new();
    let report = |event: Happened| {
        report(&event);
        happened.push(match event {
            Happened::Frame(Body::Json(text) | Body::Text(text)) => String::from_utf8_lossy(&text).into_owned(),
            Happened::Cursor(cursor) => format!("from {cursor}"),
            Happened::Connected { .. } => "connected".into(),
            Happened::Flushed { bytes, all } => format!("flushed {bytes} {all}"),
            Happened::Alive => return,
            other => panic!("{other:?}"),
        });
    };
    let going = async {
        tokio::select! {
            end = run(target, outgoing, report) => end,
            () = serve(&listener, &answer) => unreachable!(),
        }
    };
    let end = tokio::time::timeout(DEADLINE, going).await.unwrap();
    (end, happened)
}

fn reason_of(end: End) -> Reason {
    assert_eq!(end.close, closed_with(1006, "", false));
    end.reason.unwrap()
}

#[tokio::test]
async fn events_are_messages_and_their_ids_say_from_where_to_go_on() {
    let show = |target: &mut Target| target.credential = Some(Presented::Header(Secret::from("Bearer t".to_owned())));
    let (end, happened) = go(
        DetourKind::Events,
        show,
        &Outgoing::default(),
        |_| (),
        async |asked| {
            assert_eq!(asked.line(), "GET /in?after=7 HTTP/1.1");
            let shown = ["accept", "last-event-id", "authorization"].map(|name| asked.header(name).unwrap().to_owned());
            assert_eq!(shown, ["text/event-stream", "7", "Bearer t"]);
            assert!(asked.header("origin").unwrap().starts_with("moz-extension://"));
            let events =
                ": hello\n\ndata: {\"a\":1}\nid: e1\n\nevent: x\ndata: not JSON\ndata: at all\n\nretry: 1500\n\n";
            stream_of_events(events)
        },
    )
    .await;
    assert_eq!(happened, ["connected", r#"from "e1""#, r#"{"a":1}"#, r#"from "e1""#, "not JSON\nat all"]);
    let reason = reason_of(end);
    assert_eq!((reason.code, reason.hint.map(|hint| hint.after_ms)), ("reset", Some(1500)), "{reason:?}");
    assert!(reason.message.starts_with("http://127.0.0.1:"), "{reason:?}");
}

#[tokio::test]
async fn polls_bring_messages_and_go_on_from_the_cursor_of_the_last() {
    let outgoing = Outgoing::default();
    let (polls, at) = (Cell::new(0), std::cell::OnceCell::<String>::new());
    let take = |event: &Happened| {
        if matches!(event, Happened::Frame(body) if body.bytes() == "[2]") {
            outgoing.poll_at(Url::parse(&format!("ws://{}/in?after=a+b", at.get().unwrap())).unwrap());
        }
    };
    let (end, happened) = go(
        DetourKind::Polls,
        |_| (),
        &outgoing,
        take,
        async |asked| {
            polls.set(polls.get() + 1);
            at.get_or_init(|| asked.header("host").unwrap().to_owned());
            assert_eq!((asked.header("accept"), asked.header("last-event-id")), (Some("application/json"), None));
            let after = asked.line().to_owned();
            match polls.get() {
                1 => {
                    assert_eq!(after, "GET /in?after=7 HTTP/1.1");
                    ("HTTP/1.1 204 No Content\r\n\r\n".into(), false)
                }
                2 => {
                    assert_eq!((&*after, asked.before), ("GET /in?after=7 HTTP/1.1", 1), "the connection is kept");
                    (answer("200 OK", r#"[{"a": 12345678901234567890},"text", [2]]"#).0, true)
                }
                3 => {
                    assert_eq!(
                        (&*after, asked.before),
                        ("GET /in?after=a+b HTTP/1.1", 0),
                        "one that was closed is made anew"
                    );
                    answer("200 OK", "[]")
                }
                _ => ("HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n".into(), false),
            }
        },
    )
    .await;
    let reason = reason_of(end);
    assert_eq!((reason.code, reason.http_status), ("http-status", Some(503)), "{reason:?}");
    assert_eq!(reason.hint.map(|hint| hint.after_ms), Some(3000));
    assert_eq!(happened, ["connected", r#"{"a": 12345678901234567890}"#, r#""text""#, "[2]"]);
}

#[tokio::test]
async fn a_poll_that_the_server_holds_is_a_connection() {
    let outgoing = Outgoing::default();
    let leave = |event: &Happened| {
        if matches!(event, Happened::Connected { .. }) {
            outgoing.close(1000, "");
        }
    };
    let hold = async |_: Asked| std::future::pending().await;
    let (end, happened) = go(DetourKind::Polls, |_| (), &outgoing, leave, hold).await;
    assert_eq!((end.reason, happened), (None, vec!["connected".to_owned()]));
}

#[tokio::test]
async fn messages_are_posted_one_after_the_other_in_their_kind() {
    let outgoing = Outgoing::default();
    let say = |event: &Happened| {
        if matches!(event, Happened::Connected { .. }) {
            outgoing.send(Body::Json("[1]".into()));
            outgoing.send(Body::Text("x y".into()));
            outgoing.ping([0; PING_BYTES]);
            outgoing.send(Body::Binary(vec![0, 255].into()));
        }
    };
    let posted = RefCell::new(Vec::new());
    let (end, happened) = go(
        DetourKind::Polls,
        |_| (),
        &outgoing,
        say,
        async |asked| {
            if asked.line().starts_with("GET") {
                return answer("200 OK", "[]");
            }
            assert_eq!(asked.line(), "POST /out HTTP/1.1");
            assert_eq!(asked.before, posted.borrow().len(), "on one connection");
            posted.borrow_mut().push((asked.header("content-type").unwrap().to_owned(), asked.body.clone()));
            if posted.borrow().len() < 3 { answer("202 Accepted", "whatever") } else { answer("422 No", "") }
        },
    )
    .await;
    let posted = posted.take();
    let posted: Vec<_> = posted.iter().map(|(kind, body)| (kind.as_str(), body.as_slice())).collect();
    let expected: [(&str, &[u8]); 3] =
        [("application/json", b"[1]"), ("text/plain; charset=utf-8", b"x y"), ("application/octet-stream", &[0, 255])];
    assert_eq!(posted, expected);
    assert_eq!(happened, ["connected", "flushed 3 false", "flushed 6 false"]);
    let reason = reason_of(end);
    assert_eq!((reason.code, reason.http_status), ("post-refused", None), "{reason:?}");
    assert!(reason.message.contains("answered a message that was posted with 422"), "{reason:?}");
}

#[tokio::test]
async fn what_is_no_answer_to_the_request_is_named() {
    let html = ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi".to_owned(), true);
    let moved = ("HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/?t=hush\r\n\r\n".to_owned(), true);
    let (events, polls, long) = (DetourKind::Events, DetourKind::Polls, "x".repeat(MAX_MESSAGE));
    for (kind, answer, code, said) in [
        (events, html.clone(), "protocol", "with something else than `text/event-stream`"),
        (events, answer("204 No Content", ""), "protocol", "with something else than `text/event-stream`"),
        (events, stream_of_events(&format!("data: {long}x\n\n")), "message-too-large", "that is the limit"),
        (events, moved.clone(), "http-status", "it points to http://elsewhere.example/, which is not followed"),
        (polls, moved, "http-status", "a poll with 302 Found instead of 200; it points to"),
        (polls, html, "protocol", "with something else than a JSON array"),
        (polls, answer("200 OK", &format!("[\"{long}\"]")), "protocol", "bytes, which is the limit"),
        (polls, answer("200 OK", &format!("[{}1]", "1,".repeat(10_000))), "protocol", "at most 10000 messages"),
        (polls, answer("401 Unauthorized", ""), "http-status", "a poll with 401 Unauthorized instead of 200"),
        (polls, ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[".to_owned(), true), "reset", "broke"),
        (polls, (String::new(), true), "reset", "broke"),
    ] {
        let (end, happened) = go(kind, |_| (), &Outgoing::default(), |_| (), async |_| answer.clone()).await;
        let reason = reason_of(end);
        assert_eq!(reason.code, code, "{reason:?}");
        assert!(reason.message.contains(said), "{reason:?}");
        assert!(!reason.message.contains("hush"));
        assert!(happened.iter().all(|event| event == "connected"), "{happened:?}");
    }
}
