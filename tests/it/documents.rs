//! What the documents say is what the program does.

use std::path::Path;

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
        format!("| {} messages, {} bytes |", wire::WINDOW.messages, wire::WINDOW.bytes),
    ] {
        assert!(document.contains(&row), "{row}");
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
