//! The request parser: whatever an extension posts is understood or refused in a short sentence, what is understood
//! is within the limits of the protocol, and a payload is a part of the frame that came, byte for byte.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use websocket_bridge::wire::request::{Envelope, Malformed, Request};
use websocket_bridge::wire::{Body, MAX_ID, MAX_NAME, MAX_PROFILE, is_name};

/// The longest refusal, in bytes: the sentence, and some of what was found (which may be four bytes a character).
const MAX_REFUSAL: usize = 600;

fuzz_target!(|input: &[u8]| {
    let frame = Bytes::copy_from_slice(input);
    let envelope = match Envelope::read(&frame) {
        Ok(envelope) => envelope,
        Err(malformed) => return short(&malformed),
    };
    match envelope.reference() {
        Ok(reference) => assert!(reference.is_none_or(|text| text.chars().count() <= MAX_NAME)),
        Err(malformed) => short(&malformed),
    }
    assert!(envelope.session_name().is_none_or(|name| is_name(&name)));
    match envelope.request(&frame) {
        Err(malformed) => short(&malformed),
        Ok(Request::Open(open)) => {
            assert!(is_name(&open.session) && is_name(&open.consumer) && open.profile.len() <= MAX_PROFILE);
            // As one daemon tells the next.
            let told = Bytes::from(serde_json::to_vec(&open).expect("what was read can be written"));
            let read = Envelope::read(&told).and_then(|envelope| envelope.request(&told));
            assert_eq!(read, Ok(Request::Open(open)));
        }
        Ok(Request::Send { session, send }) => {
            assert!(is_name(&session));
            assert!(send.id.is_none_or(|id| (1..=MAX_ID).contains(&id.len())));
            match send.body {
                Body::Json(json) => {
                    let text = str::from_utf8(&json).expect("a payload is text");
                    serde_json::from_str::<serde::de::IgnoredAny>(text).expect("a payload is JSON");
                    assert!(frame.windows(json.len()).any(|part| part == json), "a payload was changed");
                    // A payload that waits keeps no frame that is much larger than itself.
                    let shared = frame.as_ptr_range().contains(&json.as_ptr());
                    assert!(!shared || frame.len() <= 2 * json.len() + 1, "a small payload keeps a large frame");
                }
                Body::Text(text) => assert!(str::from_utf8(&text).is_ok()),
                Body::Binary(_) => {}
            }
        }
        Ok(_) => {}
    }
});

fn short(malformed: &Malformed) {
    assert!(malformed.message.len() <= MAX_REFUSAL, "a refusal repeats its input: {}", malformed.message);
}
