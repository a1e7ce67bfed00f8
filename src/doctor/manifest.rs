//! What a browser makes of a manifest's text.
//!
//! Owns: every reason for which a browser of either family does not take it, told together, so that one visit mends all.
//! Pure: text in, verdict out. What the program that it names is like is `program`'s.
//!
//! The rules are those of Chromium's `native_messaging_host_manifest.cc` and `url_pattern.cc`, and of Firefox's
//! `NativeManifests.sys.mjs` and its schema.

use serde_json::{Map, Value};

use crate::install::ExtensionId;
use crate::install::browsers::{Family, Platform};

/// What a manifest says, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Examined {
    /// Why a browser does not take it; nothing if it does.
    pub(super) faults: Vec<String>,
    /// The program that it names.
    pub(super) program: Option<String>,
    /// The extensions that it lets in, as the browser names them to the host.
    pub(super) lets_in: Vec<String>,
}

/// The members that Firefox knows; it refuses a manifest with another one.
const FIREFOX_MEMBERS: &[&str] = &["name", "description", "path", "type", "allowed_extensions"];

/// Reads a manifest as a browser of `family` does that asks for `host`.
pub(super) fn examine(bytes: &[u8], family: Family, host: &str, platform: Platform) -> Examined {
    let mut found = Examined::default();
    let text = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => {
            found.faults.push("it begins with a byte order mark, which no browser takes for JSON".to_owned());
            rest
        }
        None => bytes,
    };
    let members = match serde_json::from_slice(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) => {
            found.faults.push("it is JSON, but not an object: it must begin with {".to_owned());
            return found;
        }
        Err(error) => {
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            let (line, column) = (error.line(), error.column());
            found.faults.push(format!("it is not JSON: {what} (line {line}, column {column})"));
            return found;
        }
    };
    let mut faults = vec![name(&members, host), description(&members, family), kind(&members)];
    found.program = members.get("path").and_then(Value::as_str).map(str::to_owned);
    faults.push(path(&members, platform));
    match family {
        Family::Chromium => faults.push(origins(&members, &mut found.lets_in)),
        Family::Firefox => {
            faults.push(extensions(&members, &mut found.lets_in));
            let unknown = members.keys().find(|key| !FIREFOX_MEMBERS.contains(&key.as_str()));
            faults.push(
                unknown.map(|key| format!("it has a member `{key}`, and Firefox takes none that it does not know")),
            );
        }
    }
    found.faults.extend(faults.into_iter().flatten());
    found
}

/// A text member, or what is wrong with it.
fn text<'a>(members: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match members.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{key}` is not a text")),
        None => Err(format!("`{key}` is missing")),
    }
}

fn name(members: &Map<String, Value>, host: &str) -> Option<String> {
    match text(members, "name") {
        Ok(name) if name == host => None,
        Ok(name) => Some(format!("`name` is \"{name}\", and must be that of the file: \"{host}\"")),
        Err(fault) => Some(fault),
    }
}

fn description(members: &Map<String, Value>, family: Family) -> Option<String> {
    match text(members, "description") {
        Ok("") if family == Family::Chromium => Some("`description` is empty, which Chromium does not take".to_owned()),
        Ok(_) => None,
        Err(fault) => Some(fault),
    }
}

fn kind(members: &Map<String, Value>) -> Option<String> {
    match text(members, "type") {
        Ok("stdio") => None,
        Ok(other) => Some(format!("`type` is \"{other}\", and must be \"stdio\"")),
        Err(fault) => Some(fault),
    }
}

fn path(members: &Map<String, Value>, platform: Platform) -> Option<String> {
    let is_absolute = |path: &str| match platform {
        // A relative one is taken as beside the manifest.
        Platform::Windows => true,
        Platform::Linux | Platform::MacOs => path.starts_with('/'),
    };
    match text(members, "path") {
        Ok("") => Some("`path` is empty".to_owned()),
        Ok(path) if !is_absolute(path) => Some(format!("`path` is relative (\"{path}\"), and must begin with /")),
        Ok(_) => None,
        Err(fault) => Some(fault),
    }
}

