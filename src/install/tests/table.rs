//! The table itself: that it is in order, and that the README shows it.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::Env;
use crate::install::HostName;
use crate::install::browsers::{Browser, Confidence, Family, Launch, Place, Platform, Scope, Site, View};

/// The browser of this name.
pub(super) fn browser(platform: Platform, name: &str) -> &'static Browser {
    platform.browsers().iter().find(|browser| browser.name == name).unwrap()
}

#[test]
fn paths_are_written_in_the_way_of_their_own_system() {
    let locate = |platform, name: &str, env: &[(&str, &str)]| {
        let env = env.iter().copied().collect();
        let all = browser(platform, name).locations(platform.browsers(), &env, Path::new("/"), &HostName::default());
        all.iter().map(|looked| looked.location.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        locate(Platform::MacOs, "chrome-beta", &[("HOME", "/Users/u")]),
        [
            "/Users/u/Library/Application Support/Google/Chrome Beta/NativeMessagingHosts/com.semantest.websocket_bridge.json",
            "/Library/Google/Chrome/NativeMessagingHosts/com.semantest.websocket_bridge.json",
        ]
    );
    assert_eq!(
        locate(Platform::Windows, "chrome", &[]),
        [
            r"HKCU\Software\Google\Chrome\NativeMessagingHosts\com.semantest.websocket_bridge",
            r"HKLM\Software\Google\Chrome\NativeMessagingHosts\com.semantest.websocket_bridge (32-bit)",
            r"HKLM\Software\Google\Chrome\NativeMessagingHosts\com.semantest.websocket_bridge",
        ]
    );
    let env: Env = [("LOCALAPPDATA", "AppData"), ("USERPROFILE", r"C:\Users\u")].into_iter().collect();
    let profile = browser(Platform::Windows, "edge").detection.profiles[0];
    let path = profile.locate(Platform::Windows, &env, Path::new("/")).unwrap();
    assert_eq!(path.to_str(), Some(r"C:\Users\u\AppData\Local\Microsoft\Edge\User Data"));
    assert_eq!(profile.locate(Platform::Linux, &env, Path::new("/")), None, "no path that starts nowhere");
}

#[test]
fn a_location_that_browsers_share_names_them_all() {
    let env = [("HOME", "/h")].into_iter().collect();
    let (linux, host) = (Platform::Linux, HostName::default());
    let opera = browser(linux, "opera").locations(linux.browsers(), &env, Path::new("/"), &host);
    assert_eq!(opera[0].readers, ["chrome", "opera"]);
    let edge = browser(linux, "edge").locations(linux.browsers(), &env, Path::new("/"), &host);
    assert!(edge[2].readers.contains(&"edge") && edge[2].readers.contains(&"chrome") && !edge[2].row.is_written);
    let none = browser(linux, "opera").locations(linux.browsers(), &Env::default(), Path::new("/"), &host);
    assert_eq!(none.len(), 1, "without a home only the machine's is known");
}

/// The tables of the README: one line for each place and format, with all browsers that look there.
fn rendered(platform: Platform) -> String {
    let mut lines: Vec<(String, Vec<String>, String)> = Vec::new();
    for browser in platform.browsers() {
        for row in browser.rows {
            let scope = match row.scope {
                Scope::User => "user",
                Scope::System => "system",
            };
            let place = match row.site {
                Site::Directory(place) => shown(place),
                Site::Key(view, path) => {
                    let (hive, note) = match (row.scope, view) {
                        (Scope::User, _) => ("HKCU", ""),
                        (Scope::System, View::Bits32) => ("HKLM", ", 32-bit"),
                        (Scope::System, View::Bits64) => ("HKLM", ", 64-bit"),
                    };
                    format!(r"`{hive}\{path}`{note}")
                }
            };
            let confidence = match row.confidence {
                Confidence::Observed => "observed",
                Confidence::Documented => "documented",
                Confidence::Reported => "reported",
                Confidence::Assumed => "assumed",
            };
            let mark = if row.is_written { "" } else { " (looks there too)" };
            let start = format!("| {scope} | {place} |");
            let end = format!("{confidence}: {}", row.source);
            let name = format!("`{}`{mark}", browser.name);
            match lines.iter_mut().find(|(known, _, known_end)| *known == start && *known_end == end) {
                Some((_, names, _)) => names.push(name),
                None => lines.push((start, vec![name], end)),
            }
        }
    }
    let mut text = "| Scope | Place | Browsers | Known from |\n|---|---|---|---|\n".to_owned();
    for (start, names, end) in lines {
        writeln!(text, "{start} {} | {end} |", names.join(", ")).unwrap();
    }
    text
}

/// A directory as people write it; the README says what the words in capitals stand for.
fn shown(Place(choices): Place) -> String {
    let (_, path) = choices[0];
    match choices {
        [("", path)] => format!("`/{path}`"),
        [("HOME", path)] => format!("`~/{path}`"),
        [("CHROME_CONFIG_HOME", _), ("XDG_CONFIG_HOME", _), ("HOME", _)] => format!("`CONFIG/{path}`"),
        [("XDG_DATA_HOME", _), ("HOME", _)] => format!("`DATA/{path}`"),
        other => panic!("no word for {other:?}"),
    }
}

fn rendered_names(platform: Platform) -> String {
    let name = |browser: &Browser| {
        let family = match browser.family {
            Family::Chromium => "chromium.json",
            Family::Firefox => "firefox.json",
        };
        let launch = match browser.sandbox.map(|sandbox| sandbox.launch) {
            None => "directly",
            Some(Launch::Inside { .. }) => "inside",
            Some(Launch::Portal) => "by a portal",
        };
        format!("| {} | `{}` | `{family}` | {launch} |\n", browser.title, browser.name)
    };
    let names: String = platform.browsers().iter().map(name).collect();
    format!("| Browser | `--browser` | Format | Starts the host |\n|---|---|---|---|\n{names}")
}

#[test]
fn the_readme_shows_the_table() {
    let readme = include_str!("../../../host-manifests/README.md");
    let (_, shown) = readme.split_once("<!-- locations -->\n").unwrap();
    let mut expected = String::new();
    for (platform, title) in [(Platform::Linux, "Linux"), (Platform::MacOs, "macOS"), (Platform::Windows, "Windows")] {
        let (names, places) = (rendered_names(platform), rendered(platform));
        write!(expected, "\n## {title}\n\n{names}\n{places}").unwrap();
    }
    assert!(shown == expected, "put this at the end of host-manifests/README.md:\n{expected}");
}

#[test]
fn names_in_the_table_can_be_typed_and_are_one_for_each_browser() {
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    for platform in Platform::ALL {
        let mut names: Vec<&str> = platform.browsers().iter().map(|browser| browser.name).collect();
        assert!(names.iter().all(|name| is_plain(name)));
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for browser in platform.browsers() {
            assert_eq!(browser.platform, platform, "{}", browser.name);
            assert!(!browser.rows.is_empty() && browser.rows.iter().all(|row| !row.source.is_empty()));
            let scopes = browser.rows.iter().map(|row| row.scope == Scope::System);
            assert!(scopes.is_sorted(), "{}: the user's places come first", browser.name);
        }
    }
}
