//! What browsers do on Windows with their hosts, and who may use the daemon's pipe.
//!
//! How they start a host, and that Firefox ends the job in which it runs, is from their sources.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use widestring::{U16CStr, U16CString};
use windows_sys::Win32::Foundation::{
    HANDLE, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, LocalFree, SetHandleInformation,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, GetSecurityInfo, SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::DACL_SECURITY_INFORMATION;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, PIPE_ACCESS_DUPLEX, PIPE_ACCESS_INBOUND, PIPE_ACCESS_OUTBOUND,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_BREAKAWAY_OK, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Pipes::{ConnectNamedPipe, CreateNamedPipeW, PIPE_UNLIMITED_INSTANCES};
use windows_sys::Win32::System::Threading::{CREATE_SUSPENDED, OpenProcess, PROCESS_SET_QUOTA, PROCESS_TERMINATE};

use crate::support::browser::Browser;
use crate::support::link::call;
use crate::support::sandbox::{ORIGIN, Sandbox, signal};
use crate::support::server::Server;
use crate::support::{at_best_within, until};

/// The job in which Firefox puts a host.
struct Job(OwnedHandle);

#[expect(unsafe_code, reason = "std knows no jobs and no security descriptors, and makes no named pipes")]
impl Job {
    /// A job that its processes can leave if `limits` says so.
    fn new(limits: u32) -> Self {
        let mut about = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        about.BasicLimitInformation.LimitFlags = limits;
        // SAFETY: the handle is nobody else's, and the pointer is to a local of this size.
        unsafe {
            let job = CreateJobObjectW(null(), null());
            assert!(!job.is_null());
            let size = size_of_val(&about) as u32;
            let kind = JobObjectExtendedLimitInformation;
            assert_ne!(SetInformationJobObject(job, kind, (&raw const about).cast(), size), 0);
            Self(OwnedHandle::from_raw_handle(job))
        }
    }

    /// Starts a host in the job as Firefox does: it runs only when it is in.
    fn start(&self, machine: &Sandbox) -> Browser {
        let mut command = machine.command();
        command.args([r"C:\manifests\com.semantest.websocket_bridge.json", "bridge@example.org"]);
        command.creation_flags(CREATE_SUSPENDED);
        let port = Browser::start(command);
        // SAFETY: both handles are open for the call, and the second one is nobody else's.
        unsafe {
            let host = OpenProcess(PROCESS_SET_QUOTA | PROCESS_TERMINATE, 0, port.pid());
            let host = OwnedHandle::from_raw_handle(host);
            assert_ne!(AssignProcessToJobObject(self.0.as_raw_handle(), host.as_raw_handle()), 0);
        }
        signal(port.pid(), "CONT");
        port
    }

    /// Ends every process in it.
    fn end(self) {
        // SAFETY: the handle is open for the call.
        assert_ne!(unsafe { TerminateJobObject(self.0.as_raw_handle(), 0) }, 0);
    }
}

/// Makes a pipe of that name, for so many clients.
#[expect(unsafe_code, reason = "std makes no named pipes")]
fn make_pipe(name: &str, access: u32, clients: u32) -> std::io::Result<File> {
    let name = U16CString::from_str(name).unwrap();
    // SAFETY: the name ends with NUL and outlives the call; the handle is nobody else's.
    unsafe {
        let pipe = CreateNamedPipeW(name.as_ptr(), access, 0, clients, 4096, 4096, 5000, null());
        if pipe == INVALID_HANDLE_VALUE {
            return Err(std::io::Error::last_os_error());
        }
        Ok(File::from_raw_handle(pipe))
    }
}

/// Waits until somebody has opened the pipe.
#[expect(unsafe_code, reason = "std makes no named pipes")]
fn wait_for_client(pipe: File) -> File {
    let (connected, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: the handle is open for the call, and not for overlapped use. A client that came before is the only "no".
        unsafe { ConnectNamedPipe(pipe.as_raw_handle(), null_mut()) };
        let _ = connected.send(pipe);
    });
    wait.recv_timeout(crate::support::DEADLINE).expect("the host opens the pipe")
}

