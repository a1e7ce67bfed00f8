//! Who waits for whom: pauses, progress of what is sent, and the last words of a server that is gone.

use super::*;

/// More than any kernel keeps for a connection.
const MUCH: usize = 64 << 20;

#[tokio::test]
async fn a_pause_holds_from_the_next_message_on_while_writing_goes_on() {
    const MESSAGES: usize = 64;
    let outgoing = Outgoing::default();
    let happened = RefCell::new(Vec::new());
    let report = |event| {
        if let Happened::Frame(_) = event {
            outgoing.pause_reading();
        }
        happened.borrow_mut().push(event);
    };
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        let (mut reading, mut writing) = stream.split();
        let message = frame(BINARY, &vec![0; MUCH / MESSAGES]);
        let mut pushing = std::pin::pin!(async {
            for _ in 0..MESSAGES {
                writing.write_all(&message).await.unwrap();
            }
        });
        for round in 1..=3 {
            // Until one message is reported and the pause stands, the server may push; then only the client writes.
            while bodies(&happened.borrow()).len() < round {
                tokio::select! {
                    () = &mut pushing => panic!("somebody took everything"),
                    () = tokio::task::yield_now() => {}
                }
            }
            for _ in 0..100 {
                outgoing.send(text("from the client"));
                tokio::select! {
                    () = &mut pushing => panic!("somebody took everything"),
                    frame = next_frame(&mut reading) => assert_eq!(frame.unwrap().0, TEXT),
                }
            }
            assert_eq!(bodies(&happened.borrow()).len(), round);
            outgoing.resume_reading();
        }
        let resuming = async {
            while bodies(&happened.borrow()).len() < MESSAGES {
                outgoing.resume_reading();
                tokio::task::yield_now().await;
            }
            outgoing.resume_reading();
        };
        tokio::join!(pushing, resuming);
    };
    let (end, ()) = meet_and(|_| {}, &outgoing, report, serve).await;
    check_failed(&end, "reset", &[]);
    assert_eq!(bodies(&happened.borrow()).len(), MESSAGES);
}

#[tokio::test]
async fn a_ping_right_before_a_pause_is_answered() {
    let outgoing = Outgoing::default();
    let report = |event| {
        if let Happened::Alive = event {
            outgoing.pause_reading();
        }
    };
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&frame(PING, b"there?")).await.unwrap();
        assert_eq!(next_frame(&mut stream).await, Some((PONG, b"there?".to_vec())));
        outgoing.resume_reading();
    };
    let (end, ()) = meet_and(|_| {}, &outgoing, report, serve).await;
    check_failed(&end, "reset", &[]);
}

#[tokio::test]
async fn a_paused_connection_can_be_closed() {
    for answers in [true, false] {
        let outgoing = Outgoing::default();
        outgoing.pause_reading();
        outgoing.send(text("paused"));
        let change = |target: &mut Target| {
            if !answers {
                target.timeouts.close = Duration::from_millis(50);
            }
        };
        let serve = async |mut stream: TcpStream| {
            upgrade(&mut stream).await;
            stream.write_all(&frame(TEXT, b"unread")).await.unwrap();
            assert_eq!(next_frame(&mut stream).await.unwrap().0, TEXT);
            outgoing.close(1000, "");
            assert_eq!(next_frame(&mut stream).await.unwrap().0, CLOSE);
            if answers {
                stream.write_all(&close_frame(4000, "bye")).await.unwrap();
            }
            hold(stream).await;
        };
        let (end, happened, ()) = meet(change, &outgoing, serve).await;
        let close = if answers { closed_with(4000, "bye", true) } else { closed_with(1006, "", false) };
        assert_eq!(end, End { reason: None, close });
        assert!(bodies(&happened).is_empty());
    }
}

