//! What an administrator says about native messaging to browsers of Chromium's family. (Firefox has no such policy.)
//!
//! Owns: the places of policies as data, and what policies mean for a host. Reading them is `gather`'s.

use serde_json::{Map, Value};

use crate::install::browsers::Platform;

/// Where the policies of a browser are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// All `*.json` in this directory, in the order of their names, below the root of the file system.
    Files(&'static str),
    /// This key of the registry, of the machine and of the user.
    Registry(&'static str),
    /// The managed preferences of this domain.
    Preferences(&'static str),
}

/// The policies of one browser on one system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// What the names of its rows in the table of browsers begin with.
    pub(super) browser: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    pub(super) platform: Platform,
    pub(super) source: Source,
}

const fn place(browser: &'static str, title: &'static str, platform: Platform, source: Source) -> Place {
    Place { browser, title, platform, source }
}

/// Every place that is known: Chromium's `policy_paths.cc`, and what the makers of the others document.
pub(super) const PLACES: &[Place] = {
    use Platform::{Linux, MacOs, Windows};
    use Source::{Files, Preferences, Registry};
    &[
        place("chrome", "Google Chrome", Linux, Files("etc/opt/chrome/policies/managed")),
        place("chromium", "Chromium", Linux, Files("etc/chromium/policies/managed")),
        place("edge", "Microsoft Edge", Linux, Files("etc/opt/edge/policies/managed")),
        place("brave", "Brave", Linux, Files("etc/brave/policies/managed")),
        place("chrome", "Google Chrome", MacOs, Preferences("com.google.Chrome")),
        place("chromium", "Chromium", MacOs, Preferences("org.chromium.Chromium")),
        place("edge", "Microsoft Edge", MacOs, Preferences("com.microsoft.Edge")),
        place("brave", "Brave", MacOs, Preferences("com.brave.Browser")),
        place("chrome", "Google Chrome", Windows, Registry(r"SOFTWARE\Policies\Google\Chrome")),
        place("chromium", "Chromium", Windows, Registry(r"SOFTWARE\Policies\Chromium")),
        place("edge", "Microsoft Edge", Windows, Registry(r"SOFTWARE\Policies\Microsoft\Edge")),
        place("brave", "Brave", Windows, Registry(r"SOFTWARE\Policies\BraveSoftware\Brave")),
    ]
};

/// What policies mean for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They do not stand in its way.
    Allows,
    /// It is on the list of those that may not be started.
    Blocks,
    /// Only manifests of the machine count.
    SystemOnly,
}

/// What all of the policies together mean for `host`.
pub(super) fn verdict(policies: &Map<String, Value>, host: &str) -> Verdict {
    let lists = |name: &str, what: &str| {
        let listed = policies.get(name).and_then(Value::as_array);
        listed.is_some_and(|list| list.iter().any(|entry| entry == what))
    };
    // The words of before 2020 still count.
    let is_blocked = ["NativeMessagingBlocklist", "NativeMessagingBlacklist"]
        .iter()
        .any(|name| lists(name, host) || lists(name, "*"));
    let is_allowed = ["NativeMessagingAllowlist", "NativeMessagingWhitelist"].iter().any(|name| lists(name, host));
    if is_blocked && !is_allowed {
        return Verdict::Blocks;
    }
    match policies.get("NativeMessagingUserLevelHosts") {
        Some(Value::Bool(false)) => Verdict::SystemOnly,
        Some(Value::Number(number)) if number.as_i64() == Some(0) => Verdict::SystemOnly,
        _ => Verdict::Allows,
    }
}

/// The policies in what `reg query KEY /s` prints: values of the key itself, and lists in keys below it.
pub(super) fn of_registry(printed: &str) -> Map<String, Value> {
    let mut policies = Map::new();
    let mut key = "";
    for line in printed.lines() {
        let mut words = line.trim_end().splitn(4, "    ");
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(""), Some(name), Some(kind), Some(value)) => {
                let is_number = kind == "REG_DWORD";
                let number = value.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok());
                match number.filter(|_| is_number) {
                    Some(number) => drop(policies.insert(name.to_owned(), number.into())),
                    // In a list the names are numbers.
                    None => {
                        let list = policies.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                        list.as_array_mut().into_iter().for_each(|list| list.push(value.into()));
                    }
                }
            }
            (Some(path), None, ..) if !path.is_empty() => key = path.rsplit('\\').next().unwrap_or_default(),
            _ => {}
        }
    }
    policies
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "com.example.host";

    fn verdict_on(policies: Value) -> Verdict {
        verdict(policies.as_object().unwrap(), HOST)
    }

    #[test]
    fn a_list_blocks_unless_another_one_allows() {
        assert_eq!(verdict_on(json!({})), Verdict::Allows);
        assert_eq!(verdict_on(json!({"NativeMessagingBlocklist": ["com.example.other"]})), Verdict::Allows);
        assert_eq!(verdict_on(json!({"NativeMessagingBlocklist": [HOST]})), Verdict::Blocks);
        assert_eq!(verdict_on(json!({"NativeMessagingBlacklist": ["*"]})), Verdict::Blocks);
        let both = json!({"NativeMessagingBlocklist": ["*"], "NativeMessagingAllowlist": [HOST]});
        assert_eq!(verdict_on(both), Verdict::Allows);
        assert_eq!(verdict_on(json!({"NativeMessagingBlocklist": "*"})), Verdict::Allows);
    }

    #[test]
    fn manifests_of_users_may_be_switched_off() {
        assert_eq!(verdict_on(json!({"NativeMessagingUserLevelHosts": false})), Verdict::SystemOnly);
        assert_eq!(verdict_on(json!({"NativeMessagingUserLevelHosts": 0})), Verdict::SystemOnly);
        assert_eq!(verdict_on(json!({"NativeMessagingUserLevelHosts": true})), Verdict::Allows);
    }

    #[test]
    fn the_registry_is_read_from_what_its_tool_prints() {
        let printed = "\r\nHKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Google\\Chrome\r\n    \
                       NativeMessagingUserLevelHosts    REG_DWORD    0x0\r\n\r\nHKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Google\\\
                       Chrome\\NativeMessagingBlocklist\r\n    1    REG_SZ    *\r\n    2    REG_SZ    com.x y\r\n";
        let policies = of_registry(printed);
        let expected = json!({"NativeMessagingUserLevelHosts": 0, "NativeMessagingBlocklist": ["*", "com.x y"]});
        assert_eq!(Value::Object(policies), expected);
    }
}