/// The list of that name, or what is wrong with it.
fn list<'a>(members: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a str>, String> {
    let entries = match members.get(key) {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(format!("`{key}` is not a list")),
        None => return Err(format!("`{key}` is missing")),
    };
    let texts =
        entries.iter().map(|entry| entry.as_str().ok_or_else(|| format!("`{key}` holds something else than texts")));
    let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
    if texts.is_empty() { Err(format!("`{key}` is empty: it lets nobody in")) } else { Ok(texts) }
}

fn origins(members: &Map<String, Value>, lets_in: &mut Vec<String>) -> Option<String> {
    let origins = match list(members, "allowed_origins") {
        Ok(origins) => origins,
        Err(fault) => return Some(fault),
    };
    origins.into_iter().fold(None, |fault, origin| {
        let what = match origin.strip_prefix("chrome-extension://") {
            None => "is not the origin of an extension: chrome-extension://ID/",
            Some(rest) if rest.contains('*') => "has a wildcard, and each extension must be named",
            Some(rest) if !rest.ends_with('/') => {
                "lacks the slash at its end, and Chromium then takes nothing of the file"
            }
            Some(_) if origin.parse::<ExtensionId>().is_err() => "has no id of an extension: 32 letters from a to p",
            Some(_) => {
                lets_in.push(origin.to_owned());
                return fault;
            }
        };
        fault.or_else(|| Some(format!("an entry of `allowed_origins` {what} (\"{origin}\")")))
    })
}

fn extensions(members: &Map<String, Value>, lets_in: &mut Vec<String>) -> Option<String> {
    let ids = match list(members, "allowed_extensions") {
        Ok(ids) => ids,
        Err(fault) => return Some(fault),
    };
    let (good, bad): (Vec<&str>, Vec<&str>) =
        ids.into_iter().partition(|id| id.parse::<ExtensionId>().is_ok_and(|id| id.family() == Family::Firefox));
    lets_in.extend(good.into_iter().map(str::to_owned));
    let bad = bad.first()?;
    Some(format!("an entry of `allowed_extensions` is no id of an add-on, name@domain or {{UUID}} (\"{bad}\")"))
}