/// The figures of `Flushed`.
fn flushed(happened: &[Happened]) -> Vec<(u64, bool)> {
    let figures =
        |event: &Happened| if let Happened::Flushed { bytes, all } = event { Some((*bytes, *all)) } else { None };
    happened.iter().filter_map(figures).collect()
}

#[tokio::test]
async fn bytes_of_messages_are_counted_when_the_system_has_them() {
    let outgoing = Outgoing::default();
    outgoing.send(text("\u{20ac}uro"));
    outgoing.ping([0; 12]);
    outgoing.send(Body::Binary(vec![0; 1000].into()));
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        for first in [TEXT, PING, BINARY] {
            assert_eq!(next_frame(&mut stream).await.unwrap().0, first);
        }
        outgoing.send(text("1"));
        assert_eq!(next_frame(&mut stream).await.unwrap().0, TEXT);
    };
    let (_, happened, ()) = meet(|_| {}, &outgoing, serve).await;
    assert_eq!(flushed(&happened), [(1006, true), (1007, true)]);
}

#[tokio::test]
async fn what_a_slow_server_takes_is_counted_while_more_waits() {
    const MESSAGES: usize = 64;
    let outgoing = Outgoing::default();
    for _ in 0..MESSAGES {
        outgoing.send(Body::Binary(vec![0; MUCH / MESSAGES].into()));
    }
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        for _ in 0..MESSAGES {
            next_frame(&mut stream).await.unwrap();
        }
    };
    let (_, happened, ()) = meet(|_| {}, &outgoing, serve).await;
    let flushed = flushed(&happened);
    assert!(flushed.len() > 2 && flushed.is_sorted(), "{flushed:?}");
    let (last, before) = flushed.split_last().unwrap();
    assert_eq!(*last, (MUCH as u64, true));
    assert!(before.iter().all(|(bytes, all)| !all && *bytes % (MUCH / MESSAGES) as u64 == 0), "{flushed:?}");
}

/// Windows forgets what it holds of a connection that the other side has reset.
#[cfg(not(windows))]
#[tokio::test]
async fn a_write_that_fails_does_not_hide_a_servers_last_words() {
    let outgoing = Outgoing::default();
    outgoing.pause_reading();
    outgoing.send(text("not taken by the server"));
    let happened = RefCell::new(Vec::new());
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.peek(&mut [0]).await.unwrap();
        let words = [frame(PING, b""), frame(TEXT, b"1"), frame(TEXT, b"2"), close_frame(1012, "deploy")];
        stream.write_all(&words.concat()).await.unwrap();
        // What it did not take makes the server's system reset the connection.
        drop(stream);
        let before = flushed(&happened.borrow());
        for _ in 0..100 {
            outgoing.send(text("to nobody"));
            tokio::task::yield_now().await;
        }
        assert_eq!(flushed(&happened.borrow()), before, "nobody has taken these");
        outgoing.resume_reading();
    };
    let (end, ()) = meet_and(|_| {}, &outgoing, |event| happened.borrow_mut().push(event), serve).await;
    check(&end, "closed", Some(1012), None, None, &["deploy"]);
    // The answer did not get through.
    assert_eq!(end.close, closed_with(1012, "deploy", false));
    assert_eq!(bodies(&happened.borrow()), [text("1"), text("2")]);
}

#[cfg(not(windows))]
#[tokio::test]
async fn a_write_that_fails_ends_a_connection_that_has_nothing_left_to_read() {
    let outgoing = Outgoing::default();
    outgoing.pause_reading();
    outgoing.send(text("not taken by the server"));
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.peek(&mut [0]).await.unwrap();
        stream.write_all(&frame(TEXT, b"1")).await.unwrap();
        drop(stream);
        outgoing.send(text("to nobody"));
        tokio::task::yield_now().await;
        outgoing.resume_reading();
    };
    let (end, happened, ()) = meet(|_| {}, &outgoing, serve).await;
    check_failed(&end, "reset", &[]);
    assert_eq!(bodies(&happened), [text("1")]);
}
