//! How a connection begins.
//!
//! The connecting side sends one [`Hello`], the other answers one [`Reply`]: welcome or refused. Both sides
//! of a peer link learn each other's identity this way, which is how a cluster forms (R26).
//!
//! A hello opens with magic and version, readable by every version: another program's bytes and another
//! version's hello are told apart from damage ([`Hello::parse`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::bounded;
use crate::{
    ClusterId, Durability, Incarnation, Index, Leadership, Member, NodeId, Quorums, VERSION, frame, limits,
    parse,
};

/// The first bytes of every hello.
pub const MAGIC: [u8; 4] = *b"QRM\x01";

#[derive(Serialize, Deserialize)]
struct Prelude {
    magic: [u8; 4],
    version: u16,
}

/// What the connecting side introduces itself with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// The cluster's name. A client may leave it empty and take any.
    pub cluster: &'a str,
    /// Proof of being allowed in; empty, as there is no authentication yet.
    #[serde(with = "serde_bytes")]
    pub authentication: &'a [u8],
    /// What the connection is for.
    pub role: Role,
}

/// What a connection is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Sends requests.
    Client,
    /// Sends peer messages.
    Replica(ReplicaIdentity),
}

/// The state that a cluster began with, if that was restored from a backup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Its last entry.
    pub index: Index,
    /// The hash of its checkpoint: alike for whoever restored the same backup.
    pub hash: [u8; 32],
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}, hash ", self.index)?;
        self.hash[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Who a replica is, and what it was started with. Replicas of one cluster agree on all but `node`,
/// `incarnation`, `stored` and `advertise`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaIdentity {
    /// Its number.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: Incarnation,
    /// m and n.
    pub quorums: Quorums,
    /// How the leader is found.
    pub leadership: Leadership,
    /// What it calls durable.
    pub durability: Durability,
    /// Milliseconds for which it keeps to a leader that it has heard, so that this one may read without asking
    /// again (R22); 0 if there are no leases.
    pub lease_ms: u32,
    /// The backup that its directory was restored from; none if it began empty.
    pub origin: Option<Origin>,
    /// The cluster that it has stored, once it has met all replicas.
    pub stored: Option<ClusterId>,
    /// The replicas that this cluster was formed with; empty before. Whoever comes with an emptied disk learns them
    /// here.
    #[serde(deserialize_with = "bounded::<_, _, { limits::REPLICAS_MAX as usize }>")]
    pub founders: Vec<Member>,
    /// Whether it knows that all of them have stored it.
    pub formed: bool,
    /// Where clients reach it.
    pub advertise: String,
}

/// What a hello is answered with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Go on.
    Welcome(Welcome),
    /// The connection is closed after this.
    Refused(HelloRefusal),
}

/// The answering side's introduction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version that the connection goes on with.
    pub version: u16,
    /// The answering node.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// Which one it is of those with that name; none before it has formed.
    pub cluster_id: Option<ClusterId>,
    /// Where writes go, if known.
    pub leader: Option<NodeAddress>,
    /// Where clients reach the replicas, this one included, as far as this node has met them.
    #[serde(deserialize_with = "bounded::<_, _, { limits::REPLICAS_MAX as usize }>")]
    pub nodes: Vec<NodeAddress>,
    /// What a client may send.
    pub limits: Limits,
    /// The answering replica's identity; only to replicas.
    pub replica: Option<ReplicaIdentity>,
}

/// Where clients reach a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeId,
    /// Its client address, `HOST:PORT`.
    pub address: String,
}

/// What the answering node accepts from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: u32,
    /// Bytes of a value.
    pub value_bytes_max: u32,
    /// Bytes of a frame's body.
    pub request_bytes_max: u32,
    /// Requests of one connection that are not answered yet.
    pub in_flight_max: u32,
}

/// Why a connection was refused.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum HelloRefusal {
    /// The first bytes are not a Quorate hello.
    #[error("this port speaks the Quorate protocol")]
    NotQuorate,
    /// The hello is of another version.
    #[error("this node speaks protocol version {0}")]
    Version(u16),
    /// The hello cannot be decoded.
    #[error("the hello cannot be decoded")]
    Malformed,
    /// A client at the peer port, or a replica at the client port.
    #[error("this port is for {0}")]
    WrongRole(String),
    /// The cluster has another name.
    #[error("this node belongs to the cluster \"{0}\"")]
    OtherCluster(String),
    /// The replica is none of this cluster's.
    #[error("node {0} is not a replica of this cluster")]
    UnknownNode(NodeId),
    /// The replica has another data directory than the one that the cluster was formed with.
    #[error(
        "node {node} belongs to this cluster with incarnation {expected}: its data directory was replaced"
    )]
    OtherIncarnation {
        /// The replica.
        node: NodeId,
        /// What the cluster was formed with.
        expected: Incarnation,
    },
    /// The replica was started with another setting.
    #[error("the replicas were started with different settings: {0}")]
    OtherSettings(String),
    /// Both sides were formed, but not with each other.
    #[error("this node was formed in the cluster {0}")]
    OtherFormation(ClusterId),
    /// As many connections as allowed are open.
    #[error("too many connections")]
    TooManyConnections,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Another process with the same number is connected, and this one is no voting member in its place.
    #[error(
        "two processes are node {node}: the one that clients reach at {incumbent} is connected, so the one at {newcomer}, \
         which has another data directory, is not let in; stop the one that is too many: without the first, the second \
         gets in by itself"
    )]
    NodeTaken {
        /// The number of both.
        node: NodeId,
        /// Where clients reach the one that is connected, `HOST:PORT`.
        incumbent: String,
        /// Where clients reach the one that is refused, `HOST:PORT`.
        newcomer: String,
    },
}

/// Why a hello cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HelloError {
    /// Not the magic of this protocol.
    #[error("not the Quorate protocol")]
    NotQuorate,
    /// Another version.
    #[error("protocol version {0}, expected {VERSION}")]
    Version(u16),
    /// The rest cannot be decoded.
    #[error("a malformed hello")]
    Malformed,
}

impl From<HelloError> for HelloRefusal {
    fn from(error: HelloError) -> Self {
        match error {
            HelloError::NotQuorate => Self::NotQuorate,
            HelloError::Version(_) => Self::Version(VERSION),
            HelloError::Malformed => Self::Malformed,
        }
    }
}

impl<'a> Hello<'a> {
    /// Appends the hello to `out` as one frame, magic and version first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame::encode(&(Prelude { magic: MAGIC, version: VERSION }, self), out);
    }

    /// Reads a hello from a frame's body.
    pub fn parse(body: &'a [u8]) -> Result<Self, HelloError> {
        let (prelude, rest) =
            postcard::take_from_bytes::<Prelude>(body).map_err(|_| HelloError::NotQuorate)?;
        if prelude.magic != MAGIC {
            return Err(HelloError::NotQuorate);
        }
        if prelude.version != VERSION {
            return Err(HelloError::Version(prelude.version));
        }
        parse(rest).map_err(|_| HelloError::Malformed)
    }
}
