//! Golden scripts: commands to a [`Cluster`] in, what its replicas do out; one behaviour a file, in `scripts/`.
//!
//! A command's output is what comes of it, in order: `1: …` is what node 1 does, `1 → 2: …` what it sends. Nothing
//! happens unasked: what is sent waits until `deliver`, what is appended until `sync`. `#` begins a comment, `(…)`
//! around a command leaves its output out, `!` before it says that it is refused.
//!
//! ```text
//! cluster m=3 n=2 [leader=1] [lease=MS] [tail=BYTES]   all links up, time stands still
//! logs 1="1 1 3" 2="1 1"      gives nodes logs, as terms; for a new cluster only; no link is up then
//! elect 1                      two seconds pass, node 1 stands and wins, and all comes to rest
//! stand 1 …                    these nodes have heard no leader for too long, by their own clocks
//! silence                      two seconds pass, and nobody notices
//! pass 50 [1 2]                milliseconds pass; all notice, or only some
//! deliver [1 2]                what waits on all links, or from 1 to 2; not what is sent on the way
//! drop 1 2 · hold 1 2 · release 1 2       the same messages are lost, or kept back for later, once or more
//! cut 1 2 · connect 1 2 · isolate 1 · connect      links, by direction; of one node; all up
//! sync [1 …]                   disks do what they were given, and nodes hear of it
//! settle                       delivers and syncs until nothing is left to do
//! crash 1                      killed and started: what was not durable is gone, and its links are down
//! damage 1 2                   the same, and of its log only the first two entries are whole
//! wipe 1                       the same, with an empty disk in place of its own: another incarnation
//! checkpoint 1                 takes one of what is applied, and drops the log up to there
//! work [1 …]                   reads and writes, one each, that nodes have asked for: of logs, of checkpoints
//! propose 1 value · read 1 · hand-over 1 [2] · admit 1 3 · disk 1 stalled|full|fine
//! status                       role, indexes and log of every node; [… 1] where the log begins behind a checkpoint
//! ```
//!
//! Scripts are written by hand, their output is not:
//!
//! ```text
//! QUORATE_GOLDEN=write cargo test -p quorate-server --lib replica::tests::scripts
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use quorate_protocol::peer::{CheckpointAck, CheckpointChunk, Inquire, PeerMessage, Position, TimeoutNow};
use quorate_protocol::response::Obstacle;

use super::super::{Message, ReadState, ReadTicket};
use super::cluster::Cluster;
use super::*;
use crate::mutant::{Mutant, with};

/// Longer than any election timeout.
const LONG: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    /// Kept back, by link.
    held: BTreeMap<(u8, u8), Vec<Message>>,
    /// Reads that wait: (name, node, ticket).
    reads: Vec<(usize, u8, ReadTicket)>,
    reads_asked: usize,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> std::result::Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let said = self.perform(&command.name, &mut args)?;
        args.reject_next()?;
        let mut lines = match &mut self.cluster {
            Some(cluster) => cluster.trace.replace(Vec::new()).unwrap_or_default(),
            None => Vec::new(),
        };
        lines.extend(said);
        lines.extend(self.finished_reads());
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    }
}

