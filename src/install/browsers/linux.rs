//! The browsers of Linux.
//!
//! Owns: where each of them looks there, and how that is known. Does not own: what the words of the table mean
//! (`browsers`).

use super::{Browser, Confidence, Detection, Family, Launch, Place, Platform, Row, Sandbox, Scope, Site};
use Confidence::{Assumed, Documented, Observed, Reported};

/// Chromium's documentation and source.
const CHROMIUM_SOURCE: &str = "Chromium's chrome/common/chrome_paths.cc, docs/user_data_dir.md";
/// A field note on Opera 136, Brave 1.96, Edge 154 and Vivaldi 8.2, each with a manifest in every place.
const TRACE: &str = "a field note that traced Opera 136, Brave 1.96, Edge 154, Vivaldi 8.2";
const EDGE: &str = "Microsoft's documentation of native messaging; a field note that traced Edge 154";
const MDN: &str = "MDN, Native manifests";
const LIBREWOLF: &str = "LibreWolf's mozilla_dirs.patch";
const WATERFOX: &str = "BrowserWorks/waterfox#3241";
const BITWARDEN: &str = "bitwarden/clients, native-messaging.main.ts";
const KEEPASSXC: &str = "keepassxc's NativeMessageInstaller.cpp";
const THUNDERBIRD: &str = "aecreations/sync-clippings#11";

/// A directory below the one for configuration, in which a browser of Chromium's family keeps what is the user's.
macro_rules! config {
    ($path:expr) => {
        Place(&[("CHROME_CONFIG_HOME", $path), ("XDG_CONFIG_HOME", $path), ("HOME", concat!(".config/", $path))])
    };
}

/// The user's manifests in such a directory.
macro_rules! user_data {
    ($directory:literal, $confidence:expr, $source:expr) => {
        user(config!(concat!($directory, "/NativeMessagingHosts")), $confidence, $source)
    };
}

/// The user's manifests in a Tor Browser that its launcher has placed.
macro_rules! tor {
    (@ $path:expr) => {
        Place(&[("XDG_DATA_HOME", $path), ("HOME", concat!(".local/share/", $path))])
    };
    ($directory:literal) => {
        tor!(@ concat!(
            "torbrowser/tbb/x86_64/",
            $directory,
            "/Browser/TorBrowser/Data/Browser/.mozilla/native-messaging-hosts"
        ))
    };
}

const fn user(place: Place, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::User, Site::Directory(place), confidence, source)
}

const fn system(place: Place, confidence: Confidence, source: &'static str) -> Row {
    Row::new(Scope::System, Site::Directory(place), confidence, source)
}

const fn chromium(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::Linux, family: Family::Chromium, detection, sandbox: None, rows }
}

const fn firefox(name: &'static str, title: &'static str, detection: Detection, rows: &'static [Row]) -> Browser {
    Browser { name, title, platform: Platform::Linux, family: Family::Firefox, detection, sandbox: None, rows }
}

/// A browser of Flathub: installed for the machine or the user; what is its user's is below `~/.var/app`, the same path
/// inside the sandbox and outside.
macro_rules! flatpak {
    ($browser:ident, $name:literal, $title:literal, $id:literal, $manifests:literal, $confidence:expr, $source:expr) => {
        Browser {
            sandbox: Some(Sandbox {
                kind: "Flatpak",
                id: $id,
                launch: Launch::Inside {
                    root: Place(&[("HOME", concat!(".var/app/", $id))]),
                    data: Place(&[("HOME", concat!(".var/app/", $id, "/data"))]),
                    config: Place(&[("HOME", concat!(".var/app/", $id, "/config"))]),
                    state: Place(&[("HOME", concat!(".var/app/", $id, "/.local/state"))]),
                },
            }),
            ..$browser(
                $name,
                $title,
                Detection {
                    profiles: &[
                        Place(&[("", concat!("var/lib/flatpak/app/", $id))]),
                        Place(&[
                            ("XDG_DATA_HOME", concat!("flatpak/app/", $id)),
                            ("HOME", concat!(".local/share/flatpak/app/", $id)),
                        ]),
                    ],
                    executables: &[],
                    well_known: &[],
                },
                &[user(Place(&[("HOME", concat!(".var/app/", $id, "/", $manifests))]), $confidence, $source)],
            )
        }
    };
}

