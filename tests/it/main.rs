//! The integration tests: one binary, one module for each concern. `tree` fails if a file here is not declared.
//!
//! What is only for Unix (`cfg(unix)`) looks at what Windows does not have, or not in this way: signals, modes of files,
//! descriptors, `/proc`, a socket in a directory, another user. `windows` has what takes their place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

/// The system listens, and starts the daemon for whoever calls.
#[cfg(unix)]
mod activation;
/// The command line, as a person and a script use it.
mod cli;
/// The daemon's life: started once, found by all, in nobody's way, and gone when it is not needed.
mod credentials;
mod daemon;
/// The demo, as a person runs it.
#[cfg(feature = "demo")]
mod demo;
mod dialect;
/// Direct mode: a browser's own WebSocket, as far as an extension can tell.
mod direct;
/// A disk without room, and files that are not what they were, under the real daemon.
#[cfg(unix)]
mod disk;
/// The broken forty: ways to break an installation, and what the doctor says and does about each.
mod doctor;
/// What the documents say is what the program does.
#[cfg(unix)]
mod documents;
/// Every way in which a server ends a connection or refuses one, as the extension hears of it.
mod endings;
mod fallback;
/// A server that comes back is not stormed, by however many.
mod fleet;
/// One daemon takes over from another, and ports do not notice.
mod handover;
/// The host: leaves in time whatever happens, and lets nothing slip into the browser's pipe.
mod host;
/// What a person sees of the running daemon, and does to its sessions.
mod inspect;
/// What an extension may get wrong, and what it is told: a clear error, and the port stays up.
mod port;
/// Two products beside each other.
mod products;
/// Servers that are reached through a proxy, and proxies that do not let through.
mod proxy;
/// A keyring that others have written, and what a person does to it.
#[cfg(target_os = "linux")]
mod real_keyring;
/// Proxies that others have written, between the bridge and a server.
#[cfg(target_os = "linux")]
mod real_proxies;
/// Servers that others have written, directly and behind what is put before them.
#[cfg(target_os = "linux")]
mod real_servers;
/// Connections that end or cannot be made: what the extension is told, and that the session comes back by itself.
mod reconnect;
/// Installing where browsers ask the registry.
#[cfg(windows)]
mod registry;
mod restart;
/// What an extension and the files may set, from their texts to what the daemon does.
mod settings;
/// Messages through host, daemon and WebSocket, both ways, as they came.
mod stream;
/// The browser, the server and the machine that the tests play.
mod support;
/// Encrypted connections: against the roots of the system, and never without a proof.
#[cfg(unix)]
mod tls;
/// Rules of the source tree itself: who may know whom, and what each file must say.
#[cfg(unix)]
mod tree;
/// What browsers do on Windows, and who may use the pipe.
#[cfg(windows)]
mod windows;
