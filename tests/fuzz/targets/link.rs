//! The header of a link, and what is said about the link later: whatever a stranger sends, it is refused or read, and what
//! was read is written back as the same bytes.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use websocket_bridge::wire::link::{Control, FIXED, Header, MAX_TEXT};

fuzz_target!(|input: &[u8]| {
    if let Ok(Some((control, length))) = Control::read(input) {
        let mut written = BytesMut::new();
        control.put(&mut written);
        assert_eq!(written, input[..length]);
    }
    let Some((fixed, rest)) = input.split_first_chunk::<FIXED>() else { return };
    let Ok(length) = Header::rest(fixed) else { return };
    assert!(length <= 2 * MAX_TEXT, "a stranger decides how much is read");
    let Some(rest) = rest.get(..length) else {
        assert!(Header::decode(fixed, rest).is_err());
        return;
    };
    if let Ok(header) = Header::decode(fixed, rest) {
        assert_eq!(header.encode().expect("what was read can be written"), input[..FIXED + length]);
    }
});
