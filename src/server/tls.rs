//! From a connection to an encrypted one.
//!
//! Owns: what is believed and shown in the handshake (the system's authorities, and the files that the configuration names), and
//! what to say when it fails. What a certificate says about itself reads `certificate`.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_platform_verifier::Verifier;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::certificate::{Certificate, Shown, Watching, interceptor};
use super::dial::{Transport, explain};
use super::{Found, Target};
use crate::config::TlsFiles;
use crate::os;
use crate::wire::Reason;

/// The largest file of certificates or keys, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why there is nothing to encrypt with.
enum Fault {
    /// A file that the configuration names cannot be used.
    File(String),
    /// Anything else.
    Other(String),
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// Encrypts a connection to the server.
pub(super) async fn encrypt(
    target: &Target,
    stream: Box<dyn Transport>,
    found: &mut impl FnMut(Found),
) -> Result<TlsStream<Box<dyn Transport>>, Reason> {
    let (url, files, limit) = (&target.url, &target.way.tls, target.timeouts.tls);
    let host = url.host_str().unwrap_or_default();
    let failed = |what: String| Reason::new("tls", format!("no encrypted connection to {host}: {what}"));
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| failed(error.to_string()))?;
    let shown = Shown::default();
    let encrypting = async {
        // Read anew for each connection: the roots of the system change while a daemon lives for weeks. It takes
        // milliseconds of a thread that has nothing else to do, or long where a system asks others about them.
        let (seen, read) = (shown.clone(), files.clone());
        let config = tokio::task::spawn_blocking(move || config(seen, &read))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|fault| match fault {
                Fault::File(message) => Reason::new("tls-file", message),
                Fault::Other(what) => failed(what),
            })?;
        Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await)
    };
    let encrypted = timeout(limit, encrypting).await;
    let certificates = shown.take().unwrap_or_default();
    // Also those that were refused, and most of all those.
    if !certificates.is_empty() {
        found(Found::Certificates(certificates.clone()));
    }
    let stream = match encrypted {
        Ok(result) => result?.map_err(|error| {
            let cause = refusal(&error, files).or_else(|| distrust(&error, &certificates));
            let cause = cause.map(|cause| format!("; {cause}")).unwrap_or_default();
            failed(explain(&error) + &cause)
        })?,
        Err(_) => return Err(failed(took_too_long(limit))),
    };
    found(Found::Encrypted);
    Ok(stream)
}

fn took_too_long(limit: Duration) -> String {
    format!("certificates and handshake took longer than {} s", limit.as_secs_f32())
}

fn config(shown: Shown, files: &TlsFiles) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match &files.ca_file {
        Some(path) => {
            let roots = certificates("tls.ca_file", path)?;
            Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
                .map_err(|error| unusable("tls.ca_file", path, &format!("not all in it are certificates: {error}")))?
        }
        None => Verifier::new(Arc::clone(&provider))?,
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // What is unusual about it is that it remembers what it was shown; the verdict is the system's.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Watching::new(verifier, shown)));
    let Some((cert, key_file)) = &files.client else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = (certificates("tls.client_cert", cert)?, key(key_file)?);
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        let what =
            format!("it is not the key of the certificate in {}, or of an unknown kind: {error}", cert.display());
        unusable("tls.client_key", key_file, &what)
    })
}

fn unusable(setting: &str, path: &Path, what: &str) -> Fault {
    let path = path.display();
    Fault::File(format!("cannot use {path}, which `{setting}` in config.toml names: {what}"))
}

fn read(setting: &str, path: &Path, is_key: bool) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut pem = Zeroizing::new(Vec::new());
    let reading = std::fs::File::open(path).and_then(|file| {
        if is_key {
            os::check_key_file(&file, path)?;
        }
        file.take(MAX_FILE).read_to_end(&mut pem)
    });
    match reading {
        Ok(_) => Ok(pem),
        Err(error) => Err(unusable(setting, path, &error.to_string())),
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem = read(setting, path, false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(setting, path, "there is no certificate in it (-----BEGIN CERTIFICATE-----)")),
        Err(error) => Err(unusable(setting, path, &format!("it is damaged: {error}"))),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let setting = "tls.client_key";
    let pem = read(setting, path, true)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let is_encrypted = pem.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED");
        unusable(
            setting,
            path,
            &match error {
                PemError::NoItemsFound if is_encrypted => {
                    "the key in it is locked with a password, which nobody could type; unlock it: openssl pkey -in FILE"
                        .to_owned()
                }
                PemError::NoItemsFound => "there is no key in it (-----BEGIN PRIVATE KEY-----)".to_owned(),
                // Not its words: parts of the file may be in them.
                _ => "it is damaged".to_owned(),
            },
        )
    })
}

/// What a server's alert means for the certificate of this side; nothing if it is about something else.
pub(super) fn refusal(error: &io::Error, files: &TlsFiles) -> Option<String> {
    use AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = of_tls(error)? else { return None };
    match (alert, files.client.is_some()) {
        (Alert::CertificateRequired | Alert::HandshakeFailure | Alert::BadCertificate, false) => Some(
            "the server may want a certificate of this side; name it as `tls.client_cert` and `tls.client_key` in config.toml"
                .to_owned(),
        ),
        (
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
            true,
        ) => Some("the server does not take the certificate of `tls.client_cert` in config.toml; renew or replace it".to_owned()),
        _ => None,
    }
}

/// Why a certificate that nobody vouches for may be there, and what to do.
fn distrust(error: &io::Error, certificates: &[Certificate]) -> Option<String> {
    if !matches!(of_tls(error)?, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) {
        return None;
    }
    let last = certificates.last()?;
    let trust = "add its authority to those that this system trusts, or name its file as `tls.ca_file` in config.toml";
    Some(match interceptor(certificates) {
        Some(product) => {
            format!("{product} seems to open encrypted connections on the way, as {}: {trust}", last.shown())
        }
        None => {
            let shown = last.shown();
            format!(
                "nobody whom this system trusts vouches for {shown}; if the server or this network has an authority of its own, {trust}"
            )
        }
    })
}

/// The error of TLS that an error of the connection really is.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.source()?.downcast_ref())
}