/// The ids of extensions in a text that need not be a manifest (any more).
pub(super) fn ids_in(bytes: &[u8], family: Family) -> Vec<ExtensionId> {
    let text = String::from_utf8_lossy(bytes);
    let mut ids: Vec<ExtensionId> = Vec::new();
    for word in text.split(['"', '\'', ',', ' ', '\n', '[', ']']) {
        let word = word.strip_suffix("/*").unwrap_or(word);
        if let Ok(id) = word.parse::<ExtensionId>()
            && id.family() == family
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "com.example.host";
    const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

    fn chromium() -> Value {
        json!({"name": HOST, "description": "d", "path": "/x", "type": "stdio", "allowed_origins": [ORIGIN]})
    }

    fn firefox() -> Value {
        json!({"name": HOST, "description": "", "path": "/x", "type": "stdio", "allowed_extensions": ["a@b.c"]})
    }

    fn of(manifest: &Value, family: Family) -> Examined {
        examine(manifest.to_string().as_bytes(), family, HOST, Platform::Linux)
    }

    #[test]
    fn what_browsers_take_has_no_fault() {
        let found = of(&chromium(), Family::Chromium);
        assert_eq!((&found.faults[..], &found.lets_in[..]), (&[][..], &[ORIGIN.to_owned()][..]));
        assert_eq!(found.program.as_deref(), Some("/x"));
        assert_eq!(of(&firefox(), Family::Firefox).faults, [""; 0]);
        let mut more = chromium();
        more["supports_native_initiated_connections"] = true.into();
        assert_eq!(of(&more, Family::Chromium).faults, [""; 0]);
        let mut relative = chromium();
        relative["path"] = "x.exe".into();
        let text = relative.to_string();
        assert_eq!(examine(text.as_bytes(), Family::Chromium, HOST, Platform::Windows).faults, [""; 0]);
    }

    #[test]
    fn each_thing_that_a_browser_does_not_take_is_named() {
        for (key, value, family, fault) in [
            ("name", json!("com.example.other"), Family::Chromium, "must be that of the file"),
            ("name", json!(7), Family::Chromium, "`name` is not a text"),
            ("name", Value::Null, Family::Firefox, "`name` is not a text"),
            ("description", json!(""), Family::Chromium, "`description` is empty"),
            ("type", json!("storage"), Family::Firefox, "must be \"stdio\""),
            ("path", json!(""), Family::Chromium, "`path` is empty"),
            ("path", json!("bin/x"), Family::Chromium, "`path` is relative"),
            ("path", json!("~/x"), Family::Firefox, "`path` is relative"),
            ("allowed_origins", json!(ORIGIN), Family::Chromium, "`allowed_origins` is not a list"),
            ("allowed_origins", json!([7]), Family::Chromium, "something else than texts"),
            ("allowed_origins", json!([]), Family::Chromium, "it lets nobody in"),
            ("allowed_origins", json!([ORIGIN, ORIGIN.trim_end_matches('/')]), Family::Chromium, "lacks the slash"),
            ("allowed_origins", json!(["chrome-extension://*/"]), Family::Chromium, "has a wildcard"),
            ("allowed_origins", json!(["https://example.org/"]), Family::Chromium, "not the origin of an extension"),
            ("allowed_origins", json!(["chrome-extension://a@b/"]), Family::Chromium, "has no id"),
            ("allowed_extensions", json!("a@b.c"), Family::Firefox, "`allowed_extensions` is not a list"),
            ("allowed_extensions", json!([ORIGIN]), Family::Firefox, "no id of an add-on"),
            ("allowed_origins", json!([ORIGIN]), Family::Firefox, "a member `allowed_origins`"),
        ] {
            let mut manifest = if family == Family::Chromium { chromium() } else { firefox() };
            manifest[key] = value.clone();
            let found = of(&manifest, family);
            assert!(found.faults.len() == 1 && found.faults[0].contains(fault), "{key}: {value}: {found:?}");
        }
        for key in ["name", "description", "path", "type", "allowed_origins"] {
            let mut manifest = chromium();
            manifest.as_object_mut().unwrap().remove(key);
            assert_eq!(of(&manifest, Family::Chromium).faults, [format!("`{key}` is missing")]);
        }
    }

    #[test]
    fn what_is_no_manifest_is_told_with_its_place() {
        let examine = |text: &[u8]| examine(text, Family::Chromium, HOST, Platform::Linux).faults.join("; ");
        assert!(examine(b"{\n  \"name\": \"x\",\n}").contains("trailing comma (line 3, column 1)"));
        assert!(examine(b"").contains("not JSON"));
        assert!(examine(b"[]").contains("not an object"));
        assert!(
            examine(b"\xef\xbb\xbf[]").contains("byte order mark, which no browser takes for JSON; it is JSON, but")
        );
        assert!(examine(b"\xff\xfe{\0}\0").contains("not JSON"));
    }

    #[test]
    fn several_faults_are_told_at_once() {
        let found = of(&json!({"name": "x", "path": "y"}), Family::Chromium);
        assert_eq!(found.faults.len(), 5, "{found:?}");
    }

    #[test]
    fn ids_are_found_in_what_is_left_of_a_manifest() {
        let text = br#"{"allowed_origins": ["chrome-extension://abcdefghijklmnopabcdefghijklmnop", 'chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/',], "x": "a@b.c""#;
        let ids: Vec<String> = ids_in(text, Family::Chromium).iter().map(ExtensionId::to_string).collect();
        assert_eq!(ids, ["abcdefghijklmnopabcdefghijklmnop", "ponmlkjihgfedcbaponmlkjihgfedcba"]);
        assert_eq!(ids_in(text, Family::Firefox), ["a@b.c".parse().unwrap()]);
    }
}
