//! `quorate status`: each node asked for itself.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use quorate_protocol::Leadership;
use quorate_protocol::response::{CheckpointTransfer, ElectionStatus, FollowerStatus, MessageCounts, Status};
use serde_json::{Value as Json, json};
use smol::net::TcpStream;
use smol::{Timer, future};

use super::arguments::{Arguments, Format};
use super::exit::{Exit, Failure};
use crate::{Client, Error, NodeStatus, Obstacle, Role};

/// How long a node has to answer before it is found out whether anybody listens there at all.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a node said, or why it said nothing.
type Asked = (String, Result<NodeStatus, String>);

/// Asks all nodes at once, and prints what each said.
pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Failure> {
    let asking: Vec<_> =
        arguments.servers.iter().map(|server| smol::spawn(ask(server.clone(), arguments.timeout))).collect();
    let mut nodes = Vec::new();
    for answer in asking {
        nodes.push(answer.await);
    }
    match arguments.format {
        Format::Text => write!(out, "{}", text(&nodes))?,
        Format::Json => match nodes.as_slice() {
            [node] => writeln!(out, "{}", node_json(node))?,
            nodes => writeln!(out, "{}", Json::from_iter(nodes.iter().map(node_json)))?,
        },
    }
    match nodes.into_iter().find_map(|(_, answer)| answer.is_ok().then_some(())) {
        Some(()) => Ok(()),
        None => {
            let message = "none of the nodes could be asked; check --servers, and that they run";
            Err(Failure::new(Exit::Later, message))
        }
    }
}

async fn ask(server: String, timeout: Duration) -> Asked {
    let answer = async {
        let builder =
            Client::builder().servers([&server]).discover(false).deadline(timeout).connect_timeout(timeout);
        builder.connect()?.status(false).await
    };
    let answer = async { answer.await.map_err(|error: Error| error.to_string()) };
    let answer = future::or(answer, refused(&server)).await;
    (server, answer)
}

/// Ends only if the connection is refused: the client would try until its deadline, and who asks how nodes
/// are wants to know which are down now.
async fn refused<T>(server: &str) -> Result<T, String> {
    Timer::after(PATIENCE).await;
    match TcpStream::connect(server).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            Err("connection refused: no node listens there".into())
        }
        _ => future::pending().await,
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
    }
}

fn text(nodes: &[Asked]) -> String {
    let mut table = new_table([
        "server", "node", "role", "term", "leader", "quorum", "last", "durable", "commit", "applied", "keys",
    ]);
    for (server, answer) in nodes {
        match answer {
            Ok(status) => table.add_row(row(server, &status.view())),
            Err(_) => table.add_row([server.as_str(), "", "not reached"]),
        };
    }
    let mut text = format!("{table}\n");
    let statuses: Vec<_> =
        nodes.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.view())).collect();
    if !statuses.is_empty() {
        text += &format!("elections since each node started\n{}\n", elections_table(&statuses));
        text += &format!("what clients have of each node\n{}\n", clients_table(&statuses));
        text += &format!("messages sent/received since each node started\n{}\n", messages_table(&statuses));
    }
    for (server, answer) in nodes {
        match answer {
            Ok(status) if !status.view().followers.is_empty() => {
                let status = status.view();
                let followers = followers_table(&status.followers);
                text += &format!("followers, as node {} sees them\n{followers}\n", status.node);
            }
            Ok(_) => {}
            Err(error) => text += &format!("{server}: {error}\n"),
        }
    }
    text
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn row(server: &str, status: &Status<'_>) -> [String; 11] {
    let quorums = status.quorums;
    let formed = if status.formed { "" } else { ", not formed" };
    let obstacle =
        status.obstacle.map_or(String::new(), |obstacle| format!(", {}", obstacle_words(obstacle)));
    let voting = if status.voting || !status.formed { "" } else { ", not admitted" };
    let repairing = if status.repairing { ", gets its log anew" } else { "" };
    [
        server.into(),
        status.node.to_string(),
        format!("{}{formed}{voting}{repairing}{obstacle}", role(status.role)),
        status.term.to_string(),
        status.leader.as_ref().map_or("unknown".into(), |leader| leader.node.to_string()),
        format!("{} of {}", quorums.quorum(), quorums.replicas()),
        status.last.to_string(),
        status.durable.to_string(),
        status.commit.to_string(),
        status.applied.to_string(),
        status.keys.to_string(),
    ]
}

