//! The nodes of a cluster as their clients reach them, whoever started it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_client::{Client, Consistency, Durability, NodeStatus, Role};
use quorate_protocol::Quorums;

use crate::cluster::wait_applied;
use crate::plan::Case;

/// How long one node may take to say how it is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Nodes by their numbers, with the addresses of their clients.
#[derive(Clone, Debug)]
pub struct Members {
    cluster: String,
    leader: u8,
    nodes: BTreeMap<u8, String>,
}

/// What a cluster that runs already says of itself.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its nodes, as far as they were named.
    pub members: Members,
    /// m and n.
    pub quorums: Quorums,
    /// What it calls durable.
    pub durability: Durability,
}

impl Members {
    /// Nodes with their client addresses; the leader must be among them.
    pub fn new(cluster: String, leader: u8, nodes: BTreeMap<u8, String>) -> Self {
        assert!(nodes.contains_key(&leader), "node {leader} leads and has no address");
        Self { cluster, leader, nodes }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node that leads.
    pub fn leader(&self) -> u8 {
        self.leader
    }

    /// All but the leader.
    pub fn followers(&self) -> impl Iterator<Item = u8> {
        self.nodes.keys().copied().filter(|node| *node != self.leader)
    }

    /// All, the leader first: it is where writes go.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        std::iter::once(self.leader).chain(self.followers())
    }

    /// Where clients reach a node of this cluster.
    pub fn address(&self, node: u8) -> &str {
        &self.nodes[&node]
    }

    /// Where clients reach the nodes, the leader first.
    pub fn addresses(&self) -> Vec<String> {
        self.ids().map(|node| self.nodes[&node].clone()).collect()
    }

    /// A client that asks one node alone, whatever its role, and takes its own state for an answer: for
    /// status, and for reads of what that replica holds. Linearizable reads at a follower go to the leader.
    pub fn client(&self, node: u8) -> anyhow::Result<Client> {
        client(&self.cluster, self.address(node), node == self.leader)
    }

    /// How each node is that answers, with histograms.
    pub async fn statuses(&self) -> anyhow::Result<BTreeMap<u8, NodeStatus>> {
        let mut statuses = BTreeMap::new();
        for node in self.ids() {
            match self.client(node)?.with_deadline(ANSWER_TIME_MAX).status(true).await {
                Ok(status) => drop(statuses.insert(node, status)),
                Err(error) if node == self.leader => {
                    return Err(error).context("the leader does not say how its followers are");
                }
                Err(_) => {} // It may have been stopped on purpose.
            }
        }
        Ok(statuses)
    }

    /// Waits until every follower has applied what the leader has committed by now. Fails when `check` does,
    /// or when a follower gets nowhere for as long as `patience`.
    pub async fn wait_caught_up(
        &self,
        patience: Duration,
        check: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let commit =
            self.client(self.leader)?.status(false).await.context("the leader's status")?.view().commit;
        for follower in self.followers() {
            wait_applied(&self.client(follower)?, commit, patience, check)
                .await
                .with_context(|| format!("node {follower} did not catch up"))?;
        }
        Ok(())
    }
}

/// A client of the one node at an address; unless that leads, its reads are of what the replica holds.
pub(crate) fn client(cluster: &str, address: &str, leads: bool) -> anyhow::Result<Client> {
    let builder = Client::builder().servers([address]).cluster(cluster);
    let client = builder.connect().context("a client cannot be set up")?;
    Ok(if leads { client } else { client.with_consistency(Consistency::Local) })
}

impl Found {
    /// Says in a case what the cluster says of itself.
    pub fn describe(&self, case: &mut Case) {
        (case.replicas, case.quorum) = (self.quorums.replicas(), self.quorums.quorum());
        case.durability = self.durability;
    }

    /// Asks the nodes at these addresses, of which one must lead. Each must answer.
    pub async fn ask(addresses: &[String]) -> anyhow::Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut leading = None;
        for address in addresses {
            let client =
                Client::builder().servers([address]).connect().context("a client cannot be set up")?;
            let status =
                client.with_deadline(ANSWER_TIME_MAX).status(false).await.with_context(|| {
                    format!("{address} does not say how it is: start it, or leave it out")
                })?;
            let view = status.view();
            if let Some(other) = nodes.insert(view.node.get(), address.clone()) {
                bail!("{address} and {other} are the same node: name each once");
            }
            if view.role == Role::Leader {
                leading = Some((view.node.get(), view.cluster.to_owned(), view.quorums, view.durability));
            }
        }
        let Some((leader, cluster, quorums, durability)) = leading else {
            bail!("none of {} leads: name the leader's client address too", addresses.join(", "));
        };
        Ok(Self { members: Members::new(cluster, leader, nodes), quorums, durability })
    }
}
