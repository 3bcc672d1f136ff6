//! Answering clients.

use std::time::Duration;

use quorate_protocol::entry::Payload;
use quorate_protocol::request::{
    self, Acks, Consistency, Operation, Range, Request, Token, Write, WriteOptions,
};
use quorate_protocol::response::{
    DiskStatus, FollowerStatus, Item, Obstacle, Outcome, Refusal, Response, Role, Status,
};
use quorate_protocol::{Index, NodeId, limits};

use super::batches::BatchesSerialised;
use super::histograms::Serialiser;
use super::lag::LagSerialised;
use super::{ClientId, Node, Outside, Waiting};
use crate::replica::{ProposeError, Replica, Time};

impl Node {
    pub(super) fn request(
        &mut self,
        now: Time,
        client: ClientId,
        request: &Request<'_>,
        outside: &mut impl Outside,
    ) {
        let id = request.id;
        let mut respond = |outcome: Outcome<'_>| outside.respond(client, &Response { id, outcome });
        if self.is_stopping {
            return respond(Outcome::Refused(Refusal::Stopping));
        }
        match &request.operation {
            Operation::Write { options, write } => match self.write(now, options, write) {
                Ok(index) => {
                    let deadline = deadline(now, request.deadline_ms);
                    self.waiting.push_back(Waiting { index, client, request: id, deadline });
                }
                Err(refusal) => respond(Outcome::Refused(refusal)),
            },
            Operation::Get { consistency, key } => {
                respond(self.get(consistency, key).unwrap_or_else(Outcome::Refused))
            }
            Operation::Scan { consistency, range, items_max } => {
                respond(self.scan(consistency, range, *items_max).unwrap_or_else(Outcome::Refused));
            }
            Operation::Status { histograms } => {
                self.status(now, *histograms, |status| respond(Outcome::Status(Box::new(status))))
            }
            Operation::Ping => respond(Outcome::Pong),
        }
    }

    fn write(&mut self, now: Time, options: &WriteOptions, write: &Write<'_>) -> Result<Index, Refusal> {
        write.check().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        check_options(options)?;
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        // A node that does not lead says that: whoever asks has to go elsewhere in any case.
        if replica.is_leader() {
            if let Some(obstacle) = self.disk_watch.obstacle() {
                return Err(obstacle.into());
            }
            if !self.memory.admits(&self.store, write) {
                return Err(Obstacle::MemoryFull.into());
            }
        }
        let payload = Payload::Write { session: None, write: write.clone() };
        let index = replica.propose(now, &payload).map_err(|error| match error {
            ProposeError::NotLeader => Refusal::NotLeader { leader: self.leader_hint() },
            ProposeError::NoQuorum { have, need } => Refusal::NoQuorum { have, need },
            ProposeError::Overloaded => Refusal::Overloaded(error.to_string()),
        })?;
        self.memory.appended(index, write);
        Ok(index)
    }

