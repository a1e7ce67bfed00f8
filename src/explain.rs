//! What a browser's error text means, and a message length that cannot be one.
//!
//! Owns: the table of the texts ([`TABLE`]) and recognising them in what a person pastes. Pure: text in, answer out. What
//! is really wrong on a machine the doctor finds out; this only says where to look.
//!
//! The texts are those of Chromium's `extensions/browser/api/messaging` and `extensions/renderer/api/messaging`, and of
//! Firefox's `NativeMessaging.sys.mjs` and `NativeManifests.sys.mjs`; where a wording was changed, both are here.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::session::{ENDINGS, Sign};
use crate::wire::Code;
use crate::wire::frame::{MAX_FROM_EXTENSION, MAX_TO_EXTENSION};

/// Who says it, and where one reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// Chromium and its relatives, to the extension (`chrome.runtime.lastError`).
    Chromium,
    /// Their log: standard error, or with `--enable-logging`.
    ChromiumLog,
    /// Firefox and its relatives, to the extension (`port.error`).
    Firefox,
    /// Their browser console.
    FirefoxConsole,
}

impl Speaker {
    fn title(self) -> &'static str {
        match self {
            Self::Chromium => "Chromium and its relatives, to the extension",
            Self::ChromiumLog => "Chromium and its relatives, in their log (started with --enable-logging=stderr)",
            Self::Firefox => "Firefox and its relatives, to the extension",
            Self::FirefoxConsole => "Firefox and its relatives, in the browser console (Ctrl+Shift+J)",
        }
    }
}

/// What some texts mean.
#[derive(Debug)]
pub struct Entry {
    /// Who says them.
    pub speaker: Speaker,
    /// The wordings, old and new. A `…` stands for anything: a name, a number, a path.
    pub texts: &'static [&'static str],
    /// What has happened.
    pub meaning: &'static str,
    /// What can be behind it, the likeliest first.
    pub causes: &'static [&'static str],
    /// What to type or do.
    pub next: &'static str,
    /// Whether a number in it is the length of a message.
    pub has_length: bool,
}

/// An answer, and whether it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Whether the text is known.
    pub is_known: bool,
    /// What to print: whole lines.
    pub text: String,
}

const DOCTOR: &str = "websocket-bridge doctor";
const INSTALL: &str = "websocket-bridge install --extension ID";

const fn entry(
    speaker: Speaker,
    texts: &'static [&'static str],
    meaning: &'static str,
    causes: &'static [&'static str],
    next: &'static str,
) -> Entry {
    Entry { speaker, texts, meaning, causes, next, has_length: false }
}

