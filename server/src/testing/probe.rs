//! Asks a node what it can do, as any client would: one connection, one read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use quorate_protocol::handshake::{Hello, Reply, Role};
use quorate_protocol::request::{Consistency, Operation, Request, Token};
use quorate_protocol::response::{Outcome, Response};
use quorate_protocol::{frame, limits, parse};

/// How long one node may take for each step.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is read; that it is absent is an answer like any other.
const KEY: &[u8] = b"ready?";

/// What a read has seen, if the node answers it; or in one line why it does not.
///
/// A linearizable read is answered by a leader alone, once it has committed in its term and is confirmed by the others;
/// one with a token by every node that has applied its entry.
pub(super) fn read(address: SocketAddr, consistency: Consistency) -> Result<Token, String> {
    let mut connection = Connection::open(address).map_err(|error| error.to_string())?;
    let hello = Hello { cluster: "", authentication: &[], role: Role::Client };
    let reply = connection.exchange(|out| hello.encode(out), welcomed).map_err(|error| error.to_string())?;
    reply?;
    let deadline_ms = PATIENCE.as_millis() as u32 / 2; // Its answer is to come in time.
    let request = Request { id: 1, deadline_ms, operation: Operation::Get { consistency, key: KEY } };
    connection.exchange(|out| frame::encode(&request, out), token).map_err(|error| error.to_string())?
}

fn welcomed(body: &[u8]) -> Result<(), String> {
    match parse(body) {
        Ok(Reply::Welcome(_)) => Ok(()),
        Ok(Reply::Refused(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn token(body: &[u8]) -> Result<Token, String> {
    match parse::<Response<'_>>(body).map(|response| response.outcome) {
        Ok(Outcome::Value { token, .. }) => Ok(token),
        Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Ok(other) => Err(format!("it answers a read with {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, received: Vec::new() })
    }

    /// Sends a frame, and takes the one that it is answered with.
    fn exchange<T>(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>),
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.socket.write_all(&bytes)?;
        loop {
            let frame = frame::decode(&self.received, limits::RESPONSE_BYTES_MAX);
            if let Some(frame) = frame.map_err(io::Error::other)? {
                let (taken, bytes) = (take(frame.body), frame.bytes);
                self.received.drain(..bytes);
                return Ok(taken);
            }
            let mut buffer = [0; 4 << 10];
            match self.socket.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }
}
