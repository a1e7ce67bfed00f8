//! Windows. Files are closed to others by the access list that they inherit from the user's profile; a pipe, which is in
//! nobody's directory, is given one of its own.

use std::ffi::c_void;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsHandle as _, AsRawHandle as _, FromRawHandle as _, IntoRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use interprocess::local_socket::{self, ListenerOptions, PeerCreds};
use interprocess::os::windows::local_socket::ListenerOptionsExt as _;
use interprocess::os::windows::named_pipe;
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use widestring::U16CString;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_PIPE_CLOSING_STATE, FILE_PIPE_DISCONNECTED_STATE, FILE_PIPE_LOCAL_INFORMATION, FilePipeLocalInformation,
    NtQueryInformationFile,
};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_HANDLE, ERROR_LOCK_VIOLATION, ERROR_PIPE_BUSY, ERROR_SHARING_VIOLATION,
    ERROR_SUCCESS, HANDLE, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, LocalFree, NO_ERROR, SetHandleInformation,
};
use windows_sys::Win32::NetworkManagement::IpHelper::NotifyAddrChange;
use windows_sys::Win32::Security::Authorization::{ConvertSidToStringSidW, GetSecurityInfo, SE_FILE_OBJECT};
use windows_sys::Win32::Security::{
    GetTokenInformation, OWNER_SECURITY_INFORMATION, PSID, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_OVERLAPPED, GetDiskFreeSpaceExW, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx,
    SECURITY_IDENTIFICATION,
};
use windows_sys::Win32::System::Console::{
    GetStdHandle, STD_ERROR_HANDLE, STD_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle,
};
use windows_sys::Win32::System::IO::{IO_STATUS_BLOCK, OVERLAPPED};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, DETACHED_PROCESS, GetCurrentProcess,
    GetProcessHandleCount, OpenProcess, OpenProcessToken, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_TERMINATE,
    TerminateProcess,
};
use windows_sys::Win32::System::WindowsProgramming::QueryUnbiasedInterruptTime;

/// The longest name of a pipe, in characters.
pub const MAX_SOCKET_PATH: usize = 256;

/// How long a daemon may be too busy to take a call.
const BUSY: Duration = Duration::from_secs(5);

/// How often a pipe that is in use is asked whether its other end is still there.
const HANGUP_INTERVAL: Duration = Duration::from_millis(250);

/// The highest value of a handle that is looked at: 65536 handles.
const MAX_HANDLE: usize = 4 << 16;

/// The same where the system does not say how many there are, so that all values are looked at.
const MAX_UNCOUNTED_HANDLE: usize = 4 << 12;

/// Who may write where only administrators may: their group, the system, and its installer.
const ADMINISTRATORS: [&str; 3] =
    ["S-1-5-32-544", "S-1-5-18", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"];

/// A user, by security identifier (`S-1-5-…`).
pub type User = String;

/// Takes standard output away from everything that might print: what is returned writes to what was standard output,
/// and from now on standard output is standard error.
///
/// # Errors
/// If a stream of this process is closed.
pub fn take_stdout() -> io::Result<File> {
    let (stdout, stderr) = (standard(STD_OUTPUT_HANDLE), standard(STD_ERROR_HANDLE));
    let stdout = if stdout == stderr || stdout == standard(STD_INPUT_HANDLE) {
        // One handle for two streams: it stays, for the other one.
        open(stdout)?;
        io::stdout().as_handle().try_clone_to_owned()?
    } else {
        take(open(stdout)?)
    };
    replace(STD_OUTPUT_HANDLE, stderr)?;
    Ok(stdout.into())
}

/// Standard input without a buffer in between.
///
/// # Errors
/// If standard input is closed.
pub fn take_stdin() -> io::Result<File> {
    open(standard(STD_INPUT_HANDLE))?;
    Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
}

/// Points standard output at nothing.
///
/// # Errors
/// If `NUL` cannot be opened.
pub fn silence_stdout() -> io::Result<()> {
    let nothing = OpenOptions::new().write(true).open("NUL")?;
    replace(STD_OUTPUT_HANDLE, nothing.into_raw_handle())
}

fn open(handle: HANDLE) -> io::Result<HANDLE> {
    // A process without a console and without redirection has none.
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::from_raw_os_error(ERROR_INVALID_HANDLE.cast_signed()));
    }
    Ok(handle)
}

#[expect(unsafe_code, reason = "std only lends the handle of a standard stream")]
fn standard(stream: STD_HANDLE) -> HANDLE {
    // SAFETY: takes a number and returns one.
    unsafe { GetStdHandle(stream) }
}

