//! Messages that are known by two numbers: whoever has these can say byte for byte what the message must be.

use serde::Deserialize;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Text that is JSON.
    Json(String),
    /// Any other text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// Where the numbers stand in JSON.
#[derive(Deserialize)]
struct Numbers {
    a: u64,
    b: u64,
}

impl Body {
    /// The message of these numbers. Most are small, some are long, one in many is longer than a native message may be.
    pub(crate) fn of(a: u64, b: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b);
        let size = match rng.u32(..3000) {
            0 => rng.usize(1_000_000..1_300_000),
            1..30 => rng.usize(5_000..40_000),
            _ => rng.usize(..150),
        };
        match rng.u32(..8) {
            0 => Self::Text(format!("#{a} {b} {}", "plain \"text\" \\ ä 😀 ".repeat(size / 20))),
            1 => Self::Binary([&a.to_be_bytes()[..], &b.to_be_bytes(), &vec![a as u8; size]].concat()),
            _ => Self::Json(format!(r#"{{"a":{a}, "b":{b},"x":1e400,"x":"\u00e4{}"}}"#, "x".repeat(size))),
        }
    }

    /// The numbers of a message; `None` if it is none of ours, or was changed on its way.
    pub(crate) fn numbers(&self) -> Option<(u64, u64)> {
        let (a, b) = match self {
            Self::Json(json) => {
                let Numbers { a, b } = serde_json::from_str(json).ok()?;
                (a, b)
            }
            Self::Text(text) => {
                let mut words = text.strip_prefix('#')?.splitn(3, ' ');
                (words.next()?.parse().ok()?, words.next()?.parse().ok()?)
            }
            Self::Binary(bytes) => {
                let (a, rest) = bytes.split_first_chunk()?;
                (u64::from_be_bytes(*a), u64::from_be_bytes(*rest.first_chunk()?))
            }
        };
        (*self == Self::of(a, b)).then_some((a, b))
    }

    /// Its bytes, and whether they are text.
    pub(crate) fn bytes(&self) -> (&[u8], bool) {
        match self {
            Self::Json(text) | Self::Text(text) => (text.as_bytes(), true),
            Self::Binary(bytes) => (bytes, false),
        }
    }

    /// The message that a server was sent.
    pub(crate) fn received(bytes: &[u8], is_text: bool) -> Option<Self> {
        if !is_text {
            return Some(Self::Binary(bytes.to_vec()));
        }
        let text = std::str::from_utf8(bytes).ok()?.to_owned();
        Some(if text.starts_with('{') { Self::Json(text) } else { Self::Text(text) })
    }
}
