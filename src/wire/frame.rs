//! The browser's framing: a 32-bit length in native byte order, then that many bytes of UTF-8 JSON.
//!
//! Owns: cutting a byte stream into frames, and putting the length in front of one. Does no I/O and knows
//! nothing of what a frame says. The rules and limits are the browsers'
//! (<https://developer.chrome.com/docs/extensions/develop/concepts/native-messaging>).

use byteorder::{ByteOrder, NativeEndian};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of the length in front of each frame.
pub const PREFIX: usize = 4;

/// The longest frame that a browser takes from a host, in bytes: one more and it closes the port.
pub const MAX_TO_EXTENSION: usize = 1024 * 1024;

/// The longest frame that an extension may send, in bytes (Chromium's own limit; Firefox's is far higher).
pub const MAX_FROM_EXTENSION: usize = 64 * 1024 * 1024;

/// A length that no frame has, in any byte order. On a link it announces what host and daemon have to say to each other
/// ([`super::link::Control`]); no browser sends it.
pub const NO_LENGTH: u32 = u32::MAX;

/// What can be wrong with a stream of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame announces more bytes than allowed. Its bytes are passed over; the frames behind it are read on.
    #[error("a message of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended inside a frame: whoever wrote it was cut off.
    #[error("the stream ended inside a message, {missing} bytes before its end")]
    Torn {
        /// Bytes that were announced and did not come; for a cut-off length, the bytes of the length.
        missing: usize,
    },
    /// What comes next is no frame: it begins with [`NO_LENGTH`], and stays until it is passed over ([`Decoder::rest`],
    /// [`Decoder::pass_over`]).
    #[error("what comes next is no message")]
    NoFrame,
}

/// Cuts what was read into frames.
///
/// Read into [`Decoder::buffer`], then call [`Decoder::next`] until it gives `None`. A frame that is too long is
/// reported as soon as its length is known, before anything is allocated for it, and then skipped.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
    /// Bytes of a frame that was too long and that are still to be passed over.
    skip: usize,
}

/// Room that is made for the next read; a frame that is known to be longer gets room for more, see [`MAX_READ`].
const MIN_READ: usize = 16 * 1024;

/// Room for one read at the most: a length is only a claim, so memory follows the bytes that really come.
const MAX_READ: usize = 1024 * 1024;

impl Decoder {
    /// A decoder for frames of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit, skip: 0 }
    }

    /// The place to read into, with room for at least one sensible read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let announced = self.announced().filter(|length| *length != NO_LENGTH as usize);
        let missing = announced.map_or(0, |length| length.saturating_sub(self.buffer.len() - PREFIX));
        self.buffer.reserve(missing.clamp(MIN_READ, MAX_READ));
        &mut self.buffer
    }

    /// The next whole frame, without its length; `None` until more is read.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], once for each such frame; decoding goes on behind it. [`FrameError::NoFrame`], until it is
    /// passed over.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at None; this one waits for bytes")]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.skip > 0 {
            let passed = self.skip.min(self.buffer.len());
            self.buffer.advance(passed);
            self.skip -= passed;
        }
        let Some(length) = self.announced() else { return Ok(None) };
        if length > self.limit {
            if length == NO_LENGTH as usize {
                return Err(FrameError::NoFrame);
            }
            self.buffer.advance(PREFIX);
            self.skip = length;
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let frame = self.buffer.split_to(length).freeze();
        if length > MIN_READ {
            // What is read next, or has been read already, would otherwise lie in the large frame's memory, and a few
            // bytes that wait there for long would keep all of it.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(frame))
    }

    /// What was read behind the last frame.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// Goes on behind the next `count` bytes of that.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn pass_over(&mut self, count: usize) {
        self.buffer.advance(count);
    }

    /// To be asked when the stream has ended: was that between two frames?
    ///
    /// # Errors
    /// [`FrameError::Torn`] if it was not.
    pub fn finish(&self) -> Result<(), FrameError> {
        let missing = match self.announced() {
            _ if self.skip > 0 => self.skip,
            Some(length) => (PREFIX + length).saturating_sub(self.buffer.len()),
            None if self.buffer.is_empty() => return Ok(()),
            None => PREFIX - self.buffer.len(),
        };
        Err(FrameError::Torn { missing })
    }

    fn announced(&self) -> Option<usize> {
        if self.skip > 0 || self.buffer.len() < PREFIX {
            return None;
        }
        Some(NativeEndian::read_u32(&self.buffer) as usize)
    }
}

