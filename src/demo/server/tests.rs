//! The demo server over real sockets on loopback, as clients see it.
//!
//! Waiting is always for something that happens, with a deadline; where nothing must happen, something that comes
//! after it is awaited.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Response as Upgraded;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async, client_async_with_config};

use super::*;

/// Far more than anything here takes, and short enough to show a test that hangs.
const DEADLINE: Duration = Duration::from_secs(20);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it happens before the deadline")
}

/// A running server; ends with the test's runtime.
struct Running {
    address: SocketAddr,
    token: String,
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    fn start() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let server = DemoServer::bind_with(0, limits).unwrap();
        let (address, token, handle) = (server.address(), server.control_token().to_owned(), server.handle());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            // Kept open for as long as the test holds it.
            let _ = stopped.await;
        }));
        Self { address, token, handle, stop, task }
    }

    async fn upgrade(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(WebSocketStream<TcpStream>, Upgraded<Option<Vec<u8>>>), Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = within(TcpStream::connect(self.address)).await.map_err(Error::Io)?;
        within(client_async(request, stream)).await
    }

    /// A client that was let in, with no welcome to skip.
    async fn client(&self, query: &str) -> Client {
        let (socket, _) = self.upgrade(&format!("/ws?welcome=no&{query}"), &[]).await.unwrap();
        Client(socket)
    }

    async fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let host = ("host", self.address.to_string());
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("{}: {}\r\n", host.0, host.1);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = within(TcpStream::connect(self.address)).await.unwrap();
        let request = format!("{head}\r\n{body}");
        within(stream.write_all(request.as_bytes())).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        Answer::read(&answer)
    }

    async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, &[], "").await
    }

    async fn control(&self, what: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json"), (TOKEN_HEADER, self.token.as_str())];
        self.http("POST", &format!("/control/{what}"), &headers, body).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The status and the word for it; every refusal must have a sentence too.
    fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 15), "{body}");
        (self.status, body["error"].as_str().unwrap().to_owned())
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn say(&mut self, text: impl Into<String>) {
        within(self.0.send(Message::text(text.into()))).await.unwrap();
    }

    async fn next(&mut self) -> Option<Result<Message, Error>> {
        within(self.0.next()).await
    }

    async fn hear_text(&mut self) -> String {
        self.next().await.unwrap().unwrap().into_text().unwrap().to_string()
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    async fn ask(&mut self, text: impl Into<String>) -> Value {
        self.say(text).await;
        self.hear().await
    }

    /// The close frame that must come next.
    async fn hear_close(&mut self) -> (u16, String) {
        match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("no close frame: {other:?}"),
        }
    }

    /// Asserts that the connection ends without a closing handshake.
    async fn hear_end(&mut self) {
        let last = self.next().await;
        assert!(matches!(last, None | Some(Err(_))), "{last:?}");
    }
}

// Who may come in.

#[tokio::test]
async fn a_host_that_does_not_name_this_server_is_refused_on_every_path() {
    let server = Running::start();
    let port = server.address.port();
    for host in [format!("localhost:{port}"), format!("LOCALHOST:{port}"), format!("[::1]:{port}")] {
        assert_eq!(server.http("GET", "/", &[("host", &host)], "").await.status, 200, "{host}");
    }
    let foreign =
        [format!("evil.example:{port}"), "127.0.0.1".to_owned(), format!("127.0.0.1:{}", port ^ 1), String::new()];
    for host in &foreign {
        for path in ["/", "/ws", "/poll", "/events", "/control/received", "/nowhere"] {
            let answer = server.http("GET", path, &[("host", host)], "").await;
            assert_eq!(answer.refusal(), (403, "host-not-allowed".to_owned()), "{host} {path}");
        }
    }
    let absolute = format!("http://evil.example:{port}/");
    assert_eq!(server.get(&absolute).await.status, 403, "the target's host counts as well");
}

