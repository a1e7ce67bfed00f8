//! The browsers of macOS.
//!
//! Owns: where each of them looks there, and how that is known. Does not own: what the words of the table mean
//! (`browsers`).

use super::{Browser, Confidence, Detection, Family, Place, Platform, Row, Scope, Site};
use Confidence::{Assumed, Documented, Reported};

const CHROMIUM_SOURCE: &str = "Chromium's chrome/common/chrome_paths.cc";
const EDGE: &str = "Microsoft's documentation of native messaging";
const MDN: &str = "MDN, Native manifests";
const KEEPASSXC: &str = "keepassxc's NativeMessageInstaller.cpp";
const BITWARDEN: &str = "bitwarden/clients, native-messaging.main.ts";
const VDHCOAPP: &str = "vdhcoapp's config.toml";
/// Users of Brave who needed Chrome's directory.
const BRAVE_USERS: &str = "JabRef/user-documentation#413, browserpass-native#43, brotab#43";

/// A directory in which programs keep what is the user's.
macro_rules! library {
    ($path:expr) => {
        Place(&[("HOME", concat!("Library/Application Support/", $path))])
    };
}

/// The user's manifests in such a directory.
macro_rules! user {
    ($directory:literal, $confidence:expr, $source:expr) => {
        Row::new(
            Scope::User,
            Site::Directory(library!(concat!($directory, "/NativeMessagingHosts"))),
            $confidence,
            $source,
        )
    };
}

const fn system(place: Place, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::System, Site::Directory(place), confidence, source)
}

/// A program of the machine or of the user.
macro_rules! found {
    ([$($profile:literal),*], $program:literal) => {
        Detection {
            profiles: &[$(library!($profile)),*],
            executables: &[],
            well_known: &[
                Place(&[("", concat!("Applications/", $program))]),
                Place(&[("HOME", concat!("Applications/", $program))]),
            ],
        }
    };
}

const fn chromium(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::MacOs, family: Family::Chromium, detection, sandbox: None, rows }
}

const fn firefox(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::MacOs, family: Family::Firefox, detection, sandbox: None, rows }
}

const LIBRARY_CHROME: Place = Place(&[("", "Library/Google/Chrome/NativeMessagingHosts")]);
const LIBRARY_EDGE: Place = Place(&[("", "Library/Microsoft/Edge/NativeMessagingHosts")]);
const LIBRARY_MOZILLA: Place = Place(&[("", "Library/Application Support/Mozilla/NativeMessagingHosts")]);

