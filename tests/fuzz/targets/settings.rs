//! The settings of an `open`: whatever an extension asks for is understood or refused in a short sentence, and what
//! counts then is within the bounds, so that it could be asked for in turn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use websocket_bridge::settings::{Layer, Limits, Place, Settings};

/// The longest refusal, in bytes: the sentence, and some of a name that was found (which may be four bytes a character).
const MAX_REFUSAL: usize = 600;

fuzz_target!(|input: &str| {
    let limits = Limits::default();
    match Layer::from_json(input, &limits) {
        Ok(layer) => {
            for place in [Place { memory: true, loopback: false }, Place { memory: false, loopback: true }] {
                let mut settings = Settings::effective([&layer], &limits, place);
                // JSON may be longer when it is shown than it was when it came: 1E9.
                (settings.heartbeat.send, settings.heartbeat.reply, settings.inbox.collapse) = (None, None, None);
                assert!(settings.reconnect.first <= settings.reconnect.max);
                let shown = settings.to_json().to_string();
                Layer::from_json(&shown, &limits).expect("what counts is within the bounds");
            }
        }
        Err(error) => assert!(error.to_string().len() <= MAX_REFUSAL, "a refusal repeats its input: {error}"),
    }
});
