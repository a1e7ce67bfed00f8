//! What host and daemon say to each other about the link itself: the header with which both introduce themselves, and
//! what it takes to move a port from one daemon to the next.
//!
//! Owns: the bytes of both, which are frozen: any two builds that ever meet must understand each other so far that the
//! newer can take over from the older. Otherwise a link carries native frames ([`super::frame`]), which are the extension's
//! and the daemon's. Does no I/O.
//!
//! # The header
//!
//! | bytes | meaning |
//! |---|---|
//! | 8 | magic, `wsbridge` |
//! | 2 | version of what follows the header, little endian |
//! | 2 | length of the build, little endian |
//! | 2 | length of the origin, little endian |
//! | … | the build, UTF-8: the version of the program that speaks |
//! | … | the origin, UTF-8: what the browser passed to the host; empty from the daemon and the command line |
//!
//! # The conversation of the command line
//!
//! Whoever calls with an empty origin asks in native frames, one answer for each request, whatever the version is:
//! `{"type":"status"}`; `{"type":"stop"}`, answered by `{"stopping": PID}`; `{"type":"hand-over","build":BUILD}`, answered
//! by `{"moving": PID}` if the build is newer than the daemon's own; `{"type":"send"}` with a `payload`, and
//! `{"type":"forget"}`, both with the `origin`, `profile`, `mode` and `session` that the status of a session has, answered by
//! that status afterwards; `{"type":"renew"}` with the `origin` and `session` whose credential in the keyring has changed, answered
//! by `{"sessions": COUNT}`, how many there are that use it. Anything else, and what cannot be done, is answered by `{"error": TEXT}`.
//!
//! # Moving a port
//!
//! Between two native frames may stand a [`Control`], which reaches neither extension nor sessions:
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | [`NO_LENGTH`] |
//! | 4 | length of the rest, little endian |
//! | 1 | which one it is |
//! | … | what belongs to it |
//!
//! A daemon that ends says [`Control::Stop`]; the host finishes the native frame that it is passing on and says
//! [`Control::Stopped`]. The daemon does what it was asked to do until then, keeps everything, sends what is left to be said,
//! and if another daemon follows, [`Control::Moved`], the last word on this link. The host calls the next daemon and begins
//! with [`Control::Resume`]; then it goes on where it was. The browser notices nothing.

use byteorder::{ByteOrder, LittleEndian};
use bytes::{Buf, BufMut as _, Bytes, BytesMut};

use super::frame::NO_LENGTH;

/// What a link begins with.
const MAGIC: &[u8; 8] = b"wsbridge";

/// Bytes before the build.
pub const FIXED: usize = 14;

/// The longest build or origin, in bytes.
pub const MAX_TEXT: usize = 1024;

/// The version of the conversation behind the header that this build speaks.
pub const VERSION: u16 = 1;

/// The longest rest of a [`Control`], in bytes: far more than the sessions of one port need.
pub const MAX_CONTROL: usize = 16 * 1024 * 1024;

/// Bytes before the rest of a [`Control`].
const CONTROL_PREFIX: usize = 8;

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

/// What host and daemon say to each other between native frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// To the host: end the native frame that you are passing on, if there is one, and begin no other.
    Stop,
    /// To the daemon: that was all.
    Stopped,
    /// To the host: another daemon goes on with this port.
    Moved {
        /// Bytes of native frames that were taken from this link, all of them whole. If the host has passed on more, it is lost.
        taken: u64,
        /// What the next daemon must know of the port, for [`Control::Resume`].
        port: Bytes,
    },
    /// To the daemon: the port was another daemon's until now, who says this of it ([`super::Resumption`]).
    Resume {
        /// What the other daemon said.
        port: Bytes,
    },
}

/// Why these bytes are no [`Control`] that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side says something that this version does not understand")]
pub struct ControlError;

