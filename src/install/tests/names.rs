//! What is a host name, and what an extension id.

use super::ID;
use crate::config::HOST_NAME;
use crate::install::browsers::Family;
use crate::install::{ExtensionId, HostName};

#[test]
fn the_form_of_an_id_tells_its_family() {
    for (text, family, origin) in [
        (ID, Family::Chromium, "chrome-extension://abcdefghijklmnopabcdefghijklmnop/"),
        (
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop/",
            Family::Chromium,
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop/",
        ),
        (
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            Family::Chromium,
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop/",
        ),
        ("Tracker-1.x@Example.org", Family::Firefox, "Tracker-1.x@Example.org"),
        ("@tracker", Family::Firefox, "@tracker"),
        ("{01234567-89ab-CDEF-0123-456789abcdef}", Family::Firefox, "{01234567-89ab-CDEF-0123-456789abcdef}"),
    ] {
        let id: ExtensionId = text.parse().unwrap();
        assert_eq!((id.family(), id.origin().as_str()), (family, origin));
    }
}

#[test]
fn what_is_no_id_is_refused_with_what_is_allowed() {
    for text in [
        "",
        "abcdefghijklmnopabcdefghijklmno",
        "abcdefghijklmnopabcdefghijklmnoq",
        "ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP",
        "chrome-extension://tracker@example.org/",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop/popup.html",
        "chrome-extension://*/",
        "tracker@",
        "tracker@example@org",
        "tracker @example.org",
        "{01234567-89ab-cdef-0123-456789abcdeg}",
        "{0123456789abcdef0123456789abcdef}",
    ] {
        let error = text.parse::<ExtensionId>().unwrap_err().to_string();
        assert!(error.contains("32 letters from a to p") && error.contains("name@domain"), "{text}: {error}");
    }
}

#[test]
fn a_host_name_is_one_that_both_families_take() {
    for name in [HOST_NAME, "a", "a_b.c1"] {
        assert_eq!(name.parse::<HostName>().unwrap().as_str(), name);
    }
    for name in ["", ".a", "a.", "a..b", "A.b", "a-b", "a/b", "ä"] {
        let error = name.parse::<HostName>().unwrap_err().to_string();
        assert!(error.contains("lower case letters"), "{name}: {error}");
    }
    assert_eq!(HostName::default().as_str().parse::<HostName>().unwrap(), HostName::default());
}
