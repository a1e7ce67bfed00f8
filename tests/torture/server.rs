//! The server: numbers what it sends, writes down what comes, and can go wrong in all the ways in which servers and
//! networks do.
//!
//! A connection has a thread that reads; one thread sends on the newest connection. What is written down before it is
//! sent may never arrive; what has arrived is written down before the ping behind it is answered.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::{self, CLOSE, Input, PING, PONG, TEXT, put_websocket};
use crate::log::{Consumer, Event, Log, Post};
use crate::numbered::Body;

const BINARY: u8 = 2;

/// How long a thread waits before it looks whether anything has changed.
const PAUSE: Duration = Duration::from_millis(3);

/// How far the server may be ahead of its readers: what a resuming one sends again stays bounded.
const MAX_AHEAD: u64 = 2000;

/// How a connection is ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// With a reset.
    Reset,
    /// Without a word.
    Drop,
    /// With a close frame.
    Close(u16),
    /// With a reset, or without a word, within a frame.
    Torn { reset: bool },
}

/// How far each consumer has processed the messages: the cursor of a server that resumes.
#[derive(Debug, Default)]
pub(crate) struct Marks([AtomicU64; 2]);

impl Marks {
    pub(crate) fn advance(&self, consumer: Consumer, number: u64) {
        self.0[consumer as usize].fetch_max(number, Ordering::Relaxed);
    }

    pub(crate) fn lowest(&self) -> u64 {
        self.0.iter().map(|mark| mark.load(Ordering::Relaxed)).min().unwrap_or_default()
    }
}

