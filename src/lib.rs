//! websocket-bridge.
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod wire;
