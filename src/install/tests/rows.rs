//! What install writes for each row of the table: the place and the bytes, for all systems, from any system.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::Memory;
use super::{ADDON, ID};
use crate::config::{Env, HostName};
use crate::install::browsers::{Family, Location, Platform, Scope};
use crate::install::steps::Change;
use crate::install::{Context, InstallError, Request, plan};

/// A machine that is nowhere.
fn context(platform: Platform) -> Context {
    let at = |path: &str| match platform {
        Platform::Windows => PathBuf::from(format!(r"Q:\{}", path.replace('/', r"\"))),
        Platform::Linux | Platform::MacOs => PathBuf::from(format!("/nowhere/{path}")),
    };
    let env: Env = match platform {
        Platform::Windows => [("LOCALAPPDATA", at("u/Local")), ("APPDATA", at("u/Roaming"))].into_iter().collect(),
        Platform::Linux | Platform::MacOs => [("HOME", at("u"))].into_iter().collect(),
    };
    Context {
        platform,
        env,
        root: PathBuf::from("/nowhere"),
        browsers: platform.browsers(),
        current_exe: at("download/websocket-bridge"),
        binary_dir: at("data/bin"),
        manifest_dir: at("data/manifests"),
        registry: Arc::new(Memory::default()),
        name_file: None,
        config_file: at("config.toml"),
        receipt: at("data/receipt.json"),
        purge: Vec::new(),
    }
}

/// Places and contents of all that is planned for one browser, without the receipt and the copies of the program.
fn planned(context: &Context, browser: &str, scope: Scope) -> Result<Vec<(Location, String)>, InstallError> {
    let request = Request {
        browsers: vec![browser.to_owned()],
        extensions: [ID, ADDON].map(|id| id.parse().unwrap()).to_vec(),
        scope,
        ..Request::default()
    };
    let steps = plan(&request, context)?.steps.into_iter();
    Ok(steps
        .filter_map(|step| match step.change {
            Some(Change::Write { contents, .. }) => Some((step.location, contents)),
            Some(Change::Set { value }) => Some((step.location, value)),
            _ => None,
        })
        .collect())
}

/// The manifest, byte for byte.
fn manifest(family: Family, program: &str) -> String {
    let program = program.replace('\\', r"\\");
    let allowed = match family {
        Family::Chromium => "\"allowed_origins\": [\n    \"chrome-extension://abcdefghijklmnopabcdefghijklmnop/\"\n  ]",
        Family::Firefox => "\"allowed_extensions\": [\n    \"tracker@example.org\"\n  ]",
    };
    format!(
        "{{\n  \"name\": \"com.semantest.websocket_bridge\",\n  \"description\": \"Keeps WebSocket streams alive while the \
         extension sleeps\",\n  \"path\": \"{program}\",\n  \"type\": \"stdio\",\n  {allowed}\n}}\n"
    )
}

/// `rows.txt` is to be read beside the sources that the table names: nothing makes it but who knows better.
#[test]
fn each_browser_gets_its_manifest_at_exactly_these_places() {
    let mut found = String::new();
    for (platform, name) in [(Platform::Linux, "linux"), (Platform::MacOs, "macos"), (Platform::Windows, "windows")] {
        let context = context(platform);
        for browser in platform.browsers() {
            for (scope, scope_name) in [(Scope::User, "user"), (Scope::System, "system")] {
                let Ok(places) = planned(&context, browser.name, scope) else {
                    assert!(browser.rows.iter().all(|row| row.scope != scope), "{name} {}", browser.name);
                    continue;
                };
                for (location, _) in places {
                    writeln!(found, "{name} {} {scope_name}: {location}", browser.name).unwrap();
                }
            }
        }
    }
    let expected = include_str!("rows.txt").replace("\r\n", "\n");
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert!(found == expected, "{found}");
}

#[test]
fn each_browser_gets_exactly_these_bytes() {
    for platform in Platform::ALL {
        let context = context(platform);
        for browser in platform.browsers() {
            for scope in [Scope::User, Scope::System] {
                let file = match (platform, browser.family) {
                    (Platform::Windows, Family::Chromium) => {
                        r"Q:\data\manifests\chromium\com.semantest.websocket_bridge.json"
                    }
                    (Platform::Windows, Family::Firefox) => {
                        r"Q:\data\manifests\firefox\com.semantest.websocket_bridge.json"
                    }
                    (Platform::Linux | Platform::MacOs, _) => "",
                };
                for (location, contents) in planned(&context, browser.name, scope).unwrap_or_default() {
                    let program = match (&location, browser.sandbox) {
                        (Location::Key(_), _) => {
                            assert_eq!(contents, file, "{location}");
                            continue;
                        }
                        (Location::File(_), Some(_)) => context.home_of(browser, &HostName::default()).unwrap().program,
                        (Location::File(_), None) => match platform {
                            Platform::Windows => PathBuf::from(r"Q:\data\bin\websocket-bridge.exe"),
                            _ => PathBuf::from("/nowhere/data/bin/websocket-bridge"),
                        },
                    };
                    assert_eq!(contents, manifest(browser.family, program.to_str().unwrap()), "{location}");
                    assert!(platform != Platform::Windows || location.file() == Some(Path::new(file)));
                }
            }
        }
    }
}
