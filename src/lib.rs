//! websocket-bridge.
pub mod config;