pub(super) const BROWSERS: &[Browser] = &[
    chromium(
        "chrome",
        "Google Chrome",
        found!(["Google/Chrome"], "Google Chrome.app/Contents/MacOS/Google Chrome"),
        &[user!("Google/Chrome", Documented, CHROMIUM_SOURCE), system(LIBRARY_CHROME, Documented, CHROMIUM_SOURCE)],
    ),
    chromium(
        "chrome-beta",
        "Google Chrome Beta",
        found!(["Google/Chrome Beta"], "Google Chrome Beta.app/Contents/MacOS/Google Chrome Beta"),
        &[
            user!("Google/Chrome Beta", Documented, CHROMIUM_SOURCE),
            system(LIBRARY_CHROME, Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium(
        "chrome-dev",
        "Google Chrome Dev",
        found!(["Google/Chrome Dev"], "Google Chrome Dev.app/Contents/MacOS/Google Chrome Dev"),
        &[user!("Google/Chrome Dev", Documented, CHROMIUM_SOURCE), system(LIBRARY_CHROME, Documented, CHROMIUM_SOURCE)],
    ),
    chromium(
        "chrome-canary",
        "Google Chrome Canary",
        found!(["Google/Chrome Canary"], "Google Chrome Canary.app/Contents/MacOS/Google Chrome Canary"),
        &[
            user!("Google/Chrome Canary", Documented, CHROMIUM_SOURCE),
            system(LIBRARY_CHROME, Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium(
        "chrome-for-testing",
        "Chrome for Testing",
        found!(["Google/ChromeForTesting"], "Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing"),
        &[
            user!("Google/ChromeForTesting", Reported, "installers of others"),
            system(
                Place(&[("", "Library/Google/ChromeForTesting/NativeMessagingHosts")]),
                Reported,
                "installers of others",
            ),
        ],
    ),
    chromium(
        "chromium",
        "Chromium",
        found!(["Chromium"], "Chromium.app/Contents/MacOS/Chromium"),
        &[
            user!("Chromium", Documented, CHROMIUM_SOURCE),
            system(
                Place(&[("", "Library/Application Support/Chromium/NativeMessagingHosts")]),
                Documented,
                CHROMIUM_SOURCE,
            ),
        ],
    ),
    chromium(
        "edge",
        "Microsoft Edge",
        found!(["Microsoft Edge"], "Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
        &[user!("Microsoft Edge", Documented, EDGE), system(LIBRARY_EDGE, Documented, EDGE)],
    ),
    chromium(
        "edge-beta",
        "Microsoft Edge Beta",
        found!(["Microsoft Edge Beta"], "Microsoft Edge Beta.app/Contents/MacOS/Microsoft Edge Beta"),
        &[user!("Microsoft Edge Beta", Documented, EDGE), system(LIBRARY_EDGE, Documented, EDGE)],
    ),
    chromium(
        "edge-dev",
        "Microsoft Edge Dev",
        found!(["Microsoft Edge Dev"], "Microsoft Edge Dev.app/Contents/MacOS/Microsoft Edge Dev"),
        &[user!("Microsoft Edge Dev", Documented, EDGE), system(LIBRARY_EDGE, Documented, EDGE)],
    ),
    chromium(
        "edge-canary",
        "Microsoft Edge Canary",
        found!(["Microsoft Edge Canary"], "Microsoft Edge Canary.app/Contents/MacOS/Microsoft Edge Canary"),
        &[user!("Microsoft Edge Canary", Documented, EDGE), system(LIBRARY_EDGE, Documented, EDGE)],
    ),
    chromium(
        "brave",
        "Brave",
        found!(["BraveSoftware/Brave-Browser"], "Brave Browser.app/Contents/MacOS/Brave Browser"),
        &[
            user!("BraveSoftware/Brave-Browser", Reported, KEEPASSXC),
            user!("Google/Chrome", Reported, BRAVE_USERS),
            system(LIBRARY_CHROME, Assumed, "Brave on Linux"),
        ],
    ),
    chromium(
        "brave-beta",
        "Brave Beta",
        found!(["BraveSoftware/Brave-Browser-Beta"], "Brave Browser Beta.app/Contents/MacOS/Brave Browser Beta"),
        &[
            user!("BraveSoftware/Brave-Browser-Beta", Assumed, "Brave"),
            user!("Google/Chrome", Assumed, "Brave"),
            system(LIBRARY_CHROME, Assumed, "Brave on Linux"),
        ],
    ),
    chromium(
        "brave-nightly",
        "Brave Nightly",
        found!(
            ["BraveSoftware/Brave-Browser-Nightly"],
            "Brave Browser Nightly.app/Contents/MacOS/Brave Browser Nightly"
        ),
        &[
            user!("BraveSoftware/Brave-Browser-Nightly", Assumed, "Brave"),
            user!("Google/Chrome", Assumed, "Brave"),
            system(LIBRARY_CHROME, Assumed, "Brave on Linux"),
        ],
    ),
    chromium(
        "vivaldi",
        "Vivaldi",
        found!(["Vivaldi"], "Vivaldi.app/Contents/MacOS/Vivaldi"),
        &[user!("Vivaldi", Reported, KEEPASSXC), system(LIBRARY_CHROME, Assumed, "Vivaldi on Linux")],
    ),
    chromium(
        "vivaldi-snapshot",
        "Vivaldi Snapshot",
        found!(["Vivaldi Snapshot"], "Vivaldi Snapshot.app/Contents/MacOS/Vivaldi Snapshot"),
        &[user!("Vivaldi Snapshot", Assumed, "Vivaldi"), system(LIBRARY_CHROME, Assumed, "Vivaldi on Linux")],
    ),
    chromium(
        "opera",
        "Opera",
        found!(["com.operasoftware.Opera"], "Opera.app/Contents/MacOS/Opera"),
        &[
            user!("Google/Chrome", Reported, "Opera's developers in 2017; Opera 136 on Linux"),
            user!("com.operasoftware.Opera", Reported, "installers of others"),
            system(LIBRARY_CHROME, Assumed, "Opera on Linux"),
        ],
    ),
    chromium(
        "arc",
        "Arc",
        found!(["Arc/User Data"], "Arc.app/Contents/MacOS/Arc"),
        &[
            user!("Arc/User Data", Reported, "installers of others"),
            system(LIBRARY_CHROME, Assumed, "Chrome's relatives on Linux"),
        ],
    ),
    chromium(
        "yandex",
        "Yandex Browser",
        found!(["Yandex/YandexBrowser"], "Yandex.app/Contents/MacOS/Yandex"),
        &[user!("Yandex/YandexBrowser", Reported, VDHCOAPP)],
    ),
    chromium(
        "helium",
        "Helium",
        found!(["net.imput.helium"], "Helium.app/Contents/MacOS/Helium"),
        &[user!("net.imput.helium", Reported, BITWARDEN)],
    ),
    firefox(
        "firefox",
        "Firefox",
        found!(["Firefox"], "Firefox.app/Contents/MacOS/firefox"),
        &[user!("Mozilla", Documented, MDN), system(LIBRARY_MOZILLA, Documented, MDN)],
    ),
    firefox(
        "librewolf",
        "LibreWolf",
        found!(["librewolf"], "LibreWolf.app/Contents/MacOS/librewolf"),
        &[
            user!("LibreWolf", Reported, KEEPASSXC),
            user!("Mozilla", Documented, "LibreWolf's mozilla_dirs.patch").only_read(),
            system(LIBRARY_MOZILLA, Assumed, "LibreWolf on Linux"),
        ],
    ),
    firefox(
        "waterfox",
        "Waterfox",
        found!(["Waterfox"], "Waterfox.app/Contents/MacOS/waterfox"),
        &[
            user!("Waterfox", Assumed, "Waterfox on Linux"),
            user!("Mozilla", Assumed, "Waterfox on Linux"),
            system(LIBRARY_MOZILLA, Assumed, "Waterfox on Linux"),
        ],
    ),
    firefox(
        "floorp",
        "Floorp",
        found!(["Floorp"], "Floorp.app/Contents/MacOS/floorp"),
        &[user!("Mozilla", Assumed, "Zen"), system(LIBRARY_MOZILLA, Assumed, "Zen")],
    ),
    firefox(
        "zen",
        "Zen",
        found!(["zen"], "Zen.app/Contents/MacOS/zen"),
        &[
            user!("Mozilla", Reported, "zen-browser/desktop#10622"),
            user!("Zen", Reported, BITWARDEN),
            system(LIBRARY_MOZILLA, Reported, "zen-browser/desktop#10622"),
        ],
    ),
    firefox(
        "tor-browser",
        "Tor Browser",
        found!(["TorBrowser-Data"], "Tor Browser.app/Contents/MacOS/firefox"),
        &[user!("TorBrowser-Data/Browser/Mozilla", Reported, KEEPASSXC)],
    ),
    firefox(
        "thunderbird",
        "Thunderbird",
        Detection {
            profiles: &[Place(&[("HOME", "Library/Thunderbird")])],
            executables: &[],
            well_known: &[Place(&[("", "Applications/Thunderbird.app/Contents/MacOS/thunderbird")])],
        },
        // A manifest of the user was not read.
        &[system(LIBRARY_MOZILLA, Reported, "aecreations/sync-clippings#11")],
    ),
];
