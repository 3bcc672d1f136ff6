//! What a turn may do to the world.

use quorate_protocol::entry::Entry;
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::response::Response;
use quorate_protocol::{Index, NodeId, Term};

use crate::checkpoint::{Block, CheckpointHeader};
use crate::directory::{DirectoryError, Identity};
use crate::log::LogCommand;
use crate::replica::{Membership, Promise};
use crate::store::Store;

use super::TransferCommand;

/// A client connection, as the caller numbers it; never used again.
pub type ClientId = u64;

/// What a turn may do to the world. Production joins sockets and threads to it, a simulator its own.
///
/// All but those that store are hand-overs: nothing waits, and what comes of them returns as an
/// [`Event`](super::Event).
pub trait Outside {
    /// Sends to another replica, if the link is up.
    fn send(&mut self, to: NodeId, message: &PeerMessage<'_>);

    /// Answers a client, if it is still there.
    fn respond(&mut self, to: ClientId, response: &Response<'_>);

    /// Whether a client reads fast enough that it may be told what it need not be told now.
    fn has_room(&self, client: ClientId) -> bool;

    /// Gives the log something to do. Comes back as [`Event::Log`](super::Event::Log).
    fn log(&mut self, command: LogCommand);

    /// Reads entries from the log's files. Comes back as [`Event::LogRead`](super::Event::LogRead).
    fn read_log(&mut self, to: NodeId, from: Index, bytes_max: usize);

    /// Does the disk's part in sending and receiving checkpoints: a [`TransferWorker`](super::TransferWorker) does.
    /// Comes back as [`Event::Transfer`](super::Event::Transfer). At the latest when it does
    /// [`TransferCommand::InstallPart`] a checkpoint that has [begun](Self::begin_checkpoint) is given up.
    fn transfer(&mut self, command: TransferCommand);

    /// Drops a store, which may take long.
    fn discard(&mut self, store: Store);

    /// Makes the promise durable before it returns (R5).
    fn store_promise(&mut self, promise: Promise) -> Result<(), DirectoryError>;

    /// Notes durably, before it returns, that this node leads the promised term (RULES, Edges).
    fn store_led(&mut self) -> Result<(), DirectoryError>;

    /// Makes durable, before it returns, how far the log went before it was damaged; none when it is whole (R8).
    fn store_held(&mut self, held: Option<(Term, Index)>) -> Result<(), DirectoryError>;

    /// Makes durable, before it returns, who votes and counts (R26).
    fn store_members(&mut self, members: &Membership) -> Result<(), DirectoryError>;

    /// Makes the identity durable before it returns.
    fn store_identity(&mut self, identity: &Identity) -> Result<(), DirectoryError>;

    /// Begins to write a checkpoint. Comes back as [`Event::Checkpoint`](super::Event::Checkpoint).
    fn begin_checkpoint(&mut self, header: CheckpointHeader);

    /// Gives the checkpoint its next block, which may be empty, and says whether it was the last.
    fn checkpoint_block(&mut self, block: Block, is_last: bool);

    /// A committed entry was applied. Nothing has to come of it: it is for whoever watches.
    fn applied(&mut self, _: &Entry<'_>) {}
}
