//! The product explains itself on one machine: a server to talk to, and the story that shows it at work.

pub mod server;

/// x
pub fn run(_port: u16, _keep: bool) -> anyhow::Result<bool> {
    Ok(false)
}
