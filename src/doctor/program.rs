//! What kind of program a file is, by its first bytes.
//!
//! Owns: reading the headers of ELF, Mach-O and PE, as far as they say for which machine a program is. Pure.

/// For which machine a program is, or what else it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program of this format for this machine.
    Native {
        /// ELF, Mach-O or PE.
        format: &'static str,
        /// The machine, as a word for people.
        machine: String,
    },
    /// Several programs for several machines in one file.
    Universal,
    /// A text that names the program which runs it.
    Script {
        /// That program.
        interpreter: String,
    },
    /// Nothing that a system runs.
    Unknown,
}

/// How much of a file is looked at.
pub(super) const HEADER: usize = 4096;

impl Kind {
    /// Reads the first bytes of a file.
    pub(super) fn of(bytes: &[u8]) -> Self {
        elf(bytes).or_else(|| mach_o(bytes)).or_else(|| pe(bytes)).or_else(|| script(bytes)).unwrap_or(Self::Unknown)
    }

    /// Why a system that runs `own` does not run this; nothing if it does, or may.
    pub(super) fn fault(&self, own: &Self) -> Option<String> {
        match (self, own) {
            (Self::Native { format, machine }, Self::Native { format: own_format, machine: own_machine })
                if (format, machine) != (own_format, own_machine) =>
            {
                Some(format!(
                    "is a program for another machine ({format} for {machine}; this is {own_format} for {own_machine})"
                ))
            }
            (Self::Unknown, Self::Native { .. }) => Some("is no program: damaged, or only a part of one".to_owned()),
            _ => None,
        }
    }
}

fn elf(bytes: &[u8]) -> Option<Kind> {
    let (class, order) = (*bytes.get(4)?, *bytes.get(5)?);
    let machine: [u8; 2] = bytes.get(18..20)?.try_into().ok()?;
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let bits = if class == 1 { "32 bit" } else { "64 bit" };
    let name = match machine {
        3 => "x86",
        40 => "ARM",
        62 => "x86-64",
        183 => "ARM64",
        243 => "RISC-V",
        21 => "PowerPC",
        22 => "s390x",
        _ => "",
    };
    let name = if name.is_empty() { format!("machine {machine}") } else { name.to_owned() };
    Some(Kind::Native { format: "ELF", machine: format!("{name}, {bits}") })
}

fn mach_o(bytes: &[u8]) -> Option<Kind> {
    let magic = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    if magic.swap_bytes() == 0xcafe_babe {
        // The second word is the number of programs; in a class of Java, which begins alike, it is a version.
        let count = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
        return (count < 40).then_some(Kind::Universal);
    }
    if !matches!(magic, 0xfeed_face | 0xfeed_facf) {
        return None;
    }
    let machine = match u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) {
        0x0100_0007 => "x86-64".to_owned(),
        0x0100_000c => "ARM64".to_owned(),
        other => format!("machine {other:#x}"),
    };
    Some(Kind::Native { format: "Mach-O", machine })
}

fn pe(bytes: &[u8]) -> Option<Kind> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let at = u32::from_le_bytes(bytes.get(0x3c..0x40)?.try_into().ok()?) as usize;
    let header = bytes.get(at..at.checked_add(6)?)?;
    let machine: [u8; 2] = header.strip_prefix(b"PE\0\0")?.try_into().ok()?;
    let machine = match u16::from_le_bytes(machine) {
        0x14c => "x86".to_owned(),
        0x8664 => "x86-64".to_owned(),
        0xaa64 => "ARM64".to_owned(),
        other => format!("machine {other:#x}"),
    };
    Some(Kind::Native { format: "PE", machine })
}

fn script(bytes: &[u8]) -> Option<Kind> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    Some(Kind::Script { interpreter: line.split_whitespace().next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(format: &'static str, machine: &str) -> Kind {
        Kind::Native { format, machine: machine.to_owned() }
    }

    #[test]
    fn a_program_says_for_which_machine_it_is() {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(18, 0);
        elf.extend_from_slice(&[183, 0]);
        assert_eq!(Kind::of(&elf), native("ELF", "ARM64, 64 bit"));
        assert_eq!(Kind::of(b"\xcf\xfa\xed\xfe\x0c\0\0\x01"), native("Mach-O", "ARM64"));
        assert_eq!(Kind::of(b"\xca\xfe\xba\xbe\0\0\0\x02"), Kind::Universal);
        let mut pe = b"MZ".to_vec();
        pe.resize(0x3c, 0);
        pe.extend_from_slice(&[0x40, 0, 0, 0]);
        pe.extend_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(Kind::of(&pe), native("PE", "x86-64"));
        assert_eq!(Kind::of(b"#! /usr/bin/env node\nx"), Kind::Script { interpreter: "/usr/bin/env".into() });
        for other in [&b""[..], b"#!", b"#!\n", b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe\0\0\0\x41", b"{}"] {
            assert_eq!(Kind::of(other), Kind::Unknown, "{other:?}");
        }
    }

    #[test]
    fn this_program_runs_here_and_others_do_not() {
        let own = Kind::of(&std::fs::read(std::env::current_exe().unwrap()).unwrap());
        assert!(matches!(own, Kind::Native { .. }));
        assert_eq!(own.fault(&own), None);
        let other = native("ELF", "s390x, 64 bit").fault(&own).unwrap();
        assert!(other.contains("another machine (ELF for s390x"), "{other}");
        assert!(Kind::Unknown.fault(&own).is_some());
        assert_eq!(Kind::Universal.fault(&own), None);
        assert_eq!(Kind::Script { interpreter: "/bin/sh".into() }.fault(&own), None);
    }
}
