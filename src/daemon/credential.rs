//! Credentials that do not come from the extension: reading one where the configuration says that it is.
//!
//! Owns: how each place is asked, how long that may take and how much may come, and what went wrong in words. Does not know
//! whom a credential is for. Nothing of what was read, and nothing that a program was given or said, is ever repeated: either
//! may be a secret.

use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::config::{Env, HostName};
use crate::os::{self, keyring::KeyringError};
use crate::settings::Source;
use crate::wire::event::Reason;
use crate::wire::{MAX_TOKEN, Secret, is_token};

/// How long a program may take to print a credential.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the keyring may take: it may ask somebody to unlock it.
const KEYRING_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of what it prints is read, in bytes.
const MAX_OUTPUT: usize = 64 * 1024;

/// Reads the credential.
///
/// # Errors
/// Why there is none, and what to do about it: `token-needed` if a person has to do something, `token-failed` if it may go
/// better the next time.
pub(super) async fn fetch(source: &Source, env: &Env, host: &HostName) -> Result<Secret, Reason> {
    match source {
        Source::Extension => Err(missing("the credential of this session comes from the extension (`token`)".into())),
        Source::Keyring { origin, session } => of_keyring(host, origin, session).await,
        Source::Variable(name) => of_variable(name, env.get(name)),
        Source::Command(words) => of_command(words).await,
    }
}

/// Another process of this program asks the keyring: it may wait for somebody, and can be ended.
async fn of_keyring(host: &HostName, origin: &str, session: &str) -> Result<Secret, Reason> {
    let set = format!("`websocket-bridge token set {origin} {session}`");
    let program = std::env::current_exe().map_err(|error| failed(format!("this program cannot be found: {error}")))?;
    let mut command = Command::new(program);
    command.args(["--name", host.as_str(), "token", "read", origin, session]);
    let text = match output(command, KEYRING_TIMEOUT).await {
        Ok(text) => text,
        Err(failure @ Failure::TimedOut(_)) => {
            return Err(failed(format!("the keyring {failure}; it may wait for somebody to unlock it")));
        }
        Err(failure) => return Err(failed(format!("the process that asks the keyring {failure}"))),
    };
    match serde_json::from_str(&text) {
        Ok(KeyringAnswer::Token(token)) => secret(Zeroizing::new(token)).ok_or_else(|| {
            missing(format!("what the keyring has is not {}; store another one: {set}", what_a_token_is()))
        }),
        Ok(KeyringAnswer::Missing) => {
            Err(missing(format!("the keyring has no credential for session `{session}` of {origin}; store it: {set}")))
        }
        Ok(KeyringAnswer::Failed(why)) => Err(failed(why)),
        Err(_) => {
            Err(failed("the process that asks the keyring is of another version; `websocket-bridge stop` helps".into()))
        }
    }
}

fn of_variable(name: &str, value: Option<&OsStr>) -> Result<Secret, Reason> {
    let start = "a daemon has the environment of the browser, or the terminal, that started it: end this one with \
                 `websocket-bridge stop` when the variable is set there";
    let Some(value) = value else {
        return Err(missing(format!(
            "the daemon has no environment variable `{name}` (`auth.source`), or it is empty; {start}"
        )));
    };
    let text = value.to_str().unwrap_or_default().to_owned();
    secret(Zeroizing::new(text)).ok_or_else(|| {
        missing(format!("the environment variable `{name}` (`auth.source`) is not {}; {start}", what_a_token_is()))
    })
}

async fn of_command(words: &[String]) -> Result<Secret, Reason> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(missing("`auth.command` names no program".into()));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    match output(command, COMMAND_TIMEOUT).await {
        Ok(text) => secret(text).ok_or_else(|| {
            let message = format!("what `{program}` (`auth.command`) printed is not {}", what_a_token_is());
            missing(format!("{message}; let it print the credential, and nothing else, to its standard output"))
        }),
        Err(failure) => {
            let message = format!("`{program}` (`auth.command`) {failure}");
            Err(match failure {
                Failure::NotStarted(_) => {
                    missing(format!("{message}; name it by its path from the root on, or install it"))
                }
                Failure::TooLong => missing(format!("{message}; let it print the credential, and nothing else")),
                Failure::Ended(_) => failed(format!("{message}; run it in a terminal to see what it says")),
                Failure::TimedOut(_) => failed(format!("{message}; nobody can answer it, so it must not ask anything")),
                Failure::Unreadable(_) => failed(message),
            })
        }
    }
}

/// What the process says that asks the keyring (`websocket-bridge token read`).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyringAnswer {
    /// The credential.
    Token(String),
    /// There is none.
    Missing,
    /// Why that is not known.
    Failed(String),
}