/// What each node has seen of elections. A round is one of heartbeats that confirmed a leader for reads.
fn elections_table(statuses: &[Status<'_>]) -> Table {
    let mut table = new_table([
        "node", "vote", "asked", "stood", "won", "voted", "refused", "ended", "followed", "cut", "rounds",
    ]);
    for status in statuses {
        let ElectionStatus {
            pre_votes,
            stood,
            won,
            votes_given,
            votes_refused,
            stepped_down,
            followed,
            truncations,
            confirmations,
        } = status.elections;
        let counts = [
            pre_votes,
            stood,
            won,
            votes_given,
            votes_refused,
            stepped_down,
            followed,
            truncations,
            confirmations,
        ];
        let vote = status.voted_for.map_or("none".to_owned(), |node| node.to_string());
        table.add_row(
            [status.node.to_string(), vote].into_iter().chain(counts.map(|count| count.to_string())),
        );
    }
    table
}

/// Sessions with the results kept for them, watches with the changes kept for them.
fn clients_table(statuses: &[Status<'_>]) -> Table {
    let mut table =
        new_table(["node", "sessions", "results", "watches", "changes kept behind", "their bytes"]);
    for status in statuses {
        let &Status { sessions, session_results, watches, history_first, history_bytes, .. } = status;
        let counts = [sessions, session_results, watches, history_first, history_bytes];
        table.add_row(std::iter::once(status.node.to_string()).chain(counts.map(|count| count.to_string())));
    }
    table
}

fn messages_table(statuses: &[Status<'_>]) -> Table {
    let mut table = new_table(["node", "append", "ack", "reject", "request vote", "vote", "other"]);
    for status in statuses {
        let counts = |counts: &MessageCounts| {
            let MessageCounts { append, ack, reject, request_vote, vote, other } = *counts;
            [append, ack, reject, request_vote, vote, other]
        };
        let both = counts(&status.sent).into_iter().zip(counts(&status.received));
        let both = both.map(|(sent, received)| format!("{sent}/{received}"));
        table.add_row(std::iter::once(status.node.to_string()).chain(both));
    }
    table
}

fn followers_table(followers: &[FollowerStatus<'_>]) -> Table {
    let mut table =
        new_table(["node", "reachable", "durable", "applied", "entries behind", "bytes behind", "lag"]);
    for follower in followers {
        table.add_row([
            follower.node.to_string(),
            reachable(follower),
            follower.durable.to_string(),
            follower.applied.to_string(),
            follower.entries_behind.to_string(),
            follower.bytes_behind.to_string(),
            format!("{:.3} ms", follower.lag_now_us as f64 / 1000.0),
        ]);
    }
    table
}

fn reachable(follower: &FollowerStatus<'_>) -> String {
    match follower {
        FollowerStatus { obstacle: Some(obstacle), .. } => format!("no, {}", obstacle_words(*obstacle)),
        FollowerStatus { checkpoint: Some(checkpoint), .. } => {
            format!("no, {}", checkpoint_words(checkpoint))
        }
        FollowerStatus { reachable: true, voting: false, .. } => "yes, not admitted".into(),
        FollowerStatus { reachable: true, .. } => "yes".into(),
        _ => "no".into(),
    }
}

fn checkpoint_words(checkpoint: &CheckpointTransfer) -> String {
    let CheckpointTransfer { index, bytes_received, bytes_total } = checkpoint;
    format!("is sent checkpoint {index}: {} of {} MiB", bytes_received >> 20, bytes_total.div_ceil(1 << 20))
}

fn obstacle_words(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::DiskFull => "disk full",
        Obstacle::MemoryFull => "memory full",
        Obstacle::DiskStalled => "disk stalled",
    }
}

fn node_json((server, answer): &Asked) -> Json {
    match answer {
        Ok(status) => status_json(server, &status.view()),
        Err(error) => json!({ "server": server, "reached": false, "error": error }),
    }
}

fn status_json(server: &str, status: &Status<'_>) -> Json {
    json!({
        "server": server,
        "reached": true,
        "node": status.node.get(),
        "cluster": status.cluster,
        "formed": status.formed,
        "role": role(status.role),
        "term": status.term,
        "voted_for": status.voted_for.map(|node| node.get()),
        "leader": status.leader.as_ref().map(|leader| leader.node.get()),
        "leader_address": status.leader.as_ref().map(|leader| leader.address.as_str()),
        "replicas": status.quorums.replicas(),
        "quorum": status.quorums.quorum(),
        "election_quorum": status.quorums.election_quorum(),
        "leadership": leadership(&status.leadership),
        "durability": status.durability.to_string(),
        "elections": status.elections,
        "sent": status.sent,
        "received": status.received,
        "last": status.last,
        "durable": status.durable,
        "commit": status.commit,
        "applied": status.applied,
        "checkpoint": status.checkpoint,
        "log_first": status.log_first,
        "log_bytes": status.log_bytes,
        "log_bytes_held": status.log_bytes_held,
        "keys": status.keys,
        "store_bytes": status.store_bytes,
        "memory_bytes": status.memory_bytes,
        "memory_bytes_max": status.memory_bytes_max,
        "obstacle": status.obstacle,
        "voting": status.voting,
        "repairing": status.repairing,
        "clients": clients_json(status),
        "disk": {
            "syncs": status.disk.syncs,
            "entries": status.disk.entries,
            "bytes": status.disk.bytes,
            "busy_us": status.disk.busy_us,
        },
        "followers": status.followers.iter().map(follower_json).collect::<Vec<_>>(),
    })
}

fn clients_json(status: &Status<'_>) -> Json {
    json!({
        "sessions": status.sessions,
        "session_results": status.session_results,
        "watches": status.watches,
        "history_first": status.history_first,
        "history_bytes": status.history_bytes,
    })
}

/// How the leader is found, in one word; a configured one is the leader that is told besides.
fn leadership(leadership: &Leadership) -> &'static str {
    match leadership {
        Leadership::Configured(_) => "configured",
        Leadership::Elected => "elected",
    }
}

fn follower_json(follower: &FollowerStatus<'_>) -> Json {
    json!({
        "node": follower.node.get(),
        "voting": follower.voting,
        "reachable": follower.reachable,
        "obstacle": follower.obstacle,
        "checkpoint": follower.checkpoint,
        "durable": follower.durable,
        "applied": follower.applied,
        "entries_behind": follower.entries_behind,
        "bytes_behind": follower.bytes_behind,
        "lag_us": follower.lag_now_us,
    })
}
