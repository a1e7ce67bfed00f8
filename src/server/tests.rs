//! Servers that do not do their part: no step waits for ever, and both directions go on without each other.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Body, Happened, Outgoing, Reason, Target, Timeouts, run};

/// A target whose every step may take as long as a test waits, but the one that is changed.
fn target(scheme: &str, listener: &TcpListener, change: impl FnOnce(&mut Timeouts)) -> Target {
    let long = Duration::from_secs(60);
    let mut timeouts = Timeouts { dns: long, tcp: long, tls: long, upgrade: long, write: long, close: long };
    change(&mut timeouts);
    let url = format!("{scheme}://{}/", listener.local_addr().unwrap()).parse().unwrap();
    Target { url, origin: "a@b".into(), protocols: Vec::new(), max_message: 64 << 20, timeouts }
}

/// Runs a connection against what the server does with it; gives how it ended and what happened.
async fn ended(
    target: Target,
    outgoing: Rc<Outgoing>,
    listener: TcpListener,
    serve: impl AsyncFnOnce(TcpStream),
) -> (Option<Reason>, Vec<Happened>) {
    let happened = RefCell::new(Vec::new());
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await;
    };
    let client = run(target, &outgoing, |event| happened.borrow_mut().push(event));
    let mut client = std::pin::pin!(client);
    let both = async {
        tokio::select! {
            end = &mut client => return end,
            () = server => {}
        }
        client.await
    };
    let end = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    (end.reason, happened.take())
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Holds a connection open until the other side ends it.
async fn hold(mut stream: impl AsyncRead + Unpin) {
    while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
}

#[tokio::test]
async fn a_server_that_never_answers_the_upgrade_is_left() {
    let listener = listener().await;
    let target = target("ws", &listener, |timeouts| timeouts.upgrade = Duration::from_millis(50));
    let (end, happened) = ended(target, Rc::default(), listener, hold).await;
    assert_eq!((end.unwrap().code, happened.len()), ("upgrade-timeout", 0));
}

#[tokio::test]
async fn a_server_that_never_answers_the_tls_handshake_is_left() {
    let listener = listener().await;
    let target = target("wss", &listener, |timeouts| timeouts.tls = Duration::from_millis(50));
    let reason = ended(target, Rc::default(), listener, hold).await.0.unwrap();
    assert_eq!(reason.code, "tls");
    assert!(reason.message.contains("took longer than"), "{}", reason.message);
}

#[tokio::test]
async fn a_server_that_takes_nothing_more_is_left() {
    let listener = listener().await;
    let target = target("ws", &listener, |timeouts| timeouts.write = Duration::from_millis(50));
    let outgoing = Rc::<Outgoing>::default();
    // More than any kernel keeps for a connection.
    let much = Body::Binary(vec![0; 16 << 20].into());
    for _ in 0..32 {
        outgoing.send(much.clone());
    }
    let serve = async |stream| {
        let _held_and_never_read = tokio_tungstenite::accept_async(stream).await.unwrap();
        std::future::pending::<()>().await;
    };
    let reason = ended(target, outgoing, listener, serve).await.0;
    assert_eq!(reason.unwrap().code, "write-timeout");
}

#[tokio::test]
async fn a_server_that_ignores_our_close_is_left() {
    let listener = listener().await;
    let target = target("ws", &listener, |timeouts| timeouts.close = Duration::from_millis(50));
    let outgoing = Rc::<Outgoing>::default();
    let closing = Rc::clone(&outgoing);
    let serve = async move |stream| {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        closing.close(1000, "enough");
        hold(socket.get_mut()).await;
    };
    assert!(ended(target, outgoing, listener, serve).await.0.is_none());
}

#[tokio::test]
async fn a_close_before_the_connection_is_made_ends_the_attempt() {
    let listener = listener().await;
    let target = target("ws", &listener, |_| {});
    let outgoing = Rc::<Outgoing>::default();
    let closing = Rc::clone(&outgoing);
    let serve = async move |stream: TcpStream| {
        closing.close(1000, "not any more");
        hold(stream).await;
    };
    let (end, happened) = ended(target, outgoing, listener, serve).await;
    assert_eq!((end.is_none(), happened.len()), (true, 0));
}

#[tokio::test]
async fn both_sides_may_write_much_before_they_read() {
    const MUCH: usize = 32 << 20;
    let listener = listener().await;
    let target = target("ws", &listener, |_| {});
    let outgoing = Rc::<Outgoing>::default();
    outgoing.send(Body::Binary(vec![1; MUCH].into()));
    let serve = async |stream: TcpStream| {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        // Writes all before it reads anything: only a client that reads while it writes gets out of this.
        let mut frame = vec![0x82, 127];
        frame.extend_from_slice(&(MUCH as u64).to_be_bytes());
        frame.resize(frame.len() + MUCH, 2);
        socket.get_mut().write_all(&frame).await.unwrap();
        let mut read = 0;
        let mut buffer = vec![0; 1 << 16];
        while read < MUCH {
            read += socket.get_mut().read(&mut buffer).await.unwrap();
        }
    };
    let (end, happened) = ended(target, outgoing, listener, serve).await;
    assert_eq!(end.unwrap().code, "reset");
    let lengths: Vec<usize> = happened
        .iter()
        .filter_map(|event| match event {
            Happened::Frame(body) => Some(body.len()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [MUCH]);
}