/// A browser of the Snap Store.
macro_rules! snap {
    ($name:literal, $title:literal, $id:literal, $manifests:literal, $launch:expr, $confidence:expr, $source:expr) => {
        snap!(chromium, $name, $title, $id, Place(&[("HOME", $manifests)]), $launch, $confidence, $source)
    };
    ($browser:ident, $name:literal, $title:literal, $id:literal, $manifests:expr, $launch:expr, $confidence:expr,
     $source:expr) => {
        Browser {
            sandbox: Some(Sandbox { kind: "Snap", id: concat!("snap.", $id), launch: $launch }),
            ..$browser(
                $name,
                $title,
                Detection {
                    profiles: &[
                        Place(&[("", concat!("snap/", $id))]),
                        Place(&[("", concat!("var/lib/snapd/snap/", $id))]),
                    ],
                    executables: &[],
                    well_known: &[],
                },
                &[user($manifests, $confidence, $source)],
            )
        }
    };
}

/// Chrome's machine-wide directory, which most of its relatives read too.
const OPT_CHROME: Place = Place(&[("", "etc/opt/chrome/native-messaging-hosts")]);
const OPT_EDGE: Place = Place(&[("", "etc/opt/edge/native-messaging-hosts")]);
/// Firefox's directories, which all of its relatives read too.
const MOZILLA: Place = Place(&[("HOME", ".mozilla/native-messaging-hosts")]);
const LIB_MOZILLA: Place = Place(&[("", "usr/lib/mozilla/native-messaging-hosts")]);
const LIB64_MOZILLA: Place = Place(&[("", "usr/lib64/mozilla/native-messaging-hosts")]);