    fn get(&self, consistency: &Consistency, key: &[u8]) -> Result<Outcome<'_>, Refusal> {
        request::check_key(key).map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let token = self.may_read(consistency)?;
        Ok(Outcome::Value { token, value: self.store.get(key) })
    }

    fn scan<'a>(
        &'a self,
        consistency: &Consistency,
        range: &Range<'a>,
        items_max: u32,
    ) -> Result<Outcome<'a>, Refusal> {
        let token = self.may_read(consistency)?;
        let items_max = (items_max as usize).clamp(1, limits::SCAN_ITEMS_MAX);
        let mut found = self.store.scan(range);
        let items = page(&mut found, items_max);
        Ok(Outcome::Page { token, items, more: found.next().is_some() })
    }

    /// Whether a read may be answered now; with what it sees.
    fn may_read(&self, consistency: &Consistency) -> Result<Token, Refusal> {
        let Some(replica) = &self.replica else { return Err(self.not_formed()) };
        let applied = replica.applied();
        match consistency {
            Consistency::Local => {}
            Consistency::Linearizable if replica.may_read() => {}
            Consistency::Linearizable if replica.is_leader() => {
                return Err(Refusal::NotReady(
                    "the leader has not committed the first entry of its term".into(),
                ));
            }
            Consistency::Linearizable => return Err(Refusal::NotLeader { leader: self.leader_hint() }),
            // R23
            Consistency::Session(token) if token.index > applied => return Err(Refusal::Behind { applied }),
            Consistency::Session(token) if replica.terms().term(token.index) == Some(token.term) => {}
            Consistency::Session(_) => return Err(Refusal::TokenLost),
        }
        Ok(Token { term: replica.terms().term(applied).unwrap_or(0), index: applied })
    }

    fn not_formed(&self) -> Refusal {
        let missing: Vec<_> = self.formation.missing().iter().map(|node| node.to_string()).collect();
        Refusal::NotReady(format!("the cluster has not formed, it waits for node {}", missing.join(", ")))
    }

    fn status(&self, now: Time, histograms: bool, report: impl FnOnce(Status<'_>)) {
        let identity = self.formation.identity();
        let replica = self.replica.as_ref();
        let index = |of: fn(&Replica) -> Index| replica.map_or(0, of);
        let measured = if histograms { self.measured() } else { Measured::default() };
        let not_asked_for = LagSerialised::default();
        let followers = self.followers().enumerate().map(|(at, (node, progress))| {
            let lag = measured.lags.get(at).unwrap_or(&not_asked_for);
            FollowerStatus {
                node,
                reachable: progress.is_reachable(now, self.settings.election_timeout),
                obstacle: progress.obstacle,
                checkpoint: Self::checkpoint_transfer(progress),
                durable: progress.durable,
                applied: progress.applied,
                entries_behind: index(Replica::last) - progress.durable,
                bytes_behind: self.bytes_behind(progress.durable),
                lag_now_us: self.lag.now_us(node, now),
                lag_us: &lag.total,
                queue_us: &lag.queue,
                network_us: &lag.network,
                disk_us: &lag.disk,
                sync_us: &lag.sync,
                apply_us: &lag.apply,
                lag_entries: &lag.entries,
            }
        });
        report(Status {
            node: identity.node,
            cluster: &identity.cluster,
            formed: self.formation.is_formed(),
            role: if replica.is_some_and(Replica::is_leader) { Role::Leader } else { Role::Follower },
            term: replica.map_or(0, Replica::term),
            leader: self.leader_hint(),
            quorums: identity.quorums,
            durability: identity.durability,
            last: index(Replica::last),
            durable: index(Replica::durable),
            commit: index(Replica::commit),
            applied: index(Replica::applied),
            checkpoint: self.checkpoints.newest(),
            log_first: self.reader.first(),
            log_bytes: self.reader.bytes(),
            log_bytes_held: self.log_bytes_held(),
            keys: self.store.keys(),
            store_bytes: self.store.bytes(),
            memory_bytes: self.store.memory_bytes(),
            memory_bytes_max: self.memory.bytes_max(),
            obstacle: self.obstacle(),
            disk: self.disk_status(&measured.batches),
            followers: followers.collect(),
        });
    }

    fn measured(&self) -> Measured {
        let mut serialiser = Serialiser::new();
        Measured {
            batches: self.batches.serialised(&mut serialiser),
            lags: self.followers().map(|(node, _)| self.lag.serialised(node, &mut serialiser)).collect(),
        }
    }

    pub(super) fn follower(&self, node: NodeId) -> Option<&crate::replica::Progress> {
        self.replica.as_ref().and_then(|replica| replica.follower(node))
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = (NodeId, &crate::replica::Progress)> {
        self.replica.iter().flat_map(Replica::followers)
    }

    /// Exact where the entries are in memory; older ones count as those in memory do on the average, and to the size
    /// of a log segment if there are none.
    fn bytes_behind(&self, durable: Index) -> u64 {
        let Some(replica) = &self.replica else { return 0 };
        let in_memory = replica.bytes_above(durable) as u64;
        let behind = replica.last().saturating_sub(durable);
        match replica.tail_first() {
            _ if behind == 0 => 0,
            Some(first) if durable + 1 >= first => in_memory,
            Some(first) if first <= replica.last() => {
                let entries = u128::from(replica.last() - first + 1);
                (u128::from(in_memory) * u128::from(behind) / entries) as u64
            }
            _ => self.reader.bytes() - self.reader.bytes_below(durable + 1),
        }
    }

    /// Bytes of log that the checkpoints cover and only a follower still needs.
    fn log_bytes_held(&self) -> u64 {
        let covered = self.checkpoints.covered();
        let kept = covered.min(self.lowest_needed_by_followers());
        self.reader.bytes_below(covered).saturating_sub(self.reader.bytes_below(kept))
    }

    fn disk_status<'a>(&self, batches: &'a BatchesSerialised) -> DiskStatus<'a> {
        DiskStatus {
            syncs: self.counters.syncs(),
            entries: self.counters.entries(),
            bytes: self.counters.bytes(),
            busy_us: self.counters.busy().as_micros() as u64,
            sync_us: &batches.sync_us,
            batch_entries: &batches.entries,
            batch_bytes: &batches.bytes,
        }
    }
}

/// The histograms of a status; empty unless asked for.
#[derive(Default)]
struct Measured {
    batches: BatchesSerialised,
    /// In the order of the followers.
    lags: Vec<LagSerialised>,
}

/// Acknowledgement at another count than n, progress and sessions are in the protocol, but not done yet.
fn check_options(options: &WriteOptions) -> Result<(), Refusal> {
    let unsupported = |what: &str| Err(Refusal::Unsupported(what.to_owned()));
    match options {
        WriteOptions { acks: Acks::Copies(_) | Acks::All, .. } => {
            unsupported("acknowledgement at another count than the cluster's quorum")
        }
        WriteOptions { progress: true, .. } => unsupported("progressive receipts"),
        WriteOptions { session: Some(_), .. } => unsupported("sessions"),
        _ => Ok(()),
    }
}

fn deadline(now: Time, deadline_ms: u32) -> Option<Time> {
    (deadline_ms > 0).then(|| now + Duration::from_millis(deadline_ms.into()))
}

/// Items up to a count and a size, at least one.
fn page<'a>(found: &mut impl Iterator<Item = Item<'a>>, items_max: usize) -> Vec<Item<'a>> {
    let mut bytes = 0;
    let mut items = Vec::new();
    while items.len() < items_max && bytes < limits::SCAN_PAGE_BYTES_MAX {
        let Some(item) = found.next() else { break };
        bytes += item.key.len() + item.versioned.value.len();
        items.push(item);
    }
    items
}
