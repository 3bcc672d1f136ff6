//! The limit of the store's memory, and what is refused at it.
//!
//! A leader refuses writes that may make the store larger than the limit, each counted as if its keys were new,
//! together with all that is appended and not applied. Deletes are taken, so that room can be made, and so are new
//! sessions, of which there is a bounded number; deletes of sessions, whose results take room, up to 1/16 beyond the limit. A follower with
//! the same limit then never gets beyond it by more than its estimate differs from the leader's: when its table
//! grew, and what a checkpoint puts aside. So it refuses entries only well beyond the limit: when its own is lower.
//!
//! # Omissions
//!
//! What a checkpoint puts aside counts when it is there, not ahead: overwritten values may take the store beyond
//! the limit by as much as is not applied yet. A follower beyond its limit cannot take deletes either, as they come
//! behind what it refuses: it goes on after a restart with a larger limit.

use std::collections::VecDeque;

use quorate_protocol::Index;
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::response::Obstacle;

use super::Node;
use crate::replica::Replica;
use crate::store::{Growth, Store};

/// The limit, and what is on its way to it.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    bytes_max: u64,
    /// Of each write that this node has appended as the leader and not applied, oldest first.
    pending: VecDeque<(Index, Growth)>,
    /// Of all of them.
    growth: Growth,
}

impl MemoryLimit {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, pending: VecDeque::new(), growth: Growth::default() }
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether a leader may append a write.
    pub(super) fn admits(&self, store: &Store, write: &Write<'_>, is_in_session: bool) -> bool {
        let growth = growth(write, is_in_session);
        match growth.has_keys() {
            true => self.has_room(store, growth, self.bytes_max),
            false if is_in_session => self.has_room(store, growth, self.with_room_for_results()),
            false => true,
        }
    }

    /// A leader has appended a write.
    pub(super) fn appended(&mut self, index: Index, write: &Write<'_>, is_in_session: bool) {
        self.grows(index, growth(write, is_in_session));
    }

    /// A leader has appended an entry that opens a session.
    pub(super) fn opens_session(&mut self, index: Index) {
        self.grows(index, Growth::of_session());
    }

    fn grows(&mut self, index: Index, growth: Growth) {
        self.pending.push_back((index, growth));
        self.growth = self.growth.and(growth);
    }

    /// Everything up to `index` is applied.
    pub(super) fn applied(&mut self, index: Index) {
        while let Some((_, growth)) = self.pending.pop_front_if(|(pending, _)| *pending <= index) {
            self.growth = self.growth.without(growth);
        }
    }

    /// Everything above `after` is gone.
    pub(super) fn truncated(&mut self, after: Index) {
        while let Some((_, growth)) = self.pending.pop_back_if(|(pending, _)| *pending > after) {
            self.growth = self.growth.without(growth);
        }
    }

    /// Whether a leader would refuse even the smallest new key.
    fn is_reached(&self, store: &Store) -> bool {
        !self.has_room(store, Growth::of(&[0], &[]), self.bytes_max)
    }

    fn has_room(&self, store: &Store, growth: Growth, bytes_max: u64) -> bool {
        store.memory_bytes_with(self.growth.and(growth)) <= bytes_max
    }

    /// What the store may take when it only gets results of deletes, and sessions.
    fn with_room_for_results(&self) -> u64 {
        self.bytes_max.saturating_add(self.bytes_max / 16)
    }

    /// Whether a follower is so far beyond the limit that its leader's must be another one.
    fn is_exceeded(&self, store: &Store) -> bool {
        store.memory_bytes() > self.bytes_max.saturating_add(self.bytes_max / 8)
    }
}

/// What a write may add, if all its keys are new.
fn growth(write: &Write<'_>, is_in_session: bool) -> Growth {
    let result = if is_in_session { Growth::of_result() } else { Growth::default() };
    let growths = write.mutations().iter().map(|mutation| match mutation {
        Mutation::Set { key, value } | Mutation::CompareAndSet { key, value, .. } => Growth::of(key, value),
        Mutation::Delete { .. } => Growth::default(),
    });
    growths.fold(result, Growth::and)
}

impl Node {
    /// Whether the limit of memory keeps this node from taking writes, or entries.
    pub(super) fn memory_obstacle(&self) -> Option<Obstacle> {
        let is_reached = if self.replica.as_ref().is_some_and(Replica::is_leader) {
            self.memory.is_reached(&self.store)
        } else {
            self.memory.is_exceeded(&self.store)
        };
        is_reached.then_some(Obstacle::MemoryFull)
    }
}
