//! Every way in which a proxy can lead to a server, or not.

use super::*;
use crate::config::ProxyRule;

/// Has the target behind the proxy of this URL, in which `PROXY` stands for where the test listens.
pub(super) fn behind(proxy: &str) -> impl FnOnce(&mut Target) {
    move |target: &mut Target| {
        let address = format!("{}:{}", target.url.host_str().unwrap(), target.url.port().unwrap());
        target.way.proxy = ProxyRule::parse(&proxy.replace("PROXY", &address)).unwrap();
        target.url = "ws://server.test:8080/chat".parse().unwrap();
    }
}

/// How a connection ends through a proxy that answers CONNECT so, and what it was asked.
async fn answered(proxy: &str, answer: &str) -> (End, String) {
    let serve = async |mut stream: TcpStream| {
        let asked = request(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        asked
    };
    let (end, happened, asked) = meet(behind(proxy), &Outgoing::default(), serve).await;
    assert!(happened.is_empty());
    assert_eq!(end.close, closed_with(1006, "", false));
    (end, asked)
}

/// How it ends through a SOCKS proxy that says this whatever it hears.
async fn socks(proxy: &str, says: &[u8]) -> End {
    let serve = async |mut stream: TcpStream| {
        stream.write_all(says).await.unwrap();
        stream.shutdown().await.unwrap();
        hold(stream).await;
    };
    let (end, happened, ()) = meet(behind(proxy), &Outgoing::default(), serve).await;
    assert!(happened.is_empty());
    end
}

#[tokio::test]
async fn a_connect_proxy_is_asked_for_the_server_by_name_and_then_the_server_is_spoken_to() {
    let serve = async |mut stream: TcpStream| {
        let asked = request(&mut stream).await;
        assert!(asked.starts_with("CONNECT server.test:8080 HTTP/1.1\r\nHost: server.test:8080\r\n"), "{asked}");
        assert_eq!(value(&asked, "proxy-authorization"), None);
        stream.write_all(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n").await.unwrap();
        let asked = request(&mut stream).await;
        assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
        assert_eq!(value(&asked, "host"), Some("server.test:8080"));
        let all = [accepted(&asked).into_bytes(), frame(TEXT, b"1"), close_frame(1000, "")].concat();
        stream.write_all(&all).await.unwrap();
        hold(stream).await;
    };
    let (end, happened, ()) = meet(behind("http://PROXY"), &Outgoing::default(), serve).await;
    check(&end, "closed", Some(1000), None, None, &[]);
    assert_eq!(bodies(&happened), [text("1")]);
}

#[tokio::test]
async fn credentials_go_to_the_proxy_and_not_to_the_server() {
    let serve = async |mut stream: TcpStream| {
        let asked = request(&mut stream).await;
        // printf 'me@home:hunter2' | base64
        assert_eq!(value(&asked, "proxy-authorization"), Some("Basic bWVAaG9tZTpodW50ZXIy"));
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let asked = request(&mut stream).await;
        assert!(!asked.to_lowercase().contains("authorization"), "{asked}");
    };
    let (end, ..) = meet(behind("http://me%40home:hunter2@PROXY"), &Outgoing::default(), serve).await;
    check_failed(&end, "reset", &[]);
}

#[tokio::test]
async fn a_connect_proxy_that_says_no_is_told_in_its_own_terms() {
    let no_credentials = "http://PROXY";
    let credentials = "http://root:hunter2@PROXY";
    for (proxy, answer, code, parts) in [
        (
            no_credentials,
            "407 No\r\nProxy-Authenticate: Basic realm=\"x\"",
            "proxy-auth",
            "wants a user name and a password (407",
        ),
        (no_credentials, "407 No", "proxy-auth", "wants a user name and a password"),
        (credentials, "407 No\r\nProxy-Authenticate: Basic", "proxy-auth", "does not take the user name and password"),
        (
            credentials,
            "407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM",
            "proxy-auth",
            "by Negotiate, NTLM, but only Basic is offered",
        ),
        (credentials, "401 No", "proxy-auth", "does not take the user name and password (401"),
        (no_credentials, "403 \u{202e}evil", "proxy-refused", "403 Forbidden (many proxies let only port 443 through)"),
        (no_credentials, "405 No", "proxy-refused", "405 Method Not Allowed"),
        (no_credentials, "502 No", "proxy-failed", "502 Bad Gateway: it does not reach the server"),
        (no_credentials, "503 No", "proxy-failed", "503 Service Unavailable"),
        (no_credentials, "302 Found\r\nLocation: http://login.example/", "proxy-failed", "a login page"),
        (no_credentials, "511 Login", "proxy-failed", "a login page"),
        (no_credentials, "99 x", "proxy-failed", "socks5://"),
    ] {
        let (end, _) = answered(proxy, &format!("HTTP/1.1 {answer}\r\n\r\nbody")).await;
        check_failed(&end, code, &["server.test:8080", "through the proxy http://127.0.0.1:", parts]);
        let message = end.reason.unwrap().message;
        assert!(!["hunter2", "root", "cm9vd", "evil"].iter().any(|secret| message.contains(secret)), "{message}");
    }
}

#[tokio::test]
async fn what_is_no_connect_proxy_is_told_as_that() {
    for (answer, part) in [
        ("", "it ended the connection instead of answering"),
        ("HTTP/1.1 200 OK\r\n", "it ended the connection within its answer"),
        ("\u{5}\u{1}\r\n\r\n", "write socks5:// instead of http://"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "write socks5:// instead of http://"),
        (&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000)), "a header that is too long"),
    ] {
        let (end, _) = answered("http://PROXY", answer).await;
        check_failed(&end, "proxy-failed", &[part]);
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up() {
    for proxy in ["http://PROXY", "socks5://PROXY"] {
        let patience = |target: &mut Target| {
            behind(proxy)(target);
            target.timeouts.proxy = Duration::from_millis(50);
        };
        let (end, ..) = meet(patience, &Outgoing::default(), hold).await;
        check_failed(&end, "proxy-failed", &["did not answer within 0.05 s"]);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_as_that() {
    let gone = target(&listener().await, behind("http://root:hunter2@PROXY"));
    let end = run(gone, &Outgoing::default(), |_| {}).await;
    check_failed(
        &end,
        "proxy-unreachable",
        &["cannot reach the proxy http://127.0.0.1:", "`proxy` in config.toml", "\"none\""],
    );
    assert!(!end.reason.unwrap().message.contains("hunter2"));
}

#[tokio::test]
async fn a_variable_that_names_no_proxy_is_told_and_the_server_is_not_asked_without_one() {
    let unusable = |target: &mut Target| {
        target.url = "ws://server.test/".parse().unwrap();
        let variables = [("HTTP_PROXY", "https://root:hunter2@proxy")].into_iter().collect();
        target.proxy_variables = Arc::new(crate::config::ProxyVariables::of(&variables));
    };
    let target = target(&listener().await, unusable);
    let end = run(target, &Outgoing::default(), |_| {}).await;
    check_failed(&end, "proxy-unusable", &["HTTP_PROXY must begin with http://"]);
    assert!(!end.reason.unwrap().message.contains("hunter2"));
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_the_server_by_name_with_or_without_credentials() {
    for (proxy, greeting) in [("socks5://PROXY", &[5, 1, 0][..]), ("socks5h://root:hunter2@PROXY", &[5, 2, 0, 2])] {
        let serve = async |mut stream: TcpStream| {
            let mut said = vec![0; greeting.len()];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(said, greeting);
            if greeting.contains(&2) {
                stream.write_all(&[5, 2]).await.unwrap();
                let mut said = [0; 14];
                stream.read_exact(&mut said).await.unwrap();
                assert_eq!(&said, b"\x01\x04root\x07hunter2");
                stream.write_all(&[1, 0]).await.unwrap();
            } else {
                stream.write_all(&[5, 0]).await.unwrap();
            }
            let mut said = [0; 18];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"\x05\x01\x00\x03\x0bserver.test\x1f\x90");
            // The address that a proxy tells may be of any kind.
            let bound: &[u8] = if greeting.contains(&2) { &[1, 0, 0, 0, 0, 0, 0] } else { b"\x03\x05proxy\x00\x00" };
            stream.write_all(&[&[5, 0, 0], bound].concat()).await.unwrap();
            let answer = accepted(&request(&mut stream).await);
            stream.write_all(&[answer.as_bytes(), &close_frame(1000, "")].concat()).await.unwrap();
            hold(stream).await;
        };
        let (end, ..) = meet(behind(proxy), &Outgoing::default(), serve).await;
        check(&end, "closed", Some(1000), None, None, &[]);
    }
}

#[tokio::test]
async fn a_socks_proxy_is_given_addresses_as_addresses() {
    for (host, expected) in
        [("10.1.2.3", &[1, 10, 1, 2, 3][..]), ("[fd00::1]", &[4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]
    {
        let to = |target: &mut Target| {
            behind("socks5://PROXY")(target);
            target.url = format!("ws://{host}:8080/").parse().unwrap();
        };
        let serve = async |mut stream: TcpStream| {
            stream.write_all(&[5, 0]).await.unwrap();
            let mut said = vec![0; 3 + 3 + expected.len() + 2];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(said[6..6 + expected.len()], *expected);
        };
        let (end, ..) = meet(to, &Outgoing::default(), serve).await;
        check_failed(&end, "proxy-failed", &["instead of answering"]);
    }
}

#[tokio::test]
async fn a_socks_proxy_that_says_no_is_told_in_words() {
    let credentials = "socks5://root:hunter2@PROXY";
    for (proxy, says, code, part) in [
        ("socks5://PROXY", &[5, 0xff][..], "proxy-auth", "wants a user name and a password"),
        (credentials, &[5, 0xff], "proxy-auth", "takes neither"),
        (credentials, &[5, 2, 1, 1], "proxy-auth", "does not take the user name and password"),
        ("socks5://PROXY", &[5, 2], "proxy-failed", "a way to log in that was not offered (2)"),
        ("socks5://PROXY", &[5, 0, 5, 1, 0, 1], "proxy-failed", "does not say why (SOCKS reply 1)"),
        ("socks5://PROXY", &[5, 0, 5, 2, 0, 1], "proxy-refused", "its rules do not allow this connection"),
        ("socks5://PROXY", &[5, 0, 5, 3, 0, 1], "proxy-failed", "no way to the network of the server"),
        ("socks5://PROXY", &[5, 0, 5, 4, 0, 1], "proxy-failed", "does not reach the server"),
        ("socks5://PROXY", &[5, 0, 5, 5, 0, 1], "proxy-failed", "nothing listens at that port"),
        ("socks5://PROXY", &[5, 0, 5, 6, 0, 1], "proxy-failed", "the way is too long"),
        ("socks5://PROXY", &[5, 0, 5, 7, 0, 1], "proxy-refused", "makes no TCP connections"),
        ("socks5://PROXY", &[5, 0, 5, 8, 0, 1], "proxy-refused", "does not take names"),
        ("socks5://PROXY", &[5, 0, 5, 99, 0, 1], "proxy-failed", "(SOCKS reply 99)"),
        ("socks5://PROXY", &[5, 0, 5, 0, 0, 9], "proxy-failed", "is not SOCKS 5"),
        ("socks5://PROXY", &[5, 0, 5, 0, 0, 1, 1], "proxy-failed", "instead of answering"),
        ("socks5://PROXY", &[4, 0], "proxy-failed", "something else than SOCKS 5"),
        ("socks5://PROXY", b"HTTP/1.1 400 Bad Request\r\n\r\n", "proxy-failed", "write http:// instead of socks5://"),
        ("socks5://PROXY", &[], "proxy-failed", "instead of answering"),
    ] {
        let end = socks(proxy, says).await;
        check_failed(&end, code, &["server.test:8080", "through the proxy socks5://127.0.0.1:", part]);
        assert!(!end.reason.unwrap().message.contains("hunter2"));
    }
}

#[tokio::test]
async fn a_probe_tells_the_proxy_and_that_it_has_connected() {
    let listener = listener().await;
    let target = target(&listener, behind("http://root:hunter2@PROXY"));
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    };
    let mut found = Vec::new();
    let (probed, ()) = tokio::join!(probe(&target, |step| found.push(step)), server);
    assert_eq!(probed.unwrap_err().code, "reset");
    let address = listener.local_addr().unwrap();
    assert_eq!(found, [Found::Proxy(format!("http://{address} (named by `proxy` in config.toml)")), Found::Tunnel]);
}
