//! Answering clients.

use quorate_protocol::entry::{EndedSession, Payload};
use quorate_protocol::request::{self, Operation, Request, Write, WriteOptions};
use quorate_protocol::response::{
    DiskStatus, FollowerStatus, Item, Obstacle, Outcome, Refusal, Response, Role, Status,
};
use quorate_protocol::{Index, NodeId, limits};

use super::acknowledge::{Asker, Wish, wish};
use super::batches::BatchesSerialised;
use super::histograms::Serialiser;
use super::lag::LagSerialised;
use super::reads::deadline;
use super::{ClientId, HandingOver, Node, Outside};
use crate::replica::{AdmitError, HandOverError, ProposeError, Replica, Time};

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
        let asker = Asker { client, request: id, deadline: deadline(now, request.deadline_ms) };
        match &request.operation {
            Operation::Write { options, write } => {
                if let Some(known) = self.known_in_session(options, write) {
                    return respond(known);
                }
                let appended = self.write(now, options, write);
                self.wait_for(now, asker, appended, outside);
            }
            Operation::Get { key, .. } => match request::check_key(key) {
                Ok(()) => self.read(now, asker, &request.operation, outside),
                Err(error) => respond(Outcome::Refused(Refusal::BadRequest(error.to_string()))),
            },
            Operation::Scan { .. } => self.read(now, asker, &request.operation, outside),
            Operation::Admit { node } => {
                let appended = self.admit(now, *node);
                self.wait_for(now, asker, appended.map(|index| (index, Wish::Commit)), outside);
            }
            Operation::OpenSession => {
                let appended = self.propose_session(now, &Payload::OpenSession);
                self.wait_for(now, asker, appended.map(|index| (index, Wish::Commit)), outside);
            }
            Operation::CloseSession { session } => {
                let ended = EndedSession { session: *session, last_used: Index::MAX };
                let appended = self.propose_session(now, &Payload::EndSessions(vec![ended]));
                self.wait_for(now, asker, appended.map(|index| (index, Wish::Commit)), outside);
            }
            Operation::HandOver { to } => match self.begin_hand_over(now, *to) {
                Ok(()) => self.handing_over.push(HandingOver { client, request: id }),
                Err(refusal) => respond(Outcome::Refused(refusal)),
            },
            Operation::Status { histograms } => {
                self.status(now, *histograms, |status| respond(Outcome::Status(Box::new(status))))
            }
            Operation::Ping => respond(Outcome::Pong),
            Operation::Watch { range, after } => {
                if let Err(refusal) = self.watch(asker, range, *after) {
                    respond(Outcome::Refused(refusal));
                }
            }
            Operation::Cancel { request } => {
                self.watches.cancel(client, *request);
                respond(Outcome::Pong);
            }
        }
    }

    /// Answers a request as wished when its entry is applied, or before; at once if there is none.
    fn wait_for(
        &mut self,
        now: Time,
        asker: Asker,
        appended: Result<(Index, Wish), Refusal>,
        outside: &mut impl Outside,
    ) {
        match appended {
            Ok((index, wish)) => self.appended(now, index, asker, wish),
            Err(refusal) => asker.tell(Outcome::Refused(refusal), outside),
        }
    }

    fn write(
        &mut self,
        now: Time,
        options: &WriteOptions,
        write: &Write<'_>,
    ) -> Result<(Index, Wish), Refusal> {
        write.check().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        if options.session.is_some_and(|at| at.sequence < at.lowest_open) {
            return Err(Refusal::BadRequest("a write's number is below the lowest one that is open".into()));
        }
        let wish = wish(options, write, self.formation.identity().quorums)?;
        // A node that does not lead says that: whoever asks has to go elsewhere in any case.
        if self.replica.as_ref().is_some_and(Replica::is_leader) {
            self.takes(options, write, wish)?;
        }
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        let payload = Payload::Write { session: options.session, write: write.clone() };
        let index = replica.propose(now, &payload).map_err(|error| self.not_proposed(error))?;
        self.memory.appended(index, write, options.session.is_some());
        Ok((index, wish))
    }

    /// Whether this leader has room for a write, and knows enough to promise what it wishes.
    fn takes(&self, options: &WriteOptions, write: &Write<'_>, wish: Wish) -> Result<(), Refusal> {
        if let Some(obstacle) = self.disk_watch.obstacle() {
            return Err(obstacle.into());
        }
        if !self.memory.admits(&self.store, write, options.session.is_some()) {
            return Err(Obstacle::MemoryFull.into());
        }
        self.acknowledgements.has_room(wish)?;
        if options.session.is_some() && matches!(wish, Wish::Copies { .. }) {
            self.sessions_are_certain()?;
        }
        Ok(())
    }

    pub(super) fn not_proposed(&self, error: ProposeError) -> Refusal {
        match error {
            ProposeError::NotLeader => Refusal::NotLeader { leader: self.leader_hint() },
            ProposeError::NoQuorum { have, need } => Refusal::NoQuorum { have, need },
            ProposeError::Overloaded => Refusal::Overloaded(error.to_string()),
            ProposeError::HandingOver | ProposeError::JustElected => Refusal::NotReady(error.to_string()),
        }
    }

    /// Makes a replica a voting member that has taken the place of an earlier incarnation (R27).
    fn admit(&mut self, now: Time, node: NodeId) -> Result<Index, Refusal> {
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        replica.admit(now, node).map_err(|error| match error {
            AdmitError::NotLeader => Refusal::NotLeader { leader: self.leader_hint() },
            AdmitError::Unknown(_) | AdmitError::Leads(_) | AdmitError::IsMember(_) => {
                Refusal::BadRequest(error.to_string())
            }
            AdmitError::NotCaughtUp(_) | AdmitError::Busy | AdmitError::NoQuorum { .. } => {
                Refusal::NotReady(error.to_string())
            }
        })
    }

    fn begin_hand_over(&mut self, now: Time, to: Option<NodeId>) -> Result<(), Refusal> {
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        replica.hand_over(now, to).map_err(|error| match error {
            HandOverError::NotLeader => Refusal::NotLeader { leader: self.leader_hint() },
            HandOverError::Unreachable => Refusal::NotReady(error.to_string()),
            HandOverError::Configured | HandOverError::Unknown(_) | HandOverError::LeadsAlready(_) => {
                Refusal::BadRequest(error.to_string())
            }
        })
    }

    pub(super) fn not_formed(&self) -> Refusal {
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
                voting: progress.voting,
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
            role: replica.map_or(Role::Follower, role),
            term: replica.map_or(0, Replica::term),
            voted_for: replica.and_then(|replica| replica.promised().voted_for),
            leader: self.leader_hint(),
            elections: replica.map(Replica::elections).unwrap_or_default(),
            sent: self.sent,
            received: self.received,
            quorums: identity.quorums,
            leadership: identity.leadership,
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
            voting: replica.is_some_and(Replica::is_voting),
            repairing: replica.is_some_and(|replica| replica.held().is_some()),
            sessions: self.store.sessions(),
            session_results: self.store.session_results(),
            watches: self.watches.count() as u64,
            history_first: self.store.history().oldest(),
            history_bytes: self.store.history().bytes(),
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

fn role(replica: &Replica) -> Role {
    match replica {
        replica if replica.is_leader() => Role::Leader,
        replica if replica.is_candidate() => Role::Candidate,
        _ => Role::Follower,
    }
}

/// The histograms of a status; empty unless asked for.
#[derive(Default)]
struct Measured {
    batches: BatchesSerialised,
    /// In the order of the followers.
    lags: Vec<LagSerialised>,
}

/// Items up to a count and a size, at least one.
pub(super) fn page<'a>(found: &mut impl Iterator<Item = Item<'a>>, items_max: usize) -> Vec<Item<'a>> {
    let mut bytes = 0;
    let mut items = Vec::new();
    while items.len() < items_max && bytes < limits::SCAN_PAGE_BYTES_MAX {
        let Some(item) = found.next() else { break };
        bytes += item.key.len() + item.versioned.value.len();
        items.push(item);
    }
    items
}
