//! The frame decoder against one that sees the whole stream at once: however the stream is cut, both see the same
//! frames, the same errors and the same end, and memory follows the bytes that came, not the lengths they claim. A tracker
//! of the same pieces is never anywhere else than where the frames end.
//!
//! Input: the size of the pieces (1 byte), the limit (1 byte, times 16), the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use websocket_bridge::wire::frame::{Decoder, FrameError, NO_LENGTH, PREFIX, Tracker};

fuzz_target!(|input: &[u8]| {
    let [piece, limit, stream @ ..] = input else { return };
    let limit = usize::from(*limit) * 16;
    let mut decoder = Decoder::new(limit);
    let mut seen = Vec::new();
    for piece in stream.chunks(usize::from(*piece).max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => seen.push(Ok(frame.to_vec())),
                Ok(None) => break,
                Err(error) => {
                    if error == FrameError::NoFrame {
                        decoder.pass_over(PREFIX);
                    }
                    seen.push(Err(error));
                }
            }
        }
        assert!(decoder.buffer().capacity() <= 4 * 1024 * 1024, "memory was made for a mere claim");
    }
    let (expected, end) = whole(stream, limit);
    assert_eq!(seen, expected);
    assert_eq!(decoder.finish(), end);
    let (mut tracker, mut passed, mut end) = (Tracker::default(), 0, 0);
    for piece in stream.chunks(usize::from(*piece).max(1)) {
        end += piece.len();
        passed += tracker.pass(&stream[passed..end]);
        assert!(tracker.left() == 0 || passed == end, "it waits inside of a frame");
    }
    assert_eq!((passed, tracker.left()), tracked(stream));
});

/// Where the frames of a stream end, and how many bytes the last one misses.
fn tracked(stream: &[u8]) -> (usize, usize) {
    let mut at = 0;
    while let Some(prefix) = stream[at..].first_chunk::<PREFIX>().filter(|prefix| **prefix != NO_LENGTH.to_ne_bytes()) {
        let length = PREFIX + u32::from_ne_bytes(*prefix) as usize;
        if stream.len() - at < length {
            return (stream.len(), length - (stream.len() - at));
        }
        at += length;
    }
    (at, 0)
}

/// All frames of a stream, and how it ended.
fn whole(mut stream: &[u8], limit: usize) -> (Vec<Result<Vec<u8>, FrameError>>, Result<(), FrameError>) {
    let mut seen = Vec::new();
    loop {
        let Some((prefix, rest)) = stream.split_first_chunk::<PREFIX>() else {
            let missing = PREFIX - stream.len();
            return (seen, if stream.is_empty() { Ok(()) } else { Err(FrameError::Torn { missing }) });
        };
        let length = u32::from_ne_bytes(*prefix) as usize;
        if length == NO_LENGTH as usize {
            seen.push(Err(FrameError::NoFrame));
            stream = rest;
            continue;
        }
        if length > limit {
            seen.push(Err(FrameError::TooLong { length, limit }));
        }
        if rest.len() < length {
            return (seen, Err(FrameError::Torn { missing: length - rest.len() }));
        }
        if length <= limit {
            seen.push(Ok(rest[..length].to_vec()));
        }
        stream = &rest[length..];
    }
}
