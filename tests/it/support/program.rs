//! A program that others have written, for as long as a test needs it: `tests/run servers` has those installed.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::until;

/// A program that listens at a port of this machine. It ends when it is dropped.
pub(crate) struct Program {
    command: Command,
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Program {
    /// Starts one at a port that was free just now, with what `command` makes of a directory of its own and that port.
    pub(crate) fn start(command: impl Fn(&Path, u16) -> Command) -> Self {
        for _ in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = command(directory.path(), address.port());
            let output = File::create(directory.path().join("output")).unwrap();
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
            let child = spawn(&mut command);
            let mut program = Self { command, child, address, directory };
            if program.listens() {
                return program;
            }
            // Somebody else may have taken the port.
            program.show_output();
        }
        panic!("the program does not listen: see above");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after it was killed, at the same port.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&mut self.command);
        assert!(self.listens(), "{:?} does not come back", self.command);
    }

    /// Waits until it listens; false if it has ended instead.
    fn listens(&mut self) -> bool {
        until(&format!("{:?} listens", self.command), || match self.child.try_wait().unwrap() {
            Some(_) => Some(false),
            None => TcpStream::connect(self.address).ok().map(|_| true),
        })
    }

    #[expect(clippy::print_stderr, reason = "what a program says that does not do its part is the test's evidence")]
    fn show_output(&self) {
        let output = std::fs::read(self.directory.path().join("output")).unwrap_or_default();
        eprintln!("-- {:?}\n{}", self.command, String::from_utf8_lossy(&output));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.show_output();
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run servers installs it"))
}
