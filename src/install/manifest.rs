//! The native messaging host manifest: what it says, and the names and ids that may stand in it.
//!
//! Owns: the rules for host names and extension ids, both manifest formats, and reading one that is already there.
//! Does not own: where a manifest lies (`browsers`), nor whose it is and whether it is written (`install`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::InstallError;
use super::browsers::Family;
use crate::config::HostName;

const CHROMIUM_TEMPLATE: &str = include_str!("../../host-manifests/chromium.json");
const FIREFOX_TEMPLATE: &str = include_str!("../../host-manifests/firefox.json");

/// The id of an extension; its form says which family of browsers it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionId {
    family: Family,
    id: String,
}

impl ExtensionId {
    /// The browsers that know this form of id.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// What the browser passes to the host: `chrome-extension://ID/`, or Firefox's add-on id. Manifests and the
    /// configuration's `[origins."…"]` name an extension by it.
    #[must_use]
    pub fn origin(&self) -> String {
        match self.family {
            Family::Chromium => format!("chrome-extension://{}/", self.id),
            Family::Firefox => self.id.clone(),
        }
    }
}

impl FromStr for ExtensionId {
    type Err = InstallError;

    fn from_str(text: &str) -> Result<Self, InstallError> {
        let bare = text.strip_prefix("chrome-extension://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let id = bare.unwrap_or(text);
        let family = if is_chromium_id(id) {
            Family::Chromium
        } else if bare.is_none() && is_firefox_id(id) {
            Family::Firefox
        } else {
            return Err(InstallError::ExtensionId { given: text.to_owned() });
        };
        Ok(Self { family, id: id.to_owned() })
    }
}

impl fmt::Display for ExtensionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// Chromium writes a hash in sixteen letters instead of hexadecimal digits.
fn is_chromium_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'a'..=b'p'))
}

/// The two forms of Firefox's schema for `ExtensionID`: a UUID in braces, or something like an e-mail address.
fn is_firefox_id(id: &str) -> bool {
    let is_uuid = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if let Some(uuid) = id.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        is_uuid(uuid)
    } else {
        id.split_once('@').is_some_and(|(name, domain)| is_name(name) && !domain.is_empty() && is_name(domain))
    }
}

/// The content of a manifest. Firefox refuses unknown keys, so these are all there are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    description: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_extensions: Option<Vec<String>>,
}

/// The text of a manifest that lets `extensions` (of this family) start `program`.
pub(super) fn render(family: Family, host: &HostName, program: &str, extensions: &[ExtensionId]) -> String {
    let template = match family {
        Family::Chromium => CHROMIUM_TEMPLATE,
        Family::Firefox => FIREFOX_TEMPLATE,
    };
    let mut manifest: Manifest = serde_json::from_str(template).expect("the embedded templates are manifests");
    host.as_str().clone_into(&mut manifest.name);
    program.clone_into(&mut manifest.path);
    let allowed = extensions.iter().map(ExtensionId::origin).collect();
    match family {
        Family::Chromium => manifest.allowed_origins = Some(allowed),
        Family::Firefox => manifest.allowed_extensions = Some(allowed),
    }
    let mut text = serde_json::to_string_pretty(&manifest).expect("strings and lists of strings are JSON");
    text.push('\n');
    text
}

/// What can be told about a manifest that is already there, whoever wrote it and however well.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// The program that it starts.
    pub(super) program: Option<PathBuf>,
    /// What it says about itself.
    pub(super) description: Option<String>,
    /// The extensions that it lets in; entries that are no id are left out, because one of them makes a browser
    /// refuse the whole file.
    pub(super) extensions: Vec<ExtensionId>,
}

impl Existing {
    /// Reads what is readable; of a text that is no manifest, nothing is.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else {
            return Self::default();
        };
        let text = |key: &str| json.get(key).and_then(|value| value.as_str());
        let allowed = |key: &str| json.get(key).and_then(|value| value.as_array()).into_iter().flatten();
        Self {
            program: text("path").map(PathBuf::from),
            description: text("description").map(str::to_owned),
            extensions: allowed("allowed_origins")
                .chain(allowed("allowed_extensions"))
                .filter_map(|entry| entry.as_str()?.parse().ok())
                .collect(),
        }
    }
}

impl Serialize for ExtensionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