#[expect(unsafe_code, reason = "std cannot redirect a standard stream")]
fn replace(stream: STD_HANDLE, handle: HANDLE) -> io::Result<()> {
    // SAFETY: only notes the handle; std asks for it anew whenever it uses the stream, and copes with none.
    done(unsafe { SetStdHandle(stream, handle) })
}

#[expect(unsafe_code, reason = "std does not give away a standard stream, and a copy would leave it open")]
fn take(stdout: HANDLE) -> OwnedHandle {
    // SAFETY: it is open, is no other stream's, and ceases to be standard output before anybody could use it again:
    // this process prints nothing while it takes it.
    unsafe { OwnedHandle::from_raw_handle(stdout) }
}

/// Keeps every open handle from the processes that this one starts: what the browser (or the shell that it starts us
/// through) lets us inherit, above all its pipes, a daemon must not hold.
///
/// # Errors
/// If the number of handles cannot be found out.
#[expect(unsafe_code, reason = "a handle that was inherited by number has no owner in Rust")]
pub fn keep_descriptors_from_children() -> io::Result<()> {
    let (mut open, mut found) = (0, 0);
    // SAFETY: the pointer is to a local.
    done(unsafe { GetProcessHandleCount(GetCurrentProcess(), &raw mut open) })?;
    // There is no list of them, but their values are multiples of four. What was inherited has the value that it had
    // in the browser, which may be far above our own; no program comes near the last one that is tried. (Wine says that
    // there are none, gives low values, and takes its time for each look.)
    let last = if open == 0 { MAX_UNCOUNTED_HANDLE } else { MAX_HANDLE };
    for value in (4..=last).step_by(4) {
        let handle = std::ptr::without_provenance_mut::<c_void>(value);
        // SAFETY: changes only whether it is inherited, which nobody here relies on; if nothing is open under this
        // value the call fails and does nothing.
        if unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) } != 0 {
            found += 1;
            if found == open {
                break;
            }
        }
    }
    Ok(())
}

/// Starts `command` as a process that outlives this one: without our console and signals, and outside of the job that
/// Firefox ends together with its host. Where a job lets nobody out, the daemon lives as long as the job does.
///
/// # Errors
/// As for any process.
pub fn spawn_detached(command: &mut Command) -> io::Result<Child> {
    // Not CREATE_NO_WINDOW, which would give it a console of its own, and that a process.
    let flags = DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP;
    match command.creation_flags(flags | CREATE_BREAKAWAY_FROM_JOB).spawn() {
        Err(error) if is(&error, ERROR_ACCESS_DENIED) => {
            let child = command.creation_flags(flags).spawn()?;
            tracing::warn!("the daemon cannot leave the browser's job, and may end with it");
            Ok(child)
        }
        started => started,
    }
}

