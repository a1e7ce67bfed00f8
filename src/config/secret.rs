//! A text that is shown to nobody.
//!
//! Owns: that it prints as `***` and is overwritten when it is no longer needed. Does not know what it is a secret of.

use std::fmt;

use zeroize::Zeroizing;

/// A credential. Whoever really sends it asks for it by [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: not for logs, errors or anything else that somebody may read.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
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
    fn a_secret_prints_as_stars_wherever_it_stands() {
        let secret = vec![Some(Secret::new("hunter2".to_owned()))];
        assert_eq!(format!("{secret:?}"), "[Some(***)]");
        assert_eq!(secret[0].as_ref().unwrap().expose(), "hunter2");
    }
}
