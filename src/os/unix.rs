//! Linux, macOS and the BSDs.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Change, Process, ProxySettings};
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{self, GenericFilePath, ListenerOptions, PeerCreds, ToFsName as _};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, umask};
use nix::time::{ClockId, clock_gettime};

/// The longest path of a local socket, in bytes (`sun_path` of macOS, the shortest of all, less its final NUL).
pub const MAX_SOCKET_PATH: usize = 103;

/// A user, by number.
pub type User = u32;

/// This process's user.
#[must_use]
pub fn user() -> User {
    nix::unistd::geteuid().as_raw()
}

/// Takes standard output away from everything that might print: what is returned writes to what was standard output,
/// and from now on standard output is standard error.
///
/// # Errors
/// If a stream of this process is closed.
pub fn take_stdout() -> io::Result<File> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(stdout.into())
}

/// Standard input without a buffer in between.
///
/// # Errors
/// If standard input is closed.
pub fn take_stdin() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Keeps every open descriptor beyond the standard streams from the processes that this one starts: a browser leaves
/// some open (Firefox a pipe by which it learns that its host is gone), and a daemon must not hold them.
///
/// # Errors
/// If the list of descriptors cannot be read.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    for entry in std::fs::read_dir("/dev/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if number > 2 {
            // The list's own descriptor is among them and closed by now or soon; that is no error.
            let _ = fcntl(borrowed(number), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a descriptor that was inherited by number has no owner in Rust")]
fn borrowed(number: i32) -> BorrowedFd<'static> {
    // SAFETY: only used to set a flag at once; if nothing is open under this number the call fails and does nothing.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Starts `command` as a process that outlives this one. Here the process does all of it by itself, with [`detach`];
/// were it made the leader of a process group, it could not.
///
/// # Errors
/// As for any process.
pub fn spawn_detached(command: &mut Command) -> io::Result<Child> {
    command.spawn()
}

/// Prepares `command` to start a process that is none of the terminal's: Ctrl-C reaches this one alone, which can then end
/// the other in order.
pub fn keep_terminal_signals_from(command: &mut Command) {
    command.process_group(0);
}

/// Prepares `command` to start a process without a window of its own: here none has one.
pub fn show_no_window(_command: &mut Command) {}

/// Leaves the session of whoever started this process, so that a signal to them is none to us; files made from now on
/// are the owner's alone.
pub fn detach() {
    // Fails only for the leader of a process group, which no signal to another group reaches either.
    let _ = nix::unistd::setsid();
    restrict_new_files();
}

/// From now on files and directories that this process makes are the owner's alone.
pub fn restrict_new_files() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Points standard output at nothing.
///
/// # Errors
/// If `/dev/null` cannot be opened.
pub fn silence_stdout() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?)
}

/// Creates a directory and those above it, for the owner alone; one that exists must be the owner's and closed to others.
///
/// # Errors
/// If it cannot be made, or is somebody else's, or others may enter it.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    check_private(path)
}

