//! The system's keyring: one text for a service and an account, which outlives the machine's restarts.
//!
//! Owns: which keyring this system has, and what went wrong with it in words. A keyring may ask the person to unlock it, so
//! whoever calls may wait for long: the daemon has another process do it.

use std::sync::Arc;

use keyring_core::api::CredentialStore;
use keyring_core::{Entry, Error};
use zeroize::Zeroizing;

/// Why the keyring cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Nobody answers.
    #[error(
        "no keyring answers here ({0}); on Linux that is a Secret Service, such as GNOME Keyring or KWallet, in the \
         session of the person who is logged in"
    )]
    Absent(String),
    /// It is there, and locked.
    #[error("the keyring is locked, or does not let this program in ({0}); unlock it")]
    Locked(String),
    /// It does not do what was asked.
    #[error("the keyring does not do it: {0}")]
    Failed(String),
}

/// What the keyring may hold under one name.
#[derive(Debug)]
pub struct Secret(Entry);

impl Secret {
    /// The place of `account` at `service`, whether there is something or not.
    ///
    /// # Errors
    /// If there is no keyring.
    pub fn of(service: &str, account: &str) -> Result<Self, KeyringError> {
        let store = store().map_err(|error| KeyringError::Absent(error.to_string()))?;
        Self::within(&store, service, account)
    }

    fn within(store: &Arc<CredentialStore>, service: &str, account: &str) -> Result<Self, KeyringError> {
        Ok(Self(store.build(service, account, None).map_err(in_words)?))
    }

    /// What is there.
    ///
    /// # Errors
    /// If the keyring does not say.
    pub fn read(&self) -> Result<Option<Zeroizing<String>>, KeyringError> {
        match self.0.get_password() {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(Error::NoEntry) => Ok(None),
            Err(error) => Err(in_words(error)),
        }
    }

    /// Puts `text` there, in the place of what was.
    ///
    /// # Errors
    /// If the keyring does not take it.
    pub fn store(&self, text: &str) -> Result<(), KeyringError> {
        self.0.set_password(text).map_err(in_words)
    }

    /// Removes what is there; says whether there was something.
    ///
    /// # Errors
    /// If the keyring does not let it go.
    pub fn clear(&self) -> Result<bool, KeyringError> {
        match self.0.delete_credential() {
            Ok(()) => Ok(true),
            Err(Error::NoEntry) => Ok(false),
            Err(error) => Err(in_words(error)),
        }
    }
}

fn store() -> keyring_core::Result<Arc<CredentialStore>> {
    #[cfg(target_os = "macos")]
    let store = apple_native_keyring_store::keychain::Store::new()?;
    #[cfg(windows)]
    let store = windows_native_keyring_store::Store::new()?;
    #[cfg(all(unix, not(target_os = "macos")))]
    let store = dbus_secret_service_keyring_store::Store::new()?;
    Ok(store)
}

/// Of an error only what the keyring says of it: some carry what it holds.
fn in_words(error: Error) -> KeyringError {
    match error {
        Error::NoStorageAccess(error) => KeyringError::Locked(error.to_string()),
        error => KeyringError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        let store: Arc<CredentialStore> = keyring_core::mock::Store::new().unwrap();
        Secret::within(&store, "service", "account").unwrap()
    }

    #[test]
    fn what_is_stored_is_read_until_it_is_cleared() {
        let secret = secret();
        assert_eq!(secret.read().unwrap(), None);
        secret.store("one").unwrap();
        secret.store("two").unwrap();
        assert_eq!(secret.read().unwrap().unwrap().as_str(), "two");
        assert!(secret.clear().unwrap());
        assert!(!secret.clear().unwrap(), "it is gone already");
        assert_eq!(secret.read().unwrap(), None);
    }

    #[test]
    fn a_keyring_that_is_locked_or_holds_nonsense_is_told_without_what_it_holds() {
        let secret = secret();
        let fail = |error| {
            let mock: &keyring_core::mock::Cred = secret.0.as_any().downcast_ref().unwrap();
            mock.set_error(error);
            secret.read().unwrap_err()
        };
        let locked = fail(Error::NoStorageAccess("nobody unlocked it".into()));
        assert!(matches!(&locked, KeyringError::Locked(said) if said == "nobody unlocked it"), "{locked}");
        assert!(locked.to_string().contains("unlock it"));
        let nonsense = fail(Error::BadEncoding(b"hush\xff".to_vec()));
        assert!(matches!(nonsense, KeyringError::Failed(_)));
        assert!(!format!("{nonsense} {nonsense:?}").contains("hush"), "{nonsense:?}");
    }
}
