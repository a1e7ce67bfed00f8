//! What servers send, by the rules of RFC 6455 and against them.

use super::*;

/// How a connection ends on which a server sends a message and then `wrong`; what the client says to that, and the
/// messages that came.
async fn after(max_message: usize, wrong: &[u8]) -> (End, Vec<Body>, Option<(u8, Vec<u8>)>) {
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&[frame(TEXT, b"before"), wrong.to_vec()].concat()).await.unwrap();
        next_frame(&mut stream).await
    };
    let limit = |target: &mut Target| target.max_message = max_message;
    let (end, happened, farewell) = meet(limit, &Outgoing::default(), serve).await;
    (end, bodies(&happened), farewell)
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_so_and_left() {
    let long = [0; 126];
    let masked = [TEXT, 0x81, 1, 2, 3, 4, b'x' ^ 1];
    let inside_a_message = [frame(0x01, b"a"), frame(TEXT, b"b")].concat();
    for (what, wrong, code, words) in [
        ("reserved bit 1", frame(TEXT | 0x40, b"x"), 1002, "Reserved bits"),
        ("reserved bit 2", frame(BINARY | 0x20, b"x"), 1002, "Reserved bits"),
        ("reserved bit 3", frame(PING | 0x10, b"x"), 1002, "Reserved bits"),
        ("a reserved bit on a continuation", [frame(0x01, b"a"), frame(0xc0, b"b")].concat(), 1002, "Reserved bits"),
        ("an unknown kind of data", frame(0x83, b"x"), 1002, "opcode: 3"),
        ("an unknown kind of control", frame(0x8b, b"x"), 1002, "opcode: 11"),
        ("a masked frame", masked.to_vec(), 1002, "masked frame"),
        ("a fragmented ping", frame(PING & 0x7f, b"x"), 1002, "Fragmented control frame"),
        ("a fragmented close frame", frame(CLOSE & 0x7f, &[3, 232]), 1002, "Fragmented control frame"),
        ("a long ping", frame(PING, &long), 1002, "Control frame too big"),
        ("a long close frame", close_frame(1000, long), 1002, "Control frame too big"),
        ("the end of no message", frame(0x80, b"x"), 1002, "nothing to continue"),
        ("the middle of no message", frame(0x00, b"x"), 1002, "nothing to continue"),
        ("a message inside of a message", inside_a_message, 1002, "more fragments"),
        ("half a close code", frame(CLOSE, &[3]), 1002, "close frame is malformed"),
        ("a byte that is no text", frame(TEXT, &[b'x', 0xff]), 1007, "text that is not UTF-8"),
        ("a surrogate", frame(TEXT, &[0xed, 0xa0, 0x80]), 1007, "text that is not UTF-8"),
        ("half a character", frame(TEXT, &[0xe2, 0x82]), 1007, "text that is not UTF-8"),
        ("a torn character", [frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat(), 1007, "text that is not UTF-8"),
        ("a character cut off", [frame(0x01, &[0xe2]), frame(0x80, &[0x82])].concat(), 1007, "text that is not UTF-8"),
        ("a reason that is no text", close_frame(1000, [0xff]), 1007, "text that is not UTF-8"),
    ] {
        let (end, came, farewell) = after(MAX_MESSAGE, &wrong).await;
        check_failed(&end, "protocol", &[words]);
        assert_eq!(came, [text("before")], "{what}");
        assert_eq!(farewell, Some((CLOSE, u16::to_be_bytes(code).to_vec())), "{what}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_in_whatever_pieces_it_comes() {
    let pieces = |first: u8, sizes: &[usize]| {
        let mut frames = frame(first & 0x7f, &vec![b'x'; sizes[0]]);
        sizes[1..].iter().for_each(|size| frames.extend(frame(0x00, &vec![b'x'; *size])));
        frames
    };
    let only_announced = [&[BINARY, 127][..], &(1_u64 << 62).to_be_bytes()].concat();
    for wrong in [
        frame(BINARY, &[0; 1001]),
        // More than any kernel keeps: it is taken to its end, so that the server can read what it is told.
        frame(TEXT, &[b'x'; 16 << 20]),
        pieces(TEXT, &[400, 400, 201]),
        pieces(BINARY, &[1000, 0, 1]),
        pieces(BINARY, &[1, 1001]),
        only_announced,
    ] {
        let (end, came, farewell) = after(1000, &wrong).await;
        check_failed(&end, "message-too-large", &["or more; the limit is 1000"]);
        assert_eq!(came, [text("before")]);
        assert_eq!(farewell, Some((CLOSE, 1009_u16.to_be_bytes().to_vec())));
    }
    let fits = [pieces(BINARY, &[500, 500]), frame(0x80, b""), frame(TEXT, &[b'x'; 1000]), close_frame(1000, "")];
    let (end, came, _) = after(1000, &fits.concat()).await;
    check(&end, "closed", Some(1000), None, None, &[]);
    assert_eq!(came.iter().map(Body::len).collect::<Vec<_>>(), ["before".len(), 1000, 1000]);
}

#[tokio::test]
async fn a_limit_for_messages_is_none_for_pings_and_close_frames() {
    let reason = "x".repeat(123);
    let (end, _, answer) = after(10, &[frame(PING, &[0; 125]), close_frame(1012, &reason)].concat()).await;
    check(&end, "closed", Some(1012), None, None, &[]);
    assert_eq!(answer.unwrap().0, PONG);
    let (end, ..) = after(10, &frame(TEXT, b"12345678901")).await;
    check_failed(&end, "message-too-large", &[]);
}

#[tokio::test]
async fn a_server_that_hears_not_why_it_is_left_is_left_all_the_same() {
    let change = |target: &mut Target| {
        target.max_message = 10;
        target.timeouts.close = Duration::from_millis(50);
    };
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        stream.write_all(&frame(TEXT, b"12345678901")).await.unwrap();
        // Neither read nor closed.
        stream
    };
    let (end, ..) = meet(change, &Outgoing::default(), serve).await;
    check_failed(&end, "message-too-large", &[]);
}

#[tokio::test]
async fn fragments_make_one_message_whatever_stands_between_them() {
    let serve = async |mut stream: TcpStream| {
        upgrade(&mut stream).await;
        let sent = [
            frame(0x01, "{\"a\":\"\u{20ac}".as_bytes()),
            frame(PING, b"first"),
            frame(0x00, b""),
            // A character may be cut anywhere.
            frame(0x00, &[0xf0, 0x9f]),
            frame(PONG, b"nobody asked"),
            frame(0x00, &[0x98]),
            frame(PING, b""),
            frame(0x80, &[0x80, b'"', b'}']),
            frame(0x02, b""),
            frame(0x00, b""),
            frame(0x80, b""),
            frame(0x01, b""),
            frame(0x80, b""),
            frame(TEXT, b""),
            frame(BINARY, b""),
        ];
        stream.write_all(&sent.concat()).await.unwrap();
        let mut answers = vec![next_frame(&mut stream).await.unwrap()];
        // Only the newest ping must be answered (RFC 6455, 5.5.3).
        while answers.last() != Some(&(PONG, Vec::new())) {
            answers.push(next_frame(&mut stream).await.unwrap());
        }
        stream.write_all(&close_frame(1000, "")).await.unwrap();
        hold(stream).await;
        answers
    };
    let (end, happened, answers) = meet(|_| {}, &Outgoing::default(), serve).await;
    check(&end, "closed", Some(1000), None, None, &[]);
    let nothing = || Body::Binary("".into());
    let expected = [text("{\"a\":\"\u{20ac}\u{1f600}\"}"), nothing(), text(""), text(""), nothing()];
    assert_eq!(bodies(&happened), expected);
    assert!(answers.iter().all(|(first, _)| *first == PONG), "{answers:?}");
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_of_anything_is_told_as_that() {
    for last in
        [vec![], vec![TEXT], vec![TEXT, 126, 0], frame(TEXT, b"half a message")[..9].to_vec(), frame(0x01, b"a")]
    {
        let serve = async |mut stream: TcpStream| {
            upgrade(&mut stream).await;
            stream.write_all(&[frame(TEXT, b"1"), frame(BINARY, b"2"), last].concat()).await.unwrap();
        };
        let (end, happened, ()) = meet(|_| {}, &Outgoing::default(), serve).await;
        check_failed(&end, "reset", &["ended the connection without closing it"]);
        assert_eq!(bodies(&happened), [text("1"), Body::Binary("2".into())]);
    }
}
