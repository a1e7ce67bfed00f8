//! websocket-bridge.
pub mod config;
pub mod install;
pub mod wire;