pub(super) const BROWSERS: &[Browser] = &[
    chromium(
        "chrome",
        "Google Chrome",
        Detection {
            profiles: &[config!("google-chrome")],
            executables: &["google-chrome", "google-chrome-stable"],
            well_known: &[Place(&[("", "opt/google/chrome/chrome")])],
        },
        &[user_data!("google-chrome", Documented, CHROMIUM_SOURCE), system(OPT_CHROME, Documented, CHROMIUM_SOURCE)],
    ),
    chromium(
        "chrome-beta",
        "Google Chrome Beta",
        Detection {
            profiles: &[config!("google-chrome-beta")],
            executables: &["google-chrome-beta"],
            well_known: &[Place(&[("", "opt/google/chrome-beta/chrome")])],
        },
        &[
            user_data!("google-chrome-beta", Documented, CHROMIUM_SOURCE),
            system(OPT_CHROME, Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium(
        "chrome-dev",
        "Google Chrome Dev",
        Detection {
            profiles: &[config!("google-chrome-unstable")],
            executables: &["google-chrome-unstable"],
            well_known: &[Place(&[("", "opt/google/chrome-unstable/chrome")])],
        },
        &[
            user_data!("google-chrome-unstable", Documented, CHROMIUM_SOURCE),
            system(OPT_CHROME, Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium(
        "chrome-canary",
        "Google Chrome Canary",
        Detection {
            profiles: &[config!("google-chrome-canary")],
            executables: &["google-chrome-canary"],
            well_known: &[Place(&[("", "opt/google/chrome-canary/chrome")])],
        },
        &[
            user_data!("google-chrome-canary", Assumed, "the names of the other channels"),
            system(OPT_CHROME, Assumed, "the other channels"),
        ],
    ),
    chromium(
        "chrome-for-testing",
        "Chrome for Testing",
        Detection {
            profiles: &[config!("google-chrome-for-testing")],
            executables: &["google-chrome-for-testing"],
            well_known: &[],
        },
        &[
            user_data!("google-chrome-for-testing", Reported, "installers of others, for 146 and later"),
            system(
                Place(&[("", "etc/opt/chrome_for_testing/native-messaging-hosts")]),
                Reported,
                "installers of others, for 146 and later",
            ),
        ],
    ),
    chromium(
        "chromium",
        "Chromium",
        Detection {
            profiles: &[config!("chromium")],
            executables: &["chromium", "chromium-browser"],
            well_known: &[
                Place(&[("", "usr/lib/chromium/chromium")]),
                Place(&[("", "usr/lib/chromium-browser/chromium-browser")]),
            ],
        },
        &[
            user_data!("chromium", Observed, "Chromium 156; its chrome/common/chrome_paths.cc, docs/user_data_dir.md"),
            system(Place(&[("", "etc/chromium/native-messaging-hosts")]), Documented, CHROMIUM_SOURCE),
        ],
    ),
    chromium(
        "edge",
        "Microsoft Edge",
        Detection {
            profiles: &[config!("microsoft-edge")],
            executables: &["microsoft-edge", "microsoft-edge-stable"],
            well_known: &[Place(&[("", "opt/microsoft/msedge/msedge")])],
        },
        &[
            user_data!("microsoft-edge", Observed, EDGE),
            system(OPT_EDGE, Observed, EDGE),
            system(OPT_CHROME, Observed, TRACE).only_read(),
        ],
    ),
    chromium(
        "edge-beta",
        "Microsoft Edge Beta",
        Detection {
            profiles: &[config!("microsoft-edge-beta")],
            executables: &["microsoft-edge-beta"],
            well_known: &[Place(&[("", "opt/microsoft/msedge-beta/msedge")])],
        },
        &[
            user_data!("microsoft-edge-beta", Documented, "Microsoft's documentation of native messaging"),
            system(OPT_EDGE, Documented, "Microsoft's documentation of native messaging"),
            system(OPT_CHROME, Assumed, "Edge").only_read(),
        ],
    ),
    chromium(
        "edge-dev",
        "Microsoft Edge Dev",
        Detection {
            profiles: &[config!("microsoft-edge-dev")],
            executables: &["microsoft-edge-dev"],
            well_known: &[Place(&[("", "opt/microsoft/msedge-dev/msedge")])],
        },
        &[
            user_data!("microsoft-edge-dev", Documented, "Microsoft's documentation of native messaging"),
            system(OPT_EDGE, Documented, "Microsoft's documentation of native messaging"),
            system(OPT_CHROME, Assumed, "Edge").only_read(),
        ],
    ),
    chromium(
        "brave",
        "Brave",
        Detection {
            profiles: &[config!("BraveSoftware/Brave-Browser")],
            executables: &["brave", "brave-browser", "brave-browser-stable"],
            well_known: &[Place(&[("", "opt/brave.com/brave/brave")])],
        },
        // Also with another --user-data-dir; and not /etc/brave, where others write.
        &[user_data!("BraveSoftware/Brave-Browser", Observed, TRACE), system(OPT_CHROME, Observed, TRACE)],
    ),
    chromium(
        "brave-beta",
        "Brave Beta",
        Detection {
            profiles: &[config!("BraveSoftware/Brave-Browser-Beta")],
            executables: &["brave-browser-beta"],
            well_known: &[Place(&[("", "opt/brave.com/brave-beta/brave")])],
        },
        &[user_data!("BraveSoftware/Brave-Browser-Beta", Reported, TRACE), system(OPT_CHROME, Assumed, "Brave")],
    ),
    chromium(
        "brave-nightly",
        "Brave Nightly",
        Detection {
            profiles: &[config!("BraveSoftware/Brave-Browser-Nightly")],
            executables: &["brave-browser-nightly"],
            well_known: &[Place(&[("", "opt/brave.com/brave-nightly/brave")])],
        },
        &[user_data!("BraveSoftware/Brave-Browser-Nightly", Reported, TRACE), system(OPT_CHROME, Assumed, "Brave")],
    ),
    chromium(
        "brave-origin",
        "Brave Origin",
        Detection {
            profiles: &[config!("BraveSoftware/Brave-Origin")],
            executables: &["brave-origin"],
            well_known: &[Place(&[("", "opt/brave.com/brave-origin/brave")])],
        },
        &[
            user_data!("BraveSoftware/Brave-Origin", Reported, "omacom/omarchy#10292"),
            system(OPT_CHROME, Assumed, "Brave"),
        ],
    ),
    chromium(
        "vivaldi",
        "Vivaldi",
        Detection {
            profiles: &[config!("vivaldi")],
            executables: &["vivaldi", "vivaldi-stable"],
            well_known: &[Place(&[("", "opt/vivaldi/vivaldi-bin")])],
        },
        // Not /etc/opt/vivaldi, where others write.
        &[user_data!("vivaldi", Observed, TRACE), system(OPT_CHROME, Observed, TRACE)],
    ),
    chromium(
        "vivaldi-snapshot",
        "Vivaldi Snapshot",
        Detection {
            profiles: &[config!("vivaldi-snapshot")],
            executables: &["vivaldi-snapshot"],
            well_known: &[Place(&[("", "opt/vivaldi-snapshot/vivaldi-bin")])],
        },
        &[user_data!("vivaldi-snapshot", Reported, "vdhcoapp's config.toml"), system(OPT_CHROME, Assumed, "Vivaldi")],
    ),
    chromium(
        "opera",
        "Opera",
        Detection {
            profiles: &[config!("opera"), config!("opera-beta"), config!("opera-developer")],
            executables: &["opera", "opera-stable", "opera-beta", "opera-developer"],
            well_known: &[],
        },
        // All channels, whatever the profile; and not ~/.config/opera, where others write.
        &[user_data!("google-chrome", Observed, TRACE), system(OPT_CHROME, Observed, TRACE)],
    ),
    chromium(
        "yandex",
        "Yandex Browser",
        Detection {
            profiles: &[config!("yandex-browser")],
            executables: &["yandex-browser", "yandex-browser-stable"],
            well_known: &[Place(&[("", "opt/yandex/browser/yandex_browser")])],
        },
        &[
            user_data!("yandex-browser", Reported, "browserpass-native's Makefile"),
            system(
                Place(&[("", "etc/opt/yandex-browser/native-messaging-hosts")]),
                Reported,
                "browserpass-native's Makefile",
            ),
        ],
    ),
    chromium(
        "helium",
        "Helium",
        Detection { profiles: &[config!("net.imput.helium")], executables: &["helium"], well_known: &[] },
        &[user_data!("net.imput.helium", Reported, "bitwarden/clients#21748")],
    ),
    firefox(
        "firefox",
        "Firefox",
        Detection {
            profiles: &[
                Place(&[("HOME", ".mozilla/firefox")]),
                Place(&[("XDG_CONFIG_HOME", "mozilla/firefox"), ("HOME", ".config/mozilla/firefox")]),
            ],
            executables: &["firefox", "firefox-esr"],
            well_known: &[
                Place(&[("", "usr/lib/firefox/firefox")]),
                Place(&[("", "usr/lib64/firefox/firefox")]),
                Place(&[("", "usr/lib/firefox-esr/firefox-esr")]),
                Place(&[("", "opt/firefox/firefox")]),
            ],
        },
        &[
            // Also when its profiles are below the XDG configuration directory.
            user(MOZILLA, Observed, "Firefox ESR 153; MDN, Native manifests"),
            system(LIB_MOZILLA, Documented, MDN),
            system(LIB64_MOZILLA, Documented, MDN),
        ],
    ),
    firefox(
        "librewolf",
        "LibreWolf",
        Detection {
            profiles: &[
                Place(&[("HOME", ".librewolf")]),
                Place(&[("XDG_CONFIG_HOME", "librewolf/librewolf"), ("HOME", ".config/librewolf/librewolf")]),
            ],
            executables: &["librewolf"],
            well_known: &[Place(&[("", "usr/share/librewolf/librewolf")])],
        },
        &[
            user(Place(&[("HOME", ".librewolf/native-messaging-hosts")]), Documented, LIBREWOLF),
            user(MOZILLA, Documented, LIBREWOLF).only_read(),
            system(Place(&[("", "usr/lib/librewolf/native-messaging-hosts")]), Documented, LIBREWOLF),
            system(LIB_MOZILLA, Documented, LIBREWOLF).only_read(),
        ],
    ),
    firefox(
        "waterfox",
        "Waterfox",
        Detection {
            profiles: &[Place(&[("HOME", ".waterfox")])],
            executables: &["waterfox"],
            well_known: &[Place(&[("", "opt/waterfox/waterfox")])],
        },
        &[
            user(Place(&[("HOME", ".waterfox/native-messaging-hosts")]), Reported, WATERFOX),
            // Reported broken in G6.6.2.
            user(MOZILLA, Reported, WATERFOX).only_read(),
            system(Place(&[("", "usr/lib/waterfox/native-messaging-hosts")]), Reported, WATERFOX),
            system(LIB_MOZILLA, Reported, WATERFOX).only_read(),
        ],
    ),
    firefox(
        "floorp",
        "Floorp",
        Detection {
            profiles: &[Place(&[("HOME", ".floorp")])],
            executables: &["floorp"],
            well_known: &[Place(&[("", "opt/floorp/floorp")])],
        },
        &[
            user(Place(&[("HOME", ".floorp/native-messaging-hosts")]), Reported, "gopass-jsonapi"),
            user(MOZILLA, Assumed, "Zen"),
            system(LIB_MOZILLA, Assumed, "Zen"),
        ],
    ),
    firefox(
        "zen",
        "Zen",
        Detection {
            profiles: &[Place(&[("HOME", ".zen")])],
            executables: &["zen", "zen-browser"],
            well_known: &[Place(&[("", "opt/zen-browser-bin/zen")])],
        },
        &[
            // Not ~/.zen.
            user(MOZILLA, Reported, "zen-browser/desktop#10622"),
            system(LIB_MOZILLA, Reported, "zen-browser/desktop#10622"),
        ],
    ),
    firefox(
        "tor-browser",
        "Tor Browser",
        Detection {
            profiles: &[Place(&[("XDG_DATA_HOME", "torbrowser/tbb"), ("HOME", ".local/share/torbrowser/tbb")])],
            executables: &["torbrowser-launcher"],
            well_known: &[],
        },
        &[user(tor!("tor-browser"), Reported, KEEPASSXC), user(tor!("tor-browser_en-US"), Reported, KEEPASSXC)],
    ),
    firefox(
        "thunderbird",
        "Thunderbird",
        Detection {
            profiles: &[Place(&[("HOME", ".thunderbird")])],
            executables: &["thunderbird"],
            well_known: &[
                Place(&[("", "usr/lib/thunderbird/thunderbird")]),
                Place(&[("", "usr/lib64/thunderbird/thunderbird")]),
            ],
        },
        &[
            user(MOZILLA, Reported, THUNDERBIRD),
            system(LIB_MOZILLA, Reported, THUNDERBIRD),
            system(LIB64_MOZILLA, Assumed, "Firefox"),
        ],
    ),
    flatpak!(
        chromium,
        "chrome-flatpak",
        "Google Chrome (Flatpak)",
        "com.google.Chrome",
        "config/google-chrome/NativeMessagingHosts",
        Reported,
        BITWARDEN
    ),
    flatpak!(
        chromium,
        "chrome-dev-flatpak",
        "Google Chrome Dev (Flatpak)",
        "com.google.ChromeDev",
        "config/google-chrome-unstable/NativeMessagingHosts",
        Assumed,
        "Google Chrome (Flatpak)"
    ),
    flatpak!(
        chromium,
        "chromium-flatpak",
        "Chromium (Flatpak)",
        "org.chromium.Chromium",
        "config/chromium/NativeMessagingHosts",
        Reported,
        BITWARDEN
    ),
    flatpak!(
        chromium,
        "edge-flatpak",
        "Microsoft Edge (Flatpak)",
        "com.microsoft.Edge",
        "config/microsoft-edge/NativeMessagingHosts",
        Reported,
        BITWARDEN
    ),
    flatpak!(
        chromium,
        "edge-dev-flatpak",
        "Microsoft Edge Dev (Flatpak)",
        "com.microsoft.EdgeDev",
        "config/microsoft-edge-dev/NativeMessagingHosts",
        Assumed,
        "Microsoft Edge (Flatpak)"
    ),
    flatpak!(
        chromium,
        "brave-flatpak",
        "Brave (Flatpak)",
        "com.brave.Browser",
        "config/BraveSoftware/Brave-Browser/NativeMessagingHosts",
        Assumed,
        "Google Chrome (Flatpak)"
    ),
    flatpak!(
        firefox,
        "firefox-flatpak",
        "Firefox (Flatpak)",
        "org.mozilla.firefox",
        ".mozilla/native-messaging-hosts",
        Reported,
        BITWARDEN
    ),
    snap!(
        "chromium-snap",
        "Chromium (Snap)",
        "chromium",
        "snap/chromium/common/chromium/NativeMessagingHosts",
        Launch::Inside {
            root: Place(&[("HOME", "snap/chromium/common")]),
            data: Place(&[("HOME", "snap/chromium/common")]),
            config: Place(&[("HOME", "snap/chromium/common")]),
            state: Place(&[("HOME", "snap/chromium/common/.local/state")]),
        },
        Reported,
        "a field note; that it may start a host is unproven"
    ),
    snap!(
        "vivaldi-snap",
        "Vivaldi (Snap)",
        "vivaldi",
        "snap/vivaldi/current/.config/vivaldi/NativeMessagingHosts",
        Launch::Inside {
            root: Place(&[("HOME", "snap/vivaldi/current")]),
            data: Place(&[("HOME", "snap/vivaldi/current/.local/share")]),
            config: Place(&[("HOME", "snap/vivaldi/current/.config")]),
            state: Place(&[("HOME", "snap/vivaldi/current/.local/state")]),
        },
        Reported,
        "a user in browserpass-native#82"
    ),
    // Ubuntu's: a portal looks for the manifest, and starts the host, outside.
    snap!(
        firefox,
        "firefox-snap",
        "Firefox (Snap)",
        "firefox",
        MOZILLA,
        Launch::Portal,
        Reported,
        "keepassxc-browser#1948"
    ),
];
