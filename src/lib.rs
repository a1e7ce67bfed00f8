//! The program behind `websocket-bridge`: WebSocket streams for browser extensions, which live on while the extension's
//! worker sleeps, crashes, is updated or restarted.
//!
//! ```text
//! extension ──port──► host ──link──► daemon ──connection──► server
//!                     one per port   one per user: sessions, spool
//!                     lives and dies started on demand, detached,
//!                     with the port  stays when the browser goes
//! ```
//!
//! # Words
//!
//! *extension*: the JS side · *port*: its native messaging port · *host*: the process that the browser starts, one for
//! each port · *daemon*: one for each user, outlives hosts · *link*: the local socket between host and daemon ·
//! *session*: the durable conversation of one extension with one server; survives ports, hosts and connections ·
//! *server*: any WebSocket server · *connection*: one WebSocket, numbered by attempt · *consumer*: a reader of a session
//! with its own place in it · *observer*: one without a place, who only sees what comes · *spool*: the file that keeps
//! what must not be lost · *frame*: a length and as many bytes · *payload*: what the server and the extension say to each
//! other, opaque to us.
//!
//! # Follow a message
//!
//! From the browser's pipe to the server's socket it passes five files; read them in this order:
//!
//! 1. [`host`] (`src/host.rs`): bytes from standard input to the link
//! 2. `src/daemon/port.rs`: bytes from the link to frames, frames to requests
//! 3. `src/daemon/core.rs`: requests to inputs of a session, actions to what they ask for
//! 4. [`session`] (`src/session/mod.rs`, and what it says to read next): what is to be done, decided without doing
//!    anything
//! 5. [`server`] (`src/server/mod.rs`): messages to the WebSocket
//!
//! and comes back the same way. What must not be lost on it is kept by [`spool`] (`src/spool/mod.rs`), on its own thread:
//! what and when, the session says (`src/session/journal.rs`). When a newer version is installed, its daemon takes over from
//! the older one, and ports do not notice: [`wire::link`] tells how. What the frames and messages look like is in [`wire`];
//! `PROTOCOL.md` describes it for people.
//!
//! # When it does not work
//!
//! [`doctor`] looks at the whole way, from the manifest by which a browser finds the host ([`install`] writes it) to the
//! server's answer; [`explain`] knows what browsers say when something is wrong on it.
//!
//! This library exists for the program and its tests; it promises no stable interface.

pub mod cli;
pub mod config;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod host;
pub mod inspect;
pub mod install;
pub mod log;
pub mod os;
pub mod server;
pub mod session;
pub mod settings;
pub mod spool;
pub mod wire;