/// Prepares `command` to start a process that is none of the terminal's: Ctrl-C reaches this one alone, which can then end
/// the other in order.
pub fn keep_terminal_signals_from(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Prepares `command` to start a process without a window of its own, which a program of the terminal would open.
pub fn show_no_window(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Leaves whoever started this process: here done by [`spawn_detached`].
pub fn detach() {}

/// New files inherit who may use them from their directory.
pub fn restrict_new_files() {}

/// Creates a directory and those above it. A user's own directories let nobody else in, and what is below them
/// inherits that.
///
/// # Errors
/// If it cannot be made, or something else is there: also a link, which may lead anywhere.
pub fn private_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    check_private(path)
}

/// Checks that a directory is one; who may enter it, it inherits from the user's profile.
///
/// # Errors
/// If it is none, or cannot be looked at.
pub fn check_private(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.is_dir() {
        let message = format!("{} is not a directory", path.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
    }
    Ok(())
}

/// Closes a directory to others: it inherits who may enter it.
///
/// # Errors
/// Never; elsewhere it may not be ours to close.
pub fn make_private(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether this user may make files in a directory, as far as its attributes say.
///
/// # Errors
/// Why not.
pub fn may_write(directory: &Path) -> io::Result<()> {
    match directory.metadata()?.permissions().readonly() {
        true => Err(io::ErrorKind::PermissionDenied.into()),
        false => Ok(()),
    }
}

/// Whether anybody on this machine may change the file or directory. Its access list is not looked at: a file inherits
/// that of the user's profile.
#[must_use]
pub fn is_writable_by_all(_metadata: &Metadata) -> bool {
    false
}

/// Whether a file may be run as a program.
#[must_use]
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file()
}

/// Whether a file may be kept from being removed or replaced because it is open, or a program that runs. The system says
/// the same to those who lack the right to.
#[must_use]
pub fn is_in_use(error: &io::Error) -> bool {
    is(error, ERROR_SHARING_VIOLATION) || is(error, ERROR_ACCESS_DENIED)
}

/// Bytes on the disk of `path` that this user may still fill.
///
/// # Errors
/// If nothing is there.
#[expect(unsafe_code, reason = "std does not ask for it")]
pub fn free_space(path: &Path) -> io::Result<u64> {
    let name = U16CString::from_os_str(path.as_os_str()).map_err(io::Error::other)?;
    let mut free = 0;
    // SAFETY: the text ends with NUL, the number is a local, and a null pointer asks for nothing.
    done(unsafe { GetDiskFreeSpaceExW(name.as_ptr(), &raw mut free, null_mut(), null_mut()) })?;
    Ok(free)
}

/// Firefox gives its hosts a fourth pipe on other systems only.
///
/// # Errors
/// Never; elsewhere there may be no pipe.
pub fn give_fourth_pipe(_command: &mut Command) -> io::Result<()> {
    Ok(())
}

/// The processes of this user, as far as the system tells: here nobody asks it, as a host that lost its browser has lost
/// its pipes too.
#[must_use]
pub fn processes() -> Vec<super::Process> {
    Vec::new()
}

/// What was made, renamed or removed in a directory is so on the disk without being waited for.
///
/// # Errors
/// Never; elsewhere the disk may fail.
pub fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a file for appending, and makes it if need be.
///
/// # Errors
/// As for any file.
pub fn append_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Opens a file for reading that nobody but an administrator, or this user, can have made: in `%ProgramData%` everybody
/// may make files.
///
/// # Errors
/// As for any file; and if it is somebody else's.
pub fn open_administrators_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let owner = owner(&file)?;
    if !ADMINISTRATORS.contains(&&*owner) && !is_own(&owner) {
        let message =
            format!("it belongs to {owner}, not to an administrator; remove it, or let one take ownership of it");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(file)
}

#[expect(unsafe_code, reason = "std does not know owners")]
fn owner(file: &File) -> io::Result<User> {
    let (mut sid, mut descriptor) = (null_mut(), null_mut());
    // SAFETY: the handle is open for the call, and the pointers are to locals, or say that something is not asked for.
    let error = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &raw mut sid,
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    if error != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(error.cast_signed()));
    }
    // SAFETY: the call has filled in an identifier, which is a part of the descriptor; that is ours to free, which is done
    // once and after its last use.
    let owner = unsafe {
        let owner = identifier(sid);
        LocalFree(descriptor);
        owner
    };
    owner.ok_or_else(|| io::Error::other("the system does not say whose it is"))
}

/// Checks that a file with a key is kept from others. Its access list is not looked at: a file inherits that of its
/// directory, which in the user's profile is closed.
///
/// # Errors
/// Never here.
pub fn check_key_file(_file: &File, _path: &Path) -> io::Result<()> {
    Ok(())
}

/// What the system's own settings say about proxies, if one is switched on.
#[must_use]
pub fn proxy_settings() -> Option<super::ProxySettings> {
    let key = r"Software\Microsoft\Windows\CurrentVersion\Internet Settings";
    let settings = winreg::RegKey::predef(winreg::enums::HKEY_CURRENT_USER).open_subkey(key).ok()?;
    let is_on = settings.get_value::<u32, _>("ProxyEnable").is_ok_and(|on| on != 0);
    let text = |name| settings.get_value::<String, _>(name).unwrap_or_default();
    is_on.then(|| super::ProxySettings::Internet { server: text("ProxyServer"), except: text("ProxyOverride") })
}

/// Opens a file for a lock and a note in it, and makes it if need be.
///
/// # Errors
/// As for any file.
pub fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

/// Waits for the lock of a file.
///
/// # Errors
/// If the file cannot be locked.
pub fn lock(file: &File) -> io::Result<()> {
    lock_end(file, LOCKFILE_EXCLUSIVE_LOCK)
}

/// Takes the lock of a file if nobody has it.
///
/// # Errors
/// If somebody has it, or the file cannot be locked.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    lock_end(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY).map_err(|error| {
        if is(&error, ERROR_LOCK_VIOLATION) { TryLockError::WouldBlock } else { TryLockError::Error(error) }
    })
}

/// Locks one byte far behind the end of a file. Locks are mandatory here, and nobody could read the note in a file
/// that std has locked, for it locks all of it.
#[expect(unsafe_code, reason = "std locks whole files only")]
fn lock_end(file: &File, flags: u32) -> io::Result<()> {
    let mut place = OVERLAPPED::default();
    place.Anonymous.Anonymous.OffsetHigh = i32::MAX.cast_unsigned();
    // SAFETY: the handle is open for the call, and not for overlapped use, so that the call is over when it returns;
    // the place outlives it.
    done(unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut place) })
}

