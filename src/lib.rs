//! websocket-bridge.
pub mod config;
pub mod wire;
