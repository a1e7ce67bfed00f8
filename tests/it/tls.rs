//! Encrypted connections: against the roots of the system and the files of the configuration, and never without a proof.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::settings::write_config;
use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
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

/// A PEM file in the machine's home, closed to others.
fn pem_file(machine: &Sandbox, name: &str, pem: &str) -> PathBuf {
    let file = machine.home().join(name);
    std::fs::write(&file, pem).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    file
}

/// Has the session `default` use these files with a server.
fn configure(machine: &Sandbox, url: &str, tls: &str) {
    let section = format!("[origins.\"{ORIGIN}\".sessions.default]\nurl = \"{url}\"\ntls = {{ {tls} }}\n");
    write_config(machine, &section);
}

/// Opens the session of the configuration, which is to be connected soon after each loss.
fn open(machine: &Sandbox) -> Browser {
    let mut port = machine.port();
    let settings = json!({"reconnect": {"first_ms": 100, "max_ms": 100, "burst": 100}});
    port.post(json!({"type": "open", "settings": settings}));
    port
}

/// Waits for a reason with these words: those before it may be about what was so until just now.
fn wait_for_reason(port: &mut Browser, code: &str, parts: &[&str]) {
    port.wait_for(&format!("{code} {parts:?}"), |message| {
        let said = message["reason"]["message"].as_str().unwrap_or_default();
        message["reason"]["code"] == code && parts.iter().all(|part| said.contains(part))
    });
}

#[test]
fn an_authority_of_the_configuration_is_believed_besides_those_of_the_system() {
    let ((system, system_tls), (own, own_tls)) = (certificate(&["localhost"]), certificate(&["localhost"]));
    let (machine, server) = (machine_that_trusts(&system), Server::start());
    let file = pem_file(&machine, "own.pem", &own);
    let url = format!("wss://localhost:{}/", server.address().port());
    configure(&machine, &url, &format!("ca_file = '{}'", file.display()));
    let mut port = open(&machine);
    for tls in [own_tls, system_tls] {
        let stream = rustls::StreamOwned::new(rustls::ServerConnection::new(tls).unwrap(), server.accept_tcp());
        let mut socket = tungstenite::accept(stream).unwrap();
        socket.send(Message::text("1")).unwrap();
        port.wait_for_type("message");
    }
    // Read anew: what is in the file now is what counts.
    std::fs::write(&file, "").unwrap();
    wait_for_reason(&mut port, "tls-file", &[&file.display().to_string(), "`tls.ca_file`", "no certificate in it"]);
}

#[test]
fn a_server_that_wants_a_certificate_of_this_side_gets_the_one_of_the_configuration() {
    let (pem, _) = certificate(&["localhost"]);
    let machine = machine_that_trusts(&pem);
    let key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(["client".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut believed = rustls::RootCertStore::empty();
    believed.add(client.der().clone()).unwrap();
    let (ca, tls) = certificate_for_clients_of(&["localhost"], believed);
    let ca = pem_file(&machine, "ca.pem", &ca);
    let server = Server::start();
    let url = format!("wss://localhost:{}/", server.address().port());
    let serve = || {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        tungstenite::accept(rustls::StreamOwned::new(connection, server.accept_tcp())).ok()
    };
    configure(&machine, &url, &format!("ca_file = '{}'", ca.display()));
    let mut port = open(&machine);
    assert!(serve().is_none());
    wait_for_reason(&mut port, "tls", &["`tls.client_cert` and `tls.client_key` in config.toml"]);
    // Both may be in one file.
    let both = pem_file(&machine, "client.pem", &(client.pem() + &key.serialize_pem()));
    let with_client = format!("ca_file = '{}', client_cert = '{1}', client_key = '{1}'", ca.display(), both.display());
    configure(&machine, &url, &with_client);
    let mut socket = std::iter::repeat_with(serve).flatten().next().unwrap();
    socket.send(Message::text("1")).unwrap();
    port.wait_for_type("message");
    drop(socket);
    // Another key than the certificate's, one that others may read, one that is locked, none.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&both, client.pem() + &other).unwrap();
    wait_for_reason(&mut port, "tls-file", &["client.pem", "not the key of the certificate"]);
    std::fs::set_permissions(&both, PermissionsExt::from_mode(0o640)).unwrap();
    wait_for_reason(&mut port, "tls-file", &["others may use this key (mode 640); run: chmod 600"]);
    std::fs::set_permissions(&both, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&both, client.pem() + &other.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap();
    wait_for_reason(&mut port, "tls-file", &["locked with a password", "openssl pkey"]);
    std::fs::remove_file(&both).unwrap();
    wait_for_reason(&mut port, "tls-file", &["client.pem", "`tls.client_cert`"]);
}

/// A certificate, and the server's side of TLS with it for those clients that show one of these.
fn certificate_for_clients_of(names: &[&str], believed: rustls::RootCertStore) -> (String, Arc<rustls::ServerConfig>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(believed), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (cert.pem(), Arc::new(config))
}

#[test]
fn a_product_that_opens_encrypted_connections_is_named_with_what_to_do() {
    let (other, _) = certificate(&["localhost"]);
    for (authority, expected) in [
        ("Zscaler Root CA", "Zscaler seems to open encrypted connections"),
        ("Private CA", "nobody whom this system trusts"),
    ] {
        let (_, tls) = certificate_with(&["localhost"], |params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        });
        let (machine, server) = (machine_that_trusts(&other), Server::start());
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": format!("wss://localhost:{}/", server.address().port())}));
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(tls).unwrap(), server.accept_tcp());
        assert!(stream.read(&mut [0]).is_err());
        wait_for_reason(&mut port, "tls", &[expected, authority, "`tls.ca_file` in config.toml"]);
    }
}
