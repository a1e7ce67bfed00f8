//! The registry, as far as a manifest needs it: keys with a default value.
//!
//! Owns: reading and changing keys. Does not own: which keys, nor why.
//!
//! The plan is made through [`Registry`], so that it can be made and tested for Windows anywhere; [`System`] is the real
//! one, which other systems do not have.

use std::fmt;
use std::io;

use super::browsers::Key;

/// A registry.
pub trait Registry: fmt::Debug + Send + Sync {
    /// The default value of a key; `None` if there is no such key, or if it has none.
    ///
    /// # Errors
    /// If the key cannot be read.
    fn value(&self, key: &Key) -> io::Result<Option<String>>;

    /// Whether there is such a key.
    ///
    /// # Errors
    /// If that cannot be told.
    fn contains(&self, key: &Key) -> io::Result<bool>;

    /// Sets the default value of a key, which is made, with those above it, if it is not there.
    ///
    /// # Errors
    /// If the key cannot be written.
    fn set(&self, key: &Key, value: &str) -> io::Result<()>;

    /// Removes a key that has none below it, if it is there.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn remove(&self, key: &Key) -> io::Result<()>;

    /// Whether a key has neither values nor keys below it.
    ///
    /// # Errors
    /// If that cannot be told.
    fn is_empty(&self, key: &Key) -> io::Result<bool>;
}

impl Key {
    /// The keys above it, the nearest first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let ends = self.path.rmatch_indices('\\').map(|(end, _)| end);
        ends.map(|end| Self { path: self.path[..end].to_owned(), ..self.clone() })
    }
}

/// The registry of this machine.
#[derive(Debug, Clone, Copy)]
pub struct System;

#[cfg(windows)]
mod system {
    use std::io;

    use winreg::RegKey;
    use winreg::enums::{HKEY_CURRENT_USER, HKEY_LOCAL_MACHINE, KEY_READ, KEY_WOW64_32KEY, KEY_WOW64_64KEY, KEY_WRITE};

    use super::{Key, Registry, System};
    use crate::install::browsers::{Hive, View};

    impl Key {
        fn root(&self) -> RegKey {
            RegKey::predef(match self.hive {
                Hive::User => HKEY_CURRENT_USER,
                Hive::Machine => HKEY_LOCAL_MACHINE,
            })
        }

        fn view(&self) -> u32 {
            match self.view {
                View::Bits32 => KEY_WOW64_32KEY,
                View::Bits64 => KEY_WOW64_64KEY,
            }
        }

        fn open(&self) -> io::Result<Option<RegKey>> {
            found(self.root().open_subkey_with_flags(&self.path, KEY_READ | self.view()))
        }
    }

    /// What is not there is no failure.
    fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    impl Registry for System {
        fn value(&self, key: &Key) -> io::Result<Option<String>> {
            key.open()?.map_or(Ok(None), |opened| found(opened.get_value("")))
        }

        fn contains(&self, key: &Key) -> io::Result<bool> {
            Ok(key.open()?.is_some())
        }

        fn set(&self, key: &Key, value: &str) -> io::Result<()> {
            let (opened, _) = key.root().create_subkey_with_flags(&key.path, KEY_WRITE | key.view())?;
            opened.set_value("", &value)
        }

        fn remove(&self, key: &Key) -> io::Result<()> {
            found(key.root().delete_subkey_with_flags(&key.path, key.view())).map(drop)
        }

        fn is_empty(&self, key: &Key) -> io::Result<bool> {
            let Some(opened) = key.open()? else { return Ok(true) };
            let information = opened.query_info()?;
            Ok(information.sub_keys == 0 && information.values == 0)
        }
    }
}

#[cfg(not(windows))]
mod system {
    use std::io;

    use super::{Key, Registry, System};

    fn none<T>() -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no registry"))
    }

    impl Registry for System {
        fn value(&self, _: &Key) -> io::Result<Option<String>> {
            none()
        }

        fn contains(&self, _: &Key) -> io::Result<bool> {
            none()
        }

        fn set(&self, _: &Key, _: &str) -> io::Result<()> {
            none()
        }

        fn remove(&self, _: &Key) -> io::Result<()> {
            none()
        }

        fn is_empty(&self, _: &Key) -> io::Result<bool> {
            none()
        }
    }
}
