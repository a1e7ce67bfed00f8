//! The picture: attempts a second over time, on a logarithmic scale, for a few of the fleets.
//!
//! It has no background, and its colours can be told apart on a light and on a dark page; text and scale follow what the
//! browser says the page is.

use std::fmt::Write as _;

use crate::report::{IN_GREETING, NO_ADVICE, Row};

/// What is drawn: its row, its name, its colour and its width, the topmost last.
const LINES: &[(&str, &str, &str, f64)] = &[
    ("phoenix.js", "phoenix.js", "#8c8c8c", 1.0),
    ("socket.io-client", "socket.io-client", "#b07aa1", 1.0),
    ("centrifuge-js", "centrifuge-js", "#4e9a51", 1.0),
    ("Chromium GCM", "Chromium GCM", "#d98c1f", 1.4),
    (NO_ADVICE, "bridge, defaults", "#3b82f6", 2.4),
    (IN_GREETING, "bridge, window in the greeting", "#e15759", 2.4),
];

/// Where the scales begin and end.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 840.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 330.0;

/// Seconds that are shown, and those that one point stands for.
const SECONDS: usize = 800;
const STEP: usize = 2;

/// The powers of ten at the bottom and at the top.
const LOWEST: i32 = 2;
const HIGHEST: i32 = 6;

const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #24292f } \
                     .scale { stroke: #8884; fill: none } .mark { stroke: #888; stroke-dasharray: 5 4 } \
                     @media (prefers-color-scheme: dark) { text { fill: #d0d7de } }";

/// The picture of these fleets, which have lost the same server.
pub(crate) fn svg<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let rows: Vec<&Row> = rows.collect();
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 440\" role=\"img\" \
         aria-label=\"Attempts a second over time, of a fleet that has lost its server\">\n",
    );
    let _ = writeln!(out, "<style>{STYLE}</style>");
    put_scales(&mut out);
    if let Some(row) = rows.first() {
        let server = row.scenario.server;
        let accepts = server.accepts * of_a_million(row);
        let back = x(server.down.as_secs_f64());
        let _ =
            writeln!(out, "<path class=\"mark\" d=\"M{back:.1} {TOP}V{BOTTOM}M{LEFT} {:.1}H{RIGHT}\"/>", y(accepts));
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\">the server is back</text>", back + 6.0, TOP + 12.0);
        let text = format!("dashed: the server accepts {accepts:.0} in a second");
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{text}</text>", BOTTOM + 40.0);
    }
    for (place, (row, name, colour, width)) in LINES.iter().enumerate() {
        let Some(row) = rows.iter().find(|found| found.name == *row) else { continue };
        let points = points(&row.outcome.per_second(), of_a_million(row));
        let _ =
            writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\"{points}\"/>");
        let (left, top) = (LEFT + (place % 3) as f64 * 260.0, 390.0 + (place / 3) as f64 * 24.0);
        let _ = writeln!(out, "<path d=\"M{left} {top}h26\" stroke=\"{colour}\" stroke-width=\"{}\"/>", width + 1.0);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{name}</text>", left + 34.0, top + 4.0);
    }
    out + "</svg>\n"
}

fn put_scales(out: &mut String) {
    for power in LOWEST..=HIGHEST {
        let (number, at) = (10u32.pow(power.unsigned_abs()), y(10f64.powi(power)));
        let text = if number < 1_000_000 { number.to_string() } else { "1 million".into() };
        let _ = writeln!(out, "<path class=\"scale\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, at + 4.0);
    }
    for second in (0..=SECONDS).step_by(100) {
        let at = x(second as f64);
        let _ = writeln!(out, "<path class=\"scale\" d=\"M{at:.1} {BOTTOM}v5\"/>");
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{second}</text>", BOTTOM + 20.0);
    }
    let text = "attempts a second (logarithmic), by seconds since the loss";
    let _ = writeln!(out, "<text x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">{text}</text>", BOTTOM + 40.0);
}

/// A smaller fleet is drawn as if it were a million.
fn of_a_million(row: &Row) -> f64 {
    1e6 / f64::from(row.scenario.clients)
}

fn points(per_second: &[u32], times: f64) -> String {
    let mut out = String::new();
    for (place, seconds) in per_second.chunks(STEP).take(SECONDS / STEP).enumerate() {
        let mean = f64::from(seconds.iter().sum::<u32>()) / seconds.len() as f64;
        let _ = write!(out, "{:.0},{:.0} ", x((place * STEP) as f64 + STEP as f64 / 2.0), y(mean * times));
    }
    out
}

fn x(second: f64) -> f64 {
    LEFT + second / SECONDS as f64 * (RIGHT - LEFT)
}

/// What is below the scale stands at its bottom, what is above at its top.
fn y(rate: f64) -> f64 {
    let power = rate.max(1.0).log10().clamp(f64::from(LOWEST), f64::from(HIGHEST));
    BOTTOM - (power - f64::from(LOWEST)) / f64::from(HIGHEST - LOWEST) * (BOTTOM - TOP)
}