#[tokio::test]
async fn an_origin_is_absent_or_the_own_page_or_an_extension() {
    let server = Running::start();
    let port = server.address.port();
    let own = [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"), format!("http://[::1]:{port}")];
    let extensions =
        ["chrome-extension://abcdefghijklmnopabcdefghijklmnop", "moz-extension://2c127fa4-62c7-4e4f-90e5-472b45eecfdc"];
    for origin in own.iter().map(String::as_str).chain(extensions) {
        assert!(server.upgrade("/ws", &[("origin", origin)]).await.is_ok(), "{origin}");
    }
    let strange = [
        "null",
        "https://evil.example",
        "http://127.0.0.1:1",
        "http://localhost",
        "chrome-extension://",
        "file://",
        "",
    ];
    let secure = format!("https://127.0.0.1:{port}");
    for origin in strange.into_iter().chain([secure.as_str()]) {
        let answer = server.http("GET", "/poll", &[("origin", origin)], "").await;
        assert_eq!(answer.refusal(), (403, "origin-not-allowed".to_owned()), "{origin}");
        assert!(
            matches!(server.upgrade("/ws", &[("origin", origin)]).await, Err(Error::Http(answer)) if answer.status() == 403)
        );
    }
    let twice = server.http("GET", "/poll", &[("origin", &own[0]), ("origin", "https://evil.example")], "").await;
    assert_eq!(twice.status, 403);
}

#[tokio::test]
async fn a_post_must_declare_json_be_readable_and_not_too_large() {
    let server = Running::start();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let answer = server.http("POST", "/jira-webhook", &[("content-type", kind)], "{}").await;
        assert_eq!(answer.refusal(), (415, "json-needed".to_owned()), "{kind}");
    }
    let json = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(server.http("POST", "/jira-webhook", &json, "{}").await.status, 202);
    assert_eq!(server.http("POST", "/jira-webhook", &json, "{").await.refusal().0, 400);
    assert_eq!(server.http("POST", "/jira-webhook", &json, "[]").await.refusal().0, 400);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BODY));
    assert_eq!(server.http("POST", "/jira-webhook", &json, &large).await.refusal(), (413, "too-large".to_owned()));
    assert_eq!(server.get("/jira-webhook").await.refusal(), (405, "method-not-allowed".to_owned()));
    assert_eq!(server.get("/nowhere").await.refusal(), (404, "not-found".to_owned()));
    assert_eq!(server.get("/ws").await.refusal().1, "upgrade-needed");
    assert_eq!(server.get("/poll?cursor=x").await.refusal().0, 400);
    assert_eq!(server.get("/poll?topics=planet:mars").await.refusal().0, 400);
}

#[tokio::test]
async fn the_controls_need_the_token() {
    let server = Running::start();
    let mut client = server.client("").await;
    for token in [None, Some(""), Some("00000000000000000000000000000000")] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(token.map(|token| (TOKEN_HEADER, token)));
        let answer = server.http("POST", "/control/drop", &headers, "{}").await;
        assert_eq!(answer.refusal(), (401, "token-needed".to_owned()), "{token:?}");
        assert_eq!(server.http("GET", "/control/received", &headers, "").await.status, 401);
    }
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await, json!({ "type": "pong" }), "nobody was dropped");
    assert_eq!(server.control("drop", "{}").await.json(), json!({ "ok": true, "connections": 1 }));
    client.hear_end().await;
    assert_eq!(server.control("refuse", r#"{"for":5}"#).await.refusal().0, 400, "an unknown field");
    assert_ne!(server.token, Running::start().token);
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script_and_makes_no_markup_of_text() {
    let server = Running::start();
    let page = server.get("/").await;
    let nonce = page.head.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.body.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!page.body.contains("{nonce}"));
    for danger in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "onclick=", &server.token] {
        assert!(!page.body.contains(danger), "{danger}");
    }
    for header in ["x-content-type-options: nosniff", "cross-origin-resource-policy: same-origin"] {
        assert!(page.head.contains(header), "{header}");
    }
}

// What a WebSocket says.

