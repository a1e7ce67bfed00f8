//! The limit: a relay between a native messaging port and a WebSocket that parses nothing, keeps nothing and guarantees
//! nothing. Each message is one message on the other side.
//!
//! One thread for each direction, as the fewest system calls want it: read what is there, write all of it at once.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use websocket_bridge::os;

use crate::frames::{CLOSE, Input, TEXT, put_native, put_websocket};

/// Relays between the standard streams and the WebSocket server at `address`, until either is gone.
pub(crate) fn run(address: &str) -> io::Result<()> {
    let (stdin, stdout) = (os::take_stdin()?, os::take_stdout()?);
    let socket = connect(address)?;
    let sink = socket.try_clone()?;
    std::thread::spawn(move || {
        // The browser has closed the port: nothing of this process is needed any more.
        let ended = to_server(stdin, sink);
        std::process::exit(i32::from(ended.is_err()));
    });
    to_extension(socket, stdout)
}

fn to_server(stdin: File, mut socket: TcpStream) -> io::Result<()> {
    let mut input = Input::new(stdin);
    let mut out = Vec::new();
    let mut key = 0x9e37_79b9_u32;
    while input.read()? {
        while let Some(message) = input.native() {
            key = key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            put_websocket(&mut out, TEXT, message, Some(key.to_ne_bytes()));
        }
        socket.write_all(&out)?;
        out.clear();
    }
    Ok(())
}

fn to_extension(socket: TcpStream, mut stdout: File) -> io::Result<()> {
    let mut input = Input::new(socket);
    let mut out = Vec::new();
    while input.read()? {
        while let Some(frame) = input.websocket() {
            match frame.opcode {
                CLOSE => return Ok(()),
                _ => put_native(&mut out, &[frame.payload]),
            }
        }
        stdout.write_all(&out)?;
        out.clear();
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    write!(
        socket,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    // One byte at a time, so that none of the frames behind the answer is taken.
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        answer.extend_from_slice(&byte);
    }
    if answer.starts_with(b"HTTP/1.1 101 ") { Ok(socket) } else { Err(io::Error::other("the server did not upgrade")) }
}
