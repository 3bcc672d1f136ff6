//! The nodes of a cluster as their clients reach them, whoever started it. Who leads may change at any time, so it
//! is not kept here: it is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quorate_client::{Client, Consistency, Durability, NodeStatus, Role};
use quorate_protocol::{Leadership, Quorums};
use smol::Timer;

use crate::cluster::wait_applied;
use crate::plan::Case;
use crate::units::format_duration;

/// How long one node may take to say how it is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often is asked who leads.
const POLL: Duration = Duration::from_millis(20);

/// What is read when only the token of the answer matters.
const ANY_KEY: &str = "-";

/// Nodes by their numbers, with the addresses of their clients.
#[derive(Clone, Debug)]
pub struct Members {
    cluster: String,
    nodes: BTreeMap<u8, String>,
}

/// What a cluster that runs already says of itself.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its nodes, as far as they were named.
    pub members: Members,
    /// Who led when it was asked.
    pub leader: u8,
    /// m and n.
    pub quorums: Quorums,
    /// What it calls durable.
    pub durability: Durability,
    /// The configured leader; none if it is elected.
    pub configured: Option<u8>,
}

impl Members {
    /// Nodes with their client addresses.
    pub fn new(cluster: String, nodes: BTreeMap<u8, String>) -> Self {
        Self { cluster, nodes }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Their numbers, in order.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.nodes.keys().copied()
    }

    /// All but one.
    pub fn others(&self, node: u8) -> impl Iterator<Item = u8> {
        self.ids().filter(move |other| *other != node)
    }

    /// Where clients reach a node of this cluster.
    pub fn address(&self, node: u8) -> &str {
        &self.nodes[&node]
    }

    /// Where clients reach the nodes, with the one that leads first: it is where writes go.
    pub fn addresses_from(&self, leader: u8) -> Vec<String> {
        std::iter::once(leader).chain(self.others(leader)).map(|node| self.nodes[&node].clone()).collect()
    }

    /// A client that asks one node alone, whatever its role, and takes its own state for an answer: for status, and
    /// for reads of what that replica holds.
    pub fn client(&self, node: u8) -> anyhow::Result<Client> {
        let client = self.connect([self.address(node)])?;
        Ok(client.with_consistency(Consistency::Local))
    }

    /// A client of the whole cluster, which follows the leader wherever it goes.
    pub fn client_of_all(&self) -> anyhow::Result<Client> {
        self.connect(self.nodes.values())
    }

    fn connect<S: Into<String>>(&self, servers: impl IntoIterator<Item = S>) -> anyhow::Result<Client> {
        let builder = Client::builder().servers(servers).discover(false).cluster(&self.cluster);
        builder.connect().context("a client cannot be set up")
    }

    /// How each node is that answers, with histograms. One may have been stopped on purpose.
    pub async fn statuses(&self) -> anyhow::Result<BTreeMap<u8, NodeStatus>> {
        let nodes: Vec<_> = self.ids().collect();
        self.ask(&nodes, ANSWER_TIME_MAX, true).await
    }

    /// Who leads, as far as these nodes say so in time: of several the one in the highest term. A node that leads an
    /// older term has not heard of its successor yet.
    pub async fn find_leader(
        &self,
        nodes: &[u8],
        time_max: Duration,
    ) -> anyhow::Result<Option<(u8, NodeStatus)>> {
        let statuses = self.ask(nodes, time_max, false).await?;
        let Some(leader) = leader_of(&statuses) else { return Ok(None) };
        Ok(statuses.into_iter().find(|(node, _)| *node == leader))
    }

    /// The same, asked again until somebody leads. Fails when `check` does, or when nobody does for as long as
    /// `patience`.
    pub async fn wait_leader(
        &self,
        patience: Duration,
        check: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<(u8, NodeStatus)> {
        let nodes: Vec<_> = self.ids().collect();
        let deadline = Instant::now() + patience;
        loop {
            check()?;
            if let Some(found) = self.find_leader(&nodes, ANSWER_TIME_MAX).await? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                bail!("no node leads after {}", format_duration(patience));
            }
            Timer::after(POLL).await;
        }
    }

    /// Asks nodes all at once.
    async fn ask(
        &self,
        nodes: &[u8],
        time_max: Duration,
        histograms: bool,
    ) -> anyhow::Result<BTreeMap<u8, NodeStatus>> {
        let clients = nodes.iter().map(|node| Ok((*node, self.client(*node)?.with_deadline(time_max))));
        let asking: Vec<_> = clients
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .map(|(node, client)| smol::spawn(async move { (node, client.status(histograms).await) }))
            .collect();
        let mut statuses = BTreeMap::new();
        for answer in asking {
            let (node, status) = answer.await;
            statuses.extend(status.ok().map(|status| (node, status)));
        }
        Ok(statuses)
    }

    /// Waits until every node has applied what is committed by now. Who leads. Fails when `check`
    /// does, or when a node gets nowhere for as long as `patience`.
    pub async fn wait_caught_up(
        &self,
        patience: Duration,
        check: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<u8> {
        let (leader, _) = self.wait_leader(patience, check).await?;
        // A linearizable read has seen all that was ever acknowledged, whoever leads now.
        let read = self.client_of_all()?.with_deadline(patience).get(ANY_KEY).await;
        let commit = read.context("the leader cannot be read")?.token.index();
        for node in self.ids() {
            wait_applied(&self.client(node)?, commit, patience, check)
                .await
                .with_context(|| format!("node {node} did not catch up"))?;
        }
        Ok(leader)
    }
}

/// Who leads: of those that say they do the one in the highest term.
pub fn leader_of(statuses: &BTreeMap<u8, NodeStatus>) -> Option<u8> {
    let leads = |(node, status): (&u8, &NodeStatus)| {
        let view = status.view();
        (view.role == Role::Leader).then_some((view.term, *node))
    };
    statuses.iter().filter_map(leads).max().map(|(_, node)| node)
}

impl Found {
    /// Says in a case what the cluster says of itself.
    pub fn describe(&self, case: &mut Case) {
        (case.replicas, case.quorum) = (self.quorums.replicas(), self.quorums.quorum());
        case.durability = self.durability;
        case.leadership.leader = self.configured;
    }

    /// Asks the nodes at these addresses, of which one must lead. Each must answer.
    pub async fn ask(addresses: &[String]) -> anyhow::Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut leading = None;
        for address in addresses {
            let client = Client::builder()
                .servers([address])
                .discover(false)
                .connect()
                .context("a client cannot be set up")?;
            let status =
                client.with_deadline(ANSWER_TIME_MAX).status(false).await.with_context(|| {
                    format!("{address} does not say how it is: start it, or leave it out")
                })?;
            let view = status.view();
            if let Some(other) = nodes.insert(view.node.get(), address.clone()) {
                bail!("{address} and {other} are the same node: name each once");
            }
            if view.role == Role::Leader {
                leading = Some(Self {
                    members: Members::new(view.cluster.to_owned(), BTreeMap::new()),
                    leader: view.node.get(),
                    quorums: view.quorums,
                    durability: view.durability,
                    configured: match view.leadership {
                        Leadership::Configured(leader) => Some(leader.get()),
                        Leadership::Elected => None,
                    },
                });
            }
        }
        let Some(mut found) = leading else {
            bail!(
                "none of {} leads: name all of its nodes, or wait until one is elected",
                addresses.join(", ")
            );
        };
        found.members.nodes = nodes;
        Ok(found)
    }
}
