//! Plans are made for every system on any; only what needs a real disk is carried out, on Unix.

// Two attributes: clippy knows test code by the first alone.
#[cfg(test)]
#[cfg(unix)]
mod disk;
mod keys;
mod names;
mod rows;
mod table;

/// Identifiers of a Chromium extension and of a Firefox add-on.
const ID: &str = "abcdefghijklmnopabcdefghijklmnop";
const OTHER_ID: &str = "ponmlkjihgfedcbaponmlkjihgfedcba";
const ADDON: &str = "tracker@example.org";
