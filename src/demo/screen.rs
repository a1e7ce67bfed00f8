//! What the person sees: lines, and below them on a terminal one line that moves.
//!
//! Owns: all writing to standard output while the story is told, and the decision what a terminal can do. The moving line
//! is short, or a narrow terminal would break it in two and it could not be taken back.

use std::io::{self, Write};

use crate::config::Env;
use crate::log::harmless;

/// Cells of a progress bar.
const CELLS: u64 = 24;

/// Without a terminal, progress is worth a line when it has come this many percent further.
const PLAIN_STEP: u64 = 25;

/// Goes to the beginning of the line and clears it.
const CLEAR: &str = "\r\x1b[K";

/// What the output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    moving: bool,
    colour: bool,
}

impl Abilities {
    /// Of standard output: `terminal` says whether it is one.
    pub(super) fn of(env: &Env, terminal: bool) -> Self {
        let moving = terminal && env.get("TERM").is_none_or(|term| term != "dumb");
        Self { moving, colour: moving && env.get("NO_COLOR").is_none() }
    }
}

/// How a piece of text looks where there is colour (SGR codes).
#[derive(Debug, Clone, Copy)]
enum Look {
    Bold = 1,
    Faint = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// The output.
#[derive(Debug)]
pub(super) struct Screen<W> {
    out: W,
    abilities: Abilities,
    /// The moving line, if one is drawn.
    moving: Option<String>,
    /// The progress that was last worth a line.
    told: u64,
}

impl<W: Write> Screen<W> {
    pub(super) fn new(out: W, abilities: Abilities) -> Self {
        Self { out, abilities, moving: None, told: 0 }
    }

    /// Begins a part of the story.
    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        self.told = 0;
        let text = self.paint(Look::Bold, text);
        self.clear()?;
        self.write(&format!("\n{text}\n"))
    }

    /// A line of the story.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.put(&format!("   {text}\n"))
    }

    /// A line that says how it all went.
    pub(super) fn verdict(&mut self, good: bool, text: &str) -> io::Result<()> {
        let text = self.paint(if good { Look::Green } else { Look::Red }, text);
        self.put(&format!("   {text}\n"))
    }

    /// A line that came from the server.
    pub(super) fn log(&mut self, level: &str, text: &str) -> io::Result<()> {
        let look = match level {
            "error" => Look::Red,
            "warn" => Look::Yellow,
            "info" => Look::Cyan,
            _ => Look::Faint,
        };
        let level = self.paint(look, &format!("{:5}", harmless(level)));
        self.put(&format!("     {level}  {}\n", harmless(text)))
    }

    /// How far a task has come.
    pub(super) fn progress(&mut self, percent: u64, text: &str) -> io::Result<()> {
        let filled = percent.min(100) * CELLS / 100;
        let cells = |cell: &str, count: u64| cell.repeat(usize::try_from(count).unwrap_or(0));
        let bar = self.paint(Look::Green, &cells("#", filled));
        let line = format!("     [{bar}{}] {percent:3} %  {}", cells("-", CELLS - filled), harmless(text));
        if self.abilities.moving {
            return self.moving(line);
        }
        if percent < self.told + PLAIN_STEP && percent < 100 {
            return Ok(());
        }
        self.told = percent;
        self.write(&format!("{line}\n"))
    }

    /// What is going on just now; only where it can be taken back.
    pub(super) fn meanwhile(&mut self, text: &str) -> io::Result<()> {
        if self.abilities.moving { self.moving(format!("     {text}")) } else { Ok(()) }
    }

    /// Takes the moving line away.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.moving.take().is_some() { self.write(CLEAR) } else { Ok(()) }
    }

    fn moving(&mut self, line: String) -> io::Result<()> {
        let text = format!("{CLEAR}{line}");
        self.moving = Some(line);
        self.write(&text)
    }

    /// Writes a whole line above the moving one.
    fn put(&mut self, line: &str) -> io::Result<()> {
        let text = match &self.moving {
            Some(moving) => format!("{CLEAR}{line}{moving}"),
            None => line.to_owned(),
        };
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn paint(&self, look: Look, text: &str) -> String {
        if self.abilities.colour { format!("\x1b[{}m{text}\x1b[0m", look as u8) } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(variables: &[(&str, &str)], terminal: bool) -> (bool, bool) {
        let found = Abilities::of(&variables.iter().copied().collect(), terminal);
        (found.moving, found.colour)
    }

    /// What is written for a task that goes from 0 to 100 % and logs twice.
    fn shown(moving: bool, colour: bool) -> String {
        let mut screen = Screen::new(Vec::new(), Abilities { moving, colour });
        screen.title("1. Live").unwrap();
        for step in 1..=10 {
            screen.progress(step * 10, "working").unwrap();
        }
        screen.log("warn", "a\u{1b}[2Jb").unwrap();
        screen.meanwhile("waiting").unwrap();
        screen.clear().unwrap();
        screen.verdict(true, "fine").unwrap();
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn only_a_terminal_that_can_is_given_escapes() {
        assert_eq!(abilities(&[], true), (true, true));
        assert_eq!(abilities(&[("TERM", "xterm"), ("NO_COLOR", "")], true), (true, true));
        assert_eq!(abilities(&[("NO_COLOR", "1")], true), (true, false));
        assert_eq!(abilities(&[("TERM", "dumb")], true), (false, false));
        assert_eq!(abilities(&[("TERM", "xterm")], false), (false, false));
    }

    #[test]
    fn in_a_pipe_there_are_plain_lines_and_few_of_them() {
        let lines = [
            "",
            "1. Live",
            "     [#######-----------------]  30 %  working",
            "     [##############----------]  60 %  working",
            "     [#####################---]  90 %  working",
            "     [########################] 100 %  working",
            "     warn   a\\u{1b}[2Jb",
            "   fine",
            "",
        ];
        assert_eq!(shown(false, false), lines.join("\n"));
    }

    #[test]
    fn on_a_terminal_a_line_is_put_above_the_moving_one() {
        let text = shown(true, false);
        let bar = "     [########################] 100 %  working";
        let log = "     warn   a\\u{1b}[2Jb\n";
        assert!(text.contains(&format!("{CLEAR}{log}{bar}")), "{text:?}");
        assert!(text.ends_with(&format!("{CLEAR}     waiting{CLEAR}   fine\n")), "{text:?}");
    }

    #[test]
    fn colour_begins_and_ends() {
        let text = shown(true, true);
        assert!(text.contains("\x1b[33mwarn \x1b[0m") && text.ends_with("   \x1b[32mfine\x1b[0m\n"), "{text:?}");
        assert!(!shown(true, false).replace(CLEAR, "").contains('\x1b'));
    }
}
