//! Connections to servers that do what the test says, right or wrong, byte by byte.
//!
//! Here: the two ends, and servers that do not do their part. No step waits for ever.

mod closing;
mod detour;
mod flow;
mod frames;
mod proxy;
mod upgrade;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Body, Closed, End, Found, Happened, Outgoing, Target, Timeouts, probe, run};
use crate::config::Way;
use crate::wire::{Hint, PING_BYTES};

/// The longest message that a test's server may send.
const MAX_MESSAGE: usize = 64 << 20;

const DEADLINE: Duration = Duration::from_secs(30);

/// Opcodes with the bit that says "last frame of its message".
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A target whose every step may take as long as a test waits, but what is changed.
fn target(listener: &TcpListener, change: impl FnOnce(&mut Target)) -> Target {
    let long = Duration::from_secs(60);
    let timeouts = Timeouts { dns: long, tcp: long, proxy: long, tls: long, upgrade: long, write: long, close: long };
    let url = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let mut target = Target {
        url,
        origin: "a@b".into(),
        protocols: Vec::new(),
        credential: None,
        max_message: MAX_MESSAGE,
        detour: None,
        way: Way::default(),
        proxy_variables: Arc::default(),
        timeouts,
    };
    change(&mut target);
    target
}

/// Runs a connection against what a server does with its TCP connection; gives how it ended, what happened, and what the
/// server found out. Both are waited for: a server that has done its part is to return.
async fn meet<T>(
    change: impl FnOnce(&mut Target),
    outgoing: &Outgoing,
    serve: impl AsyncFnOnce(TcpStream) -> T,
) -> (End, Vec<Happened>, T) {
    let happened = RefCell::new(Vec::new());
    let (end, found) = meet_and(change, outgoing, |event| happened.borrow_mut().push(event), serve).await;
    (end, happened.take(), found)
}

/// The same, with each event given to `report` when it happens.
async fn meet_and<T>(
    change: impl FnOnce(&mut Target),
    outgoing: &Outgoing,
    report: impl FnMut(Happened),
    serve: impl AsyncFnOnce(TcpStream) -> T,
) -> (End, T) {
    let listener = listener().await;
    let target = target(&listener, change);
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await
    };
    let started = Instant::now();
    let both = async { tokio::join!(run(target, outgoing, report), server) };
    let found = tokio::time::timeout(DEADLINE, both).await.unwrap();
    // The deadline wakes both once more, which is no excuse for one that was not woken before.
    assert!(started.elapsed() < DEADLINE);
    found
}

/// Holds a connection open until the other side ends it.
async fn hold(mut stream: impl AsyncRead + Unpin) {
    while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
}

/// The header of a request, up to its empty line.
async fn request(stream: &mut TcpStream) -> String {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        header.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(header).unwrap()
}

/// The value of a line of a header.
fn value<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name))).map(|p| p.1)
}