/// Every text that is known.
pub const TABLE: &[Entry] = {
    use Speaker::{Chromium, ChromiumLog, Firefox, FirefoxConsole};
    &[
        entry(
            Chromium,
            &["Specified native messaging host not found."],
            "The browser has no usable manifest for this name. One text for everything that can be wrong with it.",
            &[
                "no manifest where this browser looks (on Windows: no registry key, or one with a relative path)",
                "the browser was started with --user-data-dir, or is one that looks elsewhere (a Snap, a Flatpak, a fork)",
                "the first manifest that is found is broken, and shadows a good one behind it: not JSON (a comma too \
                 many, a byte order mark), a `name` that is not the file's, an empty `description`, another `type` than \
                 stdio, a `path` that is relative",
                "an entry of `allowed_origins` that is no pattern: without the slash at its end, or with a wildcard",
                "the program that `path` names is not there any more",
                "a policy (NativeMessagingUserLevelHosts) lets only the machine's manifests count",
            ],
            DOCTOR,
        ),
        entry(
            Chromium,
            &["Invalid native messaging host name specified."],
            "The name that was given to connectNative cannot be that of a host.",
            &["it holds something else than lower case letters, digits, `_` and single dots between them"],
            "use 'com.semantest.websocket_bridge', or the name that was given to install --name",
        ),
        entry(
            Chromium,
            &["Access to the specified native messaging host is forbidden."],
            "There is a manifest, but it does not let this extension in.",
            &[
                "the id of the extension is another one: unpacked and without a `key` in its manifest.json, it has \
                 another id in each directory",
                "another manifest of the same name comes first, and was written for other extensions",
            ],
            INSTALL,
        ),
        entry(
            Chromium,
            &["Failed to start native messaging host."],
            "The manifest is in order, but the program could not be started.",
            &[
                "Windows: COMSPEC is not set, cmd.exe or the program is blocked (antivirus, Smart App Control), or the \
                 program asks to be run as administrator",
                "the system has no process or pipe left to give",
            ],
            DOCTOR,
        ),
        entry(
            Chromium,
            &["Native host has exited."],
            "The host's output was closed: it has ended, or could not be started at all.",
            &[
                "the program is not executable, for another processor, or damaged",
                "another program or version stands in the manifest's `path`",
                "the daemon was stopped or made way, or cannot be started; logs/host.log says who closed first",
                "the worker was stopped, and the port with it: nothing is wrong, connect again",
            ],
            DOCTOR,
        ),
        entry(
            Chromium,
            &["Error when communicating with the native messaging host."],
            "The pipe to the host broke in the middle of something.",
            &[
                "something else than messages came from the host's standard output: the program in `path` is another \
                 one, or a script around it prints",
                "the host was killed while the extension was posting",
                "a message over 1 MiB to the extension (this program never sends one: it cuts them into `chunk`s)",
            ],
            DOCTOR,
        ),
        entry(
            Chromium,
            &["Access to native messaging requires nativeMessaging permission."],
            "The extension did not ask for the permission.",
            &[
                "`\"nativeMessaging\"` is missing in `permissions` of its manifest.json; optional permissions must be granted",
            ],
            "add \"nativeMessaging\" to \"permissions\" in the extension's manifest.json and reload it",
        ),
        entry(
            Chromium,
            &["Access to the native messaging host was disabled by the system administrator."],
            "A policy of this machine forbids this host.",
            &["NativeMessagingBlocklist names it, or `*`, and NativeMessagingAllowlist does not"],
            "open chrome://policy, and ask the administrator to add the host's name to NativeMessagingAllowlist",
        ),
        entry(
            Chromium,
            &[
                "Native Messaging is not supported on this platform.",
                "Native Messaging not supported on this platform.",
            ],
            "This browser has no native messaging.",
            &["Android, iOS, and some embedded browsers start no programs"],
            "use a desktop browser",
        ),
        entry(
            Chromium,
            &["Message exceeded maximum allowed size of 64MiB.", "Message length exceeded maximum allowed length."],
            "The extension posted a message over 64 MiB, which Chromium does not carry. postMessage has thrown.",
            &["one payload is too large; the bound is on the JSON text of the whole message"],
            "send the payload in parts",
        ),
        entry(
            Chromium,
            &["Could not serialize message."],
            "The extension posted something that is not JSON.",
            &[
                "a BigInt, a cycle, or a function with a toJSON that throws is in it; binary data goes as base64 in `binary`",
            ],
            "post plain objects, and bytes as base64 in `binary`",
        ),
        entry(
            Chromium,
            &["The sender sent an invalid JSON message; message ignored."],
            "The host sent a frame that is not JSON. The port stays open, the message is lost.",
            &["the program in the manifest's `path` is another one: this host sends nothing but JSON"],
            DOCTOR,
        ),
        entry(
            Chromium,
            &["Attempting to use a disconnected port object", "Attempt to postMessage on disconnected port"],
            "The extension posted to a port that is closed. (Firefox says it in the second form.)",
            &[
                "the port closed before, and onDisconnect has said why: look at runtime.lastError (Firefox: port.error) \
                 there",
                "a worker that was stopped and came back kept a port of its former life",
            ],
            "connect again in onDisconnect, with a growing delay, and post to the new port",
        ),
        entry(
            ChromiumLog,
            &["Can't find manifest for native messaging host …"],
            "No manifest of this name where this browser looks.",
            &[
                "it was never installed for this browser, or the browser looks elsewhere (--user-data-dir, Snap, Flatpak)",
            ],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Failed to load manifest for native messaging host …"],
            "The manifest was found, and what follows is the reason why it is not used.",
            &["it is not JSON, or one of its members is not as it must be"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Invalid name specified in the manifest"],
            "The `name` in the manifest is not that of its file.",
            &["the file was copied or renamed, or the name holds a character that no host name has"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Native messaging host path must be absolute", "Native Messaging host path must be absolute"],
            "The `path` in the manifest is relative. Only Windows takes that.",
            &["the manifest was written by hand, or for Windows"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Found manifest, but not the binary"],
            "The manifest is in order, but the program that its `path` names is not there.",
            &["the program was moved, removed, or updated into another directory"],
            "websocket-bridge doctor --fix",
        ),
        Entry {
            has_length: true,
            ..entry(
                ChromiumLog,
                &["Native Messaging host tried sending a message that is … bytes long."],
                "The first four bytes of what the host wrote make this number, and no message may be longer than 1 MiB.",
                &[
                    "the host printed text: the number is its first four characters",
                    "a message over 1 MiB (this program never sends one: it cuts them into `chunk`s)",
                ],
                DOCTOR,
            )
        },
        entry(
            ChromiumLog,
            &["Error when writing to Native Messaging host: …"],
            "The host had closed its standard input: it has ended.",
            &["it was killed, or has ended by itself; logs/host.log says who closed first"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Native messaging host … is not registered."],
            "Windows: there is no registry key of this name where this browser looks.",
            &["it was never installed for this browser, or for another user"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Path to native messaging host manifest must be absolute."],
            "Windows: the registry key holds a relative path.",
            &["the key was written by hand"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["COMSPEC is not set"],
            "Windows: the browser starts hosts through cmd.exe, and the environment does not say where that is.",
            &["the browser was started by a program that clears the environment"],
            "set COMSPEC to %SystemRoot%\\System32\\cmd.exe and start the browser again",
        ),
        entry(
            ChromiumLog,
            &["Native Messaging host process exited with code …"],
            "Windows: the host ended before it had opened its pipes.",
            &["the program is damaged, blocked, for another processor, or lacks a library"],
            DOCTOR,
        ),
        entry(
            ChromiumLog,
            &["Error launching process"],
            "The system could not start the program.",
            &["it is not executable, for another processor, or on a file system that is mounted noexec"],
            DOCTOR,
        ),
        entry(
            Firefox,
            &["No such native application …"],
            "Firefox says this to the extension whatever is wrong; the true reason is in the browser console \
             (Ctrl+Shift+J).",
            &[
                "no manifest where this browser looks (on Windows: no registry key)",
                "the manifest is not as Firefox wants it: not JSON, a wrong `name` or `type`, a relative `path`, a member \
                 that Firefox does not know (such as `allowed_origins`)",
                "`allowed_extensions` does not hold the id of this add-on",
                "the program that `path` names is not there, or not executable",
                "Firefox is a Snap or a Flatpak, where hosts are started by a portal",
            ],
            DOCTOR,
        ),
        entry(
            FirefoxConsole,
            &["Error parsing native manifest …", "Error parsing native messaging manifest …"],
            "The manifest is not JSON.",
            &["a comma too many, or a byte order mark at the beginning (PowerShell writes one)"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &[
                "Native manifest file … is referenced in the registry but does not exist",
                "file is referenced in the registry but does not exist",
            ],
            "Windows: the registry key names a manifest that is not there.",
            &["the file was moved or removed, or another program cleaned up"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &["Native manifest … has type property … (expected …)", "has type property"],
            "The manifest is of another kind than `stdio`.",
            &["it was written by hand, or is a manifest for storage or PKCS #11"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &["Native manifest … has name property … (expected …)", "has name property"],
            "The `name` in the manifest is not that of its file.",
            &["the file was copied or renamed"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &["Native manifest … has relative path value … (expected absolute path)", "has relative path value"],
            "The `path` in the manifest is relative. Only Windows takes that.",
            &["the manifest was written by hand, or for Windows"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &["This extension does not have permission to use native manifest …"],
            "There is a manifest, but its `allowed_extensions` does not hold this add-on's id.",
            &["the id in `browser_specific_settings.gecko.id` is another one than was given to install"],
            INSTALL,
        ),
        entry(
            FirefoxConsole,
            &["File at path … does not exist, or is not executable"],
            "The manifest is in order, but the program that its `path` names cannot be run.",
            &["it was moved or removed, or has lost its permission to be run"],
            "websocket-bridge doctor --fix",
        ),
        entry(
            FirefoxConsole,
            &["stderr output from native app …"],
            "What the host wrote to its standard error. The text behind it says more.",
            &["the host complains; its log is logs/host.log"],
            DOCTOR,
        ),
        entry(
            Firefox,
            &["Write too big"],
            "The extension posted a message that Firefox does not carry (4 GiB).",
            &["one payload is too large; this host takes 64 MiB"],
            "send the payload in parts",
        ),
        Entry {
            has_length: true,
            ..entry(
                Firefox,
                &["Native application tried to send a message of … bytes, which exceeds the limit of … bytes."],
                "The first four bytes of what the host wrote make this number, and no message may be longer than 1 MiB.",
                &[
                    "the host printed text: the number is its first four characters",
                    "a message over 1 MiB (this program never sends one: it cuts them into `chunk`s)",
                ],
                DOCTOR,
            )
        },
    ]
};

/// Explains what a person has pasted: an error text with whatever stands around it, a code of this program, or a number.
#[must_use]
pub fn explain(text: &str) -> Explained {
    let asked = normal(text);
    if let Some(number) = as_number(&asked) {
        return known(of_number(number));
    }
    if let Some(entry) = recognise(&asked) {
        let mut answer = of_entry(entry);
        if let Some(length) = numbers(&asked).find(|length| entry.has_length && *length > MAX_TO_EXTENSION as u64) {
            answer.push('\n');
            answer.push_str(&of_length(length));
        }
        return known(answer);
    }
    if let Some(answer) = of_code(&asked) {
        return known(answer);
    }
    let nearest = nearest(&asked);
    let mut answer = "This text is not known.".to_owned();
    if let Some(entry) = nearest {
        let _ = write!(answer, " The nearest one that is:\n\n{}", of_entry(entry));
    } else {
        let _ = write!(answer, "\nnext: {DOCTOR}\n");
    }
    Explained { is_known: false, text: answer }
}

fn known(text: String) -> Explained {
    Explained { is_known: true, text }
}

/// Capitals, kinds of quotation marks and line breaks make no difference.
fn normal(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase().replace(['’', '‘'], "'").replace(['“', '”'], "\"")
}

/// The text as a number and nothing else: `1 836 017 711`, `1,836,017,711 bytes`.
fn as_number(text: &str) -> Option<u64> {
    let text = text.strip_suffix("bytes").unwrap_or(text);
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | ',' | '.' | '_' | '\'')).collect();
    digits.parse().ok()
}

fn numbers(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

/// The entry of which most is in the text.
fn recognise(text: &str) -> Option<&'static Entry> {
    let found = TABLE.iter().flat_map(|entry| {
        entry.texts.iter().filter(|wording| holds(text, wording)).map(move |wording| (literal_length(wording), entry))
    });
    found.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
}

/// Whether the parts of a wording stand in a text in their order.
fn holds(text: &str, wording: &str) -> bool {
    let mut rest = text;
    parts(wording).all(|part| match rest.find(&*part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// What stands between the places of a wording, as it is looked for: without the full stop that a person leaves out.
fn parts(wording: &str) -> impl Iterator<Item = String> {
    wording.split('…').map(|part| normal(part.trim().trim_end_matches('.'))).filter(|part| !part.is_empty())
}

fn literal_length(wording: &str) -> usize {
    parts(wording).map(|part| part.len()).sum()
}

/// The entry that shares most of its words with the text, if it is more than a few.
fn nearest(text: &str) -> Option<&'static Entry> {
    let asked = words(text);
    let shared = |wording: &str| {
        let wording = words(&normal(wording));
        let common = wording.iter().filter(|word| asked.contains(word)).count();
        // Of both together, in percent.
        200 * common / (wording.len() + asked.len()).max(1)
    };
    let scored =
        TABLE.iter().map(|entry| (entry.texts.iter().map(|text| shared(text)).max().unwrap_or_default(), entry));
    // The first of several, which is what a browser says to the extension.
    scored.rev().max_by_key(|(score, _)| *score).filter(|(score, _)| *score >= 20).map(|(_, entry)| entry)
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

fn of_entry(entry: &Entry) -> String {
    let mut answer = format!("{}\n  said by {}\n\n{}\n", entry.texts[0], entry.speaker.title(), entry.meaning);
    for cause in entry.causes {
        let _ = writeln!(answer, "  - {cause}");
    }
    let _ = writeln!(answer, "next: {}", entry.next);
    answer
}

/// A number by itself: a close code or an HTTP status if it can be one, else a length.
fn of_number(number: u64) -> String {
    let ending = ENDINGS.iter().find(|ending| match ending.sign {
        Sign::Close(from, to) | Sign::Status(from, to) => (u64::from(from)..=u64::from(to)).contains(&number),
        Sign::Code(_) => false,
    });
    match ending {
        Some(ending) => {
            let what = if number < 1000 { "HTTP status" } else { "close code" };
            format!("{what} {number}: {}\nnext: websocket-bridge doctor --url URL\n", ending.meaning)
        }
        None => of_length(number),
    }
}

/// What a length of a message says that no message has.
#[must_use]
pub fn of_length(length: u64) -> String {
    let limit = MAX_TO_EXTENSION as u64;
    let Some(number) = u32::try_from(length).ok().filter(|_| length > limit) else {
        return if length > limit {
            format!("{length} is no length: it is written in four bytes, and this takes more.\nnext: {DOCTOR}\n")
        } else {
            format!("{length} bytes is a length that a message may have: the limit towards the extension is {limit}.\n")
        };
    };
    let bytes = number.to_le_bytes();
    if let Some(text) = as_text(bytes) {
        return format!(
            "{length} is no length: its four bytes are the text {text}. That is the beginning of something that was \
             printed to standard output, where the browser expects the length of a message. The program in the manifest's \
             `path` is another one, or a script around it prints (this host keeps its own output for messages).\n\
             next: {DOCTOR}\n"
        );
    }
    let swapped = number.swap_bytes();
    if u64::from(swapped) <= limit {
        return format!(
            "{length} is {swapped} with its four bytes in the other order: whoever wrote it did not write the length in the \
             byte order of this machine.\nnext: {DOCTOR}\n"
        );
    }
    let advice = if length <= MAX_FROM_EXTENSION as u64 {
        "A browser closes the port of a host that sends more; this host cuts such messages into `chunk`s, so another \
         program has sent it"
    } else {
        "It was hardly meant as a length: something else than messages came from the host's standard output"
    };
    format!(
        "{length} bytes is over the limit of {limit} bytes (1 MiB) towards the extension. {advice}.\nnext: {DOCTOR}\n"
    )
}

/// Four bytes as text between quotation marks, if it is text.
fn as_text(bytes: [u8; 4]) -> Option<Cow<'static, str>> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Some("that begins with a byte order mark of UTF-8".into());
    }
    let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x1b);
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    bytes.iter().all(is_text).then(|| format!("\"{}\"", text.escape_default()).into())
}

/// A code of this program's own: of an `error`, or of a `reason`.
fn of_code(text: &str) -> Option<String> {
    let is_named = |code: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let alone = |at: usize| !text[..at].ends_with(is_part) && !text[at + code.len()..].starts_with(is_part);
        // Some codes are words of every day, which mean something only by themselves.
        let is_word = !code.contains('-');
        text == code
            || text.match_indices(code).any(|(at, _)| alone(at) && !is_word)
            || ['"', '`', '\''].iter().any(|quote| text.contains(&format!("{quote}{code}{quote}")))
    };
    if let Some(code) = Code::ALL.iter().find(|code| is_named(code.as_str())) {
        let again = if code.retryable() {
            "The same request may succeed later."
        } else {
            "The same request will not succeed until something is changed."
        };
        return Some(format!(
            "error {}: {}\n{again} The `message` beside it says what to do; PROTOCOL.md lists all codes.\n",
            code.as_str(),
            code.meaning()
        ));
    }
    let (code, meaning) = ENDINGS.iter().find_map(|ending| match ending.sign {
        Sign::Code(code) if is_named(code) => Some((code, ending.meaning)),
        _ => None,
    })?;
    Some(format!("reason {code}: {meaning}\nnext: websocket-bridge doctor --url URL\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wording with something in the places of `…`.
    fn filled(wording: &str, with: &str) -> String {
        wording.replace('…', with)
    }

    fn answer(text: &str) -> String {
        let Explained { is_known, text: answer } = explain(text);
        assert!(is_known, "{text}: {answer}");
        answer
    }

    #[test]
    fn every_text_is_recognised_whatever_stands_around_and_in_it() {
        let mut count = 0;
        for entry in TABLE {
            for wording in entry.texts {
                for with in ["com.semantest.websocket_bridge", "org.other.name", "/home/x y/z.json", "17"] {
                    let text = filled(wording, with);
                    for pasted in [
                        text.clone(),
                        text.to_uppercase(),
                        text.trim_end_matches('.').to_owned(),
                        format!("Unchecked runtime.lastError: {text}"),
                        format!("[1:1:0101/000000.1:ERROR:native_message_process_host.cc(1)] {text}\n  at x.js:7"),
                        text.replacen(' ', "\n   ", 1),
                    ] {
                        let answer = answer(&pasted);
                        assert!(answer.starts_with(&of_entry(entry)), "{pasted}\n{answer}");
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 900, "{count}");
    }

    #[test]
    fn the_texts_that_browsers_are_known_to_say_are_all_here() {
        for text in [
            "Specified native messaging host not found.",
            "Invalid native messaging host name specified.",
            "Access to the specified native messaging host is forbidden.",
            "Failed to start native messaging host.",
            "Native host has exited.",
            "Error when communicating with the native messaging host.",
            "Access to native messaging requires nativeMessaging permission.",
            "Access to the native messaging host was disabled by the system administrator.",
            "Native Messaging is not supported on this platform.",
            "Message exceeded maximum allowed size of 64MiB.",
            "Message length exceeded maximum allowed length.",
            "Could not serialize message.",
            "The sender sent an invalid JSON message; message ignored.",
            "Attempting to use a disconnected port object",
            "Can't find manifest for native messaging host com.x.y",
            "Failed to load manifest for native messaging host com.x.y: Invalid value for allowed_origins",
            "Invalid name specified in the manifest",
            "Native messaging host path must be absolute",
            "Found manifest, but not the binary",
            "Native Messaging host tried sending a message that is 1836017711 bytes long.",
            "Error when writing to Native Messaging host: -101",
            "Native messaging host com.x.y is not registered.",
            "Path to native messaging host manifest must be absolute.",
            "COMSPEC is not set",
            "Native Messaging host process exited with code 3221225781",
            "Error launching process",
            "No such native application com.x.y",
            "Error: No such native application com.x.y",
            "Error parsing native manifest at path /x/y.json",
            "Native manifest file /x/y.json is referenced in the registry but does not exist",
            "Native manifest /x/y.json has type property storage (expected stdio)",
            "Native manifest /x/y.json has name property a (expected b)",
            "Native manifest /x/y.json has relative path value x (expected absolute path)",
            "This extension does not have permission to use native manifest /x/y.json",
            "File at path \"/x/y\" does not exist, or is not executable",
            "Attempt to postMessage on disconnected port",
            "Write too big",
            "Native application tried to send a message of 1836017711 bytes, which exceeds the limit of 1048576 bytes.",
        ] {
            let answer = answer(text);
            assert!(answer.contains("next: "), "{text}: {answer}");
        }
    }

    #[test]
    fn a_length_that_is_really_text_is_read() {
        for (number, text) in [
            (1_836_017_711, r#""/hom""#),
            (858_927_154, r#""2023""#),
            (977_472_013, r#""\r\nC:""#),
            (1_953_720_652, r#""List""#),
            (1_635_017_060, r#""data""#),
            (1_668_248_176, r#""proc""#),
            (460_151_579, r#""\u{1b}[m\u{1b}""#),
        ] {
            for asked in [
                number.to_string(),
                format!("{number} bytes"),
                format!("Native Messaging host tried sending a message that is {number} bytes long."),
                format!(
                    "Native application tried to send a message of {number} bytes, which exceeds the limit of 1048576"
                ),
            ] {
                let answer =
                    if asked.ends_with("1048576") { answer(&format!("{asked} bytes.")) } else { answer(&asked) };
                assert!(answer.contains(text), "{asked}: {answer}");
            }
        }
        assert!(answer(&u32::from_le_bytes(*b"\xef\xbb\xbf{").to_string()).contains("byte order mark"));
    }

    #[test]
    fn other_lengths_are_explained_as_well() {
        assert!(answer("1048576").contains("may have"));
        assert!(answer("1,048,577").contains("over the limit of 1048576 bytes (1 MiB)"));
        assert!(answer("234881024").contains("14 with its four bytes in the other order"));
        assert!(answer("4294967296").contains("four bytes"));
        let pasted = answer("Native Messaging host tried sending a message that is 2000000 bytes long.");
        assert!(pasted.contains("2000000 bytes is over the limit"), "{pasted}");
    }

    #[test]
    fn the_program_s_own_codes_are_explained_from_its_own_tables() {
        for code in Code::ALL {
            let pasted = format!(r#"{{"type":"error","code":"{}","message":"x"}}"#, code.as_str());
            for asked in [code.as_str(), &pasted] {
                let answer = answer(asked);
                assert!(answer.contains(code.meaning()), "{asked}: {answer}");
            }
        }
        assert!(answer("reason upgrade-timeout").contains("No answer to the upgrade in time."));
        assert!(answer("dns").contains("could not be looked up"));
        assert!(answer("1006").starts_with("close code 1006") && answer("401").starts_with("HTTP status 401"));
    }

    #[test]
    fn an_unknown_text_says_so_and_shows_the_nearest() {
        let Explained { is_known, text } = explain("the native host found was not specified");
        assert!(!is_known && text.contains("not known"), "{text}");
        assert!(text.contains("Specified native messaging host not found."), "{text}");
        let Explained { is_known, text } = explain("it is damaged, and superseded by tls");
        assert!(!is_known && !text.contains("said by"), "{text}");
        assert!(!explain("").is_known);
    }
}
