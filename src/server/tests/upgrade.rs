//! Every way in which a server can fail to become a WebSocket.

use std::time::SystemTime;

use super::*;
use crate::wire::{Presented, Secret};

/// How a connection ends whose upgrade is answered with `answer(request)`, after which the server closes TCP.
async fn answered(protocols: &[&str], answer: impl FnOnce(&str) -> String) -> (End, Vec<Happened>) {
    let offer = |target: &mut Target| target.protocols = protocols.iter().map(ToString::to_string).collect();
    let serve = async |mut stream: TcpStream| {
        let answer = answer(&request(&mut stream).await);
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    let (end, happened, ()) = meet(offer, &Outgoing::default(), serve).await;
    (end, happened)
}

/// An answer with this status and these lines.
async fn refused(status: &str, lines: &str) -> End {
    let (end, happened) = answered(&[], |_| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{lines}\r\n")).await;
    assert!(happened.is_empty());
    assert_eq!(end.close, closed_with(1006, "", false));
    end
}

/// How the upgrade fails if one line of a right answer is replaced.
async fn altered(line: &str, by: &str) -> End {
    let (end, happened) = answered(&[], |request| {
        let answer = accepted(request);
        let old = answer.split_inclusive("\r\n").find(|found| found.starts_with(line)).unwrap();
        answer.replace(old, by)
    })
    .await;
    assert!(happened.is_empty());
    end
}

#[tokio::test]
async fn any_status_but_101_is_told_as_it_is() {
    for (status, text) in [
        (100, "100 Continue"),
        (200, "200 OK"),
        (400, "400 Bad Request"),
        (401, "401 Unauthorized"),
        (403, "403 Forbidden"),
        (404, "404 Not Found"),
        (407, "407 Proxy Authentication Required"),
        (426, "426 Upgrade Required"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
        (503, "503 Service Unavailable"),
    ] {
        let end = refused(text, "WWW-Authenticate: Basic\r\n").await;
        check(&end, "http-status", None, Some(status), None, &[&format!("with {text} instead of 101")]);
    }
}

#[tokio::test]
async fn a_server_may_say_when_to_come_back_with_any_status() {
    for (status, text) in [(200, "200 OK"), (403, "403 Forbidden"), (429, "429 Slow Down"), (503, "503 Busy")] {
        let end = refused(text, "Retry-After: 120\r\n").await;
        check(&end, "http-status", None, Some(status), Some(Hint { after_ms: 120_000, window_ms: None }), &[]);
    }
    let at = SystemTime::now() + Duration::from_secs(3600);
    let end = refused("503 Busy", &format!("Retry-After: {}\r\n", httpdate::fmt_http_date(at))).await;
    let hint = end.reason.unwrap().hint.unwrap();
    // A date has whole seconds, and the test takes some time.
    assert!((3_500_000..=3_600_000).contains(&hint.after_ms), "{hint:?}");
}

#[tokio::test]
async fn a_time_to_come_back_that_makes_no_sense_is_ignored_and_an_absurd_one_is_told() {
    for nonsense in ["-1", "soon", "", "1.5", "Thu, 32 Jan 2030 00:00:00 GMT"] {
        let end = refused("503 Busy", &format!("Retry-After: {nonsense}\r\n")).await;
        check(&end, "http-status", None, Some(503), None, &[]);
    }
    let end = refused("503 Busy", "Retry-After: 99999999999999999999\r\n").await;
    check(&end, "http-status", None, Some(503), Some(Hint { after_ms: u64::MAX, window_ms: None }), &[]);
    let end = refused("503 Busy", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n").await;
    check(&end, "http-status", None, Some(503), Some(Hint { after_ms: 0, window_ms: None }), &[]);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_shown_without_what_may_be_secret() {
    let location = "Location: https://user:password@elsewhere.example:8443/ws?token=secret#secret\r\n";
    for (status, text) in [(301, "301 Moved"), (302, "302 Found"), (307, "307 Later"), (308, "308 For Good")] {
        let end = refused(text, location).await;
        let parts = ["it points to https://elsewhere.example:8443/ws, which is not followed"];
        check(&end, "http-status", None, Some(status), None, &parts);
        let message = end.reason.unwrap().message;
        assert!(!["user", "password", "secret", "token"].iter().any(|secret| message.contains(secret)), "{message}");
    }
    let message = async |lines: &str| refused("301 Moved", lines).await.reason.unwrap().message;
    assert!(message("Location: /login?next=secret\r\n").await.contains("/login, which is not followed"));
    let long = format!("Location: https://elsewhere.example/{}\r\n", "x".repeat(10_000));
    assert!(message(&long).await.contains("it points to https://elsewhere.example, which"));
    for nowhere in ["", "Location: javascript:alert(1)\r\n", "Location: https://\r\n", "Location: caf\u{e9}\r\n"] {
        assert!(!message(nowhere).await.contains("javascript"), "{nowhere}");
    }
}

/// The message when a server that is not on this machine answers so.
async fn refused_elsewhere(status: &str, lines: &str) -> String {
    let serve = async |mut stream: TcpStream| {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        request(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 {status}\r\n{lines}\r\n").as_bytes()).await.unwrap();
    };
    let (end, ..) = meet(proxy::behind("http://PROXY"), &Outgoing::default(), serve).await;
    end.reason.unwrap().message
}

#[tokio::test]
async fn a_login_page_of_the_network_is_named_and_what_the_server_itself_says_is_not_taken_for_one() {
    let portal = "a login page of the network (captive portal) seems to answer";
    for (status, lines, is_portal) in [
        ("302 Found", "Location: http://login.example/?token=secret\r\n", true),
        ("307 Found", "Location: https://10.0.0.1/\r\n", true),
        ("200 OK", "Content-Type: text/html; charset=utf-8\r\n", true),
        ("511 Network Authentication Required", "", true),
        ("301 Moved", "Location: https://server.test/chat\r\n", false),
        ("301 Moved", "Location: /other\r\n", false),
        ("301 Moved", "", false),
        ("200 OK", "Content-Type: application/json\r\n", false),
        ("404 Not Found", "Content-Type: text/html\r\n", false),
    ] {
        let message = refused_elsewhere(status, lines).await;
        assert_eq!(message.contains(portal), is_portal, "{status} {lines}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
    let here = refused("302 Found", "Location: http://login.example/\r\n").await.reason.unwrap().message;
    assert!(!here.contains(portal), "nobody is between this machine and itself: {here}");
}

#[tokio::test]
async fn the_request_has_the_headers_and_the_origin_of_the_configuration() {
    let configured = |target: &mut Target| {
        let secret = |value: &str| Secret::from(value.to_owned());
        target.way.headers =
            vec![("authorization".into(), secret("Bearer x y")), ("user-agent".into(), secret("mine"))];
        target.way.origin = Some("https://example.org".to_owned());
    };
    let serve = async |mut stream: TcpStream| request(&mut stream).await;
    let (_, _, asked) = meet(configured, &Outgoing::default(), serve).await;
    for (name, expected) in [("authorization", "Bearer x y"), ("user-agent", "mine"), ("origin", "https://example.org")]
    {
        assert_eq!(value(&asked, name), Some(expected), "{asked}");
    }
    assert_eq!(asked.to_lowercase().matches("\r\norigin:").count(), 1);
}

#[tokio::test]
async fn the_request_shows_the_credential_in_its_place_and_nobody_hears_of_one_that_is_a_sub_protocol() {
    let secret = || Secret::from("s3cr+t".to_owned());
    for (credential, shown) in [
        (Presented::Header(secret()), "\r\nauthorization: s3cr+t\r\n"),
        (Presented::Query("key".into(), secret()), "GET /?key=s3cr%2Bt HTTP/1.1\r\n"),
        (Presented::Protocol(secret()), "\r\nsec-websocket-protocol: s3cr+t\r\n"),
    ] {
        let serve = async |mut stream: TcpStream| {
            let asked = request(&mut stream).await;
            let chosen = if shown.contains("protocol") { "Sec-WebSocket-Protocol: s3cr+t\r\n\r\n" } else { "\r\n" };
            let answer = accepted(&asked).trim_end().to_owned() + "\r\n" + chosen;
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked
        };
        let (_, happened, asked) =
            meet(|target| target.credential = Some(credential), &Outgoing::default(), serve).await;
        assert!(asked.to_lowercase().contains(&shown.to_lowercase()), "{asked}");
        assert!(matches!(&happened[..], [Happened::Connected { protocol: None }]), "{happened:?}");
    }
}

#[tokio::test]
async fn a_credential_that_cannot_stand_where_it_is_to_be_is_refused_without_being_said() {
    for show in [Presented::Header, Presented::Protocol] {
        let credential = show(Secret::from("h\nsh".to_owned()));
        let (end, ..) = meet(|target| target.credential = Some(credential), &Outgoing::default(), async |_| {}).await;
        check_failed(&end, "auth-refused", &["cannot be shown the credential", "auth.via"]);
        assert!(!end.reason.unwrap().message.contains("h\nsh"));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_upgrade_to_a_websocket_is_named() {
    check_failed(&altered("Upgrade", "").await, "upgrade", &["Upgrade: websocket"]);
    check_failed(&altered("Upgrade", "Upgrade: h2c\r\n").await, "upgrade", &["Upgrade: websocket"]);
    check_failed(&altered("Connection", "").await, "upgrade", &["Connection: upgrade"]);
    check_failed(&altered("Connection", "Connection: close\r\n").await, "upgrade", &["Connection: upgrade"]);
    check_failed(&altered("Sec-WebSocket-Accept", "").await, "upgrade", &["Sec-WebSocket-Accept"]);
    let wrong = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    check_failed(&altered("Sec-WebSocket-Accept", wrong).await, "upgrade", &["Sec-WebSocket-Accept"]);
    let extended = "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    check_failed(&altered("Upgrade", extended).await, "upgrade", &["an extension", "none was offered"]);
    check_failed(&altered("HTTP", "SSH-2.0-OpenSSH_9.2\r\n").await, "upgrade", &["did not upgrade"]);
    check_failed(&altered("HTTP", "\u{1}\u{2}\u{3}\r\n").await, "upgrade", &["did not upgrade"]);
}

#[tokio::test]
async fn a_right_answer_may_be_written_in_all_the_ways_that_http_allows() {
    for lines in [
        "Connection: keep-alive, Upgrade\r\n",
        "Connection: keep-alive\r\nConnection: upgrade\r\n",
        "connection:UPGRADE\r\n",
        "Connection:   Upgrade  \r\nVia: 1.1 proxy\r\n",
    ] {
        let (end, happened) =
            answered(&[], |request| accepted(request).replace("Connection: Upgrade\r\n", lines)).await;
        check_failed(&end, "reset", &[]);
        assert!(matches!(&happened[..], [Happened::Connected { protocol: None }]), "{lines}: {end:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_as_good() {
    let serve = async |mut stream: TcpStream| {
        let answer = accepted(&request(&mut stream).await);
        for byte in [answer.as_bytes(), &close_frame(1000, "")].concat() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        hold(stream).await;
    };
    let (end, ..) = meet(|_| {}, &Outgoing::default(), serve).await;
    check(&end, "closed", Some(1000), None, None, &[]);
}

#[tokio::test]
async fn an_old_proxy_is_understood_when_it_says_no_and_not_when_it_says_yes() {
    let answer = "HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/html\r\n\r\n<h1>503</h1>";
    let (end, _) = answered(&[], |_| answer.into()).await;
    check(&end, "http-status", None, Some(503), Some(Hint { after_ms: 5000, window_ms: None }), &[]);
    check_failed(&altered("HTTP", "HTTP/1.0 101 Switching Protocols\r\n").await, "upgrade", &["HTTP/1.0"]);
}

#[tokio::test]
async fn the_words_of_a_status_are_not_the_servers() {
    let end = refused("503 \u{202e}evil", "").await;
    let message = end.reason.unwrap().message;
    assert!(message.contains("503 Service Unavailable") && !message.contains("evil"), "{message}");
}

#[tokio::test]
async fn a_header_that_does_not_end_is_given_up() {
    let serve = async |mut stream: TcpStream| {
        let mut answer = accepted(&request(&mut stream).await);
        answer.truncate(answer.len() - 2);
        stream.write_all(answer.as_bytes()).await.unwrap();
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    };
    let (end, happened, ()) = meet(|_| {}, &Outgoing::default(), serve).await;
    check_failed(&end, "upgrade", &["a header that is too long"]);
    assert!(happened.is_empty());

    let (end, _) = answered(&[], |request| {
        let lines = (0..1000).map(|number| format!("X-{number}: x\r\n")).collect::<String>();
        accepted(request).replace("Upgrade: websocket\r\n", &format!("{lines}Upgrade: websocket\r\n"))
    })
    .await;
    check_failed(&end, "upgrade", &["too many header lines"]);
}

#[tokio::test]
async fn what_is_offered_is_offered_in_order_and_what_is_chosen_is_told() {
    let with = |request: &str, protocol: &str| {
        let line = format!("Upgrade: websocket\r\nSec-WebSocket-Protocol: {protocol}\r\n");
        accepted(request).replace("Upgrade: websocket\r\n", &line)
    };
    let (end, happened) = answered(&["v2.chat", "chat", "x"], |request| {
        assert_eq!(value(request, "sec-websocket-protocol"), Some("v2.chat, chat, x"));
        with(request, "chat")
    })
    .await;
    check_failed(&end, "reset", &[]);
    assert!(matches!(&happened[..], [Happened::Connected { protocol: Some(protocol) }] if &**protocol == "chat"));

    let (end, _) = answered(&["v2.chat", "chat"], |request| with(request, "v1.chat")).await;
    check_failed(&end, "upgrade", &["none of those offered (v2.chat, chat)"]);
    // Not the letter of RFC 6455, but what browsers do (WHATWG WebSockets, opening handshake).
    let (end, _) = answered(&["v2.chat", "chat"], accepted).await;
    check_failed(&end, "upgrade", &["speaks none of the sub-protocols offered (v2.chat, chat)"]);
    for several in ["chat, v2.chat", "chat\r\nSec-WebSocket-Protocol: v2.chat"] {
        let (end, _) = answered(&["v2.chat", "chat"], |request| with(request, several)).await;
        check_failed(&end, "upgrade", &["sub-protocol"]);
    }

    let (end, _) = answered(&[], |request| {
        assert_eq!(value(request, "sec-websocket-protocol"), None);
        with(request, "chat")
    })
    .await;
    check_failed(&end, "upgrade", &["chose a sub-protocol, but none was offered"]);
}

#[tokio::test]
async fn a_protocol_that_no_header_can_carry_is_refused_for_good() {
    let listener = listener().await;
    let target = target(&listener, |target| target.protocols = vec!["a\r\nX: b".into()]);
    let reason = run(target, &Outgoing::default(), |_| {}).await.reason.unwrap();
    assert_eq!((reason.code, reason.retryable), ("upgrade", false));
    assert!(reason.message.contains("cannot be offered"), "{}", reason.message);
}

#[tokio::test]
async fn a_server_that_goes_away_at_any_stage_of_the_upgrade_is_told_as_that() {
    for stage in 0..4 {
        let serve = async |mut stream: TcpStream| {
            if stage == 0 {
                return;
            }
            let answer = accepted(&request(&mut stream).await);
            match stage {
                1 => {}
                2 => stream.write_all(&answer.as_bytes()[..answer.len() / 2]).await.unwrap(),
                // All but the end of the empty line.
                _ => stream.write_all(&answer.as_bytes()[..answer.len() - 1]).await.unwrap(),
            }
        };
        let (end, happened, ()) = meet(|_| {}, &Outgoing::default(), serve).await;
        check_failed(&end, "reset", &[]);
        assert!(happened.is_empty());
    }
    let (end, ..) = meet(|target| target.url.set_scheme("wss").unwrap(), &Outgoing::default(), async |_| {}).await;
    check_failed(&end, "tls", &[]);
}

#[tokio::test]
async fn nothing_listening_is_told_as_that() {
    let gone = target(&listener().await, |_| {});
    check_failed(&run(gone, &Outgoing::default(), |_| {}).await, "refused", &["cannot connect to 127.0.0.1"]);
}

#[tokio::test]
async fn messages_right_behind_the_answer_are_not_lost() {
    let serve = async |mut stream: TcpStream| {
        let answer = accepted(&request(&mut stream).await);
        let all = [answer.into_bytes(), frame(TEXT, b"1"), frame(TEXT, b"2"), close_frame(1000, "")].concat();
        stream.write_all(&all).await.unwrap();
        hold(stream).await;
    };
    let (end, happened, ()) = meet(|_| {}, &Outgoing::default(), serve).await;
    check(&end, "closed", Some(1000), None, None, &[]);
    assert_eq!(bodies(&happened), [text("1"), text("2")]);
}

#[tokio::test]
async fn a_probe_tells_what_it_finds_in_order_and_leaves() {
    let listener = listener().await;
    let target = target(&listener, |_| {});
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = accepted(&request(&mut stream).await);
        let answer = answer.replacen("\r\n", "\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 1);
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut ping = [0; 6 + PING_BYTES];
        stream.read_exact(&mut ping).await.unwrap();
        assert_eq!((ping[0], usize::from(ping[1] & 0x7f)), (PING, PING_BYTES));
        // A message first, which is no answer; the mask is over zeros.
        let mask = [ping[2], ping[3], ping[4], ping[5]];
        let payload: Vec<u8> = ping[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        stream.write_all(&[TEXT, 2, b'{', b'}', PONG, PING_BYTES as u8]).await.unwrap();
        stream.write_all(&payload).await.unwrap();
        let mut close = [0; 8];
        stream.read_exact(&mut close).await.unwrap();
        assert_eq!(close[0], CLOSE);
    };
    let mut found = Vec::new();
    let probing = probe(&target, |step| found.push(step));
    let (probed, ()) = tokio::time::timeout(DEADLINE, async { tokio::join!(probing, server) }).await.unwrap();
    assert_eq!(probed, Ok(()));
    let address = listener.local_addr().unwrap();
    let date = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(
        found,
        [Found::Addresses(vec![address.ip()]), Found::Peer(address), Found::Date(date), Found::WebSocket, Found::Pong]
    );
}

#[tokio::test]
async fn a_probe_says_why_a_server_closes_at_once_and_does_not_mind_one_that_is_silent() {
    let listener = listener().await;
    let target = target(&listener, |target| target.timeouts.close = Duration::from_millis(50));
    let closes = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        upgrade(&mut stream).await;
        stream.write_all(&[CLOSE, 2, 0x11, 0x31]).await.unwrap();
        hold(stream).await;
    };
    let (probed, ()) = tokio::join!(probe(&target, |_| {}), closes);
    assert_eq!(probed.unwrap_err().close_code, Some(4401));
    let silent = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        upgrade(&mut stream).await;
        hold(stream).await;
    };
    let mut found = Vec::new();
    let (probed, ()) = tokio::join!(probe(&target, |step| found.push(step)), silent);
    assert_eq!((probed, found.last()), (Ok(()), Some(&Found::WebSocket)));
}
