//! What a server says about when it wants to be tried again: a `Retry-After` header, or JSON as the reason of a close
//! frame.
//!
//! Owns: reading both. Does not decide what is made of it, and bounds nothing: that is the session's.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::http::header::{HeaderMap, RETRY_AFTER};

use crate::wire::Hint;

/// The hint in the header of an answer that came at `now`: seconds, or a date in any format of RFC 9110.
pub(super) fn of_header(headers: &HeaderMap, now: SystemTime) -> Option<Hint> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after_ms = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_or(u64::MAX, |seconds: u64| seconds.saturating_mul(1000))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        // A date that has passed asks for nothing.
        date.duration_since(now).map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    };
    Some(Hint { after_ms, window_ms: None })
}

/// The hint in the reason of a close frame: `{"reconnect_after_ms":1500,"window_ms":30000}`, or either member alone.
pub(super) fn of_close_reason(text: &str) -> Option<Hint> {
    #[derive(Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        reconnect_after_ms: Option<&'a RawValue>,
        #[serde(borrow)]
        window_ms: Option<&'a RawValue>,
    }
    // An array would do for the struct as well.
    let said: Said<'_> = text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())??;
    let (after_ms, window_ms) = (said.reconnect_after_ms.and_then(millis), said.window_ms.and_then(millis));
    (after_ms.is_some() || window_ms.is_some()).then(|| Hint { after_ms: after_ms.unwrap_or(0), window_ms })
}

/// A number of milliseconds, if it is one: one member that is nonsense must not cost the other.
fn millis(json: &RawValue) -> Option<u64> {
    let number: f64 = json.get().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_in_any_of_three_formats() {
        let hint = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            // Sun, 06 Nov 1994 08:49:37 GMT
            of_header(&headers, UNIX_EPOCH + Duration::from_secs(784_111_777)).map(|hint| hint.after_ms)
        };
        assert_eq!(hint("0"), Some(0));
        assert_eq!(hint("120"), Some(120_000));
        assert_eq!(hint("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60_000));
        assert_eq!(hint("Sunday, 06-Nov-94 08:50:37 GMT"), Some(60_000));
        assert_eq!(hint("Sun Nov  6 08:50:37 1994"), Some(60_000));
        assert_eq!(hint("Sat, 05 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(hint("99999999999999999999999"), Some(u64::MAX));
        for nonsense in ["", "-1", "+1", "1.5", "1 minute", "soon", "Sun, 31 Feb 1994 08:49:37 GMT"] {
            assert_eq!(hint(nonsense), None, "{nonsense}");
        }
        assert_eq!(of_header(&HeaderMap::new(), UNIX_EPOCH), None);
    }

    #[test]
    fn a_close_reason_that_is_json_may_say_when_and_over_what_time_to_come_back() {
        let hint = |text| of_close_reason(text).map(|hint| (hint.after_ms, hint.window_ms));
        assert_eq!(hint(r#"{"reconnect_after_ms":1500,"window_ms":30000}"#), Some((1500, Some(30_000))));
        assert_eq!(hint(r#" {"reconnect_after_ms":1.5e3,"why":["deploy"]} "#), Some((1500, None)));
        assert_eq!(hint(r#"{"window_ms":30000}"#), Some((0, Some(30_000))));
        assert_eq!(hint(r#"{"reconnect_after_ms":1e999,"window_ms":7}"#), Some((0, Some(7))));
        assert_eq!(hint(r#"{"reconnect_after_ms":1e300}"#), Some((u64::MAX, None)));
        for nothing in [
            "",
            "going away",
            "{}",
            "[1500,30000]",
            "1500",
            r#"{"reconnect_after_ms":-1}"#,
            r#"{"reconnect_after_ms":"1500"}"#,
            r#"{"reconnect_after_ms":null}"#,
            r#"{"reconnect_after_ms":1500"#,
        ] {
            assert_eq!(hint(nothing), None, "{nothing}");
        }
    }
}