/// Waits until the other end of a pipe is closed: the writer of one that we read, the reader of one that we write.
/// What is still in the pipe may be read after that.
///
/// Nothing reports that here, so it is asked for. The question waits in line behind a read or write of the same pipe:
/// an idle port costs nothing, and a read or write that waits finds out by itself. What is left to find out here is
/// that the browser has gone while a direction is held up by the daemon. Something else than a pipe is never closed.
pub fn wait_for_hangup(pipes: &[&File]) {
    loop {
        let states: Vec<_> = pipes.iter().filter_map(|pipe| pipe_state(pipe)).collect();
        if states.iter().any(|state| [FILE_PIPE_CLOSING_STATE, FILE_PIPE_DISCONNECTED_STATE].contains(state)) {
            return;
        }
        if states.is_empty() {
            std::thread::park();
        }
        std::thread::sleep(HANGUP_INTERVAL);
    }
}

/// What a pipe knows about its other end, if it is one. (`PeekNamedPipe` would not do: it cannot look at the writing
/// end, and at the reading end it reports what is still to be read, not that nobody is there any more.)
#[expect(unsafe_code, reason = "std does not ask for it")]
fn pipe_state(pipe: &File) -> Option<u32> {
    let mut about = FILE_PIPE_LOCAL_INFORMATION::default();
    let mut status = IO_STATUS_BLOCK::default();
    // SAFETY: the handle is open for the call, and not for overlapped use, so that the call is over when it returns;
    // both structures outlive it, and the size is that of the one that is filled.
    let failed = unsafe {
        NtQueryInformationFile(
            pipe.as_raw_handle(),
            &raw mut status,
            (&raw mut about).cast(),
            size_of_val(&about) as u32,
            FilePipeLocalInformation,
        )
    };
    (failed == 0).then_some(about.NamedPipeState)
}

/// Memory that this process has in use, in bytes, if the system tells.
#[must_use]
#[expect(unsafe_code, reason = "std does not ask for it")]
pub fn resident_memory() -> Option<u64> {
    let mut memory = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of_val(&memory) as u32;
    // SAFETY: the pointer is to a local of this size.
    done(unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut memory, size) }).ok()?;
    Some(memory.WorkingSetSize as u64)
}

/// Calls whoever listens at a pipe. They may learn who we are, but not act in our name, as anybody could whom a
/// program lets open a pipe without saying so.
///
/// # Errors
/// If nobody listens, or they take no calls.
pub fn call(path: &Path) -> io::Result<local_socket::Stream> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(FILE_FLAG_OVERLAPPED).security_qos_flags(SECURITY_IDENTIFICATION);
    let deadline = Instant::now() + BUSY;
    let pipe = loop {
        match options.open(path) {
            // Between one caller and the next.
            Err(error) if is(&error, ERROR_PIPE_BUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => break OwnedHandle::from(opened?),
        }
    };
    let stream =
        named_pipe::local_socket::Stream::try_from(pipe).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(stream.into())
}

/// The listener that the system has handed over to this process: no such thing here.
///
/// # Errors
/// Never.
pub fn lent_listener(_path: &Path) -> io::Result<Option<local_socket::tokio::Listener>> {
    Ok(None)
}

