//! The conversation with a person: the command line of the same user, which may ask for everything and end the daemon; or a
//! newer program of the same user, which takes its place.
//!
//! Owns: what may be asked ([`crate::wire::link`] has the list) and the answers, one for each request.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use interprocess::local_socket::tokio::Stream;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::core::{Core, Identity};
use crate::wire::frame::{self, Decoder, MAX_FROM_EXTENSION};
use crate::wire::{Body, Mode};

/// A request, as far as all are the same.
#[derive(Debug, Default, Deserialize)]
struct Request<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    build: String,
    /// Which session: what `status` says of it.
    #[serde(default)]
    origin: String,
    #[serde(default)]
    profile: String,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    session: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

impl Request<'_> {
    fn session(&self) -> Identity {
        let Self { origin, profile, mode, session, .. } = self;
        Identity { origin: origin.as_str().into(), profile: profile.clone(), mode: *mode, name: session.clone() }
    }
}

/// Answers one request after the other.
pub(super) async fn serve(core: &Rc<RefCell<Core>>, stream: &Stream) {
    let (mut reader, mut writer) = (stream, stream);
    let mut decoder = Decoder::new(MAX_FROM_EXTENSION);
    while let Ok(1..) = reader.read_buf(decoder.buffer()).await {
        while let Ok(Some(frame)) = decoder.next() {
            let (answer, stop) = answer(core, &serde_json::from_slice(&frame).unwrap_or_default());
            let mut out = BytesMut::new();
            frame::put(&mut out, |out| out.extend_from_slice(answer.to_string().as_bytes()));
            let written = writer.write_all(&out).await;
            if stop {
                core.borrow().stop.notify_one();
            }
            if written.is_err() {
                return;
            }
        }
    }
}

/// The answer, and whether the daemon ends when it is written.
fn answer(core: &RefCell<Core>, request: &Request<'_>) -> (Value, bool) {
    let or_error = |result: Result<Value, String>| result.unwrap_or_else(|error| json!({"error": error}));
    let go_on = |result| (or_error(result), false);
    match (request.kind.as_str(), request.payload) {
        ("status", _) => go_on(Ok(core.borrow().overview())),
        ("stop", _) => (json!({"stopping": std::process::id()}), true),
        ("hand-over", _) => match core.borrow_mut().hand_over(&request.build) {
            Ok(()) => (json!({"moving": std::process::id()}), true),
            Err(why) => go_on(Err(why)),
        },
        ("send", Some(payload)) => {
            let body = Body::Json(Bytes::copy_from_slice(payload.get().as_bytes()));
            go_on(core.borrow_mut().send_for_person(&request.session(), body))
        }
        ("forget", _) => go_on(core.borrow_mut().forget_for_person(&request.session())),
        ("renew", _) => go_on(Ok(core.borrow_mut().renew_for_person(&request.origin, &request.session))),
        _ => {
            let known =
                "this daemon answers `status`, `stop`, `hand-over`, `send` with a `payload`, `forget` and `renew`";
            go_on(Err(known.to_owned()))
        }
    }
}
