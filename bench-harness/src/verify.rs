//! Did the cluster keep what it acknowledged? All nodes are read in full and compared with what the load
//! wrote, and with each other.
//!
//! Each node is asked for its own copy (local scans), after every node has applied everything that the leader has
//! committed. Nothing may write meanwhile.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Context;
use quorate_client::load::{KeyPrefix, Record, key, key_number};
use quorate_client::{Client, KeyValue, Range, RangeEnd, prefix};
use quorate_protocol::{Index, limits};
use serde::{Deserialize, Serialize};

use crate::members::Members;
use crate::visible;

/// How long a follower may get nowhere with what the leader has committed, once the load has ended.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

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

/// Waits for the followers and checks every node. Fails when `check_running` does.
///
/// With `everything` the store must hold nothing but what the load and the probes wrote; without it, other keys
/// are somebody else's.
pub async fn verify(
    members: &Members,
    record: &Record,
    everything: bool,
    check_running: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Verified> {
    let leader = members.wait_caught_up(CATCH_UP_PATIENCE, check_running).await?;
    let expected = |number: u64, stored: Option<(Index, &[u8])>| {
        record.check(number, stored).map_err(|violation| violation.to_string())
    };
    let mut check = Check::new(record.prefix(), record.keys(), &expected);
    let range = match everything {
        true => Range { start: b"", end: RangeEnd::Open },
        false => prefix(record.prefix().as_bytes()),
    };
    let leaders = check_node(members, leader, range, &mut check).await?;
    let mut differing = Vec::new();
    for follower in members.others(leader) {
        if check_node(members, follower, range, &mut check).await? != leaders {
            differing.push(follower);
        }
    }
    Ok(check.result(leaders.keys, differing))
}

/// Checks one node's copy.
async fn check_node(
    members: &Members,
    node: u8,
    range: Range<'_>,
    check: &mut Check<'_>,
) -> anyhow::Result<Sum> {
    let client: Client = members.client(node)?.with_deadline(PAGE_TIME_MAX);
    let mut scan = client.scan(range).items_per_page(limits::SCAN_ITEMS_MAX);
    let mut copy = Replica::new(node);
    while let Some(page) = scan.next_page().await {
        let page = page.with_context(|| format!("node {node} cannot be read for verification"))?;
        page.items.iter().for_each(|item| check.item(&mut copy, item));
    }
    Ok(check.end(copy))
}

/// Judges what is stored of a key, by its number; the error says what is wrong.
type Expected<'a> = dyn Fn(u64, Option<(Index, &[u8])>) -> Result<(), String> + 'a;

/// Goes through the copies of all nodes.
struct Check<'a> {
    prefix: &'a KeyPrefix,
    /// Keys that the load drew from: their numbers are below this.
    keys: u64,
    expected: &'a Expected<'a>,
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
    fn new(prefix: &'a KeyPrefix, keys: u64, expected: &'a Expected<'a>) -> Self {
        Self { prefix, keys, expected, wrong: BTreeSet::new(), first: None }
    }

    /// The next item of a copy, in order of keys.
    fn item(&mut self, copy: &mut Replica, item: &KeyValue) {
        (&item.key, item.revision, &item.value).hash(&mut copy.hasher);
        if visible::is_probe(self.prefix, &item.key) {
            return; // It need only be alike everywhere.
        }
        copy.keys += 1;
        match key_number(self.prefix, &item.key) {
            Some(number) => {
                self.absent(copy, number);
                copy.next = number + 1;
                let stored = Some((item.revision, item.value.as_slice()));
                let verdict = (self.expected)(number, stored);
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
        self.absent(&mut copy, self.keys);
        Sum { hash: copy.hasher.finish(), keys: copy.keys }
    }

    /// The copy lacks the keys from the last one seen up to number `end`.
    fn absent(&mut self, copy: &mut Replica, end: u64) {
        for number in copy.next..end {
            if let Err(violation) = (self.expected)(number, None) {
                copy.keys += 1;
                self.judge(copy.node, &key(self.prefix, number), Err(violation));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The load wrote keys 1 and 2, last at revision 10 each.
    fn expected(number: u64, stored: Option<(Index, &[u8])>) -> Result<(), String> {
        match (number, stored) {
            (1 | 2, Some((10, b"v"))) | (0 | 3, None) => Ok(()),
            _ => Err(format!("key {number} is wrong")),
        }
    }

    fn item(number: u64, revision: Index, value: &str) -> KeyValue {
        KeyValue {
            key: key(&KeyPrefix::DEFAULT, number).to_vec(),
            revision,
            value: value.as_bytes().to_vec(),
        }
    }

    fn read(check: &mut Check<'_>, node: u8, items: &[KeyValue]) -> Sum {
        let mut copy = Replica::new(node);
        items.iter().for_each(|item| check.item(&mut copy, item));
        check.end(copy)
    }

    fn whole() -> [KeyValue; 2] {
        [item(1, 10, "v"), item(2, 10, "v")]
    }

    #[test]
    fn equal_whole_copies_are_clean() {
        let mut check = Check::new(&KeyPrefix::DEFAULT, 4, &expected);
        let leader = read(&mut check, 1, &whole());
        assert!(read(&mut check, 2, &whole()) == leader);
        let verified = check.result(leader.keys, Vec::new());
        assert_eq!(verified, Verified { keys: 2, ..Verified::default() });
        assert!(verified.is_clean());
    }

    #[test]
    fn a_key_that_one_replica_lacks_is_lost_wherever_it_stands() {
        for (missing, rest) in [(1, item(2, 10, "v")), (2, item(1, 10, "v"))] {
            let mut check = Check::new(&KeyPrefix::DEFAULT, 4, &expected);
            let leader = read(&mut check, 1, &whole());
            assert!(read(&mut check, 3, &[rest]) != leader);
            let verified = check.result(leader.keys, vec![3]);
            assert_eq!((verified.keys, verified.lost), (2, 1));
            assert_eq!(verified.first, Some(format!("node 3, key {missing} is wrong")));
            assert!(!verified.is_clean());
        }
    }

    #[test]
    fn a_key_that_all_replicas_lack_is_lost_once() {
        let mut check = Check::new(&KeyPrefix::DEFAULT, 4, &expected);
        let copy = [item(2, 10, "v")];
        let leader = read(&mut check, 1, &copy);
        assert!(read(&mut check, 2, &copy) == leader, "they agree, and are wrong");
        let verified = check.result(leader.keys, Vec::new());
        assert_eq!((verified.keys, verified.lost, verified.is_clean()), (2, 1, false));
    }

    #[test]
    fn another_revision_value_or_key_is_found() {
        let stray = KeyValue { key: b"stray".to_vec(), revision: 1, value: Vec::new() };
        for wrong in [item(2, 9, "v"), item(2, 10, "w"), stray] {
            let mut check = Check::new(&KeyPrefix::DEFAULT, 4, &expected);
            let leader = read(&mut check, 1, &whole());
            assert!(read(&mut check, 2, &[item(1, 10, "v"), wrong]) != leader);
            assert!(check.result(leader.keys, vec![2]).lost > 0);
        }
    }
}
