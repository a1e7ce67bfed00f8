//! What a server's certificates say, for people: whether to believe them is the system's verdict.
//!
//! Owns: remembering what was shown in a handshake ([`Watching`]) and reading the few fields of a certificate that explain a
//! refusal ([`Certificate`], RFC 5280 section 4.1). Judges nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

/// The certificates that a server has shown, its own first.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(Arc<Mutex<Option<Vec<Certificate>>>>);

impl Shown {
    /// What it was, if there was a handshake that came so far.
    pub(super) fn take(&self) -> Option<Vec<Certificate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Asks another verifier about everything, and remembers what that was asked about.
#[derive(Debug)]
pub(super) struct Watching<V> {
    verifier: V,
    shown: Shown,
}

impl<V> Watching<V> {
    pub(super) fn new(verifier: V, shown: Shown) -> Self {
        Self { verifier, shown }
    }
}

impl<V: ServerCertVerifier> ServerCertVerifier for Watching<V> {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificates = std::iter::once(own).chain(others).filter_map(|der| Certificate::read(der)).collect();
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificates);
        self.verifier.verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.verifier.root_hint_subjects()
    }
}

/// What a certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// Whether these are the same.
    pub is_self_signed: bool,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

impl Certificate {
    /// Reads a certificate; nothing of one that is none.
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(der)?;
        let (_, mut fields, _) = element(certificate)?;
        let mut next = || {
            let (tag, content, rest) = element(fields)?;
            fields = rest;
            Some((tag, content))
        };
        // The version is left out in those of the first.
        if next()?.0 == VERSION_TAG {
            next()?;
        }
        let _signature = next()?;
        let (_, issuer) = next()?;
        let (_, validity) = next()?;
        let (_, subject) = next()?;
        let (before_tag, not_before, rest) = element(validity)?;
        let (after_tag, not_after, _) = element(rest)?;
        Some(Self {
            subject: name(subject),
            issuer: name(issuer),
            is_self_signed: subject == issuer,
            not_before: time(before_tag, not_before)?,
            not_after: time(after_tag, not_after)?,
        })
    }
}

/// Products that put certificates of their own in the place of the servers', by words in the names of their authorities.
const INTERCEPTORS: &[(&str, &str)] = &[
    ("zscaler", "Zscaler"),
    ("netskope", "Netskope"),
    ("goskope", "Netskope"),
    ("fortinet", "Fortinet"),
    ("fortigate", "Fortinet"),
    ("palo alto", "Palo Alto Networks"),
    ("blue coat", "Blue Coat"),
    ("bluecoat", "Blue Coat"),
    ("cisco umbrella", "Cisco Umbrella"),
    ("check point", "Check Point"),
    ("sophos", "Sophos"),
    ("sonicwall", "SonicWall"),
    ("fireware", "WatchGuard"),
    ("barracuda", "Barracuda"),
    ("forcepoint", "Forcepoint"),
    ("websense", "Forcepoint"),
    ("mcafee", "McAfee"),
    ("skyhigh", "Skyhigh"),
    ("iboss", "iboss"),
    ("cloudflare managed", "Cloudflare Gateway"),
    ("gateway ca - cloudflare", "Cloudflare Gateway"),
    ("securly", "Securly"),
    ("lightspeed", "Lightspeed"),
    ("kaspersky", "Kaspersky"),
    ("eset ssl", "ESET"),
    ("avast", "Avast"),
    ("avg web", "AVG"),
    ("bitdefender", "Bitdefender"),
    ("adguard", "AdGuard"),
    ("mitmproxy", "mitmproxy"),
    ("charles proxy", "Charles"),
    ("fiddler", "Fiddler"),
    ("portswigger", "Burp"),
];

/// The product that seems to have made these certificates on the way, if it is a known one.
pub(super) fn interceptor(certificates: &[Certificate]) -> Option<&'static str> {
    let names = certificates.iter().flat_map(|certificate| [&certificate.subject, &certificate.issuer]);
    let names: Vec<String> = names.map(|name| name.to_lowercase()).collect();
    let is_named = |word: &str| names.iter().any(|name| name.contains(word));
    INTERCEPTORS.iter().find(|(word, _)| is_named(word)).map(|(_, product)| *product)
}

