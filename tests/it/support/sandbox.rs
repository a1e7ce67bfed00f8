//! A machine of its own for each test: an empty home, and the real binary in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[cfg(windows)]
use websocket_bridge::config::Paths;
use websocket_bridge::config::{HOME_VARIABLE, HostName};

use super::browser::Browser;
use super::{start, until};

/// An extension of Chromium's, as the browser names it.
pub(crate) const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// The machine. Its daemon ends with it.
pub(crate) struct Sandbox {
    home: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    program: PathBuf,
    /// The name under which extensions ask for the host.
    host: HostName,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
            program: env!("CARGO_BIN_EXE_websocket-bridge").into(),
            host: HostName::default(),
        }
    }

    /// A machine with Chromium and Firefox, to install something on. Where browsers ask the registry, which all tests share,
    /// the program is another product's each time.
    pub(crate) fn for_install() -> Self {
        let machine = Self::new();
        let profiles = match cfg!(windows) {
            true => ["AppData/Local/Chromium/User Data", "AppData/Roaming/Mozilla/Firefox"],
            false => [".config/chromium", ".mozilla/firefox"],
        };
        profiles.iter().for_each(|directory| std::fs::create_dir_all(machine.home().join(directory)).unwrap());
        if cfg!(windows) { machine.under_a_name_of_its_own() } else { machine }
    }

    fn under_a_name_of_its_own(mut self) -> Self {
        let directory = self.home().join("download");
        std::fs::create_dir(&directory).unwrap();
        self.host = format!("com.example.test{:016x}", fastrand::u64(..)).parse().unwrap();
        std::fs::write(HostName::file_in(&directory), self.host.as_str()).unwrap();
        let program = directory.join(self.program.file_name().unwrap());
        // It is large, and may be on another disk.
        std::fs::hard_link(&self.program, &program)
            .or_else(|_| std::fs::copy(&self.program, &program).map(drop))
            .unwrap();
        self.program = program;
        self
    }

    /// The same with one more environment variable for all programs.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn bridge_home(&self) -> PathBuf {
        let home = self.home().join("bridge");
        if self.host.is_usual() { home } else { home.join(self.host.as_str()) }
    }

    /// The manifest that `install --browser` writes for `chromium` or `firefox`.
    pub(crate) fn manifest(&self, browser: &str) -> PathBuf {
        let directory = match browser {
            _ if cfg!(windows) => self.bridge_home().join("manifests").join(browser),
            "firefox" => self.home().join(".mozilla/native-messaging-hosts"),
            _ => self.home().join(".config/chromium/NativeMessagingHosts"),
        };
        directory.join(self.host.manifest_file())
    }

    /// The name under which extensions ask for the host.
    pub(crate) fn host(&self) -> &str {
        self.host.as_str()
    }

    /// The program that `install` leaves.
    pub(crate) fn installed_program(&self) -> PathBuf {
        self.bridge_home().join("bin").join(format!("websocket-bridge{}", std::env::consts::EXE_SUFFIX))
    }

    /// The pipe of the machine's daemon.
    #[cfg(windows)]
    pub(crate) fn pipe(&self) -> PathBuf {
        Paths::new(&[(HOME_VARIABLE, self.bridge_home())].into_iter().collect()).unwrap().socket().to_owned()
    }

    /// The program, with an environment as bare as a browser's on a fresh machine.
    pub(crate) fn command(&self) -> Command {
        self.command_of(&self.program)
    }

    /// Another program in the same environment.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.home()).env(HOME_VARIABLE, self.home().join("bridge"));
        command.env("PATH", "/usr/bin:/bin").current_dir(self.home());
        // Without these Windows finds neither its own libraries nor a place for temporary files.
        #[cfg(windows)]
        command.envs(["SystemRoot", "TEMP"].map(|name| (name, std::env::var_os(name).unwrap())));
        #[cfg(windows)]
        command.envs(
            [("LOCALAPPDATA", "Local"), ("APPDATA", "Roaming")]
                .map(|(name, directory)| (name, self.home().join("AppData").join(directory))),
        );
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Runs a command of a person to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        start(|| self.command().args(arguments).stdin(Stdio::null()).output())
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

    /// Leaves nothing of the test's product in the registry: what a test has broken no uninstall finds.
    #[cfg(windows)]
    fn remove_keys(&self) {
        use winreg::{RegKey, enums::HKEY_CURRENT_USER};
        for vendor in ["Chromium", "Mozilla", r"Google\Chrome for Testing"].iter().filter(|_| !self.host.is_usual()) {
            let key = format!(r"Software\{vendor}\NativeMessagingHosts\{}", self.host);
            let _ = RegKey::predef(HKEY_CURRENT_USER).delete_subkey(key);
        }
    }

    /// Process ids of all programs of this machine that run: they carry its home in their environment.
    #[cfg(unix)]
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{HOME_VARIABLE}={}", self.home().join("bridge").display());
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
        #[cfg(windows)]
        self.remove_keys();
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
