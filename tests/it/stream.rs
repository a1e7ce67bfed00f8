//! Messages through host, daemon and WebSocket, both ways, as they came.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::sandbox::Sandbox;
use crate::support::server::Server;

/// JSON that a parser and a printer would not leave alone.
const DELICATE: &str = r#"{"n":12345678901234567890,"a":1,"a":2,"s":"\u0000\ud83d\ude00"}"#;

#[test]
fn a_message_goes_all_the_way_and_back_unchanged() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url(), "ref": "r1"}));
    let mut connection = server.accept();
    let opened = port.wait_for_type("opened");
    assert_eq!((&opened["session"], &opened["ref"]), (&json!("default"), &json!("r1")));
    assert_eq!(connection.request.headers()["origin"], "chrome-extension://abcdefghijklmnopabcdefghijklmnop");

    port.post_bytes(format!(r#"{{"type":"send","session":"default","payload":{DELICATE}}}"#).as_bytes());
    assert_eq!(connection.next(), Message::text(DELICATE));

    connection.send(Message::text(DELICATE));
    let frame = loop {
        let frame = String::from_utf8(port.next_bytes().unwrap()).unwrap();
        if frame.contains(r#""type":"message""#) {
            break frame;
        }
    };
    assert!(frame.contains(&format!(r#""payload":{DELICATE}"#)), "{frame}");
    let message: Value = serde_json::from_str(&frame).unwrap();
    assert_eq!((&message["seq"], message["at"].is_u64()), (&json!(1), true));
}