#[tokio::test]
async fn a_client_is_welcomed_on_both_paths_unless_it_asks_not_to_be() {
    let server = Running::start();
    for path in ["/", "/ws"] {
        let mut client = Client(server.upgrade(path, &[]).await.unwrap().0);
        let welcome = client.hear().await;
        assert_eq!(welcome["type"], "connection");
        assert!(welcome["message"].is_string());
    }
    let mut client = server.client("").await;
    assert_eq!(client.ask(r#"{"type":"ping","id":7}"#).await, json!({ "type": "pong", "id": 7 }));
    assert_eq!(client.ask(r#"{"type":"heartbeat"}"#).await["type"], "heartbeat");
    assert_eq!(client.ask(r#"{"type":"dance"}"#).await["code"], "unknown-type");
    assert!(
        matches!(server.upgrade("/ws?welcome=maybe", &[]).await, Err(Error::Http(answer)) if answer.status() == 400)
    );
}

#[tokio::test]
async fn a_token_is_accepted_or_refused_and_can_be_required_first() {
    let server = Running::start();
    let mut client = server.client("auth=required").await;
    assert_eq!(client.ask(r#"{"type":"subscribe","channel":"updates"}"#).await["code"], "unauthenticated");
    assert_eq!(client.ask("hello").await["code"], "unauthenticated");
    assert_eq!(client.ask(r#"{"type":"ping"}"#).await["type"], "pong");
    let failed = client.ask(r#"{"type":"auth","token":"invalid"}"#).await;
    assert_eq!(failed, json!({ "type": "auth_failed", "reason": "invalid" }));
    let good = client.ask(r#"{"type":"auth","token":"secret","userId":"ann"}"#).await;
    assert_eq!(good, json!({ "type": "auth_success", "userId": "ann" }));
    let subscribed = client.ask(r#"{"type":"subscribe","channel":"updates"}"#).await;
    assert_eq!(subscribed, json!({ "type": "subscribed", "channel": "updates" }));
}

#[tokio::test]
async fn a_token_in_a_header_or_the_query_decides_on_the_upgrade() {
    let server = Running::start();
    let refused = |result| matches!(result, Err(Error::Http(answer)) if answer.status() == 401);
    assert!(refused(server.upgrade("/ws", &[("authorization", "Bearer invalid")]).await));
    assert!(refused(server.upgrade("/ws?token=expired", &[]).await));
    let (socket, _) =
        server.upgrade("/ws?welcome=no&auth=required", &[("authorization", "Bearer secret")]).await.unwrap();
    let mut client = Client(socket);
    client.say("hello").await;
    assert_eq!(client.hear_text().await, "hello", "nothing more is required");
}

#[tokio::test]
async fn a_connection_ends_when_its_token_does_and_a_fresh_one_extends_it() {
    let server = Running::start();
    let jwt = |exp: f64| {
        let payload = json!({ "exp": exp, "sub": "ann" }).to_string();
        let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(payload);
        json!({ "type": "auth", "token": format!("e30.{payload}.c2ln") }).to_string()
    };
    let now = now_ms() as f64 / 1000.0;
    let mut client = server.client("").await;
    let long = client.ask(jwt(now + 3600.0)).await;
    assert_eq!((long["type"].as_str(), long["userId"].as_str()), (Some("auth_success"), Some("ann")));
    assert_eq!(client.ask(jwt(now + 0.3)).await["type"], "auth_success");
    assert_eq!(client.hear().await, json!({ "type": "auth_failed", "reason": "expired" }));
    assert_eq!(client.hear_close().await.0, CLOSE_TOKEN_EXPIRED);
}

#[tokio::test]
async fn the_first_offered_protocol_is_chosen() {
    let server = Running::start();
    let (_, answer) = server.upgrade("/ws", &[("sec-websocket-protocol", "zeta, alpha")]).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "zeta");
}

#[tokio::test]
async fn subscribers_get_what_their_topics_get_until_they_leave() {
    let server = Running::start();
    let cases = [
        ("channel", Topic::Channel("a".into())),
        ("taskId", Topic::Task("a".into())),
        ("room", Topic::Room("a".into())),
    ];
    for (field, topic) in cases {
        let mut client = server.client("").await;
        server.handle.publish(topic.clone(), json!({ "n": 0 }));
        client.ask(json!({ "type": "subscribe", field: "a" }).to_string()).await;
        let cursor = server.handle.publish(topic.clone(), json!({ "n": 1 }));
        assert_eq!(client.hear().await, json!({ "n": 1, "cursor": cursor }), "{field}");
        client.ask(json!({ "type": "unsubscribe", field: "a" }).to_string()).await;
        server.handle.publish(topic, json!({ "n": 2 }));
        server.handle.publish(Topic::Everyone, json!({ "n": 3 }));
        assert_eq!(client.hear().await["n"], 3, "{field}: what follows the message that must not come");
    }
}

#[tokio::test]
async fn what_is_no_object_is_published_in_an_envelope() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"ping"}"#).await;
    let cursor = server.handle.publish(Topic::Everyone, "a line");
    assert_eq!(client.hear().await, json!({ "type": "message", "data": "a line", "cursor": cursor }));
}

#[tokio::test]
async fn an_echo_has_the_same_bytes() {
    let server = Running::start();
    let mut client = server.client("").await;
    for text in [
        r#"{ "type":"echo", "data" : 12345678901234567890.10, "data":2, "id":{} }"#,
        r#"{"type":"echo","data":"é\u00e9\ud83d\ude00 "}"#,
        "not JSON at all \u{0}",
        "",
        "[1, 2]",
    ] {
        client.say(text).await;
        assert_eq!(client.hear_text().await, text);
    }
    within(client.0.send(Message::binary(vec![0, 255, 1]))).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![0, 255, 1]));
}

#[tokio::test]
async fn a_ping_is_answered_after_what_came_before_it_was_taken() {
    let server = Running::start();
    let mut client = server.client("").await;
    for number in 0..100 {
        client.0.feed(Message::text(json!({ "type": "message", "n": number }).to_string())).await.unwrap();
    }
    within(client.0.send(Message::Ping(Bytes::from_static(b"mark")))).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"mark")));
    assert_eq!(server.handle.counts().texts, 100);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_echoes_is_not_read_from() {
    const MESSAGES: u64 = 64;
    let server = Running::start();
    let client = server.client("").await;
    let (mut out, mut back) = client.0.split();
    let text = "x".repeat(1024 * 1024);
    let writing = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            out.send(Message::text(text.clone())).await.unwrap();
        }
        out.send(Message::Ping(Bytes::new())).await.unwrap();
        out
    });
    // Blocked: for a while, nothing more is taken. A quicker machine only makes this surer.
    let mut taken = 0;
    while let Ok(counts) =
        tokio::time::timeout(Duration::from_millis(500), server.handle.until(|counts| counts.texts > taken)).await
    {
        taken = counts.texts;
    }
    assert!(taken < MESSAGES, "{taken} messages were taken from a client that reads nothing");
    for _ in 0..MESSAGES {
        assert_eq!(within(back.next()).await.unwrap().unwrap().len(), 1024 * 1024);
    }
    assert!(matches!(within(back.next()).await, Some(Ok(Message::Pong(_)))));
    drop(within(writing).await.unwrap());
}

#[tokio::test]
async fn a_room_relays_what_is_said_and_shows_who_is_there() {
    let server = Running::start();
    let (mut ann, mut bob) = (server.client("").await, server.client("").await);
    let joined = ann.ask(r#"{"type":"join_room","room":"r","userId":"ann"}"#).await;
    assert_eq!(joined, json!({ "type": "room_joined", "room": "r", "userId": "ann", "users": ["ann"] }));
    assert_eq!(bob.ask(r#"{"type":"chat_message","room":"r"}"#).await["code"], "not-in-room");
    let joined = bob.ask(r#"{"type":"join","room":"r","userId":"bob"}"#).await;
    assert_eq!(joined["users"], json!(["ann", "bob"]));
    let online = ann.hear().await;
    assert_eq!((online["type"].as_str(), online["userId"].as_str()), (Some("user_online"), Some("bob")));

    bob.say(r#"{"type":"typing_start","room":"r"}"#).await;
    let typing = ann.hear().await;
    assert_eq!((typing["type"].as_str(), typing["userId"].as_str()), (Some("typing_start"), Some("bob")));

    bob.say(r#"{"type":"chat_message","id":"m1","room":"r","data":{"text":1e400}}"#).await;
    let (one, two) = (bob.hear_text().await, bob.hear_text().await);
    assert_eq!(one, r#"{"type":"ack","id":"m1"}"#, "typing is not shown to who types");
    assert!(two.contains(r#""data":{"text":1e400}"#), "{two}");
    assert_eq!(ann.hear_text().await, two, "the sender sees what the others see");

    bob.say(r#"{"type":"direct_message","to":"ann","data":"psst"}"#).await;
    let direct = ann.hear().await;
    assert_eq!((direct["userId"].as_str(), direct["data"].as_str()), (Some("bob"), Some("psst")));

    within(bob.0.close(None)).await.unwrap();
    let offline = ann.hear().await;
    assert_eq!((offline["type"].as_str(), offline["userId"].as_str()), (Some("user_offline"), Some("bob")));
}

#[tokio::test]
async fn a_message_with_an_id_that_was_taken_before_is_acknowledged_and_not_passed_on() {
    let server = Running::start();
    let mut ann = server.client("").await;
    ann.ask(r#"{"type":"join_room","room":"r","userId":"ann"}"#).await;
    for (number, ack) in
        [r#"{"type":"ack","id":"m1"}"#, r#"{"type":"ack","id":"m1","duplicate":true}"#].iter().enumerate()
    {
        // Another connection each time: a message is repeated because the first one was lost.
        let mut bob = server.client("").await;
        bob.ask(r#"{"type":"join_room","room":"r","userId":"bob"}"#).await;
        assert_eq!(ann.hear().await["type"], "user_online");
        bob.say(r#"{"type":"chat_message","id":"m1","room":"r","data":1}"#).await;
        assert_eq!(bob.hear_text().await, *ack);
        if number == 0 {
            assert_eq!(ann.hear().await["id"], "m1");
        }
        within(bob.0.close(None)).await.unwrap();
        assert_eq!(ann.hear().await["type"], "user_offline", "and nothing before it");
    }
    assert_eq!(server.handle.counts().duplicates, 1);
    assert_eq!(
        ann.ask(r#"{"type":"message","id":"m1"}"#).await,
        json!({ "type": "ack", "id": "m1" }),
        "ids are per sender"
    );
}

#[tokio::test]
async fn a_task_plays_to_its_end_for_its_subscribers() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"subscribe","taskId":"t"}"#).await;
    client.ask(r#"{"type":"subscribe","channel":"c"}"#).await;
    let started = client.ask(r#"{"type":"start-task","taskId":"t","steps":2,"interval_ms":1}"#).await;
    assert_eq!(started, json!({ "type": "started", "taskId": "t", "messages": 6 }));
    let mut types = Vec::new();
    for _ in 0..6 {
        types.push(client.hear().await["type"].clone());
    }
    assert_eq!(types, ["status", "progress", "log", "progress", "log", "complete"]);
    client.ask(r#"{"type":"start-task","taskId":"slow","interval_ms":60000}"#).await;
    let again = client.ask(r#"{"type":"start-task","taskId":"slow"}"#).await;
    assert_eq!(again["code"], "not-started", "it runs already");
    client.say(r#"{"type":"start-processing","channel":"c","steps":1,"interval_ms":0,"fail":true}"#).await;
    assert_eq!(client.hear().await["messages"], 2);
    assert_eq!(client.hear().await["current_file"], "file-00001.txt");
    assert_eq!(client.hear().await["type"], "processing_error");
}

// The stream over reconnects.

#[tokio::test]
async fn a_resume_replays_in_order_what_was_missed_and_confirms() {
    let server = Running::start();
    let mut client = server.client("client=a").await;
    client.ask(r#"{"type":"subscribe","taskId":"t"}"#).await;
    let first = server.handle.publish(Topic::Task("t".into()), json!({ "n": 0 }));
    assert_eq!(client.hear().await["cursor"], first);
    server.handle.drop_connections();
    client.hear_end().await;
    for n in 1..=200 {
        server.handle.publish(Topic::Task("t".into()), json!({ "n": n }));
        server.handle.publish(Topic::Task("another".into()), json!({ "n": -n }));
    }
    let mut client = server.client("client=a").await;
    within(server.handle.until(|counts| counts.connections == 1)).await;
    // Of everybody's concern, and published after the client came back: must not overtake the replay.
    server.handle.publish(Topic::Everyone, json!({ "n": 201 }));
    client.say(json!({ "type": "resume", "cursor": first.to_string() }).to_string()).await;
    for n in 1..=201 {
        assert_eq!(client.hear().await["n"], n);
    }
    let resumed = client.hear().await;
    assert_eq!(resumed, json!({ "type": "resumed", "cursor": server.handle.cursor(), "replayed": 201 }));
    server.handle.publish(Topic::Task("t".into()), json!({ "n": 202 }));
    assert_eq!(client.hear().await["n"], 202, "subscriptions are back before they are repeated");
}

#[tokio::test]
async fn a_cursor_that_is_too_old_or_of_another_server_is_not_resumed_from() {
    let server = Running::with(Limits { history_messages: 2, ..Limits::default() });
    let before = server.handle.cursor();
    for n in 1..=4 {
        server.handle.publish(Topic::Everyone, json!({ "n": n }));
    }
    let head = server.handle.cursor();
    let mut client = server.client("").await;
    for (cursor, reason) in [(before, "too-old"), (head + 1, "unknown-cursor"), (1, "too-old")] {
        let answer = client.ask(json!({ "type": "resume", "cursor": cursor }).to_string()).await;
        let expected = json!({
            "type": "resume_failed", "reason": reason, "requested": cursor, "oldest": head - 1, "head": head,
        });
        assert_eq!(answer, expected);
    }
    client.say(json!({ "type": "resume", "cursor": head - 2 }).to_string()).await;
    assert_eq!((client.hear().await["n"].clone(), client.hear().await["n"].clone()), (json!(3), json!(4)));
    assert_eq!(client.hear().await["type"], "resumed");
    let poll = server.get(&format!("/poll?cursor={before}")).await;
    assert_eq!(poll.refusal(), (410, "too-old".to_owned()));
}

#[tokio::test]
async fn a_client_with_a_name_that_asks_for_nothing_gets_the_stream_after_a_moment() {
    let server = Running::start();
    let mut client = server.client("client=a").await;
    within(server.handle.until(|counts| counts.connections == 1)).await;
    server.handle.publish(Topic::Everyone, json!({ "n": 1 }));
    assert_eq!(client.hear().await["n"], 1);
}

#[tokio::test]
async fn a_client_that_does_not_keep_up_is_closed_and_told_why() {
    let server = Running::with(Limits { history_messages: 16, ..Limits::default() });
    let mut client = server.client("").await;
    client.ask(r#"{"type":"ping"}"#).await;
    let large = "x".repeat(256 * 1024);
    within(async {
        while server.handle.counts().too_slow == 0 {
            server.handle.publish(Topic::Everyone, large.as_str());
            tokio::task::yield_now().await;
        }
    })
    .await;
    loop {
        match client.next().await.unwrap().unwrap() {
            Message::Text(_) => {}
            Message::Close(Some(frame)) => {
                assert_eq!((u16::from(frame.code), frame.reason.starts_with("too slow")), (CLOSE_TOO_SLOW, true));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    client.hear_end().await;
    within(server.handle.until(|counts| counts.connections == 0)).await;
}

// The same stream over HTTP.

#[tokio::test]
async fn a_jira_update_reaches_sockets_polls_and_event_streams_untouched() {
    let server = Running::start();
    assert_eq!(server.get("/poll").await.status, 204);
    let mut client = server.client("").await;
    client.ask(r#"{"type":"ping"}"#).await;
    let before = server.handle.cursor();
    let update = r#"{"taskKey":"A-1", "updateType":"comment","n":12345678901234567890123}"#;
    let answer = server.http("POST", "/jira-webhook", &[("content-type", "application/json")], update).await;
    let cursor = answer.json()["cursor"].as_u64().unwrap();
    assert_eq!((answer.status, cursor), (202, before + 1));
    let expected = format!(r#"{{"type":"jira-update","data":{update},"cursor":{cursor}}}"#);
    assert_eq!(client.hear_text().await, expected);
    assert_eq!(server.get(&format!("/poll?cursor={before}")).await.body, format!("[{expected}]"));
    let mut events = Events::open(&server, &[("last-event-id", &before.to_string())]).await;
    assert_eq!(events.next().await, (Some(cursor), expected));
}

#[tokio::test]
async fn polls_and_event_streams_can_be_narrowed_and_never_show_what_is_for_one_user() {
    let server = Running::start();
    server.handle.publish(Topic::User("ann".into()), json!({ "n": 1 }));
    server.handle.publish(Topic::Task("t".into()), json!({ "n": 2 }));
    let last = server.handle.publish(Topic::Channel("c".into()), json!({ "n": 3 }));
    let numbers = |answer: Answer| {
        answer.json().as_array().unwrap().iter().map(|message| message["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(server.get("/poll").await), [2, 3]);
    assert_eq!(numbers(server.get("/poll?cursor=0&topics=channel:c").await), [3]);
    assert_eq!(numbers(server.get("/poll?topics=user:ann,task:t").await), [1, 2]);
    assert_eq!(server.get(&format!("/poll?cursor={last}")).await.status, 204);
}

#[tokio::test]
async fn an_event_stream_is_live_says_when_it_cannot_resume_and_ends_as_told() {
    let server = Running::start();
    let mut events = Events::open(&server, &[("last-event-id", "1")]).await;
    assert!(events.next().await.1.contains("resume_failed"));
    let cursor = server.handle.publish(Topic::Task("t".into()), json!({ "n": 1 }));
    assert_eq!(events.next().await, (Some(cursor), format!(r#"{{"n":1,"cursor":{cursor}}}"#)));
    assert_eq!(server.handle.counts().event_streams, 1);
    server.handle.close_connections(1000, "");
    assert!(events.rest().await.ends_with("0\r\n\r\n"), "the body ends as HTTP asks");
    let events = Events::open(&server, &[]).await;
    server.handle.drop_connections();
    assert!(!events.rest().await.ends_with("0\r\n\r\n"), "the body is cut");
    within(server.handle.until(|counts| counts.event_streams == 0)).await;
}

/// An event stream as it comes over the wire.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(server: &Running, headers: &[(&str, &str)]) -> Self {
        let mut request = format!("GET /events HTTP/1.1\r\nconnection: close\r\nhost: {}\r\n", server.address);
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = within(TcpStream::connect(server.address)).await.unwrap();
        within(stream.write_all(format!("{request}\r\n").as_bytes())).await.unwrap();
        let mut events = Self(BufReader::new(stream));
        while !events.line().await.is_empty() {}
        events
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        within(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    async fn next(&mut self) -> (Option<u64>, String) {
        let mut id = None;
        loop {
            let line = self.line().await;
            if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id, data.to_owned());
            }
        }
    }

    async fn rest(mut self) -> String {
        let mut rest = String::new();
        // A cut may also show as a reset.
        let _ = within(self.0.read_to_string(&mut rest)).await;
        rest
    }
}

// Faults.

#[tokio::test]
async fn dropped_connections_end_without_a_closing_handshake() {
    let server = Running::start();
    let (mut one, mut two) = (server.client("").await, server.client("").await);
    within(server.handle.until(|counts| counts.connections == 2)).await;
    server.handle.drop_connections();
    one.hear_end().await;
    two.hear_end().await;
    within(server.handle.until(|counts| counts.connections == 0)).await;
    assert_eq!(server.client("").await.ask(r#"{"type":"ping"}"#).await["type"], "pong", "new ones are welcome");
}

#[tokio::test]
async fn closed_connections_are_told_the_code_and_as_much_of_the_reason_as_fits() {
    let server = Running::start();
    let mut client = server.client("").await;
    server.control("close", r#"{"code":1012,"reason":"restart"}"#).await;
    assert_eq!(client.hear_close().await, (1012, "restart".to_owned()));
    let mut client = server.client("").await;
    within(server.handle.until(|counts| counts.accepted == 2)).await;
    server.handle.close_connections(4000, &"€".repeat(100));
    assert_eq!(client.hear_close().await, (4000, "€".repeat(41)));
}

#[tokio::test]
async fn a_refusing_server_closes_connections_at_once_until_the_time_is_over() {
    let server = Running::start();
    let mut there = server.client("").await;
    assert_eq!(server.control("refuse", r#"{"for_ms":3600000}"#).await.status, 200);
    assert!(matches!(server.upgrade("/ws", &[]).await, Err(Error::Io(_) | Error::Protocol(_))));
    assert_eq!(server.handle.counts().connections_refused, 1);
    assert_eq!(there.ask(r#"{"type":"ping"}"#).await["type"], "pong", "who is there stays");
    server.handle.refuse_for(Duration::ZERO);
    server.upgrade("/ws", &[]).await.unwrap();
}

#[tokio::test]
async fn a_silent_server_keeps_connections_and_neither_reads_nor_sends() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"ping"}"#).await;
    server.control("silent", r#"{"on":true}"#).await;
    client.say("first").await;
    within(client.0.send(Message::Ping(Bytes::new()))).await.unwrap();
    server.handle.publish(Topic::Everyone, json!({ "n": 1 }));
    let late = tokio::spawn({
        let request = format!("ws://{}/ws?welcome=no", server.address);
        let stream = within(TcpStream::connect(server.address)).await.unwrap();
        client_async(request, stream)
    });
    // The controls still answer, and each of these answers needs several turns of the one thread.
    for _ in 0..20 {
        let oracle = server.http("GET", "/control/received", &[(TOKEN_HEADER, &server.token)], "").await.json();
        assert_eq!((oracle["counts"]["texts"].as_u64(), oracle["counts"]["connections"].as_u64()), (Some(1), Some(1)));
    }
    assert!(!late.is_finished());
    let unheard = tokio::time::timeout(Duration::from_millis(50), client.0.next()).await;
    assert!(unheard.is_err(), "{unheard:?}");
    server.control("silent", r#"{"on":false}"#).await;
    let mut heard = [client.next().await, client.next().await, client.next().await].map(|it| it.unwrap().unwrap());
    heard.sort_by_key(Message::len);
    assert_eq!(heard[..2], [Message::Pong(Bytes::new()), Message::text("first")]);
    within(late).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_server_can_still_drop() {
    let server = Running::start();
    let mut client = server.client("").await;
    within(server.handle.until(|counts| counts.connections == 1)).await;
    server.handle.go_silent(true);
    server.handle.drop_connections();
    client.hear_end().await;
}

#[tokio::test]
async fn upgrades_are_answered_with_the_status_asked_for_and_when_to_come_back() {
    let server = Running::start();
    for (status, retry_after_ms, header) in
        [(401, None, None), (429, Some(1500), Some("2")), (503, Some(120_000), Some("120")), (302, None, None)]
    {
        let body = json!({ "status": status, "retry_after_ms": retry_after_ms }).to_string();
        assert_eq!(server.control("answer", &body).await.status, 200);
        let Err(Error::Http(answer)) = server.upgrade("/ws", &[]).await else { panic!("{status}: upgraded") };
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().get("retry-after").map(|value| value.to_str().unwrap()), header);
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401);
    }
    assert_eq!(server.get("/poll").await.status, 204, "only upgrades are answered so");
    assert_eq!(server.control("answer", r#"{"status":101}"#).await.refusal().0, 400);
    server.control("answer", r#"{"status":null}"#).await;
    server.upgrade("/ws", &[]).await.unwrap();
    assert_eq!(server.handle.counts().upgrades_refused, 4);
}

#[tokio::test]
async fn the_oracle_shows_what_was_received_in_order_and_over_connections() {
    let server = Running::start();
    let mut one = server.client("").await;
    one.ask(r#"{"type":"ping"}"#).await;
    let mut two = server.client("").await;
    within(two.0.send(Message::binary(vec![1, 2]))).await.unwrap();
    two.next().await.unwrap().unwrap();
    let received = server.handle.received(0);
    assert_eq!((received[0].number, received[0].connection, received[0].text()), (1, 1, Some(r#"{"type":"ping"}"#)));
    assert_eq!((received[1].number, received[1].connection, received[1].binary()), (2, 2, Some(&[1, 2][..])));
    let oracle = server.http("GET", "/control/received?after=1", &[(TOKEN_HEADER, &server.token)], "").await.json();
    assert_eq!(oracle["messages"][0]["binary"], "AQI=");
    assert_eq!(oracle["messages"].as_array().unwrap().len(), 1);
    let expected = (json!(1), json!(1), json!(2), json!(17));
    let counts = &oracle["counts"];
    let given = (&counts["texts"], &counts["binaries"], &counts["connections"], &counts["bytes"]);
    assert_eq!(given, (&expected.0, &expected.1, &expected.2, &expected.3));
}

#[tokio::test]
async fn a_message_can_be_published_by_hand() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"subscribe","taskId":"t"}"#).await;
    let answer = server.control("publish", r#"{"topic":"task:t","message":{"n": 1.0}}"#).await.json();
    assert_eq!(client.hear_text().await, format!(r#"{{"n": 1.0,"cursor":{}}}"#, answer["cursor"]));
    assert_eq!(server.control("publish", r#"{"topic":"t","message":{}}"#).await.refusal().0, 400);
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_how() {
    let server = Running::start();
    let not_utf8 = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    let continued = Frame::message(vec![1], OpCode::Data(Data::Continue), true);
    for (frame, code) in [(not_utf8, 1007), (continued, 1002)] {
        let mut client = server.client("").await;
        within(client.0.send(Message::Frame(frame))).await.unwrap();
        assert_eq!(client.hear_close().await.0, code);
    }
    // The length alone is enough; 64 MiB are still taken.
    let mut stream = within(TcpStream::connect(server.address)).await.unwrap();
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let request = format!("ws://{}/ws?welcome=no", server.address);
    let (mut socket, _) = within(client_async_with_config(request, &mut stream, Some(config))).await.unwrap();
    let largest = vec![7; MAX_MESSAGE];
    let (sent, heard) = {
        let (mut out, mut back) = (&mut socket).split();
        within(async { tokio::join!(out.send(Message::binary(largest)), back.next()) }).await
    };
    sent.unwrap();
    assert_eq!(heard.unwrap().unwrap().len(), MAX_MESSAGE);
    let header = [&[0x82, 0xff][..], &(MAX_MESSAGE as u64 + 1).to_be_bytes(), &[0; 4]].concat();
    within(socket.get_mut().write_all(&header)).await.unwrap();
    assert!(
        matches!(within(socket.next()).await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1009)
    );
}

// The end.

#[tokio::test]
async fn a_client_that_closes_is_answered_with_its_own_code() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"subscribe","taskId":"t"}"#).await;
    let frame = CloseFrame { code: 3001.into(), reason: "enough".into() };
    client.0.feed(Message::Close(Some(frame))).await.unwrap();
    server.handle.publish(Topic::Task("t".into()), json!({}));
    within(client.0.flush()).await.unwrap();
    while !matches!(client.next().await.unwrap().unwrap(), Message::Close(Some(frame)) if u16::from(frame.code) == 3001)
    {
    }
    client.hear_end().await;
    within(server.handle.until(|counts| counts.connections == 0)).await;
}

#[tokio::test]
async fn a_server_that_stops_closes_its_clients_and_returns() {
    let server = Running::start();
    let mut client = server.client("").await;
    let events = Events::open(&server, &[]).await;
    client.ask(r#"{"type":"start-task","taskId":"t","interval_ms":60000}"#).await;
    server.stop.send(()).unwrap();
    assert_eq!(client.hear_close().await.0, 1001);
    client.hear_end().await;
    assert!(events.rest().await.ends_with("0\r\n\r\n"));
    within(server.task).await.unwrap().unwrap();
    assert_eq!(server.handle.counts().connections, 0);
    DemoServer::bind(server.address.port()).expect("the port is free again");
}

#[tokio::test]
async fn a_server_that_is_abandoned_cuts_its_clients() {
    let server = Running::start();
    let mut client = server.client("").await;
    client.ask(r#"{"type":"ping"}"#).await;
    server.task.abort();
    client.hear_end().await;
}
