//! A browser's end of a native messaging port: starts the host and speaks frames to it.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEADLINE, start, until};

/// A port with its host.
pub(crate) struct Browser {
    host: Child,
    stdin: Option<Box<dyn Write + Send>>,
    frames: Option<Receiver<Vec<u8>>>,
    /// What came while something else was waited for.
    seen: Vec<Value>,
}

impl Browser {
    /// Starts `command` as a host.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut host = start(|| command.spawn());
        let (stdin, stdout) = (host.stdin.take().unwrap(), host.stdout.take().unwrap());
        Self::over(host, stdin, stdout)
    }

    /// Speaks over these pipes to a host that was started already.
    pub(crate) fn over(
        host: Child,
        stdin: impl Write + Send + 'static,
        mut stdout: impl Read + Send + 'static,
    ) -> Self {
        // A bounded queue: a test that reads nothing is a browser that reads nothing.
        let (sender, frames) = sync_channel(4);
        std::thread::spawn(move || {
            let mut prefix = [0; 4];
            while stdout.read_exact(&mut prefix).is_ok() {
                let mut frame = vec![0; u32::from_ne_bytes(prefix) as usize];
                if stdout.read_exact(&mut frame).is_err() || sender.send(frame).is_err() {
                    return;
                }
            }
        });
        Self { host, stdin: Some(Box::new(stdin)), frames: Some(frames), seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.host.id()
    }

    /// Posts the bytes of one message.
    pub(crate) fn post_bytes(&mut self, body: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        let mut frame = u32::try_from(body.len()).unwrap().to_ne_bytes().to_vec();
        frame.extend_from_slice(body);
        stdin.write_all(&frame).unwrap();
    }

    /// Posts a message.
    pub(crate) fn post(&mut self, message: Value) {
        self.post_bytes(message.to_string().as_bytes());
    }

    /// Standard input, for tests that write in a thread of their own.
    pub(crate) fn take_stdin(&mut self) -> Box<dyn Write + Send> {
        self.stdin.take().unwrap()
    }

    /// The next message's bytes, or `None` when the host has closed its output.
    pub(crate) fn next_bytes(&mut self) -> Option<Vec<u8>> {
        match self.frames.as_ref().unwrap().recv_timeout(DEADLINE) {
            Ok(frame) => Some(frame),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no message within {DEADLINE:?}"),
        }
    }

    /// What comes behind changes of the state, if anything does.
    pub(crate) fn next_bytes_after_states(&mut self) -> Option<Vec<u8>> {
        loop {
            let frame = self.next_bytes()?;
            if !frame.starts_with(br#"{"type":"state""#) {
                return Some(frame);
            }
        }
    }

    /// The text of the next message, of as many frames as it has.
    pub(crate) fn next_text(&mut self) -> String {
        let mut whole = String::new();
        let mut of = Value::Null;
        for index in 0.. {
            let frame = self.next_bytes().expect("the port is open");
            assert!(frame.len() <= 1024 * 1024);
            let text = String::from_utf8(frame).unwrap();
            if !text.starts_with(r#"{"type":"chunk""#) {
                assert_eq!(index, 0, "between the chunks of a message stands nothing else");
                return text;
            }
            let chunk: Value = serde_json::from_str(&text).unwrap();
            assert!(chunk["index"] == index && (index == 0 || chunk["of"] == of), "{chunk:.100}");
            whole.push_str(chunk["data"].as_str().unwrap());
            of = chunk["of"].clone();
            if chunk["count"] == index + 1 {
                break;
            }
        }
        whole
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Value {
        let frame = self.next_bytes().expect("the port is open");
        serde_json::from_slice(&frame).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&frame)))
    }

    /// The first message, of those passed over and those to come, that `wanted` accepts.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.seen.iter().position(&wanted) {
            return self.seen.remove(index);
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let frame =
                match self.frames.as_ref().unwrap().recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(frame) => frame,
                    Err(error) => panic!("{error} while waiting for {what}; seen: {:?}", self.seen),
                };
            let message = serde_json::from_slice(&frame).unwrap();
            if wanted(&message) {
                return message;
            }
            self.seen.push(message);
        }
    }

    /// The next message of a type.
    pub(crate) fn wait_for_type(&mut self, kind: &str) -> Value {
        self.wait_for(kind, |message| message["type"] == kind)
    }

    /// Opens a session that has a server already and waits until it is connected; gives the answer.
    pub(crate) fn open(&mut self, request: Value) -> Value {
        self.open_with(request, || ())
    }

    /// Opens a session, lets the server `accept` it, and waits until it is connected; gives the answer.
    pub(crate) fn open_with(&mut self, mut request: Value, accept: impl FnOnce()) -> Value {
        request["type"] = "open".into();
        self.post(request);
        accept();
        let opened = self.wait_for_type("opened");
        if opened["state"] != "connected" {
            self.wait_for("state connected", |message| message["type"] == "state" && message["state"] == "connected");
        }
        opened
    }

    /// The answer to a request that must fail.
    pub(crate) fn refusal(&mut self, body: &[u8]) -> Value {
        self.post_bytes(body);
        self.wait_for_type("error")
    }

    /// Closes the port as a browser does: its end of both pipes.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
        self.frames = None;
    }

    /// Closes standard input only.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the host's end; gives how long it took.
    pub(crate) fn wait_for_end(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        let status = until("the host ends", || self.host.try_wait().unwrap());
        (status, begin.elapsed())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.close();
        // Most hosts are gone by now; one that is not must not outlive the test. How fast one leaves is other tests' to say:
        // on a busy machine, Wine takes seconds to end a process that has left.
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.host.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.host.kill();
        let _ = self.host.wait();
        assert!(std::thread::panicking(), "the host did not leave when the port was closed");
    }
}