/// The server, at an address that it keeps.
pub(crate) struct Server {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Shared {
    log: Arc<Log>,
    marks: Arc<Marks>,
    address: SocketAddr,
    /// After a reconnect it sends again what the extension has not processed.
    resuming: bool,
    connections: AtomicU32,
    alive: Mutex<Vec<Weak<Connection>>>,
    current: Mutex<Option<Arc<Connection>>>,
    /// The highest number of a message.
    highest: AtomicU64,
    /// No higher number than this is sent.
    limit: AtomicU64,
    down: AtomicBool,
    refusing: AtomicBool,
    silent: AtomicBool,
    over: AtomicBool,
}

struct Connection {
    number: u32,
    socket: TcpStream,
    writing: Mutex<()>,
    over: AtomicBool,
    /// Whether its next message is to be its last, and cut off, and how.
    torn: AtomicU8,
}

const TORN: u8 = 1;
const TORN_BY_RESET: u8 = 2;

impl Server {
    /// Starts to listen at a free port of `ip`. Nothing is sent before [`Server::let_flow`].
    pub(crate) fn start(ip: [u8; 4], resuming: bool, seed: u64, log: Arc<Log>, marks: Arc<Marks>) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::from(ip), 0))?;
        let shared = Arc::new(Shared {
            log,
            marks,
            address: listener.local_addr()?,
            resuming,
            connections: AtomicU32::default(),
            alive: Mutex::default(),
            current: Mutex::default(),
            highest: AtomicU64::default(),
            limit: AtomicU64::default(),
            down: AtomicBool::default(),
            refusing: AtomicBool::default(),
            silent: AtomicBool::default(),
            over: AtomicBool::default(),
        });
        let (accepting, pushing) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || accepting.accept(listener)),
            thread::spawn(move || pushing.push_messages(fastrand::Rng::with_seed(seed))),
        ];
        Ok(Self { shared, threads })
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/", self.shared.address)
    }

    /// New messages are sent from now on.
    pub(crate) fn let_flow(&self) {
        self.shared.limit.store(u64::MAX, Ordering::Relaxed);
    }

    /// No new message is sent from now on, but one for each [`Server::send_one`].
    pub(crate) fn hold_back(&self) {
        self.shared.limit.store(self.highest(), Ordering::Relaxed);
    }

    /// Lets one more message be sent; gives its number.
    pub(crate) fn send_one(&self) -> u64 {
        let number = self.highest() + 1;
        self.shared.limit.store(number, Ordering::Relaxed);
        number
    }

    /// The highest number of a message.
    pub(crate) fn highest(&self) -> u64 {
        self.shared.highest.load(Ordering::Relaxed)
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.current().is_some()
    }

    /// Ends the present connection.
    pub(crate) fn cut(&self, cut: Cut) {
        let Some(connection) = self.shared.current().take() else { return };
        match cut {
            Cut::Reset => connection.reset(),
            Cut::Drop => connection.end(),
            Cut::Close(code) => {
                // It may have to wait with that; and whatever the client says to it, the connection is over soon.
                let shared = Arc::clone(&self.shared);
                thread::spawn(move || {
                    shared.write(&connection, CLOSE, &code.to_be_bytes());
                    thread::sleep(Duration::from_millis(500));
                    connection.end();
                });
            }
            Cut::Torn { reset } => {
                // Only one thread sends messages.
                connection.torn.store(if reset { TORN_BY_RESET } else { TORN }, Ordering::Relaxed);
                *self.shared.current() = Some(connection);
            }
        }
    }

    /// The process is killed, or another one starts in its place.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::Relaxed);
        if down {
            self.shared.current().take();
            for connection in self.shared.alive().drain(..).filter_map(|connection| connection.upgrade()) {
                connection.over.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Upgrades are answered with 503.
    pub(crate) fn set_refusing(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::Relaxed);
    }

    /// Nothing is read, written or accepted.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.set_down(true);
        for thread in self.threads.drain(..) {
            // It has told on its standard error what was wrong, if anything was.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn accept(self: &Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        while !self.is_over() {
            if self.down.load(Ordering::Relaxed) {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(self.address).ok();
            }
            if let Some(listener) = &listener {
                let _ = listener.set_nonblocking(true);
                while !self.is_silent()
                    && let Ok((socket, _)) = listener.accept()
                {
                    let shared = Arc::clone(self);
                    thread::spawn(move || {
                        if let Err(error) = shared.serve(socket) {
                            shared.log.note(format!("the server could not take a client in: {error}"));
                        }
                    });
                }
            }
            thread::sleep(PAUSE);
        }
    }

    /// One client, from its upgrade to its end.
    fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let key = read_key(&mut socket)?;
        if self.refusing.load(Ordering::Relaxed) {
            return write!(socket, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        }
        socket.set_read_timeout(Some(PAUSE))?;
        socket.set_write_timeout(Some(PAUSE))?;
        let connection = {
            // In the order of their numbers in the log, and none is forgotten by a server that goes down just now.
            let mut alive = self.alive();
            if self.down.load(Ordering::Relaxed) {
                return Ok(());
            }
            let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let (writing, over, torn) = (Mutex::default(), AtomicBool::default(), AtomicU8::default());
            let connection = Arc::new(Connection { number, socket, writing, over, torn });
            self.log.add(Event::Accepted { connection: number });
            alive.retain(|connection| connection.strong_count() > 0);
            alive.push(Arc::downgrade(&connection));
            connection
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        connection.write(answer.as_bytes(), &self.silent);
        *self.current() = Some(Arc::clone(&connection));
        let how = self.read(&connection);
        self.leave(&connection);
        self.log.add(Event::Ended { connection: connection.number, how });
        Ok(())
    }

    /// Takes what comes until the connection ends; says how it did.
    fn read(&self, connection: &Connection) -> &'static str {
        let mut input = Input::new(&connection.socket);
        loop {
            if connection.over.load(Ordering::Relaxed) {
                return "by the server";
            }
            if self.is_silent() {
                thread::sleep(PAUSE);
                continue;
            }
            match input.read() {
                Ok(true) => {}
                Ok(false) => return "by the client",
                Err(error) if is_timeout(&error) => continue,
                Err(_) => return "by a reset",
            }
            while let Some(frame) = input.websocket() {
                if let Some(how) = self.take(connection, frame) {
                    return how;
                }
            }
        }
    }

    /// Takes one frame; says how the connection ends, if it does with this.
    fn take(&self, connection: &Connection, mut frame: frames::Frame<'_>) -> Option<&'static str> {
        frame.unmask();
        match frame.opcode {
            TEXT | BINARY => {
                let numbers = Body::received(frame.payload, frame.opcode == TEXT).and_then(|body| body.numbers());
                let post = numbers.and_then(|(consumer, number)| {
                    let consumer = *Consumer::ALL.get(usize::try_from(consumer).ok()?)?;
                    Some(Post { consumer, number })
                });
                match post {
                    Some(post) => self.log.add(Event::Arrived { connection: connection.number, post }),
                    None => self.log.wrong(format!(
                        "connection {}: the server got something that was never posted, or was changed: {:?}",
                        connection.number,
                        String::from_utf8_lossy(&frame.payload[..frame.payload.len().min(100)])
                    )),
                }
            }
            PING => self.write(connection, PONG, frame.payload),
            PONG => {
                if let Some(push) = frame.payload.first_chunk() {
                    let push = u64::from_be_bytes(*push);
                    self.log.add(Event::Read { connection: connection.number, push });
                }
            }
            CLOSE => {
                let payload = &frame.payload[..frame.payload.len().min(2)];
                self.write(connection, CLOSE, payload);
                return Some("by a close frame");
            }
            opcode => self.log.wrong(format!("the server got a frame with opcode {opcode}")),
        }
        None
    }

    /// Sends messages on the newest connection, now and then many at once.
    fn push_messages(&self, mut rng: fastrand::Rng) {
        let (mut served, mut push, mut next, mut burst) = (0, 0_u64, 1, 0_u32);
        while !self.is_over() {
            let connection = self.current().clone();
            let Some(connection) = connection.filter(|_| !self.is_silent()) else {
                thread::sleep(PAUSE);
                continue;
            };
            if connection.number != served {
                served = connection.number;
                // What the extension has not processed by now is sent again by a server that resumes.
                next = if self.resuming { self.marks.lowest() + 1 } else { next };
            }
            let is_new = next > self.highest.load(Ordering::Relaxed);
            let torn = connection.torn.load(Ordering::Relaxed);
            let limit = self.limit.load(Ordering::Relaxed).min(self.marks.lowest() + MAX_AHEAD);
            if is_new && next > limit && torn == 0 {
                thread::sleep(PAUSE);
                continue;
            }
            push += 1;
            self.highest.fetch_max(next, Ordering::Relaxed);
            self.log.add(Event::Pushed { connection: connection.number, push, number: next });
            let mut frame = frame_of(&Body::of(push, next));
            next += 1;
            if torn != 0 {
                frame.truncate(1 + frame.len() / 2);
                connection.write(&frame, &self.silent);
                self.leave(&connection);
                if torn == TORN_BY_RESET {
                    connection.reset();
                } else {
                    connection.end();
                }
                continue;
            }
            if rng.u32(..3) == 0 {
                put_websocket(&mut frame, PING, &push.to_be_bytes(), None);
            }
            connection.write(&frame, &self.silent);
            if burst > 0 || !is_new {
                burst = burst.saturating_sub(1);
                continue;
            }
            thread::sleep(Duration::from_micros(rng.u64(..16_000)));
            if rng.u32(..300) == 0 {
                burst = rng.u32(20..500);
            }
        }
    }

    /// Sends nothing more on that connection.
    fn leave(&self, connection: &Connection) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|current| current.number == connection.number) {
            *current = None;
        }
    }

    fn write(&self, connection: &Connection, opcode: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        put_websocket(&mut frame, opcode, payload, None);
        connection.write(&frame, &self.silent);
    }
}

