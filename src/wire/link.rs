//! The header with which both ends of a link introduce themselves.
//!
//! Owns: its bytes, which are frozen: any two builds that ever meet must be able to read each other's header, so
//! that the newer can take over from the older. What follows it on the link are native frames
//! ([`super::frame`]). Does no I/O.
//!
//! | bytes | meaning |
//! |---|---|
//! | 8 | magic, `wsbridge` |
//! | 2 | version of what follows the header, little endian |
//! | 2 | length of the build, little endian |
//! | 2 | length of the origin, little endian |
//! | … | the build, UTF-8: the version of the program that speaks |
//! | … | the origin, UTF-8: what the browser passed to the host; empty from the daemon and the command line |

use byteorder::{ByteOrder, LittleEndian};

/// What a link begins with.
const MAGIC: &[u8; 8] = b"wsbridge";

/// Bytes before the build.
pub const FIXED: usize = 14;

/// The longest build or origin, in bytes.
pub const MAX_TEXT: usize = 1024;

/// The version of the conversation behind the header that this build speaks.
pub const VERSION: u16 = 1;

/// How one end of a link introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the conversation that follows.
    pub version: u16,
    /// Version of the program.
    pub build: String,
    /// The extension that a host speaks for; empty if none.
    pub origin: String,
}

/// Why these bytes are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else listens there, or something else called.
    #[error("the other side does not speak websocket-bridge's link")]
    Foreign,
    /// A build or an origin beyond [`MAX_TEXT`], or not UTF-8.
    #[error("the other side's header is damaged")]
    Damaged,
}

impl Header {
    /// The header of this build, speaking for `origin`.
    #[must_use]
    pub fn new(origin: &str) -> Self {
        Self { version: VERSION, build: env!("CARGO_PKG_VERSION").to_owned(), origin: origin.to_owned() }
    }

    /// The bytes of this header.
    ///
    /// # Errors
    /// [`HeaderError::Damaged`] if build or origin are too long to be sent.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        if self.build.len() > MAX_TEXT || self.origin.len() > MAX_TEXT {
            return Err(HeaderError::Damaged);
        }
        let mut bytes = MAGIC.to_vec();
        for number in [usize::from(self.version), self.build.len(), self.origin.len()] {
            bytes.extend_from_slice(&u16::try_from(number).map_err(|_| HeaderError::Damaged)?.to_le_bytes());
        }
        bytes.extend_from_slice(self.build.as_bytes());
        bytes.extend_from_slice(self.origin.as_bytes());
        Ok(bytes)
    }

    /// How many bytes follow the first [`FIXED`] ones.
    ///
    /// # Errors
    /// If they cannot be the beginning of a header.
    pub fn rest(fixed: &[u8; FIXED]) -> Result<usize, HeaderError> {
        let (build, origin) = lengths(fixed)?;
        Ok(build + origin)
    }

    /// Reads a header from its two parts, see [`Header::rest`].
    ///
    /// # Errors
    /// If they are not one.
    pub fn decode(fixed: &[u8; FIXED], rest: &[u8]) -> Result<Self, HeaderError> {
        let (build, origin) = lengths(fixed)?;
        if rest.len() != build + origin {
            return Err(HeaderError::Damaged);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| HeaderError::Damaged);
        Ok(Self {
            version: LittleEndian::read_u16(&fixed[8..]),
            build: text(&rest[..build])?,
            origin: text(&rest[build..])?,
        })
    }
}

fn lengths(fixed: &[u8; FIXED]) -> Result<(usize, usize), HeaderError> {
    if !fixed.starts_with(MAGIC) {
        return Err(HeaderError::Foreign);
    }
    let build = usize::from(LittleEndian::read_u16(&fixed[10..]));
    let origin = usize::from(LittleEndian::read_u16(&fixed[12..]));
    if build > MAX_TEXT || origin > MAX_TEXT {
        return Err(HeaderError::Damaged);
    }
    Ok((build, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_header_are_frozen() {
        let header = Header { version: 1, build: "0.1.0".into(), origin: "a@b".into() };
        assert_eq!(header.encode().unwrap(), b"wsbridge\x01\x00\x05\x00\x03\x000.1.0a@b");
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let header = Header::new("chrome-extension://abcdefghijklmnopabcdefghijklmnop/");
        let bytes = header.encode().unwrap();
        let (fixed, rest) = bytes.split_first_chunk().unwrap();
        assert_eq!(Header::rest(fixed), Ok(rest.len()));
        assert_eq!(Header::decode(fixed, rest), Ok(header));
    }

    #[test]
    fn another_protocol_and_an_oversized_claim_are_refused() {
        assert_eq!(Header::rest(b"GET / HTTP/1.1"), Err(HeaderError::Foreign));
        assert_eq!(Header::rest(b"wsbridge\x01\x00\xff\xff\x00\x00"), Err(HeaderError::Damaged));
    }
}