impl Script {
    /// Returns what is to be said beside what the replicas do.
    fn perform(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Option<String>> {
        if name == "cluster" {
            return self.begin(args).map(Some);
        }
        if name == "release" {
            return self.release(pair(args)?.ok_or("between whom?")?).map(|()| None);
        }
        let cluster = self.cluster.as_mut().ok_or("a script begins with a cluster")?;
        match name {
            "logs" => {
                while let Some((id, terms)) = args.next_key() {
                    let terms: std::result::Result<Vec<Term>, _> = terms.split(' ').map(str::parse).collect();
                    cluster.give_log(id.parse()?, &terms?);
                }
            }
            "elect" => {
                cluster.now += LONG;
                stand(cluster, id(args)?);
                cluster.settle();
            }
            "stand" => ids(args)?.into_iter().for_each(|id| stand(cluster, id)),
            "silence" => cluster.now += LONG,
            "pass" => {
                cluster.now += Duration::from_millis(args.next_pos().ok_or("how long?")?.parse()?);
                let noticing = ids(args)?;
                let all = noticing.is_empty();
                cluster.ids().filter(|id| all || noticing.contains(id)).for_each(|id| cluster.tick(id));
            }
            "deliver" => deliver(cluster, pair(args)?),
            "drop" => drop(take(cluster, pair(args)?)),
            "hold" => {
                let link = pair(args)?.ok_or("between whom?")?;
                self.held.entry(link).or_default().extend(take(cluster, Some(link)));
            }
            "cut" => pair(args)?.into_iter().for_each(|(from, to)| cluster.disconnect(from, to)),
            "connect" => match pair(args)? {
                Some((from, to)) => cluster.connect(from, to),
                None => cluster.connect_all(),
            },
            "isolate" => cluster.isolate(id(args)?),
            "sync" => {
                let some = ids(args)?;
                cluster
                    .ids()
                    .filter(|id| some.is_empty() || some.contains(id))
                    .for_each(|id| cluster.sync(id));
            }
            "settle" => cluster.settle(),
            "crash" => cluster.crash(id(args)?),
            "damage" => cluster.damage(id(args)?, args.next_pos().ok_or("behind which entry?")?.parse()?),
            "wipe" => cluster.wipe(id(args)?),
            "checkpoint" => cluster.take_checkpoint(id(args)?),
            "work" => {
                let some = ids(args)?;
                for id in cluster.ids().filter(|id| some.is_empty() || some.contains(id)) {
                    cluster.answer_read(id, usize::MAX);
                    cluster.work_transfer(id);
                }
            }
            "propose" => {
                let (id, value) = (id(args)?, args.next_pos().ok_or("which value?")?.to_string());
                cluster.propose_to(id, value.as_bytes())?;
            }
            "read" => {
                let id = id(args)?;
                let ticket = cluster.turn(id, |replica, now| replica.request_read(now))?;
                self.reads_asked += 1;
                self.reads.push((self.reads_asked, id, ticket));
            }
            "hand-over" => {
                let (from, to) = (id(args)?, ids(args)?.first().copied());
                cluster.turn(from, |replica, now| replica.hand_over(now, to.map(node)))?;
            }
            "admit" => {
                let (leader, newcomer) = (id(args)?, node(id(args)?));
                cluster.turn(leader, |replica, now| replica.admit(now, newcomer))?;
            }
            "disk" => {
                let (id, obstacle) = (id(args)?, args.next_pos().ok_or("how is it?")?);
                cluster.set_obstacle(id, parse_obstacle(obstacle)?);
            }
            "status" => return Ok(Some(status(cluster))),
            other => return Err(format!("there is no command {other}").into()),
        }
        Ok(None)
    }

    fn begin(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<String> {
        let mut number = |key| args.take_key(key).map(str::parse::<u16>).transpose();
        let (m, n) = (number("m")?.ok_or("m?")? as u8, number("n")?.ok_or("n?")? as u8);
        let (leader, lease, tail) = (number("leader")?, number("lease")?, number("tail")?);
        self.cluster = Some(Cluster::with(m, n, |settings| {
            settings.leadership =
                leader.map_or(Leadership::Elected, |id| Leadership::Configured(node(id as u8)));
            settings.lease = lease.map(|ms| Duration::from_millis(ms.into()));
            settings.tail_bytes_max = tail.map_or(settings.tail_bytes_max, usize::from);
        }));
        (self.held, self.reads) = Default::default();
        let quorums = Quorums::new(m, n)?;
        Ok(format!("m={m} n={n} e={} r={}", quorums.election_quorum(), quorums.read_quorum()))
    }

    fn release(&mut self, link: (u8, u8)) -> Result<()> {
        let cluster = self.cluster.as_mut().ok_or("a script begins with a cluster")?;
        for message in self.held.get(&link).ok_or("nothing is held")? {
            cluster.receive(link.0, link.1, message);
        }
        Ok(())
    }

    fn finished_reads(&mut self) -> Vec<String> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let mut lines = Vec::new();
        self.reads.retain(|(name, id, ticket)| {
            let replica = cluster.replica(*id);
            let line = match replica.read_state(ticket) {
                ReadState::Ready => format!("{id}: answers read {name} with {} entries", replica.applied()),
                ReadState::Lost => format!("{id}: cannot answer read {name}"),
                ReadState::Waiting => return true,
            };
            lines.push(line);
            false
        });
        lines
    }
}

fn id(args: &mut ArgumentConsumer<'_>) -> Result<u8> {
    Ok(args.next_pos().ok_or("which node?")?.parse()?)
}

fn ids(args: &mut ArgumentConsumer<'_>) -> Result<Vec<u8>> {
    let mut ids = Vec::new();
    while let Some(id) = args.next_pos() {
        ids.push(id.parse()?);
    }
    Ok(ids)
}

fn pair(args: &mut ArgumentConsumer<'_>) -> Result<Option<(u8, u8)>> {
    match ids(args)?[..] {
        [] => Ok(None),
        [from, to] => Ok(Some((from, to))),
        _ => Err("from whom to whom?".into()),
    }
}

fn parse_obstacle(name: &str) -> Result<Option<Obstacle>> {
    match name {
        "stalled" => Ok(Some(Obstacle::DiskStalled)),
        "full" => Ok(Some(Obstacle::DiskFull)),
        "fine" => Ok(None),
        other => Err(format!("a disk is not {other}").into()),
    }
}

/// A node's clock is ahead until it stands, or asks where other logs end; not for long, as some never do.
fn stand(cluster: &mut Cluster, id: u8) {
    let now = cluster.now;
    let said = |cluster: &Cluster| cluster.trace.as_ref().map_or(0, Vec::len);
    let before = said(cluster);
    for _ in 0..10 {
        if said(cluster) == before {
            cluster.tick(id);
            cluster.now += LONG;
        }
    }
    cluster.now = now;
}

fn take(cluster: &mut Cluster, link: Option<(u8, u8)>) -> Vec<Message> {
    link.into_iter().flat_map(|(from, to)| std::mem::take(&mut cluster.link(from, to).queue)).collect()
}

/// What waits now: answers wait for the next delivery.
fn deliver(cluster: &mut Cluster, link: Option<(u8, u8)>) {
    let links = link.map_or_else(|| cluster.pairs(), |link| vec![link]);
    let waiting: Vec<_> = links.into_iter().map(|link| (link, take(cluster, Some(link)))).collect();
    for ((from, to), messages) in waiting {
        messages.iter().for_each(|message| cluster.receive(from, to, message));
    }
}

fn status(cluster: &Cluster) -> String {
    let lines = cluster.ids().zip(cluster.members()).map(|(id, member)| {
        let replica = &member.replica;
        let role = match (replica.is_leader(), replica.is_candidate(), replica.leader()) {
            (true, ..) => "leads".to_owned(),
            (_, true, _) => "stands".to_owned(),
            (_, _, Some(leader)) => format!("follows {leader}"),
            _ => "follows nobody".to_owned(),
        };
        let (durable, commit) = (replica.durable(), replica.commit());
        let lacks = match replica.held() {
            Some((term, Index::MAX)) => format!(", held entries of term {term}"),
            Some((term, index)) => format!(", held {index} of term {term}"),
            None => String::new(),
        };
        let voting = if replica.is_voting() { "" } else { ", is not admitted" };
        let dropped = (member.disk.checkpoint > 0).then(|| "…".to_owned());
        let in_log = member.disk.checkpoint + 1..=replica.last();
        let terms = in_log.map(|index| replica.terms().term(index).unwrap_or(0).to_string());
        let log = dropped.into_iter().chain(terms).collect::<Vec<_>>().join(" ");
        format!(
            "{id}: {role} in term {}, durable {durable}, commit {commit}, log [{log}]{lacks}{voting}",
            replica.term()
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A message as scripts show it.
pub(super) fn describe(message: &Message) -> String {
    match message.to_wire() {
        PeerMessage::Append(append) => {
            let count = entry::iterate(append.entries).count() as Index;
            let (first, last) = (append.previous_index + 1, append.previous_index + count);
            let entries = if count == 0 { "nothing".into() } else { format!("{first}..={last}") };
            let (previous, term) = (append.previous_index, append.previous_term);
            let round = if append.round == 0 { String::new() } else { format!(", round {}", append.round) };
            let (of, commit) = (append.term, append.commit);
            format!("append {entries} after {previous} of term {term}, commit {commit}{round}, in term {of}")
        }
        PeerMessage::Ack(ack) => {
            let round = if ack.round == 0 { String::new() } else { format!(", round {}", ack.round) };
            format!("ack {}, applied {}{round}, in term {}", ack.durable, ack.applied, ack.term)
        }
        PeerMessage::Reject(reject) => {
            let round = if reject.round == 0 { String::new() } else { format!(", round {}", reject.round) };
            format!(
                "reject after {}: {:?}{round}, in term {}",
                reject.previous_index, reject.reason, reject.term
            )
        }
        PeerMessage::RequestVote(request) => {
            let kind = if request.pre_vote { "would you vote" } else { "vote" };
            let because = if request.hand_over { ", as the leader wants" } else { "" };
            let (index, of) = (request.last_index, request.last_term);
            format!("{kind} for me in term {}{because}; my last is {index} of term {of}", request.term)
        }
        PeerMessage::Vote(vote) => {
            let answer = if vote.granted { "yes" } else { "no" };
            let kind = if vote.pre_vote { "would vote" } else { "vote" };
            format!("{kind}: {answer}, in term {}", vote.term)
        }
        PeerMessage::TimeoutNow(TimeoutNow { term, needs: 0 }) => format!("stand now, in term {term}"),
        PeerMessage::TimeoutNow(TimeoutNow { term, needs }) => {
            format!("stand if {needs} would vote for you, in term {term}")
        }
        PeerMessage::Inquire(Inquire { term, pre_vote, .. }) => {
            let kind = if pre_vote { "would you say" } else { "say" };
            format!("{kind} where your log ends, in term {term}")
        }
        PeerMessage::Position(Position { term, pre_vote, last_index, last_term, .. }) => {
            let kind = if pre_vote { "would say" } else { "log ends" };
            format!("{kind}: at {last_index} of term {last_term}, in term {term}")
        }
        PeerMessage::CheckpointChunk(chunk) => {
            let CheckpointChunk { term, index, offset, bytes, .. } = chunk;
            let end = offset + bytes.len() as u64;
            match bytes.len() {
                0 => {
                    format!("how much have you of checkpoint {index}? round {}, in term {term}", chunk.round)
                }
                _ => format!(
                    "bytes {offset}..{end} of {} of checkpoint {index}, in term {term}",
                    chunk.total_bytes
                ),
            }
        }
        PeerMessage::CheckpointAck(CheckpointAck { term, index, round, state }) => {
            let round = if round == 0 { String::new() } else { format!(", round {round}") };
            format!("checkpoint {index}: {state:?}{round}, in term {term}")
        }
        other => format!("{other:?}"),
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/replica/tests/scripts")
}

#[test]
fn every_script_gives_what_is_written_in_it() {
    let mut paths: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    let writes = std::env::var("QUORATE_GOLDEN").as_deref() == Ok("write");
    for path in &paths {
        let input = std::fs::read_to_string(path).unwrap();
        assert!(input.starts_with("# "), "{}: the first line says what it shows", path.display());
        let output = goldenscript::generate(&mut Script::default(), &input)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match writes {
            true => std::fs::write(path, &output).unwrap(),
            false => assert_eq!(output, input, "{}", path.display()),
        }
    }
    assert!(paths.len() >= 33, "{} scripts", paths.len());
}

/// The small model needs three terms, an entry and a crash to show this one.
#[test]
fn the_script_of_stale_acks_shows_when_they_count() {
    let input = std::fs::read_to_string(folder().join("a_stale_ack_of_an_old_term_counts_nothing")).unwrap();
    let run = || goldenscript::generate(&mut Script::default(), &input);
    let output = with(Mutant::AckWithoutTerm, run).unwrap();
    assert_ne!(output, input);
}
