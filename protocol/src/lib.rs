//! What crosses a wire of Quorate: frames, the handshake, client and peer messages, and the log entry
//! that wires and disks share.
//!
//! Everything here is pure: bytes in, values out, and the other way round. No socket, clock, file or
//! runtime, so the same code runs in the server, the client, tests and fuzzers.
//!
//! - [`frame`]: length, checksum, body. A function over a buffer; "incomplete" is a normal result.
//! - [`handshake`]: what a connection opens with, and what it is answered.
//! - [`request`] and [`response`]: what a client may ask, and what it may be told.
//! - [`peer`]: what replicas say to each other.
//! - [`entry`]: one record of the replicated log, the same bytes on every wire and disk.
//!
//! # Compatibility
//!
//! The version is exchanged in the [`handshake`]. Within a version, enum variants are only added at the
//! end and structs do not change; `tests/golden.rs` pins the bytes of every message. Until 1.0 a change
//! raises [`VERSION`].
//!
//! # What is deliberately absent
//!
//! No resynchronisation after a bad frame: a stream that has lied once is closed. No compression.

pub mod entry;
pub mod frame;
pub mod handshake;
mod ids;
pub mod limits;
mod message;
pub mod peer;
pub mod request;
pub mod response;
mod settings;

pub use ids::{
    ClusterId, Incarnation, Index, Member, NodeId, NodeIdError, NodeSet, SequenceNumber, SessionId, Term,
};
pub use message::{MessageError, parse, parse_prefix};
pub use settings::{Durability, Leadership, QuorumError, Quorums};

/// The version of everything in this crate, exchanged in the handshake.
pub const VERSION: u16 = 5;
