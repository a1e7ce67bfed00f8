//! How connections end that somebody closes, and who is told what.

use super::*;

/// How a connection ends that the server closes with `close` behind two messages; what it is answered.
async fn closed_by(close: Vec<u8>) -> (End, Option<(u8, Vec<u8>)>) {
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&[frame(TEXT, b"1"), frame(TEXT, b"2"), close].concat()).await.unwrap();
        next_frame(&mut stream).await
    };
    let (end, happened, answer) = meet(|_| {}, &Outgoing::default(), serve).await;
    assert_eq!(bodies(&happened), [text("1"), text("2")]);
    (end, answer)
}

#[tokio::test]
async fn a_servers_code_and_words_are_told_and_given_back() {
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4401, 4999] {
        for words in ["", "see you \u{1f44b}"] {
            let (end, answer) = closed_by(close_frame(code, words)).await;
            check(&end, "closed", Some(code), None, None, &[&format!("closed the connection with {code}"), words]);
            assert_eq!(end.close, closed_with(code, words, true));
            assert_eq!(answer, Some((CLOSE, [&code.to_be_bytes(), words.as_bytes()].concat())));
        }
    }
}

#[tokio::test]
async fn a_close_frame_without_a_code_is_1005() {
    let (end, answer) = closed_by(frame(CLOSE, b"")).await;
    check(&end, "closed", Some(1005), None, None, &[]);
    assert_eq!(end.close, closed_with(1005, "", true));
    assert_eq!(answer, Some((CLOSE, Vec::new())));
}

