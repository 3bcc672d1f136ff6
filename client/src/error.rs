//! What can go wrong with a call, told apart by what the caller may do next.

use std::sync::Arc;

use quorate_protocol::handshake::HelloRefusal;
use quorate_protocol::request::InvalidRequest;
use quorate_protocol::response::{Refusal, SessionError};
use quorate_protocol::{Index, limits};
use thiserror::Error;

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// A client without servers.
    #[error("no server is named: give at least one HOST:PORT")]
    NoServers,
    /// By this address no server can ever be reached. A name that only cannot be resolved is
    /// [`Unreachable`](Self::Unreachable) instead.
    #[error(
        "{0:?} is no server's address: write HOST:PORT, for example 127.0.0.1:7401, db1.example:7401 or [::1]:7401"
    )]
    InvalidServer(Arc<str>),
    /// The request breaks a limit; it was not sent.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The request is over [`limits::REQUEST_BYTES_MAX`] as a whole; it was not sent.
    #[error("a request of {0} bytes is over the limit of {max}: split it", max = limits::REQUEST_BYTES_MAX)]
    RequestTooLong(usize),
    /// The server refused the request, and did nothing. Refusals that pass by themselves were tried again
    /// until the deadline.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Every server refused the connection.
    #[error("{server} refused the connection: {refusal}")]
    HelloRefused {
        /// The last server asked.
        server: Arc<str>,
        /// Its reason.
        refusal: HelloRefusal,
    },
    /// No connection was had before the deadline, and no server has said anything that would tell more; nothing was done. Says
    /// what the last attempt met.
    #[error("no server could be reached within the deadline: {0}")]
    Unreachable(Arc<str>),
    /// As many requests as allowed are in flight, or were until the deadline; nothing was sent.
    #[error("the bound on requests in flight is reached: send less, wait longer, or raise it")]
    InFlight,
    /// A watch for which no replica that may serve it has a place: each takes [`limits::WATCHES_MAX`] of one client.
    /// Nothing was sent.
    #[error(
        "this client has {max} watches already at each replica that may serve one: drop a watch, or make another client",
        max = limits::WATCHES_MAX
    )]
    TooManyWatches,
    /// Nothing was done before the deadline.
    #[error("no answer within the deadline")]
    Deadline,
    /// The write may have happened, may happen yet, or never: read before writing again.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(Unknown),
    /// A key or value cannot be made of, or into, what it is to be. Says why.
    #[error("a key or value is not of its type: {0}")]
    Typed(Arc<str>),
    /// The answer does not fit what was asked.
    #[error("the server's answer does not fit the request: client and server do not match")]
    BadAnswer,
    /// [`Client::close`](crate::Client::close) was called, or the driver was dropped.
    #[error("the client is closed")]
    Closed,
}

/// What is known of a write whose outcome is not.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{why}{}", appended.map_or_else(String::new, |appended| format!("; {appended}")))]
pub struct Unknown {
    /// Why no more is known.
    pub why: Why,
    /// What the leader has last said of it; none if it said nothing.
    pub appended: Option<Appended>,
}

/// Why the outcome of a write is not known.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Why {
    /// The connection ended after the write was sent. Says how.
    #[error("the connection was lost after the write was sent: {0}")]
    ConnectionLost(Arc<str>),
    /// No answer came.
    #[error("no answer within the deadline")]
    Deadline,
    /// It was sent, and when it was sent again its session did not let it be done.
    #[error("no answer came, and a repetition was refused: {0}")]
    Session(SessionError),
}

/// A write that a leader has in its log: a later leader may keep or drop it (R20).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("it was appended at index {index}, and not committed when it was known on {copies} {}", replicas(*.copies))]
pub struct Appended {
    /// Where.
    pub index: Index,
    /// Replicas known to hold it durably.
    pub copies: u8,
}

fn replicas(copies: u8) -> &'static str {
    if copies == 1 { "replica" } else { "replicas" }
}

/// What a caller may do about an [`Error`](enum@Error).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// Nothing happened; the same call may succeed later.
    Retryable,
    /// Nothing happened, nor will it until somebody changes what the message names.
    Refused,
    /// A write that may have happened.
    OutcomeUnknown,
}

impl Error {
    /// What the caller may do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable(_) | Self::InFlight | Self::Deadline => ErrorKind::Retryable,
            Self::Refused(Refusal::NoQuorum { .. }) => ErrorKind::Retryable,
            Self::Refused(refusal) if passes(refusal) => ErrorKind::Retryable,
            Self::OutcomeUnknown(_) => ErrorKind::OutcomeUnknown,
            Self::HelloRefused { refusal, .. } if !is_permanent(refusal) => ErrorKind::Retryable,
            Self::NoServers
            | Self::InvalidServer(_)
            | Self::Invalid(_)
            | Self::RequestTooLong(_)
            | Self::Refused(_)
            | Self::HelloRefused { .. }
            | Self::TooManyWatches
            | Self::Typed(_)
            | Self::BadAnswer
            | Self::Closed => ErrorKind::Refused,
        }
    }
}

/// Whether a refusal is of the moment, so that the client tries again by itself.
///
/// Not [`Refusal::NoQuorum`], but for the first in a call: replicas do not come back within one, and who waits wants to know.
pub(crate) fn passes(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NotLeader { .. }
        | Refusal::NotReady(_)
        | Refusal::Overloaded(_)
        | Refusal::Behind { .. }
        | Refusal::Stopping => true,
        Refusal::NoQuorum { .. }
        | Refusal::BadRequest(_)
        | Refusal::Unsupported(_)
        | Refusal::Blocked(_)
        | Refusal::TokenLost
        | Refusal::Session(_)
        | Refusal::HistoryLost { .. }
        | Refusal::BadFrame(_) => false,
    }
}

/// Whether a server will refuse the next connection for the same reason.
pub(crate) fn is_permanent(refusal: &HelloRefusal) -> bool {
    !matches!(refusal, HelloRefusal::TooManyConnections | HelloRefusal::Stopping)
}
