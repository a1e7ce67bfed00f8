//! Rules of the source tree that no compiler checks. The rules are data; a test fails with the file and what to do.
//!
//! The scans are by text, without comments, and know nothing of macros or re-exports: they catch the slip, not
//! the trick.

use std::fs;
use std::path::{Path, PathBuf};

/// Which of our modules a module may name: itself, and these paths with what is below them.
///
/// Dependencies point one way. What is not listed here (`main`, `lib`, `cli`) starts everything and may name all.
const MAY_NAME: &[(&str, &[&str])] = &[
    // The ground: the rest of the tree stands on these, and they on nothing.
    ("wire", &[]),
    ("os", &[]),
    ("log", &["os", "config"]),
    ("settings", &["wire"]),
    ("config", &["settings", "wire", "os"]),
    // Decides, and does nothing: the vocabulary and what was set are all that it knows.
    ("session", &["settings", "wire"]),
    // The two things that a session asks for. Neither knows the other, or the daemon.
    ("server", &["wire", "config", "log", "os"]),
    ("spool", &["session::record", "wire", "config", "log", "os"]),
    // The two processes.
    ("host", &["daemon::launch", "daemon::endpoint", "wire", "config", "log", "os"]),
    ("daemon", &["session", "server", "spool", "settings", "wire", "config", "log", "os"]),
    // What a person starts.
    ("install", &["daemon::launch", "daemon::endpoint", "wire", "config", "log", "os"]),
    (
        "doctor",
        &["install", "daemon::launch", "daemon::endpoint", "server", "spool", "explain", "wire", "config", "log", "os"],
    ),
    ("explain", &["session::ENDINGS", "session::Sign", "wire"]),
    ("inspect", &["daemon::launch", "daemon::endpoint", "wire", "config", "log"]),
    ("demo", &["daemon::launch", "daemon::endpoint", "wire", "config", "log", "os"]),
];

/// What the session must never name: time, chance and the world come to it as inputs.
const SESSION_NEVER_NAMES: &[&str] =
    &["tokio", "std::env", "std::fs", "std::net", "std::process", "std::thread", "getrandom"];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "shared", "types", "util", "utils"];

/// Directories that hold nothing of ours.
const NOT_OURS: &[&str] = &[".git", "target", "node_modules", "corpus", "artifacts", "coverage"];

#[test]
fn every_rust_file_is_compiled() {
    // tests/fuzz is a Cargo project of its own, whose Cargo.toml names each target.
    let tests = rust_files("tests").into_iter().filter(|file| !file.starts_with(root().join("tests/fuzz")));
    for file in rust_files("src").into_iter().chain(tests).chain(rust_files("benches")) {
        let folder = file.parent().expect("a file is in a folder");
        let (name, folder) = match name(&file) {
            "main.rs" | "lib.rs" => continue,
            "mod.rs" => (name(folder), folder.parent().expect("a module is below the root")),
            file_name => (file_name.trim_end_matches(".rs"), folder),
        };
        let declares = |parent: PathBuf| {
            parent.is_file() && source(&parent).lines().any(|line| declared_module(line) == Some(name))
        };
        let declared = ["mod.rs", "lib.rs", "main.rs"].iter().any(|parent| declares(folder.join(parent)))
            || declares(folder.with_extension("rs"));
        assert!(declared, "{} is never compiled: nothing declares `mod {name};`", show(&file));
    }
}

#[test]
fn every_source_file_says_first_what_it_owns() {
    for file in rust_files("src").into_iter().chain(rust_files("benches")) {
        assert!(text(&file).starts_with("//! "), "{} must open with a `//!` comment", show(&file));
    }
}

#[test]
fn every_file_is_named_after_what_it_does() {
    for file in files(&root()) {
        let stem = name(&file).trim_end_matches(".rs").trim_end_matches(".js");
        assert!(!EMPTY_NAMES.contains(&stem), "{}: name it after what it does", show(&file));
    }
}