#[tokio::test]
async fn a_close_reason_may_say_when_to_come_back() {
    let both = Hint { after_ms: 1500, window_ms: Some(30_000) };
    for (words, hint) in [
        (r#"{"reconnect_after_ms":1500,"window_ms":30000}"#, Some(both)),
        (r#"{"reconnect_after_ms":1500,"why":"deploy"}"#, Some(Hint { window_ms: None, ..both })),
        (r#"{"window_ms":30000}"#, Some(Hint { after_ms: 0, ..both })),
        (r#"{"reconnect_after_ms":-1}"#, None),
        ("not now", None),
    ] {
        let (end, _) = closed_by(close_frame(1012, words)).await;
        check(&end, "closed", Some(1012), None, hint, &[words]);
        assert_eq!(end.close, closed_with(1012, words, true));
    }
}

#[tokio::test]
async fn a_code_that_must_not_be_sent_breaks_the_protocol() {
    // 1014 was registered after tungstenite's list was made.
    for code in [0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, 65_535] {
        let (end, answer) = closed_by(close_frame(code, "words")).await;
        check_failed(&end, "protocol", &["has a code that must not be sent"]);
        let (first, payload) = answer.unwrap();
        assert_eq!((first, &payload[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]), "{code}");
    }
}

#[tokio::test]
async fn nothing_is_reported_behind_a_servers_close_frame() {
    let (end, _) = closed_by([close_frame(1000, ""), frame(TEXT, b"3")].concat()).await;
    assert_eq!(end.close, closed_with(1000, "", true));
}

/// How a connection ends that this side closes by `close` once it is made, against a server that answers with `answer`;
/// what the server got.
async fn closed_here(close: impl Fn(&Outgoing), answer: &[u8]) -> (End, Vec<(u8, Vec<u8>)>) {
    let outgoing = Outgoing::default();
    let report = |event| {
        if let Happened::Connected { .. } = event {
            outgoing.send(text("1"));
            outgoing.send(text("2"));
            close(&outgoing);
        }
    };
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        let mut came = Vec::new();
        while let Some(frame) = next_frame(&mut stream).await {
            if frame.0 == CLOSE {
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            came.push(frame);
        }
        came
    };
    meet_and(|_| {}, &outgoing, report, serve).await
}

#[tokio::test]
async fn a_close_at_once_sends_nothing_that_waits_and_a_finish_sends_it_first() {
    let closing = (CLOSE, [&4000_u16.to_be_bytes()[..], b"enough"].concat());
    let (end, came) = closed_here(|outgoing| outgoing.close(4000, "enough"), &close_frame(4000, "enough")).await;
    assert_eq!(end, End { reason: None, close: closed_with(4000, "enough", true) });
    assert_eq!(came, std::slice::from_ref(&closing));
    let (end, came) = closed_here(|outgoing| outgoing.finish(4000, "enough"), &close_frame(4000, "enough")).await;
    assert_eq!(end, End { reason: None, close: closed_with(4000, "enough", true) });
    assert_eq!(came, [(TEXT, b"1".to_vec()), (TEXT, b"2".to_vec()), closing]);
}

#[tokio::test]
async fn what_the_server_answers_to_our_close_is_told() {
    for (answer, code, reason, clean) in [
        (close_frame(1000, "bye"), 1000, "bye", true),
        (close_frame(4001, "{\"window_ms\":1}"), 4001, "{\"window_ms\":1}", true),
        (frame(CLOSE, b""), 1005, "", true),
        (close_frame(1002, "Protocol violation"), 1002, "Protocol violation", true),
        (Vec::new(), 1006, "", false),
        (frame(TEXT | 0x40, b""), 1006, "", false),
    ] {
        for close in [Outgoing::close, Outgoing::finish] {
            let (end, _) = closed_here(|outgoing| close(outgoing, 1000, ""), &answer).await;
            assert_eq!(end, End { reason: None, close: closed_with(code, reason, clean) });
        }
    }
}

#[tokio::test]
async fn a_close_without_a_code_sends_none_and_a_long_reason_is_cut_between_characters() {
    let (_, came) = closed_here(|outgoing| outgoing.close(1005, "not sent"), &frame(CLOSE, b"")).await;
    assert_eq!(came, [(CLOSE, Vec::new())]);
    let (_, came) = closed_here(|outgoing| outgoing.close(1000, &"\u{e4}".repeat(100)), &frame(CLOSE, b"")).await;
    assert_eq!(came[0].1[2..], *"\u{e4}".repeat(61).as_bytes());
}

#[tokio::test]
async fn nothing_follows_a_close_frame_whatever_else_is_wanted() {
    let (end, came) = closed_here(
        |outgoing| {
            outgoing.finish(1000, "first");
            outgoing.send(text("3"));
            outgoing.ping([0; 12]);
            outgoing.finish(1001, "second");
        },
        &frame(CLOSE, b""),
    )
    .await;
    assert_eq!(end.close, closed_with(1005, "", true));
    assert_eq!(came.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [TEXT, TEXT, CLOSE]);
    let (_, came) = closed_here(
        |outgoing| {
            outgoing.finish(1000, "first");
            outgoing.close(1001, "second");
            outgoing.close(1001, "third");
        },
        &frame(CLOSE, b""),
    )
    .await;
    assert_eq!(came, [(CLOSE, [&1001_u16.to_be_bytes()[..], b"second"].concat())]);
}

#[tokio::test]
async fn what_comes_while_this_side_closes_is_not_reported() {
    let outgoing = Outgoing::default();
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&frame(TEXT, b"before")).await.unwrap();
        next_frame(&mut stream).await.unwrap();
        outgoing.close(1000, "");
        assert_eq!(next_frame(&mut stream).await.unwrap().0, CLOSE);
        stream.write_all(&[frame(TEXT, b"after"), close_frame(1000, "")].concat()).await.unwrap();
        hold(stream).await;
    };
    outgoing.send(text("anything"));
    let (end, happened, ()) = meet(|_| {}, &outgoing, serve).await;
    assert_eq!(end, End { reason: None, close: closed_with(1000, "", true) });
    assert_eq!(bodies(&happened), [text("before")]);
}

#[tokio::test]
async fn a_server_that_ignores_our_close_is_left() {
    for close in [Outgoing::close, Outgoing::finish] {
        let outgoing = Outgoing::default();
        let change = |target: &mut Target| target.timeouts.close = Duration::from_millis(50);
        let serve = async |mut stream: TcpStream| {
            upgrade(&mut stream).await;
            close(&outgoing, 1000, "enough");
            hold(stream).await;
        };
        let (end, _, ()) = meet(change, &outgoing, serve).await;
        assert_eq!(end, End { reason: None, close: closed_with(1006, "", false) });
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_left_when_this_side_closes() {
    // At once, or when the time for a write is over: what waits comes first.
    for (close, write) in [(true, 60_000), (false, 50)] {
        let outgoing = Outgoing::default();
        let change = |target: &mut Target| {
            target.timeouts.close = Duration::from_millis(50);
            target.timeouts.write = Duration::from_millis(write);
        };
        for _ in 0..32 {
            outgoing.send(Body::Binary(vec![0; 16 << 20].into()));
        }
        let serve = async |mut stream: TcpStream| {
            upgrade(&mut stream).await;
            // The first bytes of a frame: it is being written.
            stream.read_exact(&mut [0; 16]).await.unwrap();
            outgoing.finish(1000, "enough");
            if close {
                outgoing.close(1001, "at once");
            }
            stream
        };
        let (end, _, _stream) = meet(change, &outgoing, serve).await;
        assert_eq!(end, End { reason: None, close: closed_with(1006, "", false) });
    }
}

#[tokio::test]
async fn time_to_answer_our_close_begins_when_all_is_sent() {
    const MUCH: usize = 64 << 20;
    // Long enough for an answer on a machine that does other things too.
    let close = Duration::from_millis(400);
    let outgoing = Outgoing::default();
    outgoing.send(Body::Binary(vec![0; MUCH].into()));
    outgoing.send(text("last"));
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.read_exact(&mut [0; 2]).await.unwrap();
        outgoing.finish(1000, "enough");
        // Nothing is waited for but the time that this is about.
        tokio::time::sleep(2 * close).await;
        let mut rest = vec![0; MUCH + 12];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(next_frame(&mut stream).await, Some((TEXT, b"last".to_vec())));
        assert_eq!(next_frame(&mut stream).await.unwrap().0, CLOSE);
        stream.write_all(&close_frame(1000, "")).await.unwrap();
    };
    let (end, happened, ()) = meet(|target| target.timeouts.close = close, &outgoing, serve).await;
    assert_eq!(end, End { reason: None, close: closed_with(1000, "", true) });
    let last = happened.iter().rev().find_map(|event| match event {
        Happened::Flushed { bytes, all } => Some((*bytes, *all)),
        _ => None,
    });
    assert_eq!(last, Some((MUCH as u64 + 4, true)));
}

#[tokio::test]
async fn a_close_before_the_connection_is_made_ends_the_attempt() {
    for close in [Outgoing::close, Outgoing::finish] {
        let outgoing = Outgoing::default();
        let serve = async |stream: TcpStream| {
            close(&outgoing, 1000, "not any more");
            hold(stream).await;
        };
        let (end, happened, ()) = meet(|_| {}, &outgoing, serve).await;
        assert_eq!(end, End { reason: None, close: closed_with(1006, "", false) });
        assert!(happened.is_empty());
    }
}
