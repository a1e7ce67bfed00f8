//! The browsers of Windows.
//!
//! Owns: which registry keys each of them reads there, and how that is known. Does not own: what the words of the table
//! mean (`browsers`).

use super::{Browser, Confidence, Detection, Family, Place, Platform, Row, Scope, Site, View};
use Confidence::{Assumed, Documented, Reported};

const CHROMIUM_SOURCE: &str = "Chromium's launch_context_win.cc";
const EDGE: &str = "Microsoft's documentation of native messaging";
const GECKO: &str = "Firefox's NativeManifests.sys.mjs";
const KEEPASSXC: &str = "keepassxc's NativeMessageInstaller.cpp";
const BITWARDEN: &str = "bitwarden/clients, native-messaging.main.ts";
const VDHCOAPP: &str = "vdhcoapp's config.toml";
const INSTALLERS: &str = "installers of others";

/// Browsers of all vendors read this one, at last.
const GOOGLE_CHROME: &str = r"Software\Google\Chrome\NativeMessagingHosts";
const CHROMIUM: &str = r"Software\Chromium\NativeMessagingHosts";
const MICROSOFT_EDGE: &str = r"Software\Microsoft\Edge\NativeMessagingHosts";
const BRAVE: &str = r"Software\BraveSoftware\Brave-Browser\NativeMessagingHosts";
/// Firefox and all of its relatives.
const MOZILLA: &str = r"Software\Mozilla\NativeMessagingHosts";

/// The user's key.
const fn user(key: &'static str, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::User, Site::Key(View::Bits64, key), confidence, source)
}

/// The machine's key that is read first. One in the other view would give way to one of somebody else in this.
const fn system(key: &'static str, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::System, Site::Key(View::Bits32, key), confidence, source)
}

/// The machine's key that is read last.
const fn system64(key: &'static str, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::System, Site::Key(View::Bits64, key), confidence, source).only_read()
}

/// Directories of the user, by the variable that leads there.
macro_rules! found {
    (local: [$($profile:literal),*]) => { found!(@ "LOCALAPPDATA", "AppData/Local/", [$($profile),*]) };
    (roaming: [$($profile:literal),*]) => { found!(@ "APPDATA", "AppData/Roaming/", [$($profile),*]) };
    (@ $variable:literal, $home:literal, [$($profile:literal),*]) => {
        Detection {
            profiles: &[$(Place(&[($variable, $profile), ("USERPROFILE", concat!($home, $profile))])),*],
            executables: &[],
            well_known: &[],
        }
    };
}

const fn chromium(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::Windows, family: Family::Chromium, detection, sandbox: None, rows }
}

const fn firefox(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::Windows, family: Family::Firefox, detection, sandbox: None, rows }
}

/// All channels.
const CHROME_ROWS: &[Row] = &[
    user(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE),
    system(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE),
    system64(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE),
];

/// All channels.
const EDGE_ROWS: &[Row] = &[
    user(MICROSOFT_EDGE, Documented, EDGE),
    user(CHROMIUM, Documented, EDGE).only_read(),
    user(GOOGLE_CHROME, Documented, EDGE).only_read(),
    system(MICROSOFT_EDGE, Documented, EDGE),
    system64(MICROSOFT_EDGE, Documented, EDGE),
    system(CHROMIUM, Documented, EDGE).only_read(),
    system64(CHROMIUM, Documented, EDGE),
    system(GOOGLE_CHROME, Documented, EDGE).only_read(),
    system64(GOOGLE_CHROME, Documented, EDGE),
];

/// All channels.
const BRAVE_ROWS: &[Row] = &[
    user(BRAVE, Reported, BITWARDEN),
    user(GOOGLE_CHROME, Reported, KEEPASSXC),
    system(BRAVE, Assumed, "the user's keys"),
    system(GOOGLE_CHROME, Assumed, "the user's keys"),
    system64(BRAVE, Assumed, "the user's keys"),
    system64(GOOGLE_CHROME, Assumed, "the user's keys"),
];

const VIVALDI_ROWS: &[Row] = &[
    user(r"Software\Vivaldi\NativeMessagingHosts", Reported, BITWARDEN),
    user(GOOGLE_CHROME, Reported, "users in keepassxc-browser#48"),
    system(GOOGLE_CHROME, Assumed, "the user's key"),
    system64(GOOGLE_CHROME, Assumed, "the user's key"),
];

const OPERA_ROWS: &[Row] = &[
    user(CHROMIUM, Reported, INSTALLERS),
    user(GOOGLE_CHROME, Reported, INSTALLERS),
    system(CHROMIUM, Assumed, "the user's keys"),
    system(GOOGLE_CHROME, Assumed, "the user's keys"),
    system64(CHROMIUM, Assumed, "the user's keys"),
    system64(GOOGLE_CHROME, Assumed, "the user's keys"),
];

const MOZILLA_ROWS: &[Row] =
    &[user(MOZILLA, Documented, GECKO), system(MOZILLA, Documented, GECKO), system64(MOZILLA, Documented, GECKO)];

/// Firefox's relatives.
const FORK_ROWS: &[Row] =
    &[user(MOZILLA, Reported, KEEPASSXC), system(MOZILLA, Assumed, "Firefox"), system64(MOZILLA, Assumed, "Firefox")];

