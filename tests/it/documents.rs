//! What the documents say is what the program does.

use std::path::Path;

use serde_json::Value;
use websocket_bridge::config::{self, Config, HOME_VARIABLE, Paths};
use websocket_bridge::session::{ENDINGS, Ending, Sign, Verdict};
use websocket_bridge::settings::{self, FileOnly, Limits, Preset, Setting};
use websocket_bridge::wire::{self, Code, frame};

use crate::support::sandbox::Sandbox;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_protocol_lists_every_code_with_its_meaning_and_no_other() {
    let document = document("PROTOCOL.md");
    let (_, table) = document.split_once("| `error.code` | retryable | meaning |\n|---|---|---|\n").unwrap();
    let row = |code: &Code| {
        let retryable = if code.retryable() { "yes" } else { "no" };
        format!("| `{}` | {retryable} | {} |\n", code.as_str(), code.meaning())
    };
    let expected: String = Code::ALL.iter().map(row).collect();
    assert!(table == expected, "the table must be:\n{expected}");
}

#[test]
fn the_protocol_names_the_limits_of_the_program() {
    let document = document("PROTOCOL.md");
    for row in [
        format!("| a message from the extension | {} bytes |", frame::MAX_FROM_EXTENSION),
        format!("| a frame to the extension | {} bytes;", frame::MAX_TO_EXTENSION),
        format!("| nesting of arrays and objects in a payload | {} |", wire::MAX_NESTING),
        format!("| sessions of one extension | {} |", wire::MAX_SESSIONS),
        format!("| consumers of one session | {} |", wire::MAX_CONSUMERS),
        format!("| observers of one session | {} |", wire::MAX_CONSUMERS),
        format!("| subscriptions of one session | {} |", wire::MAX_SUBSCRIPTIONS),
        format!("| sub-protocols that are offered | {} |", wire::MAX_PROTOCOLS),
        format!("| {} messages, {} bytes |", wire::WINDOW.messages, wire::WINDOW.bytes),
        format!("| `url` | {} bytes |", config::MAX_URL),
        format!("| `settings` of `open` | {} bytes |", settings::MAX_TEXT),
    ] {
        assert!(document.contains(&row), "{row}");
    }
}

#[test]
fn the_protocol_lists_every_setting_with_its_default_and_its_bounds() {
    let document = document("PROTOCOL.md");
    let (_, table) =
        document.split_once("| setting | default | allowed | what it does |\n|---|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let row = |setting: &Setting| {
        let default = setting.default_text().map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
        format!("| `{}` | {default} | {} | {} |", setting.path, setting.allowed(&Limits::default()), setting.meaning)
    };
    let expected: Vec<String> = settings::TABLE.iter().map(row).collect();
    assert!(table == expected.join("\n"), "the table must be:\n{}", expected.join("\n"));
}

#[test]
fn the_protocol_lists_every_setting_that_only_a_file_may_say() {
    let document = document("PROTOCOL.md");
    let (_, table) =
        document.split_once("| file setting | default | allowed | what it does |\n|---|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let row = |FileOnly { name, default, allowed, meaning }: &FileOnly| {
        format!("| `{name}` | {default} | {allowed} | {meaning} |")
    };
    let expected: Vec<String> = settings::FILE_ONLY.iter().map(row).collect();
    assert!(table == expected.join("\n"), "the table must be:\n{}", expected.join("\n"));
}

#[test]
fn the_protocol_lists_every_preset_with_what_it_says() {
    let document = document("PROTOCOL.md");
    let (_, table) = document.split_once("| preset | for | settings |\n|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let row = |preset: &Preset| {
        let settings: Value = serde_json::from_str(preset.settings).unwrap();
        format!("| `{}` | {} | `{settings}` |", preset.name, preset.meaning)
    };
    let expected: Vec<String> = settings::PRESETS.iter().map(row).collect();
    assert!(table == expected.join("\n"), "the table must be:\n{}", expected.join("\n"));
}

