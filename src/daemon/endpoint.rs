//! The local socket (on Windows: named pipe) at which hosts find their daemon.
//!
//! Owns: its name, who may use it, and the exchange of [`Header`]s that both ends begin with. Does not know what is
//! said on a link afterwards.
//!
//! Both sides check that the other runs as the same user: the directory of the socket, or the pipe, is the owner's
//! alone, and the kernel is asked again for each link.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon as _;
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{self, GenericFilePath, ListenerOptions, PeerCreds, ToFsName as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::Paths;
use crate::os;
use crate::wire::link::{FIXED, Header, HeaderError};

/// How long the other side may take for its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the pipe of a daemon that has just ended may stay, while the system closes the links that it had.
const REMAINS: Duration = Duration::from_secs(5);

/// What goes wrong between the two ends of a link.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Nobody listens there.
    #[error("no daemon listens at {path}")]
    Nobody {
        /// The socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens, but does not answer as a daemon.
    #[error("the daemon at {path} does not answer")]
    Mute {
        /// The socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other side is not a daemon or host of this kind.
    #[error("what answers at {path} is not this daemon")]
    Foreign {
        /// The socket.
        path: String,
        /// What is wrong with its header.
        source: HeaderError,
    },
    /// The other side runs as another user.
    #[error("the other side of {path} runs as another user ({user:?})")]
    OtherUser {
        /// The socket.
        path: String,
        /// The user.
        user: Option<os::User>,
    },
    /// The socket cannot be made or used.
    #[error("cannot {tried} {path}")]
    Io {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A host's end of a link, ready for native frames.
#[derive(Debug)]
pub struct HostLink {
    /// From and to the daemon.
    pub stream: Arc<local_socket::Stream>,
    /// The daemon's header.
    pub daemon: Header,
}

/// A daemon's end of a link, ready for native frames.
#[derive(Debug)]
pub struct DaemonLink {
    /// From and to the host.
    pub stream: Stream,
    /// The host's header.
    pub host: Header,
}

/// Where hosts call this daemon, as long as it listens.
#[derive(Debug)]
pub struct Endpoint {
    listener: Listener,
    /// The file that goes with it. Where the system listens also when no daemon runs, the file is the system's.
    file: Option<PathBuf>,
}

impl Endpoint {
    /// Takes the endpoint that the system has handed over (socket activation), or makes one. One that is left from a daemon
    /// that is gone is removed; one that answers is not touched.
    ///
    /// # Errors
    /// [`EndpointError::Io`], also if another daemon answers there.
    pub fn open(paths: &Paths) -> Result<Self, EndpointError> {
        let path = paths.socket();
        let failed = |tried, source| EndpointError::Io { tried, path: path.display().to_string(), source };
        if let Some(listener) = os::lent_listener(path).map_err(|source| failed("take over", source))? {
            return Ok(Self { listener, file: None });
        }
        let listen = || {
            let name = path.to_fs_name::<GenericFilePath>()?;
            os::owner_only(ListenerOptions::new().name(name))?.create_tokio()
        };
        let Some(directory) = paths.socket_directory() else {
            // Only the first may make a pipe of a name: the system refuses a second, without saying whose the first is.
            let deadline = Instant::now() + REMAINS;
            let listener = loop {
                match listen() {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    listener => break listener.map_err(|source| failed("listen at", source))?,
                }
            };
            return Ok(Self { listener, file: None });
        };
        os::private_directory(directory).map_err(|source| failed("make a private directory for", source))?;
        if os::call(path).is_ok() {
            return Err(failed("listen at", io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there")));
        }
        if path.exists() {
            std::fs::remove_file(path).map_err(|source| failed("remove the stale", source))?;
        }
        let listener = listen().map_err(|source| failed("listen at", source))?;
        Ok(Self { listener, file: Some(path.to_owned()) })
    }

    /// Takes the next host that calls; its header is read by [`greet`].
    ///
    /// # Errors
    /// If the system has no room for another link.
    pub async fn accept(&self) -> io::Result<Stream> {
        self.listener.accept().await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // It may be gone already, with its directory.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Exchanges headers with a host that has called.
///
/// # Errors
/// If it is another user's, something else than a host, or too slow.
pub async fn greet(stream: Stream, path: &Path) -> Result<DaemonLink, EndpointError> {
    check_user(&stream.peer_creds(), path)?;
    let path = || path.display().to_string();
    let (mut reader, mut writer) = (&stream, &stream);
    let exchange = async {
        let mut fixed = [0; FIXED];
        reader.read_exact(&mut fixed).await?;
        let mut rest = vec![0; Header::rest(&fixed).map_err(io::Error::other)?];
        reader.read_exact(&mut rest).await?;
        let host = Header::decode(&fixed, &rest).map_err(io::Error::other)?;
        writer.write_all(&Header::new("").encode().map_err(io::Error::other)?).await?;
        Ok(host)
    };
    let host = tokio::time::timeout(HEADER_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| EndpointError::Mute { path: path(), source })?;
    Ok(DaemonLink { stream, host })
}

/// Calls the daemon, speaking for `origin`.
///
/// # Errors
/// [`EndpointError::Nobody`] if there is none; otherwise what is wrong with it.
pub fn connect(paths: &Paths, origin: &str) -> Result<HostLink, EndpointError> {
    let path = paths.socket();
    let text = || path.display().to_string();
    let stream = os::call(path).map_err(|source| EndpointError::Nobody { path: text(), source })?;
    check_user(&stream.peer_creds(), path)?;
    let header = Header::new(origin).encode().map_err(|source| EndpointError::Foreign { path: text(), source })?;
    let stream = Arc::new(stream);
    let daemon = exchange(&stream, header).map_err(|problem| match problem {
        Unanswered::Io(source) => EndpointError::Mute { path: text(), source },
        Unanswered::Header(source) => EndpointError::Foreign { path: text(), source },
    })?;
    Ok(HostLink { stream, daemon })
}

/// Why there is no header from the daemon.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Says our header and hears the daemon's, which may take [`HEADER_TIMEOUT`].
#[cfg(unix)]
fn exchange(stream: &Arc<local_socket::Stream>, header: Vec<u8>) -> Result<Header, Unanswered> {
    use interprocess::local_socket::traits::Stream as _;
    stream.set_recv_timeout(Some(HEADER_TIMEOUT))?;
    let daemon = say_and_hear(stream, &header)?;
    stream.set_recv_timeout(None)?;
    Ok(daemon)
}

/// Says our header and hears the daemon's, which may take [`HEADER_TIMEOUT`]. Reads from a pipe cannot be given a time
/// limit, so another thread does it, and is left behind if it takes too long.
#[cfg(windows)]
fn exchange(stream: &Arc<local_socket::Stream>, header: Vec<u8>) -> Result<Header, Unanswered> {
    let (said, heard) = std::sync::mpsc::channel();
    let stream = Arc::clone(stream);
    std::thread::spawn(move || said.send(say_and_hear(&stream, &header)));
    heard.recv_timeout(HEADER_TIMEOUT).unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

fn say_and_hear(mut stream: &local_socket::Stream, header: &[u8]) -> Result<Header, Unanswered> {
    stream.write_all(header)?;
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed)?;
    let mut rest = vec![0; Header::rest(&fixed)?];
    stream.read_exact(&mut rest)?;
    Ok(Header::decode(&fixed, &rest)?)
}

fn check_user(peer: &io::Result<PeerCreds>, path: &Path) -> Result<(), EndpointError> {
    let user = peer.as_ref().ok().and_then(os::user_of);
    if user.as_ref().is_some_and(os::is_own) {
        return Ok(());
    }
    Err(EndpointError::OtherUser { path: path.display().to_string(), user })
}