/// The answer that makes a request a WebSocket.
fn accepted(request: &str) -> String {
    let accept = derive_accept_key(value(request, "sec-websocket-key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

async fn upgrade(stream: &mut TcpStream) {
    let answer = accepted(&request(stream).await);
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// A frame as a server sends it: its first byte, its length, its payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ ..=125 => frame.push(length as u8),
        length @ ..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

fn close_frame(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason.as_ref()].concat())
}

/// The next frame of the client: its first byte and its payload. Nothing if it is gone.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let length = stream.read_u8().await.unwrap();
    assert!(length & 0x80 != 0, "a client masks what it sends");
    let length = match length & 0x7f {
        126 => u64::from(stream.read_u16().await.unwrap()),
        127 => stream.read_u64().await.unwrap(),
        length => u64::from(length),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.unwrap();
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((first, payload))
}

/// What came as messages.
fn bodies(happened: &[Happened]) -> Vec<Body> {
    let body = |event: &Happened| if let Happened::Frame(body) = event { Some(body.clone()) } else { None };
    happened.iter().filter_map(body).collect()
}

fn text(text: &'static str) -> Body {
    Body::from_text_frame(text)
}

/// Everything in a reason but its words, which must have these parts.
#[track_caller]
fn check(end: &End, code: &str, close_code: Option<u16>, http_status: Option<u16>, hint: Option<Hint>, parts: &[&str]) {
    let reason = end.reason.as_ref().expect("the server, or nobody, ended the connection");
    let found = (reason.code, reason.close_code, reason.http_status, reason.hint, reason.retryable);
    assert_eq!(found, (code, close_code, http_status, hint, true), "{}", reason.message);
    for part in parts {
        assert!(reason.message.contains(part), "{:?} lacks {part:?}", reason.message);
    }
}

/// The connection broke, or could not be made.
#[track_caller]
fn check_failed(end: &End, code: &str, parts: &[&str]) {
    check(end, code, None, None, None, parts);
    assert_eq!(end.close, closed_with(1006, "", false));
}

fn closed_with(code: u16, reason: &str, clean: bool) -> Closed {
    Closed { code, reason: reason.into(), clean }
}

#[tokio::test]
async fn a_server_that_never_answers_the_upgrade_is_left() {
    let change = |target: &mut Target| target.timeouts.upgrade = Duration::from_millis(50);
    let (end, happened, ()) = meet(change, &Outgoing::default(), hold).await;
    check_failed(&end, "upgrade-timeout", &["did not answer the WebSocket upgrade within 0.05 s"]);
    assert!(happened.is_empty());
}

#[tokio::test]
async fn a_server_that_stalls_in_the_middle_of_its_answer_is_left() {
    let change = |target: &mut Target| target.timeouts.upgrade = Duration::from_millis(50);
    let serve = async |mut stream: TcpStream| {
        let answer = accepted(&request(&mut stream).await);
        stream.write_all(&answer.as_bytes()[..answer.len() / 2]).await.unwrap();
        hold(stream).await;
    };
    let (end, happened, ()) = meet(change, &Outgoing::default(), serve).await;
    check_failed(&end, "upgrade-timeout", &[]);
    assert!(happened.is_empty());
}

#[tokio::test]
async fn a_server_that_never_answers_the_tls_handshake_is_left() {
    let change = |target: &mut Target| {
        target.url.set_scheme("wss").unwrap();
        target.timeouts.tls = Duration::from_millis(50);
    };
    let (end, ..) = meet(change, &Outgoing::default(), hold).await;
    check_failed(&end, "tls", &["took longer than 0.05 s"]);
}

#[tokio::test]
async fn a_server_that_takes_nothing_more_is_left() {
    let outgoing = Outgoing::default();
    // More than any kernel keeps for a connection.
    let much = Body::Binary(vec![0; 16 << 20].into());
    for _ in 0..32 {
        outgoing.send(much.clone());
    }
    let change = |target: &mut Target| target.timeouts.write = Duration::from_millis(50);
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&frame(TEXT, b"before")).await.unwrap();
        // Held and never read, until the client is gone.
        stream
    };
    let (end, happened, _stream) = meet(change, &outgoing, serve).await;
    check_failed(&end, "write-timeout", &["took nothing for 0.05 s"]);
    assert_eq!(bodies(&happened), [text("before")]);
    assert!(!happened.iter().any(|event| matches!(event, Happened::Flushed { all: true, .. })));
}

#[tokio::test]
async fn a_server_that_takes_something_now_and_then_is_waited_for() {
    const MUCH: usize = 64 << 20;
    let outgoing = Outgoing::default();
    outgoing.send(Body::Binary(vec![0; MUCH].into()));
    let write = Duration::from_secs(1);
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        let mut part = vec![0; MUCH / 64];
        for _ in 0..64 {
            // Nothing is waited for but the time that this is about: twice what a server may take nothing.
            tokio::time::sleep(write / 32).await;
            stream.read_exact(&mut part).await.unwrap();
        }
        stream.write_all(&close_frame(1000, "")).await.unwrap();
        hold(stream).await;
    };
    let (end, ..) = meet(|target| target.timeouts.write = write, &outgoing, serve).await;
    check(&end, "closed", Some(1000), None, None, &[]);
}

#[tokio::test]
async fn both_sides_may_write_much_before_they_read() {
    const MUCH: usize = 32 << 20;
    let outgoing = Outgoing::default();
    outgoing.send(Body::Binary(vec![1; MUCH].into()));
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        // Writes all before it reads anything: only a client that reads while it writes gets out of this.
        stream.write_all(&frame(BINARY, &vec![2; MUCH])).await.unwrap();
        next_frame(&mut stream).await.unwrap().1.len()
    };
    let (end, happened, read) = meet(|_| {}, &outgoing, serve).await;
    check_failed(&end, "reset", &[]);
    assert_eq!((read, bodies(&happened)[0].len()), (MUCH, MUCH));
}