pub(super) const BROWSERS: &[Browser] = &[
    chromium("chrome", "Google Chrome", found!(local: ["Google/Chrome/User Data"]), CHROME_ROWS),
    chromium("chrome-beta", "Google Chrome Beta", found!(local: ["Google/Chrome Beta/User Data"]), CHROME_ROWS),
    chromium("chrome-dev", "Google Chrome Dev", found!(local: ["Google/Chrome Dev/User Data"]), CHROME_ROWS),
    chromium("chrome-canary", "Google Chrome Canary", found!(local: ["Google/Chrome SxS/User Data"]), CHROME_ROWS),
    chromium(
        "chrome-for-testing",
        "Chrome for Testing",
        found!(local: ["Google/Chrome for Testing/User Data"]),
        &[
            user(r"Software\Google\Chrome for Testing\NativeMessagingHosts", Reported, INSTALLERS),
            system(r"Software\Google\Chrome for Testing\NativeMessagingHosts", Assumed, "the user's key"),
            system64(r"Software\Google\Chrome for Testing\NativeMessagingHosts", Assumed, "the user's key"),
        ],
    ),
    chromium(
        "chromium",
        "Chromium",
        found!(local: ["Chromium/User Data"]),
        &[
            user(CHROMIUM, Documented, CHROMIUM_SOURCE),
            user(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE).only_read(),
            system(CHROMIUM, Documented, CHROMIUM_SOURCE),
            system(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE).only_read(),
            system64(CHROMIUM, Documented, CHROMIUM_SOURCE),
            system64(GOOGLE_CHROME, Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium("edge", "Microsoft Edge", found!(local: ["Microsoft/Edge/User Data"]), EDGE_ROWS),
    chromium("edge-beta", "Microsoft Edge Beta", found!(local: ["Microsoft/Edge Beta/User Data"]), EDGE_ROWS),
    chromium("edge-dev", "Microsoft Edge Dev", found!(local: ["Microsoft/Edge Dev/User Data"]), EDGE_ROWS),
    chromium("edge-canary", "Microsoft Edge Canary", found!(local: ["Microsoft/Edge SxS/User Data"]), EDGE_ROWS),
    chromium("brave", "Brave", found!(local: ["BraveSoftware/Brave-Browser/User Data"]), BRAVE_ROWS),
    chromium("brave-beta", "Brave Beta", found!(local: ["BraveSoftware/Brave-Browser-Beta/User Data"]), BRAVE_ROWS),
    chromium(
        "brave-nightly",
        "Brave Nightly",
        found!(local: ["BraveSoftware/Brave-Browser-Nightly/User Data"]),
        BRAVE_ROWS,
    ),
    chromium("vivaldi", "Vivaldi", found!(local: ["Vivaldi/User Data"]), VIVALDI_ROWS),
    chromium("vivaldi-snapshot", "Vivaldi Snapshot", found!(local: ["Vivaldi Snapshot/User Data"]), VIVALDI_ROWS),
    chromium(
        "opera",
        "Opera",
        found!(roaming: [
            "Opera Software/Opera Stable",
            "Opera Software/Opera GX Stable",
            "Opera Software/Opera Next",
            "Opera Software/Opera Developer"
        ]),
        OPERA_ROWS,
    ),
    chromium(
        "arc",
        "Arc",
        found!(local: ["Packages/TheBrowserCompany.Arc_ttt1ap7aakyb4"]),
        &[
            user(GOOGLE_CHROME, Assumed, "Chrome's relatives"),
            system(GOOGLE_CHROME, Assumed, "Chrome's relatives"),
            system64(GOOGLE_CHROME, Assumed, "Chrome's relatives"),
        ],
    ),
    chromium(
        "yandex",
        "Yandex Browser",
        found!(local: ["Yandex/YandexBrowser/User Data"]),
        &[
            user(r"Software\Yandex\YandexBrowser\NativeMessagingHosts", Reported, VDHCOAPP),
            user(r"Software\YandexBrowser\NativeMessagingHosts", Reported, VDHCOAPP),
        ],
    ),
    chromium(
        "helium",
        "Helium",
        found!(local: ["imput/Helium/User Data"]),
        &[
            user(CHROMIUM, Assumed, "Chromium"),
            user(GOOGLE_CHROME, Assumed, "Chromium"),
            system(CHROMIUM, Assumed, "Chromium"),
            system(GOOGLE_CHROME, Assumed, "Chromium"),
            system64(CHROMIUM, Assumed, "Chromium"),
            system64(GOOGLE_CHROME, Assumed, "Chromium"),
        ],
    ),
    firefox("firefox", "Firefox", found!(roaming: ["Mozilla/Firefox"]), MOZILLA_ROWS),
    firefox("librewolf", "LibreWolf", found!(roaming: ["librewolf"]), FORK_ROWS),
    firefox("waterfox", "Waterfox", found!(roaming: ["Waterfox"]), FORK_ROWS),
    firefox("floorp", "Floorp", found!(roaming: ["Floorp"]), FORK_ROWS),
    firefox("zen", "Zen", found!(roaming: ["zen"]), FORK_ROWS),
    firefox(
        "tor-browser",
        "Tor Browser",
        Detection { profiles: &[Place(&[("USERPROFILE", "Desktop/Tor Browser")])], executables: &[], well_known: &[] },
        FORK_ROWS,
    ),
    firefox("thunderbird", "Thunderbird", found!(roaming: ["Thunderbird"]), FORK_ROWS),
];
