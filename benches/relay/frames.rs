//! Frames of both kinds, by hand: native messages and WebSocket messages.
//!
//! Owns: cutting what was read into frames, and putting frames together. What a frame says is opaque, and there is no
//! more than is needed to be the fastest thing to compare with: no fragments, no extensions, no checks.

use std::io::{self, ErrorKind, Read};

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Bytes read at once: what a pipe holds on Linux.
pub(crate) const READ: usize = 64 * 1024;

/// Bytes of the length in front of a native message.
const PREFIX: usize = 4;

/// What was read and is not yet taken.
pub(crate) struct Input<From> {
    from: From,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// A WebSocket message, or a control frame.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a mut [u8],
    key: Option<[u8; 4]>,
}

impl<From: Read> Input<From> {
    pub(crate) fn new(from: From) -> Self {
        Self { from, buffer: vec![0; 4 * READ], start: 0, end: 0 }
    }

    /// Reads once. Returns whether anything came: if not, the stream is over.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        if self.start == self.end || self.buffer.len() - self.end < READ {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() - self.end < READ {
                self.buffer.resize(self.end + 4 * READ, 0);
            }
        }
        let length = loop {
            match self.from.read(&mut self.buffer[self.end..][..READ]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += length;
        Ok(length > 0)
    }

    /// The next whole native message.
    pub(crate) fn native(&mut self) -> Option<&[u8]> {
        let &prefix = self.buffer[self.start..self.end].first_chunk::<PREFIX>()?;
        let frame = self.take(PREFIX, u32::from_ne_bytes(prefix) as usize)?;
        Some(frame)
    }

    /// The next whole WebSocket frame, as it came: masked if its sender has masked it.
    pub(crate) fn websocket(&mut self) -> Option<Frame<'_>> {
        let bytes = &self.buffer[self.start..self.end];
        let &[first, second] = bytes.first_chunk::<2>()?;
        let (mut header, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk()?)).ok()?),
            short => (2, usize::from(short)),
        };
        let key = if second & 0x80 == 0 { None } else { Some(*bytes.get(header..)?.first_chunk()?) };
        header += key.map_or(0, |key| key.len());
        Some(Frame { opcode: first & 0x0f, payload: self.take(header, length)?, key })
    }

    /// The next whole message of either kind: `length` bytes behind a header.
    fn take(&mut self, header: usize, length: usize) -> Option<&mut [u8]> {
        let start = self.start + header;
        let end = start.checked_add(length).filter(|end| *end <= self.end)?;
        self.start = end;
        Some(&mut self.buffer[start..end])
    }
}

impl Frame<'_> {
    /// Takes the mask off.
    pub(crate) fn unmask(&mut self) {
        if let Some(key) = self.key.take() {
            mask(self.payload, key);
        }
    }
}

/// Appends a native message.
pub(crate) fn put_native(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&u32::try_from(length).expect("messages are far below 4 GiB").to_ne_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends a WebSocket frame, masked if there is a key: a client's must be.
pub(crate) fn put_websocket(out: &mut Vec<u8>, opcode: u8, payload: &[u8], key: Option<[u8; 4]>) {
    out.push(0x80 | opcode);
    let masked = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => out.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
}

/// Masks and unmasks.
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = (u64::from(u32::from_ne_bytes(key)) << 32) | u64::from(u32::from_ne_bytes(key));
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}
