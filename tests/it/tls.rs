//! Encrypted connections: against the roots of the system, and never without a proof.

use std::io::Read as _;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::sandbox::Sandbox;
use crate::support::server::Server;

/// A certificate for `localhost` and the server's side of TLS with it.
pub(crate) fn certificate(names: &[&str]) -> (String, Arc<rustls::ServerConfig>) {
    certificate_with(names, |_| {})
}

/// The same with something else about it.
pub(crate) fn certificate_with(
    names: &[&str],
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> (String, Arc<rustls::ServerConfig>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (cert.pem(), Arc::new(config))
}

/// A machine whose system trusts this certificate.
pub(crate) fn machine_that_trusts(pem: &str) -> Sandbox {
    let directory = tempfile::tempdir().unwrap().keep();
    let file = directory.join("roots.pem");
    std::fs::write(&file, pem).unwrap();
    Sandbox::new().with("SSL_CERT_FILE", file.to_str().unwrap()).with("SSL_CERT_DIR", directory.to_str().unwrap())
}

#[test]
fn a_server_with_a_certificate_that_the_system_trusts_is_spoken_to() {
    let (pem, config) = certificate(&["localhost"]);
    let (machine, server) = (machine_that_trusts(&pem), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": format!("wss://localhost:{}/chat", server.address().port())}));
    let stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), server.accept_tcp());
    let mut socket = tungstenite::accept(stream).unwrap();
    socket.send(Message::text("\"secret\"")).unwrap();
    assert_eq!(port.wait_for_type("message")["payload"], "secret");
    port.post(json!({"type": "send", "payload": "back"}));
    assert_eq!(socket.read().unwrap(), Message::text("\"back\""));
}

#[test]
fn a_certificate_that_nobody_vouches_for_or_of_another_name_is_refused() {
    let (other, _) = certificate(&["localhost"]);
    let (pem, wrong_name) = certificate(&["example.org"]);
    let (_, unknown) = certificate(&["localhost"]);
    for (trusted, config) in [(other, unknown), (pem, wrong_name)] {
        let (machine, server) = (machine_that_trusts(&trusted), Server::start());
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": format!("wss://localhost:{}/", server.address().port())}));
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), server.accept_tcp());
        assert!(stream.read(&mut [0]).is_err());
        let told = port.wait_for("a reason", |message| message["reason"]["code"] == "tls");
        let message = told["reason"]["message"].as_str().unwrap();
        assert!(message.contains("localhost") && message.contains("certificate"), "{message}");
    }
}
