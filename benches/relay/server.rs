//! The other end: a WebSocket server with frames by hand on a blocking thread, so that it is not what is measured.
//!
//! Owns: the upgrade, and the three things that the server does: echo, flood, count. It answers pings and closing
//! handshakes, as every server must.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::flow::Flow;
use crate::frames::{CLOSE, Frame, Input, PING, PONG, READ, TEXT, put_websocket};

/// A server that waits for its one client.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: Receiver<io::Result<TcpStream>>,
}

impl Server {
    pub(crate) fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (sender, client) = mpsc::channel();
        // Left behind if nobody comes: the program ends with an error then.
        thread::spawn(move || sender.send(listener.accept().and_then(|(socket, _)| upgrade(socket))));
        Ok(Self { address, client })
    }
}

fn upgrade(mut socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    // A client sends nothing behind its request before it is answered.
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let headers = request.lines().filter_map(|line| line.split_once(':'));
    let key = headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    let (_, key) = key.ok_or_else(|| io::Error::other("a client asked for something else than a WebSocket"))?;
    write!(
        socket,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.trim().as_bytes())
    )?;
    Ok(socket)
}

/// Sends back every message, and answers together what came together.
pub(crate) fn echo(client: TcpStream) -> io::Result<()> {
    serve(client, |mut frame, answer| {
        frame.unmask();
        put_websocket(answer, frame.opcode, frame.payload, None);
    })
}

/// Counts messages that are as long as `payload`, the first of which must be it.
pub(crate) fn count(client: TcpStream, payload: &[u8], flow: &Flow) -> io::Result<()> {
    let mut first = true;
    serve_reads(client, |input, answer| {
        let (mut open, mut came) = (true, 0);
        while let Some(mut frame) = input.websocket() {
            if frame.opcode != TEXT {
                open &= control(frame, answer);
                continue;
            }
            if std::mem::take(&mut first) {
                frame.unmask();
                if frame.payload != payload {
                    return Err(io::Error::other("the payload was changed on its way"));
                }
            }
            if frame.payload.len() != payload.len() {
                return Err(io::Error::other(format!("a message of {} bytes came", frame.payload.len())));
            }
            came += 1;
        }
        flow.receive(came);
        Ok(open)
    })
}

/// Sends `payload` for as long as the flow wants it, `together` of them in one write.
pub(crate) fn flood(client: TcpStream, payload: &[u8], together: usize, flow: &Arc<Flow>) -> io::Result<()> {
    let mut out = Vec::new();
    (0..together).for_each(|_| put_websocket(&mut out, TEXT, payload, None));
    let mut sink = client.try_clone()?;
    let flow = Arc::clone(flow);
    // Nothing is pinged while something comes, so that these writes and the answers below never meet.
    let writer = thread::spawn(move || {
        loop {
            let last = flow.send(together);
            if sink.write_all(&out).is_err() || last {
                return;
            }
        }
    });
    let served = serve(client, |_, _| {});
    let _ = writer.join();
    served
}

/// Reads frames, gives messages to `take`, and answers the rest, until the client leaves.
fn serve(client: TcpStream, mut take: impl FnMut(Frame<'_>, &mut Vec<u8>)) -> io::Result<()> {
    serve_reads(client, |input, answer| {
        let mut open = true;
        while let Some(frame) = input.websocket() {
            match frame.opcode {
                CLOSE | PING | PONG => open &= control(frame, answer),
                _ => take(frame, answer),
            }
        }
        Ok(open)
    })
}

/// Lets `take` have what each read brought, and writes its answer; until the client leaves or `take` gives false.
fn serve_reads(
    mut client: TcpStream,
    mut take: impl FnMut(&mut Input<TcpStream>, &mut Vec<u8>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut input = Input::new(client.try_clone()?);
    let mut answer = Vec::with_capacity(READ);
    while input.read()? {
        let open = take(&mut input, &mut answer)?;
        if !answer.is_empty() {
            client.write_all(&answer)?;
            answer.clear();
        }
        if !open {
            break;
        }
    }
    Ok(())
}

/// Answers a control frame. Returns whether the conversation goes on.
fn control(mut frame: Frame<'_>, answer: &mut Vec<u8>) -> bool {
    frame.unmask();
    match frame.opcode {
        PING => put_websocket(answer, PONG, frame.payload, None),
        CLOSE => put_websocket(answer, CLOSE, frame.payload, None),
        _ => {}
    }
    frame.opcode != CLOSE
}