impl Control {
    /// Appends its bytes.
    ///
    /// # Panics
    /// If what it says of a port has 4 GiB or more, which no port can need: see [`MAX_CONTROL`].
    pub fn put(&self, out: &mut BytesMut) {
        let (kind, taken, port) = match self {
            Self::Stop => (1, None, None),
            Self::Stopped => (2, None, None),
            Self::Moved { taken, port } => (3, Some(*taken), Some(port)),
            Self::Resume { port } => (4, None, Some(port)),
        };
        let rest = 1 + taken.map_or(0, |_| 8) + port.map_or(0, Bytes::len);
        out.put_u32_le(NO_LENGTH);
        out.put_u32_le(u32::try_from(rest).expect("what is said of a port is bounded far below 4 GiB"));
        out.put_u8(kind);
        out.extend(taken.map(u64::to_le_bytes).into_iter().flatten());
        out.extend_from_slice(port.map_or(&[], |port| port));
    }

    /// The one that `bytes` begin with, and how many of them it takes; `None` if it needs more than these, or none begins
    /// there at all.
    ///
    /// # Errors
    /// If it is unknown, malformed or too long.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, ControlError> {
        let Some(prefix) = bytes.first_chunk::<CONTROL_PREFIX>() else { return Ok(None) };
        if LittleEndian::read_u32(prefix) != NO_LENGTH {
            return Ok(None);
        }
        let length = LittleEndian::read_u32(&prefix[4..]) as usize;
        if length > MAX_CONTROL {
            return Err(ControlError);
        }
        let end = CONTROL_PREFIX + length;
        let Some(mut rest) = bytes.get(CONTROL_PREFIX..end) else { return Ok(None) };
        let kind = rest.try_get_u8().map_err(|_| ControlError)?;
        let control = match kind {
            1 if rest.is_empty() => Self::Stop,
            2 if rest.is_empty() => Self::Stopped,
            3 => {
                let taken = rest.try_get_u64_le().map_err(|_| ControlError)?;
                Self::Moved { taken, port: Bytes::copy_from_slice(rest) }
            }
            4 => Self::Resume { port: Bytes::copy_from_slice(rest) },
            _ => return Err(ControlError),
        };
        Ok(Some((control, end)))
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

    fn bytes_of(control: &Control) -> Vec<u8> {
        let mut out = BytesMut::new();
        control.put(&mut out);
        out.to_vec()
    }

    #[test]
    fn the_bytes_of_a_control_are_frozen() {
        let moved = Control::Moved { taken: 258, port: "{}".into() };
        let resume = Control::Resume { port: "{}".into() };
        assert_eq!(bytes_of(&Control::Stop), b"\xff\xff\xff\xff\x01\0\0\0\x01");
        assert_eq!(bytes_of(&Control::Stopped), b"\xff\xff\xff\xff\x01\0\0\0\x02");
        assert_eq!(bytes_of(&moved), b"\xff\xff\xff\xff\x0b\0\0\0\x03\x02\x01\0\0\0\0\0\0{}");
        assert_eq!(bytes_of(&resume), b"\xff\xff\xff\xff\x03\0\0\0\x04{}");
    }

    #[test]
    fn a_control_is_read_when_all_of_it_is_there_and_nothing_behind_it_is_taken() {
        let all = [
            Control::Stop,
            Control::Stopped,
            Control::Moved { taken: u64::MAX, port: Bytes::new() },
            Control::Moved { taken: 0, port: "{}".into() },
            Control::Resume { port: "{}".into() },
        ];
        for control in all {
            let mut bytes = bytes_of(&control);
            for end in 0..bytes.len() {
                assert_eq!(Control::read(&bytes[..end]), Ok(None), "{control:?} {end}");
            }
            let length = bytes.len();
            bytes.extend_from_slice(b"\x02\0\0\0{}");
            assert_eq!(Control::read(&bytes), Ok(Some((control, length))));
        }
    }

    #[test]
    fn what_is_no_control_is_none_and_a_damaged_one_is_refused() {
        assert_eq!(Control::read(b"\x02\0\0\0{}"), Ok(None));
        let with_rest = |rest: &[u8]| {
            let mut bytes = b"\xff\xff\xff\xff".to_vec();
            bytes.extend_from_slice(&u32::try_from(rest.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(rest);
            Control::read(&bytes)
        };
        for rest in [&b""[..], b"\0", b"\x05", b"\x01x", b"\x02x", b"\x031234567"] {
            assert_eq!(with_rest(rest), Err(ControlError), "{rest:?}");
        }
        assert_eq!(Control::read(b"\xff\xff\xff\xff\xff\xff\xff\xff"), Err(ControlError));
    }
}