#[test]
fn the_session_knows_no_clock_no_chance_and_no_world() {
    for file in rust_files("src").into_iter().filter(|file| top_module(file) == "session") {
        let source = source(&file);
        for name in SESSION_NEVER_NAMES {
            let (start, path) = name.split_once("::").unwrap_or((name, ""));
            let named = paths_from(&source, start).iter().any(|found| path.is_empty() || covers(path, found));
            assert!(!named, "{} names {name}: the session is told, it does not look", show(&file));
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    for file in rust_files("src") {
        let module = top_module(&file);
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
            assert!(
                ["main", "lib", "cli"].contains(&module),
                "{}: say in MAY_NAME (tests/it/tree.rs) what `{module}` may name",
                show(&file)
            );
            continue;
        };
        // A `crate` without a path is a visibility: `pub(crate)`.
        for path in paths_from(&source(&file), "crate").into_iter().filter(|path| !path.is_empty()) {
            let fine = covers(module, &path) || allowed.iter().any(|allowed| covers(allowed, &path));
            assert!(fine, "{} names crate::{path}, but `{module}` may only name {allowed:?}", show(&file));
        }
    }
}

#[test]
fn the_minimum_rust_version_is_written_once() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    for file in files(&root()) {
        // Lock files are full of versions, and this one is always among them sooner or later.
        if ["Cargo.lock", "package-lock.json"].contains(&name(&file)) {
            continue;
        }
        let expected = usize::from(file == root().join("Cargo.toml"));
        let found = numbers(&text(&file)).filter(|number| *number == version).count();
        assert!(found <= expected, "{} writes {version} again: refer to Cargo.toml instead", show(&file));
    }
}

#[test]
fn the_scan_finds_paths_in_all_their_forms() {
    let source = "use crate::{wire::{self, frame::Frame}, os}; fn f() { crate::spool::open(mycrate::x) }";
    assert_eq!(paths_from(source, "crate"), ["wire::self", "wire::frame::Frame", "os", "spool::open"]);
    assert_eq!(paths_from("use std::{fs, collections::*};", "std"), ["fs", "collections::*"]);
    assert_eq!(paths_from("use tokio; tokio::spawn(x)", "tokio"), ["", "spawn"]);
    assert!(covers("daemon::launch", "daemon::launch::ensure") && !covers("daemon::launch", "daemon::launcher"));
    assert_eq!(numbers("1.2 v1.23, 11.2;1.2.").collect::<Vec<_>>(), ["1.2", "1.23", "11.2", "1.2"]);
}

/// Everything that `start` is followed by in `source`, with `{…}` written out: `a::{b, c::d}` gives `b` and `c::d`.
fn paths_from(source: &str, start: &str) -> Vec<String> {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    let mut paths = Vec::new();
    for (at, _) in source.match_indices(start) {
        let rest = &source[at + start.len()..];
        if source[..at].ends_with(word) || rest.starts_with(word) {
            continue;
        }
        match rest.trim_start().strip_prefix("::") {
            Some(rest) => {
                expand(&mut rest.trim_start().chars().peekable(), "", &mut paths);
            }
            None => paths.push(String::new()),
        }
    }
    paths
}

/// Reads one path, or one group of them, and adds each as a whole to `paths`.
fn expand(characters: &mut std::iter::Peekable<std::str::Chars<'_>>, before: &str, paths: &mut Vec<String>) {
    let mut path = before.to_owned();
    while let Some(&character) = characters.peek() {
        match character {
            '{' => {
                while characters.next_if(|&character| character != '}').is_some() {
                    while characters.next_if(|character| character.is_whitespace()).is_some() {}
                    if characters.peek().is_some_and(|&character| character != '}') {
                        expand(characters, &path, paths);
                    }
                }
                characters.next();
                return;
            }
            character if character.is_alphanumeric() || "_:*".contains(character) => path.push(character),
            _ => break,
        }
        characters.next();
    }
    // The rest of a path's last part does not matter: ` as name`, or generic arguments.
    while characters.next_if(|character| !",{};}".contains(*character)).is_some() {}
    paths.push(path.trim_end_matches(':').to_owned());
}

/// Whether `path` is `allowed` or below it.
fn covers(allowed: &str, path: &str) -> bool {
    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The numbers in a text, with their dots: `0.3.1`, `42`.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_digit() && character != '.')
        .map(|number| number.trim_matches('.'))
        .filter(|number| !number.is_empty())
}

/// The module that a line declares, if it declares one that is in another file.
fn declared_module(line: &str) -> Option<&str> {
    let (before, after) = line.trim().split_once("mod ")?;
    after.strip_suffix(';').filter(|_| before.is_empty() || before.starts_with("pub"))
}

/// The first name of the path of a source file's module; `main` or `lib` for the roots.
fn top_module(file: &Path) -> &str {
    let first = file.strip_prefix(root().join("src")).expect("a source file").iter().next();
    name(Path::new(first.expect("a path has a first part"))).trim_end_matches(".rs")
}

/// The last part of a path.
fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The text of a Rust file without its line comments.
fn source(file: &Path) -> String {
    text(file).lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The text of a file; nothing for one that is not text.
fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = files(&root().join(folder));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// All files of ours below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", show(folder))) {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() && !path.is_symlink() {
            if !NOT_OURS.iter().any(|name| path.ends_with(name)) {
                found.extend(files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
