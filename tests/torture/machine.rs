//! A machine of its own for each world: a home, perhaps on a disk of its own, a clock that can be moved, and the real
//! program. Owns the daemon's process as seen from outside, and signals.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The extension, as Chromium names it.
pub(crate) const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// The size of a disk that can be filled: room for all that the daemon may keep, and soon full.
const DISK: &str = "48m";

/// How long something may take that is over in no time on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What all machines share, made once.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    /// The program under test.
    pub(crate) program: PathBuf,
    /// What moves the clock of a program that it is loaded into.
    clock_library: PathBuf,
    /// Whether machines have disks of their own.
    disks: bool,
}

/// The machine. Its processes end with it.
#[derive(Debug)]
pub(crate) struct Machine {
    workshop: Workshop,
    directory: PathBuf,
    clock: File,
}

impl Workshop {
    /// Prepares what machines need below `directory`. With `disks`, this process must be allowed to mount.
    pub(crate) fn new(directory: &Path, disks: bool) -> Result<Self> {
        let program = std::env::var_os("WEBSOCKET_BRIDGE_BIN").map(PathBuf::from);
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_websocket-bridge").into());
        ensure!(program.is_file(), "{} is no program", program.display());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/clock.c");
        let clock_library = directory.join("clock.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&clock_library).arg(&source);
        let built = compiler.status().context("cannot run cc, which makes the library that moves the clock")?;
        ensure!(built.success(), "cc cannot make {} from {}", clock_library.display(), source.display());
        Ok(Self { program, clock_library, disks })
    }
}

impl Machine {
    /// A new machine, whose files are below `directory`.
    pub(crate) fn new(workshop: Workshop, directory: PathBuf) -> Result<Self> {
        let home = directory.join("home");
        std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        if workshop.disks {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "torture"]).arg(&home);
            let mounted = mount.output().context("cannot run mount")?;
            ensure!(mounted.status.success(), "cannot mount a disk at {}: {mounted:?}", home.display());
        }
        let path = directory.join("clock");
        let clock = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        clock.write_all_at(&0_i64.to_ne_bytes(), 0)?;
        Ok(Self { workshop, directory, clock })
    }

    fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    fn bridge_home(&self) -> PathBuf {
        self.home().join("bridge")
    }

    /// The program, with an environment as bare as a browser's on a fresh machine.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.workshop.program);
        command.env_clear().env("HOME", self.home()).env("WEBSOCKET_BRIDGE_HOME", self.bridge_home());
        command.env("PATH", "/usr/bin:/bin").current_dir(&self.directory);
        command.env("LD_PRELOAD", &self.workshop.clock_library).env("TORTURE_CLOCK", self.directory.join("clock"));
        command
    }

    /// Runs a command of a person to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        self.command().args(arguments).stdin(Stdio::null()).output()
    }

    /// Process id of the daemon that holds the lock, if one does.
    pub(crate) fn daemon(&self) -> Option<u32> {
        let path = self.bridge_home().join("daemon.lock");
        let lock = File::open(&path).ok()?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::fs::read_to_string(&path).ok()?.trim().parse().ok(),
            _ => None,
        }
    }

    /// Has the daemon stopped by a person; returns when it is gone.
    pub(crate) fn stop_daemon(&self, pid: u32) -> Result<()> {
        let output = self.run(&["stop"])?;
        ensure!(output.status.success(), "`stop` failed: {output:?}");
        self.wait_for_end_of(pid)
    }

    /// Returns when that daemon is gone.
    pub(crate) fn wait_for_end_of(&self, pid: u32) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while self.daemon() == Some(pid) {
            ensure!(Instant::now() < deadline, "the daemon (process {pid}) does not end");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Moves the clock: so many seconds from the real one.
    pub(crate) fn move_clock(&self, seconds: i64) -> io::Result<()> {
        self.clock.write_all_at(&seconds.to_ne_bytes(), 0)
    }

    /// Fills the disk to the last byte.
    pub(crate) fn fill_disk(&self) -> io::Result<()> {
        let mut filling = File::options().create(true).append(true).open(self.home().join("filling"))?;
        let mut block = &[0_u8; 65_536][..];
        loop {
            match filling.write(block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull && block.len() == 1 => return Ok(()),
                Err(error) if error.kind() == ErrorKind::StorageFull => block = &block[..block.len() / 2],
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room again.
    pub(crate) fn free_disk(&self) -> io::Result<()> {
        std::fs::remove_file(self.home().join("filling"))
    }

    /// Process ids of all programs of this machine that run: they carry its home in their environment.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("WEBSOCKET_BRIDGE_HOME={}", self.bridge_home().display());
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }

    /// Copies everything that the programs have written to where it stays.
    pub(crate) fn keep_home(&self, place: &Path) -> io::Result<()> {
        // Sockets are left out, and told of.
        Command::new("cp").arg("-R").arg(self.home()).arg(place).stderr(Stdio::null()).status()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::SIGKILL);
        }
        if self.workshop.disks {
            // What is still in use goes with this process.
            let _ = Command::new("umount").arg("--lazy").arg(self.home()).status();
        }
    }
}

/// Sends a signal to a process that was started here. It may be gone.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}
