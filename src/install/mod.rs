//! Making this host known to the browsers of a machine, and undoing it.

pub mod browsers;