/// Lets nobody but this user call a listener that is to be made.
///
/// # Errors
/// If the system does not say who we are.
pub fn owner_only(options: ListenerOptions<'_>) -> io::Result<ListenerOptions<'_>> {
    let user = user_of_current().ok_or_else(|| io::Error::other("the system does not say who we are"))?;
    // Protected (P): nothing is inherited. All access (GA) is allowed (A) to the user, and to nobody else.
    let rule = U16CString::from_str(format!("D:P(A;;GA;;;{user})")).map_err(io::Error::other)?;
    Ok(options.security_descriptor(SecurityDescriptor::deserialize(&rule)?))
}

/// Whether this process runs as `user`.
#[must_use]
pub fn is_own(user: &User) -> bool {
    user_of_current().as_ref() == Some(user)
}

/// Ends a process without a warning: it can do nothing more.
///
/// # Errors
/// If there is none, or it is not ours.
#[expect(unsafe_code, reason = "std ends only its own children")]
pub fn kill(process: u32) -> io::Result<()> {
    // SAFETY: takes numbers and returns a handle that nobody else has, or none.
    let process = owned(unsafe { OpenProcess(PROCESS_TERMINATE, 0, process) }).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: takes numbers only, and the handle is open.
    done(unsafe { TerminateProcess(process.as_raw_handle(), 1) })
}

/// The user of the process at the other end of a local socket; unknown if we may not ask, as for most that are not
/// our own. The number of a process may be reused the moment after it ended: the access list of the pipe keeps others
/// from calling, this is the check for a pipe of our name that is somebody else's.
#[must_use]
#[expect(unsafe_code, reason = "std does not open processes")]
pub fn user_of(peer: &PeerCreds) -> Option<User> {
    // SAFETY: takes numbers and returns a handle that nobody else has, or none.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, peer.pid()?) };
    let process = owned(process)?;
    user_of_process(process.as_raw_handle())
}

#[expect(unsafe_code, reason = "std does not know this handle")]
fn user_of_current() -> Option<User> {
    // SAFETY: takes nothing and returns a constant that needs not be closed.
    user_of_process(unsafe { GetCurrentProcess() })
}

#[expect(unsafe_code, reason = "std does not know users")]
fn user_of_process(process: HANDLE) -> Option<User> {
    let mut token = null_mut();
    // SAFETY: the pointer is to a local.
    done(unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) }).ok()?;
    let token = owned(token)?;
    // Room for the structure and the longest identifier (68 bytes) behind it, and aligned for the former.
    let mut about = [0_u64; 16];
    let mut length = 0;
    // SAFETY: the buffer has this size.
    done(unsafe {
        let size = size_of_val(&about) as u32;
        GetTokenInformation(token.as_raw_handle(), TokenUser, about.as_mut_ptr().cast(), size, &raw mut length)
    })
    .ok()?;
    // SAFETY: the call before has filled in a TOKEN_USER, which points to an identifier in the same buffer.
    unsafe { identifier((*about.as_ptr().cast::<TOKEN_USER>()).User.Sid) }
}

/// The text of a security identifier.
///
/// # Safety
/// It must be one.
#[expect(unsafe_code, reason = "std does not know users")]
unsafe fn identifier(sid: PSID) -> Option<User> {
    let mut text = null_mut();
    // SAFETY: the identifier is one, as the caller says; the text that is made of it ends with NUL and is ours to free,
    // which is done once and after its last use.
    unsafe {
        done(ConvertSidToStringSidW(sid, &raw mut text)).ok()?;
        let user = widestring::U16CStr::from_ptr_str(text).to_string();
        LocalFree(text.cast());
        user.ok()
    }
}

#[expect(unsafe_code, reason = "a handle from the system has no owner in Rust until it is given one")]
fn owned(handle: HANDLE) -> Option<OwnedHandle> {
    // SAFETY: the callers have just been given it, and it alone is used from now on.
    (!handle.is_null()).then(|| unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// The result of a call that says "no" with zero.
fn done(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Time since some fixed moment, asleep or awake.
#[must_use]
pub fn boot_time() -> Duration {
    // Instants go on while the machine sleeps.
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Time that the machine was asleep, since the first call: only differences mean anything.
#[must_use]
#[expect(unsafe_code, reason = "the system's own count of waking time has no safe wrapper")]
pub fn time_asleep() -> Duration {
    static START: OnceLock<(Duration, Duration)> = OnceLock::new();
    let waking_time = || {
        let mut hundreds_of_nanoseconds = 0;
        // SAFETY: the system writes one number to where the pointer points.
        unsafe { QueryUnbiasedInterruptTime(&mut hundreds_of_nanoseconds) };
        Duration::from_nanos(hundreds_of_nanoseconds.saturating_mul(100))
    };
    let (boot, waking) = START.get_or_init(|| (boot_time(), waking_time()));
    boot_time().saturating_sub(*boot).saturating_sub(waking_time().saturating_sub(*waking))
}

/// Calls `tell` whenever something happens to the machine, from a thread that does nothing but wait for that. The system
/// tells of addresses only; that the machine slept is seen when the next timer is due.
///
/// # Errors
/// If there can be no thread.
#[expect(unsafe_code, reason = "waiting for a change of addresses has no safe wrapper")]
pub fn watch_machine(tell: impl Fn(super::Change) + Send + 'static) -> io::Result<()> {
    let watch = move || {
        // SAFETY: without a handle and a structure the call blocks until an address changes, and writes nothing.
        while unsafe { NotifyAddrChange(null_mut(), null()) } == NO_ERROR {
            tell(super::Change::Addresses);
        }
    };
    std::thread::Builder::new().name("machine".into()).spawn(watch)?;
    Ok(())
}
