//! The integration tests: one binary, one module for each concern. `tree` fails if a file here is not declared.

/// Rules of the source tree itself: who may know whom, and what each file must say.
mod tree;

/// Messages through host, daemon and WebSocket, both ways, as they came.
mod stream;
/// The browser, the server and the machine that the tests play.
mod support;