/// Who may do what with a pipe, in the system's words: its discretionary access list.
#[expect(unsafe_code, reason = "std does not know access lists")]
fn access_list(pipe: &File) -> String {
    let (mut descriptor, mut text) = (null_mut(), null_mut());
    let what = DACL_SECURITY_INFORMATION;
    let none = null_mut;
    // SAFETY: the handle is open for the call, and the pointers are to locals, or say that something is not asked for. What
    // the calls have filled in is ours to free, which is done once and after its last use.
    unsafe {
        let handle: HANDLE = pipe.as_raw_handle();
        let error = GetSecurityInfo(
            handle,
            SE_KERNEL_OBJECT,
            what,
            none(),
            none(),
            null_mut(),
            none().cast(),
            &raw mut descriptor,
        );
        assert_eq!(error, 0);
        assert_ne!(
            ConvertSecurityDescriptorToStringSecurityDescriptorW(descriptor, 1, what, &raw mut text, null_mut()),
            0
        );
        let list = U16CStr::from_ptr_str(text).to_string().unwrap();
        LocalFree(text.cast());
        LocalFree(descriptor);
        list
    }
}

#[test]
fn a_host_that_chromium_starts_through_the_shell_serves_its_port_and_leaves_with_it() {
    let machine = Sandbox::new();
    let name = |way| format!(r"\\.\pipe\chrome.nativeMessaging.{way}.{:016x}", fastrand::u64(..));
    let (to_host, from_host) = (name("in"), name("out"));
    let pipe = |name, access| make_pipe(name, access | FILE_FLAG_FIRST_PIPE_INSTANCE, 1).unwrap();
    let pipes = (pipe(&to_host, PIPE_ACCESS_OUTBOUND), pipe(&from_host, PIPE_ACCESS_INBOUND));
    let host = machine.command();
    let mut command = Command::new("cmd.exe");
    command.env_clear().envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let program = host.get_program().to_str().unwrap().replace('/', "\\");
    command.raw_arg(format!(r#"/d /s /c ""{program}" {ORIGIN} --parent-window=0 < {to_host} > {from_host}""#));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let shell = command.spawn().unwrap();
    let (stdin, stdout) = (wait_for_client(pipes.0), wait_for_client(pipes.1));
    let mut port = Browser::over(shell, stdin, stdout);
    port.post(json!({"type": "hello", "protocol": 1}));
    assert_eq!(port.wait_for_type("welcome")["origin"], ORIGIN);
    port.close();
    assert!(port.wait_for_end().0.success());
    assert!(machine.log("host").contains("the browser closed the port"));
}

#[test]
fn the_daemon_outlives_the_job_that_firefox_ends_together_with_its_host() {
    let machine = Sandbox::new();
    let job = Job::new(JOB_OBJECT_LIMIT_BREAKAWAY_OK);
    let mut port = job.start(&machine);
    port.post(json!({"type": "hello", "protocol": 1}));
    assert_eq!(port.wait_for_type("welcome")["origin"], "bridge@example.org");
    let daemon = machine.daemon();
    job.end();
    port.wait_for_end();
    let _next = machine.welcomed_port();
    assert!(daemon.is_some());
    assert_eq!(machine.daemon(), daemon);
}

#[test]
fn where_the_job_lets_nobody_out_the_host_has_a_daemon_all_the_same_as_long_as_the_job_lasts() {
    let machine = Sandbox::new();
    let job = Job::new(0);
    let mut port = job.start(&machine);
    port.post(json!({"type": "hello", "protocol": 1}));
    port.wait_for_type("welcome");
    let daemon = machine.daemon();
    assert!(machine.log("host").contains("cannot leave the browser's job"), "{}", machine.log("host"));
    job.end();
    port.wait_for_end();
    until("the daemon is dead", || machine.daemon().is_none().then_some(()));
    let _next = machine.welcomed_port();
    assert_ne!(machine.daemon(), daemon);
}

#[test]
#[expect(unsafe_code, reason = "std does not say what is inherited")]
fn the_daemon_holds_nothing_that_the_browser_let_its_host_inherit() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut browsers, theirs) = std::io::pipe().unwrap();
    // SAFETY: the handle is open for the call.
    let marked = unsafe { SetHandleInformation(theirs.as_raw_handle(), HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) };
    assert_ne!(marked, 0);
    let mut port = machine.port();
    drop(theirs);
    // With a session, so that the daemon stays when the host is gone.
    port.open_with(json!({"url": server.url()}), || {
        server.accept().drain();
    });
    let daemon = machine.daemon();
    port.close();
    port.wait_for_end();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(browsers.read(&mut [0]).unwrap()));
    assert_eq!(end.recv_timeout(crate::support::DEADLINE), Ok(0), "nobody has the other end any more");
    assert_eq!(machine.daemon(), daemon);
}

