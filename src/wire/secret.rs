//! A text that nobody may see.
//!
//! Owns: that it is never shown, and not left behind in memory. Who may be sent it is others' to know.

use std::fmt;

use zeroize::Zeroizing;

/// A credential. It prints as `***`, and its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself, for the server that it is meant for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// A credential as the upgrade to a WebSocket shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// As the value of the header `Authorization`.
    Header(Secret),
    /// In the query of the URL, under this name.
    Query(String, Secret),
    /// As one more sub-protocol that is offered.
    Protocol(Secret),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Some(Secret::from("hush".to_owned()))), "Some(***)");
    }
}