/// `[0]`, in which the version stands.
const VERSION_TAG: u8 = 0xa0;
/// A time with two digits of its year.
const UTC_TIME: u8 = 0x17;
/// `id-at-commonName`, and `id-at-organizationName`.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANISATION: &[u8] = &[0x55, 4, 10];

/// The first element: its tag, its content, and what follows it. None of those that are looked for has a tag of several
/// bytes.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let number =
            length.iter().try_fold(0_usize, |number, byte| number.checked_mul(256)?.checked_add((*byte).into()));
        (number?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A name for people: the common one, else the organisation's, else that there is none.
fn name(mut sets: &[u8]) -> String {
    let mut organisation = None;
    while let Some((_, set, rest)) = element(sets) {
        sets = rest;
        let Some((_, pair, _)) = element(set) else { break };
        let Some((_, kind, value)) = element(pair) else { break };
        let text = element(value).map(|(_, text, _)| String::from_utf8_lossy(text).into_owned());
        match (kind, text) {
            (COMMON_NAME, Some(text)) => return text,
            (ORGANISATION, Some(text)) => organisation = Some(text),
            _ => {}
        }
    }
    organisation.unwrap_or_else(|| "no name".to_owned())
}

/// A moment in seconds since 1970: `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let (year, rest) = text.split_at_checked(if tag == UTC_TIME { 2 } else { 4 })?;
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<i64>().ok();
    let mut year = number(year)?;
    if tag == UTC_TIME {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let mut pairs = rest.chunks_exact(2).map(number);
    let mut next = || pairs.next()?;
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01 in the Gregorian calendar, counting years from March so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 306 days lie between March and January, and the 1st of March of the year 0 is 719 468 days before 1970.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

impl Certificate {
    /// Its names, as far as an error has room for them: whoever made it chose them.
    pub(super) fn shown(&self) -> String {
        const LONGEST: usize = 160;
        let text = self.to_string();
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = if self.is_self_signed { "itself" } else { &self.issuer };
        write!(f, "{} (by {issuer})", self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Certificate {
        let mut params = rcgen::CertificateParams::new(["example.org".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a server");
        change(&mut params);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        Certificate::read(made.der()).unwrap()
    }

    #[test]
    fn names_and_times_are_read() {
        let found = certificate(|params| {
            params.not_before = rcgen::date_time_ymd(2001, 2, 3);
            params.not_after = rcgen::date_time_ymd(2100, 3, 1);
        });
        assert_eq!(
            (found.subject.as_str(), found.issuer.as_str(), found.is_self_signed),
            ("a server", "a server", true)
        );
        // date -u -d 2001-02-03 +%s, date -u -d 2100-03-01 +%s
        assert_eq!((found.not_before, found.not_after), (981_158_400, 4_107_542_400));
        assert_eq!(found.to_string(), "a server (by itself)");
        let found = certificate(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, "many");
        });
        assert_eq!(found.subject, "many");
    }

    #[test]
    fn a_product_that_opens_encrypted_connections_is_known_by_its_authority() {
        let made_by = |name: &str| {
            let found = certificate(|params| params.distinguished_name.push(rcgen::DnType::CommonName, name));
            interceptor(&[found])
        };
        assert_eq!(made_by("Zscaler Intermediate Root CA (zscaler.net)"), Some("Zscaler"));
        assert_eq!(made_by("DO_NOT_TRUST_FiddlerRoot"), Some("Fiddler"));
        assert_eq!(made_by("Example Private CA"), None);
        assert_eq!(interceptor(&[]), None);
    }

    #[test]
    fn what_is_cut_off_or_none_is_nothing_and_ends() {
        let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let der = made.cert.der();
        assert!(Certificate::read(der).is_some());
        for length in 0..der.len() {
            assert_eq!(Certificate::read(&der[..length]), None);
        }
        let _ = Certificate::read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]);
    }
}
