//! Did the cluster keep what it acknowledged? All nodes are read in full and compared with what the load
//! wrote, and with each other.
//!
//! Each node is asked for its own copy (a linearizable scan on the leader, local ones on followers), after
//! every follower has applied everything that the leader has committed. Nothing may write meanwhile.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Context;
use quorate_client::load::{Record, key_number};
use quorate_client::{Client, KeyValue, Range, RangeEnd};
use quorate_protocol::limits;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

/// How long followers may take to apply what the leader has committed, once the load has ended.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(60);

/// How long one page of a scan may take.
const PAGE_TIME_MAX: Duration = Duration::from_secs(10);

/// What the check of all replicas found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Keys that were checked on every replica.
    pub keys: u64,
    /// Keys of which a replica lacks an acknowledged write, or holds a value that nothing explains.
    pub lost: u64,
    /// Nodes whose keys, revisions or values differ from the leader's.
    pub differing: Vec<u8>,
    /// The first violation, in words.
    pub first: Option<String>,
}

impl Verified {
    /// Whether all is as it must be.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.differing.is_empty()
    }
}

/// Waits for the followers and checks every node.
pub async fn verify(cluster: &mut Cluster, record: &Record) -> anyhow::Result<Verified> {
    let leader = cluster.leader();
    let commit = cluster.client(leader)?.status(false).await.context("the leader's status")?.view().commit;
    for follower in cluster.followers().collect::<Vec<_>>() {
        cluster.wait_applied(follower, commit, CATCH_UP_TIME_MAX).await?;
    }
    let mut check = Check::new(record);
    let leaders = check_node(cluster, leader, &mut check).await?;
    let mut differing = Vec::new();
    for follower in cluster.followers() {
        if check_node(cluster, follower, &mut check).await? != leaders {
            differing.push(follower);
        }
    }
    Ok(check.result(leaders.keys, differing))
}

/// Checks one node's copy.
async fn check_node(cluster: &Cluster, node: u8, check: &mut Check<'_>) -> anyhow::Result<Sum> {
    let client: Client = cluster.client(node)?.with_deadline(PAGE_TIME_MAX);
    let everything = Range { start: b"", end: RangeEnd::Open };
    let mut pages = client.scan_pages(everything, limits::SCAN_ITEMS_MAX);
    let mut copy = Replica::new(node);
    while let Some(page) = pages.next().await {
        let page = page.with_context(|| format!("node {node} cannot be read for verification"))?;
        page.items.iter().for_each(|item| check.item(&mut copy, item));
    }
    Ok(check.end(copy))
}

/// Goes through the copies of all nodes.
struct Check<'a> {
    record: &'a Record,
    wrong: BTreeSet<Vec<u8>>,
    first: Option<String>,
}

/// One node's copy, as far as it was read.
struct Replica {
    node: u8,
    hasher: DefaultHasher,
    /// The first key number that has not been checked.
    next: u64,
    /// Keys that it has or should have.
    keys: u64,
}

/// A whole copy, summed up.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum {
    /// Of every key, revision and value.
    hash: u64,
    /// Keys that it has or should have.
    keys: u64,
}

impl Replica {
    fn new(node: u8) -> Self {
        Self { node, hasher: DefaultHasher::new(), next: 0, keys: 0 }
    }
}

impl<'a> Check<'a> {
    fn new(record: &'a Record) -> Self {
        Self { record, wrong: BTreeSet::new(), first: None }
    }

    /// The next item of a copy, in order of keys.
    fn item(&mut self, copy: &mut Replica, item: &KeyValue) {
        (&item.key, item.revision, &item.value).hash(&mut copy.hasher);
        copy.keys += 1;
        match key_number(&item.key) {
            Some(number) => {
                self.absent(copy, number);
                copy.next = number + 1;
                let stored = Some((item.revision, item.value.as_slice()));
                let verdict = self.record.check(number, stored).map_err(|violation| violation.to_string());
                self.judge(copy.node, &item.key, verdict);
            }
            None => {
                let stray = format!("nobody wrote the key {}", item.key.escape_ascii());
                self.judge(copy.node, &item.key, Err(stray));
            }
        }
    }

    /// A copy has no further items.
    fn end(&mut self, mut copy: Replica) -> Sum {
        self.absent(&mut copy, self.record.keys());
        Sum { hash: copy.hasher.finish(), keys: copy.keys }
    }

    /// The copy lacks the keys from the last one seen up to number `end`.
    fn absent(&mut self, copy: &mut Replica, end: u64) {
        for number in copy.next..end {
            if let Err(violation) = self.record.check(number, None) {
                copy.keys += 1;
                self.judge(copy.node, &quorate_client::load::key(number), Err(violation.to_string()));
            }
        }
        copy.next = end;
    }

    fn judge(&mut self, node: u8, key: &[u8], verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            self.wrong.insert(key.to_vec());
            self.first.get_or_insert_with(|| format!("node {node}, {violation}"));
        }
    }

    fn result(self, keys: u64, differing: Vec<u8>) -> Verified {
        Verified { keys, lost: self.wrong.len() as u64, differing, first: self.first }
    }
}