impl Connection {
    /// Writes all of it, unless the connection ends before.
    fn write(&self, bytes: &[u8], silent: &AtomicBool) {
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = 0;
        while written < bytes.len() && !self.over.load(Ordering::Relaxed) {
            if silent.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                continue;
            }
            match (&self.socket).write(&bytes[written..]) {
                Ok(length) => written += length,
                Err(error) if is_timeout(&error) => {}
                // The thread that reads will see it too.
                Err(_) => return,
            }
        }
    }

    /// Ends it without a word: what was written may still arrive.
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        // Fails if the client was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Ends it with a reset, as soon as the threads that use it have seen that.
    fn reset(&self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = setsockopt(&self.socket, sockopt::Linger, &at_once);
        self.over.store(true, Ordering::Relaxed);
    }
}

fn frame_of(body: &Body) -> Vec<u8> {
    let (bytes, is_text) = body.bytes();
    let mut frame = Vec::with_capacity(bytes.len() + 32);
    put_websocket(&mut frame, if is_text { TEXT } else { BINARY }, bytes, None);
    frame
}

/// Reads the request for a WebSocket; gives its key.
fn read_key(socket: &mut TcpStream) -> io::Result<String> {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    // A client sends nothing behind its request before it is answered.
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut headers = request.lines().filter_map(|line| line.split_once(':'));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    Ok(key.ok_or_else(|| io::Error::other("a request for something else than a WebSocket"))?.1.trim().to_owned())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
