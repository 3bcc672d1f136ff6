//! How a connection is made.

use std::io;
use std::net::{SocketAddr, TcpStream};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use quorate_protocol::handshake::{Hello, HelloRefusal, Reply, Role, Welcome};
use quorate_protocol::{VERSION, frame, limits, parse};
use thiserror::Error;

use crate::builder::Settings;

/// A connection on which requests may be sent.
pub(super) struct Connected {
    pub(super) stream: Async<TcpStream>,
    pub(super) welcome: Welcome,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Refused(HelloRefusal),
    #[error("not a Quorate server, or of another version")]
    NotQuorate,
}

/// Connects to `server` (`HOST:PORT`) within the timeout.
pub(super) async fn connect(server: &str, settings: &Settings) -> Result<Connected, ConnectError> {
    let late = async {
        Timer::after(settings.connect_timeout).await;
        Err(io::Error::from(io::ErrorKind::TimedOut).into())
    };
    future::or(greet(server, &settings.cluster), late).await
}

async fn greet(server: &str, cluster: &str) -> Result<Connected, ConnectError> {
    let mut stream = dial(server).await?;
    stream.get_ref().set_nodelay(true)?;
    let mut hello = Vec::new();
    Hello { cluster, authentication: &[], role: Role::Client }.encode(&mut hello);
    stream.write_all(&hello).await?;
    match answer(&mut stream).await? {
        Reply::Welcome(welcome) if welcome.version == VERSION => Ok(Connected { stream, welcome }),
        Reply::Welcome(_) => Err(ConnectError::NotQuorate),
        Reply::Refused(refusal) => Err(ConnectError::Refused(refusal)),
    }
}

async fn dial(server: &str) -> io::Result<Async<TcpStream>> {
    if let Ok(address) = server.parse::<SocketAddr>() {
        return Async::<TcpStream>::connect(address).await;
    }
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in smol::net::resolve(server).await? {
        match Async::<TcpStream>::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// Reads exactly one frame: a server says nothing more before it is asked.
async fn answer(stream: &mut Async<TcpStream>) -> Result<Reply, ConnectError> {
    let mut buffer = vec![0; frame::HEADER_BYTES + limits::HELLO_BYTES_MAX];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => filled += read,
        }
        match frame::decode(&buffer[..filled], limits::HELLO_BYTES_MAX) {
            Ok(Some(frame)) if frame.bytes == filled => {
                return parse(frame.body).map_err(|_| ConnectError::NotQuorate);
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(ConnectError::NotQuorate),
        }
    }
}
