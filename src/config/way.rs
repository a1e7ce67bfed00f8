//! The way to a session's server: what only the files may say about it.
//!
//! Owns: what of it counts when both files and several of their sections say something. Does not own how it is gone
//! (`server`).

use super::file::Session;
use super::proxy::ProxyRule;

/// How a session's server is reached, as far as the files say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Way {
    /// Through which proxy.
    pub proxy: ProxyRule,
}

impl Way {
    /// What counts of these, the later one more: what all sessions begin with, and the sections of this one.
    pub(super) fn effective(defaults: &[ProxyRule], sections: &[Session]) -> Self {
        let own = sections.iter().filter_map(|section| section.proxy.as_ref());
        Self { proxy: defaults.iter().chain(own).next_back().cloned().unwrap_or_default() }
    }
}