impl KeyringAnswer {
    /// Asks the keyring.
    #[must_use]
    pub fn of(host: &HostName, origin: &str, session: &str) -> Self {
        match keyring_place(host, origin, session).and_then(|place| place.read()) {
            Ok(Some(token)) => Self::Token(token.to_string()),
            Ok(None) => Self::Missing,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Where in the keyring the credential of a session is.
///
/// # Errors
/// If there is no keyring.
pub fn keyring_place(host: &HostName, origin: &str, session: &str) -> Result<os::keyring::Secret, KeyringError> {
    let service = if host.is_usual() { "websocket-bridge" } else { host.as_str() };
    // No name of a session has a space.
    os::keyring::Secret::of(service, &format!("{origin} {session}"))
}

/// Why a program gave nothing, to follow its name.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot be started: {0}")]
    NotStarted(io::Error),
    #[error("failed with {0}")]
    Ended(ExitStatus),
    #[error("did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("printed more than {MAX_OUTPUT} bytes")]
    TooLong,
    #[error("printed what cannot be read: {0}")]
    Unreadable(io::Error),
}

/// What a program prints to its standard output; it gets nothing to read, and nobody sees what else it says. It does not
/// outlive its time, nor whoever waits for it.
async fn output(mut command: Command, patience: Duration) -> Result<Zeroizing<String>, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    os::show_no_window(command.as_std_mut());
    let mut child = command.spawn().map_err(Failure::NotStarted)?;
    let read = async {
        // Never moved, so that no copy is left behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut text).await.map_err(Failure::Unreadable)?;
        }
        if text.len() > MAX_OUTPUT {
            return Err(Failure::TooLong);
        }
        let status = child.wait().await.map_err(Failure::Unreadable)?;
        if !status.success() {
            return Err(Failure::Ended(status));
        }
        // What is not Unicode is no token, and neither is nothing.
        Ok(Zeroizing::new(std::str::from_utf8(&text).unwrap_or_default().to_owned()))
    };
    tokio::time::timeout(patience, read).await.unwrap_or(Err(Failure::TimedOut(patience)))
}

/// A text without the end of its line, if a server can be shown it.
fn secret(text: Zeroizing<String>) -> Option<Secret> {
    let line = text.strip_suffix('\n').map_or(&**text, |line| line.strip_suffix('\r').unwrap_or(line));
    is_token(line).then(|| Secret::from(line.to_owned()))
}

fn what_a_token_is() -> String {
    format!("a text of 1 to {MAX_TOKEN} bytes without control characters")
}

fn missing(message: String) -> Reason {
    Reason::new("token-needed", message)
}

fn failed(message: String) -> Reason {
    Reason::new("token-failed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_of(words: &[&str]) -> Source {
        Source::Command(words.iter().map(|&word| word.to_owned()).collect())
    }

    async fn fetched(source: &Source, variables: &[(&str, &str)]) -> Result<String, Reason> {
        let env = variables.iter().copied().collect();
        fetch(source, &env, &HostName::default()).await.map(|secret| secret.reveal().to_owned())
    }

    /// Why it cannot be had; nothing of what is meant to be a secret is in it.
    async fn refusal(source: &Source, variables: &[(&str, &str)]) -> (&'static str, String) {
        let Reason { code, message, .. } = fetched(source, variables).await.unwrap_err();
        assert!(!message.contains("hush"), "{message}");
        (code, message)
    }

    #[tokio::test]
    async fn the_value_of_a_variable_is_the_credential() {
        let source = Source::Variable("NAME".into());
        assert_eq!(fetched(&source, &[("NAME", "s3cret")]).await.unwrap(), "s3cret");
        for variables in [&[][..], &[("NAME", "")], &[("OTHER", "hush")]] {
            let (code, message) = refusal(&source, variables).await;
            assert_eq!(code, "token-needed");
            assert!(message.contains("no environment variable `NAME`") && message.contains("stop"), "{message}");
        }
        let (code, message) = refusal(&source, &[("NAME", "hush\r\nA: b")]).await;
        assert_eq!(code, "token-needed");
        assert!(message.contains("control characters"), "{message}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let (code, message) = refusal(&source_of(&["no-such-program-4711", "hush"]), &[]).await;
        assert_eq!(code, "token-needed");
        assert!(message.contains("`no-such-program-4711` (`auth.command`) cannot be started"), "{message}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_a_program_prints_is_the_credential_without_the_end_of_its_line() {
        for (printed, credential) in [("a b", "a b"), ("x\\n", "x"), ("x\\r\\n", "x"), (" x ", " x ")] {
            assert_eq!(fetched(&source_of(&["printf", printed]), &[]).await.unwrap(), credential, "{printed}");
        }
        // No shell reads the arguments.
        assert_eq!(fetched(&source_of(&["echo", "$HOME; `id`"]), &[]).await.unwrap(), "$HOME; `id`");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_program_that_fails_is_told_with_its_status_and_nothing_that_it_says() {
        let (code, message) = refusal(&source_of(&["sh", "-c", "echo hush; echo hush >&2; exit 3"]), &[]).await;
        assert_eq!(code, "token-failed", "it may go better the next time");
        assert!(message.contains("`sh` (`auth.command`) failed with exit status: 3"), "{message}");
        let too_long = format!("head -c {} /dev/zero | tr '\\0' x", MAX_OUTPUT + 1);
        for (script, said) in [
            ("true", "printed is not a text of 1 to 8192 bytes"),
            ("echo hush; echo hush", "printed is not a text"),
            ("printf '\\377'", "printed is not a text"),
            ("head -c 9000 /dev/zero | tr '\\0' x", "printed is not a text"),
            (&*too_long, "printed more than 65536 bytes"),
        ] {
            let (code, message) = refusal(&source_of(&["sh", "-c", script]), &[]).await;
            assert_eq!(code, "token-needed", "{script}");
            assert!(message.contains(said), "{message}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_program_that_does_not_end_or_keeps_its_output_open_is_ended() {
        for script in ["exec sleep 600", "sleep 2 & echo x"] {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let ended = output(command, Duration::from_millis(300)).await;
            assert!(matches!(ended, Err(Failure::TimedOut(_))), "{ended:?}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_program_reads_nothing() {
        assert_eq!(fetched(&source_of(&["sh", "-c", "cat; echo x"]), &[]).await.unwrap(), "x");
    }
}
