//! The other end of a link, played by hand from what `src/wire/link.rs` freezes: a newer program that calls, or a daemon of
//! another version that is called.

use std::fs::File;
use std::io::{Read, Write};
#[cfg(unix)]
use std::os::unix::{
    fs::{OpenOptionsExt as _, PermissionsExt},
    net::{UnixListener, UnixStream},
};

use serde_json::{Value, json};

#[cfg(unix)]
use super::DEADLINE;
use super::sandbox::Sandbox;

/// How a caller introduced itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) build: String,
    pub(crate) origin: String,
}

/// Sends a header.
fn introduce(stream: &mut impl Write, version: u16, build: &str) {
    let mut header = b"wsbridge".to_vec();
    for number in [version, u16::try_from(build.len()).unwrap(), 0] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(build.as_bytes());
    stream.write_all(&header).unwrap();
}

/// Reads a header.
fn hear(stream: &mut impl Read) -> Caller {
    let mut fixed = [0; 14];
    stream.read_exact(&mut fixed).unwrap();
    assert!(fixed.starts_with(b"wsbridge"));
    let mut text = |at: usize| {
        let mut text = vec![0; u16::from_le_bytes([fixed[at], fixed[at + 1]]).into()];
        stream.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    Caller { build: text(10), origin: text(12) }
}

/// Sends one native frame.
pub(crate) fn say(stream: &mut impl Write, message: &Value) {
    let body = message.to_string();
    stream.write_all(&u32::try_from(body.len()).unwrap().to_ne_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

/// Reads one native frame.
pub(crate) fn listen(stream: &mut impl Read) -> Value {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; u32::from_ne_bytes(prefix) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// Calls the machine's daemon.
#[cfg(unix)]
pub(crate) fn call(machine: &Sandbox) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(machine.bridge_home().join("run/daemon.sock"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Calls the machine's daemon. Between one caller and the next it is busy for a moment; one that stays busy takes no calls.
#[cfg(windows)]
pub(crate) fn call(machine: &Sandbox) -> std::io::Result<File> {
    use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(500);
    loop {
        match File::options().read(true).write(true).open(machine.pipe()) {
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed()) => {
                if std::time::Instant::now() > deadline {
                    return Err(error);
                }
            }
            called => return called,
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Asks the machine's daemon to make way for version `build`, as a host of that version does; gives its answer.
pub(crate) fn hand_over(machine: &Sandbox, build: &str) -> Value {
    let mut stream = call(machine).unwrap();
    introduce(&mut stream, 1, build);
    hear(&mut stream);
    say(&mut stream, &json!({"type": "hand-over", "build": build}));
    listen(&mut stream)
}

/// Keeps all hosts of the machine from starting a daemon, as a host does that is just starting one.
pub(crate) fn hold_launches(machine: &Sandbox) -> File {
    let lock = File::create(machine.bridge_home().join("launch.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// A daemon of another version. It ends when it is dropped.
#[cfg(unix)]
pub(crate) struct OtherDaemon {
    listener: UnixListener,
    socket: std::path::PathBuf,
    version: u16,
    build: &'static str,
    _lock: File,
}

#[cfg(unix)]
impl OtherDaemon {
    pub(crate) fn start(machine: &Sandbox, version: u16, build: &'static str) -> Self {
        let home = machine.bridge_home();
        std::fs::create_dir_all(home.join("run")).unwrap();
        std::fs::set_permissions(home.join("run"), PermissionsExt::from_mode(0o700)).unwrap();
        let mut lock = File::options().create(true).append(true).mode(0o600).open(home.join("daemon.lock")).unwrap();
        lock.lock().unwrap();
        writeln!(lock, "{}", std::process::id()).unwrap();
        let socket = home.join("run/daemon.sock");
        Self { listener: UnixListener::bind(&socket).unwrap(), socket, version, build, _lock: lock }
    }

    /// Waits for somebody who only looks whether anybody is there.
    pub(crate) fn be_seen(&self) {
        self.listener.set_nonblocking(true).unwrap();
        super::until("somebody looks", || self.listener.accept().ok());
    }

    /// Takes the next call.
    pub(crate) fn accept(&self) -> (UnixStream, Caller) {
        self.listener.set_nonblocking(true).unwrap();
        let (mut stream, _) = super::until("somebody calls", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let caller = hear(&mut stream);
        introduce(&mut stream, self.version, self.build);
        (stream, caller)
    }
}

#[cfg(unix)]
impl Drop for OtherDaemon {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}
