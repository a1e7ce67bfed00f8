//! A machine of its own for each test: an empty home, and the real binary in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::browser::Browser;
use super::until;

/// An extension of Chromium's, as the browser names it.
pub(crate) const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// The machine. Its daemon ends with it.
pub(crate) struct Sandbox {
    home: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// The same with one more environment variable for all programs.
    #[cfg(unix)]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn bridge_home(&self) -> PathBuf {
        self.home().join("bridge")
    }

    /// The pipe of the machine's daemon.
    #[cfg(windows)]
    pub(crate) fn pipe(&self) -> PathBuf {
        use websocket_bridge::config::{HOME_VARIABLE, Paths};
        Paths::new(&[(HOME_VARIABLE, self.bridge_home())].into_iter().collect()).unwrap().socket().to_owned()
    }

    /// The program, with an environment as bare as a browser's on a fresh machine.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_websocket-bridge"));
        command.env_clear().env("HOME", self.home()).env("WEBSOCKET_BRIDGE_HOME", self.bridge_home());
        command.env("PATH", "/usr/bin:/bin").current_dir(self.home());
        // Without these Windows finds neither its own libraries nor a place for temporary files.
        #[cfg(windows)]
        command.envs(["SystemRoot", "TEMP"].map(|name| (name, std::env::var_os(name).unwrap())));
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Runs a command of a person to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command and takes its JSON from standard output.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Opens a port as Chromium does.
    pub(crate) fn port(&self) -> Browser {
        self.port_of(ORIGIN)
    }

    /// Opens a port, and with it the daemon's door: the answer to `hello` has come.
    pub(crate) fn welcomed_port(&self) -> Browser {
        let mut port = self.port();
        port.post(serde_json::json!({"type": "hello", "protocol": 1}));
        port.wait_for_type("welcome");
        port
    }

    /// Opens a port for another extension.
    pub(crate) fn port_of(&self, origin: &str) -> Browser {
        let mut command = self.command();
        command.arg(origin);
        Browser::start(command)
    }

    /// Process id of the daemon that holds the lock, if one does.
    pub(crate) fn daemon(&self) -> Option<u32> {
        let lock = std::fs::File::open(self.bridge_home().join("daemon.lock")).ok()?;
        match lock.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                std::fs::read_to_string(self.bridge_home().join("daemon.lock")).ok()?.trim().parse().ok()
            }
            _ => None,
        }
    }

    /// Everything in the log of that name.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.bridge_home().join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Process ids of all programs of this machine that run: they carry its home in their environment.
    #[cfg(unix)]
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("WEBSOCKET_BRIDGE_HOME={}", self.bridge_home().display());
        processes_with(|variable| variable == mark.as_bytes())
    }
}

/// Ends a process that the test started, or that such a one has started, without a warning.
pub(crate) fn kill(pid: u32) {
    websocket_bridge::os::kill(pid).unwrap();
}

/// Process ids of all programs that run with a variable in their environment that `wanted` accepts.
#[cfg(unix)]
pub(crate) fn processes_with(wanted: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(&wanted)
        })
        .filter(|pid| !status(*pid, "State:").starts_with('Z'))
        .collect()
}

impl Drop for Sandbox {
    #[expect(clippy::print_stderr, reason = "the logs of a failed test are its evidence")]
    fn drop(&mut self) {
        if self.daemon().is_some() {
            let output = self.run(&["stop"]);
            if !std::thread::panicking() {
                assert!(output.status.success(), "{output:?}");
                until("the daemon ends", || self.daemon().is_none().then_some(()));
            }
        }
        if std::thread::panicking() {
            eprintln!("-- daemon.log\n{}\n-- host.log\n{}", self.log("daemon"), self.log("host"));
            #[cfg(unix)]
            for pid in self.processes() {
                let _ = websocket_bridge::os::kill(pid);
            }
        }
    }
}

/// A field of `/proc/PID/status`; empty if the process is gone.
#[cfg(unix)]
pub(crate) fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim().to_owned()
}

/// Memory of a process that is its own, in bytes.
#[cfg(windows)]
#[expect(unsafe_code, reason = "std does not ask for it")]
pub(crate) fn memory(pid: u32) -> u64 {
    use windows_sys::Win32::Foundation::CloseHandle;
    use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
    use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION};
    let mut memory = PROCESS_MEMORY_COUNTERS::default();
    // SAFETY: the handle is this function's alone, and null if there is none, which the system does not look into; the
    // pointer is to a local of this size.
    unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid);
        K32GetProcessMemoryInfo(process, &raw mut memory, size_of_val(&memory) as u32);
        CloseHandle(process);
    }
    memory.PagefileUsage as u64
}

/// Memory of a process that is its own, in bytes.
#[cfg(unix)]
pub(crate) fn memory(pid: u32) -> u64 {
    let kilobytes = status(pid, "RssAnon:").trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    kilobytes * 1024
}

/// Stops a process that the test started (`STOP`), or lets it go on (`CONT`): those two are all that there is.
#[cfg(windows)]
#[expect(unsafe_code, reason = "std does not stop processes")]
pub(crate) fn signal(pid: u32, name: &str) {
    use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
    use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_SUSPEND_RESUME};
    #[link(name = "ntdll")]
    unsafe extern "system" {
        fn NtSuspendProcess(process: HANDLE) -> i32;
        fn NtResumeProcess(process: HANDLE) -> i32;
    }
    // SAFETY: the functions take handles and say no to one that is none; this one is nobody else's.
    let status = unsafe {
        let process = OpenProcess(PROCESS_SUSPEND_RESUME, 0, pid);
        let status = if name == "STOP" { NtSuspendProcess(process) } else { NtResumeProcess(process) };
        CloseHandle(process);
        status
    };
    assert_eq!(status, 0, "{name} {pid}");
}

/// Sends a signal to a process that the test started.
#[cfg(unix)]
pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
