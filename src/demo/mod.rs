//! The product explains itself on one machine: a server to talk to, and the story that shows it at work.

pub mod server;