/// Knows where in a stream of frames it is, and keeps nothing of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tracker {
    /// Bytes of the present frame that are still to come.
    left: usize,
}

impl Tracker {
    /// Goes on through `bytes`. Returns how many of them it has passed: all that belongs to frames, but for a length at the
    /// end that is cut off, which is to be given again with what comes behind it. What begins with [`NO_LENGTH`] is not
    /// passed.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        loop {
            let here = self.left.min(bytes.len() - passed);
            passed += here;
            self.left -= here;
            let Some(prefix) = bytes[passed..].first_chunk() else { return passed };
            let length = u32::from_ne_bytes(*prefix);
            if length == NO_LENGTH {
                return passed;
            }
            self.left = PREFIX.saturating_add(length as usize);
        }
    }

    /// How many bytes are still to come before the present frame ends: none between two frames.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }
}

/// Appends a frame whose body `write` puts into the buffer, in place: no copy, no second buffer.
///
/// # Panics
/// If the body is longer than 4 GiB, which no caller can produce: bodies are bounded by [`MAX_FROM_EXTENSION`].
pub fn put(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_bytes(0, PREFIX);
    write(buffer);
    set_length(buffer, start);
}

/// Sets the length of the frame that begins at `start` and ends where the buffer ends.
pub(crate) fn set_length(buffer: &mut BytesMut, start: usize) {
    let length = u32::try_from(buffer.len() - start - PREFIX).expect("frames are bounded far below 4 GiB");
    NativeEndian::write_u32(&mut buffer[start..start + PREFIX], length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(bodies: &[Vec<u8>]) -> BytesMut {
        let mut stream = BytesMut::new();
        for body in bodies {
            put(&mut stream, |buffer| buffer.put_slice(body));
        }
        stream
    }

    /// What a reader of `stream` sees that gets it in pieces of the given sizes.
    fn decoded(stream: &[u8], pieces: &[usize], limit: usize) -> (Vec<Result<Vec<u8>, FrameError>>, Decoder) {
        let mut decoder = Decoder::new(limit);
        let mut seen = Vec::new();
        let mut rest = stream;
        let mut sizes = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            decoder.buffer().extend_from_slice(&rest[..size]);
            rest = &rest[size..];
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => seen.push(Ok(frame.to_vec())),
                    Ok(None) => break,
                    Err(error) => seen.push(Err(error)),
                }
            }
        }
        (seen, decoder)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in proptest::collection::vec(1usize..100, 1..20),
        ) {
            let (seen, decoder) = decoded(&encoded(&bodies), &pieces, 300);
            prop_assert_eq!(seen, bodies.into_iter().map(Ok).collect::<Vec<_>>());
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn a_frame_over_the_limit_is_told_once_and_those_behind_it_are_read(
            before in proptest::collection::vec(any::<u8>(), 0..50),
            long in proptest::collection::vec(any::<u8>(), 51..400),
            after in proptest::collection::vec(any::<u8>(), 0..50),
            pieces in proptest::collection::vec(1usize..100, 1..20),
        ) {
            let length = long.len();
            let (seen, decoder) = decoded(&encoded(&[before.clone(), long, after.clone()]), &pieces, 50);
            prop_assert_eq!(seen, vec![Ok(before), Err(FrameError::TooLong { length, limit: 50 }), Ok(after)]);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn an_end_inside_a_frame_is_told_from_a_clean_one(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6),
            cut in 1usize..64,
        ) {
            let stream = encoded(&bodies);
            let last = bodies.last().map_or(0, Vec::len) + PREFIX;
            let cut = cut.min(last - 1).max(1);
            if cut < last {
                let (_, decoder) = decoded(&stream[..stream.len() - cut], &[7], 60);
                let torn = matches!(decoder.finish(), Err(FrameError::Torn { .. }));
                prop_assert!(torn);
            }
        }
    }

    /// What a tracker passes of `stream` that gets it in pieces that end at `cuts`, each with what it did not pass before;
    /// and where it is then.
    fn tracked(stream: &[u8], cuts: &[usize]) -> (usize, usize) {
        let mut tracker = Tracker::default();
        let mut passed = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            passed += tracker.pass(&stream[passed..cut]);
        }
        (passed, tracker.left())
    }

    #[test]
    fn a_tracker_ends_where_the_frames_end_wherever_the_stream_is_cut() {
        let frames = encoded(&[b"{}".to_vec(), vec![], vec![b'x'; 300], vec![0xff; 5]]);
        let mut stream = frames.clone();
        stream.extend_from_slice(&NO_LENGTH.to_ne_bytes());
        stream.extend_from_slice(b"whatever this is");
        for first in 0..=stream.len() {
            for second in [first, (first + 1).min(stream.len()), (first + 2).min(stream.len()), stream.len()] {
                assert_eq!(tracked(&stream, &[first, second]), (frames.len(), 0), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_tracker_knows_how_much_of_a_frame_is_still_to_come_and_waits_for_a_whole_length() {
        let stream = encoded(&[b"12345".to_vec(), b"678".to_vec()]);
        let expected = [(0, 0), (0, 0), (0, 0), (0, 0), (4, 5), (5, 4), (6, 3), (7, 2), (8, 1), (9, 0)];
        for (end, expected) in expected.into_iter().enumerate() {
            assert_eq!(tracked(&stream[..end], &[]), expected, "{end}");
        }
        assert_eq!(tracked(&stream[..11], &[]), (9, 0));
        assert_eq!(tracked(&stream[..14], &[]), (14, 2));
    }

    #[test]
    fn a_frame_of_no_bytes_is_a_frame() {
        let (seen, _) = decoded(&encoded(&[vec![], b"{}".to_vec()]), &[3], 10);
        assert_eq!(seen, vec![Ok(vec![]), Ok(b"{}".to_vec())]);
    }

    #[test]
    fn an_absurd_length_costs_no_memory() {
        let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
        decoder.buffer().extend_from_slice(&(NO_LENGTH - 1).to_ne_bytes());
        assert!(matches!(decoder.next(), Err(FrameError::TooLong { .. })));
        assert!(decoder.buffer().capacity() <= MAX_READ);
    }

    #[test]
    fn what_is_no_frame_is_left_where_it_stands() {
        let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
        let mut stream = encoded(&[b"{}".to_vec()]);
        stream.extend_from_slice(&NO_LENGTH.to_ne_bytes());
        decoder.buffer().extend_from_slice(&stream);
        assert_eq!(decoder.next(), Ok(Some("{}".into())));
        for _ in 0..2 {
            assert_eq!(decoder.next(), Err(FrameError::NoFrame));
        }
        assert_eq!(decoder.rest(), NO_LENGTH.to_ne_bytes());
        decoder.pass_over(PREFIX);
        decoder.buffer().extend_from_slice(&encoded(&[b"[]".to_vec()]));
        assert_eq!(decoder.next(), Ok(Some("[]".into())));
    }

    #[test]
    fn a_small_frame_keeps_no_memory_of_a_large_one_around_it() {
        for large in [MIN_READ + 1, MAX_READ, MAX_READ + 1] {
            let stream = encoded(&[vec![b'x'; large], b"{}".to_vec(), vec![b'x'; large], b"{}".to_vec()]);
            let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
            let (mut rest, mut kept) = (&stream[..], Vec::new());
            while !rest.is_empty() {
                let room = decoder.buffer();
                let (read, behind) = rest.split_at(rest.len().min(room.capacity() - room.len()));
                room.extend_from_slice(read);
                rest = behind;
                while let Ok(Some(frame)) = decoder.next() {
                    kept.extend(Some(frame).filter(|frame| frame.len() == 2));
                }
            }
            drop(decoder);
            for frame in kept {
                let memory = frame.try_into_mut().map_or(0, |memory| memory.capacity());
                assert!(memory <= 2 * MIN_READ, "{memory} bytes for 2 behind {large}");
            }
        }
    }

    #[test]
    fn a_length_that_is_only_claimed_reserves_no_more_than_one_read() {
        let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
        decoder.buffer().extend_from_slice(&(MAX_FROM_EXTENSION as u32).to_ne_bytes());
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.buffer().capacity() <= 2 * MAX_READ);
        assert_eq!(decoder.finish(), Err(FrameError::Torn { missing: MAX_FROM_EXTENSION }));
    }
}