#[test]
fn the_protocol_lists_every_way_a_connection_can_end_and_what_follows() {
    let document = document("PROTOCOL.md");
    let (_, table) = document.split_once("| ending | then | what happened |\n|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let range = |from: u16, to: u16| if from == to { from.to_string() } else { format!("{from} to {to}") };
    let row = |ending: &Ending| {
        let sign = match ending.sign {
            Sign::Close(from, to) => format!("close code {}", range(from, to)),
            Sign::Status(from, to) => format!("HTTP status {}", range(from, to)),
            Sign::Code(code) => format!("`{code}`"),
        };
        let then = match ending.verdict {
            Verdict::Soon => "soon",
            Verdict::Spread => "spread",
            Verdict::Thrice => "thrice",
            Verdict::Park => "parked",
        };
        format!("| {sign} | {then} | {} |", ending.meaning)
    };
    let expected: Vec<String> = ENDINGS.iter().map(row).collect();
    assert!(table == expected.join("\n"), "the table must be:\n{}", expected.join("\n"));
}

/// The scan is by text: whoever makes a reason writes its code as a literal.
#[test]
fn every_code_of_a_reason_has_its_row() {
    let known = |code: &str| ENDINGS.iter().any(|ending| matches!(ending.sign, Sign::Code(known) if known == code));
    let mut found = 0;
    for file in [
        "server/mod.rs",
        "server/dial.rs",
        "server/proxy.rs",
        "server/tls.rs",
        "server/upgrade.rs",
        "server/pump.rs",
        "session/connection.rs",
        "session/journal.rs",
        "daemon/core.rs",
    ] {
        let source = document(&format!("src/{file}"));
        let source: String = source.split("#[cfg(test)]\nmod tests {").next().unwrap().split_whitespace().collect();
        for rest in source.split("Reason::new(\"").skip(1) {
            let code = rest.split('"').next().unwrap();
            // These two are known by their number instead.
            assert!(known(code) || ["closed", "http-status"].contains(&code), "{file}: `{code}` is in no row");
            found += 1;
        }
    }
    assert!(found > 15, "only {found} reasons were found: are they written otherwise now?");
}

#[test]
fn the_readme_shows_configurations_that_can_be_used() {
    let machine = Sandbox::new();
    let paths = Paths::new(&[(HOME_VARIABLE, machine.bridge_home())].into_iter().collect()).unwrap();
    let readme = document("README.md");
    let examples: Vec<&str> =
        readme.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(!examples.is_empty());
    for example in examples {
        std::fs::create_dir_all(machine.bridge_home()).unwrap();
        std::fs::write(paths.config_file(), example).unwrap();
        let loaded = Config::load(&paths);
        assert!(loaded.is_ok_and(|config| config != Config::default()), "{example}");
    }
}

#[test]
fn the_readme_lists_every_command() {
    let help = Sandbox::new().run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let readme = document("README.md");
    let lines = commands.lines().take_while(|line| !line.is_empty());
    // A line that goes on is indented further.
    for line in lines.filter(|line| !line.starts_with("   ")) {
        let command = line.split_whitespace().next().unwrap();
        assert!(command == "help" || readme.contains(&format!("`{command}")), "README.md does not mention `{command}`");
    }
}

#[test]
fn the_readme_names_tests_that_there_are() {
    let readme = document("README.md");
    let (_, table) = readme.split_once("## What can go wrong").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let sources: String = rust_sources("src").chain(rust_sources("tests")).collect();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10);
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in tests.split(", ") {
            let name = test.trim_matches('`');
            assert!(sources.contains(&format!("fn {name}()")), "no test is called {name}");
        }
    }
}

/// The text of each Rust file below a directory.
fn rust_sources(directory: &str) -> impl Iterator<Item = String> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.into_iter().map(|file| std::fs::read_to_string(file).unwrap())
}