#[test]
fn nobody_but_its_owner_may_use_the_daemons_pipe() {
    let machine = Sandbox::new();
    let _port = machine.welcomed_port();
    let list = access_list(&call(&machine).unwrap());
    let rules: Vec<&str> = list.split(['(', ')']).filter(|rule| !rule.is_empty()).collect();
    let [protected, rule] = rules[..] else { panic!("{list}") };
    let fields: Vec<&str> = rule.split(';').collect();
    assert_eq!((protected, fields[0]), ("D:P", "A"), "{list}");
    assert!(websocket_bridge::os::is_own(&fields[5].to_owned()), "{list}");
}

/// A daemon does not start where the pipe has been made for so many clients by somebody else.
fn keeps_away_from(instances: u32) {
    let machine = Sandbox::new();
    let _squatter = make_pipe(machine.pipe().to_str().unwrap(), PIPE_ACCESS_DUPLEX, instances).unwrap();
    let output = machine.run(&["daemon", "--foreground"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cannot listen at"), "{said}");
    assert_eq!(machine.daemon(), None);
}

#[test]
fn a_pipe_that_somebody_else_has_made_for_one_client_is_not_waited_for() {
    keeps_away_from(1);
}

#[ignore = "Wine 8 does not know FILE_FLAG_FIRST_PIPE_INSTANCE"]
#[test]
fn a_pipe_that_somebody_else_has_made_first_is_not_shared() {
    keeps_away_from(PIPE_UNLIMITED_INSTANCES);
}

#[ignore = "Wine 8 does not know FILE_FLAG_FIRST_PIPE_INSTANCE"]
#[test]
fn nobody_else_makes_the_pipe_of_a_daemon_that_runs_and_becomes_its_first() {
    let machine = Sandbox::new();
    let _port = machine.welcomed_port();
    let access = PIPE_ACCESS_DUPLEX | FILE_FLAG_FIRST_PIPE_INSTANCE;
    let refused = make_pipe(machine.pipe().to_str().unwrap(), access, PIPE_UNLIMITED_INSTANCES).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_host_that_is_stuck_in_writes_to_the_browser_and_to_the_daemon_leaves_within_a_second_too() {
    at_best_within(Duration::from_secs(1), || {
        let (machine, server) = (Sandbox::new(), Server::start());
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": server.url()}));
        let mut connection = server.accept();
        port.wait_for_type("opened");
        for _ in 0..100 {
            connection.send(Message::text(format!("\"{}\"", "x".repeat(100_000))));
        }
        until("more has come than the browser reads", || {
            (machine.json(&["status", "--json"])["sessions"][0]["messages_received"] == 100).then_some(())
        });
        let daemon = machine.daemon().unwrap();
        signal(daemon, "STOP");
        let mut stdin = port.take_stdin();
        let posting = std::thread::spawn(move || {
            // Far more than all pipes hold; fails when the host is gone.
            let _ = stdin.write_all(&vec![b' '; 16 << 20]);
        });
        port.close();
        let (_, took) = port.wait_for_end();
        signal(daemon, "CONT");
        posting.join().unwrap();
        took
    });
}
