//! Links between replicas.
//!
//! Each node dials every other and sends on the connection that it dialled; on a connection that it accepted
//! it only listens. Either side learns the other's identity in the handshake, and refuses whoever is not a
//! replica of its cluster.

use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use quorate_protocol::handshake::{Hello, HelloRefusal, ReplicaIdentity, Reply, Role};
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::{Incarnation, Member, NodeId, frame, limits, parse};
use smol::Async;

use super::client::refuse;
use super::stream::{Receiver, Stream, StreamError};
use super::{HELLO_DEADLINE, resolve};
use crate::node::Event;
use crate::shell::Shell;

/// Between two attempts to reach a replica: from the first to the last, doubling.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why a link could not be made.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("it cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    #[error("the connection failed: {0}")]
    Stream(#[from] StreamError),
    #[error("it did not answer in time")]
    Deadline,
    #[error("it refused this node: {0}")]
    Refused(HelloRefusal),
    #[error("its answer is no welcome")]
    Malformed,
    #[error("this node refuses it: {0}")]
    NotOurs(HelloRefusal),
    #[error("node {0} answers there")]
    OtherNode(NodeId),
}

/// Keeps a link to a replica: dials, and when the link ends dials again. Never ends.
pub(crate) async fn keep_link(shell: Rc<Shell>, node: NodeId, address: String) {
    let mut pause = REDIAL.0;
    let mut last_error = String::new();
    loop {
        match dial(&shell, node, &address).await {
            Ok((stream, receiver, incarnation)) => {
                tracing::info!(%node, address, "connected to a replica");
                let connected = shell.now();
                last_error.clear();
                shell.add_peer(Member { node, incarnation }, stream.clone());
                let error =
                    future::or(silence(&shell, &stream, receiver), stream.keep_writing(|| shell.now())).await;
                shell.remove_peer(node);
                if shell.now().saturating_sub(connected) >= REDIAL.1 {
                    pause = REDIAL.0; // A link that is lost at once, time and again, is tried ever less often.
                }
                tracing::warn!(%node, address, "lost the link to a replica: {error}");
            }
            // Once for each reason: a replica that is down stays so for long.
            Err(error) if error.to_string() != last_error => {
                last_error = error.to_string();
                tracing::warn!(%node, address, "no link to a replica, trying on: {error}");
            }
            Err(_) => {}
        }
        shell.reactor.sleep(pause).await;
        pause = (pause * 2).min(REDIAL.1);
    }
}

/// A link, and whom it leads to.
type Link = (Rc<Stream>, Receiver, Incarnation);

async fn dial(shell: &Rc<Shell>, node: NodeId, address: &str) -> Result<Link, DialError> {
    let deadline = async {
        shell.reactor.sleep(HELLO_DEADLINE).await;
        Err(DialError::Deadline)
    };
    future::or(introduce(shell, node, address), deadline).await
}

async fn introduce(shell: &Rc<Shell>, node: NodeId, address: &str) -> Result<Link, DialError> {
    let name = address.to_owned();
    // Resolving a name may block.
    let socket_address = smol::unblock(move || resolve(&name)).await?;
    let socket = Async::<TcpStream>::connect(socket_address).await?;
    let stream = Rc::new(Stream::new(&shell.reactor, socket)?);
    let cluster = shell.cluster();
    let hello = Hello { cluster: &cluster, authentication: &[], role: Role::Replica(shell.introduction()) };
    stream.push(|out| hello.encode(out));
    stream.flush(shell.now());
    let mut receiver = Receiver::new(shell.buffer.clone());
    let mut reply = None;
    while reply.is_none() {
        let take = |_, body: &[u8]| {
            reply = Some(parse::<Reply>(body));
            false
        };
        stream.receive(&mut receiver, limits::HELLO_BYTES_MAX, || shell.now(), take).await?;
    }
    match reply {
        Some(Ok(Reply::Welcome(welcome))) => {
            let identity = welcome.replica.ok_or(DialError::Malformed)?;
            if identity.node != node {
                return Err(DialError::OtherNode(identity.node));
            }
            shell.meet(&identity).map_err(DialError::NotOurs)?;
            Ok((stream, receiver, identity.incarnation))
        }
        Some(Ok(Reply::Refused(refusal))) => Err(DialError::Refused(refusal)),
        _ => Err(DialError::Malformed),
    }
}

/// Waits until a link that we dialled ends: nothing is ever said on it by the other side.
async fn silence(shell: &Shell, stream: &Stream, mut receiver: Receiver) -> StreamError {
    loop {
        let mut is_broken = false;
        let take = |_, _: &[u8]| {
            is_broken = true;
            false
        };
        if let Err(error) = stream.receive(&mut receiver, limits::HELLO_BYTES_MAX, || shell.now(), take).await
        {
            return error;
        }
        if is_broken {
            return StreamError::Closed;
        }
    }
}

/// Listens to one accepted connection until it ends, and says why.
pub(crate) async fn serve(shell: &Rc<Shell>, stream: Rc<Stream>) -> StreamError {
    let Some(place) = shell.guard.admit(&stream, shell.now()) else {
        return refuse(shell, &stream, HelloRefusal::TooManyConnections);
    };
    let mut receiver = Receiver::new(shell.buffer.clone());
    let mut met = None;
    while met.is_none() {
        let take = |_, body: &[u8]| {
            met = Some(meet(shell, body));
            false
        };
        match stream.receive(&mut receiver, limits::HELLO_BYTES_MAX, || shell.now(), take).await {
            Err(StreamError::Frame(_)) => return refuse(shell, &stream, HelloRefusal::NotQuorate),
            Err(error) => return error,
            Ok(()) => {}
        }
    }
    let peer = match met {
        Some(Ok(peer)) => peer,
        Some(Err(reason)) => return refuse(shell, &stream, reason),
        None => return StreamError::Closed,
    };
    stream.push(|out| frame::encode(&Reply::Welcome(shell.welcome_replica()), out));
    stream.flush(shell.now());
    place.introduced();
    // A replica has one link to us: a new one means that it has given up the old one.
    let from = Member { node: peer.node, incarnation: peer.incarnation };
    shell.accepted_from(from, &stream);
    let error = listen(shell, from, &stream, receiver).await;
    shell.accepted_ended(from.node, &stream);
    error
}

/// Takes what a replica says on its link, until that ends.
async fn listen(shell: &Rc<Shell>, from: Member, stream: &Stream, mut receiver: Receiver) -> StreamError {
    loop {
        let mut error = None;
        let take = |_, body: &[u8]| {
            match parse::<PeerMessage<'_>>(body) {
                Ok(message) => shell.handle(Event::Message { from, message }),
                Err(reason) => error = Some(reason),
            }
            error.is_none()
        };
        let received = stream.receive(&mut receiver, limits::PEER_BYTES_MAX, || shell.now(), take).await;
        shell.wake();
        if let Some(reason) = error {
            tracing::warn!(node = %from.node, "closed the link of a replica: {reason}");
            stream.close();
            return StreamError::Closed;
        }
        if let Err(error) = received {
            return error;
        }
    }
}

fn meet(shell: &Shell, body: &[u8]) -> Result<ReplicaIdentity, HelloRefusal> {
    let hello = Hello::parse(body)?;
    let Role::Replica(identity) = hello.role else {
        return Err(HelloRefusal::WrongRole("replicas; clients use the other one".into()));
    };
    let cluster = shell.cluster();
    if hello.cluster != cluster {
        return Err(HelloRefusal::OtherCluster(cluster));
    }
    shell.meet(&identity)?;
    Ok(identity)
}