/// Checks that a directory is the owner's and closed to others.
///
/// # Errors
/// If it is not, or cannot be looked at.
pub fn check_private(path: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
    if !metadata.is_dir() || owner != user() {
        let message = format!("{} is not a directory of user {} (owner {owner})", path.display(), user());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if mode & 0o077 != 0 {
        let message = format!("{} is open to others (mode {mode:o}); run: chmod 700 '{0}'", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

/// Closes a directory to others.
///
/// # Errors
/// If it is not ours to close.
pub fn make_private(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))
}

/// Whether this user may make files in a directory.
///
/// # Errors
/// Why not: also if the disk is mounted for reading only.
pub fn may_write(directory: &Path) -> io::Result<()> {
    use nix::unistd::AccessFlags;
    Ok(nix::unistd::access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Whether anybody on this machine may change the file or directory.
#[must_use]
pub fn is_writable_by_all(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    // Where only owners may remove things, as in /tmp, nobody can take their place.
    mode & 0o002 != 0 && mode & 0o1000 == 0 && !metadata.is_symlink()
}

/// Whether a file may be run as a program.
#[must_use]
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Whether a file may be kept from being removed or replaced because it is open, or a program that runs: never here.
#[must_use]
pub fn is_in_use(_error: &io::Error) -> bool {
    false
}

/// Bytes on the disk of `path` that this user may still fill.
///
/// # Errors
/// If nothing is there.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let about = nix::sys::statvfs::statvfs(path)?;
    // The types differ between systems.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Ok(u64::from(about.blocks_available()).saturating_mul(about.fragment_size() as u64))
}

/// Gives `command` a pipe as its descriptor 3, as Firefox does; its other end.
///
/// # Errors
/// If there can be no pipe.
#[expect(unsafe_code, reason = "std gives a process its three streams and nothing else")]
pub fn give_fourth_pipe(command: &mut Command) -> io::Result<io::PipeReader> {
    use std::os::fd::AsRawFd as _;
    let (reader, writer) = io::pipe()?;
    let give = move || {
        let number = writer.as_raw_fd();
        if number == 3 {
            fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
        } else {
            // SAFETY: both are numbers. What this process had under 3 is the parent's, and closed at the start of the
            // program; it is no pipe of std's, as one of ours was opened before and has the lower number.
            nix::errno::Errno::result(unsafe { nix::libc::dup2(number, 3) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec this makes one system call, and allocates nothing.
    unsafe { command.pre_exec(give) };
    Ok(reader)
}

/// The processes of this user, as far as the system tells: Linux does.
#[must_use]
pub fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(id: u32) -> Option<Process> {
    let directory = PathBuf::from(format!("/proc/{id}"));
    let program = std::fs::read_link(directory.join("exe")).ok()?;
    let line = std::fs::read(directory.join("cmdline")).ok()?;
    let arguments = line.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned());
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let parent: u32 = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    // Those whose parents have gone are given to the first process, or to the one that keeps the user's services.
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let is_orphan = parent == 1 || name.trim() == "systemd";
    Some(Process { id, program, arguments: arguments.filter(|argument| !argument.is_empty()).collect(), is_orphan })
}

/// Waits until what was made, renamed or removed in a directory is so on the disk.
///
/// # Errors
/// If the directory cannot be opened, or the disk fails.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens a file for appending that only the owner may read, and makes it if need be.
///
/// # Errors
/// As for any file.
pub fn append_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Opens a file for reading that nobody but an administrator, or this user, can have made.
///
/// # Errors
/// As for any file; and if it is somebody else's.
pub fn open_administrators_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let owner = file.metadata()?.uid();
    if owner != 0 && owner != user() {
        let message = format!(
            "it belongs to user {owner}, not to an administrator; remove it, or run: chown root '{}'",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(file)
}

/// Checks that a file with a key is kept from others, as ssh does with its keys: one of this user's is for nobody else, and
/// one of somebody else (an administrator, who may share it with a group) not for everybody.
///
/// # Errors
/// If it is open to others, or cannot be looked at.
pub fn check_key_file(file: &File, path: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    let mode = metadata.permissions().mode() & 0o777;
    let others = if metadata.uid() == user() { 0o077 } else { 0o007 };
    if mode & others != 0 {
        let message = format!("others may use this key (mode {mode:o}); run: chmod 600 '{}'", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

/// What the system's own settings say about proxies. Where they are a desktop's there is nothing to ask: it tells its
/// programs by their environment, if at all.
#[must_use]
pub fn proxy_settings() -> Option<ProxySettings> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let mut scutil = Command::new("/usr/sbin/scutil");
    let output = scutil.arg("--proxy").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(ProxySettings::Scutil(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Opens a file for a lock and a note in it, for the owner alone, and makes it if need be.
///
/// # Errors
/// As for any file.
pub fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// Waits for the lock of a file, which others may read all the same.
///
/// # Errors
/// If the file cannot be locked.
pub fn lock(file: &File) -> io::Result<()> {
    file.lock()
}

/// Takes the lock of a file if nobody has it.
///
/// # Errors
/// If somebody has it, or the file cannot be locked.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Waits until the other end of a pipe is closed: the writer of one that we read, the reader of one that we write.
/// What is still in the pipe may be read after that.
pub fn wait_for_hangup(pipes: &[&File]) {
    // No events are asked for: POLLHUP and POLLERR are reported all the same, and nothing else wakes us.
    let mut watched: Vec<PollFd<'_>> = pipes.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::empty())).collect();
    loop {
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Memory that this process has in use, in bytes, if the system tells.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Calls whoever listens at a local socket.
///
/// # Errors
/// If nobody listens.
pub fn call(path: &Path) -> io::Result<local_socket::Stream> {
    local_socket::Stream::connect(path.to_fs_name::<GenericFilePath>()?)
}

/// The listener that the system has handed over to this process (`LISTEN_FDS`, as systemd does for a socket unit), if it is
/// the one of this path.
///
/// # Errors
/// If it cannot be used.
pub fn lent_listener(path: &Path) -> io::Result<Option<local_socket::tokio::Listener>> {
    let mut lent = listenfd::ListenFd::from_env();
    for index in 0..lent.len() {
        let Some(listener) = lent.take_unix_listener(index)? else { continue };
        if listener.local_addr()?.as_pathname() == Some(path) {
            listener.set_nonblocking(true)?;
            let listener = interprocess::os::unix::uds_local_socket::Listener::from(listener);
            return Ok(Some(local_socket::tokio::Listener::UdSocket(listener.try_into()?)));
        }
    }
    Ok(None)
}

/// Lets nobody but this user call a listener that is to be made.
///
/// # Errors
/// Never; elsewhere the system may not say who we are.
pub fn owner_only(options: ListenerOptions<'_>) -> io::Result<ListenerOptions<'_>> {
    // Where there is no such option, the directory that nobody else may enter must do.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let options = interprocess::os::unix::local_socket::ListenerOptionsExt::mode(options, 0o600);
    Ok(options)
}

/// Whether this process runs as `user`.
#[must_use]
pub fn is_own(user: &User) -> bool {
    *user == self::user()
}

/// Ends a process without a warning: it can do nothing more.
///
/// # Errors
/// If there is none, or it is not ours.
pub fn kill(process: u32) -> io::Result<()> {
    let process = i32::try_from(process).map_err(io::Error::other)?;
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGKILL)?)
}

/// The user of the process at the other end of a local socket.
#[must_use]
pub fn user_of(peer: &PeerCreds) -> Option<User> {
    peer.euid()
}

/// Time since some fixed moment, asleep or awake.
#[must_use]
pub fn boot_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    // That of macOS goes on while the machine sleeps.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    clock_gettime(CLOCK).map_or(Duration::ZERO, Duration::from)
}

/// Time that the machine was asleep, since some moment before the first call: only differences mean anything.
#[must_use]
pub fn time_asleep() -> Duration {
    // Instants stand still while the machine sleeps.
    static START: OnceLock<Instant> = OnceLock::new();
    boot_time().saturating_sub(START.get_or_init(Instant::now).elapsed())
}

/// Calls `tell` whenever something happens to the machine, from a thread that does nothing but wait for that. Only Linux
/// tells of the clock; elsewhere that the machine slept is seen when the next timer is due, or an address changes, which
/// waking up most often brings with it.
///
/// # Errors
/// If the system does not let us watch.
pub fn watch_machine(tell: impl Fn(Change) + Send + 'static) -> io::Result<()> {
    let network = watch_network()?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = watch_clock()?;
    let watch = move || {
        let mut addresses = addresses();
        loop {
            let mut ready = [
                PollFd::new(network.as_fd(), PollFlags::POLLIN),
                #[cfg(any(target_os = "linux", target_os = "android"))]
                PollFd::new(clock.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            #[cfg(any(target_os = "linux", target_os = "android"))]
            if ready[1].any().unwrap_or_default() && clock.wait().is_ok() {
                tell(Change::Clock);
            }
            if ready[0].any().unwrap_or_default() {
                // What changed is read from the list of addresses, so a message that was cut off or dropped does not
                // matter. Most tell nothing new: routers repeat themselves.
                let _ = nix::unistd::read(&network, &mut [0; 8192]);
                let now = self::addresses();
                if now != addresses {
                    addresses = now;
                    tell(Change::Addresses);
                }
            }
        }
    };
    std::thread::Builder::new().name("machine".into()).spawn(watch)?;
    Ok(())
}

/// What is readable when an address may have come or gone.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watch_network() -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{NetlinkAddr, SockProtocol, bind};
    /// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of rtnetlink(7).
    const ADDRESSES: u32 = 0x10 | 0x100;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, ADDRESSES))?;
    Ok(socket)
}

/// The same: route(4).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn watch_network() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Route, SockType::Raw, SockFlag::empty(), None)?;
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&socket, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(socket)
}

/// A timer that ends early when the clock is set, which also happens when the machine wakes (timerfd_create(2)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watch_clock() -> io::Result<nix::sys::timerfd::TimerFd> {
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    /// In the year 2242: it is not its end that is waited for.
    const NEVER: i64 = 1 << 33;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags)?;
    Ok(timer)
}

/// The addresses by which this machine reaches others.
fn addresses() -> BTreeSet<(String, String)> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    interfaces
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let reaches_others = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(address), _) => !address.ip().is_link_local(),
                (None, Some(address)) => !address.ip().is_unicast_link_local(),
                (None, None) => false,
            };
            reaches_others.then(|| (interface.interface_name, address.to_string()))
        })
        .collect()
}
